"""From the wish to be flat to the proof of it, and how long shares stand bare: market seconds, by the stories' desk.

The real daemon, a real PostgreSQL and the exchange over the wire, on a clock that stands still while anything is
under way. So what is counted are waits, polls and repetitions, which decide these figures; of the work itself,
milliseconds, nothing is. The broker's answers take no time. 30 % errors: each request, drawn by a seed, is refused,
cut before or after it took effect, or answered 503 though it did.
"""

import asyncio
import os
import random
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import asyncpg
import structlog

from benchmarks._floor import Row, database_server, percentile
from catalyst import embedded
from catalyst.daemon.shutdown import Exit
from catalyst.simulator.faults.rules import Fault, FaultBook, FaultKind
from catalyst.store import migrate
from tests.dbfaults.proxied_scenario import enters, open_desk_behind
from tests.simulator.manual_feed import asset
from tests.stories.scenario import ENTRY, Desk, StoryMarket, open_desk

SEEDS = int(os.environ.get("SEEDS", "4"))
RATE = 0.3
UNPROVEN: Counter[str] = Counter()
ERRORS = (FaultKind.STATUS_BEFORE, FaultKind.DROP_BEFORE, FaultKind.DROP, FaultKind.STATUS)
BEFORE = {FaultKind.STATUS_BEFORE, FaultKind.DROP_BEFORE}
SYMBOLS = ("AAPL", "MSFT", "NVDA", "AMZN", "TSLA", "META", "GOOG", "AMD", "INTC", "NFLX")


@dataclass
class Erratic(FaultBook):
    """A fault menu whose every request fails with a fixed chance, drawn by a seed."""

    drawn: random.Random = field(default_factory=random.Random)
    rate: float = RATE
    struck: int = 0

    def __post_init__(self) -> None:
        FaultBook.__init__(self)

    def take(self, *kinds: FaultKind, **facts: str | None) -> Fault | None:
        """The exchange looks twice, before a request takes effect and after it: each gets half of the chance."""
        asked = [kind for kind in ERRORS if kind in kinds]
        chance = self.rate / 2 if set(asked) & BEFORE else self.rate / (2 - self.rate)
        if asked and str(facts.get("route", "")).startswith("/v2/") and self.drawn.random() < chance:
            self.struck += 1
            return Fault(kind=self.drawn.choice(asked), status=503)
        return super().take(*kinds, **facts)


def run() -> list[Row]:
    return asyncio.run(measured())


async def measured() -> list[Row]:
    """The promise: 10 positions, p99 <= 10 s healthy, <= 60 s under 30 % errors; and the bare seconds."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    rows: list[Row] = []
    with database_server() as server:
        dsns = Databases(server)
        for positions in (5, 10):
            for rate, target in ((0.0, 10), (RATE, 60)):
                runs = SEEDS if rate else max(SEEDS // 3, 3)
                taken = [await flatten(await dsns.next(), positions, seed, rate) for seed in range(runs)]
                name = name_of(positions, rate)
                rows += [
                    (f"{name}: p50 of {len(taken)}", median(taken), "market s"),
                    (f"{name}: p99", percentile(taken, 99), "market s"),
                    (f"{name}: max, target <= {target}", max(taken), "market s"),
                    (f"{name}: flat, and not proven (exit code 2)", UNPROVEN[name], f"of {len(taken)}"),
                ]
        for name, target, play in BARE:
            bare = [await play(await dsns.next(), seed) for seed in range(SEEDS)]
            rows += [
                (f"bare seconds, {name}: p50 of {len(bare)}", median(bare), "market s"),
                (f"bare seconds, {name}: p99, target <= {target:g}", percentile(bare, 99), "market s"),
                (f"bare seconds, {name}: max", max(bare), "market s"),
            ]
    return rows


class Databases:
    """A migrated database after the other."""

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


async def flatten(dsn: str, positions: int, seed: int, rate: float) -> float:
    """Market seconds from SIGTERM to the end of the process, everything sold and proven."""
    market = StoryMarket()
    market.listings |= {symbol: asset(symbol) for symbol in SYMBOLS}
    async with open_desk(dsn, market=market) as desk:
        for symbol in SYMBOLS[:positions]:
            desk.prints(symbol, "190.00")
        await desk.waits(seconds=1)
        for symbol in SYMBOLS[:positions]:
            await desk.enters(symbol, 20, **ENTRY)
        await desk.waits(seconds=10)
        assert all(desk.held(symbol) == 20 for symbol in SYMBOLS[:positions])
        desk.server.exchange.faults = Erratic(random.Random(seed), rate)
        began = desk.clock.now()
        desk.stop.ask("SIGTERM", flatten=True)
        code = await desk.leaves(step=0.25)
        taken = (desk.clock.now() - began).total_seconds()
        desk.server.exchange.faults = FaultBook()
        assert not any(desk.held(symbol) for symbol in SYMBOLS[:positions])
        assert rate or code is Exit.FLAT, code
        await desk.agrees()
        UNPROVEN[name_of(positions, rate)] += code is not Exit.FLAT
        return taken


def name_of(positions: int, rate: float) -> str:
    return f"flatten of {positions} positions, " + (f"{rate:.0%} errors" if rate else "healthy")


# ---------------------------------------------------------------------- shares without cover


def longest(desk: Desk) -> float:
    """The longest stretch in which shares stood without a working stop, as the exchange itself saw it."""
    exposure = desk.server.exchange.exposure.now(desk.server.exchange.now)
    return max((float(one["longest_seconds"]) for one in exposure.values()), default=0.0)


async def _begin(desk: Desk, seed: int) -> None:
    """A print, at a moment of the loops' turns that the seed draws."""
    await desk.waits(seconds=round(random.Random(seed).uniform(0, 30), 3))
    desk.prints("AAPL", "190.00")
    await desk.waits(seconds=1)


async def healthy(dsn: str, seed: int) -> float:
    async with open_desk(dsn) as desk:
        await _begin(desk, seed)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=40)
        assert desk.held("AAPL") == 20
        return longest(desk)


async def partial(dsn: str, seed: int) -> float:
    """Eight of twenty fill, and no more."""
    async with open_desk(dsn) as desk:
        await _begin(desk, seed)
        await desk.faults("partial", symbol="AAPL", qty="8")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == 8
        return longest(desk)


async def leg_missing(dsn: str, seed: int) -> float:
    """The venue rejects the stop as it should go live."""
    async with open_desk(dsn) as desk:
        await _begin(desk, seed)
        await desk.faults("leg_reject", symbol="AAPL", role="stop_loss")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=60)
        return longest(desk)


async def stream_down(dsn: str, seed: int) -> float:
    """A partial fill of which the stream, open and mute, says nothing."""
    async with open_desk(dsn) as desk:
        await _begin(desk, seed)
        await desk.faults("stream_mute")
        await desk.faults("partial", symbol="AAPL", qty="8")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 8
        return longest(desk)


async def without_tables(dsn: str, seed: int) -> float:
    """A partial fill while the database is away, for a minute."""
    with tempfile.TemporaryDirectory() as folder:
        places = {"spool": folder, "proofs": str(Path(folder) / "proofs")}
        async with open_desk_behind(dsn, database=places) as (desk, proxy, _):
            await _begin(desk, seed)
            await desk.faults("partial", symbol="AAPL", qty="8")
            row = await enters(desk, "AAPL", 20)
            assert row is not None
            proxy.goes_away()
            await desk.waits(seconds=60)
            assert desk.held("AAPL") == 8
            proxy.heals()
            await desk.waits(seconds=60)
            return longest(desk)


async def killed(dsn: str, seed: int) -> float:
    """The daemon dies over a partial fill; two seconds later another one starts."""
    async with open_desk(dsn) as desk:
        await _begin(desk, seed)
        await desk.faults("partial", symbol="AAPL", qty="8")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=round(random.Random(seed).uniform(0, 4), 3))
        await desk.dies()
        await desk.waits(seconds=2)
        await desk.opens()
        await desk.waits(seconds=60)
        return longest(desk)


BARE: list[tuple[str, float, Callable[[str, int], Awaitable[float]]]] = [
    ("healthy", 1, healthy),
    ("partial entry", 8, partial),
    ("stop leg rejected", 8, leg_missing),
    ("partial entry, stream mute", 15, stream_down),
    ("partial entry, database away", 15, without_tables),
    ("partial entry, killed, restarted after 2 s", 12, killed),
]


if __name__ == "__main__":
    for figure, value, unit in run():
        print(f"{figure:<70} {value:>12,.3f} {unit}")
