"""Check that the broker accepts a bracket at the present quote. Pure.

Source: Alpaca API documentation, bracket orders: both exits must lie at least a cent beyond the base price. This is the
entry's limit and, for every order, also the market.
"""

from decimal import Decimal
from typing import Final

from catalyst.domain.order import PositionSide
from catalyst.domain.report import Quote

MIN_EXIT_DISTANCE: Final = Decimal("0.01")  # the broker's rule, dollars
SAFETY_MARGIN: Final = Decimal("0.01")  # our addition: the market moves before the order arrives


def invalid_bracket_reason(
    side: PositionSide, entry: Decimal | None, stop: Decimal, target: Decimal, quote: Quote
) -> str | None:
    """Return the reason why a bracket around `entry` (None: a market order) is invalid at `quote`; None when valid.

    Prices in dollars. The stop must lie on the losing side of both the entry and the market, the target on the other
    side, each by at least MIN_EXIT_DISTANCE + SAFETY_MARGIN.
    """
    if quote.bid is None or quote.ask is None:
        return "there is no two-sided quote"
    prices = [price for price in (entry, quote.bid, quote.ask) if price is not None]
    low, high = (
        min(prices) - MIN_EXIT_DISTANCE - SAFETY_MARGIN,
        max(prices) + MIN_EXIT_DISTANCE + SAFETY_MARGIN,
    )
    below, above = (stop, target) if side is PositionSide.LONG else (target, stop)
    names = ("stop", "target") if side is PositionSide.LONG else ("target", "stop")
    market = f"the market at {quote.bid} to {quote.ask}"
    if below > low:
        return f"the {names[0]} {below} is not below {market} and the entry"
    if above < high:
        return f"the {names[1]} {above} is not above {market} and the entry"
    return None
