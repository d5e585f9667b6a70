"""Throughput of the simulated exchange over the wire (orders, snapshots, stream messages), and memory of a large day.

The exchange is a separate process on one core. The client runs in this process and uses keep-alive over loopback.
"""

import asyncio
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import aiohttp
import orjson

from catalyst.clock import ManualClock, ScaledClock
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.server import SimOptions, run_server
from catalyst.simulator.server import serve_until_cancelled as serve
from catalyst.simulator.synthetic import market as synthetic_market

Row = tuple[str, float, str]

DAY = date(2026, 6, 17)
START = datetime(2026, 6, 17, 14, 30, tzinfo=UTC)
SYMBOLS = 4_129
LARGE = 7_473
ORDERS = 2_000
READS = 1_000
CLIENTS = 8
CHUNK = 500
FRAMES = 20_000
KEYS = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
FEED_SECONDS = 120


def run() -> list[Row]:
    """Measure everything in turn; rates use wall time, next to the CPU time of the exchange's process."""
    return [*asyncio.run(measure_http()), *asyncio.run(measure_websockets()), *measure_memory()]


# ---------------------------------------------------------------------- HTTP


async def measure_http() -> list[Row]:
    """Measure orders, account reads, and snapshots of every symbol."""
    rows: list[Row] = []
    async with exchange_process(SYMBOLS) as (url, used), aiohttp.ClientSession(headers=KEYS) as http:
        async with http.get(f"{url}/v2/assets") as response:
            symbols = [row["symbol"] for row in await response.json()][:SYMBOLS]
        await http.post(f"{url}/admin/deposit", json={"amount": "100000000"})

        async def order(number: int) -> None:
            symbol, limit = symbols[number % 50], "0.01"
            body = {"symbol": symbol, "side": "buy", "qty": "1", "type": "limit", "limit_price": limit}
            async with http.post(f"{url}/v2/orders", json={**body, "time_in_force": "ioc"}) as response:
                assert response.status == 200, await response.text()

        async def read_account(_: int) -> None:
            async with http.get(f"{url}/v2/account") as response:
                assert response.status == 200
                await response.read()

        rows += await measure_rate("orders accepted", "orders/s", order, ORDERS, used)
        rows += await measure_rate(
            f"account read, after {ORDERS:,} orders", "responses/s", read_account, READS, used
        )
        chunks = [symbols[at : at + CHUNK] for at in range(0, len(symbols), CHUNK)]

        async def snapshots(number: int) -> None:
            chunk = chunks[number % len(chunks)]
            async with http.get(
                f"{url}/v2/stocks/snapshots", params={"symbols": ",".join(chunk)}
            ) as response:
                assert len(orjson.loads(await response.read())) > len(chunk) / 2

        started, cpu = perf_counter(), used()
        for number in range(len(chunks) * 3):
            await snapshots(number)
        wall, cpu = perf_counter() - started, used() - cpu
        rows.append((f"snapshots of {SYMBOLS:,} symbols, {CHUNK} per request", wall / 3 * 1e3, "ms"))
        rows.append(("snapshots", 3 * len(symbols) / wall, "symbols/s"))
        rows.append(("snapshots, CPU of the exchange", cpu / 3 * 1e3, "ms per sweep"))
    return rows


async def measure_rate(
    name: str, unit: str, request: Callable[[int], Any], count: int, used: Callable[[], float]
) -> list[Row]:
    """Measure the rate of `request` with CLIENTS concurrent clients."""
    numbers = iter(range(count))

    async def client() -> None:
        for number in numbers:
            await request(number)

    started, cpu = perf_counter(), used()
    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    wall, cpu = perf_counter() - started, used() - cpu
    return [
        (f"{name}, {CLIENTS} at a time", count / wall, unit),
        (f"{name}, CPU of the exchange", cpu / count * 1e6, "us each"),
    ]


@asynccontextmanager
async def exchange_process(symbols: int) -> AsyncIterator[tuple[str, Callable[[], float]]]:
    """Run the exchange as a process; yield its URL and a function that returns the CPU seconds it has used."""
    with tempfile.TemporaryDirectory() as folder:
        ready = Path(folder) / "port"
        code = f"from benchmarks.exchange import child; child({symbols}, {str(ready)!r})"
        child = await asyncio.create_subprocess_exec(
            sys.executable, "-c", code, cwd=Path(__file__).parents[1]
        )
        try:
            while not ready.exists():
                assert child.returncode is None
                await asyncio.sleep(0.02)
            stat = Path(f"/proc/{child.pid}/stat")

            def used() -> float:
                user, system = stat.read_text().rsplit(")", 1)[1].split()[11:13]
                return (int(user) + int(system)) / 100  # clock ticks of 0.01 s

            yield f"http://127.0.0.1:{int(ready.read_text())}", used
        finally:
            child.terminate()
            await child.wait()


def child(symbols: int, ready: str) -> None:
    """Run the exchange; runs until the process ends."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clock"
        ScaledClock.create(path, START)
        clock = ScaledClock(path, drive=True, speed=1.0)
        market = synthetic_market.make_market(7, DAY, symbols)
        options = SimOptions(market, clock, port_file=Path(ready), settings=ExchangeSettings(rate_limit=0))
        asyncio.run(serve(options))


# ---------------------------------------------------------------------- websockets


async def measure_websockets() -> list[Row]:
    """Measure frames of both streams, written and read in this process, so one core does both ends."""
    market = synthetic_market.make_market(7, DAY, SYMBOLS)
    clock = ManualClock(START)
    exchange = Exchange(market, clock.now(), settings=ExchangeSettings(rate_limit=0))
    async with run_server(exchange, clock, market=market) as server, aiohttp.ClientSession() as http:
        async with http.ws_connect(server.stream_url) as socket:
            await socket.send_json({"action": "auth", "key": "demo", "secret": "demo"})
            await socket.receive()
            await socket.send_json({"action": "listen", "data": {"streams": ["trade_updates"]}})
            await socket.receive()
            exchange.deposit(exchange.state.account.cash)
            update = await sample_trade_update(exchange, clock)
            started = perf_counter()
            for _ in range(FRAMES // 100):
                server.streams.broadcast([update] * 100)
                for _ in range(100):
                    await socket.receive()
            account_rate = FRAMES / (perf_counter() - started)
        url = f"ws://127.0.0.1:{server.port}/v2/sip"
        async with http.ws_connect(url, max_msg_size=0) as socket:
            await socket.receive()
            await socket.send_json({"action": "auth", "key": "demo", "secret": "demo"})
            await socket.receive()
            await socket.send_json({"action": "subscribe", "trades": ["*"], "quotes": ["*"], "bars": ["*"]})
            await socket.receive()
            started, messages, frames = perf_counter(), 0, 0
            assert server.data_streams is not None
            for _ in range(FEED_SECONDS):
                await clock.advance(timedelta(seconds=1))
                while frames < server.data_streams.frames_sent:
                    messages += len(orjson.loads((await socket.receive()).data))
                    frames += 1
            market_rate = messages / (perf_counter() - started)
    return [
        ("account stream, both ends on one core", account_rate, "messages/s"),
        (f"market data stream, {SYMBOLS:,} symbols, both ends on one core", market_rate, "messages/s"),
        ("market data per second of that market", messages / FEED_SECONDS, "messages"),
    ]


async def sample_trade_update(exchange: Exchange, clock: ManualClock) -> Any:
    """Return one trade update as the exchange creates it."""
    from catalyst.simulator.trading_api.order_parsing import parse_submit_request

    updates: list[Any] = []
    body = {"symbol": "AAPL", "side": "buy", "qty": "1", "type": "market", "time_in_force": "day"}
    exchange.submit(parse_submit_request(body))
    exchange.venue.advance(clock.now() + timedelta(seconds=5))
    updates, exchange.state.outbox[:] = list(exchange.state.outbox), []
    return updates[-1]


# ---------------------------------------------------------------------- memory


def measure_memory() -> list[Row]:
    """Measure the peak resident size of a process with a large market day, after snapshots of all symbols."""
    code = "from benchmarks.exchange import largest; print(largest(%d))"
    rows: list[Row] = []
    for symbols in (0, LARGE):
        completed = subprocess.run(
            [sys.executable, "-c", code % symbols],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=True,
        )
        name = "memory without a market" if not symbols else f"memory of a {symbols:,}-symbol day"
        rows.append((name, float(completed.stdout), "MB"))
    return rows


def largest(symbols: int) -> float:
    """Return the peak megabytes after a snapshot of every symbol."""
    if symbols:
        market = synthetic_market.make_market(7, DAY, symbols)
        Exchange(market, START)
        market.snapshots(list(market.assets()), START)
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    return int(peak.split()[1]) / 1024


if __name__ == "__main__":
    for name, value, unit in run():
        print(f"{name:<70} {value:>14,.3f} {unit}")
