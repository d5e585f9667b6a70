"""Proxy between the daemon and PostgreSQL, which can drop, delay or cut what passes through it.

It reads as much of the wire protocol as it needs to recognize a commit: a COMMIT, or a statement that writes
outside a transaction. The first packet of a connection has no type byte; every other packet has a type byte
and a length.
"""

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

_SOCKET = ".s.PGSQL.5432"
_WRITES = re.compile(r"\bINSERT\s+INTO\b|\bSET\b|\bDELETE\s+FROM\b")


@dataclass
class _Connection:
    """One connection: its prepared statements, and whether no transaction is open on it."""

    idle: bool = True
    dropping_response: bool = False
    _prepared: dict[bytes, str] = field(default_factory=dict)

    def statement_of(self, packet: bytes) -> str | None:
        """Return the statement that a client packet starts; None when it starts none."""
        kind, rest = packet[:1], packet[5:]
        if kind == b"Q":
            return rest.rstrip(b"\0").decode()
        if kind == b"P":
            name, text = rest.split(b"\0")[:2]
            self._prepared[name] = text.decode()
        if kind == b"B":
            return self._prepared.get(rest.split(b"\0")[1])
        return None


@dataclass
class PostgresProxy:
    """Proxy that forwards everything until a fault is set. `dsn` is its own address, `upstream` the server's."""

    dsn: str
    upstream: str
    silent: bool = False  # drop bytes in both directions; accept new connections without an answer
    refusing: bool = False  # cut new connections at once
    latency: float = 0.0  # seconds of delay for each packet, in both directions
    commits: int = 0  # commits so far, with or without a response
    lost_responses: int = 0  # lost responses to a commit
    statements: list[str] = field(default_factory=list)  # all statements so far, in order
    round_trips: int = 0  # how often the client waited for a response
    rejection: tuple[str, str] | None = None  # SQLSTATE and message for new connections
    ignores_settings: bool = False  # like a pooler, leave the settings of new sessions out
    broken_transactions: int = 0  # transactions cut before their end
    on_silence: Callable[[], None] = lambda: None  # called when the silence begins
    on_resume: Callable[[], None] = lambda: None
    _break_next: bool = False
    _commits_until_loss: int = 0  # number of the next commit that loses its response
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    def lose_commit_response(self, nth: int = 1) -> None:
        """Lose the response to the `nth` commit from now, and its connection; the commit itself is applied."""
        self._commits_until_loss = nth

    def break_next_transaction(self) -> None:
        """Cut the connection before the next statement that is inside a transaction or writes without one."""
        self._break_next = True

    def reject_connections(self, sqlstate: str, message: str) -> None:
        """Cut every connection and answer new ones like a server that starts up or shuts down."""
        self.rejection = (sqlstate, message)
        self.cut_connections()

    def cut_connections(self) -> None:
        """Cut every connection now."""
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse_connections(self) -> None:
        """Cut every connection and refuse new ones."""
        self.refusing = True
        self.cut_connections()

    def stop_forwarding(self) -> None:
        """Drop all bytes from now on without closing a connection."""
        self.silent = True
        self.on_silence()

    def resume(self) -> None:
        """Forward again; connections with dropped bytes are cut."""
        was_silent, self.silent, self.refusing, self.latency = self.silent, False, False, 0.0
        self.rejection = None
        if was_silent:
            self.cut_connections()
        self.on_resume()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one client until either side ends."""
        if self.refusing:
            writer.transport.abort()
            return
        if self.rejection is not None:
            await _send_rejection(reader, writer, *self.rejection)
            return
        task = asyncio.current_task()
        assert task is not None
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)
        self._writers.add(writer)
        upstream_writer: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                upstream_reader, upstream_writer = await _connect(self.upstream)
                self._writers.add(upstream_writer)
                connection = _Connection()
                directions = [
                    asyncio.ensure_future(self._forward_requests(reader, upstream_writer, connection)),
                    asyncio.ensure_future(self._forward_responses(upstream_reader, writer, connection)),
                ]
                await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
                for direction in directions:
                    direction.cancel()
                await asyncio.gather(*directions, return_exceptions=True)
        finally:
            for end in (writer, upstream_writer):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _forward_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: "_Connection"
    ) -> None:
        """Forward client packets; count round trips and commits, and apply the faults of requests."""
        first = await reader.readexactly(4)
        start = first + await reader.readexactly(int.from_bytes(first) - 4)
        await self._forward(writer, _without_settings(start) if self.ignores_settings else start)
        while True:
            packet = await _read_packet(reader)
            self.round_trips += packet[:1] in b"QS"
            statement = connection.statement_of(packet)
            if (
                packet[:1] == b"B"
                and self._break_next
                and (not connection.idle or _WRITES.search(statement or ""))
            ):
                self._break_next = False
                self.broken_transactions += 1
                return
            if statement is not None:
                self.statements.append(statement)
                if statement.startswith("COMMIT") or (connection.idle and _WRITES.search(statement)):
                    self.commits += 1
                    self._commits_until_loss -= 1
                    if self._commits_until_loss == 0:
                        connection.dropping_response = True
            await self._forward(writer, packet)

    async def _forward_responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: "_Connection"
    ) -> None:
        """Forward server packets, or drop those of a commit that must lose its response."""
        while True:
            packet = await _read_packet(reader)
            if packet[:1] == b"Z":
                connection.idle = packet[5:6] == b"I"
            if not connection.dropping_response:
                await self._forward(writer, packet)
            elif packet[:1] == b"Z":  # ReadyForQuery: the server has committed
                self.lost_responses += 1
                return

    async def _forward(self, writer: asyncio.StreamWriter, packet: bytes) -> None:
        """Write a packet after the latency, unless the proxy is silent."""
        if self.latency:
            await asyncio.sleep(self.latency)
        if not self.silent:
            writer.write(packet)
            await writer.drain()


def _without_settings(start: bytes) -> bytes:
    """Return the first packet of a connection with its user and database only."""
    words = start[8:].split(b"\0")
    pairs = [
        (name, value)
        for name, value in zip(words[::2], words[1::2], strict=False)
        if name in (b"user", b"database")
    ]
    body = start[4:8] + b"".join(name + b"\0" + value + b"\0" for name, value in pairs) + b"\0"
    return (len(body) + 4).to_bytes(4) + body


async def _read_packet(reader: asyncio.StreamReader) -> bytes:
    """Return the next packet with its type byte and length."""
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


async def _send_rejection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sqlstate: str, message: str
) -> None:
    """Answer the first packet of a connection with a FATAL error."""
    with suppress(OSError, asyncio.IncompleteReadError):
        first = await reader.readexactly(4)
        await reader.readexactly(int.from_bytes(first) - 4)
        fields = (("S", "FATAL"), ("V", "FATAL"), ("C", sqlstate), ("M", message))
        body = b"".join(name.encode() + text.encode() + b"\0" for name, text in fields) + b"\0"
        writer.write(b"E" + (len(body) + 4).to_bytes(4) + body)
        await writer.drain()
    writer.close()


async def _connect(dsn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the server of `dsn`, by its Unix socket or by TCP."""
    parts = urlsplit(dsn)
    if folder := parse_qs(parts.query).get("host"):
        return await asyncio.open_unix_connection(f"{folder[0]}/{_SOCKET}")
    return await asyncio.open_connection(parts.hostname, parts.port or 5432)


@asynccontextmanager
async def open_proxy(dsn: str) -> AsyncIterator[PostgresProxy]:
    """Open a proxy to the server of `dsn`, on its own Unix socket."""
    folder = Path(tempfile.mkdtemp(prefix="catalyst-proxy-"))
    parts = urlsplit(dsn)
    login = f"{parts.netloc.rpartition('@')[0]}@" if "@" in parts.netloc else ""
    query = f"host={quote(str(folder), safe='/')}&port=5432&sslmode=disable"
    proxy = PostgresProxy(urlunsplit(parts._replace(netloc=login, query=query)), dsn)
    server = await asyncio.start_unix_server(proxy.serve, folder / _SOCKET)
    try:
        yield proxy
    finally:
        server.close()
        proxy.refusing = True
        while proxy._serving:  # a connection ends once its sockets are closed
            proxy.cut_connections()
            await asyncio.wait(proxy._serving, timeout=0.05)
        await server.wait_closed()
        shutil.rmtree(folder)
