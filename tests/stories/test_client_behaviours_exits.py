"""Client behaviours: fills, protection and exits. docs/client-behaviours.md has the whole list."""

import asyncio

import pytest

from catalyst.simulator.trading_api.order_parsing import parse_replace_request
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_operator_actions import cancel_target_by_hand, order_by_hand, sell_by_hand_unseen


async def replace_by_hand(scenario: Scenario, broker_id: str, limit_price: str) -> str:
    """Replace the limit of an order as an operator; return the broker id of the new order."""
    replaced = scenario.server.exchange.replace(
        broker_id, parse_replace_request({"limit_price": limit_price})
    )
    scenario.server._wake_event.set()  # the server does not notice this call by itself
    return replaced.id


@pytest.mark.promise("C13")
async def test_expired_entry_with_partial_fill_is_a_position_after_restart(database: str) -> None:
    """Given 8 of 20 shares fill, a crash and the expiry of the rest, then the next start has a position of 8
    in the database."""
    async with open_scenario(
        database, now=at("15:45"), positions={"close_all_at_market_close": False}
    ) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        await scenario.crash()
        await scenario.clock.advance_to(at("16:01"))
        await scenario.start()
        await scenario.advance(seconds=5)
        entry = (await scenario.orders("AAPL"))[0]
        assert (entry["status"], entry["filled_qty"]) == ("expired", 8)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["quantity"], scenario.held_qty("AAPL")) == ("open", 8, 8)
        await scenario.assert_consistent()


@pytest.mark.promise("C15")
async def test_replacement_chain_is_resolved_to_last_order_after_restart(database: str) -> None:
    """An entry replaced twice while no daemon ran: the last order is the entry, and its fill the position."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        broker_id = (await scenario.orders("AAPL"))[0]["alpaca_order_id"]
        await scenario.crash()
        for price in ("190.20", "191.50"):
            broker_id = await replace_by_hand(scenario, broker_id, price)
            await scenario.advance(seconds=2)
        assert scenario.held_qty("AAPL") == 20
        await scenario.start()
        await scenario.advance(seconds=20)
        entries = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "entry"]
        assert [o["status"] for o in entries] == ["replaced", "replaced", "filled"]
        assert [o["replaces"] for o in entries] == [None, entries[0]["order_id"], entries[1]["order_id"]]
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (20, "open")
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


@pytest.mark.promise("C15")
async def test_replacement_missing_from_stream_is_read_at_once(database: str) -> None:
    """When the stream reports a replacement but not the new order, the new order is read at once instead of
    at the next poll."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=16)
        broker_id = (await scenario.orders("AAPL"))[0]["alpaca_order_id"]
        await scenario.inject_fault("stream_drop", event="new", symbol="AAPL", count=0)
        await replace_by_hand(scenario, broker_id, "190.20")
        await scenario.advance(seconds=3)
        entries = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "entry"]
        assert len(entries) == 2
        assert entries[1]["replaces"] == entries[0]["order_id"]


@pytest.mark.promise("C16")
async def test_stream_fill_is_booked_before_submit_response(database: str) -> None:
    """Given a lost response and reads without the order, when the stream reports its fill, then the row is
    found by the client order id and booked at once."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("visibility", symbol="AAPL", seconds=60)
        await scenario.inject_fault("stream_drop", event="new", symbol="AAPL", count=0)
        await scenario.inject_fault("drop", method="POST", route="/v2/orders")
        row = await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=6)  # the row is looked for and not found
        assert [o["alpaca_order_id"] for o in await scenario.orders("AAPL")] == [None]
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        (entry,) = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "entry"]
        assert (entry["order_id"], entry["status"]) == (row.order_id, "filled")
        await scenario.clear_faults()
        await scenario.advance(seconds=30)
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


@pytest.mark.promise("C18")
async def test_unprotected_shares_raise_alert_when_cancel_hangs(database: str) -> None:
    """While the cancel of a partial entry hangs for 30 s, an alert is raised; then one OCO protects the 8
    shares and the unprotected seconds are stored."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.inject_fault("cancel_delay", symbol="AAPL", seconds=30)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=25)
        assert "UNPROTECTED_OVER_BUDGET" in await scenario.alert_events()
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.advance(seconds=25)
        position = await scenario.position("AAPL")
        assert position is not None
        assert 30 <= position["unprotected_seconds"] <= 45
        live = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live} == {("oco", 8)}
        await scenario.assert_consistent()


@pytest.mark.promise("C20")
async def test_quote_through_stop_exits_position_without_broker_stop(database: str) -> None:
    """With no working stop and no prints, a bid below the stop level exits the position."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.inject_fault("cancel_delay", symbol="AAPL", seconds=30)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=5)
        assert isinstance(scenario.market.quotes, dict)
        scenario.market.quotes["AAPL"] = ("187.50", "187.52")
        await scenario.advance(seconds=8)
        reason = await scenario.conn.fetchval("SELECT reason FROM exit_intents WHERE state = 'open'")
        assert str(reason).startswith("STOP_LOSS_HIT: AAPL @ $187.5")
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C23")
async def test_all_orders_are_day_orders_for_hard_to_borrow_stock(database: str) -> None:
    """A hard-to-borrow stock takes day orders only: entry, OCO of a partial fill and exit are day orders, and
    none is rejected."""
    async with open_scenario(database) as scenario:
        await scenario.admin("settings", {"hard_to_borrow": ["AAPL"]})
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=20)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=15)
        assert scenario.held_qty("AAPL") == 0
        orders = await scenario.orders("AAPL")
        assert {o["time_in_force"] for o in orders} == {"day"}
        assert not [o for o in orders if o["status"] == "rejected"]
        await scenario.assert_consistent()


@pytest.mark.promise("C24")
async def test_exit_moves_the_target_to_the_market_and_cancels_nothing(database: str) -> None:
    """An exit moves the target to the market, after writing its row; the shares are sold once with the exit's reason,
    and the stop works until it ends with its group."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=8)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        _, target, stop, repriced = await scenario.orders("AAPL")
        assert (target["status"], stop["status"], repriced["status"]) == ("replaced", "cancelled", "filled")
        assert (repriced["replaces"], repriced["origin"]) == (target["order_id"], "catalyst")
        assert len((await scenario.admin("logs?method=PATCH&path=/v2/orders"))["requests"]) == 1
        assert not (await scenario.admin("logs?method=DELETE&path=/v2/orders"))["requests"]
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


@pytest.mark.promise("C24")
@pytest.mark.parametrize("rule", ["replace_reject", "drop", "drop_before", "refused"])
async def test_failed_target_replacement_sells_shares_once(database: str, rule: str) -> None:
    """When the replacement of the target fails or its response is lost, the exit keeps cancelling and the
    shares are sold once."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(
            "cancel_reject",
            symbol="AAPL",
            count=2,
            may_stay_silent="the target sells" if rule == "drop" else "",
        )
        if rule == "replace_reject":
            await scenario.inject_fault(rule, symbol="AAPL")
        elif rule == "refused":
            await scenario.inject_fault(
                "status_before", method="PATCH", route="/v2/orders/*", status=422, code=40010001,
                message="unable to replace order, order isn't sent to exchange yet",
            )  # fmt: skip
        else:
            await scenario.inject_fault(rule, method="PATCH", route="/v2/orders/*")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        assert len((await scenario.admin("logs?method=PATCH&path=/v2/orders"))["requests"]) == 1
        assert await scenario.count_submitted("AAPL") == (1 if rule == "drop" else 2)
        await scenario.assert_consistent()


@pytest.mark.promise("C25")
async def test_flatten_never_uses_close_all_positions(database: str) -> None:
    """A flatten sends own orders for each symbol: the broker's close-all has no client order id and would
    sell external shares."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await order_by_hand(scenario, "MSFT", "buy", 7)
        await scenario.given_position("AAPL", 20)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 7)
        assert not (await scenario.admin("logs?method=DELETE&path=/v2/positions"))["requests"]
        delete_requests = (await scenario.admin("logs?method=DELETE&path=/v2/orders"))["requests"]
        assert not [request for request in delete_requests if request["path"] == "/v2/orders"]
        requests = (await scenario.admin("logs"))["requests"]
        sale = max(number for number, request in enumerate(requests) if request["method"] == "POST")
        assert {"/v2/orders", "/v2/positions"} <= {
            request["path"] for request in requests[sale:] if request["method"] == "GET"
        }


@pytest.mark.promise("C26")
async def test_exit_cancels_external_order_named_in_rejection(database: str) -> None:
    """An external order that no list shows holds half of the shares: the exit cancels it by the id in the
    broker's rejection and sells."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
        await scenario.inject_fault("stream_drop", symbol="AAPL", side="sell", event="new", count=0)
        await cancel_target_by_hand(scenario, "AAPL")
        offer = await order_by_hand(scenario, "AAPL", "sell", 10, type="limit", limit_price="250.00")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.server.exchange.find_order(offer).status == "canceled"
        assert scenario.held_qty("AAPL") == 0


@pytest.mark.promise("C26")
async def test_exit_ends_when_broker_has_no_position(database: str) -> None:
    """Given an operator sold the shares and no read shows it yet, then "position does not exist" ends the
    exit without a sale; later the position closes as EXTERNAL."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status_before", method="GET", route="/v2/positions", status=500, count=0)
        await sell_by_hand_unseen(scenario, "AAPL", 20)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=30)
        assert await scenario.conn.fetchval("SELECT state FROM exit_intents") == "abandoned"
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], scenario.held_qty("AAPL")) == ("open", 0)
        await scenario.clear_faults()
        await scenario.advance(seconds=70)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["close_reason"][:8]) == ("closed", "EXTERNAL")
        sales = [o for o in await scenario.orders("AAPL") if o["order_purpose"] in ("exit", "flatten")]
        sent = [o for o in sales if o["cancel_reason"] != "NEVER_SENT"]
        assert {o["origin"] for o in sent} == {"external"}
        await scenario.assert_consistent()


@pytest.mark.promise("C28")
async def test_second_stop_request_does_not_repeat_flatten(database: str) -> None:
    """Two stop requests cause one flatten; after its proof no broker request follows, the last step is a
    transaction, and the stream task has ended."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.stop.request("SIGTERM", flatten=True)
        scenario.stop.request("SIGINT", flatten=False)
        assert await scenario.wait_for_exit() == 0
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.conn.fetchval("SELECT count(*) FROM flat_proofs") == 1
        proof = scenario.crash_trigger.steps.index("after flat_proof")
        assert scenario.crash_trigger.steps[-1] == "after end_run"
        assert not [step for step in scenario.crash_trigger.steps[proof:] if "/" in step]
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "trade_updates"]


@pytest.mark.promise("C29")
@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "stream_mute", "count": 0},
        {"kind": "rate_limit", "route": "/v2/*", "count": 0},
        {"kind": "status_before", "route": "/v2/*", "status": 500, "count": 0},
    ],
    ids=lambda rule: str(rule["kind"]),
)
async def test_sigterm_flattens_within_a_minute_despite_broker_faults(
    database: str, rule: dict[str, object]
) -> None:
    """SIGTERM ends flat within a minute with a mute stream, or when every request fails for 30 s."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.admin("faults", rule)
        scenario.stop.request("SIGTERM", flatten=True)
        if rule["kind"] != "stream_mute":
            await scenario.advance(seconds=30)
            assert scenario.held_qty("AAPL") == 20
            await scenario.clear_faults()
        assert await scenario.wait_for_exit() == 0
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C29")
async def test_flatten_continues_at_next_start_after_broker_outage(database: str) -> None:
    """When requests fail for longer than a flatten may take, the exit code is 2, and the next start continues
    the flatten."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status_before", route="/v2/*", status=500, count=0)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 2
        await scenario.clear_faults()
        assert scenario.held_qty("AAPL") == 20
        await scenario.start()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()
