"""The emergency stop: what happens when the day's loss reaches its limit, step by step.

Each step may be done twice: the latch is a row, the event is written once a cycle, the flatten ends what there is.
While the database is away the same is done through the spool, and the tables are told later.
"""

from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Protocol

import structlog

from catalyst.clock import Clock
from catalyst.config import Emergency as EmergencyConfig
from catalyst.daemon.emergency import Emergency
from catalyst.daemon.flatten import Flatten
from catalyst.daemon.gate import Gate
from catalyst.domain.order import Purpose
from catalyst.domain.position import CloseReason
from catalyst.store import alerts, risk_events
from catalyst.store.pool import Store, is_outage

log = structlog.get_logger()

LATCH: Final = "emergency_stop"
EVENT: Final = "EMERGENCY_STOP"
BY: Final = "risk_watch"
WITHIN: Final = timedelta(seconds=60)


class EndEntries(Protocol):
    """Day.end_entries."""

    def __call__(
        self, latch: str, *, reason: str, by: str, until: datetime | None = None
    ) -> Awaitable[None]: ...


@dataclass
class HardStop:
    """Stops the day. `emergency` is the hand that needs no tables."""

    store: Store
    flatten: Flatten
    emergency: Emergency
    gate: Gate
    clock: Clock
    cfg: EmergencyConfig

    async def run(self, reason: str, *, cycle_id: str, end_entries: EndEntries) -> bool:
        """Entries are over, everything is being left, somebody is told; true when the tables know of all of it.

        When they do not (the database is away), it is to be run again once they can be asked.
        """
        log.critical("emergency_stop", step="begun", reason=reason, cycle_id=cycle_id)
        if self.cfg.halt_new_trades:
            self.gate.shut(LATCH, reason)  # at once, whatever becomes of the row
            log.critical("emergency_stop", step="gate_shut")
        try:
            await self._by_tables(reason, cycle_id, end_entries)
        except Exception as error:
            if not is_outage(error):
                raise
            log.critical("emergency_stop", step="tables_away", error=f"{type(error).__name__}: {error}")
            await self._by_spool(reason)
            return False
        return True

    async def _by_tables(self, reason: str, cycle_id: str, end_entries: EndEntries) -> None:
        if self.cfg.halt_new_trades:
            until = self.clock.now() + timedelta(minutes=self.cfg.cooldown_period_minutes)
            await end_entries(LATCH, reason=reason, by=BY, until=until)
            log.critical("emergency_stop", step="latched", until=until.isoformat())
        await self._record(reason, cycle_id)
        if not self.cfg.close_all_positions_on_limit:
            await self.flatten.end_entries(within=WITHIN)
            log.critical("emergency_stop", step="entries_cancelled")
            return
        log.critical("emergency_stop", step="leaving")
        proof = await self.flatten.run(
            CloseReason.EMERGENCY_STOP, by=BY, purpose=Purpose.EXIT, within=WITHIN, cycle_id=cycle_id
        )
        log.critical("emergency_stop", step="left", flat=proof.flat)

    async def _record(self, reason: str, cycle_id: str) -> None:
        """One event and one alert a cycle, in one transaction; the mail is the operator's choice."""
        now = self.clock.now()
        async with self.store.tx("emergency_stop") as conn:
            if await risk_events.of_cycle(conn, cycle_id, EVENT):
                return
            facts = {"cycle_id": cycle_id}
            await risk_events.put(
                conn, event_type=EVENT, severity="CRITICAL", message=reason, facts=facts, at=now,
                cycle_id=cycle_id,
            )  # fmt: skip
            await alerts.put(
                conn, severity="CRITICAL", event=EVENT, message=reason, facts=facts,
                dedupe_key=f"{EVENT}:{cycle_id}", at=now, deliver=self.cfg.send_email_alert,
            )  # fmt: skip
        log.critical("emergency_stop", step="recorded", mailed=self.cfg.send_email_alert)

    async def _by_spool(self, reason: str) -> None:
        leave = self.cfg.close_all_positions_on_limit
        left = await self.emergency.flatten(
            latch=LATCH if self.cfg.halt_new_trades else None,
            reason=f"{CloseReason.EMERGENCY_STOP}: {reason}",
            by=BY,
            within=WITHIN,
            selling=leave and self.flatten.exits.market_open,
            purpose=Purpose.EXIT,
            lasting=True,
        )
        log.critical("emergency_stop", step="left" if leave else "entries_cancelled", flat=left.flat)
