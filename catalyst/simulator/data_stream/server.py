"""The broker's market data websockets over a market: handshake, subscriptions, and the tape as it happens."""

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
from catalyst.simulator.market.announcements import Notices
from catalyst.simulator.market.interface import Market

AUTH_SECONDS: Final = 10.0
QUEUE_BYTES: Final = (
    16 << 20
)  # what may wait for one client; a second of the whole market is one or two million
PARTING_SECONDS: Final = 5.0  # the machine's: how long a slow client may take to read why it is cut off
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
AUTOMATIC: Final = ("corrections", "cancelErrors")  # come with the trades; asking for them changes nothing
PRACTICE: Final = "test"
UNSUBSCRIBED: Final = frozenset({"boats", "overnight"})  # sources that no plan here includes


@dataclass(eq=False, slots=True)
class _Connection:
    """One client: how it is spoken to and what it listens to."""

    socket: web.WebSocketResponse
    source: str
    packed: bool
    heard: feed.Subscription = field(default_factory=feed.Subscription)
    since: datetime | None = None  # told up to here
    noticed: int = 0  # notices told, or said before this client asked for anything
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    transport: asyncio.Transport | None = None

    async def send(self, told: list[Json]) -> None:
        if self.packed:
            await self.socket.send_bytes(msgpack.packb(told, datetime=True))
        else:
            await self.socket.send_str(orjson.dumps(told, option=orjson.OPT_UTC_Z).decode())

    @property
    def delay(self) -> timedelta:
        """How old everything is that this source tells."""
        return DELAY if self.source == "delayed_sip" else timedelta(0)

    @property
    def waiting(self) -> int:
        """Bytes written that the client has not taken yet."""
        return 0 if self.transport is None else self.transport.get_write_buffer_size()

    async def refuse(self, code: int) -> None:
        await self.send([{"T": "error", "code": code, "msg": ERRORS[code]}])


@dataclass(slots=True)
class DataStreams:
    """Every market data connection. The limits and `mute` may be changed while it runs.

    `connection_limit` is per endpoint; `symbol_limit` counts trades and quotes, and everything (`*`) is above
    any; `auth_seconds` are the machine's, not the market's: a handshake is as fast as the network, at whatever
    speed the day is played. A client for whom more than `queue_bytes` wait is told 407 and cut off.
    """

    market: Market
    clock: Clock
    keys: Mapping[str, str]
    connection_limit: int = 1
    symbol_limit: int | None = None
    notices: Notices = field(default_factory=Notices)
    auth_seconds: float = AUTH_SECONDS
    queue_bytes: int = QUEUE_BYTES
    mute: bool = False
    frames_sent: int = 0
    connections: list[_Connection] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.notices.on_change(self._look_again)

    async def serve(self, request: web.Request) -> web.WebSocketResponse:
        """One connection, from handshake to close."""
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        source = request.path.rsplit("/", 1)[1]
        connection = _Connection(socket, source, request.headers.get("Content-Type") == "application/msgpack")
        if isinstance(request.transport, asyncio.Transport):
            connection.transport = request.transport
            # writing never waits for the client: what waits is counted here, and has its own end
            request.transport.set_write_buffer_limits(high=1 << 62)
        await connection.send([{"T": "success", "msg": "connected"}])
        if not await self._let_in(connection, request):
            await socket.close()
            return socket
        self.connections.append(connection)
        teller = asyncio.ensure_future(self._tell(connection))
        try:
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._hear(connection, message.data)
        finally:
            self.connections.remove(connection)
            teller.cancel()
            await asyncio.gather(teller, return_exceptions=True)
        return socket

    async def disconnect(self) -> None:
        """Close every connection."""
        for connection in list(self.connections):
            await connection.socket.close()

    async def _let_in(self, connection: _Connection, request: web.Request) -> bool:
        """True once the client has shown a key that may listen here."""
        given = (request.headers.get("APCA-API-KEY-ID"), request.headers.get("APCA-API-SECRET-KEY"))
        while given[0] is None:
            try:
                message = await connection.socket.receive(timeout=self.auth_seconds)
            except TimeoutError:
                await connection.refuse(404)
                return False
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return False
            said = _parsed(connection, message.data)
            if said is None or said.get("action") != "auth":
                await connection.refuse(400 if said is None else 401)
                continue
            given = (str(said.get("key")), str(said.get("secret")))
        refusal = self._refusal(connection, given, request)
        if refusal is not None:
            await connection.refuse(refusal)
            return False
        await connection.send([{"T": "success", "msg": "authenticated"}])
        return True

    def _refusal(
        self, connection: _Connection, given: tuple[str | None, str | None], request: web.Request
    ) -> int | None:
        if given[0] is None or self.keys.get(given[0]) != given[1]:
            return 402
        unpaid = connection.source == "sip" and not request.app[ENTITLEMENTS].recent_sip
        if unpaid or connection.source in UNSUBSCRIBED:
            return 409
        open_here = sum(each.source == connection.source for each in self.connections)
        return 406 if open_here >= self.connection_limit else None

    async def _hear(self, connection: _Connection, data: str | bytes) -> None:
        said = _parsed(connection, data)
        if said is None:
            await connection.refuse(400)
            return
        action = said.pop("action", None)
        if action == "auth":
            await connection.refuse(403)
        elif action not in ("subscribe", "unsubscribe"):
            await connection.refuse(400)
        else:
            await self._subscribe(connection, said, add=action == "subscribe")

    async def _subscribe(self, connection: _Connection, said: Json, *, add: bool) -> None:
        """Change what is heard and answer with all of it; a refusal changes nothing."""
        known = feed.NEWS_CHANNELS if connection.source == "news" else feed.STOCK_CHANNELS
        unlisted = () if connection.source == "news" else (feed.UNTOLD,)
        channels = {channel: set(connection.heard.channels.get(channel, ())) for channel in known}
        channels |= {
            channel: heard for channel in unlisted if (heard := connection.heard.channels.get(channel))
        }
        for channel, symbols in said.items():
            if channel in AUTOMATIC and connection.source != "news":
                continue
            if channel not in (*known, *unlisted) or not isinstance(symbols, list):
                await connection.refuse(410)
                return
            asked = {str(symbol) for symbol in symbols}
            before = channels.get(channel, set())
            channels[channel] = before | asked if add else before - asked
        counted = [symbol for channel in ("trades", "quotes") for symbol in channels.get(channel, ())]
        if self.symbol_limit is not None and (len(counted) > self.symbol_limit or feed.EVERYTHING in counted):
            await connection.refuse(405)
            return
        connection.heard = feed.Subscription(channels)
        told: Json = {"T": "subscription", **{name: sorted(symbols) for name, symbols in channels.items()}}
        if connection.source != "news":
            told |= {"corrections": told["trades"], "cancelErrors": told["trades"]}
        await connection.send([told])
        if connection.since is None:
            connection.since = self.clock.now() - connection.delay
            connection.noticed = sum(each.at <= connection.since for each in self.notices.said)
        connection.changed.set()

    def _look_again(self) -> None:
        for connection in self.connections:
            connection.changed.set()

    async def _cut_off(self, connection: _Connection) -> None:
        """Tell a client that does not keep up, after everything it has not read yet, and hang up."""
        await connection.refuse(407)
        assert connection.transport is not None
        connection.transport.close()
        asyncio.get_running_loop().call_later(PARTING_SECONDS, connection.transport.abort)

    async def _tell(self, connection: _Connection) -> None:
        """Send what happens from the first subscription on, until the connection is gone."""
        delay = connection.delay
        while True:
            connection.changed.clear()
            due = None if connection.since is None else self._due(connection, connection.since)
            if due is None:
                await connection.changed.wait()
                continue
            await wait(self.clock, connection.changed, due + delay - self.clock.now())
            until = self.clock.now() - delay
            with self.clock.hold():
                told = self._news_of(connection, until)
                if not told or self.mute:
                    continue
                if connection.waiting > self.queue_bytes:
                    await self._cut_off(connection)
                    return
                await connection.send(told)
                self.frames_sent += 1

    def _due(self, connection: _Connection, since: datetime) -> datetime | None:
        """When there may be something to tell next, in the time of the connection's feed."""
        if connection.source == PRACTICE:
            return practice.next_due(connection.heard, since)
        unsaid = self.notices.said[connection.noticed :]
        due = feed.next_due(self.market, connection.heard, since, self.notices.said)
        instants = [*(each.at for each in unsaid[:1]), *([] if due is None else [due])]
        return min(instants, default=None)

    def _news_of(self, connection: _Connection, until: datetime) -> list[Json]:
        """What happened up to `until` and was not told yet; it counts as told from now on."""
        told: list[Json] = []
        if connection.source == PRACTICE:
            since, connection.since = connection.since or until, until
            return practice.messages(connection.heard, since, until)
        if connection.since is not None and until > connection.since:
            told = feed.messages(self.market, connection.heard, connection.since, until, self.notices.said)
            connection.since = until
        unsaid = self.notices.said[connection.noticed :]
        fresh = [each for each in unsaid if each.at <= until]
        connection.noticed += len(fresh)
        return told + feed.announcements(self.market, connection.heard, fresh)


def add_data_streams(
    app: web.Application,
    market: Market,
    clock: Clock,
    keys: Mapping[str, str],
    notices: Notices | None = None,
) -> DataStreams:
    """Serve the market data websockets of `market`, as of `clock`, from `app`, to holders of `keys`.

    `add_data_routes` comes first: the entitlements are its.
    """
    streams = DataStreams(market, clock, keys, notices=notices or Notices())
    for path in (
        "v2/iex",
        "v2/sip",
        "v2/delayed_sip",
        f"v2/{PRACTICE}",
        "v1beta1/boats",
        "v1beta1/overnight",
    ):
        app.router.add_get(f"/{path}", streams.serve)
    app[NEWS_STREAM] = streams.serve
    return streams


def _parsed(connection: _Connection, data: str | bytes) -> Json | None:
    """A client's message; None when it is not an object."""
    try:
        said = msgpack.unpackb(data) if connection.packed and isinstance(data, bytes) else orjson.loads(data)
    except (ValueError, msgpack.UnpackException):
        return None
    return said if isinstance(said, dict) else None
