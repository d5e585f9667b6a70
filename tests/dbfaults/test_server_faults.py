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
from catalyst.daemon.startup import open_books
from catalyst.domain.errors import ConfigInvalid
from catalyst.store import account_lock, pool
from tests.dbfaults.dedicated_server import OwnServer, own_server
from tests.dbfaults.proxied_scenario import enters, gate_opens, open_desk_behind, sent_once
from tests.simulator.manual_feed import at
from tests.stories.scenario import Desk, open_desk

ENTRY = {"limit": "190.10", "stop": "188.00", "target": "194.00"}


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorter than in production, longer than a busy machine needs to answer."""
    monkeypatch.setattr(pool, "_ANSWER", 3.0)
    monkeypatch.setattr(pool, "_ACQUIRE", 1.0)
    monkeypatch.setattr(account_lock, "_BEAT", 1.0)


@asynccontextmanager
async def open_own_desk(server: OwnServer) -> AsyncIterator[Desk]:
    """A desk on a server of its own; the test's own connection may end with the server's."""
    async with open_desk(server.dsn) as desk:
        await desk.holds("AAPL", 20)
        yield desk


async def looks_again(desk: Desk) -> None:
    """The test's own connection is new."""
    desk.conn.terminate()
    while True:
        try:
            desk.conn = await asyncpg.connect(desk.dsn)
        except (
            asyncpg.CannotConnectNowError,
            asyncpg.PostgresConnectionError,
            ConnectionError,
        ):  # it is still recovering
            await asyncio.sleep(0.05)
        else:
            return


async def ends_well(desk: Desk, before: int) -> None:
    """Entries are possible again, nothing acknowledged is missing, and the day goes on to its target."""
    await gate_opens(desk)
    assert await desk.conn.fetchval("SELECT count(*) FROM order_events") >= before
    desk.prints("AAPL", "194.05")
    await desk.waits(seconds=10)
    assert desk.held("AAPL") == 0
    position = await desk.position("AAPL")
    assert position is not None
    assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
    await sent_once(desk)
    await desk.agrees()


@pytest.mark.usefixtures("patient")
async def test_restarts_and_a_killed_backend() -> None:
    """Fast and immediate restarts, a stop for a while, SIGKILL of a backend: the same daemon trades on after each."""
    async with own_server() as server, open_own_desk(server) as desk:
        assert desk.parts is not None
        epoch = desk.parts.epoch
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")

        for mode in ("fast", "immediate"):
            await server.restarts(mode)
            await desk.waits(seconds=5)
            await looks_again(desk)
            await gate_opens(desk)

        pid = await desk.conn.fetchval(
            "SELECT pid FROM pg_stat_activity WHERE application_name = 'catalyst' LIMIT 1"
        )
        server.kills(pid)
        await looks_again(desk)
        await desk.waits(seconds=10)
        await gate_opens(desk)

        await server.stops()
        await desk.waits(seconds=40)
        assert "database" in desk.parts.gate.reasons
        assert await enters(desk, "MSFT", 10) is None
        assert len(desk.server.exchange.book.live()) == 2  # the stop and the target of what is held
        desk.prints("MSFT", "190.00")
        await server.starts()
        await desk.waits(seconds=10)
        await looks_again(desk)
        assert desk.held("MSFT") == 0
        assert desk.parts.epoch == epoch
        await ends_well(desk, before)


@pytest.mark.parametrize("name", ["catalyst", "catalyst lock", "catalyst listen catalyst_commands"])
async def test_a_connection_is_cut_by_the_server(database: str, name: str) -> None:
    """The pool's, the lock's, the ear's: taken anew, in the same epoch, and commands are heard again."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")
        cut = await desk.conn.fetch(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = $1 AND datname = current_database()",
            name,
        )
        assert cut
        await desk.waits(seconds=10)
        await gate_opens(desk)
        assert (await desk.tells("halt", reason="a look"))["ok"]
        assert (await desk.tells("resume"))["ok"]
        await ends_well(desk, before)


@pytest.mark.usefixtures("impatient")
async def test_every_connection_of_the_pool_is_held(database: str) -> None:
    """Nobody can borrow one: entries stop, what protects stays, and trading goes on when they are given back."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")
        async with AsyncExitStack() as held:
            for _ in range(8):
                await held.enter_async_context(desk.parts.store._pool.acquire())
            await desk.waits(seconds=6)
            assert "database" in desk.parts.gate.reasons
            assert len(desk.server.exchange.book.live()) == 2
        await ends_well(desk, before)


async def test_somebody_holds_the_rows(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A transaction left open over our rows: we give up after the lock's time-out, try again, and no defect is
    told of; when it ends, everything is booked."""
    monkeypatch.setattr(pool, "LOCK_TIMEOUT", 200)
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")
        other = await asyncpg.connect(database)
        async with other.transaction():
            await other.execute("SELECT 1 FROM positions FOR UPDATE")
            await other.execute("SELECT 1 FROM orders FOR UPDATE")
            desk.prints("AAPL", "194.05")
            await desk.waits(seconds=40)
            assert desk.held("AAPL") == 0
            assert not desk.parts.gate.broken
        await other.close()
        await ends_well(desk, before)


async def test_a_slow_database(database: str) -> None:
    """Each packet takes five milliseconds either way: slower, and nothing else."""
    async with open_desk_behind(database) as (desk, proxy, _):
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")
        proxy.latency = 0.005
        await desk.holds("AAPL", 20)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        proxy.latency = 0
        await ends_well(desk, before)


async def test_c29_flat_through_a_slow_database(database: str) -> None:
    """SIGTERM while each packet takes twenty milliseconds either way: flat, proven, and in time."""
    async with open_desk_behind(database) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        proxy.latency = 0.02
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        proxy.latency = 0
        assert desk.held("AAPL") == 0
        assert await desk.conn.fetchval("SELECT flat FROM flat_proofs") is True
        await desk.agrees()


@pytest.mark.usefixtures("impatient")
async def test_dark_minutes(database: str) -> None:
    """The database swallows everything for minutes: no entry, and what the broker's target sold meanwhile is
    booked when it is back, to the cent."""
    async with open_desk_behind(database) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        proxy.goes_dark()
        await desk.waits(seconds=12)
        assert "database" in desk.parts.gate.reasons
        assert await enters(desk, "MSFT", 10) is None
        desk.prints("AAPL", "194.05")
        proxy.refusing = True  # dark costs real time, refusing does not: for the daemon it is the same
        proxy.cuts()
        await desk.waits(seconds=40)
        assert desk.held("AAPL") == 0
        assert await desk.submits("MSFT") == 0

        proxy.heals()
        await desk.waits(seconds=30)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
        await gate_opens(desk)
        await sent_once(desk)
        await desk.agrees()


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        ("DROP TRIGGER guard_order ON orders", "trigger guard_order"),
        ("ALTER TABLE orders DISABLE TRIGGER refuse_over_exit_insert", "trigger refuse_over_exit_insert"),
        ("DROP FUNCTION get_or_create_time(timestamptz)", "function get_or_create_time"),
        ("DELETE FROM schema_migrations WHERE name LIKE '0003%'", "0003_trading (pending)"),
        ("UPDATE schema_migrations SET checksum = 'x' WHERE name LIKE '0003%'", "0003_trading (changed)"),
        (
            "INSERT INTO schema_migrations VALUES ('9999_tomorrow', 'x', '2026-01-01Z')",
            "9999_tomorrow (unknown)",
        ),
    ],
)
async def test_a_schema_that_is_not_whole(database: str, damage: str, named: str) -> None:
    """The start is refused with the code that stops restarts, and the message names what is wrong."""
    conn = await asyncpg.connect(database)
    await conn.execute(damage)
    await conn.close()
    async with AsyncExitStack() as stack:
        with pytest.raises(ConfigInvalid) as refused:
            await open_books(stack, database, ManualClock(at("10:15")))
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


async def fills(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    """Write until the server refuses."""
    for _ in range(2000):
        await conn.execute(
            "INSERT INTO filler SELECT string_agg(md5(n::text), '') FROM generate_series(1, 20000) n"
        )


@pytest.mark.usefixtures("patient")
async def test_a_full_disk(small_disk: Path) -> None:
    """The database's disk is full for minutes: entries stop, what protects stays; with room again all is booked."""
    async with own_server(small_disk / "pg") as server, open_own_desk(server) as desk:
        assert desk.parts is not None
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")
        await desk.conn.execute("CREATE TABLE filler (what text)")
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
            await fills(desk.conn)
        await desk.waits(seconds=60)
        assert "database" in desk.parts.gate.reasons
        assert len(desk.server.exchange.book.live()) == 2
        stuffing.unlink()
        await server.restarts("fast")
        await desk.waits(seconds=10)
        await looks_again(desk)
        await ends_well(desk, before)
