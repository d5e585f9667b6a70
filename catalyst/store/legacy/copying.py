"""Copy of the mapped rows into the tables of this release. Rows that map to nothing are kept in tables legacy_*."""

from collections.abc import Iterator
from typing import Final

from catalyst.store.legacy.recognition import OLD_SCHEMA, LegacyDatabase

# Their rows belong to scans that the old database does not describe, so they are kept as they are.
KEPT_TABLES: Final = ("scan_results", "news_sentiment", "pattern_analysis", "technical_indicators")

# Table, its number, and the old rows: a number of an old row that is kept elsewhere is not given to a new one.
_IDENTITIES: Final = (
    ("sectors", "sector_id", "old_sectors"), ("securities", "security_id", "old_securities"),
    ("time_dimension", "time_id", "old_times"), ("positions", "position_id", "old_positions"),
    ("orders", "order_id", "old_orders"),
)  # fmt: skip

STATEMENTS: Final = (
    (
        "copy the sectors",
        """
        INSERT INTO sectors (sector_id, name) OVERRIDING SYSTEM VALUE
        SELECT min(sector_id), name FROM old_sectors WHERE name <> '' GROUP BY name
        """,
    ),
    (
        "copy the securities",
        """
        INSERT INTO securities (security_id, symbol, name, exchange, sector_id, is_active) OVERRIDING SYSTEM VALUE
        SELECT s.security_id, m.symbol, coalesce(s.name, ''), coalesce(nullif(s.exchange, ''), 'UNKNOWN'),
               n.sector_id, coalesce(s.is_active, true)
          FROM old_securities s JOIN security_map m ON m.old_id = s.security_id AND m.security_id = m.old_id
          LEFT JOIN old_sectors o ON o.sector_id = s.sector_id LEFT JOIN sectors n ON n.name = o.name
        """,
    ),
    (
        "copy the moments, in New York time",
        """
        INSERT INTO time_dimension (time_id, timestamp, date, year, month, day, day_of_week, hour, minute,
                                    is_market_hours, is_trading_day) OVERRIDING SYSTEM VALUE
        SELECT m.time_id, m.minute, l.at::date, extract(year FROM l.at), extract(month FROM l.at),
               extract(day FROM l.at), extract(isodow FROM l.at), extract(hour FROM l.at), extract(minute FROM l.at),
               coalesce(m.is_trading_day, false) AND l.at::time >= '09:30' AND l.at::time < '16:00',
               coalesce(m.is_trading_day, false)
          FROM time_map m CROSS JOIN LATERAL (SELECT m.minute AT TIME ZONE 'America/New_York' AS at) l
         WHERE m.old_id = m.time_id
        """,
    ),
    (
        "copy the cycles",
        """
        INSERT INTO trading_cycles (cycle_id, cycle_date, mode, status, halt_reason, max_positions, max_daily_loss,
                                    scan_frequency, realized_pnl, daily_pnl, start_time, end_time, updated_at,
                                    config_hash)
        SELECT m.cycle_id, m.day, CASE WHEN bool_or(c.mode = 'autonomous' AND m.nth = 1) THEN 'autonomous'
                                       ELSE 'supervised' END,
               'completed',
               string_agg('the earlier system left it ' || c.status, '; ' ORDER BY m.nth)
                   FILTER (WHERE c.status <> 'completed'),
               coalesce(max(c.max_positions) FILTER (WHERE m.nth = 1 AND c.max_positions > 0), 5),
               coalesce(max(c.max_daily_loss) FILTER (WHERE m.nth = 1 AND c.max_daily_loss > 0), 2000),
               coalesce(max(c.scan_frequency) FILTER (WHERE m.nth = 1 AND c.scan_frequency >= 0), 1800),
               coalesce(sum(c.daily_pnl), 0), coalesce(sum(c.daily_pnl), 0),
               coalesce(min(c.started_at), (m.day + time '09:30') AT TIME ZONE 'America/New_York'),
               coalesce(max(c.ended_at), max(c.updated_at), min(c.started_at),
                        (m.day + time '16:00') AT TIME ZONE 'America/New_York'),
               coalesce(max(c.updated_at), max(c.ended_at), min(c.started_at),
                        (m.day + time '16:00') AT TIME ZONE 'America/New_York'),
               'legacy'
          FROM cycle_map m JOIN old_cycles c ON c.cycle_id = m.old_id
         GROUP BY m.cycle_id, m.day
        """,
    ),
    (
        "copy the positions that were held",
        """
        WITH held AS (
            SELECT m.position_id, m.old_id, c.cycle_id, m.security_id, m.side, p.status, p.entry_price,
                   CASE p.status WHEN 'open' THEN p.quantity ELSE 0 END AS quantity,
                   CASE p.status WHEN 'open' THEN p.quantity + m.exited ELSE m.entered END AS entered,
                   CASE p.status WHEN 'open' THEN m.exited ELSE m.entered END AS exited,
                   CASE p.status WHEN 'open' THEN m.proceeds
                        ELSE greatest(m.entered * coalesce(nullif(p.exit_price, 0), p.entry_price
                                      + CASE m.side WHEN 'long' THEN 1 ELSE -1 END * coalesce(p.realized_pnl, 0)
                                        / m.entered), 0) END AS proceeds,
                   CASE p.status WHEN 'closed' THEN CASE WHEN p.exit_price > 0 THEN p.exit_price END END AS exit_price,
                   CASE WHEN p.stop_loss > 0 THEN p.stop_loss END AS stop_loss,
                   CASE WHEN p.take_profit > 0 THEN p.take_profit END AS take_profit, p.entry_time,
                   CASE p.status WHEN 'closed' THEN coalesce(p.exit_time, p.updated_at, p.entry_time) END AS exit_time,
                   coalesce(p.realized_pnl, 0) AS realized_pnl, coalesce(p.unrealized_pnl, 0) AS unrealized_pnl,
                   left(p.close_reason, 255) AS close_reason, coalesce(p.updated_at, p.entry_time) AS updated_at
              FROM position_map m JOIN old_positions p ON p.position_id = m.old_id
              LEFT JOIN cycle_map c ON c.old_id = p.cycle_id
             WHERE m.reason IS NULL
        )
        INSERT INTO positions (position_id, cycle_id, security_id, side, quantity, entered_qty, entry_price, cost,
                               exited_qty, proceeds, exit_price, stop_loss, take_profit, entry_time, exit_time, status,
                               realized_pnl, unrealized_pnl, close_reason, legacy, updated_at) OVERRIDING SYSTEM VALUE
        SELECT position_id, min(cycle_id) FILTER (WHERE position_id = old_id), security_id, side, sum(quantity),
               sum(entered), sum(entered * entry_price) / sum(entered), sum(entered * entry_price), sum(exited),
               sum(proceeds), max(exit_price), max(stop_loss) FILTER (WHERE position_id = old_id),
               max(take_profit) FILTER (WHERE position_id = old_id), min(entry_time), max(exit_time), status,
               sum(realized_pnl), sum(unrealized_pnl),
               -- An open one gets its reason when it is closed.
               max(close_reason) FILTER (WHERE status = 'closed'), true, max(updated_at)
          FROM held GROUP BY position_id, security_id, side, status
        """,
    ),
    (
        "skip the checks of the journal, which old orders do not have",
        "ALTER TABLE orders DISABLE TRIGGER order_totals_on_insert",
    ),
    ("skip the same check of fills", "ALTER TABLE executions DISABLE TRIGGER fill_total_on_insert"),
    (
        "copy the orders",
        """
        INSERT INTO orders (order_id, client_order_id, alpaca_order_id, cycle_id, security_id, position_id,
                            parent_order_id, order_purpose, position_side, side, order_class, order_type,
                            time_in_force, quantity, limit_price, stop_price, status, filled_qty, filled_avg_price,
                            origin, created_at, submitted_at, filled_at, cancelled_at, closed_at, updated_at,
                            rejection_reason, cancel_reason) OVERRIDING SYSTEM VALUE
        SELECT o.order_id, 'legacy-' || o.order_id, o.alpaca_order_id, c.cycle_id, m.security_id,
               -- An entry without a fill has no position.
               CASE WHEN m.purpose <> 'entry' OR m.filled > 0 THEN p.position_id END,
               parent.order_id, m.purpose, m.position_side, m.side, coalesce(o.order_class, 'simple'),
               coalesce(o.order_type, 'market'), coalesce(o.time_in_force, 'day'), m.quantity,
               CASE WHEN o.limit_price > 0 THEN o.limit_price END, CASE WHEN o.stop_price > 0 THEN o.stop_price END,
               m.status, m.filled, m.price, 'legacy', t.created_at, o.submitted_at,
               CASE m.status WHEN 'filled' THEN coalesce(o.filled_at, t.ended_at) END,
               CASE m.status WHEN 'cancelled' THEN coalesce(o.cancelled_at, t.ended_at) END,
               CASE WHEN m.status NOT IN ('submitted', 'accepted', 'partial_fill') THEN t.ended_at END, t.ended_at,
               CASE m.status WHEN 'rejected' THEN coalesce(o.rejection_reason,
                    CASE WHEN o.alpaca_order_id IS NULL THEN 'NEVER_ARRIVED' END, 'the earlier system: ' || o.status)
                END,
               CASE m.status WHEN 'cancelled' THEN coalesce(o.cancel_reason,
                    CASE WHEN o.alpaca_order_id IS NULL AND m.filled = 0 THEN 'NEVER_SENT' END) END
          FROM order_map m JOIN old_orders o USING (order_id)
          LEFT JOIN cycle_map c ON c.old_id = o.cycle_id
          LEFT JOIN position_map p ON p.old_id = m.of_position AND p.reason IS NULL
          LEFT JOIN order_map parent ON parent.order_id = o.parent_order_id AND parent.reason IS NULL
         CROSS JOIN LATERAL (
               SELECT coalesce(o.created_at, o.submitted_at, o.filled_at, o.updated_at, to_timestamp(0)) AS created_at,
                      coalesce(o.filled_at, o.cancelled_at, o.updated_at, o.submitted_at, o.created_at, to_timestamp(0))
                      AS ended_at) t
         WHERE m.reason IS NULL
        """,
    ),
    ("count the copied rows for the planner", "ANALYZE positions, orders"),
    (
        "continue the numbers of orders before the rebuilt exits",
        """
        SELECT setval(pg_get_serial_sequence('orders', 'order_id'),
                      (SELECT coalesce(max(order_id), 0) + 1 FROM order_map), false)
        """,
    ),
    (
        "rebuild the exits that the old database has only as prices",
        """
        INSERT INTO orders (client_order_id, cycle_id, security_id, position_id, order_purpose, position_side, side,
                            order_type, time_in_force, quantity, status, filled_qty, filled_avg_price, origin,
                            created_at, submitted_at, filled_at, closed_at, updated_at)
        SELECT 'legacy-exit-' || p.position_id, p.cycle_id, p.security_id, p.position_id, 'exit', p.side,
               CASE p.side WHEN 'long' THEN 'sell' ELSE 'buy' END, 'market', 'day', rest.quantity, 'filled',
               rest.quantity, rest.price, 'legacy', p.exit_time, p.exit_time, p.exit_time, p.exit_time, p.exit_time
          FROM positions p JOIN position_map m ON m.old_id = p.position_id
         CROSS JOIN LATERAL (
               SELECT p.exited_qty - m.exited AS quantity,
                      coalesce(p.exit_price, round(p.proceeds / nullif(p.exited_qty, 0), 6)) AS price) rest
         WHERE p.status = 'closed' AND rest.quantity > 0 AND rest.price > 0
         ORDER BY p.position_id
        """,
    ),
    (
        "book the fills of the orders",
        """
        INSERT INTO executions (order_id, cum_qty, quantity, price, at, source)
        SELECT order_id, filled_qty, filled_qty, filled_avg_price, coalesce(filled_at, updated_at), 'legacy'
          FROM orders WHERE filled_qty > 0 AND filled_avg_price > 0
        """,
    ),
    ("check the journal of new orders again", "ALTER TABLE orders ENABLE TRIGGER order_totals_on_insert"),
    ("check new fills again", "ALTER TABLE executions ENABLE TRIGGER fill_total_on_insert"),
    (
        "copy the risk events",
        """
        INSERT INTO risk_events (cycle_id, event_type, severity, message, occurred_at)
        SELECT c.cycle_id, e.event_type,
               CASE WHEN upper(e.severity) IN ('CRITICAL', 'HIGH', 'ERROR', 'EMERGENCY') THEN 'CRITICAL'
                    WHEN upper(e.severity) IN ('WARNING', 'MEDIUM') THEN 'WARNING' ELSE 'INFO' END,
               coalesce(e.message, ''), e.occurred_at
          FROM old_risk_events e LEFT JOIN cycle_map c ON c.old_id = e.cycle_id
         WHERE e.event_type IS NOT NULL AND e.occurred_at IS NOT NULL ORDER BY e.occurred_at
        """,
    ),
    *(
        (
            f"continue the numbers of {table}",
            f"""
            SELECT setval(pg_get_serial_sequence('{table}', '{column}'),
                          greatest((SELECT max({column}) FROM {table}), (SELECT max({column}) FROM {old}), 0) + 1,
                          false)
            """,  # noqa: S608 -- the names above
        )
        for table, column, old in _IDENTITIES
    ),
)


def kept_statements(found: LegacyDatabase) -> Iterator[tuple[str, str]]:
    """Yield the statements that keep what maps to no row: with its reason, or whole tables; ids are the new ones."""
    yield (
        "keep the positions that were never held or merge into another",
        f"""
        CREATE TABLE legacy_positions AS
        SELECT coalesce(m.reason, 'merged into position ' || m.position_id) AS reason, t.*
          FROM {OLD_SCHEMA}.positions t JOIN position_map m ON m.old_id = t.position_id
         WHERE m.reason IS NOT NULL OR m.position_id <> m.old_id
        """,  # noqa: S608
    )
    if "orders" in found.columns:
        yield (
            "keep the orders that cannot be mapped",
            f"""
            CREATE TABLE legacy_orders AS SELECT m.reason, t.* FROM {OLD_SCHEMA}.orders t
              JOIN order_map m ON m.order_id = t.order_id WHERE m.reason IS NOT NULL
            """,  # noqa: S608
        )
    yield (
        "keep the ids of merged and renamed cycles",
        f"""
        CREATE TABLE legacy_trading_cycles AS SELECT m.cycle_id AS new_cycle_id, t.*
          FROM {OLD_SCHEMA}.trading_cycles t LEFT JOIN cycle_map m ON m.old_id = t.cycle_id::text
         WHERE m.cycle_id IS DISTINCT FROM t.cycle_id::text
        """,  # noqa: S608
    )
    yield (
        "keep the ids of merged and unusable securities",
        f"""
        CREATE TABLE legacy_securities AS SELECT m.security_id AS new_security_id, t.*
          FROM {OLD_SCHEMA}.securities t LEFT JOIN security_map m ON m.old_id = t.security_id
         WHERE m.security_id IS DISTINCT FROM t.security_id
        """,  # noqa: S608
    )
    if "time_dimension" in found.columns:
        yield (
            "keep the ids of merged moments",
            f"""
            CREATE TABLE legacy_time_dimension AS SELECT m.time_id AS new_time_id, t.*
              FROM {OLD_SCHEMA}.time_dimension t LEFT JOIN time_map m ON m.old_id = t.time_id
             WHERE m.time_id IS DISTINCT FROM t.time_id
            """,  # noqa: S608
        )
    for table in KEPT_TABLES:
        if table in found.columns:
            yield f"keep {table}", _keep_whole(table, found)
    if "cycle_id" in found.columns.get("scan_results", {}):
        yield "show the kept scan results in their view", _scan_results_view(found)


def _keep_whole(table: str, found: LegacyDatabase) -> str:
    """Return the SQL that copies a table; its references are those of the merged rows."""
    values, joins = [], []
    for number, column in enumerate(found.columns[table]):
        value, alias = f't."{column}"', f"m{number}"
        if column == "security_id":
            joins.append(f"LEFT JOIN security_map {alias} ON {alias}.old_id = {value}")
            value = f"coalesce({alias}.security_id, {value})"
        elif column == "cycle_id":
            joins.append(f"LEFT JOIN cycle_map {alias} ON {alias}.old_id = {value}::text")
            value = f"coalesce({alias}.cycle_id, {value}::text)"
        elif column.endswith("time_id"):
            joins.append(f"LEFT JOIN time_map {alias} ON {alias}.old_id = {value}")
            value = f"coalesce({alias}.time_id, {value})"
        values.append(f'{value} AS "{column}"')
    return f"CREATE TABLE legacy_{table} AS SELECT {', '.join(values)} FROM {OLD_SCHEMA}.{table} t {' '.join(joins)}"  # noqa: S608


def _scan_results_view(found: LegacyDatabase) -> str:
    columns = found.columns["scan_results"]

    def value(type_: str, *names: str) -> str:
        return next((f'"{name}"::{type_}' for name in names if name in columns), f"NULL::{type_}")

    return f"""
        CREATE OR REPLACE VIEW v_scan_results_legacy AS
        SELECT r.scan_result_id AS id, s.cycle_id, r.security_id, r.rank_in_scan AS rank, r.price, r.volume,
               r.composite_score, r.status
          FROM scan_results r JOIN scans s USING (scan_id)
         UNION ALL
        SELECT {value("bigint", "id", "scan_result_id", "scan_id")}, cycle_id::text, {value("integer", "security_id")},
               {value("integer", "rank", "rank_in_scan")}, {value("numeric", "price")}, {value("numeric", "volume")},
               {value("double precision", "composite_score")}, {value("text", "status")}
          FROM legacy_scan_results
    """  # noqa: S608 -- the names are the table's own columns
