"""Cancel throttle: limits how often the cancel of one order is requested."""

from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Generic, TypeVar

OrderKey = TypeVar("OrderKey", bound=Hashable)  # our order id, or the broker's


@dataclass
class CancelThrottle(Generic[OrderKey]):
    """Allows one cancel request per order and `retry_after`: the broker needs time to answer or to lose it."""

    retry_after: timedelta
    _requested_at: dict[OrderKey, datetime] = field(default_factory=dict)

    def acquire(self, order: OrderKey, now: datetime) -> bool:
        """Return true when the cancel may be requested now, and count it as requested."""
        last = self._requested_at.get(order)
        if last is not None and now - last < self.retry_after:
            return False
        self._requested_at[order] = now
        return True
