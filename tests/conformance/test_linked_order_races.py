"""Races of linked orders found by random trading: exits that outlive their group or reserve shares the
position does not have."""

from decimal import Decimal

from catalyst.simulator.rules.orders import OrderRole, OrderStatus
from tests.simulator.exchange_scenario import ExchangeScenario


def reserved_qty(scenario: ExchangeScenario, symbol: str = "AAPL") -> Decimal:
    return scenario.exchange.held_for_orders(scenario.exchange.position(symbol))


def test_stop_in_pending_cancel_does_not_trigger_after_its_target_filled() -> None:
    """The target fills while a cancel of the stop is pending: the stop stays pending_cancel and cannot
    trigger."""
    scenario = ExchangeScenario()
    entry = scenario.submit_bracket(100)
    scenario.advance(0.5)
    target, stop = scenario.leg(entry, OrderRole.TARGET), scenario.leg(entry, OrderRole.STOP)
    scenario.exchange.cancel(stop.id)
    scenario.print_trade("AAPL", "110.5", 1_000_000)
    assert target.status is OrderStatus.FILLED
    assert stop.status is OrderStatus.PENDING_CANCEL
    scenario.print_trade("AAPL", "94", 1_000_000)
    assert scenario.exchange.state.account.qty("AAPL") == 0
    scenario.assert_audit_clean()


def test_target_and_stop_replaced_together_stay_linked() -> None:
    """Both replacements are pending together; the new target's fill cancels the new stop."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 10)
    legs = {"take_profit": {"limit_price": "110"}, "stop_loss": {"stop_price": "95"}}
    target = scenario.submit("sell", 10, "AAPL", "limit", order_class="oco", **legs)
    scenario.advance(0.3)
    new_target = scenario.replace(target, limit_price="109")
    new_stop = scenario.replace(scenario.leg(target, OrderRole.STOP), stop_price="96")
    scenario.advance(0.3)
    assert new_stop.parent_id == new_target.id
    assert reserved_qty(scenario) == 10
    scenario.print_trade("AAPL", "109.5", 1_000_000)
    scenario.advance(0.5)
    assert (new_target.status, new_stop.status) == (OrderStatus.FILLED, OrderStatus.CANCELED)
    scenario.assert_audit_clean()


def test_stop_replacement_above_the_remaining_position_is_rejected() -> None:
    """The target sells 60 of 100 while a replacement of the stop for 90 is pending: the replacement is
    rejected."""
    scenario = ExchangeScenario()
    entry = scenario.submit_bracket(100)
    scenario.advance(0.5)
    stop = scenario.leg(entry, OrderRole.STOP)
    new = scenario.replace(stop, qty="90")
    scenario.print_trade("AAPL", "110", 240)  # a quarter of the volume fills our order
    assert stop.remaining == 40
    scenario.advance(0.3)
    assert (new.status, stop.status, stop.remaining) == (OrderStatus.REJECTED, OrderStatus.HELD, 40)
    scenario.assert_audit_clean()


def test_pending_replacement_reserves_the_remaining_quantity_of_the_chain() -> None:
    """A replacement for 60 shares with 40 already sold reserves 20, not 60."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 100)
    order = scenario.submit("sell", 50, "AAPL", "limit", limit_price="101")
    scenario.advance(0.3)
    scenario.print_trade("AAPL", "101", 160)  # a quarter of the volume fills our order
    assert order.filled_qty == 40
    scenario.replace(order, qty="60")
    assert reserved_qty(scenario) == 20


def test_cancelled_replacement_reserves_no_shares() -> None:
    """After its replacement is cancelled the old order reserves its own 10 shares again."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 100)
    order = scenario.submit("sell", 10, "AAPL", "limit", limit_price="101")
    scenario.advance(0.3)
    new = scenario.replace(order, qty="60")
    scenario.exchange.state.settings.replace = type(scenario.exchange.state.settings.replace)(5, 5)
    assert reserved_qty(scenario) == 60
    scenario.exchange.state.finish_order(new, OrderStatus.CANCELED)
    assert reserved_qty(scenario) == 10


def test_notional_sell_above_the_position_is_rejected() -> None:
    """A notional order counts as the shares it is worth now; the position must have them, and they are
    reserved until sold."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 2)
    refusal = scenario.expect_rejection(scenario.submit, "sell", None, notional="500")
    assert refusal.status == 403
    assert str(refusal).startswith("insufficient qty available")
    scenario.submit("sell", None, notional="150")
    assert reserved_qty(scenario) > Decimal("1.4")
    assert scenario.expect_rejection(scenario.submit, "sell", None, notional="150").status == 403
    scenario.advance()
    assert 0 < scenario.exchange.state.account.qty("AAPL") < Decimal("0.6")
    scenario.assert_audit_clean()


def test_oto_that_exits_a_position_is_rejected() -> None:
    """An OTO's child exits the position that its parent opens; a parent that is an exit has nothing to
    protect."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 10)
    refusal = scenario.expect_rejection(
        scenario.submit, "sell", 5, order_class="oto", stop_loss={"stop_price": "105"}
    )
    assert (refusal.status, str(refusal)) == (422, "oto orders must be entry orders")
