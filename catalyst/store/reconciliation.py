"""Reconciliation queries: each is one statement, for any number of orders and positions.

Closed history is not read: every part uses an index of what is open, or of the last day.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from catalyst.domain.order import PositionSide
from catalyst.store import orders

if TYPE_CHECKING:
    from asyncpg import Record

    from catalyst.domain.rows import OrderRow
    from catalyst.store.orders import Conn

    RowCache = dict[int, tuple[Record, OrderRow]]  # by order


@dataclass(frozen=True, slots=True)
class StoredHolding:
    """Columns of one position (or, with `is_orphan`, of orphan shares) beside the sums of its fills. Shares
    and dollars; the sums cover every execution of its orders."""

    holding_id: int
    is_orphan: bool
    symbol: str
    side: PositionSide
    quantity: Decimal
    entered_qty: Decimal
    cost: Decimal
    exited_qty: Decimal
    proceeds: Decimal
    realized_pnl: Decimal | None
    is_open: bool
    legacy: bool
    written_off: bool
    fills_in: Decimal
    fills_cost: Decimal
    fills_out: Decimal
    fills_proceeds: Decimal

    @property
    def signed_qty(self) -> Decimal:
        return self.quantity if self.side is PositionSide.LONG else -self.quantity


@dataclass(frozen=True, slots=True)
class Contradiction:
    """One contradiction within the database. `symbol` is None when it is about the whole day."""

    kind: str  # journal | fills | activities | day
    symbol: str | None
    text: str


_ORDERS_TO_COMPARE: Final = (
    orders.SELECT
    + " WHERE o.alpaca_order_id = ANY($1::text[])"
    + " OR o.status IN ('created', 'submitted', 'accepted', 'partial_fill') ORDER BY o.order_id"
)
# Subqueries per row: a join would read the whole table as soon as the planner finds that
# cheaper, which it does for the executions and securities of a few months.
_HOLDINGS: Final = """
    WITH holdings_rows AS (
        SELECT * FROM positions WHERE status = 'open'
        UNION ALL
        SELECT * FROM positions WHERE exit_time >= $1
    )
    SELECT h.position_id AS holding_id, false AS is_orphan,
           (SELECT symbol FROM securities s WHERE s.security_id = h.security_id) AS symbol, h.side, h.quantity,
           h.entered_qty, h.cost, h.exited_qty, h.proceeds, h.realized_pnl, h.status = 'open' AS is_open, h.legacy,
           coalesce(h.close_reason, '') LIKE 'RECONCILED_PHANTOM%' AS written_off,
           coalesce(f.fills_in, 0) AS fills_in, coalesce(f.fills_cost, 0) AS fills_cost,
           coalesce(f.fills_out, 0) AS fills_out, coalesce(f.fills_proceeds, 0) AS fills_proceeds
      FROM holdings_rows h
      LEFT JOIN LATERAL (
           SELECT sum(e.quantity) FILTER (WHERE o.order_purpose = 'entry') AS fills_in,
                  sum(e.quantity * e.price) FILTER (WHERE o.order_purpose = 'entry') AS fills_cost,
                  sum(e.quantity) FILTER (WHERE o.order_purpose <> 'entry') AS fills_out,
                  sum(e.quantity * e.price) FILTER (WHERE o.order_purpose <> 'entry') AS fills_proceeds
             FROM orders o JOIN executions e USING (order_id)
            WHERE o.position_id = h.position_id) f ON true
    UNION ALL
    SELECT o.orphan_id, true, s.symbol, o.side, o.quantity, o.found_qty, coalesce(o.cost, 0), o.exited_qty,
           o.proceeds, o.realized_pnl, true, false, false, 0, 0, 0, 0
      FROM orphans o JOIN securities s USING (security_id) WHERE o.ended_at IS NULL
     ORDER BY is_orphan, holding_id
"""
_CONTRADICTIONS: Final = """
    WITH recent AS (
        SELECT order_id, security_id, status, filled_qty FROM orders
         WHERE created_at >= $1 AND origin <> 'legacy'
        UNION
        SELECT order_id, security_id, status, filled_qty FROM orders
         WHERE status IN ('created', 'submitted', 'accepted', 'partial_fill') AND origin <> 'legacy'
    ), journaled AS (
        SELECT r.order_id, e.seq, e.from_status, e.to_status,
               e.kind IN ('fill', 'late') AND e.to_status IN ('partial_fill', 'filled') AS is_fill,
               lag(e.to_status) OVER (PARTITION BY r.order_id ORDER BY e.seq) AS before,
               row_number() OVER (PARTITION BY r.order_id ORDER BY e.seq DESC) AS from_end
          FROM recent r CROSS JOIN LATERAL (
               SELECT seq, kind, from_status, to_status FROM order_events
                WHERE order_id = r.order_id AND to_status IS NOT NULL
                  AND kind IN ('transition', 'fill', 'late', 'correction') OFFSET 0) e
    ), folded AS (
        SELECT t.order_id, max(t.to_status) FILTER (WHERE t.from_end = 1) AS last_status,
               bool_and(t.from_status IS NOT DISTINCT FROM t.before
                        AND (t.before IS NULL OR t.is_fill OR EXISTS (SELECT 1 FROM order_edges g
                             WHERE g.from_status = t.before AND g.to_status = t.to_status))) AS follows_edges
          FROM journaled t GROUP BY t.order_id
    ), booked AS (
        SELECT r.order_id, r.security_id, r.filled_qty,
               coalesce((SELECT sum(quantity) FROM executions e WHERE e.order_id = r.order_id), 0) AS quantity
          FROM recent r
    )
    SELECT 'journal' AS kind, (SELECT symbol FROM securities s WHERE s.security_id = r.security_id) AS symbol,
           format('order %s is %s, its journal %s', r.order_id, r.status,
                  CASE WHEN f.order_id IS NULL THEN 'is empty' WHEN f.follows_edges THEN 'ends at ' || f.last_status
                       ELSE 'has a status change that is not allowed' END) AS text
      FROM recent r LEFT JOIN folded f USING (order_id)
     WHERE f.order_id IS NULL OR NOT f.follows_edges OR f.last_status <> r.status
    UNION ALL
    SELECT 'fills', (SELECT symbol FROM securities s WHERE s.security_id = b.security_id),
           format('order %s has filled %s, its executions sum to %s', b.order_id, b.filled_qty, b.quantity)
      FROM booked b WHERE b.filled_qty <> b.quantity
    UNION ALL
    SELECT 'activities', (SELECT symbol FROM securities s WHERE s.security_id = o.security_id),
           format('order %s: the fill %s @ %s is not in the account activities', e.order_id, e.quantity, e.price)
      FROM executions e JOIN orders o USING (order_id)
     WHERE e.at >= $1 AND e.at < $2 AND e.activity_id IS NULL AND o.origin <> 'legacy'
    UNION ALL
    SELECT 'day', NULL,
           format('the result of %s is %s, its positions and orphans sum to %s', c.cycle_date, c.realized_pnl, p.sum)
      FROM trading_cycles c
     CROSS JOIN LATERAL (
           SELECT coalesce(sum(realized_pnl), 0)
                  + (SELECT coalesce(sum(realized_pnl), 0) FROM orphans WHERE cycle_id = c.cycle_id) AS sum
             FROM positions WHERE cycle_id = c.cycle_id) p
     WHERE c.status = 'completed' AND c.config_hash <> 'legacy'
       AND c.cycle_date >= ($1 AT TIME ZONE 'America/New_York')::date
       AND c.realized_pnl <> p.sum
"""


async def orders_to_compare(conn: "Conn", broker_ids: Sequence[str], cache: "RowCache") -> "list[OrderRow]":
    """Return the rows of these broker ids, and every working row, oldest first.

    `cache` holds the rows of the previous pass and is updated; a row without a changed column is reused.
    """
    found: RowCache = {}
    for record in await conn.fetch(_ORDERS_TO_COMPARE, list(broker_ids)):
        cached = cache.get(record["order_id"])
        found[record["order_id"]] = (
            cached if cached is not None and cached[0] == record else (record, orders.row_of(record))
        )
    cache.clear()
    cache.update(found)
    return [row for _, row in found.values()]


async def holdings(conn: "Conn", *, since: datetime) -> list[StoredHolding]:
    """Return every open position, those closed since then, and every open orphan, oldest first."""
    found = await conn.fetch(_HOLDINGS, since)
    return [StoredHolding(**{**record, "side": PositionSide(record["side"])}) for record in found]


async def contradictions(
    conn: "Conn", *, since: datetime, activities_read_to: datetime | None
) -> list[Contradiction]:
    """Return contradictions within the database, of what works or is younger than `since`.

    An order's state differs from its journal, its filled quantity from the sum of its fills, a fill is
    unknown to the account activities (read up to `activities_read_to`; None: not read), or a finished day's result
    differs from its positions.
    """
    found = await conn.fetch(_CONTRADICTIONS, since, activities_read_to)
    return [Contradiction(**record) for record in found]
