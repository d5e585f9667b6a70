"""Bracket, OCO and OTO: what is taken, when legs live, and who goes with whom."""

import pytest

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Order, Role, Status
from tests.simulator.exchange_scenario import Desk


def statuses(desk: Desk, order: Order) -> tuple[Status, Status]:
    """Of the target and of the stop."""
    return desk.leg(order, Role.TARGET).status, desk.leg(order, Role.STOP).status


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
