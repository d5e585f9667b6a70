"""Report on the database itself: sizes, dead rows, indexes, connections, long transactions, locks, slow queries.

Reads PostgreSQL's statistics views only. Ages are the server's, because its clock wrote the times.
"""

from collections.abc import Sequence
from typing import Any, Final

from catalyst.domain.secret_mask import mask_text
from catalyst.store.pool import Connection

LONG_TRANSACTION_S: Final = 60
BLOCKED_S: Final = 5
MIN_DEAD_ROWS: Final = 10_000  # fewer are no reason to vacuum
MAX_DEAD_PART: Final = 0.2  # autovacuum's own threshold
MAX_CONNECTION_PART: Final = 0.8
MAX_TRANSACTION_AGE: Final = 1_500_000_000  # transactions; at two thousand million the server stops writing
SHOWN_ROWS: Final = 15
_QUERY_LENGTH: Final = 160  # characters

Row = dict[str, Any]

# The size of a relation that another session holds exclusively would be read only once it is released.
_LOCKED: Final = """
    WITH locked AS (
        SELECT relation AS oid FROM pg_locks
         WHERE mode = 'AccessExclusiveLock' AND relation IS NOT NULL
           AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION
        SELECT i.indrelid FROM pg_index i JOIN pg_locks l ON l.relation = i.indexrelid
         WHERE l.mode = 'AccessExclusiveLock'
    )
"""
_TABLES: Final = (
    _LOCKED  # noqa: S608 -- constants
    + """
    SELECT s.relname::text AS name,
           CASE WHEN s.relid IN (TABLE locked) THEN NULL ELSE pg_total_relation_size(s.relid) END AS total_bytes,
           CASE WHEN s.relid IN (TABLE locked) THEN NULL ELSE pg_indexes_size(s.relid) END AS index_bytes,
           s.n_live_tup AS live_rows, s.n_dead_tup AS dead_rows,
           greatest(s.last_vacuum, s.last_autovacuum) AS vacuumed_at,
           greatest(s.last_analyze, s.last_autoanalyze) AS analyzed_at
      FROM pg_stat_user_tables s WHERE s.schemaname = 'public' ORDER BY total_bytes DESC NULLS LAST, name
"""
)
_INDEXES: Final = (
    _LOCKED  # noqa: S608 -- constants
    + """
    SELECT s.indexrelname::text AS name, s.relname::text AS table_name,
           CASE WHEN i.indexrelid IN (TABLE locked) THEN NULL ELSE pg_relation_size(s.indexrelid) END AS bytes,
           s.idx_scan AS scans, i.indisvalid AS is_valid, i.indisunique AS is_unique
      FROM pg_stat_user_indexes s JOIN pg_index i USING (indexrelid)
     WHERE s.schemaname = 'public' ORDER BY bytes DESC NULLS LAST, name
"""
)
_CONNECTIONS: Final = """
    SELECT application_name::text AS application, usename::text AS role, coalesce(state, 'other') AS state,
           count(*) AS count
      FROM pg_stat_activity WHERE datname = current_database()
     GROUP BY 1, 2, 3 ORDER BY count DESC, application, state
"""
_LONG_TRANSACTIONS: Final = """
    SELECT pid, application_name::text AS application, state,
           extract(epoch FROM clock_timestamp() - xact_start)::float8 AS seconds, left(query, 400) AS query
      FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid()
       AND clock_timestamp() - xact_start > make_interval(secs => $1)
     ORDER BY seconds DESC
"""
_BLOCKED: Final = """
    SELECT a.pid, a.application_name::text AS application, pg_blocking_pids(a.pid) AS blocked_by,
           extract(epoch FROM clock_timestamp() - a.state_change)::float8 AS seconds, left(a.query, 400) AS query
      FROM pg_stat_activity a
     WHERE a.datname = current_database() AND cardinality(pg_blocking_pids(a.pid)) > 0
     ORDER BY seconds DESC
"""
_SERVER: Final = """
    SELECT current_setting('server_version') AS version, pg_database_size(current_database()) AS database_bytes,
           (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database()) AS transaction_age,
           current_setting('max_connections')::int AS max_connections,
           (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
           current_setting('autovacuum') AS autovacuum, current_setting('log_statement') AS log_statement,
           current_setting('log_min_duration_statement') AS log_min_duration_statement
"""
_FRAMES: Final = """
    SELECT count(*) AS frames, min(s.started_at) AS oldest, coalesce(sum(octet_length(f.frame)), 0)::bigint AS bytes
      FROM scan_frames f JOIN scans s USING (scan_id)
"""
# The view exists without its library, and then every read of it fails.
_STATEMENTS_SCHEMA: Final = """
    SELECT n.nspname::text FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
     WHERE e.extname = 'pg_stat_statements'
       AND current_setting('shared_preload_libraries') ~ '(^|[ ,])pg_stat_statements($|[ ,])'
"""
_SLOW: Final = """
    SELECT calls, round(mean_exec_time::numeric, 2) AS mean_ms, round(total_exec_time::numeric, 0) AS total_ms,
           rows, left(query, 400) AS query
      FROM {schema}.pg_stat_statements
     WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
     ORDER BY total_exec_time DESC LIMIT 10
"""


async def read_report(conn: Connection) -> Row:
    """Return the report; `warnings` has one sentence for each thing that needs a person."""
    server = _row(await conn.fetchrow(_SERVER))
    tables, indexes = _rows(await conn.fetch(_TABLES)), _rows(await conn.fetch(_INDEXES))
    long_transactions = _rows(await conn.fetch(_LONG_TRANSACTIONS, LONG_TRANSACTION_S))
    blocked = _rows(await conn.fetch(_BLOCKED))
    report = {
        "server": server,
        "tables": tables[:SHOWN_ROWS],
        "indexes": indexes[:SHOWN_ROWS],
        "unused_indexes": [row["name"] for row in indexes if not row["scans"] and not row["is_unique"]],
        "connections": _rows(await conn.fetch(_CONNECTIONS)),
        "long_transactions": long_transactions,
        "blocked": blocked,
        "slow_queries": await _slow_queries(conn),
        "scan_frames": _row(await conn.fetchrow(_FRAMES)),
    }
    warnings = [
        *table_warnings(server, tables, indexes),
        *session_warnings(server, long_transactions, blocked),
    ]
    return {**report, "warnings": warnings}


async def _slow_queries(conn: Connection) -> list[Row] | None:
    """Return the queries that took most time; None where pg_stat_statements is not installed or may not be read."""
    schema = await conn.fetchval(_STATEMENTS_SCHEMA)
    return None if schema is None else _rows(await conn.fetch(_SLOW.format(schema=f'"{schema}"')))


def table_warnings(server: Row, tables: Sequence[Row], indexes: Sequence[Row]) -> list[str]:
    """Return a sentence for each table, index or setting that needs a person."""
    warnings = [
        f"{row['name']}: {row['dead_rows']:,} of {row['dead_rows'] + row['live_rows']:,} rows are dead: autovacuum "
        "does not keep up, or a long transaction stops it"
        for row in tables
        if row["dead_rows"] > MIN_DEAD_ROWS
        and row["dead_rows"] > MAX_DEAD_PART * (row["dead_rows"] + row["live_rows"])
    ]
    warnings += [
        f"the index {row['name']} is not valid: create it again with REINDEX INDEX CONCURRENTLY {row['name']}"
        for row in indexes
        if not row["is_valid"]
    ]
    if server["autovacuum"] != "on":
        warnings.append("autovacuum is off: tables grow without end; set autovacuum = on")
    if server["transaction_age"] > MAX_TRANSACTION_AGE:
        warnings.append(
            f"the oldest transaction id is {server['transaction_age']:,} transactions old: run VACUUM FREEZE soon"
        )
    return warnings


def session_warnings(server: Row, long_transactions: Sequence[Row], blocked: Sequence[Row]) -> list[str]:
    """Return a sentence for each long transaction, each wait for a lock, and a server with few free connections."""
    warnings = [
        f"the transaction of {row['application'] or 'a program'} (pid {row['pid']}) is open for {row['seconds']:.0f} s"
        for row in long_transactions
    ]
    warnings += [
        f"{row['application'] or 'a program'} (pid {row['pid']}) waits {row['seconds']:.0f} s for a lock of pid "
        f"{', '.join(map(str, row['blocked_by']))}"
        for row in blocked
        if row["seconds"] > BLOCKED_S
    ]
    if server["connections"] > MAX_CONNECTION_PART * server["max_connections"]:
        warnings.append(f"{server['connections']} of {server['max_connections']} connections are in use")
    return warnings


def _rows(records: Sequence[Any]) -> list[Row]:
    return [_row(record) for record in records]


def _row(record: Any) -> Row:
    row = dict(record)
    if "query" in row:
        row["query"] = mask_text(" ".join((row["query"] or "").split()))[:_QUERY_LENGTH]
    return row
