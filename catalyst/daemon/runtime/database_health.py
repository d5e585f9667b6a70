"""Database health: whether the database is up, suspected or down, as the loops of the daemon find it.

Every loop that meets an outage reports it. Only the stop monitor decides that the database is down or up again: from
its read on, and until its next one, positions are watched, protected and exited with the database or without it.
"""

from datetime import datetime
from enum import StrEnum

import structlog

from catalyst.clock import Clock
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.trading_state.entry_gate import DATABASE, EntryGate

log = structlog.get_logger()


class DatabaseState(StrEnum):
    UP = "up"  # the last read succeeded
    SUSPECTED = "suspected"  # a loop met an outage: the last known state is not trusted until a read decides
    DOWN = "down"  # the stop monitor's read failed: positions are protected and exited without the database


class DatabaseHealth:
    """State of the database, and since when. Starts as up: the daemon has just read its epoch.

    `suspected` is notified when a suspicion begins, so that the stop monitor reads at once.
    """

    def __init__(self, gate: EntryGate, clock: Clock, suspected: ChangeSignal) -> None:
        self.state = DatabaseState.UP
        self.is_up, self.is_down = True, False  # plain attributes: every tick of the stop monitor reads them
        self.since: datetime = clock.now()  # when `state` began
        self._gate = gate
        self._clock = clock
        self._suspected = suspected

    def suspect(self) -> None:
        """Report an outage that a loop met. A database that is down stays down."""
        if self.is_up:
            self._change_to(DatabaseState.SUSPECTED)
            self._suspected.notify()

    def clear_suspicion(self) -> None:
        """Report a read of all positions and orders that succeeded. A database that is down stays down."""
        if self.state is DatabaseState.SUSPECTED:
            self._change_to(DatabaseState.UP)

    def mark_down(self) -> None:
        """Record that the stop monitor could not read; close the entry gate until a reconciliation is complete."""
        self._gate.close(DATABASE, "the database cannot be reached")
        if not self.is_down:
            self._change_to(DatabaseState.DOWN)

    def mark_up(self) -> None:
        """Record that the stop monitor has read all positions and orders."""
        if not self.is_up:
            self._change_to(DatabaseState.UP)

    def _change_to(self, state: DatabaseState) -> None:
        now = self._clock.now()
        log.warning(
            "database_health",
            state=state,
            previous=self.state,
            seconds=(now - self.since).total_seconds(),
        )
        self.state, self.since = state, now
        self.is_up, self.is_down = state is DatabaseState.UP, state is DatabaseState.DOWN
