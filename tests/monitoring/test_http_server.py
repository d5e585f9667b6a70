"""The HTTP server of the monitoring: scrapers that hang or hurry cost the daemon nothing."""

import asyncio
import urllib.error
import urllib.request
from typing import Final

import aiohttp
import pytest

from catalyst.clock import real_seconds
from catalyst.daemon.monitoring.http_server import MAX_CONNECTIONS, READING_LIFE_S, MonitoringServer
from catalyst.daemon.monitoring.reading import DaemonReading
from tests.monitoring.sample_reading import HEALTHY, reading

# Bytes that a scraper sends before it hangs; the last one never reads its fifty answers.
SENT_AND_LEFT: Final = (b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50)


class Readings:
    """Counts the readings that a server takes."""

    def __init__(self, taken: DaemonReading = HEALTHY) -> None:
        self.taken = taken
        self.count = 0

    def __call__(self) -> DaemonReading:
        self.count += 1
        return self.taken


async def get(port: int, path: str, **headers: str) -> tuple[int, str]:
    """Return status and body of a GET."""
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"http://127.0.0.1:{port}{path}", headers=headers) as response,
    ):
        return response.status, await response.text()


async def test_scrapers_that_hang_do_not_keep_others_out() -> None:
    """Forty connections that send nothing, half a request, or never read: a health check still gets its answer, and
    no more than the limit are open."""
    async with MonitoringServer(0, Readings()) as server:
        connections = []
        for number in range(40):
            connections.append(await asyncio.open_connection("127.0.0.1", server.port))
            connections[-1][1].write(
                [b"", b"GET /met", b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n" * 50][number % 3]
            )
            await connections[-1][1].drain()
        assert (await get(server.port, "/health"))[0] == 200
        still_open = [each for each in server._open if each.transport and not each.transport.is_closing()]
        assert len(still_open) <= MAX_CONNECTIONS
        # The oldest connection was aborted, and not because it lasted too long.
        with pytest.raises((ConnectionResetError, asyncio.IncompleteReadError)):
            await connections[0][0].readexactly(1)
        for _, writer in connections:
            writer.close()


async def test_scrapers_that_hurry_share_a_reading() -> None:
    """Two hundred scrapes at once share the readings of their fifth of a second."""
    readings = Readings()
    async with MonitoringServer(0, readings) as server:
        started_s = real_seconds()
        for _ in range(20):
            answers = await asyncio.gather(*(get(server.port, "/metrics") for _ in range(10)))
            assert {status for status, _ in answers} == {200}
        assert 1 <= readings.count <= 2 + (real_seconds() - started_s) / READING_LIFE_S


async def test_daemon_whose_event_loop_hangs_is_unhealthy() -> None:
    """A request that comes while the event loop is blocked is answered with 503 and the reason."""
    async with MonitoringServer(0, Readings()) as server:
        with pytest.raises(urllib.error.HTTPError) as refused:
            # The call blocks the event loop of this test, which is the daemon's here.
            urllib.request.urlopen(f"http://127.0.0.1:{server.port}/health", timeout=60)  # noqa: ASYNC210
        assert refused.value.code == 503
        assert b'"name": "event_loop"' in refused.value.read()
        refused.value.close()
        assert (await get(server.port, "/health"))[0] == 200


async def test_only_programs_of_this_machine_read_two_paths() -> None:
    """Another host name (DNS rebinding), path or method is refused; an unhealthy daemon answers 503."""
    async with MonitoringServer(0, Readings(reading(ready=False))) as server:
        assert (await get(server.port, "/metrics", Host="example.com"))[0] == 403
        assert (await get(server.port, "/"))[0] == 404
        assert (await get(server.port, "/metrics", Host="localhost:1"))[0] == 200
        status, body = await get(server.port, "/health")
        assert status == 503
        assert "reads every order and position" in body
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"http://127.0.0.1:{server.port}/health") as response,
        ):
            assert response.status == 405
        port = server.port
    with pytest.raises(aiohttp.ClientConnectorError):
        await get(port, "/health")
