"""A proxy between the daemon and its PostgreSQL, which can lose what passes through it.

It understands just enough of the wire protocol to know a COMMIT from the rest (the word itself, or a statement that
writes outside a transaction, which is one by itself): the first packet of a connection has no type byte, every other
has one and a length.
"""

import asyncio
import re
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs, quote, urlsplit, urlunsplit

_SOCKET = ".s.PGSQL.5432"
_WRITES = re.compile(r"\bINSERT\s+INTO\b|\bSET\b|\bDELETE\s+FROM\b")


@dataclass
class _Connection:
    """One connection: its prepared statements, and whether a transaction is open on it."""

    idle: bool = True
    dropping_response: bool = False
    _prepared: dict[bytes, str] = field(default_factory=dict)

    def statement_of(self, packet: bytes) -> str | None:
        """The statement that a packet of the client begins; None when it begins none."""
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
    """Forwards until told otherwise. `dsn` leads through it."""

    dsn: str
    upstream: str
    silent: bool = False  # bytes are swallowed both ways, new connections are taken and never answered
    refusing: bool = False  # new connections are cut at once
    latency: float = 0.0  # seconds before each packet goes on, either way
    commits: int = 0  # that passed, or were lost, so far
    lost_responses: int = 0  # answers to a COMMIT that were lost
    statements: list[str] = field(default_factory=list)  # every statement so far, in order
    round_trips: int = 0  # how often somebody waited for an answer
    rejection: tuple[str, str] | None = None  # SQLSTATE and words with which new connections are sent away
    broken_transactions: int = 0  # transactions that were cut in their middle
    _break_next: bool = False
    _commits_until_loss: int = 0  # the how-manieth COMMIT from now on loses its answer
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    def lose_commit_response(self, nth: int = 1) -> None:
        """The answer to the `nth` COMMIT from now on is lost, and its connection with it: it is applied."""
        self._commits_until_loss = nth

    def break_next_transaction(self) -> None:
        """The connection of the next statement inside a transaction, or that is one, ends before it is carried out."""
        self._break_next = True

    def reject_connections(self, sqlstate: str, message: str) -> None:
        """Every connection ends, and new ones are answered as by a server that starts up or shuts down."""
        self.rejection = (sqlstate, message)
        self.cut_connections()

    def cut_connections(self) -> None:
        """Every connection ends now."""
        for writer in list(self._writers):
            writer.transport.abort()

    def refuse_connections(self) -> None:
        """Every connection ends, and no new one is taken."""
        self.refusing = True
        self.cut_connections()

    def stop_forwarding(self) -> None:
        """Nothing passes any more; nobody is told."""
        self.silent = True

    def resume(self) -> None:
        """Everything passes again; what was swallowed is lost, so its connections end."""
        was_silent, self.silent, self.refusing, self.latency = self.silent, False, False, 0.0
        self.rejection = None
        if was_silent:
            self.cut_connections()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One client, until either side ends."""
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
                there, upstream_writer = await _connect(self.upstream)
                self._writers.add(upstream_writer)
                connection = _Connection()
                ways = [
                    asyncio.ensure_future(self._forward_requests(reader, upstream_writer, connection)),
                    asyncio.ensure_future(self._forward_responses(there, writer, connection)),
                ]
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
        finally:
            for end in (writer, upstream_writer):
                if end is not None:
                    self._writers.discard(end)
                    end.transport.abort()

    async def _forward_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: "_Connection"
    ) -> None:
        first = await reader.readexactly(4)
        await self._forward(writer, first + await reader.readexactly(int.from_bytes(first) - 4))
        while True:
            packet = await _read_packet(reader)
            self.round_trips += packet[:1] in b"QS"
            asked = connection.statement_of(packet)
            if (
                packet[:1] == b"B"
                and self._break_next
                and (not connection.idle or _WRITES.search(asked or ""))
            ):
                self._break_next = False
                self.broken_transactions += 1
                return
            if asked is not None:
                self.statements.append(asked)
                if asked.startswith("COMMIT") or (connection.idle and _WRITES.search(asked)):
                    self.commits += 1
                    self._commits_until_loss -= 1
                    if self._commits_until_loss == 0:
                        connection.dropping_response = True
            await self._forward(writer, packet)

    async def _forward_responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: "_Connection"
    ) -> None:
        while True:
            packet = await _read_packet(reader)
            if packet[:1] == b"Z":
                connection.idle = packet[5:6] == b"I"
            if not connection.dropping_response:
                await self._forward(writer, packet)
            elif packet[:1] == b"Z":  # the server is ready for the next: it has committed
                self.lost_responses += 1
                return

    async def _forward(self, writer: asyncio.StreamWriter, packet: bytes) -> None:
        if self.latency:
            await asyncio.sleep(self.latency)
        if not self.silent:
            writer.write(packet)
            await writer.drain()


async def _read_packet(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(int.from_bytes(head[1:]) - 4)


async def _send_rejection(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, sqlstate: str, message: str
) -> None:
    """What a server that is not ready answers to a connection's first packet."""
    with suppress(OSError, asyncio.IncompleteReadError):
        first = await reader.readexactly(4)
        await reader.readexactly(int.from_bytes(first) - 4)
        fields = (("S", "FATAL"), ("V", "FATAL"), ("C", sqlstate), ("M", message))
        body = b"".join(name.encode() + text.encode() + b"\0" for name, text in fields) + b"\0"
        writer.write(b"E" + (len(body) + 4).to_bytes(4) + body)
        await writer.drain()
    writer.close()


async def _connect(dsn: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(dsn)
    if folder := parse_qs(parts.query).get("host"):
        return await asyncio.open_unix_connection(f"{folder[0]}/{_SOCKET}")
    return await asyncio.open_connection(parts.hostname, parts.port or 5432)


@asynccontextmanager
async def open_proxy(dsn: str) -> AsyncIterator[PostgresProxy]:
    """A proxy in front of the server of `dsn`, listening on a Unix socket of its own."""
    folder = Path(tempfile.mkdtemp(prefix="catalyst-between-"))
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
        while proxy._serving:  # each ends by itself once its sockets are gone
            proxy.cut_connections()
            await asyncio.wait(proxy._serving, timeout=0.05)
        await server.wait_closed()
        shutil.rmtree(folder)
