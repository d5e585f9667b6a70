"""A random trader on recorded days: the account recomputed from the executions equals the exchange's."""

import os
import random
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from catalyst.simulator.recorded import market as recorded_market
from tests.conformance.exchange_thread import SHARED, ExchangeThread, run_exchange

DATA = SHARED / "data"
DAYS = sorted(DATA.glob("bars_5min_market_*.parquet"))
pytestmark = pytest.mark.skipif(not DAYS, reason="the recorded days are not here")

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
ORDER_COUNT = 600 if LONG else 150
REPLAYED_DAYS = DAYS if LONG else DAYS[-2:-1]


@dataclass
class RecomputedAccount:
    """The account recomputed from its executions: exact fractions, shares at average cost."""

    cash: Fraction
    realised: Fraction = Fraction(0)
    shares: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))
    cost: dict[str, Fraction] = field(default_factory=lambda: defaultdict(Fraction))  # signed like the shares

    def book_fill(self, fill: dict[str, Any]) -> None:
        """Book one execution: shares of the position's sign join it, shares of the other sign leave it at
        average cost."""
        symbol, price = fill["symbol"], Fraction(fill["price"])
        signed = Fraction(fill["qty"]) * (1 if fill["side"] == "buy" else -1)
        self.cash -= signed * price
        held, cost = self.shares[symbol], self.cost[symbol]
        if held * signed < 0:
            leaving = -signed if abs(signed) <= abs(held) else held
            self.realised += leaving * price - cost * leaving / held
            cost -= cost * leaving / held
            signed, held = signed + leaving, held - leaving
        self.shares[symbol], self.cost[symbol] = held + signed, cost + signed * price

    @property
    def positions(self) -> dict[str, Fraction]:
        return {symbol: qty for symbol, qty in self.shares.items() if qty}


@pytest.mark.parametrize("file", REPLAYED_DAYS, ids=lambda file: file.stem[-10:])
def test_account_equals_the_one_recomputed_from_executions(file: Path) -> None:
    """Cash, positions, realised and unrealised profit and equity equal those recomputed from the account
    activities."""
    market = recorded_market.load_market(file)
    with run_exchange(market=market, start="09:31", charge_fees=True, deposit=1_000_000) as sim:
        trade_the_day(sim, random.Random(file.stem))
        fills = activities(sim, "FILL")
        fees = activities(sim, "FEE")
        recomputed = RecomputedAccount(Fraction(1_000_000))
        for fill in fills:
            recomputed.book_fill(fill)
        recomputed.cash += sum(Fraction(fee["net_amount"]) for fee in fees)
        account, audit = sim.request("GET", "/v2/account").json(), sim.request("GET", "/admin/audit").json()
        shown = sim.request("GET", "/v2/positions").json()
        assert len(fills) > ORDER_COUNT / 3
        assert any(fill["side"] == "sell" for fill in fills)
        assert fees
        assert audit["problems"] == []
        assert audit["executions"] == len(fills)
        assert Fraction(audit["cash"]) == Fraction(account["cash"]) == recomputed.cash
        assert {symbol: Fraction(qty) for symbol, qty in audit["positions"].items()} == recomputed.positions
        assert {row["symbol"]: Fraction(row["qty"]) for row in shown} == recomputed.positions
        assert_close(audit["realised"], recomputed.realised)
        worth = sum(
            (recomputed.shares[p["symbol"]] * Fraction(p["current_price"]) for p in shown), Fraction(0)
        )
        owed = sum((recomputed.cost[symbol] for symbol in recomputed.positions), Fraction(0))
        assert_close(audit["unrealised"], worth - owed)
        assert_close(account["equity"], recomputed.cash + worth)
        for row in shown:
            assert_close(
                row["avg_entry_price"], recomputed.cost[row["symbol"]] / recomputed.shares[row["symbol"]]
            )
            assert_close(row["unrealized_pl"], Fraction(row["market_value"]) - recomputed.cost[row["symbol"]])
        started = Fraction(1_000_000) + sum(Fraction(fee["net_amount"]) for fee in fees)
        assert_close(account["equity"], started + Fraction(audit["realised"]) + Fraction(audit["unrealised"]))


def assert_close(shown: str, exact: Fraction) -> None:
    """Check equality to the eighth decimal, because averages are rounded for display."""
    assert abs(Fraction(shown) - exact) < Fraction(1, 10**8), (shown, float(exact))


def activities(sim: ExchangeThread, kind: str) -> list[dict[str, Any]]:
    """Fetch every activity of a kind, oldest first, page by page."""
    found: list[dict[str, Any]] = []
    while True:
        query = {"direction": "asc", "page_size": "100"} | ({"page_token": found[-1]["id"]} if found else {})
        page = sim.request("GET", f"/v2/account/activities/{kind}", params=query).json()
        found += page
        if len(page) < 100:
            return found


def trade_the_day(sim: ExchangeThread, draw: random.Random) -> None:
    """Trade until the next morning: orders of every kind in busy and quiet symbols, cancels, replacements,
    closes."""
    everything = list(sim.exchange.state.market.assets())
    at: datetime = sim.clock.now()
    table = sim.exchange.state.market.snapshots(everything, at)  # type: ignore[attr-defined]
    busy = [table.symbols[row] for row in table.daily.volume.argsort()[::-1][:60]]
    names = busy + draw.sample(everything, 20)
    pause = 6 * 3600 / ORDER_COUNT
    for _ in range(ORDER_COUNT):
        symbol = draw.choice(names)
        price = float(sim.exchange.state.mark_price(symbol) or 0)
        if price:
            send_random_order(sim, draw, symbol, price)
        open_orders = sim.request("GET", "/v2/orders?status=open&limit=500").json()
        if open_orders and draw.random() < 0.2:
            sim.request("DELETE", f"/v2/orders/{draw.choice(open_orders)['id']}")
        if open_orders and draw.random() < 0.2:
            order = draw.choice(open_orders)
            sim.request("PATCH", f"/v2/orders/{order['id']}", json={"qty": str(draw.randint(1, 400))})
        held = sim.request("GET", "/v2/positions").json()
        if held and draw.random() < 0.3:
            share = draw.choice(("25", "50", "100"))
            sim.request(
                "DELETE", f"/v2/positions/{draw.choice(held)['symbol']}", params={"percentage": share}
            )
        sim.advance(draw.uniform(0.3, 1.7) * pause)
    sim.call_in_thread(lambda: sim.clock.advance(timedelta(hours=18)))  # type: ignore[attr-defined]


def send_random_order(sim: ExchangeThread, draw: random.Random, symbol: str, price: float) -> None:
    """Submit an order of a random kind near the price; it may be refused."""
    side = draw.choice(("buy", "buy", "sell"))
    up = 1 if side == "buy" else -1
    kind = draw.choice(("market", "market", "limit", "stop", "trailing_stop"))
    body: dict[str, Any] = {
        "symbol": symbol,
        "side": side,
        "type": kind,
        "qty": draw.choice((1, 7, 50, 120, 400, 1500, "0.75")),
        "time_in_force": draw.choice(("day", "day", "gtc", "ioc")),
    }
    if kind == "limit":
        body["limit_price"] = f"{price * draw.uniform(0.99, 1.01):.2f}"
    elif kind == "stop":
        body["stop_price"] = f"{price * (1 + up * 0.004):.2f}"
    elif kind == "trailing_stop":
        body["trail_percent"] = "0.5"
    elif draw.random() < 0.5:
        body |= {
            "time_in_force": "day",
            "qty": draw.choice((10, 100, 700)),
            "order_class": "bracket",
            "take_profit": {"limit_price": f"{price * (1 + up * 0.008):.2f}"},
            "stop_loss": {"stop_price": f"{price * (1 - up * 0.006):.2f}"},
        }
    sim.request("POST", "/v2/orders", json=body)
