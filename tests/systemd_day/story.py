"""The story of `make systemd-day`, run by the isolated systemd: install, start, trade, crash, stop.

Only the standard library: it runs beside the installed wheel, not in the checkout.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

EXCHANGE = "http://127.0.0.1:8765"
UNIT = "catalyst.service"
DAY_EXCHANGE = "catalyst-day-sim.service"
LIMIT_S = 400.0
WHOLE_DAY_LIMIT_S = 3000.0
WHOLE_DAY_SPEED = (
    40  # market seconds per real second: more than thirteen minutes for the eight and a half hours
)
CONFIG = """\
trading: {{mode: sim}}
session: {{mode: autonomous}}
workflow: {{auto_execute: true, scan_frequency_minutes: 5}}
universe: {{listings_file: /var/lib/catalyst/listings.csv}}
risk: {{max_positions: {}}}
"""
SETTINGS = "CATALYST_CLOCK=/var/lib/catalyst/clock\nCATALYST_CLOCK_SPEED=1\nENABLE_AUTONOMOUS_TRADING=true\n"


def run(*command: str, check: bool = True) -> str:
    """Run a command and return its output."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}: {done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def shown(name: str, unit: str = UNIT) -> str:
    """Return one property of a unit."""
    return run("systemctl", "show", "--value", f"--property={name}", unit).strip()


def wait(what: str, condition: Callable[[], object], limit_s: float = LIMIT_S, pause_s: float = 0.2) -> None:
    """Wait until the condition is true, or fail."""
    deadline = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what}: not within {limit_s:.0f} s; status: {shown('StatusText')}")
        time.sleep(pause_s)


def exchange(method: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send one request to the exchange and return its answer."""
    request = urllib.request.Request(EXCHANGE + path, method=method)
    request.add_header("APCA-API-KEY-ID", "demo")
    request.add_header("APCA-API-SECRET-KEY", "demo")
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(request, data) as response:
        return json.loads(response.read())


def journal(unit: str = UNIT) -> str:
    return run("journalctl", "--no-pager", "--output=cat", f"--unit={unit}")


def passed(text: str) -> None:
    print(f"ok    {text}")


def main_pid() -> int:
    return int(shown("MainPID"))


def restarts() -> int:
    return int(shown("NRestarts"))


def is_running() -> bool:
    return shown("ActiveState") == "active"


def holds_protected_positions() -> bool:
    """Return true when the status line tells of positions, each with a confirmed stop."""
    text = shown("StatusText")
    return " position" in text and " 0 positions" not in text and "without" not in text


def wait_for_restart(number: int) -> None:
    wait(f"restart {number}", lambda: restarts() == number and is_running())


def install() -> None:
    print(run("/opt/catalyst/bin/catalyst", "install-service", "--apply").rstrip())
    Path("/etc/catalyst/config.yaml").write_text(CONFIG.format(5))
    Path("/etc/catalyst/credentials/smtp/password").write_text("not-used\n")
    secrets = Path("/etc/catalyst/.env")
    secrets.write_text(SETTINGS)
    run("systemd-tmpfiles", "--create", "/etc/tmpfiles.d/catalyst.conf")
    assert secrets.stat().st_mode & 0o777 == 0o600
    exposure = run("systemd-analyze", "security", "--no-pager", UNIT).strip().splitlines()[-1]
    passed(f"installed; {exposure.removeprefix('→ ')}")


def start() -> None:
    run("systemctl", "start", "catalyst-sim.service")
    wait("the exchange", lambda: "exchange  http" in journal("catalyst-sim.service"))
    run("systemctl", "start", UNIT)
    assert is_running()
    text = journal()
    assert '"recovered"' in text, text
    passed(f"READY after recovery, with the embedded PostgreSQL: {shown('StatusText')}")


def trade() -> None:
    wait("the first entry", holds_protected_positions)
    assert exchange("GET", "/v2/orders?status=open"), "no order protects the positions"
    passed(f"positions are held and protected: {shown('StatusText')}")
    listed = run("/usr/local/bin/catalyst", "positions", "--json")
    assert json.loads(listed), listed
    passed("`catalyst positions` on the command line reads the service's database")
    limit_mb = int(shown("MemoryMax")) >> 20
    assert memory_mb() < limit_mb
    passed(f"memory after a scan of 4,200 symbols: {memory_mb()} MB of {limit_mb} MB, database included")


def reload() -> None:
    Path("/etc/catalyst/config.yaml").write_text(CONFIG.format(4))
    run("systemctl", "reload", UNIT)
    wait("the reload", lambda: "config_reloaded" in journal())
    assert restarts() == 0
    passed("reload: the changed config.yaml is in force, no restart")


def crash() -> None:
    os.kill(main_pid(), signal.SIGKILL)
    wait_for_restart(1)
    wait("the positions again", holds_protected_positions)
    passed(f"kill -9: restarted and recovered: {shown('StatusText')}")


def stay_silent(what: str, pids: list[int], silence_s: float) -> None:
    """Stop processes for longer than the watchdog's time; the daemon must not be restarted."""
    before, pid = restarts(), main_pid()
    for each in pids:
        os.kill(each, signal.SIGSTOP)
    try:
        time.sleep(silence_s)
        during = shown("StatusText")
    finally:
        for each in pids:
            os.kill(each, signal.SIGCONT)
    assert (restarts(), main_pid(), is_running()) == (before, pid, True), f"{what}: restarted"
    wait(f"{what} again", lambda: "entries possible" in shown("StatusText"))
    passed(f"{what} gives no answer for {silence_s:.0f} s: 0 restarts; meanwhile: {during}")


def service_pids() -> list[int]:
    """Return the processes of the daemon's control group."""
    group = Path("/sys/fs/cgroup" + shown("ControlGroup"))
    return [int(line) for line in (group / "cgroup.procs").read_text().split()]


def server_pids() -> list[int]:
    """Return the processes of the embedded database."""
    return [pid for pid in service_pids() if Path(f"/proc/{pid}/comm").read_text().startswith("postgres")]


def memory_mb() -> int:
    """Return the memory of the service: each process's own, and its share of what it shares."""
    total = 0
    for pid in service_pids():
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total // 1024


def measure_whole_day() -> None:
    """Trade a whole day of 4,200 symbols on a new account and a new database; report the most memory it took."""
    run("systemctl", "stop", UNIT, "catalyst-sim.service")
    Path("/etc/catalyst/config.yaml").write_text(
        CONFIG.format(5) + "database: {data_dir: /var/lib/catalyst/whole-day/pg}\n"
    )
    settings = SETTINGS.replace("/clock\n", "/day-clock\n").replace("SPEED=1\n", f"SPEED={WHOLE_DAY_SPEED}\n")
    Path("/etc/catalyst/.env").write_text(settings)
    run("systemctl", "start", DAY_EXCHANGE)
    wait("the exchange of the day", lambda: "exchange  http" in journal(DAY_EXCHANGE))
    began = time.monotonic()
    run("systemctl", "start", UNIT)
    invocation = f"_SYSTEMD_INVOCATION_ID={shown('InvocationID')}"
    samples: list[int] = []

    def is_over() -> bool:
        samples.append(memory_mb())
        return '"day_finished"' in run("journalctl", "--no-pager", "--output=cat", invocation)

    wait("the end of the day", is_over, WHOLE_DAY_LIMIT_S, pause_s=2.0)
    assert restarts() == 0
    limit_mb = int(shown("MemoryMax")) >> 20
    assert max(samples) < limit_mb
    passed(
        f"memory in a whole day of 4,200 symbols, in {(time.monotonic() - began) / 60:.0f} minutes: at most"
        f" {max(samples)} MB of {limit_mb} MB, database included ({len(samples)} samples)"
    )


def hang() -> None:
    before = restarts()
    os.kill(main_pid(), signal.SIGSTOP)
    began = time.monotonic()
    wait_for_restart(before + 1)
    seconds = time.monotonic() - began
    assert "watchdog" in run("journalctl", "--no-pager", "--output=cat", "_PID=1").lower()
    passed(f"SIGSTOP: the watchdog kills it; running again after {seconds:.0f} s")


def stop() -> None:
    wait("a position before the stop", holds_protected_positions)
    held = len(exchange("GET", "/v2/positions"))
    assert held, "nothing is held at the exchange"
    began = time.monotonic()
    run("systemctl", "stop", UNIT)
    seconds = time.monotonic() - began
    code, result = shown("ExecMainStatus"), shown("Result")
    assert (code, result, shown("ActiveState")) == ("0", "success", "inactive"), (code, result)
    assert exchange("GET", "/v2/positions") == []
    assert exchange("GET", "/v2/orders?status=open") == []
    passed(f"systemctl stop holding {held} position(s): flat, code 0, {seconds:.0f} s of 90")


def refuse_wrong_configuration() -> None:
    Path("/etc/catalyst/config.yaml").write_text("risk:\n  no_such_key: 1\n")
    run("systemctl", "start", UNIT, check=False)
    wait("the end", lambda: shown("ActiveState") == "failed")
    assert (shown("ExecMainStatus"), restarts()) == ("78", 0)
    wait("the alert", lambda: "catalyst.service failed" in run("journalctl", "--no-pager", "--priority=crit"))
    passed("code 78 (wrong configuration): not restarted, the alert is in the journal")
    Path("/etc/catalyst/config.yaml").write_text(CONFIG.format(5))


def refuse_second_daemon() -> None:
    run("systemctl", "reset-failed", UNIT)
    run("systemctl", "start", UNIT)
    second = Path("/etc/systemd/system/catalyst-second.service")
    second.write_text(Path("/etc/systemd/system/catalyst.service").read_text())
    run("systemctl", "daemon-reload")
    run("systemctl", "start", second.name, check=False)
    wait("the end", lambda: shown("ActiveState", second.name) == "failed")
    assert (shown("ExecMainStatus", second.name), shown("NRestarts", second.name)) == ("75", "0")
    assert is_running()
    passed("code 75 (another daemon runs): not restarted, the first one runs on")


def doctor() -> None:
    run("systemctl", "start", "catalyst-doctor.service", check=False)
    status = shown("ExecMainStatus", "catalyst-doctor.service")
    passed(
        f"catalyst-doctor.service ran with code {status}; {run('/usr/bin/systemctl', 'is-active', UNIT).strip()}"
    )


def main(broker_silence_s: float, database_silence_s: float, whole_day: bool) -> int:
    """Run every part in order; keep the journal in the report folder."""
    try:
        install()
        start()
        trade()
        reload()
        crash()
        stay_silent("the broker", [int(shown("MainPID", "catalyst-sim.service"))], broker_silence_s)
        stay_silent("the database", server_pids(), database_silence_s)
        hang()
        stop()
        refuse_wrong_configuration()
        refuse_second_daemon()
        doctor()
        if whole_day:
            measure_whole_day()
        run("systemctl", "stop", UNIT)
    except Exception as error:  # noqa: BLE001 -- the report says how the story ended
        print(f"FAILED {type(error).__name__}: {error}")
        return 1
    else:
        print("PASSED")
        return 0
    finally:
        Path("/var/report/journal").write_text(
            run("journalctl", "--no-pager", "--output=short-precise", check=False)
        )


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), float(sys.argv[2]), "whole-day" in sys.argv))
