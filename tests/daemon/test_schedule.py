"""The market day: every job at its New York time, on short days and across both changes of the clocks, run once."""

import asyncio
import csv
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import pytest
from apscheduler.triggers.cron import CronTrigger
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from catalyst.clock import ManualClock, SystemClock
from catalyst.config.schema import Config
from catalyst.daemon.trading_day.schedule import Appointment, Job, keep, market_day, still_to_do
from catalyst.domain.session import NEW_YORK, Session, session_of

ROOT = Path(__file__).parents[2]
CALENDAR = ROOT.parent / "shared" / "data" / "calendar_xnys_2007_2026.csv"
MINUTE = timedelta(minutes=1)
AT_MOST = 20  # real seconds before a test that hangs says so

# The Friday before and the Monday after each change of the clocks, summer, winter, and the short days.
FULL = ["2026-01-05", "2026-03-06", "2026-03-09", "2026-07-06", "2026-10-30", "2026-11-02", "2026-12-31"]
HALF = ["2026-11-27", "2026-12-24"]


def session(day: str) -> Session:
    return session_of(date.fromisoformat(day), time(9, 30), time(13 if day in HALF else 16, 0))


def year() -> list[Session]:
    """Every session of 2026 in the exchange's calendar; the handful above where there is none."""
    if not CALENDAR.exists():
        return [session(day) for day in (*FULL, *HALF)]
    with CALENDAR.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["session"].startswith("2026")]
    return [
        Session(
            date.fromisoformat(row["session"]),
            datetime.fromisoformat(row["open_utc"]),
            datetime.fromisoformat(row["close_utc"]),
        )
        for row in rows
    ]


def config(**sections: dict[str, Any]) -> Config:
    return Config.model_validate(sections)


def instants(day: Sequence[Appointment], job: Job) -> list[datetime]:
    return [appointment.at for appointment in day if appointment.job is job]


def cron(day: date, **fields: str) -> list[datetime]:
    """When APScheduler's own cron trigger fires on that New York day."""
    trigger = CronTrigger(timezone=NEW_YORK, **fields)
    fires, at = [], datetime.combine(day, time(0), NEW_YORK)
    while (at := trigger.get_next_fire_time(None, at)).date() == day:
        fires.append(at.astimezone(UTC))
        at += timedelta(seconds=1)
    return fires


# -- the list


def test_a_year_of_days_is_what_cron_would_fire():
    """Every job of every session equals the instants of a cron trigger with the fixed New York times, those before
    the close counted from the actual close: 15:50 and 15:55, on half days 12:50 and 12:55."""
    for each in year():
        day = market_day(each, Config())
        close = each.close.astimezone(NEW_YORK)
        assert close.strftime("%H:%M") in {"16:00", "13:00"}
        before = str(close.hour - 1)
        assert instants(day, Job.PRE_OPEN) == cron(each.day, hour="8", minute="0")
        assert instants(day, Job.FIRST_SCAN) == cron(each.day, hour="9", minute="15")
        assert instants(day, Job.FLAT) == cron(each.day, hour=before, minute="50")
        assert instants(day, Job.VERIFY_FLAT) == cron(each.day, hour=before, minute="55")
        assert instants(day, Job.CLOSE) == cron(each.day, hour=str(close.hour), minute="2")
        opening = cron(each.day, hour="9", minute="35")
        later = cron(each.day, hour=f"10-{before}", minute="0,30")
        quiet = each.close - 45 * MINUTE
        assert instants(day, Job.SCAN) == [*opening, *(at for at in later if at <= quiet)]
        scans = instants(day, Job.SCAN)
        wanted = {at - before * MINUTE for at in scans for before in (15, 5)} - set(scans)
        assert set(instants(day, Job.LOOK)) == {at for at in wanted if at > each.open}
        assert all(appointment.at.tzinfo is UTC for appointment in day)


def test_the_year_has_both_changes_and_short_days():
    """What the test above goes through is worth going through."""
    sessions = year()
    opens = {each.open.time() for each in sessions}
    assert opens == {time(13, 30), time(14, 30)}
    assert [str(each.day) for each in sessions if each.half_day] == HALF
    if CALENDAR.exists():
        assert len(sessions) > 245


@pytest.mark.parametrize("day", [*FULL, *HALF])
def test_without_a_frequency_there_are_the_three_fixed_scans(day: str):
    """10:30, 12:00 and 14:00, beside the one at the opening; of them those before the end of entries."""
    each = session(day)
    found = instants(market_day(each, config(workflow={"scan_frequency_minutes": 0})), Job.SCAN)
    fixed = [*cron(each.day, hour="9", minute="35"), *cron(each.day, hour="10", minute="30")]
    fixed += cron(each.day, hour="12", minute="0")
    assert found == (fixed if day in HALF else [*fixed, *cron(each.day, hour="14", minute="0")])


frequencies = st.integers(0, 240)


@given(st.sampled_from([*FULL, *HALF]), frequencies, st.integers(2, 120), st.integers(5, 240))
def test_every_configuration_makes_a_sound_day(day: str, every: int, flat: int, quiet: int):
    """In order of time; each job once but the scans; scans only while entries are allowed, a frequency apart; exits
    before the check of the exits, the check before the close, the close last."""
    each = session(day)
    cfg = config(
        workflow={"scan_frequency_minutes": every},
        session={"flat_before_close_minutes": flat, "no_entries_before_close_minutes": quiet},
    )
    jobs = market_day(each, cfg)
    assert [appointment.at for appointment in jobs] == sorted(appointment.at for appointment in jobs)
    for job in set(Job) - {Job.SCAN, Job.LOOK}:
        assert len(instants(jobs, job)) == 1
    (first,), (leave,), (verify,), (close,) = (
        instants(jobs, job) for job in (Job.FIRST_SCAN, Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE)
    )
    assert first < each.open
    assert leave == each.close - flat * MINUTE
    assert leave < verify < each.close < close
    scans = instants(jobs, Job.SCAN)
    assert len(set(scans)) == len(scans)
    assert all(each.open + 5 * MINUTE <= at <= min(leave, each.close - quiet * MINUTE) for at in scans)
    if every:
        assert all(
            (at - each.open) % (every * MINUTE) == timedelta(0)
            for at in scans
            if at - each.open != 5 * MINUTE
        )


_PRINT = """
import asyncio
import json
from datetime import date, time
from catalyst.clock import ManualClock, SystemClock
from catalyst.config.schema import Config
from catalyst.daemon.schedule import keep, market_day
from catalyst.domain.session import session_of

async def act(job):
    pass

day = market_day(session_of(date(2026, 3, 9), time(9, 30), time(16, 0)), Config())
asyncio.run(keep(day[:1], ManualClock(day[1].at), act))
asyncio.run(keep(market_day(session_of(date(2020, 3, 9), time(9, 30), time(16, 0)), Config()), SystemClock(), act))
print(json.dumps([[one.at.isoformat(), one.job] for one in day]))
"""


@pytest.mark.parametrize("zone", ["Australia/Perth", "Nowhere/Land"])
def test_the_time_zone_of_the_host_is_irrelevant(zone: str):
    """A machine in Perth, or with a zone that does not exist, has the same day and keeps it."""
    told = subprocess.run(
        [sys.executable, "-c", _PRINT],
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    ours = market_day(session("2026-03-09"), Config())
    assert json.loads(told.stdout) == [[one.at.isoformat(), str(one.job)] for one in ours]


# -- a late start


def test_who_starts_in_time_has_everything_to_do():
    """Before the first job, and at the very instant of any, nothing that is due is missed."""
    day = market_day(session("2026-07-06"), Config())
    assert still_to_do(day, day[0].at - MINUTE) == day
    with capture_logs() as logs:
        assert still_to_do(day, day[0].at) == day
    assert logs == []
    assert all(one in still_to_do(day, one.at) for one in day)


def test_who_starts_late_does_what_must_still_happen():
    """At 14:31 the preparation is made up for and the rest of the day lies ahead; scans that are over are only
    missed, and each is told of."""
    day = market_day(session("2026-07-06"), Config())
    now = session("2026-07-06").open + timedelta(hours=5, minutes=1)
    with capture_logs() as logs:
        left = still_to_do(day, now)
    assert [one.job for one in left if one.at < now] == [Job.PRE_OPEN]
    assert [one for one in left if one.at >= now] == [one for one in day if one.at >= now]
    missed = [one for one in day if one.at < now and one.job is not Job.PRE_OPEN]
    assert [(one["event"], one["job"], one["at"]) for one in logs] == [
        ("job_missed", one.job, one.at.isoformat()) for one in missed
    ]
    assert {one.job for one in missed} == {Job.FIRST_SCAN, Job.LOOK, Job.SCAN}


def test_who_starts_after_the_close_still_ends_the_day():
    """A daemon that was down at the close leaves everything, checks it and closes, in that order."""
    each = session("2026-07-06")
    left = still_to_do(market_day(each, Config()), each.close + timedelta(hours=1))
    assert [one.job for one in left] == [Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE]


def test_nothing_is_prepared_before_the_exits_of_who_starts_late():
    """Reading assets and daily bars takes minutes: made up for while a scan is to come, and never after the last."""
    day = market_day(session("2026-07-06"), Config())
    last = instants(day, Job.SCAN)[-1]
    assert still_to_do(day, last)[0].job is Job.PRE_OPEN
    assert still_to_do(day, last + MINUTE)[0].job is Job.FLAT


# -- keeping it


class Diary:
    """What was done when; never two things at once."""

    def __init__(self, clock: ManualClock | SystemClock, lasts: timedelta = timedelta(0)) -> None:
        self.clock = clock
        self.lasts = lasts
        self.entries: list[tuple[datetime, Job]] = []
        self.busy = False

    async def act(self, job: Job) -> None:
        assert not self.busy
        self.busy = True
        self.entries.append((self.clock.now(), job))
        await self.clock.sleep(self.lasts)
        self.busy = False


async def test_a_day_on_a_manual_clock_is_kept_to_the_instant():
    """Every job at its own time, once, in order."""
    each = session("2026-11-27")
    day = market_day(each, Config())
    clock = ManualClock(day[0].at - timedelta(hours=1))
    diary = Diary(clock)
    keeping = asyncio.ensure_future(keep(day, clock, diary.act))
    await clock.advance_to(each.close + timedelta(hours=1))
    await keeping
    assert diary.entries == [(one.at, one.job) for one in day]


async def test_late_jobs_run_once_at_once_and_in_order():
    """What is overdue at the start runs then; what comes due while a job runs waits for it and is not lost."""
    each = session("2026-07-06")
    day = market_day(each, Config())
    start = each.close - 7 * MINUTE
    clock = ManualClock(start)
    diary = Diary(clock, lasts=4 * MINUTE)
    keeping = asyncio.ensure_future(keep(still_to_do(day, start), clock, diary.act))
    await clock.advance(timedelta(hours=1))
    await keeping
    assert [job for _, job in diary.entries] == [Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE]
    assert [at - start for at, _ in diary.entries] == [timedelta(0), 4 * MINUTE, 9 * MINUTE]


async def test_a_day_can_be_broken_off():
    """Cancelled between two jobs it does nothing more and leaves no alarm."""
    day = market_day(session("2026-07-06"), Config())
    clock = ManualClock(day[0].at)
    diary = Diary(clock)
    keeping = asyncio.ensure_future(keep(day, clock, diary.act))
    await clock.advance(MINUTE)
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    await clock.advance(timedelta(hours=12))
    assert [job for _, job in diary.entries] == [Job.PRE_OPEN]
    assert clock._alarms == []


async def test_live_the_scheduler_keeps_the_same_list():
    """On the world's clock: the overdue at once, in order, equal instants as they are listed, then what comes, at or
    after its instant; one at a time, each once, and the keeping ends with the list."""
    clock = SystemClock()
    now = clock.now()
    past = [Appointment(now - timedelta(hours=3) + n * MINUTE, job) for n, job in enumerate(Job)]
    equal = [Appointment(now - MINUTE, job) for job in (*Job, *reversed(Job))]
    soon = [
        Appointment(now + timedelta(milliseconds=80), Job.FLAT),
        Appointment(now + timedelta(milliseconds=80), Job.VERIFY_FLAT),
        Appointment(now + timedelta(milliseconds=120), Job.CLOSE),
    ]
    day = [*past, *equal, *soon]
    diary = Diary(clock, lasts=timedelta(milliseconds=1))
    async with asyncio.timeout(AT_MOST):
        await keep(day, clock, diary.act)
    assert [job for _, job in diary.entries] == [one.job for one in day]
    assert all(at >= one.at for (at, _), one in zip(diary.entries, day, strict=True))


async def test_live_a_broken_off_day_leaves_nothing_behind():
    """Cancelled while it waits for tomorrow, it leaves no task, and its scheduler fires no more."""
    clock = SystemClock()
    before = asyncio.all_tasks()
    diary = Diary(clock)
    acted = asyncio.Event()

    async def act(job: Job) -> None:
        await diary.act(job)
        acted.set()

    day = [
        Appointment(clock.now() - MINUTE, Job.PRE_OPEN),
        Appointment(clock.now() + timedelta(days=1), Job.CLOSE),
    ]
    keeping = asyncio.ensure_future(keep(day, clock, act))
    async with asyncio.timeout(AT_MOST):
        await acted.wait()
    keeping.cancel()
    await asyncio.gather(keeping, return_exceptions=True)
    for _ in range(5):  # the scheduler shuts down on the loop's next turns
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert [job for _, job in diary.entries] == [Job.PRE_OPEN]


async def test_live_a_job_that_raises_ends_the_keeping():
    """What `act` lets through is not swallowed by the scheduler."""
    clock = SystemClock()

    async def act(job: Job) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await keep([Appointment(clock.now() - MINUTE, Job.PRE_OPEN)], clock, act)
