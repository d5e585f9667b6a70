"""One run of one story: play it, let it come to rest, check everything, and restart it twice in silence."""

import asyncio
import logging
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import structlog

from catalyst.daemon.shutdown import ExitCode
from catalyst.simulator.faults.schedule import FaultSchedule
from tests.crash.checks import find_problems, find_restart_changes, longest_unprotected_seconds
from tests.crash.restartable_daemon import _DAEMON_RUN, ANY_STEP, CrashHarness, CrashPoint, open_crash_harness
from tests.crash.scenarios import CrashScenario

SETTLE_SECONDS = (
    65.0  # seconds of market time in which a story comes to rest: one full reconciliation and more
)
SETTLE_SECONDS_AFTER_FAULTS = (
    130.0  # and after a storm: what it left is resolved and entries are allowed again
)


@dataclass
class RunOutcome:
    """What a run showed. `points` are the steps taken while the story was told."""

    scenario: str
    crash_points: tuple[CrashPoint, ...]
    crashes: tuple[CrashPoint, ...] = ()
    problems: list[str] = field(default_factory=list)
    steps: tuple[CrashPoint, ...] = ()
    unprotected_seconds: float = 0.0  # the longest stretch of seconds in which shares stood without cover
    recoveries: tuple[tuple[float, float], ...] = ()  # market and real seconds from a start to ready
    log_lines: list[str] = field(default_factory=list)
    seed: int | None = None  # of the storm it was told in
    fired: dict[str, int] = field(default_factory=dict)  # how often each kind of fault struck

    @property
    def passed(self) -> bool:
        return not self.problems


class LogCapture:
    """The log of a run: kept, not printed; an exception that a living daemon swallowed is remembered."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.swallowed_errors: list[str] = []

    def __call__(self, _: Any, method: str, event: MutableMapping[str, Any]) -> str:
        daemon_run = _DAEMON_RUN.get()
        facts = {k: v for k, v in event.items() if k not in ("event", "exc_info", "level")}
        error = event.get("exc_info")
        if error:
            facts["error"] = repr(sys.exc_info()[1])
        at = daemon_run.harness.clock.now().strftime("%H:%M:%S.%f")[:-3] if daemon_run else ""
        self.lines.append(
            f"{at} [{daemon_run.number if daemon_run else '-'}] {method}: {event['event']} {facts}"
        )
        if error and daemon_run is not None and not daemon_run.crashed and facts["error"] != "None":
            self.swallowed_errors.append(f"{event['event']}: {facts['error']}")
        raise structlog.DropEvent


async def run(
    scenario: CrashScenario,
    dsn: str,
    crash_points: Sequence[CrashPoint] = (),
    *,
    downtime: float = 3,
    faults: FaultSchedule | None = None,
) -> RunOutcome:
    """Play `scenario` on an empty, migrated database, a daemon dying at each of `deaths` in their order.

    In a `storm` the exchange fails by its schedule until the story is told, which may break it off: what counts is
    that everything is right once the weather has cleared.
    """
    outcome = RunOutcome(scenario.name, tuple(crash_points), seed=faults.seed if faults else None)
    with _logging_to(lines := LogCapture()):
        async with open_crash_harness(
            dsn,
            now=scenario.start_time,
            crash_points=list(crash_points),
            downtime=downtime,
            exchange_settings=scenario.exchange_settings(),
            sections=scenario.sections,
        ) as harness:
            try:
                await _play_and_check(harness, scenario, outcome, faults)
            except (
                AssertionError,
                TimeoutError,
                RuntimeError,
            ) as error:  # RuntimeError: the clock waited in vain
                outcome.problems += [f"the story broke off: {error}", *harness.failures[:3]]
    outcome.crashes = tuple(harness.crashes)
    outcome.problems += [f"swallowed: {text}" for text in lines.swallowed_errors]
    outcome.problems += [
        f"never came to {point}" for point in harness.crash_points if point.label != ANY_STEP
    ]
    outcome.log_lines = lines.lines
    return outcome


async def _play_and_check(
    harness: CrashHarness, scenario: CrashScenario, outcome: RunOutcome, faults: FaultSchedule | None
) -> None:
    """Play the story to its rest, and look at everything."""
    try:
        await (scenario.play(harness) if faults is None else _play_with_faults(harness, scenario, faults))
    finally:
        outcome.steps = tuple(harness.steps)
        outcome.fired = {kind: n for kind, n in harness.server.exchange.faults.fired.items() if n}
    harness.counting = bool(harness.crash_points)
    await harness.wait_until_ready(or_stopped=True)
    if faults is None:
        await harness.waits(seconds=SETTLE_SECONDS)
    else:
        await _repeat_last_prices(harness)
    harness.counting = False
    outcome.unprotected_seconds = longest_unprotected_seconds(harness, scenario.external_symbols)
    outcome.recoveries = tuple(harness.recoveries)
    outcome.problems += await find_problems(
        harness,
        expected_alerts=scenario.expected_alerts,
        external_symbols=scenario.external_symbols,
        max_qty=scenario.max_qty,
        random_faults=faults is not None,
    )
    if outcome.passed:
        outcome.problems += await find_restart_changes(harness)


async def _play_with_faults(harness: CrashHarness, scenario: CrashScenario, faults: FaultSchedule) -> None:
    """The story in bad weather, as far as it goes; then the weather clears, and nobody dies any more."""
    harness.server.exchange.faults.add_schedule(faults)
    with suppress(AssertionError, TimeoutError):  # a story may wait in vain for what the weather takes away
        await scenario.play(harness)
    harness.server.exchange.faults.remove()
    harness.crash_points.clear()
    if harness.exit_codes and harness.exit_codes[-1] is ExitCode.NOT_FLAT:
        await harness.start()  # it said that it is not flat: whoever reads that starts it again


async def _repeat_last_prices(harness: CrashHarness) -> None:
    """The market goes on at its last prices, so that what rests in it can be done."""
    for _ in range(round(SETTLE_SECONDS_AFTER_FAULTS / 10)):
        for symbol in ("AAPL", "MSFT", "TSLA"):
            if (last := harness.market.last_print(symbol, harness.clock.now())) is not None:
                harness.prints(symbol, str(last.price))
        await harness.waits(seconds=10)


@contextmanager
def _logging_to(lines: LogCapture) -> Iterator[None]:
    """Every line of the daemon's log goes to `lines`."""
    before, asyncio_level = structlog.get_config(), logging.getLogger("asyncio").level
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, lines])
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.getLogger("asyncio").setLevel(asyncio_level)


async def list_steps(scenario: CrashScenario, dsn: str) -> tuple[CrashPoint, ...]:
    """Every step of the story when nobody dies in it; nothing is checked."""
    with _logging_to(LogCapture()):
        async with open_crash_harness(
            dsn,
            now=scenario.start_time,
            exchange_settings=scenario.exchange_settings(),
            sections=scenario.sections,
        ) as harness:
            await scenario.play(harness)
            return tuple(harness.steps)


def run_blocking(
    scenario: CrashScenario, dsn: str, crash_points: Sequence[CrashPoint] = (), **options: Any
) -> RunOutcome:
    """The same from outside a loop."""
    return asyncio.run(run(scenario, dsn, crash_points, **options))
