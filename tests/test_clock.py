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
AT_MOST = 20  # real seconds before a test that hangs says so


@pytest.fixture
def manual() -> ManualClock:
    return ManualClock(START)


async def settle() -> None:
    """Let every task that can run, run."""
    for _ in range(20):
        await asyncio.sleep(0)


# -- the manual clock


async def test_a_manual_clock_stands_still(manual: ManualClock):
    """Time is what it was, however often it is asked, and a sleeper sleeps."""
    sleeper = asyncio.ensure_future(manual.sleep(SECOND))
    await settle()
    assert (manual.now(), sleeper.done()) == (START, False)
    await manual.advance(SECOND)
    assert (manual.now(), sleeper.done()) == (START + SECOND, True)


async def test_sleepers_wake_in_the_order_of_their_alarms(manual: ManualClock):
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


async def test_a_manual_clock_never_goes_back(manual: ManualClock):
    """Advancing to an earlier instant, or sleeping until one, changes nothing and returns."""
    await manual.advance_to(START - SECOND)
    await manual.sleep_until(START - SECOND)
    await manual.sleep(-SECOND)
    await manual.sleep(timedelta(0))
    assert manual.now() == START


async def test_time_does_not_pass_while_an_effect_is_in_flight(manual: ManualClock):
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


async def test_a_hold_ends_with_its_block_however_that_ends(manual: ManualClock):
    """An effect that raises does not stop the clock for ever."""
    with pytest.raises(ZeroDivisionError), manual.hold():
        raise ZeroDivisionError
    await manual.advance(SECOND)
    assert manual.now() == START + SECOND


async def test_a_manual_clock_waits_until_everybody_is_quiet(manual: ManualClock):
    """It does not move while a condition it was given is false, before a step or between two."""
    busy = 50
    instants: list[datetime] = []

    def calm() -> bool:
        nonlocal busy
        busy -= 1
        if busy > 0:
            instants.append(manual.now())
        return busy <= 0

    manual.quiet_when(calm)
    sleeper = asyncio.ensure_future(manual.sleep(SECOND))
    await manual.advance(2 * SECOND)
    assert set(instants) == {START}
    busy = 50
    await manual.advance(SECOND)
    assert set(instants) == {START, START + 2 * SECOND}
    await sleeper


async def test_an_effect_that_never_ends_is_told_of():
    """A test that hangs says what the clock was waiting for."""

    class Impatient(ManualClock):
        _PATIENCE = 0.01

    clock = Impatient(START)
    with clock.hold(), pytest.raises(RuntimeError, match="1 effects in flight"):
        await clock.advance(SECOND)


async def test_a_cancelled_sleeper_leaves_no_alarm(manual: ManualClock):
    """The others wake as before, and nothing stops the clock at an instant nobody waits for."""
    kept = asyncio.ensure_future(manual.sleep(3 * SECOND))
    dropped = [asyncio.ensure_future(manual.sleep(n * SECOND)) for n in (1, 2, 3, 4)]
    await settle()
    for one in dropped:
        one.cancel()
    await asyncio.gather(*dropped, return_exceptions=True)
    assert [alarm[0] for alarm in manual._alarms] == [START + 3 * SECOND]
    await manual.advance(3 * SECOND)
    assert kept.done()
    assert manual._alarms == []


# -- waiting for whichever is first


async def test_wait_returns_when_the_event_comes(manual: ManualClock):
    """The event wins before the time is over, and leaves no alarm behind."""
    event = asyncio.Event()
    waiting = asyncio.ensure_future(wait(manual, event, timedelta(minutes=1)))
    await manual.advance(SECOND)
    assert not waiting.done()
    event.set()
    assert await waiting is True
    assert (manual.now(), manual._alarms) == (START + SECOND, [])


async def test_wait_returns_when_the_time_is_over(manual: ManualClock):
    """Without the event it is false, at exactly the last instant."""
    event = asyncio.Event()
    waiting = asyncio.ensure_future(wait(manual, event, timedelta(minutes=1)))
    await manual.advance(timedelta(seconds=59))
    assert not waiting.done()
    await manual.advance(SECOND)
    assert await waiting is False


async def test_wait_does_not_sleep_for_what_is_there(manual: ManualClock):
    """An event that has come already is true at once, even with no time to wait."""
    event = asyncio.Event()
    assert await wait(manual, event, timedelta(0)) is False
    event.set()
    assert await wait(manual, event, timedelta(0)) is True


async def test_a_wait_that_is_cancelled_leaves_nothing(manual: ManualClock):
    """Neither an alarm nor a task survives it."""
    before = asyncio.all_tasks()
    waiting = asyncio.ensure_future(wait(manual, asyncio.Event(), timedelta(minutes=1)))
    await settle()
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


class Metronome:
    """The machine's monotonic clock, moved by hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = 1_000.0
        monkeypatch.setattr("catalyst.clock.time.monotonic", lambda: self.at)


@pytest.fixture
def metronome(monkeypatch: pytest.MonkeyPatch) -> Metronome:
    return Metronome(monkeypatch)


def test_a_new_scaled_clock_stands_still(metronome: Metronome, tmp_path: Path):
    """Until somebody drives it, it shows the instant it was made for."""
    clock = ScaledClock.create(tmp_path / "clock", START, speed=400)
    metronome.at += 1_000
    assert (clock.now(), clock.speed) == (START, 0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.floats(0, 100, allow_nan=False), st.floats(0, 10_000, allow_nan=False)), max_size=20
    )
)
def test_time_never_jumps_when_the_pace_changes(
    metronome: Metronome, tmp_path: Path, steps: list[tuple[float, float]]
):
    """At the moment of a change every reader sees one instant before and after; between, time runs at the pace set,
    and it never runs backwards."""
    reader = ScaledClock.create(tmp_path / "clock", START)
    driver = ScaledClock(tmp_path / "clock", drive=True, speed=60)
    expected, pace, last = 0.0, 60.0, START
    for span, speed in steps:
        metronome.at += span
        expected += span * pace
        before = reader.now()
        assert abs((before - START).total_seconds() - expected) < 1e-3
        assert before >= last
        driver.pace(speed)
        pace = speed
        assert (reader.now(), driver.now(), reader.speed) == (before, before, speed)
        last = before


def test_a_hold_slows_and_restores(metronome: Metronome, file: Path):
    """The held speed while effects are in flight, nested or not; its own after the last, whatever happened."""
    clock, reader = ScaledClock(file, drive=True, speed=600, held_speed=20), ScaledClock(file)
    assert reader.speed == 600
    with clock.hold():
        assert reader.speed == 20
        with clock.hold():
            assert reader.speed == 20
        assert reader.speed == 20
        metronome.at += 1
    assert reader.speed == 600
    assert reader.now() == START + 20 * SECOND
    with pytest.raises(ZeroDivisionError), clock.hold():
        raise ZeroDivisionError
    assert reader.speed == 600


def test_a_cap_outlives_every_pace(metronome: Metronome, file: Path):
    """Under a cap no driver runs faster, a later one neither; lifted, the last pace holds, and time never jumped."""
    player, stage = (
        ScaledClock(file, drive=True, speed=600, held_speed=20),
        ScaledClock(file, drive=True, speed=600),
    )
    stage.cap(1)
    metronome.at += 10
    assert (player.now(), player.speed) == (START + 10 * SECOND, 1)
    with player.hold():
        assert player.speed == 1
    assert ScaledClock(file, drive=True, speed=300).speed == 1
    stage.cap(math.inf)
    assert (player.now(), player.speed) == (START + 10 * SECOND, 300)


def test_a_hold_never_makes_time_faster(file: Path):
    """A clock that is slower than the held speed keeps its own."""
    clock = ScaledClock(file, drive=True, speed=5, held_speed=20)
    with clock.hold():
        assert clock.speed == 5


def test_who_does_not_drive_never_writes(file: Path):
    """A reader's holds leave the file as it is, to the byte; it could not write if it tried."""
    ScaledClock(file, drive=True, speed=60)
    before = file.read_bytes()
    reader = ScaledClock(file)
    with reader.hold():
        assert reader.speed == 60
    assert file.read_bytes() == before
    with pytest.raises(TypeError):
        reader.pace(1)
    assert file.read_bytes() == before


def test_a_driver_that_dies_while_it_writes_leaves_a_clock_that_runs(metronome: Metronome, file: Path):
    """A new anchor counts only once it is whole: half of one beside it changes nothing, and the next driver goes on."""
    ScaledClock(file, drive=True, speed=60)
    layout = struct.Struct("<QddddQ")
    content = bytearray(file.read_bytes())
    unchosen = 8 + (1 - content[0]) * layout.size
    content[unchosen : unchosen + layout.size] = b"\xff" * 20 + bytes(layout.size - 20)
    with file.open("r+b") as raw:
        raw.write(content)
    metronome.at += 1
    assert ScaledClock(file).now() == START + 60 * SECOND
    second = ScaledClock(file, drive=True, speed=30)
    metronome.at += 1
    assert second.now() == START + 90 * SECOND


def test_a_new_anchor_is_written_beside_the_one_that_holds(file: Path):
    """Every change of the pace leaves the anchor before it whole, and carries the next number: a reader that was
    looking never sees half of either."""
    driver = ScaledClock(file, drive=True, speed=60)
    layout = struct.Struct("<QddddQ")

    def anchors() -> tuple[int, list[tuple[float, ...]]]:
        content = file.read_bytes()
        return content[0], [layout.unpack_from(content, 8 + place * layout.size) for place in (0, 1)]

    for speed in (10, 20, 30):
        chosen, before = anchors()
        driver.pace(speed)
        other, after = anchors()
        assert other == 1 - chosen
        assert after[chosen] == before[chosen]
        assert after[other][3] == speed
        assert after[other][0] == after[other][5] == before[chosen][0] + 1


@pytest.mark.parametrize("content", [b"", b"not a clock"])
def test_a_file_that_is_no_clock_is_refused(tmp_path: Path, content: bytes):
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


def test_processes_that_read_one_file_live_in_one_instant(file: Path):
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
                clock.pace([1_000, 10, 100_000, 0][turn // 3 % 4])
            before = clock.now()
            peer.stdin.write("\n")
            peer.stdin.flush()
            theirs = datetime.fromisoformat(peer.stdout.readline().strip())
            assert before <= theirs <= clock.now()
        peer.stdin.close()


async def test_scaled_sleepers_follow_the_pace(file: Path):
    """A second at a thousandfold is slept through, an hour once the pace allows it, the past at once."""
    clock = ScaledClock(file, drive=True, speed=1_000)
    await clock.sleep(SECOND)
    assert clock.now() >= START + SECOND
    await clock.sleep_until(START)
    await clock.sleep(-SECOND)
    clock.pace(0)
    stood = clock.now()
    hour = asyncio.ensure_future(clock.sleep(timedelta(hours=1)))
    await settle()
    assert not hour.done()
    clock.pace(1e6)
    async with asyncio.timeout(AT_MOST):
        await hour
    assert clock.now() >= stood + timedelta(hours=1)


# -- the world's clock


async def test_the_system_clock_is_the_worlds():
    """Aware, UTC, between two readings of the machine's own."""
    clock: Clock = SystemClock()
    before = datetime.now(UTC)
    now = clock.now()
    assert before <= now <= datetime.now(UTC)
    assert now.tzinfo is UTC


async def test_the_system_clock_sleeps_no_less_than_it_was_asked_to():
    """It returns at or after the instant, at once for the past, and a hold means nothing to it."""
    clock = SystemClock()
    async with asyncio.timeout(AT_MOST):
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


def banned(name: str) -> set[int]:
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


def test_lint_refuses_every_other_reader_of_time():
    """Every sleep, every now, every look at the environment is an error of lint in any module but its one home."""
    lines = PLANTED.splitlines()
    first = lines.index("async def read() -> None:") + 2
    assert banned("catalyst/daemon/planted.py") == set(range(first, len(lines)))
    assert banned("catalyst/clock.py") == set()
