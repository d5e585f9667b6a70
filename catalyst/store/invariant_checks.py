"""Invariant checks: the invariants that the database alone can answer, read in one snapshot.

Every violation found was committed. No closed history is scanned: the orders checked are those with journal
lines since a given line, the working ones, and those of open positions; the positions are the open ones and
those of these orders.
"""

from collections.abc import Iterator, Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from catalyst.domain.invariants import Invariant, Violation
from catalyst.store.pool import Connection

if TYPE_CHECKING:
    from asyncpg import Record

_CENT: Final = Decimal("0.01")

_ORDERS: Final = """
    SELECT order_id FROM order_events WHERE seq > $1 AND order_id IS NOT NULL
    UNION
    SELECT order_id FROM orders WHERE status IN ('created', 'submitted', 'accepted', 'partial_fill')
    UNION
    SELECT o.order_id FROM positions p JOIN orders o USING (position_id) WHERE p.status = 'open'
"""

_POSITIONS: Final = """
    SELECT p.position_id, s.symbol, p.side, p.status, p.quantity, p.entered_qty, p.cost, p.exited_qty, p.proceeds,
           p.realized_pnl, p.close_reason, coalesce(f.entered, 0) AS entered, coalesce(f.entry_cost, 0) AS entry_cost,
           coalesce(f.exited, 0) AS exited, coalesce(f.exit_proceeds, 0) AS exit_proceeds, f.entries > 0 AS has_entry,
           CASE WHEN p.status = 'open' THEN open_exit_quantity(p.position_id) ELSE 0 END AS working_exit_qty,
           -- Orders sent during a database outage may exit more than is booked as bought so far.
           EXISTS (SELECT 1 FROM orders o WHERE o.position_id = p.position_id AND o.origin = 'outage'
                      AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill'))
           AND EXISTS (SELECT 1 FROM orders o WHERE o.position_id = p.position_id AND o.order_purpose = 'entry'
                          AND o.filled_qty < o.quantity
                          AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill')) AS entry_fills_pending
      FROM positions p JOIN securities s USING (security_id)
      LEFT JOIN LATERAL (
           SELECT sum(e.quantity) FILTER (WHERE o.order_purpose = 'entry') AS entered,
                  sum(e.quantity * e.price) FILTER (WHERE o.order_purpose = 'entry') AS entry_cost,
                  sum(e.quantity) FILTER (WHERE o.order_purpose <> 'entry') AS exited,
                  sum(e.quantity * e.price) FILTER (WHERE o.order_purpose <> 'entry') AS exit_proceeds,
                  count(*) FILTER (WHERE o.order_purpose = 'entry' AND o.filled_qty > 0) AS entries
             FROM orders o JOIN executions e USING (order_id) WHERE o.position_id = p.position_id) f ON true
     WHERE NOT p.legacy
       AND p.position_id IN (SELECT position_id FROM positions WHERE status = 'open'
                             UNION SELECT position_id FROM orders WHERE order_id = ANY($1::bigint[]))
"""

# One row per order whose journal does not lead to its state, or leads there along no edge.
_HISTORIES: Final = """
    SELECT o.order_id, o.status, j.seq, j.from_status, j.to_status, j.before, j.edge
      FROM orders o
      LEFT JOIN LATERAL (
           SELECT e.seq, e.from_status, e.to_status,
                  lag(e.to_status) OVER (ORDER BY e.seq) AS before,
                  row_number() OVER (ORDER BY e.seq DESC) = 1 AS last,
                  e.from_status IS NULL OR x.is_fill OR EXISTS (
                      SELECT 1 FROM order_edges g
                       WHERE g.from_status = e.from_status AND g.to_status = e.to_status
                         AND (g.kind <> 'correction' OR e.kind = 'correction')) AS edge
             FROM order_events e
             -- A fill is booked in every status, along no edge.
             CROSS JOIN LATERAL (SELECT e.kind IN ('fill', 'late') AND e.to_status IN ('partial_fill', 'filled')
                                        AS is_fill) x
            WHERE e.order_id = o.order_id AND e.to_status IS NOT NULL
              AND e.kind IN ('transition', 'fill', 'late', 'correction')) j ON true
     WHERE o.order_id = ANY($1::bigint[]) AND o.origin <> 'legacy'
       AND (j.seq IS NULL OR NOT j.edge OR j.before IS DISTINCT FROM j.from_status
            OR (j.last AND j.to_status <> o.status))
     ORDER BY o.order_id, j.seq
"""

_FILLS: Final = """
    SELECT o.order_id, o.filled_qty, coalesce(sum(e.quantity), 0) AS booked, o.quantity
      FROM orders o LEFT JOIN executions e USING (order_id)
     WHERE o.order_id = ANY($1::bigint[]) AND o.origin <> 'legacy'
     GROUP BY o.order_id HAVING coalesce(sum(e.quantity), 0) <> o.filled_qty OR o.filled_qty > o.quantity
"""

_REPEATED_SIGNALS: Final = """
    SELECT signal_id, count(*) AS n FROM orders
     WHERE order_id = ANY($1::bigint[]) AND order_purpose = 'entry' AND filled_qty > 0 AND signal_id IS NOT NULL
     GROUP BY signal_id HAVING count(*) > 1
"""

# An entry whose row was written when the gate closed is refused before its request: it never reached the broker.
_ENTRIES_AFTER_LATCH: Final = """
    SELECT l.name, l.set_at, o.order_id, o.submitted_at
      FROM latches l JOIN orders o ON o.submitted_at > l.set_at
     WHERE l.cleared_at IS NULL AND l.name IN ('flatten', 'emergency_stop')
       AND o.order_id = ANY($1::bigint[]) AND o.order_purpose = 'entry' AND o.origin = 'catalyst'
       AND NOT (o.status = 'rejected' AND o.alpaca_order_id IS NULL)
"""

_FUTURE_EPOCHS: Final = """
    SELECT o.order_id, o.epoch, d.epoch AS current FROM orders o, daemon d
     WHERE o.order_id = ANY($1::bigint[]) AND o.epoch > d.epoch
"""

_ENTRIES_OUTSIDE_SESSION: Final = """
    SELECT o.order_id, o.submitted_at, t.open, t.close
      FROM orders o LEFT JOIN trading_days t ON t.date = (o.submitted_at AT TIME ZONE 'America/New_York')::date
     WHERE o.order_id = ANY($1::bigint[]) AND o.order_purpose = 'entry' AND o.origin = 'catalyst'
       AND o.submitted_at IS NOT NULL AND (t.open IS NULL OR o.submitted_at < t.open OR o.submitted_at >= t.close)
"""


async def violations(conn: Connection, *, since_seq: int) -> list[Violation]:
    """Return every violated invariant, of what is open or has journal lines after `since_seq`."""
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        touched = [record["order_id"] for record in await conn.fetch(_ORDERS, since_seq)]
        found = [
            each for record in await conn.fetch(_POSITIONS, touched) for each in _position_violations(record)
        ]
        found += list(_journal_violations(await conn.fetch(_HISTORIES, touched)))
        for record in await conn.fetch(_FILLS, touched):
            what = (
                f"order {record['order_id']} has filled {_format_qty(record['filled_qty'])}"
                f" of {_format_qty(record['quantity'])}, its"
            )
            found.append(
                _order_violation(Invariant.I7, record, f"{what} fills sum to {_format_qty(record['booked'])}")
            )
        for record in await conn.fetch(_REPEATED_SIGNALS, touched):
            what = f"signal {record['signal_id']} filled {record['n']} entries"
            found.append(
                Violation(Invariant.I11, str(record["signal_id"]), what, {"signal_id": record["signal_id"]})
            )
        for record in await conn.fetch(_ENTRIES_AFTER_LATCH, touched):
            invariant = Invariant.I12 if record["name"] == "flatten" else Invariant.I13
            what = f"order {record['order_id']} was entered after {record['name']} was latched"
            found.append(_order_violation(invariant, record, what))
        for record in await conn.fetch(_FUTURE_EPOCHS, touched):
            what = f"order {record['order_id']} was written by epoch {record['epoch']}, the current one is"
            found.append(_order_violation(Invariant.I14, record, f"{what} {record['current']}"))
        for record in await conn.fetch(_ENTRIES_OUTSIDE_SESSION, touched):
            what = f"was entered at {record['submitted_at'].isoformat()}, outside the session"
            found.append(_order_violation(Invariant.I18, record, f"order {record['order_id']} {what}"))
    return found


def _position_violations(record: "Record") -> Iterator[Violation]:
    """Compare the columns of one position with its fills."""
    symbol = record["symbol"]

    def breaks(invariant: Invariant, what: str) -> Violation:
        position_id = record["position_id"]
        return Violation(
            invariant,
            f"position {position_id}",
            f"{symbol} (position {position_id}) {what}",
            {"position_id": position_id, "symbol": symbol},
        )

    if not record["has_entry"]:
        yield breaks(Invariant.I2, "has no filled entry")
        return
    held, entered, exited = record["quantity"], record["entered"], record["exited"]
    is_open = record["status"] == "open"
    written_off = str(record["close_reason"] or "").startswith("RECONCILED_PHANTOM")
    oversold = exited > record["exited_qty"]  # booked on its order; reconciliation buys it back
    if (
        record["entered_qty"] != entered
        or (is_open and (held != entered - exited or record["exited_qty"] != exited))
        or (
            not is_open
            and (exited < record["exited_qty"] or (record["exited_qty"] != entered and not written_off))
        )
    ):
        yield breaks(
            Invariant.I3,
            f"holds {_format_qty(held)} ({_format_qty(record['entered_qty'])} in,"
            f" {_format_qty(record['exited_qty'])} out), its fills sum to {_format_qty(entered)} in,"
            f" {_format_qty(exited)} out",
        )
    if record["working_exit_qty"] > held and not record["entry_fills_pending"]:
        yield breaks(
            Invariant.I5,
            f"holds {_format_qty(held)} shares, its working exits are for {_format_qty(record['working_exit_qty'])}",
        )
    if record["cost"] != record["entry_cost"] or (
        not oversold and record["proceeds"] != record["exit_proceeds"]
    ):
        yield breaks(
            Invariant.I9,
            f"cost {record['cost']} and proceeds {record['proceeds']}, its fills sum to {record['entry_cost']}"
            f" and {record['exit_proceeds']}",
        )
    elif entered > 0 and record["realized_pnl"] != (gain := _gain(record)):
        yield breaks(Invariant.I9, f"realised {record['realized_pnl']}, its fills give {gain}")


def _gain(record: "Record") -> Decimal:
    """Return the realised result by exact fractions, rounded once."""
    entered, exited = Fraction(record["entered_qty"]), Fraction(record["exited_qty"])
    if not exited:
        return Decimal(0)
    gain = Fraction(record["proceeds"]) - Fraction(record["cost"]) * exited / entered
    signed = gain if record["side"] == "long" else -gain
    cents = round(signed * 100)  # half to even, as everywhere
    return (Decimal(cents) / 100).quantize(_CENT, ROUND_HALF_EVEN)


def _journal_violations(records: "Sequence[Record]") -> Iterator[Violation]:
    """Check that an order's journal leads along edges from its first line to the state of the row."""
    reported_orders: set[int] = set()
    for record in records:
        order_id = record["order_id"]
        if order_id in reported_orders:
            continue
        reported_orders.add(order_id)
        if record["seq"] is None:
            yield _order_violation(
                Invariant.I26, record, f"order {order_id} is {record['status']}, its journal is empty"
            )
        elif record["before"] != record["from_status"]:
            what = (
                f"journal line {record['seq']} starts at {record['from_status']}, "
                f"the line before ends at {record['before']}"
            )
            yield _order_violation(Invariant.I26, record, f"order {order_id}: {what}")
        elif not record["edge"]:
            what = f"went from {record['from_status']} to {record['to_status']}, which is not an allowed transition"
            yield _order_violation(Invariant.I6, record, f"order {order_id} {what}")
        else:
            what = f"is {record['status']}, its journal ends at {record['to_status']}"
            yield _order_violation(Invariant.I26, record, f"order {order_id} {what}")


def _order_violation(invariant: Invariant, record: "Record", what: str) -> Violation:
    order_id = record["order_id"]
    return Violation(invariant, f"order {order_id}", what, {"order_id": order_id})


def _format_qty(shares: Decimal) -> str:
    return f"{shares.normalize():f}"
