"""Monitoring of a day: what /health and /metrics show while the daemon trades, loses its stream and is halted."""

import asyncio
import re
import socket
from datetime import UTC, datetime

import aiohttp
import orjson

from catalyst.daemon.monitoring.metrics import render_metrics
from tests.monitoring.sample_reading import HEALTHY
from tests.stories.scenario import Scenario, open_scenario
from tests.waiting import LIMIT_S, pause


def free_port() -> int:
    """Return a port of the loopback address that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        return port


class Monitor:
    """Scrapes the daemon of a scenario."""

    def __init__(self, scenario: Scenario, port: int) -> None:
        self.scenario = scenario
        self.port = port

    async def get(self, path: str) -> tuple[int, str]:
        """Advance until the figures of the database are new, then return status and body of a reading of now."""
        await self.scenario.advance(seconds=11)
        now = self.scenario.clock.now()
        async with aiohttp.ClientSession() as session, asyncio.timeout(LIMIT_S):
            while True:
                async with session.get(f"http://127.0.0.1:{self.port}{path}") as response:
                    body = await response.text()
                    if read_at(path, body) == now:
                        return response.status, body
                await pause()  # the server still has the reading of a moment ago

    async def health(self) -> tuple[int, dict[str, str]]:
        """Return the status, and the reasons of /health by the name of their problem."""
        status, body = await self.get("/health")
        return status, {problem["name"]: problem["reason"] for problem in orjson.loads(body)["problems"]}

    async def metrics(self) -> str:
        """Return the body of /metrics; `promtool check metrics` finds nothing in it."""
        status, body = await self.get("/metrics")
        assert status == 200
        return body


def read_at(path: str, body: str) -> datetime:
    """Return the time of the reading that an answer shows."""
    if path == "/health":
        return datetime.fromisoformat(orjson.loads(body)["at"])
    return datetime.fromtimestamp(sample(body, "catalyst_time_seconds") or 0, UTC)


def sample(metrics: str, name: str) -> float | None:
    """Return the value of a sample, named with its labels; None when there is none."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", metrics, re.MULTILINE)
    return None if found is None else float(found[1])


def family_names(metrics: str) -> set[str]:
    """Return the names of all families, with or without a sample."""
    return set(re.findall(r"^# TYPE (\S+) ", metrics, re.MULTILINE))


async def test_monitoring_shows_a_day(database: str) -> None:
    """A taken port costs only the monitoring, until it is free. Then: a healthy start, a protected position with its
    latencies, a lost stream, and a halt."""
    port = free_port()
    async with open_scenario(database, started=False, monitoring={"port": port}) as scenario:
        with socket.create_server(("127.0.0.1", port)):
            await scenario.start()
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=61)  # the daemon tries the port again each minute
        monitor = Monitor(scenario, port)
        assert await monitor.health() == (200, {})
        metrics = await monitor.metrics()
        for name, value in {
            "catalyst_healthy": 1,
            "catalyst_entries_open": 1,
            "catalyst_positions": 1,
            "catalyst_positions_unprotected": 0,
            "catalyst_orders_working": 2,
            "catalyst_database_up": 1,
            "catalyst_daily_loss_limit_dollars": 2000,
            'catalyst_request_seconds_count{api="trading",method="POST",resource="orders"}': 1,
            "catalyst_order_seconds_count": 1,
            'catalyst_alerts_waiting{severity="CRITICAL"}': 0,
        }.items():
            assert (name, sample(metrics, name)) == (name, value)
        assert (sample(metrics, "catalyst_trade_updates_total") or 0) >= 2
        assert 0 < (sample(metrics, 'catalyst_rate_remaining_requests{api="trading"}') or 0) <= 200
        assert sample(metrics, "catalyst_reconcile_age_seconds") is not None
        assert sample(metrics, "catalyst_stream_age_seconds") is not None
        assert sample(metrics, "catalyst_day_result_dollars") is not None
        assert family_names(metrics) == family_names(render_metrics(HEALTHY, 0.0).decode())

        await scenario.inject_fault("stream_refuse", count=3)
        scenario.server.streams.disconnect()
        status, problems = await monitor.health()
        assert (status, problems.keys()) == (503, {"stream", "entries_closed_stream"})
        metrics = await monitor.metrics()
        assert sample(metrics, "catalyst_stream_ready") == 0
        assert sample(metrics, 'catalyst_entries_closed{reason="stream"}') == 1
        await scenario.advance(seconds=60)
        assert await monitor.health() == (200, {})

        assert (await scenario.send_command("halt", reason="lunch"))["ok"]
        status, problems = await monitor.health()
        assert (status, problems.keys()) == (503, {"entries_closed_halt"})
        assert "lunch" in problems["entries_closed_halt"]
