"""Fault probability: pure functions of a seed, so that a run can be repeated."""

from dataclasses import dataclass, field
from hashlib import blake2b
from math import log
from typing import Final

MIN_FRACTION: Final = 1e-9


@dataclass(frozen=True, slots=True)
class FaultProbability:
    """Draws of one fault kind: it fires on `rate` of the occasions, each time with new values."""

    seed: int
    salt: str
    rate: float
    choices: dict[str, list[object]] = field(default_factory=dict)  # possible values of each field

    def occasions_to_next(self, number: int) -> int:
        """Return after how many more occasions it fires next, having fired `number` times: a geometric draw."""
        if self.rate >= 1:
            return 1
        return 1 + int(log(max(self._fraction(f"gap:{number}"), MIN_FRACTION)) / log(1 - self.rate))

    def affects(self, subject: str) -> bool:
        """Return whether it affects an order or a symbol; the same every time."""
        return self._fraction(f"subject:{subject}") < self.rate

    def draw_values(self, number: int) -> dict[str, object]:
        """Return the field values of a firing."""
        return {
            name: values[int(self._fraction(f"{name}:{number}") * len(values))]
            for name, values in self.choices.items()
        }

    def _fraction(self, of: str) -> float:
        digest = blake2b(f"{self.seed}:{self.salt}:{of}".encode(), digest_size=8).digest()
        return int.from_bytes(digest[:6], "big") / 2**48
