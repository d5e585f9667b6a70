"""Reporting queries: reads for screens and reports; nothing here writes."""

from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from catalyst.domain.order import Purpose, Side
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.store import orders, positions
from catalyst.store.account_lock import lock_key
from catalyst.store.pool import Connection

if TYPE_CHECKING:
    from asyncpg import Record

_LOW_32_BITS: Final = 0xFFFF_FFFF


@dataclass(frozen=True, slots=True)
class BookedFill:
    """One execution with its order. Shares, dollars, UTC."""

    order_id: int
    alpaca_order_id: str | None
    symbol: str
    order_purpose: Purpose
    side: Side
    position_id: int | None
    cum_qty: Decimal
    quantity: Decimal
    price: Decimal
    at: datetime


@dataclass(frozen=True, slots=True)
class Latch:
    """A latch that stops entries until `resume`."""

    name: str
    reason: str
    set_by: str
    set_at: datetime
    until: datetime | None


@dataclass(frozen=True, slots=True)
class SessionRow:
    """One day of the exchange's calendar, instants in UTC."""

    day: date
    open: datetime
    close: datetime
    half_day: bool


_FILLS: Final = """
    SELECT e.order_id, o.alpaca_order_id, s.symbol, o.order_purpose, o.side, o.position_id, e.cum_qty, e.quantity,
           e.price, e.at
      FROM executions e JOIN orders o USING (order_id) JOIN securities s USING (security_id)
"""
_FILLS_OF_DAY: Final = (
    _FILLS  # noqa: S608 -- literals of this module
    + " WHERE o.cycle_id = $1 OR o.position_id IN (SELECT position_id FROM positions WHERE cycle_id = $1)"
    + " ORDER BY e.at, e.order_id, e.cum_qty"
)
_ALL_FILLS: Final = _FILLS + " ORDER BY e.at, e.order_id, e.cum_qty"
_FILLS_OF_POSITION: Final = _FILLS + " WHERE o.position_id = $1 ORDER BY e.at, e.order_id, e.cum_qty"
_RECENT_POSITIONS: Final = (
    positions.SELECT + " WHERE $1::text IS NULL OR p.status = $1 ORDER BY p.position_id DESC LIMIT $2"
)
_POSITIONS_OF_SYMBOL: Final = positions.SELECT + " WHERE s.symbol = $1 ORDER BY p.position_id DESC LIMIT $2"
_ORDERS_OF_DAY: Final = (
    orders.SELECT  # noqa: S608 -- literals of the store
    + " WHERE o.cycle_id = $1 OR o.position_id IN (SELECT position_id FROM positions WHERE cycle_id = $1)"
    + " OR o.parent_order_id IN (SELECT order_id FROM orders WHERE cycle_id = $1) ORDER BY o.order_id"
)
_ORDERS_OF_SYMBOL: Final = orders.SELECT + " WHERE s.symbol = $1 ORDER BY o.order_id DESC LIMIT $2"


def _fill(record: "Record") -> BookedFill:
    return BookedFill(
        **{
            **record,
            "order_purpose": Purpose(record["order_purpose"]),
            "side": Side(record["side"]),
        }
    )


async def is_account_locked(conn: Connection, account_id: str) -> bool:
    """Return true while some daemon holds the account lease through this database, also when its heartbeat
    is old."""
    key = lock_key(account_id)
    return bool(
        await conn.fetchval(
            """
            SELECT EXISTS (
                SELECT 1 FROM pg_locks
                 WHERE locktype = 'advisory' AND granted AND objsubid = 1
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND classid::bigint = $1 AND objid::bigint = $2)
            """,
            (key >> 32) & _LOW_32_BITS,
            key & _LOW_32_BITS,
        )
    )


async def fills_of_day(conn: Connection, cycle_id: str) -> list[BookedFill]:
    """Return every fill of a cycle's orders and positions, in order of time."""
    return [_fill(record) for record in await conn.fetch(_FILLS_OF_DAY, cycle_id)]


async def all_fills(conn: Connection) -> list[BookedFill]:
    """Return every fill, in order of time."""
    return [_fill(record) for record in await conn.fetch(_ALL_FILLS)]


async def fills_of_position(conn: Connection, position_id: int) -> list[BookedFill]:
    """Return every fill of a position's orders, in order of time."""
    return [_fill(record) for record in await conn.fetch(_FILLS_OF_POSITION, position_id)]


async def orders_of_day(conn: Connection, cycle_id: str) -> list[OrderRow]:
    """Return every order of a cycle with its legs and its positions' exits, oldest first."""
    return [orders.row_of(record) for record in await conn.fetch(_ORDERS_OF_DAY, cycle_id)]


async def orders_of_symbol(conn: Connection, symbol: str, limit: int = 50) -> list[OrderRow]:
    """Return a symbol's latest orders, newest first."""
    return [orders.row_of(record) for record in await conn.fetch(_ORDERS_OF_SYMBOL, symbol.upper(), limit)]


async def recent_positions(
    conn: Connection, status: str | None = None, limit: int = 100
) -> list[PositionRow]:
    """Return the latest positions, of one status when given, newest first."""
    return [positions.row_of(record) for record in await conn.fetch(_RECENT_POSITIONS, status, limit)]


async def positions_of_symbol(conn: Connection, symbol: str, limit: int = 20) -> list[PositionRow]:
    """Return a symbol's latest positions, newest first."""
    return [
        positions.row_of(record) for record in await conn.fetch(_POSITIONS_OF_SYMBOL, symbol.upper(), limit)
    ]


async def latches(conn: Connection) -> list[Latch]:
    """Return every set latch, oldest first."""
    found = await conn.fetch(
        "SELECT name, reason, set_by, set_at, until FROM latches WHERE cleared_at IS NULL ORDER BY set_at"
    )
    return [Latch(**record) for record in found]


async def session_of(conn: Connection, day: date) -> SessionRow | None:
    """Return the calendar row of a day; None for a holiday, or a day the daemon has not read."""
    record = await conn.fetchrow(
        "SELECT date AS day, open, close, half_day FROM trading_days WHERE date = $1", day
    )
    return None if record is None else SessionRow(**record)


async def last_closed_session(conn: Connection, at: datetime) -> SessionRow | None:
    """Return the last session that closed before `at`; None when the daemon has read none."""
    record = await conn.fetchrow(
        "SELECT date AS day, open, close, half_day FROM trading_days WHERE close <= $1 ORDER BY date DESC LIMIT 1",
        at,
    )
    return None if record is None else SessionRow(**record)
