from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import ManualClock
from tests.broker.scripted_server import KEY, SECRET, Peer, running


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 20, 15, 4, tzinfo=UTC))


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    async with running() as up:
        yield up


@pytest.fixture
def garbled() -> list[tuple[str, object]]:
    return []


@pytest.fixture
async def broker(
    clock: ManualClock, peer: Peer, garbled: list[tuple[str, object]]
) -> AsyncIterator[AlpacaBroker]:
    client = AlpacaBroker(
        clock,
        base_url=peer.url,
        key=KEY,
        secret=SECRET,
        epoch=7,
        on_garbled=lambda reason, raw: garbled.append((reason, raw)),
    )
    yield client
    await client.close()
