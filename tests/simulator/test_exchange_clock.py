"""The market's clock by hand: pace, pause, step and jump, over the side door."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from catalyst.clock import Clock, ManualClock, ScaledClock
from catalyst.simulator.server import running
from tests.simulator.exchange_scenario import Desk
from tests.simulator.manual_feed import at
from tests.simulator.served_exchange import KEYS, ORDER


class Hand:
    """A client of the side door, at a desk whose clock is a real one."""

    def __init__(self, desk: Desk, client: aiohttp.ClientSession) -> None:
        self.desk = desk
        self._client = client

    async def asks(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._client.request(method, path, json=body) as response:
            return response.status, await response.json()

    async def sets(self, **body: Any) -> Any:
        status, answer = await self.asks("POST", "/admin/clock", body)
        assert status == 200, answer
        return answer


@asynccontextmanager
async def standing(clock: Clock) -> AsyncIterator[Hand]:
    """A desk at eleven o'clock, on a clock that somebody else may own."""
    desk = Desk()
    async with (
        running(desk.exchange, clock) as server,
        aiohttp.ClientSession(server.url, headers=KEYS) as client,
    ):
        yield Hand(desk, client)


@pytest.fixture
def still(tmp_path: Path) -> ScaledClock:
    """A clock that stands at eleven o'clock, and is the exchange's to set."""
    ScaledClock.create(tmp_path / "clock", at("11:00"))
    return ScaledClock(tmp_path / "clock", drive=True, speed=0.0)


async def test_a_step_and_a_jump_live_through_what_lies_between(still: ScaledClock) -> None:
    """Paused, nothing happens; a step fills the order, a jump over the close ends the day order there."""
    async with standing(still) as hand:
        _, bought = await hand.asks("POST", "/v2/orders", ORDER)
        _, bid = await hand.asks("POST", "/v2/orders", {**ORDER, "type": "limit", "limit_price": 50})
        assert (await hand.asks("GET", f"/v2/orders/{bought['id']}"))[1]["status"] == "pending_new"
        told = await hand.sets(seconds=1)
        assert (told["now"], told["speed"]) == ("2026-03-09T15:00:01+00:00", 0.0)
        assert (await hand.asks("GET", f"/v2/orders/{bought['id']}"))[1]["status"] == "filled"
        assert (await hand.sets(to="15:59:59"))["new_york"] == "2026-03-09T15:59:59-04:00"
        assert (await hand.asks("GET", f"/v2/orders/{bid['id']}"))[1]["status"] == "new"
        await hand.sets(to="2026-03-10T09:31:00-04:00")
        ended = (await hand.asks("GET", f"/v2/orders/{bid['id']}"))[1]
        assert (ended["status"], ended["expired_at"]) == ("expired", "2026-03-09T20:00:00.000000000Z")


async def test_the_pace_is_set_while_it_runs(still: ScaledClock) -> None:
    """From standing to six hundred times life and back; while it runs the exchange lives by itself."""
    async with standing(still) as hand:
        _, order = await hand.asks("POST", "/v2/orders", ORDER)
        assert (await hand.sets(speed=600))["speed"] == 600.0
        await still.sleep(timedelta(seconds=5))
        assert (await hand.sets(speed=0))["speed"] == 0.0
        stands = still.now()
        assert (await hand.asks("GET", f"/v2/orders/{order['id']}"))[1]["status"] == "filled"
        assert still.now() == stands


@pytest.mark.parametrize(
    "body",
    [{}, {"spede": 1}, {"speed": -1}, {"seconds": -1}, {"seconds": "many"}, {"to": "10:59"}, {"to": "noon"}],
)
async def test_nonsense_changes_nothing(still: ScaledClock, body: dict[str, Any]) -> None:
    """Unknown words, negative numbers, no times, and times that have passed."""
    async with standing(still) as hand:
        status, answer = await hand.asks("POST", "/admin/clock", body)
        assert (status, answer["code"]) == (422, 40010001)
        assert (still.now(), still.speed) == (at("11:00"), 0.0)


async def test_a_clock_of_somebody_else_is_not_set(still: ScaledClock, tmp_path: Path) -> None:
    """A follower of a daemon's clock and a clock that no file holds refuse."""
    assert still.drives
    for clock in (ScaledClock(tmp_path / "clock"), ManualClock(at("11:00"))):
        async with standing(clock) as hand:
            assert (await hand.asks("POST", "/admin/clock", {"speed": 2}))[0] == 422
            assert (await hand.asks("GET", "/admin/clock"))[1]["now"] == "2026-03-09T15:00:00+00:00"
