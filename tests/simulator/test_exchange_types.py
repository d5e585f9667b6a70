"""Order types, times in force, and edge cases of reserves and margin."""

from datetime import timedelta
from decimal import Decimal

import pytest

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import OrderStatus
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import MONDAY, at

TUESDAY = MONDAY.replace(day=10)


def test_triggered_stop_limit_keeps_its_limit() -> None:
    """A gap through stop and limit leaves the order `new`; it sells when the market is back at the limit."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 10)
    order = scenario.submit("sell", 10, "AAPL", "stop_limit", stop_price="95", limit_price="94")
    scenario.advance()
    scenario.print_trade("AAPL", "90")
    assert (order.status, order.triggered) == (OrderStatus.NEW, True)
    scenario.print_trade("AAPL", "93.5")
    assert order.status is OrderStatus.NEW
    scenario.print_trade("AAPL", "94.5")
    assert (order.status, order.average_fill_price) == (OrderStatus.FILLED, Decimal("94.49"))


def test_trailing_stop_price_is_not_rounded() -> None:
    """A stop 5% under a price between ticks is not rounded, at creation and after the high-water mark moves."""
    scenario = ExchangeScenario()
    scenario.feed.add_trade("AAPL", at("10:00"), "3648.1299")
    scenario.exchange.deposit(Decimal(100_000))
    scenario.given_position("AAPL", 1)
    order = scenario.submit("sell", 1, "AAPL", "trailing_stop", trail_percent="5")
    assert (order.hwm, order.stop_price) == (Decimal("3648.1299"), Decimal("3465.723405"))
    scenario.advance()
    scenario.print_trade("AAPL", "3700.0101")
    assert (order.hwm, order.stop_price) == (Decimal("3700.0101"), Decimal("3515.009595"))
    scenario.print_trade("AAPL", "3515.01")
    assert order.status is OrderStatus.NEW
    scenario.print_trade("AAPL", "3515.009595")
    assert order.status is OrderStatus.FILLED


def test_short_trailing_stop_ignores_trades_outside_regular_hours() -> None:
    """The stop follows the price down on regular trades only, and buys after the rise."""
    scenario = ExchangeScenario(start=at("15:58"))
    scenario.given_position("AAPL", -10)
    order = scenario.submit("buy", 10, "AAPL", "trailing_stop", trail_price="2", time_in_force="gtc")
    scenario.advance()
    scenario.print_trade("AAPL", "97")
    assert (order.hwm, order.stop_price) == (Decimal(97), Decimal(99))
    scenario.feed.add_trade("AAPL", at("17:00"), "80")
    scenario.feed.add_trade("AAPL", at("18:00"), "120")
    scenario.advance_to("18:30")
    assert (order.status, order.stop_price) == (OrderStatus.NEW, Decimal(99))
    scenario.feed.add_trade("AAPL", at("09:30", TUESDAY), "101")
    scenario.exchange.venue.advance(at("09:31", TUESDAY))
    assert (order.status, order.average_fill_price) == (OrderStatus.FILLED, Decimal("101.01"))


def test_trailing_stop_replacement_changes_only_the_trail() -> None:
    """The new distance counts from now; limit and stop prices are rejected."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 10)
    order = scenario.submit("sell", 10, "AAPL", "trailing_stop", trail_price="5")
    scenario.advance()
    for name in ("limit_price", "stop_price"):
        assert scenario.expect_rejection(scenario.replace, order, **{name: "90"}).status == 422
    changed = scenario.replace(order, trail="2")
    scenario.advance()
    assert (order.status, changed.status) == (OrderStatus.REPLACED, OrderStatus.NEW)
    assert (changed.trail_price, changed.stop_price) == (Decimal(2), Decimal(98))


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"trail_price": "1", "trail_percent": "1"}, "require one of trail_price or trail_percent"),
        ({"trail_percent": "0.09"}, "trail_percent must be >= 0.1"),
        ({"trail_price": "1", "time_in_force": "ioc"}, 'support only "day" or "gtc" time_in_force'),
        (
            {"trail_price": "1", "extended_hours": True},
            "extended hours order must be DAY or GTC limit orders",
        ),
        (
            {
                "trail_price": "1",
                "order_class": "bracket",
                "take_profit": {"limit_price": 1},
                "stop_loss": {"stop_price": 2},
            },
            "trailing stop orders must be simple orders",
        ),
    ],
)
def test_invalid_trailing_stop_is_rejected(terms: dict[str, object], message: str) -> None:
    """Only one trail, large enough, day or gtc, in regular hours, as a simple order is accepted."""
    rejection = ExchangeScenario().expect_rejection(
        ExchangeScenario().submit, "buy", 1, "AAPL", "trailing_stop", **terms
    )
    assert rejection.status == 422
    assert message in str(rejection)


@pytest.mark.parametrize(
    ("time_in_force", "kind", "size", "filled", "events"),
    [
        ("ioc", "market", 60, 60, ["new", "partial_fill", "canceled"]),
        ("ioc", "limit", 60, 60, ["new", "partial_fill", "canceled"]),
        ("ioc", "limit", 100, 100, ["new", "fill"]),
        ("fok", "market", 60, 0, ["new", "canceled"]),
        ("fok", "limit", 60, 0, ["new", "canceled"]),
        ("fok", "limit", 100, 100, ["new", "fill"]),
    ],
)
def test_unfilled_rest_of_an_immediate_order_is_cancelled(
    time_in_force: str, kind: str, size: int, filled: int, events: list[str]
) -> None:
    """The rest is cancelled after the match with the quote; no quantity rests and no buying power stays
    reserved."""
    scenario = ExchangeScenario()
    scenario.feed.quote_size = size
    terms = {"limit_price": "101"} if kind == "limit" else {}
    order = scenario.submit("buy", 100, "AAPL", kind, time_in_force=time_in_force, **terms)
    scenario.advance()
    assert (order.filled_qty, scenario.events(order)) == (Decimal(filled), events)
    assert scenario.exchange.state.order_store.reserved_buying_power() == 0
    scenario.assert_audit_clean()


def test_ioc_limit_away_from_the_market_is_cancelled_at_once() -> None:
    """The order does not wait for later prints."""
    scenario = ExchangeScenario()
    order = scenario.submit("buy", 10, "AAPL", "limit", limit_price="99", time_in_force="ioc")
    scenario.advance()
    assert order.status is OrderStatus.CANCELED


def test_fractional_quantities_are_exact() -> None:
    """A fractional purchase, a notional sale and a closed position leave no billionth of a share."""
    scenario = ExchangeScenario()
    scenario.submit("buy", "2.345678901")
    scenario.advance()
    assert scenario.exchange.state.account.qty("AAPL") == Decimal("2.345678901")
    sale = scenario.submit("sell", None, notional="99.99")
    scenario.advance()
    assert (sale.status, sale.filled_qty) == (OrderStatus.FILLED, Decimal(1))
    scenario.exchange.close_position("AAPL")
    scenario.advance()
    assert scenario.exchange.state.account.positions == {}
    scenario.assert_audit_clean()


@pytest.mark.parametrize(
    ("terms", "status", "message"),
    [
        ({"qty": None, "notional": "0.99"}, 403, "notional must be >= 1.00"),
        ({"qty": 1, "notional": "10"}, 422, "only one of qty or notional is accepted"),
        ({"qty": "0.5", "time_in_force": "gtc"}, 422, "fractional orders must be DAY orders"),
        ({"qty": "0.5", "side": "sell"}, 422, "fractional orders cannot be sold short"),
        ({"qty": "0.5", "symbol": "WHOL"}, 403, 'asset "WHOL" is not fractionable'),
    ],
)
def test_invalid_fractional_orders_are_rejected(terms: dict[str, object], status: int, message: str) -> None:
    """Too small a notional, notional with quantity, gtc, a short sale and a non-fractionable asset are
    rejected."""
    scenario = ExchangeScenario()
    body: dict[str, object] = {"side": "buy", **terms}
    rejection = scenario.expect_rejection(scenario.submit, body.pop("side"), body.pop("qty"), **body)
    assert (rejection.status, str(rejection)) == (status, message)


def test_extended_hours_orders_work_from_four_to_twenty() -> None:
    """An order placed at night works from 4:00; a day order expires at 20:00, a gtc order works the next
    morning."""
    scenario = ExchangeScenario(start=at("02:00"))
    day = scenario.submit("buy", 1, "AAPL", "limit", limit_price="90", extended_hours=True)
    gtc = scenario.submit(
        "buy", 1, "MSFT", "limit", limit_price="290", extended_hours=True, time_in_force="gtc"
    )
    scenario.advance_to("03:59")
    assert (day.status, gtc.status) == (OrderStatus.ACCEPTED, OrderStatus.ACCEPTED)
    scenario.advance_to("04:01")
    assert (day.status, gtc.status) == (OrderStatus.NEW, OrderStatus.NEW)
    scenario.advance_to("19:59")
    assert day.status is OrderStatus.NEW
    scenario.advance_to("20:00")
    assert (day.status, gtc.status) == (OrderStatus.EXPIRED, OrderStatus.NEW)
    scenario.feed.add_trade("MSFT", at("04:30", TUESDAY), "289")
    scenario.exchange.venue.advance(at("04:31", TUESDAY))
    assert gtc.status is OrderStatus.FILLED


def test_plain_order_does_not_trade_outside_regular_hours() -> None:
    """An evening trade at its price does not fill it; it keeps working for the next session."""
    scenario = ExchangeScenario(start=at("15:59"))
    order = scenario.submit("buy", 1, "AAPL", "limit", limit_price="95", time_in_force="gtc")
    scenario.feed.add_trade("AAPL", at("17:00"), "90")
    scenario.advance_to("18:00")
    assert order.status is OrderStatus.NEW


def test_gtc_order_expires_after_ninety_days() -> None:
    """The order expires at 16:15 of that day."""
    scenario = ExchangeScenario()
    order = scenario.submit("buy", 1, "AAPL", "limit", limit_price="50", time_in_force="gtc")
    assert order.expires_at == at("16:15", MONDAY + timedelta(days=90))
    scenario.exchange.venue.advance(order.expires_at - timedelta(seconds=1))
    assert order.status is OrderStatus.NEW
    scenario.exchange.venue.advance(order.expires_at)
    assert order.status is OrderStatus.EXPIRED


@pytest.mark.parametrize(
    ("time_of_day", "price"),
    [("11:00", "110"), ("08:00", "105"), ("21:00", "100")],
)
def test_market_order_reserve_price_depends_on_the_hours(time_of_day: str, price: str) -> None:
    """The reserve uses the opposite quote in regular hours, the midpoint in extended hours, and the last
    trade while closed."""
    scenario = ExchangeScenario(start=at(time_of_day))
    scenario.feed.quotes["AAPL"] = ("100", "110")
    order = scenario.submit("buy", 1)
    assert order.unit_reserve == Decimal(price) * Decimal("1.025")


def test_short_reserves_the_higher_of_limit_and_ask() -> None:
    """The reserve is the ask plus 3%, or the limit when that is higher."""
    scenario = ExchangeScenario()
    scenario.feed.quotes["AAPL"] = ("99", "101")
    low = scenario.submit("sell", 10, "AAPL", "limit", limit_price="100")
    assert low.reserve == Decimal(101) * Decimal("1.03") * 10
    scenario.exchange.cancel(low.id)
    scenario.advance()
    high = scenario.submit("sell", 10, "AAPL", "limit", limit_price="150")
    assert high.reserve == 1500


def test_share_below_2_50_requires_full_margin() -> None:
    """Below $2.50, initial and maintenance margin are the whole price."""
    scenario = ExchangeScenario()
    scenario.feed.add_trade("AAPL", at("10:59:59"), "2")
    scenario.given_position("AAPL", 100)
    initial, maintenance = scenario.exchange.state.account.margin_requirements(
        scenario.exchange.state.mark_price
    )
    assert (initial, maintenance) == (200, 200)


def test_gtc_short_sale_is_cancelled_when_hard_to_borrow_before_the_open() -> None:
    """The order is canceled at the open; an order in another symbol stays working."""
    scenario = ExchangeScenario(start=at("15:00"))
    cancelled = scenario.submit("sell", 10, "AAPL", "limit", limit_price="120", time_in_force="gtc")
    working = scenario.submit("sell", 10, "MSFT", "limit", limit_price="350", time_in_force="gtc")
    scenario.advance_to("16:30")
    scenario.exchange.state.settings.hard_to_borrow.add("AAPL")
    scenario.exchange.venue.advance(at("09:31", TUESDAY))
    assert (cancelled.status, working.status) == (OrderStatus.CANCELED, OrderStatus.NEW)
    assert scenario.events(cancelled) == ["new", "canceled"]


def test_partial_fault_can_be_a_share_of_the_order() -> None:
    """The fault fills this share of any order size, rounded down to whole shares, and counts once per order."""
    with ExchangeScenario() as scenario:
        whole = scenario.add_fault(
            FaultKind.PARTIAL, symbol="TSLA", qty="9", may_stay_silent="it limits nothing"
        )
        fault = scenario.add_fault(FaultKind.PARTIAL, share="0.4")
        orders = [scenario.submit("buy", 9, symbol) for symbol in ("AAPL", "MSFT")]
        scenario.given_position("TSLA", 9)
        for _ in range(3):
            scenario.advance()
            scenario.print_trade("AAPL", "100")
        assert [order.filled_qty for order in orders] == [3, 3]
        assert (fault.fired, whole.fired) == (2, 0)
