"""Would the broker take a bracket at the price of now? Pure.

Source: Alpaca API documentation, bracket orders: both exits lie at least a cent beyond the base price, which is the
entry's limit and, for every order, the market too.
"""

from decimal import Decimal
from typing import Final

from catalyst.domain.order import PositionSide
from catalyst.domain.report import Quote

MIN_EXIT_DISTANCE: Final = Decimal("0.01")  # the broker's rule, dollars
SAFETY_MARGIN: Final = Decimal("0.01")  # ours: the market moves while the order is on its way


def invalid_bracket_reason(
    side: PositionSide, entry: Decimal | None, stop: Decimal, target: Decimal, quote: Quote
) -> str | None:
    """Why a bracket around `entry` (None: at the market) makes no sense at `quote`; None when it does.

    Prices in dollars. The stop must lie on the losing side of both the entry and the market, the target on the
    other, each by a cent and a margin.
    """
    if quote.bid is None or quote.ask is None:
        return "there is no two-sided quote"
    prices = [price for price in (entry, quote.bid, quote.ask) if price is not None]
    low, high = (
        min(prices) - MIN_EXIT_DISTANCE - SAFETY_MARGIN,
        max(prices) + MIN_EXIT_DISTANCE + SAFETY_MARGIN,
    )
    below, above = (stop, target) if side is PositionSide.LONG else (target, stop)
    words = ("stop", "target") if side is PositionSide.LONG else ("target", "stop")
    market = f"the market at {quote.bid} to {quote.ask}"
    if below > low:
        return f"the {words[0]} {below} is not below {market} and the entry"
    if above < high:
        return f"the {words[1]} {above} is not above {market} and the entry"
    return None
