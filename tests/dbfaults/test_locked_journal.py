"""Locks of other sessions: an advisory lock delays nothing; a lock on the journal or on a position delays no exit."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import pytest

from catalyst.daemon.shutdown import ExitCode
from catalyst.store import migrate
from tests.dbfaults.short_timeouts import short_lock_timeout
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_refused_exits import longest_gap


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
