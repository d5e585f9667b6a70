"""Exit backoff: the pauses of one exit, and since when the conditions hold that count only once they last."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from catalyst.daemon.orders.cancel_throttle import CancelThrottle

INITIAL_PAUSE: Final = timedelta(seconds=0.5)
CANCEL_RETRY_AFTER: Final = timedelta(seconds=3)  # before a cancel is requested again
MAX_PAUSE: Final = timedelta(seconds=8)


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
