"""Bracket, OCO and OTO: what is taken, when legs live, and who goes with whom."""

import pytest

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Order, OrderRole, OrderStatus
from tests.simulator.exchange_scenario import ExchangeScenario


def leg_statuses(scenario: ExchangeScenario, order: Order) -> tuple[OrderStatus, OrderStatus]:
    """Of the target and of the stop."""
    return scenario.leg(order, OrderRole.TARGET).status, scenario.leg(order, OrderRole.STOP).status


@pytest.mark.parametrize(
    ("kind", "status"),
    [(FaultKind.LEG_REJECT, OrderStatus.REJECTED), (FaultKind.LEG_CANCEL, OrderStatus.CANCELED)],
)
def test_leg_fault_ends_the_stop_after_the_fill(kind: FaultKind, status: OrderStatus) -> None:
    """The target works on without it; the exchange's own measure shows the naked shares."""
    scenario = ExchangeScenario()
    scenario.add_fault(kind, role="stop_loss")
    order = scenario.submit_bracket(100)
    scenario.advance()
    assert leg_statuses(scenario, order) == (OrderStatus.NEW, status)
    assert scenario.exchange.state.unprotected_time.totals(scenario.now)["AAPL"]["unprotected_now"] == "100"


def test_no_trigger_fault_keeps_a_stop_held() -> None:
    """Its price trades and nothing happens: what a fallback monitor is for."""
    scenario = ExchangeScenario()
    fault = scenario.add_fault(FaultKind.NO_TRIGGER, symbol="AAPL")
    order = scenario.submit_bracket(100)
    scenario.advance()
    scenario.print_trade("AAPL", "90")
    assert leg_statuses(scenario, order) == (OrderStatus.NEW, OrderStatus.HELD)
    scenario.exchange.state.faults.remove(fault.id)
    scenario.print_trade("AAPL", "89")
    assert scenario.exchange.state.account.qty("AAPL") == 0


def test_bracket_shares_are_unprotected_only_until_the_legs_activate() -> None:
    """From the fill to the legs' activation, 40 ms, and not a moment more."""
    scenario = ExchangeScenario()
    scenario.submit_bracket(100)
    scenario.advance(10)
    seen = scenario.exchange.state.unprotected_time.totals(scenario.now)["AAPL"]
    assert (seen["share_seconds"], seen["unprotected_now"]) == ("4.00", "0")
