"""Two real processes and one account: who comes second leaves, and who was stopped wakes up to find itself replaced."""

import asyncio
import signal
from pathlib import Path

import asyncpg
import pytest

from tests.stories.test_sigkill import _admin, _daemon, _environment, _tail, _wait_until, exchange


@pytest.mark.promise("F092")
async def test_stopped_daemon_sends_nothing_after_being_replaced(database: str, tmp_path: Path) -> None:
    """The same machine: the seat is taken. Another one: the lock is. Stopped, its connections ended and another
    started, the first one sends nothing when it wakes, and leaves; each says who has the account."""
    async with exchange(tmp_path) as (url, _):
        slow = {"CATALYST_CLOCK_SPEED": "1", "CATALYST_CLOCK_HELD_SPEED": "1"}
        here = {**_environment(tmp_path, url, database), **slow, "XDG_DATA_HOME": str(tmp_path / "here")}
        there = {**here, "XDG_DATA_HOME": str(tmp_path / "there")}
        first = await _daemon(here, tmp_path, "first.log")
        replacement = None
        try:
            await _wait_until(
                lambda: _log_contains(tmp_path / "first.log", "daemon_ready"), first, tmp_path / "first.log"
            )
            for name, environment, said in (
                (
                    "same.log",
                    here,
                    f"another daemon of this machine trades this account: process {first.pid}",
                ),
                ("other.log", there, f"process {first.pid} from this machine"),
            ):
                for _ in range(
                    3
                ):  # started again, as a service manager would: a busy exchange may be slow to answer
                    late = await _daemon(environment, tmp_path, name)
                    if await asyncio.wait_for(late.wait(), 120) != 1:
                        break
                assert late.returncode == 75, _tail(tmp_path / name)
                assert await _log_contains(tmp_path / name, said), _tail(tmp_path / name)

            first.send_signal(signal.SIGSTOP)
            conn = await asyncpg.connect(database)
            await conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            replacement = await _daemon(there, tmp_path, "next.log")
            await _wait_until(
                lambda: _log_contains(tmp_path / "next.log", "daemon_ready"),
                replacement,
                tmp_path / "next.log",
            )
            begun = await conn.fetchval("SELECT epoch FROM daemon")
            assert begun == 2
            await asyncio.sleep(5.5)  # longer than a process may stand still without a second look
            first.send_signal(signal.SIGCONT)
            assert await asyncio.wait_for(first.wait(), 60) == 75, _tail(tmp_path / "first.log")
            assert await _log_contains(tmp_path / "first.log", "has taken over from 1"), _tail(
                tmp_path / "first.log"
            )
            assert replacement.returncode is None
            changes = (await _admin(url, "logs"))["requests"]
            assert [one for one in changes if one["method"] in ("POST", "DELETE")] == []
            await conn.close()
            replacement.send_signal(signal.SIGUSR1)
            assert await asyncio.wait_for(replacement.wait(), 60) == 0, _tail(tmp_path / "next.log")
        finally:
            for process in (first, replacement):
                if process is not None and process.returncode is None:
                    process.send_signal(signal.SIGCONT)
                    process.kill()
                    await process.wait()


async def _log_contains(log: Path, words: str) -> bool:
    return log.is_file() and words in log.read_text(errors="replace")  # noqa: ASYNC240 - another process's
