"""One run of one story: play it, let it come to rest, check everything, and restart it twice in silence."""

import asyncio
import logging
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from catalyst.daemon.shutdown import Exit
from catalyst.simulator.faults.schedule import Schedule
from tests.crash.checks import longest_naked, problems_of, unchanged_by_restarts
from tests.crash.restartable_daemon import _LIFE, ANY, Point, World, open_world
from tests.crash.scenarios import Scenario

REST = 65.0  # seconds of market time in which a story comes to rest: one full reconciliation and more
CALM = 130.0  # and after a storm: what it left is resolved and entries are allowed again


@dataclass
class Outcome:
    """What a run showed. `points` are the steps taken while the story was told."""

    scenario: str
    deaths: tuple[Point, ...]
    died: tuple[Point, ...] = ()
    problems: list[str] = field(default_factory=list)
    points: tuple[Point, ...] = ()
    naked: float = 0.0  # the longest stretch of seconds in which shares stood without cover
    recoveries: tuple[tuple[float, float], ...] = ()  # market and real seconds from a start to ready
    lines: list[str] = field(default_factory=list)
    seed: int | None = None  # of the storm it was told in
    fired: dict[str, int] = field(default_factory=dict)  # how often each kind of fault struck

    @property
    def green(self) -> bool:
        return not self.problems


class Lines:
    """The log of a run: kept, not printed; an exception that a living daemon swallowed is remembered."""

    def __init__(self) -> None:
        self.kept: list[str] = []
        self.swallowed: list[str] = []

    def __call__(self, _: Any, method: str, event: MutableMapping[str, Any]) -> str:
        life = _LIFE.get()
        facts = {k: v for k, v in event.items() if k not in ("event", "exc_info", "level")}
        error = event.get("exc_info")
        if error:
            facts["error"] = repr(sys.exc_info()[1])
        at = life.world.clock.now().strftime("%H:%M:%S.%f")[:-3] if life else ""
        self.kept.append(f"{at} [{life.number if life else '-'}] {method}: {event['event']} {facts}")
        if error and life is not None and not life.dead and facts["error"] != "None":
            self.swallowed.append(f"{event['event']}: {facts['error']}")
        raise structlog.DropEvent


async def run(
    scenario: Scenario,
    dsn: str,
    deaths: Sequence[Point] = (),
    *,
    silence: float = 3,
    storm: Schedule | None = None,
) -> Outcome:
    """Play `scenario` on an empty, migrated database, a daemon dying at each of `deaths` in their order.

    In a `storm` the exchange fails by its schedule until the story is told, which may break it off: what counts is
    that everything is right once the weather has cleared.
    """
    outcome = Outcome(scenario.name, tuple(deaths), seed=storm.seed if storm else None)
    with _logging_to(lines := Lines()):
        async with open_world(
            dsn,
            now=scenario.now,
            deaths=list(deaths),
            silence=silence,
            switches=scenario.switches(),
            sections=scenario.sections,
        ) as world:
            try:
                await _tell(world, scenario, outcome, storm)
            except (
                AssertionError,
                TimeoutError,
                RuntimeError,
            ) as error:  # RuntimeError: the clock waited in vain
                outcome.problems += [f"the story broke off: {error}", *world.failures[:3]]
    outcome.died = tuple(world.died)
    outcome.problems += [f"swallowed: {text}" for text in lines.swallowed]
    outcome.problems += [f"never came to {point}" for point in world.deaths if point.label != ANY]
    outcome.lines = lines.kept
    return outcome


async def _tell(world: World, scenario: Scenario, outcome: Outcome, storm: Schedule | None) -> None:
    """Play the story to its rest, and look at everything."""
    try:
        await (scenario.play(world) if storm is None else _weathered(world, scenario, storm))
    finally:
        outcome.points = tuple(world.seen)
        outcome.fired = {kind: n for kind, n in world.server.exchange.faults.fired.items() if n}
    world.counting = bool(world.deaths)
    await world.ready(or_gone=True)
    if storm is None:
        await world.waits(seconds=REST)
    else:
        await _calm(world)
    world.counting = False
    outcome.naked = longest_naked(world, scenario.foreign)
    outcome.recoveries = tuple(world.recoveries)
    outcome.problems += await problems_of(
        world,
        expected=scenario.expected,
        foreign=scenario.foreign,
        most=scenario.most,
        stormy=storm is not None,
    )
    if outcome.green:
        outcome.problems += await unchanged_by_restarts(world)


async def _weathered(world: World, scenario: Scenario, storm: Schedule) -> None:
    """The story in bad weather, as far as it goes; then the weather clears, and nobody dies any more."""
    world.server.exchange.faults.follow(storm)
    with suppress(AssertionError, TimeoutError):  # a story may wait in vain for what the weather takes away
        await scenario.play(world)
    world.server.exchange.faults.remove()
    world.deaths.clear()
    if world.codes and world.codes[-1] is Exit.NOT_FLAT:
        await world.opens()  # it said that it is not flat: whoever reads that starts it again


async def _calm(world: World) -> None:
    """The market goes on at its last prices, so that what rests in it can be done."""
    for _ in range(round(CALM / 10)):
        for symbol in ("AAPL", "MSFT", "TSLA"):
            if (last := world.market.last_print(symbol, world.clock.now())) is not None:
                world.prints(symbol, str(last.price))
        await world.waits(seconds=10)


@contextmanager
def _logging_to(lines: Lines) -> Iterator[None]:
    """Every line of the daemon's log goes to `lines`."""
    before, asyncio_level = structlog.get_config(), logging.getLogger("asyncio").level
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, lines])
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.getLogger("asyncio").setLevel(asyncio_level)


async def steps(scenario: Scenario, dsn: str) -> tuple[Point, ...]:
    """Every step of the story when nobody dies in it; nothing is checked."""
    with _logging_to(Lines()):
        async with open_world(
            dsn, now=scenario.now, switches=scenario.switches(), sections=scenario.sections
        ) as world:
            await scenario.play(world)
            return tuple(world.seen)


def play(scenario: Scenario, dsn: str, deaths: Sequence[Point] = (), **options: Any) -> Outcome:
    """The same from outside a loop."""
    return asyncio.run(run(scenario, dsn, deaths, **options))
