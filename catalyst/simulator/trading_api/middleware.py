"""Request middleware: keys, rate limit, request log and fault rules, before each route."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from sys import intern
from typing import Final

import orjson
from aiohttp import web
from aiohttp.http_exceptions import PayloadEncodingError

from catalyst.clock import Clock, real_seconds
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.faults.responses import (
    abort_connection,
    alter_response,
    error_response,
    json_reply,
    proxy_page,
    rate_limit_response,
)
from catalyst.simulator.faults.rules import Fault, FaultKind
from catalyst.simulator.rules.wire_format import BAD_REQUEST, NOT_FOUND, ApiError, JsonObject, seconds
from catalyst.simulator.trading_api.last_bodies import LastBodies

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STREAM_PATHS: Final = frozenset(
    {
        *("/stream", "/v2/iex", "/v2/sip", "/v2/delayed_sip", "/v2/test"),
        *("/v1beta1/news", "/v1beta1/boats", "/v1beta1/overnight"),
    }
)
DATA_PREFIXES: Final = ("/v2/stocks", "/v1beta1/", "/v1/corporate-actions")
MINUTE_S: Final = 60.0
MAX_LOGGED_REQUESTS: Final = 200_000
MAX_LOGGED_TEXT: Final = 500  # characters of a path or query; a list of symbols has thousands
FAULTS_BEFORE: Final = (
    FaultKind.HANG_BEFORE,
    FaultKind.DROP_BEFORE,
    FaultKind.STATUS_BEFORE,
    FaultKind.HTML_BEFORE,
    FaultKind.SLOW_BEFORE,
    FaultKind.RATE_LIMIT,
    FaultKind.UNAUTHORIZED,
    FaultKind.STALE,
    FaultKind.EMPTY,
)
FAULTS_BEFORE_ANY_METHOD: Final = tuple(
    kind for kind in FAULTS_BEFORE if kind not in {FaultKind.STALE, FaultKind.EMPTY}
)
FAULTS_AFTER: Final = (
    FaultKind.HANG,
    FaultKind.DROP,
    FaultKind.STATUS,
    FaultKind.HTML,
    FaultKind.GARBLE,
    FaultKind.SLOW,
    FaultKind.REMOVE_FIELDS,
    FaultKind.ADD_FIELDS,
    FaultKind.LEG_OMIT,
)
FAULTS_AFTER_ANY_BODY: Final = (*FAULTS_AFTER[: FAULTS_AFTER.index(FaultKind.GARBLE)], FaultKind.SLOW)


@dataclass(slots=True)
class RequestRecord:
    """One request in the request log; `status` is None while there is no response, and stays None if there is
    none."""

    sequence: int
    at: datetime
    method: str
    path: str
    query: str
    symbol: str | None
    client_order_id: str | None
    user_agent: str | None
    status: int | None = None
    fault: str | None = None
    message: str | None = None

    def view(self) -> JsonObject:
        return {
            "sequence": self.sequence,
            "at": self.at.isoformat(),
            "method": self.method,
            "path": self.path,
            "query": self.query,
            "symbol": self.symbol,
            "client_order_id": self.client_order_id,
            "user_agent": self.user_agent,
            "status": self.status,
            "fault": self.fault,
            "message": self.message,
        }


class TokenBucket:
    """A token bucket in market time: `limit` requests a minute, in one burst if needed.

    A real minute counts too when the market clock stands or is slower: the bucket is full after it.
    """

    def __init__(self, now: datetime, real_time: Callable[[], float] = real_seconds) -> None:
        self._used = 0.0
        self._at = now
        self._real_time = real_time
        self._minute_began = (now, real_time())  # the real minute that is counted

    def acquire(self, now: datetime, limit: int) -> bool:
        """Take a token; false when there is none."""
        self._count_real_minute(now)
        self._used = self._used_at(now, limit)
        self._at = max(self._at, now)
        if self._used + 1 > limit:
            return False
        self._used += 1
        return True

    def headers(self, now: datetime, limit: int) -> dict[str, str]:
        """Return the three headers of every trading response; reset is when the bucket will be full."""
        spent = self._used_at(now, limit)
        return {
            "X-Ratelimit-Limit": str(limit),
            "X-Ratelimit-Remaining": str(max(int(limit - spent), 0)),
            "X-Ratelimit-Reset": str(int(now.timestamp() + spent * 60 / limit) + 1),
        }

    def _count_real_minute(self, now: datetime) -> None:
        market, real = self._minute_began
        if self._real_time() - real < MINUTE_S:
            return
        if (now - market).total_seconds() < MINUTE_S:
            self._used, self._at = 0.0, max(self._at, now)
        self._minute_began = (now, self._real_time())

    def _used_at(self, now: datetime, limit: int) -> float:
        return max(self._used - max((now - self._at).total_seconds(), 0.0) * limit / 60, 0.0)


class RequestMiddleware:
    """The middleware of the server."""

    def __init__(
        self,
        exchange: Exchange,
        clock: Clock,
        keys: dict[str, str],
        publish_changes: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._keys = keys
        self._publish_changes = publish_changes
        self._bucket, self._data_bucket = TokenBucket(clock.now()), TokenBucket(clock.now())
        self._last_bodies = LastBodies()
        self._sequence = 0
        self.request_log: deque[RequestRecord] = deque(maxlen=MAX_LOGGED_REQUESTS)
        self.server_closed = asyncio.Event()

    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Respond to one request."""
        if is_handshake(request):
            return await call_handler(request, handler)
        unreadable = await _read_body(request)  # this takes time; the exchange advances after it
        facts = self._request_facts(request, b"" if unreadable else await request.read())
        self._exchange.venue.advance(self._clock.now())
        if request.path.startswith("/admin") or request.path == "/":
            answer = unreadable or await call_handler(request, handler)
            self._publish_changes()
            return answer
        entry = self._log_request(request, facts)
        response = await self._respond_with_faults(request, handler, entry, facts, unreadable)
        entry.status = response.status
        if is_trading(request.path) or is_data(request.path):
            self._add_rate_headers(response, data=is_data(request.path))
        return response

    async def _respond_with_faults(
        self,
        request: web.Request,
        handler: Handler,
        entry: RequestRecord,
        facts: dict[str, str | None],
        unreadable: web.Response | None,
    ) -> web.StreamResponse:
        refused = self._check_keys(request) or self._check_rate(request) or unreadable
        if refused is not None:
            return refused
        before = self._exchange.state.faults.fire_matching(*self._faults_before(request), **facts)
        if before is not None:
            entry.fault = before.kind.value
            spoiled = await self._apply_fault_before(before, request)
            if spoiled is not None:
                return spoiled
        response = await call_handler(request, handler)
        self._publish_changes()
        entry.status = response.status
        entry.message = _cut(_error_message(response))
        if request.method == "GET" and isinstance(response, web.Response) and response.status == 200:
            body = response.body if isinstance(response.body, bytes) else b""
            self._last_bodies.remember(request.path_qs, body)
        after = self._exchange.state.faults.fire_matching(*faults_after(response), **facts)
        if after is None:
            return response
        entry.fault = after.kind.value
        return await self._apply_fault_after(after, request, response)

    def _faults_before(self, request: web.Request) -> tuple[FaultKind, ...]:
        """Return the faults that may apply before processing; only a GET can be stale or empty."""
        if request.method != "GET":
            return FAULTS_BEFORE_ANY_METHOD
        return (
            FAULTS_BEFORE
            if request.path_qs in self._last_bodies
            else (*FAULTS_BEFORE_ANY_METHOD, FaultKind.EMPTY)
        )

    # ------------------------------------------------------------------ keys and rate limit

    def _check_keys(self, request: web.Request) -> web.Response | None:
        key = request.headers.get("APCA-API-KEY-ID")
        secret = request.headers.get("APCA-API-SECRET-KEY")
        data = is_data(request.path)
        if key is None and secret is None and self._exchange.state.settings.html_without_keys:
            return proxy_page(401, "401 Authorization Required")
        if key is None or self._keys.get(key) != secret:
            message = "forbidden." if data else "unauthorized."
            return json_reply(403 if data else 401, {"message": message})
        return None

    def _check_rate(self, request: web.Request) -> web.Response | None:
        data = is_data(request.path)
        limit, bucket = self._rate(data=data)
        if not limit or not (data or is_trading(request.path)) or bucket.acquire(self._clock.now(), limit):
            return None
        return rate_limit_response(data=data)

    def _rate(self, *, data: bool) -> tuple[int, TokenBucket]:
        settings = self._exchange.state.settings
        return (settings.data_rate_limit, self._data_bucket) if data else (settings.rate_limit, self._bucket)

    def _add_rate_headers(self, response: web.StreamResponse, *, data: bool) -> None:
        if response.status == 429 and not self._exchange.state.settings.rate_headers_on_429:
            return
        limit, bucket = self._rate(data=data)
        response.headers.update(bucket.headers(self._clock.now(), limit or 200))

    # ------------------------------------------------------------------ faults

    async def _apply_fault_before(self, fault: Fault, request: web.Request) -> web.Response | None:
        """Return the response of a request that a fault stops; None when it is processed."""
        match fault.kind:
            case FaultKind.HANG_BEFORE:
                await self.server_closed.wait()
                return proxy_page(503, "503 Service Unavailable")
            case FaultKind.DROP_BEFORE:
                return abort_connection(request)
            case FaultKind.STATUS_BEFORE:
                return error_response(fault)
            case FaultKind.HTML_BEFORE:
                return proxy_page(fault.status, f"{fault.status} Bad Gateway")
            case FaultKind.RATE_LIMIT:
                return rate_limit_response(data=is_data(request.path))
            case FaultKind.UNAUTHORIZED:
                return json_reply(401, {"message": "unauthorized."})
            case FaultKind.STALE:
                last = self._last_bodies.get(request.path_qs)
                return None if last is None else web.Response(body=last, content_type="application/json")
            case FaultKind.EMPTY:
                return json_reply(200, [])
            case _:
                await self._clock.sleep(seconds(fault.seconds))
                self._exchange.venue.advance(self._clock.now())
                return None

    async def _apply_fault_after(
        self, fault: Fault, request: web.Request, response: web.StreamResponse
    ) -> web.StreamResponse:
        """Return the response of a processed request as a fault changes it."""
        match fault.kind:
            case FaultKind.HANG:
                await self.server_closed.wait()
                return proxy_page(503, "503 Service Unavailable")
            case FaultKind.DROP:
                return abort_connection(request)
            case FaultKind.STATUS:
                return error_response(fault)
            case FaultKind.HTML:
                return proxy_page(fault.status, f"{fault.status} Bad Gateway")
            case FaultKind.SLOW:
                await self._clock.sleep(seconds(fault.seconds))
                return response
            case _:
                return alter_response(fault, response)

    # ------------------------------------------------------------------ request log

    def _request_facts(self, request: web.Request, content: bytes) -> dict[str, str | None]:
        """Return what fault rules and the request log use of a request."""
        symbol: str | None = request.query.get("symbols")
        client_id: str | None = request.query.get("client_order_id")
        side: str | None = None
        if request.method in {"POST", "PATCH"}:
            try:
                body = orjson.loads(content)
            except ValueError:
                body = None
            if isinstance(body, dict):
                symbol = _text_of(body, "symbol") or symbol
                client_id = _text_of(body, "client_order_id") or client_id
                side = _text_of(body, "side")
        parts = request.path.split("/")
        if len(parts) == 4 and parts[2] == "positions":
            symbol = parts[3]
        elif len(parts) == 4 and parts[2] == "orders":
            order = self._exchange.state.order_store.get(parts[3])
            if order is not None:
                symbol, client_id, side = order.symbol, client_id or order.client_order_id, order.side.value
        return {
            "method": request.method,
            "route": request.path,
            "symbol": symbol,
            "client_order_id": client_id,
            "side": side,
        }

    def _log_request(self, request: web.Request, facts: dict[str, str | None]) -> RequestRecord:
        self._sequence += 1
        entry = RequestRecord(
            sequence=self._sequence,
            at=self._clock.now(),
            method=intern(request.method),
            path=request.path[:MAX_LOGGED_TEXT],
            query=request.query_string[:MAX_LOGGED_TEXT],
            symbol=_shared(facts["symbol"]),
            client_order_id=_cut(facts["client_order_id"]),
            user_agent=_shared(_printable(request.headers.get("User-Agent"))),
        )
        self.request_log.append(entry)
        return entry


def is_handshake(request: web.Request) -> bool:
    """Return whether a request opens a websocket: its path is that of a stream and it asks for the upgrade."""
    wants_upgrade = request.headers.get("Upgrade", "").lower() == "websocket"
    return wants_upgrade and request.path.rstrip("/") in STREAM_PATHS


def is_trading(path: str) -> bool:
    """Return whether the trading API responds at this path, even with "endpoint not found"."""
    return path.startswith(("/v2/", "/v3/", "/v1/locates", "/v2beta1/")) and not is_data(path)


def is_data(path: str) -> bool:
    """Return whether the data API responds at this path."""
    return path.startswith(DATA_PREFIXES)


def faults_after(response: web.StreamResponse) -> tuple[FaultKind, ...]:
    """Return the faults that may apply to the response: a damaged document, or missing legs."""
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or not body:
        return FAULTS_AFTER_ANY_BODY
    return (
        FAULTS_AFTER
        if b'"legs":[' in body
        else tuple(kind for kind in FAULTS_AFTER if kind is not FaultKind.LEG_OMIT)
    )


async def call_handler(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Return the route's response, the ApiError it raised, or "not found" for an unknown path."""
    try:
        return await handler(request)
    except ApiError as refusal:
        return json_reply(refusal.status, refusal.body)
    except web.HTTPNotFound:
        return json_reply(404, {"code": NOT_FOUND, "message": "endpoint not found"})
    except web.HTTPMethodNotAllowed:
        return json_reply(405, {"code": 40510000, "message": "method not allowed"})
    except web.HTTPClientError as refusal:
        return json_reply(
            refusal.status, {"code": refusal.status * 100_000, "message": refusal.reason.lower()}
        )


async def _read_body(request: web.Request) -> web.Response | None:
    """Read the whole body; return the refusal of one that is too large or not encoded as its headers say."""
    try:
        await request.read()
    except web.HTTPRequestEntityTooLarge:
        return json_reply(413, {"code": 41310000, "message": "request body is too large"})
    except (PayloadEncodingError, web.RequestPayloadError):
        return json_reply(400, {"code": BAD_REQUEST, "message": "request body format is invalid"})
    return None


def _text_of(body: JsonObject, name: str) -> str | None:
    value = body.get(name)
    return value if isinstance(value, str) else None


def _shared(text: str | None) -> str | None:
    """Return one object for equal texts: the log of a busy day has few of them in many entries."""
    return None if text is None else intern(text[:MAX_LOGGED_TEXT])


def _cut(text: str | None) -> str | None:
    return None if text is None else text[:MAX_LOGGED_TEXT]


def _printable(text: str | None) -> str | None:
    """Return a header's text without bytes that are no UTF-8: the log is JSON."""
    return None if text is None else text.encode(errors="surrogateescape").decode(errors="replace")


def _error_message(response: web.StreamResponse) -> str | None:
    if (
        response.status < 400
        or not isinstance(response, web.Response)
        or not isinstance(response.body, bytes)
    ):
        return None
    try:
        body = orjson.loads(response.body)
    except ValueError:
        return None
    return str(body.get("message")) if isinstance(body, dict) else None
