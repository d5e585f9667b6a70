"""Faults of a real database server: restarts, kills, locks, a full disk, an incomplete schema.

During each fault no entry is sent and the exits stay at the broker. Then the same daemon recovers by itself,
keeps every acknowledged row, and database and exchange agree.
"""

import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import asyncpg
import pytest

from catalyst.cli.app import exit_code
from catalyst.clock import ManualClock
from catalyst.daemon.startup import open_database
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import ConfigInvalid
from tests.dbfaults.dedicated_server import DedicatedServer, open_dedicated_server
from tests.dbfaults.proxied_scenario import (
    assert_sent_once,
    open_proxied_scenario,
    submit_entry,
    wait_for_entry_gate,
)
from tests.dbfaults.short_timeouts import exhausted_pool, short_lock_timeout
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_operator_actions import order_by_hand
from tests.waiting import pause

ENTRY = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


@asynccontextmanager
async def open_dedicated_scenario(server: DedicatedServer) -> AsyncIterator[Scenario]:
    """Open a scenario on a dedicated server, with a position; a server restart ends the test's connection
    too."""
    async with open_scenario(server.dsn) as scenario:
        await scenario.given_position("AAPL", 20)
        yield scenario


async def reconnect(scenario: Scenario) -> None:
    """Replace the connection of the test."""
    scenario.conn.terminate()
    while True:
        try:
            scenario.conn = await asyncpg.connect(scenario.dsn)
        except (
            asyncpg.CannotConnectNowError,
            asyncpg.PostgresConnectionError,
            ConnectionError,
        ):  # the server is still recovering
            await pause()
        else:
            return


async def assert_recovers(scenario: Scenario, events_before: int) -> None:
    """Check that entries are allowed, no journal row is missing, and the position reaches its target."""
    await wait_for_entry_gate(scenario)
    assert await scenario.conn.fetchval("SELECT count(*) FROM order_events") >= events_before
    scenario.print_trade("AAPL", "194.05")
    await scenario.advance(seconds=10)
    assert scenario.held_qty("AAPL") == 0
    position = await scenario.position("AAPL")
    assert position is not None
    assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
    await assert_sent_once(scenario)
    await scenario.assert_consistent()


async def test_daemon_survives_server_restarts_and_killed_backend() -> None:
    """One daemon trades on after fast and immediate restarts, a stopped server and a killed backend."""
    async with open_dedicated_server() as server, open_dedicated_scenario(server) as scenario:
        assert scenario.components is not None
        epoch = scenario.components.epoch
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")

        for mode in ("fast", "immediate"):
            await server.restart(mode)
            await scenario.advance(seconds=5)
            await reconnect(scenario)
            await wait_for_entry_gate(scenario)

        pid = await scenario.conn.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'catalyst' LIMIT 1"
        )
        server.kill_backend(pid)
        await reconnect(scenario)
        await scenario.advance(seconds=10)
        await wait_for_entry_gate(scenario)

        await server.stop()
        await scenario.advance(seconds=40)
        assert "database" in scenario.components.gate.reasons
        assert await submit_entry(scenario, "MSFT", 10) is None
        assert len(scenario.server.exchange.state.order_store.live()) == 2  # the stop and the target of AAPL
        scenario.print_trade("MSFT", "190.00")
        await server.start()
        await scenario.advance(seconds=10)
        await reconnect(scenario)
        assert scenario.held_qty("MSFT") == 0
        assert scenario.components.epoch == epoch
        await assert_recovers(scenario, events_before)


@pytest.mark.parametrize("name", ["catalyst", "catalyst lock", "catalyst listen catalyst_commands"])
async def test_cut_connection_is_replaced_in_same_epoch(database: str, name: str) -> None:
    """A cut connection of the pool, the lock or the command listener is replaced in the same epoch."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        terminated = await scenario.conn.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = $1 AND datname = current_database()",
            name,
        )
        assert terminated
        await scenario.advance(seconds=10)
        await wait_for_entry_gate(scenario)
        assert (await scenario.send_command("halt", reason="a test"))["ok"]
        assert (await scenario.send_command("resume"))["ok"]
        await assert_recovers(scenario, events_before)


async def test_exhausted_pool_blocks_entries_until_released(database: str) -> None:
    """An exhausted pool closes the entry gate and leaves the exits; trading continues when connections are
    released."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        async with exhausted_pool(scenario.components.store):
            await scenario.advance(seconds=6)
            assert "database" in scenario.components.gate.reasons
            assert len(scenario.server.exchange.state.order_store.live()) == 2
        await assert_recovers(scenario, events_before)


async def test_locked_rows_are_retried_after_lock_timeout(database: str) -> None:
    """Rows locked by another transaction are retried after the lock time-out without a failed invariant, and
    booked later."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        other = await asyncpg.connect(database)
        async with short_lock_timeout(scenario.components.store), other.transaction():
            await other.execute("SELECT 1 FROM positions FOR UPDATE")
            await other.execute("SELECT 1 FROM orders FOR UPDATE")
            scenario.print_trade("AAPL", "194.05")
            await scenario.advance(seconds=40)
            assert scenario.held_qty("AAPL") == 0
            assert not scenario.components.gate.failed_invariants
        await other.close()
        await assert_recovers(scenario, events_before)


async def test_external_order_is_adopted_after_lock_timeout(database: str) -> None:
    """An external order that comes while the orders are locked is no order that the database cannot store: it is
    adopted once the lock is gone."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        assert scenario.components is not None
        other = await asyncpg.connect(database)
        async with short_lock_timeout(scenario.components.store), other.transaction():
            await other.execute("LOCK TABLE orders IN EXCLUSIVE MODE")
            await order_by_hand(scenario, "AAPL", "buy", 3, type="limit", limit_price="100.00")
            await scenario.advance(seconds=70)
            assert await scenario.orders("AAPL") == []
        await other.close()
        await scenario.advance(seconds=70)
        [row] = await scenario.orders("AAPL")
        assert row["origin"] == "external"
        assert "ORDER_UNACCEPTABLE" not in await scenario.alert_events()
        await wait_for_entry_gate(scenario)
        await scenario.assert_consistent()


async def test_slow_database_only_delays(database: str) -> None:
    """With 5 ms of latency for each packet everything works, only slower."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        proxy.latency = 0.005
        await scenario.given_position("AAPL", 20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        proxy.latency = 0
        await assert_recovers(scenario, events_before)


@pytest.mark.slow(12)
@pytest.mark.promise("C29")
async def test_sigterm_flattens_in_time_with_slow_database(database: str) -> None:
    """SIGTERM with 20 ms of latency for each packet ends flat, proven and in time."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.latency = 0.02
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        proxy.latency = 0
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.conn.fetchval("SELECT flat FROM flat_proofs") is True
        await scenario.assert_consistent()


@pytest.mark.slow(30)
async def test_silent_database_blocks_entries_and_catches_up(database: str) -> None:
    """A database silent for minutes blocks entries; a target filled meanwhile is booked when it returns."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        proxy.stop_forwarding()
        await scenario.advance(seconds=12)
        assert "database" in scenario.components.gate.reasons
        assert await submit_entry(scenario, "MSFT", 10) is None
        scenario.print_trade("AAPL", "194.05")
        proxy.refusing = True  # silence costs real time, refusing does not; both are outages for the daemon
        proxy.cut_connections()
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.count_submitted("MSFT") == 0

        proxy.resume()
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
        await wait_for_entry_gate(scenario)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("DROP TRIGGER check_order_change ON orders", "trigger check_order_change"),
        ("ALTER TABLE orders DISABLE TRIGGER check_exit_qty_on_insert", "trigger check_exit_qty_on_insert"),
        ("DROP FUNCTION get_or_create_time(timestamptz)", "function get_or_create_time"),
        ("DELETE FROM schema_migrations WHERE name LIKE '0003%'", "0003_orders_and_positions (pending)"),
        (
            "UPDATE schema_migrations SET checksum = 'x' WHERE name LIKE '0003%'",
            "0003_orders_and_positions (changed)",
        ),
        (
            "INSERT INTO schema_migrations VALUES ('9999_tomorrow', 'x', '2026-01-01Z')",
            "9999_tomorrow (unknown)",
        ),
    ],
)
async def test_start_is_refused_with_incomplete_schema(database: str, damage: str, message: str) -> None:
    """A start with an incomplete schema is refused with code 78 and the name of the damaged part."""
    conn = await asyncpg.connect(database)
    await conn.execute(damage)
    await conn.close()
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigInvalid) as raised:
            await open_database(
                stack, database, ManualClock(at("10:15")), EntryGate(ManualClock(at("10:15")))
            )
    assert exit_code(raised.value) == 78
    assert message in str(raised.value)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """Mount a file system of 140 MB; skip where the machine does not allow it."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    mount_point = Path(tempfile.mkdtemp(prefix="catalyst-disk-"))
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=140m,mode=711", "tmpfs", str(mount_point)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        mount_point.rmdir()
        pytest.skip("this machine does not allow to mount a file system")
    yield mount_point
    subprocess.run(["/bin/umount", str(mount_point)], check=True)
    mount_point.rmdir()


async def fill_disk(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Insert rows until the server refuses."""
    for _ in range(2000):
        await conn.execute(
            "INSERT INTO filler SELECT string_agg(md5(n::text), '') FROM generate_series(1, 20000) n"
        )


async def test_full_database_disk_blocks_entries_until_freed(small_disk: Path) -> None:
    """A full database disk blocks entries and leaves the exits; with free space everything is booked."""
    async with (
        open_dedicated_server(small_disk / "pg") as server,
        open_dedicated_scenario(server) as scenario,
    ):
        assert scenario.components is not None
        events_before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        await scenario.conn.execute("CREATE TABLE filler (content text)")
        filler_file = small_disk / "filler_file"
        with filler_file.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break
        # Use up the free space inside the existing files too.
        with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
            await fill_disk(scenario.conn)
        await scenario.advance(seconds=60)
        assert "database" in scenario.components.gate.reasons
        assert len(scenario.server.exchange.state.order_store.live()) == 2
        filler_file.unlink()
        await server.restart("fast")
        await scenario.advance(seconds=10)
        await reconnect(scenario)
        await assert_recovers(scenario, events_before)
