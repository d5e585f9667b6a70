"""Orders, their fills and their journal in the database.

Each function takes the caller's connection and transaction. A state never changes without its journal line.
Only the order ledger (`daemon/orders/ledger.py`), submission and the spool import call the functions that
write.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import TYPE_CHECKING, Final

from catalyst.domain.errors import StaleOrder
from catalyst.domain.ids import PREFIX
from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.domain.rows import NewOrder, OrderRow
from catalyst.domain.unprotected_time import OrderFill

if TYPE_CHECKING:
    from decimal import Decimal

    from asyncpg import Connection, Record
    from asyncpg.pool import PoolConnectionProxy

    Conn = Connection[Record] | PoolConnectionProxy[Record]


_FIELDS: Final = tuple(column.name for column in fields(OrderRow))

# One literal statement per query; the column list stands once because the row type is one.
SELECT: Final = """
    SELECT o.order_id, o.client_order_id, o.alpaca_order_id, o.cycle_id, o.security_id, s.symbol,
           o.position_id, o.parent_order_id, o.replaces, o.order_purpose, o.position_side, o.side,
           o.order_class, o.order_type, o.time_in_force, o.quantity, o.limit_price, o.stop_price,
           o.bracket_stop, o.bracket_target, o.status, o.filled_qty, o.filled_avg_price, o.broker_status,
           o.epoch, o.origin, o.signal_id, o.attempts, o.last_attempt_at, o.created_at, o.submitted_at,
           o.expires_at, o.closed_at, o.rejection_reason, o.cancel_reason, o.broker_submitted_at,
           o.broker_filled_at, o.broker_canceled_at, o.broker_expired_at, o.pending_at, o.acknowledged_at,
           o.inactive_at
      FROM orders o JOIN securities s USING (security_id)
"""
_BY_ID: Final = SELECT + " WHERE o.order_id = $1"
_LOCK_BY_ID: Final = SELECT + " WHERE o.order_id = $1 FOR UPDATE OF o"
_BY_CLIENT_ID: Final = SELECT + " WHERE o.client_order_id = $1"
_WORKING: Final = (
    SELECT + " WHERE o.status IN ('created', 'submitted', 'accepted', 'partial_fill') ORDER BY o.order_id"
)
_OF_POSITION: Final = SELECT + " WHERE o.position_id = $1 ORDER BY o.order_id"
_OF_POSITIONS: Final = SELECT + " WHERE o.position_id = ANY($1::bigint[]) ORDER BY o.order_id"
_LEGS: Final = SELECT + " WHERE o.parent_order_id = $1 ORDER BY o.order_id"
_OF_SYMBOL_WORKING: Final = (
    SELECT
    + " WHERE s.symbol = $1 AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill')"
    + " ORDER BY o.order_id"
)
_BY_BROKER_IDS: Final = SELECT + " WHERE o.alpaca_order_id = ANY($1::text[])"
_OF_ORPHAN: Final = SELECT + (
    " WHERE s.symbol = $1 AND o.position_side = $2 AND o.created_at >= $3 AND o.origin = 'orphan'"
    " ORDER BY o.order_id"
)
_LEGS_OF: Final = SELECT + " WHERE o.parent_order_id = ANY($1::bigint[]) ORDER BY o.order_id"
_UNLINKED: Final = SELECT + (  # noqa: S608 -- literals alone
    " WHERE s.symbol = $1 AND o.position_side = $2 AND o.created_at >= $3 AND o.origin = 'outage'"
    " AND o.position_id IS NULL AND EXISTS (SELECT 1 FROM orders f"
    " WHERE (f.order_id = o.order_id OR f.parent_order_id = o.order_id)"
    " AND f.status IN ('created', 'submitted', 'accepted', 'partial_fill'))"
    " ORDER BY o.order_id"
)
_OF_CYCLE: Final = SELECT + " WHERE o.cycle_id = $1 ORDER BY o.order_id"
_BY_REPORT: Final = (
    SELECT + " WHERE o.alpaca_order_id = ANY($1::text[]) OR o.client_order_id = ANY($2::text[])"
)
_LOCK_BY_REPORTS: Final = _BY_REPORT + " ORDER BY o.order_id FOR UPDATE OF o"
_INSERT: Final = """
    WITH inserted AS (
        INSERT INTO orders (client_order_id, security_id, order_purpose, position_side, side, quantity,
                            order_type, time_in_force, order_class, origin, cycle_id, position_id,
                            parent_order_id, replaces, limit_price, stop_price, bracket_stop,
                            bracket_target, alpaca_order_id, broker_status, signal_id, expires_at, epoch,
                            status, created_at, updated_at, submitted_at, attempts, last_attempt_at)
        VALUES ($1, coalesce((SELECT security_id FROM securities WHERE symbol = upper($2)),
                             get_or_create_security($2)), $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15,
                $16, $17, $18, $19, $20, $21, $22, $23, $24::text, $25::timestamptz, $25,
                CASE WHEN $24 = 'created' THEN NULL ELSE $25 END,
                CASE WHEN $24 = 'created' THEN 0 ELSE 1 END,
                CASE WHEN $24 = 'created' THEN NULL ELSE $25 END)
        RETURNING *
    ), journaled AS (
        INSERT INTO order_events (order_id, at, source, kind, from_status, to_status, note)
        SELECT order_id, $25::timestamptz, $26, 'transition', step.from_status, step.to_status, $27
          FROM inserted CROSS JOIN LATERAL (
               VALUES (1, NULL, CASE WHEN origin IN ('catalyst', 'orphan') THEN 'created' ELSE status END),
                      (2, 'created', CASE WHEN origin IN ('catalyst', 'orphan') THEN nullif(status, 'created') END)
               ) AS step (n, from_status, to_status)
         WHERE step.to_status IS NOT NULL
         ORDER BY step.n
    )
    SELECT upper($2) AS symbol, * FROM inserted
"""


def row_of(record: "Record") -> OrderRow:
    """Return the typed row of a record that has at least the columns of the select above."""
    values = {name: record[name] for name in _FIELDS}
    values["order_purpose"] = Purpose(values["order_purpose"])
    values["position_side"] = PositionSide(values["position_side"])
    values["side"] = Side(values["side"])
    values["status"] = Status(values["status"])
    return OrderRow(**values)


async def get(conn: "Conn", order_id: int) -> OrderRow:
    """Return the order with that id. Raises KeyError when there is none."""
    record = await conn.fetchrow(_BY_ID, order_id)
    if record is None:
        raise KeyError(order_id)
    return row_of(record)


async def lock(conn: "Conn", order_id: int) -> OrderRow:
    """Return the order with that id, locked until the transaction ends."""
    record = await conn.fetchrow(_LOCK_BY_ID, order_id)
    if record is None:
        raise KeyError(order_id)
    return row_of(record)


async def by_client_id(conn: "Conn", client_order_id: str) -> OrderRow | None:
    """Return the order with our client order id; None when it has no row."""
    record = await conn.fetchrow(_BY_CLIENT_ID, client_order_id)
    return None if record is None else row_of(record)


async def by_report(
    conn: "Conn", broker_ids: Sequence[str], client_order_ids: Sequence[str]
) -> list[OrderRow]:
    """Return the rows of reports, by the broker's ids or by ours, those that exist."""
    found = await conn.fetch(_BY_REPORT, list(broker_ids), list(client_order_ids))
    return [row_of(record) for record in found]


async def lock_by_reports(
    conn: "Conn", broker_ids: Sequence[str], client_order_ids: Sequence[str]
) -> list[OrderRow]:
    """Return the rows of reports as `by_report` does, locked until the transaction ends."""
    found = await conn.fetch(_LOCK_BY_REPORTS, list(broker_ids), list(client_order_ids))
    return [row_of(record) for record in found]


async def working(conn: "Conn") -> list[OrderRow]:
    """Return every order that is not terminal, oldest first."""
    return [row_of(record) for record in await conn.fetch(_WORKING)]


async def working_of_symbol(conn: "Conn", symbol: str) -> list[OrderRow]:
    """Return the symbol's orders that are not terminal, oldest first."""
    return [row_of(record) for record in await conn.fetch(_OF_SYMBOL_WORKING, symbol)]


async def of_position(conn: "Conn", position_id: int) -> list[OrderRow]:
    """Return every order of a position, oldest first."""
    return [row_of(record) for record in await conn.fetch(_OF_POSITION, position_id)]


async def of_positions(conn: "Conn", position_ids: Sequence[int]) -> dict[int, list[OrderRow]]:
    """Return every order of these positions, oldest first, in one query."""
    found: dict[int, list[OrderRow]] = {position_id: [] for position_id in position_ids}
    for record in await conn.fetch(_OF_POSITIONS, list(position_ids)):
        found[record["position_id"]].append(row_of(record))
    return found


async def legs_of(conn: "Conn", order_id: int) -> list[OrderRow]:
    """Return the bracket or OCO legs of an order."""
    return [row_of(record) for record in await conn.fetch(_LEGS, order_id)]


async def of_cycle(conn: "Conn", cycle_id: str) -> list[OrderRow]:
    """Return every order of a cycle, oldest first."""
    return [row_of(record) for record in await conn.fetch(_OF_CYCLE, cycle_id)]


async def of_orphan(conn: "Conn", symbol: str, side: PositionSide, *, since: datetime) -> list[OrderRow]:
    """Return the orders sent since then to protect or exit orphan shares of this symbol and side."""
    tops = [row_of(record) for record in await conn.fetch(_OF_ORPHAN, symbol, side, since)]
    legs = await conn.fetch(_LEGS_OF, [row.order_id for row in tops])
    return sorted([*tops, *map(row_of, legs)], key=lambda row: row.order_id)


async def has_catalyst_order(conn: "Conn", symbol: str, *, since: datetime) -> bool:
    """Return true when the symbol has a row with the id of a Catalyst, ours or another, written since then."""
    found: bool = await conn.fetchval(
        """
        SELECT EXISTS (SELECT 1 FROM orders o JOIN securities s USING (security_id)
                        WHERE s.symbol = $1 AND o.created_at >= $2 AND starts_with(o.client_order_id, $3))
        """,
        symbol,
        since,
        PREFIX,
    )
    return found


async def has_external_fill(conn: "Conn", *, since: datetime) -> bool:
    """Return true when an external order that belongs to no position has filled since then."""
    found: bool = await conn.fetchval(
        """
        SELECT EXISTS (SELECT 1 FROM executions e JOIN orders o USING (order_id)
                        WHERE e.at >= $1 AND o.origin = 'external' AND o.position_id IS NULL)
        """,
        since,
    )
    return found


async def by_broker_ids(conn: "Conn", broker_ids: Sequence[str]) -> list[OrderRow]:
    """Return the rows of these broker ids, those that exist."""
    return [row_of(record) for record in await conn.fetch(_BY_BROKER_IDS, list(broker_ids))]


async def booked_activity_ids(conn: "Conn", activity_ids: Sequence[str]) -> set[str]:
    """Return those of these activity ids that an execution has."""
    found = await conn.fetch(
        "SELECT activity_id FROM executions WHERE activity_id = ANY($1::text[])", list(activity_ids)
    )
    return {record["activity_id"] for record in found}


async def insert(conn: "Conn", new: NewOrder, *, status: Status, at: datetime, source: str, note: str) -> int:
    """Write an order as `insert_returning` does; return its id."""
    return (await insert_returning(conn, new, status=status, at=at, source=source, note=note)).order_id


async def insert_returning(
    conn: "Conn", new: NewOrder, *, status: Status, at: datetime, source: str, note: str
) -> OrderRow:
    """Write an order as created, or as created and submitted at once, with its journal; return its row.

    One statement. Raises asyncpg.UniqueViolationError when one of its ids or its signal has a row.
    """
    record = await conn.fetchrow(
        _INSERT,
        new.client_order_id,
        new.symbol,
        new.purpose,
        new.position_side,
        new.side,
        new.quantity,
        new.order_type,
        new.time_in_force,
        new.order_class,
        new.origin,
        new.cycle_id,
        new.position_id,
        new.parent_order_id,
        new.replaces,
        new.limit_price,
        new.stop_price,
        new.bracket_stop,
        new.bracket_target,
        new.alpaca_order_id,
        new.broker_status,
        new.signal_id,
        new.expires_at,
        new.epoch,
        status,
        at,
        source,
        note,
    )
    assert record is not None  # the inserted row is returned
    return row_of(record)


async def transition(
    conn: "Conn",
    order_id: int,
    *,
    from_status: Status,
    to_status: Status,
    at: datetime,
    source: str,
    kind: str = "transition",
    note: str | None = None,
    payload: Mapping[str, object] | None = None,
    rejection_reason: str | None = None,
    cancel_reason: str | None = None,
    epoch: int,
) -> None:
    """Move one order from the state the caller read, and journal it.

    Raises StaleOrder when the row is no longer in `from_status`.
    """
    updated_id = await conn.fetchval(
        """
        WITH updated AS (
            UPDATE orders
               SET status = $3::text, updated_at = $4::timestamptz, epoch = $11,
                   submitted_at = CASE WHEN $3 = 'submitted' THEN coalesce(submitted_at, $4) ELSE submitted_at END,
                   attempts = attempts + CASE WHEN $3 = 'submitted' THEN 1 ELSE 0 END,
                   last_attempt_at = CASE WHEN $3 = 'submitted' THEN $4 ELSE last_attempt_at END,
                   rejection_reason = coalesce($9::text, rejection_reason),
                   cancel_reason = CASE WHEN $3 = 'cancelled' THEN coalesce(cancel_reason, $10::text)
                                        ELSE cancel_reason END
             WHERE order_id = $1 AND status = $2::text
            RETURNING order_id
        )
        INSERT INTO order_events (order_id, at, source, kind, from_status, to_status, payload, note)
        SELECT order_id, $4, $5, $6, $2::text, $3, $7, $8 FROM updated
        RETURNING order_id
        """,
        order_id,
        from_status,
        to_status,
        at,
        source,
        kind,
        payload,
        note,
        rejection_reason,
        cancel_reason,
        epoch,
    )
    if updated_id is None:
        raise StaleOrder(f"order {order_id} is no longer {from_status}")


async def count_attempt(conn: "Conn", order_id: int, at: datetime, *, epoch: int) -> OrderRow | None:
    """Count another attempt to send the order, before the request; return its row, locked.

    Return None, with nothing counted, when the order must not be sent: its outcome is certain, or it closes or
    protects shares that its position (or the orphan) does not hold any more.
    """
    if not (await lock(conn, order_id)).is_outcome_unknown:
        return None
    record = await conn.fetchrow(
        """
        UPDATE orders o SET attempts = attempts + 1, last_attempt_at = $2, updated_at = $2, epoch = $3
         WHERE order_id = $1
           AND (order_purpose = 'entry'
                OR quantity <= coalesce(
                   (SELECT p.quantity FROM positions p WHERE p.position_id = o.position_id),
                   (SELECT h.quantity FROM orphans h
                     WHERE o.position_id IS NULL AND h.security_id = o.security_id AND h.side = o.position_side
                       AND h.ended_at IS NULL),
                   0))
        RETURNING o.*, (SELECT s.symbol FROM securities s WHERE s.security_id = o.security_id) AS symbol
        """,
        order_id,
        at,
        epoch,
    )
    return None if record is None else row_of(record)


async def record_outage_attempt(conn: "Conn", order_id: int, at: datetime, *, epoch: int) -> None:
    """Count an attempt that was made during a database outage."""
    await conn.execute(
        """
        UPDATE orders SET attempts = attempts + 1, last_attempt_at = $2, updated_at = $2, epoch = $3
         WHERE order_id = $1
        """,
        order_id,
        at,
        epoch,
    )


async def set_unsent_quantity(
    conn: "Conn", order_id: int, quantity: "Decimal", at: datetime, *, epoch: int
) -> None:
    """Change the shares of an order that was never sent. Raises StaleOrder when it was."""
    updated_id = await conn.fetchval(
        """
        UPDATE orders SET quantity = $2, updated_at = $3, epoch = $4 WHERE order_id = $1 AND status = 'created'
        RETURNING order_id
        """,
        order_id,
        quantity,
        at,
        epoch,
    )
    if updated_id is None:
        raise StaleOrder(f"order {order_id} was sent already")


async def set_cancel_reason(conn: "Conn", order_id: int, reason: str, at: datetime, *, epoch: int) -> None:
    """Write the reason of a cancel before the request."""
    await conn.execute(
        """
        UPDATE orders SET cancel_reason = coalesce(cancel_reason, $2), updated_at = $3, epoch = $4
         WHERE order_id = $1
        """,
        order_id,
        reason,
        at,
        epoch,
    )


async def link(conn: "Conn", order_ids: Sequence[int], position_id: int, at: datetime, *, epoch: int) -> None:
    """Link an entry and its legs to the position that the first fill created."""
    await conn.execute(
        """
        UPDATE orders SET position_id = $2, updated_at = $3, epoch = $4 WHERE order_id = ANY($1::bigint[])
        """,
        list(order_ids),
        position_id,
        at,
        epoch,
    )


async def journal(
    conn: "Conn",
    order_id: int | None,
    *,
    at: datetime,
    source: str,
    kind: str,
    note: str | None = None,
    payload: Mapping[str, object] | None = None,
) -> None:
    """Add a journal line without a transition: stale, unknown, contradiction, note."""
    await conn.execute(
        "INSERT INTO order_events (order_id, at, source, kind, note, payload) VALUES ($1, $2, $3, $4, $5, $6)",
        order_id,
        at,
        source,
        kind,
        note,
        payload,
    )


async def symbols_with_unlinked_orders(conn: "Conn") -> set[str]:
    """Return symbols with a working outage order, or a leg of one, without a position."""
    found = await conn.fetch(
        "SELECT DISTINCT s.symbol FROM orders o JOIN securities s USING (security_id)"
        " LEFT JOIN orders top ON top.order_id = o.parent_order_id"
        " WHERE 'outage' IN (o.origin, top.origin) AND o.position_id IS NULL"
        " AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill')"
    )
    return {record["symbol"] for record in found}


async def unlinked(conn: "Conn", symbol: str, side: PositionSide, *, since: datetime) -> list[OrderRow]:
    """Return the symbol's outage orders since then that work, or have a working leg, and have no position;
    with their legs."""
    tops = [row_of(record) for record in await conn.fetch(_UNLINKED, symbol, side, since)]
    legs = await conn.fetch(_LEGS_OF, [row.order_id for row in tops])
    return [*tops, *map(row_of, legs)]


async def first_note(conn: "Conn", order_id: int) -> str:
    """Return the note of the order's first journal line."""
    note: str | None = await conn.fetchval(
        "SELECT note FROM order_events WHERE order_id = $1 ORDER BY seq LIMIT 1", order_id
    )
    return note or ""


async def fills_of(conn: "Conn", order_ids: Sequence[int]) -> list[OrderFill]:
    """Return every execution of these orders, in order of time."""
    found = await conn.fetch(
        "SELECT order_id, quantity, at FROM executions WHERE order_id = ANY($1::bigint[]) ORDER BY at, cum_qty",
        list(order_ids),
    )
    return [OrderFill(**record) for record in found]
