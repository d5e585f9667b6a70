"""Exits never take more than the position holds, however many ask at once."""

import asyncio
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from store.raw_rows import AT, CYCLE, Book

from catalyst.store import pipeline_views
from catalyst.store.constraint_errors import OverExit
from catalyst.store.pool import Store, connect

STOP = {"order_purpose": "stop_loss", "order_type": "stop", "stop_price": Decimal("186.00")}
TARGET = {"order_purpose": "take_profit", "order_type": "limit", "limit_price": Decimal("198.00")}
LEG: dict[str, Any] = {"origin": "broker", "status": "submitted", "order_class": "bracket"}


async def _entry_of(book: Book, position_id: int) -> int:
    return await book.conn.fetchval(
        "SELECT order_id FROM orders WHERE position_id = $1 AND order_purpose = 'entry'", position_id
    )


async def _taken(book: Book, position_id: int) -> int:
    return int(await pipeline_views.open_exit_quantity(book.conn, position_id))


async def test_of_twenty_exits_at_once_one_goes_through(book: Book, database: str):
    """Twenty connections ask for the whole position at the same moment: one order, nineteen clean refusals."""
    position_id = await book.position()
    conns = [await connect(database, f"exit {n}", lock_timeout=20_000) for n in range(20)]
    ready = asyncio.Barrier(20)

    async def ask(turn: int, n: int, conn: "asyncpg.Connection[asyncpg.Record]") -> str:
        await ready.wait()
        try:
            async with conn.transaction():
                order_id = await conn.fetchval(
                    """
                    INSERT INTO orders (client_order_id, cycle_id, security_id, position_id, order_purpose,
                                        position_side, side, order_type, time_in_force, quantity, epoch,
                                        created_at, updated_at)
                    VALUES ($1, $2, 1, $3, 'exit', 'long', 'sell', 'market', 'day', 100, 1, $4, $4)
                    RETURNING order_id
                    """,
                    f"exit-{turn}-{n}",
                    CYCLE,
                    position_id,
                    AT,
                )
                await conn.execute(
                    "INSERT INTO order_events (order_id, at, source, kind, to_status)"
                    " VALUES ($1, $2, 'submit', 'transition', 'created')",
                    order_id,
                    AT,
                )
        except OverExit:
            return "refused"
        return "written"

    try:
        for turn in range(3):
            outcomes = await asyncio.gather(*(ask(turn, n, conn) for n, conn in enumerate(conns)))
            assert sorted(outcomes) == ["refused"] * 19 + ["written"]
            assert await _taken(book, position_id) == 100
            exit_id = await book.conn.fetchval(
                "SELECT order_id FROM orders WHERE order_purpose = 'exit' AND status = 'created'"
            )
            await book.move(exit_id, "cancelled", closed_at=AT)
    finally:
        for conn in conns:
            await conn.close()


async def test_exits_in_parts_may_add_up_to_the_position_and_no_further(book: Book):
    """60 and 40 of 100 go together; one share more is refused and leaves no trace."""
    position_id = await book.position()
    await book.exit(position_id, quantity=Decimal(60))
    await book.exit(position_id, quantity=Decimal(40))
    with pytest.raises(OverExit, match="would take 101, it holds 100"):
        await book.exit(position_id, quantity=Decimal(1))
    assert await _taken(book, position_id) == 100


async def test_an_ended_exit_gives_its_shares_back(book: Book):
    """What a cancelled exit had reserved may be asked for again."""
    position_id = await book.position()
    first = await book.exit(position_id)
    await book.move(first, "submitted")
    await book.move(first, "cancelled")
    await book.exit(position_id)


async def test_a_partly_filled_exit_reserves_its_remainder(book: Book):
    """After 30 of 100 sold the position holds 70 and the order can take 70 more: the books stay even."""
    position_id = await book.position()
    first = await book.exit(position_id)
    await book.move(first, "submitted")
    async with book.conn.transaction():
        await book.fill(first, 30, 30)
        await book.move(first, "partial_fill", filled_qty=Decimal(30))
        await book.conn.execute(
            "UPDATE positions SET quantity = 70, exited_qty = 30 WHERE position_id = $1", position_id
        )
    assert await _taken(book, position_id) == 70
    with pytest.raises(OverExit):
        await book.exit(position_id, quantity=Decimal(1))


async def test_a_brackets_legs_count_once(book: Book):
    """Stop and target of one bracket take the same shares: no further exit while they work, one when they ended."""
    position_id = await book.position()
    entry = await _entry_of(book, position_id)
    legs = [
        await book.exit(position_id, parent_order_id=entry, **LEG, **STOP),
        await book.exit(position_id, parent_order_id=entry, **LEG, **TARGET),
    ]
    assert await _taken(book, position_id) == 100
    with pytest.raises(OverExit):
        await book.exit(position_id, quantity=Decimal(1))
    for leg in legs:
        await book.move(leg, "cancelled")
    await book.exit(position_id)


async def test_legs_sleep_until_their_entry_is_filled(book: Book):
    """With 60 of 100 filled the bracket's legs are not alive at the broker and take nothing."""
    position_id = await book.position(60, ordered=100)
    entry = await _entry_of(book, position_id)
    await book.exit(position_id, parent_order_id=entry, **LEG, **STOP)
    await book.exit(position_id, parent_order_id=entry, **LEG, **TARGET)
    assert await _taken(book, position_id) == 0
    await book.exit(position_id, quantity=Decimal(60))


async def test_legs_without_a_position_take_nothing(book: Book):
    """Legs of an entry that has not filled belong to no position yet."""
    entry = await book.order(order_class="bracket")
    await book.order(parent_order_id=entry, side="sell", **LEG, **(STOP | {"limit_price": None}))
    assert await book.conn.fetchval("SELECT count(*) FROM orders WHERE position_id IS NOT NULL") == 0


@pytest.mark.parametrize("tied_to_entry", [False, True])
async def test_an_oco_and_its_leg_count_once(book: Book, tied_to_entry: bool):
    """An OCO's first order and the leg the broker shows for it are one reservation, wherever the first hangs."""
    position_id = await book.position()
    parent = await _entry_of(book, position_id) if tied_to_entry else None
    target = await book.exit(position_id, parent_order_id=parent, order_class="oco", **TARGET)
    await book.exit(position_id, parent_order_id=target, **(LEG | {"order_class": "oco"}), **STOP)
    assert await _taken(book, position_id) == 100


async def test_two_stops_of_one_family_are_two_exits(book: Book):
    """A pair is one stop and one target; a second stop beside them could sell the shares twice."""
    position_id = await book.position()
    entry = await _entry_of(book, position_id)
    await book.exit(position_id, parent_order_id=entry, **LEG, **STOP)
    await book.exit(position_id, parent_order_id=entry, **LEG, **TARGET)
    with pytest.raises(OverExit):
        await book.exit(position_id, parent_order_id=entry, **STOP)


async def test_a_stop_and_a_target_that_know_nothing_of_each_other_are_two_exits(book: Book):
    """Without a family between them both could fill."""
    position_id = await book.position()
    await book.exit(position_id, **STOP)
    with pytest.raises(OverExit):
        await book.exit(position_id, **TARGET)


async def test_a_replacement_and_what_it_replaces_count_once(book: Book):
    """The broker swaps one for the other; shares are reserved once while both rows are alive."""
    position_id = await book.position()
    old = await book.exit(position_id, **STOP)
    await book.exit(position_id, replaces=old, **STOP)
    assert await _taken(book, position_id) == 100
    with pytest.raises(OverExit):
        await book.exit(position_id, quantity=Decimal(1))


async def test_what_the_broker_shows_is_recorded_even_when_it_is_too_much(book: Book):
    """Facts are not refused: an exit somebody else placed beside ours has its row, and the sum tells of it."""
    position_id = await book.position()
    await book.exit(position_id)
    await book.exit(position_id, origin="external", epoch=None, status="accepted")
    assert await _taken(book, position_id) == 200


async def test_an_exit_cannot_grow_beyond_the_position(book: Book):
    """The reservation also guards a larger quantity, and a move to another position."""
    position_id = await book.position()
    other = await book.position(10, symbol="MSFT")
    order_id = await book.exit(position_id, quantity=Decimal(50))
    with pytest.raises(OverExit):
        await book.move(order_id, "created", quantity=Decimal(101))
    with pytest.raises(OverExit):
        await book.move(order_id, "created", position_id=other)
    await book.move(order_id, "created", quantity=Decimal(100))


async def test_open_risk_shows_what_is_stopped_and_what_is_naked(book: Book, store: Store):
    """The view counts only stops that work at the broker; the worst case is what they would lose."""
    position_id = await book.position()
    entry = await _entry_of(book, position_id)
    (before,) = await pipeline_views.open_risk(book.conn)
    assert (before.naked_qty, before.stopped_qty, before.worst_case) == (100, 0, None)
    await book.exit(position_id, parent_order_id=entry, alpaca_order_id="stop-1", **LEG, **STOP)
    await book.exit(position_id, parent_order_id=entry, alpaca_order_id="target-1", **LEG, **TARGET)
    (risk,) = await pipeline_views.open_risk(book.conn)
    assert (risk.symbol, risk.naked_qty, risk.stopped_qty, risk.exiting_qty) == ("AAPL", 0, 100, 100)
    assert (risk.broker_stop, risk.worst_case) == (Decimal("186.00"), Decimal("-400.00"))
