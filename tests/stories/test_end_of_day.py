"""End of the day: the close is retried until the cycle is completed and proven flat."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from catalyst.daemon.app import ExitCode
from catalyst.domain.fault_points import Moment
from tests.simulator.manual_feed import at
from tests.stories.scenario import Facts, Scenario, open_scenario


async def first_cycle(scenario: Scenario) -> Facts:
    """Return the row of the earliest trading cycle."""
    row = await scenario.conn.fetchrow("SELECT * FROM trading_cycles ORDER BY cycle_date LIMIT 1")
    return dict(row)


async def proof_results(scenario: Scenario, cause: str) -> Sequence[bool]:
    """Return whether each proof of that cause proved flat, oldest first."""
    rows = await scenario.conn.fetch(
        "SELECT (facts ->> 'proven')::boolean AS proven FROM flat_proofs WHERE cause = $1 ORDER BY proof_id",
        cause,
    )
    return [row["proven"] for row in rows]


async def trade_until_close(scenario: Scenario) -> None:
    """Hold a position until the exits before the close have sold it."""
    await scenario.given_position("AAPL", 20)
    scenario.print_trade("AAPL", "190.20", after=60)
    await scenario.advance(minutes=5)
    assert scenario.held_qty("AAPL") == 0


async def has_ended(scenario: Scenario) -> bool:
    """Return whether the daemon has ended. It gets five more seconds, because the clock does not wait for the
    last turns of the event loop."""
    assert scenario._run_task is not None
    for _ in range(5):
        await scenario.advance(seconds=1)
    return scenario._run_task.done()


@pytest.mark.parametrize("route", ["/v2/account", "/v2/account/activities/FILL"])
async def test_close_is_retried_until_broker_reads_succeed(database: str, route: str) -> None:
    """When one of its reads fails for five minutes, the close is retried, one alert is raised, and then the
    cycle is completed and proven; only then the daemon with `once` exits."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await trade_until_close(scenario)
        await scenario.advance(minutes=6, seconds=30)
        await scenario.inject_fault("status_before", method="GET", route=route, status=503, count=0)
        await scenario.advance(minutes=5)
        assert (await first_cycle(scenario))["status"] == "closed"
        assert await proof_results(scenario, "end of day") == []
        assert scenario._run_task is not None
        assert not scenario._run_task.done()
        assert (await scenario.alert_events()).count("DAY_NOT_CLOSED") == 1
        await scenario.clear_faults()
        await scenario.advance(seconds=90)
        assert await has_ended(scenario)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        cycle = await first_cycle(scenario)
        assert cycle["status"] == "completed"
        assert cycle["end_equity"] == scenario.server.exchange.state.account.cash
        assert await proof_results(scenario, "end of day") == [True]
        assert "JOB_FAILED" not in await scenario.alert_events()


async def test_single_read_error_at_close_raises_no_alert(database: str) -> None:
    """Two failed reads at the close are retried without an alert."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await trade_until_close(scenario)
        await scenario.advance(minutes=6, seconds=30)
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=503, count=2)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert (await first_cycle(scenario))["status"] == "completed"
        assert "DAY_NOT_CLOSED" not in await scenario.alert_events()


async def test_day_that_fails_until_after_close_is_still_closed(database: str) -> None:
    """Given the start of the day fails until after the close, then this day is still begun and closed instead
    of the next one."""
    async with open_scenario(database, now=at("16:04:30"), started=False) as scenario:
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/account", status=503, nth=3, count=0
        )
        await scenario.start()
        await scenario.advance(minutes=2)
        await scenario.clear_faults()
        await scenario.advance(minutes=2)
        assert await has_ended(scenario)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert (await first_cycle(scenario))["status"] == "completed"


async def test_missed_close_is_completed_next_morning(database: str) -> None:
    """A start on the next morning completes yesterday's cycle, proven by yesterday's fills, and opens today's
    cycle."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await trade_until_close(scenario)
        await scenario.crash()
        await scenario.advance(hours=17)
        await scenario.start()
        await scenario.advance(seconds=10)
        yesterday = await first_cycle(scenario)
        assert yesterday["status"] == "completed"
        assert yesterday["realized_pnl"] == await scenario.conn.fetchval(
            "SELECT sum(realized_pnl) FROM positions"
        )
        assert await proof_results(scenario, "end of day, completed late") == [True]
        assert await scenario.conn.fetchval(
            "SELECT count(*) FROM trading_cycles WHERE cycle_date = $1 AND status = 'idle'",
            (at("09:00") + timedelta(days=1)).date(),
        )


async def test_missed_close_is_completed_by_start_after_close(database: str) -> None:
    """A start ten minutes after the close completes the missed close at once."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await trade_until_close(scenario)
        await scenario.crash()
        await scenario.advance(minutes=16)
        await scenario.start()
        await scenario.advance(seconds=10)
        assert (await first_cycle(scenario))["status"] == "completed"
        assert await proof_results(scenario, "end of day, completed late") == [True]


async def test_shares_held_over_missed_close_raise_one_alert(database: str) -> None:
    """A start after the close with shares held raises one alert, and none again at the next start."""
    async with open_scenario(database, now=at("15:45")) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.advance(minutes=25)
        for _ in range(2):
            await scenario.start()
            await scenario.advance(seconds=10)
            assert (await scenario.alert_events()).count("NOT_FLAT") == 1
            assert await proof_results(scenario, "end of day") == [False]
            await scenario.crash()
        assert (await first_cycle(scenario))["status"] != "completed"


async def test_day_ending_with_shares_exits_with_not_flat_code(database: str) -> None:
    """When every exit is rejected until the close, the daemon exits with the code NOT_FLAT."""
    session = {"flat_before_close_minutes": 6}  # each minute of refusals is a hundred orders
    async with open_scenario(database, now=at("15:53"), session=session) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault(
            "status_before", method="POST", route="/v2/orders", status=403, code=40310000, count=0
        )
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        assert scenario.held_qty("AAPL") == 20
        assert (await first_cycle(scenario))["status"] == "closed"
        assert await proof_results(scenario, "end of day") == [False]


async def test_day_report_is_raised_once_over_a_crash_and_a_restart(database: str) -> None:
    """A day without trades has its digest too. A crash before its row leaves it to the next start; a start after it
    raises none again."""
    async with open_scenario(database, now=at("15:58"), once=False) as scenario:
        await scenario.advance(minutes=3, seconds=50)
        await scenario.crash_at("day_report", Moment.BEFORE)
        assert "DAY_REPORT" not in await scenario.alert_events()
        for _ in range(2):
            await scenario.start()
            await scenario.advance(seconds=20)
            assert (await scenario.alert_events()).count("DAY_REPORT") == 1
            await scenario.crash()
        [report] = await scenario.conn.fetch(
            "SELECT severity, message FROM alerts WHERE event = 'DAY_REPORT'"
        )
        assert report["severity"] == "INFO"
        assert report["message"].startswith("Monday 09 March 2026: $0.00, 0 trades, proven flat\n")
        assert "no trade" in report["message"]
        head = await scenario.conn.fetchval(
            "SELECT encode(hash, 'hex') FROM journal_chain ORDER BY link DESC LIMIT 1"
        )
        assert f"hash {head or 'none'}" in report["message"]
