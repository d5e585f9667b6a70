"""Report wait: an exit waits for a report of its orders, and polls them when none comes. So does a flatten, for each
order by itself."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from catalyst.clock import Clock
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.domain.rows import OrderRow

REPORT_TIMEOUT: Final = timedelta(seconds=2)  # without a change of its rows for this long, an exit polls
POLL_INTERVAL: Final = timedelta(seconds=1)  # of an order in a flatten


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
        shown = [_shown(row) for row in rows]
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


@dataclass
class OrderPolls:
    """Time of the next poll of each order: POLL_INTERVAL after its row changed or it was polled.

    Reports of other orders wake the flatten and put no poll off.
    """

    clock: Clock
    changed: ChangeSignal
    _polls: dict[int, tuple[object, datetime]] = field(default_factory=dict)  # by order id: the row, and when

    async def await_report(self, rows: Sequence[OrderRow], seen_version: int) -> list[OrderRow]:
        """Wait for a report, or until an order must be polled; return those that must be polled now."""
        now = self.clock.now()
        new: dict[int, tuple[object, datetime]] = {
            row.order_id: (_shown(row), now + POLL_INTERVAL) for row in rows
        }
        for order_id, (shown, _) in new.items():
            if (known := self._polls.get(order_id)) is not None and known[0] == shown:
                new[order_id] = known
        self._polls = new
        remaining = min([now + POLL_INTERVAL, *(at for _, at in new.values())]) - now
        if remaining > timedelta(0) and await self.changed.wait(self.clock, remaining, since=seen_version):
            return []
        now = self.clock.now()
        due = [row for row in rows if new[row.order_id][1] <= now]
        for row in due:
            self._polls[row.order_id] = (_shown(row), now + POLL_INTERVAL)
        return due


def _shown(row: OrderRow) -> tuple[object, ...]:
    return row.order_id, row.status, row.broker_status, row.filled_qty
