"""Migrations: applied once, in order and unchanged, by any process."""

import asyncio
import sys
from pathlib import Path

import asyncpg
import pytest

from catalyst.store import migrate
from catalyst.store.migrate import MigrationState, SchemaNotCurrent
from catalyst.store.pool import Store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "0001_first.sql").write_text("CREATE TABLE first (x integer);")
    (tmp_path / "0002_second.sql").write_text(
        "CREATE TABLE second (x integer); INSERT INTO second VALUES (1);"
    )
    return tmp_path


async def test_second_migration_run_applies_nothing(empty_database: str):
    """The first run returns every migration, the second none."""
    names = [migration.name for migration in migrate.migrations()]
    assert await migrate.migrate(empty_database) == names
    assert await migrate.migrate(empty_database) == []
    states = await migrate.status(empty_database)
    assert [(s.name, s.state) for s in states] == [(name, MigrationState.APPLIED) for name in names]


async def test_migration_status_of_empty_database_changes_nothing(empty_database: str):
    """Reading the status creates no table."""
    assert {s.state for s in await migrate.status(empty_database)} == {MigrationState.PENDING}
    conn = await asyncpg.connect(empty_database)
    assert await conn.fetchval("SELECT to_regclass('schema_migrations')") is None
    await conn.close()


async def test_concurrent_migrations_apply_each_once(empty_database: str):
    """Two processes start together: each migration is applied once, and both succeed."""
    code = "import asyncio, sys; from catalyst.store import migrate; print(asyncio.run(migrate.migrate(sys.argv[1])))"
    both = [
        await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, empty_database, stdout=asyncio.subprocess.PIPE
        )
        for _ in range(2)
    ]
    outputs = [(await process.communicate())[0].decode().strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    names = [migration.name for migration in migrate.migrations()]
    assert sorted(outputs) == sorted([str(names), "[]"])


async def test_changed_migration_is_refused_before_any_change(empty_database: str, folder: Path):
    """An edited file stops the run before a pending migration is applied; the message names the edited file."""
    await migrate.migrate(empty_database, folder=folder)
    (folder / "0001_first.sql").write_text("CREATE TABLE first (y integer);")
    (folder / "0003_third.sql").write_text("CREATE TABLE third (x integer);")
    with pytest.raises(SchemaNotCurrent, match=r"0001_first \(changed\).*edited"):
        await migrate.migrate(empty_database, folder=folder)
    states = {s.name: s.state for s in await migrate.status(empty_database, folder=folder)}
    assert states["0003_third"] is MigrationState.PENDING


async def test_database_of_newer_release_is_refused(empty_database: str, folder: Path):
    """An applied migration without a file means a newer release wrote this database; migrate refuses it."""
    await migrate.migrate(empty_database, folder=folder)
    (folder / "0002_second.sql").unlink()
    with pytest.raises(SchemaNotCurrent, match="newer release"):
        await migrate.migrate(empty_database, folder=folder)


async def test_failing_migration_is_rolled_back_alone(empty_database: str, folder: Path):
    """Each migration is one transaction; the run can be repeated after the file is corrected."""
    (folder / "0002_second.sql").write_text("CREATE TABLE second (x integer); SELECT 1/0;")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate.migrate(empty_database, folder=folder)
    conn = await asyncpg.connect(empty_database)
    assert await conn.fetchval("SELECT to_regclass('first') IS NOT NULL AND to_regclass('second') IS NULL")
    await conn.close()
    (folder / "0002_second.sql").write_text("CREATE TABLE second (x integer);")
    assert await migrate.migrate(empty_database, folder=folder) == ["0002_second"]


def test_gap_in_migration_numbers_is_an_error(folder: Path):
    """A gap in the file numbers is an error."""
    (folder / "0004_fourth.sql").write_text("")
    with pytest.raises(SchemaNotCurrent, match="0003"):
        migrate.migrations(folder)


def test_missing_migrations_folder_is_an_error(tmp_path: Path):
    """A missing folder is an error, not an empty schema."""
    with pytest.raises(SchemaNotCurrent, match="incomplete"):
        migrate.migrations(tmp_path / "nowhere")


async def test_unmigrated_database_is_refused_by_daemon(empty_database: str):
    """For a database without migrations the error names the command to run."""
    conn = await asyncpg.connect(empty_database)
    with pytest.raises(SchemaNotCurrent, match="run catalyst migrate"):
        await migrate.require_current(conn)
    await conn.close()


async def test_current_database_passes_migration_check(store: Store):
    """After migrate, the check passes."""
    async with store.read() as conn:
        await migrate.require_current(conn)


def test_migrations_do_not_read_server_clock():
    """Times come from the caller, because the daemon's clock may differ from the server's."""
    for migration in migrate.migrations():
        code = " ".join(line.split("--")[0] for line in migration.sql.lower().splitlines())
        for word in ("now()", "current_timestamp", "current_date", "localtimestamp", "clock_timestamp"):
            assert word not in code, migration.name
