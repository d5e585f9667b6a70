"""Prices on tick: a dollar and above moves by a cent, below by a hundredth of one.

Source: SEC Rule 612 (sub-penny rule), as Alpaca enforces it on every limit and stop price.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, ROUND_HALF_EVEN, Decimal
from typing import Final

from catalyst.domain.order import PositionSide

DOLLAR: Final = Decimal(1)
CENT: Final = Decimal("0.01")
SUB_CENT: Final = Decimal("0.0001")


def tick_of(price: Decimal) -> Decimal:
    """The smallest step of an order price at `price`, dollars."""
    return CENT if price >= DOLLAR else SUB_CENT


def round_down(price: Decimal) -> Decimal:
    """The nearest tick at or below `price`."""
    return _with_tick_digits(price.quantize(tick_of(price), ROUND_FLOOR))


def round_up(price: Decimal) -> Decimal:
    """The nearest tick at or above `price`."""
    return _with_tick_digits(price.quantize(tick_of(price), ROUND_CEILING))


def round_nearest(price: Decimal) -> Decimal:
    """The nearest tick, halves to even."""
    return _with_tick_digits(price.quantize(tick_of(price), ROUND_HALF_EVEN))


def _with_tick_digits(price: Decimal) -> Decimal:
    """A price on tick with the digits of its tick: what is rounded up to a dollar is 1.00, not 1.0000."""
    return price.quantize(tick_of(price))


def on_tick(price: Decimal) -> bool:
    """True when the exchange would take `price` as it is."""
    return price > 0 and price == round_nearest(price)


def round_stop(price: Decimal, side: PositionSide) -> Decimal:
    """A stop on tick, rounded towards the entry: never more risk than was sized for."""
    return round_up(price) if side is PositionSide.LONG else round_down(price)


def round_target(price: Decimal, side: PositionSide) -> Decimal:
    """A target on tick, rounded towards the entry: it is reached no later than it was meant."""
    return round_down(price) if side is PositionSide.LONG else round_up(price)


def round_entry(price: Decimal, side: PositionSide) -> Decimal:
    """An entry limit on tick, rounded away from paying more (short: receiving less)."""
    return round_down(price) if side is PositionSide.LONG else round_up(price)
