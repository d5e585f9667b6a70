"""Exit reservation: working exits never exceed the position, with any number of concurrent requests."""

import asyncio
from decimal import Decimal
from typing import Any

import asyncpg
import pytest
from store.raw_rows import AT, CYCLE, RawRows

from catalyst.store import pipeline_views
from catalyst.store.constraint_errors import ExitExceedsPosition
from catalyst.store.pool import Store, connect

STOP = {"order_purpose": "stop_loss", "order_type": "stop", "stop_price": Decimal("186.00")}
TARGET = {"order_purpose": "take_profit", "order_type": "limit", "limit_price": Decimal("198.00")}
LEG: dict[str, Any] = {"origin": "broker", "status": "submitted", "order_class": "bracket"}


async def _entry_of(raw_rows: RawRows, position_id: int) -> int:
    return await raw_rows.conn.fetchval(
        "SELECT order_id FROM orders WHERE position_id = $1 AND order_purpose = 'entry'", position_id
    )


async def _reserved_qty(raw_rows: RawRows, position_id: int) -> int:
    return int(await pipeline_views.open_exit_quantity(raw_rows.conn, position_id))


async def test_one_of_twenty_concurrent_exits_is_accepted(raw_rows: RawRows, database: str):
    """Twenty connections request the whole position at once: one order is written, nineteen are refused."""
    position_id = await raw_rows.insert_position()
    conns = [await connect(database, f"exit {n}", lock_timeout=20_000) for n in range(20)]
    ready = asyncio.Barrier(20)

    async def request_exit(turn: int, n: int, conn: "asyncpg.Connection[asyncpg.Record]") -> str:
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
        except ExitExceedsPosition:
            return "refused"
        return "written"

    try:
        for turn in range(3):
            outcomes = await asyncio.gather(*(request_exit(turn, n, conn) for n, conn in enumerate(conns)))
            assert sorted(outcomes) == ["refused"] * 19 + ["written"]
            assert await _reserved_qty(raw_rows, position_id) == 100
            exit_id = await raw_rows.conn.fetchval(
                "SELECT order_id FROM orders WHERE order_purpose = 'exit' AND status = 'created'"
            )
            await raw_rows.set_status(exit_id, "cancelled", closed_at=AT)
    finally:
        for conn in conns:
            await conn.close()


async def test_partial_exits_cannot_exceed_position(raw_rows: RawRows):
    """Exits of 60 and 40 of 100 shares are accepted; one share more is refused and leaves no row."""
    position_id = await raw_rows.insert_position()
    await raw_rows.insert_exit(position_id, quantity=Decimal(60))
    await raw_rows.insert_exit(position_id, quantity=Decimal(40))
    with pytest.raises(ExitExceedsPosition, match="would take 101, it holds 100"):
        await raw_rows.insert_exit(position_id, quantity=Decimal(1))
    assert await _reserved_qty(raw_rows, position_id) == 100


async def test_cancelled_exit_releases_reserved_shares(raw_rows: RawRows):
    """A cancelled exit releases its reserved shares."""
    position_id = await raw_rows.insert_position()
    first = await raw_rows.insert_exit(position_id)
    await raw_rows.set_status(first, "submitted")
    await raw_rows.set_status(first, "cancelled")
    await raw_rows.insert_exit(position_id)


async def test_partly_filled_exit_reserves_its_remainder(raw_rows: RawRows):
    """After 30 of 100 are sold the position holds 70 and the order reserves 70."""
    position_id = await raw_rows.insert_position()
    first = await raw_rows.insert_exit(position_id)
    await raw_rows.set_status(first, "submitted")
    async with raw_rows.conn.transaction():
        await raw_rows.insert_fill(first, 30, 30)
        await raw_rows.set_status(first, "partial_fill", filled_qty=Decimal(30))
        await raw_rows.conn.execute(
            "UPDATE positions SET quantity = 70, exited_qty = 30 WHERE position_id = $1", position_id
        )
    assert await _reserved_qty(raw_rows, position_id) == 70
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.insert_exit(position_id, quantity=Decimal(1))


async def test_bracket_legs_reserve_shares_once(raw_rows: RawRows):
    """Stop and target of one bracket reserve the same shares: no further exit while they work, one after they
    ended."""
    position_id = await raw_rows.insert_position()
    entry = await _entry_of(raw_rows, position_id)
    legs = [
        await raw_rows.insert_exit(position_id, parent_order_id=entry, **LEG, **STOP),
        await raw_rows.insert_exit(position_id, parent_order_id=entry, **LEG, **TARGET),
    ]
    assert await _reserved_qty(raw_rows, position_id) == 100
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.insert_exit(position_id, quantity=Decimal(1), status="submitted")
    for leg in legs:
        await raw_rows.set_status(leg, "cancelled")
    await raw_rows.insert_exit(position_id)


async def test_bracket_legs_reserve_nothing_before_entry_is_filled(raw_rows: RawRows):
    """With 60 of 100 filled the bracket's legs do not work at the broker yet and reserve nothing."""
    position_id = await raw_rows.insert_position(60, ordered=100)
    entry = await _entry_of(raw_rows, position_id)
    await raw_rows.insert_exit(position_id, parent_order_id=entry, **LEG, **STOP)
    await raw_rows.insert_exit(position_id, parent_order_id=entry, **LEG, **TARGET)
    assert await _reserved_qty(raw_rows, position_id) == 0
    await raw_rows.insert_exit(position_id, quantity=Decimal(60))


async def test_legs_without_position_reserve_nothing(raw_rows: RawRows):
    """Legs of an unfilled entry and exits without a position reserve nothing of a position in the same symbol: all
    its shares can be sold."""
    position_id = await raw_rows.insert_position()
    entry = await raw_rows.insert_order(order_class="bracket")
    await raw_rows.insert_order(parent_order_id=entry, side="sell", **LEG, **(STOP | {"limit_price": None}))
    await raw_rows.insert_order(parent_order_id=entry, side="sell", **LEG, **TARGET)
    await raw_rows.insert_order(
        side="sell", order_purpose="exit", **{**LEG, "order_class": "simple", "origin": "external"}
    )
    assert await _reserved_qty(raw_rows, position_id) == 0
    await raw_rows.insert_exit(position_id)
    assert await _reserved_qty(raw_rows, position_id) == 100


@pytest.mark.parametrize("linked_to_entry", [False, True])
async def test_oco_and_its_leg_reserve_shares_once(raw_rows: RawRows, linked_to_entry: bool):
    """An OCO's first order and the leg the broker shows for it are one reservation, with or without a parent
    entry."""
    position_id = await raw_rows.insert_position()
    parent = await _entry_of(raw_rows, position_id) if linked_to_entry else None
    target = await raw_rows.insert_exit(position_id, parent_order_id=parent, order_class="oco", **TARGET)
    await raw_rows.insert_exit(position_id, parent_order_id=target, **(LEG | {"order_class": "oco"}), **STOP)
    assert await _reserved_qty(raw_rows, position_id) == 100


async def test_two_stops_of_one_group_reserve_shares_twice(raw_rows: RawRows):
    """A group has one stop and one target; a second stop could sell the shares twice."""
    position_id = await raw_rows.insert_position()
    entry = await _entry_of(raw_rows, position_id)
    await raw_rows.insert_exit(position_id, parent_order_id=entry, **LEG, **STOP)
    await raw_rows.insert_exit(position_id, parent_order_id=entry, **LEG, **TARGET)
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.insert_exit(position_id, parent_order_id=entry, **STOP)


async def test_unlinked_stop_and_target_reserve_shares_twice(raw_rows: RawRows):
    """A stop and a target without a common group could both fill."""
    position_id = await raw_rows.insert_position()
    await raw_rows.insert_exit(position_id, **STOP)
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.insert_exit(position_id, **TARGET)


async def test_replacement_and_replaced_order_reserve_shares_once(raw_rows: RawRows):
    """The broker swaps an order for its replacement; while both rows are open the shares are reserved once."""
    position_id = await raw_rows.insert_position()
    old = await raw_rows.insert_exit(position_id, **STOP)
    await raw_rows.insert_exit(position_id, replaces=old, **STOP)
    assert await _reserved_qty(raw_rows, position_id) == 100
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.insert_exit(position_id, quantity=Decimal(1), status="submitted")


async def test_prepared_sale_is_released_only_after_the_legs_ended(raw_rows: RawRows):
    """A sale that was never sent may stand beside the legs that it replaces, but no second one; it is released only
    when no leg works any more."""
    position_id = await raw_rows.insert_position()
    entry = await _entry_of(raw_rows, position_id)
    stop = await raw_rows.insert_exit(position_id, parent_order_id=entry, **LEG, **STOP)
    prepared = await raw_rows.insert_exit(position_id)
    assert await _reserved_qty(raw_rows, position_id) == 100
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.insert_exit(position_id, quantity=Decimal(1))
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.set_status(prepared, "submitted")
    await raw_rows.set_status(stop, "cancelled")
    await raw_rows.set_status(prepared, "submitted")
    assert await _reserved_qty(raw_rows, position_id) == 100


async def test_external_exit_beyond_position_is_recorded(raw_rows: RawRows):
    """An external exit is never refused: its row is stored, and the reserved sum exceeds the position."""
    position_id = await raw_rows.insert_position()
    await raw_rows.insert_exit(position_id)
    await raw_rows.insert_exit(position_id, origin="external", epoch=None, status="accepted")
    assert await _reserved_qty(raw_rows, position_id) == 200


async def test_exit_cannot_grow_beyond_position(raw_rows: RawRows):
    """The reservation check also applies to a larger quantity and to a change of position."""
    position_id = await raw_rows.insert_position()
    other = await raw_rows.insert_position(10, symbol="MSFT")
    order_id = await raw_rows.insert_exit(position_id, quantity=Decimal(50))
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.set_status(order_id, "created", quantity=Decimal(101))
    with pytest.raises(ExitExceedsPosition):
        await raw_rows.set_status(order_id, "created", position_id=other)
    await raw_rows.set_status(order_id, "created", quantity=Decimal(100))


async def test_open_risk_view_shows_protected_and_unprotected_quantity(raw_rows: RawRows, store: Store):
    """The view counts only stops that work at the broker; the worst case is their loss."""
    position_id = await raw_rows.insert_position()
    entry = await _entry_of(raw_rows, position_id)
    (before,) = await pipeline_views.open_risk(raw_rows.conn)
    assert (before.unprotected_qty, before.protected_qty, before.worst_case) == (100, 0, None)
    await raw_rows.insert_exit(position_id, parent_order_id=entry, alpaca_order_id="stop-1", **LEG, **STOP)
    await raw_rows.insert_exit(
        position_id, parent_order_id=entry, alpaca_order_id="target-1", **LEG, **TARGET
    )
    (risk,) = await pipeline_views.open_risk(raw_rows.conn)
    assert (risk.symbol, risk.unprotected_qty, risk.protected_qty, risk.exiting_qty) == ("AAPL", 0, 100, 100)
    assert (risk.broker_stop_price, risk.worst_case) == (Decimal("186.00"), Decimal("-400.00"))
