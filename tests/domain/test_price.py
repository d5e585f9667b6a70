"""Prices: on tick, in the right direction, and unchanged by a second rounding."""

from decimal import Decimal

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from catalyst.domain.order import PositionSide
from catalyst.domain.price import (
    on_tick,
    round_down,
    round_entry,
    round_nearest,
    round_stop,
    round_target,
    round_up,
    tick_of,
)

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
CENT, SUB_CENT = Decimal("0.01"), Decimal("0.0001")
prices = st.decimals("0.0001", "100000", places=7)


def is_allowed(price: Decimal) -> bool:
    """Return the rule itself: whole cents from a dollar on, hundredths of a cent below."""
    step = 100 if price >= 1 else 10_000
    return price > 0 and (price * step) % 1 == 0


@given(prices)
@example(Decimal("0.99991"))
@example(Decimal("0.99999"))
@example(Decimal("1.0000001"))
@example(Decimal("0.99995"))
@example(Decimal("1.005"))
def test_price_rounding_lands_on_adjacent_tick(price: Decimal):
    """Down is the highest tick not above, up the lowest not below, nearest the closer one; a second rounding
    changes nothing."""
    down, up, near = round_down(price), round_up(price), round_nearest(price)
    assert down <= price <= up
    assert near in (down, up)
    assert min(price - down, up - price) == abs(near - price)
    step = CENT if price >= 1 else SUB_CENT
    assert up - down in (0, step)
    assert (up == down) == is_allowed(price)
    for rounded in (down, up, near):
        assert is_allowed(rounded)
        assert on_tick(rounded)
        assert round_down(rounded) == round_up(rounded) == round_nearest(rounded) == rounded
        assert rounded.as_tuple().exponent == (-2 if rounded >= 1 else -4)
    assert on_tick(price) == is_allowed(price)


@given(prices)
def test_price_rounding_direction_depends_on_purpose(price: Decimal):
    """Stops and targets move towards the entry, entries away from paying more; a short mirrors a long."""
    assert round_stop(price, LONG) == round_target(price, SHORT) == round_entry(price, SHORT) >= price
    assert round_stop(price, SHORT) == round_target(price, LONG) == round_entry(price, LONG) <= price


@pytest.mark.parametrize(
    ("price", "down", "up"),
    [
        ("0.99991", "0.9999", "1.00"),
        ("0.9999", "0.9999", "0.9999"),
        ("1", "1.00", "1.00"),
        ("1.0000", "1.00", "1.00"),
        ("1.0001", "1.00", "1.01"),
        ("187.955", "187.95", "187.96"),
        ("0.00015", "0.0001", "0.0002"),
    ],
)
def test_tick_size_changes_at_one_dollar(price: str, down: str, up: str):
    """Just below a dollar the step is a hundredth of a cent; a price rounded up to a dollar is written 1.00."""
    assert (str(round_down(Decimal(price))), str(round_up(Decimal(price)))) == (down, up)


def test_tick_size_follows_price():
    """A dollar moves by cents, a price just below it by hundredths of a cent."""
    assert tick_of(Decimal("1.00")) == CENT
    assert tick_of(Decimal("0.9999")) == SUB_CENT


@pytest.mark.parametrize("price", ["0", "0.00", "-1", "-0.0001", "1.001", "0.00001", "10.0001"])
def test_invalid_price_is_not_on_tick(price: str):
    """Zero, negative prices and prices between ticks are not on tick."""
    assert not on_tick(Decimal(price))
