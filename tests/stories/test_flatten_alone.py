"""Flatten without a daemon, and without a database: the shares are sold, and the next start obeys the latch."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from catalyst.cli.commands import flatten_or_fall_back
from catalyst.daemon import flatten_alone
from catalyst.daemon.flatten_alone import FlattenResult
from catalyst.daemon.shutdown import ExitCode, stop_on_signals
from catalyst.daemon.trading_state.host_lock import HostLock
from catalyst.domain.errors import BrokerSilent, UserError, WrongAccount
from catalyst.domain.outcome import MAX_IN_FLIGHT_TIME
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_operator_actions import order_by_hand
from tests.waiting import wait_until


async def advance_until_done(scenario: Scenario, task: "asyncio.Task[FlattenResult]") -> FlattenResult:
    """Advance time until the flatten has ended; return its result."""
    for _ in range(300):
        if task.done():
            return task.result()
        await scenario.advance(seconds=1)
    raise AssertionError("the flatten does not end")


@contextmanager
def lock_held(folder: Path, owner: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a process that holds the lock of the account under this text and has no handler for any signal."""
    [path] = folder.glob("*.lock")
    script = (
        "import os, pathlib, sys; from catalyst.daemon.trading_state.host_lock import HostLock;"
        "owner = sys.argv[3].format(pid=os.getpid());"
        "lock = HostLock.acquire(pathlib.Path(sys.argv[1]), sys.argv[2], owner);"
        "print('locked', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(folder), path.stem, owner]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"locked\n"
        yield child
        child.kill()


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
        assert await scenario.conn.fetchval("SELECT bool_and(flat AND cycle_id IS NOT NULL) FROM flat_proofs")
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


async def test_two_flattens_at_once_are_both_answered(database: str) -> None:
    """Given no daemon, two persons flatten at once: one process sells, both get the answer, and no command is left for
    the next start."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        tasks = [await start_flatten_by_cli(scenario) for _ in range(2)]
        while not all(task.done() for task in tasks):
            await scenario.advance(seconds=1)
        assert [task.result()["flat"] for task in tasks] == [True, True]
        assert (scenario.held_qty("AAPL"), await unanswered_commands(scenario)) == (0, 0)
        await assert_latched_until_resume(scenario)
        await scenario.assert_consistent()


async def test_flatten_gives_up_when_the_broker_is_silent(database: str) -> None:
    """Given shares, no daemon and a broker that does not answer, a flatten says so within a minute and stays
    requested; the next start carries it out."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.inject_fault("status_before", route="/v2/account", status=503, count=0)
        task = await start_flatten_by_cli(scenario)
        [fault] = scenario.server.exchange.state.faults.rules.values()
        await wait_until(lambda: fault.fired)
        began = scenario.clock.now()
        while not task.done():
            assert scenario.clock.now() - began < timedelta(minutes=1)
            await scenario.advance(seconds=1)
        with pytest.raises(BrokerSilent, match="keeps its stop at the broker; the flatten stays requested"):
            task.result()
        assert (scenario.held_qty("AAPL"), await unanswered_commands(scenario)) == (20, 1)
        assert "BROKER_UNREACHABLE" in await scenario.alert_events()
        await scenario.clear_faults()
        await scenario.start()
        await scenario.advance(seconds=20)
        assert (scenario.held_qty("AAPL"), await unanswered_commands(scenario)) == (0, 0)


async def test_flatten_refuses_a_database_of_another_mode(database: str) -> None:
    """Given a shell that means the simulator, because it lacks the keys of the service, and the database of a paper
    account, a flatten sells nothing and names both."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.conn.execute("UPDATE daemon SET mode = 'paper', broker_url = 'https://paper'")
        task = await start_flatten_by_cli(scenario)
        with pytest.raises(
            WrongAccount, match=r"belongs to a paper account at https://paper, .* the sim account"
        ):
            await task
        assert (scenario.held_qty("AAPL"), await unanswered_commands(scenario)) == (20, 1)


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


async def test_second_flatten_leaves_the_first_alone_and_a_dead_daemon_is_replaced(database: str) -> None:
    """Given a flatten that holds the lock, a second one is refused and signals nobody. Given a daemon without a signal
    handler, the flatten ends it, takes the lock and sells itself."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        folder = scenario.settings.spool_dir
        with lock_held(folder, "catalyst flatten, process {pid}, since 14:00:00 UTC") as first:
            with pytest.raises(UserError, match="a flatten already runs"):
                await flatten_alone.flatten_without_database(scenario.settings, scenario.clock)
            assert first.poll() is None
        assert scenario.held_qty("AAPL") == 20
        with lock_held(folder, "process {pid}, since 14:00:00 UTC") as daemon:
            task = asyncio.create_task(
                flatten_alone.flatten_without_database(scenario.settings, scenario.clock)
            )
            while not list(folder.glob("*.spool")):
                await scenario.advance(seconds=0.1)
            assert daemon.wait(5) == -signal.SIGTERM
            result = await advance_until_done(scenario, task)
        assert (result.flat, result.daemon_ended, scenario.held_qty("AAPL")) == (True, True, 0)


async def test_flatten_without_a_database_keeps_a_persons_shares_and_stops(database: str) -> None:
    """Given our shares, and shares of a person in the same symbol under their own stop, while the calendar cannot be
    read, a flatten sells ours alone, and says flat when no request of a dead daemon can arrive any more."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await order_by_hand(scenario, "AAPL", "buy", 30)
        await scenario.advance(seconds=1)
        terms = {"type": "stop", "stop_price": "150", "time_in_force": "gtc"}
        stop = await order_by_hand(scenario, "AAPL", "sell", 30, **terms)
        await scenario.inject_fault("status_before", route="/v2/calendar", status=503, count=0)
        task = asyncio.create_task(flatten_alone.flatten_without_database(scenario.settings, scenario.clock))
        began = scenario.clock.now()
        result = await advance_until_done(scenario, task)
        assert (result.flat, scenario.held_qty("AAPL")) == (True, 30)
        assert [order.id for order in scenario.server.exchange.state.order_store.live()] == [stop]
        assert scenario.clock.now() - began >= MAX_IN_FLIGHT_TIME


async def test_flatten_after_the_close_leaves_shares_under_a_lasting_stop(database: str) -> None:
    """Given shares whose day orders ended at the close, a flatten sells nothing, places a stop that stays, and says
    so."""
    async with open_scenario(database, now=at("15:45")) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.advance(minutes=16)
        for order in list(scenario.server.exchange.state.order_store.live()):
            await scenario.admin("cancel", {"id": order.id})
        scenario.server.exchange.confirm_cancels()
        task = asyncio.create_task(flatten_alone.flatten_without_database(scenario.settings, scenario.clock))
        result = await advance_until_done(scenario, task)
        assert (result.flat, scenario.held_qty("AAPL")) == (False, 20)
        assert "AAPL under a good-till-cancelled stop; the market is closed" in result.remains
        live = scenario.server.exchange.state.order_store.live()
        assert {(str(order.type), str(order.time_in_force), str(order.qty)) for order in live} == {
            ("limit", "gtc", "20"),
            ("stop", "gtc", "20"),
        }


@pytest.mark.parametrize(
    ("facts", "proven"),
    [
        ({"requested_by": "catalyst flatten", "flat": True, "proven": True}, True),
        ({"requested_by": "catalyst flatten", "flat": True, "proven": False}, False),
        ({"by": "catalyst flatten", "flat": True}, True),
        ({"requested_by": "SIGTERM", "flat": True, "proven": True}, False),
        ({}, False),
    ],
)
def test_proof_counts_when_this_flatten_asked_for_it(facts: dict[str, object], proven: bool) -> None:
    """A proof that the database contradicts, or of another request, does not prove this flatten."""
    assert flatten_alone.proves_our_flatten(facts) is proven
