"""Locks of other sessions: an advisory lock delays nothing; a lock on the journal or on a position delays no exit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from catalyst.daemon.shutdown import ExitCode
from catalyst.domain.errors import DatabaseContention
from catalyst.domain.order import Purpose
from catalyst.store import migrate
from tests.dbfaults.short_timeouts import short_lock_timeout
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_refused_exits import DAY_TRADING, longest_gap, working_stops


@asynccontextmanager
async def held_lock(scenario: Scenario, statement: str) -> AsyncIterator[None]:
    """Hold the lock of this statement in another session, while the daemon waits a fifth of a second for it."""
    assert scenario.components is not None
    other = await asyncpg.connect(scenario.dsn)
    try:
        async with short_lock_timeout(scenario.components.store):
            await other.execute("BEGIN")
            await other.execute(statement)
            yield
    finally:
        await other.close()


async def test_advisory_lock_of_another_session_delays_no_exit(database: str) -> None:
    """Given a session that may only connect holds the advisory lock that earlier releases used, then a position is
    closed within seconds."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        async with held_lock(scenario, "SELECT pg_advisory_xact_lock(206145, 1)"):
            assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
            await scenario.advance(seconds=3)
            assert scenario.held_qty("AAPL") == 0
            assert scenario.components is not None
            assert not scenario.components.outage_exit.spool.pending
        await scenario.assert_consistent()


async def test_journal_lock_is_denied_to_the_roles(database: str) -> None:
    """No role of the daemon and of the reports can lock the journal's row, and only the three roles may connect."""
    conn = await asyncpg.connect(database)
    try:
        await conn.execute(migrate.roles_sql())
        for role in ("catalyst_app", "catalyst_readonly"):
            await conn.execute(f"SET ROLE {role}")
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await conn.execute("SELECT 1 FROM journal_lock FOR UPDATE")
            await conn.execute("RESET ROLE")
        allowed = await conn.fetchval(
            "SELECT has_database_privilege('public', current_database(), 'CONNECT')"
        )
        assert allowed is False
    finally:
        await conn.execute("RESET ROLE")
        await conn.close()


LOCKS = {
    "journal": "SELECT 1 FROM journal_lock FOR UPDATE",
    "position": "SELECT 1 FROM positions FOR UPDATE",
}


@pytest.mark.parametrize("lock", LOCKS)
async def test_close_command_exits_without_the_database_when_a_lock_stays(database: str, lock: str) -> None:
    """Given another session keeps the journal, or the position, locked, when a person closes the position, then
    nothing is cancelled before the daemon gives the lock up; the shares are sold without the database, and their
    rows follow when the lock is gone."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        async with held_lock(scenario, LOCKS[lock]):
            await scenario.conn.execute(
                "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
                " VALUES ('close', '{\"symbol\": \"AAPL\"}', $1, 'a')",
                scenario.clock.now(),
            )
            for _ in range(40):
                await scenario.advance(seconds=1)
                if not scenario.held_qty("AAPL"):
                    break
            assert scenario.held_qty("AAPL") == 0
            assert await longest_gap(scenario, "AAPL") < 10
        await scenario.advance(seconds=130)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await scenario.assert_consistent()


async def test_sigterm_flattens_without_the_database_when_the_journal_stays_locked(database: str) -> None:
    """Given another session keeps the journal locked, when the daemon is stopped, then the shares are sold without
    the database, and they are without a stop for seconds only."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        async with held_lock(scenario, LOCKS["journal"]):
            scenario.stop.request("SIGTERM", flatten=True)
            assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert scenario.held_qty("AAPL") == 0
        assert await longest_gap(scenario, "AAPL") < 10


async def test_lock_on_an_alert_delays_no_stop(database: str) -> None:
    """Given a session that may only connect holds the advisory lock of an alert, and sales are refused, then the exit
    is postponed and the stop is back within seconds; the alert follows when the lock is gone."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault(**DAY_TRADING)
        lock = "SELECT pg_advisory_xact_lock(hashtextextended('alert EXIT_REFUSED:1', 0))"
        async with held_lock(scenario, lock):
            assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
            await scenario.advance(seconds=12)
            assert working_stops(scenario, "AAPL") == [("gtc", 20)]
            assert await longest_gap(scenario, "AAPL") < 5
            assert "EXIT_REFUSED" not in await scenario.alert_events()
            assert not scenario.components.outage_exit.spool.pending
        await scenario.advance(seconds=60)
        assert "EXIT_REFUSED" in await scenario.alert_events()
        await scenario.assert_consistent()


async def test_lock_cancels_no_stop_while_the_market_is_closed(database: str) -> None:
    """Given shares that stay over the close and another session that keeps the position locked, when a person closes
    the position after the close, then their stop works on, and no order is sent."""
    async with open_scenario(
        database, now=at("15:48"), once=False, positions={"close_all_at_market_close": False}
    ) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.clock.advance_to(at("16:02"))
        stop = (await scenario.orders("AAPL"))[-1]
        assert (stop["order_purpose"], stop["time_in_force"], stop["status"]) == (
            "stop_loss",
            "gtc",
            "accepted",
        )
        sent = await scenario.count_submitted("AAPL")
        async with held_lock(scenario, LOCKS["position"]):
            assert scenario.components is not None
            with pytest.raises(DatabaseContention):
                await scenario.components.exits.request(
                    1, reason="MANUAL: AAPL", purpose=Purpose.EXIT, by="a"
                )
            await scenario.advance(seconds=40)
        assert (await scenario.orders("AAPL"))[-1] == stop
        assert not (await scenario.admin("logs?method=DELETE"))["requests"]
        assert await scenario.count_submitted("AAPL") == sent
        assert not scenario.components.outage_exit.spool.pending
