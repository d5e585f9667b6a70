"""Second day of one daemon process: nothing of the first day limits it."""

import heapq
from datetime import timedelta

from catalyst.clock import ManualClock
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_emergency_stop import TIGHT_LIMITS, lose_over_limit


def suspend_machine(clock: ManualClock, duration: timedelta) -> None:
    """Move the clock ahead and wake nobody meanwhile; every sleeper whose time has passed is due afterwards."""
    clock._now += duration
    clock._alarms = [(max(alarm_at, clock._now), number, alarm) for alarm_at, number, alarm in clock._alarms]
    heapq.heapify(clock._alarms)


async def stopped_cycles(scenario: Scenario) -> list[str]:
    """Return the cycle of each emergency stop and of each end of one, oldest first."""
    rows = await scenario.conn.fetch(
        "SELECT event_type, cycle_id FROM risk_events"
        " WHERE event_type IN ('EMERGENCY_STOP', 'EMERGENCY_STOP_DONE') ORDER BY risk_event_id"
    )
    return [f"{row['event_type']} {row['cycle_id']}" for row in rows]


async def test_emergency_stop_of_first_day_does_not_limit_the_second(database: str) -> None:
    """Given an emergency stop on Monday, when an operator resumes on Tuesday, then entries are sent, and
    Tuesday's loss stops Tuesday's cycle."""
    async with open_scenario(database, now=at("15:40"), once=False, risk=TIGHT_LIMITS) as scenario:
        assert scenario.components is not None
        current_day = scenario.components.current_day
        await lose_over_limit(scenario)
        await scenario.advance(minutes=24)
        monday = current_day.cycle_id
        suspend_machine(scenario.clock, timedelta(hours=17, minutes=25))
        await scenario.advance(minutes=3)
        assert current_day.market_open
        assert "emergency_stop" in scenario.components.gate.reasons
        assert (await scenario.send_command("resume"))["still_closed"] == []
        await lose_over_limit(scenario)
        await scenario.advance(seconds=90)
        tuesday = current_day.cycle_id
        assert tuesday != monday
        assert scenario.held_qty("AAPL") == 0
        assert await stopped_cycles(scenario) == [
            f"{event} {cycle}"
            for cycle in (monday, tuesday)
            for event in ("EMERGENCY_STOP", "EMERGENCY_STOP_DONE")
        ]
        statuses = await scenario.conn.fetch("SELECT status FROM trading_cycles ORDER BY cycle_id")
        assert [row["status"] for row in statuses] == ["completed", "closed"]
        await scenario.assert_consistent()
