"""Cancels, replacements and closed positions: each completes after its response."""

from decimal import Decimal

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import OrderRole, OrderStatus
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import at


def place_resting_order(
    scenario: ExchangeScenario, price: str = "99", qty: object = 10, symbol: str = "AAPL", **more: object
):  # type: ignore[no-untyped-def]
    order = scenario.submit("buy", qty, symbol, "limit", limit_price=price, **more)
    scenario.advance()
    return order


def test_cancel_faults_delay_or_reject_a_cancel() -> None:
    """A cancel takes 30 seconds, or the venue rejects it and the order stays working."""
    with ExchangeScenario() as scenario:
        scenario.add_fault(FaultKind.CANCEL_DELAY, seconds=30)
        order = place_resting_order(scenario)
        scenario.exchange.cancel(order.id)
        scenario.advance(29)
        assert order.status is OrderStatus.PENDING_CANCEL
        scenario.advance(2)
        assert order.status is OrderStatus.CANCELED
        scenario.add_fault(FaultKind.CANCEL_REJECT)
        other = place_resting_order(scenario)
        scenario.exchange.cancel(other.id)
        scenario.advance()
        assert (other.status, scenario.events(other)) == (OrderStatus.NEW, ["new", "order_cancel_rejected"])


def test_unacknowledged_order_can_be_cancelled() -> None:
    """An order is cancelled before it was ever `new`."""
    scenario = ExchangeScenario()
    order = scenario.submit("buy", 10, "AAPL", "limit", limit_price="50")
    scenario.exchange.cancel(order.id)
    scenario.advance()
    assert order.status is OrderStatus.CANCELED
    night_scenario = ExchangeScenario(start=at("20:30"))
    queued_order = night_scenario.submit("buy", 10)
    night_scenario.exchange.cancel(queued_order.id)
    night_scenario.advance()
    assert queued_order.status is OrderStatus.CANCELED


def test_pending_replacement_reserves_the_larger_power_and_shares() -> None:
    """Buying power is reserved for the higher price, shares for the larger quantity."""
    scenario = ExchangeScenario()
    old = place_resting_order(scenario, "90", 1000)
    scenario.replace(old, limit_price="99")
    assert scenario.exchange.state.order_store.reserved_buying_power() == 99_000
    scenario.advance()
    assert scenario.exchange.state.order_store.reserved_buying_power() == 99_000
    scenario.given_position("MSFT", 10)
    stop = scenario.submit("sell", 4, "MSFT", "stop", stop_price="250")
    scenario.advance()
    scenario.replace(stop, qty=8)
    assert scenario.exchange.held_for_orders(scenario.exchange.position("MSFT")) == 8
    scenario.advance()
    current = scenario.exchange.find_order(stop.replaced_by or "")
    assert scenario.expect_rejection(scenario.replace, current, qty=11).body["available"] == "10"


def test_replaced_target_stays_linked_to_its_stop() -> None:
    """A target replaced by a marketable limit sells and its stop is canceled: an exit without a market order."""
    scenario = ExchangeScenario()
    order = scenario.submit_bracket(100)
    scenario.advance()
    target = scenario.leg(order, OrderRole.TARGET)
    replacement = scenario.replace(target, limit_price="99.5")
    scenario.advance()
    assert scenario.leg(order, OrderRole.TARGET) is replacement
    assert replacement.status is OrderStatus.FILLED
    scenario.advance()
    assert scenario.leg(order, OrderRole.STOP).status is OrderStatus.CANCELED
    assert scenario.exchange.state.account.qty("AAPL") == 0
    scenario.assert_audit_clean()


def test_replaced_entry_keeps_its_legs() -> None:
    """The new parent order has the legs, in the new quantity."""
    scenario = ExchangeScenario()
    order = scenario.submit_bracket(100, kind="limit", limit_price="98")
    scenario.advance()
    replacement = scenario.replace(order, qty=50, limit_price="101")
    scenario.advance()
    assert (replacement.status, order.legs) == (OrderStatus.FILLED, [])
    assert [leg.qty for leg in scenario.exchange.state.order_store.legs(replacement)] == [
        Decimal(50),
        Decimal(50),
    ]
    assert scenario.leg(replacement, OrderRole.TARGET).status is OrderStatus.NEW


def test_resized_target_keeps_what_it_has_sold() -> None:
    """A target of 100 that has sold 40 is resized to 90: 50 are left, its stop covers 50, and neither sells more."""
    scenario = ExchangeScenario()
    order = scenario.submit_bracket(100)
    scenario.advance()
    scenario.feed.quotes["AAPL"] = ("109", "111")
    scenario.print_trade("AAPL", "110", size=160)
    target = scenario.leg(order, OrderRole.TARGET)
    assert (target.filled_qty, scenario.leg(order, OrderRole.STOP).qty) == (40, 60)
    replacement = scenario.replace(target, qty=90)
    scenario.advance()
    assert (replacement.filled_qty, replacement.remaining) == (40, 50)
    assert scenario.leg(order, OrderRole.STOP).qty == 50
    scenario.feed.quotes.clear()
    scenario.print_trade("AAPL", "94")
    assert scenario.exchange.state.account.qty("AAPL") == 10
    assert [execution.qty for execution in scenario.exchange.state.executions] == [100, 40, 50]
    scenario.assert_audit_clean()
