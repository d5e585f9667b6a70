"""One examination: the tables, the broker beside them, the journal. It changes nothing.

What a race can look like is looked at three times within twelve seconds, longer than a broker's positions lag behind
its own fills: only what was there each time is told.
"""

import shutil
from datetime import timedelta
from pathlib import Path
from time import perf_counter
from typing import Final

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.settings import Settings
from catalyst.doctor import broker_checks as beside
from catalyst.doctor import database_checks
from catalyst.doctor.issues import Examination, Issue, IssueKind, Severity, new_issue
from catalyst.domain.errors import BrokerError
from catalyst.store import daemon_epoch
from catalyst.store.pool import Store

RECHECK_DELAYS: Final = (
    timedelta(seconds=4),
    timedelta(seconds=8),
)  # until the second look, and until the third
LOW_DISK_BYTES: Final = 1 << 30


async def examine(
    store: Store,
    broker: Broker,
    settings: Settings,
    clock: Clock,
    *,
    pause_clock: Clock,
    whole_journal: bool = False,
) -> Examination:
    """What is wrong now. Raises only the database's own outages.

    `clock` is the market's, `pace` what the pauses between two looks are taken on: a market's shared clock stands
    still when nobody drives it.
    """
    began, at = perf_counter(), clock.now()
    found, connected = await _check_once(store, broker, clock)
    for pause in RECHECK_DELAYS:
        if not any(one.transient for one in found):
            break
        await pause_clock.sleep(pause)
        keys = {one.key for one in found}
        again, connected = await _check_once(store, broker, clock)
        found = [one for one in again if not one.transient or one.key in keys]
    async with store.read() as conn:
        pipeline = await database_checks.pipeline_summary(conn, clock.now())
        account = (await daemon_epoch.current(conn)).account_id
        name = settings.account_name(account or "")
        broken, _ = await database_checks.verify_journal(conn, settings.proofs_dir, name, whole=whole_journal)
    found += [*broken, *_host_issues(settings)]
    kinds, gravities = list(IssueKind), list(Severity)
    ranked = sorted(
        _deduplicate(found), key=lambda one: (gravities.index(one.severity), kinds.index(one.kind))
    )
    mode = str(settings.mode) if connected else None
    return Examination(at, (perf_counter() - began) * 1000, mode, pipeline, tuple(ranked))


async def _check_once(store: Store, broker: Broker, clock: Clock) -> tuple[list[Issue], bool]:
    """Everything of one moment, and whether the broker answered."""
    at = clock.now()
    async with store.read() as conn:
        found = await database_checks.check_database(conn, at)
        try:
            return [*found, *await beside.compare_with_broker(conn, broker, at)], True
        except BrokerError as error:
            said = str(error).splitlines()[0]
            return [
                *found,
                new_issue(IssueKind.ALPACA_ERROR, f"the broker does not answer: {said}", error=said),
                new_issue(
                    IssueKind.RECONCILIATION_SKIPPED,
                    "orders, shares and the result were not compared with the broker",
                ),
            ], False


def _deduplicate(found: list[Issue]) -> list[Issue]:
    """Each type and subject once, the tables' word before the broker's."""
    return list({one.key: one for one in reversed(found)}.values())[::-1]


def _host_issues(settings: Settings) -> list[Issue]:
    """What lies around the program: its configuration, its disk."""
    found = [new_issue(IssueKind.CONFIG_WARNING, notice, subject=notice) for notice in settings.notices]
    place = settings.proofs_dir
    while not place.exists():
        place = place.parent if place.parent != place else Path()
    free = shutil.disk_usage(place).free
    if free < LOW_DISK_BYTES:
        found.append(new_issue(IssueKind.DISK_LOW, f"{free / (1 << 30):.2f} GiB are free at {place}"))
    return found
