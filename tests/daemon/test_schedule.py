"""Schedule of the trading day: each job runs once at its New York time, on half days and across both clock
changes."""

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

from catalyst.clock import ManualClock, SystemClock
from catalyst.config.schema import Config
from catalyst.daemon.trading_day.schedule import (
    Job,
    ScheduledJob,
    market_day,
    missed_scans,
    remaining,
    run_schedule,
)
from catalyst.domain.session import NEW_YORK, Session, session_of
from tests.waiting import LIMIT_S

ROOT = Path(__file__).parents[2]
CALENDAR = ROOT.parent / "shared" / "data" / "calendar_xnys_2007_2026.csv"
MINUTE = timedelta(minutes=1)

# The Friday before and the Monday after each clock change, a summer and two winter days; and the half days.
FULL = ["2026-01-05", "2026-03-06", "2026-03-09", "2026-07-06", "2026-10-30", "2026-11-02", "2026-12-31"]
HALF = ["2026-11-27", "2026-12-24"]


def session(day: str) -> Session:
    """Return the session of a day in FULL or HALF."""
    return session_of(date.fromisoformat(day), time(9, 30), time(13 if day in HALF else 16, 0))


def sessions_of_year() -> list[Session]:
    """Return every session of 2026 of the exchange calendar, or FULL and HALF where the calendar is missing."""
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
    """Return the default configuration with these sections."""
    return Config.model_validate(sections)


def job_times(day: Sequence[ScheduledJob], job: Job) -> list[datetime]:
    """Return the times of one job."""
    return [appointment.at for appointment in day if appointment.job is job]


def cron_times(day: date, **fields: str) -> list[datetime]:
    """Return the times at which APScheduler's cron trigger fires on that New York day."""
    trigger = CronTrigger(timezone=NEW_YORK, **fields)
    fires, at = [], datetime.combine(day, time(0), NEW_YORK)
    while (at := trigger.get_next_fire_time(None, at)).date() == day:
        fires.append(at.astimezone(UTC))
        at += timedelta(seconds=1)
    return fires


# -- the jobs of a day


def test_schedule_of_a_year_equals_cron_triggers():
    """The jobs of each session equal cron triggers with the fixed New York times; jobs before the close count
    from the actual close (15:50 and 15:55, on half days 12:50 and 12:55)."""
    for trading_session in sessions_of_year():
        day = market_day(trading_session, Config())
        close = trading_session.close.astimezone(NEW_YORK)
        assert close.strftime("%H:%M") in {"16:00", "13:00"}
        last_hour = str(close.hour - 1)
        assert job_times(day, Job.PRE_OPEN) == cron_times(trading_session.day, hour="8", minute="0")
        assert job_times(day, Job.FIRST_SCAN) == cron_times(trading_session.day, hour="9", minute="15")
        assert job_times(day, Job.FLAT) == cron_times(trading_session.day, hour=last_hour, minute="50")
        assert job_times(day, Job.VERIFY_FLAT) == cron_times(trading_session.day, hour=last_hour, minute="55")
        assert job_times(day, Job.CLOSE) == cron_times(trading_session.day, hour=str(close.hour), minute="2")
        opening = cron_times(trading_session.day, hour="9", minute="35")
        later = cron_times(trading_session.day, hour=f"10-{last_hour}", minute="0,30")
        quiet = trading_session.close - 45 * MINUTE
        assert job_times(day, Job.SCAN) == [*opening, *(at for at in later if at <= quiet)]
        scans = job_times(day, Job.SCAN)
        samples = {at - lead * MINUTE for at in scans for lead in (15, 5)} - set(scans)
        assert set(job_times(day, Job.PRICE_SAMPLE)) == {at for at in samples if at > trading_session.open}
        assert all(appointment.at.tzinfo is UTC for appointment in day)


def test_schedule_year_includes_clock_changes_and_half_days():
    """The sessions of the test above include both clock offsets and every half day."""
    sessions = sessions_of_year()
    opens = {trading_session.open.time() for trading_session in sessions}
    assert opens == {time(13, 30), time(14, 30)}
    assert [str(trading_session.day) for trading_session in sessions if trading_session.half_day] == HALF
    if CALENDAR.exists():
        assert len(sessions) > 245


@pytest.mark.parametrize("day", [*FULL, *HALF])
def test_schedule_has_three_fixed_scans_without_frequency(day: str):
    """With a scan frequency of 0 the scans are at 9:35, 10:30, 12:00 and 14:00, as far as entries are
    allowed."""
    trading_session = session(day)
    scans = job_times(market_day(trading_session, config(workflow={"scan_frequency_minutes": 0})), Job.SCAN)
    fixed = [
        *cron_times(trading_session.day, hour="9", minute="35"),
        *cron_times(trading_session.day, hour="10", minute="30"),
    ]
    fixed += cron_times(trading_session.day, hour="12", minute="0")
    assert scans == (
        fixed if day in HALF else [*fixed, *cron_times(trading_session.day, hour="14", minute="0")]
    )


frequencies = st.integers(0, 240)
# Minutes before the close of the day's exits, and of the last entry, which is not later.
minutes_before_close = st.tuples(st.integers(2, 120), st.integers(5, 240)).filter(
    lambda pair: pair[0] <= pair[1]
)


@given(st.sampled_from([*FULL, *HALF]), frequencies, minutes_before_close)
def test_schedule_is_valid_for_every_configuration(day: str, frequency: int, minutes: tuple[int, int]):
    """Jobs are in time order and unique except scans; scans run only while entries are allowed, one frequency
    apart; flat, its check and the close follow in this order."""
    trading_session = session(day)
    flat_minutes, quiet_minutes = minutes
    cfg = config(
        workflow={"scan_frequency_minutes": frequency},
        session={"flat_before_close_minutes": flat_minutes, "no_entries_before_close_minutes": quiet_minutes},
    )
    jobs = market_day(trading_session, cfg)
    assert [appointment.at for appointment in jobs] == sorted(appointment.at for appointment in jobs)
    for job in set(Job) - {Job.SCAN, Job.PRICE_SAMPLE}:
        assert len(job_times(jobs, job)) == 1
    (first,), (flat_at,), (verify,), (close,) = (
        job_times(jobs, job) for job in (Job.FIRST_SCAN, Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE)
    )
    assert first < trading_session.open
    assert flat_at == trading_session.close - flat_minutes * MINUTE
    assert flat_at < verify < trading_session.close < close
    scans = job_times(jobs, Job.SCAN)
    assert len(set(scans)) == len(scans)
    assert all(
        trading_session.open + 5 * MINUTE
        <= at
        <= min(flat_at, trading_session.close - quiet_minutes * MINUTE)
        for at in scans
    )
    if frequency:
        assert all(
            (at - trading_session.open) % (frequency * MINUTE) == timedelta(0)
            for at in scans
            if at - trading_session.open != 5 * MINUTE
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
past = market_day(session_of(date(2020, 3, 9), time(9, 30), time(16, 0)), Config())
asyncio.run(run_schedule(past, SystemClock(), act))
print(json.dumps([[appointment.at.isoformat(), appointment.job] for appointment in day]))
"""


@pytest.mark.parametrize("zone", ["Australia/Perth", "Nowhere/Land"])
def test_schedule_is_independent_of_host_time_zone(zone: str):
    """A host in Perth, or with a zone that does not exist, has and runs the same schedule."""
    completed = subprocess.run(
        [sys.executable, "-c", _PRINT_SCHEDULE],
        env={**os.environ, "TZ": zone},
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    ours = market_day(session("2026-03-09"), Config())
    assert json.loads(completed.stdout) == [
        [appointment.at.isoformat(), str(appointment.job)] for appointment in ours
    ]


# -- a late start


def test_schedule_misses_nothing_when_started_in_time():
    """No job is missed before the first one, and a job at the very start time is still due."""
    day = market_day(session("2026-07-06"), Config())
    assert remaining(day, day[0].at - MINUTE) == day
    assert remaining(day, day[0].at) == day
    assert missed_scans(day, day[0].at, []) == ()
    assert all(appointment in remaining(day, appointment.at) for appointment in day)


def test_schedule_runs_remaining_jobs_when_started_late():
    """At 14:31 the preparation is still run and the later jobs remain; the scans that no stored scan stands for are
    missed, not those that ran."""
    day = market_day(session("2026-07-06"), Config())
    now = session("2026-07-06").open + timedelta(hours=5, minutes=1)
    left = remaining(day, now)
    assert [appointment.job for appointment in left if appointment.at < now] == [Job.PRE_OPEN]
    assert [appointment for appointment in left if appointment.at >= now] == [
        appointment for appointment in day if appointment.at >= now
    ]
    due = [each for each in day if each.at < now and each.job in (Job.FIRST_SCAN, Job.SCAN)]
    assert len(due) > 3
    assert missed_scans(day, now, []) == tuple(due)
    assert missed_scans(day, now, [each.at + timedelta(seconds=1) for each in due]) == ()
    assert missed_scans(day, now, [each.at for each in due if each is not due[2]]) == (due[2],)


def test_schedule_closes_day_when_started_after_close():
    """A daemon that starts after the close still runs flat, its check and the close, in this order."""
    trading_session = session("2026-07-06")
    left = remaining(market_day(trading_session, Config()), trading_session.close + timedelta(hours=1))
    assert [appointment.job for appointment in left] == [Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE]


def test_schedule_skips_preparation_when_started_after_last_scan():
    """The preparation, which takes minutes, is run late only while a scan is still to come."""
    day = market_day(session("2026-07-06"), Config())
    last = job_times(day, Job.SCAN)[-1]
    assert remaining(day, last)[0].job is Job.PRE_OPEN
    assert remaining(day, last + MINUTE)[0].job is Job.FLAT


# -- running it


class JobRecorder:
    """Records the jobs and their times; no two jobs may overlap."""

    def __init__(self, clock: ManualClock | SystemClock, duration: timedelta = timedelta(0)) -> None:
        self.clock = clock
        self.duration = duration
        self.entries: list[tuple[datetime, Job]] = []
        self.busy = False

    async def act(self, job: Job) -> None:
        """Record the job and spend its duration."""
        assert not self.busy
        self.busy = True
        self.entries.append((self.clock.now(), job))
        await self.clock.sleep(self.duration)
        self.busy = False


async def test_schedule_on_manual_clock_runs_jobs_on_time():
    """On a manual clock each job runs once, in order, at its time."""
    trading_session = session("2026-11-27")
    day = market_day(trading_session, Config())
    clock = ManualClock(day[0].at - timedelta(hours=1))
    recorder = JobRecorder(clock)
    schedule_task = asyncio.ensure_future(run_schedule(day, clock, recorder.act))
    await clock.advance_to(trading_session.close + timedelta(hours=1))
    await schedule_task
    assert recorder.entries == [(appointment.at, appointment.job) for appointment in day]


async def test_schedule_runs_overdue_jobs_once_in_order():
    """Overdue jobs run at the start; a job that becomes due during another one runs after it."""
    trading_session = session("2026-07-06")
    day = market_day(trading_session, Config())
    start = trading_session.close - 7 * MINUTE
    clock = ManualClock(start)
    recorder = JobRecorder(clock, duration=4 * MINUTE)
    schedule_task = asyncio.ensure_future(run_schedule(remaining(day, start), clock, recorder.act))
    await clock.advance(timedelta(hours=1))
    await schedule_task
    assert [job for _, job in recorder.entries] == [Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE]
    assert [at - start for at, _ in recorder.entries] == [timedelta(0), 4 * MINUTE, 9 * MINUTE]


async def test_cancelled_schedule_runs_no_more_jobs():
    """A schedule cancelled between two jobs runs no more job and leaves no alarm."""
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
    """On the system clock overdue jobs run at once, jobs of equal times in list order, later jobs not before
    their time; one at a time, and the schedule ends after the last."""
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
    recorder = JobRecorder(clock, duration=timedelta(milliseconds=1))
    async with asyncio.timeout(LIMIT_S):
        await run_schedule(day, clock, recorder.act)
    assert [job for _, job in recorder.entries] == [appointment.job for appointment in day]
    assert all(at >= appointment.at for (at, _), appointment in zip(recorder.entries, day, strict=True))


async def test_cancelled_live_schedule_leaves_no_task():
    """A schedule cancelled while it waits leaves no task and runs no more job."""
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
    async with asyncio.timeout(LIMIT_S):
        await acted.wait()
    schedule_task.cancel()
    await asyncio.gather(schedule_task, return_exceptions=True)
    for _ in range(5):  # the scheduler shuts down in the next turns of the event loop
        await asyncio.sleep(0)
    assert asyncio.all_tasks() == before
    assert [job for _, job in recorder.entries] == [Job.PRE_OPEN]


async def test_live_schedule_propagates_job_exception():
    """An exception of a job ends the schedule with this exception."""
    clock = SystemClock()

    async def act(job: Job) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run_schedule([ScheduledJob(clock.now() - MINUTE, Job.PRE_OPEN)], clock, act)
