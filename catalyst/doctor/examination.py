"""Examination of the whole system: database checks, comparison with the broker, journal and host. Reads only.

Issues that a race can cause are checked three times within twelve seconds, longer than a broker's positions lag behind
its fills; only an issue found every time is reported.
"""

from datetime import timedelta
from enum import Enum
from time import perf_counter
from typing import Final

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.schema import Mode
from catalyst.config.settings import Settings
from catalyst.doctor import broker_checks, database_checks
from catalyst.doctor.backups import backup_issues
from catalyst.doctor.disks import LOW_DISK_BYTES, used_disks
from catalyst.doctor.issues import Examination, Issue, IssueKind, Severity, new_issue
from catalyst.domain.errors import BrokerError
from catalyst.store import daemon_epoch
from catalyst.store.migrate import migrated_since
from catalyst.store.pool import Connection, Store

RECHECK_DELAYS: Final = (timedelta(seconds=4), timedelta(seconds=8))  # before the second and the third check


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
        daemon = await daemon_epoch.current(conn)
        if settings.mode is not Mode.SIM:
            issues += await database_checks.old_key_issues(conn, settings.keys[0], clock.now())
        issues += backup_issues(settings, database_since=await migrated_since(conn), at=clock.now())
        if journal is not Journal.NOT:
            issues += await _journal_issues(conn, settings, whole=journal is Journal.WHOLE)
    issues += _host_issues(settings)
    if not await store.is_writable():
        issues.append(
            new_issue(
                IssueKind.DATABASE_READ_ONLY,
                "the database takes no writes: its disk is full, or it is locked",
            )
        )
    kinds, severities = list(IssueKind), list(Severity)
    ranked = sorted(
        _deduplicate(issues), key=lambda issue: (severities.index(issue.severity), kinds.index(issue.kind))
    )
    mode = (daemon.mode or str(settings.mode)) if connected else None
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
    """Return the warnings of the configuration, and an issue for each disk that is nearly full."""
    issues = [new_issue(IssueKind.CONFIG_WARNING, notice, subject=notice) for notice in settings.notices]
    issues += [
        new_issue(
            IssueKind.DISK_LOW,
            f"{disk.free / (1 << 30):.2f} GiB are free at {disk.folder} ({', '.join(disk.purposes)})",
            subject=str(disk.folder),
        )
        for disk in used_disks(settings)
        if disk.free < LOW_DISK_BYTES
    ]
    return issues
