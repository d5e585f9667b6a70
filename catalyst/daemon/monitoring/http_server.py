"""HTTP server of /health and /metrics, on the loopback address, in a thread of its own.

The daemon's event loop only takes a reading, which is memory alone, at most five times a second. Requests, answers and
connections that hang stay in the thread: few connections are open at once, none for long, and a new one takes the
place of the oldest. A daemon whose event loop does not answer is unhealthy, and this thread says so.
"""

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Final, Self

import orjson
from aiohttp import web
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from catalyst.clock import real_seconds
from catalyst.daemon.monitoring.health import health_document
from catalyst.daemon.monitoring.metrics import render_metrics
from catalyst.daemon.monitoring.reading import DaemonReading

ADDRESS: Final = "127.0.0.1"
# Real seconds, as all times of this module: it bounds real sockets and the real event loop.
READING_LIFE_S: Final = 0.2
LOOP_TIMEOUT_S: Final = 2.0  # a daemon that takes no reading for so long is unhealthy
MAX_CONNECTION_S: Final = 10.0
MAX_CONNECTIONS: Final = 16
STOP_TIMEOUT_S: Final = 2.0
# A page of another site, opened on this machine, must not read this (DNS rebinding).
LOCAL_NAMES: Final = frozenset({"127.0.0.1", "localhost"})


@dataclass(frozen=True, slots=True)
class _Taken:
    """A reading, how long the event loop took to begin it, and when it was taken."""

    reading: DaemonReading
    loop_lag_s: float
    at_s: float


class MonitoringServer:
    """Serves what `read`, called in the running event loop, returns. Use `async with`; port 0 picks a free one.

    Raises OSError when the port is not free.
    """

    def __init__(self, port: int, read: Callable[[], DaemonReading]) -> None:
        self.port = port
        self._read = read
        self._daemon_loop = asyncio.get_running_loop()
        self._started: Future[int] = Future()
        self._ended: Future[None] = Future()
        self._thread = threading.Thread(target=self._run, name="monitoring", daemon=True)
        # All of the following belong to the thread.
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop = asyncio.Event()
        self._open: deque[web.RequestHandler] = deque()
        self._taken: _Taken | None = None
        self._pending: asyncio.Future[_Taken] | None = None
        self._rendered: dict[str, tuple[_Taken, int, bytes, str]] = {}  # by path

    async def __aenter__(self) -> Self:
        self._thread.start()
        started, ended = asyncio.wrap_future(self._started), asyncio.wrap_future(self._ended)
        either: set[asyncio.Future[Any]] = {started, ended}
        try:
            await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            started.cancel()
            self._request_stop()
            raise
        if not started.done():
            started.cancel()
            raise RuntimeError("the thread of the monitoring ended before it served")
        self.port = started.result()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._request_stop()
        # A thread that does not end is left: it dies with the process.
        await asyncio.wait({asyncio.wrap_future(self._ended)}, timeout=STOP_TIMEOUT_S)

    def _request_stop(self) -> None:
        if self._loop is not None and not self._ended.done():
            self._loop.call_soon_threadsafe(self._stop.set)

    # -- in the thread

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except OSError as error:
            if self._started.done():
                raise
            self._started.set_exception(error)
        finally:
            self._ended.set_result(None)

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        http = web.Server(self._answer)

        def accept() -> asyncio.BaseProtocol:
            return self._limited(http(), loop)

        server = await loop.create_server(accept, ADDRESS, self.port)
        if not self._started.set_running_or_notify_cancel():  # the daemon stops already
            server.close()
            return
        self._loop = loop
        self._started.set_result(server.sockets[0].getsockname()[1])
        try:
            await self._stop.wait()
        finally:
            server.close()
            for connection in self._open:
                _abort(connection)

    def _limited(self, connection: web.RequestHandler, loop: asyncio.AbstractEventLoop) -> web.RequestHandler:
        """Return the new connection; abort it when it lasts too long, and the oldest one when there are too many."""
        self._open = deque(
            each for each in self._open if each.transport is None or not each.transport.is_closing()
        )
        while len(self._open) >= MAX_CONNECTIONS:
            _abort(self._open.popleft())
        self._open.append(connection)
        loop.call_later(MAX_CONNECTION_S, _abort, connection)
        return connection

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.host.rsplit(":", 1)[0] not in LOCAL_NAMES:
            return web.Response(status=403, text="only for programs of this machine\n")
        if request.path not in ("/health", "/metrics"):
            return web.Response(status=404, text="/health and /metrics are here\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        taken = await self._take_reading()
        response = _no_answer() if taken is None else self._render(request.path, taken)
        response.force_close()  # a scraper comes back in seconds; an idle connection would use up one of the few
        return response

    async def _take_reading(self) -> _Taken | None:
        """Return a reading of the last moment; None when the daemon's event loop does not answer.

        At most one request to the loop waits, however many ask.
        """
        if self._taken is not None and real_seconds() - self._taken.at_s < READING_LIFE_S:
            return self._taken
        if self._pending is None or self._pending.done():
            taking = self._take(real_seconds())
            try:
                taken = asyncio.run_coroutine_threadsafe(taking, self._daemon_loop)
            except RuntimeError:  # the loop is closed: the daemon ends
                taking.close()
                return None
            self._pending = asyncio.wrap_future(taken)
        pending = self._pending
        await asyncio.wait({pending}, timeout=LOOP_TIMEOUT_S)
        if not pending.done():
            return None
        self._taken = pending.result()
        return self._taken

    def _render(self, path: str, taken: _Taken) -> web.Response:
        """Return the page; it is rendered once for each reading, which costs milliseconds of the interpreter's lock."""
        rendered = self._rendered.get(path)
        if rendered is None or rendered[0] is not taken:
            rendered = self._rendered[path] = (taken, *_page(path, taken))
        _, status, body, content_type = rendered
        return web.Response(status=status, body=body, headers={"Content-Type": content_type})

    # -- in the daemon's event loop

    async def _take(self, asked_s: float) -> _Taken:
        now_s = real_seconds()
        return _Taken(self._read(), now_s - asked_s, now_s)


def _page(path: str, taken: _Taken) -> tuple[int, bytes, str]:
    """Return status, body and content type."""
    if path == "/metrics":
        return 200, render_metrics(taken.reading, taken.loop_lag_s), CONTENT_TYPE_PLAIN_0_0_4
    document = health_document(taken.reading)
    body = orjson.dumps(document, option=orjson.OPT_INDENT_2) + b"\n"
    return 200 if document["status"] == "healthy" else 503, body, "application/json"


def _no_answer() -> web.Response:
    problem = {"name": "event_loop", "reason": f"the daemon took no reading for {LOOP_TIMEOUT_S:g} s"}
    body = orjson.dumps({"status": "unhealthy", "problems": [problem]}, option=orjson.OPT_INDENT_2) + b"\n"
    return web.Response(status=503, body=body, content_type="application/json")


def _abort(connection: web.RequestHandler) -> None:
    """Close the connection now; what it has not read is dropped."""
    if connection.transport is not None:
        connection.transport.abort()
