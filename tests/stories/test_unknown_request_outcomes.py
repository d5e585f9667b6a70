"""Requests with unknown outcome: one order at the exchange and one row in the database, whatever the response
was."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import asyncpg
import pytest

from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Status
from catalyst.simulator.trading_api.order_parsing import parse_submit_request
from catalyst.store import orders
from tests.store.raw_rows import RawRows
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario

LOST_RESPONSE_FAULTS = [
    {"kind": "drop"},
    {"kind": "status", "status": 504},
    {"kind": "status", "status": 500},
    {"kind": "html", "status": 502},
    {"kind": "garble"},
]
LOST_REQUEST_FAULTS = [
    {"kind": "drop_before"},
    {"kind": "status_before", "status": 503},
    {"kind": "html_before", "status": 502},
]


@pytest.mark.promise("C03")
@pytest.mark.parametrize(
    "rule", LOST_RESPONSE_FAULTS, ids=lambda rule: str(rule["kind"]) + str(rule.get("status", ""))
)
async def test_entry_without_response_is_adopted_and_protected(
    database: str, rule: dict[str, object]
) -> None:
    """An entry whose response got lost is found by its client order id, adopted with its legs and protected;
    nothing is sent twice."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin("faults", {**rule, "method": "POST", "route": "/v2/orders"})
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert await scenario.count_submitted("AAPL") == 1
        assert len(await scenario.orders("AAPL")) == 3
        await scenario.assert_consistent()


@pytest.mark.promise("C03")
@pytest.mark.parametrize("rule", LOST_REQUEST_FAULTS, ids=lambda rule: str(rule["kind"]))
async def test_entry_that_never_arrived_frees_its_symbol(database: str, rule: dict[str, object]) -> None:
    """An entry that never arrived ends as NEVER_ARRIVED after ten seconds and three "not found", and its
    symbol is free again."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin("faults", {**rule, "method": "POST", "route": "/v2/orders"})
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=8)
        assert [o["status"] for o in await scenario.orders("AAPL")] == ["submitted"]
        assert scenario.components is not None
        assert scenario.components.gate.symbols.has(SymbolReason.UNRESOLVED, "AAPL")
        await scenario.advance(seconds=20)
        orders = await scenario.orders("AAPL")
        assert [(o["status"], o["rejection_reason"]) for o in orders] == [("rejected", "NEVER_ARRIVED")]
        assert not scenario.components.gate.symbols.has(SymbolReason.UNRESOLVED, "AAPL")
        await scenario.assert_consistent()


@pytest.mark.promise("C06")
async def test_rate_limited_entry_is_resent_with_same_id(database: str) -> None:
    """An entry rejected with 429 is sent again with the same client order id."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("rate_limit", method="POST", route="/v2/orders", count=1)
        entry_task = asyncio.ensure_future(scenario.submit_entry("AAPL", 20, **ENTRY))
        await scenario.advance(seconds=30)
        row = await entry_task
        assert row.attempts == 2
        logs = await scenario.admin("logs?method=POST&path=/v2/orders&symbol=AAPL")
        assert len({request["client_order_id"] for request in logs["requests"]}) == 1
        assert scenario.held_qty("AAPL") == 20
        await scenario.assert_consistent()


async def test_revived_order_raises_alert_and_is_cancelled(database: str) -> None:
    """An order ended as NEVER_ARRIVED that becomes visible as working raises an alert and is cancelled."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("visibility", symbol="AAPL", seconds=40)
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
        await scenario.inject_fault("stream_drop", symbol="AAPL", count=0)
        await scenario.inject_fault("drop", method="POST", route="/v2/orders")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=25)
        assert [o["status"] for o in await scenario.orders("AAPL")] == ["rejected"]
        await scenario.clear_faults()
        await scenario.advance(seconds=90)
        orders = await scenario.orders("AAPL")
        assert {o["status"] for o in orders} == {"cancelled"}
        assert "ORDER_REVIVED" in await scenario.alert_events()
        await scenario.assert_consistent()


async def test_exit_without_response_sells_once(database: str) -> None:
    """An exit whose response got lost sells once, and its fill closes the position."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("drop", method="POST", route="/v2/orders")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=30)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        assert await scenario.count_submitted("AAPL") == 2
        await scenario.assert_consistent()


@pytest.mark.promise("C01")
async def test_rejected_exit_is_resent_with_new_id(database: str) -> None:
    """An exit that the broker rejects twice is sent a third time; each order has its own id."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault(
            "status_before", method="POST", route="/v2/orders", status=403, code=40310000, count=2,
            message="insufficient qty available for order (requested: 20, available: 0)",
        )  # fmt: skip
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=30)
        assert scenario.held_qty("AAPL") == 0
        exits = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "exit"]
        assert [o["status"] for o in exits] == ["rejected", "rejected", "filled"]
        assert len({o["client_order_id"] for o in exits}) == 3
        await scenario.assert_consistent()


@pytest.mark.parametrize("kind", ["drop", "drop_before", "cancel_reject", "status"])
async def test_unanswered_cancel_is_repeated_and_exit_completes(database: str, kind: str) -> None:
    """A lost or rejected cancel of the legs is repeated, and the exit completes."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        if kind == "cancel_reject":
            await scenario.inject_fault(kind, symbol="AAPL")
        else:
            await scenario.inject_fault(kind, method="DELETE", route="/v2/orders/*")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=30)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_incomplete_acknowledgement_leaves_outcome_unknown(database: str) -> None:
    """A response without required fields leaves the outcome unknown; the order is found by its client order
    id."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault(
            "remove_fields", method="POST", route="/v2/orders", fields=["symbol", "side"]
        )
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


async def test_flatten_ends_entry_with_unknown_outcome(database: str) -> None:
    """SIGTERM with an unknown entry outcome exits the other position at once and ends the entry too."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("MSFT", 10)
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("drop", method="POST", route="/v2/orders", symbol="AAPL")
        await scenario.inject_fault("visibility", symbol="AAPL", seconds=8)
        await scenario.inject_fault("stream_drop", symbol="AAPL", count=2)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        scenario.stop.request("SIGTERM", flatten=True)
        await scenario.advance(seconds=3)
        assert scenario.held_qty("MSFT") == 0
        assert await scenario.wait_for_exit() == 0
        await scenario.assert_consistent()


async def test_rejected_resend_of_exit_does_not_settle_first_request(database: str) -> None:
    """The rejected resend of an exit does not decide the outcome of its first request, which arrives late, is
    adopted and sells once."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("drop", method="POST", route="/v2/orders", symbol="AAPL")
        await scenario.inject_fault("visibility", symbol="AAPL", side="sell", seconds=12)
        await scenario.inject_fault("stream_drop", symbol="AAPL", side="sell", count=0)
        await scenario.inject_fault(
            "rate_limit", method="POST", route="/v2/orders", symbol="AAPL", nth=2, count=9
        )
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=11)
        await scenario.clear_faults()
        await scenario.advance(seconds=60)
        exits = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "exit"]
        assert [o["status"] for o in exits] == ["filled"]
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.parametrize("may_short", [False, True])
async def test_refused_resend_of_a_lost_sale_brings_the_stop_back(database: str, *, may_short: bool) -> None:
    """Given the request of a sale got lost and the broker refuses every later one for a reason that lasts, then the
    sale ends and the stop is back within seconds. Where the account may sell short, the sale ends only when its first
    request cannot arrive any more."""
    async with open_scenario(database, trading={"allow_short": may_short}) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        sale = {"method": "POST", "route": "/v2/orders", "client_order_id": "cat-*-[xf]"}
        await scenario.inject_fault("drop_before", **sale)
        refusal = {"status": 403, "code": 40310000, "message": "insufficient day trading buying power"}
        await scenario.inject_fault("status_before", **sale, **refusal, count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=6)
        row = (await exits_of(scenario))[0]
        assert row["status"] == ("submitted" if may_short else "rejected")
        await scenario.advance(seconds=20)
        row = (await exits_of(scenario))[0]
        reason = "NEVER_ARRIVED" if may_short else "DAY_TRADING: insufficient day trading buying power"
        assert row["rejection_reason"] == reason
        gap = scenario.server.exchange.state.unprotected_time.totals(scenario.clock.now())["AAPL"]
        assert float(str(gap["longest_seconds"])) < (20 if may_short else 5)
        assert scenario.held_qty("AAPL") == 20
        assert [o["status"] for o in await scenario.orders("AAPL")][-2:] == ["submitted", "accepted"]
        await scenario.assert_consistent()


async def test_lost_sale_is_resent_while_the_broker_limits_the_rate(database: str) -> None:
    """A resend that certainly did not arrive is repeated, and puts off neither the sale nor its end."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        sale = {"method": "POST", "route": "/v2/orders", "client_order_id": "cat-*-[xf]"}
        await scenario.inject_fault("drop_before", **sale)
        await scenario.inject_fault("rate_limit", **sale, count=5)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=13)
        [row] = await exits_of(scenario)
        assert (row["status"], row["attempts"]) == ("filled", 7)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def exits_of(scenario: Scenario) -> list[Facts]:
    """Return the sales of AAPL that are exits, oldest first."""
    return [row for row in await scenario.orders("AAPL") if row["order_purpose"] == "exit"]


async def count_requests(scenario: Scenario, client_order_id: str) -> int:
    """Return how many order requests with this client order id reached the exchange."""
    logs = await scenario.admin("logs?method=POST&path=/v2/orders")
    return sum(request["client_order_id"] == client_order_id for request in logs["requests"])


async def first_exit(scenario: Scenario, status: str) -> Facts:
    """Advance time until the first exit order of AAPL has this status; return its row."""
    for _ in range(100):
        exits = [row for row in await scenario.orders("AAPL") if row["order_purpose"] == "exit"]
        if exits and exits[0]["status"] == status:
            return exits[0]
        await scenario.advance(seconds=0.1)
    raise AssertionError(f"the first exit is not {status}")


async def test_exit_rejected_after_reconciliation_read_it_is_not_sent_again(database: str) -> None:
    """Given a reconciliation has read the row of an exit before its request gets 401, when it resolves that row
    after the rejection, then the rejected exit is not sent again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        assert scenario.components is not None
        await scenario.inject_fault("unauthorized", method="POST", route="/v2/orders", count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        exit_id = (await first_exit(scenario, "rejected"))["client_order_id"]
        async with scenario.components.store.read() as conn:
            rejected_row = await orders.by_client_id(conn, exit_id)
        assert rejected_row is not None
        await scenario.clear_faults()
        assert scenario.held_qty("AAPL") == 20  # the next attempt of the exit waits
        row_before_request = replace(rejected_row, status=Status.SUBMITTED, rejection_reason=None)
        scenario.components.submission.start_resolution(row_before_request)
        await scenario.advance(seconds=40)
        assert await count_requests(scenario, exit_id) == 1
        assert (await first_exit(scenario, "rejected"))["client_order_id"] == exit_id
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.parametrize("ended_as", ["rejected", "cancelled"])
async def test_exit_that_ended_during_retry_pause_is_not_sent_again(database: str, ended_as: str) -> None:
    """An exit whose row ends while the daemon waits before the next attempt is not sent again; a new one
    sells."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("rate_limit", method="POST", route="/v2/orders", count=1)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        row = await first_exit(scenario, "submitted")
        await RawRows(scenario.conn).set_status(row["order_id"], ended_as, closed_at=scenario.clock.now())
        await scenario.advance(seconds=20)
        assert await count_requests(scenario, row["client_order_id"]) == 1
        assert (await first_exit(scenario, ended_as))["attempts"] == 1
        assert scenario.held_qty("AAPL") == 0


@pytest.mark.parametrize("ended_as", ["rejected", "cancelled"])
async def test_exit_that_ended_after_lookup_is_not_sent_again(database: str, ended_as: str) -> None:
    """Given a lost exit request was not found, when its row ends before the resend is counted, then it is not
    sent again; a new exit sells."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        ended_ids: list[int] = []

        async def end_exit() -> None:
            conn = await asyncpg.connect(database)
            ended_ids.append(await conn.fetchval("SELECT max(order_id) FROM orders"))
            await RawRows(conn).set_status(ended_ids[0], ended_as, closed_at=scenario.clock.now())
            await conn.close()

        def end_before_resend(step: str, moment: Moment) -> None:
            if step == "resubmit" and moment is Moment.BEFORE and not ended_ids:
                with ThreadPoolExecutor(1) as thread:
                    thread.submit(lambda: asyncio.run(end_exit())).result()

        scenario.crash_trigger.on_step = end_before_resend
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=1)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=20)
        row = await first_exit(scenario, ended_as)
        assert [row["order_id"]] == ended_ids
        assert await count_requests(scenario, row["client_order_id"]) == 1
        assert scenario.held_qty("AAPL") == 0


@pytest.mark.parametrize("acknowledged", [True, False])
async def test_exit_that_arrived_during_retry_pause_is_not_sent_again(
    database: str, acknowledged: bool
) -> None:
    """An exit that reached the exchange although its request got 429 is not sent again and not marked as
    rejected."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("rate_limit", method="POST", route="/v2/orders", count=1)
        if not acknowledged:
            await scenario.inject_fault("never_ack", symbol="AAPL", count=1)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        row = await first_exit(scenario, "submitted")
        body = {"symbol": "AAPL", "side": "sell", "qty": 20, "type": "market", "time_in_force": "day"}
        body["client_order_id"] = row["client_order_id"]
        order = scenario.server.exchange.submit(parse_submit_request(body))
        scenario.server._wake_event.set()
        assert scenario.components is not None
        assert await scenario.components.submission.refresh(order.id, "poll")
        await scenario.advance(seconds=3)
        row = await first_exit(scenario, "filled" if acknowledged else "submitted")
        assert (row["attempts"], row["alpaca_order_id"] is not None) == (1, True)
        await scenario.advance(seconds=20)
        assert await count_requests(scenario, row["client_order_id"]) == 1
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_exit_whose_shares_are_gone_is_rejected_instead_of_resent(database: str) -> None:
    """An exit whose position is written off during the retry pause is not sent again; its row ends at once."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("rate_limit", method="POST", route="/v2/orders", count=1)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        row = await first_exit(scenario, "submitted")
        assert scenario.components is not None
        await scenario.components.ledger.write_off(row["position_id"], "RECONCILED_PHANTOM", "poll")
        await scenario.advance(seconds=2)
        row = await first_exit(scenario, "rejected")
        assert row["rejection_reason"] == "NOT_SENT: its shares are no longer held"
        assert await count_requests(scenario, row["client_order_id"]) == 1
