"""Health: the daemon's state as one verdict with its reasons. Pure.

A healthy daemon has recovered, protects what it holds, receives what the broker reports, and may enter when its rules
allow. Closed entries are healthy only when the day's plan closes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

from catalyst.broker.port import StreamState
from catalyst.daemon.monitoring.reading import PLANNED_REASONS, DaemonReading
from catalyst.daemon.runtime.database_health import DatabaseState
from catalyst.doctor.issues import IssueKind, Severity
from catalyst.domain.secret_mask import mask_value
from catalyst.installation import VERSION

MAX_MISSED_PASSES: Final = 3  # intervals of the reconciliation without a complete one
MAX_PRICES_AGE: Final = timedelta(minutes=3)  # of held symbols, in market hours; they are read every 30 s
MAX_FIGURES_AGE: Final = timedelta(minutes=1)  # of the database's figures; they are read every 10 s
MAX_ALERT_WAIT: Final = timedelta(minutes=5)  # of an alert that somebody should receive
# Issues that the reading itself shows, at this moment and not as five minutes ago.
SHOWN_BY_READING: Final = frozenset({IssueKind.SAFE_MODE, IssueKind.UNPROTECTED_POSITION})


@dataclass(frozen=True, slots=True)
class Problem:
    """One reason why the daemon is not healthy: a short stable name, and a sentence."""

    name: str
    reason: str


def problems_of(reading: DaemonReading) -> tuple[Problem, ...]:
    """Return everything that makes the daemon unhealthy; empty when it is healthy."""
    if not reading.ready:
        return (Problem("recovering", "the daemon reads every order and position at the broker"),)
    return (
        *_closed_entries(reading),
        *_protection(reading),
        *_broker(reading),
        *_process(reading),
        *_doctor(reading),
    )


def _closed_entries(reading: DaemonReading) -> Iterator[Problem]:
    for name, why in sorted(reading.entries_closed_by.items()):
        if name not in PLANNED_REASONS:
            yield Problem(f"entries_closed_{name}", why)


def _protection(reading: DaemonReading) -> Iterator[Problem]:
    if reading.over_budget:
        count = len(reading.over_budget)
        budget = f"{reading.config.protection.unprotected_budget_seconds:g}"
        yield Problem(
            "unprotected",
            f"{count} position{'s' * (count != 1)} without a working stop for more than {budget} s: "
            "`catalyst status` names them",
        )
    if reading.market_open and reading.prices_age is not None and reading.prices_age > MAX_PRICES_AGE:
        yield Problem(
            "prices", f"the prices of the held symbols are {reading.prices_age.total_seconds():.0f} s old"
        )


def _broker(reading: DaemonReading) -> Iterator[Problem]:
    if reading.stream_state is not StreamState.READY:
        yield Problem(
            "stream", f"the stream of trade updates is {reading.stream_state}; the broker is polled"
        )
    limit = timedelta(seconds=MAX_MISSED_PASSES * reading.config.reconcile.every_seconds)
    if reading.reconcile_age is None:
        yield Problem("reconcile", "no reconciliation has been complete since the start")
    elif reading.reconcile_age > limit:
        yield Problem(
            "reconcile",
            f"the last complete reconciliation is {reading.reconcile_age.total_seconds():.0f} s old",
        )


def _process(reading: DaemonReading) -> Iterator[Problem]:
    if reading.database_state is not DatabaseState.UP:
        yield Problem("database", f"the database is {reading.database_state}")
    elif reading.stored_age is None or reading.stored_age > MAX_FIGURES_AGE:
        yield Problem("figures", "the figures of the database cannot be read")
    if reading.ended_loops:
        yield Problem("loops_ended", f"ended: {', '.join(reading.ended_loops)}")
    if reading.late_loops:
        yield Problem("loops_late", f"no turn for 10 s: {', '.join(reading.late_loops)}")
    stored = reading.stored
    if stored is not None and stored.oldest_waiting_at is not None:
        waits = reading.at - stored.oldest_waiting_at
        if waits > MAX_ALERT_WAIT:
            count = sum(stored.alerts_waiting.values())
            yield Problem(
                "alerts",
                f"{count} alerts wait to be sent, the oldest for {waits.total_seconds():.0f} s: `catalyst alerts`",
            )


def _doctor(reading: DaemonReading) -> Iterator[Problem]:
    """Return one problem for the critical issues of the doctor's last examination."""
    if reading.examination is None:
        return
    critical = [
        f"{issue.kind}: {issue.message}"
        for issue in reading.examination.issues
        if issue.severity is Severity.CRITICAL and issue.kind not in SHOWN_BY_READING
    ]
    if critical:
        yield Problem("doctor", f"found at {reading.examination.at:%H:%M:%S} UTC: {'; '.join(critical)}")


def health_document(reading: DaemonReading) -> dict[str, object]:
    """Return the body of /health; `status` is healthy or unhealthy. Secrets in reasons are masked."""
    problems = problems_of(reading)
    stored = reading.stored
    document: dict[str, object] = {
        "status": "unhealthy" if problems else "healthy",
        "problems": [{"name": problem.name, "reason": problem.reason} for problem in problems],
        "at": reading.at.isoformat(timespec="milliseconds"),
        "version": VERSION,
        "mode": reading.mode,
        "market_open": reading.market_open,
        "entries": "closed" if reading.entries_closed_by else "possible",
        "entries_closed_by": dict(reading.entries_closed_by),
        "refused_symbols": dict(reading.refused_symbols),
        "positions": reading.held_positions,
        "positions_unprotected": len(reading.unprotected),
        "stream": reading.stream_state,
        "stream_age_seconds": _seconds(reading.stream_age),
        "reconcile_age_seconds": _seconds(reading.reconcile_age),
        "prices_age_seconds": _seconds(reading.prices_age),
        "database": reading.database_state,
        "day_result": None if stored is None or stored.day_result is None else str(stored.day_result),
        "max_daily_loss": str(reading.config.risk.max_daily_loss),
        "alerts_waiting": None if stored is None else sum(stored.alerts_waiting.values()),
        "quarantined": None if stored is None else stored.quarantined,
        "doctor": None if reading.examination is None else reading.examination.status,
        "doctor_age_seconds": _seconds(reading.examination_age),
        "doctor_issues": [
            {"type": issue.kind, "severity": issue.severity, "message": issue.message}
            for issue in (() if reading.examination is None else reading.examination.issues)
        ],
    }
    masked: dict[str, object] = mask_value(document)
    return masked


def _seconds(age: timedelta | None) -> float | None:
    return None if age is None else round(age.total_seconds(), 3)
