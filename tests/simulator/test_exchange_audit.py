"""The exchange's own books: they balance whatever is done, and the audit sees it when they do not."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Side
from catalyst.simulator.rules.wire_format import Refusal
from catalyst.simulator.trading_api.order_parsing import read_replace
from tests.simulator.exchange_scenario import Desk


def traded() -> Desk:
    desk = Desk()
    desk.holds("AAPL", 10)
    desk.holds("MSFT", -3)
    desk.prints("AAPL", "104")
    desk.sends("sell", 4)
    desk.passes()
    return desk


def forge(desk: Desk, **changes: object) -> None:
    """Rewrite the first execution."""
    desk.exchange.executions[0] = replace(desk.exchange.executions[0], **changes)  # type: ignore[arg-type]


def lose_cash(desk: Desk) -> None:
    desk.exchange.account.cash -= Decimal("0.01")


def lose_profit(desk: Desk) -> None:
    desk.exchange.account.realised += 1


def add_shares(desk: Desk) -> None:
    desk.exchange.account.positions["AAPL"].qty += 1


def add_a_fill(desk: Desk) -> None:
    next(iter(desk.exchange.book.orders.values())).filled_qty += 1


def book_twice(desk: Desk) -> None:
    desk.exchange.executions.append(desk.exchange.executions[0])


def orphan(desk: Desk) -> None:
    forge(desk, order_id="nobody")


def turn(desk: Desk) -> None:
    forge(desk, side=Side.SELL)


@pytest.mark.parametrize("damage", [lose_cash, lose_profit, add_shares, add_a_fill, book_twice, orphan, turn])
def test_the_audit_sees_every_kind_of_damage(damage: Callable[[Desk], None]) -> None:
    """Clean before, and not after a cent, a share, a fill or an execution was tampered with."""
    desk = traded()
    assert audit(desk.exchange).clean
    damage(desk)
    assert not audit(desk.exchange).clean


def test_equity_is_deposits_and_profit() -> None:
    """Cash and positions on one side, deposits, realised and unrealised on the other."""
    desk = traded()
    report = audit(desk.exchange)
    equity = desk.exchange.account.equity(desk.exchange.mark)
    assert equity == 100_000 + report.realised + report.unrealised
    assert report.realised == Decimal("15.92")  # four shares from 100.01 to 103.99
    assert report.positions == {"AAPL": Decimal(6), "MSFT": Decimal(-3)}


SIDES = st.sampled_from(["buy", "sell"])
SYMBOLS = st.sampled_from(["AAPL", "MSFT"])
CENTS = {"AAPL": 100, "MSFT": 300}


class Customer(RuleBasedStateMachine):
    """Anything a customer may do, in any order, while the market moves."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk()
        self.desk.tape.sizes = 30

    def attempt(self, act: Callable[[], object]) -> None:
        with suppress(Refusal):
            act()

    @rule(
        side=SIDES,
        symbol=SYMBOLS,
        qty=st.integers(1, 80),
        kind=st.sampled_from(["market", "limit", "stop"]),
        off=st.integers(-6, 6),
    )
    def send(self, side: str, symbol: str, qty: int, kind: str, off: int) -> None:
        price = str(CENTS[symbol] + off)
        terms = {"limit": {"limit_price": price}, "stop": {"stop_price": price}}.get(kind, {})
        self.attempt(lambda: self.desk.sends(side, qty, symbol, kind, **terms))

    @rule(symbol=SYMBOLS, qty=st.integers(1, 80), short=st.booleans(), wide=st.integers(1, 8))
    def bracket(self, symbol: str, qty: int, short: bool, wide: int) -> None:
        low, high = str(CENTS[symbol] - wide), str(CENTS[symbol] + wide)
        self.attempt(
            lambda: self.desk.sends(
                "sell" if short else "buy",
                qty,
                symbol,
                order_class="bracket",
                take_profit={"limit_price": low if short else high},
                stop_loss={"stop_price": high if short else low},
            )
        )

    @rule(symbol=SYMBOLS, wide=st.integers(1, 8))
    def protect(self, symbol: str, wide: int) -> None:
        qty = self.desk.exchange.account.qty(symbol)
        side, sign = ("sell", 1) if qty > 0 else ("buy", -1)
        self.attempt(
            lambda: self.desk.sends(
                side,
                abs(qty),
                symbol,
                "limit",
                order_class="oco",
                take_profit={"limit_price": str(CENTS[symbol] + sign * wide)},
                stop_loss={"stop_price": str(CENTS[symbol] - sign * wide)},
            )
        )

    @rule(pick=st.integers(0, 1000))
    def cancel(self, pick: int) -> None:
        orders = list(self.desk.exchange.book.orders)
        if orders:
            self.attempt(lambda: self.desk.exchange.cancel(orders[pick % len(orders)]))

    @rule(pick=st.integers(0, 1000), qty=st.none() | st.integers(1, 90), off=st.none() | st.integers(-6, 6))
    def replace(self, pick: int, qty: int | None, off: int | None) -> None:
        orders = self.desk.exchange.book.live()
        if orders:
            order = orders[pick % len(orders)]
            changes: dict[str, object] = {"qty": qty}
            if off is not None:
                name = "limit_price" if order.limit_price is not None else "stop_price"
                changes[name] = str(CENTS[order.symbol] + off)
            self.attempt(lambda: self.desk.exchange.replace(order.id, read_replace(changes)))

    @rule(symbol=SYMBOLS)
    def close(self, symbol: str) -> None:
        self.attempt(lambda: self.desk.exchange.close(symbol))

    @rule(symbol=SYMBOLS, move=st.integers(-8, 8), size=st.integers(1, 400))
    def trade(self, symbol: str, move: int, size: int) -> None:
        self.desk.prints(symbol, str(CENTS[symbol] + move), size)

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.2, 1.0, 3600.0, 40_000.0]))
    def wait(self, seconds: float) -> None:
        self.desk.passes(seconds)

    @invariant()
    def books_balance(self) -> None:
        assert audit(self.desk.exchange).problems == []

    @invariant()
    def nothing_is_reserved_for_the_dead(self) -> None:
        if not self.desk.exchange.book.live():
            assert self.desk.exchange.book.reserved() == 0

    def teardown(self) -> None:
        told = [
            u.data["execution_id"] for u in self.desk.exchange.outbox if u.event in {"fill", "partial_fill"}
        ]
        assert told == [execution.id for execution in self.desk.exchange.executions]


TestCustomer = Customer.TestCase
TestCustomer.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)


def test_every_fault_on_the_menu_is_tried_somewhere() -> None:
    """A fault kind that no test names may as well not work."""
    here = Path(__file__).parent
    text = "".join(file.read_text() for file in here.glob("test_*.py"))
    assert [
        kind for kind in FaultKind if f'"{kind}"' not in text and f"FaultKind.{kind.name}" not in text
    ] == []
