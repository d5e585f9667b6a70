"""The exchange over loopback: a server on a manual clock, alpaca-py in threads, plain websockets."""

import asyncio
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import orjson
import requests
import websockets
from aiohttp import WSCloseCode

from catalyst.clock import ManualClock
from catalyst.simulator.exchange.persistence import Journal
from catalyst.simulator.market.interface import Market
from catalyst.simulator.server import SimulatorServer, run_server
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.waiting import LIMIT_S, wait_until

with warnings.catch_warnings():  # alpaca-py still uses a deprecated part of websockets
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.stream import TradingStream

KEYS = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo"}
ORDER = {"symbol": "AAPL", "qty": 1, "side": "buy", "type": "market", "time_in_force": "day"}


class ServedExchange:
    """A scenario behind a server, with alpaca-py and plain HTTP as clients."""

    def __init__(self, scenario: ExchangeScenario, clock: ManualClock, server: SimulatorServer) -> None:
        self.scenario, self.clock, self.server = scenario, clock, server
        self.client = TradingClient("demo", "demo", raw_data=True, url_override=server.url)
        self.client._retry = 0
        self.http = requests.Session()
        for session in (self.client._session, self.http):
            session.trust_env = False

    async def call(self, function: Any, *arguments: Any, **more: Any) -> Any:
        """Call the blocking client in a thread."""
        return await asyncio.to_thread(function, *arguments, **more)

    async def request(self, method: str, path: str, **more: Any) -> requests.Response:
        """Send a plain request, with valid keys unless `headers` is given."""
        more.setdefault("headers", KEYS)
        more.setdefault("timeout", LIMIT_S)
        return await asyncio.to_thread(self.http.request, method, self.server.url + path, **more)

    async def start_held_request(self, method: str, path: str, **more: Any) -> "HeldRequest":
        """Send a request and return once a fault rule has applied to it."""
        log = self.server.middleware.request_log
        seen = len(log)
        response = asyncio.ensure_future(self.request(method, path, **more))
        await wait_until(lambda: response.done() or any(entry.fault for entry in list(log)[seen:]))
        return HeldRequest(self, response)

    async def post_admin(self, path: str, *, may_stay_silent: str = "", **body: Any) -> Any:
        """Send a POST to the admin API. A fault rule must fire before the exchange ends, unless `may_stay_silent`
        says why it need not."""
        response = await self.request("POST", f"/admin/{path}", json=body)
        assert response.status_code == 200, response.text
        added = response.json()
        if may_stay_silent:
            self.scenario.reasons_of_silence[added["id"]] = may_stay_silent
        return added

    async def advance(self, seconds: float = 1.0) -> None:
        """Publish changes the test made directly in the scenario, then advance the market time."""
        self.server.publish_changes()
        await self.clock.advance(timedelta(seconds=seconds))

    async def print_trade(self, symbol: str, price: str, size: int = 100_000) -> None:
        """Add a trade one millisecond from now and advance the exchange to it."""
        self.scenario.feed.add_trade(symbol, self.clock.now() + timedelta(milliseconds=1), price, size)
        await self.clock.advance(timedelta(milliseconds=1))
        self.server.exchange.venue.advance(self.clock.now())
        self.server.publish_changes()

    def close(self) -> None:
        self.client._session.close()
        self.http.close()


@dataclass
class HeldRequest:
    """A request to which a fault rule has applied; its response may be on its way, or held by the rule."""

    served: ServedExchange
    response: "asyncio.Future[requests.Response]"

    async def is_held(self) -> bool:
        """Release what hangs in the server; return true when that, and nothing before, gave the response."""
        middleware = self.served.server.middleware
        middleware.server_closed.set()
        middleware.server_closed = asyncio.Event()
        response = await self.response
        return response.status_code == 503 and "Service Unavailable" in response.text


async def post_order(served: ServedExchange, **more: Any) -> requests.Response:
    """Post a market order for one share of AAPL; `more` overrides fields."""
    return await served.request("POST", "/v2/orders", json={**ORDER, **more})


async def buy_one_share(served: ServedExchange, **more: Any) -> None:
    """Submit a market order and advance one second: it is new, then filled."""
    served.scenario.submit("buy", 1, **more)
    await served.advance()


async def list_orders(served: ServedExchange, **query: Any) -> list[Any]:
    """List orders through alpaca-py."""
    rows: list[Any] = await served.call(served.client.get, "/orders", query)
    return rows


@asynccontextmanager
async def serve_exchange(
    *,
    state: Path | None = None,
    scenario: ExchangeScenario | None = None,
    market: Market | None = None,
    **terms: Any,
) -> AsyncIterator[ServedExchange]:
    """Serve a scenario; with a `market`, serve its data API and streams too. At the end every fault rule must
    have fired."""
    scenario = scenario or ExchangeScenario(**terms)
    journal = None
    if state is not None:
        journal = Journal(state)
        journal.restore(scenario.exchange)
    clock = ManualClock(scenario.now)
    async with run_server(scenario.exchange, clock, market=market, journal=journal) as server:
        served = ServedExchange(scenario, clock, server)
        try:
            with scenario:
                yield served
        finally:
            served.close()


def trading_stream(server: SimulatorServer) -> TradingStream:
    """Return alpaca-py's own stream with raw data."""
    return TradingStream("demo", "demo", raw_data=True, url_override=server.stream_url)


AUTH = {"action": "auth", "key": "demo", "secret": "demo"}
LISTEN = {"action": "listen", "data": {"streams": ["trade_updates"]}}


@asynccontextmanager
async def subscribed_socket(server: SimulatorServer, **more: Any) -> AsyncIterator[Any]:
    """Open a websocket that is authorized and subscribed to trade updates."""
    async with websockets.connect(server.stream_url, proxy=None, **more) as socket:
        assert (await send_and_receive(socket, AUTH))["data"]["status"] == "authorized"
        assert (await send_and_receive(socket, LISTEN))["stream"] == "listening"
        yield socket


async def send_and_receive(socket: Any, message: Any) -> Any:
    """Send a message and return the next one received."""
    await socket.send(orjson.dumps(message).decode())
    return await receive_message(socket)


async def receive_frame(socket: Any) -> Any:
    """Return the next frame unparsed."""
    return await asyncio.wait_for(socket.recv(), LIMIT_S)


async def frames_until_close(served: ServedExchange, socket: Any) -> list[Any]:
    """Let the server close the stream after what it has queued; return every frame that came before."""
    served.server.streams.disconnect(WSCloseCode.OK)
    async with asyncio.timeout(LIMIT_S):
        return [frame async for frame in socket]


async def receive_message(socket: Any) -> Any:
    return orjson.loads(await receive_frame(socket))


async def receive_data(socket: Any, frames: int) -> list[Any]:
    """Return the data of the next `frames` messages."""
    return [(await receive_message(socket))["data"] for _ in range(frames)]
