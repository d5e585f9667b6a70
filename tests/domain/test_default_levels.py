"""Protection of rare states: default levels on both sides, and legs of an entry that was replaced."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from catalyst.domain.order import PositionSide, Purpose, Status, side_for
from catalyst.domain.protection import Protection, default_levels, exit_orders_of, protection_of
from catalyst.domain.rows import OrderRow

NOW = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)
HELD = Decimal(20)


@pytest.mark.parametrize(
    ("side", "levels"),
    [
        (PositionSide.LONG, (Decimal("196.00"), Decimal("210.00"))),
        (PositionSide.SHORT, (Decimal("204.00"), Decimal("190.00"))),
    ],
)
def test_default_levels_lie_on_the_losing_and_on_the_winning_side(
    side: PositionSide, levels: tuple[Decimal, Decimal]
) -> None:
    """The stop of a short lies above the price and its target below; a long is the opposite."""
    assert default_levels(side, Decimal(200), stop_pct=2, target_pct=5) == levels


def order_of(order_id: int, purpose: Purpose, status: Status, **values: object) -> OrderRow:
    """Return an order of 20 AAPL, long."""
    row = OrderRow(
        order_id=order_id, client_order_id=f"cat-{order_id}", alpaca_order_id=f"b-{order_id}", cycle_id=None,
        security_id=1, symbol="AAPL", position_id=7, parent_order_id=None, replaces=None, order_purpose=purpose,
        position_side=PositionSide.LONG, side=side_for(PositionSide.LONG, purpose), order_class="bracket",
        order_type="limit", time_in_force="day", quantity=HELD, limit_price=None, stop_price=None, bracket_stop=None,
        bracket_target=None, status=status, filled_qty=Decimal(0), filled_avg_price=None, broker_status="new", epoch=1,
        origin="catalyst", signal_id=None, attempts=1, last_attempt_at=NOW, created_at=NOW, submitted_at=NOW,
        expires_at=None, closed_at=None, rejection_reason=None, cancel_reason=None,
    )  # fmt: skip
    return replace(row, **values)


@pytest.mark.parametrize("replacements", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("last_status", "protection"),
    [(Status.FILLED, Protection.PROTECTED), (Status.PARTIAL_FILL, Protection.INACTIVE_LEGS)],
)
def test_legs_protect_when_the_last_replacement_of_their_entry_is_filled(
    replacements: int, last_status: Status, protection: Protection
) -> None:
    """The legs belong to the first entry; the last order of its chain decides, however long the chain is."""
    chain = [
        order_of(
            number,
            Purpose.ENTRY,
            Status.REPLACED if number <= replacements else last_status,
            replaces=number - 1 if number > 1 else None,
        )
        for number in range(1, replacements + 2)
    ]
    legs = [
        order_of(11, Purpose.TAKE_PROFIT, Status.ACCEPTED, parent_order_id=1),
        order_of(12, Purpose.STOP_LOSS, Status.ACCEPTED, parent_order_id=1, broker_status="held"),
    ]
    assert protection_of(HELD, exit_orders_of([*chain, *legs])) is protection
