"""The order path's two connections: lent, cut and closed so that nobody doubts what became of a statement."""

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


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(at("10:00"))


async def open_writable_store(dsn: str, clock: ManualClock) -> Store:
    return await open_store(dsn, clock, writable=True)


async def backend_pids(store: Store, times: int) -> set[int]:
    """The server's processes that so many strokes, one after the other, ran on."""
    found = set()
    for _ in range(times):
        async with store.order_statement("asked") as conn:
            found.add(await conn.fetchval("SELECT pg_backend_pid()"))
    return found


async def test_sequential_order_statements_share_one_connection(database: str, clock: ManualClock) -> None:
    """A refusal of the server leaves it as good as before; there are never more than two."""
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


async def test_cancelled_statement_is_rolled_back(database: str, clock: ManualClock) -> None:
    """It waits for a lock and is cancelled: the server has given it up before the cancellation is heard of."""
    store = await open_writable_store(database, clock)
    other = await asyncpg.connect(database)
    await other.execute("CREATE TABLE held (n int); INSERT INTO held VALUES (1)")
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE held SET n = n")

    async def waits() -> None:
        async with store.order_statement("waits") as conn:
            await conn.execute("UPDATE held SET n = n + 1")

    task = asyncio.create_task(waits())
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
    """Not even who was connecting at that moment."""
    store = await open_writable_store(database, clock)
    await store.expire()
    reached = []

    async def uses() -> None:
        async with store.order_statement("late") as conn:
            reached.append(await conn.fetchval("SELECT 1"))

    task = asyncio.create_task(uses())
    await asyncio.sleep(0)
    store.abandon()
    with pytest.raises(DatabaseUnavailable):
        await task
    assert reached == []


async def test_connect_to_silent_server_times_out(
    database: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection has as long as a turn on an old one, not as long as an answer."""
    monkeypatch.setattr(pool, "_COMMAND_TIMEOUT_S", 3_600.0)
    async with open_proxy(database) as proxy:
        store = await open_writable_store(proxy.dsn, clock)
        proxy.silent = True
        await store.expire()
        async with asyncio.timeout(60) as hung:
            with pytest.raises(DatabaseUnavailable) as silent:
                async with store.order_statement("asked"):
                    pass
            assert isinstance(silent.value.__cause__, TimeoutError)
        assert not hung.expired()
        store.abandon()


async def test_connection_expired_in_use_is_closed_on_return(database: str, clock: ManualClock) -> None:
    store = await open_writable_store(database, clock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with store.order_statement("lent") as conn:
            await store.expire()
            before = await conn.fetchval("SELECT pg_backend_pid()")
        del conn
        gc.collect()
    assert before not in await backend_pids(store, 1)
    await store.close()
    await store.close()
