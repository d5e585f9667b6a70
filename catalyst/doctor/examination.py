"""Examination of the whole system: database checks, comparison with the broker, journal and host. Reads only.

Issues that a race can cause are checked three times within twelve seconds, longer than a broker's positions lag behind
its fills; only an issue found every time is reported.
"""

import shutil
from datetime import timedelta
from enum import Enum
from pathlib import Path
from time import perf_counter
from typing import Final

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.schema import Mode
from catalyst.config.settings import Settings
from catalyst.doctor import broker_checks, database_checks
from catalyst.doctor.issues import Examination, Issue, IssueKind, Severity, new_issue
from catalyst.domain.errors import BrokerError
from catalyst.store import daemon_epoch
from catalyst.store.pool import Connection, Store

RECHECK_DELAYS: Final = (timedelta(seconds=4), timedelta(seconds=8))  # before the second and the third check
LOW_DISK_BYTES: Final = 1 << 30


class Journal(Enum):
    """The part of the journal that an examination verifies."""

    NOT = "not"  # the daemon verifies it by itself, see SafeMode
    SINCE_LAST_PROOF = "since the last proof"
    WHOLE = "whole"


async def examine(
    store: Store,
    broker: Broker,
    settings: Settings,
    clock: Clock,
    *,
    pause_clock: Clock,
    journal: Journal = Journal.SINCE_LAST_PROOF,
) -> Examination:
    """Examine the system now. Raises only the errors of a database outage.

    `clock` is the market's clock. `pause_clock` times the pauses between checks, because a shared market clock stops
    when no process drives it.
    """
    started, at = perf_counter(), clock.now()
    issues, connected = await _check_once(store, broker, settings, clock)
    for pause in RECHECK_DELAYS:
        if not any(issue.transient for issue in issues):
            break
        await pause_clock.sleep(pause)
        keys = {issue.key for issue in issues}
        rechecked, connected = await _check_once(store, broker, settings, clock)
        issues = [issue for issue in rechecked if not issue.transient or issue.key in keys]
    async with store.read() as conn:
        pipeline = await database_checks.pipeline_summary(conn, clock.now())
        alerts = await database_checks.alert_summary(conn, clock.now())
        if settings.mode is not Mode.SIM:
            issues += await database_checks.old_key_issues(conn, settings.keys[0], clock.now())
        if journal is not Journal.NOT:
            issues += await _journal_issues(conn, settings, whole=journal is Journal.WHOLE)
    issues += _host_issues(settings)
    kinds, severities = list(IssueKind), list(Severity)
    ranked = sorted(
        _deduplicate(issues), key=lambda issue: (severities.index(issue.severity), kinds.index(issue.kind))
    )
    mode = str(settings.mode) if connected else None
    return Examination(at, (perf_counter() - started) * 1000, mode, pipeline, alerts, tuple(ranked))


async def _check_once(
    store: Store, broker: Broker, settings: Settings, clock: Clock
) -> tuple[list[Issue], bool]:
    """Check database and broker once; return the issues and whether the broker answered."""
    at = clock.now()
    async with store.read() as conn:
        issues = await database_checks.check_database(
            conn, at, flat_at_close=settings.config.positions.close_all_at_market_close
        )
    try:
        return [*issues, *await broker_checks.compare_with_broker(store, broker, at)], True
    except BrokerError as error:
        reason = str(error).splitlines()[0]
        return [
            *issues,
            new_issue(IssueKind.ALPACA_ERROR, f"the broker does not answer: {reason}", error=reason),
            new_issue(
                IssueKind.RECONCILIATION_SKIPPED,
                "orders, shares and the result were not compared with the broker",
            ),
        ], False


async def _journal_issues(conn: Connection, settings: Settings, *, whole: bool) -> list[Issue]:
    account = (await daemon_epoch.current(conn)).account_id
    name = settings.account_name(account or "")
    issues, _ = await database_checks.verify_journal(conn, settings.proofs_dir, name, whole=whole)
    return issues


def _deduplicate(issues: list[Issue]) -> list[Issue]:
    """Keep one issue of each kind and subject; the database's issue comes before the broker's."""
    return list({issue.key: issue for issue in reversed(issues)}.values())[::-1]


def _host_issues(settings: Settings) -> list[Issue]:
    """Return the warnings of the configuration, and an issue when the disk is nearly full."""
    issues = [new_issue(IssueKind.CONFIG_WARNING, notice, subject=notice) for notice in settings.notices]
    folder = settings.proofs_dir
    while not folder.exists():
        folder = folder.parent if folder.parent != folder else Path()
    free = shutil.disk_usage(folder).free
    if free < LOW_DISK_BYTES:
        issues.append(new_issue(IssueKind.DISK_LOW, f"{free / (1 << 30):.2f} GiB are free at {folder}"))
    return issues
