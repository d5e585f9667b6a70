"""Random traders act for thousands of steps; the order ledger is exact after every step. The expected
values are recomputed from the executions and the API's rows, not taken from the exchange's totals."""

import os
import random
from collections import defaultdict
from datetime import timedelta
from decimal import Decimal
from typing import Any

import pytest

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.exchange.settings import ExchangeSettings, LatencyRange
from catalyst.simulator.exchange.views import order_view
from catalyst.simulator.rules.orders import Order
from catalyst.simulator.rules.wire_format import ApiError
from catalyst.simulator.trading_api.order_parsing import parse_replace_request
from tests.simulator.exchange_scenario import ExchangeScenario

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
SEEDS = range(40) if LONG else range(10)
STEPS = 5_000 if LONG else 1_500
SYMBOLS = ("AAPL", "MSFT", "TSLA", "HARD")
TERMINAL_STATUSES = {"filled", "canceled", "expired", "rejected", "replaced"}
ORDER_TYPES = ("market", "market", "limit", "limit", "stop", "stop_limit", "trailing_stop")
TIMES_IN_FORCE = ("day", "day", "day", "gtc", "gtc", "ioc", "fok", "opg", "cls")


class RandomTrader:
    """One random trader; latencies vary, so cancels, replacements and fills race."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        switches = ExchangeSettings(
            acknowledge=LatencyRange(0.01, 0.3),
            arrive=LatencyRange(0.01, 0.3),
            cancel=LatencyRange(0.01, 1.0),
            replace=LatencyRange(0.01, 1.0),
            partial_probability=Decimal("0.2"),
            stop_by_replacement=seed % 2 == 1,
            charge_fees=seed % 3 == 1,
            held_replaceable=seed % 4 != 2,
        )
        self.cash = Decimal(1_000_000)
        self.scenario = ExchangeScenario(switches=switches, seed=seed, deposit=self.cash)
        self.scenario.feed.quote_size = 60
        self.prices = {"AAPL": 100.0, "MSFT": 300.0, "TSLA": 200.0, "HARD": 20.0}
        self.shares: dict[str, Decimal] = defaultdict(Decimal)
        self.checked_executions = self.checked_fees = 0
        self.act_counts: dict[str, int] = defaultdict(int)

    def step(self) -> None:
        """Do one random action and check the whole account."""
        acts = (self.order,) * 6 + (self.trade,) * 6 + (self.wait,) * 4
        acts += (self.cancel,) * 2 + (self.replace,) * 3 + (self.close,) * 2 + (self.protect,) * 2
        acts += (self.halt, self.cancel_all, self.deposit)
        act = self.random.choice(acts)
        try:
            act()
            self.act_counts[act.__name__] += 1
        except ApiError:
            self.act_counts["refused"] += 1
        self.check()

    # -- actions of the trader

    def order(self) -> None:
        draw = self.random
        symbol, side = draw.choice(SYMBOLS), draw.choice(("buy", "sell"))
        kind = draw.choice(ORDER_TYPES)
        body: dict[str, Any] = {"time_in_force": draw.choice(TIMES_IN_FORCE)}
        qty: object = draw.choice((1, 2, 5, 20, 45, 90, "0.5", "3.25"))
        if kind in {"limit", "stop_limit"}:
            body["limit_price"] = self.price_near(symbol, 0.03)
        if kind in {"stop", "stop_limit"}:
            body["stop_price"] = self.price_near(symbol, 0.03)
        if kind == "trailing_stop":
            body[draw.choice(("trail_percent", "trail_price"))] = draw.choice(("0.5", "1", "2"))
        if kind == "limit" and draw.random() < 0.2:
            body["extended_hours"] = True
        order_class = draw.choice(("simple", "simple", "simple", "bracket", "bracket", "oto"))
        if order_class != "simple":
            up = 1 if side == "buy" else -1
            body |= {
                "order_class": order_class,
                "stop_loss": {"stop_price": self.price_near(symbol, 0.02, -up)},
            }
            if order_class == "bracket":
                body["take_profit"] = {"limit_price": self.price_near(symbol, 0.02, up)}
            if draw.random() < 0.3:
                body["stop_loss"]["limit_price"] = self.price_near(symbol, 0.03, -up)
        if draw.random() < 0.05:
            body["notional"], qty = "250.50", None
        self.scenario.submit(side, qty, symbol, kind, **body)

    def protect(self) -> None:
        symbol = self.random.choice(SYMBOLS)
        held = self.scenario.exchange.state.account.qty(symbol)
        side, up = ("sell", 1) if held > 0 else ("buy", -1)
        stop = {"stop_price": self.price_near(symbol, 0.02, -up)}
        target = {"limit_price": self.price_near(symbol, 0.02, up)}
        qty = max(int(abs(held)) - self.random.choice((0, 0, 1)), 1)
        self.scenario.submit(
            side, qty, symbol, "limit", order_class="oco", take_profit=target, stop_loss=stop
        )

    def cancel(self) -> None:
        self.scenario.exchange.cancel(self.random_order().id)

    def replace(self) -> None:
        order = self.random_order()
        changes: dict[str, object] = {}
        if self.random.random() < 0.6:
            changes["qty"] = self.random.choice((1, 3, 10, 30, 60))
        if order.limit_price is not None:
            changes["limit_price"] = self.price_near(order.symbol, 0.03)
        if order.stop_price is not None and order.type != "trailing_stop" and self.random.random() < 0.5:
            changes["stop_price"] = self.price_near(order.symbol, 0.03)
        self.scenario.exchange.replace(order.id, parse_replace_request(changes))

    def close(self) -> None:
        part = self.random.choice((None, None, Decimal(1), Decimal("0.5")))
        self.scenario.exchange.close_position(self.random.choice(SYMBOLS), part)

    def cancel_all(self) -> None:
        if self.random.random() < 0.3:
            self.scenario.exchange.cancel_all()

    def halt(self) -> None:
        symbol, exchange = self.random.choice(SYMBOLS), self.scenario.exchange
        if exchange.state.halted:
            exchange.venue.resume(exchange.state.halted.copy().pop())
        else:
            exchange.state.halt(symbol)

    def deposit(self) -> None:
        amount = Decimal(self.random.choice((-500, 500)))
        self.scenario.exchange.deposit(amount)
        self.cash += amount

    def trade(self) -> None:
        symbol = self.random.choice(SYMBOLS)
        self.prices[symbol] *= 1 + self.random.gauss(0, 0.008)
        size = self.random.choice((1, 10, 40, 200, 5_000))
        self.scenario.print_trade(symbol, f"{self.prices[symbol]:.2f}", size)

    def wait(self) -> None:
        scenario = self.scenario
        scenario.advance(self.random.choice((0.02, 0.1, 0.5, 2.0, 20.0, 300.0)))
        if not scenario.exchange.state.hours.is_open(scenario.now) or self.random.random() < 0.02:
            opens = scenario.exchange.state.hours.next_session(scenario.now)
            assert opens is not None
            scenario.exchange.venue.advance(opens.open - timedelta(seconds=self.random.choice((-5, 60, 900))))

    def price_near(self, symbol: str, width: float, side: int = 0) -> str:
        """Return a price within `width` of the last trade; above it for a positive side, below for a negative
        one."""
        off = self.random.uniform(-width, width)
        return f"{self.prices[symbol] * (1 + (abs(off) * side if side else off)):.2f}"

    def random_order(self) -> Order:
        """Return a working order, or one time in ten any order."""
        book = self.scenario.exchange.state.order_store
        orders = book.live() if self.random.random() < 0.9 else list(book.orders.values())
        if not orders:
            raise ApiError(404, None, "there is no order")
        return self.random.choice(orders)

    # -- checks

    def check(self) -> None:
        exchange = self.scenario.exchange
        for execution in exchange.state.executions[self.checked_executions :]:
            sign = 1 if execution.side == "buy" else -1
            before = self.shares[execution.symbol]
            after = before + sign * execution.qty
            assert before * after >= 0, f"{execution} took {before} across zero to {after}"
            self.shares[execution.symbol] = after
            self.cash -= sign * execution.qty * execution.price
        self.checked_executions = len(exchange.state.executions)
        for fee in exchange.state.fees[self.checked_fees :]:
            self.cash -= fee.amount
        self.checked_fees = len(exchange.state.fees)
        assert exchange.state.account.cash == self.cash
        held = {symbol: qty for symbol, qty in self.shares.items() if qty}
        assert {symbol: p.qty for symbol, p in exchange.state.account.positions.items()} == held
        self.check_reserved(held)
        assert audit(exchange.state).problems == []

    def check_reserved(self, held: dict[str, Decimal]) -> None:
        """Check that open exits reserve each share once and that working exits never exceed the position."""
        exchange = self.scenario.exchange
        groups: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        trading: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
        for order in exchange.state.order_store.live():
            row = order_view(order, exchange.state.order_store, exchange.state.settings, nested=False)
            if not str(row["position_intent"]).endswith("_to_close") or not self.is_active(order):
                continue
            rest = Decimal(str(row["qty"] or order.qty)) - Decimal(str(row["filled_qty"]))
            if order.replaces is not None and not order.acknowledged:
                rest -= exchange.state.order_store.orders[
                    order.replaces
                ].filled_qty  # its quantity is that of the chain
            key = (order.symbol, self.group_id(order))
            groups[key] = max(groups[key], rest)
            if order.acknowledged:
                trading[key] = max(trading[key], order.remaining)
        for symbol in SYMBOLS:
            claimed = sum((qty for key, qty in groups.items() if key[0] == symbol), Decimal(0))
            able = sum((qty for key, qty in trading.items() if key[0] == symbol), Decimal(0))
            have = held.get(symbol, Decimal(0))
            assert able <= abs(have), f"{symbol}: {able} may leave a position of {have}"
            if have:
                shown = exchange.held_for_orders(exchange.position(symbol))
                assert shown == claimed, f"{symbol}: {shown} shown as held, open exits say {claimed}"

    def is_active(self, order: Order) -> bool:
        """Return false for a leg before its entry is complete or after its group ended, and for a replacement
        of a terminal order, which will be rejected."""
        orders = self.scenario.exchange.state.order_store.orders
        if order.replaces is not None and not order.acknowledged:
            old = orders[order.replaces]
            return old.status not in TERMINAL_STATUSES and self.is_active(old)
        if order.role in {"plain", "entry"}:
            return True
        if order.acknowledged or order.parent_id is None:
            return order.active
        parent = orders[order.parent_id]
        return parent.order_class == "oco" or parent.status == "filled"

    def group_id(self, order: Order) -> str:
        """Return the first order of the chain at the group's head; a group reserves its shares once."""
        orders = self.scenario.exchange.state.order_store.orders
        top = order if order.parent_id is None else orders[order.parent_id]
        while top.replaces is not None:
            top = orders[top.replaces]
        return top.id


@pytest.mark.parametrize("seed", SEEDS)
def test_account_stays_exact_under_random_trading(seed: int) -> None:
    """After each step cash is exact to the last digit, no exit crosses zero, reserved shares are exact and
    the audit is clean."""
    trader = RandomTrader(seed)
    for number in range(STEPS):
        try:
            trader.step()
        except AssertionError as error:
            raise AssertionError(f"seed {seed}, step {number}: {error}") from error
    assert trader.checked_executions > STEPS / 30
    assert (
        min(trader.act_counts[name] for name in ("order", "trade", "cancel", "replace", "close", "protect"))
        > 0
    )
