"""Plain orders: what is taken, what is refused and in which words, and how orders trade."""

from decimal import Decimal

import pytest

from catalyst.simulator.faults import FaultKind
from catalyst.simulator.orders import Intent, Status
from catalyst.simulator.wire import Refusal
from tests.simulator.desk import Desk, exact
from tests.simulator.tape import HALF_DAY, MONDAY, at


def test_a_post_is_pending_and_becomes_new_and_filled_later() -> None:
    """In regular hours the answer says pending_new; new and fill come afterwards, in order."""
    desk = Desk()
    order = desk.sends("buy", 10)
    assert order.status is Status.PENDING_NEW
    assert desk.heard() == []
    desk.passes(0.06)
    assert order.status is Status.NEW
    desk.passes(0.1)
    assert order.status is Status.FILLED
    assert desk.heard() == ["new", "fill"]
    desk.balanced()


def test_a_post_while_closed_is_accepted_and_routed_at_the_open() -> None:
    """A market order at night waits as accepted, and trades after the bell."""
    desk = Desk(start=at("08:00"))
    order = desk.sends("buy", 10)
    desk.until("09:29")
    assert order.status is Status.ACCEPTED
    desk.tape.trades("AAPL", at("09:30"), "103")
    desk.until("09:31")
    assert order.status is Status.FILLED
    assert order.average == Decimal("103.01")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"qty": 0}, 422, "qty must be > 0"),
        ({"qty": "-1"}, 422, "qty must be > 0"),
        ({"kind": "limit"}, 422, "limit orders require a limit price"),
        ({"kind": "market", "limit_price": 1}, 422, "market orders require no stop or limit price"),
        ({"kind": "stop"}, 422, "stop orders require a stop price"),
        (
            {"kind": "stop_limit", "stop_price": 101},
            422,
            "stop limit orders require both stop and limit price",
        ),
        ({"time_in_force": "fortnight"}, 422, "invalid time_in_force: fortnight"),
        ({"side": "hold"}, 422, "invalid side: hold"),
        ({"kind": "trailing_stop"}, 422, "trailing stop orders require one of trail_price or trail_percent"),
        ({"symbol": "NOPE"}, 422, 'asset "NOPE" not found'),
        ({"symbol": "DEAD"}, 422, "asset DEAD is not active"),
        ({"symbol": "WHOL", "qty": "0.5"}, 403, 'asset "WHOL" is not fractionable'),
        ({"qty": "0.5", "time_in_force": "gtc"}, 422, "fractional orders must be DAY orders"),
        ({"qty": "nan"}, 422, "qty must be a number"),
    ],
)
def test_a_malformed_order_is_refused_in_alpacas_words(
    body: dict[str, object], status: int, message: str
) -> None:
    """Each missing or wrong parameter has its own message, and nothing is stored."""
    desk = Desk()
    terms: dict[str, object] = {"side": "buy", "qty": 1, **body}
    refusal = desk.refused(desk.sends, **terms)
    assert (refusal.status, refusal.body["message"]) == (status, message)


@pytest.mark.parametrize(
    ("price", "symbol", "fine"),
    [
        ("99.995", "AAPL", False),
        ("0.9995", "AAPL", True),
        ("0.99955", "AAPL", False),
        ("99.99", "AAPL", True),
    ],
)
def test_prices_finer_than_a_tick_are_refused(price: str, symbol: str, fine: bool) -> None:
    """Two places from a dollar up, four below, and the sub-penny message names the price."""
    desk = Desk()
    if fine:
        assert desk.sends("buy", 1, symbol, "limit", limit_price=price).limit_price == Decimal(price)
        return
    refusal = desk.refused(desk.sends, "buy", 1, symbol, "limit", limit_price=price)
    assert refusal.body == {
        "code": 42210000,
        "message": f"invalid limit_price {price}. sub-penny increment does not fulfill minimum pricing criteria",
    }


def test_a_float_that_is_not_a_tick_is_a_sub_penny_price() -> None:
    """0.1 + 0.2 as a JSON float arrives as 0.30000000000000004 and is refused."""
    desk = Desk()
    refusal = desk.refused(desk.sends, "buy", 1, "AAPL", "limit", limit_price=0.1 + 0.2)
    assert "sub-penny" in str(refusal.body["message"])


def test_a_client_order_id_is_unique_for_ever() -> None:
    """A used id is refused also after a cancel and after a late rejection; a refused post does not use it."""
    desk = Desk()
    desk.refused(desk.sends, "buy", 0, client_order_id="one")
    order = desk.sends("buy", 1, "AAPL", "limit", limit_price=50, client_order_id="one")
    desk.passes()
    desk.exchange.cancel(order.id)
    desk.passes()
    assert order.status is Status.CANCELED
    refusal = desk.refused(desk.sends, "buy", 1, client_order_id="one")
    assert (refusal.status, refusal.body) == (
        422,
        {"code": 40010001, "message": "client_order_id must be unique"},
    )
    desk.breaks(FaultKind.REJECT)
    desk.sends("buy", 1, client_order_id="two")
    desk.passes()
    desk.exchange.switches.duplicate_code = 42210000
    assert desk.refused(desk.sends, "buy", 1, client_order_id="two").body["code"] == 42210000


def test_a_client_order_id_has_at_most_128_characters() -> None:
    """128 are taken, 129 are not, and an absent one is made up."""
    desk = Desk()
    assert desk.sends("buy", 1, client_order_id="x" * 128).client_order_id == "x" * 128
    refusal = desk.refused(desk.sends, "buy", 1, client_order_id="x" * 129)
    assert refusal.body["message"] == "client_order_id must be no more than 128 characters"
    assert len(desk.sends("buy", 1).client_order_id) == 36


def test_buying_power_is_reserved_by_open_buys_and_freed_by_their_end() -> None:
    """Four times equity, less what open buys may cost; a refusal shows both figures."""
    desk = Desk()
    order = desk.sends("buy", 3000, "AAPL", "limit", limit_price="100")
    refusal = desk.refused(desk.sends, "buy", 1001, "AAPL", "limit", limit_price="100")
    assert refusal.status == 403
    assert refusal.body == {
        "code": 40310000,
        "message": "insufficient buying power",
        "buying_power": "100000",
        "cost_basis": "100100",
    }
    desk.passes()
    desk.exchange.cancel(order.id)
    desk.passes()
    assert desk.sends("buy", 1001, "AAPL", "limit", limit_price="100").status is Status.PENDING_NEW


def test_exits_hold_their_shares() -> None:
    """A second exit finds nothing available, and is told which order holds the shares."""
    desk = Desk()
    desk.holds("AAPL", 3)
    stop = desk.sends("sell", 3, "AAPL", "stop", stop_price="90")
    refusal = desk.refused(desk.sends, "sell", 1)
    assert refusal.status == 403
    assert refusal.body == {
        "available": "0",
        "code": 40310000,
        "existing_qty": "3",
        "held_for_orders": "3",
        "message": "insufficient qty available for order (requested: 1, available: 0)",
        "related_orders": [stop.id],
        "symbol": "AAPL",
    }


def test_one_order_cannot_cross_zero() -> None:
    """Selling more than is owned, or buying back more than is short, is refused."""
    desk = Desk()
    desk.holds("AAPL", 10)
    assert desk.refused(desk.sends, "sell", 11).body["available"] == "10"
    desk.holds("MSFT", -5)
    assert desk.refused(desk.sends, "buy", 6, "MSFT").body["existing_qty"] == "5"


def test_shorts_need_a_borrowable_share_and_an_account_that_may() -> None:
    """Not shortable, hard to borrow, fractional, or forbidden by the customer: each has its words."""
    desk = Desk()
    assert desk.refused(desk.sends, "sell", 1, "NOSH").body["message"] == 'asset "NOSH" cannot be sold short'
    assert desk.refused(desk.sends, "sell", 1, "HARD").body["message"] == 'asset "HARD" cannot be sold short'
    refusal = desk.refused(desk.sends, "sell", "1.5")
    assert refusal.body["message"] == "fractional orders cannot be sold short"
    desk.exchange.account.configuration.no_shorting = True
    refusal = desk.refused(desk.sends, "sell", 1)
    assert (refusal.status, refusal.body["message"]) == (403, "account is not allowed to short")


def test_a_short_is_a_negative_position_that_a_buy_closes() -> None:
    """Selling first makes signed shares; buying them back realises the difference."""
    desk = Desk()
    desk.holds("AAPL", -10)
    assert desk.exchange.account.qty("AAPL") == -10
    desk.prints("AAPL", "90")
    order = desk.sends("buy", 10)
    assert order.intent is Intent.BUY_TO_CLOSE
    desk.passes()
    assert desk.exchange.account.realised == Decimal("99.80")  # sold at 99.99, bought at 90.01
    desk.balanced()


def test_opposite_opening_orders_exclude_each_other() -> None:
    """A long may not be opened while a short sale works, nor the other way round."""
    desk = Desk()
    desk.sends("sell", 1, "AAPL", "limit", limit_price="120")
    refusal = desk.refused(desk.sends, "buy", 1, "AAPL", "limit", limit_price="90")
    assert refusal.body["message"] == "cannot open a long buy while a short sell order is open"
    desk.sends("buy", 1, "MSFT", "limit", limit_price="200")
    refusal = desk.refused(desk.sends, "sell", 1, "MSFT", "limit", limit_price="400")
    assert refusal.body["message"] == "cannot open a short sell while a long buy order is open"


LIMIT_BELOW, LIMIT_ABOVE = {"kind": "limit", "limit_price": "90"}, {"kind": "limit", "limit_price": "110"}
SELL_STOP = {"kind": "stop", "stop_price": "85"}


@pytest.mark.parametrize(
    ("resting", "fresh", "reason"),
    [
        (SELL_STOP, {"kind": "market"}, "opposite side market/stop order exists"),
        (SELL_STOP, LIMIT_BELOW, "opposite side market/stop order exists"),
        (LIMIT_ABOVE, {"kind": "market"}, "opposite side limit order exists"),
        (LIMIT_ABOVE, {"kind": "limit", "limit_price": "110"}, "opposite side limit order exists"),
        (LIMIT_ABOVE, LIMIT_BELOW, None),
        ({"kind": "trailing_stop", "trail_price": "5"}, {"kind": "market"}, None),
    ],
)
def test_the_wash_trade_table(
    resting: dict[str, object], fresh: dict[str, object], reason: str | None
) -> None:
    """Market or stop against anything, and limits that cross, are refused; trailing stops are exempt."""
    desk = Desk()
    desk.holds("AAPL", 10)
    existing = desk.sends("sell", 10, **resting)  # type: ignore[arg-type]
    desk.passes()
    if reason is None:
        assert desk.sends("buy", 1, **fresh).status is Status.PENDING_NEW  # type: ignore[arg-type]
        return
    refusal = desk.refused(desk.sends, "buy", 1, **fresh)
    assert refusal.status == 403
    assert refusal.body == {
        "code": 40310000,
        "existing_order_id": existing.id,
        "message": "potential wash trade detected. use complex orders",
        "reject_reason": reason,
    }


def test_the_rest_of_a_bracket_entry_blocks_a_plain_protective_stop() -> None:
    """While our own buy works, a plain sell stop is a wash trade; an OCO is not; bracket exits block nobody."""
    desk = Desk()
    desk.tape.sizes = 40
    desk.bracket(100, kind="limit", limit_price="100.01")
    desk.passes()
    assert desk.exchange.account.qty("AAPL") == 40
    refusal = desk.refused(desk.sends, "sell", 40, "AAPL", "stop", stop_price="95")
    assert refusal.body["message"] == "potential wash trade detected. use complex orders"
    desk.sends(
        "sell",
        40,
        "AAPL",
        "limit",
        order_class="oco",
        take_profit={"limit_price": "110"},
        stop_loss={"stop_price": "95"},
    )
    desk.tape.sizes = 10_000
    desk.bracket(10, "MSFT", take_profit={"limit_price": "330"}, stop_loss={"stop_price": "290"})
    desk.passes()
    assert desk.sends("buy", 1, "MSFT").status is Status.PENDING_NEW


@pytest.mark.parametrize(("side", "stop", "word"), [("sell", "101", "less"), ("buy", "99", "greater")])
def test_a_plain_stop_on_the_wrong_side_is_refused(side: str, stop: str, word: str) -> None:
    """The refusal shows the market's price and the stop's."""
    desk = Desk()
    if side == "sell":
        desk.holds("AAPL", 1)
    refusal = desk.refused(desk.sends, side, 1, "AAPL", "stop", stop_price=stop)
    market = "99.99" if side == "sell" else "100.01"
    assert refusal.body == {
        "code": 42210000,
        "market_price": market,
        "message": f"stop price must be {word} than current price",
        "stop_price": stop,
    }


def test_a_sell_stop_waits_for_a_trade_not_a_quote_and_then_sells_at_the_market() -> None:
    """A quote under the stop elects nothing; the print does, and after a gap the fill is the gap's price."""
    desk = Desk()
    desk.holds("AAPL", 10)
    stop = desk.sends("sell", 10, "AAPL", "stop", stop_price="95")
    desk.passes()
    desk.tape.quotes["AAPL"] = ("90", "90.02")
    desk.prints("AAPL", "96")
    assert stop.status is Status.NEW
    desk.prints("AAPL", "88")
    assert (stop.status, stop.average) == (Status.FILLED, Decimal(90))
    desk.balanced()


def test_a_buy_stop_becomes_a_limit_with_a_collar() -> None:
    """From $50 up 2.5 % over the stop: a gap beyond it does not fill until the price comes back."""
    desk = Desk()
    stop = desk.sends("buy", 10, "AAPL", "stop", stop_price="105")
    desk.passes()
    desk.prints("AAPL", "110")
    assert stop.status is Status.NEW
    desk.prints("AAPL", "107.5")
    assert (stop.status, stop.average) == (Status.FILLED, Decimal("107.51"))


def test_the_collar_is_wider_under_fifty_dollars() -> None:
    """4 %: a triggered buy stop at 25 pays up to 26."""
    desk = Desk()
    stop = desk.sends("buy", 10, "HARD", "stop", stop_price="25")
    desk.passes()
    desk.prints("HARD", "26.01")
    assert stop.status is Status.NEW
    desk.prints("HARD", "25.99")
    assert (stop.status, stop.average) == (Status.FILLED, Decimal(26))


def test_an_order_may_never_be_acknowledged() -> None:
    """It stays pending_new whatever trades, and a cancel still ends it."""
    desk = Desk()
    desk.breaks(FaultKind.NEVER_ACK, symbol="AAPL")
    order = desk.sends("buy", 1)
    desk.passes(600)
    desk.prints("AAPL", "100")
    assert order.status is Status.PENDING_NEW
    desk.exchange.cancel(order.id)
    desk.passes()
    assert order.status is Status.CANCELED


def test_a_stop_is_not_elected_outside_regular_hours() -> None:
    """A trade after the close leaves a good-till-cancelled stop alone; the next open's gap fills it."""
    desk = Desk()
    desk.holds("AAPL", 10)
    stop = desk.sends("sell", 10, "AAPL", "stop", stop_price="95", time_in_force="gtc")
    desk.tape.trades("AAPL", at("17:00"), "80")
    desk.until("18:00")
    assert stop.status is Status.NEW
    tuesday = MONDAY.replace(day=10)
    desk.tape.trades("AAPL", at("09:30", tuesday), "90")
    desk.exchange.advance(at("09:31", tuesday))
    assert (stop.status, stop.average) == (Status.FILLED, Decimal("89.99"))


def test_a_trailing_stop_follows_the_price_up_and_never_down() -> None:
    """The mark rises with the trades, the stop stays its distance behind, and the turn sells."""
    desk = Desk()
    desk.holds("AAPL", 10)
    order = desk.sends("sell", 10, "AAPL", "trailing_stop", trail_percent="5")
    assert (order.hwm, order.stop_price) == (Decimal(100), Decimal(95))
    desk.passes()
    desk.prints("AAPL", "110")
    desk.prints("AAPL", "108")
    assert (order.hwm, order.stop_price) == (Decimal(110), Decimal("104.5"))
    desk.prints("AAPL", "104.4")
    assert order.status is Status.FILLED


def test_a_limit_order_gets_its_limit_or_better() -> None:
    """A trade at the limit fills at the limit; a trade through it fills at the better quote."""
    desk = Desk()
    at_limit = desk.sends("buy", 10, "AAPL", "limit", limit_price="99")
    through = desk.sends("buy", 10, "MSFT", "limit", limit_price="299")
    desk.passes()
    desk.prints("AAPL", "99")
    desk.prints("MSFT", "290")
    assert at_limit.average == Decimal(99)
    assert through.average == Decimal("290.01")


def test_windows_of_opening_and_closing_orders() -> None:
    """opg is refused from 9:28, cls from 15:50, and outside those they trade at the open and the close."""
    desk = Desk()
    assert "opg orders must be submitted" in str(desk.refused(desk.sends, "buy", 1, time_in_force="opg"))
    closing = desk.sends("buy", 1, time_in_force="cls")
    desk.tape.trades("AAPL", at("15:59"), "101")
    desk.until("15:55")
    assert "cls orders must be submitted" in str(
        desk.refused(desk.sends, "buy", 1, "MSFT", time_in_force="cls")
    )
    assert closing.status is Status.NEW
    desk.until("16:00")
    assert (closing.status, closing.average) == (Status.FILLED, Decimal(101))
    early = Desk(start=at("09:00"))
    opening = early.sends("buy", 1, time_in_force="opg")
    early.tape.trades("AAPL", at("09:30"), "102")
    early.until("09:31")
    assert (opening.status, opening.average) == (Status.FILLED, Decimal(102))


def test_extended_hours_take_only_limit_orders() -> None:
    """A market order with the flag is refused; a limit order trades before the bell."""
    desk = Desk(start=at("08:00"))
    refusal = desk.refused(desk.sends, "buy", 1, extended_hours=True)
    assert refusal.body["message"] == "extended hours order must be DAY or GTC limit orders"
    order = desk.sends("buy", 1, "AAPL", "limit", limit_price="100", extended_hours="true")
    desk.passes()
    desk.prints("AAPL", "99.5")
    assert order.status is Status.FILLED


def test_day_orders_end_at_the_close_and_good_till_cancelled_ones_survive() -> None:
    """Expired by default, canceled by the switch; the half day closes at one."""
    desk = Desk(start=at("11:00", HALF_DAY))
    day = desk.sends("buy", 1, "AAPL", "limit", limit_price="50")
    gtc = desk.sends("buy", 1, "MSFT", "limit", limit_price="50", time_in_force="gtc")
    desk.exchange.advance(at("12:59", HALF_DAY))
    assert day.status is Status.NEW
    desk.exchange.advance(at("13:00", HALF_DAY))
    assert (day.status, gtc.status) == (Status.EXPIRED, Status.NEW)
    assert desk.heard(day) == ["new", "expired"]
    other = Desk(start=at("15:00"))
    other.exchange.switches.expire_as_canceled = True
    late = other.sends("buy", 1, "AAPL", "limit", limit_price="50")
    other.until("16:00")
    assert late.status is Status.CANCELED


def test_a_day_order_after_the_close_is_for_the_next_day() -> None:
    """Submitted at 16:30 it waits, and ends at the next session's close."""
    desk = Desk(start=at("16:30"))
    order = desk.sends("buy", 1, "AAPL", "limit", limit_price="50")
    assert order.status is Status.ACCEPTED
    tuesday = MONDAY.replace(day=10)
    desk.exchange.advance(at("15:59", tuesday))
    assert order.status is Status.NEW
    desk.exchange.advance(at("16:00", tuesday))
    assert order.status is Status.EXPIRED


def test_a_halt_refuses_market_orders_rests_limits_and_elects_no_stop() -> None:
    """Trades during the halt do nothing; the reopening print gaps through the stop."""
    desk = Desk()
    desk.holds("AAPL", 10)
    stop = desk.sends("sell", 10, "AAPL", "stop", stop_price="95")
    desk.passes()
    desk.exchange.halt("AAPL")
    refusal = desk.refused(desk.sends, "sell", 1)
    assert "trading halt" in str(refusal.body["message"])
    desk.prints("AAPL", "94")
    limit = desk.sends("buy", 1, "MSFT", "limit", limit_price="299")
    desk.passes()
    assert (stop.status, limit.status) == (Status.NEW, Status.NEW)
    desk.exchange.resume("AAPL")
    desk.prints("AAPL", "80")
    assert (stop.status, stop.average) == (Status.FILLED, Decimal("79.99"))


def test_large_orders_fill_in_slices_of_the_prints() -> None:
    """A quarter of each print at most; quantities accumulate and the average is weighted by volume."""
    desk = Desk()
    desk.tape.sizes = 100
    order = desk.sends("buy", 300)
    desk.passes()
    assert (order.status, order.filled_qty) == (Status.PARTIALLY_FILLED, Decimal(100))
    desk.prints("AAPL", "101", size=400)
    desk.prints("AAPL", "102", size=4000)
    assert order.status is Status.FILLED
    expected = (100 * Decimal("100.01") + 100 * Decimal("101.01") + 100 * Decimal("102.01")) / 300
    assert order.average == expected.quantize(Decimal("0.000000001"))
    assert desk.heard(order) == ["new", "partial_fill", "partial_fill", "fill"]
    assert [u.data["qty"] for u in desk.updates(order)[1:]] == ["100", "100", "100"]
    assert [u.data["position_qty"] for u in desk.updates(order)[1:]] == ["100", "200", "300"]
    desk.balanced()


def test_random_partial_fills_are_a_switch_and_repeat_with_the_seed() -> None:
    """With certainty every slice is halved; the same seed gives the same executions."""

    def day(seed: int) -> list[tuple[str, Decimal]]:
        switches = exact()
        switches.partial_probability = Decimal("0.5")
        desk = Desk(switches=switches, seed=seed)
        desk.sends("buy", 100)
        desk.passes()
        for price in ("100.1", "100.2", "100.3", "100.4"):
            desk.prints("AAPL", price, size=160)
        return [(execution.id, execution.qty) for execution in desk.exchange.executions]

    assert day(1) == day(1)
    assert len({tuple(day(seed)) for seed in range(5)}) == 5


def test_a_scripted_partial_fill_stalls() -> None:
    """The fault lets seven shares through and no more, until it is lifted."""
    desk = Desk()
    fault = desk.breaks(FaultKind.PARTIAL, symbol="AAPL", qty="7")
    order = desk.sends("buy", 10)
    desk.passes()
    desk.prints("AAPL", "100")
    assert (order.status, order.filled_qty, fault.fired) == (Status.PARTIALLY_FILLED, Decimal(7), 1)
    desk.exchange.faults.remove(fault.id)
    desk.prints("AAPL", "100")
    assert order.status is Status.FILLED


def test_an_order_may_be_rejected_after_a_200() -> None:
    """The answer said pending_new; the stream says rejected, and the group goes with it."""
    desk = Desk()
    desk.breaks(FaultKind.REJECT, symbol="AAPL")
    order = desk.bracket()
    assert order.status is Status.PENDING_NEW
    desk.passes()
    assert order.status is Status.REJECTED
    assert order.failed_at is not None
    assert {leg.status for leg in desk.exchange.book.legs(order)} == {Status.CANCELED}
    assert desk.exchange.book.reserved() == 0


def test_hard_to_borrow_names_take_only_day_orders() -> None:
    """A good-till-cancelled protective stop on a long is refused too; the switch makes any name hard."""
    desk = Desk()
    desk.holds("HARD", 10)
    text = 'only day orders are allowed for hard-to-borrow asset "{}"'
    refusal = desk.refused(desk.sends, "sell", 10, "HARD", "stop", stop_price="15", time_in_force="gtc")
    assert refusal.body == {"code": 42210000, "message": text.format("HARD")}
    desk.exchange.switches.hard_to_borrow.add("AAPL")
    refusal = desk.refused(desk.bracket, time_in_force="gtc")
    assert refusal.body["message"] == text.format("AAPL")


def test_immediate_orders_take_what_is_there_and_cancel_the_rest() -> None:
    """ioc keeps its partial fill, fok wants all or nothing."""
    desk = Desk()
    desk.tape.sizes = 60
    some = desk.sends("buy", 100, "AAPL", "limit", limit_price="101", time_in_force="ioc")
    none = desk.sends("buy", 100, "MSFT", "limit", limit_price="301", time_in_force="fok")
    desk.passes()
    assert (some.status, some.filled_qty) == (Status.CANCELED, Decimal(60))
    assert (none.status, none.filled_qty) == (Status.CANCELED, Decimal(0))


def test_a_notional_order_buys_its_amount() -> None:
    """A thousand dollars of a stock at 100.01, in fractions of a share."""
    desk = Desk()
    order = desk.sends("buy", None, notional="1000")
    desk.passes()
    assert order.status is Status.FILLED
    assert abs(order.filled_value - 1000) < Decimal("0.001")
    desk.balanced()


def test_a_suspended_account_takes_no_orders() -> None:
    """The customer's kill switch, and a block by the broker."""
    desk = Desk()
    desk.exchange.account.configuration.suspend_trade = True
    assert desk.refused(desk.sends, "buy", 1).body["message"] == "new orders are rejected by user request"
    desk.exchange.account.configuration.suspend_trade = False
    desk.exchange.account.trading_blocked = True
    assert desk.refused(desk.sends, "buy", 1).status == 403


def test_regulatory_fees_are_charged_at_the_close_when_switched_on() -> None:
    """They accrue on sales and leave the cash at the close; the audit still balances."""
    desk = Desk()
    desk.exchange.switches.charge_fees = True
    desk.holds("AAPL", 100)
    desk.sends("sell", 100)
    desk.passes()
    assert desk.exchange.account.accrued_fees == Decimal("0.23")  # 9999 * 0.0000206 + 100 * 0.000195
    desk.until("16:00")
    assert (desk.exchange.account.fees, desk.exchange.account.accrued_fees) == (Decimal("0.23"), Decimal(0))
    desk.balanced()


def test_time_never_runs_backwards() -> None:
    """Advancing to the past changes nothing."""
    desk = Desk()
    order = desk.sends("buy", 1)
    desk.passes()
    before = desk.now
    desk.exchange.advance(at("10:00"))
    assert desk.now == before
    assert order.status is Status.FILLED


def test_the_pace_does_not_change_the_executions() -> None:
    """One leap over an hour and a thousand small steps give the same trades at the same instants."""

    def hour(step: float) -> list[tuple[object, ...]]:
        desk = Desk()
        desk.tape.sizes = 50
        for n in range(60):
            desk.tape.trades("AAPL", at(f"11:{n:02d}:30"), str(100 + n % 13 - 6), 300)
        desk.bracket(200, kind="limit", limit_price="100.5")
        while desk.now < at("12:00"):
            desk.passes(step)
        return [(e.id, e.at, e.price, e.qty, e.order_id) for e in desk.exchange.executions]

    assert hour(3600) == hour(7.3)
    assert len(hour(3600)) > 3


def test_nothing_is_asked_of_symbols_without_orders() -> None:
    """The exchange reads the tape of the symbols in which something works, and of no others."""
    desk = Desk()
    asked: list[str] = []
    real = desk.tape.prints
    desk.tape.prints = lambda symbol, *span: asked.append(symbol) or real(symbol, *span)  # type: ignore[method-assign,func-returns-value]
    desk.passes()
    assert asked == []
    desk.sends("buy", 1, "AAPL", "limit", limit_price="50")
    desk.passes()
    assert set(asked) == {"AAPL"}


def test_a_refusal_carries_its_words() -> None:
    """The exception's text is the message of its body."""
    refusal = Refusal(403, 40310000, "no", why="because")
    assert str(refusal) == "no"
    assert refusal.body == {"why": "because", "message": "no", "code": 40310000}
