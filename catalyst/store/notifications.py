"""LISTEN connection: receives NOTIFY from the database."""

import asyncio
from typing import Self

import asyncpg

from catalyst.store.account_lock import hang_up
from catalyst.store.pool import connect


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
        await hang_up(self._conn)  # which ends the listening too

    async def begin(self) -> Self:
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
    return await Ear(await connect(dsn, f"catalyst listen {channel}"), channel).begin()
