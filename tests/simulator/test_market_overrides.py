"""A hand in the market: what trades is what the data API shows, and only the touched symbol feels it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from functools import cache

from catalyst.clock import ManualClock
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.overrides import HandledMarket
from catalyst.simulator.server import running
from catalyst.simulator.synthetic.market import make
from tests.simulator.exchange_scenario import Desk, exact
from tests.simulator.served_exchange import Wire

NOON = datetime(2026, 4, 8, 16, 0, tzinfo=UTC)


@cache
def generated() -> BarMarket:
    return make(seed=5, day=date(2026, 4, 8), symbols=60)


@asynccontextmanager
async def handled() -> AsyncIterator[tuple[Wire, HandledMarket, str, str]]:
    """A generated day at noon behind a hand; two of its symbols."""
    market = HandledMarket(generated())
    clock = ManualClock(NOON)
    desk = Desk()
    desk.exchange = Exchange(market, NOON, switches=exact())
    symbols = [s for s, a in market.assets().items() if a.tradable and market.quote(s, NOON) is not None]
    async with running(desk.exchange, clock, market=market) as server:
        wire = Wire(desk, clock, server)
        try:
            yield wire, market, symbols[0], symbols[1]
        finally:
            wire.close()


async def test_a_gap_moves_every_price_from_then_on() -> None:
    """The stop of a holder fills at the gap's price, the snapshot shows it, the other symbol does not move."""
    async with handled() as (wire, market, symbol, other):
        price, quiet = market.last_print(symbol, NOON), market.last_print(other, NOON)
        assert price is not None
        stop = str((price.price * Decimal("0.98")).quantize(Decimal("0.01")))
        wire.desk.sends("buy", 5, symbol)
        await wire.passes(60)
        held = wire.desk.sends("sell", 5, symbol, "stop", stop_price=stop)
        await wire.passes(1)
        await wire.admin("market", act="gap", symbol=symbol, factor="0.92")
        await wire.passes(120)
        assert held.average is not None
        assert held.average < price.price * Decimal("0.95")
        shown = (await wire.http_("GET", f"/v2/stocks/snapshots?symbols={symbol},{other}")).json()
        newest = market.last_print(symbol, wire.clock.now())
        assert newest is not None
        assert shown[symbol]["latestTrade"]["p"] == float(newest.price)
        after = generated().last_print(other, wire.clock.now())
        assert quiet is not None
        assert after is not None
        assert shown[other]["latestTrade"]["p"] == float(after.price)
        wire.desk.balanced()


async def test_a_trade_out_of_nowhere_meets_our_orders() -> None:
    """Its price fills a resting limit and is the newest trade for everybody."""
    async with handled() as (wire, market, symbol, _):
        order = wire.desk.sends("buy", 2, symbol, "limit", limit_price="0.5")
        await wire.passes(1)
        await wire.admin("market", act="trade", symbol=symbol, price="0.4", size=500)
        await wire.passes(1)
        assert order.status == "filled"
        newest = market.last_print(symbol, NOON + timedelta(seconds=1, milliseconds=1))
        assert newest is not None
        assert newest.price == Decimal("0.4")
        shown = market.snapshots([symbol], NOON + timedelta(seconds=1, milliseconds=1))
        assert float(shown.trade_price[0]) == 0.4


async def test_a_tape_may_stop_and_quotes_may_be_absurd() -> None:
    """No trade after the stop and an old quote; a crossed quote is shown and never traded on."""
    async with handled() as (wire, market, symbol, _):
        await wire.admin("market", act="stop", symbol=symbol)
        assert market.next_print(symbol, NOON) is None
        before = market.quote(symbol, NOON)
        assert market.quote(symbol, NOON + timedelta(hours=1)) == before
        await wire.admin("market", act="go_on", symbol=symbol)
        assert market.next_print(symbol, NOON) is not None
        await wire.admin("market", act="quote", symbol=symbol, bid="100000", ask="0.01")
        shown = (await wire.http_("GET", f"/v2/stocks/{symbol}/quotes/latest")).json()["quote"]
        assert (shown["bp"], shown["ap"]) == (100000.0, 0.01)
        order = wire.desk.sends("buy", 1, symbol, limit_price=None)
        await wire.passes(120)
        newest = market.last_print(symbol, order.filled_at or NOON)
        assert newest is not None
        assert order.average == newest.price
        assert (
            await wire.http_("POST", "/admin/market", json={"act": "x", "symbol": symbol})
        ).status_code == 422


async def test_the_market_data_half_has_its_switches() -> None:
    """Entitlements and limits of the data API and of its websockets."""
    async with handled() as (wire, _, symbol, _):
        assert (await wire.admin("data", recent_sip=False, symbol_limit=30))["symbol_limit"] == 30
        refused = await wire.http_("GET", f"/v2/stocks/snapshots?symbols={symbol}&feed=sip")
        assert refused.status_code == 403
        assert (await wire.admin("data", url_limit=50, connection_limit=2))["connection_limit"] == 2
        assert (
            await wire.http_("GET", f"/v2/stocks/snapshots?symbols={symbol}&feed=iex&currency=USD")
        ).status_code == 414


def test_an_untouched_market_is_itself() -> None:
    """Every answer of the wrapper is the market's own."""
    market, real = HandledMarket(generated()), generated()
    later = NOON + timedelta(minutes=3)
    for symbol in list(real.assets())[:20]:
        assert market.prints(symbol, NOON, later) == real.prints(symbol, NOON, later)
        assert market.quote(symbol, NOON) == real.quote(symbol, NOON)
        assert market.last_print(symbol, NOON) == real.last_print(symbol, NOON)
        assert market.next_print(symbol, NOON) == real.next_print(symbol, NOON)
