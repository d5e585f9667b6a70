"""Market data from the wire into columns: a missing value is NaN, and a null affects only its own field."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pytest
from aiohttp import web

from catalyst.broker.columns import BAR_COLUMNS, SNAPSHOT_COLUMNS
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.port import MarketData
from catalyst.broker.symbol_batches import batch_symbols
from catalyst.clock import ManualClock
from catalyst.domain.errors import AuthRefused, BrokerUnavailable
from catalyst.domain.report import Quote, Trade
from tests.broker.scripted_server import KEY, SECRET, Reply, ScriptedServer

OPEN = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


def snapshot_json(price: float = 100.1, **changes: Any) -> dict[str, Any]:
    """Return one snapshot in the data API's format: numbers are JSON numbers."""
    return {
        "latestTrade": {
            "t": "2026-11-20T15:03:59.123456789Z",
            "x": "V",
            "p": price,
            "s": 100,
            "c": ["@"],
            "z": "C",
        },
        "latestQuote": {
            "t": "2026-11-20T15:03:59.5Z",
            "bp": price - 0.01,
            "bs": 200,
            "ap": price + 0.01,
            "as": 300,
        },
        "minuteBar": {
            "t": "2026-11-20T15:03:00Z",
            "o": 1,
            "h": 1,
            "l": 1,
            "c": price,
            "v": 1234,
            "n": 5,
            "vw": 1,
        },
        "dailyBar": {
            "t": "2026-11-20T05:00:00Z",
            "o": 99,
            "h": 101,
            "l": 98,
            "c": price,
            "v": 56789,
            "vw": 100.02,
        },
        "prevDailyBar": {
            "t": "2026-11-19T05:00:00Z",
            "o": 97,
            "h": 99,
            "l": 96,
            "c": 98.5,
            "v": 98765,
            "vw": 98,
        },
        **changes,
    }


@pytest.fixture
async def market(
    clock: ManualClock, server: ScriptedServer, malformed: list[tuple[str, object]]
) -> AsyncIterator[AlpacaMarketData]:
    client = AlpacaMarketData(
        clock,
        base_url=server.url,
        key=KEY,
        secret=SECRET,
        on_malformed=lambda reason, raw: malformed.append((reason, raw)),
    )
    yield client
    await client.close()


def snapshot_reply(everything: dict[str, Any]) -> Reply:
    """Return a reply with the requested snapshots; like the broker, it leaves out unknown symbols."""

    async def reply(request: web.Request) -> web.StreamResponse:
        requested = request.query["symbols"].split(",")
        body = {symbol: everything[symbol] for symbol in requested if symbol in everything}
        return web.Response(body=orjson.dumps(body), content_type="application/json")

    return reply


async def test_snapshot_fills_every_column_of_its_row(market: MarketData, server: ScriptedServer) -> None:
    """Every part of a snapshot has its columns: float64 and aware UTC, indexed by symbol."""
    server.on("GET", "/v2/stocks/snapshots", snapshot_reply({"AAPL": snapshot_json()}))
    frame = await market.snapshots(["AAPL"])
    assert tuple(frame.columns) == SNAPSHOT_COLUMNS
    assert frame.index.name == "symbol"
    for column in frame:
        kind = "datetime64[ns, UTC]" if str(column).endswith("_at") else "float64"
        assert str(frame[column].dtype) == kind, column
    row = frame.loc["AAPL"]
    assert row["trade_price"] == 100.1
    assert row["trade_at"] == pd.Timestamp("2026-11-20T15:03:59.123456789Z")
    assert (row["bid"], row["ask"], row["bid_size"], row["ask_size"]) == (
        100.1 - 0.01,
        100.1 + 0.01,
        200,
        300,
    )
    assert (row["minute_close"], row["minute_volume"]) == (100.1, 1234)
    assert (row["day_open"], row["day_high"], row["day_low"], row["day_close"]) == (99, 101, 98, 100.1)
    assert (row["day_volume"], row["day_vwap"]) == (56789, 100.02)
    assert (row["prev_open"], row["prev_close"], row["prev_volume"]) == (97, 98.5, 98765)
    assert row["day_at"] == pd.Timestamp("2026-11-20T00:00:00", tz="America/New_York")
    assert server.requests[0].query["feed"] == "iex"


@pytest.mark.promise("C41")
async def test_snapshot_columns_are_nan_for_missing_or_invalid_values(
    market: MarketData, server: ScriptedServer
) -> None:
    """Null parts, absent fields, zero prices and invalid numbers give NaN and NaT, never zero; their rows
    remain."""
    everything: dict[str, Any] = {
        "NULLS": dict.fromkeys(snapshot_json()),
        "EMPTY": {},
        "LEAN": {"latestTrade": {"p": 5.0}},
        "ZERO": snapshot_json(latestTrade={"t": "2026-11-20T15:03:59Z", "p": 0}),
        "ODD": snapshot_json(latestTrade={"t": 17, "p": "high"}, minuteBar=[], dailyBar="none"),
        "NEGATIVE": snapshot_json(latestTrade={"t": "2026-11-20T15:03:59Z", "p": -1.5}),
        "TEXT": snapshot_json(latestTrade={"t": "2026-11-20T10:03:59-05:00", "p": "12.5"}),
        "NOT_A_ROW": None,
        "QUIET": snapshot_json(minuteBar={"t": "2026-11-20T15:03:00Z", "c": 1.0, "v": 0}),
    }
    server.on("GET", "/v2/stocks/snapshots", snapshot_reply(everything))
    frame = await market.snapshots([*everything, "UNKNOWN"])
    assert list(frame.index) == [symbol for symbol in everything if symbol != "NOT_A_ROW"]
    assert frame.loc[["NULLS", "EMPTY"]].isna().all(axis=None)
    assert np.isnan(frame.loc[["ZERO", "ODD", "NEGATIVE"], "trade_price"]).all()
    assert frame.at["LEAN", "trade_price"] == 5.0
    assert pd.isna(frame.at["ODD", "trade_at"])
    assert frame.at["TEXT", "trade_price"] == 12.5
    assert frame.at["TEXT", "trade_at"] == pd.Timestamp("2026-11-20T15:03:59Z")
    assert frame.at["QUIET", "minute_volume"] == 0
    assert frame.at["ODD", "prev_close"] == 98.5


@pytest.mark.promise("C41")
@pytest.mark.parametrize(
    ("quote", "bid", "ask"),
    [
        ({"bp": 0, "bs": 0, "ap": 10.1, "as": 1}, np.nan, 10.1),
        ({"bp": 10.0, "bs": 1, "ap": 0, "as": 0}, 10.0, np.nan),
        ({"bp": 10.2, "bs": 1, "ap": 10.1, "as": 1}, np.nan, np.nan),
        ({"bp": 10.1, "bs": 1, "ap": 10.1, "as": 1}, 10.1, 10.1),
        ({"bp": None, "ap": 10.1, "as": 1}, np.nan, 10.1),
    ],
    ids=["no bid", "no ask", "crossed", "locked", "null bid"],
)
async def test_zero_or_crossed_quote_sides_are_nan(
    market: MarketData, server: ScriptedServer, quote: dict[str, Any], bid: float, ask: float
) -> None:
    """A zero side is missing, both sides of a crossed quote are missing, and the sizes follow their sides."""
    raw_quote = {"t": "2026-11-20T15:03:59Z", **quote}
    server.on("GET", "/v2/stocks/snapshots", snapshot_reply({"AAPL": snapshot_json(latestQuote=raw_quote)}))
    row = (await market.snapshots(["AAPL"])).loc["AAPL"]
    np.testing.assert_equal((row["bid"], row["ask"]), (bid, ask))
    assert np.isnan(row["bid"]) == np.isnan(row["bid_size"])
    assert np.isnan(row["ask"]) == np.isnan(row["ask_size"])
    server.on("GET", "/v2/stocks/quotes/latest", server.json_reply({"quotes": {"AAPL": raw_quote}}))
    latest = (await market.quotes(["AAPL"]))["AAPL"]
    np.testing.assert_equal((_float(latest.bid), _float(latest.ask)), (bid, ask))


def _float(price: Decimal | None) -> float:
    return np.nan if price is None else float(price)


@pytest.mark.promise("C41")
async def test_universe_snapshot_uses_the_fewest_requests(market: MarketData, server: ScriptedServer) -> None:
    """4,129 symbols take nine requests of at most 500, none with a long URL; each symbol has one row, in
    order."""
    symbols = [f"S{number:04d}" for number in range(4_129)]
    server.on("GET", "/v2/stocks/snapshots", snapshot_reply({symbol: snapshot_json() for symbol in symbols}))
    frame = await market.snapshots([*symbols, *symbols[:5]])
    assert list(frame.index) == symbols
    assert len(server.requests) == 9
    assert all(len(request.query["symbols"]) < 6_000 for request in server.requests)


def test_symbol_batches_keep_the_order_and_both_limits() -> None:
    """Batches are limited by number and by bytes; they lose and repeat no symbol."""
    long = [f"{'X' * 40}{number}" for number in range(300)]
    chunks = batch_symbols(long)
    assert [symbol for chunk in chunks for symbol in chunk] == long
    assert all(len("%2C".join(chunk)) <= 6_000 for chunk in chunks)
    assert len(batch_symbols([f"S{number}" for number in range(1_001)])) == 3
    assert batch_symbols([]) == []


@pytest.mark.promise("C41")
async def test_symbol_batch_is_halved_after_414(market: MarketData, server: ScriptedServer) -> None:
    """A host with a shorter URL limit gets smaller batches, and no symbol is lost."""
    symbols = [f"S{number}" for number in range(40)]
    full = snapshot_reply({symbol: snapshot_json() for symbol in symbols})

    async def reply(request: web.Request) -> web.StreamResponse:
        if len(request.query["symbols"].split(",")) > 12:
            return web.Response(status=414, text="<html>414</html>", content_type="text/html")
        return await full(request)

    server.on("GET", "/v2/stocks/snapshots", reply)
    assert list((await market.snapshots(symbols)).index) == symbols


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (ScriptedServer.json_reply({"message": "too many requests."}, 429), BrokerUnavailable),
        (ScriptedServer.raw_reply(b"<html>", 502), BrokerUnavailable),
        (ScriptedServer.raw_reply(b"<html>", 200), BrokerUnavailable),
        (ScriptedServer.json_reply([]), BrokerUnavailable),
        (ScriptedServer.drop_connection(), BrokerUnavailable),
        (ScriptedServer.json_reply({"message": "forbidden."}, 403), AuthRefused),
        (
            ScriptedServer.json_reply(
                {"code": 42210000, "message": "subscription does not permit querying recent SIP data"}, 403
            ),
            AuthRefused,
        ),
    ],
)
async def test_snapshots_fail_when_one_batch_fails(
    clock: ManualClock, server: ScriptedServer, reply: Reply, error: type[Exception]
) -> None:
    """One failed batch fails the whole call, because a part of the universe must not pass for all of it."""
    symbols = [f"S{number}" for number in range(600)]
    good = snapshot_reply({symbol: snapshot_json() for symbol in symbols})

    async def second(request: web.Request) -> web.StreamResponse:
        return await (reply if "S599" in request.query["symbols"] else good)(request)

    server.on("GET", "/v2/stocks/snapshots", second)
    market = AlpacaMarketData(clock, base_url=server.url, key=KEY, secret=SECRET)
    with pytest.raises(error):
        await market.snapshots(symbols)
    await market.close()


async def test_empty_symbol_list_sends_no_request(market: MarketData, server: ScriptedServer) -> None:
    """An empty symbol list gives empty frames with their columns."""
    assert tuple((await market.snapshots([])).columns) == SNAPSHOT_COLUMNS
    bars = await market.bars([], "1Min", OPEN, OPEN + timedelta(hours=1))
    assert tuple(bars.columns) == BAR_COLUMNS
    assert str(bars["timestamp"].dtype) == "datetime64[ns, UTC]"
    assert await market.quotes([]) == {}
    assert await market.trades([]) == {}
    assert server.requests == []


# --- bars --------------------------------------------------------------------------------------------------


def bar_json(minute: int, **changes: Any) -> dict[str, Any]:
    at = (OPEN + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")
    return {"t": at, "o": 1.5, "h": 2.5, "l": 1.25, "c": 2.0, "v": 100 + minute, "n": 3, "vw": 1.9, **changes}


async def test_bars_follow_every_page_token(market: MarketData, server: ScriptedServer) -> None:
    """Pages may end within a symbol, be short or be empty; they are read up to the one without a token."""
    pages = {
        "": ({"MSFT": [bar_json(1), bar_json(0)]}, "a"),
        "a": ({}, "b"),
        "b": ({"AAPL": [bar_json(0)]}, "c"),
        "c": ({"AAPL": [bar_json(1)], "MSFT": [bar_json(1)]}, None),
    }

    async def reply(request: web.Request) -> web.StreamResponse:
        bars, token = pages[request.query.get("page_token", "")]
        return web.json_response({"bars": bars, "next_page_token": token})

    server.on("GET", "/v2/stocks/bars", reply)
    frame = await market.bars(["MSFT", "AAPL"], "1Min", OPEN, OPEN + timedelta(hours=1))
    assert tuple(frame.columns) == BAR_COLUMNS
    assert list(zip(frame["symbol"], frame["volume"], strict=True)) == [
        ("AAPL", 100),
        ("AAPL", 101),
        ("MSFT", 100),
        ("MSFT", 101),
    ]
    assert frame["timestamp"].iloc[0] == pd.Timestamp(OPEN)
    assert {str(frame[name].dtype) for name in ("open", "high", "low", "close", "volume")} == {"float64"}
    query = server.requests[0].query
    assert (query["start"], query["end"]) == ("2026-11-20T14:30:00Z", "2026-11-20T15:30:00Z")
    assert (query["timeframe"], query["limit"], query["feed"], query["adjustment"]) == (
        "1Min",
        "10000",
        "iex",
        "split",
    )


async def test_malformed_bars_are_dropped_alone(market: MarketData, server: ScriptedServer) -> None:
    """A missing price is NaN; a bar without a time is dropped."""
    rows = [bar_json(0, c=None), bar_json(1, t=None), None, bar_json(2, v=0), bar_json(3, o="1.75")]
    server.on(
        "GET",
        "/v2/stocks/bars",
        server.json_reply({"bars": {"AAPL": rows, "NONE": None}, "next_page_token": None}),
    )
    frame = await market.bars(["AAPL", "NONE"], "5Min", OPEN, OPEN + timedelta(hours=1))
    assert list(frame["volume"]) == [100, 0, 103]
    assert np.isnan(frame["close"].iloc[0])
    assert frame["open"].iloc[2] == 1.75


@pytest.mark.parametrize("body", [{}, {"next_page_token": None}, {"bars": []}, []])
async def test_response_without_bars_raises_broker_unavailable(
    market: MarketData, server: ScriptedServer, body: object
) -> None:
    """A body of {} does not mean that there were no bars."""
    server.on("GET", "/v2/stocks/bars", server.json_reply(body))
    with pytest.raises(BrokerUnavailable):
        await market.bars(["AAPL"], "1Min", OPEN, OPEN + timedelta(hours=1))


@pytest.mark.parametrize("bars", [{}, None])
async def test_empty_bars_return_an_empty_frame(
    market: MarketData, server: ScriptedServer, bars: object
) -> None:
    """A symbol without trades has no bars; the broker writes {} or null."""
    server.on("GET", "/v2/stocks/bars", server.json_reply({"bars": bars, "next_page_token": None}))
    assert (await market.bars(["AAPL"], "1Min", OPEN, OPEN + timedelta(hours=1))).empty


async def test_repeated_page_token_raises_broker_unavailable(
    market: MarketData, server: ScriptedServer
) -> None:
    """A host that repeats its page token causes no endless loop."""
    server.on("GET", "/v2/stocks/bars", server.json_reply({"bars": {}, "next_page_token": "a"}))
    with pytest.raises(BrokerUnavailable):
        await market.bars(["AAPL"], "1Min", OPEN, OPEN + timedelta(hours=1))


async def test_delayed_feed_reads_bars_from_sip_up_to_its_delay(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """The delayed feed reads consolidated bars that are at least 15 minutes old."""
    market = AlpacaMarketData(clock, base_url=server.url, key=KEY, secret=SECRET, feed="delayed_sip")
    server.on("GET", "/v2/stocks/bars", server.json_reply({"bars": {}, "next_page_token": None}))
    server.on("GET", "/v2/stocks/trades/latest", server.json_reply({"trades": {}}))
    await market.bars(["AAPL"], "1Min", OPEN, clock.now())
    assert (server.requests[0].query["feed"], server.requests[0].query["end"]) == (
        "sip",
        "2026-11-20T14:49:00Z",
    )
    await market.bars(["AAPL"], "1Min", clock.now() - timedelta(minutes=5), clock.now())
    await market.trades(["AAPL"])
    assert [request.query["feed"] for request in server.requests] == ["sip", "delayed_sip"]
    await market.close()
    with pytest.raises(ValueError, match="feeds"):
        AlpacaMarketData(clock, key=KEY, secret=SECRET, feed="otc")


# --- latest trades and quotes ------------------------------------------------------------------------------


async def test_latest_trades_and_quotes_keep_exact_decimals(
    market: MarketData, server: ScriptedServer, malformed: list[tuple[str, object]]
) -> None:
    """Prices are the Decimal of the digits received; a row without a time or a price is malformed."""
    at = datetime(2026, 11, 20, 15, 3, 59, 123456, tzinfo=UTC)
    trades = {
        "AAPL": {"t": "2026-11-20T15:03:59.123456789Z", "p": 100.1, "s": 1},
        "ZERO": {"t": "2026-11-20T15:03:59Z", "p": 0},
        "LATE": {"p": 1},
        "NULL": None,
    }
    quotes = {"AAPL": {"t": "2026-11-20T15:03:59.123456789Z", "bp": 100.09, "ap": 100.11}, "NULL": None}
    server.on("GET", "/v2/stocks/trades/latest", server.json_reply({"trades": trades}))
    server.on("GET", "/v2/stocks/quotes/latest", server.json_reply({"quotes": quotes}))
    assert await market.trades(list(trades)) == {"AAPL": Trade("AAPL", at, Decimal("100.1"))}
    assert await market.quotes(["AAPL", "NULL"]) == {
        "AAPL": Quote("AAPL", at, Decimal("100.09"), Decimal("100.11"))
    }
    assert len(malformed) == 4
    server.on("GET", "/v2/stocks/quotes/latest", server.json_reply({"quotes": None}))
    with pytest.raises(BrokerUnavailable):
        await market.quotes(["AAPL"])


async def test_latest_trades_are_read_while_a_scan_is_blocked(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """Latest prices are still read when every scan thread hangs and the budget is at its reserve."""
    low = {"X-Ratelimit-Limit": "200", "X-Ratelimit-Remaining": "60", "X-Ratelimit-Reset": "1795187090"}
    market = AlpacaMarketData(clock, base_url=server.url, key=KEY, secret=SECRET)
    server.on("GET", "/v2/stocks/snapshots", server.never_reply())
    trades = {"AAPL": {"t": "2026-11-20T15:03:59Z", "p": 100.1}}
    server.on("GET", "/v2/stocks/trades/latest", server.json_reply({"trades": trades}, headers=low))
    scanning = asyncio.create_task(market.snapshots([f"S{number}" for number in range(2_500)]))
    await server.wait_for_requests(3)
    assert list(await market.trades(["AAPL"])) == ["AAPL"]
    assert list(await market.trades(["AAPL"])) == ["AAPL"]
    server.on("GET", "/v2/stocks/snapshots", server.json_reply({}))
    server.released.set()
    with pytest.raises(BrokerUnavailable):
        await scanning
    await market.close()


def name_change(old: object, new: str, day: str) -> dict[str, object]:
    return {"id": f"{old}{day}", "old_symbol": old, "new_symbol": new, "process_date": day}


async def test_present_symbols_follow_name_changes(market: MarketData, server: ScriptedServer) -> None:
    """A symbol is followed over several changes and pages; one that two companies have left, one that came back to its
    symbol, and a change that cannot be read give none."""
    all_changes = [
        name_change("FB", "METV", "2022-06-09"),
        name_change("METV", "META", "2022-08-01"),
        name_change("TWO", "ONE", "2020-01-02"),
        name_change("TWO", "THREE", "2024-01-02"),
        name_change("BACK", "AWAY", "2021-01-04"),
        name_change("AWAY", "BACK", "2023-01-04"),
        name_change(None, "NONE", "2023-01-04"),
    ]

    async def reply(request: web.Request) -> web.StreamResponse:
        asked = set(request.query["symbols"].split(","))
        found = [each for each in all_changes if asked & {each["old_symbol"], each["new_symbol"]}]
        page = int(request.query.get("page_token", "0"))
        token = str(page + 1) if page + 1 < len(found) else None
        body = {"corporate_actions": {"name_changes": found[page : page + 1]}, "next_page_token": token}
        return web.json_response(body)

    server.on("GET", "/v1/corporate-actions", reply)
    present = await market.present_symbols(["FB", "TWO", "BACK", "NONE", "AAPL"])
    assert present == {"FB": "META"}
    query = server.requests[0].query
    assert (query["types"], query["start"]) == ("name_change", "2016-01-01")


async def test_no_corporate_actions_give_no_present_symbol(
    market: MarketData, server: ScriptedServer
) -> None:
    """A body without actions is an empty list; one that is no object is a failed read."""
    server.on("GET", "/v1/corporate-actions", server.json_reply({"corporate_actions": {}}))
    assert await market.present_symbols(["FB"]) == {}
    server.on("GET", "/v1/corporate-actions", server.json_reply([]))
    with pytest.raises(BrokerUnavailable):
        await market.present_symbols(["FB"])
