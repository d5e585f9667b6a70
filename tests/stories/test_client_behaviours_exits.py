"""Fills, protection and leaving, clause by clause of what a client of this broker must do;
docs/client-behaviours.md has the whole list."""

import asyncio

import pytest

from catalyst.simulator.trading_api.order_parsing import parse_replace_request
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_operator_actions import order_by_hand


async def replace_by_hand(scenario: Scenario, broker_id: str, limit_price: str) -> str:
    replaced = scenario.server.exchange.replace(
        broker_id, parse_replace_request({"limit_price": limit_price})
    )
    scenario.server._wake_event.set()  # it was asked for behind the driver's back
    return replaced.id


@pytest.mark.promise("C13")
async def test_expired_entry_with_partial_fill_is_a_position_after_restart(database: str) -> None:
    """Eight of twenty fill, the daemon dies, and the rest expires with the day: the next one holds eight shares, in
    the tables too."""
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
    """Replaced twice while nobody of ours was alive: the last order is the entry, and its fill the position."""
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
    """The stream tells that an order was replaced and is silent about the order in its place: it is asked for at
    once, not at the next poll."""
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
    """The answer to the submit is lost, every read denies the order, and the stream tells its fill: the row is found
    by our own id, and the shares are booked at once."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("visibility", symbol="AAPL", seconds=60)
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
        await scenario.inject_fault("stream_drop", event="new", symbol="AAPL", count=0)
        await scenario.inject_fault("drop", method="POST", route="/v2/orders")
        row = await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=3)
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
    """Eight of twenty fill and the cancel of the rest hangs half a minute: somebody is paged while nothing protects the
    eight, then one OCO does, and the time without it is on record."""
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
    """Nothing trades, nothing protects the shares, and the bid falls through the stop: we leave on the quote."""
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
    """A stock that turned hard to borrow takes day orders only: entry, the OCO of a partial fill and the exit all
    are, so none is refused."""
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
async def test_exit_reprices_target_when_cancels_are_rejected(database: str) -> None:
    """The venue refuses every cancel of what holds the shares: after a while the target is moved to the market, its
    row written first, and the shares leave once, for the reason we had. The stop goes with its group."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("cancel_reject", symbol="AAPL", count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=8)
        assert scenario.held_qty("AAPL") == 20
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        _, target, stop, moved = await scenario.orders("AAPL")
        assert (target["status"], stop["status"], moved["status"]) == ("replaced", "cancelled", "filled")
        assert (moved["replaces"], moved["origin"]) == (target["order_id"], "catalyst")
        assert len((await scenario.admin("logs?method=PATCH&path=/v2/orders"))["requests"]) == 1
        await scenario.assert_consistent()


@pytest.mark.promise("C24")
@pytest.mark.parametrize("rule", ["replace_reject", "drop", "drop_before", "refused"])
async def test_failed_target_replacement_sells_shares_once(database: str, rule: str) -> None:
    """The broker says yes and the venue no, or the answer is lost, or it is a no: the old target is still what the
    broker shows of it, one sale comes of it all, and cancelling goes on."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("cancel_reject", symbol="AAPL", count=8)
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
    """Flat by our own orders, symbol by symbol: the broker's "close everything" is not asked, for it carries no id of
    ours and would sell what is not ours."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await order_by_hand(scenario, "MSFT", "buy", 7)
        await scenario.given_position("AAPL", 20)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 7)
        assert not (await scenario.admin("logs?method=DELETE&path=/v2/positions"))["requests"]
        whole = (await scenario.admin("logs?method=DELETE&path=/v2/orders"))["requests"]
        assert not [one for one in whole if one["path"] == "/v2/orders"]
        rows = (await scenario.admin("logs"))["requests"]
        sale = max(number for number, one in enumerate(rows) if one["method"] == "POST")
        assert {"/v2/orders", "/v2/positions"} <= {
            one["path"] for one in rows[sale:] if one["method"] == "GET"
        }


@pytest.mark.promise("C26")
async def test_exit_cancels_external_order_named_in_rejection(database: str) -> None:
    """A person's offer holds half of the shares and no list shows it: the broker's refusal names it, it is cancelled,
    and the sale goes through."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
        await scenario.inject_fault("stream_drop", symbol="AAPL", side="sell", event="new", count=0)
        target = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit")
        await scenario.admin("cancel", {"id": target["alpaca_order_id"]})
        scenario.server.exchange.confirm_cancels()
        offer = await order_by_hand(scenario, "AAPL", "sell", 10, type="limit", limit_price="250.00")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.server.exchange.find_order(offer).status == "canceled"
        assert scenario.held_qty("AAPL") == 0


@pytest.mark.promise("C26")
async def test_exit_ends_when_broker_has_no_position(database: str) -> None:
    """A person sold the shares and nothing has told us yet: "position does not exist" ends the exit, and no sale of
    ours is sent; once it is told, the position closes as sold by somebody else."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status_before", method="GET", route="/v2/positions", status=500, count=0)
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
        await scenario.inject_fault("empty", method="GET", route="/v2/account/activities/FILL", count=0)
        await scenario.inject_fault("stream_drop", symbol="AAPL", side="sell", count=0)
        target = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit")
        await scenario.admin("cancel", {"id": target["alpaca_order_id"]})
        scenario.server.exchange.confirm_cancels()
        await order_by_hand(scenario, "AAPL", "sell", 20)
        await scenario.advance(seconds=1)
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
        assert {o["origin"] for o in sales} == {"external"}
        await scenario.assert_consistent()


@pytest.mark.promise("C28")
async def test_second_stop_request_does_not_repeat_flatten(database: str) -> None:
    """Asked twice to stop: one flatten, nothing is asked of the broker after the proof, and the last thing that
    happens is a transaction. The stream's task is gone."""
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
    """SIGTERM with a mute stream, or with every request turned away for half a minute: flat within the minute."""
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
    """Every request fails for longer than a flatten may take: it says so by its code, and the next start goes on."""
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
