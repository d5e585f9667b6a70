"""Recovery after SIGKILL: real seconds of the real daemon, against an exchange with the orders of a day.

The daemon is killed as soon as entries are allowed, and started again; the time starts with the new process (a service
manager adds its restart delay, 2 s in our unit). Half of the orders are working, half terminal, and all have rows. The
floor, measured in turns, is a process that imports the same packages and exits.
"""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime
from pathlib import Path
from statistics import median
from time import perf_counter

import aiohttp
import asyncpg
import orjson
import yaml

from benchmarks._floor import Row, database_server, insert_past_orders, new_database, percentile
from catalyst.clock import ScaledClock
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.server import SimOptions
from catalyst.simulator.server import serve_until_cancelled as serve
from catalyst.simulator.synthetic import market as synthetic_market

RESTARTS = int(os.environ.get("RESTARTS", "4"))
PAST = int(os.environ.get("PAST", "200000"))
CASES = ((10, 0), (100, 0), (1_000, 0), (100, PAST))
DAY = date(2026, 6, 17)
START = datetime(2026, 6, 17, 17, 50, tzinfo=UTC)
KEYS = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
PACKAGES = (
    "import asyncpg, numpy, pandas, structlog, orjson, pydantic, typer, yaml, exchange_calendars,"
    " websockets.asyncio.client, apscheduler.schedulers.asyncio, alpaca.common.rest"
)


def run() -> list[Row]:
    return asyncio.run(measure_all())


async def measure_all() -> list[Row]:
    """Measure recovery with 10, 100 and 1,000 orders of the day, and with 100 of the day plus PAST earlier ones."""
    rows: list[Row] = []
    with database_server() as server:
        for orders, past in CASES:
            dsn = await new_database(server, f"day{orders}_{past}")
            if past:
                await insert_past_orders(dsn, past)
            async with exchange() as (url, folder):
                await place_orders(url, orders)
                environment = write_settings(folder, url, dsn)
                first_start_s, _ = await start_and_kill(environment, folder)
                ready, allowed, floor = [], [], []
                for _ in range(RESTARTS):
                    floor.append(await measure_imports())
                    await backdate_starts(dsn)
                    ready_s, allowed_s = await start_and_kill(environment, folder)
                    ready.append(ready_s)
                    allowed.append(allowed_s)
            name = f"{orders:,} orders of the day" + (f", {past:,} past ones" if past else "")
            rows += [
                (f"{name}: floor, imports alone", median(floor), "s"),
                (f"{name}: first start, every order external", first_start_s, "s"),
                (f"{name}: to ready, p50", median(ready), "s"),
                (f"{name}: to ready over imports, target <= 1.5", median(ready) / median(floor), "x"),
                (f"{name}: to entries allowed, p50, target <= 5", median(allowed), "s"),
                (f"{name}: to entries allowed, p99, target <= 10", percentile(allowed, 99), "s"),
            ]
            sys.stderr.write(
                f"  {name}: {sorted(round(seconds, 2) for seconds in allowed)} s to entries allowed\n"
            )
    return rows


async def start_and_kill(environment: dict[str, str], folder: Path) -> tuple[float, float]:
    """Start the daemon and kill it once entries are allowed; return the seconds to ready and to entries allowed."""
    started = perf_counter()
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "catalyst", "run", "--config", str(folder / "config.yaml"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment, cwd=folder,
        limit=1 << 22,
    )  # fmt: skip
    assert process.stdout is not None
    ready, open_at = 0.0, 0.0
    lines: list[str] = []
    try:
        async with asyncio.timeout(120):
            while not (ready and open_at):
                line = await process.stdout.readline()
                assert line, "".join(lines[-20:])
                lines.append(line.decode())
                if not line.startswith(b"{"):
                    continue
                event = orjson.loads(line)
                if event["event"] == "daemon_ready":
                    ready = perf_counter() - started
                    open_at = 0.0 if event["gate"] else ready
                elif event["event"] == "gate_reason_removed" and not event["remaining"]:
                    open_at = perf_counter() - started
                elif event["event"] == "gate_reason_added":
                    open_at = 0.0
    finally:
        process.send_signal(signal.SIGKILL)
        await process.communicate()
    return ready, open_at


async def measure_imports() -> float:
    started = perf_counter()
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", PACKAGES)
    await process.wait()
    return perf_counter() - started


async def backdate_starts(dsn: str) -> None:
    """Move earlier starts into the past, so that the daemon's limit on frequent restarts does not apply."""
    conn = await asyncpg.connect(dsn)
    try:
        await conn.execute("UPDATE daemon_runs SET started_at = started_at - interval '1 day'")
    finally:
        await conn.close()


async def place_orders(url: str, orders: int) -> None:
    """Send the orders of the day to the exchange: every second one rests, the others expire at once."""
    async with aiohttp.ClientSession(headers=KEYS) as http:
        async with http.get(f"{url}/v2/assets") as response:
            symbols = [row["symbol"] for row in await response.json() if row["tradable"]]
        for number in range(orders):
            body = {
                "symbol": symbols[number % len(symbols)], "side": "buy", "qty": "1", "type": "limit",
                "limit_price": "0.01", "time_in_force": "day" if number % 2 else "ioc",
            }  # fmt: skip
            async with http.post(f"{url}/v2/orders", json=body) as response:
                assert response.status == 200, await response.text()


def write_settings(folder: Path, url: str, dsn: str) -> dict[str, str]:
    config = {
        "trading": {"mode": "sim"},
        "broker": {"simulator": url},
        "session": {"mode": "autonomous"},
        "workflow": {"auto_execute": True},
        "log": {"format": "json"},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return {
        **os.environ,
        "DATABASE_URL": dsn,
        "ENABLE_AUTONOMOUS_TRADING": "true",
        "CATALYST_CLOCK": str(folder / "clock"),
        "CATALYST_CLOCK_SPEED": "1",
        "CATALYST_CLOCK_HELD_SPEED": "1",
    }


@asynccontextmanager
async def exchange() -> AsyncIterator[tuple[str, Path]]:
    """Run the exchange as a separate process with its own clock; yield its URL and its folder."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        code = f"from benchmarks.recovery import child; child({name!r})"
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, cwd=Path(__file__).parents[1]
        )
        try:
            while not (folder / "port").exists():
                assert process.returncode is None
                await asyncio.sleep(0.02)
            yield f"http://127.0.0.1:{(folder / 'port').read_text().strip()}", folder
        finally:
            process.terminate()
            await process.wait()


def child(folder: str) -> None:
    """Run the exchange; runs until the process ends."""
    path = Path(folder) / "clock"
    ScaledClock.create(path, START)
    clock = ScaledClock(path, drive=True, speed=1.0)
    market = synthetic_market.make_market(7, DAY, 300)
    options = SimOptions(
        market, clock, port_file=Path(folder) / "port", settings=ExchangeSettings(rate_limit=0)
    )
    asyncio.run(serve(options))


if __name__ == "__main__":
    for figure, value, unit in run():
        print(f"{figure:<70} {value:>12,.3f} {unit}")
