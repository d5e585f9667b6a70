"""Single orders: acceptance, rejection messages and fills."""

from decimal import Decimal

import pytest

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import OrderSide, OrderStatus, PositionIntent
from catalyst.simulator.rules.wire_format import ApiError
from tests.simulator.exchange_scenario import ExchangeScenario, fixed_latencies
from tests.simulator.manual_feed import at


def test_short_position_is_negative_and_closed_by_a_buy() -> None:
    """A sale without shares gives a negative quantity; buying back realises the difference."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", -10)
    assert scenario.exchange.state.account.qty("AAPL") == -10
    scenario.print_trade("AAPL", "90")
    order = scenario.submit("buy", 10)
    assert order.intent is PositionIntent.BUY_TO_CLOSE
    scenario.advance()
    assert scenario.exchange.state.account.realised == Decimal("99.80")  # sold at 99.99, bought at 90.01
    scenario.assert_audit_clean()


@pytest.mark.parametrize("sign", [1, -1])
def test_trade_through_zero_closes_one_side_and_opens_the_other(sign: int) -> None:
    """Ten shares at 100, then fifteen against them at 110: five of the other side at 110, and the profit of ten shares.
    Cash, cost and profit agree after each trade, for longs as for shorts."""
    account = ExchangeScenario().exchange.state.account
    start = account.cash
    enter, against = (OrderSide.BUY, OrderSide.SELL) if sign > 0 else (OrderSide.SELL, OrderSide.BUY)
    for side, qty, price, realised in (
        (enter, 10, 100, 0), (against, 4, 110, 40), (against, 11, 110, 100), (enter, 5, 104, 130),
    ):  # fmt: skip
        account.book_fill("AAPL", side, Decimal(qty), Decimal(price))
        assert account.realised == sign * realised
        cost = account.positions["AAPL"].cost if "AAPL" in account.positions else 0
        assert account.cash + cost == start + account.realised
    assert account.positions == {}


@pytest.mark.parametrize("qty", [100, -100])
def test_position_of_either_side_uses_buying_power(qty: int) -> None:
    """A short of 100 shares at 100 uses as much buying power as a long: its value, once."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", qty)
    state = scenario.exchange.state
    equity = state.account.equity(state.mark_price)
    assert state.account.buying_power(state.mark_price, Decimal(0)) == equity * 4 - 10_000


def test_late_fill_of_one_symbol_leaves_the_other_position_as_it_is() -> None:
    """The position list shows a late fill of AAPL after its delay, and a fill of MSFT at once."""
    with ExchangeScenario() as scenario:
        scenario.add_fault(FaultKind.POSITION_LAG, symbol="AAPL", seconds=30, count=0)
        for symbol in ("AAPL", "MSFT"):
            scenario.submit("buy", 10, symbol)
        scenario.advance()
        shown = [scenario.exchange.position_qty(symbol) for symbol in ("AAPL", "MSFT")]
        assert shown == [0, 10]
        assert [position.symbol for position in scenario.exchange.positions()] == ["MSFT"]
        scenario.advance(31)
        assert [(each.symbol, each.qty) for each in scenario.exchange.positions()] == [
            ("AAPL", 10),
            ("MSFT", 10),
        ]


def test_never_ack_fault_keeps_an_order_pending_new() -> None:
    """The order stays pending_new whatever trades, and can be cancelled."""
    with ExchangeScenario() as scenario:
        scenario.add_fault(FaultKind.NEVER_ACK, symbol="AAPL")
        order = scenario.submit("buy", 1)
        scenario.advance(600)
        scenario.print_trade("AAPL", "100")
        assert order.status is OrderStatus.PENDING_NEW
        scenario.exchange.cancel(order.id)
        scenario.advance()
        assert order.status is OrderStatus.CANCELED


def test_trailing_stop_follows_the_price_only_up() -> None:
    """The high-water mark rises with the trades, the stop follows at its distance, and a fall to the stop
    sells."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 10)
    order = scenario.submit("sell", 10, "AAPL", "trailing_stop", trail_percent="5")
    assert (order.hwm, order.stop_price) == (Decimal(100), Decimal(95))
    scenario.advance()
    scenario.print_trade("AAPL", "110")
    scenario.print_trade("AAPL", "108")
    assert (order.hwm, order.stop_price) == (Decimal(110), Decimal("104.5"))
    scenario.print_trade("AAPL", "104.4")
    assert order.status is OrderStatus.FILLED


def test_limit_order_fills_at_its_limit_or_better() -> None:
    """A trade at the limit fills at the limit; a trade through it fills at the better quote."""
    scenario = ExchangeScenario()
    at_limit = scenario.submit("buy", 10, "AAPL", "limit", limit_price="99")
    through = scenario.submit("buy", 10, "MSFT", "limit", limit_price="299")
    scenario.advance()
    scenario.print_trade("AAPL", "99")
    scenario.print_trade("MSFT", "290")
    assert at_limit.average_fill_price == Decimal(99)
    assert through.average_fill_price == Decimal("290.01")


def test_opg_and_cls_orders_trade_at_the_open_and_close() -> None:
    """opg is rejected from 9:28, cls from 15:50; before that they are accepted and fill at the open and the
    close."""
    scenario = ExchangeScenario()
    assert "opg orders must be submitted" in str(
        scenario.expect_rejection(scenario.submit, "buy", 1, time_in_force="opg")
    )
    closing = scenario.submit("buy", 1, time_in_force="cls")
    scenario.feed.add_trade("AAPL", at("15:59"), "101")
    scenario.advance_to("15:55")
    assert "cls orders must be submitted" in str(
        scenario.expect_rejection(scenario.submit, "buy", 1, "MSFT", time_in_force="cls")
    )
    assert closing.status is OrderStatus.NEW
    scenario.advance_to("16:00")
    assert (closing.status, closing.average_fill_price) == (OrderStatus.FILLED, Decimal(101))
    morning = ExchangeScenario(start=at("09:00"))
    opening = morning.submit("buy", 1, time_in_force="opg")
    morning.feed.add_trade("AAPL", at("09:30"), "102")
    morning.advance_to("09:31")
    assert (opening.status, opening.average_fill_price) == (OrderStatus.FILLED, Decimal(102))


def test_random_partial_fills_repeat_with_the_seed() -> None:
    """Random partial fills are equal for equal seeds and differ between five seeds."""

    def trade_day(seed: int) -> list[tuple[str, Decimal]]:
        settings = fixed_latencies()
        settings.partial_probability = Decimal("0.5")
        scenario = ExchangeScenario(switches=settings, seed=seed)
        scenario.submit("buy", 100)
        scenario.advance()
        for price in ("100.1", "100.2", "100.3", "100.4"):
            scenario.print_trade("AAPL", price, size=160)
        return [(execution.id, execution.qty) for execution in scenario.exchange.state.executions]

    assert trade_day(1) == trade_day(1)
    assert len({tuple(trade_day(seed)) for seed in range(5)}) == 5


def test_ioc_keeps_its_partial_fill_and_fok_fills_nothing() -> None:
    """An ioc order keeps its partial fill; a fok order fills completely or not at all."""
    scenario = ExchangeScenario()
    scenario.feed.quote_size = 60
    ioc_order = scenario.submit("buy", 100, "AAPL", "limit", limit_price="101", time_in_force="ioc")
    fok_order = scenario.submit("buy", 100, "MSFT", "limit", limit_price="301", time_in_force="fok")
    scenario.advance()
    assert (ioc_order.status, ioc_order.filled_qty) == (OrderStatus.CANCELED, Decimal(60))
    assert (fok_order.status, fok_order.filled_qty) == (OrderStatus.CANCELED, Decimal(0))


def test_notional_order_buys_its_amount() -> None:
    """A $1,000 order at 100.01 buys a fractional quantity."""
    scenario = ExchangeScenario()
    order = scenario.submit("buy", None, notional="1000")
    scenario.advance()
    assert order.status is OrderStatus.FILLED
    assert abs(order.filled_value - 1000) < Decimal("0.001")
    scenario.assert_audit_clean()


def test_suspended_or_blocked_account_rejects_orders() -> None:
    """Orders are rejected while the customer suspends trading or the broker blocks it."""
    scenario = ExchangeScenario()
    scenario.exchange.state.account.configuration.suspend_trade = True
    assert (
        scenario.expect_rejection(scenario.submit, "buy", 1).body["message"]
        == "new orders are rejected by user request"
    )
    scenario.exchange.state.account.configuration.suspend_trade = False
    scenario.exchange.state.account.trading_blocked = True
    assert scenario.expect_rejection(scenario.submit, "buy", 1).status == 403


def test_regulatory_fees_are_charged_at_the_close_when_enabled() -> None:
    """Fees accrue on sales and reduce the cash at the close; the audit stays clean."""
    scenario = ExchangeScenario()
    scenario.exchange.state.settings.charge_fees = True
    scenario.given_position("AAPL", 100)
    scenario.submit("sell", 100)
    scenario.advance()
    assert scenario.exchange.state.account.accrued_fees == Decimal(
        "0.23"
    )  # 9999 * 0.0000206 + 100 * 0.000195
    scenario.advance_to("16:00")
    assert (scenario.exchange.state.account.fees, scenario.exchange.state.account.accrued_fees) == (
        Decimal("0.23"),
        Decimal(0),
    )
    scenario.assert_audit_clean()


def test_exchange_time_never_moves_backwards() -> None:
    """Advancing to a past time changes nothing."""
    scenario = ExchangeScenario()
    order = scenario.submit("buy", 1)
    scenario.advance()
    before = scenario.now
    scenario.exchange.venue.advance(at("10:00"))
    assert scenario.now == before
    assert order.status is OrderStatus.FILLED


def test_executions_do_not_depend_on_step_size() -> None:
    """One step over an hour and steps of 7.3 seconds give equal trades at equal times."""

    def trade_hour(step: float) -> list[tuple[object, ...]]:
        scenario = ExchangeScenario()
        scenario.feed.quote_size = 50
        for n in range(60):
            scenario.feed.add_trade("AAPL", at(f"11:{n:02d}:30"), str(100 + n % 13 - 6), 300)
        scenario.submit_bracket(200, kind="limit", limit_price="100.5")
        while scenario.now < at("12:00"):
            scenario.advance(step)
        return [(e.id, e.at, e.price, e.qty, e.order_id) for e in scenario.exchange.state.executions]

    assert trade_hour(3600) == trade_hour(7.3)
    assert len(trade_hour(3600)) > 3


def test_exchange_reads_prints_only_of_symbols_with_orders() -> None:
    """The exchange reads the trading feed only for symbols with working orders."""
    scenario = ExchangeScenario()
    read_symbols: list[str] = []
    read_prints = scenario.feed.prints
    scenario.feed.prints = lambda symbol, *span: read_symbols.append(symbol) or read_prints(symbol, *span)  # type: ignore[method-assign,func-returns-value]
    scenario.advance()
    assert read_symbols == []
    scenario.submit("buy", 1, "AAPL", "limit", limit_price="50")
    scenario.advance()
    assert set(read_symbols) == {"AAPL"}


def test_api_error_text_is_its_message() -> None:
    """The exception's text is the message of its body."""
    error = ApiError(403, 40310000, "no", why="because")
    assert str(error) == "no"
    assert error.body == {"why": "because", "message": "no", "code": 40310000}
