"""Faults of the database that the catalogue numbers and that no other file of this folder makes."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import asyncpg
import pytest

from catalyst.cli.app import exit_code
from catalyst.clock import ManualClock
from catalyst.daemon.startup import open_database
from catalyst.domain.errors import ConfigInvalid, DatabaseReplaced
from catalyst.domain.fault_points import Moment
from catalyst.store import migrate
from catalyst.store.pool import is_outage, is_transient
from tests.conftest import PostgresServer, database_name
from tests.dbfaults.dedicated_server import DedicatedServer, open_dedicated_server
from tests.dbfaults.proxied_scenario import (
    assert_sent_once,
    open_proxied_scenario,
    submit_entry,
    wait_for_entry_gate,
)
from tests.dbfaults.test_server_faults import assert_recovers, reconnect
from tests.simulator.manual_feed import at
from tests.stories.scenario import open_scenario


@pytest.mark.promise("F082")
@pytest.mark.parametrize("label", ["submit", "apply_report", "protected", "mark"])
async def test_transaction_cut_midway_is_repeated_whole(database: str, label: str) -> None:
    """Nothing of it is in the tables, it is done again whole, and the order is sent once or not at all."""
    async with open_proxied_scenario(database) as (scenario, proxy, commit_loss):
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        commit_loss.run_before(label, proxy.break_next_transaction)
        await submit_entry(scenario, "AAPL", 20)
        await scenario.advance(seconds=35)
        assert proxy.broken_transactions == 1
        for entry in await scenario.orders("AAPL"):
            assert entry["status"] in ("filled", "rejected", "submitted", "accepted")
        await wait_for_entry_gate(scenario)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.count_submitted("AAPL") == (0 if label == "submit" else 1)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.promise("F082")
async def test_no_broker_request_is_sent_inside_a_transaction(database: str) -> None:
    """Through an entry, its protection, an exit and a flatten, whoever has a transaction open asks the broker
    nothing before it has ended."""
    open_in: dict[object, str] = {}
    wrong: list[str] = []

    def watch(step: str, moment: Moment) -> None:
        task = asyncio.current_task()
        if " " in step:  # a request: a verb and a path
            if moment is Moment.BEFORE and task in open_in and not step.startswith(("WRITE", "LISTEN")):
                wrong.append(f"{step} in {open_in[task]}")
        elif moment is Moment.BEFORE:
            open_in[task] = step
        else:
            open_in.pop(task, None)

    async with open_scenario(database) as scenario:
        scenario.crash_trigger.on_step = watch
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await submit_entry(scenario, "AAPL", 20)
        await scenario.advance(seconds=20)
        await scenario.given_position("MSFT", 10)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=20)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert scenario.crash_trigger.steps
        assert wrong == []


@pytest.mark.promise("F083")
@pytest.mark.parametrize(
    "error",
    [
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("the protocol is out of step"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        ConnectionResetError(),
        ConnectionRefusedError(),
        asyncpg.ConnectionDoesNotExistError("closed in the middle of an operation"),
        asyncpg.ConnectionFailureError(),
        asyncpg.ReadOnlySQLTransactionError(),
        asyncpg.AdminShutdownError(),
        asyncpg.CrashShutdownError(),
        asyncpg.TooManyConnectionsError(),
        asyncpg.DiskFullError(),
        asyncpg.QueryCanceledError(),
        asyncpg.exceptions.TargetServerAttributeNotMatched(),
        TimeoutError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_transient_server_errors_are_outages(error: Exception) -> None:
    """Every class that a server was seen to answer with while it shut down, crashed or recovered is an outage."""
    assert is_outage(error)
    assert is_transient(error)


@pytest.mark.promise("F083")
def test_permanent_database_errors_are_not_outages() -> None:
    """A wrong statement, a broken constraint, a mistake of ours: no outage."""
    faults = (
        asyncpg.UndefinedTableError("x"),
        asyncpg.UniqueViolationError("x"),
        asyncpg.InsufficientPrivilegeError("x"),
        ValueError("x"),
        KeyError("x"),
    )
    assert [is_transient(fault) for fault in faults] == [False] * len(faults)
    contention = (
        asyncpg.DeadlockDetectedError(),
        asyncpg.SerializationError(),
        asyncpg.LockNotAvailableError(),
    )
    assert [(is_outage(one), is_transient(one)) for one in contention] == [(False, True)] * 3


@pytest.mark.promise("F083")
@pytest.mark.parametrize(
    ("sqlstate", "words"),
    [
        ("57P03", "the database system is in recovery mode"),
        ("57P03", "the database system is shutting down"),
        ("53300", "sorry, too many clients already"),
    ],
)
async def test_daemon_waits_for_server_that_rejects_connections(
    database: str, sqlstate: str, words: str
) -> None:
    """It answers, and sends everybody away: no entry, the exits at the broker stay, and all goes on by itself."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        proxy.reject_connections(sqlstate, words)
        await scenario.advance(minutes=3)
        assert "database" in scenario.components.gate.reasons
        assert await submit_entry(scenario, "MSFT", 10) is None
        assert len(scenario.server.exchange.order_store.live()) == 2
        proxy.resume()
        await scenario.advance(seconds=20)
        assert "DATABASE_OUTAGE" in await scenario.alert_events()
        await assert_recovers(scenario, before)


@pytest.mark.promise("F084")
@pytest.mark.usefixtures("short_timeouts")
async def test_exhausted_server_connections_close_gate_and_alert(database: str) -> None:
    """Nobody gets one: entries stop, somebody is paged while it lasts, past the pool; given back, all goes on."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        async with AsyncExitStack() as held:
            for _ in range(8):
                await held.enter_async_context(scenario.components.store._pool.acquire())
            await scenario.advance(seconds=15)
            assert "POOL_EXHAUSTED" in await scenario.alert_events()
            assert "database" in scenario.components.gate.reasons
            assert len(scenario.server.exchange.order_store.live()) == 2
        await assert_recovers(scenario, before)


@pytest.fixture
async def dedicated_server() -> AsyncIterator[DedicatedServer]:
    async with open_dedicated_server(wal_level="replica", max_wal_senders="4") as server:
        yield server


@pytest.mark.promise("F089")
@pytest.mark.usefixtures("restart_timeouts")
async def test_read_only_server_closes_gate_until_writable(dedicated_server: DedicatedServer) -> None:
    """Every write is answered with 25006: no entry, no defect, new connections look for a server that writes; once
    there is one, all goes on in the same epoch."""
    async with open_scenario(dedicated_server.dsn) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        await set_read_only(dedicated_server, True)
        await scenario.advance(seconds=30)
        assert "database" in scenario.components.gate.reasons
        assert await submit_entry(scenario, "MSFT", 10) is None
        assert len(scenario.server.exchange.order_store.live()) == 2
        await set_read_only(dedicated_server, False)
        await scenario.advance(seconds=10)
        await assert_recovers(scenario, before)


async def set_read_only(server: DedicatedServer, enabled: bool) -> None:
    conn = await asyncpg.connect(server.dsn)
    await conn.execute("SET default_transaction_read_only = off")
    await conn.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if enabled else 'off'}")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()


@pytest.fixture
def standby_folder() -> Iterator[Path]:
    """A folder whose path is short enough for a socket, for the second server's own user."""
    folder = Path(tempfile.mkdtemp(prefix="catalyst-standby-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.promise("F089")
@pytest.mark.usefixtures("restart_timeouts")
async def test_failover_to_standby_starts_new_epoch(
    dedicated_server: DedicatedServer, standby_folder: Path
) -> None:
    """The leader dies and its standby takes over: this daemon ends, for what was committed last may be missing
    there; the next one takes the lock of the new leader under a new epoch, and what the broker did is booked."""
    second = await dedicated_server.create_standby(standby_folder)
    try:
        async with open_scenario(dedicated_server.dsn, started=False) as scenario:
            scenario.dsn = second.dsn
            await scenario.start()
            await scenario.given_position("AAPL", 20)
            assert scenario.components is not None
            epoch = scenario.components.epoch
            await dedicated_server.stop()
            await second.promote()
            for _ in range(60):
                await scenario.advance(seconds=1)
                if scenario._run_task is None or scenario._run_task.done():
                    break
            assert scenario._run_task is not None
            with pytest.raises(ExceptionGroup) as ended:
                scenario._run_task.result()
            assert ended.group_contains(DatabaseReplaced)
            assert exit_code(ended.value) == 1  # started again, unlike 75 and 78
            await scenario._stack.aclose()
            scenario.components = None
            scenario.print_trade("AAPL", "194.05")  # the target fills while nobody is there
            await scenario.advance(seconds=5)

            await scenario.start()
            await reconnect(scenario)
            assert scenario.components is not None
            assert scenario.components.epoch == epoch + 1
            await scenario.advance(seconds=30)
            assert scenario.held_qty("AAPL") == 0
            position = await scenario.position("AAPL")
            assert position is not None
            assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
            await assert_sent_once(scenario)
            await scenario.assert_consistent()
    finally:
        await second.stop()


@pytest.mark.promise("F090")
async def test_restored_database_recovers_rows_from_broker(postgres: PostgresServer, database: str) -> None:
    """The tables are a copy of an hour ago, the broker is ahead: what it shows under our ids gets its rows again,
    its shares stay protected, somebody is paged, and nothing is sent twice."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.conn.close()
        old = postgres.create(database_name(database))
        try:
            scenario.conn = await asyncpg.connect(database)
            await scenario.start()
            await scenario.given_position("MSFT", 10)
            scenario.print_trade("AAPL", "194.05")
            await scenario.advance(seconds=10)
            assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 10)
            await scenario.crash()
            await scenario.conn.close()

            scenario.dsn = old
            scenario.conn = await asyncpg.connect(old)
            assert await scenario.orders("MSFT") == []
            await scenario.start()
            await scenario.advance(seconds=60)
            sold = await scenario.position("AAPL")
            assert sold is not None
            assert (sold["status"], scenario.held_qty("AAPL")) == ("closed", 0)
            entry = (await scenario.orders("MSFT"))[0]
            assert (entry["status"], entry["filled_qty"]) == ("filled", 10)
            assert entry["client_order_id"].startswith("cat-")
            assert (entry["order_purpose"], entry["origin"]) == ("entry", "catalyst")
            held = await scenario.position("MSFT")
            assert held is not None  # from the broker's fills
            assert (held["status"], held["quantity"], held["position_id"]) == (
                "open",
                10,
                entry["position_id"],
            )
            assert (held["stop_loss"], held["take_profit"]) == (188, 194)
            assert held["protected_at"] is not None
            assert "ORDER_ADOPTED" in await scenario.alert_events()
            await scenario.assert_consistent()
            stops = [one for one in scenario.server.exchange.order_store.live() if one.symbol == "MSFT"]
            assert stops  # what protects the shares is still there
            assert await scenario.count_submitted("MSFT") == 1
            await assert_sent_once(scenario)
        finally:
            if scenario.components is not None:
                await scenario.crash()
            await scenario.conn.close()
            postgres.drop(old)
            scenario.conn = await asyncpg.connect(database)


@pytest.mark.promise("F091")
async def test_start_is_refused_when_role_lacks_a_grant(database: str) -> None:
    """The daemon's role lacks one grant: the start is refused with 78 and names it; with the grant it is let in."""
    conn = await asyncpg.connect(database)
    await conn.execute(migrate.roles_sql())
    as_app = f"{database}{'&' if '?' in database else '?'}role=catalyst_app"
    async with AsyncExitStack() as stack:
        await open_database(stack, as_app, ManualClock(at("10:15")))
    for verb, table in (("INSERT", "order_events"), ("UPDATE", "daemon"), ("SELECT", "positions")):
        await conn.execute(f"REVOKE {verb} ON {table} FROM catalyst_app")
        async with AsyncExitStack() as stack:
            with pytest.raises(ConfigInvalid, match=f"{verb} on {table}") as refused:
                await open_database(stack, as_app, ManualClock(at("10:15")))
        assert exit_code(refused.value) == 78
        await conn.execute(f"GRANT {verb} ON {table} TO catalyst_app")
    await conn.close()
