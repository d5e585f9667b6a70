"""Control of the market clock over the admin API: speed, pause, step and jump."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from catalyst.clock import Clock, ManualClock, ScaledClock
from catalyst.simulator.server import run_server
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import at
from tests.simulator.served_exchange import KEYS, ORDER


class AdminClient:
    """A client of the admin API of an exchange on a scaled clock."""

    def __init__(self, scenario: ExchangeScenario, client: aiohttp.ClientSession) -> None:
        self.scenario = scenario
        self._client = client

    async def request(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        async with self._client.request(method, path, json=body) as response:
            return response.status, await response.json()

    async def set_clock(self, **body: Any) -> Any:
        status, answer = await self.request("POST", "/admin/clock", body)
        assert status == 200, answer
        return answer


@asynccontextmanager
async def serve_with_clock(clock: Clock) -> AsyncIterator[AdminClient]:
    """Serve an exchange at 11:00 on this clock, which may be driven elsewhere."""
    scenario = ExchangeScenario()
    async with (
        run_server(scenario.exchange, clock) as server,
        aiohttp.ClientSession(server.url, headers=KEYS) as client,
    ):
        yield AdminClient(scenario, client)


@pytest.fixture
def paused_clock(tmp_path: Path) -> ScaledClock:
    """A clock paused at 11:00 that the exchange may set."""
    ScaledClock.create(tmp_path / "clock", at("11:00"))
    return ScaledClock(tmp_path / "clock", drive=True, speed=0.0)


async def test_clock_step_and_jump_process_the_events_between(paused_clock: ScaledClock) -> None:
    """While paused nothing happens; a step fills the order, a jump over the close expires the day order at
    the close."""
    async with serve_with_clock(paused_clock) as admin:
        _, market_order = await admin.request("POST", "/v2/orders", ORDER)
        _, limit_order = await admin.request(
            "POST", "/v2/orders", {**ORDER, "type": "limit", "limit_price": 50}
        )
        assert (await admin.request("GET", f"/v2/orders/{market_order['id']}"))[1]["status"] == "pending_new"
        clock_state = await admin.set_clock(seconds=1)
        assert (clock_state["now"], clock_state["speed"]) == ("2026-03-09T15:00:01+00:00", 0.0)
        assert (await admin.request("GET", f"/v2/orders/{market_order['id']}"))[1]["status"] == "filled"
        assert (await admin.set_clock(to="15:59:59"))["new_york"] == "2026-03-09T15:59:59-04:00"
        assert (await admin.request("GET", f"/v2/orders/{limit_order['id']}"))[1]["status"] == "new"
        await admin.set_clock(to="2026-03-10T09:31:00-04:00")
        expired_order = (await admin.request("GET", f"/v2/orders/{limit_order['id']}"))[1]
        assert (expired_order["status"], expired_order["expired_at"]) == (
            "expired",
            "2026-03-09T20:00:00.000000000Z",
        )


async def test_clock_speed_is_set_while_running(paused_clock: ScaledClock) -> None:
    """The speed changes from 0 to 600 times real time and back; while the clock runs the exchange processes
    events."""
    async with serve_with_clock(paused_clock) as admin:
        _, order = await admin.request("POST", "/v2/orders", ORDER)
        assert (await admin.set_clock(speed=600))["speed"] == 600.0
        await paused_clock.sleep(timedelta(seconds=5))
        assert (await admin.set_clock(speed=0))["speed"] == 0.0
        paused_at = paused_clock.now()
        assert (await admin.request("GET", f"/v2/orders/{order['id']}"))[1]["status"] == "filled"
        assert paused_clock.now() == paused_at


@pytest.mark.parametrize(
    "body",
    [{}, {"spede": 1}, {"speed": -1}, {"seconds": -1}, {"seconds": "many"}, {"to": "10:59"}, {"to": "noon"}],
)
async def test_invalid_clock_request_changes_nothing(paused_clock: ScaledClock, body: dict[str, Any]) -> None:
    """Unknown fields, negative numbers, invalid times and past times are rejected."""
    async with serve_with_clock(paused_clock) as admin:
        status, answer = await admin.request("POST", "/admin/clock", body)
        assert (status, answer["code"]) == (422, 40010001)
        assert (paused_clock.now(), paused_clock.speed) == (at("11:00"), 0.0)


async def test_clock_driven_elsewhere_cannot_be_set(paused_clock: ScaledClock, tmp_path: Path) -> None:
    """A clock driven by another process and a clock without a file reject the request."""
    assert paused_clock.is_driver
    for clock in (ScaledClock(tmp_path / "clock"), ManualClock(at("11:00"))):
        async with serve_with_clock(clock) as admin:
            assert (await admin.request("POST", "/admin/clock", {"speed": 2}))[0] == 422
            assert (await admin.request("GET", "/admin/clock"))[1]["now"] == "2026-03-09T15:00:00+00:00"
