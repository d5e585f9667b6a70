"""A desk whose daemon can be dead at once, at any step it takes, and be started again.

A daemon's life is a tree of tasks and its connections. At the chosen step the tree is cancelled and the
connections are cut in the same instant: no later line has an effect, what was open in the database rolls back,
and what had been sent to the exchange is processed there. After a silence another daemon starts.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from tempfile import TemporaryDirectory
from typing import Any, Final, NamedTuple

import asyncpg

from catalyst.broker.port import StreamState
from catalyst.clock import ManualClock
from catalyst.daemon.app import recover_and_run
from catalyst.daemon.components import Components
from catalyst.daemon.shutdown import ExitCode, StopRequest
from catalyst.daemon.startup import acquire_account, acquire_host_lock, open_database
from catalyst.domain.errors import UserError
from catalyst.domain.fault_points import Moment
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.server import run_server
from catalyst.store.pool import Store
from tests.simulator.manual_feed import at
from tests.stories.scenario import Facts, Scenario, ScenarioMarket, settings_for

TIME_STEP = timedelta(seconds=0.5)  # of market time, so that a silence ends when it should
LONG_TIME_STEP = timedelta(seconds=10)  # where nobody is to die any more
RESTART_DELAY = timedelta(seconds=2)  # a process that ended by itself is started again, as systemd would
READY_TIMEOUT = timedelta(seconds=90)  # of market time, for a daemon to be ready

_DAEMON_RUN: "ContextVar[DaemonRun | None]" = ContextVar("daemon_run", default=None)
_IDENTIFIER = re.compile(r"(?<=/)([0-9a-f]{8}-[0-9a-f-]{27}|[A-Z]{4})(?=$|/)")


ANY_STEP: Final = "any step"


class CrashPoint(NamedTuple):
    """A step of a run, by its name, its how-manieth, and on which side of it. `ANY` counts them all."""

    label: str
    nth: int
    moment: Moment

    def __str__(self) -> str:
        return f"{self.label} #{self.nth} {self.moment}"


@dataclass(eq=False)
class DaemonRun:
    """One daemon, from its first step to its end. Called as the witness of everything it does."""

    harness: "CrashHarness"
    number: int
    stop: StopRequest = field(default_factory=StopRequest)
    store: Store | None = None
    components: Components | None = None
    tasks: "set[asyncio.Task[Any]]" = field(default_factory=set)
    main_task: "asyncio.Task[ExitCode] | None" = None
    crashed: bool = False

    def __call__(self, step: str, moment: Moment, /) -> None:
        if self.crashed:
            raise asyncio.CancelledError("crashed")
        if self.harness.record_step(step, moment):
            self.crash()
            raise asyncio.CancelledError("crash point reached")

    def crash(self) -> None:
        """Everything ends now."""
        self.crashed = True
        if self.store is not None:
            self.store.abandon()
        for task in self.tasks:
            task.cancel()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work` as a part of this life."""
        context = copy_context()
        context.run(_DAEMON_RUN.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    async def run(self) -> ExitCode:
        """What the command `catalyst run` does, without its process."""
        harness = self.harness
        with ExitStack() as leaving:
            async with AsyncExitStack() as stack:
                account = await acquire_host_lock(stack, harness.settings, harness.clock, fault_point=self)
                self.store = await open_database(stack, harness.dsn, harness.clock, fault_point=self)
                self.components, lock = await acquire_account(
                    stack, harness.settings, self.store, harness.clock, account, fault_point=self
                )
                try:
                    return await recover_and_run(self.components, lock, self.stop, once=True)
                finally:
                    leaving.enter_context(harness.clock.hold())

    @property
    def ready(self) -> bool:
        """True when it hears the stream and has its day."""
        components = self.components
        return (
            not self.crashed
            and components is not None
            and components.ready.is_set()
            and components.stream.state is StreamState.READY
            and components.trading_day is not None
            and components.trading_day.cycle_id != ""
        )


@dataclass
class CrashHarness(Scenario):
    """A market, an exchange, a database, and one daemon after the other.

    Each point of `deaths` is where a daemon dies, the next one only after the one before; `silence` is how long
    nobody trades then. `seen` are the steps taken while `counting`.
    """

    crash_points: list[CrashPoint] = field(default_factory=list)
    downtime: timedelta = timedelta(seconds=3)
    steps: list[CrashPoint] = field(default_factory=list)
    crashes: list[CrashPoint] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # what ended a daemon that nobody killed
    recoveries: list[tuple[float, float]] = field(default_factory=list)  # market and real seconds
    counting: bool = True
    exit_codes: list[ExitCode] = field(default_factory=list)
    current_run: DaemonRun | None = None
    _counts: "Counter[tuple[str, Moment]]" = field(default_factory=Counter)
    _frames_of_past_runs: int = 0  # frames the exchange sent to daemons that are gone
    _restart_at: datetime | None = None  # when the next daemon starts
    _run_count: int = 0
    _recovery_start: tuple[datetime, float] | None = None

    # -- steps

    def record_step(self, step: str, moment: Moment) -> bool:
        """Count a step; true when the daemon that takes it dies there."""
        label = _IDENTIFIER.sub("*", step)
        if not self.counting:
            return False
        self._counts[label, moment] += 1
        point = CrashPoint(label, self._counts[label, moment], moment)
        self.steps.append(point)
        self._counts[ANY_STEP, moment] += 1
        if not self.crash_points or self.crash_points[0] not in (
            point,
            CrashPoint(ANY_STEP, self._counts[ANY_STEP, moment], moment),
        ):
            return False
        self.crash_points.pop(0)
        self.crashes.append(point)
        self._counts.clear()
        self._restart_at = self.clock.now() + self.downtime
        return True

    # -- lives

    @property
    def active_run(self) -> DaemonRun:
        assert self.current_run is not None
        return self.current_run

    async def start(self) -> None:
        """Start a daemon and wait until it is ready, however often it dies on the way."""
        self._start_run()
        await self.wait_until_ready()

    async def crash(self) -> None:
        """The daemon is killed where it stands; nobody follows by himself."""
        if self.current_run is not None:
            self.active_run.crash()
            await self._wait_for_teardown()
        self._restart_at = None

    async def wait_until_ready(self, *, or_stopped: bool = False) -> None:
        """Wait until a daemon is ready; or until none lives and none will, where that is as good."""
        deadline = self.clock.now() + READY_TIMEOUT
        while not (self.current_run is not None and self.active_run.ready):
            if or_stopped and self.is_stopped():
                return
            if self.clock.now() > deadline:
                raise AssertionError(f"no daemon was ready within {READY_TIMEOUT}")
            await self.waits(seconds=TIME_STEP.total_seconds())

    def is_stopped(self) -> bool:
        """True when no daemon lives and none will."""
        return self.current_run is None and self._restart_at is None

    def all_frames_applied(self) -> bool:
        daemon_run = self.current_run
        if daemon_run is None or daemon_run.crashed or daemon_run.components is None:
            return True
        if daemon_run.components.stream.state is not StreamState.READY:
            return True
        return (
            daemon_run.components.stream.frames_processed + self._frames_of_past_runs
            >= self.server.frames_sent
        )

    async def waits(self, **duration: float) -> None:
        """Let market time pass, and daemons die and be born in it."""
        until = self.clock.now() + timedelta(**duration)
        while True:
            await self.clock.wait_until_quiet()
            await self._collect_ended_run()
            now = self.clock.now()
            if self._restart_at is not None and now >= self._restart_at:
                self._restart_at = None
                self._start_run()
                continue
            if now >= until:
                return
            stops = [until, now + (TIME_STEP if self._needs_short_steps() else LONG_TIME_STEP)]
            await self.clock.advance_to(min(stops + ([self._restart_at] if self._restart_at else [])))
            self._record_recovery_time()

    def _needs_short_steps(self) -> bool:
        """True while a daemon may die, or is not ready yet."""
        return bool(self.crash_points) or self._recovery_start is not None

    def _start_run(self) -> None:
        self._run_count += 1
        daemon_run = DaemonRun(self, self._run_count)
        self.current_run = daemon_run
        self._recovery_start = (self.clock.now(), time.perf_counter())
        daemon_run.main_task = daemon_run.spawn(daemon_run.run())

    def _record_recovery_time(self) -> None:
        if self._recovery_start is not None and self.current_run is not None and self.active_run.ready:
            self.components = self.active_run.components
            began, real = self._recovery_start
            self._recovery_start = None
            if self._run_count > 1:
                market = (self.clock.now() - began).total_seconds()
                self.recoveries.append((market, time.perf_counter() - real))

    async def _collect_ended_run(self) -> None:
        """Clear away a daemon that has ended, and see to it that another one comes if one should."""
        daemon_run = self.current_run
        if (
            daemon_run is None
            or daemon_run.main_task is None
            or not (daemon_run.crashed or daemon_run.main_task.done())
        ):
            return
        killed = daemon_run.crashed
        ending = None if killed or daemon_run.main_task.cancelled() else daemon_run.main_task.exception()
        if not killed and ending is None:
            self.exit_codes.append(daemon_run.main_task.result())
        if ending is not None:
            if not isinstance(ending, UserError):  # a broker that cannot be reached at the start
                self.failures.append(repr(ending))
            self._restart_at = self.clock.now() + RESTART_DELAY
        await self._wait_for_teardown()

    async def _wait_for_teardown(self) -> None:
        """Wait until nothing is left of a daemon: no task, no connection, no transaction, no socket."""
        daemon_run = self.active_run
        self.current_run = None
        self.components = None
        began = time.monotonic()
        daemon_run.crashed = True
        while pending := {task for task in daemon_run.tasks if not task.done()}:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.05)
            assert time.monotonic() - began < 20, f"tasks that do not die: {pending}"
        for task in daemon_run.tasks:
            task.cancelled() or task.exception()
        while await self.conn.fetchval(_TERMINATE_BACKENDS) or self.server.streams.connection_count:
            await asyncio.sleep(0.001)
            assert time.monotonic() - began < 20, "connections that do not end"
        self._frames_of_past_runs = self.server.frames_sent

    # -- the trader's words

    async def submit_signal(self, symbol: str, qty: int, *, limit: str, stop: str, target: str) -> None:
        """A scan finds `symbol`, and finds it again after a daemon died over it, unless it is held or working."""
        while True:
            await self.wait_until_ready()
            daemon_run = self.active_run
            assert daemon_run.components is not None
            taken = await self.conn.fetchval(_HELD_OR_WORKING, symbol)
            if taken or daemon_run.components.gate.refusal(symbol) is not None:
                return
            self.components = daemon_run.components
            task = daemon_run.spawn(self.submit_entry(symbol, qty, limit=limit, stop=stop, target=target))
            await self.waits(seconds=0.1)
            if not (daemon_run.crashed and (task.cancelled() or not task.done())):
                return


# Backends of daemons that still live are cut; the answer says whether there were any.
_TERMINATE_BACKENDS = """
    SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'catalyst%'
"""
_HELD_OR_WORKING = """
    SELECT EXISTS (SELECT 1 FROM orders o JOIN securities s USING (security_id) WHERE s.symbol = $1
                      AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill'))
        OR EXISTS (SELECT 1 FROM positions p JOIN securities s USING (security_id) WHERE s.symbol = $1
                      AND p.status = 'open')
"""


def _create_task(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: Context | None = None
) -> "asyncio.Task[Any]":
    """A task, known to the life it belongs to."""
    task = asyncio.Task(work, loop=loop, context=context)
    daemon_run = _DAEMON_RUN.get() if context is None else context.get(_DAEMON_RUN)
    if daemon_run is not None:
        daemon_run.tasks.add(task)
        if daemon_run.crashed:
            task.cancel()
    return task


@asynccontextmanager
async def open_crash_harness(
    dsn: str,
    *,
    now: str = "10:16",
    crash_points: "list[CrashPoint] | None" = None,
    downtime: float = 3,
    exchange_settings: ExchangeSettings | None = None,
    sections: dict[str, Facts] | None = None,
) -> AsyncIterator[CrashHarness]:
    """A world in the middle of a quiet Monday morning, no daemon in it yet."""
    clock = ManualClock(at(now))
    market = ScenarioMarket()
    exchange = Exchange(market, clock.now(), settings=exchange_settings)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(_create_task)
    try:
        async with run_server(exchange, clock, market=market) as server, AsyncExitStack() as stack:
            conn = await asyncpg.connect(dsn)
            folder = stack.enter_context(TemporaryDirectory(prefix="catalyst-tests-"))
            all_sections = {"database": {"data_dir": f"{folder}/pg"}, **(sections or {})}
            settings = settings_for(server.url, **all_sections)
            harness = CrashHarness(
                clock, market, server, dsn, settings, conn,
                crash_points=list(crash_points or []), downtime=timedelta(seconds=downtime),
            )  # fmt: skip
            clock.advance_only_when(harness.all_frames_applied)
            try:
                yield harness
            finally:
                await harness.crash()
                await conn.close()
    finally:
        loop.set_task_factory(None)
