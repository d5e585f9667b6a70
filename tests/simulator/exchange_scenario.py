"""Scenario of an exchange without a wire: requests as JSON bodies, time as seconds."""

from datetime import datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import Self

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.lifecycle import TradeUpdateMessage
from catalyst.simulator.exchange.settings import ExchangeSettings, LatencyRange
from catalyst.simulator.faults.rules import Fault, FaultKind
from catalyst.simulator.rules.orders import Order, OrderRole
from catalyst.simulator.rules.wire_format import ApiError
from catalyst.simulator.trading_api.order_parsing import parse_replace_request, parse_submit_request
from tests.fault_rules import assert_every_rule_fired
from tests.simulator.manual_feed import ManualFeed, at


def fixed_latencies() -> ExchangeSettings:
    """Return latencies without randomness, an acknowledgement takes 50 ms, an arrival 50 ms more, a cancel
    200 ms; and no message before the acknowledgement."""
    return ExchangeSettings(
        acknowledge=LatencyRange(0.05, 0.05),
        arrive=LatencyRange(0.05, 0.05),
        cancel=LatencyRange(0.2, 0.2),
        replace=LatencyRange(0.05, 0.05),
        activate=LatencyRange(0.04, 0.04),
        leg_cancel=LatencyRange(0.1, 0.1),
        entry_legs_cancel=LatencyRange(1.0, 1.0),
        emit_pending_new=False,  # these tests are about what happens at the venue
    )


class ExchangeScenario:
    """An exchange over a manual feed at 11:00, with AAPL at 100, MSFT at 300, TSLA at 200.

    A scenario with fault rules is the context of a `with` statement: when that ends every rule must have fired.
    """

    def __init__(
        self, start: datetime | None = None, switches: ExchangeSettings | None = None, **terms: object
    ) -> None:
        start = start or at("11:00")
        self.feed = ManualFeed()
        for symbol, price in (("AAPL", "100"), ("MSFT", "300"), ("TSLA", "200"), ("HARD", "20")):
            self.feed.add_trade(symbol, start - timedelta(days=3), price)
        for symbol in ("NOSH", "WHOL", "DEAD"):
            self.feed.add_trade(symbol, start - timedelta(days=3), "10")
        self.exchange = Exchange(self.feed, start, settings=switches or fixed_latencies(), **terms)  # type: ignore[arg-type]
        self.reasons_of_silence: dict[str, str] = {}  # of fault rules, by id
        self._checks_rules = False

    def __enter__(self) -> Self:
        self._checks_rules = True
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            assert_every_rule_fired(self.exchange.state.faults, self.reasons_of_silence)

    @property
    def now(self) -> datetime:
        return self.exchange.state.now

    def advance(self, seconds: float = 1.0) -> None:
        self.exchange.venue.advance(self.now + timedelta(seconds=seconds))

    def advance_to(self, clock_time: str) -> None:
        self.exchange.venue.advance(at(clock_time, self.now.date()))

    def print_trade(self, symbol: str, price: str, size: int = 100_000) -> None:
        """Add a trade one millisecond from now and advance the exchange to it."""
        when = self.now + timedelta(milliseconds=1)
        self.feed.add_trade(symbol, when, price, size)
        self.exchange.venue.advance(when)

    def submit(
        self, side: str, qty: object, symbol: str = "AAPL", kind: str = "market", **more: object
    ) -> Order:
        body = {"symbol": symbol, "side": side, "qty": qty, "type": kind, "time_in_force": "day", **more}
        return self.exchange.submit(parse_submit_request(body))

    def submit_bracket(self, qty: object = 100, symbol: str = "AAPL", **more: object) -> Order:
        terms: dict[str, object] = {
            "order_class": "bracket",
            "take_profit": {"limit_price": "110"},
            "stop_loss": {"stop_price": "95"},
        }
        return self.submit("buy", qty, symbol, **{**terms, **more})  # type: ignore[arg-type]

    def replace(self, order: Order, **changes: object) -> Order:
        return self.exchange.replace(order.id, parse_replace_request(changes))

    def given_position(self, symbol: str, qty: object) -> None:
        """Open a position with a filled market order; a negative quantity sells short."""
        shares = Decimal(str(qty))
        self.submit("buy" if shares > 0 else "sell", abs(shares), symbol)
        self.advance()
        assert self.exchange.state.account.qty(symbol) == shares

    def leg(self, order: Order, role: OrderRole) -> Order:
        return next(leg for leg in self.exchange.state.order_store.legs(order) if leg.role is role)

    def add_fault(self, kind: FaultKind, *, may_stay_silent: str = "", **rule: object) -> Fault:
        assert self._checks_rules, "write `with ExchangeScenario() as scenario`: it checks the fault rules"
        fault = self.exchange.state.faults.add(Fault(kind=kind, **rule))  # type: ignore[arg-type]
        if may_stay_silent:
            self.reasons_of_silence[fault.id] = may_stay_silent
        return fault

    def events(self, order: Order | None = None) -> list[str]:
        """Return the trade update events sent so far, of one order or of all."""
        return [update.event for update in self.updates(order)]

    def updates(self, order: Order | None = None) -> list[TradeUpdateMessage]:
        return [u for u in self.exchange.state.outbox if order is None or u.order_id == order.id]

    def expect_rejection(self, call: object, *arguments: object, **more: object) -> ApiError:
        """Return the error of a rejected call; fail if the call succeeds or stores an order."""
        before = len(self.exchange.state.order_store.orders)
        try:
            call(*arguments, **more)  # type: ignore[operator]
        except ApiError as rejection:
            assert len(self.exchange.state.order_store.orders) == before
            return rejection
        raise AssertionError("the call was not rejected")

    def assert_audit_clean(self) -> None:
        assert audit(self.exchange.state).problems == []
