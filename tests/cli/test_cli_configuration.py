"""`catalyst config` and `catalyst init`: values with their sources, a file tried before use, a first configuration."""

import os
import pty
import pwd
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from cli.shell import Shell
from typer.testing import CliRunner

from catalyst.cli.app import app
from catalyst.cli.init import ENV_HEADER
from catalyst.cli.settings import read_settings
from catalyst.config.env_file import read_env_file
from catalyst.config.loader import load
from catalyst.config.schema import Mode
from catalyst.config.settings import Environment
from catalyst.config.sources import effective_values
from catalyst.domain.errors import ConfigInvalid, UserError
from catalyst.installation import shipped_folder

KEYS = {"ALPACA_API_KEY": "PKTEST0123456789", "ALPACA_SECRET_KEY": "s3cret-of-the-paper-account"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty working folder of a process without a variable of Catalyst."""
    for name in [name for name in os.environ if name.lower() in Environment.model_fields]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run_init(*arguments: str) -> str:
    """Run `catalyst init` in this process, without a terminal, and return what it shows; raise its error."""
    result = CliRunner().invoke(app, ["init", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def test_config_show_names_the_source_of_each_value_and_hides_secrets(shell: Shell) -> None:
    """A value comes from the default, the file, the .env or the environment; no secret and no password is shown."""
    (shell.folder / "config.yaml").write_text("risk: {max_positions: 3, max_daily_loss: 900}\n")
    (shell.folder / ".env").write_text(
        "# secrets\n"
        + "".join(f"{name}={value}\n" for name, value in KEYS.items())
        + "DATABASE_URL=postgresql://trader:hunter2-secret@db.example.com:5432/books\nLOG_LEVEL=debug\n"
    )
    shell.settings = {"MAX_DAILY_LOSS": "700"}
    facts = shell.read_json("config", "show")
    keys, variables = facts["keys"], facts["variables"]
    assert keys["risk.max_positions"] == {"value": 3, "source": "config.yaml"}
    assert keys["risk.max_daily_loss"] == {"value": "700", "source": "MAX_DAILY_LOSS in the environment"}
    assert keys["risk.max_position_size"] == {"value": "5000.00", "source": "default"}
    assert keys["log.level"] == {"value": "DEBUG", "source": "LOG_LEVEL in .env, line 5"}
    assert keys["trading.mode"] == {
        "value": "paper",
        "source": "ALPACA_API_KEY and ALPACA_SECRET_KEY are set",
    }
    assert keys["database.data_dir"]["value"].startswith(str(shell.folder))
    assert variables["ALPACA_SECRET_KEY"] == {"value": "***", "source": ".env, line 3"}
    assert variables["DATABASE_URL"]["value"] == "postgresql://trader:***@db.example.com:5432/books"
    assert "MAX_DAILY_LOSS=700 in the environment overrides" in facts["notices"][0]
    shown = shell.run("config", "show", "--changed")
    assert "risk.max_position_size" not in shown.stdout
    for secret in (*KEYS.values(), "hunter2"):
        assert secret not in shown.stdout + str(facts)


def test_value_that_other_switches_decide_says_so(folder: Path) -> None:
    """Autonomous in the file alone is supervised in force, and the source gives the reason."""
    (folder / "config.yaml").write_text("session: {mode: autonomous}\ntrading: {mode: sim}\n")
    values = effective_values(load(folder / "config.yaml"))
    assert (values["session.mode"].value, values["session.mode"].source) == (
        "supervised", "its other switches are off",
    )  # fmt: skip
    assert values["trading.mode"].source == str(folder / "config.yaml")


def test_config_check_tries_a_file_without_using_it(shell: Shell) -> None:
    """A valid file is accepted with the values that it changes; an invalid one exits with 78 and its fault."""
    (shell.folder / "next.yaml").write_text("risk: {max_positions: 3}\n")
    facts = shell.read_json("config", "check", "next.yaml")
    assert (facts["valid"], facts["mode"], facts["changes"]) == (True, "sim", {"risk.max_positions": [5, 3]})
    (shell.folder / "next.yaml").write_text("risk: {max_positons: 3}\n")
    assert "did you mean risk.max_positions?" in shell.error_output(
        "config", "check", "next.yaml", exit_code=78
    )


def test_init_writes_a_short_commented_configuration(folder: Path) -> None:
    """Options and a file of secrets give a config.yaml with comments and a .env that only its owner reads."""
    (folder / "keys").write_text("".join(f"{name}='{value}'\n" for name, value in KEYS.items()))
    run_init("--secrets", "keys", "--max-daily-loss", "500", "--max-positions", "2")
    text = (folder / "config.yaml").read_text()
    assert len(text.splitlines()) < 30
    assert "max_daily_loss: 500           # realised and unrealised" in text
    assert stat.S_IMODE((folder / ".env").stat().st_mode) == 0o600
    assert stat.S_IMODE((folder / "config.yaml").stat().st_mode) == 0o644
    settings = load(folder / "config.yaml", env_file=folder / ".env")
    assert (settings.mode, settings.config.risk.max_daily_loss, settings.config.risk.max_positions) == (
        Mode.PAPER, 500, 2,
    )  # fmt: skip
    assert settings.keys == tuple(KEYS.values())
    assert settings.notices == ()
    assert sorted(path.name for path in folder.iterdir()) == [".env", "config.yaml", "keys"]


def test_init_replaces_no_file_unasked(folder: Path) -> None:
    """Without a terminal an existing file is kept and named; --force replaces it."""
    (folder / ".env").write_text("ALPACA_API_KEY=precious\n")
    with pytest.raises(UserError, match=r"\.env exists: move it away, or replace it with --force"):
        run_init("--mode", "sim")
    assert (folder / ".env").read_text() == "ALPACA_API_KEY=precious\n"
    assert not (folder / "config.yaml").exists()
    run_init("--mode", "sim", "--force")
    assert (folder / ".env").read_text() == ENV_HEADER


@pytest.mark.parametrize(
    ("arguments", "secrets", "message"),
    [
        (("--mode", "paper"), "", "paper trading needs ALPACA_API_KEY and ALPACA_SECRET_KEY"),
        (("--max-positions", "many"), "", "risk.max_positions"),
        (("--max-position-size", "50"), "", "risk.min_position_size is above risk.max_position_size"),
        (("--mode", "live"), "", "init writes no live configuration"),
        ((), "ALPACA_API_KEY=only-one-of-two\n", "ALPACA_SECRET_KEY is not: set both"),
        ((), 'SMTP_PASSWORD="it\'s"\n', "SMTP_PASSWORD holds a quote"),
    ],
)
def test_init_writes_nothing_that_a_start_would_refuse(
    folder: Path, arguments: tuple[str, ...], secrets: str, message: str
) -> None:
    """A wrong answer is refused in a sentence, and no file is left."""
    (folder / "keys").write_text(secrets)
    with pytest.raises((UserError, ConfigInvalid), match=message):
        run_init(*arguments, "--secrets", "keys")
    assert [path.name for path in folder.iterdir()] == ["keys"]


def test_written_secret_reads_as_it_was_given(folder: Path) -> None:
    """A value with blanks, # and quotes of the other kind is the same after it was written."""
    value = 'a b#c "d" =e%20'
    (folder / "keys").write_text(f"SMTP_PASSWORD='{value}'\n")
    run_init("--mode", "sim", "--secrets", "keys")
    (found,) = read_env_file(folder / ".env", Environment.model_fields)
    assert (found.name, found.value) == ("SMTP_PASSWORD", value)


def test_init_asks_on_a_terminal(shell: Shell) -> None:
    """Each question is asked once, a wrong answer again, and secrets are not echoed."""
    answers = (
        ("sim or paper [paper]: ", "real"),
        ("sim or paper [paper]: ", ""),
        ("Largest loss of a day in dollars [2000]: ", "0"),
        ("Largest loss of a day in dollars [2000]: ", "500"),
        ("Largest position in dollars [5000]: ", ""),
        ("Most open positions [5]: ", "3"),
        ("ALPACA_API_KEY of the paper account (not shown): ", "two words"),
        ("ALPACA_API_KEY of the paper account (not shown): ", KEYS["ALPACA_API_KEY"]),
        ("ALPACA_SECRET_KEY of the paper account (not shown): ", KEYS["ALPACA_SECRET_KEY"]),
        ("empty: the embedded PostgreSQL): ", "books"),
        ("empty: the embedded PostgreSQL): ", ""),
        ("Mail address of alerts (empty: none): ", "me@example.com"),
        ("Mail server: ", "smtp.example.com"),
        ("[587]: ", "2525"),
        ("Sender of the alerts [me@example.com]: ", ""),
        ("Login at the mail server [me@example.com]: ", ""),
        ("often an app password (not shown; empty: no login): ", "app-password-of-mine"),
    )
    screen = answer_on_a_terminal(shell, ["init"], answers)
    assert "next: `catalyst check`" in screen
    for secret in (*KEYS.values(), "app-password-of-mine"):
        assert secret not in screen
    checked = shell.read_json("config", "show")["keys"]
    assert checked["risk.max_daily_loss"] == {"value": "500", "source": "config.yaml"}
    assert checked["features.email_alerts"]["value"] is True
    before = (shell.folder / ".env").read_text()
    screen = answer_on_a_terminal(
        shell, ["init", "--mode", "sim", "--max-daily-loss", "400"],
        (("config.yaml exists: replace it? [y/N]: ", "y"), (".env exists: replace it? [y/N]: ", "n"),
         ("Largest position", ""), ("Most open", "")),
    )  # fmt: skip
    assert "written: config.yaml" in screen
    assert (shell.folder / ".env").read_text() == before
    assert shell.read_json("config", "show")["keys"]["risk.max_daily_loss"]["value"] == "400"


def answer_on_a_terminal(shell: Shell, arguments: list[str], answers: tuple[tuple[str, str], ...]) -> str:
    """Run a command on a terminal, write each answer when its question stands there, and return all that it showed."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "catalyst", *arguments],
        cwd=shell.folder, env=shell.environment, stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
    )  # fmt: skip
    os.close(slave)
    shown, screen = "", ""
    for question, answer in answers:
        while question not in shown:
            received = read_terminal(master)
            assert received, f"no question {question!r} in {screen}{shown}"
            shown += received
        screen, shown = screen + shown, ""
        os.write(master, f"{answer}\n".encode())
    while received := read_terminal(master):
        screen += received
    assert process.wait() == 0, screen
    os.close(master)
    return screen


def read_terminal(master: int) -> str:
    """Return what the terminal received next; empty once the command has ended."""
    try:
        return os.read(master, 4096).decode()
    except OSError:
        return ""


def test_init_gives_the_secrets_to_their_owner(folder: Path) -> None:
    """`--owner` gives .env to that user, and the next step is the service; an unknown one is refused and nothing is
    written."""
    with pytest.raises(UserError, match=r"\.env\.new cannot be given to nobody-of-that-name"):
        run_init("--mode", "sim", "--owner", "nobody-of-that-name")
    assert list(folder.iterdir()) == []
    shown = run_init("--mode", "sim", "--owner", pwd.getpwuid(os.geteuid()).pw_name)
    assert (folder / ".env").stat().st_uid == os.geteuid()
    assert f"written: {folder.resolve() / '.env'} (mode 0600)" in shown
    assert "then `systemctl enable --now catalyst.service" in shown


def test_installed_command_runs_init_as_root(folder: Path) -> None:
    """The installed wrapper runs every command as the service's user, but `init` as root, for the service's user."""
    programs = folder / "bin"
    programs.mkdir()
    for name, text in (
        ("id", "echo 0"),
        ("setpriv", 'echo unprivileged "$@"'),
        ("catalyst", 'echo root "$@"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    script = (shipped_folder("systemd") / "catalyst.sh").read_text()
    script = script.replace("/etc/catalyst", str(folder)).replace("/opt/catalyst/bin", str(programs))

    def run(*arguments: str) -> str:
        command = ["/bin/sh", "-c", script, "catalyst", *arguments]
        return subprocess.run(
            command, env={"PATH": f"{programs}:/usr/bin:/bin"}, check=True, capture_output=True, text=True
        ).stdout

    assert run("init", "--mode", "paper") == "root init --owner catalyst --mode paper\n"
    assert run("status", "--json").startswith("unprivileged --reuid=catalyst")
    assert run().startswith("unprivileged")


def test_unreadable_working_folder_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """A command in a folder that its user may not enter, as root's home, says so instead of ignoring the files."""

    def refuse(_: Path) -> bool:
        raise PermissionError

    monkeypatch.setattr(Path, "is_file", refuse)
    with pytest.raises(ConfigInvalid, match="the working folder cannot be read by this user"):
        read_settings(None)
