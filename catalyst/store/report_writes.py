"""Report writes: write a decision about broker reports; the only statements that book fills and move reported states.

The statements below name each order's row as the decision read it. When one differs, StaleRow is raised and
nothing is written. So the rows may have been read earlier, without a lock. A decision that is one statement is a
transaction by itself; any other decision is written in the transaction that locked its rows.
"""

from collections.abc import Iterable, Sequence, Sized
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

import orjson

from catalyst.domain.position import PositionStatus
from catalyst.domain.report import Fill
from catalyst.domain.report_changes import (
    FillBooking,
    LinkedOrders,
    NewLeg,
    OpenedPosition,
    OrderChange,
    QuarantineEntry,
    ReportDecision,
)
from catalyst.store import alerts, exit_intents, orders, orphans, positions, quarantine

if TYPE_CHECKING:
    from catalyst.store.orders import Conn

UNBOOKED_ALERT_WINDOW: Final = timedelta(
    days=14
)  # one alert for each order with a fill that cannot be booked
# The columns of an order that a report changes; the rows are those of the CTE `expected`.
_UPDATE_ORDERS: Final = """
            UPDATE orders o
               SET alpaca_order_id = s.broker_id, broker_status = s.broker_status, status = s.new_status,
                   quantity = s.new_quantity, filled_qty = s.new_filled, filled_avg_price = s.avg_price,
                   rejection_reason = s.rejection, broker_submitted_at = s.submitted_at,
                   broker_filled_at = s.filled_at, broker_canceled_at = s.canceled_at,
                   broker_expired_at = s.expired_at,
                   -- The first report at a start: `set_broker_times` decides.
                   acknowledged_at = CASE WHEN o.epoch = $3 THEN coalesce(o.acknowledged_at, s.acknowledged_at)
                                          ELSE o.acknowledged_at END,
                   position_id = coalesce(s.position_id, o.position_id),
                   updated_at = $1::timestamptz, epoch = $3::bigint
              FROM expected s
             WHERE o.order_id = s.order_id AND o.status = s.old_status AND o.filled_qty = s.old_filled
               AND o.quantity = s.old_quantity AND o.broker_status IS NOT DISTINCT FROM s.old_broker_status
               AND o.alpaca_order_id IS NOT DISTINCT FROM s.old_broker_id"""
# The columns of the rows of a call: an order as it was read and as it is to be, the fill that opens its position, and a
# leg.
_ORDER_COLUMNS: Final = """order_id bigint, old_status text, old_filled numeric, old_quantity numeric,
    old_broker_status text, old_broker_id text, old_position_id bigint, broker_id text, broker_status text,
    new_status text, new_quantity numeric, new_filled numeric, avg_price numeric, rejection text,
    submitted_at timestamptz, filled_at timestamptz, canceled_at timestamptz, expired_at timestamptz,
    acknowledged_at timestamptz"""
_FILL_COLUMNS: Final = """fill_cum_qty numeric, fill_quantity numeric, fill_price numeric, fill_at timestamptz,
    execution_id text, activity_id text"""
_LEG_COLUMNS: Final = """parent bigint, client_id text, purpose text, side text, quantity numeric, type text,
    force text, class text, limit_price numeric, stop_price numeric, broker_id text, broker_status text, status text,
    replaces bigint, submitted_at timestamptz, filled_at timestamptz, canceled_at timestamptz, expired_at timestamptz,
    rejection text, origin text"""
_MAX_PARAMETER_ROWS: Final = 2  # rows that are parameters each; more are JSON documents
_JOURNAL_LINES: Final = """unnest($4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[]) WITH ORDINALITY AS j (
                       order_id, kind, from_status, to_status, note, n)"""
_FIRST_ROW_PARAMETER: Final = 9


def _names(columns: str) -> tuple[str, ...]:
    return tuple(column.split()[0] for column in columns.split(","))


def _are_parameters(count: int) -> bool:
    return 0 < count <= _MAX_PARAMETER_ROWS


def _rows(columns: str, first: int, count: int) -> tuple[str, int]:
    """Return the source of `count` rows, numbered in `n`, whose parameters begin at `first`; and the next parameter.

    A parameter for each value is the fastest way for the one or two rows of most reports. A JSON document for each row
    is the fastest way for many, and the statement takes any number of them.
    """
    if not _are_parameters(count):
        documents = f"unnest(${first}::json[]) WITH ORDINALITY AS documents (document, n)"
        names = ", ".join(_names(columns))
        row = f"json_to_record(document) AS r ({columns})"
        source = f"(SELECT n, {names} FROM {documents}, {row} LIMIT cardinality(${first}))"  # noqa: S608 -- literals
        return source, first + 1
    types = [column.split() for column in columns.split(",")]
    rows = []
    for n in range(count):
        values = (f"${first + i}::{kind} AS {name}" for i, (name, kind) in enumerate(types))
        rows.append(f"SELECT {n} AS n, {', '.join(values)}")
        first += len(types)
    return f"({' UNION ALL '.join(rows)})", first


_NEW_LEGS: Final = """, new_legs AS (
            INSERT INTO orders (client_order_id, security_id, order_purpose, position_side, side, quantity,
                                order_type, time_in_force, order_class, origin, cycle_id, position_id,
                                parent_order_id, replaces, limit_price, stop_price, alpaca_order_id, broker_status,
                                epoch, status, created_at, updated_at, submitted_at, attempts, last_attempt_at,
                                broker_submitted_at, broker_filled_at, broker_canceled_at, broker_expired_at,
                                rejection_reason)
            SELECT l.client_id, p.security_id, l.purpose, p.position_side, l.side, l.quantity, l.type, l.force,
                   l.class, l.origin, p.cycle_id, p.position_id, l.parent, l.replaces, l.limit_price, l.stop_price,
                   l.broker_id, l.broker_status, $3, l.status, $1, $1, $1, 1, $1, l.submitted_at, l.filled_at,
                   l.canceled_at, l.expired_at, l.rejection
              FROM {legs} AS l JOIN orders p ON p.order_id = l.parent
             ORDER BY l.n
            RETURNING order_id, parent_order_id, status, broker_status, alpaca_order_id
        )"""
_JOURNAL_OF_LEGS: Final = """
                    UNION ALL
                    SELECT order_id, 'transition', NULL, status,
                           'leg of order ' || parent_order_id || coalesce(': ' || broker_status, ''), 0
                      FROM new_legs"""


def write_orders_sql(orders: int, legs: int) -> str:
    """Return the statement that changes so many orders and inserts so many legs.

    Parameters: time, source, epoch, the columns of the journal's lines, the rows of the orders, the rows of the legs.
    Without legs it is a quarter cheaper for the server.
    """
    order_rows, next_parameter = _rows(_ORDER_COLUMNS, _FIRST_ROW_PARAMETER, orders)
    new_legs = journal_of_legs = new_ids = ""
    if legs:
        new_legs = _NEW_LEGS.format(legs=_rows(_LEG_COLUMNS, next_parameter, legs)[0])
        journal_of_legs = _JOURNAL_OF_LEGS
        new_ids = ", order_id, alpaca_order_id FROM (SELECT) AS once LEFT JOIN new_legs ON true"
    return f"""
        WITH expected AS (
            SELECT e.*, NULL::bigint AS position_id FROM {order_rows} AS e
        ), updated AS ({_UPDATE_ORDERS}
            RETURNING o.order_id
        ){new_legs}, journaled AS (
            INSERT INTO order_events (order_id, at, source, kind, from_status, to_status, note)
            SELECT order_id, $1, $2::text, kind, from_status, to_status, note
              FROM (SELECT * FROM {_JOURNAL_LINES}
                    {journal_of_legs}) AS line
             ORDER BY order_id, n
        )
        SELECT require_unchanged((SELECT count(*) FROM updated), (SELECT count(*) FROM expected)){new_ids}
"""  # noqa: S608 -- literals alone


def open_positions_sql(entries: int) -> str:
    """Return the statement that writes so many entries, each with its first fill, which opens its position.

    Later fills are written like those of any position. Parameters as above, without legs.
    """
    rows, _ = _rows(f"{_ORDER_COLUMNS}, {_FILL_COLUMNS}", _FIRST_ROW_PARAMETER, entries)
    return f"""
        WITH expected AS (
            SELECT nextval('positions_position_id_seq') AS position_id, e.* FROM {rows} AS e
        ), opened AS (
            INSERT INTO positions (position_id, cycle_id, security_id, side, quantity, entered_qty, cost, exited_qty,
                                   proceeds, entry_price, stop_loss, take_profit, entry_time, status, realized_pnl,
                                   unrealized_pnl, last_price, high_since_entry, low_since_entry, updated_at)
            OVERRIDING SYSTEM VALUE
            SELECT s.position_id, o.cycle_id, o.security_id, o.position_side, s.fill_quantity, s.fill_quantity,
                   s.fill_quantity * s.fill_price, 0, 0, s.fill_price, o.bracket_stop, o.bracket_target, s.fill_at,
                   'open', 0, 0, s.fill_price, s.fill_price, s.fill_price, s.fill_at
              FROM expected s JOIN orders o USING (order_id)
        ), booked AS (
            INSERT INTO executions (order_id, cum_qty, quantity, price, at, source, execution_id, activity_id)
            SELECT order_id, fill_cum_qty, fill_quantity, fill_price, fill_at, $2::text, execution_id, activity_id
              FROM expected
        ), updated AS ({_UPDATE_ORDERS}
               AND o.position_id IS NOT DISTINCT FROM s.old_position_id
            RETURNING o.order_id, o.position_id
        ), linked_legs AS (
            UPDATE orders leg SET position_id = s.position_id, updated_at = $1, epoch = $3
              FROM expected s
             WHERE leg.parent_order_id = s.order_id AND leg.position_id IS DISTINCT FROM s.position_id
        ), journaled AS (
            INSERT INTO order_events (order_id, at, source, kind, from_status, to_status, note)
            SELECT order_id, $1, $2, kind, from_status, to_status, note
              FROM {_JOURNAL_LINES}
             ORDER BY order_id, n
        )
        SELECT require_unchanged((SELECT count(*) FROM updated), (SELECT count(*) FROM expected)), order_id, position_id
          FROM (SELECT) AS once LEFT JOIN updated ON true
"""  # noqa: S608 -- literals alone


_ORDER_NAMES: Final = _names(_ORDER_COLUMNS)
_OPENING_NAMES: Final = _names(f"{_ORDER_COLUMNS}, {_FILL_COLUMNS}")
_LEG_NAMES: Final = _names(_LEG_COLUMNS)
_SIZES: Final = range(_MAX_PARAMETER_ROWS + 2)  # the last stands for every larger number
WRITE_ORDERS: Final = {(orders, legs): write_orders_sql(orders, legs) for orders in _SIZES for legs in _SIZES}
OPEN_POSITIONS: Final = {entries: open_positions_sql(entries) for entries in _SIZES}


def _size(rows: Sized) -> int:
    return min(len(rows), _SIZES[-1])


@dataclass(slots=True)
class WrittenIds:
    """Ids of the new rows: of positions by their entry's order id, of legs by their broker id."""

    positions: dict[int, int] = field(default_factory=dict)
    legs: dict[str, int] = field(default_factory=dict)
    quarantined: tuple[QuarantineEntry, ...] = ()  # those that were not stored before


async def write(
    conn: "Conn", decision: ReportDecision, *, at: datetime, source: str, epoch: int
) -> WrittenIds:
    """Write everything that a decision changes; return the ids of the new rows.

    Raises StaleRow when an order's row has changed, and DuplicateRow when a fill, a leg or an open position of the
    symbol has a row already.
    """
    written = WrittenIds()
    opening_ids = {opened.entry.before.order_id for opened in decision.opened}
    changes = [change for change in decision.order_changes if change.before.order_id not in opening_ids]
    if decision.is_one_statement and not decision.opened:
        written.legs = await _write_orders(
            conn, changes, decision.new_legs, at=at, source=source, epoch=epoch
        )
        return written
    # Orders before positions, because opening one changes its legs; new legs last, because they take over the
    # position to which their parent is linked.
    if changes:
        await _write_orders(conn, changes, (), at=at, source=source, epoch=epoch)
    if decision.opened:
        written.positions = await _open_positions(conn, decision.opened, at=at, source=source, epoch=epoch)
    if decision.is_one_statement:
        return written
    for opened in decision.opened:
        if opened.state.quantity != opened.fill.quantity:  # it has later fills, too
            await positions.update(conn, written.positions[opened.entry.before.order_id], opened.state, at=at)
    opening_fills = {id(opened.fill) for opened in decision.opened}
    later_fills = [booked for booked in decision.booked if id(booked.fill) not in opening_fills]
    await _write_fills(conn, later_fills, decision, source=source)
    await _write_position(conn, decision, written, at=at, epoch=epoch)
    if decision.new_legs:
        written.legs = await _write_orders(conn, (), decision.new_legs, at=at, source=source, epoch=epoch)
    written.quarantined = await _write_effects(conn, decision, at=at, source=source)
    return written


async def _write_orders(
    conn: "Conn",
    changes: Sequence[OrderChange],
    new_legs: Sequence[NewLeg],
    *,
    at: datetime,
    source: str,
    epoch: int,
) -> dict[str, int]:
    """Change every order, insert the row of every leg, and journal each step; return the legs' order ids."""
    found = await conn.fetch(
        WRITE_ORDERS[_size(changes), _size(new_legs)],
        at,
        source,
        epoch,
        *_journal_lines(changes),
        *_row_arguments([_order_row(change) for change in changes], _ORDER_NAMES),
        *(_row_arguments([_leg_row(leg) for leg in new_legs], _LEG_NAMES) if new_legs else ()),
    )
    if not new_legs:
        return {}
    return {row["alpaca_order_id"]: row["order_id"] for row in found if row["order_id"] is not None}


async def _open_positions(
    conn: "Conn",
    opened: Sequence[OpenedPosition],
    *,
    at: datetime,
    source: str,
    epoch: int,
) -> dict[int, int]:
    """Book the first fill of each entry, open its position and link its legs; return the positions' ids by entry."""
    found = await conn.fetch(
        OPEN_POSITIONS[_size(opened)],
        at,
        source,
        epoch,
        *_journal_lines([each.entry for each in opened]),
        *_row_arguments(
            [_order_row(each.entry) | _fill_columns(each.fill) for each in opened], _OPENING_NAMES
        ),
    )
    return {row["order_id"]: row["position_id"] for row in found}


def _order_row(change: OrderChange) -> dict[str, object]:
    before, after = change.before, change.after
    return {
        "order_id": before.order_id,
        "old_status": before.status,
        "old_filled": before.filled_qty,
        "old_quantity": before.quantity,
        "old_broker_status": before.broker_status,
        "old_broker_id": before.alpaca_order_id,
        "old_position_id": before.position_id,
        "broker_id": after.alpaca_order_id,
        "broker_status": after.broker_status,
        "new_status": after.status,
        "new_quantity": after.quantity,
        "new_filled": after.filled_qty,
        "avg_price": after.filled_avg_price,
        "rejection": after.rejection_reason,
        "submitted_at": after.broker_submitted_at,
        "filled_at": after.broker_filled_at,
        "canceled_at": after.broker_canceled_at,
        "expired_at": after.broker_expired_at,
        "acknowledged_at": after.acknowledged_at,
    }


def _fill_columns(fill: Fill) -> dict[str, object]:
    return {
        "fill_cum_qty": fill.cum_qty,
        "fill_quantity": fill.quantity,
        "fill_price": fill.price,
        "fill_at": fill.at,
        "execution_id": fill.execution_id,
        "activity_id": fill.activity_id,
    }


def _leg_row(leg: NewLeg) -> dict[str, object]:
    row, report = leg.order, leg.report
    return {
        "parent": row.parent_order_id,
        "client_id": row.client_order_id,
        "purpose": row.purpose,
        "side": row.side,
        "quantity": row.quantity,
        "type": row.order_type,
        "force": row.time_in_force,
        "class": row.order_class,
        "limit_price": row.limit_price,
        "stop_price": row.stop_price,
        "broker_id": row.alpaca_order_id,
        "broker_status": row.broker_status,
        "status": leg.status,
        "replaces": row.replaces,
        "submitted_at": report.submitted_at,
        "filled_at": report.filled_at,
        "canceled_at": report.canceled_at,
        "expired_at": report.expired_at,
        "rejection": leg.rejection_reason,
        "origin": row.origin,
    }


def _journal_lines(changes: Iterable[OrderChange]) -> tuple[list[object], ...]:
    """Return the columns of the journal's lines."""
    lines = [(change.before.order_id, line) for change in changes for line in change.journal]
    return (
        [order_id for order_id, _ in lines],
        [line.kind for _, line in lines],
        [line.from_status for _, line in lines],
        [line.to_status for _, line in lines],
        [line.note for _, line in lines],
    )


def _row_arguments(rows: Sequence[dict[str, object]], names: Sequence[str]) -> list[object]:
    """Return the arguments of `_rows`; `names` are those of its columns, in their order."""
    if not _are_parameters(len(rows)):
        return [_documents(rows)]
    return [row[name] for row in rows for name in names]


def _documents(rows: Iterable[dict[str, object]]) -> list[str]:
    """Return each row as a JSON document; a Decimal is a string in it, so that no digit is lost."""
    return [orjson.dumps(row, default=str).decode() for row in rows]


async def _write_fills(
    conn: "Conn", fills: Sequence[FillBooking], decision: ReportDecision, *, source: str
) -> None:
    """Insert executions, and add the ids that booked ones did not have."""
    if fills:
        await conn.execute(
            """
            INSERT INTO executions (order_id, cum_qty, quantity, price, at, execution_id, activity_id, source)
            SELECT x.*, $8 FROM unnest($1::bigint[], $2::numeric[], $3::numeric[], $4::numeric[], $5::timestamptz[],
                                       $6::text[], $7::text[]) AS x
            """,
            [booked.order.order_id for booked in fills],
            [booked.fill.cum_qty for booked in fills],
            [booked.fill.quantity for booked in fills],
            [booked.fill.price for booked in fills],
            [booked.fill.at for booked in fills],
            [booked.fill.execution_id for booked in fills],
            [booked.fill.activity_id for booked in fills],
            source,
        )
    for order_id, fill in decision.known_fills:
        await conn.execute(
            """
            UPDATE executions SET execution_id = coalesce(execution_id, $3), activity_id = coalesce(activity_id, $4)
             WHERE order_id = $1 AND cum_qty = $2
            """,
            order_id,
            fill.cum_qty,
            fill.execution_id,
            fill.activity_id,
        )


async def _write_position(
    conn: "Conn", decision: ReportDecision, written: WrittenIds, *, at: datetime, epoch: int
) -> None:
    """Write the changed position, then link orders to it, then end its exit intent when it is closed."""
    change = decision.position
    if change is not None:
        await positions.update(
            conn, change.position_id, change.state, at=change.at, close_reason=change.close_reason
        )
    for link in decision.links:
        position_id = link.position_id
        if position_id is None:
            (position_id,) = written.positions.values()
        await _link(conn, link, position_id, at=at, epoch=epoch)
    if change is not None and change.state.status is PositionStatus.CLOSED:
        await exit_intents.end_intent(conn, change.position_id, state="done", at=at, epoch=epoch)


async def _write_effects(
    conn: "Conn", decision: ReportDecision, *, at: datetime, source: str
) -> tuple[QuarantineEntry, ...]:
    """Write orphan shares, quarantine and alerts; return what is new in quarantine."""
    for surplus in decision.oversold:
        await orphans.record(
            conn,
            surplus.symbol,
            surplus.side,
            surplus.quantity,
            at=at,
            cycle_id=surplus.cycle_id,
            position_id=surplus.position_id,
            cost=surplus.cost,
        )
    for taken in decision.orphan_fills[-1:]:  # the orphan after all fills
        await orphans.update(conn, taken.after, at=taken.fill.at)
    new_items = [item for item in decision.quarantined if await _quarantine(conn, item, at=at, source=source)]
    for alert, window in (
        *((alert, alerts.DEDUPE_WINDOW) for alert in decision.alerts),
        *(
            (item.alert, UNBOOKED_ALERT_WINDOW if item.is_fill else alerts.DEDUPE_WINDOW)
            for item in new_items
        ),
    ):
        await alerts.raise_alert(
            conn,
            alert.event,
            f"{alert.order.symbol}: {alert.message}",
            subject=alert.order.order_id,
            facts={
                "order_id": alert.order.order_id,
                "symbol": alert.order.symbol,
                "purpose": alert.order.order_purpose,
            },
            at=at,
            window=window,
        )
    return tuple(new_items)


async def _link(conn: "Conn", link: LinkedOrders, position_id: int, *, at: datetime, epoch: int) -> None:
    """Link the orders to the position; an exit sent during a database outage gets its exit intent."""
    await orders.link(conn, link.order_ids, position_id, at, epoch=epoch)
    if link.exit_order is not None:
        await exit_intents.create_intent(
            conn,
            position_id,
            reason=link.exit_reason,
            purpose=link.exit_order.order_purpose,
            requested_by="outage",
            at=link.exit_order.created_at,
        )


async def _quarantine(conn: "Conn", item: QuarantineEntry, *, at: datetime, source: str) -> bool:
    """Store an input that cannot be applied in journal and quarantine; false for a fill that was stored before."""
    order_id = item.alert.order.order_id
    if item.is_fill and await quarantine.has_unbooked_fill(conn, order_id, item.reason):
        return False
    await orders.journal(
        conn, order_id, at=at, source=source, kind=item.kind, note=item.note, payload=item.payload
    )
    # A fill has its order in quarantine: the proof and the state of the symbol read it there.
    await quarantine.put(
        conn,
        source=source,
        reason=item.reason,
        payload=item.payload,
        at=at,
        order_id=order_id if item.is_fill else None,
    )
    return True
