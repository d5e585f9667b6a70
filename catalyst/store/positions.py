"""Positions in the database.

The first entry fill inserts a row; only fills change it. Marks (unrealised P&L, highs and lows, protection)
are written beside them.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from catalyst.domain.order import PositionSide
from catalyst.domain.position import PositionState
from catalyst.domain.rows import PositionRow
from catalyst.domain.unprotected_time import position_gaps, seconds_of
from catalyst.store import orders

if TYPE_CHECKING:
    from asyncpg import Record

    from catalyst.store.orders import Conn


SELECT: Final = """
    SELECT p.position_id, p.cycle_id, p.security_id, s.symbol, sec.name AS sector, p.side, p.quantity,
           p.entered_qty, p.cost, p.exited_qty, p.proceeds, p.entry_price, p.stop_loss, p.take_profit,
           p.entry_time, p.exit_time, p.status, p.realized_pnl, p.unrealized_pnl, p.last_price,
           p.protected_at, p.unprotected_seconds, p.close_reason, p.carried
      FROM positions p JOIN securities s USING (security_id) LEFT JOIN sectors sec USING (sector_id)
"""
_OPEN: Final = SELECT + " WHERE p.status = 'open' ORDER BY p.position_id"
_BY_ID: Final = SELECT + " WHERE p.position_id = $1"
_LOCK_BY_ID: Final = SELECT + " WHERE p.position_id = $1 FOR UPDATE OF p"
_LOCK_OPEN: Final = SELECT + " WHERE s.symbol = $1 AND p.side = $2 AND p.status = 'open' FOR UPDATE OF p"
_CLOSED_SINCE: Final = SELECT + " WHERE p.status = 'closed' AND p.exit_time >= $1 AND NOT p.legacy"
_CLOSED: Final = SELECT + (
    " WHERE p.status = 'closed' AND NOT p.legacy AND (p.position_id = ANY($1::bigint[]) OR p.position_id > $2)"
)
_OF_CYCLE: Final = SELECT + " WHERE p.cycle_id = $1 ORDER BY p.position_id"


def row_of(record: "Record") -> PositionRow:
    """Return the typed row of one record of the select above."""
    values = dict(record)
    values["side"] = PositionSide(values["side"])
    return PositionRow(**values)


async def open_positions(conn: "Conn") -> list[PositionRow]:
    """Return every open position, oldest first."""
    return [row_of(record) for record in await conn.fetch(_OPEN)]


async def closed_since(conn: "Conn", since: datetime) -> list[PositionRow]:
    """Return the positions closed since then."""
    return [row_of(record) for record in await conn.fetch(_CLOSED_SINCE, since)]


async def closed_of(conn: "Conn", position_ids: Sequence[int], *, newer_than: int) -> list[PositionRow]:
    """Return those of these positions that are closed, and every closed one with an id above `newer_than`."""
    return [row_of(record) for record in await conn.fetch(_CLOSED, list(position_ids), newer_than)]


async def with_unprotected_time(conn: "Conn", rows: Sequence[PositionRow], at: datetime) -> list[PositionRow]:
    """Return the positions with their unprotected seconds until `at`, computed from orders and fills.

    The stored column is the daemon's last measurement. A position keeps it when its entry fills are not all known.
    """
    orders_of = await orders.of_positions(conn, [row.position_id for row in rows])
    fills = await orders.fills_of(conn, [order.order_id for group in orders_of.values() for order in group])
    gaps_of = [position_gaps(row, orders_of[row.position_id], fills, at) for row in rows]
    return [
        row if gaps is None else replace(row, unprotected_seconds=seconds_of(gaps))
        for row, gaps in zip(rows, gaps_of, strict=True)
    ]


async def get(conn: "Conn", position_id: int) -> PositionRow:
    """Return the position with that id. Raises KeyError when there is none."""
    record = await conn.fetchrow(_BY_ID, position_id)
    if record is None:
        raise KeyError(position_id)
    return row_of(record)


async def lock(conn: "Conn", position_id: int) -> PositionRow:
    """Return the position with that id, locked until the transaction ends."""
    record = await conn.fetchrow(_LOCK_BY_ID, position_id)
    if record is None:
        raise KeyError(position_id)
    return row_of(record)


async def lock_open(conn: "Conn", symbol: str, side: PositionSide) -> PositionRow | None:
    """Return the open position of a symbol and side, locked; None when there is none."""
    record = await conn.fetchrow(_LOCK_OPEN, symbol, side)
    return None if record is None else row_of(record)


async def of_cycle(conn: "Conn", cycle_id: str) -> list[PositionRow]:
    """Return every position opened in a cycle, oldest first."""
    return [row_of(record) for record in await conn.fetch(_OF_CYCLE, cycle_id)]


async def update(
    conn: "Conn", position_id: int, state: PositionState, *, at: datetime, close_reason: str | None = None
) -> None:
    """Set the row to the sums of its fills; at quantity zero it is closed, with exit time and reason."""
    await conn.execute(
        """
        UPDATE positions
           SET quantity = $2, entered_qty = $3, cost = $4, exited_qty = $5, proceeds = $6, entry_price = $7,
               exit_price = $8, realized_pnl = $9, status = $10::text, updated_at = $11::timestamptz,
               exit_time = CASE WHEN $10 = 'closed' THEN $11 ELSE NULL END,
               unrealized_pnl = CASE WHEN $10 = 'closed' THEN 0 ELSE unrealized_pnl END,
               close_reason = CASE WHEN $10 = 'closed' THEN left($12::text, 255) ELSE close_reason END
         WHERE position_id = $1
        """,
        position_id,
        state.quantity,
        state.entered_qty,
        state.cost,
        state.exited_qty,
        state.proceeds,
        state.entry_price,
        state.exit_price,
        state.realized_pnl,
        state.status,
        at,
        close_reason,
    )


async def write_off(conn: "Conn", position_id: int, *, at: datetime, close_reason: str) -> None:
    """Close a position without a fill; cost and proceeds of its fills stay."""
    await conn.execute(
        """
        UPDATE positions
           SET quantity = 0, status = 'closed', exit_time = $2, updated_at = $2, unrealized_pnl = 0,
               close_reason = left($3::text, 255)
         WHERE position_id = $1 AND status = 'open'
        """,
        position_id,
        at,
        close_reason,
    )


async def mark(conn: "Conn", marks: Sequence[tuple[int, Decimal, Decimal]], *, at: datetime) -> None:
    """Write marks (id, price, unrealised dollars) of open positions and extend their extremes."""
    await conn.execute(
        """
        UPDATE positions p
           SET last_price = m.price, unrealized_pnl = m.unrealized, updated_at = $4,
               high_since_entry = greatest(p.high_since_entry, m.price),
               low_since_entry = least(p.low_since_entry, m.price)
          FROM unnest($1::bigint[], $2::numeric[], $3::numeric[]) AS m (position_id, price, unrealized)
         WHERE p.position_id = m.position_id AND p.status = 'open'
        """,
        [position_id for position_id, _, _ in marks],
        [price for _, price, _ in marks],
        [unrealized for _, _, unrealized in marks],
        at,
    )


async def set_protection(
    conn: "Conn", position: PositionRow, *, protected_at: datetime | None, unprotected_seconds: Decimal
) -> None:
    """Write since when the broker's stop covers all of it (None: not protected; the end of the position, when
    it never was), and the unprotected seconds.

    Nothing is written when the position was closed after `position` was read: a closed one is measured by itself.
    """
    await conn.execute(
        "UPDATE positions SET protected_at = $3, unprotected_seconds = $4 WHERE position_id = $1 AND status = $2",
        position.position_id,
        position.status,
        protected_at,
        unprotected_seconds,
    )


async def set_levels(
    conn: "Conn", position_id: int, *, stop_loss: Decimal, take_profit: Decimal, at: datetime
) -> None:
    """Write the stop and the target that now protect a position."""
    await conn.execute(
        "UPDATE positions SET stop_loss = $2, take_profit = $3, updated_at = $4 WHERE position_id = $1",
        position_id,
        stop_loss,
        take_profit,
        at,
    )


async def accept_carried(conn: "Conn", *, by: str, at: datetime) -> list[str]:
    """Record that a person allows entries beside the carried positions that are open now; return their symbols."""
    record = await conn.fetchrow(
        """
        WITH carried AS (
            SELECT p.position_id, s.symbol FROM positions p JOIN securities s USING (security_id)
             WHERE p.status = 'open' AND p.carried ORDER BY p.position_id
        )
        INSERT INTO risk_events (event_type, severity, message, facts, occurred_at)
        SELECT 'CARRIED_ACCEPTED', 'WARNING',
               'entries are allowed beside positions of an earlier day: ' || string_agg(symbol, ', '),
               jsonb_build_object('positions', jsonb_agg(position_id), 'symbols', jsonb_agg(symbol), 'by', $1::text), $2
          FROM carried HAVING count(*) > 0
        RETURNING facts
        """,
        by,
        at,
    )
    return [] if record is None else list(record["facts"]["symbols"])


async def accepted_carried(conn: "Conn") -> frozenset[int]:
    """Return the ids of the carried positions beside which a person allows entries."""
    found = await conn.fetch(
        """
        SELECT position_id::bigint AS position_id
          FROM risk_events, jsonb_array_elements_text(facts -> 'positions') AS position_id
         WHERE event_type = 'CARRIED_ACCEPTED'
        """
    )
    return frozenset(record["position_id"] for record in found)


async def mark_carried(conn: "Conn", *, day_began_at: datetime, is_new_day: bool = False) -> list[str]:
    """Mark every open position that was entered before the day as carried; return the symbols that were not marked
    before. The time of the first entry fill decides: a position without a cycle may be of today.

    What the position has made so far is kept apart from the day's result, once per day.
    """
    found = await conn.fetch(
        """
        WITH before AS (
            SELECT position_id, carried FROM positions
             WHERE status = 'open' AND entry_time < $1 AND (NOT carried OR carried_pnl IS NULL OR $2)
               FOR UPDATE
        )
        UPDATE positions p SET carried = true, carried_pnl = p.realized_pnl + p.unrealized_pnl
          FROM before, securities s
         WHERE p.position_id = before.position_id AND s.security_id = p.security_id
        RETURNING s.symbol, before.carried AS was_carried
        """,
        day_began_at,
        is_new_day,
    )
    return sorted(record["symbol"] for record in found if not record["was_carried"])


async def set_missing_cycle(conn: "Conn", cycle_id: str, *, day_began_at: datetime) -> None:
    """Give positions that were entered today before the day's cycle was opened, such as adopted ones, that cycle."""
    await conn.execute(
        """
        UPDATE positions SET cycle_id = $1
         WHERE cycle_id IS NULL AND NOT legacy AND entry_time >= $2
           AND position_id = ANY(ARRAY(SELECT position_id FROM positions WHERE status = 'open'
                                        UNION ALL SELECT position_id FROM positions WHERE exit_time >= $2))
        """,
        cycle_id,
        day_began_at,
    )


async def day_pnl(conn: "Conn", cycle_id: str) -> tuple[Decimal, Decimal]:
    """Return (realised, unrealised) dollars of a cycle: its positions, and what its exits oversold."""
    record = await conn.fetchrow(
        """
        SELECT coalesce(sum(realized_pnl), 0)
               + (SELECT coalesce(sum(realized_pnl), 0) FROM orphans WHERE cycle_id = $1) AS realized,
               coalesce(sum(unrealized_pnl) FILTER (WHERE status = 'open'), 0) AS unrealized
          FROM positions WHERE cycle_id = $1
        """,
        cycle_id,
    )
    assert record is not None  # an aggregate always returns a row
    return record["realized"], record["unrealized"]


async def day_result(conn: "Conn", cycle_id: str) -> Decimal:
    """Return the dollars that our positions made in the day of a cycle, realized and unrealized.

    These are the results of the positions entered that day, whatever their cycle, and of what the cycle's exits
    oversold; and what each carried position made beyond its `carried_pnl`. Transfers, fees, dividends, interest and
    holdings that are not ours are no part of it.
    """
    result: Decimal = await conn.fetchval(
        """
        WITH day AS (
            SELECT start_time, cycle_date::timestamp AT TIME ZONE 'America/New_York' AS began_at
              FROM trading_cycles WHERE cycle_id = $1
        )
        SELECT coalesce(sum(p.realized_pnl + CASE p.status WHEN 'open' THEN p.unrealized_pnl ELSE 0 END
                            - CASE WHEN p.entry_time < day.began_at THEN p.carried_pnl ELSE 0 END), 0)
               + (SELECT coalesce(sum(realized_pnl), 0) FROM orphans WHERE cycle_id = $1)
          FROM positions p CROSS JOIN day
         WHERE p.position_id = ANY(ARRAY(SELECT position_id FROM positions WHERE status = 'open'
                                          UNION ALL SELECT position_id FROM positions
                                                     WHERE exit_time >= (SELECT began_at FROM day)))
           AND (p.entry_time >= day.began_at
                OR p.carried_pnl IS NOT NULL AND (p.status = 'open' OR p.exit_time >= day.start_time))
        """,
        cycle_id,
    )
    return result


async def traded_symbols(conn: "Conn", *, since: datetime) -> set[str]:
    """Return every symbol in which Catalyst has placed an order since then."""
    found = await conn.fetch(
        """
        SELECT DISTINCT s.symbol FROM orders o JOIN securities s USING (security_id)
         WHERE o.origin IN ('catalyst', 'broker') AND o.created_at >= $1
        """,
        since,
    )
    return {record["symbol"] for record in found}


async def is_open(conn: "Conn", symbol: str, side: PositionSide) -> bool:
    """Return true when the symbol has an open position of that side."""
    return bool(
        await conn.fetchval(
            """
            SELECT EXISTS (SELECT 1 FROM positions p JOIN securities s USING (security_id)
                            WHERE s.symbol = $1 AND p.side = $2 AND p.status = 'open')
            """,
            symbol,
            side,
        )
    )
