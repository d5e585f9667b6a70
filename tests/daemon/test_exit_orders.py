"""Exit orders: the order of a short mirrors that of a long."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from catalyst.daemon.exits.exit_orders import QUEUED_EXIT_OFFSET, exit_order, repriced_target
from catalyst.domain.order import PositionSide, Purpose, Side, Status, side_for
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.store.exit_intents import ExitIntent

NOW = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)
INTENT = ExitIntent(1, 7, "MANUAL: AAPL", Purpose.EXIT, "trader", NOW)
LONG, SHORT = PositionSide
HELD = Decimal(20)


def position_of(side: PositionSide, **values: object) -> PositionRow:
    """Return an open position of 20 AAPL at 190.00 whose last price is 200.00."""
    row = PositionRow(
        position_id=7, cycle_id=None, security_id=1, symbol="AAPL", sector=None, side=side, quantity=HELD,
        entered_qty=HELD, cost=HELD * 190, exited_qty=Decimal(0), proceeds=Decimal(0), entry_price=Decimal(190),
        stop_loss=None, take_profit=None, entry_time=NOW, exit_time=None, status="open", realized_pnl=None,
        unrealized_pnl=None, last_price=Decimal(200), protected_at=None, unprotected_seconds=Decimal(0),
        close_reason=None, carried=False,
    )  # fmt: skip
    return replace(row, **values)


def order_of(side: PositionSide, purpose: Purpose, **values: object) -> OrderRow:
    """Return an order of the position."""
    row = OrderRow(
        order_id=3, client_order_id=f"cat-{purpose}", alpaca_order_id="b-3", cycle_id=None, security_id=1,
        symbol="AAPL", position_id=7, parent_order_id=None, replaces=None, order_purpose=purpose, position_side=side,
        side=side_for(side, purpose), order_class="simple", order_type="market", time_in_force="day", quantity=HELD,
        limit_price=None, stop_price=None, bracket_stop=None, bracket_target=None, status=Status.ACCEPTED,
        filled_qty=Decimal(0), filled_avg_price=None, broker_status="new", epoch=1, origin="catalyst", signal_id=None,
        attempts=1, last_attempt_at=NOW, created_at=NOW, submitted_at=NOW, expires_at=None, closed_at=None,
        rejection_reason=None, cancel_reason=None,
    )  # fmt: skip
    return replace(row, **values)


@pytest.mark.parametrize(
    ("side", "last_price", "limit"),
    [
        (LONG, Decimal(200), Decimal("160.00")),
        (SHORT, Decimal(200), Decimal("240.00")),
        (LONG, None, Decimal("152.00")),
        (SHORT, None, Decimal("228.00")),
    ],
)
def test_exit_queued_during_halt_fills_at_any_reopening_price(
    side: PositionSide, last_price: Decimal | None, limit: Decimal
) -> None:
    """After a rejection for a halt the exit has a limit a fifth beyond the last price, or the entry price when
    none is known: a long sells that far below, a short buys that far above."""
    halted = order_of(side, Purpose.EXIT, status=Status.REJECTED, rejection_reason="HALTED: AAPL is halted")
    order = exit_order(
        position_of(side, last_price=last_price), [halted], INTENT, HELD, installation="0a1b2c", epoch=1
    )
    assert (order.order_type, order.limit_price) == ("limit", limit)
    assert order.side is (Side.SELL if side is LONG else Side.BUY)
    reference = last_price or Decimal(190)
    assert abs(limit - reference) == reference * QUEUED_EXIT_OFFSET


@pytest.mark.parametrize("side", PositionSide)
def test_exit_is_a_market_order_when_only_an_earlier_exit_met_a_halt(side: PositionSide) -> None:
    """The last exit decides: after a halt and another rejection the next exit is a market order again."""
    halted = order_of(side, Purpose.EXIT, status=Status.REJECTED, rejection_reason="HALTED: AAPL is halted")
    cancelled = order_of(
        side, Purpose.EXIT, client_order_id="cat-second", order_id=4, status=Status.CANCELLED
    )
    order = exit_order(position_of(side), [halted, cancelled], INTENT, HELD, installation="0a1b2c", epoch=1)
    assert (order.order_type, order.limit_price) == ("market", None)


@pytest.mark.parametrize(("side", "limit"), [(LONG, Decimal("188.01")), (SHORT, Decimal("187.99"))])
def test_repriced_target_lies_one_tick_on_the_winning_side_of_the_stop(
    side: PositionSide, limit: Decimal
) -> None:
    """The target of a long moves to a tick above its stop, that of a short to a tick below."""
    target = order_of(side, Purpose.TAKE_PROFIT, order_type="limit", limit_price=Decimal(194))
    assert repriced_target(target, Decimal(188), installation="0a1b2c", epoch=1).limit_price == limit
