"""Commands on the database itself: `migrate --create`, `psql`, `doctor --db`."""

from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from cli.shell import Shell
from typer.testing import CliRunner

from catalyst.cli.app import app
from catalyst.config.schema import Config
from catalyst.domain.errors import UserError
from catalyst.domain.secret_mask import MASK
from catalyst.store.migrate import roles_sql
from tests.conftest import PostgresServer

PASSWORD = "hunter2-secret"


def with_password(dsn: str) -> str:
    """Return the address with a password, for which a Unix socket does not ask."""
    return dsn.replace("://catalyst@", f"://catalyst:{PASSWORD}@")


def test_created_database_prints_only_the_daemons_line(shell: Shell, postgres: PostgresServer) -> None:
    """`migrate --create >> .env` appends one line, with the new password and not the administrator's; run again, it
    appends nothing and says which line it was."""
    name = f"catalyst_created_{id(shell)}"
    shell.settings = {"DATABASE_URL": with_password(postgres.dsn_of(name))}
    try:
        completed = shell.run("migrate", "--create", "--login", f"{name}_daemon", "--new-password")
        assert completed.returncode == 0, completed.stderr
        (line,) = completed.stdout.splitlines()
        assert line.startswith(f"DATABASE_URL=postgresql://{name}_daemon:")
        password = urlsplit(line.partition("=")[2]).password
        assert password is not None
        assert len(password) >= 32
        assert MASK not in line
        assert password not in completed.stderr
        assert "migrations applied" in completed.stderr
        again = shell.run("migrate", "--create", "--login", f"{name}_daemon")
        assert (again.returncode, again.stdout) == (0, "")
        assert f"existed: its line of .env is DATABASE_URL=postgresql:///{name}" in again.stderr
        assert PASSWORD not in again.stderr
    finally:

        async def drop() -> None:
            conn = await asyncpg.connect(postgres.admin_dsn)
            await conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
            await conn.execute(f"DROP ROLE IF EXISTS {name}_daemon")
            await conn.close()

        postgres.run(drop)


def test_create_needs_a_server_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded database creates itself."""
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="set DATABASE_URL to its administrator's address"):
        CliRunner().invoke(app, ["migrate", "--create"], catch_exceptions=False)


def test_psql_shows_no_password_and_reads_only(shell: Shell, database: str) -> None:
    """psql runs on the configured database; its command line has no password; changes need --write."""
    shell.settings = {"DATABASE_URL": with_password(database)}
    change = ("-c", "INSERT INTO sectors (name) VALUES ('x')")
    shown = ("-Atc", "SELECT count(*) FROM orders", *change, "-c", r"\! tr '\0' ' ' < /proc/$PPID/cmdline")
    completed = shell.run("psql", "--", *shown)
    assert completed.returncode == 0, completed.stderr
    assert completed.stdout.splitlines()[0] == "0"
    assert "SELECT count(*) FROM orders" in completed.stdout
    assert PASSWORD not in completed.stdout
    assert "cannot execute INSERT in a read-only transaction" in completed.stderr
    assert shell.run("psql", "--write", "--", *change).stdout == "INSERT 0 1\n"


def test_doctor_reports_on_the_database(shell: Shell, database: str) -> None:
    """Sizes, sessions and settings are shown; a warning, here of the test server, makes the exit code 1."""
    shell.settings = {"DATABASE_URL": database}
    completed = shell.run("doctor", "--db", "--pretty")
    assert completed.returncode == 1, completed.stdout + completed.stderr
    for text in (
        "WARNING   autovacuum is off",
        "alerts_by_key",
        "catalyst cli",
        "log_min_duration_statement",
        "scan frames: 0",
        "flat proofs: 0 files",
    ):
        assert text in completed.stdout, text


def test_retention_counts_and_deletes_old_frames(
    postgres: PostgresServer, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command counts, deletes with --apply, and names whose address it needs for the daemon's role."""

    async def write() -> None:
        conn = await asyncpg.connect(database)
        await conn.execute(
            """
            INSERT INTO trading_cycles (cycle_id, cycle_date, mode, max_positions, max_daily_loss, scan_frequency,
                                        start_time, updated_at, config_hash)
            VALUES ('20200102-093000', '2020-01-02', 'supervised', 5, 2000, 1800, '2020-01-02', '2020-01-02', 'hash');
            INSERT INTO scans (cycle_id, started_at, finished_at, universe, counts, milliseconds)
            SELECT cycle_id, start_time, start_time, 1, '{}', '{}' FROM trading_cycles;
            INSERT INTO scan_frames SELECT scan_id, 'f', 1, 'x' FROM scans;
            """
        )
        await conn.execute(roles_sql())
        await conn.close()

    postgres.run(write)
    monkeypatch.chdir(tmp_path)

    def run(dsn: str, *arguments: str) -> str:
        monkeypatch.setenv("DATABASE_URL", dsn)
        return CliRunner().invoke(app, ["retention", *arguments], catch_exceptions=False).stdout

    kept = f"1 scan frames older than {Config().database.keep_scan_frames_days} days"
    assert run(database) == f"{kept} would be deleted\n"
    with pytest.raises(UserError, match="set DATABASE_URL to the address of the database's owner"):
        run(f"{database}{'&' if '?' in database else '?'}role=catalyst_app", "--apply")
    assert run(database, "--apply") == f"{kept} deleted\n"
    assert run(database).startswith("0 scan frames")
