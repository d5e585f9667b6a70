"""The opening, the reopening after a halt, and the close: one price for everybody who takes part."""

from datetime import date, timedelta
from decimal import Decimal

import pytest

from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.persistence import Journal
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.rules.orders import Order, Role, Status
from catalyst.simulator.synthetic import market as synthetic_market
from catalyst.simulator.trading_api.order_parsing import read_order
from tests.simulator.exchange_scenario import Desk
from tests.simulator.manual_feed import HALF_DAY, MONDAY, at

TUESDAY = MONDAY.replace(day=10)


def fate(order: Order) -> tuple[Status, Decimal | None]:
    return order.status, order.average


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
def test_what_waits_for_the_open_fills_at_the_opening_print(terms: dict[str, object], fill: str) -> None:
    """At the price of the day's first trade, all of it, however small that trade; the quote does not matter."""
    desk = Desk(start=at("08:00"), deposit=Decimal(1_000_000))
    order = desk.sends("buy", **{"qty": 5000, **terms})  # type: ignore[arg-type]
    desk.tape.trades("AAPL", at("09:00"), "90")  # before the bell
    desk.tape.trades("AAPL", at("09:30"), "103", 10)
    desk.tape.quotes["AAPL"] = ("110", "111")
    desk.until("09:29")
    assert order.status is Status.ACCEPTED
    desk.until("09:30")
    if fill is None:
        assert fate(order) == (Status.CANCELED, None)
    else:
        assert fate(order) == (Status.FILLED, Decimal(fill))
        assert desk.heard(order) == ["new", "fill"]
        assert desk.updates(order)[1].data["price"] == fill
    desk.balanced()


def test_a_day_order_outside_the_opening_price_works_on() -> None:
    """A queued limit that the auction did not reach rests, and fills when the market comes to it."""
    desk = Desk(start=at("08:00"))
    order = desk.sends("buy", 5, "AAPL", "limit", limit_price="101")
    desk.tape.trades("AAPL", at("09:30"), "103")
    desk.until("09:40")
    assert order.status is Status.NEW
    desk.prints("AAPL", "100.5")
    assert order.status is Status.FILLED


def test_a_symbol_opens_with_its_first_trade_however_late() -> None:
    """Until then its opening orders wait as new; without any trade that day they end as canceled."""
    desk = Desk(start=at("08:00"))
    late = desk.sends("buy", 5, time_in_force="opg")
    never = desk.sends("buy", 5, "MSFT", time_in_force="opg")
    market = desk.sends("buy", 5, "TSLA")
    desk.tape.trades("AAPL", at("09:47"), "107")
    desk.until("09:46")
    assert {late.status, never.status, market.status} == {Status.NEW}
    desk.until("15:00")
    assert fate(late) == (Status.FILLED, Decimal(107))
    desk.until("16:00")
    assert (never.status, market.status) == (Status.CANCELED, Status.EXPIRED)
    assert desk.heard(never) == ["new", "canceled"]


def test_orders_that_rest_over_night_take_part_in_the_opening() -> None:
    """A target gapped over sells at the opening price; a stop is elected by it and sells at the quote."""
    desk = Desk(start=at("15:00"))
    desk.bracket(10, time_in_force="gtc")
    desk.bracket(
        10, "MSFT", time_in_force="gtc", take_profit={"limit_price": "330"}, stop_loss={"stop_price": "290"}
    )
    desk.passes()
    desk.tape.trades("AAPL", at("09:30", TUESDAY), "115")
    desk.tape.trades("MSFT", at("09:30", TUESDAY), "280")
    desk.exchange.advance(at("09:31", TUESDAY))
    ours = {(e.symbol, e.side.value): e.price for e in desk.exchange.executions}
    assert ours["AAPL", "sell"] == Decimal(115)
    assert ours["MSFT", "sell"] == Decimal("279.99")
    assert desk.exchange.account.positions == {}
    desk.balanced()


@pytest.mark.parametrize(
    ("terms", "fill"),
    [
        ({}, "101"),
        ({"kind": "limit", "limit_price": "101"}, "101"),
        ({"kind": "limit", "limit_price": "104"}, "101"),
        ({"kind": "limit", "limit_price": "100.5"}, None),
    ],
)
@pytest.mark.parametrize("placed", ["08:00", "11:00"])
def test_orders_for_the_close_fill_at_the_closing_print(
    terms: dict[str, object], fill: str | None, placed: str
) -> None:
    """They wait the day through, whatever trades, and fill at its last trade; what does not is canceled."""
    desk = Desk(start=at(placed), deposit=Decimal(1_000_000))
    order = desk.sends("buy", 5000, time_in_force="cls", **terms)  # type: ignore[arg-type]
    for minute, price in (("09:30", "99"), ("12:00", "98"), ("15:59", "101")):
        desk.tape.trades("AAPL", at(minute), price, 10)
    desk.tape.trades("AAPL", at("16:00:01"), "50")
    desk.until("15:59:30")
    assert order.status is Status.NEW
    desk.until("16:00")
    assert fate(order) == ((Status.CANCELED, None) if fill is None else (Status.FILLED, Decimal(fill)))
    desk.balanced()


def test_a_symbol_that_did_not_trade_has_no_close() -> None:
    """Yesterday's price is no closing print; a halted symbol has none either."""
    desk = Desk(start=at("08:00"))
    silent = desk.sends("buy", 5, time_in_force="cls")
    halted = desk.sends("buy", 5, "MSFT", time_in_force="cls")
    desk.tape.trades("MSFT", at("12:00"), "300")
    desk.until("13:00")
    desk.exchange.halt("MSFT")
    desk.until("16:00")
    assert (silent.status, halted.status) == (Status.CANCELED, Status.CANCELED)


@pytest.mark.parametrize(
    ("day", "when", "life", "taken"),
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
def test_the_windows_of_the_auctions(day: date, when: str, life: str, taken: bool) -> None:
    """opg until two minutes before the open, cls until ten before the close of that day, both again from 19:00."""
    desk = Desk(start=at(when, day))
    if taken:
        desk.sends("buy", 1, time_in_force=life)
    else:
        words = {"opg": "after 7:00pm and before 9:28am", "cls": "after 7:00pm and before 3:55pm"}[life]
        refusal = desk.refused(desk.sends, "buy", 1, time_in_force=life)
        assert (refusal.status, refusal.body["message"]) == (422, f"{life} orders must be submitted {words}")


def test_an_auction_takes_no_stop_and_no_replacement_after_its_window() -> None:
    """Market and limit orders only; a patch to cls obeys the window too."""
    desk = Desk()
    refusal = desk.refused(desk.sends, "buy", 1, "AAPL", "stop", stop_price="105", time_in_force="cls")
    assert (refusal.status, refusal.body["message"]) == (422, "cls orders must be market or limit orders")
    order = desk.sends("buy", 1, "AAPL", "limit", limit_price="50")
    desk.until("15:51")
    refusal = desk.refused(desk.replaces, order, time_in_force="cls")
    assert "cls orders must be submitted" in str(refusal)


def test_the_half_days_close_is_its_last_trade() -> None:
    """An order for the close of the day after Thanksgiving fills at one o'clock."""
    desk = Desk(start=at("11:00", HALF_DAY))
    order = desk.sends("buy", 5, time_in_force="cls")
    desk.tape.trades("AAPL", at("12:59", HALF_DAY), "104")
    desk.exchange.advance(at("13:00", HALF_DAY))
    assert fate(order) == (Status.FILLED, Decimal(104))


def test_a_halt_ends_with_an_auction() -> None:
    """A limit that rested through the halt fills at the reopening print; a stop is elected by it, not before."""
    desk = Desk()
    desk.holds("AAPL", 20)
    desk.sends("sell", 10, "AAPL", "stop", stop_price="95")
    desk.passes()
    desk.exchange.halt("AAPL")
    desk.prints("AAPL", "94")
    market = desk.refused(desk.sends, "sell", 1, "AAPL")
    assert market.body["message"] == (
        'market order rejected due to trading halt on symbol: "AAPL", please place a limit order instead'
    )
    rested = desk.sends("sell", 10, "AAPL", "limit", limit_price="75")
    desk.passes()
    assert (rested.status, len(desk.exchange.executions)) == (Status.NEW, 1)
    desk.exchange.resume("AAPL")
    desk.passes()
    assert (
        len(desk.exchange.executions) == 1
    )  # nothing trades before the reopening print, not even at the quote
    desk.prints("AAPL", "80", size=4)
    assert [(e.price, e.qty) for e in desk.exchange.executions[1:]] == [
        (Decimal("79.99"), Decimal(10)),
        (Decimal(80), Decimal(10)),
    ]
    desk.balanced()


def test_what_waits_in_a_halted_symbol_stays_accepted_until_it_resumes() -> None:
    """The bell does not route it; the resumption does, and its first trade is the opening."""
    desk = Desk(start=at("08:00"))
    order = desk.sends("buy", 5)
    desk.exchange.halt("AAPL")
    desk.tape.trades("AAPL", at("09:30"), "103")
    desk.until("09:45")
    assert order.status is Status.ACCEPTED
    desk.exchange.resume("AAPL")
    desk.prints("AAPL", "108")
    assert fate(order) == (Status.FILLED, Decimal(108))


@pytest.mark.parametrize("step", [0.25, 3600.0])
def test_the_pace_does_not_change_an_opening(step: float) -> None:
    """Small steps or one leap over the bell: the same fills."""
    desk = Desk(start=at("09:29:50"))
    gtc = desk.sends("buy", 5, "AAPL", "limit", limit_price="102", time_in_force="gtc")
    desk.sends("buy", 5, "MSFT")
    for n in range(40):
        desk.tape.trades("AAPL", at("09:30") + timedelta(milliseconds=250 * n), str(100 + n % 5))
        desk.tape.trades("MSFT", at("09:30") + timedelta(milliseconds=250 * n), str(300 + n))
    while desk.now < at("09:30:10"):
        desk.passes(step)
    assert [(e.symbol, e.at, e.price) for e in desk.exchange.executions] == [
        ("AAPL", at("09:30"), Decimal(100)),
        ("MSFT", at("09:30"), Decimal(300)),
    ]
    assert gtc.status is Status.FILLED


def test_a_restart_between_bell_and_first_trade_keeps_the_auction(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """The order still takes part in the day's first trade."""
    desk = Desk(start=at("08:00"))
    order = desk.sends("buy", 5, time_in_force="opg")
    desk.until("09:35")
    Journal(tmp_path).save(desk.exchange)
    again = Desk(start=at("08:00"))
    Journal(tmp_path).restore(again.exchange)
    again.tape.trades("AAPL", at("09:40"), "106")
    again.until("09:41")
    assert fate(again.exchange.find(order.id)) == (Status.FILLED, Decimal(106))


@pytest.fixture(scope="module")
def market() -> BarMarket:
    return synthetic_market.make(7, date(2026, 6, 17), 60)


def test_a_generated_days_auctions_are_its_daily_bar(market: BarMarket) -> None:
    """Opening orders fill at the day's open, closing orders at its close, whatever the symbol."""
    day = market.day
    exchange = Exchange(market, at("08:00", day), deposit=Decimal(10_000_000))
    symbols = [
        asset.symbol for asset in market.assets().values() if asset.tradable and asset.status == "active"
    ][:25]
    for symbol in symbols:
        for life in ("opg", "cls"):
            body = {"symbol": symbol, "side": "buy", "qty": 3, "type": "market", "time_in_force": life}
            exchange.submit(read_order(body))
    exchange.advance(at("16:01", day))
    prices = {(e.symbol, exchange.find(e.order_id).time_in_force.value): e.price for e in exchange.executions}
    for symbol in symbols:
        bar = market.bars(symbol, timedelta(days=1), at("00:00", day), at("00:00", day), at("16:01", day))
        if not len(bar.open):
            assert (symbol, "opg") not in prices
            continue
        assert prices[symbol, "opg"] == Decimal(str(round(float(bar.open[0]), 4)))
        assert prices[symbol, "cls"] == Decimal(str(round(float(bar.close[0]), 4)))
    assert len(prices) >= 40
    assert {o.role for o in exchange.book.orders.values()} == {Role.PLAIN}
