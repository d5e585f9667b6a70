"""The account's lock and the ear for commands live and die with their connections."""

import asyncio

import asyncpg

from catalyst.store.account_lock import lock_key, take_account_lock
from catalyst.store.notifications import listen
from catalyst.store.pool import Store


async def _cut(dsn: str, name: str) -> None:
    """End every session of that name from the server's side."""
    conn = await asyncpg.connect(dsn)
    await conn.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1", name
    )
    await conn.close()


async def test_one_daemon_per_account(database: str):
    """The second taker gets nothing, another account is free, and a released lock can be taken again."""
    first = await take_account_lock(database, "PA1")
    assert first is not None
    assert await take_account_lock(database, "PA1") is None
    other = await take_account_lock(database, "PA2")
    assert other is not None
    await first.release()
    again = await take_account_lock(database, "PA1")
    assert again is not None
    for lock in (other, again):
        assert await lock.beat()
        await lock.release()


async def test_losing_the_connection_is_losing_the_lock(database: str):
    """When the server cuts the session `lost` is set, the beat says so, and somebody else may have the lock."""
    lock = await take_account_lock(database, "PA1")
    assert lock is not None
    await _cut(database, "catalyst lock")
    async with asyncio.timeout(10):
        await lock.lost.wait()
    assert not await lock.beat()
    successor = await take_account_lock(database, "PA1")
    assert successor is not None
    await successor.release()
    await lock.release()


def test_lock_keys_fit_the_server_and_differ():
    """A key is a signed 64-bit number that depends on the account alone."""
    keys = {lock_key(f"PA{n}") for n in range(1000)}
    assert len(keys) == 1000
    assert all(-(2**63) <= key < 2**63 for key in keys)
    assert lock_key("PA1") == lock_key("PA1")


async def test_an_ear_hears_what_was_committed_after_it_opened(store: Store):
    """A notification sets `heard`; another channel's does not."""
    ear = await listen(store.dsn, "catalyst_commands")
    async with store.statement("other") as conn:
        await conn.execute("SELECT pg_notify('catalyst_answers', '1')")
        await conn.execute("SELECT pg_notify('catalyst_commands', '1')")
    async with asyncio.timeout(10):
        await ear.heard.wait()
    assert not ear.lost.is_set()
    await ear.close()
    await ear.close()


async def test_a_deaf_ear_wakes_its_listener(store: Store):
    """A lost connection sets `lost` and wakes whoever waits, so that he looks for himself."""
    ear = await listen(store.dsn, "catalyst_commands")
    await _cut(store.dsn, "catalyst listen catalyst_commands")
    async with asyncio.timeout(10):
        await ear.heard.wait()
    assert ear.lost.is_set()
    await ear.close()
