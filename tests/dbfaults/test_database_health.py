"""Database health: one state that every loop reports to and asks."""

from datetime import timedelta

import pytest

from catalyst.clock import ManualClock
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.runtime.database_health import DatabaseHealth, DatabaseState
from catalyst.daemon.trading_state.entry_gate import EntryGate
from tests.dbfaults.proxied_scenario import open_proxied_scenario, wait_for_entry_gate

UP, SUSPECTED, DOWN = DatabaseState.UP, DatabaseState.SUSPECTED, DatabaseState.DOWN


@pytest.mark.parametrize(
    ("state", "report", "expected"),
    [
        (UP, "suspect", SUSPECTED),
        (UP, "clear_suspicion", UP),
        (UP, "mark_down", DOWN),
        (UP, "mark_up", UP),
        (SUSPECTED, "suspect", SUSPECTED),
        (SUSPECTED, "clear_suspicion", UP),
        (SUSPECTED, "mark_down", DOWN),
        (SUSPECTED, "mark_up", UP),
        (DOWN, "suspect", DOWN),
        (DOWN, "clear_suspicion", DOWN),  # only the stop monitor ends what it does without the database
        (DOWN, "mark_down", DOWN),
        (DOWN, "mark_up", UP),
    ],
)
async def test_database_health_changes_state_as_its_table_says(
    clock: ManualClock, state: DatabaseState, report: str, expected: DatabaseState
) -> None:
    """`since` moves with the state alone; a new suspicion wakes the stop monitor; down closes the entry gate."""
    gate, suspected = EntryGate(clock, reasons={}), ChangeSignal()
    health = DatabaseHealth(gate, clock, suspected)
    began = clock.now()
    if state is not UP:
        (health.suspect if state is SUSPECTED else health.mark_down)()
        gate.reasons.clear()
    before = suspected.version
    await clock.advance(timedelta(seconds=5))
    getattr(health, report)()
    assert health.state is expected
    assert (health.is_up, health.is_down) == (expected is UP, expected is DOWN)
    assert health.since == (began if state is expected else clock.now())
    assert suspected.version - before == int((state, expected) == (UP, SUSPECTED))
    assert ("database" in gate.reasons) is (report == "mark_down")


@pytest.mark.parametrize("reporter", ["protector", "daily_loss_limit"])
async def test_outage_met_by_one_loop_wakes_stop_monitor(database: str, reporter: str) -> None:
    """Whichever loop meets the outage first, the stop monitor watches without the database at once."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        await scenario.advance(seconds=5)
        components = scenario.components
        assert components is not None
        health = components.stop_monitor.health
        assert health.is_up
        proxy.reject_connections("57P03", "the database system is shutting down")
        if reporter == "protector":
            components.ledger.changed.notify()
        else:
            components.ledger.filled.notify()
        await scenario.advance(seconds=0.5)  # no loop has an interval below a second
        assert health.is_down
        assert "database" in components.gate.reasons
        down_since = health.since
        proxy.resume()
        await wait_for_entry_gate(scenario)
        await scenario.advance(seconds=6)  # the monitor reads every five seconds while the database is down
        assert health.is_up
        assert health.since > down_since
        await scenario.assert_consistent()
