"""Rate limiter: counts our requests per minute, as the broker does.

A share of each minute is reserved for exits and cancels. When only that share is left, other requests wait
for the next minute or raise BrokerUnavailable; an exit never waits here.
"""

import threading
import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from catalyst.broker.port import Priority, RateLimitStatus
from catalyst.clock import Clock
from catalyst.domain.errors import BrokerUnavailable

if TYPE_CHECKING:
    from catalyst.broker.request import HttpResponse

RATE_WINDOW: Final = timedelta(minutes=1)
DEFAULT_WAIT_AFTER_429: Final = timedelta(seconds=5)  # when the 429 does not say how long
MAX_RETRY_JITTER: Final = timedelta(seconds=0.5)  # spreads waiting requests over this time


class RateLimiter:
    """Counts requests against `limit` per minute of market time; the broker's headers override the count.

    Source: Alpaca support, trading API responses carry X-Ratelimit-Limit, -Remaining and -Reset (unix
    seconds).
    """

    def __init__(
        self,
        clock: Clock,
        *,
        limit: int = 200,
        reserve: int = 60,
        max_wait: timedelta = timedelta(seconds=10),
    ) -> None:
        self._clock = clock
        self._limit = limit
        self._reserve = min(reserve, limit // 2)
        self._max_wait = max_wait
        self._remaining = limit
        self._resets_at: datetime | None = None
        self._in_flight = 0
        self._wait_count = 0
        self._lock = threading.Lock()  # worker threads record responses

    @property
    def status(self) -> RateLimitStatus:
        """Return the state of the rate limit."""
        with self._lock:
            self._reset_if_due(self._clock.now())
            return RateLimitStatus(self._limit, max(self._remaining, 0), self._resets_at)

    async def acquire(self, priority: Priority) -> None:
        """Count one request. Raises BrokerUnavailable when it would have to wait longer than allowed."""
        wait = self._try_acquire(priority)
        if wait is None:
            return
        deadline = self._clock.now() + self._max_wait
        while wait is not None:
            if self._clock.now() + wait > deadline:
                raise BrokerUnavailable(
                    f"the rate limit of {self._limit} requests a minute is reached; the next minute begins in "
                    f"{wait.total_seconds():.0f} s"
                )
            await self._clock.sleep(wait)
            wait = self._try_acquire(priority)

    def record_response(self, response: "HttpResponse | None") -> None:
        """Record the end of a request: its response, or None when there was none. Thread-safe."""
        with self._lock:
            self._in_flight = max(self._in_flight - 1, 0)
            if response is None:
                return
            now = self._clock.now()
            self._reset_if_due(now)
            limit, remaining, reset_at = _parse_rate_headers(response.headers)
            if limit is not None and limit > 0:
                self._limit = limit
            if response.status == 429:
                self._remaining = 0
                self._resets_at = _upcoming_reset(reset_at, now) or now + DEFAULT_WAIT_AFTER_429
            elif remaining is not None:
                is_new_window = reset_at is not None and reset_at != self._resets_at
                reported = max(remaining - self._in_flight, 0)
                self._remaining = reported if is_new_window else min(self._remaining, reported)
                self._resets_at = _upcoming_reset(reset_at, now) or self._resets_at

    def _try_acquire(self, priority: Priority) -> timedelta | None:
        """Count one request and return None, or return the time until the next attempt."""
        with self._lock:
            now = self._clock.now()
            self._reset_if_due(now)
            if priority is Priority.ROUTINE and self._remaining <= min(self._reserve, self._limit // 2):
                self._wait_count += 1
                fraction = zlib.crc32(f"{now.isoformat()} {self._wait_count}".encode()) / 2**32  # repeatable
                return (
                    (self._resets_at or now) - now + timedelta(milliseconds=1) + MAX_RETRY_JITTER * fraction
                )
            self._remaining -= 1
            self._in_flight += 1
            if self._resets_at is None:
                self._resets_at = now + RATE_WINDOW
            return None

    def _reset_if_due(self, now: datetime) -> None:
        if self._resets_at is not None and now >= self._resets_at:
            self._remaining = self._limit - self._in_flight
            self._resets_at = now + RATE_WINDOW if self._in_flight else None


def _upcoming_reset(at: datetime | None, now: datetime) -> datetime | None:
    """Return `at` when it lies ahead within one window: a skewed clock must not block us for an hour."""
    return min(at, now + RATE_WINDOW) if at is not None and at > now else None


def _parse_rate_headers(headers: Mapping[str, str]) -> tuple[int | None, int | None, datetime | None]:
    numbers: list[int | None] = []
    for name in ("limit", "remaining", "reset"):
        text = headers.get(f"x-ratelimit-{name}", "")
        numbers.append(int(text) if text.isdecimal() and len(text) < 12 else None)
    limit, remaining, reset = numbers
    return limit, remaining, None if reset is None else datetime.fromtimestamp(reset, UTC)
