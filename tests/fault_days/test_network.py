"""The network of a fault day: each fault does what its name says, and ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tests.fault_days.network import Network, NetworkFault, Streams, open_network
from tests.waiting import run_loop_turns, wait_until


@asynccontextmanager
async def echo_server() -> AsyncIterator[tuple[int, list[bytes]]]:
    """Run a server that returns each line; yield its port and everything that it received."""
    received: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                received.append(line)
                writer.write(line)
            received.append(b"end")
        except ConnectionError:
            received.append(b"reset")
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], received
    finally:
        server.close()


@asynccontextmanager
async def open_client(network: Network) -> AsyncIterator[Streams]:
    """Open a connection through the network."""
    reader, writer = await asyncio.open_connection("127.0.0.1", network.port)
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def exchange_line(client: Streams, line: bytes) -> bytes:
    """Send a line and return the response."""
    client[1].write(line)
    async with asyncio.timeout(60):
        return await client[0].readline()


async def test_stalled_bytes_arrive_when_the_network_heals() -> None:
    """While the network stalls nothing arrives, also on a new connection; afterwards everything does, in order."""
    async with (
        echo_server() as (port, received),
        open_network(lambda: asyncio.open_connection("127.0.0.1", port)) as network,
        open_client(network) as client,
    ):
        assert await exchange_line(client, b"one\n") == b"one\n"
        network.begin(NetworkFault.STALL, 0)
        client[1].write(b"two\n")
        async with open_client(network) as other:
            other[1].write(b"three\n")
            await run_loop_turns()
            assert received == [b"one\n"]
            network.heal()
            assert await client[0].readline() == b"two\n"
            assert await other[0].readline() == b"three\n"


@pytest.mark.parametrize("fault", [NetworkFault.CUT, NetworkFault.RESET])
async def test_cut_and_reset_end_both_sides(fault: NetworkFault) -> None:
    """A cut or a reset ends the connection for client and server; a new one works once the network is healthy."""
    async with (
        echo_server() as (port, received),
        open_network(lambda: asyncio.open_connection("127.0.0.1", port)) as network,
    ):
        async with open_client(network) as client:
            assert await exchange_line(client, b"one\n") == b"one\n"
            network.begin(fault, 0)
            try:
                assert await client[0].read() == b""
            except ConnectionResetError:
                assert fault is NetworkFault.RESET
            await wait_until(lambda: len(received) == 2)
        network.heal()
        async with open_client(network) as client:
            assert await exchange_line(client, b"two\n") == b"two\n"


async def test_half_open_connection_ends_for_the_server_alone() -> None:
    """The server sees the connection end; the client sees nothing and its bytes are lost; a new connection works."""
    async with (
        echo_server() as (port, received),
        open_network(lambda: asyncio.open_connection("127.0.0.1", port)) as network,
        open_client(network) as client,
    ):
        assert await exchange_line(client, b"one\n") == b"one\n"
        network.begin(NetworkFault.HALF_OPEN, 0)
        await wait_until(lambda: len(received) == 2)
        client[1].write(b"lost\n")
        async with open_client(network) as other:
            assert await exchange_line(other, b"two\n") == b"two\n"
        assert b"lost\n" not in received
        assert not client[0].at_eof()
        assert network.longest_wait_s() > 0


async def test_request_watcher_may_lose_a_request() -> None:
    """A chunk for which the watcher returns false does not reach the server."""

    async def passes(chunk: bytes) -> bool:
        return not chunk.startswith(b"DELETE")

    async with (
        echo_server() as (port, received),
        open_network(lambda: asyncio.open_connection("127.0.0.1", port), passes) as network,
        open_client(network) as client,
    ):
        client[1].write(b"DELETE /v2/orders\n")
        await wait_until(lambda: network.longest_wait_s() > 0)
        assert await exchange_line(client, b"GET\n") == b"GET\n"
        assert received == [b"GET\n"]
