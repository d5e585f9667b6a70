"""The end of an upgrade: finalized, which drops the old tables, or rolled back, which puts them in place again."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from catalyst.domain.errors import UserError
from catalyst.store.account_lock import lock_holder_of
from catalyst.store.legacy.recognition import OLD_FUNCTIONS, OLD_SCHEMA, OLD_TABLES, OLD_VIEWS, is_upgraded
from catalyst.store.migrate import hold_migration_lock, migrations
from catalyst.store.pool import Connection, connected

_NOT_UPGRADED: Final = (
    "there is no upgrade to end: the old tables are not kept (never upgraded, finalized or rolled back)"
)
_CREATED: Final = re.compile(
    r"^\s*CREATE\s+(?:OR\s+REPLACE\s+)?(TABLE|VIEW|FUNCTION)\s+(?:IF\s+NOT\s+EXISTS\s+)?(\w+)", re.I | re.M
)


@dataclass(frozen=True, slots=True)
class Rollback:
    """Where the tables of this release are kept, and how many rows in them the old tables do not have."""

    schema: str
    orders: int
    positions: int


async def finalize(dsn: str, *, now: datetime) -> int:
    """Drop the old tables; return how many. Rows that could not be mapped stay in legacy_*.

    Raises UserError unless a cycle was completed on the new tables, and while a daemon runs.
    """
    async with connected(dsn, "catalyst migrate", statement_timeout=0, lock_timeout=60_000) as conn:
        await hold_migration_lock(conn)
        await _require_upgraded(conn)
        await _require_no_daemon(conn, dsn)
        if not await conn.fetchval("SELECT EXISTS (SELECT 1 FROM orders)"):
            raise UserError("the table orders is empty: the old tables are the only copy of the orders")
        if not await conn.fetchval(
            "SELECT EXISTS (SELECT 1 FROM trading_cycles WHERE status = 'completed' AND config_hash <> 'legacy')"
        ):
            raise UserError(
                "no cycle was completed on the new tables: trade one day, then finalize; until then --rollback-legacy "
                "can take the upgrade back"
            )
        await _require_no_dependents(conn)
        async with conn.transaction():
            tables = await conn.fetchval(
                "SELECT count(*) FROM pg_class WHERE relnamespace = 'legacy'::regnamespace AND relkind IN ('r', 'p')"
            )
            await conn.execute(f"DROP SCHEMA {OLD_SCHEMA} CASCADE")
            await conn.execute("UPDATE legacy_upgrades SET finalized_at = $1 WHERE finalized_at IS NULL", now)
    return int(tables)


async def roll_back(dsn: str, *, now: datetime) -> Rollback:
    """Put the old tables in place again, with every value; the tables of this release move to a schema of their own.

    Raises UserError while a daemon runs or this release holds shares or working orders that the old one does not know.
    """
    schema = f"rolled_back_{now:%Y%m%d_%H%M%S}"
    async with connected(dsn, "catalyst migrate", statement_timeout=0, lock_timeout=60_000) as conn:
        await hold_migration_lock(conn)
        await _require_upgraded(conn)
        await _require_no_daemon(conn, dsn)
        async with conn.transaction():
            orders, positions = await _count_new_rows(conn)
            await conn.execute(f"CREATE SCHEMA {schema}")
            await _move(conn, await _own_objects(conn), "public", schema)
            await _move(conn, await _old_objects(conn), OLD_SCHEMA, "public")
            await conn.execute(f"DROP SCHEMA {OLD_SCHEMA}")
    return Rollback(schema, orders, positions)


async def _require_upgraded(conn: Connection) -> None:
    if not await is_upgraded(conn):
        raise UserError(_NOT_UPGRADED)


async def _require_no_daemon(conn: Connection, dsn: str) -> None:
    account = await conn.fetchval("SELECT account_id FROM daemon")
    holder = None if account is None else await lock_holder_of(dsn, account)
    if holder is not None:
        raise UserError(f"a daemon uses the database ({holder}): stop it after the close, then repeat")


async def _require_no_dependents(conn: Connection) -> None:
    """Refuse to drop tables that a view outside reads: the drop would take the view along."""
    views = await conn.fetch(
        """
        SELECT DISTINCT v.oid::regclass::text AS name
          FROM pg_depend d JOIN pg_rewrite r ON r.oid = d.objid AND d.classid = 'pg_rewrite'::regclass
          JOIN pg_class v ON v.oid = r.ev_class JOIN pg_class t ON t.oid = d.refobjid
         WHERE d.refclassid = 'pg_class'::regclass AND t.relnamespace = 'legacy'::regnamespace
           AND v.relnamespace <> 'legacy'::regnamespace ORDER BY 1
        """
    )
    if views:
        names = ", ".join(row["name"] for row in views)
        raise UserError(
            f"these views read the old tables: {names}; create them again on the new ones, then repeat"
        )


async def _count_new_rows(conn: Connection) -> tuple[int, int]:
    """Return how many orders and positions this release made. Raises UserError while one of them is open."""
    found = await conn.fetchrow(
        """
        SELECT count(*) FILTER (WHERE origin <> 'legacy') AS orders,
               count(*) FILTER (WHERE origin <> 'legacy' AND status IN ('created', 'submitted', 'accepted',
                                                                        'partial_fill')) AS working,
               (SELECT count(*) FROM positions WHERE NOT legacy) AS positions,
               (SELECT count(*) FROM positions WHERE NOT legacy AND status = 'open') AS open
          FROM orders
        """
    )
    assert found is not None  # an aggregate always returns a row
    if found["working"] or found["open"]:
        raise UserError(
            f"{found['open']} open positions and {found['working']} working orders are unknown to the old tables: "
            "`catalyst flatten` first"
        )
    return found["orders"], found["positions"]


async def _own_objects(conn: Connection) -> list[tuple[str, str]]:
    """Return kind and name of every object of this release, views first."""
    created = {
        (kind.upper(), name.lower())
        for migration in migrations()
        for kind, name in _CREATED.findall(migration.sql)
    }
    kept = await conn.fetch(
        "SELECT relname::text AS name FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' "
        "AND (relname LIKE 'legacy\\_%' OR relname = 'schema_migrations')"
    )
    return await _existing(conn, "public", created | {("TABLE", row["name"]) for row in kept})


async def _old_objects(conn: Connection) -> list[tuple[str, str]]:
    names = {("TABLE", name) for name in OLD_TABLES} | {("VIEW", name) for name in OLD_VIEWS}
    return await _existing(conn, OLD_SCHEMA, names | {("FUNCTION", name) for name in OLD_FUNCTIONS})


async def _existing(conn: Connection, schema: str, wanted: set[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return those objects that exist in the schema, functions with their arguments; views first, tables last."""
    found = await conn.fetch(
        """
        SELECT CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind, relname::text AS name,
               quote_ident(relname) AS reference
          FROM pg_class WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'p', 'v')
        UNION ALL
        SELECT 'FUNCTION', proname, format('%I(%s)', proname, pg_get_function_identity_arguments(oid))
          FROM pg_proc WHERE pronamespace = to_regnamespace($1)
        """,
        schema,
    )
    order = {"VIEW": 0, "FUNCTION": 1, "TABLE": 2}  # the arguments of a function name tables
    objects = [(row["kind"], row["reference"]) for row in found if (row["kind"], row["name"]) in wanted]
    return sorted(objects, key=lambda item: (order[item[0]], item[1]))


async def _move(conn: Connection, objects: list[tuple[str, str]], source: str, target: str) -> None:
    for kind, reference in objects:
        await conn.execute(f"ALTER {kind} {source}.{reference} SET SCHEMA {target}")
