"""The market data websockets, received by alpaca-py and by a plain client, on a manual clock."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import aiohttp
import msgpack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from aiohttp import web

from catalyst.clock import ManualClock
from catalyst.simulator.data_api.routes import ENTITLEMENTS, add_data_routes
from catalyst.simulator.data_stream.server import DataStreams, add_data_streams
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.recorded import market as recorded_market
from tests.waiting import LIMIT_S

with warnings.catch_warnings():
    # alpaca-py 0.44 imports websockets.legacy, which warns
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.data.live import NewsDataStream, StockDataStream

OPEN = datetime(2026, 4, 8, 13, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> BarMarket:
    """Two symbols over ten minutes, a headline after three."""
    folder = tmp_path_factory.mktemp("market")
    rows = [
        (symbol, OPEN + timedelta(minutes=minute), price, price + 0.2, price - 0.1, price + 0.1, 2400.0)
        for symbol, price in (("ALFA", 20.0), ("BETA", 31.5))
        for minute in range(10)
    ]
    names = ["symbol", "timestamp", "open", "high", "low", "close", "volume"]
    pq.write_table(
        pa.table(dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))), folder / "bars.parquet"
    )
    news = {
        "symbol": ["ALFA"],
        "published_at": [OPEN + timedelta(minutes=3)],
        "headline": ["Alfa wins order"],
        "source": ["Wire"],
        "url": [""],
    }
    pq.write_table(pa.table(news), folder / "news.parquet")
    return recorded_market.load_market(
        folder / "bars.parquet", None, folder / "news.parquet", day=date(2026, 4, 8)
    )


class StreamServer:
    """A server of the market data streams with its clock and its connections."""

    def __init__(self, url: str, app: web.Application, clock: ManualClock, streams: DataStreams) -> None:
        self.url, self.app, self.clock, self.streams = url, app, clock, streams


@pytest.fixture
async def server(market: BarMarket) -> AsyncIterator[StreamServer]:
    """The market's streams on loopback at the open."""
    app, clock = web.Application(), ManualClock(OPEN)
    add_data_routes(app, market, clock)
    streams = add_data_streams(app, market, clock, {"key": "secret"})
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield StreamServer(f"http://127.0.0.1:{runner.addresses[0][1]}", app, clock, streams)
    await streams.disconnect()
    await runner.cleanup()


class JsonSubscriber:
    """A plain client that speaks JSON."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def receive(self) -> list[dict[str, Any]]:
        """Return the next frame."""
        return await self.socket.receive_json(timeout=LIMIT_S)

    async def request(self, **message: Any) -> list[dict[str, Any]]:
        """Send a message and return the response."""
        await self.socket.send_json(message)
        return await self.receive()

    async def log_in(self) -> None:
        """Complete the handshake."""
        assert await self.receive() == [{"T": "success", "msg": "connected"}]
        answer = await self.request(action="auth", key="key", secret="secret")
        assert answer == [{"T": "success", "msg": "authenticated"}]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session."""
    async with aiohttp.ClientSession() as session:
        yield session


async def test_data_stream_sends_every_print_once_with_quotes_and_bars(
    server: StreamServer, market: BarMarket, session: aiohttp.ClientSession
) -> None:
    """Every print of a subscribed symbol arrives once and in order, with quotes and finished bars."""
    async with session.ws_connect(f"{server.url}/v2/iex") as socket:
        subscriber = JsonSubscriber(socket)
        await subscriber.log_in()
        reported = await subscriber.request(
            action="subscribe", trades=["ALFA"], quotes=["ALFA"], bars=["*"], dailyBars=["BETA"]
        )
        assert reported[0]["T"] == "subscription"
        assert (reported[0]["trades"], reported[0]["bars"], reported[0]["corrections"]) == (
            ["ALFA"],
            ["*"],
            ["ALFA"],
        )
        await server.clock.advance(timedelta(minutes=3))
        received: list[dict[str, Any]] = []
        while not any(each["T"] == "b" and each["t"] == "2026-04-08T13:32:00Z" for each in received):
            received += await subscriber.receive()
        trades = [each for each in received if each["T"] == "t"]
        prints = market.prints("ALFA", OPEN, OPEN + timedelta(minutes=3))
        assert [(t["p"], t["s"]) for t in trades] == [(float(p.price), p.size) for p in prints]
        assert {each["S"] for each in received if each["T"] == "b"} == {"ALFA", "BETA"}
        assert sum(each["T"] == "b" for each in received) == 6
        assert {each["S"] for each in received if each["T"] == "d"} == {"BETA"}
        assert all(each["bp"] < each["ap"] for each in received if each["T"] == "q")
        assert sum(each["T"] == "q" for each in received) >= len(trades)


async def test_subscription_response_lists_all_subscriptions(
    server: StreamServer, session: aiohttp.ClientSession
) -> None:
    """Each response has the complete set; unsubscribing removes symbols; an invalid channel changes nothing."""
    async with session.ws_connect(f"{server.url}/v2/iex") as socket:
        subscriber = JsonSubscriber(socket)
        await subscriber.log_in()
        await subscriber.request(action="subscribe", trades=["BETA"])
        assert (await subscriber.request(action="subscribe", trades=["ALFA"]))[0]["trades"] == [
            "ALFA",
            "BETA",
        ]
        assert (await subscriber.request(action="subscribe", prices=["ALFA"]))[0]["code"] == 410
        assert (await subscriber.request(action="unsubscribe", trades=["BETA"]))[0]["trades"] == ["ALFA"]
        assert (await subscriber.request(action="auth", key="key", secret="secret"))[0]["code"] == 403
        assert (await subscriber.request(action="dance"))[0]["code"] == 400
        server.streams.symbol_limit = 2
        assert (await subscriber.request(action="subscribe", quotes=["ALFA", "BETA"]))[0]["code"] == 405
        assert (await subscriber.request(action="subscribe"))[0]["quotes"] == []


@pytest.mark.parametrize(
    ("message", "code"),
    [({"action": "subscribe", "trades": ["ALFA"]}, 401), ({"action": "auth", "key": "x"}, 402)],
)
async def test_unauthenticated_data_client_gets_only_an_error(
    server: StreamServer, session: aiohttp.ClientSession, message: dict[str, Any], code: int
) -> None:
    """A client without a valid key gets an error instead of data."""
    async with session.ws_connect(f"{server.url}/v2/iex") as socket:
        subscriber = JsonSubscriber(socket)
        await subscriber.receive()
        assert (await subscriber.request(**message))[0]["code"] == code


async def test_silent_data_client_gets_auth_timeout(
    server: StreamServer, session: aiohttp.ClientSession
) -> None:
    """A client that sends no key within the limit gets `auth timeout`."""
    server.streams.auth_timeout_s = 0.05
    async with session.ws_connect(f"{server.url}/v2/iex") as socket:
        subscriber = JsonSubscriber(socket)
        await subscriber.receive()
        assert (await subscriber.receive())[0] == {"T": "error", "code": 404, "msg": "auth timeout"}


async def test_data_stream_allows_one_connection_per_endpoint(
    server: StreamServer, session: aiohttp.ClientSession
) -> None:
    """A second connection is rejected, and SIP without its subscription too; keys may come as headers."""
    headers = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
    server.app[ENTITLEMENTS].recent_sip = False
    async with session.ws_connect(f"{server.url}/v2/iex", headers=headers) as socket:
        first = JsonSubscriber(socket)
        assert (await first.receive())[0]["msg"] == "connected"
        assert (await first.receive())[0]["msg"] == "authenticated"
        for source, code in (("iex", 406), ("sip", 409)):
            async with session.ws_connect(f"{server.url}/v2/{source}", headers=headers) as other:
                subscriber = JsonSubscriber(other)
                await subscriber.receive()
                assert (await subscriber.receive())[0]["code"] == code


async def test_alpaca_py_streams_trades_quotes_bars_and_news(server: StreamServer) -> None:
    """alpaca-py, which speaks msgpack in fragments, receives typed trades, quotes, bars and news."""
    received: dict[str, list[Any]] = {"trade": [], "quote": [], "bar": [], "news": []}

    def recorder(kind: str) -> Any:
        async def record(message: Any) -> None:
            received[kind].append(message)

        return record

    base = server.url.replace("http", "ws")
    stocks = StockDataStream("key", "secret", url_override=f"{base}/v2/iex")
    stocks.subscribe_trades(recorder("trade"), "ALFA")
    stocks.subscribe_quotes(recorder("quote"), "ALFA")
    stocks.subscribe_bars(recorder("bar"), "*")
    news = NewsDataStream("key", "secret", url_override=f"{base}/v1beta1/news")
    news.subscribe_news(recorder("news"), "*")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # websockets.legacy warns again when it connects
        tasks = [asyncio.ensure_future(stream._run_forever()) for stream in (stocks, news)]
        server.clock.advance_only_when(lambda: len(server.streams.connections) == 2 and all(
            each.sent_until is not None for each in server.streams.connections
        ))  # fmt: skip
        await server.clock.advance(timedelta(minutes=5))
        server.clock._advance_conditions.clear()
        server.clock.advance_only_when(lambda: len(received["bar"]) >= 10 and bool(received["news"]))
        await server.clock.wait_until_quiet()
        for stream in (stocks, news):
            await stream.stop_ws()
            await stream.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert received["trade"][0].price > 0
    assert received["trade"][0].timestamp == OPEN + timedelta(seconds=5)
    assert received["quote"][0].bid_price < received["quote"][0].ask_price
    assert {bar.symbol for bar in received["bar"]} == {"ALFA", "BETA"}
    assert received["news"][0].headline == "Alfa wins order"
    assert received["news"][0].symbols == ["ALFA"]


async def test_data_stream_msgpack_times_are_timestamps(
    server: StreamServer, session: aiohttp.ClientSession
) -> None:
    """A client that requests msgpack receives it, with times in the Timestamp extension."""
    headers = {"Content-Type": "application/msgpack"}
    async with session.ws_connect(f"{server.url}/v2/iex", headers=headers) as socket:
        for message in (
            {"action": "auth", "key": "key", "secret": "secret"},
            {"action": "subscribe", "trades": ["ALFA"]},
        ):
            await socket.receive_bytes(timeout=LIMIT_S)
            await socket.send_bytes(msgpack.packb(message))
        reported = msgpack.unpackb(await socket.receive_bytes(timeout=LIMIT_S))
        assert reported[0]["T"] == "subscription"
        await server.clock.advance(timedelta(seconds=5))
        trade = msgpack.unpackb(await socket.receive_bytes(timeout=LIMIT_S))[0]
        assert isinstance(trade["t"], msgpack.Timestamp)
        assert trade["t"].to_datetime() == OPEN + timedelta(seconds=5)


async def test_muted_data_stream_stays_open_and_resumes_without_replay(
    server: StreamServer, session: aiohttp.ClientSession
) -> None:
    """While muted the socket stays open and sends no data; afterwards it continues without a replay."""
    async with session.ws_connect(f"{server.url}/v2/iex") as socket:
        subscriber = JsonSubscriber(socket)
        await subscriber.log_in()
        await subscriber.request(action="subscribe", trades=["ALFA"])
        server.streams.sending_stopped = True
        await server.clock.advance(timedelta(seconds=20))
        server.streams.sending_stopped = False
        await server.clock.advance(timedelta(seconds=5))
        assert (await subscriber.receive())[0]["t"] == "2026-04-08T13:30:25Z"
        assert not socket.closed
