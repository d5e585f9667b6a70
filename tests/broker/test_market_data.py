"""Market data from the wire into columns: what was not said is NaN, and no null costs more than itself."""

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
from catalyst.broker.symbol_batches import chunked
from catalyst.clock import ManualClock
from catalyst.domain.errors import AuthRefused, BrokerUnavailable
from catalyst.domain.report import Quote, Trade
from tests.broker.scripted_server import KEY, SECRET, Peer, Reply

OPEN = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)


def snapshot_json(price: float = 100.1, **changes: Any) -> dict[str, Any]:
    """One snapshot as the data API writes it: numbers as numbers."""
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
    clock: ManualClock, peer: Peer, garbled: list[tuple[str, object]]
) -> AsyncIterator[AlpacaMarketData]:
    client = AlpacaMarketData(
        clock,
        base_url=peer.url,
        key=KEY,
        secret=SECRET,
        on_garbled=lambda reason, raw: garbled.append((reason, raw)),
    )
    yield client
    await client.close()


def answers(everything: dict[str, Any]) -> Reply:
    """Snapshots of what was asked for and is known, as the broker leaves out what it does not know."""

    async def reply(request: web.Request) -> web.StreamResponse:
        asked = request.query["symbols"].split(",")
        known = {symbol: everything[symbol] for symbol in asked if symbol in everything}
        return web.Response(body=orjson.dumps(known), content_type="application/json")

    return reply


async def test_a_snapshot_becomes_a_row(market: MarketData, peer: Peer) -> None:
    """Every part of a snapshot has its columns: float64 and aware UTC, indexed by symbol."""
    peer.on("GET", "/v2/stocks/snapshots", answers({"AAPL": snapshot_json()}))
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
    assert peer.requests[0].query["feed"] == "iex"


async def test_c41_what_was_not_said_is_nan(market: MarketData, peer: Peer) -> None:
    """Null parts, absent fields, prices of zero, false numbers: NaN and NaT, never zero, and no row is lost."""
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
    peer.on("GET", "/v2/stocks/snapshots", answers(everything))
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
async def test_c41_a_false_quote_is_no_price(
    market: MarketData, peer: Peer, quote: dict[str, Any], bid: float, ask: float
) -> None:
    """A side of zero is no side, and of a crossed quote neither is believed; sizes go with their sides."""
    told = {"t": "2026-11-20T15:03:59Z", **quote}
    peer.on("GET", "/v2/stocks/snapshots", answers({"AAPL": snapshot_json(latestQuote=told)}))
    row = (await market.snapshots(["AAPL"])).loc["AAPL"]
    np.testing.assert_equal((row["bid"], row["ask"]), (bid, ask))
    assert np.isnan(row["bid"]) == np.isnan(row["bid_size"])
    assert np.isnan(row["ask"]) == np.isnan(row["ask_size"])
    peer.on("GET", "/v2/stocks/quotes/latest", peer.says({"quotes": {"AAPL": told}}))
    latest = (await market.quotes(["AAPL"]))["AAPL"]
    np.testing.assert_equal((_float(latest.bid), _float(latest.ask)), (bid, ask))


def _float(price: Decimal | None) -> float:
    return np.nan if price is None else float(price)


async def test_c41_a_universe_takes_the_fewest_requests(market: MarketData, peer: Peer) -> None:
    """4,129 symbols are nine requests of at most 500, none with a long URL, each symbol in one row in order."""
    symbols = [f"S{number:04d}" for number in range(4_129)]
    peer.on("GET", "/v2/stocks/snapshots", answers({symbol: snapshot_json() for symbol in symbols}))
    frame = await market.snapshots([*symbols, *symbols[:5]])
    assert list(frame.index) == symbols
    assert len(peer.requests) == 9
    assert all(len(one.query["symbols"]) < 6_000 for one in peer.requests)


def test_chunks_keep_the_order_and_both_limits() -> None:
    """Chunks are full by number or by bytes, and lose and repeat nothing."""
    long = [f"{'X' * 40}{number}" for number in range(300)]
    chunks = chunked(long)
    assert [symbol for chunk in chunks for symbol in chunk] == long
    assert all(len("%2C".join(chunk)) <= 6_000 for chunk in chunks)
    assert len(chunked([f"S{number}" for number in range(1_001)])) == 3
    assert chunked([]) == []


async def test_c41_a_url_that_is_too_long_is_halved(market: MarketData, peer: Peer) -> None:
    """A host with shorter URLs gets the chunk in pieces it takes; nothing is lost."""
    symbols = [f"S{number}" for number in range(40)]
    full = answers({symbol: snapshot_json() for symbol in symbols})

    async def reply(request: web.Request) -> web.StreamResponse:
        if len(request.query["symbols"].split(",")) > 12:
            return web.Response(status=414, text="<html>414</html>", content_type="text/html")
        return await full(request)

    peer.on("GET", "/v2/stocks/snapshots", reply)
    assert list((await market.snapshots(symbols)).index) == symbols


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Peer.says({"message": "too many requests."}, 429), BrokerUnavailable),
        (Peer.writes(b"<html>", 502), BrokerUnavailable),
        (Peer.writes(b"<html>", 200), BrokerUnavailable),
        (Peer.says([]), BrokerUnavailable),
        (Peer.drops(), BrokerUnavailable),
        (Peer.says({"message": "forbidden."}, 403), AuthRefused),
        (
            Peer.says(
                {"code": 42210000, "message": "subscription does not permit querying recent SIP data"}, 403
            ),
            AuthRefused,
        ),
    ],
)
async def test_a_failed_chunk_fails_the_scan(
    clock: ManualClock, peer: Peer, reply: Reply, error: type[Exception]
) -> None:
    """A part of the universe is not the universe: one failed chunk fails the whole call."""
    symbols = [f"S{number}" for number in range(600)]
    good = answers({symbol: snapshot_json() for symbol in symbols})

    async def second(request: web.Request) -> web.StreamResponse:
        return await (reply if "S599" in request.query["symbols"] else good)(request)

    peer.on("GET", "/v2/stocks/snapshots", second)
    market = AlpacaMarketData(clock, base_url=peer.url, key=KEY, secret=SECRET)
    with pytest.raises(error):
        await market.snapshots(symbols)
    await market.close()


async def test_no_symbols_are_no_request(market: MarketData, peer: Peer) -> None:
    """Asked for nothing, the frames are empty and have their columns."""
    assert tuple((await market.snapshots([])).columns) == SNAPSHOT_COLUMNS
    bars = await market.bars([], "1Min", OPEN, OPEN + timedelta(hours=1))
    assert tuple(bars.columns) == BAR_COLUMNS
    assert str(bars["timestamp"].dtype) == "datetime64[ns, UTC]"
    assert await market.quotes([]) == {}
    assert await market.trades([]) == {}
    assert peer.requests == []


# --- bars --------------------------------------------------------------------------------------------------


def bar_json(minute: int, **changes: Any) -> dict[str, Any]:
    at = (OPEN + timedelta(minutes=minute)).isoformat().replace("+00:00", "Z")
    return {"t": at, "o": 1.5, "h": 2.5, "l": 1.25, "c": 2.0, "v": 100 + minute, "n": 3, "vw": 1.9, **changes}


async def test_bars_follow_every_page(market: MarketData, peer: Peer) -> None:
    """Pages end amid symbols, may be short or empty, and are followed to the one without a token."""
    pages = {
        "": ({"MSFT": [bar_json(1), bar_json(0)]}, "a"),
        "a": ({}, "b"),
        "b": ({"AAPL": [bar_json(0)]}, "c"),
        "c": ({"AAPL": [bar_json(1)], "MSFT": [bar_json(1)]}, None),
    }

    async def reply(request: web.Request) -> web.StreamResponse:
        bars, token = pages[request.query.get("page_token", "")]
        return web.json_response({"bars": bars, "next_page_token": token})

    peer.on("GET", "/v2/stocks/bars", reply)
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
    query = peer.requests[0].query
    assert (query["start"], query["end"]) == ("2026-11-20T14:30:00Z", "2026-11-20T15:30:00Z")
    assert (query["timeframe"], query["limit"], query["feed"], query["adjustment"]) == (
        "1Min",
        "10000",
        "iex",
        "split",
    )


async def test_bad_bars_cost_themselves(market: MarketData, peer: Peer) -> None:
    """A missing price is NaN; a bar without a time is not a bar."""
    rows = [bar_json(0, c=None), bar_json(1, t=None), None, bar_json(2, v=0), bar_json(3, o="1.75")]
    peer.on(
        "GET", "/v2/stocks/bars", peer.says({"bars": {"AAPL": rows, "NONE": None}, "next_page_token": None})
    )
    frame = await market.bars(["AAPL", "NONE"], "5Min", OPEN, OPEN + timedelta(hours=1))
    assert list(frame["volume"]) == [100, 0, 103]
    assert np.isnan(frame["close"].iloc[0])
    assert frame["open"].iloc[2] == 1.75


@pytest.mark.parametrize("body", [{}, {"next_page_token": None}, {"bars": []}, []])
async def test_an_answer_without_bars_is_a_failed_read(market: MarketData, peer: Peer, body: object) -> None:
    """{} does not say that there were no bars."""
    peer.on("GET", "/v2/stocks/bars", peer.says(body))
    with pytest.raises(BrokerUnavailable):
        await market.bars(["AAPL"], "1Min", OPEN, OPEN + timedelta(hours=1))


@pytest.mark.parametrize("bars", [{}, None])
async def test_no_bars_are_an_empty_frame(market: MarketData, peer: Peer, bars: object) -> None:
    """A symbol that did not trade has no bars; the broker writes {} or null."""
    peer.on("GET", "/v2/stocks/bars", peer.says({"bars": bars, "next_page_token": None}))
    assert (await market.bars(["AAPL"], "1Min", OPEN, OPEN + timedelta(hours=1))).empty


async def test_pages_without_end_are_a_failed_read(market: MarketData, peer: Peer) -> None:
    """A host that repeats its page token cannot make us loop for ever."""
    peer.on("GET", "/v2/stocks/bars", peer.says({"bars": {}, "next_page_token": "a"}))
    with pytest.raises(BrokerUnavailable):
        await market.bars(["AAPL"], "1Min", OPEN, OPEN + timedelta(hours=1))


async def test_the_delayed_feed_takes_history_from_the_tape(clock: ManualClock, peer: Peer) -> None:
    """Bars of the delayed feed are the consolidated ones, up to a quarter of an hour ago."""
    market = AlpacaMarketData(clock, base_url=peer.url, key=KEY, secret=SECRET, feed="delayed_sip")
    peer.on("GET", "/v2/stocks/bars", peer.says({"bars": {}, "next_page_token": None}))
    peer.on("GET", "/v2/stocks/trades/latest", peer.says({"trades": {}}))
    await market.bars(["AAPL"], "1Min", OPEN, clock.now())
    assert (peer.requests[0].query["feed"], peer.requests[0].query["end"]) == ("sip", "2026-11-20T14:49:00Z")
    await market.bars(["AAPL"], "1Min", clock.now() - timedelta(minutes=5), clock.now())
    await market.trades(["AAPL"])
    assert [one.query["feed"] for one in peer.requests] == ["sip", "delayed_sip"]
    await market.close()
    with pytest.raises(ValueError, match="feeds"):
        AlpacaMarketData(clock, key=KEY, secret=SECRET, feed="otc")


# --- the latest --------------------------------------------------------------------------------------------


async def test_latest_prints_and_quotes(
    market: MarketData, peer: Peer, garbled: list[tuple[str, object]]
) -> None:
    """Prices are the Decimal of the digits that were sent; what lacks a time or a price is no print."""
    at = datetime(2026, 11, 20, 15, 3, 59, 123456, tzinfo=UTC)
    trades = {
        "AAPL": {"t": "2026-11-20T15:03:59.123456789Z", "p": 100.1, "s": 1},
        "ZERO": {"t": "2026-11-20T15:03:59Z", "p": 0},
        "LATE": {"p": 1},
        "NULL": None,
    }
    quotes = {"AAPL": {"t": "2026-11-20T15:03:59.123456789Z", "bp": 100.09, "ap": 100.11}, "NULL": None}
    peer.on("GET", "/v2/stocks/trades/latest", peer.says({"trades": trades}))
    peer.on("GET", "/v2/stocks/quotes/latest", peer.says({"quotes": quotes}))
    assert await market.trades(list(trades)) == {"AAPL": Trade("AAPL", at, Decimal("100.1"))}
    assert await market.quotes(["AAPL", "NULL"]) == {
        "AAPL": Quote("AAPL", at, Decimal("100.09"), Decimal("100.11"))
    }
    assert len(garbled) == 4
    peer.on("GET", "/v2/stocks/quotes/latest", peer.says({"quotes": None}))
    with pytest.raises(BrokerUnavailable):
        await market.quotes(["AAPL"])


async def test_watching_prices_goes_on_while_a_scan_waits(clock: ManualClock, peer: Peer) -> None:
    """With every scanning thread stuck and the budget at its reserve, latest prices are still told."""
    low = {"X-Ratelimit-Limit": "200", "X-Ratelimit-Remaining": "60", "X-Ratelimit-Reset": "1795187090"}
    market = AlpacaMarketData(clock, base_url=peer.url, key=KEY, secret=SECRET)
    peer.on("GET", "/v2/stocks/snapshots", peer.hangs())
    trades = {"AAPL": {"t": "2026-11-20T15:03:59Z", "p": 100.1}}
    peer.on("GET", "/v2/stocks/trades/latest", peer.says({"trades": trades}, headers=low))
    scanning = asyncio.create_task(market.snapshots([f"S{number}" for number in range(2_500)]))
    await peer.until(3)
    assert list(await market.trades(["AAPL"])) == ["AAPL"]
    assert list(await market.trades(["AAPL"])) == ["AAPL"]
    peer.on("GET", "/v2/stocks/snapshots", peer.says({}))
    peer.released.set()
    with pytest.raises(BrokerUnavailable):
        await scanning
    await market.close()
