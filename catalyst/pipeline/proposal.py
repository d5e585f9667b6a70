"""Proposals: a side with entry, stop and target on tick, before the risk check."""

import math
from dataclasses import dataclass
from decimal import Decimal

from catalyst.domain.order import PositionSide
from catalyst.domain.price import round_entry, round_stop, round_target
from catalyst.pipeline.risk_inputs import Limits


@dataclass(frozen=True, slots=True)
class Proposal:
    """A proposed trade; prices in dollars per share, on tick. `quantity` None asks for the size that the limits allow.
    Other None values are unknown (a request of the operator without market data) and reported as not checked."""

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
    basis: str = "percent"  # origin of the stop: pattern | atr | percent

    @property
    def risk(self) -> Decimal:
        """Loss per share from the entry to the stop, dollars; not positive when the stop is on the wrong side."""
        return self.entry - self.stop if self.side is PositionSide.LONG else self.stop - self.entry

    @property
    def reward(self) -> Decimal:
        """Gain per share from the entry to the target, dollars."""
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
    """Build a proposal at `price`, on tick; a missing stop or target gets the default percentage."""
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
    """The results of the stages for one candidate, in float dollars; NaN where a stage has no result."""

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
    """Build a proposal from a candidate's levels.

    The entry limit lies a collar beyond the opposite quote (a market entry is priced at that quote). The stop is the
    pattern's, or the default percentage when there is none or it is farther than `max_stop_pct`; a stop closer than
    `min_stop_atr` bar ATRs is moved out to this distance. The target is the pattern's, else the default percentage.
    """
    is_long = levels.side is PositionSide.LONG
    sign = 1 if is_long else -1
    opposite_quote = levels.ask if is_long else levels.bid
    collar = 0.0 if limits.market_entry else float(limits.collar_bps) / 1e4
    entry = round_entry(to_decimal(opposite_quote * (1 + sign * collar)), levels.side)
    distance, basis = sign * (float(entry) - levels.stop), "pattern"
    if not 0 < distance <= float(entry * limits.max_stop_pct / 100):
        distance, basis = float(entry * limits.default_stop_pct / 100), "percent"
    min_distance = limits.min_stop_atr * levels.atr
    if math.isfinite(min_distance) and distance < min_distance:
        distance, basis = min_distance, "atr"
    target_price = levels.target
    if not math.isfinite(target_price):
        target_price = float(entry * (1 + sign * limits.default_target_pct / 100))
    return Proposal(
        symbol=levels.symbol,
        side=levels.side,
        entry=entry,
        stop=round_stop(to_decimal(float(entry) - sign * distance), levels.side),
        target=round_target(to_decimal(target_price), levels.side),
        sector=levels.sector,
        bid=to_decimal(levels.bid),
        ask=to_decimal(levels.ask),
        minute_volume=to_decimal(levels.minute_volume) if math.isfinite(levels.minute_volume) else None,
        shortable=levels.shortable,
        easy_to_borrow=levels.easy_to_borrow,
        basis=basis,
    )


def to_decimal(value: float) -> Decimal:
    """Convert a float price to a decimal, rounded to a millionth of a dollar to drop the float's rounding error."""
    return Decimal(str(round(value, 6)))
