"""What the machine and the broker have only so many of: descriptors, and places at the stream."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp

from catalyst.broker.port import StreamState
from tests.stories.scenario import Desk, open_desk


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Nothing can be opened any more in this process, the exchange's side included; what is open stays."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_f095_no_descriptor_is_free(database: str) -> None:
    """The stream breaks and no socket can be opened: entries stop, the fill of the stop is found over the connections
    that are there, nothing is sold twice, and the stream comes back with the descriptors."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        await desk.faults("stream_disconnect", symbol="AAPL", count=1)
        with no_descriptor_left():
            desk.prints("AAPL", "187.90")
            await desk.waits(seconds=40)
            assert desk.parts.stream.state is not StreamState.READY
            assert not desk.parts.gate.open
            position = await desk.position("AAPL")
            assert position is not None
            assert (position["status"], desk.held("AAPL")) == ("closed", 0)
        await streams_again(desk)
        await desk.agrees()


async def streams_again(desk: Desk) -> None:
    """The stream is heard again, and entries are possible."""
    assert desk.parts is not None
    for _ in range(60):
        await desk.waits(seconds=5)
        if desk.parts.stream.state is StreamState.READY and desk.parts.gate.open:
            return
    raise AssertionError(f"{desk.parts.stream.state}: {desk.parts.gate.reasons}")


async def test_f039_another_client_has_the_one_place(database: str) -> None:
    """Somebody took our place at the stream: entries stop while we are turned away, what happens is found by asking,
    and once the place is free we have it again."""
    async with open_desk(database) as desk, aiohttp.ClientSession() as http:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        await desk.faults("stream_disconnect", symbol="AAPL", count=1)
        await desk.faults("stream_busy", count=1)  # so that the other one is the first to come
        desk.prints("AAPL", "187.90")
        while not desk.server.exchange.faults.fired.get("stream_busy"):
            await desk.waits(seconds=0.1)
        async with http.ws_connect(f"{desk.server.url}/stream"):
            await desk.waits(seconds=40)
            assert desk.parts.stream.state is not StreamState.READY
            assert "stream" in desk.parts.gate.reasons
            position = await desk.position("AAPL")
            assert position is not None
            assert (position["status"], desk.held("AAPL")) == ("closed", 0)
        await streams_again(desk)
        await desk.agrees()
