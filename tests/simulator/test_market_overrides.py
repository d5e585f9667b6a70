"""Market overrides: trading and the data API show the same prices, and only the overridden symbol changes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache

from catalyst.clock import ManualClock
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.server import run_server
from catalyst.simulator.synthetic.market import make_market
from tests.simulator.exchange_scenario import ExchangeScenario, fixed_latencies
from tests.simulator.served_exchange import ServedExchange

NOON = datetime(2026, 4, 8, 16, 0, tzinfo=UTC)


@cache
def generated_market() -> BarMarket:
    return make_market(seed=5, day=date(2026, 4, 8), symbols=60)


@asynccontextmanager
async def serve_overridden_market() -> AsyncIterator[tuple[ServedExchange, OverriddenMarket, str, str]]:
    """Serve a generated day at noon with overrides; yield two of its symbols."""
    market = OverriddenMarket(generated_market())
    clock = ManualClock(NOON)
    scenario = ExchangeScenario()
    scenario.exchange = Exchange(market, NOON, settings=fixed_latencies())
    symbols = [s for s, a in market.assets().items() if a.tradable and market.quote(s, NOON) is not None]
    async with run_server(scenario.exchange, clock, market=market) as server:
        served = ServedExchange(scenario, clock, server)
        try:
            yield served, market, symbols[0], symbols[1]
        finally:
            served.close()


async def test_gap_override_moves_all_later_prices_of_its_symbol() -> None:
    """A stop fills at the gap's price, the snapshot shows that price, and the other symbol is unchanged."""
    async with serve_overridden_market() as (served, market, symbol, other):
        price, other_before = market.last_print(symbol, NOON), market.last_print(other, NOON)
        assert price is not None
        stop = str((price.price * Decimal("0.98")).quantize(Decimal("0.01")))
        served.scenario.submit("buy", 5, symbol)
        await served.advance(60)
        stop_order = served.scenario.submit("sell", 5, symbol, "stop", stop_price=stop)
        await served.advance(1)
        await served.post_admin("market", act="gap", symbol=symbol, factor="0.92")
        await served.advance(120)
        assert stop_order.average_fill_price is not None
        assert stop_order.average_fill_price < price.price * Decimal("0.95")
        snapshots = (await served.request("GET", f"/v2/stocks/snapshots?symbols={symbol},{other}")).json()
        newest = market.last_print(symbol, served.clock.now())
        assert newest is not None
        assert snapshots[symbol]["latestTrade"]["p"] == float(newest.price)
        other_after = generated_market().last_print(other, served.clock.now())
        assert other_before is not None
        assert other_after is not None
        assert snapshots[other]["latestTrade"]["p"] == float(other_after.price)
        served.scenario.assert_audit_clean()


async def test_trade_override_fills_a_resting_limit() -> None:
    """The inserted trade fills a resting limit order and is the newest trade of the market."""
    async with serve_overridden_market() as (served, market, symbol, _):
        order = served.scenario.submit("buy", 2, symbol, "limit", limit_price="0.5")
        await served.advance(1)
        await served.post_admin("market", act="trade", symbol=symbol, price="0.4", size=500)
        await served.advance(1)
        assert order.status == "filled"
        newest = market.last_print(symbol, NOON + timedelta(seconds=1, milliseconds=1))
        assert newest is not None
        assert newest.price == Decimal("0.4")
        snapshots = market.snapshots([symbol], NOON + timedelta(seconds=1, milliseconds=1))
        assert float(snapshots.trade_price[0]) == 0.4


async def test_overrides_stop_trades_and_set_a_crossed_quote() -> None:
    """A stopped feed has no trades and an old quote; a crossed quote is shown, but orders never fill at it."""
    async with serve_overridden_market() as (served, market, symbol, _):
        await served.post_admin("market", act="stop_feed", symbol=symbol)
        assert market.next_print_time(symbol, NOON) is None
        before = market.quote(symbol, NOON)
        assert market.quote(symbol, NOON + timedelta(hours=1)) == before
        await served.post_admin("market", act="resume_feed", symbol=symbol)
        assert market.next_print_time(symbol, NOON) is not None
        await served.post_admin("market", act="quote", symbol=symbol, bid="100000", ask="0.01")
        quote = (await served.request("GET", f"/v2/stocks/{symbol}/quotes/latest")).json()["quote"]
        assert (quote["bp"], quote["ap"]) == (100000.0, 0.01)
        order = served.scenario.submit("buy", 1, symbol, limit_price=None)
        await served.advance(120)
        newest = market.last_print(symbol, order.filled_at or NOON)
        assert newest is not None
        assert order.average_fill_price == newest.price
        assert (
            await served.request("POST", "/admin/market", json={"act": "x", "symbol": symbol})
        ).status_code == 422


async def test_admin_api_sets_data_entitlements_and_limits() -> None:
    """The admin API sets entitlements and limits of the data API and its websockets."""
    async with serve_overridden_market() as (served, _, symbol, _):
        assert (await served.post_admin("data", recent_sip=False, symbol_limit=30))["symbol_limit"] == 30
        rejected = await served.request("GET", f"/v2/stocks/snapshots?symbols={symbol}&feed=sip")
        assert rejected.status_code == 403
        assert (await served.post_admin("data", url_limit=50, connection_limit=2))["connection_limit"] == 2
        assert (
            await served.request("GET", f"/v2/stocks/snapshots?symbols={symbol}&feed=iex&currency=USD")
        ).status_code == 414


def test_gap_moves_the_trades_after_its_instant_and_none_before() -> None:
    """A gap at the instant of a trade leaves that trade as it was published; later trades have the product of all gaps
    before them, whichever was set first."""
    market, real = OverriddenMarket(generated_market()), generated_market()
    symbol = next(s for s in real.assets() if len(real.prints(s, NOON, NOON + timedelta(minutes=5))) >= 3)
    first, second, third = real.prints(symbol, NOON, NOON + timedelta(minutes=5))[:3]
    market.add_gap(symbol, Decimal("0.5"), second.at)
    market.add_gap(symbol, Decimal("0.8"), first.at)
    factors = {first.at: Decimal(1), second.at: Decimal("0.8"), third.at: Decimal("0.4")}
    for trade in (first, second, third):
        expected = (trade.price * factors[trade.at]).quantize(Decimal("0.01"))
        assert market.last_print(symbol, trade.at) == replace(trade, price=expected)
    assert [trade.at for trade in market.prints(symbol, NOON, third.at)] == list(factors)


def test_market_without_overrides_is_unchanged() -> None:
    """Without overrides the wrapper returns the market's own prints and quotes."""
    market, real = OverriddenMarket(generated_market()), generated_market()
    later = NOON + timedelta(minutes=3)
    for symbol in list(real.assets())[:20]:
        assert market.prints(symbol, NOON, later) == real.prints(symbol, NOON, later)
        assert market.quote(symbol, NOON) == real.quote(symbol, NOON)
        assert market.last_print(symbol, NOON) == real.last_print(symbol, NOON)
        assert market.next_print_time(symbol, NOON) == real.next_print_time(symbol, NOON)
