"""Unprotected time: shares have a stop that can trigger, for exactly their quantity; seconds without one are
counted against a budget."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from catalyst.doctor.database_checks import check_database
from catalyst.doctor.issues import IssueKind
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Status
from catalyst.domain.protection import Protection
from catalyst.domain.protection_step import ProtectionAction, ProtectionStep
from catalyst.domain.report import Fill
from catalyst.report.day import read_day_report
from catalyst.report.status import read_status
from catalyst.simulator.exchange.unprotected_time import unprotected_qty
from catalyst.store import orders, positions
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario
from tests.stories.test_orphan_positions import TUESDAY, buy_by_hand, run_round_trip


async def partly_filled_position(scenario: Scenario) -> Facts:
    """Fill 8 of 20 shares and stall the rest; return the position 15 seconds later."""
    scenario.print_trade("AAPL", "190.00")
    await scenario.advance(seconds=1)
    await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
    await scenario.submit_entry("AAPL", 20, **ENTRY)
    await scenario.advance(seconds=15)
    position = await scenario.position("AAPL")
    assert position is not None
    return position


@pytest.mark.parametrize("budget", [3, 60])
async def test_unprotected_seconds_over_budget_alert_once(database: str, budget: float) -> None:
    """Unprotected seconds of a partial entry are stored and reported; over the budget one alert is raised,
    restarts included."""
    async with open_scenario(database, protection={"unprotected_budget_seconds": budget}) as scenario:
        position = await partly_filled_position(scenario)
        assert 5 <= position["unprotected_seconds"] < 15
        await scenario.crash()
        await scenario.start()
        await scenario.advance(seconds=20)
        alerts = await scenario.conn.fetch(
            "SELECT message, facts FROM alerts WHERE event = 'UNPROTECTED_OVER_BUDGET'"
        )
        assert scenario.components is not None
        async with scenario.components.store.read() as conn:
            report = await read_day_report(conn)
        assert report is not None
        assert report.figures.median_unprotected_seconds == report.figures.longest_unprotected_seconds
        assert report.figures.longest_unprotected_seconds == position["unprotected_seconds"]
        if budget == 60:
            assert (list(alerts), report.figures.symbols_over_budget) == ([], ())
            return
        assert len(alerts) == 1
        assert "limit 3 s" in alerts[0]["message"]
        assert report.figures.symbols_over_budget == ("AAPL",)
        await scenario.assert_consistent()


async def test_position_never_protected_records_its_unprotected_time(database: str) -> None:
    """A position whose stop never worked and that is sold at once counts as unprotected, at most for its
    whole time."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("leg_cancel", symbol="AAPL", role="stop_loss")
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("slow_before", method="DELETE", route="/v2/orders/*", seconds=0.5)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        scenario.print_trade("AAPL", "187.00", after=0.4)
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        held_seconds = Decimal(str((position["exit_time"] - position["entry_time"]).total_seconds()))
        assert 0 < position["unprotected_seconds"] <= held_seconds
        assert position["protected_at"] == position["exit_time"]


async def test_position_closed_in_first_second_has_no_unprotected_time(database: str) -> None:
    """A position whose target fills before its stop could be confirmed has no unprotected time: the stop was
    working at the broker."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders/*", status=503, count=0)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        scenario.print_trade("AAPL", "194.05", after=1)
        await scenario.advance(seconds=3)
        await scenario.clear_faults()
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["unprotected_seconds"]) == ("closed", 0)
        await scenario.assert_consistent()


async def test_stop_exceeding_position_is_replaced(database: str) -> None:
    """A stop for 25 shares of a position of 20 could sell short: it is replaced by one for 20."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        scenario.server.exchange.find_order(stop["alpaca_order_id"]).qty = Decimal(25)
        await scenario.advance(seconds=100)
        working = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in working} == {("oco", Decimal(20))}
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0


async def test_held_stop_without_target_is_replaced(database: str) -> None:
    """A stop that stays held behind a cancelled target cannot trigger: both are replaced."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("leg_cancel", symbol="AAPL", role="take_profit")
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=15)
        working = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        statuses = {(o["order_purpose"], o["broker_status"]) for o in working}
        assert statuses == {("take_profit", "new"), ("stop_loss", "held")}
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


async def test_protector_with_stale_rows_sends_no_second_stop(database: str) -> None:
    """A protector that decides on stale rows sends no second stop: the database refuses it, and no invariant
    fails."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=10)
        assert scenario.components is not None
        protector = scenario.components.protector
        row = await scenario.position("AAPL")
        assert row is not None
        position, rows = await protector._read_position(row["position_id"])
        submitted_before = await scenario.count_submitted("AAPL")
        stale_rows = [
            replace(row, status=Status.CANCELLED) if row.order_class == "oco" else row for row in rows
        ]
        step = ProtectionStep(ProtectionAction.PLACE, order_class="oco", time_in_force="day")
        await protector._place_protection(position, stale_rows, step)
        await scenario.advance(seconds=10)
        assert await scenario.count_submitted("AAPL") == submitted_before
        await scenario.assert_consistent()


async def test_unacknowledged_oco_is_replaced_and_counts_as_unprotected(database: str) -> None:
    """An OCO that the venue never acknowledges is replaced, and the shares count as unprotected until the new
    one works."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=2)
        await scenario.inject_fault("never_ack", symbol="AAPL")
        await scenario.advance(seconds=20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert 10 < position["unprotected_seconds"] < 15
        assert await scenario.count_submitted("AAPL") == 3
        assert (
            unprotected_qty(scenario.server.exchange.state.order_store, "AAPL", scenario.held_qty("AAPL"))
            == 0
        )
        await scenario.assert_consistent()


async def exchange_seconds(scenario: Scenario, symbol: str, quantity: int) -> Decimal:
    """Return for how long the exchange saw none of these shares under a stop."""
    totals = await scenario.admin("unprotected")
    return Decimal(totals[symbol]["share_seconds"]) / quantity


async def assert_measured_as_by_the_exchange(
    scenario: Scenario, quantity: int = 20, *, crash: float = 0
) -> None:
    """The stored seconds are not below the exchange's by more than 1 s, nor above by more than 5 s; a crash may add
    the `crash` seconds until the next start's first read. Over 15 s there is an alert."""
    position = await scenario.position("AAPL")
    assert position is not None
    seconds = await exchange_seconds(scenario, "AAPL", quantity)
    assert seconds - 1 <= position["unprotected_seconds"] <= seconds + 5 + Decimal(str(crash))
    assert ("UNPROTECTED_OVER_BUDGET" in await scenario.alert_events()) is (seconds > 15)


@pytest.mark.parametrize("seconds", [5, 60])
async def test_time_between_cancelled_legs_and_sale_counts_when_the_daemon_dies_there(
    database: str, seconds: int
) -> None:
    """A daemon killed between its cancelled legs and its sale counts the time until the sale, as the exchange does."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        close = scenario.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
            " VALUES ('close', '{\"symbol\": \"AAPL\"}', $1, 'trader')",
            scenario.clock.now(),
        )
        await close
        await scenario.crash_at("POST /orders", Moment.BEFORE)
        await scenario.advance(seconds=seconds)
        await scenario.start()
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        await scenario.advance(seconds=20)
        assert await exchange_seconds(scenario, "AAPL", 20) >= seconds
        await assert_measured_as_by_the_exchange(scenario)
        await scenario.assert_consistent()


async def test_open_exit_without_a_stop_raises_the_alert_after_fifteen_seconds(database: str) -> None:
    """While no request of an exit gets through after its legs are cancelled, the alert comes at fifteen seconds and
    names them; status and report show the seconds of the exchange."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        while await exchange_seconds(scenario, "AAPL", 20) <= 15:
            assert "UNPROTECTED_OVER_BUDGET" not in await scenario.alert_events()
            await scenario.advance(seconds=1)
        await scenario.advance(seconds=2)
        assert "UNPROTECTED_OVER_BUDGET" in await scenario.alert_events()
        assert scenario.components is not None
        async with scenario.components.store.read() as conn:
            now = scenario.clock.now()
            report = await read_day_report(conn, at=now)
            (line,) = (await read_status(conn, now)).positions
            issues = await check_database(conn, now)
        assert report is not None
        unprotected = next(issue for issue in issues if issue.kind is IssueKind.UNPROTECTED_POSITION)
        assert unprotected.facts["unprotected_seconds"] == line.unprotected_seconds
        seconds = await exchange_seconds(scenario, "AAPL", 20)
        assert report.figures.longest_unprotected_seconds == line.unprotected_seconds
        assert seconds - 1 <= line.unprotected_seconds <= seconds + 5
        await scenario.clear_faults()
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        await assert_measured_as_by_the_exchange(scenario)


async def test_stop_cancelled_while_the_daemon_is_dead_counts_from_its_cancel(database: str) -> None:
    """A stop cancelled at the broker a minute before the start counts from its cancel, whose time the rows have."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        await scenario.admin("cancel", {"id": stop["alpaca_order_id"]})
        scenario.server.exchange.confirm_cancels()
        cancelled_at = scenario.clock.now()
        await scenario.advance(seconds=60)
        await scenario.start()
        await scenario.advance(seconds=30)
        ended = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        assert abs(ended["closed_at"] - cancelled_at) < timedelta(seconds=1)
        assert ended["cancelled_at"] == ended["closed_at"] == ended["broker_canceled_at"]
        await assert_measured_as_by_the_exchange(scenario)
        assert await exchange_seconds(scenario, "AAPL", 20) > 60


async def test_late_entry_fill_keeps_the_time_of_the_first_position(database: str) -> None:
    """The rest of an entry fills after its first shares were sold: the closed position keeps its seconds over a start,
    and the new one has only its own shares and exits."""
    async with open_scenario(database) as scenario:
        first = await partly_filled_position(scenario)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        entry = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "entry")
        assert scenario.components is not None
        late_fill = Fill(
            entry["alpaca_order_id"], Decimal(20), Decimal(12), Decimal("190.00"), scenario.clock.now(),
            activity_id="late",
        )  # fmt: skip
        assert await scenario.components.ledger.apply_fill(late_fill, "reconcile")
        await scenario.crash()
        await scenario.start()
        async with scenario.components.store.read() as conn:
            issues = await check_database(conn, scenario.clock.now() + timedelta(seconds=16))
        closed = await scenario.conn.fetchrow(
            "SELECT status, unprotected_seconds FROM positions WHERE position_id = $1", first["position_id"]
        )
        assert tuple(closed) == ("closed", first["unprotected_seconds"])
        assert first["unprotected_seconds"] > 0
        messages = [issue.message for issue in issues if issue.kind is IssueKind.UNPROTECTED_POSITION]
        assert [message.split(" have")[0] for message in messages] == ["12 of 12 shares of AAPL"]
        sent = {
            o["position_id"]: o["quantity"]
            for o in await scenario.orders("AAPL")
            if o["order_class"] == "oco"
        }
        second = await scenario.position("AAPL")
        assert second is not None
        assert sent == {first["position_id"]: 8, second["position_id"]: 12}


async def test_stop_placed_after_the_close_is_no_protection_before_the_open(database: str) -> None:
    """A daemon that starts at 16:03 finds that the legs ended at 16:00:00; the stop that it places waits for the open,
    so the position is not protected and its time goes on, as at the exchange."""
    async with open_scenario(database, now=at("15:40"), once=False) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.clock.advance_to(at("16:03"))
        with capture_logs() as lines:
            await scenario.start()
            await scenario.advance(seconds=60)
        legs = [o for o in await scenario.orders("AAPL") if o["status"] == "expired"]
        assert {leg["closed_at"] for leg in legs} == {at("16:00")}
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is None
        events = [line["event"] for line in lines]
        assert "position_protected" not in events
        assert events.count("stop_waits_for_venue") == 1
        assert "UNPROTECTED_OVER_BUDGET" in await scenario.alert_events()
        assert scenario.components is not None
        async with scenario.components.store.read() as conn:
            (line,) = (await read_status(conn, scenario.clock.now())).positions
        seconds = await exchange_seconds(scenario, "AAPL", 20)
        assert seconds - 1 <= line.unprotected_seconds <= seconds + 5


async def test_orphan_shares_without_a_stop_raise_the_alert(database: str) -> None:
    """Orphan shares whose stop the broker does not receive raise the alert fifteen seconds after they were found."""
    async with open_scenario(database) as scenario:
        await run_round_trip(scenario, "AAPL")
        await scenario.crash()
        await buy_by_hand(scenario, "AAPL", 7)
        scenario.print_trade("AAPL", "194.00", after=1)
        await scenario.clock.advance_to(at("10:15", TUESDAY))
        assert scenario.held_qty("AAPL") == 7
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=0)
        await scenario.start()
        found_at = None
        for _ in range(60):
            await scenario.advance(seconds=1)
            found_at = found_at or await scenario.conn.fetchval("SELECT found_at FROM orphans")
            now = scenario.clock.now()
            is_alerted = "UNPROTECTED_OVER_BUDGET" in await scenario.alert_events()
            assert not is_alerted or (found_at is not None and now - found_at > timedelta(seconds=14))
            assert is_alerted or found_at is None or now - found_at < timedelta(seconds=18)
        message = await scenario.conn.fetchval(
            "SELECT message FROM alerts WHERE event = 'UNPROTECTED_OVER_BUDGET'"
        )
        assert message.startswith("AAPL (orphan shares): no working stop at the broker for 1")


async def test_late_report_that_the_venue_has_the_stop_adds_no_unprotected_time(database: str) -> None:
    """Given the stream loses the report that the venue has the stop and no order can be read for some seconds, then the
    unprotected time ends when the broker changed the order."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.inject_fault("stream_drop", symbol="AAPL", event="new", side="sell", count=0)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=4)
        reads = {"method": "GET", "route": "/v2/orders*"}
        await scenario.inject_fault("status_before", id="reads", **reads, status=503, count=0)
        await scenario.advance(seconds=6)
        scenario.server.exchange.state.faults.remove("reads")
        await scenario.advance(seconds=10)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert abs(position["unprotected_seconds"] - await exchange_seconds(scenario, "AAPL", 8)) < 1
        await scenario.assert_consistent()


async def test_check_that_ends_after_the_close_does_not_change_what_was_measured(database: str) -> None:
    """Given a check read the position before its stop filled, when it writes after the close, then the row stays."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        store = scenario.components.store
        async with store.read() as conn:
            (position,) = await positions.open_positions(conn)
            rows = await orders.of_position(conn, position.position_id)
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=10)
        closed = await scenario.position("AAPL")
        assert closed is not None
        assert (closed["status"], closed["protected_at"] is None) == ("closed", False)
        unprotected_time = scenario.components.protector.unprotected_time
        await unprotected_time.mark_unprotected(position, rows, Protection.PENDING)
        assert await scenario.position("AAPL") == closed
