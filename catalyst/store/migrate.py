"""Migrations: plain SQL files, forward only, one transaction each, under one lock, never changed once
applied.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Final

import asyncpg

from catalyst.clock import SystemClock
from catalyst.domain.errors import ConfigInvalid
from catalyst.installation import shipped_folder
from catalyst.store.legacy.recognition import recognise
from catalyst.store.pool import Connection, connected

MIGRATIONS_FOLDER: Final = shipped_folder("migrations")

_LOCK_KEY: Final = 0x0CA7_A175_7101  # one migrator at a time, for every database of the server
_FILE_NAME: Final = re.compile(r"\d{4}_[a-z0-9_]+\.sql")


class SchemaNotCurrent(ConfigInvalid):
    """The database's schema is not that of this program; the message says what to do."""


class MigrationState(StrEnum):
    APPLIED = "applied"
    PENDING = "pending"
    CHANGED = "changed"  # the file differs from the applied one
    UNKNOWN = "unknown"  # applied by a newer program; the file is unknown here


@dataclass(frozen=True, slots=True)
class Migration:
    name: str
    sql: str
    checksum: str


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    name: str
    state: MigrationState


def migrations(folder: Path = MIGRATIONS_FOLDER) -> tuple[Migration, ...]:
    """Return all migrations in order. Raises SchemaNotCurrent when they are missing or not numbered without
    gaps."""
    files = sorted(folder.glob("*.sql"))
    if not files:
        raise SchemaNotCurrent(f"no migrations in {folder}: the installation is incomplete, install it again")
    for number, path in enumerate(files, start=1):
        if not _FILE_NAME.fullmatch(path.name) or int(path.name[:4]) != number:
            raise SchemaNotCurrent(f"{path.name} should be migration number {number:04}")
    return tuple(_read(path) for path in files)


def _read(path: Path) -> Migration:
    sql = path.read_text(encoding="utf-8").replace("\r\n", "\n")
    return Migration(path.stem, sql, hashlib.sha256(sql.encode()).hexdigest())


async def migrate(dsn: str, *, folder: Path = MIGRATIONS_FOLDER) -> list[str]:
    """Apply every missing migration; return the names of those applied now.

    Each is one transaction, so an interrupted run continues. Several processes may call this at once. Raises
    SchemaNotCurrent for a changed or unknown migration, before anything is touched, and when our role may not migrate.
    """
    files = migrations(folder)
    async with connected(dsn, "catalyst migrate", statement_timeout=0, lock_timeout=60_000) as conn:
        await _act_as_owner(conn)
        if not await conn.fetchval("SELECT has_schema_privilege('public', 'CREATE')"):
            await _require_nothing_pending(conn, files)
            return []
        await hold_migration_lock(conn)
        if (found := await recognise(conn)) is not None:
            raise SchemaNotCurrent(
                f"this is a database of the earlier Catalyst ({found.state}): upgrade it with `catalyst migrate`, "
                "which makes a backup first"
            )
        pending = await apply_pending(conn, files)
        await grant_missing_rights(conn)  # on tables of a release that did not grant them itself
    return pending


async def hold_migration_lock(conn: Connection) -> None:
    """Act as the owner and hold the lock of migrations and upgrades until the connection ends."""
    await _act_as_owner(conn)
    await conn.execute("SELECT pg_advisory_lock($1)", _LOCK_KEY)


async def apply_pending(conn: Connection, files: Sequence[Migration] | None = None) -> list[str]:
    """Apply every missing migration, in the caller's transaction if there is one; return the names of those applied.

    Raises SchemaNotCurrent for a changed or unknown migration, before anything is touched.
    """
    files = migrations() if files is None else files
    await conn.execute(
        """
        CREATE TABLE IF NOT EXISTS schema_migrations (
            name       text        PRIMARY KEY,
            checksum   text        NOT NULL,
            applied_at timestamptz NOT NULL
        )
        """
    )
    states = _compare(files, await _applied(conn))
    _require_states(states, allowed=MigrationState.PENDING)
    pending = {status.name for status in states if status.state is MigrationState.PENDING}
    for migration in files:
        if migration.name in pending:
            await _apply(conn, migration)
    return sorted(pending)


async def _act_as_owner(conn: Connection) -> None:
    """Act as catalyst_owner where it owns the schema, so that it owns what this migration creates too."""
    owned = await conn.fetchval(
        """
        SELECT pg_has_role(r.oid, 'MEMBER') AND r.rolname <> current_user
          FROM pg_roles r
         WHERE r.rolname = 'catalyst_owner'
           AND r.oid = coalesce((SELECT relowner FROM pg_class WHERE oid = to_regclass('public.schema_migrations')),
                                (SELECT datdba FROM pg_database WHERE datname = current_database()))
        """
    )
    if owned:
        await conn.execute("SET ROLE catalyst_owner")


async def _require_nothing_pending(conn: Connection, files: Sequence[Migration]) -> None:
    """Check, as a role that may not migrate, that nothing is to be migrated."""
    states = _compare(files, await _applied(conn))
    _require_states(states, allowed=MigrationState.PENDING)
    if any(status.state is MigrationState.PENDING for status in states):
        role = await conn.fetchval("SELECT current_user")
        raise SchemaNotCurrent(
            f"the role {role} may not change the schema: run catalyst migrate with DATABASE_URL set to the address of "
            "the database's owner or of the server's administrator"
        )


async def status(dsn: str, *, folder: Path = MIGRATIONS_FOLDER) -> list[MigrationStatus]:
    """Return every migration that has a file or was applied, in order, with its state; changes nothing."""
    async with connected(dsn, "catalyst migrate --status") as conn:
        return _compare(migrations(folder), await _applied(conn))


async def require_current(conn: Connection, *, folder: Path = MIGRATIONS_FOLDER) -> None:
    """Check that the schema is exactly the known migrations. Raises SchemaNotCurrent, which says what to run."""
    _require_states(_compare(migrations(folder), await _applied(conn)), allowed=None)


def require_known(applied: dict[str, str], *, folder: Path = MIGRATIONS_FOLDER) -> None:
    """Check that this program knows every migration of another database. Raises SchemaNotCurrent."""
    _require_states(_compare(migrations(folder), applied), allowed=MigrationState.PENDING)


async def migrated_since(conn: Connection) -> datetime | None:
    """Return when the first migration was applied, which is the age of the database; None without one."""
    since: datetime | None = await conn.fetchval("SELECT min(applied_at) FROM schema_migrations")
    return since


async def _applied(conn: Connection) -> dict[str, str]:
    try:
        rows = await conn.fetch("SELECT name, checksum FROM schema_migrations")
    except asyncpg.UndefinedTableError:
        return {}
    return {row["name"]: row["checksum"] for row in rows}


async def _apply(conn: Connection, migration: Migration) -> None:
    async with conn.transaction():
        await conn.execute(migration.sql)
        await grant_missing_rights(conn)
        await conn.execute(
            "INSERT INTO schema_migrations (name, checksum, applied_at) VALUES ($1, $2, $3)",
            migration.name,
            migration.checksum,
            SystemClock().now(),
        )


async def grant_missing_rights(conn: Connection) -> None:
    """Grant the roles, where the roles' SQL was run, their rights on our tables and sequences without any."""
    relations = await conn.fetch(
        """
        SELECT c.oid::regclass::text AS name, c.relkind = 'S' AS is_sequence
          FROM pg_class c, pg_roles app
         WHERE app.rolname = 'catalyst_app' AND has_table_privilege(app.oid, 'schema_migrations', 'SELECT')
           AND c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
           AND pg_has_role(c.relowner, 'USAGE')
           AND NOT CASE WHEN c.relkind = 'S' THEN has_sequence_privilege(app.oid, c.oid, 'SELECT')
                        ELSE has_table_privilege(app.oid, c.oid, 'SELECT') END
        """
    )
    roles = await conn.fetch(
        "SELECT rolname::text AS name FROM pg_roles WHERE rolname = ANY($1)", list(_RIGHTS)
    )
    for relation in relations:
        for role in roles:
            on_tables, on_sequences = _RIGHTS[role["name"]]
            kind, rights = ("SEQUENCE", on_sequences) if relation["is_sequence"] else ("TABLE", on_tables)
            if rights:
                await conn.execute(f"GRANT {rights} ON {kind} {relation['name']} TO {role['name']}")
    # Default privileges may have granted more on a new table.
    revoked = [
        (name, verb)
        for verbs, names in REVOKED_RIGHTS.findall(_ROLES)
        for name in names.split(", ")
        for verb in verbs.split(", ")
    ]
    held = await conn.fetch(
        """
        SELECT r.name, r.verb
          FROM unnest($1::text[], $2::text[]) AS r (name, verb)
          JOIN pg_class c ON c.oid = to_regclass(r.name)
          JOIN pg_roles app ON app.rolname = 'catalyst_app'
         WHERE pg_has_role(c.relowner, 'USAGE') AND has_table_privilege(app.oid, c.oid, r.verb)
        """,
        [name for name, _ in revoked],
        [verb for _, verb in revoked],
    )
    for right in held:
        await conn.execute(f"REVOKE {right['verb']} ON {right['name']} FROM catalyst_app")


def _compare(files: Sequence[Migration], applied: dict[str, str]) -> list[MigrationStatus]:
    states = dict.fromkeys(applied, MigrationState.UNKNOWN)
    for migration in files:
        applied_checksum = applied.get(migration.name)
        if applied_checksum is None:
            states[migration.name] = MigrationState.PENDING
        elif applied_checksum == migration.checksum:
            states[migration.name] = MigrationState.APPLIED
        else:
            states[migration.name] = MigrationState.CHANGED
    return [MigrationStatus(name, states[name]) for name in sorted(states)]


def _require_states(states: Sequence[MigrationStatus], *, allowed: MigrationState | None) -> None:
    wrong = [s for s in states if s.state not in (MigrationState.APPLIED, allowed)]
    if not wrong:
        return
    listed = ", ".join(f"{s.name} ({s.state})" for s in wrong)
    if any(s.state is MigrationState.CHANGED for s in wrong):
        advice = (
            "a migration file was edited after it was applied: install the release that made this database"
        )
    elif any(s.state is MigrationState.UNKNOWN for s in wrong):
        advice = "a newer release has migrated this database: install that release"
    else:
        advice = "run catalyst migrate"
    raise SchemaNotCurrent(f"the database's schema is not current: {listed}; {advice}")


def roles_sql() -> str:
    """Return SQL that creates the three missing roles and grants each what it needs, no more.

    A superuser or the database's owner runs it after `migrate`, as often as needed. The roles can log in once
    the operator gives them a password (ALTER ROLE ... PASSWORD ...) or pg_hba.conf allows them.
    """
    return _ROLES


# Rights of each role on a table and on a sequence, less those that the roles' SQL revokes from the daemon.
_RIGHTS: Final = {
    "catalyst_owner": ("ALL", "ALL"),
    "catalyst_app": ("SELECT, INSERT, UPDATE", "USAGE, SELECT"),  # a backup reads the sequences
    "catalyst_readonly": ("SELECT", ""),
}
REVOKED_RIGHTS: Final = re.compile(r"^REVOKE ([A-Z, ]+?) ON ([a-z_, ]+?) FROM catalyst_app;", re.M)

_ROLES: Final = """\
DO $$
DECLARE
    role text;
BEGIN
    FOREACH role IN ARRAY ARRAY['catalyst_owner', 'catalyst_app', 'catalyst_readonly'] LOOP
        IF NOT EXISTS (SELECT 1 FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I LOGIN', role);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
        EXECUTE format('ALTER ROLE %I IN DATABASE %I SET search_path = public', role, current_database());
    END LOOP;
    EXECUTE format('REVOKE CONNECT, CREATE, TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- The owner migrates, and drops old scan frames.
GRANT USAGE, CREATE ON SCHEMA public TO catalyst_owner;
GRANT ALL ON ALL TABLES IN SCHEMA public TO catalyst_owner;
GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO catalyst_owner;

-- The daemon and the commands: no DDL, no DELETE, no TRUNCATE, nothing rewritten in the journal.
GRANT USAGE ON SCHEMA public TO catalyst_app;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM catalyst_app;
GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO catalyst_app;
GRANT USAGE, SELECT ON ALL SEQUENCES IN SCHEMA public TO catalyst_app;
REVOKE UPDATE ON order_events FROM catalyst_app;
REVOKE INSERT, UPDATE ON journal_chain, journal_lock FROM catalyst_app;
REVOKE INSERT, UPDATE ON order_edges, schema_migrations FROM catalyst_app;
REVOKE INSERT ON daemon FROM catalyst_app;

-- Reports, screens and assistants: they read, for a bounded time, over a bounded number of connections.
GRANT USAGE ON SCHEMA public TO catalyst_readonly;
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM catalyst_readonly;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO catalyst_readonly;

-- What the owner creates later. Only a superuser or a member of the owner's role may say so; `migrate` grants it too.
DO $$
BEGIN
    IF pg_has_role('catalyst_owner', 'USAGE') THEN
        ALTER DEFAULT PRIVILEGES FOR ROLE catalyst_owner IN SCHEMA public
            GRANT SELECT, INSERT, UPDATE ON TABLES TO catalyst_app;
        ALTER DEFAULT PRIVILEGES FOR ROLE catalyst_owner IN SCHEMA public
            GRANT USAGE, SELECT ON SEQUENCES TO catalyst_app;
        ALTER DEFAULT PRIVILEGES FOR ROLE catalyst_owner IN SCHEMA public
            GRANT SELECT ON TABLES TO catalyst_readonly;
    END IF;
END $$;

ALTER ROLE catalyst_readonly CONNECTION LIMIT 10;
ALTER ROLE catalyst_readonly SET default_transaction_read_only = on;
ALTER ROLE catalyst_readonly SET statement_timeout = '5s';
ALTER ROLE catalyst_readonly SET lock_timeout = '2s';
ALTER ROLE catalyst_readonly SET idle_in_transaction_session_timeout = '30s';
"""
