"""Every way to the database raises DatabaseUnavailable, and only that, while the server is stopped."""

from collections.abc import Awaitable, Callable

import pytest

from catalyst.clock import ManualClock
from catalyst.domain.errors import DatabaseUnavailable
from catalyst.store.account_lock import acquire_account_lock, current_epoch, lock_holder_of
from catalyst.store.migrate import migrate, status
from catalyst.store.notifications import listen
from catalyst.store.pool import Connection, connect, connected, open_store
from tests.dbfaults.dedicated_server import open_dedicated_server
from tests.dbfaults.postgres_proxy import open_proxy
from tests.dbfaults.short_timeouts import shorten_command_timeout


async def select_one(conn: Connection) -> int:
    value: int = await conn.fetchval("SELECT 1")
    return value


async def test_every_entry_raises_database_unavailable_when_server_is_stopped(clock: ManualClock) -> None:
    """Open connections are cut, new ones refused; the driver's error is the cause. After a start all respond."""
    async with open_dedicated_server() as server:
        store = await open_store(server.dsn, clock, writable=True)
        lock = await acquire_account_lock(server.dsn, "PA1")
        assert lock is not None

        async def use_tx() -> int:
            async with store.tx("test") as conn:
                return await select_one(conn)

        async def use_statement() -> int:
            async with store.statement("test") as conn:
                return await select_one(conn)

        async def use_order_statement() -> int:
            async with store.order_statement("test") as conn:
                return await select_one(conn)

        async def use_read() -> int:
            async with store.read() as conn:
                return await select_one(conn)

        async def use_open_store() -> None:
            await (await open_store(server.dsn, clock, writable=True)).close()

        async def use_connect() -> None:
            await (await connect(server.dsn, "test")).close()

        async def use_connected() -> int:
            async with connected(server.dsn, "test") as conn:
                return await select_one(conn)

        async def use_listen() -> None:
            await (await listen(server.dsn, "test")).close()

        async def use_account_lock() -> None:
            other = await acquire_account_lock(server.dsn, "PA2")
            assert other is not None
            await other.release()

        entries: tuple[Callable[[], Awaitable[object]], ...] = (
            use_tx,
            use_statement,
            use_order_statement,
            use_read,
            lambda: store.run("test", select_one),
            use_open_store,
            use_connect,
            use_connected,
            use_listen,
            use_account_lock,
            lambda: lock_holder_of(server.dsn, "PA1"),
            lambda: current_epoch(server.dsn),
            lambda: migrate(server.dsn),
            lambda: status(server.dsn),
        )
        for entry in entries:
            await entry()
        assert await store.is_writable()
        assert await lock.ping()

        async def stop_in_the_middle() -> None:
            async with store.tx("test") as conn:
                await server.stop()
                await select_one(conn)

        with pytest.raises(DatabaseUnavailable):
            await stop_in_the_middle()
        for entry in entries:
            with pytest.raises(DatabaseUnavailable) as raised:
                await entry()
            assert raised.value.__cause__ is not None
        assert not await store.is_writable()
        assert not await lock.ping()

        await server.start()
        for entry in entries:
            await entry()
        assert await store.is_writable()
        await lock.release()
        await store.close()


async def test_statement_without_response_raises_database_unavailable(
    database: str, clock: ManualClock
) -> None:
    """The driver's TimeoutError becomes DatabaseUnavailable, on a connection of the pool, on one outside it and
    on one that is not open yet."""
    async with open_proxy(database) as proxy:
        store = await open_store(proxy.dsn, clock)

        async def read_silent() -> None:
            async with store.read() as conn:
                proxy.stop_forwarding()
                shorten_command_timeout(conn)
                await select_one(conn)

        async def ask_silent() -> None:
            async with connected(proxy.dsn, "test") as conn:
                proxy.stop_forwarding()
                shorten_command_timeout(conn)
                await select_one(conn)

        async def connect_silent() -> None:
            proxy.stop_forwarding()
            async with connected(proxy.dsn, "test", timeout_s=0.3):
                pass

        for use in (read_silent, ask_silent, connect_silent):
            proxy.resume()
            with pytest.raises(DatabaseUnavailable) as raised:
                await use()
            assert isinstance(raised.value.__cause__, TimeoutError)
        store.abandon()
