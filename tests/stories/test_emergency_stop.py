"""Emergency stop: latched first, logged step by step, completed after any crash, and configurable."""

from typing import Any

import pytest

from catalyst.domain.fault_points import Moment
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario

TIGHT_LIMITS = {"max_daily_loss": 30, "warning_threshold_pct": 75}


async def lose_over_limit(scenario: Scenario) -> None:
    """Lose more than the day may lose on 20 shares above their stop, while an entry of another symbol is
    working."""
    await scenario.given_position("AAPL", 20)
    scenario.print_trade("MSFT", "190.00")
    await scenario.advance(seconds=1)
    await scenario.submit_entry("MSFT", 10, limit="170.00", stop="160.00", target="190.00")
    await scenario.advance(seconds=2)
    scenario.print_trade("AAPL", "188.30")


async def day_state_after(scenario: Scenario, seconds: int = 100) -> Facts:
    """Advance time and return latch, event count, cycle, held shares and working entries."""
    await scenario.advance(seconds=seconds)
    latch = await scenario.conn.fetchrow("SELECT name FROM latches WHERE cleared_at IS NULL")
    events = await scenario.conn.fetchval(
        "SELECT count(*) FROM risk_events WHERE event_type = 'EMERGENCY_STOP'"
    )
    cycle = await scenario.conn.fetchrow("SELECT status, halted FROM trading_cycles")
    bids = [o for o in await scenario.orders("MSFT") if o["status"] in ("submitted", "accepted")]
    return {
        "latch": latch and latch["name"],
        "events": events,
        "cycle": cycle["status"],
        "halted": cycle["halted"],
        "held": scenario.held_qty("AAPL"),
        "bids": len(bids),
    }


STOPPED_STATE = {
    "latch": "emergency_stop",
    "events": 1,
    "cycle": "closed",
    "halted": True,
    "held": 0,
    "bids": 0,
}


async def test_emergency_stop_logs_each_step_in_order(
    database: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each step is one log line in this order; afterwards no entry reaches the broker."""
    async with open_scenario(database, risk=TIGHT_LIMITS) as scenario:
        await lose_over_limit(scenario)
        assert await day_state_after(scenario) == STOPPED_STATE
        lines = [line for line in capsys.readouterr().out.splitlines() if "emergency_stop " in line]
        steps = [line.split("step=")[1].split()[0] for line in lines if "step=" in line]
        assert steps == ["begun", "gate_closed", "latched", "recorded", "exiting", "exited", "done"]
        assert (await scenario.submit_entry("TSLA", 5, **ENTRY)).status == "rejected"
        assert await scenario.count_submitted("TSLA") == 0
        await scenario.assert_consistent()


@pytest.mark.parametrize(
    ("key", "expected_changes"),
    [
        ("close_all_positions_on_limit", {"held": 20}),
        ("halt_new_trades", {"latch": None, "cycle": "monitoring", "halted": False}),
        ("send_email_alert", {}),
    ],
)
async def test_emergency_stop_respects_each_config_key(
    database: str, key: str, expected_changes: dict[str, Any]
) -> None:
    """Each key set to false leaves out only its own part: the exits, the latch, or the delivery of the alert."""
    async with open_scenario(database, risk=TIGHT_LIMITS, emergency={key: False}) as scenario:
        await lose_over_limit(scenario)
        state = await day_state_after(scenario)
        if key == "halt_new_trades":
            state["cycle"] = expected_changes["cycle"]  # the cycle goes on
        assert state == STOPPED_STATE | expected_changes
        alert = await scenario.conn.fetchrow("SELECT delivered_at FROM alerts WHERE event = 'EMERGENCY_STOP'")
        assert (alert["delivered_at"] is not None) is (key == "send_email_alert")
        position = await scenario.position("AAPL")
        assert position is not None
        if key == "close_all_positions_on_limit":
            assert position["protected_at"] is not None
        await scenario.assert_consistent()


@pytest.mark.parametrize(
    ("step", "moment"),
    [
        ("latch", Moment.BEFORE),
        ("latch", Moment.AFTER),
        ("halt", Moment.AFTER),
        ("emergency_stop", Moment.AFTER),
        ("PATCH /orders/*", Moment.AFTER),
        ("DELETE /orders/*", Moment.AFTER),
    ],
)
async def test_emergency_stop_completes_after_crash(database: str, step: str, moment: Moment) -> None:
    """After a crash at any step the next start completes the stop once, and no entry is sent meanwhile."""
    async with open_scenario(database, risk=TIGHT_LIMITS) as scenario:
        if step.startswith("DELETE"):
            await scenario.refuse_replacements()
        await lose_over_limit(scenario)
        await scenario.crash_at(step, moment)
        await scenario.start()
        assert (await scenario.submit_entry("TSLA", 5, **ENTRY)).status == "rejected"
        assert await day_state_after(scenario, 130) == STOPPED_STATE
        assert await scenario.count_submitted("TSLA") == 0
        await scenario.assert_consistent()


TRADING_STATE = {"latch": None, "halted": False}  # without `halt_new_trades`


@pytest.mark.parametrize(
    ("step", "moment", "nth"),
    [
        ("emergency_stop", Moment.BEFORE, 1),
        ("emergency_stop", Moment.AFTER, 1),
        ("exit_intent", Moment.AFTER, 1),
        ("PATCH /orders/*", Moment.AFTER, 1),
        ("DELETE /orders/*", Moment.AFTER, 2),
        ("emergency_stop_done", Moment.BEFORE, 1),
    ],
)
async def test_emergency_stop_without_latch_completes_after_crash(
    database: str, step: str, moment: Moment, nth: int
) -> None:
    """Without a latch the next start resumes from the recorded event: no entry is allowed before everything
    is exited and cancelled once; then entries are allowed."""
    async with open_scenario(database, risk=TIGHT_LIMITS, emergency={"halt_new_trades": False}) as scenario:
        if step.startswith("DELETE"):
            await scenario.refuse_replacements()
        await lose_over_limit(scenario)
        await scenario.crash_at(step, moment, nth=nth)
        await scenario.start()
        state = await day_state_after(scenario, 130)
        assert state == STOPPED_STATE | TRADING_STATE | {"cycle": state["cycle"]}
        assert state["cycle"] != "closed"
        await assert_single_event(scenario)
        assert (await scenario.submit_entry("TSLA", 5, **ENTRY)).status != "rejected"
        await scenario.assert_consistent()


async def assert_single_event(scenario: Scenario) -> None:
    """Check that the emergency stop was recorded once and finished once."""
    events = await scenario.conn.fetch(
        "SELECT event_type FROM risk_events WHERE event_type LIKE 'EMERGENCY_STOP%' ORDER BY risk_event_id"
    )
    assert [row["event_type"] for row in events] == ["EMERGENCY_STOP", "EMERGENCY_STOP_DONE"]


async def test_unfinished_emergency_stop_blocks_entries(database: str) -> None:
    """An emergency stop whose exits hang blocks entries, also after a restart, until the operator resumes."""
    async with open_scenario(database, risk=TIGHT_LIMITS, emergency={"halt_new_trades": False}) as scenario:
        await lose_over_limit(scenario)
        await scenario.admin("halt", {"symbol": "AAPL"})
        await scenario.advance(seconds=70)
        assert scenario.held_qty("AAPL") == 20
        assert "emergency_stop_unfinished" in scenario.components.gate.reasons  # type: ignore[union-attr]
        await scenario.crash()
        await scenario.start()
        assert (await scenario.submit_entry("TSLA", 5, **ENTRY)).status == "rejected"
        answer = await scenario.send_command("resume")
        assert answer["ok"], answer
        assert (await scenario.submit_entry("TSLA", 5, **ENTRY)).status != "rejected"
        await assert_single_event(scenario)


async def test_emergency_stop_cancels_entries_after_crash(database: str) -> None:
    """With exits and halt off, a crash after the recorded event leaves no working entry, and the shares keep
    their stop."""
    emergency = {"halt_new_trades": False, "close_all_positions_on_limit": False}
    async with open_scenario(database, risk=TIGHT_LIMITS, emergency=emergency) as scenario:
        await lose_over_limit(scenario)
        await scenario.crash_at("emergency_stop", Moment.AFTER)
        await scenario.start()
        state = await day_state_after(scenario, 130)
        assert state == STOPPED_STATE | TRADING_STATE | {"cycle": state["cycle"], "held": 20}
        await assert_single_event(scenario)
        await scenario.assert_consistent()
