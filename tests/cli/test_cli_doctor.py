"""`catalyst doctor` as a process: JSON by default, exit codes 0 to 3, and its reports when a part is down."""

import json

import pytest
from cli.shell import Shell


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
        "timestamp", "duration_ms", "alpaca_connected", "alpaca_mode", "pipeline", "issues", "summary",
    }  # fmt: skip
    assert (result["alpaca_connected"], result["alpaca_mode"]) == (False, None)
    issues = {issue["type"]: issue for issue in result["issues"]}  # type: ignore[attr-defined]
    assert {"DAEMON_DOWN", "ALPACA_ERROR", "RECONCILIATION_SKIPPED"} <= set(issues)
    assert issues["DAEMON_DOWN"]["fix"] == "catalyst run"
    assert result["summary"]["status"] == "CRITICAL"  # type: ignore[index]
    assert "no daemon is running" in traded_shell.error_output("reconcile")


def test_doctor_exits_three_when_the_database_is_unreachable(shell: Shell) -> None:
    """The doctor cannot run and gives the reason in JSON and as text, without the password."""
    shell.settings = {"DATABASE_URL": "postgresql://trader:hunter2-secret@127.0.0.1:1/books"}
    result = run_doctor(shell, exit_code=3)
    assert result["status"] == "ERROR"
    assert "DATABASE_URL" in str(result["error"])
    assert "hunter2" not in str(result)
    completed = shell.run("doctor", "--pretty")
    assert completed.returncode == 3
    assert completed.stdout.startswith("ERROR ")
