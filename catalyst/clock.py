"""Clocks: the only module that reads time.

`SystemClock` is real time. `ScaledClock` runs a day in a minute; several processes share it through a small
memory-mapped file, so that daemon and exchange have the same time. `ManualClock` stands still until a test or a replay
advances it.

`hold()` marks an effect in flight (a request, a transaction, a scan). Real work takes real time, so the scaled clock
slows down during a hold, and the manual clock does not move at all. So no task sleeps on the Clock inside a hold.
"""

import asyncio
import fcntl
import heapq
import math
import mmap
import os
import struct
import time
import weakref
from collections.abc import Callable, Iterator, Sized
from contextlib import AbstractContextManager, contextmanager
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Final, Literal, Protocol, Self
from zoneinfo import ZoneInfo

NEW_YORK: Final = ZoneInfo("America/New_York")


@dataclass(slots=True)
class Turns:
    """Turns of a loop and of the tasks that it starts: how often one began or ended a wait for time, the broker or the
    database, and how many such waits last. Without a wait and without a new turn, the loop hangs or computes.

    Who waits for a lock of this process waits while its holder does, and takes the holder's turns.
    """

    taken: int = 0
    waits: int = 0
    outer: "Turns | None" = None  # turns that count these too
    is_released: bool = False  # they belong to a lock that is no longer held
    awaited: list["TurnsLock"] = field(default_factory=list)  # locks that are waited for

    def count(self) -> tuple[int, bool]:
        """Return the number of turns, with those of the holders of awaited locks, and whether one of them waits."""
        seen: list[Turns] = []  # two that wait for each other are counted once
        to_visit: list[Turns | None] = [self]
        while to_visit:
            turns = to_visit.pop()
            if turns is not None and not any(turns is one for one in seen):
                seen.append(turns)
                to_visit += [lock.holder for lock in turns.awaited]
        return sum(turns.taken for turns in seen), any(turns.waits for turns in seen)


_turns: Final = ContextVar("turns", default=Turns())  # noqa: B039 -- counts what nobody watches


def count_turns() -> Turns:
    """Count the turns of the present task from now on, with those of the tasks that it starts."""
    turns = Turns()
    _turns.set(turns)
    return turns


def separate_turns() -> Context:
    """Return a context for a new task whose turns do not count for the present one."""
    context = copy_context()
    context.run(count_turns)
    return context


@contextmanager
def waiting() -> Iterator[None]:
    """Take a turn, wait in the block for something outside this process or for time, and take a turn."""
    counted = _with_outer(_present_turns())
    for turns in counted:
        turns.taken += 1
        turns.waits += 1
    try:
        yield
    finally:
        for turns in counted:
            turns.waits -= 1
            turns.taken += 1


def _present_turns() -> Turns:
    """Return the turns of the present task. Those of locks that were released elsewhere, or in another order than they
    were acquired, are left behind; otherwise each would hold on to the next one for ever."""
    turns = _turns.get()
    while turns.is_released and turns.outer is not None:
        turns = turns.outer
    return turns


def _with_outer(turns: Turns) -> list[Turns]:
    found = [turns]
    while (outer := found[-1].outer) is not None:
        found.append(outer)
    return found


class TurnsLock(asyncio.Lock):
    """Lock that counts the turns of its holder: who waits for the lock waits while the holder does."""

    def __init__(self) -> None:
        super().__init__()
        self.holder: Turns | None = None  # turns since the lock was acquired

    async def acquire(self) -> Literal[True]:
        outer = _present_turns()
        counted = _with_outer(outer)
        for turns in counted:
            turns.awaited.append(self)
        try:
            await super().acquire()
        finally:
            for turns in counted:
                turns.awaited.remove(self)
        self.holder = Turns(outer=outer)
        _turns.set(self.holder)
        return True

    def release(self) -> None:
        holder, self.holder = self.holder, None
        super().release()
        if holder is not None:
            holder.is_released = True
            _turns.set(_present_turns())


class Clock(Protocol):
    """Interface of a clock, used by the whole program."""

    def now(self) -> datetime:
        """Return the present market time, aware, in UTC."""
        ...

    @property
    def speed(self) -> float:
        """Market seconds per real second."""
        ...

    async def sleep(self, duration: timedelta) -> None:
        """Return once `duration` of market time has passed; at once when it is not positive."""
        ...

    async def sleep_until(self, at: datetime) -> None:
        """Return once `now() >= at`."""
        ...

    def hold(self) -> AbstractContextManager[None]:
        """Mark an effect as in flight for the length of the block."""
        ...

    def slow_down_briefly(self) -> None:
        """Keep a scaled clock slow for a moment after an event, until its consequences arrive; other clocks ignore
        it."""
        ...


async def wait(clock: Clock, event: asyncio.Event, at_most: timedelta) -> bool:
    """Wait for `event`, but no longer than `at_most` of market time; return true when the event is set."""
    if event.is_set():
        return True
    event_waiter = asyncio.ensure_future(event.wait())
    sleeper = asyncio.ensure_future(clock.sleep(at_most))
    try:
        await asyncio.wait({event_waiter, sleeper}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        event_waiter.cancel()
        sleeper.cancel()
        await asyncio.gather(event_waiter, sleeper, return_exceptions=True)
    return event.is_set()


class SystemClock:
    """Real time."""

    speed: Final = 1.0

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, duration: timedelta) -> None:
        with waiting():
            await asyncio.sleep(max(0.0, duration.total_seconds()))

    async def sleep_until(self, at: datetime) -> None:
        with waiting():
            while (remaining_s := (at - self.now()).total_seconds()) > 0:  # noqa: ASYNC110 - the wall clock may be set
                await asyncio.sleep(remaining_s)

    def hold(self) -> AbstractContextManager[None]:
        return waiting()

    def slow_down_briefly(self) -> None:
        """Do nothing: real time cannot be slowed."""


class ScaledClock:
    """A scaled clock, equal for all processes that open one file.

    The file holds an anchor: (sequence, monotonic seconds, market seconds since the epoch, pace, cap, sequence).
    Market time is `market + (monotonic - anchor) * speed`; the speed is the smaller of pace and cap. Any process may
    read. Processes that `drive` may change pace and cap, which writes a new anchor, so time never jumps. The monotonic
    clock is the machine's, not the process's. A new anchor is written next to the old one and selected by a single
    byte, so the clock still runs when a driver is killed during the write.
    """

    _LAYOUT: Final = struct.Struct("<QddddQ")
    _ANCHORS_OFFSET: Final = 8  # offset of the two anchors; byte 0 selects the valid one
    _MAX_SLEEP_S: Final = 0.02  # real seconds; the speed may change during a sleep
    _BRIEF_S: Final = 0.06  # real seconds for which slow_down_briefly() slows the clock

    def __init__(
        self, path: Path, *, drive: bool = False, speed: float = 1.0, held_speed: float = 20.0
    ) -> None:
        file = os.open(path, os.O_RDWR if drive else os.O_RDONLY)
        # Not at exit: a hold that lasts until the interpreter ends still writes to the clock then.
        weakref.finalize(self, os.close, file).atexit = False
        access = mmap.ACCESS_WRITE if drive else mmap.ACCESS_READ
        self._map = mmap.mmap(file, self._ANCHORS_OFFSET + 2 * self._LAYOUT.size, access=access)
        self.path = path
        self._file = file
        self._drive = drive
        self._speed = speed
        self._max_held_speed = held_speed
        self._held_speed = min(held_speed, speed)
        self._holds = 0
        if drive:
            self.set_pace(speed)

    @classmethod
    def create(cls, path: Path, start: datetime, *, speed: float = 1.0) -> Self:
        """Write a new clock file that starts at `start` and stands still until a driver sets its pace."""
        anchor = cls._LAYOUT.pack(0, time.monotonic(), start.timestamp(), 0.0, math.inf, 0)
        path.write_bytes(bytes(cls._ANCHORS_OFFSET) + anchor + bytes(cls._LAYOUT.size))
        return cls(path, drive=False, speed=speed)

    def now(self) -> datetime:
        _, anchor_mono, market, pace, cap, _ = self._read_anchor()
        return datetime.fromtimestamp(market + (time.monotonic() - anchor_mono) * min(pace, cap), UTC)

    @property
    def speed(self) -> float:
        """Market seconds per real second, right now."""
        _, _, _, pace, cap, _ = self._read_anchor()
        return min(pace, cap)

    def set_pace(self, speed: float) -> None:
        """Run at `speed` from now on. Only for a driver."""
        self._write_anchor(lambda _pace, cap: (speed, cap))

    @property
    def is_driver(self) -> bool:
        """True when this instance may set the speed and jump; the others only read."""
        return self._drive

    def set_speed(self, speed: float) -> None:
        """Run at `speed`, and slower during a hold; zero stands still. Only for a driver."""
        self._speed = speed
        self._held_speed = min(self._max_held_speed, speed)
        self.set_pace(self._held_speed if self._holds else speed)

    def jump_to(self, to: datetime) -> None:
        """Jump to `to` and continue from there at the present speed. Only for a driver.

        Raises ValueError when `to` is in the past: time never runs backwards.
        """
        if to < self.now():
            raise ValueError(
                f"{to.isoformat()} has passed: it is {self.now().astimezone(to.tzinfo).isoformat()}"
            )
        self._write_anchor(lambda pace, cap: (pace, cap), not_before=to.timestamp())

    def set_cap(self, speed: float) -> None:
        """Run no faster than `speed` from now on, whatever pace the other drivers set; math.inf removes the cap. Only
        for a driver: the demo caps the speed while the daemon sets the pace."""
        self._write_anchor(lambda pace, _cap: (pace, speed))

    def _write_anchor(
        self, change: Callable[[float, float], tuple[float, float]], *, not_before: float = 0.0
    ) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)  # one driver at a time; a crash releases the lock
        try:
            sequence, anchor_mono, market, pace, cap, _ = self._read_anchor()
            mono = time.monotonic()
            market_now = max(market + (mono - anchor_mono) * min(pace, cap), not_before)
            next_sequence = sequence + 1
            anchor = (next_sequence, mono, market_now, *change(pace, cap), next_sequence)
            free_slot = 1 - self._map[0]
            self._LAYOUT.pack_into(self._map, self._ANCHORS_OFFSET + free_slot * self._LAYOUT.size, *anchor)
            self._map[0] = free_slot
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    async def sleep(self, duration: timedelta) -> None:
        await self.sleep_until(self.now() + duration)

    async def sleep_until(self, at: datetime) -> None:
        with waiting():
            while (remaining_s := (at - self.now()).total_seconds()) > 0:
                speed = self.speed
                await asyncio.sleep(
                    min(remaining_s / speed, self._MAX_SLEEP_S) if speed > 0 else self._MAX_SLEEP_S
                )

    @contextmanager
    def hold(self) -> Iterator[None]:
        self._begin_hold()
        try:
            with waiting():
                yield
        finally:
            self._end_hold()

    def slow_down_briefly(self) -> None:
        self._begin_hold()
        asyncio.get_running_loop().call_later(self._BRIEF_S, self._end_hold)

    def _begin_hold(self) -> None:
        self._holds += 1
        if self._drive and self._holds == 1:
            self.set_pace(self._held_speed)

    def _end_hold(self) -> None:
        self._holds -= 1
        if self._drive and self._holds == 0:
            self.set_pace(self._speed)

    def _read_anchor(self) -> tuple[int, float, float, float, float, int]:
        while True:  # repeated when two new anchors were written during this read
            slot = self._map[0]
            offset = self._ANCHORS_OFFSET + slot * self._LAYOUT.size
            anchor: tuple[int, float, float, float, float, int] = self._LAYOUT.unpack_from(self._map, offset)
            reread = self._LAYOUT.unpack_from(self._map, offset)
            if anchor == reread and anchor[0] == anchor[5] and self._map[0] == slot:
                return anchor


class ManualClock:
    """Clock that stands still until `advance` moves it; wakes sleepers in the order of their alarms.

    Before each step it waits until no task can run, there is no hold and every `advance_only_when` condition is true,
    so that sockets and a real database keep up: a day of real requests runs as fast as the machine allows, in one
    order.
    """

    _IDLE_TURNS: Final = (
        3  # the first proves that nothing can run; the kernel may be late with what was sent to us
    )
    _MAX_TURNS: Final = 500  # without a hold; reached only while a task yields again and again
    _MAX_HOLD_S: Final = 300.0  # real seconds; a longer effect in flight fails the test

    speed: Final = 1.0  # its seconds count as real ones

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._order = count()
        self._alarms: list[tuple[datetime, int, asyncio.Event]] = []
        self._holds = 0
        self._waiters = 0  # tasks that take a turn only to find out whether anything can run
        self._advance_conditions: list[Callable[[], bool]] = []

    def now(self) -> datetime:
        return self._now

    async def sleep(self, duration: timedelta) -> None:
        await self.sleep_until(self._now + duration)

    async def sleep_until(self, at: datetime) -> None:
        if at <= self._now:
            await asyncio.sleep(0)
            return
        alarm = asyncio.Event()
        entry = (at, next(self._order), alarm)
        heapq.heappush(self._alarms, entry)
        try:
            with waiting():
                await alarm.wait()
        finally:
            if not alarm.is_set():  # cancelled: its alarm must not stop the clock
                self._alarms.remove(entry)
                heapq.heapify(self._alarms)

    @contextmanager
    def hold(self) -> Iterator[None]:
        self._holds += 1
        try:
            with waiting():
                yield
        finally:
            self._holds -= 1

    def slow_down_briefly(self) -> None:
        """Do nothing: the clock stands still."""

    def advance_only_when(self, condition: Callable[[], bool]) -> None:
        """Do not advance while `condition()` is false."""
        self._advance_conditions.append(condition)

    async def advance(self, duration: timedelta) -> None:
        """Move `duration` ahead, waking each sleeper at its own instant."""
        await self.advance_to(self._now + duration)

    async def advance_to(self, until: datetime) -> None:
        """Move to `until`, waking each sleeper at its own instant."""
        await self.wait_until_quiet()
        while self._alarms and self._alarms[0][0] <= until:
            self._now, _, alarm = heapq.heappop(self._alarms)
            alarm.set()
            await self.wait_until_quiet()
        self._now = max(self._now, until)

    async def wait_until_quiet(self) -> None:
        """Return once every runnable task has run and no effect is in flight.

        Raises RuntimeError when an effect stays in flight for five real minutes.
        """
        started = time.monotonic()
        turns = idle_turns = 0
        while idle_turns < self._IDLE_TURNS and turns < self._MAX_TURNS:
            is_idle = await self._take_turn()
            if self._holds or not all(condition() for condition in self._advance_conditions):
                turns = idle_turns = 0
                await asyncio.sleep(0.0002)
                if time.monotonic() - started > self._MAX_HOLD_S:
                    raise RuntimeError(
                        f"the clock waited {self._MAX_HOLD_S} s for {self._holds} effects in flight"
                    )
            else:
                turns += 1
                idle_turns = idle_turns + 1 if is_idle else 0

    async def _take_turn(self) -> bool:
        """Let the event loop take one turn; return true when it then has no other callback to run. It has looked for
        data of every socket and for timers that are due."""
        ready: Sized = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # noqa: SLF001 -- no public call
        self._waiters += 1
        try:
            await asyncio.sleep(0)
            return len(ready) < self._waiters
        finally:
            self._waiters -= 1


class StallTimer:
    """Measures the real time since the last mark, to detect a process or machine that was stopped.

    A stopped process adds monotonic time, a suspended machine only wall time: the longer of the two counts. Setting the
    wall clock counts too; that only causes one more check by the caller. Any thread may read.
    """

    def __init__(self) -> None:
        self.mark()

    def mark(self) -> None:
        """Restart the measurement."""
        self._since = (time.monotonic(), time.time())

    @property
    def seconds(self) -> float:
        """Real seconds since the last mark: the larger of monotonic and wall time."""
        mono, wall = self._since
        return max(time.monotonic() - mono, abs(time.time() - wall))


def real_seconds() -> float:
    """Return the machine's monotonic time in seconds, to measure a real duration; no decision of the daemon depends
    on it."""
    return time.monotonic()


async def wait_real(event: asyncio.Event, at_most: float) -> bool:
    """Wait for `event`, at most `at_most` real seconds; return true when it is set. For code on sockets only."""
    try:
        async with asyncio.timeout(at_most):
            await event.wait()
    except TimeoutError:
        return False
    return True
