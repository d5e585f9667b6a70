"""Market data websockets of the broker over a market: handshake, subscriptions, and data as it happens."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import msgpack
import orjson
from aiohttp import WSMsgType, web

from catalyst.clock import Clock, wait
from catalyst.simulator.data_api.json_format import Json
from catalyst.simulator.data_api.params import DELAY
from catalyst.simulator.data_api.routes import ENTITLEMENTS, NEWS_STREAM
from catalyst.simulator.data_stream import subscription as feed
from catalyst.simulator.data_stream import test_stream as practice
from catalyst.simulator.market.announcements import Announcements
from catalyst.simulator.market.interface import Market

AUTH_TIMEOUT_S: Final = 10.0
MAX_QUEUED_BYTES: Final = 16 << 20  # unsent, per client; a second of the whole market is one or two million
MAX_FRAME_BYTES: Final = 200_000  # clients refuse large frames: alpaca-py closes at 1 MiB
CLOSE_GRACE_S: Final = 5.0  # wall-clock seconds for a slow client to read the error before the abort
ERRORS: Final = {
    400: "invalid syntax",
    401: "not authenticated",
    402: "auth failed",
    403: "already authenticated",
    404: "auth timeout",
    405: "symbol limit exceeded",
    406: "connection limit exceeded",
    407: "slow client",
    409: "insufficient subscription",
    410: "invalid subscribe action",
}
# sent with the trades; a subscription request for them changes nothing
AUTOMATIC_CHANNELS: Final = ("corrections", "cancelErrors")
TEST_SOURCE: Final = "test"
UNAVAILABLE_SOURCES: Final = frozenset({"boats", "overnight"})  # sources that no subscription here includes


@dataclass(eq=False, slots=True)
class _Connection:
    """One client connection: its socket, message format, subscription and progress."""

    socket: web.WebSocketResponse
    source: str
    uses_msgpack: bool
    subscription: feed.Subscription = field(default_factory=feed.Subscription)
    sent_until: datetime | None = None  # data up to here was sent; None before the first subscription
    announcements_sent: int = 0  # sent, or published before the first subscription
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    transport: asyncio.Transport | None = None

    async def send(self, outgoing: list[Json]) -> int:
        """Send the messages in order; return the number of frames."""
        frames = self._frames_of(outgoing)
        for frame in frames:
            if self.uses_msgpack:
                await self.socket.send_bytes(frame)
            else:
                await self.socket.send_str(frame.decode())
        return len(frames)

    def _frames_of(self, outgoing: list[Json]) -> list[bytes]:
        """Return the messages as frames of at most `MAX_FRAME_BYTES`; a single larger message is one frame."""
        if self.uses_msgpack:
            frame: bytes = msgpack.packb(outgoing, datetime=True)
        else:
            frame = orjson.dumps(outgoing, option=orjson.OPT_UTC_Z)
        if len(frame) <= MAX_FRAME_BYTES or len(outgoing) == 1:
            return [frame]
        parts = min(len(frame) // MAX_FRAME_BYTES + 1, len(outgoing))
        size = -(-len(outgoing) // parts)
        return [
            part
            for begin in range(0, len(outgoing), size)
            for part in self._frames_of(outgoing[begin : begin + size])
        ]

    @property
    def delay(self) -> timedelta:
        """Return the delay of all data of this source."""
        return DELAY if self.source == "delayed_sip" else timedelta(0)

    @property
    def unsent_bytes(self) -> int:
        """Return the written bytes that are still in the send buffer."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    async def send_error(self, code: int) -> None:
        await self.send([{"T": "error", "code": code, "msg": ERRORS[code]}])


@dataclass(slots=True)
class DataStreams:
    """All market data connections. The limits and `sending_stopped` may be changed while it runs.

    `connection_limit` is per endpoint. `symbol_limit` counts trades and quotes; `*` exceeds every limit.
    `auth_timeout_s` is in wall-clock seconds, not in market time: a handshake is as fast as the network at any
    speed of the market clock. A client with more than `max_queued_bytes` unsent bytes receives error 407 and is
    disconnected.
    """

    market: Market
    clock: Clock
    keys: Mapping[str, str]
    connection_limit: int = 1
    symbol_limit: int | None = None
    announcements: Announcements = field(default_factory=Announcements)
    auth_timeout_s: float = AUTH_TIMEOUT_S
    max_queued_bytes: int = MAX_QUEUED_BYTES
    sending_stopped: bool = False
    frames_sent: int = 0
    connections: list[_Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.announcements.on_change(self._wake_connections)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """Serve one connection, from handshake to close."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        source = request.path.rsplit("/", 1)[1]
        connection = _Connection(socket, source, request.headers.get("Content-Type") == "application/msgpack")
        if isinstance(request.transport, asyncio.Transport):
            connection.transport = request.transport
            # send() must not wait for the client: unsent bytes are counted and limited in _send_updates
            request.transport.set_write_buffer_limits(high=1 << 62)
        await connection.send([{"T": "success", "msg": "connected"}])
        if not await self._authenticate(connection, request):
            await socket.close()
            return socket
        self.connections.append(connection)
        sender = asyncio.ensure_future(self._send_updates(connection))
        try:
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._apply_message(connection, message.data)
        finally:
            self.connections.remove(connection)
            sender.cancel()
            await asyncio.gather(sender, return_exceptions=True)
        return socket

    async def disconnect(self) -> None:
        """Close every connection."""
        for connection in list(self.connections):
            await connection.socket.close()

    async def _authenticate(self, connection: _Connection, request: web.Request) -> bool:
        """Return true once the client has sent a key that is valid for this source."""
        credentials = (request.headers.get("APCA-API-KEY-ID"), request.headers.get("APCA-API-SECRET-KEY"))
        while credentials[0] is None:
            try:
                message = await connection.socket.receive(timeout=self.auth_timeout_s)
            except TimeoutError:
                await connection.send_error(404)
                return False
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return False
            client_message = _parse_message(connection, message.data)
            if client_message is None or client_message.get("action") != "auth":
                await connection.send_error(400 if client_message is None else 401)
                continue
            credentials = (str(client_message.get("key")), str(client_message.get("secret")))
        error_code = self._auth_error_code(connection, credentials, request)
        if error_code is not None:
            await connection.send_error(error_code)
            return False
        await connection.send([{"T": "success", "msg": "authenticated"}])
        return True

    def _auth_error_code(
        self, connection: _Connection, credentials: tuple[str | None, str | None], request: web.Request
    ) -> int | None:
        if credentials[0] is None or self.keys.get(credentials[0]) != credentials[1]:
            return 402
        not_permitted = connection.source == "sip" and not request.app[ENTITLEMENTS].recent_sip
        if not_permitted or connection.source in UNAVAILABLE_SOURCES:
            return 409
        open_here = sum(each.source == connection.source for each in self.connections)
        return 406 if open_here >= self.connection_limit else None

    async def _apply_message(self, connection: _Connection, data: str | bytes) -> None:
        client_message = _parse_message(connection, data)
        if client_message is None:
            await connection.send_error(400)
            return
        action = client_message.pop("action", None)
        if action == "auth":
            await connection.send_error(403)
        elif action not in ("subscribe", "unsubscribe"):
            await connection.send_error(400)
        else:
            await self._change_subscription(connection, client_message, add=action == "subscribe")

    async def _change_subscription(self, connection: _Connection, requested: Json, *, add: bool) -> None:
        """Change the subscription and answer with all its channels; an error changes nothing."""
        always_listed = feed.NEWS_CHANNELS if connection.source == "news" else feed.STOCK_CHANNELS
        listed_if_subscribed = () if connection.source == "news" else (feed.EMPTY_CHANNEL,)
        channels = {
            channel: set(connection.subscription.channels.get(channel, ())) for channel in always_listed
        }
        channels |= {
            channel: subscribed
            for channel in listed_if_subscribed
            if (subscribed := connection.subscription.channels.get(channel))
        }
        for channel, symbols in requested.items():
            if channel in AUTOMATIC_CHANNELS and connection.source != "news":
                continue
            if channel not in (*always_listed, *listed_if_subscribed) or not isinstance(symbols, list):
                await connection.send_error(410)
                return
            requested_symbols = {str(symbol) for symbol in symbols}
            current = channels.get(channel, set())
            channels[channel] = current | requested_symbols if add else current - requested_symbols
        limited_symbols = [symbol for channel in ("trades", "quotes") for symbol in channels.get(channel, ())]
        if self.symbol_limit is not None and (
            len(limited_symbols) > self.symbol_limit or feed.ALL_SYMBOLS in limited_symbols
        ):
            await connection.send_error(405)
            return
        connection.subscription = feed.Subscription(channels)
        outgoing: Json = {
            "T": "subscription",
            **{name: sorted(symbols) for name, symbols in channels.items()},
        }
        if connection.source != "news":
            outgoing |= {"corrections": outgoing["trades"], "cancelErrors": outgoing["trades"]}
        await connection.send([outgoing])
        if connection.sent_until is None:
            connection.sent_until = self.clock.now() - connection.delay
            connection.announcements_sent = sum(
                each.at <= connection.sent_until for each in self.announcements.published
            )
        connection.changed.set()

    def _wake_connections(self) -> None:
        for connection in self.connections:
            connection.changed.set()

    async def _disconnect_slow_client(self, connection: _Connection) -> None:
        """Send error 407 after all unsent data, then close the connection."""
        await connection.send_error(407)
        assert connection.transport is not None
        connection.transport.close()
        asyncio.get_running_loop().call_later(CLOSE_GRACE_S, connection.transport.abort)

    async def _send_updates(self, connection: _Connection) -> None:
        """Send everything that happens after the first subscription, until the connection ends."""
        delay = connection.delay
        while True:
            connection.changed.clear()
            due = None if connection.sent_until is None else self._next_due(connection, connection.sent_until)
            if due is None:
                await connection.changed.wait()
                continue
            await wait(self.clock, connection.changed, due + delay - self.clock.now())
            until = self.clock.now() - delay
            with self.clock.hold():
                outgoing = self._collect_unsent(connection, until)
                if not outgoing or self.sending_stopped:
                    continue
                if connection.unsent_bytes > self.max_queued_bytes:
                    await self._disconnect_slow_client(connection)
                    return
                self.frames_sent += await connection.send(outgoing)

    def _next_due(self, connection: _Connection, since: datetime) -> datetime | None:
        """Return the next instant with a possible message, in the (delayed) time of the connection's feed."""
        if connection.source == TEST_SOURCE:
            return practice.next_due(connection.subscription, since)
        unsent = self.announcements.published[connection.announcements_sent :]
        due = feed.next_due(self.market, connection.subscription, since, self.announcements.published)
        instants = [*(each.at for each in unsent[:1]), *([] if due is None else [due])]
        return min(instants, default=None)

    def _collect_unsent(self, connection: _Connection, until: datetime) -> list[Json]:
        """Return the messages up to `until` that were not sent yet, and mark them as sent."""
        outgoing: list[Json] = []
        if connection.source == TEST_SOURCE:
            since, connection.sent_until = connection.sent_until or until, until
            return practice.messages(connection.subscription, since, until)
        if connection.sent_until is not None and until > connection.sent_until:
            outgoing = feed.messages(
                self.market,
                connection.subscription,
                connection.sent_until,
                until,
                self.announcements.published,
            )
            connection.sent_until = until
        unsent = self.announcements.published[connection.announcements_sent :]
        fresh = [each for each in unsent if each.at <= until]
        connection.announcements_sent += len(fresh)
        return outgoing + feed.announcement_messages(self.market, connection.subscription, fresh)


def add_data_streams(
    app: web.Application,
    market: Market,
    clock: Clock,
    keys: Mapping[str, str],
    announcements: Announcements | None = None,
) -> DataStreams:
    """Serve the market data websockets of `market`, as of `clock`, from `app`, to holders of `keys`.

    Call `add_data_routes` first: it stores the entitlements in `app`.
    """
    streams = DataStreams(market, clock, keys, announcements=announcements or Announcements())
    for path in (
        "v2/iex",
        "v2/sip",
        "v2/delayed_sip",
        f"v2/{TEST_SOURCE}",
        "v1beta1/boats",
        "v1beta1/overnight",
    ):
        app.router.add_get(f"/{path}", streams.serve)
    app[NEWS_STREAM] = streams.serve
    return streams


def _parse_message(connection: _Connection, data: str | bytes) -> Json | None:
    """Return a client's message; None when it is not an object."""
    try:
        client_message = (
            msgpack.unpackb(data)
            if connection.uses_msgpack and isinstance(data, bytes)
            else orjson.loads(data)
        )
    except (ValueError, msgpack.UnpackException):
        return None
    return client_message if isinstance(client_message, dict) else None
