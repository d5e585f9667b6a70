"""Alpaca's trade_updates stream: what happens to our orders, and every moment in which we did not listen.

The socket has no replay, no sequence numbers and no snapshot, so a gap is as much of a message as a fill: it is
announced when the stream is lost and again, before anything else, when it is back. Whoever listens asks for
what lay between. Nothing that arrives ends the stream: what cannot be understood is handed on raw.

Written on `websockets` itself: alpaca-py's stream reconnects in silence, repeats a refused login for ever, and
notices a half-open socket only after minutes.

Source: Alpaca API documentation, websocket streaming (trading).
"""

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from catalyst.broker import parse
from catalyst.broker.outcome import decoded, is_object
from catalyst.broker.port import Gap, Garbled, StreamState, TradeUpdates
from catalyst.broker.request import Door
from catalyst.clock import Clock
from catalyst.domain.errors import AuthRefused, BrokerUnavailable
from catalyst.domain.fault_points import Moment, Witness, tell
from catalyst.domain.report import TradeUpdate

Message = TradeUpdate | Gap | Garbled

STREAM: Final = "trade_updates"
STEP: Final = f"LISTEN {STREAM}"
_LISTEN: Final = orjson.dumps({"action": "listen", "data": {"streams": [STREAM]}}).decode()
LONGEST_DELAY: Final = 30.0  # seconds of market time between attempts: 1, 2, 4 ... and then this
CROWDED_DELAY: Final = 5.0  # at least, after a 429: our last connection may not be reaped yet
STEADY: Final = timedelta(seconds=30)  # ready this long, and the delays begin anew
PROBE: Final = timedelta(seconds=30)  # market time between two questions whether the stream still speaks
LARGEST_FRAME: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class _Frame:
    """One frame as it came: its bytes, when, and its JSON object, if it is one."""

    raw: bytes
    at: datetime
    body: Mapping[str, object] | None

    @property
    def stream(self) -> object:
        return None if self.body is None else self.body.get("stream")

    @property
    def counts(self) -> bool:
        """False for what the broker says of itself before it closes: it is no message of the stream."""
        return self.body is None or self.body.get("action") != "error"


@dataclass(frozen=True, slots=True)
class _End:
    """How a connection ended, and the least delay before the next one."""

    state: StreamState
    reason: str
    at_least: float = 0.0


class _Connect(connect):
    """Follows no redirect: the login is for the host that was named."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class AlpacaTradeUpdates(TradeUpdates):
    """The stream of one account. `url` is the websocket's, such as wss://paper-api.alpaca.markets/stream.

    `ping`, `pong` and `open_within` are real seconds: they bound a real socket. `most_waiting` frames wait for a
    slow listener; one more, and all of them are given up for a gap. One listener at a time.

    A socket may answer pings while the stream behind it is dead. So every `probe` of market time the stream is
    asked to listen anew, which changes nothing and is acknowledged; once it was, silence is a loss. A server that
    never acknowledges the repetition is not asked again.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        url: str,
        key: str,
        secret: str,
        epoch: int = 0,
        ping: float = 5.0,
        pong: float = 5.0,
        open_within: float = 5.0,
        most_waiting: int = 4096,
        probe: timedelta = PROBE,
        witness: Witness | None = None,
    ) -> None:
        self._witness = witness
        self._clock = clock
        self._door = Door(url, key, secret, epoch)
        self._ping = ping
        self._pong = pong
        self._open_within = open_within
        self._most_waiting = most_waiting
        self._probe = probe
        self._state = StreamState.CONNECTING
        self._heard_at: datetime | None = None
        self._ready_at: datetime | None = None
        self._waiting: deque[_Frame | Gap] = deque()
        self._said: deque[TradeUpdate | Garbled] = deque()  # of the frame that is being heard
        self._taken = 0  # frames the listener has and did not come back from
        self._arrived = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._mute = False
        self._frames = 0

    @property
    def state(self) -> StreamState:
        return self._state

    @property
    def frames_received(self) -> int:
        """Frames of the stream that are dealt with: the listener came back for the next message, or a gap
        stands for them. When the server has sent no more than this, all it sent has had its effect."""
        return self._frames

    async def listen(self) -> AsyncIterator[Message]:
        self._waiting.clear()
        self._said.clear()
        connecting = asyncio.create_task(self._stay_connected(), name=STREAM)
        connecting.add_done_callback(lambda _: self._arrived.set())
        try:
            while True:
                while self._waiting:
                    item = self._waiting.popleft()
                    if isinstance(item, Gap):
                        yield item
                        continue
                    self._said.extend(_messages(item))
                    self._taken = item.counts
                    while self._said:
                        yield self._said.popleft()
                    self._frames += self._taken
                if connecting.done():
                    connecting.result()  # it ends by a defect of ours only: let it be seen
                self._arrived.clear()
                await self._arrived.wait()
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            self._state = StreamState.LOST

    def waiting(self, most: int) -> list[TradeUpdate | Garbled]:
        """What came behind the message just heard, in order; it counts as dealt with when that does."""
        messages = list(self._said)
        self._said.clear()
        for _ in range(most):
            if not self._waiting or isinstance(self._waiting[0], Gap):
                break
            frame = self._waiting.popleft()
            assert isinstance(frame, _Frame)  # what is no gap
            messages.extend(_messages(frame))
            self._taken += frame.counts
        return messages

    async def _stay_connected(self) -> None:
        """Connect, hear until the end, say why it ended, wait, and again."""
        attempt = 0
        while True:
            end = await self._connection()
            if self._state is not end.state:
                self._announce(end.state, end.reason)
            if self._ready_at is not None and self._clock.now() - self._ready_at >= STEADY:
                attempt = 0
            await self._clock.sleep(timedelta(seconds=max(end.at_least, self._delay(attempt))))
            attempt += 1

    async def _connection(self) -> _End:
        """Open one connection and hear it to its end."""
        self._ready_at, self._mute = None, False
        try:
            with ExitStack() as held:
                held.enter_context(self._clock.hold())
                async with self._connect() as connection:
                    try:
                        early = await self._admission(connection)
                        self._ready_at = self._clock.now()
                        self._announce(StreamState.READY, "listening")
                        for frame in early:
                            self._take(frame)
                        held.close()
                        await self._hear(connection)
                    finally:
                        held.enter_context(self._clock.hold())  # hanging up takes its real time too
                return _End(StreamState.LOST, "mute" if self._mute else "closed by the broker")
        except AuthRefused as error:
            return _End(StreamState.REFUSED, str(error), LONGEST_DELAY)
        except InvalidStatus as error:
            return _refused_handshake(error.response.status_code)
        except (OSError, TimeoutError, WebSocketException, BrokerUnavailable) as error:
            return _End(StreamState.LOST, _reason(error))

    async def _hear(self, connection: ClientConnection) -> None:
        """Take every frame until the connection ends."""
        asking = asyncio.create_task(self._ask_now_and_then(connection))
        try:
            async for raw in connection:
                self._take(self._frame(raw))
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)

    async def _ask_now_and_then(self, connection: ClientConnection) -> None:
        """Close the connection once it was silent to what it answered before."""
        answered = False
        while True:
            await self._clock.sleep(self._probe)
            with self._clock.hold():
                self._acknowledged.clear()
                try:
                    async with asyncio.timeout(self._pong):  # noqa: TID251 - bounds a real socket
                        await connection.send(_LISTEN)
                        await self._acknowledged.wait()
                except ConnectionClosed:
                    return
                except TimeoutError:
                    if answered:
                        self._mute = True
                        await connection.close()
                    return
                answered = True

    def _connect(self) -> _Connect:
        return _Connect(
            self._door.base_url,
            user_agent_header=self._door.agent,
            compression=None,
            proxy=None,
            open_timeout=self._open_within,
            ping_interval=self._ping,
            ping_timeout=self._pong,
            close_timeout=1,
            max_size=LARGEST_FRAME,
        )

    async def _admission(self, connection: ClientConnection) -> list[_Frame]:
        """Log in and listen; returns the frames that came before the last reply. Raises AuthRefused."""
        early: list[_Frame] = []
        tell(self._witness, STEP, Moment.BEFORE)
        login = {"key_id": self._door.key, "secret_key": self._door.secret}
        async with asyncio.timeout(self._open_within):  # noqa: TID251 - bounds a real socket, not market time
            await connection.send(_text({"action": "authenticate", "data": login}))
            await self._reply(connection, "authorization", early)
            await connection.send(_LISTEN)
            streams = (await self._reply(connection, "listening", early)).get("streams")
        if not isinstance(streams, list) or STREAM not in streams:
            raise BrokerUnavailable(f"listening to {streams!r:.100}, not to {STREAM}")
        tell(self._witness, STEP, Moment.AFTER)
        return early

    async def _reply(
        self, connection: ClientConnection, wanted: str, early: list[_Frame]
    ) -> Mapping[str, object]:
        while True:
            frame = self._frame(await connection.recv())
            _refuse_login(frame)
            if frame.stream == wanted and frame.body is not None:
                data = frame.body.get("data")
                return data if is_object(data) else {}
            early.append(frame)

    def _frame(self, raw: str | bytes) -> _Frame:
        """Binary or text, it is JSON; what is not keeps its bytes."""
        raw = raw.encode() if isinstance(raw, str) else raw
        try:
            body = decoded(raw)
        except ValueError:
            body = None
        return _Frame(raw, self._clock.now(), body if is_object(body) else None)

    def _take(self, frame: _Frame) -> None:
        """Keep a frame for the listener; when too many wait, a gap takes their place."""
        self._heard_at = frame.at
        _refuse_login(frame)
        if frame.stream in ("authorization", "listening"):
            self._acknowledged.set()
            return
        if len(self._waiting) >= self._most_waiting:
            self._give_up_waiting()
        self._waiting.append(frame)
        self._arrived.set()

    def _give_up_waiting(self) -> None:
        """Put a gap in the place of everything that waits: memory is bounded, and the socket is read on."""
        first = self._waiting[0]
        since = first.since if isinstance(first, Gap) else first.at
        frames = sum(isinstance(item, _Frame) and item.counts for item in self._waiting)
        self._waiting.clear()
        self._frames += frames
        for state in (StreamState.LOST, StreamState.READY):
            self._waiting.append(Gap(state, since, f"{frames} messages waited too long"))

    def _announce(self, state: StreamState, reason: str) -> None:
        self._state = state
        self._waiting.append(Gap(state, self._heard_at, reason))
        if state is StreamState.READY:
            self._heard_at = self._clock.now()
        self._arrived.set()

    def _delay(self, attempt: int) -> float:
        """Half of the doubling delay, and up to as much again, drawn from the time of day: repeatable."""
        whole = min(2.0**attempt, LONGEST_DELAY)
        drawn = zlib.crc32(f"{self._clock.now().isoformat()} {attempt}".encode()) / 2**32
        return whole / 2 * (1 + drawn)


def _messages(frame: _Frame) -> Iterator[TradeUpdate | Garbled]:
    """What a frame says: one update, and a word for each part of it that could not be understood."""
    if frame.stream != STREAM or frame.body is None:
        yield Garbled(frame.raw, "not a trade update" if frame.body else "not a JSON object")
        return
    spoiled: list[str] = []
    try:
        yield parse.trade_update(frame.body, lambda reason, _: spoiled.append(reason))
    except ValueError as error:
        yield Garbled(frame.raw, str(error))
    for reason in spoiled:
        yield Garbled(frame.raw, f"a leg: {reason}")


def _refuse_login(frame: _Frame) -> None:
    """Raise AuthRefused when the frame says that the login does not hold (any more)."""
    if frame.stream == "authorization" and frame.body is not None:
        data = frame.body.get("data")
        status = data.get("status") if is_object(data) else None
        if status != "authorized":
            raise AuthRefused(f"the stream's login was answered {status!r:.60}")


def _refused_handshake(status: int) -> _End:
    reason = f"the handshake was answered {status}"
    if status in (401, 403):
        return _End(StreamState.REFUSED, reason, LONGEST_DELAY)
    return _End(StreamState.LOST, reason, CROWDED_DELAY if status == 429 else 0.0)


def _reason(error: Exception) -> str:
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        return f"closed by the broker: {error.rcvd.code} {error.rcvd.reason}".rstrip()
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _text(message: Mapping[str, object]) -> str:
    return orjson.dumps(message).decode()
