"""Everything random in the exchange: a pure function of the seed and of how much was drawn before."""

from datetime import timedelta
from decimal import Decimal
from hashlib import blake2b

from catalyst.simulator.exchange.settings import Span


class Draws:
    """A seeded source that continues where it stopped, also after a restart: `drawn` is its whole state."""

    def __init__(self, seed: int, drawn: int = 0) -> None:
        self.seed = seed
        self.drawn = drawn

    def identity(self) -> str:
        """A version 4 UUID that this seed never gives twice."""
        raw = self._bytes().hex()
        variant = "89ab"[int(raw[16], 16) & 3]
        return f"{raw[:8]}-{raw[8:12]}-4{raw[13:16]}-{variant}{raw[17:20]}-{raw[20:]}"

    def latency(self, span: Span) -> timedelta:
        """A duration inside the span."""
        return timedelta(seconds=span.low + (span.high - span.low) * self._fraction())

    def happens(self, probability: Decimal) -> bool:
        """True with this probability; draws nothing for a probability of zero."""
        return probability > 0 and self._fraction() < float(probability)

    def _fraction(self) -> float:
        return int.from_bytes(self._bytes()[:6], "big") / 2**48

    def _bytes(self) -> bytes:
        self.drawn += 1
        return blake2b(f"{self.seed}:{self.drawn}".encode(), digest_size=16).digest()
