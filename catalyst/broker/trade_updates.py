"""Alpaca's trade_updates stream: updates of our orders, and every gap in which we did not receive it.

The socket has no replay, no sequence numbers and no snapshot, so a gap is a message too: it is announced when
the stream is lost and again, first of all, when it is back. The consumer reads what lay between. No input
ends the stream: what cannot be parsed is passed on raw.

Built on `websockets`: alpaca-py's stream reconnects silently, repeats a refused login for ever, and detects a
half-open socket only after minutes. Source: Alpaca API documentation, websocket streaming (trading).
"""

import asyncio
import zlib
from collections import deque
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Final

import orjson
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

from catalyst.broker import parse
from catalyst.broker.outcome import decode_json, is_object
from catalyst.broker.port import MalformedMessage, StreamGap, StreamState, TradeUpdates
from catalyst.broker.request import Endpoint
from catalyst.clock import Clock, separate_turns, waiting
from catalyst.domain.errors import AuthRefused, BrokerUnavailable
from catalyst.domain.fault_points import FaultPoint, Moment, reach
from catalyst.domain.report import TradeUpdate

StreamMessage = TradeUpdate | StreamGap | MalformedMessage

STREAM_NAME: Final = "trade_updates"
LISTEN_LABEL: Final = f"LISTEN {STREAM_NAME}"
_LISTEN_REQUEST: Final = orjson.dumps({"action": "listen", "data": {"streams": [STREAM_NAME]}}).decode()
MAX_RECONNECT_DELAY: Final = 30.0  # seconds of market time between attempts: 1, 2, 4 ... up to this
MIN_DELAY_AFTER_429: Final = 5.0  # at least, after a 429: our last connection may still be open there
# Our own last connection is closed at the broker by then, so the other connection is not ours.
OCCUPIED_AFTER: Final = timedelta(seconds=60)
STABLE_AFTER: Final = timedelta(seconds=30)  # after this time in READY the delays start again
PROBE_INTERVAL: Final = timedelta(seconds=30)  # market time between two probes of the stream
MAX_FRAME_BYTES: Final = 1 << 22


@dataclass(frozen=True, slots=True)
class _Frame:
    """One received frame: its bytes, its time, and its JSON object, if it is one."""

    raw: bytes
    at: datetime
    body: Mapping[str, object] | None

    @property
    def stream(self) -> object:
        return None if self.body is None else self.body.get("stream")

    @property
    def is_stream_message(self) -> bool:
        """Return false for the broker's own notice before it closes."""
        return self.body is None or self.body.get("action") != "error"


@dataclass(frozen=True, slots=True)
class _ConnectionEnd:
    """How a connection ended, and the minimum delay before the next one."""

    state: StreamState
    reason: str
    min_delay: float = 0.0
    occupied: bool = False  # another connection is open


@dataclass(frozen=True, slots=True)
class _Limits:
    """Limits of a connection, as in the arguments of AlpacaTradeUpdates."""

    ping_interval: float
    pong_timeout: float
    open_timeout: float
    max_buffered: int
    probe_interval: timedelta


class _NoRedirectConnect(connect):
    """Follows no redirect: the login is for the named host only."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class AlpacaTradeUpdates(TradeUpdates):
    """The stream of one account. `url` is the websocket's, such as wss://paper-api.alpaca.markets/stream.

    `ping_interval`, `pong_timeout` and `open_timeout` are real seconds: they bound a real socket.
    `max_buffered` frames wait for a slow consumer; one more replaces all of them by a gap. One consumer at a
    time.

    A socket may answer pings while the stream behind it sends nothing. So every `probe_interval` of market time the
    client sends `listen` again, which changes nothing and is acknowledged. After one acknowledgement, silence
    counts as a loss; a server that never acknowledged the repetition is not probed again.
    """

    def __init__(
        self,
        clock: Clock,
        *,
        url: str,
        key: str,
        secret: str,
        epoch: int = 0,
        ping_interval: float = 5.0,
        pong_timeout: float = 5.0,
        open_timeout: float = 5.0,
        max_buffered: int = 4096,
        probe_interval: timedelta = PROBE_INTERVAL,
        fault_point: FaultPoint | None = None,
    ) -> None:
        self._fault_point = fault_point
        self._clock = clock
        self._endpoint = Endpoint(url, key, secret, epoch)
        self._limits = _Limits(ping_interval, pong_timeout, open_timeout, max_buffered, probe_interval)
        self._state = StreamState.CONNECTING
        self._last_received_at: datetime | None = None
        self._ready_at: datetime | None = None
        self._buffer: deque[_Frame | StreamGap] = deque()
        # Messages of the frame that is being processed.
        self._pending_messages: deque[TradeUpdate | MalformedMessage] = deque()
        self._delivered_frames = 0  # frames given to the consumer and not yet processed
        self._arrived = asyncio.Event()
        self._acknowledged = asyncio.Event()
        self._probe_unanswered = False
        self._frames_processed = 0

    @property
    def state(self) -> StreamState:
        return self._state

    @property
    def last_received_at(self) -> datetime | None:
        """Return when the last frame arrived, an answer to a probe included; None before the first one."""
        return self._last_received_at

    @property
    def frames_processed(self) -> int:
        """Return the number of processed frames: the consumer requested the next message, or a gap replaced
        them.

        When the server has sent no more than this, all it sent has had its effect.
        """
        return self._frames_processed

    async def listen(self) -> AsyncIterator[StreamMessage]:
        self._buffer.clear()
        self._pending_messages.clear()
        # The connection waits all the time: its turns would hide a consumer that hangs.
        connecting = asyncio.create_task(self._stay_connected(), name=STREAM_NAME, context=separate_turns())
        connecting.add_done_callback(lambda _: self._arrived.set())
        try:
            while True:
                while self._buffer:
                    item = self._buffer.popleft()
                    if isinstance(item, StreamGap):
                        yield item
                        continue
                    self._pending_messages.extend(_messages_of(item))
                    self._delivered_frames = item.is_stream_message
                    while self._pending_messages:
                        yield self._pending_messages.popleft()
                    self._frames_processed += self._delivered_frames
                if connecting.done():
                    connecting.result()  # only a defect of ours ends it: raise it
                self._arrived.clear()
                with waiting():
                    await self._arrived.wait()
        finally:
            connecting.cancel()
            await asyncio.gather(connecting, return_exceptions=True)
            self._state = StreamState.LOST

    def drain_buffered(self, max_frames: int) -> list[TradeUpdate | MalformedMessage]:
        """Return buffered messages behind the last one, in order; they count as processed together with it."""
        messages = list(self._pending_messages)
        self._pending_messages.clear()
        for _ in range(max_frames):
            if not self._buffer or isinstance(self._buffer[0], StreamGap):
                break
            frame = self._buffer.popleft()
            assert isinstance(frame, _Frame)  # gaps are handled above
            messages.extend(_messages_of(frame))
            self._delivered_frames += frame.is_stream_message
        return messages

    async def _stay_connected(self) -> None:
        """Connect, receive until the end, announce the gap, wait, repeat."""
        attempt, occupied_since = 0, None
        while True:
            end = await self._run_connection()
            occupied_since = (occupied_since or self._clock.now()) if end.occupied else None
            if occupied_since is not None and self._clock.now() - occupied_since >= OCCUPIED_AFTER:
                end = replace(end, state=StreamState.OCCUPIED)
            if self._state is not end.state:
                self._announce_gap(end.state, end.reason)
            if self._ready_at is not None and self._clock.now() - self._ready_at >= STABLE_AFTER:
                attempt = 0
            await self._clock.sleep(timedelta(seconds=max(end.min_delay, self._reconnect_delay(attempt))))
            attempt += 1

    async def _run_connection(self) -> _ConnectionEnd:
        """Open one connection and receive until it ends."""
        self._ready_at, self._probe_unanswered = None, False
        try:
            with ExitStack() as held:
                held.enter_context(self._clock.hold())
                async with self._connect() as connection:
                    try:
                        early = await self._log_in(connection)
                        self._ready_at = self._clock.now()
                        self._announce_gap(StreamState.READY, "listening")
                        for frame in early:
                            self._buffer_frame(frame)
                        held.close()
                        await self._receive_frames(connection)
                    finally:
                        held.enter_context(self._clock.hold())  # closing takes real time too
                return _ConnectionEnd(
                    StreamState.LOST, "probe unanswered" if self._probe_unanswered else "closed by the broker"
                )
        except AuthRefused as error:
            return _ConnectionEnd(StreamState.REFUSED, str(error), MAX_RECONNECT_DELAY)
        except InvalidStatus as error:
            return _end_of_refused_handshake(error.response.status_code)
        except (OSError, TimeoutError, WebSocketException, BrokerUnavailable) as error:
            return _ConnectionEnd(StreamState.LOST, _describe_error(error))

    async def _receive_frames(self, connection: ClientConnection) -> None:
        """Buffer every frame until the connection ends."""
        probing = asyncio.create_task(self._probe_periodically(connection))
        try:
            async for raw in connection:
                self._buffer_frame(self._decode_frame(raw))
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)

    async def _probe_periodically(self, connection: ClientConnection) -> None:
        """Close the connection when it no longer answers a probe that it answered before."""
        answered = False
        while True:
            await self._clock.sleep(self._limits.probe_interval)
            with self._clock.hold():
                self._acknowledged.clear()
                try:
                    async with asyncio.timeout(self._limits.pong_timeout):  # noqa: TID251 - bounds a real socket
                        await connection.send(_LISTEN_REQUEST)
                        await self._acknowledged.wait()
                except ConnectionClosed:
                    return
                except TimeoutError:
                    if answered:
                        self._probe_unanswered = True
                        await connection.close()
                    return
                answered = True

    def _connect(self) -> _NoRedirectConnect:
        return _NoRedirectConnect(
            self._endpoint.base_url,
            user_agent_header=self._endpoint.user_agent,
            compression=None,
            proxy=None,
            open_timeout=self._limits.open_timeout,
            ping_interval=self._limits.ping_interval,
            ping_timeout=self._limits.pong_timeout,
            close_timeout=1,
            max_size=MAX_FRAME_BYTES,
        )

    async def _log_in(self, connection: ClientConnection) -> list[_Frame]:
        """Log in and listen; return the frames received before the last reply. Raises AuthRefused."""
        early: list[_Frame] = []
        reach(self._fault_point, LISTEN_LABEL, Moment.BEFORE)
        login = {"key_id": self._endpoint.key, "secret_key": self._endpoint.secret}
        async with asyncio.timeout(self._limits.open_timeout):  # noqa: TID251 - bounds a real socket, not market time
            await connection.send(_to_json({"action": "authenticate", "data": login}))
            await self._await_reply(connection, "authorization", early)
            await connection.send(_LISTEN_REQUEST)
            streams = (await self._await_reply(connection, "listening", early)).get("streams")
        if not isinstance(streams, list) or STREAM_NAME not in streams:
            raise BrokerUnavailable(f"the stream listens to {streams!r:.100} and not to {STREAM_NAME}")
        reach(self._fault_point, LISTEN_LABEL, Moment.AFTER)
        return early

    async def _await_reply(
        self, connection: ClientConnection, reply_stream: str, early: list[_Frame]
    ) -> Mapping[str, object]:
        while True:
            frame = self._decode_frame(await connection.recv())
            _raise_if_unauthorized(frame)
            if frame.stream == reply_stream and frame.body is not None:
                data = frame.body.get("data")
                return data if is_object(data) else {}
            early.append(frame)

    def _decode_frame(self, raw: str | bytes) -> _Frame:
        """Decode a frame, binary or text, as JSON; anything else keeps its bytes."""
        raw = raw.encode() if isinstance(raw, str) else raw
        try:
            body = decode_json(raw)
        except ValueError:
            body = None
        return _Frame(raw, self._clock.now(), body if is_object(body) else None)

    def _buffer_frame(self, frame: _Frame) -> None:
        """Buffer a frame for the consumer; a full buffer is replaced by a gap."""
        self._last_received_at = frame.at
        _raise_if_unauthorized(frame)
        if frame.stream in ("authorization", "listening"):
            self._acknowledged.set()
            return
        if len(self._buffer) >= self._limits.max_buffered:
            self._replace_buffer_by_gap()
        self._buffer.append(frame)
        self._arrived.set()

    def _replace_buffer_by_gap(self) -> None:
        """Replace the buffer by a gap: memory stays bounded and the socket is read on."""
        first = self._buffer[0]
        since = first.since if isinstance(first, StreamGap) else first.at
        frames = sum(isinstance(item, _Frame) and item.is_stream_message for item in self._buffer)
        self._buffer.clear()
        self._frames_processed += frames
        for state in (StreamState.LOST, StreamState.READY):
            self._buffer.append(StreamGap(state, since, f"{frames} buffered messages were dropped"))

    def _announce_gap(self, state: StreamState, reason: str) -> None:
        self._state = state
        self._buffer.append(StreamGap(state, self._last_received_at, reason))
        if state is StreamState.READY:
            self._last_received_at = self._clock.now()
        self._arrived.set()

    def _reconnect_delay(self, attempt: int) -> float:
        """Return half of the doubling delay plus up to as much again, derived from the time of day:
        repeatable."""
        max_delay = min(2.0**attempt, MAX_RECONNECT_DELAY)
        fraction = zlib.crc32(f"{self._clock.now().isoformat()} {attempt}".encode()) / 2**32
        return max_delay / 2 * (1 + fraction)


def _messages_of(frame: _Frame) -> Iterator[TradeUpdate | MalformedMessage]:
    """Return the messages of a frame: one update, and one malformed message for each part that could not be
    parsed."""
    if frame.stream != STREAM_NAME or frame.body is None:
        yield MalformedMessage(frame.raw, "not a trade update" if frame.body else "not a JSON object")
        return
    malformed: list[str] = []
    try:
        yield parse.trade_update(frame.body, lambda reason, _: malformed.append(reason))
    except ValueError as error:
        yield MalformedMessage(frame.raw, str(error))
    for reason in malformed:
        yield MalformedMessage(frame.raw, f"malformed leg: {reason}")


def _raise_if_unauthorized(frame: _Frame) -> None:
    """Raise AuthRefused when the frame says that the login is not valid (any more)."""
    if frame.stream == "authorization" and frame.body is not None:
        data = frame.body.get("data")
        status = data.get("status") if is_object(data) else None
        if status != "authorized":
            raise AuthRefused(f"the stream answered the login with status {status!r:.60}")


def _end_of_refused_handshake(status: int) -> _ConnectionEnd:
    reason = f"the handshake failed with HTTP status {status}"
    if status in (401, 403):
        return _ConnectionEnd(StreamState.REFUSED, reason, MAX_RECONNECT_DELAY)
    if status == 429:
        return _ConnectionEnd(StreamState.LOST, reason, MIN_DELAY_AFTER_429, occupied=True)
    return _ConnectionEnd(StreamState.LOST, reason)


def _describe_error(error: Exception) -> str:
    if isinstance(error, ConnectionClosed) and error.rcvd is not None:
        return f"closed by the broker: {error.rcvd.code} {error.rcvd.reason}".rstrip()
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _to_json(message: Mapping[str, object]) -> str:
    return orjson.dumps(message).decode()
