"""Exit backoff: the pauses of one exit, and since when the conditions hold that count only once they last."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.daemon.orders.cancel_throttle import CancelThrottle
from catalyst.domain.rows import OrderRow

INITIAL_PAUSE: Final = timedelta(seconds=0.5)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)  # before a cancel is requested again
MAX_PAUSE: Final = timedelta(seconds=8)
# An exit that nobody fills is cancelled after this time, and another one follows: a limit exit queued during a halt
# gets a new price; of a market exit the venue may have lost the rest.
UNFILLED_TIMEOUT: Final = timedelta(seconds=60)


class Condition(StrEnum):
    """A condition of an exit that counts only once it lasts."""

    NO_SHARES = "no_shares"  # the broker shows no shares
    RESERVED = "reserved"  # an order that no list shows reserves the shares
    UNREADABLE = "unreadable"  # the quantity to sell is not known
    UNPROTECTED = "unprotected"  # no order works for the position


@dataclass
class ExitBackoff:
    """Doubling pauses of one exit, and the start times of its conditions."""

    pause: timedelta = INITIAL_PAUSE
    cancels: CancelThrottle[int] = field(default_factory=lambda: CancelThrottle(CANCEL_RETRY_AFTER))
    unacknowledged_since: dict[int, datetime] = field(default_factory=dict)  # by order id
    _since: dict[Condition, datetime] = field(default_factory=dict)
    _filled: dict[int, tuple[Decimal, datetime]] = field(
        default_factory=dict
    )  # by order id: shares, since when

    def next_pause(self) -> timedelta:
        """Return the next pause, and double the one after it up to MAX_PAUSE."""
        pause, self.pause = self.pause, min(self.pause * 2, MAX_PAUSE)
        return pause

    def duration_of(self, condition: Condition, now: datetime) -> timedelta:
        """Return how long the condition, which holds now, has lasted."""
        return now - self._since.setdefault(condition, now)

    def end(self, condition: Condition) -> None:
        """Record that the condition does not hold now."""
        self._since.pop(condition, None)

    def is_unfilled_too_long(self, row: OrderRow, now: datetime) -> bool:
        """Return true for an exit at a venue that has filled nothing for UNFILLED_TIMEOUT.

        A limit exit counts from its begin, whatever it filled: the next one gets a new price.
        """
        if row.order_type == "limit":
            return row.replaces is None and now - row.created_at >= UNFILLED_TIMEOUT
        filled_qty, since = self._filled.get(row.order_id, (None, now))
        if filled_qty != row.filled_qty:
            since = now
        self._filled[row.order_id] = row.filled_qty, since
        return row.alpaca_order_id is not None and now - since >= UNFILLED_TIMEOUT
