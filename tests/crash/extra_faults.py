"""Faults of a randomized run beside its schedule: late lists, refused exits, another installation, faults that last."""

from dataclasses import dataclass
from typing import Final

from catalyst.domain.refusals import KnownRefusal
from catalyst.simulator.faults.probability import FaultProbability
from catalyst.simulator.faults.rules import Fault, FaultKind

LATE_LIST_SECONDS: Final = 8.0  # of market time
LATE_LIST_RATE: Final = 0.5


@dataclass(frozen=True, slots=True)
class ExtraFaults:
    """What happens in a run beside its schedule. `rules` makes it a source of fault rules."""

    seed: int = 0
    late_lists: bool = False  # half of the lists of orders answer late
    refusal: KnownRefusal | None = None  # of sales, replacements or OCOs, at `refusal_rate`
    refusal_rate: float = 0.5
    refused_order: str = "sale"  # or "replacement", "protection"
    second_installation: bool = False
    last_to_close: bool = False  # the faults never end

    def rules(self) -> list[Fault]:
        """Return the rules of the late lists and of the refusals."""
        rules = []
        if self.late_lists:
            chance = FaultProbability(self.seed, "late_lists", LATE_LIST_RATE, {})
            rules.append(
                Fault(
                    FaultKind.SLOW, id="late_lists", method="GET", route="/v2/orders", seconds=LATE_LIST_SECONDS,
                    count=0, nth=chance.occasions_to_next(0), probability=chance,
                )
            )  # fmt: skip
        if self.refusal is not None:
            chance = FaultProbability(self.seed, "refusal", self.refusal_rate, {})
            is_replacement = self.refused_order == "replacement"
            rules.append(
                Fault(
                    FaultKind.STATUS_BEFORE, id="refusal", method="PATCH" if is_replacement else "POST",
                    route="/v2/orders/*" if is_replacement else "/v2/orders",
                    client_order_id=None if is_replacement else _PATTERNS[self.refused_order],
                    status=self.refusal.http_status, code=self.refusal.code, message=self.refusal.message,
                    count=0, nth=chance.occasions_to_next(0), probability=chance,
                )
            )  # fmt: skip
        return rules

    def __str__(self) -> str:
        parts = ["late lists"] if self.late_lists else []
        if self.refusal is not None:
            parts.append(
                f"{self.refused_order} refused at {self.refusal_rate}: {self.refusal.reason} ({self.refusal.message})"
            )
        parts += ["second installation"] if self.second_installation else []
        parts += ["faults last to the close"] if self.last_to_close else []
        return ", ".join(parts)


NO_EXTRAS: Final = ExtraFaults()
_PATTERNS: Final = {"sale": "cat-*-[xf]", "protection": "cat-*-[!exf]*"}
