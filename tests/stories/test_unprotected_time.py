"""Protection, precisely: exactly what is held, under a stop that can act; and the seconds without one, on a budget."""

from dataclasses import replace
from decimal import Decimal

import pytest

from catalyst.domain.order import Status
from catalyst.report.day import read_day_report
from catalyst.simulator.exchange.unprotected_time import unprotected_qty
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario


async def partly_filled_position(scenario: Scenario) -> Facts:
    """Eight of twenty fill and the rest stalls; the position a while later."""
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
    """A partly filled entry is bare for its grace: stored to the thousandth, in the day's report; beyond the budget
    somebody is told how long, once, restarts included."""
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
        assert "3 s are allowed" in alerts[0]["message"]
        assert report.figures.symbols_over_budget == ("AAPL",)
        await scenario.assert_consistent()


async def test_position_never_protected_records_its_unprotected_time(database: str) -> None:
    """The stop never lived and the shares were sold at once: its whole life was without a stop, and says so."""
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
        lived = Decimal(str((position["exit_time"] - position["entry_time"]).total_seconds()))
        assert 0 < position["unprotected_seconds"] <= lived
        assert position["protected_at"] == position["exit_time"]


async def test_position_closed_in_first_second_has_no_unprotected_time(database: str) -> None:
    """Entry and target fill before anybody could confirm the stop between them: it was live at the broker."""
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
    """The broker's stop is for twenty-five and we hold twenty: filled, it would turn us short. It gives way to one
    for exactly what is held."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        scenario.server.exchange.find_order(stop["alpaca_order_id"]).qty = Decimal(25)
        await scenario.advance(seconds=100)
        live = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live} == {("oco", Decimal(20))}
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0


async def test_held_stop_without_target_is_replaced(database: str) -> None:
    """The target is cancelled as the entry fills and the stop stays `held` behind it: nobody would elect it. Both are
    put there anew."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("leg_cancel", symbol="AAPL", role="take_profit")
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=15)
        live = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        words = {(o["order_purpose"], o["broker_status"]) for o in live}
        assert words == {("take_profit", "new"), ("stop_loss", "held")} or words == {("stop_loss", "new")}
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


async def test_protector_with_stale_rows_sends_no_second_stop(database: str) -> None:
    """The guard decides by rows that are no longer so: the stop that was written meanwhile takes all that is held, the
    database refuses a second, and that is no fault of anybody's."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=10)
        assert scenario.components is not None
        guard = scenario.components.protector
        found = await scenario.position("AAPL")
        assert found is not None
        position, rows = await guard._read_position(found["position_id"])
        sent = await scenario.count_submitted("AAPL")
        gone = [replace(row, status=Status.CANCELLED) if row.order_class == "oco" else row for row in rows]
        await guard._protect(position, gone)
        await scenario.advance(seconds=10)
        assert await scenario.count_submitted("AAPL") == sent
        await scenario.assert_consistent()


async def test_unacknowledged_oco_is_replaced_and_counts_as_unprotected(database: str) -> None:
    """The venue never acknowledges the OCO of a partial entry: after a moment it gives way to another, and the shares
    count as bare until that one lives."""
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
        assert unprotected_qty(scenario.server.exchange.order_store, "AAPL", scenario.held_qty("AAPL")) == 0
        await scenario.assert_consistent()
