"""A small recorded market behind a whole exchange, and test clients of its market data protocol."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import msgpack
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from catalyst.clock import ManualClock
from catalyst.simulator.data_stream.server import DataStreams
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.recorded import market as recorded_market
from catalyst.simulator.server import SimulatorServer, run_server
from tests.simulator.exchange_scenario import fixed_latencies
from tests.waiting import LIMIT_S

DAY = date(2026, 4, 8)
OPEN = datetime(2026, 4, 8, 13, 30, tzinfo=UTC)
KEYS = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
AUTH = {"action": "auth", "key": "demo", "secret": "demo"}
BAR = ("open", "high", "low", "close", "volume")


def write_parquet(path: Path, names: Sequence[str], rows: Sequence[Sequence[Any]]) -> Path:
    """Write rows as a Parquet file."""
    columns = {name: list(column) for name, column in zip(names, zip(*rows, strict=True), strict=True)}
    table = pa.table(columns)
    if "timestamp" in columns:
        timestamp_index = table.column_names.index("timestamp")
        table = table.set_column(
            timestamp_index, "timestamp", table["timestamp"].cast(pa.timestamp("us", "UTC"))
        )
    pq.write_table(table, path)
    return path


def small_market(folder: Path) -> BarMarket:
    """Return the market: ALFA (Nasdaq) and BETA (New York) with 60 minute bars, SILENT with daily bars only,
    NEVER listed without any bars.

    Daily bars cover every session since January. One headline appears three minutes after the open.
    """
    minutes = [
        (symbol, OPEN + timedelta(minutes=minute), price, price + 0.2, price - 0.1, price + 0.1, 2400.0)
        for symbol, price in (("ALFA", 20.0), ("BETA", 31.5))
        for minute in range(60)
    ]
    sessions = recorded_market.calendar.sessions(date(2026, 1, 1), date(2026, 4, 7))
    days = [
        (symbol, session.day, price, price + n / 100, price - 0.5, price, 1e6 + n)
        for symbol, price in (("ALFA", 20.0), ("BETA", 31.0), ("SILENT", 7.0))
        for n, session in enumerate(sessions)
    ]
    (folder / "listings.csv").write_text(
        "symbol,name,exchange,sector\nALFA,Alfa,NASDAQ,\nBETA,Beta,NYSE,\nSILENT,Silent,NYSE,\nNEVER,Never,NYSE,\n"
    )
    headline = ("ALFA", OPEN + timedelta(minutes=3), "Alfa wins order", "Wire", "")
    return recorded_market.load_market(
        write_parquet(folder / "bars.parquet", ("symbol", "timestamp", *BAR), minutes),
        write_parquet(folder / "daily.parquet", ("symbol", "date", *BAR), days),
        write_parquet(
            folder / "news.parquet", ("symbol", "published_at", "headline", "source", "url"), [headline]
        ),
        folder / "listings.csv",
        day=DAY,
    )


class DataFeedServer:
    """The exchange on a manual clock, served over HTTP and websockets."""

    def __init__(self, server: SimulatorServer, market: OverriddenMarket, clock: ManualClock) -> None:
        assert server.data_streams is not None
        self.server, self.market, self.clock = server, market, clock
        self.streams: DataStreams = server.data_streams
        self.http = aiohttp.ClientSession(base_url=server.url, headers=KEYS)

    async def get(self, path: str, **query: str) -> tuple[int, Any]:
        """Send a GET request and return status and body."""
        async with self.http.get(path, params=query) as response:
            is_text = response.content_type != "application/json"
            return response.status, await (response.text() if is_text else response.json())

    async def post_admin(self, path: str, **body: Any) -> Any:
        """Send a request to the admin API and return its response."""
        async with self.http.post(f"/admin/{path}", json=body) as response:
            assert response.status == 200, await response.text()
            return await response.json()

    async def advance(self, seconds: float) -> None:
        """Advance the market time."""
        await self.clock.advance(timedelta(seconds=seconds))

    @asynccontextmanager
    async def connect(
        self, *, packed: bool = False, source: str = "v2/iex", auth: bool = True
    ) -> AsyncIterator["StreamSubscriber"]:
        """Open a websocket connection, authenticated by default."""
        headers = {"Content-Type": "application/msgpack"} if packed else {}
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.server.url}/{source}", headers=headers, max_msg_size=0) as socket,
        ):
            subscriber = StreamSubscriber(socket, packed=packed)
            assert await subscriber.receive() == [{"T": "success", "msg": "connected"}]
            if auth:
                assert await subscriber.request(**AUTH) == [{"T": "success", "msg": "authenticated"}]
            yield subscriber


class StreamSubscriber:
    """Minimal client of the market data stream, in JSON or msgpack."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse, *, packed: bool) -> None:
        self.socket, self.packed = socket, packed

    async def receive(self) -> list[dict[str, Any]]:
        """Return the next frame."""
        if self.packed:
            return msgpack.unpackb(await self.socket.receive_bytes(timeout=LIMIT_S))  # type: ignore[no-any-return]
        return await self.socket.receive_json(timeout=LIMIT_S)  # type: ignore[no-any-return]

    async def request(self, **message: Any) -> list[dict[str, Any]]:
        """Send a message and return the response."""
        if self.packed:
            await self.socket.send_bytes(msgpack.packb(message))
        else:
            await self.socket.send_str(orjson.dumps(message).decode())
        return await self.receive()

    async def receive_of_kind(self, kind: str, count: int = 1) -> list[dict[str, Any]]:
        """Return the next `count` messages of a kind; skip others."""
        messages: list[dict[str, Any]] = []
        while len(messages) < count:
            messages += [each for each in await self.receive() if each["T"] == kind]
        return messages


@asynccontextmanager
async def serve_data_feed(bars: BarMarket, at: datetime = OPEN) -> AsyncIterator[DataFeedServer]:
    """Serve the exchange over `bars` from the time `at`; tests can override the market."""
    market, clock = OverriddenMarket(bars), ManualClock(at)
    exchange = Exchange(market, at, settings=fixed_latencies())
    async with run_server(exchange, clock, market=market) as server:
        feed = DataFeedServer(server, market, clock)
        try:
            yield feed
        finally:
            await feed.http.close()
