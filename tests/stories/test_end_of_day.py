"""The close of the day: what cannot be asked at that moment is asked again, until the cycle is completed and proven."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from catalyst.daemon.app import ExitCode
from tests.simulator.manual_feed import at
from tests.stories.scenario import Facts, Scenario, open_scenario


async def last_cycle(scenario: Scenario) -> Facts:
    row = await scenario.conn.fetchrow("SELECT * FROM trading_cycles ORDER BY cycle_date LIMIT 1")
    return dict(row)


async def proof_results(scenario: Scenario, cause: str) -> Sequence[bool]:
    """Whether each proof of that cause proved it, oldest first."""
    found = await scenario.conn.fetch(
        "SELECT (facts ->> 'proven')::boolean AS proven FROM flat_proofs WHERE cause = $1 ORDER BY proof_id",
        cause,
    )
    return [row["proven"] for row in found]


async def trade_until_close(scenario: Scenario) -> None:
    """A position is left before the close, and nothing is held."""
    await scenario.given_position("AAPL", 20)
    scenario.print_trade("AAPL", "190.20", after=60)
    await scenario.advance(minutes=5)
    assert scenario.held_qty("AAPL") == 0


async def has_ended(scenario: Scenario) -> bool:
    """Whether the daemon has ended, given a few seconds: its tasks end in turns of the loop, which the clock does not
    wait for."""
    assert scenario._run_task is not None
    for _ in range(5):
        await scenario.advance(seconds=1)
    return scenario._run_task.done()


@pytest.mark.parametrize("route", ["/v2/account", "/v2/account/activities/FILL"])
async def test_close_is_retried_until_broker_reads_succeed(database: str, route: str) -> None:
    """Five minutes of errors on any of its reads: asked again, somebody is paged once, and then the cycle is completed
    with its proof; the daemon of one day does not end before."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await trade_until_close(scenario)
        await scenario.advance(minutes=6, seconds=30)
        await scenario.inject_fault("status_before", method="GET", route=route, status=503, count=0)
        await scenario.advance(minutes=5)
        assert (await last_cycle(scenario))["status"] == "closed"
        assert await proof_results(scenario, "the close of the day") == []
        assert scenario._run_task is not None
        assert not scenario._run_task.done()
        assert (await scenario.alert_events()).count("DAY_NOT_CLOSED") == 1
        await scenario.clear_faults()
        await scenario.advance(seconds=90)
        assert await has_ended(scenario)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        cycle = await last_cycle(scenario)
        assert cycle["status"] == "completed"
        assert cycle["end_equity"] == scenario.server.exchange.account.cash
        assert await proof_results(scenario, "the close of the day") == [True]
        assert "JOB_FAILED" not in await scenario.alert_events()


async def test_single_read_error_at_close_raises_no_alert(database: str) -> None:
    """One error: asked again at once, and nobody is told."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await trade_until_close(scenario)
        await scenario.advance(minutes=6, seconds=30)
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=503, count=2)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert (await last_cycle(scenario))["status"] == "completed"
        assert "DAY_NOT_CLOSED" not in await scenario.alert_events()


async def test_day_that_fails_until_after_close_is_still_closed(database: str) -> None:
    """The first look of the day fails until after the close, when the next session would be next: it is still this
    day that is begun, and ended."""
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
        assert (await last_cycle(scenario))["status"] == "completed"


async def test_missed_close_is_completed_next_morning(database: str) -> None:
    """It comes back the next morning: yesterday's cycle is completed and proven by yesterday's fills, and today has a
    cycle of its own."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await trade_until_close(scenario)
        await scenario.crash()
        await scenario.advance(hours=17)
        await scenario.start()
        await scenario.advance(seconds=10)
        yesterday = await last_cycle(scenario)
        assert yesterday["status"] == "completed"
        assert yesterday["realized_pnl"] == await scenario.conn.fetchval(
            "SELECT sum(realized_pnl) FROM positions"
        )
        assert await proof_results(scenario, "the close of the day, made up for") == [True]
        assert await scenario.conn.fetchval(
            "SELECT count(*) FROM trading_cycles WHERE cycle_date = $1 AND status = 'idle'",
            (at("09:00") + timedelta(days=1)).date(),
        )


async def test_missed_close_is_completed_by_start_after_close(database: str) -> None:
    """Dead from before the close until ten minutes after it: proven and completed then, not the next morning."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await trade_until_close(scenario)
        await scenario.crash()
        await scenario.advance(minutes=16)
        await scenario.start()
        await scenario.advance(seconds=10)
        assert (await last_cycle(scenario))["status"] == "completed"
        assert await proof_results(scenario, "the close of the day, made up for") == [True]


async def test_shares_held_over_missed_close_raise_one_alert(database: str) -> None:
    """Whoever is back after the close cannot leave them any more, and says so; another start says nothing new."""
    async with open_scenario(database, now=at("15:45")) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.advance(minutes=25)
        for _ in range(2):
            await scenario.start()
            await scenario.advance(seconds=10)
            assert (await scenario.alert_events()).count("NOT_FLAT") == 1
            assert await proof_results(scenario, "the close of the day") == [False]
            await scenario.crash()
        assert (await last_cycle(scenario))["status"] != "completed"


async def test_day_ending_with_shares_exits_with_not_flat_code(database: str) -> None:
    """Every exit is refused until the market is shut: the daemon of one day leaves, and not with the code of who is
    proven flat."""
    async with open_scenario(database, now=at("15:49")) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(
            "status_before", method="POST", route="/v2/orders", status=403, code=40310000, count=0
        )
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        assert scenario.held_qty("AAPL") == 20
        assert (await last_cycle(scenario))["status"] == "closed"
        assert await proof_results(scenario, "the close of the day") == [False]
