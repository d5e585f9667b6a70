"""Order types and times in force one by one, and the account's arithmetic at its edges."""

from datetime import timedelta
from decimal import Decimal

import pytest

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Status
from tests.simulator.exchange_scenario import Desk
from tests.simulator.manual_feed import MONDAY, at

TUESDAY = MONDAY.replace(day=10)


def test_a_stop_limit_is_elected_by_a_trade_and_then_keeps_its_limit() -> None:
    """A gap through both leaves it resting as new; it sells when the market is back at the limit."""
    desk = Desk()
    desk.holds("AAPL", 10)
    order = desk.sends("sell", 10, "AAPL", "stop_limit", stop_price="95", limit_price="94")
    desk.passes()
    desk.prints("AAPL", "90")
    assert (order.status, order.elected) == (Status.NEW, True)
    desk.prints("AAPL", "93.5")
    assert order.status is Status.NEW
    desk.prints("AAPL", "94.5")
    assert (order.status, order.average) == (Status.FILLED, Decimal("94.49"))


def test_a_trailing_stop_is_exact_to_the_last_place() -> None:
    """Five per cent under a price between ticks is not rounded, neither at birth nor when the mark moves."""
    desk = Desk()
    desk.tape.trades("AAPL", at("10:00"), "3648.1299")
    desk.exchange.deposit(Decimal(100_000))
    desk.holds("AAPL", 1)
    order = desk.sends("sell", 1, "AAPL", "trailing_stop", trail_percent="5")
    assert (order.hwm, order.stop_price) == (Decimal("3648.1299"), Decimal("3465.723405"))
    desk.passes()
    desk.prints("AAPL", "3700.0101")
    assert (order.hwm, order.stop_price) == (Decimal("3700.0101"), Decimal("3515.009595"))
    desk.prints("AAPL", "3515.01")
    assert order.status is Status.NEW
    desk.prints("AAPL", "3515.009595")
    assert order.status is Status.FILLED


def test_a_trailing_stop_buys_back_a_short_and_sleeps_outside_regular_hours() -> None:
    """It follows the price down, only by trades of the session, and the turn up buys."""
    desk = Desk(start=at("15:58"))
    desk.holds("AAPL", -10)
    order = desk.sends("buy", 10, "AAPL", "trailing_stop", trail_price="2", time_in_force="gtc")
    desk.passes()
    desk.prints("AAPL", "97")
    assert (order.hwm, order.stop_price) == (Decimal(97), Decimal(99))
    desk.tape.trades("AAPL", at("17:00"), "80")
    desk.tape.trades("AAPL", at("18:00"), "120")
    desk.until("18:30")
    assert (order.status, order.stop_price) == (Status.NEW, Decimal(99))
    desk.tape.trades("AAPL", at("09:30", TUESDAY), "101")
    desk.exchange.advance(at("09:31", TUESDAY))
    assert (order.status, order.average) == (Status.FILLED, Decimal("101.01"))


def test_the_trail_is_changed_by_a_patch_of_the_trail_alone() -> None:
    """The new distance counts from now; limit and stop prices are refused."""
    desk = Desk()
    desk.holds("AAPL", 10)
    order = desk.sends("sell", 10, "AAPL", "trailing_stop", trail_price="5")
    desk.passes()
    for name in ("limit_price", "stop_price"):
        assert desk.refused(desk.replaces, order, **{name: "90"}).status == 422
    changed = desk.replaces(order, trail="2")
    desk.passes()
    assert (order.status, changed.status) == (Status.REPLACED, Status.NEW)
    assert (changed.trail_price, changed.stop_price) == (Decimal(2), Decimal(98))


@pytest.mark.parametrize(
    ("terms", "words"),
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
def test_a_senseless_trailing_stop_is_refused(terms: dict[str, object], words: str) -> None:
    """One trail, not too small, day or gtc, regular hours, alone."""
    refusal = Desk().refused(Desk().sends, "buy", 1, "AAPL", "trailing_stop", **terms)
    assert refusal.status == 422
    assert words in str(refusal)


@pytest.mark.parametrize(
    ("life", "kind", "size", "filled", "events"),
    [
        ("ioc", "market", 60, 60, ["new", "partial_fill", "canceled"]),
        ("ioc", "limit", 60, 60, ["new", "partial_fill", "canceled"]),
        ("ioc", "limit", 100, 100, ["new", "fill"]),
        ("fok", "market", 60, 0, ["new", "canceled"]),
        ("fok", "limit", 60, 0, ["new", "canceled"]),
        ("fok", "limit", 100, 100, ["new", "fill"]),
    ],
)
def test_what_an_immediate_order_leaves_is_cancelled_by_the_venue(
    life: str, kind: str, size: int, filled: int, events: list[str]
) -> None:
    """As soon as it has met the quote; nothing of it rests, and nothing stays reserved."""
    desk = Desk()
    desk.tape.sizes = size
    terms = {"limit_price": "101"} if kind == "limit" else {}
    order = desk.sends("buy", 100, "AAPL", kind, time_in_force=life, **terms)
    desk.passes()
    assert (order.filled_qty, desk.heard(order)) == (Decimal(filled), events)
    assert desk.exchange.book.reserved() == 0
    desk.balanced()


def test_an_immediate_limit_away_from_the_market_is_cancelled_at_once() -> None:
    """It does not wait for the tape."""
    desk = Desk()
    order = desk.sends("buy", 10, "AAPL", "limit", limit_price="99", time_in_force="ioc")
    desk.passes()
    assert order.status is Status.CANCELED


def test_fractions_are_traded_and_held_exactly() -> None:
    """A market order of a fraction, a sale of an amount of money, and the last billionth of a share."""
    desk = Desk()
    desk.sends("buy", "2.345678901")
    desk.passes()
    assert desk.exchange.account.qty("AAPL") == Decimal("2.345678901")
    sale = desk.sends("sell", None, notional="99.99")
    desk.passes()
    assert (sale.status, sale.filled_qty) == (Status.FILLED, Decimal(1))
    desk.exchange.close("AAPL")
    desk.passes()
    assert desk.exchange.account.positions == {}
    desk.balanced()


@pytest.mark.parametrize(
    ("terms", "status", "words"),
    [
        ({"qty": None, "notional": "0.99"}, 403, "notional must be >= 1.00"),
        ({"qty": 1, "notional": "10"}, 422, "only one of qty or notional is accepted"),
        ({"qty": "0.5", "time_in_force": "gtc"}, 422, "fractional orders must be DAY orders"),
        ({"qty": "0.5", "side": "sell"}, 422, "fractional orders cannot be sold short"),
        ({"qty": "0.5", "symbol": "WHOL"}, 403, 'asset "WHOL" is not fractionable'),
    ],
)
def test_senseless_fractions_are_refused(terms: dict[str, object], status: int, words: str) -> None:
    """Too little money, money and shares, too long a life, a short, a share that cannot be divided."""
    desk = Desk()
    body: dict[str, object] = {"side": "buy", **terms}
    refusal = desk.refused(desk.sends, body.pop("side"), body.pop("qty"), **body)
    assert (refusal.status, str(refusal)) == (status, words)


def test_an_order_for_extended_hours_lives_from_four_to_eight() -> None:
    """Placed at night it starts at 4:00; a day order ends at 20:00, a gtc one is there the next morning."""
    desk = Desk(start=at("02:00"))
    day = desk.sends("buy", 1, "AAPL", "limit", limit_price="90", extended_hours=True)
    gtc = desk.sends("buy", 1, "MSFT", "limit", limit_price="290", extended_hours=True, time_in_force="gtc")
    desk.until("03:59")
    assert (day.status, gtc.status) == (Status.ACCEPTED, Status.ACCEPTED)
    desk.until("04:01")
    assert (day.status, gtc.status) == (Status.NEW, Status.NEW)
    desk.until("19:59")
    assert day.status is Status.NEW
    desk.until("20:00")
    assert (day.status, gtc.status) == (Status.EXPIRED, Status.NEW)
    desk.tape.trades("MSFT", at("04:30", TUESDAY), "289")
    desk.exchange.advance(at("04:31", TUESDAY))
    assert gtc.status is Status.FILLED


def test_a_plain_order_does_not_trade_outside_regular_hours() -> None:
    """A trade at its price in the evening passes it by; it is there for the next session."""
    desk = Desk(start=at("15:59"))
    order = desk.sends("buy", 1, "AAPL", "limit", limit_price="95", time_in_force="gtc")
    desk.tape.trades("AAPL", at("17:00"), "90")
    desk.until("18:00")
    assert order.status is Status.NEW


def test_a_long_lived_order_ends_after_ninety_days() -> None:
    """At a quarter past four."""
    desk = Desk()
    order = desk.sends("buy", 1, "AAPL", "limit", limit_price="50", time_in_force="gtc")
    assert order.expires_at == at("16:15", MONDAY + timedelta(days=90))
    desk.exchange.advance(order.expires_at - timedelta(seconds=1))
    assert order.status is Status.NEW
    desk.exchange.advance(order.expires_at)
    assert order.status is Status.EXPIRED


@pytest.mark.parametrize(
    ("when", "price"),
    [("11:00", "110"), ("08:00", "105"), ("21:00", "100")],
)
def test_the_price_that_an_order_is_measured_by(when: str, price: str) -> None:
    """The quote's far side in regular hours, its middle in extended ones, the last trade when all is closed."""
    desk = Desk(start=at(when))
    desk.tape.quotes["AAPL"] = ("100", "110")
    order = desk.sends("buy", 1)
    assert order.unit_reserve == Decimal(price) * Decimal("1.025")


def test_a_short_reserves_the_dearer_of_its_limit_and_the_ask() -> None:
    """Three per cent over the ask, or the limit when that is higher."""
    desk = Desk()
    desk.tape.quotes["AAPL"] = ("99", "101")
    low = desk.sends("sell", 10, "AAPL", "limit", limit_price="100")
    assert low.reserve == Decimal(101) * Decimal("1.03") * 10
    desk.exchange.cancel(low.id)
    desk.passes()
    high = desk.sends("sell", 10, "AAPL", "limit", limit_price="150")
    assert high.reserve == 1500


def test_a_cheap_share_is_not_lent_against() -> None:
    """Under $2.50 the whole price is the requirement, at the start and after."""
    desk = Desk()
    desk.tape.trades("AAPL", at("10:59:59"), "2")
    desk.holds("AAPL", 100)
    initial, maintenance = desk.exchange.account.margins(desk.exchange.mark)
    assert (initial, maintenance) == (200, 200)


def test_a_short_sale_of_a_name_that_became_hard_to_borrow_is_cancelled_before_the_open() -> None:
    """The order is gone at the bell; one in another name works on."""
    desk = Desk(start=at("15:00"))
    gone = desk.sends("sell", 10, "AAPL", "limit", limit_price="120", time_in_force="gtc")
    stays = desk.sends("sell", 10, "MSFT", "limit", limit_price="350", time_in_force="gtc")
    desk.until("16:30")
    desk.exchange.switches.hard_to_borrow.add("AAPL")
    desk.exchange.advance(at("09:31", TUESDAY))
    assert (gone.status, stays.status) == (Status.CANCELED, Status.NEW)
    assert desk.heard(gone) == ["new", "canceled"]


def test_a_partial_fill_may_be_a_share_of_the_order() -> None:
    """As much of whatever size; rounded down to whole shares, and counted once an order."""
    desk = Desk()
    fault = desk.breaks(FaultKind.PARTIAL, share="0.4")
    orders = [desk.sends("buy", 9, symbol) for symbol in ("AAPL", "MSFT")]
    for _ in range(3):
        desk.passes()
        desk.prints("AAPL", "100")
    assert [order.filled_qty for order in orders] == [3, 3]
    assert fault.fired == 2
