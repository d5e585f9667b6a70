"""Report wait: an exit waits for a report of its orders, and polls them when none comes."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from catalyst.clock import Clock
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.domain.rows import OrderRow

REPORT_TIMEOUT: Final = timedelta(seconds=2)  # without a change of its rows for this long, an exit polls


@dataclass
class ReportWait:
    """Time of an exit's next poll: REPORT_TIMEOUT after its rows changed or were polled.

    Reports of other positions wake the exit too. They do not put the poll off: many exits at once would starve it.
    """

    clock: Clock
    changed: ChangeSignal
    _poll_at: datetime | None = None
    _seen: object = None  # the rows of the last step

    def note_rows(self, rows: Sequence[OrderRow]) -> None:
        """Put the poll off when a report has changed a row."""
        shown = [(row.order_id, row.status, row.broker_status, row.filled_qty) for row in rows]
        if shown != self._seen:
            self._seen, self._poll_at = shown, self.clock.now() + REPORT_TIMEOUT

    async def await_report(self, seen_version: int) -> bool:
        """Wait for a report; return false when the orders must be polled now."""
        now = self.clock.now()
        remaining = (self._poll_at or now) - now
        if remaining > timedelta(0) and await self.changed.wait(self.clock, remaining, since=seen_version):
            return True
        self._poll_at = self.clock.now() + REPORT_TIMEOUT
        return False
