"""Network between the daemon and a server: a proxy that delays, cuts, resets, stalls and half-opens connections.

It knows no protocol. It only recognizes the first bytes of a request, so that a fault can hit one in flight.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

CHUNK: Final = 1 << 16
_LINGER_RESET: Final = struct.pack("ii", 1, 0)  # a close with this option sends RST

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
RequestWatcher = Callable[[bytes], Awaitable[bool]]


class NetworkFault(StrEnum):
    """Every state of the network but the healthy one."""

    DELAY = "delay"  # each chunk arrives late
    CUT = "cut"  # connections end, new ones are refused
    RESET = "reset"  # connections are reset, new ones work
    STALL = "stall"  # nothing passes; what was sent arrives at the end
    HALF_OPEN = "half_open"  # the server sees open connections end, the client sees nothing; new ones work


@dataclass(eq=False)
class _Connection:
    """One connection of the client, with the one to the server."""

    client: Streams
    server: Streams
    is_half_open: bool = False
    waits_since: float | None = (
        None  # since when the client has no response to its last bytes; of the loop's time
    )

    def reset(self) -> None:
        """End both sides with RST."""
        for _, writer in (self.client, self.server):
            raw = writer.get_extra_info("socket")
            with suppress(OSError, AttributeError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
            writer.transport.abort()

    def close(self) -> None:
        """End both sides in order."""
        for _, writer in (self.client, self.server):
            writer.close()

    def half_open(self) -> None:
        """End the server's side; the client's stays open and gets nothing more."""
        self.is_half_open = True
        self.server[1].transport.abort()


@dataclass(eq=False)
class Network:
    """Proxy on a port of its own. `on_request` runs before each chunk of the client; false: the chunk is lost."""

    connect: Callable[[], Awaitable[Streams]]
    on_request: RequestWatcher | None = None
    port: int = 0
    delay_s: float = 0.0  # real seconds
    _refuses: bool = False
    _flows: asyncio.Event = field(default_factory=asyncio.Event)
    _connections: set[_Connection] = field(default_factory=set)
    _serving: "set[asyncio.Task[None]]" = field(default_factory=set)

    def begin(self, fault: NetworkFault, delay_s: float) -> None:
        """Begin a fault; RESET and HALF_OPEN have no length of their own."""
        match fault:
            case NetworkFault.DELAY:
                self.delay_s = delay_s
            case NetworkFault.STALL:
                self._flows.clear()
            case NetworkFault.CUT:
                self._refuses = True
                self._end_connections(_Connection.close)
            case NetworkFault.RESET:
                self._end_connections(_Connection.reset)
            case NetworkFault.HALF_OPEN:
                self._end_connections(_Connection.half_open)

    def heal(self) -> None:
        """End every fault. Connections that were half-opened stay so until the client closes them."""
        self.delay_s, self._refuses = 0.0, False
        self._flows.set()

    def longest_wait_s(self) -> float:
        """Return the real seconds for which the oldest request has had no response."""
        now = asyncio.get_running_loop().time()
        return max(
            (now - each.waits_since for each in self._connections if each.waits_since is not None), default=0
        )

    def reset_connections(self) -> None:
        """Reset every connection, as the kernel does for a server that was killed."""
        self._end_connections(_Connection.reset)

    def _end_connections(self, end: Callable[[_Connection], None]) -> None:
        for connection in list(self._connections):
            end(connection)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends."""
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        try:
            if self._refuses:
                return
            await self._flows.wait()
            with suppress(OSError):
                await self._serve(_Connection((reader, writer), await self.connect()))
        finally:
            writer.transport.abort()

    async def _serve(self, connection: _Connection) -> None:
        self._connections.add(connection)
        client, server = connection.client, connection.server
        ends = [
            asyncio.ensure_future(self._pass(client[0], server[1], connection, self.on_request)),
            asyncio.ensure_future(self._pass(server[0], client[1], connection, None)),
        ]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
            if connection.is_half_open:  # until the client gives up
                await asyncio.wait({ends[0]})
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
            self._connections.discard(connection)
            server[1].close()
            client[1].close()

    async def _pass(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        connection: _Connection,
        on_chunk: RequestWatcher | None,
    ) -> None:
        with suppress(OSError):
            while chunk := await reader.read(CHUNK):
                if reader is connection.client[0]:
                    connection.waits_since = connection.waits_since or asyncio.get_running_loop().time()
                else:
                    connection.waits_since = None
                if on_chunk is not None and not await on_chunk(chunk):
                    continue
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flows.wait()
                if connection.is_half_open:
                    continue
                writer.write(chunk)
                await writer.drain()


@asynccontextmanager
async def open_network(
    connect: Callable[[], Awaitable[Streams]], on_request: RequestWatcher | None = None
) -> AsyncIterator[Network]:
    """Open a healthy network to the server that `connect` reaches."""
    network = Network(connect, on_request)
    network.heal()
    server = await asyncio.start_server(network.serve, "127.0.0.1", 0)
    network.port = server.sockets[0].getsockname()[1]
    try:
        yield network
    finally:
        server.close()
        network.heal()
        network.reset_connections()
        for task in list(network._serving):
            task.cancel()
        await asyncio.gather(*network._serving, return_exceptions=True)
