"""Restores a backup into an empty database: its version and its migrations are checked before a row is written.

A backup in pg_dump's custom format is turned into SQL first, so that it and a plain `.sql` take the same way: psql, in
one transaction, which a failed restore leaves empty.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import takewhile
from pathlib import Path
from typing import Final

import asyncpg

from catalyst.backup.encryption import decrypt
from catalyst.backup.programs import newest_folder, run_program
from catalyst.domain.errors import UserError
from catalyst.store.create_database import OWNER, create_empty_database
from catalyst.store.migrate import MIGRATIONS_FOLDER, migrate, require_known
from catalyst.store.pool import Connection, connected
from catalyst.store.restores import record_restore

_MAGIC: Final = b"PGDMP"  # the first bytes of pg_dump's custom format
_ENCRYPTED: Final = (".age", ".gpg")
_VERSION: Final = "-- Dumped from database version "
_ROWS: Final = "COPY "
_MIGRATIONS: Final = "COPY public.schema_migrations ("
# Lines before the first rows that this server may refuse: a setting of newer ones, a schema that every database has.
_LEFT_OUT: Final = frozenset({"SET transaction_timeout = 0;", "CREATE SCHEMA public;"})
_RELATIONS: Final = """
    SELECT count(*) FROM pg_class c
     WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')
       AND NOT EXISTS (SELECT 1 FROM pg_depend d WHERE d.objid = c.oid AND d.deptype = 'e')
"""


@dataclass(frozen=True, slots=True)
class BackupContent:
    """What a backup says about itself. `migrations` is None when it has no table of migrations."""

    server_version: int | None
    migrations: dict[str, str] | None


@dataclass(frozen=True, slots=True)
class RestoredBackup:
    """One finished restore: `migrated` were applied after it; `is_catalyst` is false for another system's tables."""

    content: BackupContent
    created: bool
    migrated: tuple[str, ...]

    @property
    def is_catalyst(self) -> bool:
        return self.content.migrations is not None


def unpack(backup: Path, folder: Path, *, identity: Path | None = None) -> Path:
    """Return the file with the backup's SQL: `backup` itself, or a file in `folder`. Raises UserError."""
    source = backup
    try:
        if backup.suffix in _ENCRYPTED:
            source = folder / backup.stem
            decrypt(backup, source, identity=identity)
        with source.open("rb") as file:
            is_archive = file.read(len(_MAGIC)) == _MAGIC
    except OSError as error:
        raise UserError(f"{backup} cannot be read: {error.strerror or error}") from None
    if not is_archive:
        return source
    sql = folder / "backup.sql"
    arguments: list[str | Path] = ["--no-owner", "--no-privileges", "--file", sql, source]
    run_program(newest_folder() / "pg_restore", arguments)
    return sql


def read_content(sql: Path) -> BackupContent:
    """Return the server's release and the migrations that the SQL names. Raises UserError when it has no table."""
    version, migrations, has_tables = None, None, False
    with sql.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if line.startswith(_VERSION) and version is None:
                version = int(line.removeprefix(_VERSION).partition(".")[0].split()[0])
            has_tables |= line.startswith("CREATE TABLE ")
            if line.startswith(_MIGRATIONS):
                migrations = _migrations(line, takewhile(lambda row: row != "\\.\n", lines))
    if not has_tables:
        raise UserError("the file is no backup of a database: it creates no table")
    return BackupContent(version, migrations)


def _migrations(header: str, rows: Iterator[str]) -> dict[str, str]:
    """Return the checksum of each migration by its name, from the rows of a COPY."""
    columns = header.partition("(")[2].partition(")")[0].split(", ")
    name, checksum = columns.index("name"), columns.index("checksum")
    fields = (row.rstrip("\n").split("\t") for row in rows)
    return {row[name]: row[checksum] for row in fields}


async def restore(
    sql: Path, content: BackupContent, dsn: str, folder: Path, *, backup: str, by: str, at: datetime
) -> RestoredBackup:
    """Restore the SQL into the database of `dsn`, which is created when there is none, and bring its schema up to date.

    `backup`, `by` and `at` go into its journal, see `record_restore`.
    Raises UserError when the database is not empty, older than the backup's, or when the SQL fails: then it is empty.
    """
    if content.migrations is not None:
        require_known(content.migrations, folder=MIGRATIONS_FOLDER)
    try:
        owner = await _check_target(dsn, content)
        created = False
    except asyncpg.InvalidCatalogNameError:
        await create_empty_database(dsn)
        owner, created = await _check_target(dsn, content), True
    loadable = folder / "loadable.sql"
    _write_loadable(sql, loadable)
    arguments = ["--no-psqlrc", "--quiet", "--no-password", "--single-transaction", "--output=/dev/null"]
    run_program(
        newest_folder() / "psql",
        [*arguments, "--set=ON_ERROR_STOP=1", "--file", loadable],
        dsn=dsn,
        options=f"-c role={owner}" if owner else "",
    )
    applied = tuple(await migrate(dsn)) if content.migrations is not None else ()
    async with connected(dsn, "catalyst restore", statement_timeout=0) as conn:
        if content.migrations is not None:
            async with conn.transaction():
                await record_restore(conn, backup=backup, by=by, at=at)
        await conn.execute("ANALYZE")
    return RestoredBackup(content, created, applied)


async def _check_target(dsn: str, content: BackupContent) -> str | None:
    """Check that the target is empty and not older than the backup; return the role that shall own the tables."""
    async with connected(dsn, "catalyst restore") as conn:
        relations = await conn.fetchval(_RELATIONS)
        if relations:
            raise UserError(
                f"the target is not empty ({relations} tables and views): name a new database or folder; a restore "
                "never overwrites one"
            )
        version = await conn.fetchval("SELECT current_setting('server_version_num')::int / 10000")
        if content.server_version is not None and content.server_version > version:
            raise UserError(
                f"the backup is of PostgreSQL {content.server_version} and the target has {version}: restore into a "
                f"server of {content.server_version} or newer"
            )
        return await _owner_role(conn)


async def _owner_role(conn: Connection) -> str | None:
    """Return catalyst_owner when the database belongs to it and this role may act as it, else None."""
    owned = await conn.fetchval(
        """
        SELECT pg_has_role(r.oid, 'MEMBER') AND r.rolname <> current_user
          FROM pg_database d JOIN pg_roles r ON r.oid = d.datdba
         WHERE d.datname = current_database() AND r.rolname = $1
        """,
        OWNER,
    )
    return OWNER if owned else None


def _write_loadable(sql: Path, target: Path) -> None:
    """Copy the SQL without the lines that a server may refuse; only lines before the first rows can be such."""
    with sql.open("rb") as source, target.open("wb") as copy:
        in_rows = False
        for line in source:
            in_rows = in_rows or line.startswith(_ROWS.encode())
            if in_rows or line.decode(errors="replace").strip() not in _LEFT_OUT:
                copy.write(line)
