from collections.abc import AsyncIterator
from datetime import UTC, datetime

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.request import Timeouts
from catalyst.clock import ManualClock
from tests.broker.scripted_server import KEY, SECRET, ScriptedServer, serve_scripted
from tests.waiting import LIMIT_S


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(datetime(2026, 11, 20, 15, 4, tzinfo=UTC))


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with serve_scripted() as up:
        yield up


@pytest.fixture
def malformed() -> list[tuple[str, object]]:
    return []


@pytest.fixture
async def broker(
    clock: ManualClock, server: ScriptedServer, malformed: list[tuple[str, object]]
) -> AsyncIterator[AlpacaBroker]:
    client = AlpacaBroker(
        clock,
        base_url=server.url,
        key=KEY,
        secret=SECRET,
        epoch=7,
        timeouts=Timeouts(connect=LIMIT_S, read=LIMIT_S, total=LIMIT_S),
        on_malformed=lambda reason, raw: malformed.append((reason, raw)),
    )
    yield client
    await client.close()
