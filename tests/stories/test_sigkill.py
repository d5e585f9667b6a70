"""SIGKILL of the real daemon process after the exchange accepted its entry and before the daemon knows it."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
import yaml

from catalyst.clock import ScaledClock
from tests.audit import assert_journal_leads_to_state, assert_ledger_equals_exchange, assert_nothing_open
from tests.stories.order_gate import open_order_gate
from tests.waiting import pause

SPEED = 240.0
HOLD_SPEED = 20.0


@pytest.mark.slow(50)
async def test_sigkill_after_entry_submit_adopts_order_and_ends_flat(database: str, tmp_path: Path) -> None:
    """After a SIGKILL between acceptance and response, the next start adopts and protects the order, sends no
    second one, and the day ends flat and equal to the exchange."""
    async with exchange(tmp_path) as (url, clock), open_order_gate(url) as gate, AsyncExitStack() as stack:
        environment = _environment(tmp_path, gate.url, database)
        first = await _daemon(environment, tmp_path, "first.log")
        stack.push_async_callback(_kill, first)
        await _wait_until(lambda: _is_set(gate.order_accepted), first, tmp_path / "first.log")
        first.send_signal(signal.SIGKILL)
        await first.wait()
        gate.open()
        ScaledClock(
            clock, drive=True, speed=0.0
        )  # market time stands still until the second daemon drives it

        logs = await _admin(url, "logs?method=POST&path=/v2/orders")
        symbol, cid = logs["requests"][0]["symbol"], logs["requests"][0]["client_order_id"]
        conn = await asyncpg.connect(database)
        stored = await conn.fetchval("SELECT attempts FROM orders WHERE client_order_id = $1", cid)
        assert stored == 1, "the row was not committed before the request"
        legs = await conn.fetchval("SELECT count(*) FROM orders WHERE parent_order_id IS NOT NULL")
        assert legs == 0, "the response was applied: the kill came too late to prove anything"

        second = await _daemon(environment, tmp_path, "second.log")
        stack.push_async_callback(_kill, second)
        assert await second.wait() == 0, _tail(tmp_path / "second.log")

        adopted = await conn.fetchrow(
            "SELECT status, alpaca_order_id, position_id, attempts FROM orders WHERE client_order_id = $1",
            cid,
        )
        assert adopted is not None
        assert adopted["alpaca_order_id"] is not None
        assert adopted["attempts"] == 1
        sent = await _admin(url, f"logs?method=POST&path=/v2/orders&symbol={symbol}")
        assert [r["client_order_id"] for r in sent["requests"]].count(cid) == 1
        assert adopted["status"] == "filled"
        position = await conn.fetchrow(
            "SELECT status, protected_at FROM positions WHERE position_id = $1", adopted["position_id"]
        )
        assert position is not None
        assert position["status"] == "closed"
        assert position["protected_at"] is not None
        logs, audit = await _admin(url, "logs"), await _admin(url, "audit")
        await assert_nothing_open(conn, logs, audit)
        await assert_ledger_equals_exchange(conn, logs, audit)
        await assert_journal_leads_to_state(conn)
        assert await conn.fetchval("SELECT status FROM trading_cycles") == "completed"
        await conn.close()


@asynccontextmanager
async def exchange(folder: Path) -> AsyncIterator[tuple[str, Path]]:
    """Run the exchange as its own process at 14:20 of a generated day; its clock stands still at first."""
    port, clock = folder / "port", folder / "clock"
    command = [
        "sim", "--generated", "11", "--symbols", "300", "--start", "2026-06-17 14:20", "--port", "0",
        "--port-file", str(port), "--new-clock", str(clock), "--write-listings", str(folder / "listings.csv"),
    ]  # fmt: skip
    with (folder / "sim.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "catalyst", *command, stdout=log, stderr=log
        )
    try:
        await _wait_until(lambda: _is_file(port), process, folder / "sim.log")
        yield f"http://127.0.0.1:{port.read_text().strip()}", clock
    finally:
        process.terminate()
        await process.wait()


def _environment(folder: Path, url: str, database: str) -> dict[str, str]:
    """Write the configuration and return the environment of a daemon process."""
    config = {
        "trading": {"mode": "sim"},
        "broker": {"simulator": url},
        "session": {"mode": "autonomous"},
        "workflow": {"auto_execute": True, "scan_frequency_minutes": 30},
        "universe": {"listings_file": str(folder / "listings.csv")},
        "log": {"format": "json"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return {
        **os.environ,
        "DATABASE_URL": database,
        "XDG_DATA_HOME": str(folder / "share"),  # spool, host lock and proofs
        "ENABLE_AUTONOMOUS_TRADING": "true",
        "CATALYST_CLOCK": str(folder / "clock"),
        "CATALYST_CLOCK_SPEED": str(SPEED),
        "CATALYST_CLOCK_HELD_SPEED": str(HOLD_SPEED),
    }


async def _daemon(environment: dict[str, str], folder: Path, log: str) -> asyncio.subprocess.Process:
    """Start a daemon process that logs to the file `log`."""
    with (folder / log).open("wb") as out:
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "catalyst", "run", "--once", "--config", str(folder / "config.yaml"),
            stdout=out, stderr=out, env=environment, cwd=folder,
        )  # fmt: skip


async def _kill(process: asyncio.subprocess.Process) -> None:
    """Kill the process unless it has ended."""
    if process.returncode is None:
        process.kill()
        await process.wait()


async def _admin(url: str, path: str, body: dict[str, Any] | None = None) -> Any:
    """Send GET (without a body) or POST to the exchange's admin API; return the JSON response."""
    async with aiohttp.ClientSession() as http:
        request = (
            http.get(f"{url}/admin/{path}") if body is None else http.post(f"{url}/admin/{path}", json=body)
        )
        async with request as answer:
            assert answer.status == 200, await answer.text()
            return await answer.json()


async def _is_set(event: asyncio.Event) -> bool:
    """Return true when the event is set."""
    return event.is_set()


async def _is_file(path: Path) -> bool:
    """Return true when the file exists."""
    return path.is_file()  # noqa: ASYNC240 - a file of another process


async def _wait_until(condition: Any, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until the condition of another process is true; fail with its log when the process ends."""
    while not await condition():
        assert process.returncode is None, _tail(log)
        await pause()


def _tail(log: Path) -> str:
    """Return the last 40 lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-40:])
