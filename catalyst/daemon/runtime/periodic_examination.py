"""Periodic examination: the doctor's checks inside the daemon, every five minutes.

An issue becomes one risk event when it is found first, and the event ends when the issue is gone, over restarts too. An
issue that no other part of the daemon alerts raises an alert.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Mode
from catalyst.config.settings import Settings
from catalyst.doctor.examination import Journal, examine
from catalyst.doctor.issues import FOUND_AT_BROKER, Examination, Issue, IssueKind
from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.store import alerts, api_keys, risk_events
from catalyst.store.pool import Store
from catalyst.store.risk_events import RiskEvent

log = structlog.get_logger()

INTERVAL: Final = timedelta(minutes=5)
MAX_KEY: Final = 300  # characters
# The loops that find the other kinds raise their own alerts.
ALERTED_HERE: Final = frozenset(
    {
        IssueKind.DISK_LOW,
        IssueKind.BACKUP_STALE,
        IssueKind.STUCK_ORDER,
        IssueKind.CYCLE_STALE,
        IssueKind.ALERTS_NOT_DELIVERED,
    }
)


@dataclass
class PeriodicExamination:
    """Examines the system and stores what begins and ends. It changes no order and no gate."""

    store: Store
    broker: Broker
    settings: Settings
    config: CurrentConfig
    clock: Clock
    count: int = 0  # of examinations
    last: Examination | None = None  # of this run

    async def run(self) -> None:
        """Examine every five minutes; a database that does not answer leaves it to the next time."""
        await self._record_key()
        while True:
            await self.clock.sleep(INTERVAL)
            try:
                await self.examine()
            except (DatabaseUnavailable, DatabaseContention) as error:
                log.warning("examination_failed", error=str(error))

    async def examine(self) -> None:
        """Examine once, and store which issues began and which ended."""
        examination = await examine(
            self.store,
            self.broker,
            replace(self.settings, config=self.config.in_force),
            self.clock,
            pause_clock=self.clock,
            journal=Journal.NOT,
        )
        self.count += 1
        self.last = examination
        async with self.store.read() as conn:
            lasting = {str(event.issue_key): event for event in await risk_events.open_issues(conn)}
        found = {_key_of(issue): issue for issue in examination.issues}
        begun = {key: issue for key, issue in found.items() if key not in lasting}
        ended = {
            key: event
            for key, event in lasting.items()
            if key not in found and (examination.mode is not None or event.event_type not in FOUND_AT_BROKER)
        }
        if begun or ended:
            await self._store_changes(examination, begun, ended)

    async def _store_changes(
        self, examination: Examination, begun: Mapping[str, Issue], ended: Mapping[str, RiskEvent]
    ) -> None:
        now, cycle_id = self.clock.now(), examination.pipeline["cycle_id"]
        async with self.store.tx("doctor_issues") as conn:
            await risk_events.end_issues(conn, list(ended), at=now)
            for key, issue in begun.items():
                await risk_events.put(
                    conn,
                    event_type=issue.kind,
                    severity=issue.severity,
                    message=issue.message,
                    facts={"subject": issue.subject, "fix": issue.fix},
                    at=now,
                    cycle_id=None if cycle_id is None else str(cycle_id),
                    issue_key=key,
                )
                if issue.kind in ALERTED_HERE:
                    await alerts.raise_alert(
                        conn,
                        "DOCTOR_ISSUE",
                        f"{issue.kind}: {issue.message}; see `{issue.fix}`",
                        severity=alerts.WARNING,
                        subject=key,
                        facts={"kind": issue.kind},
                        at=now,
                    )
        for issue in begun.values():
            log.warning(
                "doctor_issue_found",
                kind=issue.kind,
                severity=issue.severity,
                text=issue.message,
                fix=issue.fix,
            )
        for event in ended.values():
            log.info("doctor_issue_ended", kind=event.event_type, since=event.occurred_at.isoformat())

    async def _record_key(self) -> None:
        """Store the first use of the API key; the doctor warns when it is old."""
        if self.settings.mode is not Mode.SIM:
            async with self.store.tx("api_key") as conn:
                await api_keys.record_first_use(conn, self.settings.keys[0], at=self.clock.now())


def _key_of(issue: Issue) -> str:
    """Return what names an issue; one that becomes worse is another issue."""
    return f"{issue.kind} {issue.severity} {issue.subject}"[:MAX_KEY]
