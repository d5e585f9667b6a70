"""`catalyst doctor` as a process: JSON by default, exit codes 0 to 3, and what it says when something is down."""

import json

from cli.shell import Shell


def facts(shell: Shell, *arguments: str, exit_code: int) -> dict[str, object]:
    done = shell.run("doctor", *arguments)
    assert done.returncode == exit_code, done.stderr + done.stdout
    assert "Traceback" not in done.stderr
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    return told


def test_with_nobody_at_the_other_end(desk: Shell) -> None:
    """In market hours, no daemon and no broker: critical, each with its command; asking the daemon to
    mend it needs a daemon."""
    (desk.folder / "config.yaml").write_text("broker: {simulator: 'http://127.0.0.1:9'}\n")
    told = facts(desk, exit_code=2)
    assert set(told) == {
        "timestamp", "duration_ms", "alpaca_connected", "alpaca_mode", "pipeline", "issues", "summary",
    }  # fmt: skip
    assert (told["alpaca_connected"], told["alpaca_mode"]) == (False, None)
    issues = {issue["type"]: issue for issue in told["issues"]}  # type: ignore[attr-defined]
    assert {"DAEMON_DOWN", "ALPACA_ERROR", "RECONCILIATION_SKIPPED"} <= set(issues)
    assert issues["DAEMON_DOWN"]["fix"] == "catalyst run"
    assert told["summary"]["status"] == "CRITICAL"  # type: ignore[index]
    assert "no daemon is running" in desk.complaint("reconcile")


def test_a_database_that_is_away_is_exit_code_three(shell: Shell) -> None:
    """It could not run, and says why in JSON and for people; the password is not in it."""
    shell.settings = {"DATABASE_URL": "postgresql://trader:hunter2-secret@127.0.0.1:1/books"}
    told = facts(shell, exit_code=3)
    assert told["status"] == "ERROR"
    assert "DATABASE_URL" in str(told["error"])
    assert "hunter2" not in str(told)
    said = shell.run("doctor", "--pretty")
    assert said.returncode == 3
    assert said.stdout.startswith("ERROR ")
