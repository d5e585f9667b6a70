"""Random fault schedules: every kind of the menu by chance, from a seed, each firing counted by its rule."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from catalyst.simulator.faults.probability import Chance
from catalyst.simulator.faults.rules import STANDING, Fault, FaultKind
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, Refusal

RATE: Final = 0.02

SHORT: Final[list[object]] = [0.2, 0.5, 1.0, 3.0]
LONG: Final[list[object]] = [1.0, 2.0, 5.0, 10.0]
FIELDS: Final[list[object]] = [
    ["filled_qty"],
    ["status"],
    ["legs"],
    ["filled_avg_price", "qty"],
    ["type", "side"],
]
CHOICES: Final[dict[FaultKind, dict[str, list[object]]]] = {
    FaultKind.STATUS: {"status": [500, 502, 503, 504]},
    FaultKind.STATUS_BEFORE: {"status": [500, 502, 503, 504]},
    FaultKind.HTML: {"status": [200, 502, 503]},
    FaultKind.HTML_BEFORE: {"status": [502, 503]},
    FaultKind.SLOW: {"seconds": LONG},
    FaultKind.SLOW_BEFORE: {"seconds": LONG},
    FaultKind.REMOVE_FIELDS: {"fields": FIELDS},
    FaultKind.CLOCK_SKEW: {"seconds": [-90.0, -5.0, 5.0, 90.0]},
    FaultKind.PARTIAL: {"share": ["0.2", "0.5", "0.8"]},
    FaultKind.CANCEL_DELAY: {"seconds": LONG},
    FaultKind.VISIBILITY: {"seconds": SHORT},
    FaultKind.POSITION_LAG: {"seconds": SHORT},
    FaultKind.HALT: {"seconds": [5.0, 30.0, 300.0]},
    FaultKind.GAP: {"factor": ["0.8", "0.9", "0.97"]},
    FaultKind.STREAM_DUPLICATE: {"qty": ["2", "3"]},
    FaultKind.STREAM_LATE: {"seconds": SHORT},
    FaultKind.STREAM_FIELDS: {"fields": FIELDS},
}


@dataclass(frozen=True, slots=True)
class Schedule:
    """Which kinds happen, and at what share of their occasions: requests, orders, fills, messages or handshakes.

    A kind that stands against an order (`partial`, `no_trigger`, `visibility`) strikes that share of the orders;
    `double_exit` that share of the symbols.
    """

    seed: int
    rates: Mapping[FaultKind, float]

    @classmethod
    def of(cls, seed: int, rate: float = RATE, kinds: Iterable[FaultKind] = FaultKind) -> "Schedule":
        """Every one of `kinds` at one rate."""
        return cls(seed, dict.fromkeys(kinds, rate))

    def rules(self) -> list[Fault]:
        """A rule for each kind; the same seed, rates and occasions give the same firings."""
        return [self._rule(kind, rate) for kind, rate in self.rates.items() if rate > 0]

    def _rule(self, kind: FaultKind, rate: float) -> Fault:
        chance = Chance(self.seed, kind.value, rate, CHOICES.get(kind, {}))
        nth = 1 if kind in STANDING else chance.gap(0)
        rule = Fault(kind, id=f"random-{self.seed}-{kind}", count=0, nth=nth, chance=chance)
        if kind in STANDING:
            for name, value in chance.particulars(0).items():
                setattr(rule, name, value)
        return rule


def schedule_from(body: object) -> Schedule:
    """A schedule from its JSON: `seed`, and `rate` with `kinds`, or `rates` by kind. Raises Refusal (422)."""
    if not isinstance(body, dict):
        raise Refusal(422, BAD_PARAMETER, "random must be an object")
    unknown = set(body) - {"seed", "rate", "kinds", "rates"}
    if unknown:
        raise Refusal(422, BAD_PARAMETER, f"unknown in random: {', '.join(sorted(unknown))}")
    try:
        seed = int(body.get("seed", 7))
        if "rates" in body:
            rates = {FaultKind(kind): _share(rate) for kind, rate in dict(body["rates"]).items()}
            return Schedule(seed, rates)
        kinds = [FaultKind(kind) for kind in body.get("kinds", FaultKind)]
        return Schedule.of(seed, _share(body.get("rate", RATE)), kinds)
    except (TypeError, ValueError) as error:
        raise Refusal(422, BAD_PARAMETER, f"unknown schedule: {error}") from None


def _share(value: object) -> float:
    rate = float(str(value))
    if not 0 <= rate <= 1:
        raise ValueError(f"a rate is between 0 and 1, not {value}")
    return rate
