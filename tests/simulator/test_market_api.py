"""The market data REST API over HTTP, used by alpaca-py and by plain requests."""

import asyncio
import warnings
from collections.abc import AsyncIterator, Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import aiohttp
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from catalyst.clock import ManualClock
from catalyst.simulator.data_api.routes import ENTITLEMENTS, add_data_routes
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.recorded import market as recorded_market

with warnings.catch_warnings():
    # alpaca-py 0.44 imports websockets.legacy, which warns
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.common.enums import Sort
    from alpaca.data.enums import Adjustment, DataFeed, MarketType, MostActivesBy
    from alpaca.data.historical import NewsClient, ScreenerClient, StockHistoricalDataClient
    from alpaca.data.historical.corporate_actions import CorporateActionsClient
    from alpaca.data.requests import (
        CorporateActionsRequest,
        MarketMoversRequest,
        MostActivesRequest,
        NewsRequest,
        StockBarsRequest,
        StockLatestBarRequest,
        StockLatestQuoteRequest,
        StockLatestTradeRequest,
        StockQuotesRequest,
        StockSnapshotRequest,
        StockTradesRequest,
    )
    from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

OPEN = datetime(2026, 4, 8, 13, 30, tzinfo=UTC)
NOW = OPEN + timedelta(minutes=32, seconds=7)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> BarMarket:
    """Three symbols, one hour of minute bars, three earlier days, three headlines."""
    folder = tmp_path_factory.mktemp("market")
    minutes, days = [], []
    for symbol, price in (("ALFA", 20.0), ("BRK.B", 480.0), ("PENNY", 0.42)):
        for minute in range(60):
            p = round(price * (1 + minute / 1000), 4)
            minutes.append(
                (symbol, OPEN + timedelta(minutes=minute), p, round(p * 1.004, 4), p, p, 2500.0 + minute)
            )
        before = (date(2026, 4, 8) - timedelta(days=back) for back in (1, 2, 5))
        days.extend((symbol, day, price, price, price * 0.98, price * 0.99, 1e6) for day in before)
    names = ["open", "high", "low", "close", "volume"]
    pq.write_table(
        pa.table(
            dict(zip(["symbol", "timestamp", *names], map(list, zip(*minutes, strict=True)), strict=True))
        ),
        folder / "bars.parquet",
    )
    pq.write_table(
        pa.table(dict(zip(["symbol", "date", *names], map(list, zip(*days, strict=True)), strict=True))),
        folder / "daily.parquet",
    )
    headline_rows = [
        ("ALFA", OPEN - timedelta(hours=1), "Alfa raises full-year outlook"),
        ("PENNY", OPEN - timedelta(hours=1), "Alfa raises full-year outlook"),
        ("PENNY", OPEN + timedelta(minutes=10), "Penny prices offering"),
        ("PENNY", OPEN + timedelta(minutes=50), "Penny closes offering"),
    ]
    columns = ["symbol", "published_at", "headline"]
    table = pa.table(dict(zip(columns, map(list, zip(*headline_rows, strict=True)), strict=True)))
    empty = pa.array([""] * len(headline_rows))
    pq.write_table(table.append_column("source", empty).append_column("url", empty), folder / "news.parquet")
    return recorded_market.load_market(
        folder / "bars.parquet", folder / "daily.parquet", folder / "news.parquet"
    )


class DataApiServer:
    """A server of the market data API with its clock and request helpers."""

    def __init__(self, url: str, app: web.Application, clock: ManualClock) -> None:
        self.url = url
        self.app = app
        self.clock = clock

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        """Return status and body of a plain request."""
        async with aiohttp.ClientSession() as session, session.get(self.url + path, params=query) as answer:
            if answer.content_type == "application/json":
                return answer.status, await answer.json()
            return answer.status, await answer.text()

    async def call_client(self, kind: Any, call: Callable[[Any], Any], *, raw: bool = False) -> Any:
        """Return the result of a call to an alpaca-py client of class `kind`."""
        client = kind("key", "secret", url_override=self.url, raw_data=raw)
        try:
            return await asyncio.to_thread(call, client)
        finally:
            client._session.close()


@pytest.fixture
async def api(market: BarMarket) -> AsyncIterator[DataApiServer]:
    """The market served on loopback, half an hour after the open."""
    app, clock = web.Application(), ManualClock(NOW)
    add_data_routes(app, market, clock)
    runner = web.AppRunner(app, max_line_size=65_536)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield DataApiServer(f"http://127.0.0.1:{runner.addresses[0][1]}", app, clock)
    await runner.cleanup()


async def test_snapshot_response_maps_known_symbols_only(api: DataApiServer) -> None:
    """Known symbols have five parts with numbers and UTC times; unknown symbols are left out."""
    status, body = await api.get("/v2/stocks/snapshots", symbols="BRK.B,NOSUCH,ALFA")
    assert status == 200
    assert set(body) == {"BRK.B", "ALFA"}
    assert set(body["ALFA"]) == {"latestTrade", "latestQuote", "minuteBar", "dailyBar", "prevDailyBar"}
    bar = body["ALFA"]["minuteBar"]
    assert (bar["t"], bar["o"], bar["v"]) == ("2026-04-08T14:01:00Z", 20.62, 2531)
    assert body["ALFA"]["dailyBar"]["t"] == "2026-04-08T04:00:00Z"
    assert body["ALFA"]["prevDailyBar"]["c"] == 19.8
    quote = body["ALFA"]["latestQuote"]
    assert 0 < quote["bp"] < quote["ap"]


async def test_alpaca_py_parses_every_stock_data_response(api: DataApiServer) -> None:
    """The typed models of alpaca-py accept snapshots, latest values, bars, trades and quotes."""
    symbols = ["ALFA", "BRK.B", "PENNY"]
    history = {"symbol_or_symbols": symbols, "start": OPEN, "end": NOW, "limit": 200}

    async def call_client(call: Callable[[StockHistoricalDataClient], Any]) -> Any:
        return await api.call_client(StockHistoricalDataClient, call)

    snapshots = await call_client(
        lambda c: c.get_stock_snapshot(StockSnapshotRequest(symbol_or_symbols=symbols))
    )
    assert snapshots["PENNY"].latest_trade.price < 1
    assert snapshots["ALFA"].daily_bar.volume > snapshots["ALFA"].minute_bar.volume
    latest = await call_client(
        lambda c: c.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols=symbols))
    )
    assert latest["BRK.B"].timestamp == OPEN + timedelta(minutes=31)
    trade = await call_client(
        lambda c: c.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols=symbols))
    )
    assert trade["ALFA"].timestamp == NOW - timedelta(seconds=2)
    quote = await call_client(
        lambda c: c.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols=symbols))
    )
    assert quote["ALFA"].bid_price <= trade["ALFA"].price <= quote["ALFA"].ask_price
    bars = await call_client(
        lambda c: c.get_stock_bars(
            StockBarsRequest(
                timeframe=TimeFrame.Minute, adjustment=Adjustment.RAW, feed=DataFeed.SIP, **history
            )
        )
    )
    assert sum(len(rows) for rows in bars.data.values()) == 3 * 32
    trades = await call_client(lambda c: c.get_stock_trades(StockTradesRequest(**history)))
    assert len(trades["ALFA"]) == 200
    quotes = await call_client(lambda c: c.get_stock_quotes(StockQuotesRequest(**history)))
    assert quotes["ALFA"]
    assert all(q.bid_price < q.ask_price for q in quotes["ALFA"])


async def test_alpaca_py_parses_news_screener_and_corporate_actions(api: DataApiServer) -> None:
    """alpaca-py parses news, screener and corporate actions."""
    news = await api.call_client(
        NewsClient, lambda c: c.get_news(NewsRequest(symbols="PENNY", include_content=True))
    )
    assert [each.headline for each in news.data["news"]] == [
        "Penny prices offering",
        "Alfa raises full-year outlook",
    ]
    actives = await api.call_client(
        ScreenerClient, lambda c: c.get_most_actives(MostActivesRequest(by=MostActivesBy.VOLUME, top=2))
    )
    assert len(actives.most_actives) == 2
    movers = await api.call_client(
        ScreenerClient,
        lambda c: c.get_market_movers(MarketMoversRequest(market_type=MarketType.STOCKS, top=3)),
    )
    assert sorted(mover.symbol for mover in movers.gainers) == ["ALFA", "BRK.B", "PENNY"]
    for mover in movers.gainers:
        assert mover.change > 0
        assert mover.percent_change == pytest.approx(
            100 * mover.change / (mover.price - mover.change), abs=0.01
        )
    percentages = [mover.percent_change for mover in movers.gainers]
    assert percentages == sorted(percentages, reverse=True)
    assert movers.losers == []
    actions = await api.call_client(
        CorporateActionsClient,
        lambda c: c.get_corporate_actions(CorporateActionsRequest(symbols=["ALFA"], start=date(2026, 4, 1))),
    )
    assert actions.data == {}


@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("limit", [7, 32, 96, 1000])
async def test_bar_pages_add_up_to_the_whole(api: DataApiServer, limit: int, sort: str) -> None:
    """Page tokens give every bar once, by symbol, then time; the limit counts all symbols."""
    query = {"symbols": "PENNY,ALFA,BRK.B", "timeframe": "1Min", "limit": str(limit), "sort": sort}
    rows: list[tuple[str, str]] = []
    while True:
        status, body = await api.get("/v2/stocks/bars", **query)
        assert status == 200
        page = [(symbol, bar["t"]) for symbol, bars in body["bars"].items() for bar in bars]
        assert len(page) <= limit
        rows += page
        if body["next_page_token"] is None:
            break
        query["page_token"] = body["next_page_token"]
    assert len(rows) == len(set(rows)) == 96
    in_order = sorted(rows, key=lambda row: row[1], reverse=sort == "desc")
    assert rows == sorted(in_order, key=lambda row: row[0])


async def test_trade_pages_add_up_to_the_prints(api: DataApiServer, market: BarMarket) -> None:
    """The paged trades equal the prints; alpaca-py with raw data follows the tokens itself."""
    request = StockTradesRequest(symbol_or_symbols=["ALFA"], start=OPEN, end=NOW, sort=Sort.ASC)
    trades = await api.call_client(StockHistoricalDataClient, lambda c: c.get_stock_trades(request), raw=True)
    prints = market.prints("ALFA", OPEN - timedelta(seconds=1), NOW)
    assert [(row["p"], row["s"]) for row in trades["ALFA"]] == [(float(p.price), p.size) for p in prints]
    status, body = await api.get("/v2/stocks/ALFA/trades", start="2026-04-08", limit="5")
    assert (status, len(body["trades"]), body["symbol"]) == (200, 5, "ALFA")
    assert body["next_page_token"]


async def test_alpaca_py_daily_bars_are_stamped_new_york_midnight(api: DataApiServer) -> None:
    """A daily bar has the timestamp of its New York midnight, and today's bar grows."""
    timeframe = TimeFrame(1, TimeFrameUnit.Day)
    request = StockBarsRequest(
        symbol_or_symbols="ALFA", timeframe=timeframe, start=datetime(2026, 4, 1, tzinfo=UTC)
    )
    found = await api.call_client(StockHistoricalDataClient, lambda c: c.get_stock_bars(request))
    days = [bar.timestamp.isoformat() for bar in found["ALFA"]]
    assert days[0] == "2026-04-03T04:00:00+00:00"
    assert days[-1] == "2026-04-08T04:00:00+00:00"
    before = found["ALFA"][-1].volume
    await api.clock.advance(timedelta(minutes=5))
    found = await api.call_client(StockHistoricalDataClient, lambda c: c.get_stock_bars(request))
    assert found["ALFA"][-1].volume > before


async def test_only_finished_bars_are_served(api: DataApiServer) -> None:
    """A bar of any length is served only after its end."""
    for text, minutes in (("1Min", 1), ("5Min", 5), ("15Min", 15), ("1Hour", 60)):
        _, body = await api.get("/v2/stocks/ALFA/bars", timeframe=text, start="2026-04-08T00:00:00Z")
        ends = [datetime.fromisoformat(bar["t"]) + timedelta(minutes=minutes) for bar in body["bars"]]
        assert all(end <= NOW for end in ends)
        assert len(ends) == {1: 32, 5: 6, 15: 2, 60: 1}[minutes]


async def test_news_pages_are_newest_first(api: DataApiServer) -> None:
    """A headline with two symbols is one article; later headlines are hidden; page tokens give the rest."""
    _, body = await api.get("/v1beta1/news", limit="1")
    assert [each["headline"] for each in body["news"]] == ["Penny prices offering"]
    assert body["news"][0]["content"] == ""
    _, rest = await api.get("/v1beta1/news", limit="1", page_token=body["next_page_token"])
    assert rest["news"][0]["symbols"] == ["ALFA", "PENNY"]
    assert rest["next_page_token"] is None


@pytest.mark.parametrize(
    ("path", "query", "status", "message"),
    [
        ("/v2/stocks/snapshots", {}, 400, "symbols is required"),
        ("/v2/stocks/snapshots", {"symbols": "ALFA", "feed": "best"}, 400, "invalid feed: best"),
        ("/v2/stocks/snapshots", {"symbols": "alfa"}, 400, "invalid symbol: alfa"),
        ("/v2/stocks/bars", {"symbols": "ALFA", "timeframe": "7Sec"}, 400, "invalid timeframe: 7Sec"),
        (
            "/v2/stocks/bars",
            {"symbols": "ALFA", "timeframe": "1Min", "limit": "10001"},
            400,
            "invalid limit: larger than the allowed maximum of 10000",
        ),
        (
            "/v2/stocks/bars",
            {"symbols": "ALFA", "timeframe": "1Min", "start": "soon"},
            400,
            "invalid start: soon",
        ),
        (
            "/v2/stocks/bars",
            {"symbols": "ALFA", "timeframe": "1Min", "page_token": "~"},
            400,
            "invalid page_token",
        ),
        (
            "/v2/stocks/trades/latest",
            {"symbols": "ALFA", "start": "2026-04-08", "limit": "3"},
            400,
            "unexpected parameter(s): start, limit",
        ),
        (
            "/v2/stocks/bars",
            {"symbols": "ALFA", "timeframe": "1Min", "feed": "overnight"},
            400,
            "invalid feed: overnight",
        ),
        ("/v2/stocks/ALFA/trades", {"feed": "delayed_sip"}, 400, "invalid feed: delayed_sip"),
        ("/v2/stocks/NOSUCH/snapshot", {}, 404, "symbol not found: NOSUCH"),
        ("/v1beta1/news", {"limit": "51"}, 400, "invalid limit: larger than the allowed maximum of 50"),
        ("/v1beta1/screener/stocks/movers", {"top": "0"}, 400, "invalid top: 0"),
    ],
)
async def test_invalid_data_parameters_are_rejected_with_alpacas_message(
    api: DataApiServer, path: str, query: dict[str, str], status: int, message: str
) -> None:
    """Each invalid parameter gets Alpaca's status and message."""
    response_status, body = await api.get(path, **query)
    assert (response_status, body["message"]) == (status, message)


async def test_recent_sip_data_needs_the_subscription(api: DataApiServer) -> None:
    """Without the subscription the last 15 minutes of SIP data are rejected; older data and IEX are served."""
    api.app[ENTITLEMENTS].recent_sip = False
    status, body = await api.get("/v2/stocks/snapshots", symbols="ALFA", feed="sip")
    assert (status, body["code"]) == (403, 42210000)
    assert (await api.get("/v2/stocks/snapshots", symbols="ALFA", feed="iex"))[0] == 200
    recent = {"symbols": "ALFA", "timeframe": "1Min", "end": NOW.isoformat()}
    assert (await api.get("/v2/stocks/bars", **recent))[0] == 403
    older = {**recent, "end": (NOW - timedelta(minutes=16)).isoformat()}
    assert (await api.get("/v2/stocks/bars", **older))[0] == 200


async def test_delayed_sip_feed_is_fifteen_minutes_late(api: DataApiServer) -> None:
    """`delayed_sip` serves the trades of 15 minutes ago."""
    _, body = await api.get("/v2/stocks/ALFA/trades/latest", feed="delayed_sip")
    assert body["trade"]["t"] == "2026-04-08T13:47:05Z"


async def test_overlong_request_line_gets_414(api: DataApiServer) -> None:
    """A list of too many symbols gets 414 with an HTML page, as from the proxy."""
    status, body = await api.get("/v2/stocks/snapshots", symbols=",".join(["ALFA"] * 2000))
    assert status == 414
    assert body.startswith("<html>")
