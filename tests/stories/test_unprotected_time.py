"""Protection, precisely: exactly what is held, under a stop that can act; and the seconds without one, on a budget."""

from dataclasses import replace
from decimal import Decimal

import pytest

from catalyst.domain.order import Status
from catalyst.report.day import day_of
from catalyst.simulator.exchange.unprotected_time import unprotected
from tests.stories.scenario import ENTRY, Desk, Facts, open_desk


async def half_filled(desk: Desk) -> Facts:
    """Eight of twenty fill and the rest stalls; the position a while later."""
    desk.prints("AAPL", "190.00")
    await desk.waits(seconds=1)
    await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
    await desk.enters("AAPL", 20, **ENTRY)
    await desk.waits(seconds=15)
    position = await desk.position("AAPL")
    assert position is not None
    return position


@pytest.mark.parametrize("budget", [3, 60])
async def test_bare_seconds_have_a_budget(database: str, budget: float) -> None:
    """A partly filled entry is bare for its grace: stored to the thousandth, in the day's report; beyond the budget
    somebody is told how long, once, restarts included."""
    async with open_desk(database, protection={"naked_budget_seconds": budget}) as desk:
        position = await half_filled(desk)
        assert 5 <= position["naked_seconds"] < 15
        await desk.dies()
        await desk.opens()
        await desk.waits(seconds=20)
        told = await desk.conn.fetch("SELECT message, facts FROM alerts WHERE event = 'NAKED_OVER_BUDGET'")
        assert desk.parts is not None
        async with desk.parts.store.read() as conn:
            report = await day_of(conn)
        assert report is not None
        assert report.figures.median_naked_seconds == report.figures.longest_naked_seconds
        assert report.figures.longest_naked_seconds == position["naked_seconds"]
        if budget == 60:
            assert (list(told), report.figures.over_budget) == ([], ())
            return
        assert len(told) == 1
        assert "3 s are allowed" in told[0]["message"]
        assert report.figures.over_budget == ("AAPL",)
        await desk.agrees()


async def test_a_position_that_ends_bare_is_measured_too(database: str) -> None:
    """The stop never lived and the shares were sold at once: its whole life was without a stop, and says so."""
    async with open_desk(database) as desk:
        await desk.faults("leg_cancel", symbol="AAPL", role="stop_loss")
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("slow_before", method="DELETE", route="/v2/orders/*", seconds=0.5)
        await desk.enters("AAPL", 20, **ENTRY)
        desk.prints("AAPL", "187.00", after=0.4)
        await desk.waits(seconds=30)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        lived = Decimal(str((position["exit_time"] - position["entry_time"]).total_seconds()))
        assert 0 < position["naked_seconds"] <= lived
        assert position["protected_at"] == position["exit_time"]


async def test_an_end_within_the_first_second_is_no_gap(database: str) -> None:
    """Entry and target fill before anybody could confirm the stop between them: it was live at the broker."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("status_before", method="GET", route="/v2/orders/*", status=503, count=0)
        await desk.enters("AAPL", 20, **ENTRY)
        desk.prints("AAPL", "194.05", after=1)
        await desk.waits(seconds=3)
        await desk.heals()
        await desk.waits(seconds=30)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], position["naked_seconds"]) == ("closed", 0)
        await desk.agrees()


async def test_a_stop_for_more_than_is_held_is_replaced(database: str) -> None:
    """The broker's stop is for twenty-five and we hold twenty: filled, it would turn us short. It gives way to one
    for exactly what is held."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        stop = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "stop_loss")
        desk.server.exchange.find(stop["alpaca_order_id"]).qty = Decimal(25)
        await desk.waits(seconds=100)
        live = [o for o in await desk.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live} == {("oco", Decimal(20))}
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        desk.prints("AAPL", "187.90")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0


async def test_a_held_stop_without_its_target_protects_nothing(database: str) -> None:
    """The target is cancelled as the entry fills and the stop stays `held` behind it: nobody would elect it. Both are
    put there anew."""
    async with open_desk(database) as desk:
        await desk.faults("leg_cancel", symbol="AAPL", role="take_profit")
        await desk.holds("AAPL", 20)
        await desk.waits(seconds=15)
        live = [o for o in await desk.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        words = {(o["order_purpose"], o["broker_status"]) for o in live}
        assert words == {("take_profit", "new"), ("stop_loss", "held")} or words == {("stop_loss", "new")}
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await desk.agrees()


async def test_a_look_that_is_late_protects_nothing_twice(database: str) -> None:
    """The guard decides by rows that are no longer so: the stop that was written meanwhile takes all that is held, the
    database refuses a second, and that is no fault of anybody's."""
    async with open_desk(database) as desk:
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=10)
        assert desk.parts is not None
        guard = desk.parts.guard
        found = await desk.position("AAPL")
        assert found is not None
        position, rows = await guard._read(found["position_id"])
        sent = await desk.submits("AAPL")
        gone = [replace(row, status=Status.CANCELLED) if row.order_class == "oco" else row for row in rows]
        await guard._protect(position, gone)
        await desk.waits(seconds=10)
        assert await desk.submits("AAPL") == sent
        await desk.agrees()


async def test_a_stop_that_is_never_acknowledged_is_none(database: str) -> None:
    """The venue never acknowledges the OCO of a partial entry: after a moment it gives way to another, and the shares
    count as bare until that one lives."""
    async with open_desk(database) as desk:
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=2)
        await desk.faults("never_ack", symbol="AAPL")
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert 10 < position["naked_seconds"] < 15
        assert await desk.submits("AAPL") == 3
        assert unprotected(desk.server.exchange.book, "AAPL", desk.held("AAPL")) == 0
        await desk.agrees()
