"""The market data websockets, heard by alpaca-py and by hand, on a clock that stands still."""

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

with warnings.catch_warnings():
    # alpaca-py 0.44 imports websockets.legacy, which warns
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.data.live import NewsDataStream, StockDataStream

OPEN = datetime(2026, 4, 8, 13, 30, tzinfo=UTC)


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> BarMarket:
    """Two symbols over ten minutes, a headline in the fourth."""
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
    return recorded_market.load(folder / "bars.parquet", None, folder / "news.parquet", day=date(2026, 4, 8))


class Desk:
    """The server, its clock, and a way to let time pass until everything due has been sent."""

    def __init__(self, url: str, app: web.Application, clock: ManualClock, streams: DataStreams) -> None:
        self.url, self.app, self.clock, self.streams = url, app, clock, streams


@pytest.fixture
async def desk(market: BarMarket) -> AsyncIterator[Desk]:
    """The market's streams on loopback at the open."""
    app, clock = web.Application(), ManualClock(OPEN)
    add_data_routes(app, market, clock)
    streams = add_data_streams(app, market, clock, {"key": "secret"})
    runner = web.AppRunner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield Desk(f"http://127.0.0.1:{runner.addresses[0][1]}", app, clock, streams)
    await streams.disconnect()
    await runner.cleanup()


class Ear:
    """A hand-made client speaking JSON."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def hear(self) -> list[dict[str, Any]]:
        """The next frame."""
        return await self.socket.receive_json(timeout=10)

    async def say(self, **message: Any) -> list[dict[str, Any]]:
        """Send a message and return the answer."""
        await self.socket.send_json(message)
        return await self.hear()

    async def log_in(self) -> None:
        """Go through the handshake."""
        assert await self.hear() == [{"T": "success", "msg": "connected"}]
        answer = await self.say(action="auth", key="key", secret="secret")
        assert answer == [{"T": "success", "msg": "authenticated"}]


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    """A client session."""
    async with aiohttp.ClientSession() as session:
        yield session


async def test_the_tape_is_heard_as_it_happens(
    desk: Desk, market: BarMarket, session: aiohttp.ClientSession
) -> None:
    """Every print of a subscribed symbol arrives once, in order, with quotes around it and finished bars."""
    async with session.ws_connect(f"{desk.url}/v2/iex") as socket:
        ear = Ear(socket)
        await ear.log_in()
        told = await ear.say(
            action="subscribe", trades=["ALFA"], quotes=["ALFA"], bars=["*"], dailyBars=["BETA"]
        )
        assert told[0]["T"] == "subscription"
        assert (told[0]["trades"], told[0]["bars"], told[0]["corrections"]) == (["ALFA"], ["*"], ["ALFA"])
        await desk.clock.advance(timedelta(minutes=3))
        heard: list[dict[str, Any]] = []
        while not any(each["T"] == "b" and each["t"] == "2026-04-08T13:32:00Z" for each in heard):
            heard += await ear.hear()
        trades = [each for each in heard if each["T"] == "t"]
        tape = market.prints("ALFA", OPEN, OPEN + timedelta(minutes=3))
        assert [(t["p"], t["s"]) for t in trades] == [(float(p.price), p.size) for p in tape]
        assert {each["S"] for each in heard if each["T"] == "b"} == {"ALFA", "BETA"}
        assert sum(each["T"] == "b" for each in heard) == 6
        assert {each["S"] for each in heard if each["T"] == "d"} == {"BETA"}
        assert all(each["bp"] < each["ap"] for each in heard if each["T"] == "q")
        assert sum(each["T"] == "q" for each in heard) >= len(trades)


async def test_subscriptions_add_up_and_are_told_in_full(desk: Desk, session: aiohttp.ClientSession) -> None:
    """Each answer is the complete set; unsubscribing takes away; a wrong channel changes nothing."""
    async with session.ws_connect(f"{desk.url}/v2/iex") as socket:
        ear = Ear(socket)
        await ear.log_in()
        await ear.say(action="subscribe", trades=["BETA"])
        assert (await ear.say(action="subscribe", trades=["ALFA"]))[0]["trades"] == ["ALFA", "BETA"]
        assert (await ear.say(action="subscribe", prices=["ALFA"]))[0]["code"] == 410
        assert (await ear.say(action="unsubscribe", trades=["BETA"]))[0]["trades"] == ["ALFA"]
        assert (await ear.say(action="auth", key="key", secret="secret"))[0]["code"] == 403
        assert (await ear.say(action="dance"))[0]["code"] == 400
        desk.streams.symbol_limit = 2
        assert (await ear.say(action="subscribe", quotes=["ALFA", "BETA"]))[0]["code"] == 405
        assert (await ear.say(action="subscribe"))[0]["quotes"] == []


@pytest.mark.parametrize(
    ("message", "code"),
    [({"action": "subscribe", "trades": ["ALFA"]}, 401), ({"action": "auth", "key": "x"}, 402)],
)
async def test_strangers_hear_nothing(
    desk: Desk, session: aiohttp.ClientSession, message: dict[str, Any], code: int
) -> None:
    """Without a good key there is an error and no data."""
    async with session.ws_connect(f"{desk.url}/v2/iex") as socket:
        ear = Ear(socket)
        await ear.hear()
        assert (await ear.say(**message))[0]["code"] == code


async def test_who_says_nothing_is_turned_away(desk: Desk, session: aiohttp.ClientSession) -> None:
    """The key has to come within the limit."""
    desk.streams.auth_seconds = 0.05
    async with session.ws_connect(f"{desk.url}/v2/iex") as socket:
        ear = Ear(socket)
        await ear.hear()
        assert (await ear.hear())[0] == {"T": "error", "code": 404, "msg": "auth timeout"}


async def test_one_connection_an_endpoint(desk: Desk, session: aiohttp.ClientSession) -> None:
    """A second one is refused, as is the SIP without its subscription; keys may come as headers."""
    headers = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
    desk.app[ENTITLEMENTS].recent_sip = False
    async with session.ws_connect(f"{desk.url}/v2/iex", headers=headers) as socket:
        first = Ear(socket)
        assert (await first.hear())[0]["msg"] == "connected"
        assert (await first.hear())[0]["msg"] == "authenticated"
        for source, code in (("iex", 406), ("sip", 409)):
            async with session.ws_connect(f"{desk.url}/v2/{source}", headers=headers) as other:
                ear = Ear(other)
                await ear.hear()
                assert (await ear.hear())[0]["code"] == code


async def test_alpaca_py_hears_trades_bars_and_news(desk: Desk) -> None:
    """The official client, speaking msgpack in fragments, gets typed trades, quotes, bars and news."""
    heard: dict[str, list[Any]] = {"trade": [], "quote": [], "bar": [], "news": []}

    def into(kind: str) -> Any:
        async def keep(message: Any) -> None:
            heard[kind].append(message)

        return keep

    base = desk.url.replace("http", "ws")
    stocks = StockDataStream("key", "secret", url_override=f"{base}/v2/iex")
    stocks.subscribe_trades(into("trade"), "ALFA")
    stocks.subscribe_quotes(into("quote"), "ALFA")
    stocks.subscribe_bars(into("bar"), "*")
    news = NewsDataStream("key", "secret", url_override=f"{base}/v1beta1/news")
    news.subscribe_news(into("news"), "*")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # websockets.legacy again, when it connects
        tasks = [asyncio.ensure_future(stream._run_forever()) for stream in (stocks, news)]
        desk.clock.quiet_when(lambda: len(desk.streams.connections) == 2 and all(
            each.since is not None for each in desk.streams.connections
        ))  # fmt: skip
        await desk.clock.advance(timedelta(minutes=5))
        desk.clock._conditions.clear()
        desk.clock.quiet_when(lambda: len(heard["bar"]) >= 10 and bool(heard["news"]))
        await desk.clock.quiet()
        for stream in (stocks, news):
            await stream.stop_ws()
            await stream.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert heard["trade"][0].price > 0
    assert heard["trade"][0].timestamp == OPEN + timedelta(seconds=5)
    assert heard["quote"][0].bid_price < heard["quote"][0].ask_price
    assert {bar.symbol for bar in heard["bar"]} == {"ALFA", "BETA"}
    assert heard["news"][0].headline == "Alfa wins order"
    assert heard["news"][0].symbols == ["ALFA"]


async def test_msgpack_times_are_timestamps(desk: Desk, session: aiohttp.ClientSession) -> None:
    """A client that asks for msgpack gets it, times in the Timestamp extension."""
    headers = {"Content-Type": "application/msgpack"}
    async with session.ws_connect(f"{desk.url}/v2/iex", headers=headers) as socket:
        for message in (
            {"action": "auth", "key": "key", "secret": "secret"},
            {"action": "subscribe", "trades": ["ALFA"]},
        ):
            await socket.receive_bytes(timeout=10)
            await socket.send_bytes(msgpack.packb(message))
        told = msgpack.unpackb(await socket.receive_bytes(timeout=10))
        assert told[0]["T"] == "subscription"
        await desk.clock.advance(timedelta(seconds=5))
        trade = msgpack.unpackb(await socket.receive_bytes(timeout=10))[0]
        assert isinstance(trade["t"], msgpack.Timestamp)
        assert trade["t"].to_datetime() == OPEN + timedelta(seconds=5)


async def test_a_mute_stream_stays_open_and_says_nothing(desk: Desk, session: aiohttp.ClientSession) -> None:
    """Muted, the socket lives but tells nothing of what happens; unmuted, it goes on without a replay."""
    async with session.ws_connect(f"{desk.url}/v2/iex") as socket:
        ear = Ear(socket)
        await ear.log_in()
        await ear.say(action="subscribe", trades=["ALFA"])
        desk.streams.mute = True
        await desk.clock.advance(timedelta(seconds=20))
        desk.streams.mute = False
        await desk.clock.advance(timedelta(seconds=5))
        assert (await ear.hear())[0]["t"] == "2026-04-08T13:30:25Z"
        assert not socket.closed
