"""What the random customers found, one race at a time: exits that outlive their group, or claim what is not there."""

from decimal import Decimal

from catalyst.simulator.rules.orders import Role, Status
from tests.simulator.exchange_scenario import Desk


def held(desk: Desk, symbol: str = "AAPL") -> Decimal:
    return desk.exchange.held_for_orders(desk.exchange.position(symbol))


def test_a_stop_does_not_trade_while_its_cancel_is_pending_and_its_sibling_has_filled() -> None:
    """The target fills; the stop, asked to go before that, is shown as leaving and can no longer be triggered."""
    desk = Desk()
    entry = desk.bracket(100)
    desk.passes(0.5)
    target, stop = desk.leg(entry, Role.TARGET), desk.leg(entry, Role.STOP)
    desk.exchange.cancel(stop.id)
    desk.prints("AAPL", "110.5", 1_000_000)
    assert target.status is Status.FILLED
    assert stop.status is Status.PENDING_CANCEL
    desk.prints("AAPL", "94", 1_000_000)
    assert desk.exchange.account.qty("AAPL") == 0
    desk.balanced()


def test_a_target_and_a_stop_replaced_at_once_stay_one_group() -> None:
    """Both requests are under way together; the new target's fill still ends the new stop."""
    desk = Desk()
    desk.holds("AAPL", 10)
    legs = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "95"}}
    target = desk.sends("sell", 10, "AAPL", "limit", order_class="oco", **legs)
    desk.passes(0.3)
    new_target = desk.replaces(target, limit_price="109")
    new_stop = desk.replaces(desk.leg(target, Role.STOP), stop_price="96")
    desk.passes(0.3)
    assert new_stop.parent_id == new_target.id
    assert held(desk) == 10
    desk.prints("AAPL", "109.5", 1_000_000)
    desk.passes(0.5)
    assert (new_target.status, new_stop.status) == (Status.FILLED, Status.CANCELED)
    desk.balanced()


def test_a_stop_is_not_enlarged_over_what_its_target_has_left() -> None:
    """The target sells 60 of 100 while the stop's replacement for 90 is under way: it is rejected."""
    desk = Desk()
    entry = desk.bracket(100)
    desk.passes(0.5)
    stop = desk.leg(entry, Role.STOP)
    new = desk.replaces(stop, qty="90")
    desk.prints("AAPL", "110", 240)  # a quarter of it is ours
    assert stop.remaining == 40
    desk.passes(0.3)
    assert (new.status, stop.status, stop.remaining) == (Status.REJECTED, Status.HELD, 40)
    desk.balanced()


def test_a_pending_replacement_holds_what_would_be_left_of_the_chain() -> None:
    """60 shares asked for, 40 of them sold already: 20 are held, and 60 would be too many."""
    desk = Desk()
    desk.holds("AAPL", 100)
    order = desk.sends("sell", 50, "AAPL", "limit", limit_price="101")
    desk.passes(0.3)
    desk.prints("AAPL", "101", 160)  # a quarter of it is ours
    assert order.filled_qty == 40
    desk.replaces(order, qty="60")
    assert held(desk) == 20


def test_a_cancelled_replacement_holds_nothing() -> None:
    """The old order goes on holding its own shares until the venue has answered."""
    desk = Desk()
    desk.holds("AAPL", 100)
    order = desk.sends("sell", 10, "AAPL", "limit", limit_price="101")
    desk.passes(0.3)
    new = desk.replaces(order, qty="60")
    desk.exchange.switches.replace = type(desk.exchange.switches.replace)(5, 5)
    assert held(desk) == 60
    desk.exchange.finish(new, Status.CANCELED)
    assert held(desk) == 10


def test_money_cannot_be_sold_out_of_a_smaller_position() -> None:
    """An amount is as many shares as it buys now; they must be there, and they are held until sold."""
    desk = Desk()
    desk.holds("AAPL", 2)
    refusal = desk.refused(desk.sends, "sell", None, notional="500")
    assert refusal.status == 403
    assert str(refusal).startswith("insufficient qty available")
    desk.sends("sell", None, notional="150")
    assert held(desk) > Decimal("1.4")
    assert desk.refused(desk.sends, "sell", None, notional="150").status == 403
    desk.passes()
    assert 0 < desk.exchange.account.qty("AAPL") < Decimal("0.6")
    desk.balanced()


def test_an_oto_enters() -> None:
    """Its child leaves the position that its parent made; a parent that leaves one has nothing to protect."""
    desk = Desk()
    desk.holds("AAPL", 10)
    refusal = desk.refused(desk.sends, "sell", 5, order_class="oto", stop_loss={"stop_price": "105"})
    assert (refusal.status, str(refusal)) == (422, "oto orders must be entry orders")
