"""What stands between a client and the routes: keys, the rate limit, the ledger of requests, the fault menu."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import orjson
from aiohttp import web

from catalyst.clock import Clock
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.faults.responses import altered, cut, failed, json_reply, page, rate_limited
from catalyst.simulator.faults.rules import Fault, FaultKind
from catalyst.simulator.rules.wire_format import NOT_FOUND, Refusal, seconds, type_json

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

DATA: Final = ("/v2/stocks", "/v1beta1/", "/v1/corporate-actions")
LONGEST_LEDGER: Final = 200_000
BEFORE: Final = (
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
BEFORE_ANY: Final = tuple(kind for kind in BEFORE if kind not in {FaultKind.STALE, FaultKind.EMPTY})
AFTER: Final = (
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
AFTER_ANY: Final = (*AFTER[: AFTER.index(FaultKind.GARBLE)], FaultKind.SLOW)


@dataclass(slots=True)
class Entry:
    """One request in the ledger; `status` is None while it is unanswered, and for ever if it never is."""

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

    def view(self) -> type_json:
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


class Bucket:
    """A token bucket in market time: `limit` requests a minute, all of them at once if need be."""

    def __init__(self, now: datetime) -> None:
        self._spent = 0.0
        self._at = now

    def take(self, now: datetime, limit: int) -> bool:
        """Take a token; false when there is none."""
        self._spent = self._outstanding(now, limit)
        self._at = max(self._at, now)
        if self._spent + 1 > limit:
            return False
        self._spent += 1
        return True

    def headers(self, now: datetime, limit: int) -> dict[str, str]:
        """The three headers of every trading answer; reset is when the bucket will be full again."""
        spent = self._outstanding(now, limit)
        return {
            "X-Ratelimit-Limit": str(limit),
            "X-Ratelimit-Remaining": str(max(int(limit - spent), 0)),
            "X-Ratelimit-Reset": str(int(now.timestamp() + spent * 60 / limit) + 1),
        }

    def _outstanding(self, now: datetime, limit: int) -> float:
        return max(self._spent - max((now - self._at).total_seconds(), 0.0) * limit / 60, 0.0)


class Transport:
    """The middleware of the server."""

    def __init__(
        self,
        exchange: Exchange,
        clock: Clock,
        keys: dict[str, str],
        settle: Callable[[], None],
    ) -> None:
        self._exchange = exchange
        self._clock = clock
        self._keys = keys
        self._settle = settle
        self._bucket, self._data_bucket = Bucket(clock.now()), Bucket(clock.now())
        self._last: dict[str, bytes] = {}
        self._sequence = 0
        self.ledger: deque[Entry] = deque(maxlen=LONGEST_LEDGER)
        self.ended = asyncio.Event()

    async def serve(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answer one request."""
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await handler(request)
        facts = await self._facts(request)  # the body takes its time to come; the present is after it
        self._exchange.advance(self._clock.now())
        if request.path.startswith("/admin") or request.path == "/":
            answer = await answered(request, handler)
            self._settle()
            return answer
        entry = self._enter(request, facts)
        response = await self._through(request, handler, entry, facts)
        entry.status = response.status
        if is_trading(request.path) or is_data(request.path):
            self._add_rate_headers(response, data=is_data(request.path))
        return response

    async def _through(
        self, request: web.Request, handler: Handler, entry: Entry, facts: dict[str, str | None]
    ) -> web.StreamResponse:
        refused = self._check_keys(request) or self._check_rate(request)
        if refused is not None:
            return refused
        before = self._exchange.faults.take(*self._possible(request), **facts)
        if before is not None:
            entry.fault = before.kind.value
            spoiled = await self._before(before, request)
            if spoiled is not None:
                return spoiled
        response = await answered(request, handler)
        self._settle()
        entry.status = response.status
        entry.message = _message_of(response)
        if request.method == "GET" and isinstance(response, web.Response) and response.status == 200:
            self._last[request.path_qs] = response.body if isinstance(response.body, bytes) else b""
        after = self._exchange.faults.take(*spoilable(response), **facts)
        if after is None:
            return response
        entry.fault = after.kind.value
        return await self._after(after, request, response)

    def _possible(self, request: web.Request) -> tuple[FaultKind, ...]:
        """What can befall the request: only a question has an old answer, or an empty one."""
        if request.method != "GET":
            return BEFORE_ANY
        return BEFORE if request.path_qs in self._last else (*BEFORE_ANY, FaultKind.EMPTY)

    # ------------------------------------------------------------------ who, and how often

    def _check_keys(self, request: web.Request) -> web.Response | None:
        key = request.headers.get("APCA-API-KEY-ID")
        secret = request.headers.get("APCA-API-SECRET-KEY")
        data = is_data(request.path)
        if key is None and secret is None and self._exchange.switches.html_when_headless:
            return page(401, "401 Authorization Required")
        if key is None or self._keys.get(key) != secret:
            message = "forbidden." if data else "unauthorized."
            return json_reply(403 if data else 401, {"message": message})
        return None

    def _check_rate(self, request: web.Request) -> web.Response | None:
        data = is_data(request.path)
        limit, bucket = self._rate(data=data)
        if not limit or not (data or is_trading(request.path)) or bucket.take(self._clock.now(), limit):
            return None
        return rate_limited(data=data)

    def _rate(self, *, data: bool) -> tuple[int, Bucket]:
        switches = self._exchange.switches
        return (switches.data_rate_limit, self._data_bucket) if data else (switches.rate_limit, self._bucket)

    def _add_rate_headers(self, response: web.StreamResponse, *, data: bool) -> None:
        if response.status == 429 and not self._exchange.switches.rate_headers_on_429:
            return
        limit, bucket = self._rate(data=data)
        response.headers.update(bucket.headers(self._clock.now(), limit or 200))

    # ------------------------------------------------------------------ what goes wrong

    async def _before(self, fault: Fault, request: web.Request) -> web.Response | None:
        """What the client gets instead of being heard; None when it is heard after all."""
        match fault.kind:
            case FaultKind.HANG_BEFORE:
                await self.ended.wait()
                return page(503, "503 Service Unavailable")
            case FaultKind.DROP_BEFORE:
                return cut(request)
            case FaultKind.STATUS_BEFORE:
                return failed(fault)
            case FaultKind.HTML_BEFORE:
                return page(fault.status, f"{fault.status} Bad Gateway")
            case FaultKind.RATE_LIMIT:
                return rate_limited(data=is_data(request.path))
            case FaultKind.UNAUTHORIZED:
                return json_reply(401, {"message": "unauthorized."})
            case FaultKind.STALE:
                last = self._last.get(request.path_qs)
                return None if last is None else web.Response(body=last, content_type="application/json")
            case FaultKind.EMPTY:
                return json_reply(200, [])
            case _:
                await self._clock.sleep(seconds(fault.seconds))
                self._exchange.advance(self._clock.now())
                return None

    async def _after(
        self, fault: Fault, request: web.Request, response: web.StreamResponse
    ) -> web.StreamResponse:
        """What the client gets although it was heard."""
        match fault.kind:
            case FaultKind.HANG:
                await self.ended.wait()
                return page(503, "503 Service Unavailable")
            case FaultKind.DROP:
                return cut(request)
            case FaultKind.STATUS:
                return failed(fault)
            case FaultKind.HTML:
                return page(fault.status, f"{fault.status} Bad Gateway")
            case FaultKind.SLOW:
                await self._clock.sleep(seconds(fault.seconds))
                return response
            case _:
                return altered(fault, response)

    # ------------------------------------------------------------------ the ledger

    async def _facts(self, request: web.Request) -> dict[str, str | None]:
        """What fault rules and the ledger know about a request."""
        symbol: str | None = request.query.get("symbols")
        client_id: str | None = request.query.get("client_order_id")
        side: str | None = None
        if request.method in {"POST", "PATCH"}:
            try:
                body = orjson.loads(await request.read())
            except ValueError:
                body = None
            if isinstance(body, dict):
                symbol = body.get("symbol", symbol)
                client_id = body.get("client_order_id", client_id)
                side = body.get("side")
        parts = request.path.split("/")
        if len(parts) == 4 and parts[2] == "positions":
            symbol = parts[3]
        elif len(parts) == 4 and parts[2] == "orders":
            order = self._exchange.book.get(parts[3])
            if order is not None:
                symbol, client_id, side = order.symbol, client_id or order.client_order_id, order.side.value
        return {
            "method": request.method,
            "route": request.path,
            "symbol": symbol,
            "client_order_id": client_id,
            "side": side,
        }

    def _enter(self, request: web.Request, facts: dict[str, str | None]) -> Entry:
        self._sequence += 1
        entry = Entry(
            sequence=self._sequence,
            at=self._clock.now(),
            method=request.method,
            path=request.path,
            query=request.query_string,
            symbol=facts["symbol"],
            client_order_id=facts["client_order_id"],
            user_agent=request.headers.get("User-Agent"),
        )
        self.ledger.append(entry)
        return entry


def is_trading(path: str) -> bool:
    """Whether the trading API answers there, if only with "endpoint not found"."""
    return path.startswith("/v2/") and not is_data(path)


def is_data(path: str) -> bool:
    """Whether the data API answers there."""
    return path.startswith(DATA)


def spoilable(response: web.StreamResponse) -> tuple[FaultKind, ...]:
    """What can befall the answer: a document may be damaged, and legs left out where there are some."""
    body = response.body if isinstance(response, web.Response) else None
    if not isinstance(body, bytes) or not body:
        return AFTER_ANY
    return AFTER if b'"legs":[' in body else tuple(kind for kind in AFTER if kind is not FaultKind.LEG_OMIT)


async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
    """The route's answer, or the refusal it raised, or "not found" for a path nobody has."""
    try:
        return await handler(request)
    except Refusal as refusal:
        return json_reply(refusal.status, refusal.body)
    except web.HTTPNotFound:
        return json_reply(404, {"code": NOT_FOUND, "message": "endpoint not found"})
    except web.HTTPMethodNotAllowed:
        return json_reply(405, {"code": 40510000, "message": "method not allowed"})


def _message_of(response: web.StreamResponse) -> str | None:
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
