"""Figures of a day: positions and orphan shares of this cycle, marks, and positions of earlier days."""

from datetime import datetime, timedelta
from decimal import Decimal

from store.raw_rows import AT, CYCLE, RawRows

from catalyst.domain.order import PositionSide
from catalyst.domain.session import start_of_day, trading_date
from catalyst.store import orders, orphans, positions

YESTERDAY = "20260407-091500"


async def insert_yesterday(raw_rows: RawRows) -> None:
    """Insert the cycle of the day before."""
    await raw_rows.conn.execute(
        """
        INSERT INTO trading_cycles (cycle_id, cycle_date, mode, max_positions, max_daily_loss, scan_frequency,
                                    start_time, updated_at, config_hash)
        VALUES ($1, '2026-04-07', 'supervised', 5, 2000, 1800, $2, $2, 'hash')
        """,
        YESTERDAY,
        AT - timedelta(days=1),
    )


async def insert_orphan_result(
    raw_rows: RawRows, position_id: int, side: PositionSide, cycle_id: str, realized: str
) -> None:
    """Insert oversold shares that were closed with this result."""
    await orphans.record(
        raw_rows.conn,
        "AAPL",
        side,
        Decimal(10),
        at=AT,
        cycle_id=cycle_id,
        position_id=position_id,
        cost=Decimal(1900),
    )
    await raw_rows.conn.execute(
        "UPDATE orphans SET quantity = 0, exited_qty = 10, proceeds = 1900, realized_pnl = $1, ended_at = $2,"
        " end_reason = 'exited' WHERE ended_at IS NULL",
        Decimal(realized),
        AT,
    )


async def test_day_result_counts_positions_and_oversold_shares_of_its_cycle(raw_rows: RawRows) -> None:
    """A day has the results of its positions and of what its exits oversold, once or twice, and none of another
    day."""
    await insert_yesterday(raw_rows)
    position_id = await raw_rows.insert_position()
    await raw_rows.conn.execute(
        "UPDATE positions SET realized_pnl = 0, unrealized_pnl = 40 WHERE position_id = $1", position_id
    )
    assert await positions.day_pnl(raw_rows.conn, CYCLE) == (Decimal(0), Decimal(40))
    await insert_orphan_result(raw_rows, position_id, PositionSide.SHORT, CYCLE, "-30.00")
    await insert_orphan_result(raw_rows, position_id, PositionSide.SHORT, CYCLE, "-12.50")
    await insert_orphan_result(raw_rows, position_id, PositionSide.LONG, YESTERDAY, "99.00")
    assert await positions.day_pnl(raw_rows.conn, CYCLE) == (Decimal("-42.50"), Decimal(40))
    assert await positions.day_pnl(raw_rows.conn, YESTERDAY) == (Decimal("99.00"), Decimal(0))
    assert await positions.day_pnl(raw_rows.conn, "20260406-091500") == (Decimal(0), Decimal(0))


async def test_second_oversell_adds_to_the_orphan_shares_of_its_symbol(raw_rows: RawRows) -> None:
    """Two oversells of one symbol and side are one orphan with both quantities and both amounts; the other side and
    another symbol are their own orphans."""
    position_id = await raw_rows.insert_position()
    for symbol, side, quantity in (
        ("AAPL", PositionSide.SHORT, 5),
        ("AAPL", PositionSide.SHORT, 7),
        ("AAPL", PositionSide.LONG, 2),
        ("MSFT", PositionSide.SHORT, 3),
    ):
        await orphans.record(
            raw_rows.conn, symbol, side, Decimal(quantity), at=AT, position_id=position_id, cost=Decimal(quantity * 190)
        )  # fmt: skip
    found = [
        (orphan.symbol, orphan.side, orphan.quantity, orphan.found_qty, orphan.cost)
        for orphan in await orphans.open_orphans(raw_rows.conn)
    ]
    assert found == [
        ("AAPL", PositionSide.SHORT, 12, 12, 12 * 190),
        ("AAPL", PositionSide.LONG, 2, 2, 380),
        ("MSFT", PositionSide.SHORT, 3, 3, 570),
    ]


async def test_marks_extend_both_extremes_of_each_position(raw_rows: RawRows) -> None:
    """The highest and the lowest price since the entry follow every mark; the last one is the last price. A closed
    position takes no mark."""
    first, second = await raw_rows.insert_position(), await raw_rows.insert_position(symbol="MSFT")
    for price in ("191.00", "189.00", "190.50"):
        await positions.mark(
            raw_rows.conn,
            [(first, Decimal(price), Decimal(1)), (second, Decimal(price) + 100, Decimal(2))],
            at=AT,
        )
    marks = await raw_rows.conn.fetch(
        "SELECT last_price, high_since_entry, low_since_entry, unrealized_pnl FROM positions ORDER BY position_id"
    )
    assert [tuple(row) for row in marks] == [
        (Decimal("190.50"), Decimal("191.00"), Decimal("189.00"), 1),
        (Decimal("290.50"), Decimal("291.00"), Decimal("289.00"), 2),
    ]


async def test_position_is_carried_when_it_was_entered_before_the_day(raw_rows: RawRows) -> None:
    """Positions that were entered before the day are carried, and named once; one of today without a cycle is not,
    and gets the cycle of the day."""
    await insert_yesterday(raw_rows)
    symbols = ("AAPL", "MSFT", "TSLA", "NVDA")
    ids = [await raw_rows.insert_position(symbol=symbol) for symbol in symbols]
    day_began_at = start_of_day(trading_date(AT))
    entered = (AT, AT - timedelta(days=1), day_began_at - timedelta(seconds=1), day_began_at)
    for position_id, cycle_id, at in zip(ids, (CYCLE, YESTERDAY, None, None), entered, strict=True):
        await raw_rows.conn.execute(
            "UPDATE positions SET cycle_id = $2, entry_time = $3 WHERE position_id = $1",
            position_id,
            cycle_id,
            at,
        )
    assert await positions.mark_carried(raw_rows.conn, day_began_at=day_began_at) == ["MSFT", "TSLA"]
    assert await positions.mark_carried(raw_rows.conn, day_began_at=day_began_at) == []
    await positions.set_missing_cycle(raw_rows.conn, CYCLE, day_began_at=day_began_at)
    held = await positions.open_positions(raw_rows.conn)
    assert [position.carried for position in held] == [False, True, True, False]
    assert [position.cycle_id for position in held] == [CYCLE, YESTERDAY, None, CYCLE]


async def set_results(raw_rows: RawRows, position_id: int, **columns: object) -> None:
    """Write these columns of a position."""
    for name, value in columns.items():
        await raw_rows.conn.execute(
            f"UPDATE positions SET {name} = $2 WHERE position_id = $1",
            position_id,
            value,
        )


async def test_result_of_a_carried_position_counts_from_the_start_of_the_day(raw_rows: RawRows) -> None:
    """A position carried into the day with a loss of 60 that loses 30 more and is closed, and one of today that wins 5,
    make -25. A restart in between and a cycle of yesterday on the position of today change nothing; the next day begins
    with zero for what is still held."""
    await insert_yesterday(raw_rows)
    day_began_at = start_of_day(trading_date(AT))
    old, new = [await raw_rows.insert_position(symbol=symbol) for symbol in ("AAPL", "MSFT")]
    yesterday = AT - timedelta(days=1)
    await set_results(raw_rows, old, cycle_id=YESTERDAY, entry_time=yesterday, unrealized_pnl=Decimal(-60))
    await set_results(raw_rows, new, cycle_id=YESTERDAY)
    await positions.mark_carried(raw_rows.conn, day_began_at=day_began_at, is_new_day=True)
    assert await positions.day_result(raw_rows.conn, CYCLE) == 0
    await positions.mark(
        raw_rows.conn, [(old, Decimal(1), Decimal(-90)), (new, Decimal(1), Decimal(5))], at=AT
    )
    assert await positions.day_result(raw_rows.conn, CYCLE) == -25
    await positions.mark_carried(raw_rows.conn, day_began_at=day_began_at, is_new_day=False)
    assert await positions.day_result(raw_rows.conn, CYCLE) == -25
    await close_position(raw_rows, old, realized="-90", at=AT + timedelta(minutes=5))
    assert await positions.day_result(raw_rows.conn, CYCLE) == -25
    tomorrow = day_began_at + timedelta(days=1)
    assert await positions.mark_carried(raw_rows.conn, day_began_at=tomorrow, is_new_day=True) == ["MSFT"]
    await raw_rows.conn.execute(
        "UPDATE trading_cycles SET cycle_date = cycle_date + 1, start_time = start_time + interval '1 day'"
        " WHERE cycle_id = $1",
        CYCLE,
    )
    assert await positions.day_result(raw_rows.conn, CYCLE) == 0


async def close_position(raw_rows: RawRows, position_id: int, *, realized: str, at: datetime) -> None:
    """Close a position with this result."""
    await raw_rows.conn.execute(
        "UPDATE positions SET status = 'closed', quantity = 0, exited_qty = entered_qty, proceeds = cost + $2,"
        " realized_pnl = $2, unrealized_pnl = 0, exit_time = $3, exit_price = 1, close_reason = 'MANUAL'"
        " WHERE position_id = $1",
        position_id,
        Decimal(realized),
        at,
    )


async def test_position_without_a_baseline_or_closed_before_the_day_makes_no_result(
    raw_rows: RawRows,
) -> None:
    """A position of yesterday whose fills are booked late, after the day began, and a carried one whose exit was before
    the day's start, make no loss of the day."""
    await insert_yesterday(raw_rows)
    late, gone = [await raw_rows.insert_position(symbol=symbol) for symbol in ("AAPL", "MSFT")]
    yesterday = AT - timedelta(days=1)
    for position_id in (late, gone):
        await set_results(raw_rows, position_id, cycle_id=YESTERDAY, entry_time=yesterday)
    await set_results(raw_rows, gone, unrealized_pnl=Decimal(80), carried=True, carried_pnl=Decimal(80))
    await set_results(raw_rows, late, unrealized_pnl=Decimal(-3000))
    started_at = await raw_rows.conn.fetchval(
        "SELECT start_time FROM trading_cycles WHERE cycle_id = $1", CYCLE
    )
    await close_position(raw_rows, gone, realized="-10", at=started_at - timedelta(minutes=1))
    assert await positions.day_result(raw_rows.conn, CYCLE) == 0


async def test_second_cancel_keeps_the_reason_of_the_first(raw_rows: RawRows) -> None:
    """An order that is cancelled by its timeout and then by a flatten has the reason of the first request."""
    order_id = await raw_rows.insert_order()
    for reason in ("ENTRY_TIMEOUT", "FLATTEN"):
        await orders.set_cancel_reason(raw_rows.conn, order_id, reason, AT, epoch=1)
    assert (await orders.get(raw_rows.conn, order_id)).cancel_reason == "ENTRY_TIMEOUT"


async def test_orphan_shares_that_become_fewer_were_all_found(raw_rows: RawRows) -> None:
    """Fewer shares change only the quantity; more shares were found in addition."""
    await orphans.record(raw_rows.conn, "AAPL", PositionSide.SHORT, Decimal(20), at=AT)
    (orphan,) = await orphans.open_orphans(raw_rows.conn)
    counts = []
    for quantity in (12, 15, 15):
        await orphans.resize(raw_rows.conn, orphan.orphan_id, Decimal(quantity), at=AT)
        (resized,) = await orphans.open_orphans(raw_rows.conn)
        counts.append((resized.quantity, resized.found_qty))
    assert counts == [(12, 20), (15, 23), (15, 23)]
