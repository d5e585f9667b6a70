"""Duration of a flatten, from the request to the flat proof, and unprotected time of shares, in market seconds.

Runs the scenario tests' setup: the real daemon, a real PostgreSQL and the exchange over the wire, on a clock that
stands still while an effect is in flight. So the figures count waits, polls and retries, which dominate, and not the
milliseconds of the work itself; the broker's responses take no time. 30 % errors: a seed selects the requests that are
rejected, cut before or after they took effect, or answered with a 5xx although they took effect.
"""

import asyncio
import os
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from statistics import median

import asyncpg
import structlog

from benchmarks._floor import Row, database_server, percentile
from catalyst import embedded
from catalyst.daemon.shutdown import ExitCode
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.faults.schedule import FaultSchedule
from catalyst.store import migrate
from tests.dbfaults.proxied_scenario import open_proxied_scenario, submit_entry
from tests.simulator.manual_feed import asset
from tests.stories.scenario import ENTRY, Scenario, ScenarioMarket, open_scenario

SEEDS = int(os.environ.get("SEEDS", "4"))
RATE = 0.3
NOT_PROVEN: Counter[str] = Counter()
ERRORS = (FaultKind.STATUS_BEFORE, FaultKind.DROP_BEFORE, FaultKind.DROP, FaultKind.STATUS)
SYMBOLS = ("AAPL", "MSFT", "NVDA", "AMZN", "TSLA", "META", "GOOG", "AMD", "INTC", "NFLX")


def random_errors(seed: int, rate: float) -> FaultSchedule:
    """Return a schedule by which a request fails at `rate`, at equal shares before and after it takes effect."""
    return FaultSchedule(seed, dict.fromkeys(ERRORS, 1 - (1 - rate) ** (1 / len(ERRORS))))


def run() -> list[Row]:
    return asyncio.run(measure_all())


async def measure_all() -> list[Row]:
    """Measure flattens (targets for 10 positions: p99 <= 10 s healthy, <= 60 s at 30 % errors) and unprotected time."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows: list[Row] = []
    with database_server() as server:
        dsns = Databases(server)
        for positions in (5, 10):
            for rate, target in ((0.0, 10), (RATE, 60)):
                runs = SEEDS if rate else max(SEEDS // 3, 3)
                seconds = [
                    await measure_flatten(await dsns.next(), positions, seed, rate) for seed in range(runs)
                ]
                name = flatten_name(positions, rate)
                rows += [
                    (f"{name}: p50 of {len(seconds)}", median(seconds), "market s"),
                    (f"{name}: p99", percentile(seconds, 99), "market s"),
                    (f"{name}: max, target <= {target}", max(seconds), "market s"),
                    (f"{name}: flat, and not proven (exit code 2)", NOT_PROVEN[name], f"of {len(seconds)}"),
                ]
        for name, target, measure_case in UNPROTECTED_CASES:
            unprotected = [await measure_case(await dsns.next(), seed) for seed in range(SEEDS)]
            rows += [
                (f"unprotected seconds, {name}: p50 of {len(unprotected)}", median(unprotected), "market s"),
                (
                    f"unprotected seconds, {name}: p99, target <= {target:g}",
                    percentile(unprotected, 99),
                    "market s",
                ),
                (f"unprotected seconds, {name}: max", max(unprotected), "market s"),
            ]
    return rows


class Databases:
    """Creates one migrated database after another; each `next` drops the previous one."""

    def __init__(self, server: embedded.EmbeddedPostgres) -> None:
        self._server = server
        self._number = 0

    async def next(self) -> str:
        admin = await asyncpg.connect(self._server.dsn)
        try:
            if not self._number:
                await admin.execute("CREATE DATABASE pattern")
                await migrate.migrate(self._server.dsn_of("pattern"))
            self._number += 1
            await admin.execute(f"CREATE DATABASE run{self._number} TEMPLATE pattern")
            if self._number > 1:
                await admin.execute(f"DROP DATABASE run{self._number - 1} WITH (FORCE)")
        finally:
            await admin.close()
        return self._server.dsn_of(f"run{self._number}")


async def measure_flatten(dsn: str, positions: int, seed: int, rate: float) -> float:
    """Measure the market seconds from SIGTERM to the end of the process; every position must be sold."""
    market = ScenarioMarket()
    market.listings |= {symbol: asset(symbol) for symbol in SYMBOLS}
    async with open_scenario(dsn, market=market) as scenario:
        for symbol in SYMBOLS[:positions]:
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        for symbol in SYMBOLS[:positions]:
            await scenario.submit_entry(symbol, 20, **ENTRY)
        await scenario.advance(seconds=10)
        assert all(scenario.held_qty(symbol) == 20 for symbol in SYMBOLS[:positions])
        scenario.server.exchange.state.faults.add_schedule(random_errors(seed, rate))
        started = scenario.clock.now()
        scenario.stop.request("SIGTERM", flatten=True)
        code = await scenario.wait_for_exit(step=0.25)
        seconds = (scenario.clock.now() - started).total_seconds()
        await scenario.clear_faults()
        assert not any(scenario.held_qty(symbol) for symbol in SYMBOLS[:positions])
        assert rate or code is ExitCode.FLAT, code
        await scenario.assert_consistent()
        NOT_PROVEN[flatten_name(positions, rate)] += code is not ExitCode.FLAT
        return seconds


def flatten_name(positions: int, rate: float) -> str:
    return f"flatten of {positions} positions, " + (f"{rate:.0%} errors" if rate else "healthy")


# ---------------------------------------------------------------------- unprotected shares


def longest_unprotected(scenario: Scenario) -> float:
    """Return the longest time in seconds that shares had no working stop, measured by the exchange."""
    exposure = scenario.server.exchange.state.unprotected_time.totals(scenario.server.exchange.state.now)
    return max((float(times["longest_seconds"]) for times in exposure.values()), default=0.0)


async def _print_at_random_instant(scenario: Scenario, seed: int) -> None:
    """Print a trade at a random time within the polling intervals of the loops, given by the seed."""
    await scenario.advance(seconds=round(random.Random(seed).uniform(0, 30), 3))
    scenario.print_trade("AAPL", "190.00")
    await scenario.advance(seconds=1)


async def unprotected_healthy(dsn: str, seed: int) -> float:
    """Measure an entry that fills completely without faults."""
    async with open_scenario(dsn) as scenario:
        await _print_at_random_instant(scenario, seed)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 20
        return longest_unprotected(scenario)


async def unprotected_partial_fill(dsn: str, seed: int) -> float:
    """Measure an entry of which eight of twenty shares fill, and no more."""
    async with open_scenario(dsn) as scenario:
        await _print_at_random_instant(scenario, seed)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 8
        return longest_unprotected(scenario)


async def unprotected_leg_rejected(dsn: str, seed: int) -> float:
    """Measure an entry whose stop leg the venue rejects when it becomes live."""
    async with open_scenario(dsn) as scenario:
        await _print_at_random_instant(scenario, seed)
        await scenario.inject_fault("leg_reject", symbol="AAPL", role="stop_loss")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=60)
        return longest_unprotected(scenario)


async def unprotected_stream_mute(dsn: str, seed: int) -> float:
    """Measure a partial fill that the open stream does not report."""
    async with open_scenario(dsn) as scenario:
        await _print_at_random_instant(scenario, seed)
        await scenario.inject_fault("stream_mute")
        await scenario.inject_fault("partial", symbol="AAPL", qty="8")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 8
        return longest_unprotected(scenario)


async def unprotected_database_outage(dsn: str, seed: int) -> float:
    """Measure a partial fill during a database outage of one minute."""
    with tempfile.TemporaryDirectory() as folder:
        folders = {"spool": folder, "proofs": str(Path(folder) / "proofs")}
        async with open_proxied_scenario(dsn, database=folders) as (scenario, proxy, _):
            await _print_at_random_instant(scenario, seed)
            await scenario.inject_fault("partial", symbol="AAPL", qty="8")
            row = await submit_entry(scenario, "AAPL", 20)
            assert row is not None
            proxy.refuse_connections()
            await scenario.advance(seconds=60)
            assert scenario.held_qty("AAPL") == 8
            proxy.resume()
            await scenario.advance(seconds=60)
            return longest_unprotected(scenario)


async def unprotected_daemon_killed(dsn: str, seed: int) -> float:
    """Measure a partial fill during which the daemon is killed; two seconds later another one starts."""
    async with open_scenario(dsn) as scenario:
        await _print_at_random_instant(scenario, seed)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=round(random.Random(seed).uniform(0, 4), 3))
        await scenario.crash()
        await scenario.advance(seconds=2)
        await scenario.start()
        await scenario.advance(seconds=60)
        return longest_unprotected(scenario)


UNPROTECTED_CASES: list[tuple[str, float, Callable[[str, int], Awaitable[float]]]] = [
    ("healthy", 1, unprotected_healthy),
    ("partial entry", 8, unprotected_partial_fill),
    ("stop leg rejected", 8, unprotected_leg_rejected),
    ("partial entry, stream mute", 15, unprotected_stream_mute),
    ("partial entry, database outage", 15, unprotected_database_outage),
    ("partial entry, killed, restarted after 2 s", 12, unprotected_daemon_killed),
]


if __name__ == "__main__":
    for figure, value, unit in run():
        print(f"{figure:<70} {value:>12,.3f} {unit}")
