"""Failures at the start of a command: one sentence that says what to do, and the exit code for systemd."""

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from cli.shell import Shell
from pydantic import BaseModel

from catalyst.clock import ScaledClock
from catalyst.config.schema import Config

ROOT = Path(__file__).parents[2]
RETIRED = {"session.market_open", "session.market_close"}


def leaf_keys(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Return every key of the configuration that holds a value."""
    keys: set[str] = set()
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            keys |= leaf_keys(inner, f"{prefix}{name}.")
        else:
            keys.add(prefix + name)
    return keys


def test_repository_config_file_holds_every_default() -> None:
    """config.yaml has every key, with its default value."""
    tree = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert Config.model_validate(tree) == Config()
    named = {f"{section}.{key}" for section, keys in tree.items() for key in keys}
    assert named == leaf_keys(Config) - RETIRED


def test_command_names_the_nearest_key_when_one_is_misspelt(shell: Shell) -> None:
    """An unknown key exits with 78, and the message names the nearest valid key."""
    (shell.folder / "config.yaml").write_text("risk: {max_positons: 3}\n")
    assert "did you mean risk.max_positions?" in shell.error_output("run", exit_code=78)
    assert "did you mean risk.max_positions?" in shell.error_output("migrate", exit_code=78)


def test_run_command_names_the_missing_config_file(shell: Shell) -> None:
    """Only ./config.yaml may be missing; a file given with --config must exist."""
    assert "nowhere.yaml does not exist" in shell.error_output(
        "run", "--config", "nowhere.yaml", exit_code=78
    )


def test_command_hides_the_password_when_the_database_is_unreachable(shell: Shell) -> None:
    """The message has the database's address and not its password."""
    shell.settings = {"DATABASE_URL": "postgresql://trader:hunter2-secret@127.0.0.1:1/books"}
    for verb in (("status",), ("run",), ("migrate",), ("migrate", "--status"), ("report",)):
        message = shell.error_output(*verb)
        assert "127.0.0.1:1/books" in message
        assert "hunter2" not in message
    shell.settings = {"DATABASE_URL": "postgresql://trader:hunter2-secret@127.0.0.1:1,127.0.0.1:2/books"}
    message = shell.error_output("migrate", "--status")
    assert "127.0.0.1:1,127.0.0.1:2/books" in message
    assert "hunter2" not in message


def test_migrate_command_refuses_an_invalid_database_url(shell: Shell) -> None:
    """A DATABASE_URL that is not a PostgreSQL address is refused with an example."""
    shell.settings = {"DATABASE_URL": "books"}
    assert "write postgresql://" in shell.error_output("migrate", exit_code=78)


def test_run_command_refuses_an_unmigrated_database(shell: Shell, empty_database: str) -> None:
    """The daemon never changes the schema; `catalyst migrate` does, and a second run changes nothing."""
    shell.settings = {"DATABASE_URL": empty_database}
    assert "run catalyst migrate" in shell.error_output("run", exit_code=78)
    assert {row["state"] for row in shell.read_json("migrate", "--status", exit_code=1)} == {"pending"}
    assert shell.read_json("migrate")["applied"][0].startswith("0001")
    assert shell.read_json("migrate")["applied"] == []
    assert {row["state"] for row in shell.read_json("migrate", "--status")} == {"applied"}


def test_status_command_creates_no_database(shell: Shell) -> None:
    """A command that only reads starts no server and creates no folder."""
    assert "there is no database yet" in shell.error_output("status")
    assert not (shell.folder / "share").exists()


def test_run_command_names_the_simulator_when_no_exchange_listens(shell: Shell, database: str) -> None:
    """Without an exchange at the simulator's address the message names `catalyst sim`, after half a minute."""
    (shell.folder / "config.yaml").write_text("broker: {simulator: 'http://127.0.0.1:9'}\n")
    clock = shell.folder / "clock"
    ScaledClock.create(clock, datetime(2026, 4, 8, 14, 15, tzinfo=UTC))
    shell.settings = {"DATABASE_URL": database, "CATALYST_CLOCK": str(clock), "CATALYST_CLOCK_SPEED": "60"}
    assert "catalyst sim" in shell.error_output("run")


def test_run_command_refuses_live_mode_with_one_switch(shell: Shell) -> None:
    """`trading.mode: live` alone is not enough; the message names the missing setting."""
    (shell.folder / "config.yaml").write_text("trading: {mode: live}\n")
    assert "ENABLE_LIVE_TRADING" in shell.error_output("run", exit_code=78)


def test_check_command_names_what_would_stop_trading(shell: Shell, database: str) -> None:
    """A secrets file that other users can read warns, an unreachable broker fails, and the exit code is 1."""
    secrets = shell.folder / ".env"
    secrets.write_text("NEWS_API_KEY=not-a-real-key\n")
    secrets.chmod(0o644)
    (shell.folder / "config.yaml").write_text("broker: {simulator: 'http://127.0.0.1:9'}\n")
    shell.settings = {"DATABASE_URL": database}
    facts = shell.read_json("check", exit_code=1)
    verdicts = {check["name"]: check["verdict"] for check in facts["checks"]}
    assert verdicts["secrets"] == "warn"
    assert verdicts["broker"] == "fail"
    assert verdicts["schema"] == verdicts["rights"] == "ok"
    fixes = {check["name"]: check["fix"] for check in facts["checks"]}
    assert fixes["secrets"] == "chmod 600 .env"
    assert verdicts["connect"] == "warn"
    assert "migrate --roles" in fixes["connect"]


def test_check_command_reports_only_a_wrong_configuration(shell: Shell) -> None:
    """An invalid configuration is the only result, because the other checks need a valid one."""
    (shell.folder / "config.yaml").write_text("risk: {max_positions: many}\n")
    (only,) = shell.read_json("check", exit_code=1)["checks"]
    assert (only["name"], only["verdict"]) == ("config", "fail")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("sim", "--generated", "1", "--recorded", "x.parquet"), "exclude each other"),
        (("sim", "--daily", "x.parquet"), "belong to --recorded"),
        (("sim", "--recorded", "x.parquet"), "cannot be loaded"),
        (("sim", "--day", "1990-07-04", "--symbols", "60"), "has no session"),
        (("sim", "--clock-file", "x", "--symbols", "60"), "is not a clock file"),
        (("demo", "--bar-minutes", "3"), "bars of 1 or 5 minutes"),
    ],
)
def test_sim_and_demo_commands_refuse_wrong_options(
    shell: Shell, arguments: tuple[str, ...], message: str
) -> None:
    """Contradicting options, missing files and days without a session are refused in one sentence."""
    assert message in shell.error_output(*arguments)


def test_help_and_version_import_no_heavy_package(shell: Shell) -> None:
    """--help and --version do not import pandas, the broker's client or the database driver."""
    probe = (
        "import sys; sys.argv=['catalyst','--help'];\n"
        "from catalyst.cli.app import app\n"
        "try: app(prog_name='catalyst')\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas','numpy','alpaca','asyncpg','apscheduler','aiohttp','pyarrow','rich.live'}\n"
        "found = sorted(heavy & set(sys.modules)); assert not found, found"
    )
    completed = subprocess.run(
        [sys.executable, "-c", probe], env=shell.environment, check=False, capture_output=True, text=True
    )
    assert completed.returncode == 0, completed.stderr
    assert "approve" in completed.stdout
    assert shell.run("--version").stdout.startswith("catalyst ")
