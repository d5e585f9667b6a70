"""`catalyst doctor` as a process: JSON in a pipe, exit codes 0 to 3, and its reports when a part is down."""

import json
import os
from io import StringIO
from pathlib import Path

import pytest
from cli.shell import Shell

from catalyst.cli.doctor import apply_fixes, prints_lines
from catalyst.cli.settings import DatabaseUnreachable
from catalyst.clock import SystemClock
from catalyst.doctor.database_checks import unprotected_issue
from catalyst.doctor.issues import Examination


def run_doctor(shell: Shell, *arguments: str, exit_code: int) -> dict[str, object]:
    completed = shell.run("doctor", *arguments)
    assert completed.returncode == exit_code, completed.stderr + completed.stdout
    assert "Traceback" not in completed.stderr
    result = json.loads(completed.stdout)
    assert isinstance(result, dict)
    return result


@pytest.mark.slow(15)
def test_doctor_exits_two_without_daemon_and_broker(traded_shell: Shell) -> None:
    """In market hours a missing daemon and broker are critical issues, each with its command; `reconcile` fails without
    a daemon."""
    (traded_shell.folder / "config.yaml").write_text("broker: {simulator: 'http://127.0.0.1:9'}\n")
    result = run_doctor(traded_shell, exit_code=2)
    assert set(result) == {
        "timestamp", "duration_ms", "alpaca_connected", "alpaca_mode", "pipeline", "alerts", "issues", "summary",
    }  # fmt: skip
    assert (result["alpaca_connected"], result["alpaca_mode"]) == (False, None)
    issues = {issue["type"]: issue for issue in result["issues"]}  # type: ignore[attr-defined]
    assert {"DAEMON_DOWN", "ALPACA_ERROR", "RECONCILIATION_SKIPPED"} <= set(issues)
    assert issues["DAEMON_DOWN"]["fix"] == "catalyst run"
    assert result["alerts"] == {
        "last_delivered_at": None, "waiting": 0, "oldest_waiting_at": None, "channels": [],
    }  # fmt: skip
    assert result["summary"]["status"] == "CRITICAL"  # type: ignore[index]
    assert "no daemon is running" in traded_shell.error_output("reconcile")


def test_doctor_exits_three_when_the_database_is_unreachable(shell: Shell) -> None:
    """The doctor cannot run and gives the reason in JSON and as text, without the password; not both."""
    shell.settings = {"DATABASE_URL": "postgresql://trader:hunter2-secret@127.0.0.1:1/books"}
    result = run_doctor(shell, exit_code=3)
    assert result["status"] == "ERROR"
    assert "DATABASE_URL" in str(result["error"])
    assert "hunter2" not in str(result)
    completed = shell.run("doctor", "--pretty")
    assert completed.returncode == 3
    assert completed.stdout.startswith("ERROR ")
    assert "choose one" in shell.error_output("doctor", "--pretty", "--json")


@pytest.mark.parametrize(
    ("is_terminal", "options", "lines"),
    [
        (True, {}, True),
        (True, {"as_json": True}, False),
        (False, {}, False),
        (False, {"pretty": True}, True),
    ],
)
def test_doctor_prints_lines_on_a_terminal(is_terminal: bool, options: dict[str, bool], lines: bool) -> None:
    """A person on a terminal gets lines, a script that reads a pipe gets JSON; each may ask for the other."""
    terminal, screen = os.openpty()
    with os.fdopen(terminal, "wb", buffering=0), os.fdopen(screen, "r") as shown, StringIO() as pipe:
        asked = {"pretty": False, "as_json": False, **options}
        assert prints_lines(shown if is_terminal else pipe, **asked) is lines


@pytest.mark.parametrize(("answer", "tried"), [("y", True), ("n", False), (None, False)])
def test_fix_asks_a_person_before_it_trades(
    shell: Shell,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    answer: str | None,
    tried: bool,
) -> None:
    """An exit that would help is shown; it is sent only when a person on a terminal says yes."""
    issue = unprotected_issue("AAPL", "20 of 20", 1)
    examination = Examination(SystemClock().now(), 1.0, "sim", {"status": "NO_CYCLE"}, {}, (issue,))
    monkeypatch.setenv("DATABASE_URL", "postgresql://trader@127.0.0.1:1/books")
    monkeypatch.chdir(shell.folder)
    terminal, screen = os.openpty()
    with (
        os.fdopen(terminal, "wb", buffering=0) as keyboard,
        os.fdopen(screen) as stdin,
        Path(os.devnull).open() as none,
    ):
        keyboard.write(f"{answer}\n".encode())
        monkeypatch.setattr("sys.stdin", none if answer is None else stdin)
        if tried:
            with pytest.raises(DatabaseUnreachable):
                apply_fixes(None, examination)
        else:
            assert apply_fixes(None, examination) == []
    shown = capsys.readouterr().err
    assert "UNPROTECTED_POSITION: 20 of 20 shares of AAPL" in shown
    assert ("Run `catalyst close AAPL` now?" in shown) is (answer is not None)
