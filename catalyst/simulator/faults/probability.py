"""The dice of a random fault schedule: pure functions of a seed, so that a run can be had again."""

from dataclasses import dataclass, field
from hashlib import blake2b
from math import log
from typing import Final

MIN_FRACTION: Final = 1e-9


@dataclass(frozen=True, slots=True)
class FaultProbability:
    """One kind's dice: it strikes at `rate` of the occasions, and each time draws its particulars anew."""

    seed: int
    salt: str
    rate: float
    choices: dict[str, list[object]] = field(default_factory=dict)  # of each particular, what may be drawn

    def occasions_to_next(self, number: int) -> int:
        """After how many more occasions it strikes next, having struck `number` times: a geometric draw."""
        if self.rate >= 1:
            return 1
        return 1 + int(log(max(self._fraction(f"gap:{number}"), MIN_FRACTION)) / log(1 - self.rate))

    def affects(self, subject: str) -> bool:
        """Whether an order or a symbol is among those it strikes; the same answer every time."""
        return self._fraction(f"subject:{subject}") < self.rate

    def draw_values(self, number: int) -> dict[str, object]:
        """The particulars of a firing."""
        return {
            name: values[int(self._fraction(f"{name}:{number}") * len(values))]
            for name, values in self.choices.items()
        }

    def _fraction(self, of: str) -> float:
        digest = blake2b(f"{self.seed}:{self.salt}:{of}".encode(), digest_size=8).digest()
        return int.from_bytes(digest[:6], "big") / 2**48
