"""Randomness of the exchange: a pure function of the seed and of the number of earlier draws."""

from datetime import timedelta
from decimal import Decimal
from hashlib import blake2b

from catalyst.simulator.exchange.settings import LatencyRange


class RandomSource:
    """A seeded source that continues after a restart: `draw_count` is its whole state."""

    def __init__(self, seed: int, draw_count: int = 0) -> None:
        self.seed = seed
        self.draw_count = draw_count

    def uuid(self) -> str:
        """Return a version 4 UUID that this seed never repeats."""
        raw = self._bytes().hex()
        variant = "89ab"[int(raw[16], 16) & 3]
        return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{variant}{raw[17:20]}-{raw[20:]}"

    def draw_latency(self, latency_range: LatencyRange) -> timedelta:
        """Return a duration inside the range."""
        return timedelta(
            seconds=latency_range.low + (latency_range.high - latency_range.low) * self._fraction()
        )

    def occurs(self, probability: Decimal) -> bool:
        """Return true with this probability; a probability of zero draws nothing."""
        return probability > 0 and self._fraction() < float(probability)

    def _fraction(self) -> float:
        return int.from_bytes(self._bytes()[:6], "big") / 2**48

    def _bytes(self) -> bytes:
        self.draw_count += 1
        return blake2b(f"{self.seed}:{self.draw_count}".encode(), digest_size=16).digest()
