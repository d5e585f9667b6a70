"""Report writes: the effect of one broker report in one statement, which is a transaction by itself.

Each names the rows as its writer read them. When one differs, StaleRow is raised and nothing is written. So
the writer may have read them earlier, and holds no lock while it decides.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from catalyst.domain.order import Purpose, Side, Status
from catalyst.domain.position import PositionState
from catalyst.domain.report import Fill, OrderReport

if TYPE_CHECKING:
    from catalyst.store.orders import Conn, OrderRow


@dataclass(frozen=True, slots=True)
class OrderUpdate:
    """An order as it was read, and what the broker reports of it now."""

    row: "OrderRow"
    report: OrderReport
    new_status: Status  # the row's status when only the broker's id or status is new
    rejection_reason: str | None = None


@dataclass(frozen=True, slots=True)
class NewLeg:
    """A leg without a row, of an order that has one."""

    parent: "OrderRow"
    report: OrderReport
    purpose: Purpose
    side: Side
    status: Status  # submitted, or accepted at once


@dataclass(frozen=True, slots=True)
class OpeningFill:
    """The first fill of an entry, and the position it opens."""

    update: OrderUpdate
    fill: Fill
    position_state: PositionState


async def apply_order_updates(
    conn: "Conn",
    updates: Sequence[OrderUpdate],
    new_legs: Sequence[NewLeg],
    *,
    at: datetime,
    source: str,
    epoch: int,
) -> dict[str, int]:
    """Move every order, write the row of every leg, and journal each step; return the legs' order ids by
    broker id.

    Raises StaleRow, and asyncpg.UniqueViolationError when a leg has a row already.
    """
    found = await conn.fetch(
        """
        WITH expected AS (
            SELECT * FROM unnest($1::bigint[], $2::text[], $3::numeric[], $4::numeric[], $5::text[], $6::text[],
                                 $7::text[], $8::text[], $9::text[], $10::text[])
                       AS s (order_id, old_status, filled, quantity, old_broker_status, old_broker_id,
                             broker_id, broker_status, new_status, rejection)
             LIMIT cardinality($1)
        ), updated AS (
            UPDATE orders o
               SET alpaca_order_id = s.broker_id, broker_status = s.broker_status, status = s.new_status,
                   updated_at = $11::timestamptz, epoch = $13::bigint,
                   accepted_at = CASE WHEN s.new_status = 'accepted' THEN coalesce(o.accepted_at, $11)
                                      ELSE o.accepted_at END,
                   cancelled_at = CASE WHEN s.new_status = 'cancelled' THEN coalesce(o.cancelled_at, $11)
                                       ELSE o.cancelled_at END,
                   closed_at = CASE WHEN s.new_status IN ('filled', 'cancelled', 'rejected', 'expired', 'replaced')
                                    THEN coalesce(o.closed_at, $11) ELSE NULL END,
                   rejection_reason = coalesce(s.rejection, o.rejection_reason),
                   cancel_reason = CASE WHEN s.new_status = 'cancelled' AND s.old_status <> 'cancelled'
                                        THEN coalesce(o.cancel_reason, 'BROKER') ELSE o.cancel_reason END
              FROM expected s
             WHERE o.order_id = s.order_id AND o.status = s.old_status AND o.filled_qty = s.filled
               AND o.quantity = s.quantity AND o.broker_status IS NOT DISTINCT FROM s.old_broker_status
               AND o.alpaca_order_id IS NOT DISTINCT FROM s.old_broker_id
            RETURNING o.order_id, s.old_status, s.new_status, s.broker_status
        ), new_legs AS (
            INSERT INTO orders (client_order_id, security_id, order_purpose, position_side, side, quantity,
                                order_type, time_in_force, order_class, origin, cycle_id, position_id,
                                parent_order_id, limit_price, stop_price, alpaca_order_id, broker_status, epoch,
                                status, created_at, updated_at, submitted_at, accepted_at, attempts,
                                last_attempt_at)
            SELECT l.client_id, p.security_id, l.purpose, p.position_side, l.side, l.quantity, l.type, l.force,
                   l.class, 'broker', p.cycle_id, p.position_id, l.parent, l.limit_price, l.stop_price,
                   l.broker_id, l.broker_status, $13, l.status, $11, $11, $11,
                   CASE WHEN l.status = 'accepted' THEN $11 END, 1, $11
              FROM unnest($14::bigint[], $15::text[], $16::text[], $17::text[], $18::numeric[], $19::text[],
                          $20::text[], $21::text[], $22::numeric[], $23::numeric[], $24::text[], $25::text[],
                          $26::text[])
                   WITH ORDINALITY AS l (parent, client_id, purpose, side, quantity, type, force, class,
                                         limit_price, stop_price, broker_id, broker_status, status, n)
              JOIN orders p ON p.order_id = l.parent
             ORDER BY l.n
            RETURNING order_id, parent_order_id, status, broker_status, alpaca_order_id
        ), journaled AS (
            INSERT INTO order_events (order_id, at, source, kind, from_status, to_status, note)
            SELECT order_id, $11, $12::text, 'transition', old_status, new_status, note
              FROM (SELECT order_id, old_status, new_status, broker_status AS note
                      FROM updated WHERE new_status <> old_status
                    UNION ALL
                    SELECT order_id, NULL, status, 'leg of order ' || parent_order_id || ': ' || broker_status
                      FROM new_legs) AS entry
             ORDER BY order_id
        )
        SELECT require_unchanged((SELECT count(*) FROM updated), cardinality($1)), order_id, alpaca_order_id
          FROM (SELECT) AS once LEFT JOIN new_legs ON true
        """,
        [step.row.order_id for step in updates],
        [step.row.status for step in updates],
        [step.row.filled_qty for step in updates],
        [step.row.quantity for step in updates],
        [step.row.broker_status for step in updates],
        [step.row.alpaca_order_id for step in updates],
        [step.report.broker_id for step in updates],
        [step.report.broker_status for step in updates],
        [step.new_status for step in updates],
        [step.rejection_reason for step in updates],
        at,
        source,
        epoch,
        [leg.parent.order_id for leg in new_legs],
        [leg.report.client_order_id for leg in new_legs],
        [leg.purpose for leg in new_legs],
        [leg.side for leg in new_legs],
        [leg.report.quantity for leg in new_legs],
        [leg.report.order_type for leg in new_legs],
        [leg.report.time_in_force for leg in new_legs],
        [leg.report.order_class for leg in new_legs],
        [leg.report.limit_price for leg in new_legs],
        [leg.report.stop_price for leg in new_legs],
        [leg.report.broker_id for leg in new_legs],
        [leg.report.broker_status for leg in new_legs],
        [leg.status for leg in new_legs],
    )
    return {row["alpaca_order_id"]: row["order_id"] for row in found if row["order_id"] is not None}


async def open_positions_from_fills(
    conn: "Conn", opening_fills: Sequence[OpeningFill], *, at: datetime, source: str, epoch: int
) -> dict[int, int]:
    """Book the first fill of each entry, open its position and link its legs; return the positions' ids by
    entry.

    Raises StaleRow, and asyncpg.UniqueViolationError when a fill is booked already or a symbol is held.
    """
    found = await conn.fetch(
        """
        WITH expected AS (
            SELECT nextval('positions_position_id_seq') AS position_id, s.*
              FROM unnest($1::bigint[], $2::text[], $3::numeric[], $4::text[], $5::text[], $6::text[], $7::text[],
                          $8::text[], $9::numeric[], $10::numeric[], $11::timestamptz[], $12::numeric[],
                          $13::numeric[], $14::text[], $15::text[], $16::text[])
                   AS s (order_id, old_status, quantity, old_broker_status, old_broker_id, broker_id,
                         broker_status, new_status, filled, price, filled_at, cost, entry_price, execution_id,
                         activity_id, note)
             LIMIT cardinality($1)
        ), opened AS (
            INSERT INTO positions (position_id, cycle_id, security_id, side, quantity, entered_qty, cost, exited_qty,
                                   proceeds, entry_price, stop_loss, take_profit, entry_time, status, realized_pnl,
                                   unrealized_pnl, last_price, high_since_entry, low_since_entry, updated_at)
            OVERRIDING SYSTEM VALUE
            SELECT s.position_id, o.cycle_id, o.security_id, o.position_side, s.filled, s.filled, s.cost, 0, 0,
                   s.entry_price, o.bracket_stop, o.bracket_target, s.filled_at, 'open', 0, 0, s.entry_price,
                   s.entry_price, s.entry_price, s.filled_at
              FROM expected s JOIN orders o USING (order_id)
        ), booked AS (
            INSERT INTO executions (order_id, cum_qty, quantity, price, at, source, execution_id, activity_id)
            SELECT order_id, filled, filled, price, filled_at, $17::text, execution_id, activity_id FROM expected
        ), updated AS (
            UPDATE orders o
               SET alpaca_order_id = s.broker_id, broker_status = s.broker_status, status = s.new_status,
                   filled_qty = s.filled, filled_avg_price = s.price, position_id = s.position_id,
                   updated_at = $18::timestamptz, epoch = $19::bigint,
                   filled_at = CASE WHEN s.new_status = 'filled' THEN coalesce(o.filled_at, $18) ELSE o.filled_at END,
                   closed_at = CASE WHEN s.new_status = 'filled' THEN coalesce(o.closed_at, $18) ELSE NULL END
              FROM expected s
             WHERE o.order_id = s.order_id AND o.status = s.old_status AND o.quantity = s.quantity AND o.filled_qty = 0
               AND o.position_id IS NULL AND o.broker_status IS NOT DISTINCT FROM s.old_broker_status
               AND o.alpaca_order_id IS NOT DISTINCT FROM s.old_broker_id
            RETURNING o.order_id, o.position_id
        ), linked_legs AS (
            UPDATE orders leg SET position_id = s.position_id, updated_at = $18, epoch = $19
              FROM expected s
             WHERE leg.parent_order_id = s.order_id AND leg.position_id IS DISTINCT FROM s.position_id
        ), journaled AS (
            INSERT INTO order_events (order_id, at, source, kind, from_status, to_status, note)
            SELECT order_id, $18, $17, 'fill', old_status, new_status, note FROM expected
        )
        SELECT require_unchanged((SELECT count(*) FROM updated), cardinality($1)), order_id, position_id
          FROM (SELECT) AS once LEFT JOIN updated ON true
        """,
        [entry.update.row.order_id for entry in opening_fills],
        [entry.update.row.status for entry in opening_fills],
        [entry.update.row.quantity for entry in opening_fills],
        [entry.update.row.broker_status for entry in opening_fills],
        [entry.update.row.alpaca_order_id for entry in opening_fills],
        [entry.update.report.broker_id for entry in opening_fills],
        [entry.update.report.broker_status for entry in opening_fills],
        [entry.update.new_status for entry in opening_fills],
        [entry.fill.quantity for entry in opening_fills],
        [entry.fill.price for entry in opening_fills],
        [entry.fill.at for entry in opening_fills],
        [entry.position_state.cost for entry in opening_fills],
        [entry.position_state.entry_price for entry in opening_fills],
        [entry.fill.execution_id for entry in opening_fills],
        [entry.fill.activity_id for entry in opening_fills],
        [fill_note(entry.fill.quantity, entry.fill.price, entry.fill.cum_qty) for entry in opening_fills],
        source,
        at,
        epoch,
    )
    return {row["order_id"]: row["position_id"] for row in found}


def fill_note(quantity: Decimal, price: Decimal, cum_qty: Decimal) -> str:
    """Return a fill as the text of a journal note."""
    return f"{quantity} @ {price}, {cum_qty} in all"
