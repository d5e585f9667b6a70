"""Cancels, replacements, and closing positions: none of them is done when it is answered."""

from decimal import Decimal

import pytest

from catalyst.simulator.faults import FaultKind
from catalyst.simulator.orders import Role, Status
from tests.simulator.desk import Desk
from tests.simulator.tape import at


def resting(desk: Desk, price: str = "99", qty: object = 10, symbol: str = "AAPL", **more: object):  # type: ignore[no-untyped-def]
    order = desk.sends("buy", qty, symbol, "limit", limit_price=price, **more)
    desk.passes()
    return order


def test_a_cancel_is_pending_until_the_venue_confirms() -> None:
    """pending_cancel at once, canceled after the delay; asking again changes nothing."""
    desk = Desk()
    order = resting(desk)
    desk.exchange.cancel(order.id)
    assert order.status is Status.PENDING_CANCEL
    desk.exchange.cancel(order.id)
    desk.passes(0.19)
    assert order.status is Status.PENDING_CANCEL
    desk.passes(0.02)
    assert order.status is Status.CANCELED
    assert desk.heard(order) == ["new", "canceled"]
    desk.exchange.cancel(order.id)


def test_a_fill_may_win_against_a_cancel() -> None:
    """A trade before the confirmation fills the order, by chance or by script; a partial fill stays in it."""
    desk = Desk()
    order = resting(desk)
    desk.exchange.cancel(order.id)
    desk.prints("AAPL", "98")
    assert order.status is Status.FILLED
    desk.passes()
    assert desk.heard(order) == ["new", "fill"]
    desk.breaks(FaultKind.CANCEL_LOSES, symbol="MSFT")
    other = resting(desk, "299", symbol="MSFT")
    desk.exchange.cancel(other.id)
    desk.passes()
    assert other.status is Status.FILLED
    desk.balanced()


def test_a_cancelled_order_keeps_what_it_filled() -> None:
    """canceled, with filled_qty above zero and its average."""
    desk = Desk()
    desk.tape.sizes = 4
    order = resting(desk, "100.01")
    desk.exchange.cancel(order.id)
    desk.passes()
    assert (order.status, order.filled_qty, order.average) == (Status.CANCELED, Decimal(4), Decimal("100.01"))
    assert desk.exchange.book.reserved() == 0


def test_cancelling_what_is_over_or_being_replaced_is_refused() -> None:
    """filled and pending_replace are 422 with the state in the text."""
    desk = Desk()
    desk.holds("AAPL", 1)
    filled = next(iter(desk.exchange.book.orders.values()))
    refusal = desk.refused(desk.exchange.cancel, filled.id)
    assert (refusal.status, refusal.body["message"]) == (422, 'order is already in "filled" state')
    order = resting(desk, "90", symbol="MSFT")
    desk.replaces(order, limit_price="91")
    assert (
        desk.refused(desk.exchange.cancel, order.id).body["message"]
        == 'order is already in "pending_replace" state'
    )


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


def test_a_replacement_is_a_new_order_in_a_chain() -> None:
    """New id, own client id, the old one's birth; the old one ends as replaced and names the new one."""
    desk = Desk()
    old = resting(desk)
    desk.passes(5)
    new = desk.replaces(old, limit_price="98", client_order_id="ours-2")
    assert (new.status, old.status) == (Status.PENDING_NEW, Status.PENDING_REPLACE)
    assert (new.replaces, new.created_at, new.client_order_id) == (old.id, old.created_at, "ours-2")
    assert new.submitted_at == desk.now
    desk.passes()
    assert (new.status, old.status, old.replaced_by) == (Status.NEW, Status.REPLACED, new.id)
    assert desk.heard() == ["new", "replaced", "new"]
    desk.prints("AAPL", "97")
    assert new.status is Status.FILLED
    desk.balanced()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"limit_price": "99"}, "order parameters are not changed"),
        ({}, "order parameters are not changed"),
        ({"stop_price": "90"}, "limit orders must not have stop_price"),
        ({"limit_price": "98.005"}, "sub-penny"),
        ({"qty": 4}, "unable to replace order, qty must be > filled_qty"),
        ({"client_order_id": "taken"}, "client_order_id must be unique"),
    ],
)
def test_a_senseless_replacement_is_refused(changes: dict[str, object], message: str) -> None:
    """Unchanged, of the wrong kind, off the tick, under what is filled, or under a used id."""
    desk = Desk()
    desk.sends("buy", 1, "MSFT", "limit", limit_price="1", client_order_id="taken")
    desk.tape.sizes = 4
    order = desk.sends("buy", 10, "AAPL", "limit", limit_price="100.01")
    desk.passes()
    old = desk.replaces(order, limit_price="99")
    desk.passes()
    refusal = desk.refused(desk.replaces, old, **changes)
    assert refusal.status == 422
    assert message in str(refusal.body["message"])


def test_what_is_not_at_the_venue_cannot_be_replaced() -> None:
    """accepted, pending_new, pending_cancel, pending_replace and anything that is over."""
    desk = Desk()
    fresh = desk.sends("buy", 1, "AAPL", "limit", limit_price="50")
    early = "unable to replace order, order isn't sent to exchange yet"
    assert desk.refused(desk.replaces, fresh, qty=2).body == {"code": 40010001, "message": early}
    desk.passes()
    desk.replaces(fresh, qty=2)
    assert desk.refused(desk.replaces, fresh, qty=3).body["message"] == early
    desk.passes()
    refusal = desk.refused(desk.replaces, fresh, qty=3)
    assert refusal.body == {"code": 42210000, "message": "unable to replace order, order is not open"}
    night = Desk(start=at("20:30"))
    parked = night.sends("buy", 1, "AAPL", "limit", limit_price="50")
    assert night.refused(night.replaces, parked, qty=2).body["message"] == early


def test_the_quantity_of_a_replacement_is_the_chains_total() -> None:
    """Four are filled, the new order says ten in all, and six more make it complete."""
    desk = Desk()
    desk.tape.sizes = 4
    old = desk.sends("buy", 8, "AAPL", "limit", limit_price="100.01")
    desk.passes()
    new = desk.replaces(old, qty=10, limit_price="99")
    desk.passes()
    assert (new.status, new.qty, new.filled_qty) == (Status.PARTIALLY_FILLED, Decimal(10), Decimal(4))
    desk.prints("AAPL", "98.99", size=400)
    assert (new.status, new.filled_qty) == (Status.FILLED, Decimal(10))
    assert desk.exchange.account.qty("AAPL") == 10
    assert [e.cum_qty for e in desk.exchange.executions] == [Decimal(4), Decimal(10)]
    desk.balanced()


def test_a_replacement_may_lose_to_the_fill() -> None:
    """The old order fills first: the new one ends as rejected, and nothing is bought twice."""
    desk = Desk()
    old = resting(desk)
    new = desk.replaces(old, limit_price="98.5")
    desk.prints("AAPL", "98")
    assert old.status is Status.FILLED
    desk.passes()
    assert (new.status, desk.exchange.account.qty("AAPL")) == (Status.REJECTED, Decimal(10))
    assert "order_replace_rejected" in desk.heard(old)
    desk.balanced()


def test_the_venue_may_refuse_a_replacement() -> None:
    """The old order works on under its old terms."""
    desk = Desk()
    desk.breaks(FaultKind.REPLACE_REJECT)
    old = resting(desk)
    new = desk.replaces(old, limit_price="98")
    desk.passes()
    assert (old.status, old.replaced_by, new.status) == (Status.NEW, None, Status.REJECTED)
    desk.prints("AAPL", "98.9")
    assert old.status is Status.FILLED


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


def test_a_replaced_stop_stays_held_and_still_protects() -> None:
    """The held stop moves up under a new id; the switch refuses that."""
    desk = Desk()
    order = desk.bracket(100)
    desk.passes()
    moved = desk.replaces(desk.leg(order, Role.STOP), stop_price="98")
    desk.passes()
    assert (moved.status, desk.leg(order, Role.STOP)) == (Status.HELD, moved)
    desk.prints("AAPL", "97.5")
    assert moved.status is Status.FILLED
    other = Desk()
    other.exchange.switches.held_replaceable = False
    bracket = other.bracket(100)
    other.passes()
    assert other.refused(other.replaces, other.leg(bracket, Role.STOP), stop_price="98").status == 422


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


def test_closing_a_position_whose_shares_are_held_cancels_nothing() -> None:
    """403 without related orders, and the exits live; flat it is 404."""
    desk = Desk()
    desk.bracket(10)
    desk.passes()
    refusal = desk.refused(desk.exchange.close, "AAPL")
    assert refusal.status == 403
    assert "related_orders" not in refusal.body
    assert refusal.body["held_for_orders"] == "10"
    assert len(desk.exchange.book.live("AAPL")) == 2
    refusal = desk.refused(desk.exchange.close, "MSFT")
    assert (refusal.status, refusal.body["message"]) == (404, "position does not exist")


def test_closing_a_position_sells_or_buys_it_back() -> None:
    """All of it, or the part asked for, at the market."""
    desk = Desk()
    desk.holds("AAPL", 10)
    desk.holds("MSFT", -4)
    desk.exchange.close("AAPL", Decimal(4))
    desk.exchange.close("MSFT")
    desk.passes()
    assert {s: p.qty for s, p in desk.exchange.account.positions.items()} == {"AAPL": Decimal(6)}
    desk.balanced()
