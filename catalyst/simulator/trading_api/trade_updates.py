"""trade_updates websocket: connections, messages, and faults on the way."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import msgpack
import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from catalyst.clock import Clock
from catalyst.simulator.exchange.lifecycle import TradeUpdateMessage
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.faults.rules import Fault, FaultKind, FaultRules
from catalyst.simulator.rules.orders import TERMINAL
from catalyst.simulator.rules.wire_format import JsonObject, encode_json, seconds

TRADE_UPDATES = "trade_updates"
REPLAYED_EVENTS = frozenset({"new", "partial_fill", "fill"})
MESSAGE_FAULTS = (
    FaultKind.STREAM_DROP,
    FaultKind.STREAM_DUPLICATE,
    FaultKind.STREAM_LATE,
    FaultKind.STREAM_REORDER,
    FaultKind.STREAM_STATUS,
    FaultKind.STREAM_EVENT,
    FaultKind.STREAM_FIELDS,
    FaultKind.STREAM_NULL,
    FaultKind.STREAM_ERROR,
    FaultKind.STREAM_RAW,
    FaultKind.STREAM_DISCONNECT,
    FaultKind.STREAM_MUTE,
    FaultKind.STREAM_HALF_OPEN,
)


@dataclass(eq=False, slots=True)
class StreamConnection:
    """One connection: its state, and what still has to be written to it."""

    socket: web.WebSocketResponse
    binary: bool
    uses_msgpack: bool
    authorised: bool = False
    streams: tuple[str, ...] = ()
    sending_stopped: bool = False
    reading_stopped: bool = False
    queue: deque[tuple[bytes, bool]] = field(default_factory=deque)  # frame, and whether it is counted
    frames_queued: asyncio.Event = field(default_factory=asyncio.Event)
    close_code: int | None = None

    @property
    def receives_updates(self) -> bool:
        """Return true while the connection gets trade updates."""
        return TRADE_UPDATES in self.streams and not self.sending_stopped and self.close_code is None

    def enqueue(self, frame: bytes, *, counted: bool = False) -> None:
        self.queue.append((frame, counted))
        self.frames_queued.set()


class TradeUpdateStreams:
    """Every trade_updates connection. No replay and no snapshot: a client that was not connected misses
    messages."""

    def __init__(
        self, faults: FaultRules, settings: ExchangeSettings, clock: Clock, keys: dict[str, str]
    ) -> None:
        self._faults = faults
        self._settings = settings
        self._clock = clock
        self._keys = keys
        self._connections: list[StreamConnection] = []
        self._reordered: list[bytes] = []
        self._earlier_frames: dict[str, list[bytes]] = {}  # of working orders, by order id
        self._delayed_sends: set[asyncio.Task[None]] = set()
        self.frames_sent = 0  # trade_updates frames given to live sockets

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    # ------------------------------------------------------------------ sending

    def broadcast(self, updates: list[TradeUpdateMessage]) -> None:
        """Send each update to every listening socket, as far as the fault rules allow. Without one no rule fires."""
        for update in updates:
            if not any(connection.receives_updates for connection in self._connections):
                self._reordered = []
                self._earlier_frames.clear()
                continue
            facts = {
                "event": update.event,
                "symbol": update.symbol,
                "client_order_id": update.client_order_id,
                "role": update.role.value,
                "side": update.side.value,
            }
            frame = encode_json({"stream": TRADE_UPDATES, "data": update.data})
            replayed = self._frames_to_replay(update, frame)
            kinds = (*MESSAGE_FAULTS, FaultKind.STREAM_REPLAY) if replayed else MESSAGE_FAULTS
            fault = self._faults.fire_matching(*kinds, **facts)
            if fault is not None and fault.kind is FaultKind.STREAM_REORDER:
                self._reordered.append(frame)
                continue
            if fault is None:
                self._send(frame)
            elif fault.kind is FaultKind.STREAM_REPLAY:
                for each in (frame, *replayed):
                    self._send(each)
            else:
                self._apply_fault(fault, update.data, frame)
            kept, self._reordered = self._reordered, []
            for waiting in kept:
                self._send(waiting)

    def _frames_to_replay(self, update: TradeUpdateMessage, frame: bytes) -> list[bytes]:
        """Remember a frame until the order ends; then return its frames that a replay repeats, else none."""
        if update.event in REPLAYED_EVENTS:
            self._earlier_frames.setdefault(update.order_id, []).append(frame)
        order = update.data["order"]
        assert isinstance(order, dict)
        return self._earlier_frames.pop(update.order_id, []) if order["status"] in TERMINAL else []

    def _apply_fault(self, fault: Fault, data: JsonObject, frame: bytes) -> None:
        match fault.kind:
            case FaultKind.STREAM_DUPLICATE:
                for _ in range(max(int(fault.qty or 2), 2)):
                    self._send(frame)
            case FaultKind.STREAM_LATE:
                task = asyncio.ensure_future(self._send_late(frame, fault.seconds))
                self._delayed_sends.add(task)
                task.add_done_callback(self._delayed_sends.discard)
            case FaultKind.STREAM_ERROR:
                message = {"action": "error", "data": {"error_message": "internal server error"}}
                self._send(encode_json(message), counted=False)
                self._send(frame)
            case FaultKind.STREAM_DISCONNECT:
                self.disconnect()
            case FaultKind.STREAM_MUTE:
                self.stop_sending()
            case FaultKind.STREAM_HALF_OPEN:
                self.stop_reading()
            case FaultKind.STREAM_DROP:
                return
            case _:
                self._send(distort_message(fault, data))

    def _send(self, frame: bytes, *, counted: bool = True) -> None:
        for connection in self._connections:
            if connection.receives_updates:
                packed = msgpack.packb(orjson.loads(frame)) if connection.uses_msgpack else frame
                connection.enqueue(packed, counted=counted)
                self.frames_sent += counted

    async def _send_late(self, frame: bytes, delay_s: float) -> None:
        await self._clock.sleep(seconds(delay_s))
        self._send(frame)

    def disconnect(self, code: int = WSCloseCode.INTERNAL_ERROR) -> None:
        """Close every connection after what is queued."""
        for connection in self._connections:
            connection.close_code = code
            connection.frames_queued.set()

    def stop_sending(self) -> None:
        """Keep open sockets open and send nothing more, not even a pong."""
        for connection in self._connections:
            connection.sending_stopped = True

    def stop_reading(self) -> None:
        """Keep open sockets open, but send and read nothing more."""
        for connection in self._connections:
            connection.sending_stopped = connection.reading_stopped = True

    # ------------------------------------------------------------------ serving

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """Serve one connection, from handshake to close."""
        busy = self._faults.fire_matching(FaultKind.STREAM_BUSY)
        second = self._connections and (
            self._settings.one_stream or self._faults.fire_matching(FaultKind.STREAM_SECOND) is not None
        )
        if busy is not None or second:
            return web.Response(status=429, text="too many connections")
        socket = web.WebSocketResponse(autoping=False, heartbeat=None)
        await socket.prepare(request)
        packed = request.headers.get("Content-Type") == "application/msgpack"
        connection = StreamConnection(socket, self._settings.binary_frames or packed, packed)
        self._connections.append(connection)
        writer = asyncio.ensure_future(self._write(connection))
        try:
            await self._read(connection)
        finally:
            self._connections.remove(connection)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self.frames_sent -= sum(counted for _, counted in connection.queue)
        return socket

    async def close(self) -> None:
        """Close every connection; for the end of the server."""
        for task in self._delayed_sends:
            task.cancel()
        for connection in list(self._connections):
            await connection.socket.close(code=WSCloseCode.GOING_AWAY)

    async def _write(self, connection: StreamConnection) -> None:
        try:
            while True:
                await connection.frames_queued.wait()
                connection.frames_queued.clear()
                while connection.queue:
                    frame, _ = connection.queue[0]
                    if connection.binary:
                        await connection.socket.send_bytes(frame)
                    else:
                        await connection.socket.send_str(frame.decode())
                    connection.queue.popleft()
                if connection.close_code is not None:
                    await connection.socket.close(code=connection.close_code)
                    return
        except (ConnectionError, RuntimeError):
            return  # the client is gone; the rest of the queue was not sent

    async def _read(self, connection: StreamConnection) -> None:
        async for message in connection.socket:
            if message.type is WSMsgType.PING:
                if not connection.reading_stopped:
                    await connection.socket.pong(message.data)
            elif message.type in {WSMsgType.TEXT, WSMsgType.BINARY} and not connection.reading_stopped:
                self._handle_message(connection, message.data)

    def _handle_message(self, connection: StreamConnection, data: str | bytes) -> None:
        try:
            client_message = msgpack.unpackb(data) if connection.uses_msgpack else orjson.loads(data)
        except ValueError:
            client_message = None
        if not isinstance(client_message, dict):
            self._reply(connection, {"action": "error", "data": {"error_message": "invalid message"}})
            return
        action = client_message.get("action")
        data_part = client_message.get("data")
        body: JsonObject = data_part if isinstance(data_part, dict) else {}
        if action in {"authenticate", "auth"}:
            key = client_message.get("key") or body.get("key_id")
            secret = client_message.get("secret") or body.get("secret_key")
            refused = self._faults.fire_matching(FaultKind.STREAM_REFUSE) is not None
            connection.authorised = not refused and key is not None and self._keys.get(str(key)) == secret
            self._send_authorization(connection, "authenticate", connection.authorised)
            if not connection.authorised and self._settings.close_unauthorized:
                connection.close_code = WSCloseCode.POLICY_VIOLATION
                connection.frames_queued.set()
        elif action == "listen":
            if not connection.authorised:
                self._send_authorization(connection, "listen", False)
                return
            wanted = body.get("streams")
            connection.streams = tuple(
                stream for stream in (wanted if isinstance(wanted, list) else []) if stream == TRADE_UPDATES
            )
            self._reply(connection, {"stream": "listening", "data": {"streams": list(connection.streams)}})
        else:
            self._reply(
                connection, {"action": "error", "data": {"error_message": f"unknown action {action}"}}
            )

    def _send_authorization(self, connection: StreamConnection, action: str, granted: bool) -> None:
        status = "authorized" if granted else "unauthorized"
        self._reply(connection, {"stream": "authorization", "data": {"status": status, "action": action}})

    def _reply(self, connection: StreamConnection, message: JsonObject) -> None:
        if not connection.sending_stopped:
            connection.enqueue(msgpack.packb(message) if connection.uses_msgpack else encode_json(message))


def distort_message(fault: Fault, data: JsonObject) -> bytes:
    """Return the message as the fault changes it."""
    if fault.kind is FaultKind.STREAM_NULL:
        return encode_json({"stream": TRADE_UPDATES, "data": None})
    if fault.kind is FaultKind.STREAM_RAW:
        return (fault.text or "{").encode()
    changed = dict(data)
    order = changed["order"]
    assert isinstance(order, dict)
    if fault.kind is FaultKind.STREAM_EVENT:
        changed["event"] = fault.text or "restated"
    elif fault.kind is FaultKind.STREAM_STATUS:
        changed["order"] = {**order, "status": fault.text or "under_consideration"}
    elif fault.kind is FaultKind.STREAM_FIELDS:
        changed = {name: value for name, value in changed.items() if name not in fault.fields}
        changed["order"] = {name: value for name, value in order.items() if name not in fault.fields}
    return encode_json({"stream": TRADE_UPDATES, "data": changed})
