"""Time, and the only module allowed to read it.

Three clocks, one seam. `SystemClock` is the world's. `ScaledClock` runs a day in a minute and is shared by
several processes through a small memory-mapped file, so that the daemon and the exchange live in the same
instant. `ManualClock` stands still until a test or a replay advances it.

`hold()` brackets an effect in flight (a request, a transaction, a scan): real work takes real time, so the
scaled clock slows while something is held, and the manual clock does not move at all. So nobody sleeps on the
Clock inside a hold.
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
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Final, Protocol, Self
from zoneinfo import ZoneInfo

NEW_YORK: Final = ZoneInfo("America/New_York")


class Clock(Protocol):
    """What the rest of the program may ask of time."""

    def now(self) -> datetime:
        """The present, aware, UTC."""
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
        """Something has just happened and its consequences are still to come: a scaled clock stays slow for a
        moment, as a desk looks up; the others need not."""
        ...


async def wait(clock: Clock, event: asyncio.Event, at_most: timedelta) -> bool:
    """Wait for `event`, `at_most` a span of market time; true when the event came."""
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
    """The world's own time."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, duration: timedelta) -> None:
        await asyncio.sleep(max(0.0, duration.total_seconds()))

    async def sleep_until(self, at: datetime) -> None:
        while (rest := (at - self.now()).total_seconds()) > 0:  # noqa: ASYNC110 - the wall clock may be set
            await asyncio.sleep(rest)

    def hold(self) -> AbstractContextManager[None]:
        return nullcontext()

    def slow_down_briefly(self) -> None:
        """The world's time waits for nobody."""


class ScaledClock:
    """A faster day, the same for every process that opens the same file.

    The file holds an anchor: (sequence, monotonic seconds, market seconds since the epoch, pace, cap, sequence).
    Market time is `market + (monotonic - anchor) * speed`, the speed being the pace or the cap, whichever is
    slower. Any process may read; the ones that `drive` may change either, which re-anchors, so time never jumps.
    The monotonic clock is the machine's, not the process's. A new anchor is written beside the old one and chosen
    by a single byte, so a driver that is killed on the way leaves a clock that runs on.
    """

    _LAYOUT: Final = struct.Struct("<QddddQ")
    _ANCHORS_OFFSET: Final = 8  # where the two anchors begin; byte 0 says which of them holds
    _MAX_SLEEP_S: Final = 0.02  # real seconds; the speed may change while somebody sleeps
    _BRIEF_S: Final = 0.06  # real seconds of attention after something happened

    def __init__(
        self, path: Path, *, drive: bool = False, speed: float = 1.0, held_speed: float = 20.0
    ) -> None:
        file = os.open(path, os.O_RDWR if drive else os.O_RDONLY)
        # Not at exit: what is held until the interpreter ends still lets go of the clock then.
        weakref.finalize(self, os.close, file).atexit = False
        access = mmap.ACCESS_WRITE if drive else mmap.ACCESS_READ
        self._map = mmap.mmap(file, self._ANCHORS_OFFSET + 2 * self._LAYOUT.size, access=access)
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
        """Write a new clock file that starts at `start` and stands still until somebody sets its pace."""
        anchor = cls._LAYOUT.pack(0, time.monotonic(), start.timestamp(), 0.0, math.inf, 0)
        path.write_bytes(bytes(cls._ANCHORS_OFFSET) + anchor + bytes(cls._LAYOUT.size))
        return cls(path, drive=False, speed=speed)

    def now(self) -> datetime:
        _, mono, market, pace, cap, _ = self._read_anchor()
        return datetime.fromtimestamp(market + (time.monotonic() - mono) * min(pace, cap), UTC)

    @property
    def speed(self) -> float:
        """Market seconds per real second, right now."""
        _, _, _, pace, cap, _ = self._read_anchor()
        return min(pace, cap)

    def set_pace(self, speed: float) -> None:
        """Run at `speed` from this instant on. For a clock that drives."""
        self._write_anchor(lambda _pace, cap: (speed, cap))

    @property
    def is_driver(self) -> bool:
        """Whether this one may set the pace and leap; the others follow."""
        return self._drive

    def set_speed(self, speed: float) -> None:
        """Run at `speed` for good, slower only while something is held; zero stands still. For a clock that drives."""
        self._speed = speed
        self._held_speed = min(self._max_held_speed, speed)
        self.set_pace(self._held_speed if self._holds else speed)

    def jump_to(self, to: datetime) -> None:
        """Be at `to` at once, and go on from there as before. For a clock that drives.

        Raises ValueError when `to` has passed: time never runs backwards.
        """
        if to < self.now():
            raise ValueError(
                f"{to.isoformat()} has passed: it is {self.now().astimezone(to.tzinfo).isoformat()}"
            )
        self._write_anchor(lambda pace, cap: (pace, cap), not_before=to.timestamp())

    def set_cap(self, speed: float) -> None:
        """From this instant on run no faster than `speed`, whoever sets the pace; math.inf lifts it. For a clock
        that drives: it is for the one who stages a play, while the players pace as they need."""
        self._write_anchor(lambda pace, _cap: (pace, speed))

    def _write_anchor(
        self, change: Callable[[float, float], tuple[float, float]], *, not_before: float = 0.0
    ) -> None:
        fcntl.flock(self._file, fcntl.LOCK_EX)  # of two drivers one waits; the lock dies with its process
        try:
            sequence, mono, market, pace, cap, _ = self._read_anchor()
            at = time.monotonic()
            there = max(market + (at - mono) * min(pace, cap), not_before)
            then = sequence + 1
            anchor = (then, at, there, *change(pace, cap), then)
            other = 1 - self._map[0]
            self._LAYOUT.pack_into(self._map, self._ANCHORS_OFFSET + other * self._LAYOUT.size, *anchor)
            self._map[0] = other
        finally:
            fcntl.flock(self._file, fcntl.LOCK_UN)

    async def sleep(self, duration: timedelta) -> None:
        await self.sleep_until(self.now() + duration)

    async def sleep_until(self, at: datetime) -> None:
        while (rest := (at - self.now()).total_seconds()) > 0:
            speed = self.speed
            await asyncio.sleep(min(rest / speed, self._MAX_SLEEP_S) if speed > 0 else self._MAX_SLEEP_S)

    @contextmanager
    def hold(self) -> Iterator[None]:
        self._begin_hold()
        try:
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
        while True:  # again when the anchor was being overwritten: only by two new ones during this look
            chosen = self._map[0]
            place = self._ANCHORS_OFFSET + chosen * self._LAYOUT.size
            anchor: tuple[int, float, float, float, float, int] = self._LAYOUT.unpack_from(self._map, place)
            again = self._LAYOUT.unpack_from(self._map, place)
            if anchor == again and anchor[0] == anchor[5] and self._map[0] == chosen:
                return anchor


class ManualClock:
    """Stands still until told to advance; wakes sleepers in the order of their alarms.

    Before each step it waits until nothing is held and every `quiet_when` condition is true, so sockets and
    a real database keep up with it: a day of real requests runs as fast as the machine allows, in one order.
    """

    _SPINS: Final = 20
    _MAX_HOLD_S: Final = 60.0  # real seconds an effect may stay in flight before the test is told

    def __init__(self, start: datetime) -> None:
        self._now = start
        self._order = count()
        self._alarms: list[tuple[datetime, int, asyncio.Event]] = []
        self._holds = 0
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
            await alarm.wait()
        finally:
            if not alarm.is_set():  # cancelled: a dead alarm must not stop the clock
                self._alarms.remove(entry)
                heapq.heapify(self._alarms)

    @contextmanager
    def hold(self) -> Iterator[None]:
        self._holds += 1
        try:
            yield
        finally:
            self._holds -= 1

    def slow_down_briefly(self) -> None:
        """It stands still anyway."""

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
        """Return when every task that can run has run and no effect is in flight."""
        began = time.monotonic()
        spins = 0
        while spins < self._SPINS:
            await asyncio.sleep(0)
            if self._holds or not all(condition() for condition in self._advance_conditions):
                spins = 0
                await asyncio.sleep(0.0002)
                if time.monotonic() - began > self._MAX_HOLD_S:
                    raise RuntimeError(
                        f"the clock waited {self._MAX_HOLD_S} s for {self._holds} effects in flight"
                    )
            else:
                spins += 1


class StallTimer:
    """How long this process, or its machine, may have stood still since `mark`: real seconds, never market time.

    A stopped process loses monotonic time, a suspended machine only wall time: the longer of the two counts. A wall
    clock that was set counts too, which costs whoever asks a second look and nothing else. Any thread may read.
    """

    def __init__(self) -> None:
        self.mark()

    def mark(self) -> None:
        """From now on is counted anew."""
        self._since = (time.monotonic(), time.time())

    @property
    def seconds(self) -> float:
        """Real seconds since the last mark, by the clock that has gone farther."""
        mono, wall = self._since
        return max(time.monotonic() - mono, abs(time.time() - wall))


async def wait_real(event: asyncio.Event, at_most: float) -> bool:
    """Wait for `event` for real seconds: only for what watches a real socket. True when the event came."""
    try:
        async with asyncio.timeout(at_most):
            await event.wait()
    except TimeoutError:
        return False
    return True
