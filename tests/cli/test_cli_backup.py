"""`catalyst backup` and `catalyst restore`: files that restore, what is deleted, and what is refused."""

import shutil
import stat
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cli.shell import Shell

from catalyst.backup.programs import client_folders
from catalyst.backup.restore import read_content
from catalyst.backup_files import BackupFile, backup_name, backups_in, expired_backups
from catalyst.store.migrate import migrations, roles_sql
from tests.conftest import PostgresServer

MONDAY = datetime(2026, 11, 30, 6, tzinfo=UTC)


def rows_of(postgres: PostgresServer, dsn: str) -> dict[str, int]:
    """Return the number of rows of every table."""

    async def count() -> dict[str, int]:
        conn = await asyncpg.connect(dsn)
        tables = await conn.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        counts = {
            row["tablename"]: await conn.fetchval(f"SELECT count(*) FROM {row['tablename']}")
            for row in tables
        }
        await conn.close()
        return counts

    found: dict[str, int] = postgres.run(count)
    return found


@pytest.fixture
def missing_database(postgres: PostgresServer) -> Iterator[str]:
    """Return the address of a database that does not exist; drop what a test created."""
    dsn = postgres.create()
    postgres.drop(dsn)
    yield dsn
    postgres.drop(dsn)


def test_backup_restores_into_a_new_database(
    traded_shell: Shell, postgres: PostgresServer, database: str, missing_database: str
) -> None:
    """The file is private and was read again; the restored database has every row, one journal line and one latch
    more, and tells that no broker answered."""
    written = traded_shell.read_json("backup")
    path = Path(written["path"])
    assert path.parent == traded_shell.folder / "share" / "catalyst" / "backups"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert (written["encrypted"], written["deleted"]) == (False, [])
    before = rows_of(postgres, database)
    assert written["tables"] == len(before)
    restored = traded_shell.read_json("restore", str(path), "--into", missing_database)
    assert (restored["database_created"], restored["migrations_applied"]) == (True, [])
    assert (restored["faults"], restored["broker_answered"]) == ([], False)
    added = {"order_events": 1, "journal_chain": 1, "latches": 1}
    after = rows_of(postgres, missing_database)
    assert after == {name: count + added.get(name, 0) for name, count in before.items()}
    assert rows_of(postgres, database) == before
    again = traded_shell.error_output("restore", str(path), "--into", missing_database)
    assert "the target is not empty" in again


def test_backup_restores_into_a_folder_of_the_embedded_server(traded_shell: Shell, tmp_path: Path) -> None:
    """`--into FOLDER` makes an embedded database; set as database.data_dir it has the trades, and entries are
    halted."""
    path = traded_shell.read_json("backup")["path"]
    completed = traded_shell.run("restore", path, "--into", "restored")
    assert completed.returncode == 0, completed.stderr
    assert "consistent: rows, journal, fills and proofs agree" in completed.stdout
    assert "set database.data_dir to restored" in completed.stdout
    (traded_shell.folder / "config.yaml").write_text("database:\n  data_dir: restored\n")
    orders = traded_shell.read_json("orders")
    embedded = Shell(traded_shell.folder, {"CATALYST_CLOCK": traded_shell.settings["CATALYST_CLOCK"]})
    assert embedded.read_json("orders") == orders
    halts = embedded.read_json("status", exit_code=1)["latches"]
    assert [(latch["name"], Path(path).name in latch["reason"]) for latch in halts][-1] == ("halt", True)


def test_plain_sql_and_older_schema_are_restored(
    traded_shell: Shell, database: str, postgres: PostgresServer, missing_database: str
) -> None:
    """A `.sql` of pg_dump, encrypted with gpg, restores; a migration that it lacks is applied; one that this release
    does not know refuses it before anything is created."""
    last = migrations()[-1].name
    plain = traded_shell.folder / "old.sql"
    dump = [client_folders()[max(client_folders())] / "pg_dump", "--no-owner", "--dbname", database]
    subprocess.run([*dump, "--file", plain], check=True)
    text = plain.read_text()
    unknown = traded_shell.folder / "unknown.sql"
    unknown.write_text(text.replace(f"{last}\t", "9999_of_tomorrow\t"))
    error = traded_shell.error_output("restore", str(unknown), "--into", missing_database, exit_code=78)
    assert "a newer release has migrated this database" in error
    assert "9999_of_tomorrow" in error
    newer = traded_shell.folder / "newer.sql"
    newer.write_text(text.replace("Dumped from database version ", "Dumped from database version 9"))
    error = traded_shell.error_output("restore", str(newer), "--into", missing_database)
    assert "restore into a server of 9" in error
    restored = traded_shell.read_json("restore", str(plain), "--into", missing_database)
    assert restored["faults"] == []


@pytest.mark.skipif(shutil.which("gpg") is None, reason="this machine has no gpg")
def test_encrypted_backup_restores_and_is_not_readable(
    traded_shell: Shell, missing_database: str, tmp_path: Path
) -> None:
    """With a recipient the file is encrypted; no readable copy stays; restore asks gpg for it."""
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    traded_shell.settings["GNUPGHOME"] = str(home)
    key = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--passphrase", ""]
    subprocess.run(
        [*key, "--quick-generate-key", "me@example.com", "default", "default", "never"], check=True
    )
    try:
        written = traded_shell.read_json("backup", "--encrypt", "me@example.com", "--name", "pre-upgrade")
        path = Path(written["path"])
        assert (path.name.startswith("pre-upgrade-"), path.suffixes[-2:]) == (True, [".dump", ".gpg"])
        assert b"PGDMP" not in path.read_bytes()
        assert {file.name for file in path.parent.iterdir()} == {path.name, ".lock"}
        restored = traded_shell.read_json("restore", str(path), "--into", missing_database)
        assert restored["faults"] == []
    finally:
        subprocess.run(["gpgconf", "--homedir", str(home), "--kill", "all"], check=True)


def test_failed_backup_leaves_no_file_and_says_why(shell: Shell, database: str, empty_database: str) -> None:
    """An unknown recipient, a missing program, an empty database and a folder that cannot be written are one sentence
    each, and no file has a backup's name."""
    shell.settings = {"DATABASE_URL": database}
    folder = shell.folder / "backups"
    if shutil.which("gpg") is not None:
        assert "gpg failed" in shell.error_output(
            "backup", "--into", str(folder), "--encrypt", "nobody@nowhere"
        )
    if shutil.which("age") is None:
        error = shell.error_output("backup", "--into", str(folder), "--encrypt", "age1qqqq")
        assert "there is no program age: install the package age" in error
    error = shell.error_output("backup", "--into", str(folder), "--name", "../out")
    assert "cannot be the name of a backup" in error
    (shell.folder / "file").touch()
    assert "cannot be written to" in shell.error_output("backup", "--into", str(shell.folder / "file" / "x"))
    shell.settings = {"DATABASE_URL": empty_database}
    assert "there is nothing to back up" in shell.error_output("backup", "--into", str(folder))
    assert backups_in(folder) == []
    error = shell.error_output("restore", str(shell.folder / "file"), "--into", empty_database)
    assert "is no backup" in error


def test_role_of_the_daemon_may_back_up(shell: Shell, database: str, postgres: PostgresServer) -> None:
    """The rights of catalyst_app suffice, so the service backs up with the daemon's own login."""

    async def grant() -> None:
        conn = await asyncpg.connect(database)
        await conn.execute(roles_sql())
        await conn.close()

    postgres.run(grant)
    separator = "&" if "?" in database else "?"
    shell.settings = {"DATABASE_URL": f"{database}{separator}options=-c%20role%3Dcatalyst_app"}
    assert shell.read_json("backup")["tables"] > 30


def test_daily_backups_of_seven_days_are_kept() -> None:
    """The newest backup of each of the last seven days with one stays, and all of the last day; others are deleted, and
    a backup with a name of its own never is."""
    nights = [BackupFile(Path(f"{day}"), "catalyst", MONDAY - timedelta(days=day)) for day in range(9)]
    again = BackupFile(Path("again"), "catalyst", MONDAY + timedelta(hours=4))
    earlier = BackupFile(Path("earlier"), "catalyst", MONDAY - timedelta(days=3, hours=2))
    old = BackupFile(Path("old"), "pre-upgrade", MONDAY - timedelta(days=99))
    expired = expired_backups([old, earlier, *nights, again], keep_days=7)
    assert {str(file.path) for file in expired} == {"7", "8", "earlier"}
    assert expired_backups([nights[8]], keep_days=1) == []


def test_names_of_backups_are_read_back(tmp_path: Path) -> None:
    """Only complete backups count; a partial file and another program's file do not."""
    name = backup_name("catalyst", MONDAY)
    for other in (f"{name}.gpg", f"{name}.partial", "notes.txt", ".lock"):
        (tmp_path / other).touch()
    assert name == "catalyst-20261130T060000Z.dump"
    assert backups_in(tmp_path) == [BackupFile(tmp_path / f"{name}.gpg", "catalyst", MONDAY)]
    assert backups_in(tmp_path / "nowhere") == []


def test_content_of_another_systems_backup(tmp_path: Path) -> None:
    """A dump without migrations is another system's; text without a table is no backup."""
    sql = tmp_path / "old.sql"
    sql.write_text("-- Dumped from database version 15.4 (Debian)\nCREATE TABLE public.orders (id int);\n")
    content: Any = read_content(sql)
    assert (content.server_version, content.migrations) == (15, None)
