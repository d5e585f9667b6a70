"""Cancels, replacements, and closing positions: none of them is done when it is answered."""

from decimal import Decimal

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Role, Status
from tests.simulator.exchange_scenario import Desk
from tests.simulator.manual_feed import at


def resting(desk: Desk, price: str = "99", qty: object = 10, symbol: str = "AAPL", **more: object):  # type: ignore[no-untyped-def]
    order = desk.sends("buy", qty, symbol, "limit", limit_price=price, **more)
    desk.passes()
    return order


def test_the_fault_menu_of_cancels() -> None:
    """A cancel may take its time, or be refused by the venue, and then the order works on."""
    desk = Desk()
    desk.breaks(FaultKind.CANCEL_DELAY, seconds=30)
    order = resting(desk)
    desk.exchange.cancel(order.id)
    desk.passes(29)
    assert order.status is Status.PENDING_CANCEL
    desk.passes(2)
    assert order.status is Status.CANCELED
    desk.breaks(FaultKind.CANCEL_REJECT)
    other = resting(desk)
    desk.exchange.cancel(other.id)
    desk.passes()
    assert (other.status, desk.heard(other)) == (Status.NEW, ["new", "order_cancel_rejected"])


def test_a_cancel_before_the_acknowledgement() -> None:
    """The order is cancelled without ever having been new."""
    desk = Desk()
    order = desk.sends("buy", 10, "AAPL", "limit", limit_price="50")
    desk.exchange.cancel(order.id)
    desk.passes()
    assert order.status is Status.CANCELED
    night = Desk(start=at("20:30"))
    parked = night.sends("buy", 10)
    night.exchange.cancel(parked.id)
    night.passes()
    assert parked.status is Status.CANCELED


def test_a_pending_replacement_holds_the_larger_of_both() -> None:
    """Buying power for the dearer one, shares for the larger one."""
    desk = Desk()
    old = resting(desk, "90", 1000)
    desk.replaces(old, limit_price="99")
    assert desk.exchange.book.reserved() == 99_000
    desk.passes()
    assert desk.exchange.book.reserved() == 99_000
    desk.holds("MSFT", 10)
    stop = desk.sends("sell", 4, "MSFT", "stop", stop_price="250")
    desk.passes()
    desk.replaces(stop, qty=8)
    assert desk.exchange.held_for_orders(desk.exchange.position("MSFT")) == 8
    desk.passes()
    current = desk.exchange.find(stop.replaced_by or "")
    assert desk.refused(desk.replaces, current, qty=11).body["available"] == "10"


def test_a_replaced_target_stays_in_its_group() -> None:
    """Patched to a marketable limit it sells, and its stop goes with it: the gentle way out."""
    desk = Desk()
    order = desk.bracket(100)
    desk.passes()
    target = desk.leg(order, Role.TARGET)
    new = desk.replaces(target, limit_price="99.5")
    desk.passes()
    assert desk.leg(order, Role.TARGET) is new
    assert new.status is Status.FILLED
    desk.passes()
    assert desk.leg(order, Role.STOP).status is Status.CANCELED
    assert desk.exchange.account.qty("AAPL") == 0
    desk.balanced()


def test_a_replaced_entry_takes_its_legs_along() -> None:
    """The new parent has the legs, in the new quantity."""
    desk = Desk()
    order = desk.bracket(100, kind="limit", limit_price="98")
    desk.passes()
    new = desk.replaces(order, qty=50, limit_price="101")
    desk.passes()
    assert (new.status, order.legs) == (Status.FILLED, [])
    assert [leg.qty for leg in desk.exchange.book.legs(new)] == [Decimal(50), Decimal(50)]
    assert desk.leg(new, Role.TARGET).status is Status.NEW
