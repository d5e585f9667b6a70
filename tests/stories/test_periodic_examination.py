"""The doctor inside the daemon: an issue is one event while it lasts, and a healthy day has none."""

from datetime import timedelta
from pathlib import Path

import pytest

from catalyst.daemon.shutdown import ExitCode
from catalyst.doctor.issues import IssueKind
from tests.simulator.manual_feed import at
from tests.stories.scenario import Facts, Scenario, open_scenario

EVERY = timedelta(seconds=60)  # instead of five minutes


@pytest.fixture(autouse=True)
def _short_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catalyst.daemon.runtime.periodic_examination.INTERVAL", EVERY)


async def issues_of(scenario: Scenario) -> list[Facts]:
    """Return kind and end of each issue that was ever found, oldest first."""
    rows = await scenario.conn.fetch(
        "SELECT event_type AS kind, ended_at IS NULL AS lasts FROM risk_events WHERE issue_key IS NOT NULL"
        " ORDER BY risk_event_id"
    )
    return [dict(row) for row in rows]


async def test_examinations_of_a_healthy_day_find_nothing(database: str) -> None:
    """From before the open over a trade that reaches its target, one that is exited for the close, and the close
    itself, no examination finds an issue."""
    async with open_scenario(database, now=at("09:20")) as scenario:
        await scenario.clock.advance_to(at("09:36"))
        await scenario.given_position("AAPL", 20)
        await scenario.advance(minutes=6)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(minutes=2)
        assert scenario.components is not None
        examinations = scenario.components.examination.count
        await scenario.crash()
        await scenario.clock.advance_to(at("15:41"))
        await scenario.start()
        await scenario.given_position("MSFT", 10)
        components = scenario.components
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert components is not None
        assert examinations + components.examination.count >= 40
        assert await issues_of(scenario) == []


async def test_issue_is_one_event_until_it_is_gone(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one event and one alert, over several examinations and a restart; with free space it ends."""
    async with open_scenario(database) as scenario:
        with monkeypatch.context() as patch:
            patch.setattr("catalyst.doctor.examination.LOW_DISK_BYTES", 1 << 62)
            await scenario.advance(minutes=3)
            await scenario.crash()
            await scenario.start()
            await scenario.advance(minutes=3)
            assert await issues_of(scenario) == [{"kind": "DISK_LOW", "lasts": True}]
            [alert] = await scenario.conn.fetch("SELECT event, severity, message, repeats FROM alerts")
            assert (alert["event"], alert["severity"], alert["repeats"]) == ("DOCTOR_ISSUE", "WARNING", 0)
            assert alert["message"].startswith("DISK_LOW: ")
        await scenario.advance(minutes=2)
        assert await issues_of(scenario) == [{"kind": "DISK_LOW", "lasts": False}]


async def test_issue_found_at_the_broker_lasts_while_the_broker_does_not_answer(database: str) -> None:
    """Without the broker nobody knows whether a difference is gone, so its event does not end."""
    async with open_scenario(database) as scenario:
        await scenario.inject_fault("clock_skew", seconds=3, count=0)
        await scenario.advance(minutes=2)
        assert {"kind": "CLOCK_SKEW", "lasts": True} in await issues_of(scenario)
        await scenario.clear_faults()
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/account/activities/FILL", status=503, count=0
        )
        await scenario.advance(minutes=2)
        found = await issues_of(scenario)
        assert {"kind": "ALPACA_ERROR", "lasts": True} in found
        assert {"kind": "CLOCK_SKEW", "lasts": True} in found
        await scenario.clear_faults()
        await scenario.advance(minutes=3)
        assert not any(issue["lasts"] for issue in await issues_of(scenario))


def test_every_issue_kind_is_named_by_a_test() -> None:
    folder = Path(__file__).parents[1]
    sources = [path for path in folder.rglob("test_*.py") if path != Path(__file__)]
    text = "\n".join(path.read_text() for path in sources)
    assert [kind for kind in IssueKind if kind not in text] == []
