"""A proposal: a side with an entry, a stop and a target, on tick, before anyone has asked whether it may be made."""

import math
from dataclasses import dataclass
from decimal import Decimal

from catalyst.domain.order import PositionSide
from catalyst.domain.price import round_entry, round_stop, round_target
from catalyst.pipeline.risk_inputs import Limits


@dataclass(frozen=True, slots=True)
class Proposal:
    """Dollars a share, on tick. `quantity` None asks for the size the limits allow. What is None was not looked
    at (an operator's question without a market), and is reported as not checked."""

    symbol: str
    side: PositionSide
    entry: Decimal
    stop: Decimal
    target: Decimal
    quantity: int | None = None
    sector: str = "unknown"
    bid: Decimal | None = None
    ask: Decimal | None = None
    minute_volume: Decimal | None = None  # shares a minute
    shortable: bool = False
    easy_to_borrow: bool = False
    basis: str = "percent"  # where the stop comes from: pattern | atr | percent

    @property
    def risk(self) -> Decimal:
        """What a share loses from the entry to the stop; not positive when the stop is on the wrong side."""
        return self.entry - self.stop if self.side is PositionSide.LONG else self.stop - self.entry

    @property
    def reward(self) -> Decimal:
        """What a share gains from the entry to the target."""
        return self.target - self.entry if self.side is PositionSide.LONG else self.entry - self.target


def propose(
    symbol: str,
    side: PositionSide,
    price: Decimal,
    limits: Limits,
    *,
    quantity: int | None = None,
    sector: str = "unknown",
    stop: Decimal | None = None,
    target: Decimal | None = None,
    shortable: bool = False,
    easy_to_borrow: bool = False,
) -> Proposal:
    """A proposal at `price`, on tick, with the default stop and target where none is given."""
    sign = 1 if side is PositionSide.LONG else -1
    entry = round_entry(price, side)
    if stop is None:
        stop = entry * (1 - sign * limits.default_stop_pct / 100)
    if target is None:
        target = entry * (1 + sign * limits.default_target_pct / 100)
    return Proposal(
        symbol=symbol, side=side, entry=entry, quantity=quantity, sector=sector,
        stop=round_stop(stop, side), target=round_target(target, side),
        shortable=shortable, easy_to_borrow=easy_to_borrow,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChartLevels:
    """What the stages found for one candidate, float dollars; NaN where a stage found nothing."""

    symbol: str
    side: PositionSide
    sector: str
    bid: float
    ask: float
    stop: float
    target: float
    atr: float  # of a five-minute bar
    minute_volume: float
    shortable: bool
    easy_to_borrow: bool


def propose_from_levels(levels: ChartLevels, limits: Limits) -> Proposal:
    """A proposal from a candidate's levels.

    The entry reaches a collar through the far side of the quote (a market entry is priced at that side). The stop
    is the pattern's; when the chart gives none, or one farther than `max_stop_pct`, the default percentage; either is
    moved out to `min_stop_atr` bar ATRs when it is nearer than the noise. The target is the pattern's, else the
    default percentage.
    """
    long = levels.side is PositionSide.LONG
    sign = 1 if long else -1
    far = levels.ask if long else levels.bid
    collar = 0.0 if limits.market_entry else float(limits.collar_bps) / 1e4
    entry = round_entry(to_decimal(far * (1 + sign * collar)), levels.side)
    distance, basis = sign * (float(entry) - levels.stop), "pattern"
    if not 0 < distance <= float(entry * limits.max_stop_pct / 100):
        distance, basis = float(entry * limits.default_stop_pct / 100), "percent"
    noise = limits.min_stop_atr * levels.atr
    if math.isfinite(noise) and distance < noise:
        distance, basis = noise, "atr"
    goal = levels.target
    if not math.isfinite(goal):
        goal = float(entry * (1 + sign * limits.default_target_pct / 100))
    return Proposal(
        symbol=levels.symbol,
        side=levels.side,
        entry=entry,
        stop=round_stop(to_decimal(float(entry) - sign * distance), levels.side),
        target=round_target(to_decimal(goal), levels.side),
        sector=levels.sector,
        bid=to_decimal(levels.bid),
        ask=to_decimal(levels.ask),
        minute_volume=to_decimal(levels.minute_volume) if math.isfinite(levels.minute_volume) else None,
        shortable=levels.shortable,
        easy_to_borrow=levels.easy_to_borrow,
        basis=basis,
    )


def to_decimal(value: float) -> Decimal:
    """A float price as a decimal, to a millionth of a dollar: the digits beyond are the float's, not the price's."""
    return Decimal(str(round(value, 6)))
