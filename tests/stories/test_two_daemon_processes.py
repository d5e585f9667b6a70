"""Two daemon processes on one account: the second one exits, and a stopped one exits when it finds itself
replaced."""

import signal
from pathlib import Path

import asyncpg
import pytest

from catalyst.clock import StallTimer
from catalyst.daemon.trading_state.account_lease import MAX_UNCONFIRMED_S
from tests.stories.test_sigkill import _admin, _daemon, _environment, _tail, _wait_until, exchange
from tests.waiting import wait_until


@pytest.mark.slow(20)
@pytest.mark.promise("F092")
async def test_stopped_daemon_sends_nothing_after_being_replaced(database: str, tmp_path: Path) -> None:
    """Given one daemon, then a second one exits on the host lock (one machine) or the account lock (another
    machine); stopped, replaced and continued, the first one sends nothing and exits."""
    async with exchange(tmp_path) as (url, _):
        slow = {"CATALYST_CLOCK_SPEED": "1", "CATALYST_CLOCK_HELD_SPEED": "1"}
        same_host = {**_environment(tmp_path, url, database), **slow, "XDG_DATA_HOME": str(tmp_path / "same")}
        other_host = {**same_host, "XDG_DATA_HOME": str(tmp_path / "other")}
        first = await _daemon(same_host, tmp_path, "first.log")
        replacement = None
        try:
            await _wait_until(
                lambda: _log_contains(tmp_path / "first.log", "daemon_ready"), first, tmp_path / "first.log"
            )
            for name, environment, message in (
                (
                    "same.log",
                    same_host,
                    f"another daemon on this machine trades this account: process {first.pid}",
                ),
                ("other.log", other_host, f"process {first.pid} from this machine"),
            ):
                # Start again like a service manager: a busy exchange may respond slowly.
                for _ in range(3):
                    second = await _daemon(environment, tmp_path, name)
                    if await second.wait() != 1:
                        break
                assert second.returncode == 75, _tail(tmp_path / name)
                assert await _log_contains(tmp_path / name, message), _tail(tmp_path / name)

            first.send_signal(signal.SIGSTOP)
            await wait_until(lambda: _is_stopped(first.pid))
            stopped = StallTimer()
            conn = await asyncpg.connect(database)
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            replacement = await _daemon(other_host, tmp_path, "next.log")
            await _wait_until(
                lambda: _log_contains(tmp_path / "next.log", "daemon_ready"),
                replacement,
                tmp_path / "next.log",
            )
            epoch = await conn.fetchval("SELECT epoch FROM daemon")
            assert epoch == 2
            # So long that the lease is no longer valid without a check; the start above took most of it.
            await wait_until(lambda: stopped.seconds > MAX_UNCONFIRMED_S)
            first.send_signal(signal.SIGCONT)
            assert await first.wait() == 75, _tail(tmp_path / "first.log")
            assert await _log_contains(tmp_path / "first.log", "has taken over from 1"), _tail(
                tmp_path / "first.log"
            )
            assert replacement.returncode is None
            requests = (await _admin(url, "logs"))["requests"]
            assert [request for request in requests if request["method"] in ("POST", "DELETE")] == []
            await conn.close()
            replacement.send_signal(signal.SIGUSR1)
            assert await replacement.wait() == 0, _tail(tmp_path / "next.log")
        finally:
            for process in (first, replacement):
                if process is not None and process.returncode is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                    await process.wait()


def _is_stopped(pid: int) -> bool:
    """Return true when a signal has stopped the process."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def _log_contains(log: Path, text: str) -> bool:
    """Return true when the log exists and contains the text."""
    return log.is_file() and text in log.read_text(errors="replace")  # noqa: ASYNC240 - a file of another process
