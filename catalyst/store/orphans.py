"""Orphans in the database: shares of our symbols at the broker that no position explains.

They are no position, because no order of ours entered them. A row holds the quantity found, the quantity that
has left since, and the result where every fill is known.
"""

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from catalyst.domain.order import PositionSide
from catalyst.domain.rows import Orphan

if TYPE_CHECKING:
    from asyncpg import Record

    from catalyst.store.orders import Conn

OVERSOLD: Final = "oversold"
UNEXPLAINED: Final = "unexplained"


_SELECT: Final = """
    SELECT o.orphan_id, o.cycle_id, o.security_id, s.symbol, o.position_id, o.cause, o.side, o.quantity,
           o.found_qty, o.cost, o.exited_qty, o.proceeds, o.realized_pnl, o.stop_price, o.protected_at,
           o.found_at, o.ended_at, o.end_reason
      FROM orphans o JOIN securities s USING (security_id)
"""
_OPEN: Final = _SELECT + " WHERE o.ended_at IS NULL ORDER BY o.orphan_id"
_LOCK_OPEN: Final = _SELECT + " WHERE s.symbol = $1 AND o.side = $2 AND o.ended_at IS NULL FOR UPDATE OF o"
_RECENT: Final = _SELECT + " ORDER BY o.orphan_id DESC LIMIT $1"


def _row(record: "Record") -> Orphan:
    return Orphan(**{**record, "side": PositionSide(record["side"])})


async def open_orphans(conn: "Conn") -> list[Orphan]:
    """Return every open orphan, oldest first."""
    return [_row(record) for record in await conn.fetch(_OPEN)]


async def lock_open(conn: "Conn", symbol: str, side: PositionSide) -> Orphan | None:
    """Return the open orphan of a symbol and side, locked; None when there is none."""
    record = await conn.fetchrow(_LOCK_OPEN, symbol, side)
    return None if record is None else _row(record)


async def recent(conn: "Conn", limit: int = 20) -> list[Orphan]:
    """Return the latest orphans, newest first."""
    return [_row(record) for record in await conn.fetch(_RECENT, limit)]


async def record(
    conn: "Conn",
    symbol: str,
    side: PositionSide,
    quantity: Decimal,
    *,
    at: datetime,
    cycle_id: str | None = None,
    position_id: int | None = None,
    cost: Decimal | None = None,
) -> bool:
    """Open an orphan of this symbol and side, or add `quantity` to it; true when it is new.

    With `position_id` the exits of that position sold too much, and `cost` is what the surplus brought.
    """
    is_new: bool = await conn.fetchval(
        """
        INSERT INTO orphans (cycle_id, security_id, position_id, cause, side, quantity, found_qty, cost, found_at,
                             updated_at)
        VALUES ($1, get_or_create_security($2), $3, CASE WHEN $3::bigint IS NULL THEN 'unexplained' ELSE 'oversold' END,
                $4, $5, $5, $6, $7, $7)
        ON CONFLICT (security_id, side) WHERE ended_at IS NULL DO UPDATE
           SET quantity = orphans.quantity + excluded.quantity, found_qty = orphans.found_qty + excluded.found_qty,
               cost = CASE WHEN orphans.cause = 'oversold' AND excluded.cost IS NULL THEN orphans.cost
                           ELSE orphans.cost + excluded.cost END,
               updated_at = excluded.updated_at
        RETURNING (xmax = 0)
        """,
        cycle_id,
        symbol,
        position_id,
        side,
        quantity,
        cost,
        at,
    )
    return is_new


async def update(conn: "Conn", orphan: Orphan, *, at: datetime) -> None:
    """Write quantity, exited quantity, proceeds and result of a locked orphan."""
    await conn.execute(
        """
        UPDATE orphans SET quantity = $2, exited_qty = $3, proceeds = $4, realized_pnl = $5, updated_at = $6
         WHERE orphan_id = $1
        """,
        orphan.orphan_id,
        orphan.quantity,
        orphan.exited_qty,
        orphan.proceeds,
        orphan.realized_pnl,
        at,
    )


async def resize(conn: "Conn", orphan_id: int, quantity: Decimal, *, at: datetime) -> None:
    """Set the quantity held now, after a change that no order of Catalyst explains."""
    await conn.execute(
        """
        UPDATE orphans
           SET quantity = $2, found_qty = CASE WHEN $2 > quantity THEN found_qty + $2 - quantity ELSE found_qty END,
               updated_at = $3
         WHERE orphan_id = $1 AND ended_at IS NULL
        """,
        orphan_id,
        quantity,
        at,
    )


async def protect(
    conn: "Conn", orphan_id: int, *, stop_price: Decimal | None, protected_at: datetime | None, at: datetime
) -> None:
    """Write the stop price and the time since when the orphan is protected (None: unprotected)."""
    await conn.execute(
        "UPDATE orphans SET stop_price = $2, protected_at = $3, updated_at = $4 WHERE orphan_id = $1",
        orphan_id,
        stop_price,
        protected_at,
        at,
    )


async def close(conn: "Conn", orphan_id: int, *, end_reason: str, at: datetime) -> None:
    """Close the orphan: no shares are held any more."""
    await conn.execute(
        """
        UPDATE orphans SET quantity = 0, ended_at = $3, end_reason = $2, updated_at = $3
         WHERE orphan_id = $1 AND ended_at IS NULL
        """,
        orphan_id,
        end_reason,
        at,
    )
