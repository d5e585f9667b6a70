"""The account lock and the command listener are valid while their connections are open."""

import asyncio

import asyncpg

from catalyst.store.account_lock import acquire_account_lock, lock_key
from catalyst.store.notifications import listen
from catalyst.store.pool import Store
from tests.waiting import LIMIT_S


async def _terminate_sessions(dsn: str, name: str) -> None:
    """End every session of that name on the server."""
    conn = await asyncpg.connect(dsn)
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", name
    )
    await conn.close()


async def test_account_lock_is_exclusive_per_account(database: str):
    """A second acquire returns nothing, another account is free, and a released lock can be acquired again."""
    first = await acquire_account_lock(database, "PA1")
    assert first is not None
    assert await acquire_account_lock(database, "PA1") is None
    other = await acquire_account_lock(database, "PA2")
    assert other is not None
    await first.release()
    again = await acquire_account_lock(database, "PA1")
    assert again is not None
    for lock in (other, again):
        assert await lock.ping()
        await lock.release()


async def test_account_lock_is_lost_with_its_connection(database: str):
    """When the server ends the session, `lost` is set, the ping fails, and another process can acquire the
    lock."""
    lock = await acquire_account_lock(database, "PA1")
    assert lock is not None
    await _terminate_sessions(database, "catalyst lock")
    async with asyncio.timeout(LIMIT_S):
        await lock.lost.wait()
    assert not await lock.ping()
    successor = await acquire_account_lock(database, "PA1")
    assert successor is not None
    await successor.release()
    await lock.release()


def test_account_lock_keys_fit_bigint_and_differ():
    """A key is a signed 64-bit number that depends on the account only."""
    keys = {lock_key(f"PA{n}") for n in range(1000)}
    assert len(keys) == 1000
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert lock_key("PA1") == lock_key("PA1")


async def test_listener_receives_notifications_after_it_opened(store: Store):
    """Each notification on the listener's channel sets `notified`; an earlier one and one on another channel do
    not."""
    calls: list[int] = []
    async with store.statement("other") as conn:
        await conn.execute("SELECT pg_notify('catalyst_commands', '1')")
    listener = await listen(store.dsn, "catalyst_commands", lambda: calls.append(1))
    assert not listener.notified.is_set()
    for number in (1, 2):  # a session receives its notifications in order: the second proves what came before
        async with store.statement("other") as conn:
            await conn.execute("SELECT pg_notify('catalyst_answers', '1')")
            await conn.execute("SELECT pg_notify('catalyst_commands', '1')")
        async with asyncio.timeout(LIMIT_S):
            await listener.notified.wait()
        listener.notified.clear()
        assert len(calls) == number
    assert not listener.lost.is_set()
    await listener.close()
    await listener.close()


async def test_lost_listener_connection_wakes_waiters(store: Store):
    """A lost connection sets `lost` and `notified`, so that each waiter wakes and reads the database itself."""
    calls: list[int] = []
    listener = await listen(store.dsn, "catalyst_commands", lambda: calls.append(1))
    await _terminate_sessions(store.dsn, "catalyst listen catalyst_commands")
    async with asyncio.timeout(LIMIT_S):
        await listener.notified.wait()
    assert listener.lost.is_set()
    assert calls == [1]
    await listener.close()
