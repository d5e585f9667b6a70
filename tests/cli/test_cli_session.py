"""An operator's session: an exchange, a daemon and the commands to it, each as a separate process."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.shell import TIMEOUT_S, Shell, is_running, processes_using, wait_until

from catalyst import embedded

SMALL_MARKET = ("--symbols", "60", "--generated", "7", "--day", "2026-06-17")


@pytest.fixture
def exchange(shell: Shell) -> Iterator[Shell]:
    """Yield a shell with a small exchange at 09:31, whose clock is stopped until the daemon drives it."""
    clock = shell.folder / "clock"
    process = shell.start_process(
        "exchange", "sim", *SMALL_MARKET, "--port", "0", "--port-file", "port", "--new-clock", str(clock),
        "--start", "09:31",
    )  # fmt: skip
    wait_until(lambda: (shell.folder / "port").exists() or process.poll() is not None, "the exchange")
    assert process.poll() is None, shell.log("exchange")
    port = (shell.folder / "port").read_text().strip()
    (shell.folder / "config.yaml").write_text(f"broker: {{simulator: 'http://127.0.0.1:{port}'}}\n")
    yield shell
    process.terminate()
    assert process.wait(TIMEOUT_S) == 0


@pytest.fixture
def daemon(exchange: Shell, database: str) -> "Iterator[tuple[Shell, subprocess.Popen[bytes]]]":
    """Yield the shell, and the process of a supervised daemon with an open cycle."""
    exchange.settings = {
        "DATABASE_URL": database,
        "CATALYST_CLOCK": str(exchange.folder / "clock"),
        "CATALYST_CLOCK_SPEED": "20",
    }
    process = exchange.start_process("daemon", "run")
    wait_until(lambda: "cycle_opened" in exchange.log("daemon") or process.poll() is not None, "the daemon")
    assert process.poll() is None, exchange.log("daemon")
    yield exchange, process
    if process.poll() is None:
        process.kill()
        process.wait()


@pytest.mark.slow(20)
def test_commands_are_answered_by_a_running_daemon(daemon: "tuple[Shell, subprocess.Popen[bytes]]") -> None:
    """Status, halt, resume, scan, close, reject and flatten are answered; a second daemon is refused; SIGTERM ends the
    daemon flat with exit code 0."""
    shell, process = daemon
    wait_until(lambda: shell.run("status").returncode == 0, "a healthy status")
    assert shell.read_json("status")["daemon"]["alive"] is True

    assert shell.read_json("halt", "--reason", "lunch") == {"halted": True, "reason": "lunch"}
    halted = shell.read_json("status")
    assert (halted["verdict"], halted["latches"][0]["reason"]) == ("halted", "lunch")
    assert "catalyst resume" in halted["halts"][0]
    assert shell.read_json("resume")["cleared"] == ["halt"]

    assert shell.read_json("scan")["counts"]["listed"] >= 60
    listed = shell.read_json("candidates")
    assert isinstance(listed, list)
    assert "no open position in AAPL" in shell.error_output("close", "aapl")
    assert "there is no proposal 99" in shell.error_output("reject", "99")
    assert "there is no proposal 99" in shell.error_output("approve", "99")

    assert "another daemon" in shell.error_output("run", exit_code=75)

    assert shell.read_json("flatten")["flat"] is True
    process.send_signal(signal.SIGTERM)
    assert process.wait(TIMEOUT_S) == 0
    assert shell.read_json("status", exit_code=1)["daemon"]["alive"] is False


def test_daemon_log_lines_are_json_in_market_time_without_secrets(
    daemon: "tuple[Shell, subprocess.Popen[bytes]]",
) -> None:
    """Through a pipe every line starts with at, level and event; no line has the database's address. `stop --keep`
    ends the daemon without a flatten."""
    shell, process = daemon
    assert shell.read_json("stop", "--keep") == {"pid": process.pid, "ended": True}
    assert process.wait(TIMEOUT_S) == 0
    assert '"flatten_started"' not in shell.log("daemon")
    lines = [json.loads(line) for line in shell.log("daemon").splitlines()]
    assert lines
    for line in lines:
        assert list(line)[:3] == ["at", "level", "event"]
        assert line["at"].startswith("2026-06-17T13:")
        assert re.fullmatch(r"[a-z0-9_]+", line["event"])
    assert shell.settings["DATABASE_URL"] not in shell.log("daemon")


def test_simulator_exits_when_its_parent_exits(shell: Shell) -> None:
    """The exchange ends when its standard input ends, because its parent has ended."""
    process = shell.start_process(
        "exchange",
        "sim",
        *SMALL_MARKET,
        "--port",
        "0",
        "--port-file",
        "port",
        "--exit-with-parent",
        pipe_stdin=True,
    )
    wait_until((shell.folder / "port").exists, "the exchange")
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(TIMEOUT_S) == 0


def test_sim_command_refuses_a_port_in_use(exchange: Shell) -> None:
    """A second exchange on a used port is refused with a hint to --port."""
    port = (exchange.folder / "port").read_text().strip()
    assert "choose another with --port" in exchange.error_output("sim", *SMALL_MARKET, "--port", port)


@pytest.fixture
def demo_folder(shell: Shell) -> Iterator[Path]:
    """Yield the folder for a demo; afterwards remove its database, which may lie elsewhere."""
    yield shell.folder / "run"
    embedded.remove_data_dir(shell.folder / "run" / "pg")


@pytest.mark.slow(70)
def test_demo_completes_a_day_and_matches_the_exchange(shell: Shell, demo_folder: Path) -> None:
    """The demo of a half day exits with 0: the cycle is completed and the exchange's audit equals the database. The
    daemon is killed after an unreported fill, and the next daemon protects exactly these shares. The operator's
    settings are not used, and no process is left."""
    (shell.folder / ".env").write_text("ALPACA_API_KEY=someone\nALPACA_SECRET_KEY=else-entirely\n")
    shell.settings = {"DATABASE_URL": "postgresql://nobody@127.0.0.1:1/untouched", "TRADING_MODE": "paper"}
    completed = shell.run(
        "demo", "--symbols", "300", "--speed", "1000", "--day", "2026-11-27", "--keep", str(demo_folder)
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "the database and the exchange agree" in completed.stdout
    assert "completed" in completed.stdout
    killed = re.search(r"kill -9: (\d+) of \d+ (\w+) have filled", completed.stdout)
    assert killed, completed.stdout
    shares, symbol = killed.groups()
    assert f"found {shares} {symbol} by its client order id (sent once)" in completed.stdout
    assert f"a stop and a target for exactly {shares}; unprotected" in completed.stdout
    assert (demo_folder / "daemon.log").read_text().count('"event":"daemon_started"') == 2
    assert "market seconds per real second" in completed.stdout
    assert "\x1b[" not in completed.stdout
    assert processes_using(demo_folder) == []
    shell.settings = {}
    report = shell.read_json("report", "--config", str(demo_folder / "config.yaml"))
    assert report["cycle"]["status"] == "completed"
    assert len(report["scans"]) == 7
    assert processes_using(demo_folder) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_demo_leaves_no_process_when_interrupted_or_killed(
    shell: Shell, demo_folder: Path, number: signal.Signals
) -> None:
    """After SIGKILL the children end with their parent. After SIGINT the daemon flattens first, and the exit code is
    130."""
    process = shell.start_process(
        "demo", "demo", "--symbols", "60", "--speed", "100", "--keep", str(demo_folder)
    )
    log = demo_folder / "daemon.log"
    wait_until(lambda: log.exists() and "cycle_opened" in log.read_text(), "the day's begin")
    process.send_signal(number)
    code = process.wait(TIMEOUT_S)
    assert code == (-signal.SIGKILL if number is signal.SIGKILL else 130), shell.log("demo")
    wait_until(lambda: not processes_using(demo_folder), f"the end of {processes_using(demo_folder)}")
    if number is signal.SIGINT:
        assert "flatten" in log.read_text()


def test_demo_names_the_crashed_process_with_its_last_log_lines(shell: Shell, demo_folder: Path) -> None:
    """When the exchange is killed in the day, the demo exits with 1, names it and its log, and leaves no process."""
    process = shell.start_process(
        "demo", "demo", "--symbols", "60", "--speed", "50", "--keep", str(demo_folder)
    )
    log = demo_folder / "daemon.log"
    wait_until(lambda: log.exists() and "cycle_opened" in log.read_text(), "the day's begin")
    (exchange,) = (pid for pid in children_of(process.pid) if " sim " in command_of(pid))
    subprocess.run(["kill", "-9", str(exchange)], check=True)
    assert process.wait(TIMEOUT_S) == 1
    assert "the exchange ended with code -9" in shell.log("demo")
    assert "Traceback" not in shell.log("demo")
    wait_until(lambda: not processes_using(demo_folder), f"the end of {processes_using(demo_folder)}")


def children_of(pid: int) -> list[int]:
    """Return the running children of a process."""
    children = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and is_running(int(entry.name)):
            fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(fields[1]) == pid:
                children.append(int(entry.name))
    return children


def command_of(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
