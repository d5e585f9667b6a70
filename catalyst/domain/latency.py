"""Latencies: counts of durations in fixed buckets, as Prometheus histograms have them. Pure."""

from bisect import bisect_left
from dataclasses import dataclass, field
from typing import Final

# Upper bounds in seconds; the last bucket has none.
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@dataclass(frozen=True, slots=True)
class LatencyCounts:
    """The durations recorded so far: how many in each bucket (not cumulative), and their sum in seconds."""

    buckets: tuple[int, ...]
    total_s: float


@dataclass(slots=True)
class Latency:
    """Records durations. Only the event loop's thread writes and reads it."""

    _buckets: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    _total_s: float = 0.0

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self._buckets[bisect_left(BUCKETS_S, seconds)] += 1
        self._total_s += seconds

    @property
    def counts(self) -> LatencyCounts:
        """Return a copy of the counts."""
        return LatencyCounts(tuple(self._buckets), self._total_s)
