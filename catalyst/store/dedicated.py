"""Connections that are held for what they are: the account's lock, and an ear for commands."""

import asyncio
import hashlib
from typing import Final, Self

import asyncpg

from catalyst.store.pool import connect, is_outage

_BEAT: Final = 2.0  # seconds, real time, for the lock's connection to answer


class AccountLock:
    """The right to trade an account, for as long as this connection lives. `lost` is set when it is gone."""

    def __init__(self, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.lost = asyncio.Event()
        self._conn = conn
        conn.add_termination_listener(self._gone)

    async def beat(self) -> bool:
        """True when the server still answers on this connection; else `lost` is set. Ask every second."""
        try:
            await self._conn.execute("SELECT 1", timeout=_BEAT)
        except Exception as error:
            if not (is_outage(error) or isinstance(error, asyncpg.PostgresError)):
                raise
            self.lost.set()
            self._conn.terminate()
        return not self.lost.is_set()

    async def release(self) -> None:
        """Somebody else may take the lock. Idempotent."""
        self._conn.remove_termination_listener(self._gone)
        self.lost.set()
        await _hang_up(self._conn)

    def _gone(self, _: object) -> None:
        self.lost.set()


async def take_account_lock(dsn: str, account_id: str) -> AccountLock | None:
    """The lock of `account_id`, or None when another daemon holds it. It ends with its connection."""
    conn = await connect(dsn, "catalyst lock")
    try:
        if await conn.fetchval("SELECT pg_try_advisory_lock($1)", lock_key(account_id)):
            return AccountLock(conn)
    except BaseException:
        conn.terminate()
        raise
    await conn.close()
    return None


def lock_key(account_id: str) -> int:
    """The advisory lock's number: 64 bits of the account id's hash, signed as PostgreSQL has them."""
    digest = hashlib.sha256(b"catalyst account " + account_id.encode()).digest()
    return int.from_bytes(digest[:8], signed=True)


class Ear:
    """One LISTEN: `heard` is set by each notification and cleared by the listener; `lost` when it is deaf."""

    def __init__(self, conn: "asyncpg.Connection[asyncpg.Record]", channel: str) -> None:
        self.heard = asyncio.Event()
        self.lost = asyncio.Event()
        self._conn = conn
        self._channel = channel
        conn.add_termination_listener(self._gone)

    async def close(self) -> None:
        """Stop listening. Idempotent."""
        self._conn.remove_termination_listener(self._gone)
        await _hang_up(self._conn)  # which ends the listening too

    async def open(self) -> Self:
        """Listen from now on."""
        await self._conn.add_listener(self._channel, self._hear)
        return self

    def _hear(self, *_: object) -> None:
        self.heard.set()

    def _gone(self, _: object) -> None:
        self.lost.set()
        self.heard.set()  # whoever waits looks for himself


async def listen(dsn: str, channel: str) -> Ear:
    """An ear on `channel`: from the return on, no notification is missed unless `lost` is set."""
    return await Ear(await connect(dsn, f"catalyst listen {channel}"), channel).open()


async def _hang_up(conn: "asyncpg.Connection[asyncpg.Record]") -> None:
    if conn.is_closed():
        return
    try:
        await conn.close(timeout=_BEAT)
    except Exception as error:
        if not is_outage(error):
            raise
        conn.terminate()
