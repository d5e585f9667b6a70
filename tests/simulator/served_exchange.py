"""The exchange over loopback: a server on a manual clock, alpaca-py in threads, bare websockets."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import requests
import websockets

from catalyst.clock import ManualClock
from catalyst.simulator.exchange.persistence import Journal
from catalyst.simulator.market.interface import Market
from catalyst.simulator.server import Server, running
from tests.simulator.exchange_scenario import Desk

with warnings.catch_warnings():  # alpaca-py still uses a deprecated part of websockets
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.stream import TradingStream

KEYS = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
ORDER = {"symbol": "AAPL", "qty": 1, "side": "buy", "type": "market", "time_in_force": "day"}


class Wire:
    """A desk behind a server, with alpaca-py and plain HTTP to ask it."""

    def __init__(self, desk: Desk, clock: ManualClock, server: Server) -> None:
        self.desk, self.clock, self.server = desk, clock, server
        self.client = TradingClient("demo", "demo", raw_data=True, url_override=server.url)
        self.client._retry = 0
        self.http = requests.Session()
        for session in (self.client._session, self.http):
            session.trust_env = False

    async def asks(self, act: Any, *arguments: Any, **more: Any) -> Any:
        """Call the blocking client in a thread."""
        return await asyncio.to_thread(act, *arguments, **more)

    async def http_(self, method: str, path: str, **more: Any) -> requests.Response:
        """A plain request with good keys, unless `headers` says otherwise."""
        more.setdefault("headers", KEYS)
        more.setdefault("timeout", 20)
        return await asyncio.to_thread(self.http.request, method, self.server.url + path, **more)

    async def admin(self, path: str, **body: Any) -> Any:
        response = await self.http_("POST", f"/admin/{path}", json=body)
        assert response.status_code == 200, response.text
        return response.json()

    async def passes(self, seconds: float = 1.0) -> None:
        """Market time goes by; what a test did to the desk directly is noticed first."""
        self.server.settle()
        await self.clock.advance(timedelta(seconds=seconds))

    async def prints(self, symbol: str, price: str, size: int = 100_000) -> None:
        """A trade a millisecond from now, and the exchange has seen it."""
        self.desk.tape.trades(symbol, self.clock.now() + timedelta(milliseconds=1), price, size)
        await self.clock.advance(timedelta(milliseconds=1))
        self.server.exchange.advance(self.clock.now())
        self.server.settle()

    def close(self) -> None:
        self.client._session.close()
        self.http.close()


async def posts(wire: Wire, **more: Any) -> requests.Response:
    """Post a market order for one share of AAPL, but for what `more` says."""
    return await wire.http_("POST", "/v2/orders", json={**ORDER, **more})


async def buys(wire: Wire, **more: Any) -> None:
    """A market order that is new and filled a second later."""
    wire.desk.sends("buy", 1, **more)
    await wire.passes()


async def listed(wire: Wire, **query: Any) -> list[Any]:
    """The orders of a query, as alpaca-py asks."""
    rows: list[Any] = await wire.asks(wire.client.get, "/orders", query)
    return rows


@asynccontextmanager
async def wired(
    *, state: Path | None = None, desk: Desk | None = None, market: Market | None = None, **terms: Any
) -> AsyncIterator[Wire]:
    """A served desk; with a `market` its data API and streams are served too."""
    desk = desk or Desk(**terms)
    journal = None
    if state is not None:
        journal = Journal(state)
        journal.restore(desk.exchange)
    clock = ManualClock(desk.now)
    async with running(desk.exchange, clock, market=market, journal=journal) as server:
        wire = Wire(desk, clock, server)
        try:
            yield wire
        finally:
            wire.close()


def TradingStreamOf(server: Server) -> TradingStream:
    """alpaca-py's own stream, raw."""
    return TradingStream("demo", "demo", raw_data=True, url_override=server.stream_url)


AUTH = {"action": "auth", "key": "demo", "secret": "demo"}
LISTEN = {"action": "listen", "data": {"streams": ["trade_updates"]}}


@asynccontextmanager
async def listening(server: Server, **more: Any) -> AsyncIterator[Any]:
    """A websocket that is authorised and listens to trade updates."""
    async with websockets.connect(server.stream_url, proxy=None, **more) as socket:
        assert (await says(socket, AUTH))["data"]["status"] == "authorized"
        assert (await says(socket, LISTEN))["stream"] == "listening"
        yield socket


async def says(socket: Any, message: Any) -> Any:
    """Send a message, and the next one that comes."""
    await socket.send(orjson.dumps(message).decode())
    return await hears(socket)


async def receives(socket: Any) -> Any:
    """The next frame as it is."""
    return await asyncio.wait_for(socket.recv(), 10)


async def hears(socket: Any) -> Any:
    return orjson.loads(await receives(socket))


async def told(socket: Any, frames: int) -> list[Any]:
    """The data of the next `frames` messages."""
    return [(await hears(socket))["data"] for _ in range(frames)]
