"""Prices on tick: at a dollar and above the tick is a cent, below a dollar a hundredth of a cent.

Source: SEC Rule 612 (sub-penny rule), as Alpaca enforces it on every limit and stop price.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Final

from catalyst.domain.order import PositionSide

DOLLAR: Final = Decimal(1)
CENT: Final = Decimal("0.01")
SUB_CENT: Final = Decimal("0.0001")


def tick_of(price: Decimal) -> Decimal:
    """Return the tick size of an order price at `price`, in dollars."""
    return CENT if price >= DOLLAR else SUB_CENT


def round_down(price: Decimal) -> Decimal:
    """Return the nearest tick at or below `price`."""
    return _with_tick_digits(price.quantize(tick_of(price), ROUND_FLOOR))


def round_up(price: Decimal) -> Decimal:
    """Return the nearest tick at or above `price`."""
    return _with_tick_digits(price.quantize(tick_of(price), ROUND_CEILING))


def round_nearest(price: Decimal) -> Decimal:
    """Return the nearest tick, halves to even."""
    return _with_tick_digits(price.quantize(tick_of(price), ROUND_HALF_EVEN))


def _with_tick_digits(price: Decimal) -> Decimal:
    """Return a price with the digits of its tick: a price rounded up to a dollar is 1.00, not 1.0000."""
    return price.quantize(tick_of(price))


def on_tick(price: Decimal) -> bool:
    """Return true when `price` is positive and on tick, as the exchange requires."""
    return price > 0 and price == round_nearest(price)


def round_stop(price: Decimal, side: PositionSide) -> Decimal:
    """Return a stop on tick, rounded towards the entry, so that the risk never exceeds the sized risk."""
    return round_up(price) if side is PositionSide.LONG else round_down(price)


def round_target(price: Decimal, side: PositionSide) -> Decimal:
    """Return a target on tick, rounded towards the entry, so that it is reached no later than planned."""
    return round_down(price) if side is PositionSide.LONG else round_up(price)


def round_entry(price: Decimal, side: PositionSide) -> Decimal:
    """Return an entry limit on tick, rounded so that a long never pays more and a short never receives less."""
    return round_down(price) if side is PositionSide.LONG else round_up(price)
