"""The trade_updates websocket: who listens, what is sent, and what goes wrong on the way."""

import asyncio
from collections import deque
from dataclasses import dataclass, field

import msgpack
import orjson
from aiohttp import WSCloseCode, WSMsgType, web

from catalyst.clock import Clock
from catalyst.simulator.exchange.settings import Switches
from catalyst.simulator.exchange.venue import Update
from catalyst.simulator.faults.rules import Fault, FaultBook, FaultKind
from catalyst.simulator.rules.wire_format import encode, seconds, type_json

TRADE_UPDATES = "trade_updates"
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
class Listener:
    """One connection: what it may hear, and what still has to be written to it."""

    socket: web.WebSocketResponse
    binary: bool
    packed: bool
    authorised: bool = False
    streams: tuple[str, ...] = ()
    mute: bool = False
    deaf: bool = False
    queue: deque[tuple[bytes, bool]] = field(default_factory=deque)  # frame, and whether it is counted
    filled: asyncio.Event = field(default_factory=asyncio.Event)
    closing: int | None = None

    def put(self, frame: bytes, *, counted: bool = False) -> None:
        self.queue.append((frame, counted))
        self.filled.set()


class Streams:
    """Every trade_updates connection. No replay, no snapshot: who was not listening has missed it."""

    def __init__(self, faults: FaultBook, switches: Switches, clock: Clock, keys: dict[str, str]) -> None:
        self._faults = faults
        self._switches = switches
        self._clock = clock
        self._keys = keys
        self._listeners: list[Listener] = []
        self._kept: list[bytes] = []
        self._late: set[asyncio.Task[None]] = set()
        self.frames_sent = 0  # trade_updates frames handed to live sockets

    @property
    def connections(self) -> int:
        return len(self._listeners)

    # ------------------------------------------------------------------ sending

    def broadcast(self, updates: list[Update]) -> None:
        """Hand each update to every socket that listens, as far as the fault menu lets it."""
        for update in updates:
            facts = {
                "event": update.event,
                "symbol": update.symbol,
                "client_order_id": update.client_order_id,
                "role": update.role.value,
            }
            fault = self._faults.take(*MESSAGE_FAULTS, **facts)
            frame = encode({"stream": TRADE_UPDATES, "data": update.data})
            if fault is not None and fault.kind is FaultKind.STREAM_REORDER:
                self._kept.append(frame)
                continue
            if fault is None:
                self._send(frame)
            else:
                self._misbehave(fault, update.data, frame)
            kept, self._kept = self._kept, []
            for waiting in kept:
                self._send(waiting)

    def _misbehave(self, fault: Fault, data: type_json, frame: bytes) -> None:
        match fault.kind:
            case FaultKind.STREAM_DUPLICATE:
                for _ in range(max(int(fault.qty or 2), 2)):
                    self._send(frame)
            case FaultKind.STREAM_LATE:
                task = asyncio.ensure_future(self._send_late(frame, fault.seconds))
                self._late.add(task)
                task.add_done_callback(self._late.discard)
            case FaultKind.STREAM_ERROR:
                message = {"action": "error", "data": {"error_message": "internal server error"}}
                self._send(encode(message), counted=False)
                self._send(frame)
            case FaultKind.STREAM_DISCONNECT:
                self.disconnect()
            case FaultKind.STREAM_MUTE:
                self.mute()
            case FaultKind.STREAM_HALF_OPEN:
                self.go_deaf()
            case FaultKind.STREAM_DROP:
                return
            case _:
                self._send(distorted(fault, data))

    def _send(self, frame: bytes, *, counted: bool = True) -> None:
        for listener in self._listeners:
            if TRADE_UPDATES in listener.streams and not listener.mute and listener.closing is None:
                packed = msgpack.packb(orjson.loads(frame)) if listener.packed else frame
                listener.put(packed, counted=counted)
                self.frames_sent += counted

    async def _send_late(self, frame: bytes, late: float) -> None:
        await self._clock.sleep(seconds(late))
        self._send(frame)

    def disconnect(self, code: int = WSCloseCode.INTERNAL_ERROR) -> None:
        """Close every connection, after what is already queued."""
        for listener in self._listeners:
            listener.closing = code
            listener.filled.set()

    def mute(self) -> None:
        """From here on the sockets that are open stay open and say nothing, not even a pong."""
        for listener in self._listeners:
            listener.mute = True

    def go_deaf(self) -> None:
        """As `mute`, and nothing more is read or ponged."""
        for listener in self._listeners:
            listener.mute = listener.deaf = True

    # ------------------------------------------------------------------ serving

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection, from handshake to close."""
        busy = self._faults.take(FaultKind.STREAM_BUSY)
        second = self._listeners and (
            self._switches.one_stream or self._faults.take(FaultKind.STREAM_SECOND) is not None
        )
        if busy is not None or second:
            return web.Response(status=429, text="too many connections")
        socket = web.WebSocketResponse(autoping=False, heartbeat=None)
        await socket.prepare(request)
        packed = request.headers.get("Content-Type") == "application/msgpack"
        listener = Listener(socket, self._switches.binary_frames or packed, packed)
        self._listeners.append(listener)
        writer = asyncio.ensure_future(self._write(listener))
        try:
            await self._read(listener)
        finally:
            self._listeners.remove(listener)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
            self.frames_sent -= sum(counted for _, counted in listener.queue)
        return socket

    async def close(self) -> None:
        """Close every connection; for the end of the server."""
        for task in self._late:
            task.cancel()
        for listener in list(self._listeners):
            await listener.socket.close(code=WSCloseCode.GOING_AWAY)

    async def _write(self, listener: Listener) -> None:
        try:
            while True:
                await listener.filled.wait()
                listener.filled.clear()
                while listener.queue:
                    frame, _ = listener.queue[0]
                    if listener.binary:
                        await listener.socket.send_bytes(frame)
                    else:
                        await listener.socket.send_str(frame.decode())
                    listener.queue.popleft()
                if listener.closing is not None:
                    await listener.socket.close(code=listener.closing)
                    return
        except (ConnectionError, RuntimeError):
            return  # the other side is gone; what is left in the queue was not sent

    async def _read(self, listener: Listener) -> None:
        async for message in listener.socket:
            if message.type is WSMsgType.PING:
                if not listener.deaf:
                    await listener.socket.pong(message.data)
            elif message.type in {WSMsgType.TEXT, WSMsgType.BINARY} and not listener.deaf:
                self._hear(listener, message.data)

    def _hear(self, listener: Listener, data: str | bytes) -> None:
        try:
            said = msgpack.unpackb(data) if listener.packed else orjson.loads(data)
        except ValueError:
            said = None
        if not isinstance(said, dict):
            self._answer(listener, {"action": "error", "data": {"error_message": "invalid message"}})
            return
        action = said.get("action")
        data_part = said.get("data")
        body: type_json = data_part if isinstance(data_part, dict) else {}
        if action in {"authenticate", "auth"}:
            key = said.get("key") or body.get("key_id")
            secret = said.get("secret") or body.get("secret_key")
            refused = self._faults.take(FaultKind.STREAM_REFUSE) is not None
            listener.authorised = not refused and key is not None and self._keys.get(str(key)) == secret
            self._authorise(listener, "authenticate", listener.authorised)
            if not listener.authorised and self._switches.close_unauthorized:
                listener.closing = WSCloseCode.POLICY_VIOLATION
                listener.filled.set()
        elif action == "listen":
            if not listener.authorised:
                self._authorise(listener, "listen", False)
                return
            wanted = body.get("streams")
            listener.streams = tuple(
                stream for stream in (wanted if isinstance(wanted, list) else []) if stream == TRADE_UPDATES
            )
            self._answer(listener, {"stream": "listening", "data": {"streams": list(listener.streams)}})
        else:
            self._answer(listener, {"action": "error", "data": {"error_message": f"unknown action {action}"}})

    def _authorise(self, listener: Listener, action: str, granted: bool) -> None:
        status = "authorized" if granted else "unauthorized"
        self._answer(listener, {"stream": "authorization", "data": {"status": status, "action": action}})

    def _answer(self, listener: Listener, message: type_json) -> None:
        if not listener.mute:
            listener.put(msgpack.packb(message) if listener.packed else encode(message))


def distorted(fault: Fault, data: type_json) -> bytes:
    """The message as the fault wants it seen."""
    if fault.kind is FaultKind.STREAM_NULL:
        return encode({"stream": TRADE_UPDATES, "data": None})
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
    return encode({"stream": TRADE_UPDATES, "data": changed})
