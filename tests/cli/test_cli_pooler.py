"""Pooler: a session without the settings that guard it is refused, with advice to connect directly."""

import asyncio

import pytest
from cli.shell import Shell

from catalyst.clock import ManualClock
from catalyst.domain.errors import DatabasePooled
from catalyst.store.driver_errors import translated_errors
from catalyst.store.pool import connect, open_store
from tests.dbfaults.postgres_proxy import open_proxy

ADVICE = "connect directly, not through a pooler (DigitalOcean: port 25060, not 25061)"


async def test_store_refuses_a_session_whose_settings_were_ignored(database: str, clock: ManualClock):
    """A session pool that drops the time-outs and the time zone is recognized by reading them back."""
    async with open_proxy(database) as proxy:
        proxy.ignores_settings = True
        for attempt in (lambda: open_store(proxy.dsn, clock), lambda: connect(proxy.dsn, "test")):
            with pytest.raises(DatabasePooled) as caught:
                await attempt()
            assert ADVICE in str(caught.value)
            assert "it ignores " in str(caught.value)
            assert "statement_timeout, lock_timeout" in str(caught.value)
        proxy.ignores_settings = False
        await (await open_store(proxy.dsn, clock)).close()


async def test_store_recognizes_a_pooler_that_refuses_settings(database: str, clock: ManualClock):
    """A transaction pool refuses the settings of a session in words of its own."""
    async with open_proxy(database) as proxy:
        proxy.reject_connections("08P01", "unsupported startup parameter: statement_timeout")
        with pytest.raises(DatabasePooled, match="unsupported startup parameter: statement_timeout"):
            await open_store(proxy.dsn, clock)


async def test_store_recognizes_a_pooler_by_a_foreign_prepared_statement(database: str):
    """A transaction pool hands the next statement to another server, which does not know what was prepared."""
    conn = await connect(database, "test")
    try:
        prepared = await conn.prepare("SELECT 1")
        await conn.execute("DEALLOCATE ALL")
        with pytest.raises(DatabasePooled, match="does not exist"), translated_errors():
            await prepared.fetchval()
    finally:
        conn.terminate()


async def test_commands_advise_to_connect_directly(database: str, shell: Shell):
    """`migrate` exits with 78 and `check` fails, each with the advice and without a traceback."""
    async with open_proxy(database) as proxy:
        proxy.ignores_settings = True
        shell.settings = {"DATABASE_URL": proxy.dsn}
        message = await asyncio.to_thread(shell.error_output, "migrate", "--status", exit_code=78)
        assert ADVICE in message
        facts = await asyncio.to_thread(shell.read_json, "check", exit_code=1)
        (found,) = [check for check in facts["checks"] if check["name"] == "database"]
        assert (found["verdict"], ADVICE in found["detail"]) == ("fail", True)
