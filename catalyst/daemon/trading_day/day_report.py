"""Day report: raises the alert that carries the digest of a day that has ended, once for each day.

A day is due while its cycle has ended and no alert names it, so a process that dies before the alert is written leaves
it to the next start.
"""

from datetime import timedelta
from typing import Final

from catalyst.clock import Clock
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.session import trading_date
from catalyst.report.digest import digest_text, read_digest
from catalyst.store import alerts, cycles, reporting_queries
from catalyst.store.pool import Store

EVENT: Final = "DAY_REPORT"
LATEST_CYCLES: Final = 3
DUE_FOR: Final = timedelta(days=4)  # over a long weekend; an older day is no news


async def raise_day_reports(store: Store, clock: Clock) -> None:
    """Raise the alert of each recent day that has ended and has none."""
    now = clock.now()
    async with store.tx("day_report") as conn:
        for cycle in await cycles.recent(conn, LATEST_CYCLES):
            session = await reporting_queries.session_of(conn, cycle.cycle_date)
            if (
                cycle.status not in (CycleStatus.CLOSED, CycleStatus.COMPLETED)
                or session is None
                or not session.close <= now
                or trading_date(now) - cycle.cycle_date > DUE_FOR
                or await alerts.exists(conn, EVENT, cycle.cycle_id)
            ):
                continue
            digest = await read_digest(conn, cycle, now)
            await alerts.raise_alert(
                conn,
                EVENT,
                digest_text(digest),
                severity=alerts.INFO,
                subject=cycle.cycle_id,
                facts={"cycle_id": cycle.cycle_id, "journal": digest.journal_head.facts},
                at=now,
            )
