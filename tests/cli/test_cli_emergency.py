"""Emergency commands as a user gives them: without a daemon, a valid configuration or a database, and interrupted."""

import json
import signal
from dataclasses import fields
from datetime import UTC, datetime
from typing import Any

import asyncpg
import pytest
from cli.shell import TIMEOUT_S, Shell

from catalyst.cli.command_lines import flatten_line
from catalyst.clock import ScaledClock
from catalyst.daemon.exits.flat_proof import FlatProof
from catalyst.store.account_lock import lock_key

BROKEN_CONFIG = "risk: {max_positons: 3}\ntrading: {mode: sim}\n  this is: [no YAML\nbroker: {simulator: 'http://127.0.0.1:9'}\n"


def query(postgres: Any, database: str, sql: str, *arguments: object) -> list[dict[str, Any]]:
    """Run one statement on the database and return its rows."""

    async def run() -> list[dict[str, Any]]:
        conn = await asyncpg.connect(database)
        try:
            return [dict(row) for row in await conn.fetch(sql, *arguments)]
        finally:
            await conn.close()

    rows: list[dict[str, Any]] = postgres.run(run)
    return rows


def test_halt_without_a_daemon_leaves_a_latch_and_a_command(
    traded_shell: Shell, postgres: Any, database: str
) -> None:
    """With a broken config.yaml and no daemon, a halt is stored for the next start; a resume names what is missing."""
    (traded_shell.folder / "config.yaml").write_text(BROKEN_CONFIG)
    completed = traded_shell.run("halt", "--reason", "lunch")
    assert completed.returncode == 0, completed.stderr
    assert "halted: lunch; no daemon is running, the next start obeys" in completed.stdout
    assert "the configuration is not valid, only its addresses are used" in completed.stderr
    [latch] = query(postgres, database, "SELECT name, reason FROM latches WHERE cleared_at IS NULL")
    assert latch == {"name": "halt", "reason": "lunch"}
    [command] = query(
        postgres, database, "SELECT kind, taken_at FROM commands ORDER BY command_id DESC LIMIT 1"
    )
    assert command == {"kind": "halt", "taken_at": None}
    assert "start it with `catalyst run`" in traded_shell.run("resume").stderr


def test_halt_beside_a_daemon_of_another_release_is_stored(
    traded_shell: Shell, postgres: Any, database: str
) -> None:
    """With a migration that this program does not know, a halt is stored; without the database, the text says that a
    daemon goes on, and what stops it."""
    sql = "INSERT INTO schema_migrations (name, checksum, applied_at) VALUES ('9999_newer', 'x', now())"
    query(postgres, database, sql)
    completed = traded_shell.run("halt", "--reason", "lunch")
    assert completed.returncode == 0, completed.stderr
    [latch] = query(postgres, database, "SELECT name, reason FROM latches WHERE cleared_at IS NULL")
    assert latch == {"name": "halt", "reason": "lunch"}
    assert "install that release" in traded_shell.run("resume").stderr
    lost = traded_shell.run("halt", DATABASE_URL="postgresql://trader@127.0.0.1:1/books")
    assert lost.returncode == 1
    assert "is not stored. A daemon that still reaches its database GOES ON entering" in lost.stderr
    assert "use `catalyst flatten`, or send its process SIGTERM" in lost.stderr


def test_flatten_names_why_it_is_not_proven() -> None:
    """The line of a flatten that is not proven holds the daemon's reason, in the daemon's own key."""
    proof_field = "unproven_reason"
    assert proof_field in {field.name for field in fields(FlatProof)} | set(dir(FlatProof))
    line = flatten_line(
        {"flat": False, "market_open": True, "held": ["20 AAPL"], proof_field: "20 AAPL remain"}
    )
    assert line.startswith("NOT proven flat: 20 AAPL remain; ")


def test_flatten_that_nobody_can_carry_out_stays_requested(
    traded_shell: Shell, postgres: Any, database: str
) -> None:
    """Without a daemon and a known account, the flatten has its row: a daemon that is starting takes it."""
    completed = traded_shell.run("flatten", "--yes", TRADING_MODE="papre")
    assert completed.returncode == 78, completed.stderr
    assert "the flatten stays requested: the daemon, or the next one, carries it out" in completed.stderr
    rows = query(postgres, database, "SELECT kind FROM commands WHERE answered_at IS NULL")
    assert [row["kind"] for row in rows] == ["flatten"]


@pytest.mark.parametrize("command", ["status", "doctor"])
def test_showing_commands_need_no_valid_configuration(traded_shell: Shell, command: str) -> None:
    """With a broken config.yaml and a broken variable, status and doctor show the database's facts and the error."""
    (traded_shell.folder / "config.yaml").write_text(BROKEN_CONFIG)
    completed = traded_shell.run(command, *(["--json"] if command == "status" else []), MAX_POSITIONS="many")
    assert completed.returncode in (1, 2)
    assert "only its addresses are used: config.yaml, line 3" in completed.stderr
    assert json.loads(completed.stdout)


def test_flatten_without_daemon_and_database_says_what_to_do(shell: Shell) -> None:
    """Without database and broker nothing is sold, and one sentence says so; the same when the account is not known."""
    (shell.folder / "config.yaml").write_text(BROKEN_CONFIG)
    shell.settings = {"DATABASE_URL": "postgresql://trader:hunter2-secret@127.0.0.1:1/books"}
    unknown = shell.run("flatten", "--yes", TRADING_MODE="papre")
    assert unknown.returncode == 78, unknown.stderr
    assert "which account is meant is not known: TRADING_MODE is not valid" in unknown.stderr
    ScaledClock.create(shell.folder / "clock", datetime(2026, 4, 8, 14, 15, tzinfo=UTC))
    clock = {"CATALYST_CLOCK": str(shell.folder / "clock"), "CATALYST_CLOCK_SPEED": "600"}
    nothing = shell.run("flatten", "--yes", **clock)
    assert nothing.returncode == 1, nothing.stderr
    assert "neither the database nor the broker at http://127.0.0.1:9 can be used" in nothing.stderr
    assert "nothing was sold; use the broker's own app" in nothing.stderr
    assert "hunter2" not in nothing.stderr + unknown.stderr


@pytest.mark.parametrize(
    ("arguments", "number", "withdrawn"),
    [
        (("resume",), signal.SIGINT, True),
        (("scan", "--trade"), signal.SIGTERM, True),
        (("approve", "1"), signal.SIGHUP, True),
        (("flatten", "--yes"), signal.SIGTERM, False),
        (("halt",), signal.SIGTERM, False),
    ],
)
def test_interrupted_command_to_trade_is_withdrawn(
    traded_shell: Shell,
    postgres: Any,
    database: str,
    arguments: tuple[str, ...],
    number: signal.Signals,
    withdrawn: bool,
) -> None:
    """A command whose sender is interrupted before a daemon takes it is withdrawn; one that only sells or stops stays,
    and a halt has its latch already: the daemon may hang for ever."""
    [daemon] = query(postgres, database, "SELECT account_id FROM daemon")

    async def interrupt() -> None:
        conn = await asyncpg.connect(database)  # stands for a daemon that holds the account and is stopped
        try:
            await conn.execute("SELECT pg_advisory_lock($1)", lock_key(daemon["account_id"]))
            process = traded_shell.start_process("command", *arguments)
            try:
                while not await conn.fetchval("SELECT count(*) FROM commands WHERE answered_at IS NULL"):
                    assert process.poll() is None, traded_shell.log("command")
                process.send_signal(number)
                assert process.wait(TIMEOUT_S) == 128 + number, traded_shell.log("command")
            finally:
                process.kill()
        finally:
            await conn.close()

    postgres.run(interrupt)
    [command] = query(
        postgres, database, "SELECT answered_at, result FROM commands ORDER BY command_id DESC LIMIT 1"
    )
    assert (command["answered_at"] is not None) is withdrawn
    latches = query(postgres, database, "SELECT name FROM latches WHERE cleared_at IS NULL")
    assert [latch["name"] for latch in latches] == (["halt"] if arguments == ("halt",) else [])
    log = traded_shell.log("command")
    assert ("is withdrawn" if withdrawn else "stays requested") in log
