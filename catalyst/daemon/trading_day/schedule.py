"""Schedule: the jobs of a trading day with their times, and the loop that runs them.

APScheduler runs them live. With a scaled or manual clock a plain loop runs the same triggers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Final

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from catalyst.clock import Clock, SystemClock
from catalyst.config.schema import Config
from catalyst.domain.session import NEW_YORK, Session


class Job(StrEnum):
    """Jobs of a trading day."""

    PRE_OPEN = "pre_open"  # calendar, assets, reference data, account
    FIRST_SCAN = "first_scan"  # on pre-market data; no entry is sent before the open
    PRICE_SAMPLE = "price_sample"  # store every price, for the momentum of the next scan
    SCAN = "scan"  # scan, evaluate, trade
    FLAT = "flat"  # forbid entries, exit everything
    VERIFY_FLAT = "verify_flat"  # check that nothing is held, else exit again
    CLOSE = "close"  # last fills, result, proof


# Jobs that a late start still runs although their time has passed. A missed scan is not repeated.
LEVEL_TRIGGERED: Final = frozenset({Job.PRE_OPEN, Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE})

FIXED_SCANS: Final = (time(10, 30), time(12, 0), time(14, 0))
PRE_OPEN_AT: Final = time(8, 0)
FIRST_SCAN_BEFORE_OPEN: Final = timedelta(minutes=15)
OPENING_SCAN_AFTER_OPEN: Final = timedelta(minutes=5)
PRICE_SAMPLES_BEFORE_SCAN: Final = (timedelta(minutes=15), timedelta(minutes=5))
VERIFY_BEFORE_CLOSE: Final = timedelta(minutes=5)
CLOSE_AFTER: Final = timedelta(minutes=2)  # until then day orders expire and the last fills are booked


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """One job and its time (UTC)."""

    at: datetime
    job: Job


def market_day(session: Session, cfg: Config) -> tuple[ScheduledJob, ...]:
    """Return every job of a session in order of time.

    Fixed times are New York time. A half day has fewer scans and an earlier end.
    """
    day = session.day
    flat_at = session.flatten_at(cfg.session.flat_before_close_minutes)
    last_scan_at = min(
        flat_at, session.close - timedelta(minutes=cfg.session.no_entries_before_close_minutes)
    )
    # After FLAT even if FLAT is less than VERIFY_BEFORE_CLOSE before the close.
    verify_at = session.close - min(VERIFY_BEFORE_CLOSE, (session.close - flat_at) / 2)
    first_scan_at = session.open + OPENING_SCAN_AFTER_OPEN
    candidate_times = {first_scan_at}
    if every := cfg.workflow.scan_frequency_minutes:
        step = timedelta(minutes=every)
        candidate_times |= {
            session.open + n * step for n in range(1, int((last_scan_at - session.open) / step) + 1)
        }
    else:
        candidate_times |= {
            datetime.combine(day, at, NEW_YORK).astimezone(session.open.tzinfo) for at in FIXED_SCANS
        }
    scan_times = sorted(at for at in candidate_times if first_scan_at <= at <= last_scan_at)
    sample_times = {at - before for at in scan_times for before in PRICE_SAMPLES_BEFORE_SCAN} - set(
        scan_times
    )
    jobs = [
        ScheduledJob(
            datetime.combine(day, PRE_OPEN_AT, NEW_YORK).astimezone(session.open.tzinfo), Job.PRE_OPEN
        ),
        ScheduledJob(session.open - FIRST_SCAN_BEFORE_OPEN, Job.FIRST_SCAN),
        *(ScheduledJob(at, Job.PRICE_SAMPLE) for at in sample_times if at > session.open),
        *(ScheduledJob(at, Job.SCAN) for at in scan_times),
        ScheduledJob(flat_at, Job.FLAT),
        ScheduledJob(verify_at, Job.VERIFY_FLAT),
        ScheduledJob(session.close + CLOSE_AFTER, Job.CLOSE),
    ]
    return tuple(sorted(jobs, key=lambda scheduled: scheduled.at))


def scan_times(jobs: Sequence[ScheduledJob]) -> tuple[datetime, ...]:
    """Return the times of the scans among these jobs."""
    return tuple(scheduled.at for scheduled in jobs if scheduled.job in (Job.FIRST_SCAN, Job.SCAN))


def remaining(jobs: Sequence[ScheduledJob], now: datetime) -> tuple[ScheduledJob, ...]:
    """Return the jobs of a daemon that starts at `now`: every future job, and the past ones in LEVEL_TRIGGERED.

    PRE_OPEN is left out when no scan remains, because it would only delay the exits.
    """
    has_scan = any(scheduled.at >= now and scheduled.job in (Job.FIRST_SCAN, Job.SCAN) for scheduled in jobs)
    return tuple(
        scheduled
        for scheduled in jobs
        if scheduled.at >= now
        or (scheduled.job in LEVEL_TRIGGERED and (has_scan or scheduled.job is not Job.PRE_OPEN))
    )


def missed_scans(
    jobs: Sequence[ScheduledJob], now: datetime, scanned_at: Sequence[datetime]
) -> tuple[ScheduledJob, ...]:
    """Return the scans that were due before `now` and did not run; `scanned_at` are the times of those that ran.

    A scan ran when one began between its time and that of the next scan.
    """
    scans = [scheduled for scheduled in jobs if scheduled.job in (Job.FIRST_SCAN, Job.SCAN)]
    next_times = [*(scheduled.at for scheduled in scans[1:]), datetime.max.replace(tzinfo=UTC)]
    return tuple(
        scheduled
        for scheduled, next_at in zip(scans, next_times, strict=True)
        if scheduled.at < now and not any(scheduled.at <= at < next_at for at in scanned_at)
    )


async def run_schedule(
    jobs: Sequence[ScheduledJob], clock: Clock, run_job: Callable[[Job], Awaitable[None]]
) -> None:
    """Run each job at its time, one at a time. A job whose time has passed runs once, at once."""
    if isinstance(clock, SystemClock):
        await _run_by_apscheduler(jobs, run_job)
        return
    for scheduled in jobs:
        fire_time = DateTrigger(scheduled.at, timezone=UTC).get_next_fire_time(None, clock.now())
        await clock.sleep_until(fire_time)
        await run_job(scheduled.job)


async def _run_by_apscheduler(
    jobs: Sequence[ScheduledJob], run_job: Callable[[Job], Awaitable[None]]
) -> None:
    """Run the jobs live: APScheduler puts each job into a queue at its time, and this task runs them in order."""
    queue: asyncio.Queue[Job] = asyncio.Queue()
    scheduler = AsyncIOScheduler(timezone=NEW_YORK)
    for number, scheduled in enumerate(jobs):
        scheduler.add_job(
            queue.put,
            DateTrigger(scheduled.at, timezone=UTC),  # explicit, because the default is the host's time zone
            args=[scheduled.job],
            id=f"{number:03}-{scheduled.job}",  # of two jobs at one time the lower id fires first
            misfire_grace_time=None,  # no limit: a job that fires late, such as FLAT, must still run
            coalesce=True,
            max_instances=1,
        )
    scheduler.start()
    try:
        for _ in jobs:
            await run_job(await queue.get())
    finally:
        scheduler.shutdown(wait=False)
