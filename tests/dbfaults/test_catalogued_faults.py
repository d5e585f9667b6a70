"""Database faults of the fault catalogue that no other file of this folder covers."""

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
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import ConfigInvalid, DatabaseContention, DatabaseReplaced, DatabaseUnavailable
from catalyst.domain.fault_points import Moment
from catalyst.store import migrate
from catalyst.store.pool import Store
from tests.conftest import PostgresServer, database_name
from tests.dbfaults.dedicated_server import DedicatedServer, open_dedicated_server
from tests.dbfaults.proxied_scenario import (
    assert_sent_once,
    open_proxied_scenario,
    submit_entry,
    wait_for_entry_gate,
)
from tests.dbfaults.short_timeouts import exhausted_pool
from tests.dbfaults.test_server_faults import assert_recovers, reconnect
from tests.simulator.manual_feed import at
from tests.stories.scenario import open_scenario


@pytest.mark.promise("F082")
@pytest.mark.parametrize("label", ["submit", "apply_report", "protected", "mark"])
async def test_transaction_cut_midway_is_repeated_whole(database: str, label: str) -> None:
    """A transaction cut in its middle leaves no row and is repeated whole; the order is sent at most once."""
    async with open_proxied_scenario(database) as (scenario, proxy, commit_loss):
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        commit_loss.run_before(label, proxy.break_next_transaction)
        await submit_entry(scenario, "AAPL", 20)
        await scenario.advance(seconds=35)
        assert proxy.broken_transactions == 1
        statuses = [(row["order_purpose"], row["status"]) for row in await scenario.orders("AAPL")]
        assert statuses == (
            []
            if label == "submit"
            else [("entry", "filled"), ("take_profit", "accepted"), ("stop_loss", "accepted")]
        )
        await wait_for_entry_gate(scenario)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.count_submitted("AAPL") == (0 if label == "submit" else 1)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.promise("F082")
async def test_no_broker_request_is_sent_inside_a_transaction(database: str) -> None:
    """During entry, protection, exit and flatten no task sends a broker request while it has a transaction
    open."""
    open_transactions: dict[object, str] = {}
    violations: list[str] = []

    def check_step(step: str, moment: Moment) -> None:
        task = asyncio.current_task()
        if " " in step:  # a request has a verb and a path
            if (
                moment is Moment.BEFORE
                and task in open_transactions
                and not step.startswith(("WRITE", "LISTEN"))
            ):
                violations.append(f"{step} in {open_transactions[task]}")
        elif moment is Moment.BEFORE:
            open_transactions[task] = step
        else:
            open_transactions.pop(task, None)

    async with open_scenario(database) as scenario:
        scenario.crash_trigger.on_step = check_step
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
        assert violations == []


@pytest.mark.promise("F083")
async def test_transient_server_errors_are_outages(store: Store) -> None:
    """Each error of a server that shuts down, crashes or recovers counts as a database outage."""
    for error in (
        asyncpg.InterfaceError("connection is closed"),
        asyncpg.InternalClientError("the protocol is out of step"),
        asyncpg.CannotConnectNowError("the database system is starting up"),
        asyncpg.ConnectionDoesNotExistError("closed in the middle of an operation"),
        asyncpg.ConnectionFailureError("x"),
        asyncpg.ReadOnlySQLTransactionError("x"),
        asyncpg.AdminShutdownError("x"),
        asyncpg.CrashShutdownError("x"),
        asyncpg.TooManyConnectionsError("x"),
        asyncpg.DiskFullError("x"),
        asyncpg.QueryCanceledError("x"),
        asyncpg.exceptions.TargetServerAttributeNotMatched("x"),
    ):
        with pytest.raises(DatabaseUnavailable) as raised:
            await raise_in_transaction(store, error)
        assert raised.value.__cause__ is error


@pytest.mark.promise("F083")
async def test_permanent_database_errors_are_not_outages(store: Store) -> None:
    """A wrong statement, a failed constraint and a programming error are no outage; lock contention is
    transient."""
    for error in (
        asyncpg.UndefinedTableError("x"),
        asyncpg.UniqueViolationError("x"),
        asyncpg.InsufficientPrivilegeError("x"),
        ValueError("x"),
        KeyError("x"),
    ):
        with pytest.raises(type(error)) as raised:
            await raise_in_transaction(store, error)
        assert raised.value is error
    for error in (
        asyncpg.DeadlockDetectedError("x"),
        asyncpg.SerializationError("x"),
        asyncpg.LockNotAvailableError("x"),
    ):
        with pytest.raises(DatabaseContention):
            await raise_in_transaction(store, error)


async def raise_in_transaction(store: Store, error: Exception) -> None:
    """Raise `error` as a statement of the driver would."""
    async with store.tx("test"):
        raise error


@pytest.mark.promise("F083")
@pytest.mark.parametrize(
    ("sqlstate", "message"),
    [
        ("57P03", "the database system is in recovery mode"),
        ("57P03", "the database system is shutting down"),
        ("53300", "sorry, too many clients already"),
    ],
)
async def test_daemon_waits_for_server_that_rejects_connections(
    database: str, sqlstate: str, message: str
) -> None:
    """A server that rejects connections closes the entry gate; working exits stay, and the daemon recovers by
    itself."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        proxy.reject_connections(sqlstate, message)
        await scenario.advance(seconds=70)  # every loop runs once a minute or more often
        assert "database" in scenario.components.gate.reasons
        assert await submit_entry(scenario, "MSFT", 10) is None
        assert len(scenario.server.exchange.state.order_store.live()) == 2
        proxy.resume()
        await scenario.advance(seconds=20)
        assert "DATABASE_OUTAGE" in await scenario.alert_events()
        await assert_recovers(scenario, events_before)


@pytest.mark.promise("F084")
async def test_exhausted_server_connections_close_gate_and_alert(database: str) -> None:
    """Exhausted connections close the entry gate and raise an alert in the meantime; released, trading
    continues."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        async with exhausted_pool(scenario.components.store):
            await scenario.advance(seconds=15)
            assert "POOL_EXHAUSTED" in await scenario.alert_events()
            assert "database" in scenario.components.gate.reasons
            assert len(scenario.server.exchange.state.order_store.live()) == 2
        await assert_recovers(scenario, events_before)


@pytest.fixture
async def dedicated_server() -> AsyncIterator[DedicatedServer]:
    """Start a server that allows a standby."""
    async with open_dedicated_server(wal_level="replica", max_wal_senders="4") as server:
        yield server


@pytest.mark.promise("F089")
async def test_read_only_server_closes_gate_until_writable(dedicated_server: DedicatedServer) -> None:
    """A read-only server (25006) closes the entry gate and fails no invariant; once writable, the same epoch
    continues."""
    async with open_scenario(dedicated_server.dsn) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        await set_read_only(dedicated_server, True)
        await scenario.advance(seconds=30)
        assert "database" in scenario.components.gate.reasons
        assert await submit_entry(scenario, "MSFT", 10) is None
        assert len(scenario.server.exchange.state.order_store.live()) == 2
        await set_read_only(dedicated_server, False)
        await scenario.advance(seconds=10)
        await assert_recovers(scenario, events_before)


async def set_read_only(server: DedicatedServer, enabled: bool) -> None:
    """Switch the server's default to read-only transactions or back."""
    conn = await asyncpg.connect(server.dsn)
    await conn.execute("SET default_transaction_read_only = off")
    await conn.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if enabled else 'off'}")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()


@pytest.fixture
def standby_folder() -> Iterator[Path]:
    """Create a folder for the standby: its path is short enough for a socket, and the server's user may enter
    it."""
    folder = Path(tempfile.mkdtemp(prefix="catalyst-standby-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.promise("F089")
async def test_failover_to_standby_starts_new_epoch(
    dedicated_server: DedicatedServer, standby_folder: Path
) -> None:
    """Given a standby is promoted, when the daemon sees the new server, then it exits with code 1, because
    the last commits may be missing; the next start gets a new epoch and books what filled meanwhile."""
    standby = await dedicated_server.create_standby(standby_folder)
    try:
        async with open_scenario(dedicated_server.dsn, started=False) as scenario:
            scenario.dsn = standby.dsn
            await scenario.start()
            await scenario.given_position("AAPL", 20)
            assert scenario.components is not None
            epoch = scenario.components.epoch
            await dedicated_server.stop()
            await standby.promote()
            for _ in range(60):
                await scenario.advance(seconds=1)
                if scenario._run_task is None or scenario._run_task.done():
                    break
            assert scenario._run_task is not None
            with pytest.raises(ExceptionGroup) as raised:
                scenario._run_task.result()
            assert raised.group_contains(DatabaseReplaced)
            assert exit_code(raised.value) == 1  # systemd restarts it, unlike codes 75 and 78
            await scenario._stack.aclose()
            scenario.components = None
            scenario.print_trade("AAPL", "194.05")  # the target fills while no daemon runs
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
        await standby.stop()


@pytest.mark.promise("F090")
async def test_restored_database_recovers_rows_from_broker(postgres: PostgresServer, database: str) -> None:
    """With an hour-old database copy, orders with our ids get their rows again, shares stay protected, an
    alert is raised and nothing is sent twice."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        await scenario.conn.close()
        old_dsn = postgres.create(database_name(database))
        try:
            scenario.conn = await asyncpg.connect(database)
            await scenario.start()
            await scenario.given_position("MSFT", 10)
            scenario.print_trade("AAPL", "194.05")
            await scenario.advance(seconds=10)
            assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 10)
            await scenario.crash()
            await scenario.conn.close()

            scenario.dsn = old_dsn
            scenario.conn = await asyncpg.connect(old_dsn)
            assert await scenario.orders("MSFT") == []
            await scenario.start()
            await scenario.advance(seconds=60)
            aapl = await scenario.position("AAPL")
            assert aapl is not None
            assert (aapl["status"], scenario.held_qty("AAPL")) == ("closed", 0)
            entry = (await scenario.orders("MSFT"))[0]
            assert (entry["status"], entry["filled_qty"]) == ("filled", 10)
            assert entry["client_order_id"].startswith("cat-")
            assert (entry["order_purpose"], entry["origin"]) == ("entry", "catalyst")
            msft = await scenario.position("MSFT")
            assert msft is not None  # from the broker's fills
            assert (msft["status"], msft["quantity"], msft["position_id"]) == (
                "open",
                10,
                entry["position_id"],
            )
            assert (msft["stop_loss"], msft["take_profit"]) == (188, 194)
            assert msft["protected_at"] is not None
            assert "ORDER_ADOPTED" in await scenario.alert_events()
            await scenario.assert_consistent()
            live = [
                order for order in scenario.server.exchange.state.order_store.live() if order.symbol == "MSFT"
            ]
            assert live  # the orders that protect the shares are still working
            assert await scenario.count_submitted("MSFT") == 1
            await assert_sent_once(scenario)
        finally:
            if scenario.components is not None:
                await scenario.crash()
            await scenario.conn.close()
            postgres.drop(old_dsn)
            scenario.conn = await asyncpg.connect(database)


@pytest.mark.promise("F091")
async def test_start_is_refused_when_role_lacks_a_grant(database: str) -> None:
    """A start whose database role lacks a grant is refused with code 78 and the grant's name; with the grant
    it succeeds."""
    conn = await asyncpg.connect(database)
    await conn.execute(migrate.roles_sql())
    app_dsn = f"{database}{'&' if '?' in database else '?'}role=catalyst_app"
    async with AsyncExitStack() as stack:
        await open_database(stack, app_dsn, ManualClock(at("10:15")), EntryGate(ManualClock(at("10:15"))))
    for verb, table in (("INSERT", "order_events"), ("UPDATE", "daemon"), ("SELECT", "positions")):
        await conn.execute(f"REVOKE {verb} ON {table} FROM catalyst_app")
        async with AsyncExitStack() as stack:
            with pytest.raises(ConfigInvalid, match=f"{verb} on {table}") as raised:
                await open_database(
                    stack, app_dsn, ManualClock(at("10:15")), EntryGate(ManualClock(at("10:15")))
                )
        assert exit_code(raised.value) == 78
        await conn.execute(f"GRANT {verb} ON {table} TO catalyst_app")
    await conn.close()
