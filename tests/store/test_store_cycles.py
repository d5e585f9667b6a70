"""Trading cycles in the database."""

import asyncio
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from store.raw_rows import AT

from catalyst.domain.cycle import CycleStatus
from catalyst.domain.errors import CatalystError, IllegalTransition
from catalyst.store import cycles
from catalyst.store.cycles import CycleRow, StaleCycle
from catalyst.store.pool import Connection, Store

C = CycleStatus


async def open_day(
    conn: Connection, cycle_id: str = "20260408-091500", *, loss: int = 2000
) -> tuple[CycleRow, bool]:
    return await cycles.open_day(
        conn,
        cycle_id=cycle_id,
        day=date(2026, 4, 8),
        mode="supervised",
        max_positions=5,
        max_daily_loss=Decimal(loss),
        scan_frequency=1800,
        start_equity=Decimal("100000.00"),
        config_hash="hash",
        at=AT,
    )


async def transition_through(conn: Connection, *states: CycleStatus) -> None:
    for seen, then in pairwise(states):
        await cycles.advance(conn, "20260408-091500", from_status=seen, to_status=then, at=AT)


async def test_second_start_of_day_resumes_existing_cycle(store: Store):
    """Eight concurrent starts of a day get one cycle with the limits of the first."""

    async def start(n: int) -> tuple[CycleRow, bool]:
        async with store.tx("open") as conn:
            return await open_day(conn, f"20260408-09150{n}", loss=2000 + n)

    rows = await asyncio.gather(*(start(n) for n in range(8)))
    assert sum(fresh for _, fresh in rows) == 1
    assert len({(row.cycle_id, row.max_daily_loss) for row, _ in rows}) == 1
    assert rows[0][0].status is C.IDLE


async def test_cycle_transition_requires_the_seen_state(store: Store):
    """A legal edge from another state than the stored one is stale; an edge not in the table is illegal."""
    async with store.tx("move") as conn:
        await open_day(conn)
        await transition_through(conn, C.IDLE, C.SCANNING, C.EVALUATING, C.TRADING, C.MONITORING)
        with pytest.raises(StaleCycle):
            await transition_through(conn, C.IDLE, C.SCANNING)
        with pytest.raises(IllegalTransition):
            await transition_through(conn, C.MONITORING, C.TRADING)
        with pytest.raises(CatalystError, match="finish"):
            await transition_through(conn, C.CLOSED, C.COMPLETED)


async def test_closed_cycle_is_completed_once_with_figures(store: Store, later: datetime):
    """Only a closed cycle can be completed, once; later marks and halts have no effect."""
    async with store.tx("finish") as conn:
        await open_day(conn)
        figures = {
            "end_equity": Decimal("100123.45"),
            "realized": Decimal("123.45"),
            "unrealized": Decimal(0),
        }
        with pytest.raises(StaleCycle, match="not closed"):
            await cycles.finish(conn, "20260408-091500", at=later, **figures)
        await transition_through(conn, C.IDLE, C.CLOSED)
        await cycles.finish(conn, "20260408-091500", at=later, **figures)
        await cycles.mark(conn, "20260408-091500", realized=Decimal(1), unrealized=Decimal(1), at=later)
        await cycles.halt(conn, "20260408-091500", reason="late", at=later)
        row = await cycles.of_day(conn, date(2026, 4, 8))
        names = await conn.fetchrow("SELECT started_at, stopped_at FROM v_trading_cycles_legacy")
    assert row is not None
    assert (row.status, row.daily_pnl, row.end_time, row.halted) == (
        C.COMPLETED,
        Decimal("123.45"),
        later,
        False,
    )
    assert tuple(names.values()) == (AT, later)


async def test_cycle_pnl_is_realised_plus_unrealised(store: Store, later: datetime):
    """The daily P&L is realised plus unrealised P&L."""
    async with store.tx("mark") as conn:
        await open_day(conn)
        await cycles.mark(
            conn, "20260408-091500", realized=Decimal("-10.50"), unrealized=Decimal("4.25"), at=later
        )
        row = await cycles.get(conn, "20260408-091500")
    assert row is not None
    assert (row.daily_pnl, row.updated_at) == (Decimal("-6.25"), later)


async def test_second_halt_keeps_first_reason_and_latest_end(store: Store, later: datetime):
    """A second halt keeps the first reason and the later end; resume clears both."""
    async with store.tx("halt") as conn:
        await open_day(conn)
        await cycles.halt(conn, "20260408-091500", reason="operator", at=AT, until=later)
        await cycles.halt(conn, "20260408-091500", reason="other", at=AT, until=later - timedelta(minutes=1))
        row = await cycles.get(conn, "20260408-091500")
        assert row is not None
        assert (row.halted, row.halt_reason, row.halted_until) == (True, "operator", later)
        await cycles.resume(conn, "20260408-091500", at=later)
        (row,) = await cycles.recent(conn)
    assert (row.halted, row.halt_reason, row.halted_until) == (False, None, None)


async def test_day_without_a_cycle_has_none(store: Store):
    """A day, and an id, without a cycle give None."""
    async with store.tx("range") as conn:
        await open_day(conn)
        assert await cycles.of_day(conn, date(2026, 4, 9)) is None
        assert await cycles.get(conn, "20260409-091500") is None
