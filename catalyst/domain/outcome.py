"""Outcome of a sent order: when "not found" proves that the broker has not received it."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

MAX_IN_FLIGHT_TIME: Final = timedelta(seconds=10)  # a sent request may still arrive within this time
NOT_FOUND_LIMIT: Final = 3


def may_still_arrive(since_sent: timedelta, *, in_flight: bool) -> bool:
    """Return true while a request may still reach the broker. `in_flight`: our side waits for its response."""
    return in_flight or since_sent < MAX_IN_FLIGHT_TIME


@dataclass(frozen=True, slots=True)
class NotFoundCount:
    """Number of lookups in a row that did not find an order which cannot arrive any more."""

    count: int = 0

    def after_lookup(self, found: bool | None, *, may_arrive: bool) -> "NotFoundCount":
        """Return the count after one more lookup; `found` is None when the lookup failed.

        A lookup counts only when no request may still arrive. A failed one changes nothing.
        """
        if found or may_arrive:
            return NotFoundCount()
        return self if found is None else NotFoundCount(self.count + 1)

    @property
    def proves_absence(self) -> bool:
        """True when the broker certainly has not received the order."""
        return self.count >= NOT_FOUND_LIMIT
