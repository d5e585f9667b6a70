"""Schedule: the market day as a list of (time, job).

APScheduler runs it live; scaled and manual clocks run the same triggers.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Final

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.date import DateTrigger

from catalyst.clock import Clock, SystemClock
from catalyst.config.schema import Config
from catalyst.domain.session import NEW_YORK, Session

log = structlog.get_logger()


class Job(StrEnum):
    PRE_OPEN = "pre_open"  # calendar, assets, reference data, account
    FIRST_SCAN = "first_scan"  # on pre-market data; entries wait for the open
    PRICE_SAMPLE = (
        "price_sample"  # store every price, so that the next scan has the momentum of the last minutes
    )
    SCAN = "scan"  # scan, evaluate, trade
    FLAT = "flat"  # no more entries; exit everything
    VERIFY_FLAT = "verify_flat"
    CLOSE = "close"  # final fills, final P&L, report


# Jobs of the past that must still run after a late start. A missed scan is not repeated.
LEVEL_TRIGGERED: Final = frozenset({Job.PRE_OPEN, Job.FLAT, Job.VERIFY_FLAT, Job.CLOSE})

FIXED_SCANS: Final = (time(10, 30), time(12, 0), time(14, 0))
PRE_OPEN_AT: Final = time(8, 0)
FIRST_SCAN_BEFORE_OPEN: Final = timedelta(minutes=15)
OPENING_SCAN_AFTER_OPEN: Final = timedelta(minutes=5)
PRICE_SAMPLES_BEFORE_SCAN: Final = (timedelta(minutes=15), timedelta(minutes=5))
VERIFY_BEFORE_CLOSE: Final = timedelta(minutes=5)
CLOSE_AFTER: Final = timedelta(minutes=2)  # day orders end and the last fills are booked


@dataclass(frozen=True, slots=True)
class ScheduledJob:
    """One job at its instant (UTC)."""

    at: datetime
    job: Job


def market_day(session: Session, cfg: Config) -> tuple[ScheduledJob, ...]:
    """Return every job of a session in order of time. Half days shorten it; DST moves it with New York."""
    day = session.day
    flat = session.flatten_at(cfg.session.flat_before_close_minutes)
    last_scan = min(flat, session.close - timedelta(minutes=cfg.session.no_entries_before_close_minutes))
    verify = session.close - min(VERIFY_BEFORE_CLOSE, (session.close - flat) / 2)  # after the exits began
    opening = session.open + OPENING_SCAN_AFTER_OPEN
    scans = {opening}
    if every := cfg.workflow.scan_frequency_minutes:
        step = timedelta(minutes=every)
        scans |= {session.open + n * step for n in range(1, int((last_scan - session.open) / step) + 1)}
    else:
        scans |= {datetime.combine(day, at, NEW_YORK).astimezone(session.open.tzinfo) for at in FIXED_SCANS}
    kept = sorted(at for at in scans if opening <= at <= last_scan)
    looks = {at - before for at in kept for before in PRICE_SAMPLES_BEFORE_SCAN} - set(kept)
    appointments = [
        ScheduledJob(
            datetime.combine(day, PRE_OPEN_AT, NEW_YORK).astimezone(session.open.tzinfo), Job.PRE_OPEN
        ),
        ScheduledJob(session.open - FIRST_SCAN_BEFORE_OPEN, Job.FIRST_SCAN),
        *(ScheduledJob(at, Job.PRICE_SAMPLE) for at in looks if at > session.open),
        *(ScheduledJob(at, Job.SCAN) for at in kept),
        ScheduledJob(flat, Job.FLAT),
        ScheduledJob(verify, Job.VERIFY_FLAT),
        ScheduledJob(session.close + CLOSE_AFTER, Job.CLOSE),
    ]
    return tuple(sorted(appointments, key=lambda appointment: appointment.at))


def remaining(jobs: Sequence[ScheduledJob], now: datetime) -> tuple[ScheduledJob, ...]:
    """Return what a daemon that starts at `now` has to do: every future job, and the past ones that must
    still run.

    The preparation is left out once the scans are over; it would only delay the exits.
    """
    scans = any(each.at >= now and each.job in (Job.FIRST_SCAN, Job.SCAN) for each in jobs)
    due = []
    for appointment in jobs:
        must = appointment.job in LEVEL_TRIGGERED and (scans or appointment.job is not Job.PRE_OPEN)
        if appointment.at >= now or must:
            due.append(appointment)
        else:
            log.warning("job_missed", job=appointment.job, at=appointment.at.isoformat())
    return tuple(due)


async def run_schedule(
    jobs: Sequence[ScheduledJob], clock: Clock, run_job: Callable[[Job], Awaitable[None]]
) -> None:
    """Run each job at its instant, one at a time. A late job runs once, at once."""
    if isinstance(clock, SystemClock):
        await _run_by_apscheduler(jobs, run_job)
        return
    for appointment in jobs:
        fires = DateTrigger(appointment.at, timezone=UTC).get_next_fire_time(None, clock.now())
        await clock.sleep_until(fires)
        await run_job(appointment.job)


async def _run_by_apscheduler(
    jobs: Sequence[ScheduledJob], run_job: Callable[[Job], Awaitable[None]]
) -> None:
    """Run live: APScheduler fires; one task runs the jobs in the order of firing."""
    queue: asyncio.Queue[Job] = asyncio.Queue()
    scheduler = AsyncIOScheduler(timezone=NEW_YORK)
    for number, appointment in enumerate(jobs):
        scheduler.add_job(
            queue.put,
            DateTrigger(appointment.at, timezone=UTC),  # explicit, so that the host's time zone is not used
            args=[appointment.job],
            id=f"{number:03}-{appointment.job}",  # of two jobs at one instant the lower id fires first
            misfire_grace_time=None,  # a pause of the machine must not drop the flat before the close
            coalesce=True,
            max_instances=1,
        )
    scheduler.start()
    try:
        for _ in jobs:
            await run_job(await queue.get())
    finally:
        scheduler.shutdown(wait=False)
