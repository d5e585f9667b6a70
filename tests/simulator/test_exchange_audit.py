"""Audit of the exchange: it is clean after any trading and reports damaged state."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.rules.orders import OrderSide
from catalyst.simulator.rules.wire_format import ApiError
from catalyst.simulator.trading_api.order_parsing import parse_replace_request
from tests.simulator.exchange_scenario import ExchangeScenario


def traded_scenario() -> ExchangeScenario:
    scenario = ExchangeScenario()
    scenario.given_position("AAPL", 10)
    scenario.given_position("MSFT", -3)
    scenario.print_trade("AAPL", "104")
    scenario.submit("sell", 4)
    scenario.advance()
    return scenario


def change_first_execution(scenario: ExchangeScenario, **changes: object) -> None:
    """Overwrite fields of the first execution."""
    scenario.exchange.state.executions[0] = replace(scenario.exchange.state.executions[0], **changes)  # type: ignore[arg-type]


def lose_cash(scenario: ExchangeScenario) -> None:
    scenario.exchange.state.account.cash -= Decimal("0.01")


def lose_profit(scenario: ExchangeScenario) -> None:
    scenario.exchange.state.account.realised += 1


def add_shares(scenario: ExchangeScenario) -> None:
    scenario.exchange.state.account.positions["AAPL"].qty += 1


def add_filled_share(scenario: ExchangeScenario) -> None:
    next(iter(scenario.exchange.state.order_store.orders.values())).filled_qty += 1


def duplicate_execution(scenario: ExchangeScenario) -> None:
    scenario.exchange.state.executions.append(scenario.exchange.state.executions[0])


def orphan_execution(scenario: ExchangeScenario) -> None:
    change_first_execution(scenario, order_id="nobody")


def flip_execution_side(scenario: ExchangeScenario) -> None:
    change_first_execution(scenario, side=OrderSide.SELL)


@pytest.mark.parametrize(
    "damage",
    [
        lose_cash,
        lose_profit,
        add_shares,
        add_filled_share,
        duplicate_execution,
        orphan_execution,
        flip_execution_side,
    ],
)
def test_audit_detects_every_kind_of_damage(damage: Callable[[ExchangeScenario], None]) -> None:
    """The audit is clean before, and reports a problem after a cent, a share, a fill or an execution was
    changed."""
    scenario = traded_scenario()
    assert audit(scenario.exchange.state).clean
    damage(scenario)
    assert not audit(scenario.exchange.state).clean


def test_equity_equals_deposits_plus_profit() -> None:
    """Cash plus positions equals deposits plus realised plus unrealised profit."""
    scenario = traded_scenario()
    report = audit(scenario.exchange.state)
    equity = scenario.exchange.state.account.equity(scenario.exchange.state.mark_price)
    assert equity == 100_000 + report.realised + report.unrealised
    assert report.realised == Decimal("15.92")  # four shares from 100.01 to 103.99
    assert report.positions == {"AAPL": Decimal(6), "MSFT": Decimal(-3)}


SIDES = st.sampled_from(["buy", "sell"])
SYMBOLS = st.sampled_from(["AAPL", "MSFT"])
BASE_PRICES = {"AAPL": 100, "MSFT": 300}


class RandomTradingMachine(RuleBasedStateMachine):
    """Random customer requests in any order while the market moves."""

    def __init__(self) -> None:
        super().__init__()
        self.scenario = ExchangeScenario()
        self.scenario.feed.quote_size = 30

    def ignore_rejection(self, act: Callable[[], object]) -> None:
        with suppress(ApiError):
            act()

    @rule(
        side=SIDES,
        symbol=SYMBOLS,
        qty=st.integers(1, 80),
        kind=st.sampled_from(["market", "limit", "stop"]),
        off=st.integers(-6, 6),
    )
    def send(self, side: str, symbol: str, qty: int, kind: str, off: int) -> None:
        price = str(BASE_PRICES[symbol] + off)
        terms = {"limit": {"limit_price": price}, "stop": {"stop_price": price}}.get(kind, {})
        self.ignore_rejection(lambda: self.scenario.submit(side, qty, symbol, kind, **terms))

    @rule(symbol=SYMBOLS, qty=st.integers(1, 80), short=st.booleans(), wide=st.integers(1, 8))
    def bracket(self, symbol: str, qty: int, short: bool, wide: int) -> None:
        low, high = str(BASE_PRICES[symbol] - wide), str(BASE_PRICES[symbol] + wide)
        self.ignore_rejection(
            lambda: self.scenario.submit(
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
        qty = self.scenario.exchange.state.account.qty(symbol)
        side, sign = ("sell", 1) if qty > 0 else ("buy", -1)
        self.ignore_rejection(
            lambda: self.scenario.submit(
                side,
                abs(qty),
                symbol,
                "limit",
                order_class="oco",
                take_profit={"limit_price": str(BASE_PRICES[symbol] + sign * wide)},
                stop_loss={"stop_price": str(BASE_PRICES[symbol] - sign * wide)},
            )
        )

    @rule(pick=st.integers(0, 1000))
    def cancel(self, pick: int) -> None:
        orders = list(self.scenario.exchange.state.order_store.orders)
        if orders:
            self.ignore_rejection(lambda: self.scenario.exchange.cancel(orders[pick % len(orders)]))

    @rule(pick=st.integers(0, 1000), qty=st.none() | st.integers(1, 90), off=st.none() | st.integers(-6, 6))
    def replace(self, pick: int, qty: int | None, off: int | None) -> None:
        orders = self.scenario.exchange.state.order_store.live()
        if orders:
            order = orders[pick % len(orders)]
            changes: dict[str, object] = {"qty": qty}
            if off is not None:
                name = "limit_price" if order.limit_price is not None else "stop_price"
                changes[name] = str(BASE_PRICES[order.symbol] + off)
            self.ignore_rejection(
                lambda: self.scenario.exchange.replace(order.id, parse_replace_request(changes))
            )

    @rule(symbol=SYMBOLS)
    def close(self, symbol: str) -> None:
        self.ignore_rejection(lambda: self.scenario.exchange.close_position(symbol))

    @rule(symbol=SYMBOLS, move=st.integers(-8, 8), size=st.integers(1, 400))
    def trade(self, symbol: str, move: int, size: int) -> None:
        self.scenario.print_trade(symbol, str(BASE_PRICES[symbol] + move), size)

    @rule(seconds=st.sampled_from([0.01, 0.06, 0.2, 1.0, 3600.0, 40_000.0]))
    def wait(self, seconds: float) -> None:
        self.scenario.advance(seconds)

    @invariant()
    def audit_is_clean(self) -> None:
        assert audit(self.scenario.exchange.state).problems == []

    @invariant()
    def nothing_is_reserved_without_live_orders(self) -> None:
        if not self.scenario.exchange.state.order_store.live():
            assert self.scenario.exchange.state.order_store.reserved_buying_power() == 0

    def teardown(self) -> None:
        streamed = [
            u.data["execution_id"]
            for u in self.scenario.exchange.state.outbox
            if u.event in {"fill", "partial_fill"}
        ]
        assert streamed == [execution.id for execution in self.scenario.exchange.state.executions]


TestRandomTrading = RandomTradingMachine.TestCase
TestRandomTrading.settings = settings(
    max_examples=100,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
)
