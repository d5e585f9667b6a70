"""Resource limits: exhausted file descriptors, and a stream connection taken by another client."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest

from catalyst.broker.port import StreamState
from tests.stories.scenario import Scenario, open_scenario


@contextmanager
def exhaust_descriptors() -> Iterator[None]:
    """Allow no new descriptors in this process, the exchange's server included; open ones stay open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.promise("F095")
async def test_daemon_recovers_from_exhausted_file_descriptors(database: str) -> None:
    """Given the stream breaks and no socket can be opened, then entries stop, the stop's fill is read over
    open connections, nothing is sold twice, and the stream reconnects later."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        await scenario.inject_fault("stream_disconnect", symbol="AAPL", count=1)
        with exhaust_descriptors():
            scenario.print_trade("AAPL", "187.90")
            await scenario.advance(seconds=40)
            assert scenario.components.stream.state is not StreamState.READY
            assert not scenario.components.gate.is_open
            position = await scenario.position("AAPL")
            assert position is not None
            assert (position["status"], scenario.held_qty("AAPL")) == ("closed", 0)
        await wait_for_stream(scenario)
        await scenario.assert_consistent()


async def wait_for_stream(scenario: Scenario) -> None:
    """Wait until the stream is ready and the entry gate open, at most five minutes of market time."""
    assert scenario.components is not None
    for _ in range(60):
        await scenario.advance(seconds=5)
        if scenario.components.stream.state is StreamState.READY and scenario.components.gate.is_open:
            return
    raise AssertionError(f"{scenario.components.stream.state}: {scenario.components.gate.reasons}")


@pytest.mark.promise("F039")
async def test_entries_wait_while_another_client_holds_the_stream(database: str) -> None:
    """While another client holds the only stream connection, entries stop and fills are polled; later the
    daemon reconnects."""
    async with open_scenario(database) as scenario, aiohttp.ClientSession() as http:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        await scenario.inject_fault("stream_disconnect", symbol="AAPL", count=1)
        await scenario.inject_fault("stream_busy", count=1)  # so that the other client connects first
        scenario.print_trade("AAPL", "187.90")
        while not scenario.server.exchange.state.faults.fired.get("stream_busy"):
            await scenario.advance(seconds=0.1)
        async with http.ws_connect(f"{scenario.server.url}/stream"):
            await scenario.advance(seconds=40)
            assert scenario.components.stream.state is not StreamState.READY
            assert "stream" in scenario.components.gate.reasons
            position = await scenario.position("AAPL")
            assert position is not None
            assert (position["status"], scenario.held_qty("AAPL")) == ("closed", 0)
        await wait_for_stream(scenario)
        await scenario.assert_consistent()
