"""Flatten without a daemon, and without a database: the shares are sold, and the next start obeys the latch."""

import asyncio
import os
import signal
from collections.abc import Mapping
from dataclasses import replace

from catalyst.cli.commands import flatten_or_fall_back
from catalyst.daemon import flatten_alone
from catalyst.daemon.flatten_alone import FlattenResult
from catalyst.daemon.shutdown import ExitCode, stop_on_signals
from catalyst.daemon.trading_state.host_lock import HostLock
from tests.stories.scenario import Scenario, open_scenario


async def advance_until_done(scenario: Scenario, task: "asyncio.Task[FlattenResult]") -> FlattenResult:
    """Advance time until the flatten has ended; return its result."""
    for _ in range(300):
        if task.done():
            return task.result()
        await scenario.advance(seconds=1)
    raise AssertionError("the flatten does not end")


async def assert_latched_until_resume(scenario: Scenario) -> None:
    """Start a daemon; check that it obeys the latch, shows the exit, and enters again after a resume."""
    await scenario.start()
    await scenario.advance(seconds=20)
    assert scenario.components is not None
    assert "flatten" in scenario.components.gate.reasons
    position = await scenario.position("AAPL")
    assert position is not None
    assert (position["status"], position["close_reason"].partition(":")[0]) == ("closed", "MANUAL")
    until = await scenario.conn.fetchval("SELECT until FROM latches WHERE name = 'flatten'")
    assert until is None
    assert (await scenario.send_command("resume"))["still_closed"] == []


async def test_flatten_without_a_daemon_sells_and_latches(database: str) -> None:
    """Given shares and no daemon, a flatten takes the account, sells, proves it, and leaves the latch."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        task = asyncio.create_task(
            flatten_alone.flatten_with_database(scenario.settings, scenario.dsn, scenario.clock)
        )
        result = await advance_until_done(scenario, task)
        assert (result.flat, scenario.held_qty("AAPL")) == (True, 0)
        assert await scenario.conn.fetchval("SELECT bool_and(flat) FROM flat_proofs")
        await assert_latched_until_resume(scenario)
        await scenario.assert_consistent()


async def test_flatten_beside_a_starting_daemon_is_carried_out_by_it(database: str) -> None:
    """Given a daemon that holds the lock of the machine and no lease yet, a flatten waits for it; a flatten that this
    process carries out is answered, so that the next start does not repeat it."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        name = scenario.settings.account_name(await scenario.conn.fetchval("SELECT account_id FROM daemon"))
        starting = HostLock.acquire(scenario.settings.spool_dir, name, "process 1, since 14:00:00 UTC")
        task = await start_flatten_by_cli(scenario)
        listening = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'LISTEN%catalyst_answers%'"
        while not await scenario.conn.fetchval(listening):
            assert not task.done(), task
            await scenario.advance(seconds=0.1)
        starting.release()
        await scenario.start()
        while not task.done():
            await scenario.advance(seconds=1)
        assert (task.result()["flat"], scenario.held_qty("AAPL")) == (True, 0)
        assert await unanswered_commands(scenario) == 0
        await scenario.crash()
        await assert_latched_until_resume(scenario)
        await scenario.crash()
        task = await start_flatten_by_cli(scenario)
        while not task.done():
            await scenario.advance(seconds=1)
        assert (task.result()["flat"], await unanswered_commands(scenario)) == (True, 0)


async def start_flatten_by_cli(scenario: Scenario) -> "asyncio.Task[Mapping[str, object]]":
    """Store the row of a flatten and begin to carry it out as `catalyst flatten` does."""
    command_id = await scenario.conn.fetchval(
        "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
        " VALUES ('flatten', '{}', $1, 'trader') RETURNING command_id",
        scenario.clock.now(),
    )
    return asyncio.create_task(
        flatten_or_fall_back(scenario.settings, scenario.dsn, scenario.clock, command_id)
    )


async def unanswered_commands(scenario: Scenario) -> int:
    """Return how many commands have no answer."""
    count: int = await scenario.conn.fetchval("SELECT count(*) FROM commands WHERE answered_at IS NULL")
    return count


async def test_flatten_without_a_database_sells_what_our_orders_bought(database: str) -> None:
    """Given our shares, shares of a person and neither daemon nor database, a flatten sells ours alone, also when it is
    interrupted; the next start imports what it did."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await scenario.admin(
            "order", {"symbol": "MSFT", "side": "buy", "qty": "7", "type": "market", "time_in_force": "day"}
        )
        await scenario.advance(seconds=1)
        await scenario.crash()
        task = asyncio.create_task(flatten_alone.flatten_without_database(scenario.settings, scenario.clock))
        while not list(scenario.settings.spool_dir.glob("*.spool")):
            await scenario.advance(seconds=0.1)
        os.kill(os.getpid(), signal.SIGINT)
        result = await advance_until_done(scenario, task)
        assert result.flat
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 7)
        await assert_latched_until_resume(scenario)


async def test_flatten_without_a_database_signals_a_living_daemon(database: str) -> None:
    """Given a daemon of this machine, a flatten without the database makes it flatten and end, and reads its proof."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        on_keep = scenario.settings.config.shutdown.model_copy(update={"on_sigterm": "keep"})
        config = scenario.settings.config.model_copy(update={"shutdown": on_keep})
        stop_on_signals(scenario.stop, replace(scenario.settings, config=config))
        task = asyncio.create_task(flatten_alone.flatten_without_database(scenario.settings, scenario.clock))
        assert await scenario.wait_for_exit() == ExitCode.FLAT
        result = await task
        assert (result.flat, result.daemon_ended, scenario.held_qty("AAPL")) == (True, True, 0)
        await assert_latched_until_resume(scenario)
        await scenario.assert_consistent()
