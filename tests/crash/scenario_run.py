"""One run of a crash scenario: plays it, lets it settle, checks everything, restarts twice without prints."""

import asyncio
import logging
import sys
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from catalyst.daemon.shutdown import ExitCode
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.faults.schedule import FaultSchedule
from tests.crash.checks import (
    find_problems,
    find_problems_after_close,
    find_restart_changes,
    longest_unprotected_seconds,
)
from tests.crash.extra_faults import NO_EXTRAS, ExtraFaults
from tests.crash.restartable_daemon import _DAEMON_RUN, ANY_STEP, CrashHarness, CrashPoint, open_crash_harness
from tests.crash.scenarios import CrashScenario
from tests.fault_rules import silent_rules
from tests.stories.scenario import second_installation

# Seconds of market time until a scenario has settled: more than one full reconciliation.
SETTLE_SECONDS = 65.0
# After random faults also unknown outcomes must be resolved and entries allowed again.
SETTLE_SECONDS_AFTER_FAULTS = 130.0
# An exit moves its target only after several of its cancels were rejected.
REPLACEMENT_SECONDS = 20.0
# Where faults last to the close, the scenario begins at this time at the earliest. Some of them fail most requests:
# then the day ends late.
START_BEFORE_CLOSE = "15:40"
PRINTS_BEFORE_CLOSE = 120
MINUTES_AFTER_CLOSE = 120


@dataclass(frozen=True, slots=True)
class RandomFaults:
    """Faults of a randomized run. `second_dsn` is the database of a second installation."""

    schedule: FaultSchedule
    extras: ExtraFaults = NO_EXTRAS
    second_dsn: str | None = None


@dataclass
class RunOutcome:
    """Result of a run. `steps` are the crash points passed while the scenario was played."""

    scenario: str
    crash_points: tuple[CrashPoint, ...]
    crashes: tuple[CrashPoint, ...] = ()
    problems: list[str] = field(default_factory=list)
    steps: tuple[CrashPoint, ...] = ()
    unprotected_seconds: float = 0.0  # longest time in which own shares had no working stop
    recoveries: tuple[tuple[float, float], ...] = ()  # market and real seconds from a start to ready
    log_lines: list[str] = field(default_factory=list)
    seed: int | None = None  # of the random faults, if any
    fired: dict[str, int] = field(default_factory=dict)  # how often each fault kind was applied
    silent_rules: list[str] = field(default_factory=list)  # fault rules of the scenario that never fired

    @property
    def passed(self) -> bool:
        return not self.problems


class LogCapture:
    """Log processor that stores the log of a run instead of printing it, and the exceptions a live daemon
    only logged."""

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
    faults: RandomFaults | None = None,
) -> RunOutcome:
    """Play `scenario` on an empty, migrated database, with a crash at each of `crash_points` in order.

    With `faults` the exchange fails by that schedule until the scenario has been played. The faults may
    interrupt the scenario; the run passes when everything is right after they end.

    Without crashes and `faults`, every fault rule of the scenario must fire.
    """
    if faults is not None and faults.extras.last_to_close and scenario.start_time < START_BEFORE_CLOSE:
        scenario = replace(scenario, start_time=START_BEFORE_CLOSE)
    outcome = RunOutcome(scenario.name, tuple(crash_points), seed=faults.schedule.seed if faults else None)
    with _logging_to(log := LogCapture()):
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
            # The clock raises RuntimeError when it waits in vain.
            except (AssertionError, TimeoutError, RuntimeError) as error:
                outcome.problems += [f"the scenario was interrupted: {error}", *harness.failures[:3]]
    outcome.crashes = tuple(harness.crashes)
    outcome.problems += [f"exception only logged: {text}" for text in log.swallowed_errors]
    outcome.problems += [
        f"never reached {point}" for point in harness.crash_points if point.label != ANY_STEP
    ]
    outcome.log_lines = log.lines
    return outcome


async def _play_and_check(
    harness: CrashHarness, scenario: CrashScenario, outcome: RunOutcome, faults: RandomFaults | None
) -> None:
    """Play the scenario, let it settle, run every check and store the problems in `outcome`."""
    try:
        await (scenario.play(harness) if faults is None else _play_with_faults(harness, scenario, faults))
    finally:
        outcome.steps = tuple(harness.steps)
        rules = harness.server.exchange.state.faults
        outcome.fired, outcome.silent_rules = rules.fired, silent_rules(rules)
    if faults is not None and faults.extras.last_to_close:
        outcome.problems += await find_problems_after_close(harness, max_qty=scenario.max_qty)
        return
    if not outcome.crash_points and faults is None:
        outcome.problems += [f"the fault rule never fired: {rule}" for rule in outcome.silent_rules]
    harness.counting = bool(harness.crash_points)
    await harness.wait_until_ready(or_stopped=True)
    if faults is None:
        await harness.advance(seconds=SETTLE_SECONDS)
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


async def _play_with_faults(harness: CrashHarness, scenario: CrashScenario, faults: RandomFaults) -> None:
    """Play the scenario with faults as far as it goes, then remove the faults and the crash points left."""
    harness.frames_may_wait = True
    rules = harness.server.exchange.state.faults
    rules.add_schedule(faults.schedule)
    rules.add_schedule(faults.extras)
    async with AsyncExitStack() as stack:
        if FaultKind.STREAM_SECOND in faults.schedule.rates:
            harness.server.exchange.state.settings.one_stream = False  # the fault decides, not the setting
            await stack.enter_async_context(harness.other_stream_client())
        with suppress(AssertionError, TimeoutError):  # a fault may take away what the scenario waits for
            if faults.second_dsn is not None:
                await harness.start()
                other = second_installation(harness, faults.second_dsn, gets_stream=False)
                await stack.enter_async_context(other)
            await scenario.play(harness)
            if FaultKind.REPLACE_REJECT in faults.schedule.rates:
                await harness.advance(seconds=REPLACEMENT_SECONDS)
        if faults.extras.last_to_close:
            await _play_to_the_close(harness)
            return
    rules.remove()
    harness.crash_points.clear()
    if harness.exit_codes and harness.exit_codes[-1] is ExitCode.NOT_FLAT:
        await harness.start()  # the operator starts it again after this exit code


async def _play_to_the_close(harness: CrashHarness) -> None:
    """Let the market go on until the daemon ends its day."""
    for number in range(PRINTS_BEFORE_CLOSE + MINUTES_AFTER_CLOSE):
        if harness.is_stopped():
            return
        _print_last_prices(harness)
        await harness.advance(seconds=10 if number < PRINTS_BEFORE_CLOSE else 60)


async def _repeat_last_prices(harness: CrashHarness) -> None:
    """Print the last prices again, so that working orders can fill."""
    for _ in range(round(SETTLE_SECONDS_AFTER_FAULTS / 10)):
        _print_last_prices(harness)
        await harness.advance(seconds=10)


def _print_last_prices(harness: CrashHarness) -> None:
    for symbol in ("AAPL", "MSFT", "TSLA"):
        if (last := harness.market.last_print(symbol, harness.clock.now())) is not None:
            harness.print_trade(symbol, str(last.price))


@contextmanager
def _logging_to(log: LogCapture) -> Iterator[None]:
    """Send every line of the daemon's log to `log`."""
    before, asyncio_level = structlog.get_config(), logging.getLogger("asyncio").level
    structlog.configure(processors=[structlog.contextvars.merge_contextvars, log])
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        structlog.configure(**before)
        logging.getLogger("asyncio").setLevel(asyncio_level)


async def list_steps(scenario: CrashScenario, dsn: str) -> tuple[CrashPoint, ...]:
    """Return every step of the scenario without a crash; check nothing."""
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
    """Run a scenario from outside an event loop."""
    return asyncio.run(run(scenario, dsn, crash_points, **options))
