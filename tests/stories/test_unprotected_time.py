"""Unprotected time: shares have a stop that can trigger, for exactly their quantity; seconds without one are
counted against a budget."""

from dataclasses import replace
from decimal import Decimal

import pytest

from catalyst.domain.order import Status
from catalyst.domain.protection_step import ProtectionAction, ProtectionStep
from catalyst.report.day import read_day_report
from catalyst.simulator.exchange.unprotected_time import unprotected_qty
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario


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
