"""Database roles: each has the rights it needs and no more."""

import shutil
from pathlib import Path

import asyncpg
import pytest
from store.raw_rows import AT, RawRows

from catalyst.store import migrate
from catalyst.store.pool import Connection, Store, connected
from catalyst.store.schema_checks import require_privileges

FORBIDDEN = {
    "catalyst_app": [
        "DELETE FROM orders",
        "DELETE FROM positions",
        "DELETE FROM executions",
        "DELETE FROM order_events",
        "DELETE FROM scan_frames",
        "TRUNCATE orders CASCADE",
        "TRUNCATE order_events",
        "UPDATE order_events SET note = 'x'",
        "UPDATE journal_chain SET seq = 0",
        "INSERT INTO journal_chain VALUES (1, 1, sha256(''))",
        "UPDATE order_edges SET kind = 'normal'",
        "INSERT INTO order_edges VALUES ('filled', 'created', 'normal')",
        "UPDATE schema_migrations SET checksum = ''",
        "INSERT INTO daemon (epoch) VALUES (9)",
        "DROP TABLE orders",
        "ALTER TABLE orders DISABLE TRIGGER check_order_change",
        "SET session_replication_role = replica",
        "CREATE TABLE mine (x integer)",
        "CREATE TEMPORARY TABLE mine (x integer)",
        "CREATE ROLE friend",
    ],
    "catalyst_readonly": [
        "INSERT INTO sectors (name) VALUES ('x')",
        "UPDATE latches SET cleared_at = set_at, cleared_by = 'x'",
        "UPDATE daemon SET epoch = epoch + 1",
        "INSERT INTO commands (kind, requested_at, requested_by) VALUES ('flatten', '2026-04-08', 'x')",
        "DELETE FROM alerts",
        "TRUNCATE alerts",
        "SELECT 1 FROM orders FOR UPDATE",
        "CREATE TABLE mine (x integer)",
        "SELECT get_or_create_security('x')",
    ],
    "catalyst_owner": ["CREATE ROLE friend", "CREATE DATABASE mine"],
}


@pytest.fixture
async def granted(raw_rows: RawRows) -> RawRows:
    await raw_rows.conn.execute(migrate.roles_sql())
    await raw_rows.conn.execute(migrate.roles_sql())  # may be run repeatedly
    return raw_rows


@pytest.mark.parametrize(
    ("role", "statement"), [(role, statement) for role, tried in FORBIDDEN.items() for statement in tried]
)
async def test_role_cannot_run_forbidden_statement(granted: RawRows, role: str, statement: str):
    """Every forbidden statement fails with 42501; the read-only role fails also after it unsets its read-only
    default."""
    await granted.conn.execute(f"SET ROLE {role}")
    if role == "catalyst_readonly":
        await granted.conn.execute("SET default_transaction_read_only = off")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await granted.conn.execute(statement)
    finally:
        await granted.conn.execute("RESET ROLE; RESET default_transaction_read_only")


async def test_app_role_can_run_the_day(granted: RawRows):
    """The daemon's role may write orders, fills, positions, the journal, a new epoch and a command."""
    await granted.conn.execute("SET ROLE catalyst_app")
    try:
        position_id = await granted.insert_position()
        await granted.insert_exit(position_id)
        await granted.conn.execute("UPDATE daemon SET epoch = epoch + 1, heartbeat_at = $1", AT)
        await granted.conn.execute(
            "INSERT INTO commands (kind, requested_at, requested_by) VALUES ('halt', $1, 'me')", AT
        )
        assert await granted.conn.fetchval("SELECT get_or_create_security('MSFT')")
        await migrate.require_current(granted.conn)
    finally:
        await granted.conn.execute("RESET ROLE")


async def test_read_only_role_can_read_everything(granted: RawRows):
    """The read-only role can read every table and view."""
    relations = await granted.conn.fetch(
        "SELECT oid::regclass::text AS name FROM pg_class"
        " WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'v')"
    )
    await granted.conn.execute("SET ROLE catalyst_readonly")
    try:
        for relation in relations:
            await granted.conn.fetch(f"SELECT * FROM {relation['name']} LIMIT 1")
    finally:
        await granted.conn.execute("RESET ROLE")
    assert len(relations) >= 30


async def test_read_only_role_has_time_and_connection_limits(granted: RawRows, store: Store):
    """The read-only role has a statement time-out, a read-only default and a limit of connections."""
    row = await store_settings(granted)
    assert row["rolconnlimit"] == 10
    assert {"statement_timeout=5s", "default_transaction_read_only=on"} <= set(row["rolconfig"])


async def store_settings(raw_rows: RawRows):
    return await raw_rows.conn.fetchrow(
        "SELECT rolconnlimit, rolconfig FROM pg_roles WHERE rolname = 'catalyst_readonly'"
    )


@pytest.mark.parametrize("migrator", ["", "catalyst_owner"])
async def test_upgrade_of_a_database_with_roles_grants_the_new_tables(
    empty_database: str, tmp_path: Path, migrator: str
):
    """A database of an older release with roles is migrated, by its creator or by the owner's role: the daemon's role
    passes the checks of a start, and the read-only role reads the new table."""
    for path in sorted(migrate.MIGRATIONS_FOLDER.glob("*.sql"))[:7]:
        shutil.copy(path, tmp_path)
    await migrate.migrate(empty_database, folder=tmp_path)
    async with connected(empty_database, "test") as conn:
        await conn.execute(migrate.roles_sql().replace(", journal_lock", ""))  # a table of a later release
        if migrator:
            await give_to_owner_role(conn)
    separator = "&" if "?" in empty_database else "?"
    await migrate.migrate(f"{empty_database}{separator}role={migrator}" if migrator else empty_database)
    async with connected(f"{empty_database}{separator}role=catalyst_app", "test") as conn:
        await migrate.require_current(conn)
        await require_privileges(conn)
        assert await conn.fetchval("SELECT count(*) FROM alert_deliveries") == 0
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("DELETE FROM alert_deliveries")
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("SELECT 1 FROM journal_lock FOR UPDATE")
    async with connected(f"{empty_database}{separator}role=catalyst_readonly", "test") as conn:
        assert await conn.fetchval("SELECT count(*) FROM alert_deliveries") == 0


async def give_to_owner_role(conn: Connection) -> None:
    """Let the owner's role own what the first migrations created."""
    await conn.execute(
        """
        DO $$
        DECLARE
            made text;
        BEGIN
            FOR made IN SELECT format('%s %s', CASE relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END, oid::regclass)
                          FROM pg_class
                         WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v') LOOP
                EXECUTE 'ALTER ' || made || ' OWNER TO catalyst_owner';
            END LOOP;
            FOR made IN SELECT oid::regprocedure::text FROM pg_proc
                         WHERE pronamespace = 'public'::regnamespace LOOP
                EXECUTE 'ALTER FUNCTION ' || made || ' OWNER TO catalyst_owner';
            END LOOP;
        END $$
        """
    )
