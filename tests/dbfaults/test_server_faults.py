"""A real server that stumbles under a trading day: restarts, kills, locks, a full disk, a schema that is not whole.

Each ends alike: no entry while the database is away, the exits at the broker stay, the daemon lives and recovers by
itself, whatever was acknowledged is there, and the books agree.
"""

import asyncio
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
from catalyst.domain.errors import ConfigInvalid
from catalyst.store import account_lock, pool
from tests.dbfaults.dedicated_server import DedicatedServer, open_dedicated_server
from tests.dbfaults.proxied_scenario import (
    assert_sent_once,
    open_proxied_scenario,
    submit_entry,
    wait_for_entry_gate,
)
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario

ENTRY = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


@pytest.fixture
def restart_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter than in production, longer than a busy machine needs to answer."""
    monkeypatch.setattr(pool, "_COMMAND_TIMEOUT_S", 3.0)
    monkeypatch.setattr(pool, "_ACQUIRE_TIMEOUT_S", 1.0)
    monkeypatch.setattr(account_lock, "_PING_TIMEOUT_S", 1.0)


@asynccontextmanager
async def open_dedicated_scenario(server: DedicatedServer) -> AsyncIterator[Scenario]:
    """A desk on a server of its own; the test's own connection may end with the server's."""
    async with open_scenario(server.dsn) as scenario:
        await scenario.given_position("AAPL", 20)
        yield scenario


async def reconnect(scenario: Scenario) -> None:
    """The test's own connection is new."""
    scenario.conn.terminate()
    while True:
        try:
            scenario.conn = await asyncpg.connect(scenario.dsn)
        except (
            asyncpg.CannotConnectNowError,
            asyncpg.PostgresConnectionError,
            ConnectionError,
        ):  # it is still recovering
            await asyncio.sleep(0.05)
        else:
            return


async def assert_recovers(scenario: Scenario, before: int) -> None:
    """Entries are possible again, nothing acknowledged is missing, and the day goes on to its target."""
    await wait_for_entry_gate(scenario)
    assert await scenario.conn.fetchval("SELECT count(*) FROM order_events") >= before
    scenario.print_trade("AAPL", "194.05")
    await scenario.advance(seconds=10)
    assert scenario.held_qty("AAPL") == 0
    position = await scenario.position("AAPL")
    assert position is not None
    assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
    await assert_sent_once(scenario)
    await scenario.assert_consistent()


@pytest.mark.usefixtures("restart_timeouts")
async def test_daemon_survives_server_restarts_and_killed_backend() -> None:
    """Fast and immediate restarts, a stop for a while, SIGKILL of a backend: the same daemon trades on after each."""
    async with open_dedicated_server() as server, open_dedicated_scenario(server) as scenario:
        assert scenario.components is not None
        epoch = scenario.components.epoch
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")

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
        assert (
            len(scenario.server.exchange.order_store.live()) == 2
        )  # the stop and the target of what is held
        scenario.print_trade("MSFT", "190.00")
        await server.start()
        await scenario.advance(seconds=10)
        await reconnect(scenario)
        assert scenario.held_qty("MSFT") == 0
        assert scenario.components.epoch == epoch
        await assert_recovers(scenario, before)


@pytest.mark.parametrize("name", ["catalyst", "catalyst lock", "catalyst listen catalyst_commands"])
async def test_cut_connection_is_replaced_in_same_epoch(database: str, name: str) -> None:
    """The pool's, the lock's, the ear's: taken anew, in the same epoch, and commands are heard again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        cut = await scenario.conn.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = $1 AND datname = current_database()",
            name,
        )
        assert cut
        await scenario.advance(seconds=10)
        await wait_for_entry_gate(scenario)
        assert (await scenario.send_command("halt", reason="a look"))["ok"]
        assert (await scenario.send_command("resume"))["ok"]
        await assert_recovers(scenario, before)


@pytest.mark.usefixtures("short_timeouts")
async def test_exhausted_pool_blocks_entries_until_released(database: str) -> None:
    """Nobody can borrow one: entries stop, what protects stays, and trading goes on when they are given back."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        async with AsyncExitStack() as held:
            for _ in range(8):
                await held.enter_async_context(scenario.components.store._pool.acquire())
            await scenario.advance(seconds=6)
            assert "database" in scenario.components.gate.reasons
            assert len(scenario.server.exchange.order_store.live()) == 2
        await assert_recovers(scenario, before)


async def test_locked_rows_are_retried_after_lock_timeout(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction left open over our rows: we give up after the lock's time-out, try again, and no defect is
    told of; when it ends, everything is booked."""
    monkeypatch.setattr(pool, "LOCK_TIMEOUT_MS", 200)
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        other = await asyncpg.connect(database)
        async with other.transaction():
            await other.execute("SELECT 1 FROM positions FOR UPDATE")
            await other.execute("SELECT 1 FROM orders FOR UPDATE")
            scenario.print_trade("AAPL", "194.05")
            await scenario.advance(seconds=40)
            assert scenario.held_qty("AAPL") == 0
            assert not scenario.components.gate.failed_invariants
        await other.close()
        await assert_recovers(scenario, before)


async def test_slow_database_only_delays(database: str) -> None:
    """Each packet takes five milliseconds either way: slower, and nothing else."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        proxy.latency = 0.005
        await scenario.given_position("AAPL", 20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        proxy.latency = 0
        await assert_recovers(scenario, before)


@pytest.mark.promise("C29")
async def test_sigterm_flattens_in_time_with_slow_database(database: str) -> None:
    """SIGTERM while each packet takes twenty milliseconds either way: flat, proven, and in time."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.latency = 0.02
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        proxy.latency = 0
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.conn.fetchval("SELECT flat FROM flat_proofs") is True
        await scenario.assert_consistent()


@pytest.mark.usefixtures("short_timeouts")
async def test_silent_database_blocks_entries_and_catches_up(database: str) -> None:
    """The database swallows everything for minutes: no entry, and what the broker's target sold meanwhile is
    booked when it is back, to the cent."""
    async with open_proxied_scenario(database) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        proxy.stop_forwarding()
        await scenario.advance(seconds=12)
        assert "database" in scenario.components.gate.reasons
        assert await submit_entry(scenario, "MSFT", 10) is None
        scenario.print_trade("AAPL", "194.05")
        proxy.refusing = True  # dark costs real time, refusing does not: for the daemon it is the same
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
    ("damage", "named"),
    [
        ("DROP TRIGGER check_order_change ON orders", "trigger check_order_change"),
        ("ALTER TABLE orders DISABLE TRIGGER check_exit_qty_on_insert", "trigger check_exit_qty_on_insert"),
        ("DROP FUNCTION get_or_create_time(timestamptz)", "function get_or_create_time"),
        ("DELETE FROM schema_migrations WHERE name LIKE '0003%'", "0003_trading (pending)"),
        ("UPDATE schema_migrations SET checksum = 'x' WHERE name LIKE '0003%'", "0003_trading (changed)"),
        (
            "INSERT INTO schema_migrations VALUES ('9999_tomorrow', 'x', '2026-01-01Z')",
            "9999_tomorrow (unknown)",
        ),
    ],
)
async def test_start_is_refused_with_incomplete_schema(database: str, damage: str, named: str) -> None:
    """The start is refused with the code that stops restarts, and the message names what is wrong."""
    conn = await asyncpg.connect(database)
    await conn.execute(damage)
    await conn.close()
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigInvalid) as refused:
            await open_database(stack, database, ManualClock(at("10:15")))
    assert exit_code(refused.value) == 78
    assert named in str(refused.value)


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 140 MB; only root may mount one."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    place = Path(tempfile.mkdtemp(prefix="catalyst-disk-"))
    mounted = subprocess.run(
        ["/bin/mount", "-t", "tmpfs", "-o", "size=140m,mode=711", "tmpfs", str(place)],
        check=False,
        capture_output=True,
    )
    if mounted.returncode:
        place.rmdir()
        pytest.skip("this machine lets nobody mount a file system")
    yield place
    subprocess.run(["/bin/umount", str(place)], check=True)
    place.rmdir()


async def fill_disk(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Write until the server refuses."""
    for _ in range(2000):
        await conn.execute(
            "INSERT INTO filler SELECT string_agg(md5(n::text), '') FROM generate_series(1, 20000) n"
        )


@pytest.mark.usefixtures("restart_timeouts")
async def test_full_database_disk_blocks_entries_until_freed(small_disk: Path) -> None:
    """The database's disk is full for minutes: entries stop, what protects stays; with room again all is booked."""
    async with (
        open_dedicated_server(small_disk / "pg") as server,
        open_dedicated_scenario(server) as scenario,
    ):
        assert scenario.components is not None
        before = await scenario.conn.fetchval("SELECT count(*) FROM order_events")
        await scenario.conn.execute("CREATE TABLE filler (what text)")
        stuffing = small_disk / "stuffing"
        with stuffing.open("wb", buffering=0) as file:
            for size in (1 << 20, 4096):
                while True:
                    try:
                        file.write(bytes(size))
                    except OSError:
                        break
        # What is left in the files that exist already is used up too.
        with pytest.raises((asyncpg.PostgresError, OSError, asyncpg.InterfaceError)):
            await fill_disk(scenario.conn)
        await scenario.advance(seconds=60)
        assert "database" in scenario.components.gate.reasons
        assert len(scenario.server.exchange.order_store.live()) == 2
        stuffing.unlink()
        await server.restart("fast")
        await scenario.advance(seconds=10)
        await reconnect(scenario)
        await assert_recovers(scenario, before)
