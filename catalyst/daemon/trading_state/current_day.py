"""Current day: the session and the cycle that run now, and every move of that cycle.

The session loop sets the session, the start of the day the cycle. Exits, limits and commands read both.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain import cycle as machine
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.errors import IllegalTransition
from catalyst.domain.session import NEW_YORK, Phase, Session
from catalyst.store import cycles, latches
from catalyst.store.pool import Store

log = structlog.get_logger()

# After the session's close; later the next day's start completes the cycle.
CLOSE_RETRY_WINDOW: Final = timedelta(hours=12)


@dataclass
class CurrentDay:
    """Session and cycle of the day. Without a session the market counts as closed."""

    store: Store
    gate: EntryGate
    clock: Clock
    session: Session | None = None  # None: the broker's calendar has not been read
    cycle_id: str | None = None  # None: this process run has begun no day yet
    scan_failure: str | None = None  # of the last scan; None when it succeeded
    _scan_times: tuple[datetime, ...] = ()  # of the schedule that runs
    # Held while latches are read or cleared and the gate follows: a `resume` and the start of a day may run at once.
    latch_lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _running_session: Session | None = None

    def set_session(self, session: Session | None) -> None:
        """Set the session that is open or next; None when it could not be read."""
        self.session = session

    def mark_running(self) -> None:
        """Record that the day of `session` begins."""
        self._running_session = self.session

    def set_cycle(self, cycle_id: str) -> None:
        """Set the cycle of the day, whose row is committed."""
        self.cycle_id = cycle_id

    def mark_finished(self) -> None:
        """Record that every job of the day has run."""
        self._running_session = None

    def set_scan_times(self, times: tuple[datetime, ...]) -> None:
        """Set the times of the day's scans, by the schedule that runs."""
        self._scan_times = times
        self.gate.statement_changed.set()

    def set_scan_failure(self, failure: str | None) -> None:
        """Record why the last scan failed; None when it succeeded."""
        self.scan_failure = failure
        self.gate.statement_changed.set()

    @property
    def begun_cycle_id(self) -> str:
        """Cycle of the day, for callers that run only once a day has begun."""
        assert self.cycle_id is not None
        return self.cycle_id

    @property
    def running_session(self) -> Session | None:
        """Session of a day that has begun and may still run a job; None CLOSE_RETRY_WINDOW after its close."""
        session = self._running_session
        is_over = session is None or self.clock.now() >= session.close + CLOSE_RETRY_WINDOW
        return None if is_over else session

    @property
    def market_open(self) -> bool:
        return self.session is not None and self.session.phase(self.clock.now()) is Phase.OPEN

    @property
    def next_scan_at(self) -> datetime | None:
        """Return the time of the next scheduled scan; None when none is due in this session."""
        now = self.clock.now()
        return next((at for at in self._scan_times if at > now), None)

    def describe_next_open(self) -> str:
        """Return when shares can be sold again, for a person."""
        if self.session is None or self.session.open <= self.clock.now():
            return "at the next session's open"
        return f"at the open, {self.session.open.astimezone(NEW_YORK):%a %d %b %H:%M} New York time"

    async def advance(self, to_status: CycleStatus) -> bool:
        """Move the cycle to another status; false when no transition leads there."""
        cycle_id = self.begun_cycle_id
        async with self.store.tx("cycle") as conn:
            row = await cycles.get(conn, cycle_id)
            assert row is not None  # the start of the day has opened it
            if row.status == to_status:
                return True
            try:
                machine.advance(row.status, to_status)
            except IllegalTransition:
                return False
            await cycles.advance(
                conn, cycle_id, from_status=row.status, to_status=to_status, at=self.clock.now()
            )
        if to_status is CycleStatus.CLOSED:
            self.gate.close("cycle_closed", "the day's cycle is closed")
        log.info("cycle_advanced", before=row.status, now=to_status)
        return True

    async def end_entries(
        self,
        latch: str,
        *,
        reason: str,
        by: str,
        cooldown_until: datetime | None = None,
        until: datetime | None = None,
        facts: Mapping[str, object] | None = None,
    ) -> bool:
        """Forbid entries: close the gate, set the latch, halt the cycle; return false when the latch was set already.

        The latch survives restarts. A person clears it with `resume`, which is refused before `cooldown_until`; a latch
        with `until` also ends with the first session that begins after it.
        """
        self.gate.close(latch, reason)  # at once: the rows may have to wait
        async with self.latch_lock, self.store.tx("latch") as conn:
            is_new = await latches.set_latch(
                conn, latch, reason=reason, by=by, at=self.clock.now(), until=until, facts=facts
            )
        self.gate.close(latch, reason)  # the start of a day may have removed an earlier one meanwhile
        if self.cycle_id is not None:
            async with self.store.tx("halt") as conn:
                await cycles.halt(
                    conn, self.cycle_id, reason=reason, until=cooldown_until, at=self.clock.now()
                )
        return is_new

    async def withdraw_latch(self, latch: str, *, by: str) -> None:
        """Clear a latch that was set and caused nothing; the cycle stays halted while another latch is set."""
        async with self.latch_lock, self.store.tx("latch") as conn:
            await latches.clear_latch(conn, latch, by=by, at=self.clock.now())
            if self.cycle_id is not None and not await latches.active_latches(conn):
                await cycles.resume(conn, self.cycle_id, at=self.clock.now())
        self.gate.reopen(latch)
