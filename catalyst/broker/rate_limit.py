"""The request budget: the broker counts our requests a minute, and so do we.

A share of each minute is kept for exits and cancels. What is not urgent waits for the next minute when only
that share is left, or is told that the broker cannot be reached; an exit never waits here.
"""

import threading
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from catalyst.broker.port import Priority, RateUse
from catalyst.clock import Clock
from catalyst.domain.errors import BrokerUnavailable

if TYPE_CHECKING:
    from catalyst.broker.request import Answer

WINDOW: Final = timedelta(minutes=1)
AFTER_429: Final = timedelta(seconds=5)  # when the refusal does not say how long
SPREAD: Final = timedelta(seconds=0.5)  # those who waited for the same moment do not all come at it


class RateBudget:
    """Counts requests against `limit` a minute of market time; the broker's own headers overrule the count.

    Source: Alpaca support, trading API responses carry X-Ratelimit-Limit, -Remaining and -Reset (unix seconds).
    """

    def __init__(
        self,
        clock: Clock,
        *,
        limit: int = 200,
        reserve: int = 60,
        patience: timedelta = timedelta(seconds=10),
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._reserve = min(reserve, limit // 2)
        self._patience = patience
        self._left = limit
        self._renews: datetime | None = None
        self._unanswered = 0
        self._waits = 0
        self._lock = threading.Lock()  # answers are heard in worker threads

    @property
    def use(self) -> RateUse:
        """Where the budget stands now."""
        with self._lock:
            self._turn(self._clock.now())
            return RateUse(self._limit, max(self._left, 0), self._renews)

    async def take(self, priority: Priority) -> None:
        """Count one request. Raises BrokerUnavailable when it would have to wait longer than `patience`."""
        wait = self._count(priority)
        if wait is None:
            return
        until = self._clock.now() + self._patience
        while wait is not None:
            if self._clock.now() + wait > until:
                raise BrokerUnavailable(
                    f"the request budget is spent; it renews in {wait.total_seconds():.0f} s"
                )
            await self._clock.sleep(wait)
            wait = self._count(priority)

    def heard(self, answer: "Answer | None") -> None:
        """Book the end of a request: with its answer, or None when there was none. Any thread may call."""
        with self._lock:
            self._unanswered = max(self._unanswered - 1, 0)
            if answer is None:
                return
            now = self._clock.now()
            self._turn(now)
            limit, remaining, reset_at = _headers(answer.headers)
            if limit is not None and limit > 0:
                self._limit = limit
            if answer.status == 429:
                self._left = 0
                self._renews = _later(reset_at, now) or now + AFTER_429
            elif remaining is not None:
                renewed = reset_at is not None and reset_at != self._renews
                told = max(remaining - self._unanswered, 0)
                self._left = told if renewed else min(self._left, told)
                self._renews = _later(reset_at, now) or self._renews

    def _count(self, priority: Priority) -> timedelta | None:
        """Take one and return None, or the time until it is worth asking again."""
        with self._lock:
            now = self._clock.now()
            self._turn(now)
            if priority is Priority.ROUTINE and self._left <= min(self._reserve, self._limit // 2):
                self._waits += 1
                drawn = zlib.crc32(f"{now.isoformat()} {self._waits}".encode()) / 2**32  # repeatable
                return (self._renews or now) - now + timedelta(milliseconds=1) + SPREAD * drawn
            self._left -= 1
            self._unanswered += 1
            if self._renews is None:
                self._renews = now + WINDOW
            return None

    def _turn(self, now: datetime) -> None:
        if self._renews is not None and now >= self._renews:
            self._left = self._limit - self._unanswered
            self._renews = now + WINDOW if self._unanswered else None


def _later(at: datetime | None, now: datetime) -> datetime | None:
    """`at` when it lies ahead within one window: a skewed clock must not stop us for an hour."""
    return min(at, now + WINDOW) if at is not None and at > now else None


def _headers(headers: Mapping[str, str]) -> tuple[int | None, int | None, datetime | None]:
    numbers: list[int | None] = []
    for name in ("limit", "remaining", "reset"):
        text = headers.get(f"x-ratelimit-{name}", "")
        numbers.append(int(text) if text.isdecimal() and len(text) < 12 else None)
    limit, remaining, reset = numbers
    return limit, remaining, None if reset is None else datetime.fromtimestamp(reset, UTC)
