"""The three clocks, and that nobody else reads time."""

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

START = datetime(2026, 4, 8, 13, 25, tzinfo=UTC)
SECOND = timedelta(seconds=1)
ROOT = Path(__file__).parent.parent
TIMEOUT_S = 20  # real seconds before a test that hangs says so


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock(START)


async def run_ready_tasks() -> None:
    """Let every task that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- the manual clock


async def test_manual_clock_stands_still(manual: ManualClock):
    """Time is what it was, however often it is asked, and a sleeper sleeps."""
    sleeper = asyncio.ensure_future(manual.sleep(SECOND))
    await run_ready_tasks()
    assert (manual.now(), sleeper.done()) == (START, False)
    await manual.advance(SECOND)
    assert (manual.now(), sleeper.done()) == (START + SECOND, True)


async def test_manual_clock_wakes_sleepers_in_alarm_order(manual: ManualClock):
    """Each at its own instant, equal alarms in the order they were set, those set on the way among them."""
    woken: list[tuple[str, float]] = []

    async def sleep(name: str, *seconds: float) -> None:
        for number, span in enumerate(seconds):
            await manual.sleep(timedelta(seconds=span))
            woken.append((f"{name}{number}", (manual.now() - START).total_seconds()))

    tasks = [asyncio.ensure_future(sleep(*one)) for one in (("a", 3, 1), ("b", 1, 1, 1), ("c", 3), ("d", 9))]
    await manual.advance(timedelta(seconds=5))
    assert woken == [("b0", 1), ("b1", 2), ("a0", 3), ("c0", 3), ("b2", 3), ("a1", 4)]
    assert manual.now() == START + 5 * SECOND
    await manual.advance_to(START + 9 * SECOND)
    assert woken[-1] == ("d0", 9)
    await asyncio.gather(*tasks)


async def test_manual_clock_never_goes_back(manual: ManualClock):
    """Advancing to an earlier instant, or sleeping until one, changes nothing and returns."""
    await manual.advance_to(START - SECOND)
    await manual.sleep_until(START - SECOND)
    await manual.sleep(-SECOND)
    await manual.sleep(timedelta(0))
    assert manual.now() == START


async def test_manual_clock_stands_still_while_an_effect_is_in_flight(manual: ManualClock):
    """However long a request takes, it begins and ends at one instant; then the clock goes on."""
    seen: list[datetime] = []

    async def request() -> None:
        await manual.sleep(SECOND)
        with manual.hold(), manual.hold():
            seen.append(manual.now())
            for _ in range(300):
                await asyncio.sleep(0)
            seen.append(manual.now())

    task = asyncio.ensure_future(request())
    other = asyncio.ensure_future(manual.sleep(2 * SECOND))
    await manual.advance(timedelta(hours=1))
    assert seen == [START + SECOND] * 2
    assert task.done()
    assert other.done()


async def test_manual_clock_hold_ends_when_its_block_raises(manual: ManualClock):
    """An effect that raises does not stop the clock for ever."""
    with pytest.raises(ZeroDivisionError), manual.hold():
        raise ZeroDivisionError
    await manual.advance(SECOND)
    assert manual.now() == START + SECOND


async def test_manual_clock_waits_for_its_conditions_before_advancing(manual: ManualClock):
    """It does not move while a condition it was given is false, before a step or between two."""
    busy = 50
    instants: list[datetime] = []

    def calm() -> bool:
        nonlocal busy
        busy -= 1
        if busy > 0:
            instants.append(manual.now())
        return busy <= 0

    manual.advance_only_when(calm)
    sleeper = asyncio.ensure_future(manual.sleep(SECOND))
    await manual.advance(2 * SECOND)
    assert set(instants) == {START}
    busy = 50
    await manual.advance(SECOND)
    assert set(instants) == {START, START + 2 * SECOND}
    await sleeper


async def test_manual_clock_raises_when_an_effect_never_ends():
    """A test that hangs says what the clock was waiting for."""

    class Impatient(ManualClock):
        _PATIENCE = 0.01

    clock = Impatient(START)
    with clock.hold(), pytest.raises(RuntimeError, match="1 effects in flight"):
        await clock.advance(SECOND)


async def test_manual_clock_drops_the_alarm_of_a_cancelled_sleeper(manual: ManualClock):
    """The others wake as before, and nothing stops the clock at an instant nobody waits for."""
    kept = asyncio.ensure_future(manual.sleep(3 * SECOND))
    dropped = [asyncio.ensure_future(manual.sleep(n * SECOND)) for n in (1, 2, 3, 4)]
    await run_ready_tasks()
    for one in dropped:
        one.cancel()
    await asyncio.gather(*dropped, return_exceptions=True)
    assert [alarm[0] for alarm in manual._alarms] == [START + 3 * SECOND]
    await manual.advance(3 * SECOND)
    assert kept.done()
    assert manual._alarms == []


# -- waiting for whichever is first


async def test_wait_returns_true_when_the_event_is_set(manual: ManualClock):
    """The event wins before the time is over, and leaves no alarm behind."""
    event = asyncio.Event()
    waiting = asyncio.ensure_future(wait(manual, event, timedelta(minutes=1)))
    await manual.advance(SECOND)
    assert not waiting.done()
    event.set()
    assert await waiting is True
    assert (manual.now(), manual._alarms) == (START + SECOND, [])


async def test_wait_returns_false_at_the_timeout(manual: ManualClock):
    """Without the event it is false, at exactly the last instant."""
    event = asyncio.Event()
    waiting = asyncio.ensure_future(wait(manual, event, timedelta(minutes=1)))
    await manual.advance(timedelta(seconds=59))
    assert not waiting.done()
    await manual.advance(SECOND)
    assert await waiting is False


async def test_wait_returns_at_once_when_the_event_is_already_set(manual: ManualClock):
    """An event that has come already is true at once, even with no time to wait."""
    event = asyncio.Event()
    assert await wait(manual, event, timedelta(0)) is False
    event.set()
    assert await wait(manual, event, timedelta(0)) is True


async def test_cancelled_wait_leaves_no_alarm_and_no_task(manual: ManualClock):
    """Neither an alarm nor a task survives it."""
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
    ScaledClock.create(tmp_path / "clock", START)
    return tmp_path / "clock"


class FakeMonotonicClock:
    """The machine's monotonic clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1_000.0
        monkeypatch.setattr("catalyst.clock.time.monotonic", lambda: self.at)


@pytest.fixture
def monotonic(monkeypatch: pytest.MonkeyPatch) -> FakeMonotonicClock:
    return FakeMonotonicClock(monkeypatch)


def test_scaled_clock_stands_still_when_created(monotonic: FakeMonotonicClock, tmp_path: Path):
    """Until somebody drives it, it shows the instant it was made for."""
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
    """At the moment of a change every reader sees one instant before and after; between, time runs at the pace set,
    and it never runs backwards."""
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
    """The held speed while effects are in flight, nested or not; its own after the last, whatever happened."""
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


def test_scaled_clock_cap_limits_every_later_pace(monotonic: FakeMonotonicClock, file: Path):
    """Under a cap no driver runs faster, a later one neither; lifted, the last pace holds, and time never jumped."""
    player, stage = (
        ScaledClock(file, drive=True, speed=600, held_speed=20),
        ScaledClock(file, drive=True, speed=600),
    )
    stage.set_cap(1)
    monotonic.at += 10
    assert (player.now(), player.speed) == (START + 10 * SECOND, 1)
    with player.hold():
        assert player.speed == 1
    assert ScaledClock(file, drive=True, speed=300).speed == 1
    stage.set_cap(math.inf)
    assert (player.now(), player.speed) == (START + 10 * SECOND, 300)


def test_scaled_clock_hold_never_raises_the_speed(file: Path):
    """A clock that is slower than the held speed keeps its own."""
    clock = ScaledClock(file, drive=True, speed=5, held_speed=20)
    with clock.hold():
        assert clock.speed == 5


def test_scaled_clock_reader_never_writes_the_file(file: Path):
    """A reader's holds leave the file as it is, to the byte; it could not write if it tried."""
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
    """A new anchor counts only once it is whole: half of one beside it changes nothing, and the next driver goes on."""
    ScaledClock(file, drive=True, speed=60)
    layout = struct.Struct("<QddddQ")
    content = bytearray(file.read_bytes())
    unchosen = 8 + (1 - content[0]) * layout.size
    content[unchosen : unchosen + layout.size] = b"\xff" * 20 + bytes(layout.size - 20)
    with file.open("r+b") as raw:
        raw.write(content)
    monotonic.at += 1
    assert ScaledClock(file).now() == START + 60 * SECOND
    second = ScaledClock(file, drive=True, speed=30)
    monotonic.at += 1
    assert second.now() == START + 90 * SECOND


def test_scaled_clock_writes_a_new_anchor_beside_the_valid_one(file: Path):
    """Every change of the pace leaves the anchor before it whole, and carries the next number: a reader that was
    looking never sees half of either."""
    driver = ScaledClock(file, drive=True, speed=60)
    layout = struct.Struct("<QddddQ")

    def anchors() -> tuple[int, list[tuple[float, ...]]]:
        content = file.read_bytes()
        return content[0], [layout.unpack_from(content, 8 + place * layout.size) for place in (0, 1)]

    for speed in (10, 20, 30):
        chosen, before = anchors()
        driver.set_pace(speed)
        other, after = anchors()
        assert other == 1 - chosen
        assert after[chosen] == before[chosen]
        assert after[other][3] == speed
        assert after[other][0] == after[other][5] == before[chosen][0] + 1


@pytest.mark.parametrize("content", [b"", b"not a clock"])
def test_scaled_clock_refuses_an_invalid_file(tmp_path: Path, content: bytes):
    """Too short for an anchor: an error at once, not a wrong time."""
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
    """Another process, asked between two of our readings, tells a time between them, across changes of the pace."""
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
            theirs = datetime.fromisoformat(peer.stdout.readline().strip())
            assert before <= theirs <= clock.now()
        peer.stdin.close()


async def test_scaled_clock_sleepers_follow_the_pace(file: Path):
    """A second at a thousandfold is slept through, an hour once the pace allows it, the past at once."""
    clock = ScaledClock(file, drive=True, speed=1_000)
    await clock.sleep(SECOND)
    assert clock.now() >= START + SECOND
    await clock.sleep_until(START)
    await clock.sleep(-SECOND)
    clock.set_pace(0)
    stood = clock.now()
    hour = asyncio.ensure_future(clock.sleep(timedelta(hours=1)))
    await run_ready_tasks()
    assert not hour.done()
    clock.set_pace(1e6)
    async with asyncio.timeout(TIMEOUT_S):
        await hour
    assert clock.now() >= stood + timedelta(hours=1)


# -- the world's clock


async def test_system_clock_returns_aware_utc_time():
    """Aware, UTC, between two readings of the machine's own."""
    clock: Clock = SystemClock()
    before = datetime.now(UTC)
    now = clock.now()
    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC


async def test_system_clock_sleeps_at_least_as_long_as_requested():
    """It returns at or after the instant, at once for the past, and a hold means nothing to it."""
    clock = SystemClock()
    async with asyncio.timeout(TIMEOUT_S):
        at = clock.now() + timedelta(milliseconds=5)
        await clock.sleep_until(at)
        assert clock.now() >= at
        await clock.sleep_until(at - timedelta(days=1))
        await clock.sleep(timedelta(days=-1))
        with clock.hold():
            assert await wait(clock, asyncio.Event(), timedelta(milliseconds=1)) is False


# -- and nobody else

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
    """The lines of the planted file that ruff refuses as a banned name, were it `name`."""
    done = subprocess.run(
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
    return {one["location"]["row"] for one in json.loads(done.stdout) if one["code"] == "TID251"}


def test_lint_refuses_reading_time_outside_clock_module():
    """Every sleep, every now, every look at the environment is an error of lint in any module but its one home."""
    lines = PLANTED.splitlines()
    first = lines.index("async def read() -> None:") + 2
    assert banned_lines("catalyst/daemon/planted.py") == set(range(first, len(lines)))
    assert banned_lines("catalyst/clock.py") == set()
