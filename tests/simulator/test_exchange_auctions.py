"""Opening, reopening and closing auctions: all participants trade at one price."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.persistence import Journal
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.rules.orders import Order, OrderRole, OrderStatus
from catalyst.simulator.synthetic import market as synthetic_market
from catalyst.simulator.trading_api.order_parsing import parse_submit_request
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import HALF_DAY, MONDAY, at

TUESDAY = MONDAY.replace(day=10)


def status_and_average(order: Order) -> tuple[OrderStatus, Decimal | None]:
    return order.status, order.average_fill_price


@pytest.mark.parametrize(
    ("terms", "fill"),
    [
        ({"time_in_force": "opg"}, "103"),
        ({"time_in_force": "opg", "kind": "limit", "limit_price": "104"}, "103"),
        ({"time_in_force": "opg", "kind": "limit", "limit_price": "103"}, "103"),
        ({"time_in_force": "opg", "kind": "limit", "limit_price": "102.99"}, None),
        ({}, "103"),
        ({"kind": "limit", "limit_price": "105"}, "103"),
        ({"qty": None, "notional": "206"}, "103"),
        ({"time_in_force": "fok", "kind": "limit", "limit_price": "105"}, "103"),
        ({"time_in_force": "ioc", "kind": "limit", "limit_price": "102"}, None),
    ],
)
def test_orders_queued_for_the_open_fill_at_the_opening_print(terms: dict[str, object], fill: str) -> None:
    """Orders fill completely at the price of the day's first trade, whatever its size and the quote."""
    scenario = ExchangeScenario(start=at("08:00"), deposit=Decimal(1_000_000))
    order = scenario.submit("buy", **{"qty": 5000, **terms})  # type: ignore[arg-type]
    scenario.feed.add_trade("AAPL", at("09:00"), "90")  # before the open
    scenario.feed.add_trade("AAPL", at("09:30"), "103", 10)
    scenario.feed.quotes["AAPL"] = ("110", "111")
    scenario.advance_to("09:29")
    assert order.status is OrderStatus.ACCEPTED
    scenario.advance_to("09:30")
    if fill is None:
        assert status_and_average(order) == (OrderStatus.CANCELED, None)
    else:
        assert status_and_average(order) == (OrderStatus.FILLED, Decimal(fill))
        assert scenario.events(order) == ["new", "fill"]
        assert scenario.updates(order)[1].data["price"] == fill
    scenario.assert_audit_clean()


def test_day_limit_not_reached_by_the_opening_stays_working() -> None:
    """A queued limit order not reached by the auction stays working and fills when a later trade reaches it."""
    scenario = ExchangeScenario(start=at("08:00"))
    order = scenario.submit("buy", 5, "AAPL", "limit", limit_price="101")
    scenario.feed.add_trade("AAPL", at("09:30"), "103")
    scenario.advance_to("09:40")
    assert order.status is OrderStatus.NEW
    scenario.print_trade("AAPL", "100.5")
    assert order.status is OrderStatus.FILLED


def test_symbol_opens_with_its_first_trade_of_the_day() -> None:
    """Opening orders stay `new` until the first trade; without a trade that day they are canceled."""
    scenario = ExchangeScenario(start=at("08:00"))
    late_opening = scenario.submit("buy", 5, time_in_force="opg")
    untraded = scenario.submit("buy", 5, "MSFT", time_in_force="opg")
    market_order = scenario.submit("buy", 5, "TSLA")
    scenario.feed.add_trade("AAPL", at("09:47"), "107")
    scenario.advance_to("09:46")
    assert {late_opening.status, untraded.status, market_order.status} == {OrderStatus.NEW}
    scenario.advance_to("15:00")
    assert status_and_average(late_opening) == (OrderStatus.FILLED, Decimal(107))
    scenario.advance_to("16:00")
    assert (untraded.status, market_order.status) == (OrderStatus.CANCELED, OrderStatus.EXPIRED)
    assert scenario.events(untraded) == ["new", "canceled"]


def test_overnight_orders_take_part_in_the_opening() -> None:
    """A target below the opening price sells at the opening price; a stop is triggered by that print and
    sells at the quote."""
    scenario = ExchangeScenario(start=at("15:00"))
    scenario.submit_bracket(10, time_in_force="gtc")
    scenario.submit_bracket(
        10, "MSFT", time_in_force="gtc", take_profit={"limit_price": "330"}, stop_loss={"stop_price": "290"}
    )
    scenario.advance()
    scenario.feed.add_trade("AAPL", at("09:30", TUESDAY), "115")
    scenario.feed.add_trade("MSFT", at("09:30", TUESDAY), "280")
    scenario.exchange.venue.advance(at("09:31", TUESDAY))
    price_by_side = {(e.symbol, e.side.value): e.price for e in scenario.exchange.state.executions}
    assert price_by_side["AAPL", "sell"] == Decimal(115)
    assert price_by_side["MSFT", "sell"] == Decimal("279.99")
    assert scenario.exchange.state.account.positions == {}
    scenario.assert_audit_clean()


@pytest.mark.parametrize(
    ("terms", "fill"),
    [
        ({}, "101"),
        ({"kind": "limit", "limit_price": "101"}, "101"),
        ({"kind": "limit", "limit_price": "104"}, "101"),
        ({"kind": "limit", "limit_price": "100.5"}, None),
    ],
)
@pytest.mark.parametrize("submitted_at", ["08:00", "11:00"])
def test_cls_orders_fill_at_the_closing_print(
    terms: dict[str, object], fill: str | None, submitted_at: str
) -> None:
    """Orders wait through the day's trades and fill at the last one; an order out of reach is canceled."""
    scenario = ExchangeScenario(start=at(submitted_at), deposit=Decimal(1_000_000))
    order = scenario.submit("buy", 5000, time_in_force="cls", **terms)  # type: ignore[arg-type]
    for minute, price in (("09:30", "99"), ("12:00", "98"), ("15:59", "101")):
        scenario.feed.add_trade("AAPL", at(minute), price, 10)
    scenario.feed.add_trade("AAPL", at("16:00:01"), "50")
    scenario.advance_to("15:59:30")
    assert order.status is OrderStatus.NEW
    scenario.advance_to("16:00")
    assert status_and_average(order) == (
        (OrderStatus.CANCELED, None) if fill is None else (OrderStatus.FILLED, Decimal(fill))
    )
    scenario.assert_audit_clean()


def test_symbol_without_trades_or_halted_has_no_closing_auction() -> None:
    """A symbol without a trade today has no closing print (yesterday's price is none), and neither has a
    halted one."""
    scenario = ExchangeScenario(start=at("08:00"))
    untraded = scenario.submit("buy", 5, time_in_force="cls")
    halted = scenario.submit("buy", 5, "MSFT", time_in_force="cls")
    scenario.feed.add_trade("MSFT", at("12:00"), "300")
    scenario.advance_to("13:00")
    scenario.exchange.state.halt("MSFT")
    scenario.advance_to("16:00")
    assert (untraded.status, halted.status) == (OrderStatus.CANCELED, OrderStatus.CANCELED)


@pytest.mark.parametrize(
    ("day", "time_of_day", "time_in_force", "accepted"),
    [
        (MONDAY, "09:27:59", "opg", True),
        (MONDAY, "09:28:00", "opg", False),
        (MONDAY, "18:59:59", "opg", False),
        (MONDAY, "19:00:00", "opg", True),
        (MONDAY, "15:49:59", "cls", True),
        (MONDAY, "15:50:00", "cls", False),
        (MONDAY, "18:59:59", "cls", False),
        (MONDAY, "19:00:00", "cls", True),
        (HALF_DAY, "12:49:59", "cls", True),
        (HALF_DAY, "12:50:00", "cls", False),
        (HALF_DAY, "15:00:00", "cls", False),
        (HALF_DAY, "19:00:00", "cls", True),
    ],
)
def test_auction_orders_are_accepted_only_in_their_windows(
    day: date, time_of_day: str, time_in_force: str, accepted: bool
) -> None:
    """opg is accepted until 2 minutes before the open, cls until 10 minutes before that day's close; both
    again from 19:00."""
    scenario = ExchangeScenario(start=at(time_of_day, day))
    if accepted:
        scenario.submit("buy", 1, time_in_force=time_in_force)
    else:
        window_text = {"opg": "after 7:00pm and before 9:28am", "cls": "after 7:00pm and before 3:55pm"}[
            time_in_force
        ]
        rejection = scenario.expect_rejection(scenario.submit, "buy", 1, time_in_force=time_in_force)
        assert (rejection.status, rejection.body["message"]) == (
            422,
            f"{time_in_force} orders must be submitted {window_text}",
        )


def test_auction_rejects_stops_and_late_replacements() -> None:
    """Auctions accept market and limit orders only; a replacement to cls obeys the time window too."""
    scenario = ExchangeScenario()
    rejection = scenario.expect_rejection(
        scenario.submit, "buy", 1, "AAPL", "stop", stop_price="105", time_in_force="cls"
    )
    assert (rejection.status, rejection.body["message"]) == (422, "cls orders must be market or limit orders")
    order = scenario.submit("buy", 1, "AAPL", "limit", limit_price="50")
    scenario.advance_to("15:51")
    rejection = scenario.expect_rejection(scenario.replace, order, time_in_force="cls")
    assert "cls orders must be submitted" in str(rejection)


def test_half_day_closing_auction_uses_its_last_trade() -> None:
    """A cls order on the day after Thanksgiving fills at 13:00."""
    scenario = ExchangeScenario(start=at("11:00", HALF_DAY))
    order = scenario.submit("buy", 5, time_in_force="cls")
    scenario.feed.add_trade("AAPL", at("12:59", HALF_DAY), "104")
    scenario.exchange.venue.advance(at("13:00", HALF_DAY))
    assert status_and_average(order) == (OrderStatus.FILLED, Decimal(104))


def test_halt_ends_with_a_reopening_auction() -> None:
    """A limit order working through the halt fills at the reopening print; that print, and no earlier one,
    triggers a stop."""
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 20)
    scenario.submit("sell", 10, "AAPL", "stop", stop_price="95")
    scenario.advance()
    scenario.exchange.state.halt("AAPL")
    scenario.print_trade("AAPL", "94")
    market_rejection = scenario.expect_rejection(scenario.submit, "sell", 1, "AAPL")
    assert market_rejection.body["message"] == (
        'market order rejected due to trading halt on symbol: "AAPL", please place a limit order instead'
    )
    resting_order = scenario.submit("sell", 10, "AAPL", "limit", limit_price="75")
    scenario.advance()
    assert (resting_order.status, len(scenario.exchange.state.executions)) == (OrderStatus.NEW, 1)
    scenario.exchange.venue.resume("AAPL")
    scenario.advance()
    assert (
        len(scenario.exchange.state.executions) == 1
    )  # before the reopening print there is no trade, also none at the quote
    scenario.print_trade("AAPL", "80", size=4)
    assert [(e.price, e.qty) for e in scenario.exchange.state.executions[1:]] == [
        (Decimal("79.99"), Decimal(10)),
        (Decimal(80), Decimal(10)),
    ]
    scenario.assert_audit_clean()


def test_resume_ends_the_halt_of_its_symbol_alone() -> None:
    """Two symbols are halted and one resumes: only its order trades, and its print does not reopen the other."""
    scenario = ExchangeScenario()
    orders = [scenario.submit("buy", 5, symbol, "limit", limit_price="400") for symbol in ("AAPL", "MSFT")]
    for symbol in ("AAPL", "MSFT"):
        scenario.exchange.state.halt(symbol)
    scenario.advance()
    scenario.exchange.venue.resume("AAPL")
    for symbol in ("AAPL", "MSFT"):
        scenario.print_trade(symbol, "310")
    assert [order.status for order in orders] == [OrderStatus.FILLED, OrderStatus.NEW]
    scenario.exchange.venue.resume("MSFT")
    scenario.print_trade("MSFT", "311")
    assert status_and_average(orders[1]) == (OrderStatus.FILLED, Decimal(311))


def test_every_day_has_its_own_open_and_close() -> None:
    """Orders of three evenings each fill at the next open. Each close adds an equity and each open carries the shares
    over; the fees of a day are charged at its close, once."""
    scenario = ExchangeScenario(start=at("15:00"))
    state = scenario.exchange.state
    state.settings.charge_fees = True
    scenario.given_position("AAPL", 10)
    scenario.submit("sell", 1)
    fills = []
    for number in range(3):
        day = MONDAY + timedelta(days=number + 1)
        scenario.exchange.venue.advance(at("20:00", day - timedelta(days=1)))
        assert len(state.equity_history) == number + 1
        order = scenario.submit("buy", 5)
        scenario.feed.add_trade("AAPL", at("09:30", day), str(101 + number))
        scenario.exchange.venue.advance(at("09:31", day))
        fills.append(status_and_average(order))
        assert state.account.positions["AAPL"].overnight_qty == 9 + 5 * number
    assert fills == [(OrderStatus.FILLED, Decimal(price)) for price in (101, 102, 103)]
    scenario.advance_to("16:00")
    assert [(fee.kind, fee.amount) for fee in state.fees] == [
        ("REG", Decimal("0.01")),
        ("TAF", Decimal("0.01")),
    ]
    scenario.assert_audit_clean()


def test_order_in_a_halted_symbol_stays_accepted_until_resume() -> None:
    """The open does not route the order; the resume does, and the first trade after it is the opening."""
    scenario = ExchangeScenario(start=at("08:00"))
    order = scenario.submit("buy", 5)
    scenario.exchange.state.halt("AAPL")
    scenario.feed.add_trade("AAPL", at("09:30"), "103")
    scenario.advance_to("09:45")
    assert order.status is OrderStatus.ACCEPTED
    scenario.exchange.venue.resume("AAPL")
    scenario.print_trade("AAPL", "108")
    assert status_and_average(order) == (OrderStatus.FILLED, Decimal(108))


@pytest.mark.parametrize("step", [0.25, 3600.0])
def test_opening_fills_do_not_depend_on_step_size(step: float) -> None:
    """Small steps and one large step over the open give equal fills."""
    scenario = ExchangeScenario(start=at("09:29:50"))
    gtc = scenario.submit("buy", 5, "AAPL", "limit", limit_price="102", time_in_force="gtc")
    scenario.submit("buy", 5, "MSFT")
    for n in range(40):
        scenario.feed.add_trade("AAPL", at("09:30") + timedelta(milliseconds=250 * n), str(100 + n % 5))
        scenario.feed.add_trade("MSFT", at("09:30") + timedelta(milliseconds=250 * n), str(300 + n))
    while scenario.now < at("09:30:10"):
        scenario.advance(step)
    assert [(e.symbol, e.at, e.price) for e in scenario.exchange.state.executions] == [
        ("AAPL", at("09:30"), Decimal(100)),
        ("MSFT", at("09:30"), Decimal(300)),
    ]
    assert gtc.status is OrderStatus.FILLED


def test_restart_before_the_first_trade_keeps_the_opening_auction(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """After a restart the order still takes part in the day's first trade."""
    scenario = ExchangeScenario(start=at("08:00"))
    order = scenario.submit("buy", 5, time_in_force="opg")
    scenario.advance_to("09:35")
    Journal(tmp_path).save(scenario.exchange)
    restarted = ExchangeScenario(start=at("08:00"))
    Journal(tmp_path).restore(restarted.exchange)
    restarted.feed.add_trade("AAPL", at("09:40"), "106")
    restarted.advance_to("09:41")
    assert status_and_average(restarted.exchange.find_order(order.id)) == (OrderStatus.FILLED, Decimal(106))


@pytest.fixture(scope="module")
def market() -> BarMarket:
    return synthetic_market.make_market(7, date(2026, 6, 17), 60)


def test_synthetic_auctions_match_the_daily_bar(market: BarMarket) -> None:
    """Opening orders fill at the day's open and closing orders at its close, for every symbol."""
    day = market.day
    exchange = Exchange(market, at("08:00", day), deposit=Decimal(10_000_000))
    symbols = [
        asset.symbol for asset in market.assets().values() if asset.tradable and asset.status == "active"
    ][:25]
    for symbol in symbols:
        for time_in_force in ("opg", "cls"):
            body = {
                "symbol": symbol,
                "side": "buy",
                "qty": 3,
                "type": "market",
                "time_in_force": time_in_force,
            }
            exchange.submit(parse_submit_request(body))
    exchange.venue.advance(at("16:01", day))
    prices = {
        (e.symbol, exchange.find_order(e.order_id).time_in_force.value): e.price
        for e in exchange.state.executions
    }
    for symbol in symbols:
        bar = market.bars(symbol, timedelta(days=1), at("00:00", day), at("00:00", day), at("16:01", day))
        if not len(bar.open):
            assert (symbol, "opg") not in prices
            continue
        assert prices[symbol, "opg"] == Decimal(str(round(float(bar.open[0]), 4)))
        assert prices[symbol, "cls"] == Decimal(str(round(float(bar.close[0]), 4)))
    assert len(prices) >= 40
    assert {o.role for o in exchange.state.order_store.orders.values()} == {OrderRole.PLAIN}
