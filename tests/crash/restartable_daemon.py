"""Test scenario whose daemon can crash at any step and start again.

A process run is a tree of tasks and its connections. At the crash point the tasks are cancelled and the
connections cut at once: no later line has an effect, open transactions roll back, and the exchange processes
the requests it received. After a downtime another daemon starts.
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

import aiohttp
import asyncpg

from catalyst.broker.port import StreamState
from catalyst.clock import ManualClock
from catalyst.daemon.app import recover_and_run
from catalyst.daemon.components import Components
from catalyst.daemon.shutdown import ExitCode, StopRequest
from catalyst.daemon.startup import acquire_account, acquire_host_lock, open_database
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import UserError
from catalyst.domain.fault_points import Moment
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.server import run_server
from catalyst.store.pool import Store
from tests.crash.slow_responses import SlowResponseClock
from tests.simulator.manual_feed import at
from tests.stories.scenario import Facts, Scenario, ScenarioMarket, settings_for
from tests.waiting import LIMIT_S, pause

TIME_STEP = timedelta(seconds=0.5)  # of market time; small enough for a downtime to end on time
LONG_TIME_STEP = timedelta(seconds=10)  # of market time, when no crash is left to inject
RESTART_DELAY = timedelta(seconds=2)  # systemd restarts a process that ended with an error
READY_TIMEOUT = timedelta(seconds=90)  # of market time, for a daemon to be ready

_DAEMON_RUN: "ContextVar[DaemonRun | None]" = ContextVar("daemon_run", default=None)
_IDENTIFIER = re.compile(r"(?<=/)([0-9a-f]{8}-[0-9a-f-]{27}|[A-Z]{4})(?=$|/)")


ANY_STEP: Final = "any step"


class CrashPoint(NamedTuple):
    """Crash point: the `nth` occurrence of a step, before or after it. The label ANY_STEP counts all steps."""

    label: str
    nth: int
    moment: Moment

    def __str__(self) -> str:
        return f"{self.label} #{self.nth} {self.moment}"


@dataclass(eq=False)
class DaemonRun:
    """One process run, from its first step to its end. It is the fault point of all its components."""

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
        """End the run at once: abandon the database connections and cancel every task."""
        self.crashed = True
        if self.store is not None:
            self.store.abandon()
        for task in self.tasks:
            task.cancel()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work` as a task of this process run."""
        context = copy_context()
        context.run(_DAEMON_RUN.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    async def run(self) -> ExitCode:
        """Do the work of the command `catalyst run`, without its process."""
        harness = self.harness
        with ExitStack() as clock_hold:
            async with AsyncExitStack() as stack:
                account = await acquire_host_lock(
                    stack,
                    harness.settings,
                    harness.clock,
                    dsn=harness.dsn,
                    stop=self.stop,
                    fault_point=self,
                )
                gate = EntryGate(harness.clock)
                self.store = await open_database(stack, harness.dsn, harness.clock, gate, fault_point=self)
                self.components, lock = await acquire_account(
                    stack, harness.settings, self.store, harness.clock, gate, account, fault_point=self
                )
                try:
                    return await recover_and_run(self.components, lock, self.stop, once=True)
                finally:
                    clock_hold.enter_context(harness.clock.hold())

    @property
    def ready(self) -> bool:
        """Return true when the stream is ready and the trading day has its cycle."""
        components = self.components
        return (
            not self.crashed
            and components is not None
            and components.ready.is_set()
            and components.stream.state is StreamState.READY
            and components.current_day.cycle_id is not None
        )


@dataclass
class CrashHarness(Scenario):
    """A market, an exchange, a database, and a sequence of process runs.

    `crash_points` are reached in their order. After each crash no daemon runs for `downtime`. `steps` are the
    steps recorded while `counting`.
    """

    crash_points: list[CrashPoint] = field(default_factory=list)
    downtime: timedelta = timedelta(seconds=3)
    steps: list[CrashPoint] = field(default_factory=list)
    crashes: list[CrashPoint] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # errors that ended a daemon without an injected crash
    recoveries: list[tuple[float, float]] = field(default_factory=list)  # market and real seconds
    counting: bool = True
    exit_codes: list[ExitCode] = field(default_factory=list)
    current_run: DaemonRun | None = None
    _counts: "Counter[tuple[str, Moment]]" = field(default_factory=Counter)
    _frames_of_past_runs: int = 0  # frames that the exchange sent to previous runs
    frames_may_wait: bool = False
    _restart_at: datetime | None = None  # when the next daemon starts
    _run_count: int = 0
    _recovery_start: tuple[datetime, float] | None = None
    _other_client: "aiohttp.ClientWebSocketResponse | None" = None

    # -- steps

    def record_step(self, step: str, moment: Moment) -> bool:
        """Count a step; return true when the daemon must crash there."""
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

    # -- process runs

    @property
    def active_run(self) -> DaemonRun:
        """Return the current process run; there must be one."""
        assert self.current_run is not None
        return self.current_run

    async def start(self) -> None:
        """Start a daemon unless one runs, and wait until it is ready, through any number of crashes."""
        if self.current_run is None:
            self._start_run()
        await self.wait_until_ready()

    async def crash(self) -> None:
        """Crash the daemon; no other daemon starts by itself."""
        if self.current_run is not None:
            self.active_run.crash()
            await self._wait_for_teardown()
        self._restart_at = None

    async def wait_until_ready(self, *, or_stopped: bool = False) -> None:
        """Wait until a daemon is ready or, with `or_stopped`, until none runs and none will start."""
        deadline = self.clock.now() + READY_TIMEOUT
        while not (self.current_run is not None and self.active_run.ready):
            if or_stopped and self.is_stopped():
                return
            if self.clock.now() > deadline:
                raise AssertionError(f"no daemon was ready within {READY_TIMEOUT}")
            await self.advance(seconds=TIME_STEP.total_seconds())

    def is_stopped(self) -> bool:
        """Return true when no daemon runs and none will start."""
        return self.current_run is None and self._restart_at is None

    def all_frames_applied(self) -> bool:
        """Return true when the daemon has processed every stream frame, or cannot receive any.

        With `frames_may_wait`, frames behind a gap may wait: the daemon reconciles before it takes the next one, and
        while the broker's faults last, its retries wait for the market clock.
        """
        daemon_run = self.current_run
        if daemon_run is None or daemon_run.crashed or daemon_run.components is None:
            return True
        if daemon_run.components.stream.state is not StreamState.READY:
            return True
        if self.frames_may_wait and "stream" in daemon_run.components.gate.reasons:
            return True
        return (
            daemon_run.components.stream.frames_processed + self._frames_of_past_runs
            >= self.server.frames_sent
        )

    async def advance(self, **duration: float) -> None:
        """Advance market time; crash and start daemons when they are due."""
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
        """Return true while a crash point is left or a daemon is not ready yet."""
        return bool(self.crash_points) or self._recovery_start is not None

    def _start_run(self) -> None:
        """Start the next process run."""
        self._run_count += 1
        daemon_run = DaemonRun(self, self._run_count)
        self.current_run = daemon_run
        self._recovery_start = (self.clock.now(), time.perf_counter())
        daemon_run.main_task = daemon_run.spawn(daemon_run.run())

    def _record_recovery_time(self) -> None:
        """Record the time from start to ready, in market and real seconds, except for the first run."""
        if self._recovery_start is not None and self.current_run is not None and self.active_run.ready:
            self.components = self.active_run.components
            market_start, real_start = self._recovery_start
            self._recovery_start = None
            if self._run_count > 1:
                market_seconds = (self.clock.now() - market_start).total_seconds()
                self.recoveries.append((market_seconds, time.perf_counter() - real_start))

    async def _collect_ended_run(self) -> None:
        """Record the end of a process run, and schedule the next one when it ended with an error."""
        daemon_run = self.current_run
        if (
            daemon_run is None
            or daemon_run.main_task is None
            or not (daemon_run.crashed or daemon_run.main_task.done())
        ):
            return
        crashed = daemon_run.crashed
        error = None if crashed or daemon_run.main_task.cancelled() else daemon_run.main_task.exception()
        if not crashed and error is None:
            self.exit_codes.append(daemon_run.main_task.result())
        if error is not None:
            if not isinstance(error, UserError):  # e.g. the broker cannot be reached at the start
                self.failures.append(repr(error))
            self._restart_at = self.clock.now() + RESTART_DELAY
        await self._wait_for_teardown()

    async def _wait_for_teardown(self) -> None:
        """Wait until no task, connection, transaction or socket of the run is left."""
        daemon_run = self.active_run
        self.current_run = None
        self.components = None
        began = time.monotonic()
        daemon_run.crashed = True
        while pending := {task for task in daemon_run.tasks if not task.done()}:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.05)
            assert time.monotonic() - began < LIMIT_S, f"tasks do not end: {pending}"
        for task in daemon_run.tasks:
            task.cancelled() or task.exception()
        others = int(self._other_client is not None and not self._other_client.closed)
        while await self.conn.fetchval(_TERMINATE_BACKENDS) or self.server.streams.connection_count > others:
            await pause()
            assert time.monotonic() - began < LIMIT_S, "connections do not end"
        self._frames_of_past_runs = self.server.frames_sent

    @asynccontextmanager
    async def other_stream_client(self) -> AsyncIterator[None]:
        """Keep a second connection to the trade_updates stream open; it subscribes to nothing."""
        async with aiohttp.ClientSession() as http, http.ws_connect(f"{self.server.url}/stream") as socket:
            self._other_client = socket
            reader = asyncio.ensure_future(socket.receive())  # it notices when the exchange closes the socket
            try:
                yield
            finally:
                self._other_client = None
                reader.cancel()
                await asyncio.gather(reader, return_exceptions=True)

    # -- orders

    async def submit_signal(self, symbol: str, qty: int, *, limit: str, stop: str, target: str) -> None:
        """Submit the entry of a signal; submit it again after a crash, unless the symbol is held or working."""
        while True:
            await self.wait_until_ready()
            daemon_run = self.active_run
            assert daemon_run.components is not None
            held_or_working = await self.conn.fetchval(_HELD_OR_WORKING, symbol)
            if held_or_working or daemon_run.components.gate.refusal(symbol) is not None:
                return
            self.components = daemon_run.components
            task = daemon_run.spawn(self.submit_entry(symbol, qty, limit=limit, stop=stop, target=target))
            await self.advance(seconds=0.1)
            if not (daemon_run.crashed and (task.cancelled() or not task.done())):
                return


# Terminates backends of previous runs; true when there were any.
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
    """Create a task and add it to the process run it belongs to."""
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
    """Open a harness at 10:16 on a quiet Monday; no daemon is started."""
    clock = ManualClock(at(now))
    feed = ScenarioMarket()
    market = OverriddenMarket(feed)  # a gap fault moves it
    terms = exchange_settings or ExchangeSettings(
        emit_pending_new=False
    )  # seeds and counts were chosen without it
    exchange = Exchange(market, clock.now(), settings=terms)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(_create_task)
    try:
        async with run_server(exchange, clock, market=market) as server, AsyncExitStack() as stack:
            conn = await asyncpg.connect(dsn)
            folder = stack.enter_context(TemporaryDirectory(prefix="catalyst-tests-"))
            all_sections = {"database": {"data_dir": f"{folder}/pg"}, **(sections or {})}
            settings = settings_for(server.url, **all_sections)
            harness = CrashHarness(
                clock, feed, server, dsn, settings, conn,
                crash_points=list(crash_points or []), downtime=timedelta(seconds=downtime),
            )  # fmt: skip
            clock.advance_only_when(harness.all_frames_applied)
            server.middleware._clock = SlowResponseClock(clock)  # type: ignore[assignment]
            try:
                yield harness
            finally:
                await harness.crash()
                await conn.close()
    finally:
        loop.set_task_factory(None)
