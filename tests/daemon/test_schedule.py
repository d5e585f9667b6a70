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
from catalyst.daemon.trading_day.schedule import Job, ScheduledJob, market_day, remaining, run_schedule
from catalyst.domain.session import NEW_YORK, Session, session_of

ROOT = Path(__file__).parents[2]
CALENDAR = ROOT.parent / "shared" / "data" / "calendar_xnys_2007_2026.csv"
MINUTE = timedelta(minutes=1)
TIMEOUT_SECONDS = 20  # real seconds before a test that hangs says so

# The Friday before and the Monday after each change of the clocks, summer, winter, and the short days.
FULL = ["2026-01-05", "2026-03-06", "2026-03-09", "2026-07-06", "2026-10-30", "2026-11-02", "2026-12-31"]
HALF = ["2026-11-27", "2026-12-24"]


def session(day: str) -> Session:
    return session_of(date.fromisoformat(day), time(9, 30), time(13 if day in HALF else 16, 0))


def sessions_of_year() -> list[Session]:
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


def job_times(day: Sequence[ScheduledJob], job: Job) -> list[datetime]:
    return [appointment.at for appointment in day if appointment.job is job]


def cron_times(day: date, **fields: str) -> list[datetime]:
    """When APScheduler's own cron trigger fires on that New York day."""
    trigger = CronTrigger(timezone=NEW_YORK, **fields)
    fires, at = [], datetime.combine(day, time(0), NEW_YORK)
    while (at := trigger.get_next_fire_time(None, at)).date() == day:
        fires.append(at.astimezone(UTC))
        at += timedelta(seconds=1)
    return fires


# -- the list


def test_schedule_of_a_year_equals_cron_triggers():
    """Every job of every session equals the instants of a cron trigger with the fixed New York times, those before
    the close counted from the actual close: 15:50 and 15:55, on half days 12:50 and 12:55."""
    for each in sessions_of_year():
        day = market_day(each, Config())
        close = each.close.astimezone(NEW_YORK)
        assert close.strftime("%H:%M") in {"16:00", "13:00"}
        before = str(close.hour - 1)
        assert job_times(day, Job.PRE_OPEN) == cron_times(each.day, hour="8", minute="0")
        assert job_times(day, Job.FIRST_SCAN) == cron_times(each.day, hour="9", minute="15")
        assert job_times(day, Job.FLAT) == cron_times(each.day, hour=before, minute="50")
        assert job_times(day, Job.VERIFY_FLAT) == cron_times(each.day, hour=before, minute="55")
        assert job_times(day, Job.CLOSE) == cron_times(each.day, hour=str(close.hour), minute="2")
        opening = cron_times(each.day, hour="9", minute="35")
        later = cron_times(each.day, hour=f"10-{before}", minute="0,30")
        quiet = each.close - 45 * MINUTE
        assert job_times(day, Job.SCAN) == [*opening, *(at for at in later if at <= quiet)]
        scans = job_times(day, Job.SCAN)
        wanted = {at - before * MINUTE for at in scans for before in (15, 5)} - set(scans)
        assert set(job_times(day, Job.PRICE_SAMPLE)) == {at for at in wanted if at > each.open}
        assert all(appointment.at.tzinfo is UTC for appointment in day)


def test_schedule_year_includes_clock_changes_and_half_days():
    """What the test above goes through is worth going through."""
    sessions = sessions_of_year()
    opens = {each.open.time() for each in sessions}
    assert opens == {time(13, 30), time(14, 30)}
    assert [str(each.day) for each in sessions if each.half_day] == HALF
    if CALENDAR.exists():
        assert len(sessions) > 245


@pytest.mark.parametrize("day", [*FULL, *HALF])
def test_schedule_has_three_fixed_scans_without_frequency(day: str):
    """10:30, 12:00 and 14:00, beside the one at the opening; of them those before the end of entries."""
    each = session(day)
    found = job_times(market_day(each, config(workflow={"scan_frequency_minutes": 0})), Job.SCAN)
    fixed = [*cron_times(each.day, hour="9", minute="35"), *cron_times(each.day, hour="10", minute="30")]
    fixed += cron_times(each.day, hour="12", minute="0")
    assert found == (fixed if day in HALF else [*fixed, *cron_times(each.day, hour="14", minute="0")])


frequencies = st.integers(0, 240)


@given(st.sampled_from([*FULL, *HALF]), frequencies, st.integers(2, 120), st.integers(5, 240))
def test_schedule_is_valid_for_every_configuration(day: str, every: int, flat: int, quiet: int):
    """In order of time; each job once but the scans; scans only while entries are allowed, a frequency apart; exits
    before the check of the exits, the check before the close, the close last."""
    each = session(day)
    cfg = config(
        workflow={"scan_frequency_minutes": every},
        session={"flat_before_close_minutes": flat, "no_entries_before_close_minutes": quiet},
    )
    jobs = market_day(each, cfg)
    assert [appointment.at for appointment in jobs] == sorted(appointment.at for appointment in jobs)
    for job in set(Job) - {Job.SCAN, Job.PRICE_SAMPLE}:
        assert len(job_times(jobs, job)) == 1
    (first,), (leave,), (verify,), (close,) = (
        job_times(jobs, job) for job in (Job.FIRST_SCAN, Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE)
    )
    assert first < each.open
    assert leave == each.close - flat * MINUTE
    assert leave < verify < each.close < close
    scans = job_times(jobs, Job.SCAN)
    assert len(set(scans)) == len(scans)
    assert all(each.open + 5 * MINUTE <= at <= min(leave, each.close - quiet * MINUTE) for at in scans)
    if every:
        assert all(
            (at - each.open) % (every * MINUTE) == timedelta(0)
            for at in scans
            if at - each.open != 5 * MINUTE
        )


_PRINT_SCHEDULE = """
import asyncio
import json
from datetime import date, time
from catalyst.clock import ManualClock, SystemClock
from catalyst.config.schema import Config
from catalyst.daemon.trading_day.schedule import market_day, run_schedule
from catalyst.domain.session import session_of

async def act(job):
    pass

day = market_day(session_of(date(2026, 3, 9), time(9, 30), time(16, 0)), Config())
asyncio.run(run_schedule(day[:1], ManualClock(day[1].at), act))
asyncio.run(run_schedule(market_day(session_of(date(2020, 3, 9), time(9, 30), time(16, 0)), Config()), SystemClock(), act))
print(json.dumps([[one.at.isoformat(), one.job] for one in day]))
"""


@pytest.mark.parametrize("zone", ["Australia/Perth", "Nowhere/Land"])
def test_schedule_is_independent_of_host_time_zone(zone: str):
    """A machine in Perth, or with a zone that does not exist, has the same day and keeps it."""
    completed = subprocess.run(
        [sys.executable, "-c", _PRINT_SCHEDULE],
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    ours = market_day(session("2026-03-09"), Config())
    assert json.loads(completed.stdout) == [[one.at.isoformat(), str(one.job)] for one in ours]


# -- a late start


def test_schedule_misses_nothing_when_started_in_time():
    """Before the first job, and at the very instant of any, nothing that is due is missed."""
    day = market_day(session("2026-07-06"), Config())
    assert remaining(day, day[0].at - MINUTE) == day
    with capture_logs() as logs:
        assert remaining(day, day[0].at) == day
    assert logs == []
    assert all(one in remaining(day, one.at) for one in day)


def test_schedule_runs_remaining_jobs_when_started_late():
    """At 14:31 the preparation is made up for and the rest of the day lies ahead; scans that are over are only
    missed, and each is told of."""
    day = market_day(session("2026-07-06"), Config())
    now = session("2026-07-06").open + timedelta(hours=5, minutes=1)
    with capture_logs() as logs:
        left = remaining(day, now)
    assert [one.job for one in left if one.at < now] == [Job.PRE_OPEN]
    assert [one for one in left if one.at >= now] == [one for one in day if one.at >= now]
    missed = [one for one in day if one.at < now and one.job is not Job.PRE_OPEN]
    assert [(one["event"], one["job"], one["at"]) for one in logs] == [
        ("job_missed", one.job, one.at.isoformat()) for one in missed
    ]
    assert {one.job for one in missed} == {Job.FIRST_SCAN, Job.PRICE_SAMPLE, Job.SCAN}


def test_schedule_closes_day_when_started_after_close():
    """A daemon that was down at the close leaves everything, checks it and closes, in that order."""
    each = session("2026-07-06")
    left = remaining(market_day(each, Config()), each.close + timedelta(hours=1))
    assert [one.job for one in left] == [Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE]


def test_schedule_skips_preparation_when_started_after_last_scan():
    """Reading assets and daily bars takes minutes: made up for while a scan is to come, and never after the last."""
    day = market_day(session("2026-07-06"), Config())
    last = job_times(day, Job.SCAN)[-1]
    assert remaining(day, last)[0].job is Job.PRE_OPEN
    assert remaining(day, last + MINUTE)[0].job is Job.FLAT


# -- keeping it


class JobRecorder:
    """What was done when; never two things at once."""

    def __init__(self, clock: ManualClock | SystemClock, lasts: timedelta = timedelta(0)) -> None:
        self.clock = clock
        self.duration = lasts
        self.entries: list[tuple[datetime, Job]] = []
        self.busy = False

    async def act(self, job: Job) -> None:
        assert not self.busy
        self.busy = True
        self.entries.append((self.clock.now(), job))
        await self.clock.sleep(self.duration)
        self.busy = False


async def test_schedule_on_manual_clock_runs_jobs_on_time():
    """Every job at its own time, once, in order."""
    each = session("2026-11-27")
    day = market_day(each, Config())
    clock = ManualClock(day[0].at - timedelta(hours=1))
    recorder = JobRecorder(clock)
    schedule_task = asyncio.ensure_future(run_schedule(day, clock, recorder.act))
    await clock.advance_to(each.close + timedelta(hours=1))
    await schedule_task
    assert recorder.entries == [(one.at, one.job) for one in day]


async def test_schedule_runs_overdue_jobs_once_in_order():
    """What is overdue at the start runs then; what comes due while a job runs waits for it and is not lost."""
    each = session("2026-07-06")
    day = market_day(each, Config())
    start = each.close - 7 * MINUTE
    clock = ManualClock(start)
    recorder = JobRecorder(clock, lasts=4 * MINUTE)
    schedule_task = asyncio.ensure_future(run_schedule(remaining(day, start), clock, recorder.act))
    await clock.advance(timedelta(hours=1))
    await schedule_task
    assert [job for _, job in recorder.entries] == [Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE]
    assert [at - start for at, _ in recorder.entries] == [timedelta(0), 4 * MINUTE, 9 * MINUTE]


async def test_cancelled_schedule_runs_no_more_jobs():
    """Cancelled between two jobs it does nothing more and leaves no alarm."""
    day = market_day(session("2026-07-06"), Config())
    clock = ManualClock(day[0].at)
    recorder = JobRecorder(clock)
    schedule_task = asyncio.ensure_future(run_schedule(day, clock, recorder.act))
    await clock.advance(MINUTE)
    schedule_task.cancel()
    await asyncio.gather(schedule_task, return_exceptions=True)
    await clock.advance(timedelta(hours=12))
    assert [job for _, job in recorder.entries] == [Job.PRE_OPEN]
    assert clock._alarms == []


async def test_live_schedule_runs_jobs_in_order():
    """On the world's clock: the overdue at once, in order, equal instants as they are listed, then what comes, at or
    after its instant; one at a time, each once, and the keeping ends with the list."""
    clock = SystemClock()
    now = clock.now()
    past = [ScheduledJob(now - timedelta(hours=3) + n * MINUTE, job) for n, job in enumerate(Job)]
    equal = [ScheduledJob(now - MINUTE, job) for job in (*Job, *reversed(Job))]
    soon = [
        ScheduledJob(now + timedelta(milliseconds=80), Job.FLAT),
        ScheduledJob(now + timedelta(milliseconds=80), Job.VERIFY_FLAT),
        ScheduledJob(now + timedelta(milliseconds=120), Job.CLOSE),
    ]
    day = [*past, *equal, *soon]
    recorder = JobRecorder(clock, lasts=timedelta(milliseconds=1))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await run_schedule(day, clock, recorder.act)
    assert [job for _, job in recorder.entries] == [one.job for one in day]
    assert all(at >= one.at for (at, _), one in zip(recorder.entries, day, strict=True))


async def test_cancelled_live_schedule_leaves_no_task():
    """Cancelled while it waits for tomorrow, it leaves no task, and its scheduler fires no more."""
    clock = SystemClock()
    before = asyncio.all_tasks()
    recorder = JobRecorder(clock)
    acted = asyncio.Event()

    async def act(job: Job) -> None:
        await recorder.act(job)
        acted.set()

    day = [
        ScheduledJob(clock.now() - MINUTE, Job.PRE_OPEN),
        ScheduledJob(clock.now() + timedelta(days=1), Job.CLOSE),
    ]
    schedule_task = asyncio.ensure_future(run_schedule(day, clock, act))
    async with asyncio.timeout(TIMEOUT_SECONDS):
        await acted.wait()
    schedule_task.cancel()
    await asyncio.gather(schedule_task, return_exceptions=True)
    for _ in range(5):  # the scheduler shuts down on the loop's next turns
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert [job for _, job in recorder.entries] == [Job.PRE_OPEN]


async def test_live_schedule_propagates_job_exception():
    """What `act` lets through is not swallowed by the scheduler."""
    clock = SystemClock()

    async def act(job: Job) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_schedule([ScheduledJob(clock.now() - MINUTE, Job.PRE_OPEN)], clock, act)
