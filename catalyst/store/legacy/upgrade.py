"""Upgrade of the earlier Catalyst's database: one transaction, so that a kill at any statement changes nothing.

The old tables move to the schema `legacy`, as they are. The migrations create the tables of this release, and the rows
are copied. Until the upgrade is finalized it can be rolled back by moving the tables once more.
"""

from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final

import asyncpg

from catalyst.domain.errors import UserError
from catalyst.domain.fault_points import FaultPoint, Moment, reach
from catalyst.domain.session import trading_date
from catalyst.store.legacy import copying, mapping
from catalyst.store.legacy.comparison import compare
from catalyst.store.legacy.old_tables import read_statements
from catalyst.store.legacy.recognition import (
    OLD_FUNCTIONS,
    OLD_SCHEMA,
    OLD_VIEWS,
    LegacyDatabase,
    recognise,
    require_idle,
)
from catalyst.store.migrate import apply_pending, grant_missing_rights, hold_migration_lock, migrations
from catalyst.store.pool import Connection, connected

CreateBackup = Callable[[], Awaitable[str]]  # returns where the backup is

_ROWS: Final = ("INSERT", "UPDATE", "SELECT")  # results of statements that count rows


@dataclass(frozen=True, slots=True)
class DoneStatement:
    """A statement of the upgrade and how many rows it wrote; None where it counts none."""

    name: str
    sql: str
    rows: int | None


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade found and did. `counts` are (before, after, kept)."""

    found: str
    backup: str | None
    statements: tuple[DoneStatement, ...]
    counts: dict[str, tuple[Decimal, Decimal, Decimal]]
    notes: tuple[str, ...]


class _DryRun(Exception):
    """Ends the transaction of a dry run, which rolls it back."""


async def upgrade(
    dsn: str,
    *,
    now: datetime,
    create_backup: CreateBackup,
    dry_run: bool = False,
    fault_point: FaultPoint | None = None,
) -> Upgrade | None:
    """Upgrade the earlier Catalyst's database; None when the database is empty or of this release.

    A dry run executes everything and rolls it back, without a backup. Raises UserError when a cycle is active, when
    rows or sums differ afterwards, or when the backup fails; nothing has changed then.
    """
    async with connected(dsn, "catalyst migrate", statement_timeout=0, lock_timeout=60_000) as conn:
        await hold_migration_lock(conn)
        found = await recognise(conn)
        if found is None:
            return None
        await require_idle(conn, found, now)
        backup = None if dry_run else await create_backup()
        try:
            return await _upgrade_in_one_transaction(conn, found, now, backup, fault_point)
        except _DryRun as done:
            (result,) = done.args
            assert isinstance(result, Upgrade)
            return result
        except asyncpg.InsufficientPrivilegeError as error:
            raise UserError(
                f"the role of DATABASE_URL may not upgrade ({error.args[0]}): use the address of the owner of the "
                "database and its tables, or of the server's administrator"
            ) from None


async def _upgrade_in_one_transaction(
    conn: Connection, found: LegacyDatabase, now: datetime, backup: str | None, fault_point: FaultPoint | None
) -> Upgrade:
    """Run every statement and commit; without a backup roll back and raise _DryRun."""
    done: list[DoneStatement] = []

    async def run(statements: Iterator[tuple[str, str]]) -> None:
        for name, sql in statements:
            reach(fault_point, name, Moment.BEFORE)
            tag, _, count = (await conn.execute(sql)).rpartition(" ")
            reach(fault_point, name, Moment.AFTER)
            rows = int(count) if count.isdigit() and tag.split(" ")[0] in _ROWS else None
            done.append(DoneStatement(name, " ".join(sql.split()), rows))

    async with conn.transaction():
        await run(_move_statements(found, "public", OLD_SCHEMA))
        files = migrations()
        for number, migration in enumerate(files, start=1):
            name = f"migration {migration.name}"
            reach(fault_point, name, Moment.BEFORE)
            await apply_pending(conn, files[:number])
            reach(fault_point, name, Moment.AFTER)
            done.append(DoneStatement(name, f"migrations/{migration.name}.sql", None))
        await run(iter((_day_statement(now),)))
        await run(read_statements(found))
        await run(iter(mapping.STATEMENTS))
        await run(iter(copying.STATEMENTS))
        await run(copying.kept_statements(found))
        counts, notes = await compare(conn)
        result = Upgrade(found.state, backup, tuple(done), counts, tuple(notes))
        if backup is None:
            raise _DryRun(result)
        reach(fault_point, "record", Moment.BEFORE)
        await conn.execute(
            "INSERT INTO legacy_upgrades (upgraded_at, found, backup, counts) VALUES ($1, $2, $3, $4)",
            now,
            found.state,
            backup,
            {name: [str(value) for value in values] for name, values in counts.items()},
        )
        await grant_missing_rights(conn)
        reach(fault_point, "commit", Moment.BEFORE)
    reach(fault_point, "commit", Moment.AFTER)
    return result


def _day_statement(now: datetime) -> tuple[str, str]:
    day = trading_date(now)
    return "note the day", f"CREATE TEMP TABLE upgrade_day ON COMMIT DROP AS SELECT date '{day}' AS day"


def _move_statements(found: LegacyDatabase, source: str, target: str) -> Iterator[tuple[str, str]]:
    """Yield the statements that move the old tables; indexes, sequences and triggers move with their table."""
    tables = list(found.columns)
    listed = ", ".join(f"{source}.{table}" for table in tables)
    yield "wait for other sessions to leave the old tables", f"LOCK TABLE {listed} IN ACCESS EXCLUSIVE MODE"
    yield f"create the schema {target}", f"CREATE SCHEMA {target}"
    for table in tables:
        yield f"move the old {table}", f"ALTER TABLE {source}.{table} SET SCHEMA {target}"
    for view in OLD_VIEWS:
        yield f"move the old {view}", f"ALTER VIEW IF EXISTS {source}.{view} SET SCHEMA {target}"
    for function in OLD_FUNCTIONS:
        yield f"move the old {function}", _move_function(function, source, target)


def _move_function(name: str, source: str, target: str) -> str:
    return f"""
        DO $$ DECLARE f regprocedure; BEGIN
            FOR f IN SELECT oid FROM pg_proc WHERE proname = '{name}' AND pronamespace = '{source}'::regnamespace LOOP
                EXECUTE format('ALTER FUNCTION %s SET SCHEMA {target}', f);
            END LOOP;
        END $$
    """  # noqa: S608 -- the names of OLD_FUNCTIONS
