"""Clocks: the manual, the scaled and the system clock, and the lint rule that only the clock module reads
time."""

import asyncio
import json
import math
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from catalyst.clock import Clock, ManualClock, ScaledClock, SystemClock, wait
from tests.waiting import LIMIT_S

START = datetime(2026, 4, 8, 13, 25, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ROOT = Path(__file__).parent.parent


@pytest.fixture
def manual() -> ManualClock:
    """Return a manual clock at START."""
    return ManualClock(START)


async def run_ready_tasks() -> None:
    """Run every task that is ready."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- the manual clock


async def test_manual_clock_stands_still(manual: ManualClock):
    """Time does not pass by itself, and a sleeper wakes only when the clock advances."""
    sleeper = asyncio.ensure_future(manual.sleep(SECOND))
    await run_ready_tasks()
    assert (manual.now(), sleeper.done()) == (START, False)
    await manual.advance(SECOND)
    assert (manual.now(), sleeper.done()) == (START + SECOND, True)


async def test_manual_clock_wakes_sleepers_in_alarm_order(manual: ManualClock):
    """Sleepers wake at their own time, equal alarms in the order they were set, new alarms included."""
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, *seconds: float) -> None:
        for number, span in enumerate(seconds):
            await manual.sleep(timedelta(seconds=span))
            woken.append((f"{name}{number}", (manual.now() - START).total_seconds()))

    tasks = [
        asyncio.ensure_future(sleep(*arguments))
        for arguments in (("a", 3, 1), ("b", 1, 1, 1), ("c", 3), ("d", 9))
    ]
    await manual.advance(timedelta(seconds=5))
    assert woken == [("b0", 1), ("b1", 2), ("a0", 3), ("c0", 3), ("b2", 3), ("a1", 4)]
    assert manual.now() == START + 5 * SECOND
    await manual.advance_to(START + 9 * SECOND)
    assert woken[-1] == ("d0", 9)
    await asyncio.gather(*tasks)


async def test_manual_clock_never_goes_back(manual: ManualClock):
    """Advancing to, or sleeping until, an earlier time changes nothing and returns."""
    await manual.advance_to(START - SECOND)
    await manual.sleep_until(START - SECOND)
    await manual.sleep(-SECOND)
    await manual.sleep(timedelta(0))
    assert manual.now() == START


async def test_manual_clock_stands_still_while_an_effect_is_in_flight(manual: ManualClock):
    """A request in flight begins and ends at one instant, however long it takes; then the clock advances."""
    instants: list[datetime] = []

    async def request() -> None:
        await manual.sleep(SECOND)
        with manual.hold(), manual.hold():
            instants.append(manual.now())
            for _ in range(300):
                await asyncio.sleep(0)
            instants.append(manual.now())

    task = asyncio.ensure_future(request())
    other = asyncio.ensure_future(manual.sleep(2 * SECOND))
    await manual.advance(timedelta(hours=1))
    assert instants == [START + SECOND] * 2
    assert task.done()
    assert other.done()


async def test_manual_clock_hold_ends_when_its_block_raises(manual: ManualClock):
    """A hold ends when its block raises."""
    with pytest.raises(ZeroDivisionError), manual.hold():
        raise ZeroDivisionError
    await manual.advance(SECOND)
    assert manual.now() == START + SECOND


async def test_manual_clock_waits_for_its_conditions_before_advancing(manual: ManualClock):
    """The clock does not advance while a condition is false, neither before a step nor between two."""
    busy = 50
    instants: list[datetime] = []

    def is_quiet() -> bool:
        nonlocal busy
        busy -= 1
        if busy > 0:
            instants.append(manual.now())
        return busy <= 0

    manual.advance_only_when(is_quiet)
    sleeper = asyncio.ensure_future(manual.sleep(SECOND))
    await manual.advance(2 * SECOND)
    assert set(instants) == {START}
    busy = 50
    await manual.advance(SECOND)
    assert set(instants) == {START, START + 2 * SECOND}
    await sleeper


async def test_manual_clock_stands_still_while_data_is_on_its_way(manual: ManualClock):
    """A request that passes through sockets and tasks without a hold begins and ends at one instant, however often it
    changes hands."""
    instants: list[datetime] = []

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    async def talk(port: int) -> None:
        await manual.sleep(SECOND)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(50):
            writer.write(b"again\n")
            await reader.readline()
            await asyncio.create_task(asyncio.sleep(0))
            instants.append(manual.now())
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        talker = asyncio.ensure_future(talk(server.sockets[0].getsockname()[1]))
        sleepers = [asyncio.ensure_future(manual.sleep((1 + n / 10) * SECOND)) for n in range(20)]
        await manual.advance(10 * SECOND)
        assert instants == [START + SECOND] * 50
        await asyncio.gather(talker, *sleepers)


async def test_manual_clock_advances_beside_a_task_that_never_waits(manual: ManualClock):
    """A task that only yields does not stop the clock, and neither do two that advance it at once."""

    async def yield_for_ever() -> None:
        while True:  # noqa: ASYNC110 -- an event would let it wait
            await asyncio.sleep(0)

    task = asyncio.ensure_future(yield_for_ever())
    sleeper = asyncio.ensure_future(manual.sleep(SECOND))
    await asyncio.gather(manual.advance(SECOND), manual.advance(SECOND))
    assert sleeper.done()
    task.cancel()


async def test_manual_clock_raises_when_an_effect_never_ends():
    """The clock raises RuntimeError with the number of effects in flight instead of waiting for ever."""

    class ShortHoldClock(ManualClock):
        _MAX_HOLD_S = 0.01

    clock = ShortHoldClock(START)
    with clock.hold(), pytest.raises(RuntimeError, match="1 effects in flight"):
        await clock.advance(SECOND)


async def test_manual_clock_drops_the_alarm_of_a_cancelled_sleeper(manual: ManualClock):
    """A cancelled sleeper leaves no alarm; the other sleepers wake as before."""
    sleeper = asyncio.ensure_future(manual.sleep(3 * SECOND))
    cancelled = [asyncio.ensure_future(manual.sleep(n * SECOND)) for n in (1, 2, 3, 4)]
    await run_ready_tasks()
    for task in cancelled:
        task.cancel()
    await asyncio.gather(*cancelled, return_exceptions=True)
    assert [alarm[0] for alarm in manual._alarms] == [START + 3 * SECOND]
    await manual.advance(3 * SECOND)
    assert sleeper.done()
    assert manual._alarms == []


# -- waiting for an event or a time-out


async def test_wait_returns_true_when_the_event_is_set(manual: ManualClock):
    """An event set before the time-out gives true and leaves no alarm."""
    event = asyncio.Event()
    waiting = asyncio.ensure_future(wait(manual, event, timedelta(minutes=1)))
    await manual.advance(SECOND)
    assert not waiting.done()
    event.set()
    assert await waiting is True
    assert (manual.now(), manual._alarms) == (START + SECOND, [])


async def test_wait_returns_false_at_the_timeout(manual: ManualClock):
    """Without the event the result is false, exactly at the time-out."""
    event = asyncio.Event()
    waiting = asyncio.ensure_future(wait(manual, event, timedelta(minutes=1)))
    await manual.advance(timedelta(seconds=59))
    assert not waiting.done()
    await manual.advance(SECOND)
    assert await waiting is False


async def test_wait_returns_at_once_when_the_event_is_already_set(manual: ManualClock):
    """An event that is already set gives true at once, also with a time-out of zero."""
    event = asyncio.Event()
    assert await wait(manual, event, timedelta(0)) is False
    event.set()
    assert await wait(manual, event, timedelta(0)) is True


async def test_cancelled_wait_leaves_no_alarm_and_no_task(manual: ManualClock):
    """A cancelled wait leaves neither an alarm nor a task."""
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(wait(manual, asyncio.Event(), timedelta(minutes=1)))
    await run_ready_tasks()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert manual._alarms == []
    assert asyncio.all_tasks() == before


# -- the scaled clock


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Create a clock file at START; return its path."""
    ScaledClock.create(tmp_path / "clock", START)
    return tmp_path / "clock"


class FakeMonotonicClock:
    """Monotonic clock of the machine, set by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1_000.0
        monkeypatch.setattr("catalyst.clock.time.monotonic", lambda: self.at)


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> FakeMonotonicClock:
    """Replace the monotonic clock of the machine."""
    return FakeMonotonicClock(monkeypatch)


def test_scaled_clock_stands_still_when_created(monotonic: FakeMonotonicClock, tmp_path: Path):
    """A new clock shows its start time until a driver sets a pace."""
    clock = ScaledClock.create(tmp_path / "clock", START, speed=400)
    monotonic.at += 1_000
    assert (clock.now(), clock.speed) == (START, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.floats(0, 100, allow_nan=False), st.floats(0, 10_000, allow_nan=False)), max_size=20
    )
)
def test_scaled_clock_never_jumps_when_the_pace_changes(
    monotonic: FakeMonotonicClock, tmp_path: Path, steps: list[tuple[float, float]]
):
    """A change of pace does not change the current time of any reader; time runs at the pace set and never
    backwards."""
    reader = ScaledClock.create(tmp_path / "clock", START)
    driver = ScaledClock(tmp_path / "clock", drive=True, speed=60)
    expected, pace, last = 0.0, 60.0, START
    for span, speed in steps:
        monotonic.at += span
        expected += span * pace
        before = reader.now()
        assert abs((before - START).total_seconds() - expected) < 1e-3
        assert before >= last
        driver.set_pace(speed)
        pace = speed
        assert (reader.now(), driver.now(), reader.speed) == (before, before, speed)
        last = before


def test_scaled_clock_slows_during_a_hold(monotonic: FakeMonotonicClock, file: Path):
    """The clock runs at the held speed during nested holds, and at its own speed after the last one, also
    after an exception."""
    clock, reader = ScaledClock(file, drive=True, speed=600, held_speed=20), ScaledClock(file)
    assert reader.speed == 600
    with clock.hold():
        assert reader.speed == 20
        with clock.hold():
            assert reader.speed == 20
        assert reader.speed == 20
        monotonic.at += 1
    assert reader.speed == 600
    assert reader.now() == START + 20 * SECOND
    with pytest.raises(ZeroDivisionError), clock.hold():
        raise ZeroDivisionError
    assert reader.speed == 600


def test_scaled_clock_speed_set_during_a_hold_counts_after_it(monotonic: FakeMonotonicClock, file: Path):
    """A speed set during a hold is in force after its end; below the held speed it is in force at once."""
    clock, reader = ScaledClock(file, drive=True, speed=600, held_speed=20), ScaledClock(file)
    with clock.hold():
        clock.set_speed(300)
        assert reader.speed == 20
        clock.set_speed(5)
        assert reader.speed == 5
        clock.set_speed(900)
        assert reader.speed == 20
    assert reader.speed == 900


def test_scaled_clock_cap_limits_every_later_pace(monotonic: FakeMonotonicClock, file: Path):
    """Under a cap no driver runs faster, later drivers included; without it the last pace applies, and time
    never jumps."""
    first, second = (
        ScaledClock(file, drive=True, speed=600, held_speed=20),
        ScaledClock(file, drive=True, speed=600),
    )
    second.set_cap(1)
    monotonic.at += 10
    assert (first.now(), first.speed) == (START + 10 * SECOND, 1)
    with first.hold():
        assert first.speed == 1
    assert ScaledClock(file, drive=True, speed=300).speed == 1
    second.set_cap(math.inf)
    assert (first.now(), first.speed) == (START + 10 * SECOND, 300)


def test_scaled_clock_hold_never_raises_the_speed(file: Path):
    """A clock slower than the held speed keeps its speed during a hold."""
    clock = ScaledClock(file, drive=True, speed=5, held_speed=20)
    with clock.hold():
        assert clock.speed == 5


def test_scaled_clock_reader_never_writes_the_file(file: Path):
    """A reader never changes the file: its holds have no effect, and setting a pace raises TypeError."""
    ScaledClock(file, drive=True, speed=60)
    before = file.read_bytes()
    reader = ScaledClock(file)
    with reader.hold():
        assert reader.speed == 60
    assert file.read_bytes() == before
    with pytest.raises(TypeError):
        reader.set_pace(1)
    assert file.read_bytes() == before


def test_scaled_clock_runs_on_when_a_driver_crashes_while_writing(monotonic: FakeMonotonicClock, file: Path):
    """A partly written anchor is ignored, and the next driver continues."""
    ScaledClock(file, drive=True, speed=60)
    layout = struct.Struct("<QddddQ")
    content = bytearray(file.read_bytes())
    inactive = 8 + (1 - content[0]) * layout.size
    content[inactive : inactive + layout.size] = b"\xff" * 20 + bytes(layout.size - 20)
    with file.open("r+b") as raw:
        raw.write(content)
    monotonic.at += 1
    assert ScaledClock(file).now() == START + 60 * SECOND
    second = ScaledClock(file, drive=True, speed=30)
    monotonic.at += 1
    assert second.now() == START + 90 * SECOND


def test_scaled_clock_writes_a_new_anchor_beside_the_valid_one(file: Path):
    """A change of pace writes the inactive anchor with the next number, so that a reader never sees a partial
    one."""
    driver = ScaledClock(file, drive=True, speed=60)
    layout = struct.Struct("<QddddQ")

    def anchors() -> tuple[int, list[tuple[float, ...]]]:
        content = file.read_bytes()
        return content[0], [layout.unpack_from(content, 8 + place * layout.size) for place in (0, 1)]

    for speed in (10, 20, 30):
        active, before = anchors()
        driver.set_pace(speed)
        other, after = anchors()
        assert other == 1 - active
        assert after[active] == before[active]
        assert after[other][3] == speed
        assert after[other][0] == after[other][5] == before[active][0] + 1


@pytest.mark.parametrize("content", [b"", b"not a clock"])
def test_scaled_clock_refuses_an_invalid_file(tmp_path: Path, content: bytes):
    """A file too short for an anchor raises ValueError instead of giving a wrong time."""
    (tmp_path / "clock").write_bytes(content)
    with pytest.raises(ValueError, match="mmap"):
        ScaledClock(tmp_path / "clock")


_PEER = """
import sys
from pathlib import Path
from catalyst.clock import ScaledClock
clock = ScaledClock(Path(sys.argv[1]))
for _ in sys.stdin:
    print(clock.now().isoformat(), flush=True)
"""


def test_scaled_clock_shows_one_time_to_all_processes(file: Path):
    """A reading of another process lies between two of ours, across changes of pace."""
    clock = ScaledClock(file, drive=True, speed=1_000)
    with subprocess.Popen(
        [sys.executable, "-c", _PEER, str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    ) as peer:
        assert peer.stdin is not None
        assert peer.stdout is not None
        for turn in range(60):
            if turn % 3 == 0:
                clock.set_pace([1_000, 10, 100_000, 0][turn // 3 % 4])
            before = clock.now()
            peer.stdin.write("\n")
            peer.stdin.flush()
            peer_time = datetime.fromisoformat(peer.stdout.readline().strip())
            assert before <= peer_time <= clock.now()
        peer.stdin.close()


async def test_scaled_clock_sleepers_follow_the_pace(file: Path):
    """A sleeper follows changes of pace; a sleep until the past returns at once."""
    clock = ScaledClock(file, drive=True, speed=1_000)
    await clock.sleep(SECOND)
    assert clock.now() >= START + SECOND
    await clock.sleep_until(START)
    await clock.sleep(-SECOND)
    clock.set_pace(0)
    stopped_at = clock.now()
    hour = asyncio.ensure_future(clock.sleep(timedelta(hours=1)))
    await run_ready_tasks()
    assert not hour.done()
    clock.set_pace(1e6)
    async with asyncio.timeout(LIMIT_S):
        await hour
    assert clock.now() >= stopped_at + timedelta(hours=1)


# -- the system clock


async def test_system_clock_returns_aware_utc_time():
    """The time is aware, in UTC, and between two readings of the machine's clock."""
    clock: Clock = SystemClock()
    before = datetime.now(UTC)
    now = clock.now()
    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC


async def test_system_clock_sleeps_at_least_as_long_as_requested():
    """A sleep returns at or after its time, at once for the past; a hold has no effect."""
    clock = SystemClock()
    async with asyncio.timeout(LIMIT_S):
        at = clock.now() + timedelta(milliseconds=5)
        await clock.sleep_until(at)
        assert clock.now() >= at
        await clock.sleep_until(at - timedelta(days=1))
        await clock.sleep(timedelta(days=-1))
        with clock.hold():
            assert await wait(clock, asyncio.Event(), timedelta(milliseconds=1)) is False


# -- reading time elsewhere

PLANTED = """
import asyncio
import datetime as dt
import os
import time
import uuid
from datetime import date, datetime

import pandas as pd


async def read() -> None:
    await asyncio.sleep(1)
    time.sleep(1)
    time.time()
    time.monotonic()
    datetime.now()
    dt.datetime.now(dt.UTC)
    datetime.utcnow()
    date.today()
    pd.Timestamp.now()
    os.environ.get("HOME")
    os.getenv("HOME")
    uuid.uuid4()
    async with asyncio.timeout(1):
        pass
"""


def banned_lines(name: str) -> set[int]:
    """Return the lines of the planted file that ruff reports as a banned API, in a file of this name."""
    completed = subprocess.run(
        [
            sys.executable,
            "-m",
            "ruff",
            "check",
            "--no-cache",
            "--output-format",
            "json",
            "--stdin-filename",
            name,
            "-",
        ],
        input=PLANTED,
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    return {error["location"]["row"] for error in json.loads(completed.stdout) if error["code"] == "TID251"}


def test_lint_refuses_reading_time_outside_clock_module():
    """Every sleep, time reading and environment reading is a lint error outside the clock module."""
    lines = PLANTED.splitlines()
    first = lines.index("async def read() -> None:") + 2
    assert banned_lines("catalyst/daemon/planted.py") == set(range(first, len(lines)))
    assert banned_lines("catalyst/clock.py") == set()
