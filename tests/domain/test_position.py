"""Positions: quantities, averages and realised dollars against exact fractions."""

from decimal import ROUND_HALF_EVEN, Decimal
from fractions import Fraction

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from catalyst.domain.errors import IllegalTransition
from catalyst.domain.order import PositionSide
from catalyst.domain.position import (
    POSITION_EDGES,
    CloseReason,
    PositionState,
    PositionStatus,
    add_fill,
    reduce_by_fill,
)

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT

sides = st.sampled_from(PositionSide)
shares = st.integers(1, 10_000).map(Decimal)
prices = st.decimals("0.0001", "9999.99", places=4)
fills = st.lists(st.tuples(shares, prices), min_size=1, max_size=6)


def position_with(side: PositionSide, entries: list[tuple[Decimal, Decimal]]) -> PositionState:
    holding = PositionState(side)
    for quantity, price in entries:
        holding = add_fill(holding, quantity, price)
    return holding


def to_cent(amount: Fraction) -> Decimal:
    """Return the nearest cent, halves to even, without an intermediate division."""
    cents = amount * 100
    floor = cents.numerator // cents.denominator
    rest = cents - floor
    up = rest > Fraction(1, 2) or (rest == Fraction(1, 2) and floor % 2 == 1)
    return Decimal(floor + up).scaleb(-2)


def total_value(fills_: list[tuple[Decimal, Decimal]]) -> Fraction:
    return sum((Fraction(q) * Fraction(p) for q, p in fills_), Fraction(0))


@given(sides, fills)
def test_position_quantity_and_cost_sum_entries(side: PositionSide, entries: list[tuple[Decimal, Decimal]]):
    """Quantity is the sum, cost the exact sum of products, the average price their quotient; nothing is
    realised."""
    holding = position_with(side, entries)
    assert holding.quantity == holding.entered_qty == sum(q for q, _ in entries)
    assert Fraction(holding.cost) == total_value(entries)
    average = total_value(entries) / Fraction(holding.quantity)
    assert abs(Fraction(holding.entry_price) - average) <= average / 10**27
    assert holding.status is PositionStatus.OPEN
    assert (holding.realized_pnl, holding.exit_price) == (Decimal(0), None)


@given(sides, fills, fills)
@example(LONG, [(Decimal(6), Decimal("0.0017"))], [(Decimal(3), Decimal("0.0017"))])
@example(
    LONG, [(Decimal(5), Decimal("0.001")), (Decimal(1), Decimal("0.005"))], [(Decimal(3), Decimal("0.0150"))]
)
def test_realised_pnl_is_exact_to_the_cent(
    side: PositionSide, entries: list[tuple[Decimal, Decimal]], exits: list[tuple[Decimal, Decimal]]
):
    """After every exit realised P&L is the exact fraction rounded once: exits less their share of the cost
    for a long, the opposite for a short; an oversold surplus realises nothing."""
    holding = position_with(side, entries)
    gone: list[tuple[Decimal, Decimal]] = []
    for quantity, price in exits:
        before = holding.quantity
        holding, oversold = reduce_by_fill(holding, quantity, price)
        taken = min(quantity, before)
        assert oversold == quantity - taken
        assert holding.quantity == before - taken >= 0
        gone.append((taken, price))
        left = sum(q for q, _ in gone)
        gain = total_value(gone) - total_value(entries) * Fraction(left) / Fraction(holding.entered_qty)
        assert holding.realized_pnl == to_cent(gain if side is LONG else -gain)
    assert holding.status is (PositionStatus.OPEN if holding.quantity else PositionStatus.CLOSED)
    left = Fraction(holding.exited_qty)
    assert (
        abs(Fraction(holding.exit_price or 0) - total_value(gone) / left) <= total_value(gone) / left / 10**27
    )


def test_realised_pnl_half_cent_rounds_to_even():
    """Three of six shares that cost a cent together return nothing: half a cent lost rounds to the even cent.
    The average price has infinite digits; three times its rounding would exceed the half."""
    holding = position_with(LONG, [(Decimal(4), Decimal("0.0020")), (Decimal(2), Decimal("0.0010"))])
    assert (holding.cost, holding.entry_price * 3 > Decimal("0.005")) == (Decimal("0.01"), True)
    holding, _ = reduce_by_fill(holding, Decimal(3), Decimal(0))
    assert holding.realized_pnl == 0


@given(sides, fills, fills, prices)
def test_unrealised_pnl_is_exact_to_the_cent(
    side: PositionSide,
    entries: list[tuple[Decimal, Decimal]],
    exits: list[tuple[Decimal, Decimal]],
    price: Decimal,
):
    """Unrealised P&L is the held shares at a price, less their share of the cost; zero once closed."""
    holding = position_with(side, entries)
    for quantity, at in exits:
        holding, _ = reduce_by_fill(holding, quantity, at)
    rest = Fraction(holding.quantity)
    gain = rest * Fraction(price) - total_value(entries) * rest / Fraction(holding.entered_qty)
    assert holding.unrealized_pnl(price) == to_cent(gain if side is LONG else -gain)


@pytest.mark.parametrize(("side", "gain"), [(LONG, "42.00"), (SHORT, "-42.00")])
def test_round_trip_pnl_is_opposite_for_long_and_short(side: PositionSide, gain: str):
    """20 at 187.95 and 20 at 188.05, out 10 at 189.00 and 30 at 189.0667: a long wins what a short loses."""
    holding = position_with(side, [(Decimal(20), Decimal("187.95")), (Decimal(20), Decimal("188.05"))])
    assert holding.entry_price == Decimal("188.00")
    holding, _ = reduce_by_fill(holding, Decimal(10), Decimal("189.00"))
    assert abs(holding.realized_pnl) == Decimal("10.00")
    holding, oversold = reduce_by_fill(holding, Decimal(30), Decimal("189.066667"))
    assert (str(holding.realized_pnl), oversold, holding.quantity) == (gain, 0, 0)


def test_oversell_closes_position_and_returns_surplus():
    """A sale of 50 from 40 closes the position over 40 and returns the surplus of 10."""
    holding, oversold = reduce_by_fill(
        position_with(LONG, [(Decimal(40), Decimal(10))]), Decimal(50), Decimal(11)
    )
    assert (holding.quantity, holding.status, oversold) == (0, PositionStatus.CLOSED, 10)
    assert holding.realized_pnl == Decimal("40.00")
    again, more = reduce_by_fill(holding, Decimal(5), Decimal(11))
    assert (again, more) == (holding, 5)


def test_closed_position_cannot_be_entered_again():
    """Open leads only to closed; a later entry is a new position."""
    assert {(PositionStatus.OPEN, PositionStatus.CLOSED)} == POSITION_EDGES
    closed, _ = reduce_by_fill(position_with(SHORT, [(Decimal(5), Decimal(10))]), Decimal(5), Decimal(9))
    with pytest.raises(IllegalTransition):
        add_fill(closed, Decimal(1), Decimal(10))


def test_close_reasons_are_the_nine_known():
    """A close reason begins with one of these words; the database has the same list."""
    assert {str(reason) for reason in CloseReason} == {
        "STOP_LOSS_HIT", "TAKE_PROFIT_HIT", "TIME_LIMIT", "MARKET_CLOSE", "MANUAL", "EMERGENCY_STOP",
        "SHUTDOWN", "RECONCILED_PHANTOM", "EXTERNAL",
    }  # fmt: skip


def test_pnl_rounding_is_half_even():
    """Half a cent rounds to the even cent, gained or lost."""
    for price, gain in (("10.005", "0.00"), ("10.015", "0.02"), ("9.995", "0.00"), ("9.985", "-0.02")):
        holding, _ = reduce_by_fill(
            position_with(LONG, [(Decimal(1), Decimal(10))]), Decimal(1), Decimal(price)
        )
        assert holding.realized_pnl == Decimal(gain)
        assert Decimal(gain) == (Decimal(price) - 10).quantize(Decimal("0.01"), ROUND_HALF_EVEN)
