"""alpaca-py 0.44 with its typed models runs whole sessions of REST and streams, without raw data and without
patches."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Any

from catalyst.clock import ManualClock
from catalyst.simulator.admin.audit import audit
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.server import SimulatorServer, run_server
from tests.conformance.exchange_thread import new_york, small_market
from tests.waiting import run_loop_turns, wait_until

with warnings.catch_warnings():  # alpaca-py 0.44 imports websockets.legacy, which warns
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.data.enums import DataFeed
    from alpaca.data.historical import NewsClient, StockHistoricalDataClient
    from alpaca.data.live import NewsDataStream, StockDataStream
    from alpaca.data.models import Bar, News, Quote, Trade
    from alpaca.data.requests import (
        NewsRequest,
        StockBarsRequest,
        StockLatestQuoteRequest,
        StockQuotesRequest,
        StockSnapshotRequest,
        StockTradesRequest,
    )
    from alpaca.data.timeframe import TimeFrame
    from alpaca.trading.client import TradingClient
    from alpaca.trading.enums import OrderClass, OrderSide, OrderStatus, QueryOrderStatus, TimeInForce
    from alpaca.trading.models import Asset, ClosePositionResponse, Order, Position, TradeAccount, TradeUpdate
    from alpaca.trading.requests import (
        ClosePositionRequest,
        GetCalendarRequest,
        GetOrderByIdRequest,
        GetOrdersRequest,
        GetPortfolioHistoryRequest,
        LimitOrderRequest,
        MarketOrderRequest,
        ReplaceOrderRequest,
        StopLossRequest,
        StopOrderRequest,
        TakeProfitRequest,
        TrailingStopOrderRequest,
    )
    from alpaca.trading.stream import TradingStream

BUY = {"side": OrderSide.BUY, "time_in_force": TimeInForce.DAY}
SELL = {"side": OrderSide.SELL, "time_in_force": TimeInForce.DAY}


@dataclass
class Session:
    """All clients of alpaca-py: REST in threads, streams as tasks, and the manual clock."""

    server: SimulatorServer
    clock: ManualClock
    trading: TradingClient
    stocks: StockHistoricalDataClient
    news: NewsClient
    updates: list[TradeUpdate] = field(default_factory=list)
    data_messages: list[Any] = field(default_factory=list)

    async def call(self, act: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
        return await asyncio.to_thread(act, *arguments, **more)

    async def wait_for_update(self, event: str, order: Order, timeout_s: float = 60.0) -> TradeUpdate:
        """Return the update of this event and order; advance the clock up to `timeout_s` until it comes."""
        for _ in range(int(timeout_s * 4)):
            for update in self.updates:
                if update.event == event and update.order.id == order.id:
                    return update
            await self.clock.advance(timedelta(seconds=0.25))
            await drain_sockets()
        raise AssertionError(f"{event} of {order.id} never came: {[u.event for u in self.updates]}")

    async def price(self, symbol: str) -> Decimal:
        quotes = await self.call(
            self.stocks.get_stock_latest_quote, StockLatestQuoteRequest(symbol_or_symbols=symbol)
        )
        return Decimal(str(quotes[symbol].ask_price))


def all_subscribed(server: SimulatorServer) -> bool:
    """Return true when all three streams have subscribed."""
    data = server.data_streams
    assert data is not None
    return (
        [listener.streams for listener in server.streams._connections] == [("trade_updates",)]
        and len(data.connections) == 2
        and all(connection.sent_until for connection in data.connections)
    )


async def drain_sockets() -> None:
    """Wait until data written to a socket of this process was read."""
    await run_loop_turns(25)


@asynccontextmanager
async def alpaca_py_session() -> AsyncIterator[Session]:
    """Open a session on a generated market at 10:30 with all three streams running."""
    market = small_market()
    clock = ManualClock(new_york("10:30"))
    exchange = Exchange(market, clock.now(), settings=ExchangeSettings(legacy_fields=True, rate_limit=0))
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(run_server(exchange, clock, market=market))
        trading = TradingClient("demo", "demo", url_override=server.url)
        stocks = StockHistoricalDataClient("demo", "demo", url_override=server.url)
        news = NewsClient("demo", "demo", url_override=server.url)
        for client in (trading, stocks, news):
            client._session.trust_env = False
            stack.callback(client._session.close)
        session = Session(server, clock, trading, stocks, news)

        async def update(message: TradeUpdate) -> None:
            session.updates.append(message)

        async def record(message: Any) -> None:
            session.data_messages.append(message)

        base = f"ws://127.0.0.1:{server.port}"
        account = TradingStream("demo", "demo", url_override=f"{base}/stream")
        account.subscribe_trade_updates(update)
        stock_stream = StockDataStream("demo", "demo", feed=DataFeed.IEX, url_override=f"{base}/v2/iex")
        stock_stream.subscribe_trades(record, "AAPL")
        stock_stream.subscribe_quotes(record, "AAPL")
        stock_stream.subscribe_bars(record, "AAPL", "MSFT")
        headlines = NewsDataStream("demo", "demo", url_override=f"{base}/v1beta1/news")
        headlines.subscribe_news(record, "*")
        tasks = [asyncio.create_task(stream._run_forever()) for stream in (account, stock_stream, headlines)]
        try:
            await wait_until(lambda: all_subscribed(server))
            yield session
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        assert audit(exchange.state).problems == []


async def test_alpaca_py_streams_every_step_of_a_replaced_and_cancelled_order() -> None:
    """The stream sends new, replaced, new under another id, and canceled; account and order lists agree with
    it."""
    async with alpaca_py_session() as session:
        trading = session.trading
        account = await session.call(trading.get_account)
        assert isinstance(account, TradeAccount)
        assert account.status == "ACTIVE"
        price = await session.price("AAPL")
        low = float((price * Decimal("0.97")).quantize(Decimal("0.01")))
        order = await session.call(
            trading.submit_order, LimitOrderRequest(symbol="AAPL", qty=5, limit_price=low, **BUY)
        )
        assert isinstance(order, Order)
        assert order.status == OrderStatus.PENDING_NEW
        await session.wait_for_update("new", order)
        lower = round(low - 1, 2)
        new = await session.call(
            trading.replace_order_by_id, order.id, ReplaceOrderRequest(qty=7, limit_price=lower)
        )
        replaced = await session.wait_for_update("replaced", order)
        assert replaced.order.replaced_by == new.id
        await session.wait_for_update("new", new)
        found = await session.call(trading.get_order_by_client_id, new.client_order_id)
        assert (found.id, found.qty, found.replaces) == (new.id, "7", order.id)
        await session.call(trading.cancel_order_by_id, new.id)
        assert (await session.wait_for_update("canceled", new)).order.status == OrderStatus.CANCELED
        listed = await session.call(
            trading.get_orders, GetOrdersRequest(status=QueryOrderStatus.ALL, symbols=["AAPL"])
        )
        assert {row.id: row.status for row in listed} == {
            order.id: OrderStatus.REPLACED,
            new.id: OrderStatus.CANCELED,
        }
        assert await session.call(trading.get_orders) == []


async def test_alpaca_py_replaces_bracket_exits_by_an_oco_that_fills() -> None:
    """A bracket fills, its legs are cancelled as a group, an OCO replaces them, and its target closes the
    position."""
    async with alpaca_py_session() as session:
        trading = session.trading
        price = await session.price("AAPL")
        target, stop = (
            float((price * Decimal(share)).quantize(Decimal("0.01"))) for share in ("1.05", "0.95")
        )
        legs: dict[str, Any] = {
            "take_profit": TakeProfitRequest(limit_price=target),
            "stop_loss": StopLossRequest(stop_price=stop),
        }
        bracket = MarketOrderRequest(symbol="AAPL", qty=10, order_class=OrderClass.BRACKET, **legs, **BUY)
        entry = await session.call(trading.submit_order, bracket)
        assert [leg.status for leg in entry.legs] == [OrderStatus.HELD, OrderStatus.HELD]
        filled = await session.wait_for_update("fill", entry)
        assert (filled.position_qty, filled.order.filled_qty) == (10.0, "10")
        await session.wait_for_update("new", entry.legs[0])
        shown = await session.call(trading.get_order_by_id, entry.id, GetOrderByIdRequest(nested=True))
        assert [leg.status for leg in shown.legs] == [OrderStatus.NEW, OrderStatus.HELD]
        position = await session.call(trading.get_open_position, "AAPL")
        assert isinstance(position, Position)
        assert (position.qty, position.qty_available) == ("10", "0")

        await session.call(trading.cancel_order_by_id, entry.legs[1].id)
        for leg in entry.legs:
            await session.wait_for_update("canceled", leg)
        near = float((await session.price("AAPL")) + Decimal("0.02"))
        oco = LimitOrderRequest(
            symbol="AAPL",
            qty=10,
            limit_price=near,
            order_class=OrderClass.OCO,
            take_profit=TakeProfitRequest(limit_price=near),
            stop_loss=StopLossRequest(stop_price=stop, limit_price=stop - 1),
            **SELL,
        )
        taken = await session.call(trading.submit_order, oco)
        assert [leg.status for leg in taken.legs] == [OrderStatus.HELD]
        done = await session.wait_for_update("fill", taken, timeout_s=3600)
        assert done.position_qty == 0.0
        assert done.price >= near
        await session.wait_for_update("canceled", taken.legs[0])
        assert await session.call(trading.get_all_positions) == []


async def test_alpaca_py_closes_all_positions_after_its_cancels() -> None:
    """Part of a position is closed, then all of them: the cancels are asynchronous, so a second call is
    needed."""
    async with alpaca_py_session() as session:
        trading = session.trading
        long = await session.call(trading.submit_order, MarketOrderRequest(symbol="AAPL", qty=10, **BUY))
        short = await session.call(trading.submit_order, MarketOrderRequest(symbol="MSFT", qty=4, **SELL))
        await session.wait_for_update("fill", long)
        assert (await session.wait_for_update("fill", short)).position_qty == -4.0
        part = await session.call(trading.close_position, "AAPL", ClosePositionRequest(percentage="50"))
        await session.wait_for_update("fill", part)
        away = round(float(await session.price("AAPL")) * 0.9, 2)
        stop = await session.call(
            trading.submit_order, StopOrderRequest(symbol="AAPL", qty=2, stop_price=away, **SELL)
        )
        trail = await session.call(
            trading.submit_order, TrailingStopOrderRequest(symbol="AAPL", qty=3, trail_percent=5, **SELL)
        )
        await session.wait_for_update("new", stop)
        await session.wait_for_update("new", trail)
        answers = await session.call(trading.close_all_positions, cancel_orders=True)
        assert all(isinstance(answer, ClosePositionResponse) for answer in answers)
        assert {answer.symbol for answer in answers} == {str(stop.id), str(trail.id), "AAPL", "MSFT"}
        assert {answer.symbol: answer.status for answer in answers}["AAPL"] == 403
        await session.wait_for_update("canceled", stop)
        await session.wait_for_update("canceled", trail)
        again = await session.call(trading.close_all_positions, cancel_orders=True)
        for answer in again:
            if answer.symbol == "AAPL":
                await session.wait_for_update("fill", answer.body)
        await session.clock.advance(timedelta(seconds=5))
        assert await session.call(trading.get_all_positions) == []
        cancelled = await session.call(trading.cancel_orders)
        assert cancelled == []


async def test_alpaca_py_parses_streamed_trades_quotes_bars_and_news() -> None:
    """Streamed messages parse, and a streamed minute bar equals the one of a later REST call."""
    async with alpaca_py_session() as session:
        for _ in range(70):
            await session.clock.advance(timedelta(seconds=5))
            await drain_sockets()
        kinds = {type(message) for message in session.data_messages}
        assert kinds == {Trade, Quote, Bar, News}
        streamed = [m for m in session.data_messages if isinstance(m, Bar) and m.symbol == "AAPL"]
        request = StockBarsRequest(
            symbol_or_symbols="AAPL", timeframe=TimeFrame.Minute, start=streamed[0].timestamp, limit=1
        )
        bars = await session.call(session.stocks.get_stock_bars, request)
        first = bars["AAPL"][0]
        assert (first.timestamp, first.close, first.volume) == (
            streamed[0].timestamp,
            streamed[0].close,
            streamed[0].volume,
        )


async def test_alpaca_py_parses_historical_data_and_account_reads() -> None:
    """Daily bars, trades, quotes, snapshots, headlines, assets, clock, calendar and portfolio history parse."""
    async with alpaca_py_session() as session:
        stocks, start = session.stocks, new_york("10:00")
        days = StockBarsRequest(
            symbol_or_symbols=["AAPL", "SPY"], timeframe=TimeFrame.Day, start=start - timedelta(days=20)
        )
        bars = await session.call(stocks.get_stock_bars, days)
        assert len(bars["AAPL"]) == len(bars["SPY"]) > 10
        query = {"symbol_or_symbols": "AAPL", "start": start, "end": start + timedelta(minutes=2)}
        trades = await session.call(stocks.get_stock_trades, StockTradesRequest(**query))
        quotes = await session.call(stocks.get_stock_quotes, StockQuotesRequest(**query))
        assert trades["AAPL"][0].price > 0
        assert quotes["AAPL"][0].ask_price > quotes["AAPL"][0].bid_price
        request = StockSnapshotRequest(symbol_or_symbols=["AAPL", "MSFT", "NOBODY"])
        snapshots = await session.call(stocks.get_stock_snapshot, request)
        assert set(snapshots) == {"AAPL", "MSFT"}
        assert snapshots["AAPL"].previous_daily_bar.close > 0
        news = await session.call(session.news.get_news, NewsRequest(limit=20))
        assert all(isinstance(article, News) for article in news["news"])
        assert news["news"]
        assets = await session.call(session.trading.get_all_assets)
        assert assets
        assert all(isinstance(asset, Asset) for asset in assets)
        assert (await session.call(session.trading.get_clock)).is_open
        around = GetCalendarRequest(start=start.date(), end=start.date() + timedelta(days=7))
        assert len(await session.call(session.trading.get_calendar, around)) == 5
        history = await session.call(session.trading.get_portfolio_history, GetPortfolioHistoryRequest())
        assert history.equity[-1] == 100_000
