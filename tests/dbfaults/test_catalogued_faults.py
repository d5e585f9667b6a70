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
from catalyst.daemon.startup import open_books
from catalyst.domain.errors import ConfigInvalid, DatabaseReplaced
from catalyst.domain.fault_points import Moment
from catalyst.store import migrate
from catalyst.store.pool import is_outage, is_passing
from tests.conftest import Server, name_of
from tests.dbfaults.dedicated_server import OwnServer, own_server
from tests.dbfaults.proxied_scenario import enters, gate_opens, open_desk_behind, sent_once
from tests.dbfaults.test_server_faults import ends_well, looks_again
from tests.simulator.manual_feed import at
from tests.stories.scenario import open_desk


@pytest.mark.parametrize("label", ["submit", "hear", "protected", "mark"])
async def test_f082_a_connection_is_lost_in_the_middle_of_a_transaction(database: str, label: str) -> None:
    """Nothing of it is in the tables, it is done again whole, and the order is sent once or not at all."""
    async with open_desk_behind(database) as (desk, proxy, fate):
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        fate.then(label, proxy.breaks_transaction)
        await enters(desk, "AAPL", 20)
        await desk.waits(seconds=35)
        assert proxy.broken == 1
        for entry in await desk.orders("AAPL"):
            assert entry["status"] in ("filled", "rejected", "submitted", "accepted")
        await gate_opens(desk)
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0
        assert await desk.submits("AAPL") == (0 if label == "submit" else 1)
        await sent_once(desk)
        await desk.agrees()


async def test_f082_no_request_leaves_inside_a_transaction(database: str) -> None:
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

    async with open_desk(database) as desk:
        desk.fate.also = watch
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await enters(desk, "AAPL", 20)
        await desk.waits(seconds=20)
        await desk.holds("MSFT", 10)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=20)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        assert desk.fate.steps
        assert wrong == []


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
def test_f083_what_goes_by_is_waited_for(error: Exception) -> None:
    """Every class that a server was seen to answer with while it shut down, crashed or recovered is an outage."""
    assert is_outage(error)
    assert is_passing(error)


def test_f083_what_does_not_go_by_is_a_fault() -> None:
    """A wrong statement, a broken constraint, a mistake of ours: no outage."""
    faults = (
        asyncpg.UndefinedTableError("x"),
        asyncpg.UniqueViolationError("x"),
        asyncpg.InsufficientPrivilegeError("x"),
        ValueError("x"),
        KeyError("x"),
    )
    assert [is_passing(fault) for fault in faults] == [False] * len(faults)
    contention = (
        asyncpg.DeadlockDetectedError(),
        asyncpg.SerializationError(),
        asyncpg.LockNotAvailableError(),
    )
    assert [(is_outage(one), is_passing(one)) for one in contention] == [(False, True)] * 3


@pytest.mark.parametrize(
    ("sqlstate", "words"),
    [
        ("57P03", "the database system is in recovery mode"),
        ("57P03", "the database system is shutting down"),
        ("53300", "sorry, too many clients already"),
    ],
)
async def test_f083_minutes_of_a_server_that_is_not_ready(database: str, sqlstate: str, words: str) -> None:
    """It answers, and sends everybody away: no entry, the exits at the broker stay, and all goes on by itself."""
    async with open_desk_behind(database) as (desk, proxy, _):
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")
        proxy.excuses_itself(sqlstate, words)
        await desk.waits(minutes=3)
        assert "database" in desk.parts.gate.reasons
        assert await enters(desk, "MSFT", 10) is None
        assert len(desk.server.exchange.book.live()) == 2
        proxy.heals()
        await desk.waits(seconds=20)
        assert "DATABASE_WAS_AWAY" in await desk.alerts()
        await ends_well(desk, before)


@pytest.mark.usefixtures("impatient")
async def test_f084_a_leak_holds_every_connection(database: str) -> None:
    """Nobody gets one: entries stop, somebody is paged while it lasts, past the pool; given back, all goes on."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")
        async with AsyncExitStack() as held:
            for _ in range(8):
                await held.enter_async_context(desk.parts.store._pool.acquire())
            await desk.waits(seconds=15)
            assert "POOL_EXHAUSTED" in await desk.alerts()
            assert "database" in desk.parts.gate.reasons
            assert len(desk.server.exchange.book.live()) == 2
        await ends_well(desk, before)


@pytest.fixture
async def own() -> AsyncIterator[OwnServer]:
    async with own_server(wal_level="replica", max_wal_senders="4") as server:
        yield server


@pytest.mark.usefixtures("patient_server")
async def test_f089_a_server_that_only_reads(own: OwnServer) -> None:
    """Every write is answered with 25006: no entry, no defect, new connections look for a server that writes; once
    there is one, all goes on in the same epoch."""
    async with open_desk(own.dsn) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        before = await desk.conn.fetchval("SELECT count(*) FROM order_events")
        await read_only(own, True)
        await desk.waits(seconds=30)
        assert "database" in desk.parts.gate.reasons
        assert await enters(desk, "MSFT", 10) is None
        assert len(desk.server.exchange.book.live()) == 2
        await read_only(own, False)
        await desk.waits(seconds=10)
        await ends_well(desk, before)


async def read_only(server: OwnServer, yes: bool) -> None:
    conn = await asyncpg.connect(server.dsn)
    await conn.execute("SET default_transaction_read_only = off")
    await conn.execute(f"ALTER SYSTEM SET default_transaction_read_only = {'on' if yes else 'off'}")
    await conn.execute("SELECT pg_reload_conf()")
    await conn.close()


@pytest.fixture
def beside() -> Iterator[Path]:
    """A folder whose path is short enough for a socket, for the second server's own user."""
    folder = Path(tempfile.mkdtemp(prefix="catalyst-standby-"))
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.usefixtures("patient_server")
async def test_f089_failover_to_a_standby(own: OwnServer, beside: Path) -> None:
    """The leader dies and its standby takes over: this daemon ends, for what was committed last may be missing
    there; the next one takes the lock of the new leader under a new epoch, and what the broker did is booked."""
    second = await own.standby(beside)
    try:
        async with open_desk(own.dsn, opened=False) as desk:
            desk.dsn = second.dsn
            await desk.opens()
            await desk.holds("AAPL", 20)
            assert desk.parts is not None
            epoch = desk.parts.epoch
            await own.stops()
            await second.promotes()
            for _ in range(60):
                await desk.waits(seconds=1)
                if desk._life is None or desk._life.done():
                    break
            assert desk._life is not None
            with pytest.raises(ExceptionGroup) as ended:
                desk._life.result()
            assert ended.group_contains(DatabaseReplaced)
            assert exit_code(ended.value) == 1  # started again, unlike 75 and 78
            await desk._stack.aclose()
            desk.parts = None
            desk.prints("AAPL", "194.05")  # the target fills while nobody is there
            await desk.waits(seconds=5)

            await desk.opens()
            await looks_again(desk)
            assert desk.parts is not None
            assert desk.parts.epoch == epoch + 1
            await desk.waits(seconds=30)
            assert desk.held("AAPL") == 0
            position = await desk.position("AAPL")
            assert position is not None
            assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
            await sent_once(desk)
            await desk.agrees()
    finally:
        await second.stops()


async def test_f090_a_restore_that_lost_the_last_commits(postgres: Server, database: str) -> None:
    """The tables are a copy of an hour ago, the broker is ahead: what it shows under our ids gets its rows again,
    its shares stay protected, somebody is paged, and nothing is sent twice."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        await desk.conn.close()
        old = postgres.create(name_of(database))
        try:
            desk.conn = await asyncpg.connect(database)
            await desk.opens()
            await desk.holds("MSFT", 10)
            desk.prints("AAPL", "194.05")
            await desk.waits(seconds=10)
            assert (desk.held("AAPL"), desk.held("MSFT")) == (0, 10)
            await desk.dies()
            await desk.conn.close()

            desk.dsn = old
            desk.conn = await asyncpg.connect(old)
            assert await desk.orders("MSFT") == []
            await desk.opens()
            await desk.waits(seconds=60)
            sold = await desk.position("AAPL")
            assert sold is not None
            assert (sold["status"], desk.held("AAPL")) == ("closed", 0)
            entry = (await desk.orders("MSFT"))[0]
            assert (entry["status"], entry["filled_qty"]) == ("filled", 10)
            assert entry["client_order_id"].startswith("cat-")
            assert (entry["order_purpose"], entry["origin"]) == ("entry", "catalyst")
            held = await desk.position("MSFT")
            assert held is not None  # from the broker's fills
            assert (held["status"], held["quantity"], held["position_id"]) == (
                "open",
                10,
                entry["position_id"],
            )
            assert (held["stop_loss"], held["take_profit"]) == (188, 194)
            assert held["protected_at"] is not None
            assert "ORDER_ADOPTED" in await desk.alerts()
            await desk.agrees()
            stops = [one for one in desk.server.exchange.book.live() if one.symbol == "MSFT"]
            assert stops  # what protects the shares is still there
            assert await desk.submits("MSFT") == 1
            await sent_once(desk)
        finally:
            if desk.parts is not None:
                await desk.dies()
            await desk.conn.close()
            postgres.drop(old)
            desk.conn = await asyncpg.connect(database)


async def test_f091_a_role_without_its_rights(database: str) -> None:
    """The daemon's role lacks one grant: the start is refused with 78 and names it; with the grant it is let in."""
    conn = await asyncpg.connect(database)
    await conn.execute(migrate.roles_sql())
    as_app = f"{database}{'&' if '?' in database else '?'}role=catalyst_app"
    async with AsyncExitStack() as stack:
        await open_books(stack, as_app, ManualClock(at("10:15")))
    for verb, table in (("INSERT", "order_events"), ("UPDATE", "daemon"), ("SELECT", "positions")):
        await conn.execute(f"REVOKE {verb} ON {table} FROM catalyst_app")
        async with AsyncExitStack() as stack:
            with pytest.raises(ConfigInvalid, match=f"{verb} on {table}") as refused:
                await open_books(stack, as_app, ManualClock(at("10:15")))
        assert exit_code(refused.value) == 78
        await conn.execute(f"GRANT {verb} ON {table} TO catalyst_app")
    await conn.close()
