"""What a test says to the exchange without a wire: requests as JSON bodies, time as seconds."""

from datetime import datetime, timedelta
from decimal import Decimal

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import Span, Switches
from catalyst.simulator.exchange.venue import Update
from catalyst.simulator.faults.rules import Fault, FaultKind
from catalyst.simulator.rules.orders import Order, Role
from catalyst.simulator.rules.wire_format import Refusal
from catalyst.simulator.trading_api.order_parsing import read_order, read_replace
from tests.simulator.manual_feed import HandTape, at


def exact() -> Switches:
    """Latencies without chance: an acknowledgement takes 50 ms, an arrival 50 ms more, a cancel 200 ms."""
    return Switches(
        acknowledge=Span(0.05, 0.05),
        arrive=Span(0.05, 0.05),
        cancel=Span(0.2, 0.2),
        replace=Span(0.05, 0.05),
        activate=Span(0.04, 0.04),
        leg_cancel=Span(0.1, 0.1),
        orphan_cancel=Span(1.0, 1.0),
    )


class Desk:
    """An exchange over a hand-made tape at eleven o'clock, AAPL at 100, MSFT at 300, TSLA at 200."""

    def __init__(
        self, start: datetime | None = None, switches: Switches | None = None, **terms: object
    ) -> None:
        start = start or at("11:00")
        self.tape = HandTape()
        for symbol, price in (("AAPL", "100"), ("MSFT", "300"), ("TSLA", "200"), ("HARD", "20")):
            self.tape.trades(symbol, start - timedelta(days=3), price)
        for symbol in ("NOSH", "WHOL", "DEAD"):
            self.tape.trades(symbol, start - timedelta(days=3), "10")
        self.exchange = Exchange(self.tape, start, switches=switches or exact(), **terms)  # type: ignore[arg-type]

    @property
    def now(self) -> datetime:
        return self.exchange.now

    def passes(self, seconds: float = 1.0) -> None:
        self.exchange.advance(self.now + timedelta(seconds=seconds))

    def until(self, clock_time: str) -> None:
        self.exchange.advance(at(clock_time, self.now.date()))

    def prints(self, symbol: str, price: str, size: int = 100_000) -> None:
        """A trade a millisecond from now, and the exchange has seen it."""
        when = self.now + timedelta(milliseconds=1)
        self.tape.trades(symbol, when, price, size)
        self.exchange.advance(when)

    def sends(
        self, side: str, qty: object, symbol: str = "AAPL", kind: str = "market", **more: object
    ) -> Order:
        body = {"symbol": symbol, "side": side, "qty": qty, "type": kind, "time_in_force": "day", **more}
        return self.exchange.submit(read_order(body))

    def bracket(self, qty: object = 100, symbol: str = "AAPL", **more: object) -> Order:
        terms: dict[str, object] = {
            "order_class": "bracket",
            "take_profit": {"limit_price": "110"},
            "stop_loss": {"stop_price": "95"},
        }
        return self.sends("buy", qty, symbol, **{**terms, **more})  # type: ignore[arg-type]

    def replaces(self, order: Order, **changes: object) -> Order:
        return self.exchange.replace(order.id, read_replace(changes))

    def holds(self, symbol: str, qty: object) -> None:
        """Buy and be done, or sell short for a negative quantity."""
        shares = Decimal(str(qty))
        self.sends("buy" if shares > 0 else "sell", abs(shares), symbol)
        self.passes()
        assert self.exchange.account.qty(symbol) == shares

    def leg(self, order: Order, role: Role) -> Order:
        return next(leg for leg in self.exchange.book.legs(order) if leg.role is role)

    def breaks(self, kind: FaultKind, **rule: object) -> Fault:
        return self.exchange.faults.add(Fault(kind=kind, **rule))  # type: ignore[arg-type]

    def heard(self, order: Order | None = None) -> list[str]:
        """The events told so far, of one order or of all."""
        return [update.event for update in self.updates(order)]

    def updates(self, order: Order | None = None) -> list[Update]:
        return [u for u in self.exchange.outbox if order is None or u.order_id == order.id]

    def refused(self, act: object, *arguments: object, **more: object) -> Refusal:
        """The refusal an act meets; it must meet one, and must leave no order behind."""
        before = len(self.exchange.book.orders)
        try:
            act(*arguments, **more)  # type: ignore[operator]
        except Refusal as refusal:
            assert len(self.exchange.book.orders) == before
            return refusal
        raise AssertionError("it was not refused")

    def balanced(self) -> None:
        assert audit(self.exchange).problems == []
