"""Nothing piles up: after more hours, more trades and more reconnects a daemon holds what it held before."""

import asyncio
import gc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.stories.scenario import Desk, open_desk

# What may be more at one look than at another: a request under way, a timer that has not been cleared yet.
SLACK = 3
OF_THE_DAY = {"catalyst.domain.report.OrderReport", "catalyst.store.orders.OrderRow"}


@dataclass(frozen=True, slots=True)
class Holding:
    """What a process holds, counted."""

    tasks: int
    descriptors: int
    backends: int
    alarms: int
    orders: int  # of the day, in the tables
    objects: Counter[str]


async def test_i24_what_is_held_does_not_grow(database: str) -> None:
    """Between the second round trip and the tenth, with a reconnect and a failed read in each: as many tasks, open
    files, database connections and timers, and nothing of ours grew with the trades but the day's list of orders."""
    async with open_desk(database) as desk:
        await round_trips(desk, 2)
        before = await held_by(desk)
        await round_trips(desk, 8)
        after = await held_by(desk)
    assert after.tasks <= before.tasks + SLACK
    assert after.descriptors <= before.descriptors + SLACK
    assert after.backends <= before.backends + SLACK
    assert after.alarms <= before.alarms + SLACK
    grown = {kind: n - before.objects[kind] for kind, n in after.objects.items()}
    day = (
        after.orders - before.orders
    )  # the broker's list of the day's orders is kept beside their rows, each once
    most = {kind: SLACK + (day if kind in OF_THE_DAY else 0) for kind in grown}
    assert {kind: n for kind, n in grown.items() if n > most[kind]} == {}


async def round_trips(desk: Desk, number: int) -> None:
    """Buy, lose the stream, miss a list of orders, sell; minutes apart."""
    for _ in range(number):
        await desk.holds("AAPL", 20)
        desk.server.streams.disconnect()
        await desk.faults("status_before", method="GET", route="/v2/orders", status=503)
        await desk.waits(seconds=70)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == 0


async def held_by(desk: Desk) -> Holding:
    """What is held now, when everybody is quiet."""
    await desk.waits(seconds=5)
    await desk.clock.quiet()
    gc.collect()
    kinds = Counter(
        f"{type(each).__module__}.{type(each).__name__}"
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("catalyst.") and ".simulator." not in type(each).__module__
    )
    backends = await desk.conn.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    )
    return Holding(
        tasks=len(asyncio.all_tasks()),
        descriptors=descriptors(),
        backends=backends,
        alarms=len(desk.clock._alarms),
        orders=await desk.conn.fetchval("SELECT count(*) FROM orders"),
        objects=kinds,
    )


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
