"""Behaviours 44 and 45: the market data stream, and bars, snapshots and pages."""

import asyncio
import socket
import warnings
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

import msgpack
import orjson
import pytest
import websockets

from catalyst.simulator.market.bar_market import BarMarket
from tests.simulator.data_feed import AUTH, OPEN, DataFeedServer, serve_data_feed, small_market
from tests.waiting import LIMIT_S, wait_until

with warnings.catch_warnings():
    # alpaca-py 0.44 imports websockets.legacy, which warns
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.data.live import NewsDataStream, StockDataStream

CHANNELS = [
    "trades",
    "quotes",
    "bars",
    "updatedBars",
    "dailyBars",
    "statuses",
    "lulds",
    "corrections",
    "cancelErrors",
]
MINUTE = timedelta(minutes=1)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> BarMarket:
    return small_market(tmp_path_factory.mktemp("market"))


@pytest.fixture
async def feed(bars: BarMarket) -> AsyncIterator[DataFeedServer]:
    async with serve_data_feed(bars) as feed:
        yield feed


# ---------------------------------------------------------------------- 44: the stream


@pytest.mark.promise("B44")
@pytest.mark.parametrize("packed", [False, True])
async def test_data_stream_answers_connect_auth_and_subscribe_in_order(
    feed: DataFeedServer, packed: bool
) -> None:
    """The three responses come in order, in JSON and msgpack. A subscription response lists every channel of
    the connection."""
    async with feed.connect(packed=packed) as subscriber:
        first = (await subscriber.request(action="subscribe", trades=["BETA", "ALFA"], statuses=["*"]))[0]
        assert list(first) == ["T", *CHANNELS]
        assert first["trades"] == first["corrections"] == first["cancelErrors"] == ["ALFA", "BETA"]
        assert (first["statuses"], first["quotes"]) == (["*"], [])
        second = (
            await subscriber.request(
                action="subscribe", quotes=["ALFA"], corrections=["BETA"], lulds=["BETA"]
            )
        )[0]
        assert second == {**first, "quotes": ["ALFA"], "lulds": ["BETA"]}
        third = (await subscriber.request(action="unsubscribe", trades=["BETA"], statuses=["*"]))[0]
        assert third["trades"] == third["corrections"] == third["cancelErrors"] == ["ALFA"]
        assert (third["statuses"], third["lulds"]) == ([], ["BETA"])
        fourth = (await subscriber.request(action="subscribe", imbalances=["ALFA"]))[0]
        assert fourth == {**third, "imbalances": ["ALFA"]}


@pytest.mark.promise("B44")
async def test_data_stream_accepts_fragmented_client_frames(feed: DataFeedServer) -> None:
    """A message fragmented into single bytes is one message; alpaca-py sends fragments."""
    url = f"ws://127.0.0.1:{feed.server.port}/v2/iex"
    packed = {"Content-Type": "application/msgpack"}
    async with websockets.connect(url, proxy=None, additional_headers=packed) as client:
        await client.recv()
        for message in (AUTH, {"action": "subscribe", "trades": ["ALFA"]}):
            whole = msgpack.packb(message)
            await client.send(whole[at : at + 1] for at in range(len(whole)))
            response = msgpack.unpackb(await client.recv())
        assert response[0]["trades"] == ["ALFA"]


@pytest.mark.promise("B44")
async def test_data_stream_msgpack_timestamps_equal_the_json_times(feed: DataFeedServer) -> None:
    """Every msgpack time is a Timestamp; JSON has the equal time as UTC text."""
    subscriptions = {"trades": ["ALFA"], "quotes": ["ALFA"], "bars": ["ALFA"], "dailyBars": ["ALFA"]}
    more = {"updatedBars": ["ALFA"], "statuses": ["*"], "lulds": ["*"]}
    feed.streams.connection_limit = 2
    async with feed.connect(packed=True) as packed, feed.connect() as plain:
        for subscriber in (packed, plain):
            await subscriber.request(action="subscribe", **subscriptions, **more)
        await feed.advance(61)
        await feed.post_admin("market", act="late_trade", symbol="ALFA", price="20.1", ago=3)
        await feed.post_admin("luld", symbol="ALFA", pause=True)
        await feed.advance(30)
        received: dict[bool, list[dict[str, Any]]] = {True: [], False: []}
        for subscriber in (packed, plain):
            while not any(each["T"] == "u" for each in received[subscriber.packed]):
                received[subscriber.packed] += await subscriber.receive()
        assert {each["T"] for each in received[True]} == set("tqbdusl")
        assert all(isinstance(each["t"], msgpack.Timestamp) for each in received[True])
        json_times = [datetime.fromisoformat(each["t"]) for each in received[False]]
        assert [each["t"].to_datetime() for each in received[True]] == json_times
        assert all(each["t"].endswith("Z") for each in received[False])


@pytest.mark.promise("B44")
async def test_data_stream_compresses_on_request(feed: DataFeedServer) -> None:
    """permessage-deflate is negotiated when the client offers it, and messages arrive intact through it."""
    url = f"ws://127.0.0.1:{feed.server.port}/v2/iex"
    async with websockets.connect(url, proxy=None, compression="deflate") as client:
        assert [extension.name for extension in client.protocol.extensions] == ["permessage-deflate"]
        await client.recv()
        for message in (AUTH, {"action": "subscribe", "bars": ["*"]}):
            await client.send(orjson.dumps(message).decode())
            await client.recv()
        await feed.advance(60)
        messages = orjson.loads(await asyncio.wait_for(client.recv(), LIMIT_S))
        assert [each["S"] for each in messages] == ["ALFA", "BETA"]


@pytest.mark.promise("B44")
async def test_data_stream_closes_with_404_without_authentication(feed: DataFeedServer) -> None:
    """A client has ten seconds to authenticate (0.05 s here); then the server sends 404 and closes."""
    assert feed.streams.auth_timeout_s == 10
    feed.streams.auth_timeout_s = 0.05
    async with feed.connect(auth=False) as subscriber:
        assert await subscriber.receive() == [{"T": "error", "code": 404, "msg": "auth timeout"}]
        assert [message async for message in subscriber.socket] == []
        assert subscriber.socket.closed


@pytest.mark.promise("B44")
async def test_data_stream_answers_each_misuse_with_its_code(feed: DataFeedServer) -> None:
    """Each misuse has its own code and changes no subscription."""
    async with feed.connect(auth=False) as subscriber:
        assert (await subscriber.request(action="subscribe", trades=["ALFA"]))[0]["code"] == 401
        assert (await subscriber.request(action="auth", key="demo", secret="wrong"))[0]["code"] == 402
    async with feed.connect() as subscriber:
        first = await subscriber.request(action="subscribe", bars=["ALFA"])
        assert await subscriber.request(**AUTH) == [
            {"T": "error", "code": 403, "msg": "already authenticated"}
        ]
        for message in ("nonsense", "[]", '{"action": "dance"}'):
            await subscriber.socket.send_str(message)
            assert await subscriber.receive() == [{"T": "error", "code": 400, "msg": "invalid syntax"}]
        assert (await subscriber.request(action="subscribe", news=["*"]))[0]["code"] == 410
        assert (await subscriber.request(action="subscribe", trades="ALFA"))[0]["code"] == 410
        assert await subscriber.request(action="subscribe") == first
    async with feed.connect(source="v1beta1/news") as subscriber:
        assert (await subscriber.request(action="subscribe", trades=["ALFA"]))[0]["code"] == 410
        assert await subscriber.request(action="subscribe", news=["*"]) == [
            {"T": "subscription", "news": ["*"]}
        ]


@pytest.mark.promise("B44")
async def test_data_stream_405_keeps_the_subscriptions(feed: DataFeedServer) -> None:
    """Above the symbol limit the response is 405 and the subscriptions stay. Bars do not count; "*" always
    exceeds a limit."""
    await feed.post_admin("data", symbol_limit=3)
    async with feed.connect() as subscriber:
        first = await subscriber.request(action="subscribe", trades=["ALFA", "BETA"], bars=["*"])
        for more in (["ALFA", "BETA"], ["*"]):
            rejection = await subscriber.request(action="subscribe", quotes=more)
            assert rejection == [{"T": "error", "code": 405, "msg": "symbol limit exceeded"}]
            assert await subscriber.request(action="subscribe") == first
        assert (await subscriber.request(action="subscribe", quotes=["BETA"]))[0]["quotes"] == ["BETA"]


@pytest.mark.promise("B44")
async def test_data_stream_answers_406_to_a_second_connection(feed: DataFeedServer) -> None:
    """One connection per endpoint is allowed. Another endpoint counts separately; a closed connection no
    longer counts."""
    async with feed.connect(), feed.connect(auth=False) as second, feed.connect(source="v1beta1/news"):
        assert (await second.request(**AUTH))[0]["code"] == 406
    await wait_until(lambda: not feed.streams.connections)
    async with feed.connect():
        pass


@pytest.mark.promise("B44")
async def test_data_stream_answers_409_to_sip_without_subscription(feed: DataFeedServer) -> None:
    """The consolidated feed needs a paid subscription; the delayed one does not."""
    await feed.post_admin("data", recent_sip=False)
    async with feed.connect(source="v2/sip", auth=False) as subscriber:
        assert (await subscriber.request(**AUTH))[0] == {
            "T": "error",
            "code": 409,
            "msg": "insufficient subscription",
        }
    async with feed.connect(source="v2/delayed_sip"):
        pass


@pytest.mark.promise("B44")
@pytest.mark.parametrize("source", ["boats", "overnight"])
async def test_data_stream_answers_409_on_the_overnight_feeds(feed: DataFeedServer, source: str) -> None:
    """The handshake succeeds, but no simulated plan includes these feeds."""
    async with feed.connect(source=f"v1beta1/{source}", auth=False) as subscriber:
        assert (await subscriber.request(**AUTH))[0] == {
            "T": "error",
            "code": 409,
            "msg": "insufficient subscription",
        }


@pytest.mark.promise("B44")
@pytest.mark.parametrize("packed", [False, True])
async def test_fakepaca_stream_sends_data_outside_sessions(feed: DataFeedServer, *, packed: bool) -> None:
    """FAKEPACA on a Sunday has a trade and a quote each second, a bar each minute, and a daily bar since
    midnight in New York."""
    await feed.advance((datetime(2026, 4, 12, 4, 2, tzinfo=UTC) - feed.clock.now()).total_seconds())
    async with feed.connect(source="v2/test", packed=packed) as subscriber:
        subscriptions = {name: ["FAKEPACA", "ALFA"] for name in ("trades", "quotes", "bars", "dailyBars")}
        await subscriber.request(action="subscribe", **subscriptions)
        messages: list[dict[str, Any]] = []
        for _ in range(60):
            await feed.advance(1)
            messages += await subscriber.receive()
    assert Counter(each["T"] for each in messages) == {"t": 60, "q": 60, "b": 1, "d": 1}
    assert {each["S"] for each in messages} == {"FAKEPACA"}
    trades, quotes = ([each for each in messages if each["T"] == kind] for kind in "tq")
    assert all(q["bp"] < t["p"] < q["ap"] for t, q in zip(trades, quotes, strict=True))
    assert len({each["i"] for each in trades}) == 60
    bar, day = (next(each for each in messages if each["T"] == kind) for kind in "bd")
    prices = [each["p"] for each in trades]
    assert (bar["h"], bar["l"], bar["n"]) == (max(prices), min(prices), 60)
    assert bar["v"] == sum(each["s"] for each in trades)
    assert bar["vw"] == pytest.approx(sum(prices) / 60)
    assert (day["n"], day["v"]) == (180, 3 * bar["v"])
    if not packed:
        assert (bar["t"], day["t"]) == ("2026-04-12T04:02:00Z", "2026-04-12T04:00:00Z")


@pytest.mark.promise("B44")
async def test_data_stream_disconnects_a_slow_client_with_407(feed: DataFeedServer) -> None:
    """A client that does not read gets 407 after its queued messages and is disconnected; the queue is
    bounded."""
    await feed.post_admin("data", queue_bytes=20_000)
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    raw.setblocking(False)
    await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", feed.server.port))
    async with websockets.connect(
        f"ws://127.0.0.1:{feed.server.port}/v2/iex", sock=raw, proxy=None, compression=None, max_queue=1
    ) as client:
        await client.recv()
        for message in (AUTH, {"action": "subscribe", "trades": ["*"], "quotes": ["*"]}):
            await client.send(orjson.dumps(message).decode())
            await client.recv()
        (connection,) = feed.streams.connections
        assert connection.transport is not None
        server_end = connection.transport.get_extra_info("socket")
        server_end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        max_unsent = 0
        while feed.streams.connections and not connection.transport.is_closing():
            assert feed.clock.now() < OPEN + timedelta(hours=1), "the trading feed ended first"
            await feed.advance(5)
            max_unsent = max(max_unsent, connection.unsent_bytes)
        assert 20_000 < max_unsent < 60_000
        received: list[dict[str, Any]] = []
        with suppress(websockets.ConnectionClosedError):  # disconnected without a close frame
            async for frame in client:
                received += orjson.loads(frame)
        assert received[-1] == {"T": "error", "code": 407, "msg": "slow client"}
        assert {each["T"] for each in received[:-1]} == {"t", "q"}
    async with feed.connect() as other:  # the connection no longer counts
        assert (await other.request(action="subscribe", bars=["ALFA"]))[0]["bars"] == ["ALFA"]


@pytest.mark.promise("B44")
async def test_muted_data_stream_sends_no_data_and_resumes_without_replay(feed: DataFeedServer) -> None:
    """A muted socket stays open and answers requests but sends no data. After unmuting it resumes without a
    replay."""
    async with feed.connect() as subscriber:
        await subscriber.request(action="subscribe", trades=["ALFA"], statuses=["*"])
        await feed.post_admin("data", mute=True)
        await feed.advance(20)
        await feed.post_admin("halt", symbol="BETA")
        await feed.advance(1)
        assert (await subscriber.request(action="subscribe"))[0]["trades"] == ["ALFA"]
        await feed.post_admin("data", mute=False)
        await feed.advance(4)
        assert [each["t"] for each in await subscriber.receive()] == ["2026-04-08T13:30:25Z"]


@pytest.mark.promise("B44")
async def test_trading_statuses_use_the_codes_of_their_sip_tape(feed: DataFeedServer) -> None:
    """Halts and resumptions arrive at once with the codes of their tape. A second halt of a halted symbol
    sends nothing."""
    async with feed.connect() as subscriber:
        await subscriber.request(action="subscribe", statuses=["ALFA", "BETA"])
        for symbol in ("BETA", "ALFA"):
            await feed.post_admin("halt", symbol=symbol)
        await feed.post_admin("halt", symbol="ALFA")
        beta, alfa = await subscriber.receive_of_kind("s", 2)
        at = "2026-04-08T13:30:00Z"
        halt = {"T": "s", "S": "BETA", "t": at, "z": "A", "sc": "2", "sm": "Trading Halt"}
        assert beta == {**halt, "rc": "P", "rm": "News Pending"}
        halt = {"T": "s", "S": "ALFA", "t": at, "z": "C", "sc": "H", "sm": "Trading Halt"}
        assert alfa == {**halt, "rc": "T1", "rm": "Halt News Pending"}
        await feed.advance(60)
        for symbol in ("BETA", "ALFA"):
            await feed.post_admin("resume", symbol=symbol)
        resumptions = await subscriber.receive_of_kind("s", 2)
        assert [(each["sc"], each["sm"]) for each in resumptions] == [
            ("3", "Resume"),
            ("T", "Trading Resumption"),
        ]
        assert {each["t"] for each in resumptions} == {"2026-04-08T13:31:00Z"}


@pytest.mark.promise("B44")
async def test_halted_symbol_prints_no_trades(feed: DataFeedServer) -> None:
    """Between halt and resumption there is no trade, no minute bar and no volume; afterwards trading
    continues."""
    async with feed.connect() as subscriber:
        await subscriber.request(action="subscribe", trades=["ALFA"], bars=["ALFA"], statuses=["ALFA"])
        await feed.advance(30)
        await feed.post_admin("halt", symbol="ALFA", reason="regulatory")
        await feed.advance(150)
        _, body = await feed.get("/v2/stocks/ALFA/snapshot")
        assert body["latestTrade"]["t"] == "2026-04-08T13:30:30Z"
        assert body["dailyBar"]["v"] == body["minuteBar"]["v"] == 1400
        await feed.post_admin("resume", symbol="ALFA")
        await feed.advance(60)
        received: list[dict[str, Any]] = []
        while not any(each["T"] == "b" and each["t"] == "2026-04-08T13:33:00Z" for each in received):
            received += await subscriber.receive()
        instants = [each["t"][11:19] for each in received if each["T"] == "t"]
        assert instants[:6] == [f"13:30:{second:02d}" for second in range(5, 35, 5)]
        assert instants[6] == "13:33:05"
        assert [each["t"][14:16] for each in received if each["T"] == "b"] == ["30", "33"]
        assert [each["rc"] for each in received if each["T"] == "s"] == ["T12", ""]


@pytest.mark.promise("B44")
async def test_luld_messages_carry_their_price_bands(feed: DataFeedServer) -> None:
    """Bands are 20 % wide in the first 15 minutes and 10 % after them, unless given; a pause halts the
    symbol."""
    async with feed.connect() as subscriber:
        await subscriber.request(action="subscribe", lulds=["*"], statuses=["ALFA"])
        await feed.post_admin("luld", symbol="ALFA")
        (first,) = await subscriber.receive_of_kind("l")
        assert first == {
            "T": "l",
            "S": "ALFA",
            "t": "2026-04-08T13:30:00Z",
            "z": "C",
            "u": 24,
            "d": 16,
            "i": "B",
        }
        await feed.advance(15 * 60)
        await feed.post_admin("luld", symbol="BETA", up="33.3", pause=True)
        (later,) = await subscriber.receive_of_kind("l")
        assert (later["S"], later["u"], later["d"], later["z"]) == ("BETA", 33.3, 28.35, "A")
        await feed.post_admin("luld", symbol="ALFA", up="21", down="19", pause=True, indicator="D")
        halt = (await subscriber.receive_of_kind("s"))[0]
        assert (halt["sc"], halt["rc"], halt["rm"]) == ("P", "LUDP", "Volatility Trading Pause")
        assert (await feed.get("/admin/state"))[1]["halted"] == ["ALFA", "BETA"]


@pytest.mark.promise("B44")
async def test_trade_corrections_and_cancels_reach_stream_history_and_bars(feed: DataFeedServer) -> None:
    """A trades subscription also receives corrections and cancels. History marks them and bars use the
    corrected trades."""
    async with feed.connect() as subscriber:
        await subscriber.request(action="subscribe", trades=["ALFA"])
        await feed.advance(65)
        trades = await subscriber.receive_of_kind("t", 13)
        wrong, gone = trades[10], trades[9]
        await feed.post_admin(
            "market", act="correct_trade", symbol="ALFA", id=wrong["i"], price="20.5", size=700
        )
        await feed.post_admin("market", act="cancel_trade", symbol="ALFA", id=gone["i"])
        await feed.post_admin("market", act="cancel_trade", symbol="ALFA", error=True)
        (correction,) = await subscriber.receive_of_kind("c")
        old = [correction[key] for key in ("oi", "op", "os", "oc", "x")]
        assert old == [wrong[key] for key in ("i", "p", "s", "c", "x")]
        assert [correction[key] for key in ("cp", "cs", "cc", "z", "t")] == [
            20.5, 700, ["@"], "C", "2026-04-08T13:31:05Z"
        ]  # fmt: skip
        cancels = await subscriber.receive_of_kind("x", 2)
        assert [(x["i"], x["p"], x["s"], x["a"]) for x in cancels] == [
            (gone["i"], gone["p"], gone["s"], "C"),
            (trades[12]["i"], trades[12]["p"], trades[12]["s"], "E"),
        ]
    _, body = await feed.get("/v2/stocks/ALFA/trades", start="2026-04-08T13:30:50Z")
    assert [(t["i"], t.get("u")) for t in body["trades"]] == [
        (gone["i"], "canceled"),
        (wrong["i"], "incorrect"),
        (correction["ci"], "corrected"),
        (trades[11]["i"], None),
        (trades[12]["i"], "canceled"),
    ]
    _, body = await feed.get("/v2/stocks/ALFA/bars", timeframe="1Min")
    (bar,) = body["bars"]
    assert (bar["c"], bar["h"], bar["v"]) == (20.5, 20.5, 2400 - wrong["s"] - gone["s"] + 700)


@pytest.mark.promise("B44")
async def test_alpaca_py_receives_every_data_stream_channel(feed: DataFeedServer) -> None:
    """The official clients receive typed statuses, updated and daily bars, corrections, cancels and news."""
    received: dict[str, list[Any]] = {name: [] for name in ("t", "q", "b", "u", "d", "s", "c", "x", "n")}

    def into(kind: str) -> Any:
        async def record(message: Any) -> None:
            received[kind].append(message)

        return record

    base = f"ws://127.0.0.1:{feed.server.port}"
    stocks = StockDataStream("demo", "demo", url_override=f"{base}/v2/iex")
    stocks.subscribe_trades(into("t"), "ALFA")
    stocks.subscribe_quotes(into("q"), "ALFA")
    stocks.subscribe_bars(into("b"), "*")
    stocks.subscribe_updated_bars(into("u"), "*")
    stocks.subscribe_daily_bars(into("d"), "BETA")
    stocks.subscribe_trading_statuses(into("s"), "*")
    stocks.register_trade_corrections(into("c"))
    stocks.register_trade_cancels(into("x"))
    news = NewsDataStream("demo", "demo", url_override=f"{base}/v1beta1/news")
    news.subscribe_news(into("n"), "*")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # websockets.legacy warns again when it connects
        tasks = [asyncio.ensure_future(stream._run_forever()) for stream in (stocks, news)]
        await wait_until(lambda: sum(each.sent_until is not None for each in feed.streams.connections) == 2)
        await feed.advance(61)
        await feed.post_admin("market", act="late_trade", symbol="ALFA", price="20.1", size=300, ago=2)
        await feed.post_admin("market", act="cancel_trade", symbol="ALFA")
        await feed.post_admin("market", act="correct_trade", symbol="ALFA", price="20.1", size=300)
        await feed.post_admin("halt", symbol="BETA", reason="price_bands")
        await feed.advance(200)
        await wait_until(lambda: all(received.values()))
        for stream in (stocks, news):
            await stream.stop_ws()
            await stream.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert received["u"][0].timestamp == OPEN
    assert (received["u"][0].symbol, received["u"][0].volume) == ("ALFA", 2700)
    assert received["d"][0].timestamp == datetime(2026, 4, 8, 4, tzinfo=UTC)
    status = received["s"][0]
    assert (status.symbol, status.status_code, status.reason_code, status.tape) == ("BETA", "2", "M", "A")
    assert (received["x"][0].action, received["c"][0].corrected_price) == ("C", 20.1)
    assert received["n"][0].headline == "Alfa wins order"


@pytest.mark.promise("B44")
async def test_news_stream_sends_an_article_once_when_published(feed: DataFeedServer) -> None:
    """A subscriber of the symbol or of all symbols receives an article once, at its publication time."""
    await feed.post_admin("data", connection_limit=3)
    async with (
        feed.connect(source="v1beta1/news") as subscriber,
        feed.connect(source="v1beta1/news") as reader_of_all,
        feed.connect(source="v1beta1/news") as other_reader,
    ):
        await subscriber.request(action="subscribe", news=["ALFA"])
        await reader_of_all.request(action="subscribe", news=["*"])
        await other_reader.request(action="subscribe", news=["BETA"])
        await feed.advance(239)
        assert feed.streams.frames_sent == 0
        await feed.advance(1)
        (article,) = await subscriber.receive()
        assert await reader_of_all.receive() == [article]
        await feed.advance(60)
        await feed.post_admin("halt", symbol="BETA")  # wakes every connection
        await feed.advance(600)
        assert feed.streams.frames_sent == 2
        assert set(article) == {"T", "id", "headline", "summary", "author", "created_at", "updated_at", "url"} | {
            "content", "symbols", "source"
        }  # fmt: skip
        assert (article["T"], article["symbols"], article["created_at"]) == (
            "n",
            ["ALFA"],
            "2026-04-08T13:34:00Z",
        )


# ---------------------------------------------------------------------- 45: bars, snapshots, pages


@pytest.mark.promise("B45")
async def test_minute_without_trades_has_no_bar(feed: DataFeedServer) -> None:
    """A minute without trades has no bar on the stream or in history and does not update the daily bar."""
    async with feed.connect() as subscriber:
        await subscriber.request(action="subscribe", bars=["ALFA", "SILENT"], dailyBars=["ALFA"])
        await feed.advance(59)
        await feed.post_admin("market", act="stop_feed", symbol="ALFA")
        await feed.advance(121)
        await feed.post_admin("market", act="trade", symbol="SILENT", price="7.5", size=10)
        await feed.advance(60)
        received: list[dict[str, Any]] = []
        while not any(each["S"] == "SILENT" for each in received):
            received += await subscriber.receive()
        assert [(each["T"], each["S"], each["t"]) for each in received] == [
            ("b", "ALFA", "2026-04-08T13:30:00Z"),
            ("d", "ALFA", "2026-04-08T04:00:00Z"),
            ("b", "SILENT", "2026-04-08T13:33:00Z"),
        ]
    _, body = await feed.get("/v2/stocks/bars", symbols="ALFA,SILENT,NEVER", timeframe="1Min")
    assert {symbol: [bar["t"][14:16] for bar in rows] for symbol, rows in body["bars"].items()} == {
        "ALFA": ["30"],
        "SILENT": ["33"],
    }


@pytest.mark.promise("B45")
async def test_late_trade_updates_its_bar_at_the_half_minute(feed: DataFeedServer) -> None:
    """A trade reported after its minute changes that minute's bar: an updated bar 30 seconds later, and
    history."""
    async with feed.connect() as subscriber:
        await subscriber.request(action="subscribe", bars=["ALFA"], updatedBars=["ALFA"])
        await feed.advance(60)
        (first,) = await subscriber.receive_of_kind("b")
        await feed.advance(1)
        await feed.post_admin("market", act="late_trade", symbol="ALFA", price="20.15", size=500, ago="1.002")
        await feed.advance(28)
        assert feed.streams.frames_sent == 1
        await feed.advance(2)
        (updated,) = await subscriber.receive_of_kind("u")
        assert updated["t"] == first["t"] == "2026-04-08T13:30:00Z"
        assert (updated["c"], updated["v"], updated["n"]) == (20.15, first["v"] + 500, first["n"] + 1)
        assert (updated["o"], updated["h"], updated["l"]) == (first["o"], first["h"], first["l"])
        # within its own minute a late trade is an ordinary part of the bar
        await feed.post_admin("market", act="late_trade", symbol="ALFA", price="19.5", size=100, ago="0.5")
        await feed.advance(60)
        (second,) = await subscriber.receive_of_kind("b")
        assert (second["t"], second["l"], second["v"]) == ("2026-04-08T13:31:00Z", 19.5, 2500)
        assert feed.streams.frames_sent == 3
    _, body = await feed.get("/v2/stocks/ALFA/bars", timeframe="1Min")
    rest_bars = [{key: value for key, value in bar.items() if key not in "TS"} for bar in (updated, second)]
    assert body["bars"] == rest_bars
    _, body = await feed.get("/v2/stocks/ALFA/snapshot")
    assert body["latestTrade"]["p"] != 20.15
    assert body["dailyBar"]["v"] == sum(bar["v"] for bar in rest_bars) + 200 * 7


@pytest.mark.promise("B45")
@pytest.mark.parametrize(("zone", "day"), [("04", "2026-04-06"), ("05", "2026-03-06")])
async def test_daily_bar_timestamp_is_new_york_midnight(feed: DataFeedServer, zone: str, day: str) -> None:
    """The timestamp is 04:00 or 05:00 UTC by season; today's bar grows."""
    _, body = await feed.get("/v2/stocks/ALFA/bars", timeframe="1Day", start=day, end=day)
    assert [bar["t"] for bar in body["bars"]] == [f"{day}T{zone}:00:00Z"]
    sizes = []
    for _ in range(2):
        await feed.advance(60)
        _, body = await feed.get("/v2/stocks/ALFA/bars", timeframe="1Day")
        assert [bar["t"] for bar in body["bars"]] == ["2026-04-08T04:00:00Z"]
        sizes.append(body["bars"][0]["v"])
    assert sizes[0] < sizes[1]


@pytest.mark.promise("B45")
async def test_snapshots_omit_unknown_symbols_and_have_null_parts(feed: DataFeedServer) -> None:
    """Unknown symbols and symbols without data are omitted without an error; missing parts are null."""
    await feed.advance(90)
    status, body = await feed.get("/v2/stocks/snapshots", symbols="NOSUCH,SILENT,NEVER,ALFA")
    assert (status, list(body)) == (200, ["SILENT", "ALFA"])
    assert body["SILENT"]["minuteBar"] is None
    assert body["SILENT"]["dailyBar"]["t"] == "2026-04-07T04:00:00Z"
    assert all(body["ALFA"].values())
    for what in ("trades", "quotes", "bars"):
        status, body = await feed.get(f"/v2/stocks/{what}/latest", symbols="NOSUCH,NEVER,ALFA")
        assert (status, list(body[what])) == (200, ["ALFA"])
    status, body = await feed.get("/v2/stocks/snapshots", symbols="NOSUCH")
    assert (status, body) == (200, {})


@pytest.mark.promise("B45")
async def test_data_api_answers_414_above_its_url_limit(feed: DataFeedServer) -> None:
    """The length of the request line is limited, the number of symbols is not. The response is HTML."""
    await feed.post_admin("data", url_limit=500)
    assert (await feed.get("/v2/stocks/snapshots", symbols=",".join(["ALFA"] * 60)))[0] == 200
    status, body = await feed.get("/v2/stocks/snapshots", symbols=",".join(["ALFA"] * 120))
    assert status == 414
    assert "414 Request-URI Too Large" in body


@pytest.mark.promise("B45")
@pytest.mark.parametrize("sort", ["asc", "desc"])
@pytest.mark.parametrize("what", ["bars", "trades", "quotes"])
async def test_history_pages_add_up_to_the_whole(feed: DataFeedServer, what: str, sort: str) -> None:
    """Rows are sorted by symbol, then time. The limit counts all symbols. Several trades of one second
    survive a page break."""
    await feed.advance(57)
    for price in ("20.01", "20.02", "20.03"):
        await feed.post_admin("market", act="trade", symbol="ALFA", price=price)
    await feed.advance(63)
    query = {"symbols": "BETA,NOSUCH,ALFA", "limit": "2", "sort": sort, "start": "2026-04-08T13:30:00Z"}
    if what == "bars":
        query["timeframe"] = "1Min"
    _, whole = await feed.get(f"/v2/stocks/{what}", **{**query, "limit": "1000"})
    pages: dict[str, list[Any]] = {}
    while True:
        _, body = await feed.get(f"/v2/stocks/{what}", **query)
        assert sum(map(len, body[what].values())) <= 2
        for symbol, rows in body[what].items():
            pages.setdefault(symbol, []).extend(rows)
        if body["next_page_token"] is None:
            break
        query["page_token"] = body["next_page_token"]
    assert pages == whole[what]
    assert list(whole[what]) == ["ALFA", "BETA"]
    if what == "trades":
        assert len({row["i"] for row in pages["ALFA"]}) == len(pages["ALFA"]) == 28


MINUTES_OF_UNIT = {"Min": 1, "Hour": 60}


def finished_minutes(length: int, start: datetime, *, traded_minutes: int) -> int:
    """Return how many minutes from `start` on are in finished bars of `length` minutes, counted from the epoch."""
    first = int(start.timestamp()) // 60
    return sum(
        (first + n) // length * length + length <= first + traded_minutes for n in range(traded_minutes)
    )


@pytest.mark.promise("B45")
async def test_data_api_serves_every_documented_timeframe(feed: DataFeedServer) -> None:
    """Minutes, hours, days, weeks and months work under both of their names; a longer bar is the sum of
    shorter ones."""
    await feed.clock.advance_to(OPEN + timedelta(minutes=60))
    span = {"start": "2026-01-01", "end": "2026-04-08T23:00:00Z", "limit": "10000"}
    units = {
        "Min": range(1, 60),
        "Hour": range(1, 24),
        "Day": (1,),
        "Week": (1,),
        "Month": (1, 2, 3, 4, 6, 12),
    }
    volumes: dict[str, int] = {}
    for unit, counts in units.items():
        for count in counts:
            _, body = await feed.get("/v2/stocks/BETA/bars", timeframe=f"{count}{unit}", **span)
            volumes[f"{count}{unit}"] = sum(bar["v"] for bar in body["bars"])
            if unit in MINUTES_OF_UNIT:
                minutes = finished_minutes(count * MINUTES_OF_UNIT[unit], OPEN, traded_minutes=60)
                assert volumes[f"{count}{unit}"] == minutes * 2400, (unit, count)
            else:
                assert body["bars"], (unit, count)
    for short, unit in {"15T": "15Min", "1H": "1Hour", "1D": "1Day", "1W": "1Week", "3M": "3Month"}.items():
        both = [(await feed.get("/v2/stocks/BETA/bars", timeframe=text, **span))[1] for text in (unit, short)]
        assert both[0] == both[1]
    assert volumes["1Min"] == volumes["5Min"] == volumes["30Min"] == 60 * 2400
    assert volumes["1Day"] == volumes["1Month"] == volumes["3Month"] == volumes["12Month"]
    _, weeks = await feed.get("/v2/stocks/BETA/bars", timeframe="1Week", **span)
    assert [bar["t"] for bar in weeks["bars"]][-5:] == [
        "2026-03-09T04:00:00Z",
        "2026-03-16T04:00:00Z",
        "2026-03-23T04:00:00Z",
        "2026-03-30T04:00:00Z",
        "2026-04-06T04:00:00Z",
    ]
    _, days = await feed.get("/v2/stocks/BETA/bars", timeframe="1Day", start="2026-04-06")
    week = weeks["bars"][-1]
    assert week["o"] == days["bars"][0]["o"]
    assert week["c"] == days["bars"][-1]["c"]
    assert week["h"] == max(bar["h"] for bar in days["bars"])
    assert week["l"] == min(bar["l"] for bar in days["bars"])
    _, quarters = await feed.get("/v2/stocks/BETA/bars", timeframe="3Month", **span)
    assert [bar["t"] for bar in quarters["bars"]] == ["2026-01-01T05:00:00Z", "2026-04-01T04:00:00Z"]


@pytest.mark.promise("B45")
@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("/v2/stocks/bars", {"timeframe": "60Min"}, "invalid timeframe: 60Min"),
        ("/v2/stocks/bars", {"timeframe": "24Hour"}, "invalid timeframe: 24Hour"),
        ("/v2/stocks/bars", {"timeframe": "2Week"}, "invalid timeframe: 2Week"),
        ("/v2/stocks/bars", {"timeframe": "5Month"}, "invalid timeframe: 5Month"),
        ("/v2/stocks/bars", {"timeframe": "1Min", "adjustment": "some"}, "invalid adjustment: some"),
        ("/v2/stocks/bars", {"timeframe": "1Min", "asof": "yesterday"}, "invalid asof: yesterday"),
        ("/v2/stocks/bars", {"timeframe": "1Min", "sort": "up"}, "invalid sort: up"),
        ("/v2/stocks/auctions", {"feed": "iex"}, "invalid feed: iex"),
        ("/v2/stocks/snapshots", {"currency": "dollar"}, "invalid currency: dollar"),
        ("/v1/corporate-actions", {"types": "party"}, "invalid types: party"),
    ],
)
async def test_data_api_rejects_undocumented_parameter_values(
    feed: DataFeedServer, path: str, query: dict[str, str], message: str
) -> None:
    """Each value outside the API document has its own message."""
    status, body = await feed.get(path, symbols="ALFA", **query)
    assert (status, body["message"]) == (400, message)


@pytest.mark.promise("B45")
async def test_data_api_accepts_documented_parameter_values(feed: DataFeedServer) -> None:
    """Documented adjustments, as-of dates, currencies and regions are accepted and change nothing here."""
    await feed.advance(120)
    plain = await feed.get("/v2/stocks/bars", symbols="ALFA", timeframe="1Min")
    for terms in (
        {"adjustment": "all"},
        {"adjustment": "split,spin-off"},
        {"asof": "-"},
        {"asof": "2026-04-01"},
    ):
        assert (
            await feed.get("/v2/stocks/bars", symbols="ALFA", timeframe="1Min", currency="USD", **terms)
            == plain
        )
    empty = (200, {"corporate_actions": {}, "next_page_token": None})
    assert (
        await feed.get("/v1/corporate-actions", symbols="ALFA", types="cash_dividend", region="us") == empty
    )
    status, body = await feed.get("/v2/stocks/meta/conditions/trade", tape="C")
    assert (status, body["@"]) == (200, "Regular Sale")


@pytest.mark.promise("B45")
async def test_auctions_are_served_once_they_happened(bars: BarMarket) -> None:
    """The opening auction appears from the open on, the closing one from the close on; paging works as
    elsewhere."""
    async with serve_data_feed(bars, OPEN - timedelta(minutes=5)) as feed:
        _, body = await feed.get("/v2/stocks/auctions", symbols="ALFA", start="2026-04-08")
        assert body == {"auctions": {}, "next_page_token": None}
        await feed.advance(400)
        _, body = await feed.get("/v2/stocks/auctions", symbols="BETA,ALFA", start="2026-04-07", limit="3")
        assert [(symbol, day["d"]) for symbol, rows in body["auctions"].items() for day in rows] == [
            ("ALFA", "2026-04-07"),
            ("ALFA", "2026-04-08"),
            ("BETA", "2026-04-07"),
        ]
        today = body["auctions"]["ALFA"][1]
        assert today["c"] == []
        opening = {"t": "2026-04-08T13:30:00Z", "x": "Q", "p": 20}
        assert today["o"] == [{**opening, "c": "O"}, {**opening, "c": "Q"}]
        closing = body["auctions"]["BETA"][0]["c"]
        assert [(each["t"], each["x"], each["p"], each["c"]) for each in closing] == [
            ("2026-04-07T20:00:00Z", "N", 31, "6"),
            ("2026-04-07T20:00:00Z", "N", 31, "M"),
        ]
        token = body["next_page_token"]
        _, body = await feed.get("/v2/stocks/BETA/auctions", start="2026-04-07", limit="3", page_token=token)
        assert [day["d"] for day in body["auctions"]] == ["2026-04-08"]


@pytest.mark.promise("B45")
async def test_recent_sip_data_is_403_without_subscription_on_every_endpoint(feed: DataFeedServer) -> None:
    """SIP data of the last 15 minutes is 403 on every endpoint; the entitlement belongs to the account."""
    await feed.post_admin("data", recent_sip=False)
    await feed.advance(20 * 60)
    recent = {"symbols": "ALFA", "end": (OPEN + timedelta(minutes=20)).isoformat()}
    for path, more in (
        ("/v2/stocks/bars", {"timeframe": "1Min"}),
        ("/v2/stocks/trades", {}),
        ("/v2/stocks/quotes", {}),
        ("/v2/stocks/auctions", {}),
    ):
        assert (await feed.get(path, **recent, **more))[0] == 403
        status, body = await feed.get(path, symbols="ALFA", **more)
        assert (status, "next_page_token" in body) == (200, True)
    for path in ("/v2/stocks/snapshots", "/v2/stocks/ALFA/quotes/latest"):
        query = {"feed": "sip"} if "ALFA" in path else {"feed": "sip", "symbols": "ALFA"}
        assert (await feed.get(path, **query))[0] == 403
