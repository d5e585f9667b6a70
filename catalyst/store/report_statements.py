"""Report statements: the SQL that books fills and moves reported states, and the arguments of its rows.

Each statement names the rows of its orders as the decision read them; `report_writes` says what that is for.
"""

from collections.abc import Iterable, Sequence, Sized
from typing import Final

import orjson

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


def _write_orders_sql(orders: int, legs: int) -> str:
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


def _open_positions_sql(entries: int) -> str:
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


ORDER_NAMES: Final = _names(_ORDER_COLUMNS)
OPENING_NAMES: Final = _names(f"{_ORDER_COLUMNS}, {_FILL_COLUMNS}")
LEG_NAMES: Final = _names(_LEG_COLUMNS)
_SIZES: Final = range(_MAX_PARAMETER_ROWS + 2)  # the last stands for every larger number
WRITE_ORDERS: Final = {
    (orders, legs): _write_orders_sql(orders, legs) for orders in _SIZES for legs in _SIZES
}
OPEN_POSITIONS: Final = {entries: _open_positions_sql(entries) for entries in _SIZES}


def size_of(rows: Sized) -> int:
    """Return the key of WRITE_ORDERS and OPEN_POSITIONS for these rows."""
    return min(len(rows), _SIZES[-1])


def row_arguments(rows: Sequence[dict[str, object]], names: Sequence[str]) -> list[object]:
    """Return the arguments of `_rows`; `names` are those of its columns, in their order."""
    if not _are_parameters(len(rows)):
        return [_documents(rows)]
    return [row[name] for row in rows for name in names]


def _documents(rows: Iterable[dict[str, object]]) -> list[str]:
    """Return each row as a JSON document; a Decimal is a string in it, so that no digit is lost."""
    return [orjson.dumps(row, default=str).decode() for row in rows]
