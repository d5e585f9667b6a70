"""Bracket, OCO and OTO groups under faults: leg statuses and unprotected time."""

import pytest

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Order, OrderRole, OrderStatus
from tests.simulator.exchange_scenario import ExchangeScenario


def leg_statuses(scenario: ExchangeScenario, order: Order) -> tuple[OrderStatus, OrderStatus]:
    """Return the statuses of target and stop."""
    return scenario.leg(order, OrderRole.TARGET).status, scenario.leg(order, OrderRole.STOP).status


@pytest.mark.parametrize(
    ("kind", "status"),
    [(FaultKind.LEG_REJECT, OrderStatus.REJECTED), (FaultKind.LEG_CANCEL, OrderStatus.CANCELED)],
)
def test_leg_fault_ends_the_stop_after_the_fill(kind: FaultKind, status: OrderStatus) -> None:
    """The target stays working without the stop; the exchange reports the unprotected shares."""
    with ExchangeScenario() as scenario:
        scenario.add_fault(kind, role="stop_loss")
        order = scenario.submit_bracket(100)
        scenario.advance()
        assert leg_statuses(scenario, order) == (OrderStatus.NEW, status)
        assert (
            scenario.exchange.state.unprotected_time.totals(scenario.now)["AAPL"]["unprotected_now"] == "100"
        )


def test_no_trigger_fault_keeps_a_stop_held() -> None:
    """A trade at the stop price does not trigger the stop: the case for a fallback monitor."""
    with ExchangeScenario() as scenario:
        fault = scenario.add_fault(FaultKind.NO_TRIGGER, symbol="AAPL")
        order = scenario.submit_bracket(100)
        scenario.advance()
        scenario.print_trade("AAPL", "90")
        assert leg_statuses(scenario, order) == (OrderStatus.NEW, OrderStatus.HELD)
        scenario.exchange.state.faults.remove(fault.id)
        scenario.print_trade("AAPL", "89")
        assert scenario.exchange.state.account.qty("AAPL") == 0


def test_bracket_shares_are_unprotected_only_until_the_legs_activate() -> None:
    """Shares are unprotected for 40 ms, from the fill to the activation of the legs."""
    scenario = ExchangeScenario()
    scenario.submit_bracket(100)
    scenario.advance(10)
    totals = scenario.exchange.state.unprotected_time.totals(scenario.now)["AAPL"]
    assert (totals["share_seconds"], totals["unprotected_now"]) == ("4.00", "0")
