"""Resource leaks: tasks, descriptors, connections, timers and objects do not grow with hours, trades and
reconnects."""

import asyncio
import gc
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.stories.scenario import Scenario, open_scenario

# Tolerance between two measurements: a request in flight, a timer that is not cleared yet.
SLACK = 3
GROWS_WITH_ORDERS = {"catalyst.domain.report.OrderReport", "catalyst.domain.rows.OrderRow"}


@dataclass(frozen=True, slots=True)
class ProcessResources:
    """Resources that a process holds."""

    tasks: int
    descriptors: int
    backends: int
    timers: int
    orders: int  # of the day, in the database
    objects: Counter[str]


@pytest.mark.promise("I24")
async def test_daemon_resources_do_not_grow_with_trades(database: str) -> None:
    """Between the second and the tenth round trip, each with a reconnect and a failed read, only the day's
    list of orders grows."""
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
    # The daemon caches the broker's list of the day's orders and their rows, each once.
    new_orders = after.orders - before.orders
    limits = {kind: SLACK + (new_orders if kind in GROWS_WITH_ORDERS else 0) for kind in grown}
    assert {kind: n for kind, n in grown.items() if n > limits[kind]} == {}


async def run_round_trips(scenario: Scenario, number: int) -> None:
    """Buy, cut the stream, fail a list of orders, sell; each a minute apart."""
    for _ in range(number):
        await scenario.given_position("AAPL", 20)
        scenario.server.streams.disconnect()
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=503)
        await scenario.advance(seconds=70)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0


async def measure_resources(scenario: Scenario) -> ProcessResources:
    """Measure the resources while the daemon is quiet."""
    await scenario.advance(seconds=5)
    await scenario.clock.wait_until_quiet()
    gc.collect()
    kinds = Counter(
        f"{type(item).__module__}.{type(item).__name__}"
        for item in gc.get_objects()
        if str(type(item).__module__).startswith("catalyst.") and ".simulator." not in type(item).__module__
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
    """Return the number of open files and sockets of this process."""
    return sum(1 for _ in Path("/proc/self/fd").iterdir())
