"""What goes wrong before anything runs: one sentence that says what to do, and the exit code systemd reads."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from cli.shell import Shell
from pydantic import BaseModel

from catalyst.config.schema import Config

ROOT = Path(__file__).parents[2]
RETIRED = {"session.market_open", "session.market_close"}


def leaves(model: type[BaseModel], prefix: str = "") -> set[str]:
    """Every key of the tree that holds a value."""
    found: set[str] = set()
    for name, info in model.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= leaves(inner, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_the_file_in_the_repository_is_every_default() -> None:
    """config.yaml names each key there is, with the value that holds without the file."""
    tree = yaml.safe_load((ROOT / "config.yaml").read_text())
    assert Config.model_validate(tree) == Config()
    named = {f"{section}.{key}" for section, keys in tree.items() for key in keys}
    assert named == leaves(Config) - RETIRED


def test_a_misspelt_key_names_the_nearest(shell: Shell) -> None:
    """Exit code 78: nothing starts on a configuration somebody did not mean."""
    (shell.folder / "config.yaml").write_text("risk: {max_positons: 3}\n")
    assert "did you mean risk.max_positions?" in shell.complaint("run", exit_code=78)
    assert "did you mean risk.max_positions?" in shell.complaint("status", exit_code=78)


def test_a_file_that_is_not_there_is_named(shell: Shell) -> None:
    """Only ./config.yaml may be missing; a file that was named must exist."""
    assert "nowhere.yaml does not exist" in shell.complaint("run", "--config", "nowhere.yaml", exit_code=78)


def test_a_dead_database_is_named_without_its_password(shell: Shell) -> None:
    """The address is in the sentence, the password is not."""
    shell.settings = {"DATABASE_URL": "postgresql://trader:hunter2-secret@127.0.0.1:1/books"}
    for verb in (("status",), ("run",), ("migrate",), ("migrate", "--status"), ("report",)):
        said = shell.complaint(*verb)
        assert "127.0.0.1:1/books" in said
        assert "hunter2" not in said


def test_an_address_that_is_none_is_said_to_be_none(shell: Shell) -> None:
    """DATABASE_URL in another form than PostgreSQL's."""
    shell.settings = {"DATABASE_URL": "books"}
    assert "write postgresql://" in shell.complaint("migrate")


def test_an_unmigrated_database_is_refused_until_migrate(shell: Shell, empty_database: str) -> None:
    """The daemon never changes somebody's schema; `catalyst migrate` does, once."""
    shell.settings = {"DATABASE_URL": empty_database}
    assert "run catalyst migrate" in shell.complaint("run", exit_code=78)
    assert {row["state"] for row in shell.facts("migrate", "--status", exit_code=1)} == {"pending"}
    assert shell.facts("migrate")["applied"][0].startswith("0001")
    assert shell.facts("migrate")["applied"] == []
    assert {row["state"] for row in shell.facts("migrate", "--status")} == {"applied"}


def test_a_question_about_a_database_nobody_used_makes_none(shell: Shell) -> None:
    """Asking is not starting: no server, no folder."""
    assert "there is no database yet" in shell.complaint("status")
    assert not (shell.folder / "share").exists()


def test_without_an_exchange_the_daemon_says_how_to_start_one(shell: Shell, database: str) -> None:
    """Nothing listens at the simulator's address."""
    (shell.folder / "config.yaml").write_text("broker: {simulator: 'http://127.0.0.1:9'}\n")
    shell.settings = {"DATABASE_URL": database}
    assert "catalyst sim" in shell.complaint("run")


def test_live_trading_stays_locked_without_its_second_key(shell: Shell) -> None:
    """One switch in a file is not enough for real money."""
    (shell.folder / "config.yaml").write_text("trading: {mode: live}\n")
    assert "ENABLE_LIVE_TRADING" in shell.complaint("run", exit_code=78)


def test_check_names_what_would_stop_trading(shell: Shell, database: str) -> None:
    """A file of secrets others can read warns, a broker that is away fails, and the exit code is 1."""
    secrets = shell.folder / ".env"
    secrets.write_text("NEWS_API_KEY=not-a-real-key\n")
    secrets.chmod(0o644)
    (shell.folder / "config.yaml").write_text("broker: {simulator: 'http://127.0.0.1:9'}\n")
    shell.settings = {"DATABASE_URL": database}
    facts = shell.facts("check", exit_code=1)
    verdicts = {one["name"]: one["verdict"] for one in facts["checks"]}
    assert verdicts["secrets"] == "warn"
    assert verdicts["broker"] == "fail"
    assert verdicts["schema"] == verdicts["rights"] == "ok"
    fixes = {one["name"]: one["fix"] for one in facts["checks"]}
    assert fixes["secrets"] == "chmod 600 .env"


def test_check_reports_a_wrong_configuration_as_its_first_line(shell: Shell) -> None:
    """The rest cannot be judged before the file is right."""
    (shell.folder / "config.yaml").write_text("risk: {max_positions: many}\n")
    (only,) = shell.facts("check", exit_code=1)["checks"]
    assert (only["name"], only["verdict"]) == ("config", "fail")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("sim", "--generated", "1", "--recorded", "x.parquet"), "exclude each other"),
        (("sim", "--daily", "x.parquet"), "belong to --recorded"),
        (("sim", "--recorded", "x.parquet"), "cannot be played"),
        (("sim", "--day", "2026-07-04", "--symbols", "60"), "has no session"),
        (("sim", "--clock-file", "x", "--symbols", "60"), "is no clock"),
        (("demo", "--bar-minutes", "3"), "bars of 1 or 5 minutes"),
    ],
)
def test_an_exchange_that_cannot_be_says_why(shell: Shell, arguments: tuple[str, ...], said: str) -> None:
    """Options that contradict each other, files that are not there, days without a session."""
    assert said in shell.complaint(*arguments)


def test_help_and_version_load_nothing_heavy(shell: Shell) -> None:
    """Whoever asks for help does not wait for pandas, the broker's client or the database."""
    probe = (
        "import sys; sys.argv=['catalyst','--help'];\n"
        "from catalyst.cli.app import app\n"
        "try: app(prog_name='catalyst')\n"
        "except SystemExit: pass\n"
        "heavy = {'pandas','numpy','alpaca','asyncpg','apscheduler','aiohttp','pyarrow','rich.live'}\n"
        "found = sorted(heavy & set(sys.modules)); assert not found, found"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], env=shell.environment, check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "approve" in done.stdout
    assert shell.run("--version").stdout.startswith("catalyst ")
