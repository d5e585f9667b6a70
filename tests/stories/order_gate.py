"""Proxy between a daemon process and the exchange: the first order reaches the exchange, and nothing comes back."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

ORDER_REQUEST = b"POST /v2/orders "


class OrderGate:
    """Forwards everything until the first order. The order is forwarded too, and from then on no byte reaches the
    daemon, from the stream neither, and no other request reaches the exchange."""

    def __init__(self, upstream: str) -> None:
        self.url = ""
        self.order_accepted = asyncio.Event()  # the exchange has responded to the order
        self._upstream = urlsplit(upstream)
        self._armed = True  # the first order closes the gate
        self._closed = False

    def open(self) -> None:
        """Forward everything from now on, orders too."""
        self._armed = self._closed = False

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection of the daemon until either side ends it."""
        try:
            with suppress(ConnectionError):
                upstream_reader, upstream_writer = await asyncio.open_connection(
                    self._upstream.hostname, self._upstream.port
                )
                order_sent = asyncio.Event()
                ends = [
                    asyncio.ensure_future(self._forward_requests(reader, upstream_writer, order_sent)),
                    asyncio.ensure_future(self._forward_responses(upstream_reader, writer, order_sent)),
                ]
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in ends:
                    end.cancel()
                await asyncio.gather(*ends, return_exceptions=True)
                upstream_writer.close()
        finally:
            writer.close()

    async def _forward_requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, order_sent: asyncio.Event
    ) -> None:
        last = b""
        while data := await reader.read(1 << 16):
            if self._armed and ORDER_REQUEST in last + data:
                self._armed, self._closed = False, True
                order_sent.set()
            last = data[-len(ORDER_REQUEST) :]
            if not self._closed or order_sent.is_set():
                writer.write(data)
                await writer.drain()

    async def _forward_responses(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, order_sent: asyncio.Event
    ) -> None:
        while data := await reader.read(1 << 16):
            if not self._closed:
                writer.write(data)
                await writer.drain()
            elif order_sent.is_set():
                self.order_accepted.set()


@asynccontextmanager
async def open_order_gate(upstream: str) -> AsyncIterator[OrderGate]:
    """Open a gate in front of the exchange at the URL `upstream`."""
    gate = OrderGate(upstream)
    server = await asyncio.start_server(gate.serve, "127.0.0.1", 0)
    gate.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield gate
    finally:
        server.close()
