"""Emergency stop: ends entries, exits all positions and alerts when the day's loss reaches its limit.

Each step may run twice: the latch is a row, the event is written once per cycle, the flatten exits what remains. The
event EMERGENCY_STOP records what must be exited, EMERGENCY_STOP_DONE ends it; a start continues a stop without its end,
with or without a latch. During a database outage the stop is written to the spool and imported later.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Final

import structlog

from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import EmergencyConfig
from catalyst.daemon.exits.flatten import Flatten
from catalyst.daemon.outage.exits import OutageExit
from catalyst.daemon.trading_state.current_day import CurrentDay
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.errors import DatabaseUnavailable
from catalyst.domain.order import Purpose
from catalyst.domain.position import CloseReason
from catalyst.store import alerts, risk_events
from catalyst.store.pool import Store

if TYPE_CHECKING:
    from catalyst.store.pool import Connection

log = structlog.get_logger()

LATCH: Final = "emergency_stop"
EVENT: Final = "EMERGENCY_STOP"
DONE_EVENT: Final = "EMERGENCY_STOP_DONE"
UNFINISHED_REASON: Final = "emergency_stop_unfinished"  # reason of the entry gate while a stop is unfinished
REQUESTED_BY: Final = "daily_loss_limit"
FLATTEN_TIMEOUT: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class UnfinishedStop:
    """A recorded stop without its end. `exit_all`: exit every position; otherwise only cancel every entry."""

    reason: str
    exit_all: bool
    cycle_id: str | None


@dataclass
class EmergencyStop:
    """Stops trading for the current day. During a database outage it uses `outage_exit`."""

    store: Store
    flatten: Flatten
    outage_exit: OutageExit
    gate: EntryGate
    current_day: CurrentDay
    clock: Clock
    config: CurrentConfig
    unfinished: UnfinishedStop | None = None
    # The daily loss check runs in several tasks, so two may start the stop at once.
    _run_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _finish_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def load_unfinished(self) -> None:
        """Load the recorded stop without an end, of any day. Such a stop closes the entry gate until it ends."""
        before = self.unfinished
        async with self.store.read() as conn:
            last_event = await risk_events.last_of(conn, EVENT, DONE_EVENT)
        if self.unfinished is not before:
            return  # a stop was recorded or ended during the read
        self.unfinished = None
        self.gate.reopen(UNFINISHED_REASON)
        if last_event is not None and last_event.event_type == EVENT and "exit_all" in last_event.facts:
            self._set_unfinished(
                UnfinishedStop(last_event.message, last_event.facts["exit_all"] is True, last_event.cycle_id)
            )
            log.critical(
                "emergency_stop", step="continued", reason=last_event.message, cycle_id=last_event.cycle_id
            )

    def _set_unfinished(self, stop: UnfinishedStop) -> None:
        """Store the stop and close the entry gate."""
        self.unfinished = stop
        self.gate.close(UNFINISHED_REASON, stop.reason)

    async def finish(self) -> None:
        """Record the end of the stop and reopen the entry gate, once all is flat or no entry is working."""
        async with self._finish_lock:
            stop = self.unfinished
            if stop is None or not await (
                self.flatten.is_flat() if stop.exit_all else self.flatten.has_no_working_entry()
            ):
                return
            async with self.store.tx("emergency_stop_done") as conn:
                await self._record_end(
                    conn, stop, "everything was exited" if stop.exit_all else "no entry is working any more"
                )
            self.mark_finished()

    async def cancel(self, conn: "Connection", *, by: str) -> None:
        """Record the end of the stop because a person resumed; requested exits continue.

        Call `mark_finished` after the commit.
        """
        if self.unfinished is not None:
            await self._record_end(conn, self.unfinished, f"resumed by {by}")

    def mark_finished(self) -> None:
        """Clear `unfinished` after its end is committed, and reopen the entry gate."""
        if self.unfinished is not None:
            self.unfinished = None
            self.gate.reopen(UNFINISHED_REASON)
            log.critical("emergency_stop", step="done")

    async def _record_end(self, conn: "Connection", stop: UnfinishedStop, how: str) -> None:
        """Write the event that ends the stop; `how` says why it ended."""
        await risk_events.put(
            conn, event_type=DONE_EVENT, severity="INFO", message=f"{how}, after: {stop.reason}",
            facts={"exit_all": stop.exit_all}, at=self.clock.now(), cycle_id=stop.cycle_id,
        )  # fmt: skip

    async def run(self, reason: str) -> bool | None:
        """End entries, exit everything, alert. Return true when the database has recorded all of it.

        False: the database is unavailable; run again once it responds. None: the database is unavailable and a
        position that could be exited remains; run again at once.
        """
        async with self._run_lock:
            return await self._run(reason, self.current_day.begun_cycle_id, self.config.emergency)

    async def _run(self, reason: str, cycle_id: str, config: EmergencyConfig) -> bool | None:
        log.critical("emergency_stop", step="begun", reason=reason, cycle_id=cycle_id)
        if config.halt_new_trades:
            self.gate.close(LATCH, reason)  # before the latch is written, which may fail
            log.critical("emergency_stop", step="gate_closed")
        try:
            await self._stop_by_database(reason, cycle_id, config)
        except DatabaseUnavailable as error:
            log.critical("emergency_stop", step="database_outage", error=str(error))
            return False if await self._stop_by_spool(reason, config) else None
        return True

    async def _stop_by_database(self, reason: str, cycle_id: str, config: EmergencyConfig) -> None:
        """Stop with the rows of the database: latch, event, then flatten or cancel the entries."""
        if config.halt_new_trades:
            until = self.clock.now() + timedelta(minutes=config.cooldown_period_minutes)
            await self.current_day.end_entries(LATCH, reason=reason, by=REQUESTED_BY, cooldown_until=until)
            await self.current_day.advance(CycleStatus.CLOSED)
            log.critical("emergency_stop", step="latched", until=until.isoformat())
        await self._record_stop(reason, cycle_id, config)
        if self.unfinished is None:
            return  # the stop of this cycle has ended already
        if not self.unfinished.exit_all:
            await self.flatten.cancel_entries(within=FLATTEN_TIMEOUT)
            log.critical("emergency_stop", step="entries_cancelled")
            await self.finish()
            return
        log.critical("emergency_stop", step="exiting")
        proof = await self.flatten.run(
            CloseReason.EMERGENCY_STOP,
            by=REQUESTED_BY,
            purpose=Purpose.EXIT,
            within=FLATTEN_TIMEOUT,
            cycle_id=cycle_id,
        )
        log.critical("emergency_stop", step="exited", flat=proof.flat)
        await self.finish()

    async def _record_stop(self, reason: str, cycle_id: str, config: EmergencyConfig) -> None:
        """Write one event and one alert per cycle, in one transaction.

        `send_email_alert` decides whether the alert is delivered by mail.
        """
        now = self.clock.now()
        exit_all = config.close_all_positions_on_limit
        async with self.store.tx("emergency_stop") as conn:
            recorded = await risk_events.of_cycle(conn, cycle_id, EVENT)
            if not recorded:
                facts = {"cycle_id": cycle_id, "exit_all": exit_all}
                await risk_events.put(
                    conn, event_type=EVENT, severity="CRITICAL", message=reason, facts=facts, at=now,
                    cycle_id=cycle_id,
                )  # fmt: skip
                await alerts.raise_alert(
                    conn,
                    EVENT,
                    reason,
                    subject=cycle_id,
                    facts=facts,
                    at=now,
                    deliver=config.send_email_alert,
                )
        if recorded:  # the response to an earlier commit was lost, or a later step failed
            await self.load_unfinished()
            return
        self._set_unfinished(UnfinishedStop(reason, exit_all, cycle_id))
        log.critical("emergency_stop", step="recorded")

    async def _stop_by_spool(self, reason: str, config: EmergencyConfig) -> bool:
        """Stop during a database outage; false when another attempt could exit more."""
        exit_all = config.close_all_positions_on_limit
        can_exit = exit_all and self.current_day.market_open
        result = await self.outage_exit.flatten(
            latch=LATCH if config.halt_new_trades else None,
            reason=f"{CloseReason.EMERGENCY_STOP}: {reason}",
            by=REQUESTED_BY,
            within=FLATTEN_TIMEOUT,
            market_open=can_exit,
            purpose=Purpose.EXIT,
            keep_running=True,
        )
        log.critical("emergency_stop", step="exited" if exit_all else "entries_cancelled", flat=result.flat)
        return result.flat or not can_exit
