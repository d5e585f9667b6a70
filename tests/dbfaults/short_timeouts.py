"""Short time-outs for a database that does not answer, so that a test does not wait ten seconds for each statement.

They begin with the fault and end with it: while the database answers, the usual ones are in force, and a slow machine
is no outage.
"""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg
import pytest

from catalyst.store import account_lock, pool
from catalyst.store.pool import Connection, Store

COMMAND_TIMEOUT_S: Final = 0.8
ACQUIRE_TIMEOUT_S: Final = 0.5


def open_connections(store: Store) -> list[Connection]:
    """Return the open connections of a store, pooled and reserved."""
    driver_pool: Any = store._pool
    pooled = [holder._con for holder in driver_pool._holders if holder._con is not None]
    return [*pooled, *store._reserved._idle, *store._reserved._in_use]


@asynccontextmanager
async def short_lock_timeout(store: Store) -> AsyncIterator[None]:
    """Let the open connections wait a fifth of a second for a lock; for a lock that the test holds meanwhile."""
    for conn in open_connections(store):
        await conn.execute("SET lock_timeout = 200")
    yield
    for conn in open_connections(store):
        await conn.execute("RESET lock_timeout")


def shorten_command_timeout(conn: Connection) -> None:
    """Let the statements of a connection wait less than a second; for one that gets no answer any more."""
    driver: Any = getattr(conn, "_con", conn)
    driver._config = driver._config._replace(command_timeout=COMMAND_TIMEOUT_S)


class SilenceTimeouts:
    """The time-outs of a store whose server is silent."""

    def __init__(self) -> None:
        self._patch = pytest.MonkeyPatch()

    def begin(self, store: Store) -> None:
        """Shorten every time-out, also those of the open connections."""
        for module, name, seconds in (
            (pool, "_COMMAND_TIMEOUT_S", COMMAND_TIMEOUT_S),
            (pool, "_ACQUIRE_TIMEOUT_S", ACQUIRE_TIMEOUT_S),
            (pool, "_CLOSE_TIMEOUT_S", ACQUIRE_TIMEOUT_S),
            (account_lock, "_PING_TIMEOUT_S", ACQUIRE_TIMEOUT_S),
        ):
            self._patch.setattr(module, name, seconds)
        open_connection = pool._open_connection

        async def open_shortly(dsn: str, **options: Any) -> "asyncpg.Connection[asyncpg.Record]":
            return await open_connection(dsn, **{**options, "timeout": COMMAND_TIMEOUT_S})

        self._patch.setattr(pool, "_open_connection", open_shortly)
        driver_pool: Any = store._pool
        self._patch.setitem(driver_pool._connect_kwargs, "timeout", COMMAND_TIMEOUT_S)
        for conn in open_connections(store):
            shorten_command_timeout(conn)

    def end(self) -> None:
        """Restore the usual time-outs; connections that were open in the silence are cut by then."""
        self._patch.undo()


@asynccontextmanager
async def exhausted_pool(store: Store) -> AsyncIterator[None]:
    """Borrow every connection of the pool; a further borrower waits a fifth of a second instead of two seconds."""
    acquire = asyncpg.Pool.acquire

    def acquire_shortly(self: Any, *, timeout: float | None = None) -> Any:
        return acquire(self, timeout=0.2)

    async with AsyncExitStack() as borrowed:
        for _ in range(store._pool.get_max_size()):
            await borrowed.enter_async_context(store._pool.acquire())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(asyncpg.Pool, "acquire", acquire_shortly)
            yield
