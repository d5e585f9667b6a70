"""Scripted HTTP server: plays back the faults of a broker without a broker.

It sends given bytes, hangs, drops connections and sends slowly. Exchange behaviour belongs to the simulator.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web

KEY = "PKPEERPEERPEERPEER"
SECRET = "the-secret-nobody-may-read"

Reply = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ReceivedRequest:
    """One request as received."""

    method: str
    path: str
    query: dict[str, str]
    headers: Mapping[str, str]
    body: Any
    port: int = 0  # port of the client: an equal port is the same connection


@dataclass
class ScriptedServer:
    """Plays replies in order for (method, path); the last one repeats."""

    url: str = ""
    requests: list[ReceivedRequest] = field(default_factory=list)
    _replies: dict[tuple[str, str], deque[Reply]] = field(default_factory=lambda: defaultdict(deque))
    released: asyncio.Event = field(default_factory=asyncio.Event)
    _arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def on(self, method: str, path: str, *replies: Reply) -> None:
        """Answer (method, path) with `replies` from now on."""
        self._replies[method, path] = deque(replies)

    def request_count(self, method: str, path: str) -> int:
        return sum(request.method == method and request.path == path for request in self.requests)

    async def wait_for_requests(self, requests: int) -> None:
        """Return once `requests` requests have arrived."""
        while len(self.requests) < requests:
            self._arrived.clear()
            await self._arrived.wait()

    def release(self) -> None:
        """End the replies that hang now with an empty response; later ones hang again."""
        self.released.set()
        self.released = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        raw = await request.read()
        self.requests.append(
            ReceivedRequest(
                request.method,
                request.path,
                dict(request.query),
                request.headers.copy(),
                orjson.loads(raw) if raw else None,
                request.transport.get_extra_info("peername")[1] if request.transport else 0,
            )
        )
        self._arrived.set()
        script = self._replies[request.method, request.path]
        if not script:
            return web.json_response({"message": "endpoint not found"}, status=404)
        reply = script.popleft() if len(script) > 1 else script[0]
        return await reply(request)

    # replies ---------------------------------------------------------------------------------------------

    @staticmethod
    def json_reply(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
        async def reply(request: web.Request) -> web.StreamResponse:
            return web.Response(
                body=orjson.dumps(body), status=status, headers=headers, content_type="application/json"
            )

        return reply

    @staticmethod
    def raw_reply(raw: bytes, status: int = 200, content_type: str = "text/html") -> Reply:
        async def reply(request: web.Request) -> web.StreamResponse:
            return web.Response(body=raw, status=status, content_type=content_type)

        return reply

    @staticmethod
    def empty_reply(status: int = 204) -> Reply:
        async def reply(request: web.Request) -> web.StreamResponse:
            return web.Response(status=status)

        return reply

    @staticmethod
    def drop_connection() -> Reply:
        """Return a reply that receives the request and aborts the connection."""

        async def reply(request: web.Request) -> web.StreamResponse:
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        return reply

    def never_reply(self) -> Reply:
        """Return a reply that receives the request and sends nothing until `released` is set."""

        async def reply(request: web.Request) -> web.StreamResponse:
            await self.released.wait()
            return web.Response()

        return reply

    @staticmethod
    def truncated_reply(raw: bytes) -> Reply:
        """Return a reply that announces more bytes than it sends."""

        async def reply(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": str(len(raw) * 2)})
            await response.prepare(request)
            await response.write(raw)
            assert request.transport is not None
            request.transport.close()
            return response

        return reply

    def endless_reply(self, interval_s: float) -> Reply:
        """Return a reply that sends a space every `interval_s`: each read succeeds, the response never ends."""

        async def reply(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse(headers={"Content-Length": "100000"})
            await response.prepare(request)
            while not self.released.is_set():
                try:
                    await response.write(b" ")
                except ConnectionError:
                    break
                await asyncio.sleep(interval_s)
            return response

        return reply

    @staticmethod
    def redirect_reply(to: str) -> Reply:
        async def reply(request: web.Request) -> web.StreamResponse:
            return web.Response(status=302, headers={"Location": to})

        return reply


@asynccontextmanager
async def serve_scripted() -> AsyncIterator[ScriptedServer]:
    """Run a scripted server on a free loopback port."""
    server = ScriptedServer()
    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{tail:.*}", server.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        server.released.set()
        await runner.cleanup()


def order_json(client_order_id: str = "cat-1", **changes: object) -> dict[str, object]:
    """Return an order in the trading API's format: numbers as text, times to the nanosecond, mixed zones."""
    return {
        "id": "904837e3-3b76-47ec-b432-046db621571b",
        "client_order_id": client_order_id,
        "created_at": "2026-11-20T10:04:19.123456789-05:00",
        "updated_at": "2026-11-20T15:04:19.223456789Z",
        "submitted_at": "2026-11-20T15:04:19.123456789Z",
        "filled_at": None,
        "expired_at": None,
        "canceled_at": None,
        "failed_at": None,
        "replaced_at": None,
        "replaced_by": None,
        "replaces": None,
        "asset_id": "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415",
        "symbol": "AAPL",
        "asset_class": "us_equity",
        "notional": None,
        "qty": "10",
        "filled_qty": "0",
        "filled_avg_price": None,
        "order_class": "simple",
        "order_type": "limit",
        "type": "limit",
        "side": "buy",
        "time_in_force": "day",
        "limit_price": "100.1",
        "stop_price": None,
        "status": "pending_new",
        "extended_hours": False,
        "legs": None,
        "trail_percent": None,
        "trail_price": None,
        "hwm": None,
        **changes,
    }
