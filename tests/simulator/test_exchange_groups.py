"""Bracket, OCO and OTO: what is taken, when legs live, and who goes with whom."""

from decimal import Decimal
from uuid import UUID

import pytest

from catalyst.simulator.audit import audit
from catalyst.simulator.faults import FaultKind
from catalyst.simulator.orders import Order, Role, Status
from catalyst.simulator.switches import PartialEntry
from tests.simulator.desk import Desk
from tests.simulator.tape import at

LEGS = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "95"}}
OTO_STOP = {"order_class": "oto", "take_profit": None, "stop_loss": {"stop_price": "95"}}


def statuses(desk: Desk, order: Order) -> tuple[Status, Status]:
    """Of the target and of the stop."""
    return desk.leg(order, Role.TARGET).status, desk.leg(order, Role.STOP).status


def oco(desk: Desk, qty: object, symbol: str = "AAPL", **more: object) -> Order:
    return desk.sends("sell", qty, symbol, "limit", **{"order_class": "oco", **LEGS, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("terms", "status", "message"),
    [
        ({"take_profit": None}, 422, "bracket orders require take_profit.limit_price"),
        ({"stop_loss": None}, 422, "bracket orders require stop_loss.stop_price"),
        ({"time_in_force": "ioc"}, 422, 'bracket orders support only "day" or "gtc" time_in_force'),
        (
            {"kind": "limit", "limit_price": 100, "extended_hours": True},
            403,
            "bracket orders do not support extended hours trading",
        ),
        ({"qty": "1.5"}, 422, "fractional orders must be simple orders"),
        (
            {"take_profit": {"limit_price": "94"}},
            422,
            "take_profit.limit_price must be > stop_loss.stop_price",
        ),
        (
            {"order_class": "oto", "take_profit": None, "stop_loss": None},
            422,
            "oto orders require stop_loss.stop_price",
        ),
        ({**OTO_STOP, "time_in_force": "fok"}, 422, 'oto orders support only "day" or "gtc" time_in_force'),
        (
            {"take_profit": {"limit_price": "110.005"}},
            422,
            "invalid take_profit.limit_price 110.005. sub-penny increment does not fulfill minimum pricing criteria",
        ),
    ],
)
def test_a_malformed_bracket_is_refused(terms: dict[str, object], status: int, message: str) -> None:
    """Both legs, day or gtc, regular hours, whole shares, target over stop, whole ticks."""
    desk = Desk()
    refusal = desk.refused(desk.bracket, **{"qty": 10, **terms})
    assert (refusal.status, refusal.body["message"]) == (status, message)


@pytest.mark.parametrize(
    ("terms", "base", "message"),
    [
        (
            {"stop_loss": {"stop_price": "100.01"}},
            "100.01",
            "stop_loss.stop_price must be <= base_price - 0.01",
        ),
        (
            {"take_profit": {"limit_price": "100.01"}},
            "100.01",
            "take_profit.limit_price must be >= base_price + 0.01",
        ),
        (
            {"kind": "limit", "limit_price": "98", "stop_loss": {"stop_price": "98"}},
            "98",
            "stop_loss.stop_price must be <= base_price - 0.01",
        ),
        (
            {
                "kind": "limit",
                "limit_price": "90",
                "stop_loss": {"stop_price": "80"},
                "take_profit": {"limit_price": "95"},
            },
            "100.01",
            "take_profit.limit_price must be >= base_price + 0.01",
        ),
    ],
)
def test_legs_keep_a_cent_from_the_base_price(terms: dict[str, object], base: str, message: str) -> None:
    """The base is the entry's limit and the market's price; the refusal shows which."""
    desk = Desk()
    refusal = desk.refused(desk.bracket, **terms)
    assert refusal.body == {"base_price": base, "code": 42210000, "message": message}


def test_a_short_bracket_mirrors_the_rules() -> None:
    """The stop lies above and the target below, and both buy back."""
    desk = Desk()
    wrong = desk.refused(
        desk.sends,
        "sell",
        10,
        order_class="bracket",
        take_profit={"limit_price": "95"},
        stop_loss={"stop_price": "99"},
    )
    assert wrong.body["message"] == "stop_loss.stop_price must be >= base_price + 0.01"
    order = desk.sends(
        "sell", 10, order_class="bracket", take_profit={"limit_price": "95"}, stop_loss={"stop_price": "105"}
    )
    desk.passes()
    assert statuses(desk, order) == (Status.NEW, Status.HELD)
    desk.prints("AAPL", "106")
    desk.passes()
    assert desk.exchange.account.qty("AAPL") == 0
    assert statuses(desk, order) == (Status.REPLACED, Status.FILLED)
    desk.balanced()


def test_legs_are_born_held_with_ids_of_their_own() -> None:
    """Held, a UUID each as client id, the parent's time in force whatever the legs asked for."""
    desk = Desk()
    order = desk.bracket(
        time_in_force="gtc",
        take_profit={"limit_price": "110", "time_in_force": "day"},
        stop_loss={"stop_price": "95", "limit_price": "94", "time_in_force": "day"},
    )
    legs = desk.exchange.book.legs(order)
    assert [leg.type for leg in legs] == ["limit", "stop_limit"]
    for leg in legs:
        assert (leg.status, leg.time_in_force, leg.qty, leg.side) == (Status.HELD, "gtc", order.qty, "sell")
        assert UUID(leg.client_order_id).version == 4
        assert UUID(leg.id).version == 4
        assert leg.legs == []


def test_legs_live_only_when_the_entry_is_complete() -> None:
    """A partial fill activates nothing; the last share makes the target new and keeps the stop held."""
    desk = Desk()
    desk.tape.sizes = 40
    order = desk.bracket(100)
    desk.passes()
    assert (order.filled_qty, statuses(desk, order)) == (Decimal(40), (Status.HELD, Status.HELD))
    desk.prints("AAPL", "94")
    assert desk.leg(order, Role.STOP).status is Status.HELD
    assert order.status is Status.FILLED
    desk.passes()
    assert statuses(desk, order) == (Status.NEW, Status.HELD)
    assert desk.heard(desk.leg(order, Role.TARGET)) == ["new"]
    assert desk.heard(desk.leg(order, Role.STOP)) == []
    assert "parent_id" not in desk.updates()[-1].data["order"]  # type: ignore[operator]


def test_an_oto_child_is_new_once_the_entry_is_complete() -> None:
    """It has no sibling to hide behind."""
    desk = Desk()
    order = desk.bracket(10, **OTO_STOP)
    desk.passes()
    (child,) = desk.exchange.book.legs(order)
    assert child.status is Status.NEW
    desk.prints("AAPL", "94")
    assert child.status is Status.FILLED
    desk.balanced()


@pytest.mark.parametrize(
    ("choice", "after"), [(PartialEntry.CANCELED, Status.CANCELED), (PartialEntry.HELD, Status.HELD)]
)
def test_a_partly_filled_entry_that_is_cancelled_stays_naked(choice: PartialEntry, after: Status) -> None:
    """Whether its legs are cancelled or stay held for ever, no price makes them sell."""
    desk = Desk()
    desk.exchange.switches.partial_entry = choice
    desk.tape.sizes = 40
    order = desk.bracket(100, kind="limit", limit_price="100.01")
    desk.passes()
    desk.exchange.cancel(order.id)
    desk.passes(3)
    assert (order.status, order.filled_qty) == (Status.CANCELED, Decimal(40))
    assert statuses(desk, order) == (after, after)
    desk.prints("AAPL", "80")
    assert desk.exchange.account.qty("AAPL") == 40
    naked = desk.exchange.exposure.now(desk.now)["AAPL"]
    assert naked["naked_now"] == "40"
    assert Decimal(naked["share_seconds"]) > 100
    desk.balanced()


def test_a_target_filled_in_part_shrinks_the_stop() -> None:
    """The stop protects what is left, and shares are held once."""
    desk = Desk()
    order = desk.bracket(100)
    desk.passes()
    desk.tape.quotes["AAPL"] = ("109", "111")
    desk.prints("AAPL", "110", size=160)
    stop = desk.leg(order, Role.STOP)
    assert (desk.leg(order, Role.TARGET).filled_qty, stop.qty) == (Decimal(40), Decimal(60))
    assert desk.exchange.held_for_orders(desk.exchange.position("AAPL")) == 60
    desk.tape.quotes.clear()
    desk.prints("AAPL", "94")
    assert (stop.status, stop.filled_qty) == (Status.FILLED, Decimal(60))
    assert desk.exchange.account.qty("AAPL") == 0
    desk.balanced()


def test_a_filled_target_cancels_the_stop() -> None:
    """The stop ends as canceled a moment later, and can no longer sell in between."""
    desk = Desk()
    order = desk.bracket(100)
    desk.passes()
    desk.prints("AAPL", "111")
    desk.prints("AAPL", "90")
    assert statuses(desk, order) == (Status.FILLED, Status.HELD)
    desk.passes()
    assert statuses(desk, order) == (Status.FILLED, Status.CANCELED)
    assert desk.heard(desk.leg(order, Role.STOP)) == ["canceled"]
    assert desk.exchange.account.qty("AAPL") == 0
    desk.balanced()


def test_a_triggered_stop_fills_and_leaves_the_target_replaced() -> None:
    """The target does not end as canceled but as replaced, naming the stop."""
    desk = Desk()
    order = desk.bracket(100)
    desk.passes()
    desk.prints("AAPL", "94")
    target, stop = desk.leg(order, Role.TARGET), desk.leg(order, Role.STOP)
    assert (target.status, target.replaced_by, stop.status) == (Status.REPLACED, stop.id, Status.FILLED)
    assert desk.heard(target) == ["new", "replaced"]
    desk.balanced()


@pytest.mark.parametrize("always", [True, False])
def test_a_triggered_stop_may_fill_through_a_replacement_id(always: bool) -> None:
    """The stop ends as replaced too; an order nobody sent fills, at the market."""
    desk = Desk()
    if always:
        desk.exchange.switches.stop_by_replacement = True
    else:
        desk.breaks(FaultKind.STOP_REPLACED, symbol="AAPL")
    order = desk.bracket(100)
    desk.passes()
    target, stop = desk.leg(order, Role.TARGET), desk.leg(order, Role.STOP)
    desk.prints("AAPL", "94")
    assert (target.status, stop.status, stop.filled_qty) == (Status.REPLACED, Status.REPLACED, Decimal(0))
    worker = desk.exchange.find(stop.replaced_by or "")
    assert (worker.status, worker.type, worker.replaces) == (Status.FILLED, "market", stop.id)
    assert desk.leg(order, Role.STOP) is worker
    desk.balanced()


@pytest.mark.parametrize("price", ["111", "94"])
def test_both_exits_may_fill_in_a_fast_market(price: str) -> None:
    """The position flips, and the audit says that an exit crossed zero."""
    desk = Desk()
    desk.breaks(FaultKind.DOUBLE_EXIT, symbol="AAPL")
    order = desk.bracket(100)
    desk.passes()
    desk.prints("AAPL", price)
    assert statuses(desk, order) == (Status.FILLED, Status.FILLED)
    assert desk.exchange.account.qty("AAPL") == -100
    assert any("across zero" in problem for problem in audit(desk.exchange).problems)


def test_cancelling_one_leg_cancels_the_group_and_leaves_the_position() -> None:
    """Either leg will do; nothing is sold."""
    for role in (Role.TARGET, Role.STOP):
        desk = Desk()
        order = desk.bracket(100)
        desk.passes()
        desk.exchange.cancel(desk.leg(order, role).id)
        desk.passes(2)
        assert statuses(desk, order) == (Status.CANCELED, Status.CANCELED)
        assert desk.exchange.account.qty("AAPL") == 100


def test_cancelling_a_sleeping_leg_cancels_the_entry_too() -> None:
    """Before the entry fills, the group is the entry and both legs."""
    desk = Desk()
    order = desk.bracket(100, kind="limit", limit_price="98")
    desk.passes()
    desk.exchange.cancel(desk.leg(order, Role.STOP).id)
    desk.passes()
    assert (order.status, *statuses(desk, order)) == (Status.CANCELED,) * 3


def test_cancelling_the_parent_cancels_the_legs_about_a_second_later() -> None:
    """The entry is gone at once, the legs follow."""
    desk = Desk()
    order = desk.bracket(100, kind="limit", limit_price="98")
    desk.passes()
    desk.exchange.cancel(order.id)
    desk.passes(0.5)
    assert (order.status, *statuses(desk, order)) == (Status.CANCELED, Status.HELD, Status.HELD)
    desk.passes(1)
    assert statuses(desk, order) == (Status.CANCELED, Status.CANCELED)


def test_a_day_bracket_loses_its_protection_at_the_close() -> None:
    """Both legs expire at four, the shares stay overnight."""
    desk = Desk(start=at("15:50"))
    order = desk.bracket(100)
    desk.until("16:00")
    assert statuses(desk, order) == (Status.EXPIRED, Status.EXPIRED)
    assert desk.exchange.account.qty("AAPL") == 100


def test_an_oco_is_its_own_target_and_must_be_an_exit() -> None:
    """The parent is the limit order, the stop is nested and held; flat or on the wrong side it is refused."""
    desk = Desk()
    assert desk.refused(oco, desk, 10).body["message"] == "oco orders must be exit orders"
    desk.holds("AAPL", 10)
    order = oco(desk, 10)
    assert (order.role, order.limit_price) == (Role.TARGET, Decimal(110))
    desk.passes()
    stop = desk.leg(order, Role.STOP)
    assert (order.status, stop.status) == (Status.NEW, Status.HELD)
    assert desk.refused(oco, desk, 1).body["related_orders"] == [order.id]
    desk.prints("AAPL", "94")
    assert (order.status, stop.status) == (Status.REPLACED, Status.FILLED)
    desk.balanced()


def test_an_oco_target_that_fills_cancels_its_stop() -> None:
    """And cancelling the stop leg cancels the parent."""
    desk = Desk()
    desk.holds("AAPL", 10)
    order = oco(desk, 10)
    desk.passes()
    desk.prints("AAPL", "112")
    desk.passes()
    assert (order.status, desk.leg(order, Role.STOP).status) == (Status.FILLED, Status.CANCELED)
    desk.holds("MSFT", 10)
    other = oco(desk, 10, "MSFT", take_profit={"limit_price": "330"}, stop_loss={"stop_price": "280"})
    desk.passes()
    desk.exchange.cancel(desk.leg(other, Role.STOP).id)
    desk.passes()
    assert other.status is Status.CANCELED
    desk.balanced()


def test_an_oco_is_refused_while_the_position_is_not_booked() -> None:
    """With the position book two seconds behind, the fill does not count yet."""
    desk = Desk()
    desk.exchange.switches.position_lag = 2.0
    desk.sends("buy", 10)
    desk.passes(1)
    assert desk.exchange.account.qty("AAPL") == 10
    assert desk.exchange.positions() == []
    assert desk.refused(oco, desk, 10).body["message"] == "oco orders must be exit orders"
    desk.passes(2)
    assert oco(desk, 10).status is Status.PENDING_NEW


def test_a_bracket_must_be_an_entry() -> None:
    """A position, or an order on the other side, refuses it."""
    desk = Desk()
    desk.holds("AAPL", 10)
    assert desk.refused(desk.bracket).body["message"] == "bracket orders must be entry orders"
    desk.sends("sell", 5, "MSFT", "limit", limit_price="350")
    terms = {"take_profit": {"limit_price": "330"}, "stop_loss": {"stop_price": "290"}}
    assert (
        desk.refused(desk.bracket, 5, "MSFT", **terms).body["message"]
        == "bracket orders must be entry orders"
    )


@pytest.mark.parametrize(
    ("kind", "status"), [(FaultKind.LEG_REJECT, Status.REJECTED), (FaultKind.LEG_CANCEL, Status.CANCELED)]
)
def test_the_venue_may_refuse_a_stop_leg_after_the_fill(kind: FaultKind, status: Status) -> None:
    """The target works on without it; the exchange's own measure shows the naked shares."""
    desk = Desk()
    desk.breaks(kind, role="stop_loss")
    order = desk.bracket(100)
    desk.passes()
    assert statuses(desk, order) == (Status.NEW, status)
    assert desk.exchange.exposure.now(desk.now)["AAPL"]["naked_now"] == "100"


def test_a_stop_may_fail_to_trigger() -> None:
    """Its price trades and nothing happens: what a fallback monitor is for."""
    desk = Desk()
    fault = desk.breaks(FaultKind.NO_TRIGGER, symbol="AAPL")
    order = desk.bracket(100)
    desk.passes()
    desk.prints("AAPL", "90")
    assert statuses(desk, order) == (Status.NEW, Status.HELD)
    desk.exchange.faults.remove(fault.id)
    desk.prints("AAPL", "89")
    assert desk.exchange.account.qty("AAPL") == 0


def test_a_complete_bracket_leaves_no_share_naked_for_long() -> None:
    """From the fill to the legs' activation, 40 ms, and not a moment more."""
    desk = Desk()
    desk.bracket(100)
    desk.passes(10)
    seen = desk.exchange.exposure.now(desk.now)["AAPL"]
    assert (seen["share_seconds"], seen["naked_now"]) == ("4.00", "0")
