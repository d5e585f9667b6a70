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
from catalyst.daemon.app import live
from catalyst.daemon.components import Desk as Parts
from catalyst.daemon.shutdown import Exit, Stop
from catalyst.daemon.startup import open_books, sit_down, take_the_desk
from catalyst.domain.errors import UserError
from catalyst.domain.fault_points import Moment
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import Switches
from catalyst.simulator.server import running
from catalyst.store.pool import Store
from tests.simulator.manual_feed import at
from tests.stories.scenario import Desk, Facts, StoryMarket, settings_for

STEP = timedelta(seconds=0.5)  # of market time, so that a silence ends when it should
STRIDE = timedelta(seconds=10)  # where nobody is to die any more
RESTART = timedelta(seconds=2)  # a process that ended by itself is started again, as systemd would
PATIENCE = timedelta(seconds=90)  # of market time, for a daemon to be ready

_LIFE: "ContextVar[Life | None]" = ContextVar("life", default=None)
_NAMED = re.compile(r"(?<=/)([0-9a-f]{8}-[0-9a-f-]{27}|[A-Z]{4})(?=$|/)")


ANY: Final = "any step"


class Point(NamedTuple):
    """A step of a run, by its name, its how-manieth, and on which side of it. `ANY` counts them all."""

    label: str
    nth: int
    moment: Moment

    def __str__(self) -> str:
        return f"{self.label} #{self.nth} {self.moment}"


@dataclass(eq=False)
class Life:
    """One daemon, from its first step to its end. Called as the witness of everything it does."""

    world: "World"
    number: int
    stop: Stop = field(default_factory=Stop)
    store: Store | None = None
    parts: Parts | None = None
    tasks: "set[asyncio.Task[Any]]" = field(default_factory=set)
    main: "asyncio.Task[Exit] | None" = None
    dead: bool = False

    def __call__(self, step: str, moment: Moment, /) -> None:
        if self.dead:
            raise asyncio.CancelledError("the dead take no step")
        if self.world.comes_to(step, moment):
            self.die()
            raise asyncio.CancelledError("died here")

    def die(self) -> None:
        """Everything ends now."""
        self.dead = True
        if self.store is not None:
            self.store.give_up()
        for task in self.tasks:
            task.cancel()

    def spawn(self, work: Coroutine[Any, Any, Any]) -> "asyncio.Task[Any]":
        """Run `work` as a part of this life."""
        context = copy_context()
        context.run(_LIFE.set, self)
        return asyncio.get_running_loop().create_task(work, context=context)

    async def run(self) -> Exit:
        """What the command `catalyst run` does, without its process."""
        world = self.world
        with ExitStack() as leaving:
            async with AsyncExitStack() as stack:
                account = await sit_down(stack, world.settings, world.clock, witness=self)
                self.store = await open_books(stack, world.dsn, world.clock, witness=self)
                self.parts, lock = await take_the_desk(
                    stack, world.settings, self.store, world.clock, account, witness=self
                )
                try:
                    return await live(self.parts, lock, self.stop, once=True)
                finally:
                    leaving.enter_context(world.clock.hold())

    @property
    def ready(self) -> bool:
        """True when it hears the stream and has its day."""
        parts = self.parts
        return (
            not self.dead
            and parts is not None
            and parts.ready.is_set()
            and parts.stream.state is StreamState.READY
            and parts.day is not None
            and parts.day.cycle_id != ""
        )


@dataclass
class World(Desk):
    """A market, an exchange, a database, and one daemon after the other.

    Each point of `deaths` is where a daemon dies, the next one only after the one before; `silence` is how long
    nobody trades then. `seen` are the steps taken while `counting`.
    """

    deaths: list[Point] = field(default_factory=list)
    silence: timedelta = timedelta(seconds=3)
    seen: list[Point] = field(default_factory=list)
    died: list[Point] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)  # what ended a daemon that nobody killed
    recoveries: list[tuple[float, float]] = field(default_factory=list)  # market and real seconds
    counting: bool = True
    codes: list[Exit] = field(default_factory=list)
    living: Life | None = None
    _counts: "Counter[tuple[str, Moment]]" = field(default_factory=Counter)
    _frames: int = 0  # frames the exchange sent to daemons that are gone
    _again: datetime | None = None  # when the next daemon starts
    _lives: int = 0
    _rising: tuple[datetime, float] | None = None

    # -- steps

    def comes_to(self, step: str, moment: Moment) -> bool:
        """Count a step; true when the daemon that takes it dies there."""
        label = _NAMED.sub("*", step)
        if not self.counting:
            return False
        self._counts[label, moment] += 1
        point = Point(label, self._counts[label, moment], moment)
        self.seen.append(point)
        self._counts[ANY, moment] += 1
        if not self.deaths or self.deaths[0] not in (point, Point(ANY, self._counts[ANY, moment], moment)):
            return False
        self.deaths.pop(0)
        self.died.append(point)
        self._counts.clear()
        self._again = self.clock.now() + self.silence
        return True

    # -- lives

    @property
    def living_now(self) -> Life:
        assert self.living is not None
        return self.living

    async def opens(self) -> None:
        """Start a daemon and wait until it is ready, however often it dies on the way."""
        self._rise()
        await self.ready()

    async def dies(self) -> None:
        """The daemon is killed where it stands; nobody follows by himself."""
        if self.living is not None:
            self.living_now.die()
            await self._bury()
        self._again = None

    async def ready(self, *, or_gone: bool = False) -> None:
        """Wait until a daemon is ready; or until none lives and none will, where that is as good."""
        deadline = self.clock.now() + PATIENCE
        while not (self.living is not None and self.living_now.ready):
            if or_gone and self.gone():
                return
            if self.clock.now() > deadline:
                raise AssertionError(f"no daemon was ready within {PATIENCE}")
            await self.waits(seconds=STEP.total_seconds())

    def gone(self) -> bool:
        """True when no daemon lives and none will."""
        return self.living is None and self._again is None

    def settled(self) -> bool:
        life = self.living
        if life is None or life.dead or life.parts is None:
            return True
        if life.parts.stream.state is not StreamState.READY:
            return True
        return life.parts.stream.frames_received + self._frames >= self.server.frames_sent

    async def waits(self, **duration: float) -> None:
        """Let market time pass, and daemons die and be born in it."""
        until = self.clock.now() + timedelta(**duration)
        while True:
            await self.clock.quiet()
            await self._mourn()
            now = self.clock.now()
            if self._again is not None and now >= self._again:
                self._again = None
                self._rise()
                continue
            if now >= until:
                return
            stops = [until, now + (STEP if self._uncertain() else STRIDE)]
            await self.clock.advance_to(min(stops + ([self._again] if self._again else [])))
            self._time_recovery()

    def _uncertain(self) -> bool:
        """True while a daemon may die, or is not ready yet."""
        return bool(self.deaths) or self._rising is not None

    def _rise(self) -> None:
        self._lives += 1
        life = Life(self, self._lives)
        self.living = life
        self._rising = (self.clock.now(), time.perf_counter())
        life.main = life.spawn(life.run())

    def _time_recovery(self) -> None:
        if self._rising is not None and self.living is not None and self.living_now.ready:
            self.parts = self.living_now.parts
            began, real = self._rising
            self._rising = None
            if self._lives > 1:
                market = (self.clock.now() - began).total_seconds()
                self.recoveries.append((market, time.perf_counter() - real))

    async def _mourn(self) -> None:
        """Clear away a daemon that has ended, and see to it that another one comes if one should."""
        life = self.living
        if life is None or life.main is None or not (life.dead or life.main.done()):
            return
        killed = life.dead
        ending = None if killed or life.main.cancelled() else life.main.exception()
        if not killed and ending is None:
            self.codes.append(life.main.result())
        if ending is not None:
            if not isinstance(ending, UserError):  # a broker that cannot be reached at the start
                self.failures.append(repr(ending))
            self._again = self.clock.now() + RESTART
        await self._bury()

    async def _bury(self) -> None:
        """Wait until nothing is left of a daemon: no task, no connection, no transaction, no socket."""
        life = self.living_now
        self.living = None
        self.parts = None
        began = time.monotonic()
        life.dead = True
        while pending := {task for task in life.tasks if not task.done()}:
            for task in pending:
                task.cancel()
            await asyncio.wait(pending, timeout=0.05)
            assert time.monotonic() - began < 20, f"tasks that do not die: {pending}"
        for task in life.tasks:
            task.cancelled() or task.exception()
        while await self.conn.fetchval(_CUT) or self.server.streams.connections:
            await asyncio.sleep(0.001)
            assert time.monotonic() - began < 20, "connections that do not end"
        self._frames = self.server.frames_sent

    # -- the trader's words

    async def signals(self, symbol: str, qty: int, *, limit: str, stop: str, target: str) -> None:
        """A scan finds `symbol`, and finds it again after a daemon died over it, unless it is held or working."""
        while True:
            await self.ready()
            life = self.living_now
            assert life.parts is not None
            taken = await self.conn.fetchval(_TAKEN, symbol)
            if taken or life.parts.gate.refusal(symbol) is not None:
                return
            self.parts = life.parts
            task = life.spawn(self.enters(symbol, qty, limit=limit, stop=stop, target=target))
            await self.waits(seconds=0.1)
            if not (life.dead and (task.cancelled() or not task.done())):
                return


# Backends of daemons that still live are cut; the answer says whether there were any.
_CUT = """
    SELECT count(pg_terminate_backend(pid)) > 0 FROM pg_stat_activity
     WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name LIKE 'catalyst%'
"""
_TAKEN = """
    SELECT EXISTS (SELECT 1 FROM orders o JOIN securities s USING (security_id) WHERE s.symbol = $1
                      AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill'))
        OR EXISTS (SELECT 1 FROM positions p JOIN securities s USING (security_id) WHERE s.symbol = $1
                      AND p.status = 'open')
"""


def _begin(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: Context | None = None
) -> "asyncio.Task[Any]":
    """A task, known to the life it belongs to."""
    task = asyncio.Task(work, loop=loop, context=context)
    life = _LIFE.get() if context is None else context.get(_LIFE)
    if life is not None:
        life.tasks.add(task)
        if life.dead:
            task.cancel()
    return task


@asynccontextmanager
async def open_world(
    dsn: str,
    *,
    now: str = "10:16",
    deaths: "list[Point] | None" = None,
    silence: float = 3,
    switches: Switches | None = None,
    sections: dict[str, Facts] | None = None,
) -> AsyncIterator[World]:
    """A world in the middle of a quiet Monday morning, no daemon in it yet."""
    clock = ManualClock(at(now))
    market = StoryMarket()
    exchange = Exchange(market, clock.now(), switches=switches)
    loop = asyncio.get_running_loop()
    loop.set_task_factory(_begin)
    try:
        async with running(exchange, clock, market=market) as server, AsyncExitStack() as stack:
            conn = await asyncpg.connect(dsn)
            folder = stack.enter_context(TemporaryDirectory(prefix="catalyst-tests-"))
            told = {"database": {"data_dir": f"{folder}/pg"}, **(sections or {})}
            settings = settings_for(server.url, **told)
            world = World(
                clock, market, server, dsn, settings, conn,
                deaths=list(deaths or []), silence=timedelta(seconds=silence),
            )  # fmt: skip
            clock.quiet_when(world.settled)
            try:
                yield world
            finally:
                await world.dies()
                await conn.close()
    finally:
        loop.set_task_factory(None)
