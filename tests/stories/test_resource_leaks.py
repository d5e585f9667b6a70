"""Nothing piles up: after more hours, more trades and more reconnects a daemon holds what it held before."""

import asyncio
import gc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stories.scenario import Scenario, open_scenario

# What may be more at one look than at another: a request under way, a timer that has not been cleared yet.
SLACK = 3
GROWS_WITH_ORDERS = {"catalyst.domain.report.OrderReport", "catalyst.store.orders.OrderRow"}


@dataclass(frozen=True, slots=True)
class ProcessResources:
    """What a process holds, counted."""

    tasks: int
    descriptors: int
    backends: int
    timers: int
    orders: int  # of the day, in the tables
    objects: Counter[str]


@pytest.mark.promise("I24")
async def test_daemon_resources_do_not_grow_with_trades(database: str) -> None:
    """Between the second round trip and the tenth, with a reconnect and a failed read in each: as many tasks, open
    files, database connections and timers, and nothing of ours grew with the trades but the day's list of orders."""
    async with open_scenario(database) as scenario:
        await run_round_trips(scenario, 2)
        before = await measure_resources(scenario)
        await run_round_trips(scenario, 8)
        after = await measure_resources(scenario)
    assert after.tasks <= before.tasks + SLACK
    assert after.descriptors <= before.descriptors + SLACK
    assert after.backends <= before.backends + SLACK
    assert after.timers <= before.timers + SLACK
    grown = {kind: n - before.objects[kind] for kind, n in after.objects.items()}
    day = (
        after.orders - before.orders
    )  # the broker's list of the day's orders is kept beside their rows, each once
    most = {kind: SLACK + (day if kind in GROWS_WITH_ORDERS else 0) for kind in grown}
    assert {kind: n for kind, n in grown.items() if n > most[kind]} == {}


async def run_round_trips(scenario: Scenario, number: int) -> None:
    """Buy, lose the stream, miss a list of orders, sell; minutes apart."""
    for _ in range(number):
        await scenario.given_position("AAPL", 20)
        scenario.server.streams.disconnect()
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=503)
        await scenario.advance(seconds=70)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0


async def measure_resources(scenario: Scenario) -> ProcessResources:
    """What is held now, when everybody is quiet."""
    await scenario.advance(seconds=5)
    await scenario.clock.wait_until_quiet()
    gc.collect()
    kinds = Counter(
        f"{type(each).__module__}.{type(each).__name__}"
        for each in gc.get_objects()
        if str(type(each).__module__).startswith("catalyst.") and ".simulator." not in type(each).__module__
    )
    backends = await scenario.conn.fetchval(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    )
    return ProcessResources(
        tasks=len(asyncio.all_tasks()),
        descriptors=open_descriptors(),
        backends=backends,
        timers=len(scenario.clock._alarms),
        orders=await scenario.conn.fetchval("SELECT count(*) FROM orders"),
        objects=kinds,
    )


def open_descriptors() -> int:
    """How many files and sockets this process has open."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
