"""Plain orders: what is taken, what is refused and in which words, and how orders trade."""

from decimal import Decimal

from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Intent, Status
from catalyst.simulator.rules.wire_format import Refusal
from tests.simulator.exchange_scenario import Desk, exact
from tests.simulator.manual_feed import at


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
