"""The two reserved connections for order statements: after use, cancellation or loss the result of each
statement is certain."""

import asyncio
import gc
import warnings

import asyncpg
import pytest

from catalyst.clock import ManualClock
from catalyst.domain.errors import DatabaseUnavailable
from catalyst.store import pool
from catalyst.store.pool import RESERVED_CONNECTION_COUNT, Store, open_store
from tests.dbfaults.postgres_proxy import open_proxy
from tests.simulator.manual_feed import at
from tests.waiting import LIMIT_S


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(at("10:00"))


async def open_writable_store(dsn: str, clock: ManualClock) -> Store:
    return await open_store(dsn, clock, writable=True)


async def backend_pids(store: Store, times: int) -> set[int]:
    """Return the server processes that ran so many statements, one after the other."""
    pids = set()
    for _ in range(times):
        async with store.order_statement("read") as conn:
            pids.add(await conn.fetchval("SELECT pg_backend_pid()"))
    return pids


async def test_sequential_order_statements_share_one_connection(database: str, clock: ManualClock) -> None:
    """A statement that the server refuses leaves the connection usable; there are never more than two."""
    store = await open_writable_store(database, clock)
    first = await backend_pids(store, 3)
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with store.order_statement("refused") as conn:
            await conn.execute("SELECT 1 / 0")
    assert await backend_pids(store, 3) == first
    assert len(first) == 1
    both = await asyncio.gather(*(backend_pids(store, 5) for _ in range(5)))
    assert len(set.union(*both)) == RESERVED_CONNECTION_COUNT
    await store.close()


async def test_cancelled_statement_is_rolled_back(
    database: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement waits for a lock and is cancelled: the server has ended it before the cancellation reaches
    the caller."""
    monkeypatch.setattr(pool, "LOCK_TIMEOUT_MS", 60_000)  # the cancellation ends the wait, not the limit
    store = await open_writable_store(database, clock)
    other = await asyncpg.connect(database)
    await other.execute("CREATE TABLE held (n int); INSERT INTO held VALUES (1)")
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE held SET n = n")

    async def update_row() -> None:
        async with store.order_statement("update") as conn:
            await conn.execute("UPDATE held SET n = n + 1")

    task = asyncio.create_task(update_row())
    async with store.read() as conn:
        while not await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await conn.execute("SELECT pg_sleep(0.01)")
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert task.cancelled()
    async with store.read() as conn:
        assert await conn.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted") == 0
    await transaction.commit()
    assert await backend_pids(store, 1)
    assert await other.fetchval("SELECT n FROM held") == 1
    await other.close()
    await store.close()


async def test_abandoned_store_reaches_database_no_more(database: str, clock: ManualClock) -> None:
    """An abandoned store sends nothing, not even from a task that is connecting."""
    store = await open_writable_store(database, clock)
    await store.expire()
    reached = []

    async def read_late() -> None:
        async with store.order_statement("late") as conn:
            reached.append(await conn.fetchval("SELECT 1"))

    task = asyncio.create_task(read_late())
    await asyncio.sleep(0)
    store.abandon()
    with pytest.raises(DatabaseUnavailable):
        await task
    assert reached == []


async def test_connect_to_silent_server_times_out(
    database: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection has the time-out of waiting for an old one, not that of a statement."""
    monkeypatch.setattr(pool, "_COMMAND_TIMEOUT_S", 3_600.0)
    async with open_proxy(database) as proxy:
        store = await open_writable_store(proxy.dsn, clock)
        proxy.silent = True
        await store.expire()
        monkeypatch.setattr(pool, "_ACQUIRE_TIMEOUT_S", 0.3)
        async with asyncio.timeout(LIMIT_S) as hung:
            with pytest.raises(DatabaseUnavailable) as silent:
                async with store.order_statement("read"):
                    pass
            assert isinstance(silent.value.__cause__, TimeoutError)
        assert not hung.expired()
        store.abandon()


async def test_connection_expired_in_use_is_closed_on_return(database: str, clock: ManualClock) -> None:
    store = await open_writable_store(database, clock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with store.order_statement("expired") as conn:
            await store.expire()
            before = await conn.fetchval("SELECT pg_backend_pid()")
        del conn
        gc.collect()
    assert before not in await backend_pids(store, 1)
    await store.close()
    await store.close()
