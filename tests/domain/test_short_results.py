"""Results and reasons of shorts: each mirrors that of a long."""

from dataclasses import replace
from decimal import Decimal

import pytest

from catalyst.domain.fill_decision import FillRows, reduce_orphan
from catalyst.domain.order import PositionSide, Purpose, Status, side_for
from catalyst.domain.rows import OrderRow, Orphan
from tests.domain.test_report_decision import (
    AT,
    ENTRY,
    POSITION,
    STOP,
    TARGET,
    decided,
    fill_of,
    report_of,
)

LONG, SHORT = PositionSide


def of_side(row: OrderRow, side: PositionSide, **values: object) -> OrderRow:
    """Return the row as an order of a position of this side."""
    return replace(row, position_side=side, side=side_for(side, row.order_purpose), **values)


@pytest.mark.parametrize(
    ("side", "purpose", "price", "reason"),
    [
        (LONG, Purpose.STOP_LOSS, "187.90", "STOP_LOSS_HIT: AAPL @ $187.90 <= $188"),
        (LONG, Purpose.TAKE_PROFIT, "194.10", "TAKE_PROFIT_HIT: AAPL @ $194.10 >= $194"),
        (SHORT, Purpose.STOP_LOSS, "194.10", "STOP_LOSS_HIT: AAPL @ $194.10 >= $194"),
        (SHORT, Purpose.TAKE_PROFIT, "187.90", "TAKE_PROFIT_HIT: AAPL @ $187.90 <= $188"),
    ],
)
def test_close_reason_compares_price_and_level_as_the_side_does(
    side: PositionSide, purpose: Purpose, price: str, reason: str
) -> None:
    """A long's stop lies below the price and its target above; a short is the opposite."""
    low, high = Decimal(188), Decimal(194)
    stop_price, limit_price = (low, high) if side is LONG else (high, low)
    stop, target = of_side(STOP, side, stop_price=stop_price), of_side(TARGET, side, limit_price=limit_price)
    entry = of_side(ENTRY, side, filled_qty=ENTRY.quantity, position_id=7)
    rows = FillRows(
        position=replace(POSITION, side=side), parents={3: target}, position_orders=(entry, stop, target)
    )
    exit_row = stop if purpose is Purpose.STOP_LOSS else target
    fill = replace(fill_of(exit_row), price=Decimal(price))
    decision = decided([exit_row], None, fill, fill_rows=rows)
    assert decision.position is not None
    assert decision.position.close_reason == reason


@pytest.mark.parametrize(("side", "result"), [(LONG, Decimal("-50.00")), (SHORT, Decimal("50.00"))])
def test_orphan_shares_gain_as_their_side_does(side: PositionSide, result: Decimal) -> None:
    """Ten shares taken at 200 and left at 195 lose 50 as a long and gain 50 as a short; half of them half of it."""
    orphan = Orphan(
        orphan_id=1, cycle_id=None, security_id=1, symbol="AAPL", position_id=7, cause="oversold", side=side,
        quantity=Decimal(10), found_qty=Decimal(10), cost=Decimal(2000), exited_qty=Decimal(0), proceeds=Decimal(0),
        realized_pnl=None, stop_price=None, protected_at=None, found_at=AT, ended_at=None, end_reason=None,
    )  # fmt: skip
    first = replace(fill_of(STOP, 5, 5), price=Decimal(195))
    half = reduce_orphan(orphan, first)
    assert (half.quantity, half.realized_pnl) == (5, result / 2)
    whole = reduce_orphan(half, replace(first, cum_qty=Decimal(10)))
    assert (whole.quantity, whole.realized_pnl) == (0, result)


@pytest.mark.parametrize(("size", "taken"), [(100, True), (41, True), (40, True), (39, False)])
def test_leg_takes_its_new_size_down_to_what_it_has_filled(size: int, taken: bool) -> None:
    """The broker may reduce a leg of 100 to the 40 shares that it has filled, and no further."""
    row = replace(STOP, status=Status.PARTIAL_FILL, filled_qty=Decimal(40), broker_status="new")
    decision = decided([row], report_of(row, "partially_filled", 40, quantity=Decimal(size)))
    assert (decision.quarantined == ()) is taken
    sizes = [change.after.quantity for change in decision.order_changes if change.after.quantity != 100]
    assert sizes == ([size] if taken and size != 100 else [])
