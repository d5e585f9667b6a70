"""The order path's two connections: lent, cut and closed so that nobody doubts what became of a statement."""

import asyncio
import gc
import warnings

import asyncpg
import pytest

from catalyst.clock import ManualClock
from catalyst.store import pool
from catalyst.store.pool import LANE, Store, open_store
from tests.dbfaults.postgres_proxy import between
from tests.simulator.manual_feed import at


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(at("10:00"))


async def opened(dsn: str, clock: ManualClock) -> Store:
    return await open_store(dsn, clock, writable=True)


async def pids(store: Store, times: int) -> set[int]:
    """The server's processes that so many strokes, one after the other, ran on."""
    found = set()
    for _ in range(times):
        async with store.stroke("asked") as conn:
            found.add(await conn.fetchval("SELECT pg_backend_pid()"))
    return found


async def test_one_connection_serves_who_comes_one_by_one(database: str, clock: ManualClock) -> None:
    """A refusal of the server leaves it as good as before; there are never more than two."""
    store = await opened(database, clock)
    first = await pids(store, 3)
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with store.stroke("refused") as conn:
            await conn.execute("SELECT 1 / 0")
    assert await pids(store, 3) == first
    assert len(first) == 1
    both = await asyncio.gather(*(pids(store, 5) for _ in range(5)))
    assert len(set.union(*both)) == LANE
    await store.close()


async def test_who_is_cancelled_knows_that_his_statement_did_not_happen(
    database: str, clock: ManualClock
) -> None:
    """It waits for a lock and is cancelled: the server has given it up before the cancellation is heard of."""
    store = await opened(database, clock)
    other = await asyncpg.connect(database)
    await other.execute("CREATE TABLE held (n int); INSERT INTO held VALUES (1)")
    transaction = other.transaction()
    await transaction.start()
    await other.execute("UPDATE held SET n = n")

    async def waits() -> None:
        async with store.stroke("waits") as conn:
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
    assert await pids(store, 1)
    assert await other.fetchval("SELECT n FROM held") == 1
    await other.close()
    await store.close()


async def test_after_giving_up_nobody_reaches_the_database(database: str, clock: ManualClock) -> None:
    """Not even who was connecting at that moment."""
    store = await opened(database, clock)
    await store.expire()
    reached = []

    async def uses() -> None:
        async with store.stroke("late") as conn:
            reached.append(await conn.fetchval("SELECT 1"))

    task = asyncio.create_task(uses())
    await asyncio.sleep(0)
    store.give_up()
    with pytest.raises(asyncpg.InterfaceError):
        await task
    assert reached == []


async def test_a_silent_server_is_no_longer_waited_for_than_a_turn(
    database: str, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new connection has as long as a turn on an old one, not as long as an answer."""
    monkeypatch.setattr(pool, "_ANSWER", 3_600.0)
    async with between(database) as proxy:
        store = await opened(proxy.dsn, clock)
        proxy.silent = True
        await store.expire()
        async with asyncio.timeout(60) as hung:
            with pytest.raises(TimeoutError):
                async with store.stroke("asked"):
                    pass
        assert not hung.expired()
        store.give_up()


async def test_one_that_is_expired_while_it_is_lent_is_closed(database: str, clock: ManualClock) -> None:
    store = await opened(database, clock)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        async with store.stroke("lent") as conn:
            await store.expire()
            before = await conn.fetchval("SELECT pg_backend_pid()")
        del conn
        gc.collect()
    assert before not in await pids(store, 1)
    await store.close()
    await store.close()
