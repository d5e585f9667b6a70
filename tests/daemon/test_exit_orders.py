"""Exit orders: the order of a short mirrors that of a long."""

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from catalyst.daemon.exits.exit_orders import QUEUED_EXIT_OFFSET, Repricing, exit_order, repricing_of
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
    assert Repricing(target, Decimal(188)).order(installation="0a1b2c", epoch=1).limit_price == limit


def group_of(side: PositionSide, **target: object) -> tuple[OrderRow, OrderRow]:
    """Return the working target and stop of one group; the stop is 2 dollars from 190."""
    stop_price = Decimal(188) if side is LONG else Decimal(192)
    values: dict[str, object] = {"order_type": "limit", "parent_order_id": 1} | target
    return (
        order_of(side, Purpose.TAKE_PROFIT, **values),
        order_of(
            side,
            Purpose.STOP_LOSS,
            order_id=4,
            parent_order_id=1,
            stop_price=stop_price,
            broker_status="held",
        ),
    )


@pytest.mark.parametrize(("side", "limit"), [(LONG, Decimal("188.01")), (SHORT, Decimal("191.99"))])
def test_exit_moves_the_target_of_a_working_group(side: PositionSide, limit: Decimal) -> None:
    """The target of a group whose stop works is moved to a tick from the stop."""
    target, stop = group_of(side)
    repricing = repricing_of(
        position_of(side, last_price=Decimal(190)), [stop, target], [stop, target], INTENT
    )
    assert repricing == Repricing(target, stop.stop_price)
    assert repricing.order(installation="0a1b2c", epoch=1).limit_price == limit


@pytest.mark.parametrize(
    "case", ["no stop", "stop of another group", "entry works", "repriced before", "not new", "price beyond the stop",
             "stop was hit", "external"]
)  # fmt: skip
@pytest.mark.parametrize("side", PositionSide)
def test_exit_moves_no_target_when(side: PositionSide, case: str) -> None:
    """The target stays where the move would not sell, or would not keep the stop."""
    changed: dict[str, dict[str, object]] = {
        "not new": {"broker_status": "held"},
        "external": {"origin": "external"},
    }
    target, stop = group_of(side, **changed.get(case, {}))
    working, rows, intent = [target, stop], [target, stop], INTENT
    position = position_of(side, last_price=Decimal(190))
    match case:
        case "no stop":
            working = [target]
        case "stop of another group":
            working = [target, replace(stop, parent_order_id=2)]
        case "entry works":
            working = [order_of(side, Purpose.ENTRY, order_id=1), target, stop]
        case "repriced before":
            rows = [*rows, order_of(side, Purpose.TAKE_PROFIT, order_id=5, replaces=target.order_id)]
        case "price beyond the stop":
            position = position_of(side, last_price=Decimal(187) if side is LONG else Decimal(193))
        case "stop was hit":
            intent = replace(INTENT, reason="STOP_LOSS_HIT: AAPL")
    assert repricing_of(position, working, rows, intent) is None
