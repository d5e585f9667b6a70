"""Random fault schedule: every kind by probability, from a seed; each rule counts its firings."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from catalyst.simulator.faults.probability import FaultProbability
from catalyst.simulator.faults.rules import ACTIVE_UNTIL_REMOVED, Fault, FaultKind
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, ApiError

DEFAULT_RATE: Final = 0.02

SHORT_DELAYS_S: Final[list[object]] = [0.2, 0.5, 1.0, 3.0]
LONG_DELAYS_S: Final[list[object]] = [1.0, 2.0, 5.0, 10.0]
FIELD_SETS: Final[list[object]] = [
    ["filled_qty"],
    ["status"],
    ["legs"],
    ["filled_avg_price", "qty"],
    ["type", "side"],
]
VALUE_CHOICES: Final[dict[FaultKind, dict[str, list[object]]]] = {
    FaultKind.STATUS: {"status": [500, 502, 503, 504]},
    FaultKind.STATUS_BEFORE: {"status": [500, 502, 503, 504]},
    FaultKind.HTML: {"status": [200, 502, 503]},
    FaultKind.HTML_BEFORE: {"status": [502, 503]},
    FaultKind.SLOW: {"seconds": LONG_DELAYS_S},
    FaultKind.SLOW_BEFORE: {"seconds": LONG_DELAYS_S},
    FaultKind.REMOVE_FIELDS: {"fields": FIELD_SETS},
    FaultKind.CLOCK_SKEW: {"seconds": [-90.0, -5.0, 5.0, 90.0]},
    FaultKind.PARTIAL: {"share": ["0.2", "0.5", "0.8"]},
    FaultKind.CANCEL_DELAY: {"seconds": LONG_DELAYS_S},
    FaultKind.VISIBILITY: {"seconds": SHORT_DELAYS_S},
    FaultKind.POSITION_LAG: {"seconds": SHORT_DELAYS_S},
    FaultKind.HALT: {"seconds": [5.0, 30.0, 300.0]},
    FaultKind.GAP: {"factor": ["0.8", "0.9", "0.97"]},
    FaultKind.STREAM_DUPLICATE: {"qty": ["2", "3"]},
    FaultKind.STREAM_LATE: {"seconds": SHORT_DELAYS_S},
    FaultKind.STREAM_FIELDS: {"fields": FIELD_SETS},
}


@dataclass(frozen=True, slots=True)
class FaultSchedule:
    """Kinds of faults, and the share of their occasions: requests, orders, fills, messages or handshakes.

    A kind that applies to an order (`partial`, `no_trigger`, `visibility`) affects that share of the orders.
    """

    seed: int
    rates: Mapping[FaultKind, float]

    @classmethod
    def uniform(
        cls, seed: int, rate: float = DEFAULT_RATE, kinds: Iterable[FaultKind] = FaultKind
    ) -> "FaultSchedule":
        """Return a schedule of `kinds` at one rate."""
        return cls(seed, dict.fromkeys(kinds, rate))

    def rules(self) -> list[Fault]:
        """Return a rule for each kind; equal seed, rates and occasions give equal firings."""
        return [self._rule(kind, rate) for kind, rate in self.rates.items() if rate > 0]

    def _rule(self, kind: FaultKind, rate: float) -> Fault:
        chance = FaultProbability(self.seed, kind.value, rate, VALUE_CHOICES.get(kind, {}))
        nth = 1 if kind in ACTIVE_UNTIL_REMOVED else chance.occasions_to_next(0)
        rule = Fault(kind, id=f"random-{self.seed}-{kind}", count=0, nth=nth, probability=chance)
        if kind in ACTIVE_UNTIL_REMOVED:
            for name, value in chance.draw_values(0).items():
                setattr(rule, name, value)
        return rule


def parse_schedule(body: object) -> FaultSchedule:
    """Return a schedule from its JSON: `seed`, and `rate` with `kinds`, or `rates` by kind. Raises ApiError
    (422)."""
    if not isinstance(body, dict):
        raise ApiError(422, BAD_PARAMETER, "random must be an object")
    unknown = set(body) - {"seed", "rate", "kinds", "rates"}
    if unknown:
        raise ApiError(422, BAD_PARAMETER, f"unknown keys in `random`: {', '.join(sorted(unknown))}")
    try:
        seed = int(body.get("seed", 7))
        if "rates" in body:
            rates = {FaultKind(kind): _parse_rate(rate) for kind, rate in dict(body["rates"]).items()}
            return FaultSchedule(seed, rates)
        kinds = [FaultKind(kind) for kind in body.get("kinds", FaultKind)]
        return FaultSchedule.uniform(seed, _parse_rate(body.get("rate", DEFAULT_RATE)), kinds)
    except (TypeError, ValueError) as error:
        raise ApiError(422, BAD_PARAMETER, f"unknown schedule: {error}") from None


def _parse_rate(value: object) -> float:
    rate = float(str(value))
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate is between 0 and 1, not {value}")
    return rate
