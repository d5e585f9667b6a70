"""Cost of the daemon's loops against their floors: reconciliation, prices, stop monitor tick, process stop, log line.

Runs the real daemon on a manual clock, a real PostgreSQL, and the exchange over the wire in this process. The CPU of
the exchange's responses is in the floor and in ours, the CPU of the database in neither. The loops and their floors run
in turns. A request that waits for its budget would wait for ever on a manual clock, so the budgets are large.
"""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, redirect_stdout
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter, perf_counter_ns, process_time_ns
from typing import Any

import asyncpg
import orjson
import structlog

from benchmarks._floor import (
    BarePost,
    Row,
    database_server,
    insert_past_orders,
    measure_interleaved,
    new_database,
    ratio_rows,
)
from benchmarks.recovery import exchange, write_settings
from catalyst.cli import logs
from catalyst.clock import SystemClock
from catalyst.config.loader import load
from catalyst.simulator.exchange.settings import ExchangeSettings
from tests.simulator.manual_feed import asset
from tests.stories.scenario import ENTRY, Scenario, ScenarioMarket, open_scenario

OPEN_POSITIONS = int(os.environ.get("OPEN_POSITIONS", "20"))
PAST = int(os.environ.get("LOOPS_PAST", "0"))  # with 0 the second scenario shows the noise
LOOPS_ROUNDS = int(os.environ.get("LOOPS_ROUNDS", "200"))
MANY_POSITIONS = 2_000  # for the tick only
STOPS = int(os.environ.get("STOPS", "5"))
LINES = 20_000
SYMBOLS = [f"{chr(65 + n // 26)}{chr(65 + n % 26)}X" for n in range(OPEN_POSITIONS)]
ROUND_PAUSE = timedelta(seconds=10)  # between rounds
Step = Callable[[int], Awaitable[Sequence[float]]]


def run() -> list[Row]:
    rows = asyncio.run(measure_all())
    return rows + asyncio.run(measure_stops()) + measure_log_line()


async def measure_all() -> list[Row]:
    """Measure rows 14 and 15 of the table of targets."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    with database_server() as server:
        async with AsyncExitStack() as stack:
            scenarios = {}
            for name, past in (("today", 0), ("years", PAST)):
                dsn = await new_database(server, name)
                if past:
                    await insert_past_orders(dsn, past)
                scenarios[name] = await scenario_with_positions(stack, dsn)
            floor = await LoopFloor.open(stack, scenarios["today"])
            steps: dict[str, Step] = {
                "two GETs, one query": measure(floor.reconcile),
                "two GETs": measure(floor.prices),
            }
            for name, scenario in scenarios.items():
                assert scenario.components is not None
                steps |= {
                    f"reconcile {name}": measure(partial(reconcile_clean, scenario, whole=False)),
                    f"reconcile all {name}": measure(partial(reconcile_clean, scenario, whole=True)),
                    f"prices {name}": measure(scenario.components.stop_monitor.refresh_prices),
                    f"pause {name}": partial(pass_time, scenario),
                }
            for positions in (OPEN_POSITIONS, MANY_POSITIONS):
                steps[f"tick {positions}"] = partial(measure_ticks, scenarios["today"], positions)
            spent = await measure_interleaved(steps, LOOPS_ROUNDS, warm=5)
            for scenario in scenarios.values():
                assert scenario.components is not None
                assert scenario.components.gate.is_open, scenario.components.gate.reasons
    rows: list[Row] = []
    for name, ours, floor_name, target in (
        (
            f"a minute's reconciliation of {OPEN_POSITIONS} positions, {3 * OPEN_POSITIONS} orders",
            "reconcile",
            "two GETs, one query",
            1.3,
        ),
        ("a full reconciliation, as after a stream gap", "reconcile all", "two GETs, one query", 1.3),
        (f"the prices of {OPEN_POSITIONS} positions, nothing changed", "prices", "two GETs", 2.0),
    ):
        wall, cpu = zip(spent[f"{ours} today"], spent[floor_name], strict=True)
        rows += ratio_rows(name, *wall, target)
        rows += ratio_rows(f"{name}, CPU", *cpu, target)
        rows.append((f"{name}: {PAST:,} past orders over none, target <= 1.2", _past_ratio(spent, ours), "x"))
    for positions in (OPEN_POSITIONS, MANY_POSITIONS):
        rows += ratio_rows(
            f"a tick of the stop monitor over {positions:,} positions, CPU", *spent[f"tick {positions}"], 2.0
        )
    return rows


def _past_ratio(spent: dict[str, list[list[float]]], name: str) -> float:
    return median(spent[f"{name} years"][0]) / median(spent[f"{name} today"][0])


async def scenario_with_positions(stack: AsyncExitStack, dsn: str) -> Scenario:
    """Open a scenario with OPEN_POSITIONS positions, each with its stop and target."""
    market = ScenarioMarket()
    market.listings |= {symbol: asset(symbol) for symbol in SYMBOLS}
    scenario = await stack.enter_async_context(
        open_scenario(
            dsn,
            market=market,
            exchange_settings=ExchangeSettings(rate_limit=0, data_rate_limit=0),
            broker={"requests_per_minute": 10_000, "data_requests_per_minute": 10_000},
        )
    )
    for symbol in SYMBOLS:
        scenario.print_trade(symbol, "190.00")
    await scenario.advance(seconds=1)
    for symbol in SYMBOLS:
        await scenario.submit_entry(symbol, 5, **ENTRY)
    await scenario.advance(seconds=15)
    assert all(scenario.held_qty(symbol) == 5 for symbol in SYMBOLS)
    await reconcile_clean(scenario, whole=True)
    await scenario.conn.execute("VACUUM (ANALYZE)")
    return scenario


async def reconcile_clean(scenario: Scenario, *, whole: bool) -> None:
    assert scenario.components is not None
    assert (await scenario.components.reconciler.reconcile("reconcile", full=whole)).clean


async def pass_time(scenario: Scenario, _: int) -> Sequence[float]:
    """Advance ten seconds at unchanged prices."""
    for symbol in SYMBOLS:
        scenario.print_trade(symbol, "190.00")
    await scenario.clock.advance(ROUND_PAUSE)
    return []


async def measure_ticks(scenario: Scenario, positions: int, _: int) -> Sequence[float]:
    """Measure the CPU milliseconds of a tick, and of a minimal loop over a dict, with `positions` in the cache."""
    assert scenario.components is not None
    monitor, ledger, now = scenario.components.stop_monitor, scenario.components.ledger, scenario.clock.now()
    last_known, last_prices, price_ranges = (
        ledger.last_known,
        monitor.prices.last_prices,
        monitor.prices.price_ranges,
    )
    first, orders = last_known.positions[0], last_known.orders[last_known.positions[0].position_id]
    rows = [replace(first, position_id=number, symbol=f"S{number}") for number in range(positions)]
    last_known.update(
        rows, dict.fromkeys(range(positions), orders), version=ledger.changed.version, read_at=now
    )
    monitor.prices.last_prices = {row.symbol: last_prices[first.symbol] for row in rows}
    monitor.prices.price_ranges = {row.symbol: price_ranges[first.symbol] for row in rows}
    await (
        monitor.check_positions()
    )  # the first tick builds the watch list, which later ticks use until a change
    prices = {row.symbol: price_ranges[first.symbol][0] for row in rows}
    times = max(1, 20_000 // positions)
    started = process_time_ns()
    for _round in range(times):
        await monitor.check_positions()
    ended = process_time_ns()
    for _round in range(times):
        crossed = [
            row
            for row in rows
            if (price := prices.get(row.symbol)) is not None
            and (price <= row.stop_loss or price >= row.take_profit)  # type: ignore[operator]  # all have both
        ]
    bare = process_time_ns() - ended
    assert not crossed
    monitor.prices.last_prices, monitor.prices.price_ranges = last_prices, price_ranges
    await scenario.components.protector.check()
    last_known.symbols -= {row.symbol for row in rows}
    return [(ended - started) / times / 1e6, bare / times / 1e6]


def measure(work: Callable[[], Awaitable[Any]]) -> Step:
    """Return a step that measures `work`: milliseconds of wall time and of this process's CPU."""

    async def once(_: int) -> Sequence[float]:
        started, spent = perf_counter_ns(), process_time_ns()
        await work()
        return [(perf_counter_ns() - started) / 1e6, (process_time_ns() - spent) / 1e6]

    return once


class BareGet(BarePost):
    """A minimal GET on the connection of a minimal POST."""

    async def get(self, path: str) -> Any:
        self._writer.write(
            f"GET {path} HTTP/1.1\r\nHost: broker\r\n"
            "APCA-API-KEY-ID: demo\r\nAPCA-API-SECRET-KEY: demo\r\n\r\n".encode()
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        return orjson.loads(await self._reader.readexactly(length))


class LoopFloor:
    """The floor of each loop: two requests with parsed responses, and one indexed query."""

    def __init__(self, wire: BareGet, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.http, self.conn = wire, conn

    @classmethod
    async def open(cls, stack: AsyncExitStack, scenario: Scenario) -> "LoopFloor":
        wire, conn = await BareGet.open(scenario.server.url), await asyncpg.connect(scenario.dsn)
        stack.callback(wire.close)
        stack.push_async_callback(conn.close)
        assert isinstance(wire, BareGet)
        return cls(wire, conn)

    async def reconcile(self) -> None:
        orders = await self.http.get("/v2/orders?status=open&nested=true&limit=500")
        held = await self.http.get("/v2/positions")
        rows = await self.conn.fetch(
            "SELECT * FROM orders WHERE status IN ('created', 'submitted', 'accepted', 'partial_fill')"
        )
        assert (len(held), len(rows)) == (OPEN_POSITIONS, 2 * OPEN_POSITIONS)
        assert orders

    async def prices(self) -> None:
        symbols = ",".join(SYMBOLS)
        for kind in ("trades", "quotes"):
            assert (
                len((await self.http.get(f"/v2/stocks/{kind}/latest?symbols={symbols}"))[kind])
                == OPEN_POSITIONS
            )


async def measure_stops() -> list[Row]:
    """Measure row 21: real seconds from SIGTERM to the end of the real process, with open streams and no position."""
    with database_server() as server:
        dsn = await new_database(server, "stop")
        async with exchange() as (url, folder):
            environment = write_settings(folder, url, dsn)
            seconds = [await _one_stop(environment, folder) for _ in range(STOPS)]
    return [
        (f"a stop with streams open, p50 of {STOPS}, target <= 1", median(seconds), "s"),
        ("a stop with streams open, max", max(seconds), "s"),
    ]


async def _one_stop(environment: dict[str, str], folder: Path) -> float:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "catalyst", "run", "--config", str(folder / "config.yaml"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, env=environment, cwd=folder,
        limit=1 << 22,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(120):
            while b"daemon_ready" not in (line := await process.stdout.readline()):
                assert line, "ended before it was ready"
            reading = asyncio.create_task(process.stdout.read())
            await asyncio.sleep(2)
            started = perf_counter()
            process.send_signal(signal.SIGTERM)
            code = await process.wait()
            seconds = perf_counter() - started
            assert code == 0, (await reading)[-3000:]
            await reading
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return seconds


def measure_log_line() -> list[Row]:
    """Measure row 22: an event with four facts, logged as by the daemon and by structlog's own JSON renderer."""
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "config.yaml"
        config.write_text("log: {format: json}\n")
        settings = load(config)
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            structlog.configure(
                processors=[
                    structlog.processors.add_log_level,
                    structlog.processors.TimeStamper("iso"),
                    structlog.processors.JSONRenderer(),
                ],
                wrapper_class=structlog.make_filtering_bound_logger(20),
                logger_factory=structlog.PrintLoggerFactory(nowhere),
                cache_logger_on_first_use=True,
            )
            bare = structlog.get_logger().bind()
            structlog.reset_defaults()
            logs.configure(settings, SystemClock())
            ours = structlog.get_logger().bind()
            spent: dict[str, list[float]] = {"bare": [], "ours": []}
            for _ in range(20):
                for name, log in (("bare", bare), ("ours", ours)):
                    started = perf_counter_ns()
                    for number in range(LINES // 20):
                        log.info("stop_enforced", symbol="AAPL", qty=number, price="187.95", stop="188.00")
                    spent[name].append((perf_counter_ns() - started) / (LINES // 20) / 1e6)
    structlog.reset_defaults()
    return ratio_rows(
        "a log line with its secrets masked, against structlog's JSONRenderer",
        spent["ours"],
        spent["bare"],
        1.2,
    )


if __name__ == "__main__":
    for figure, value, unit in run():
        print(f"{figure:<70} {value:>12,.3f} {unit}")
