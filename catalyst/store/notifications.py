"""LISTEN connection: receives NOTIFY from the database."""

import asyncio
from collections.abc import Callable
from typing import Self

import asyncpg

from catalyst.store.driver_errors import translated_errors
from catalyst.store.pool import close_connection, connect


class NotificationListener:
    """One LISTEN: each notification sets `notified`, the caller clears it; `lost` is set when the connection ends.

    `on_notification` is called at each of both.
    """

    def __init__(
        self,
        conn: "asyncpg.Connection[asyncpg.Record]",
        channel: str,
        on_notification: Callable[[], None] | None,
    ) -> None:
        self.notified = asyncio.Event()
        self.lost = asyncio.Event()
        self._call = on_notification
        self._conn = conn
        self._channel = channel
        conn.add_termination_listener(self._on_terminated)

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        self._conn.remove_termination_listener(self._on_terminated)
        await close_connection(self._conn)  # which also ends LISTEN

    async def start(self) -> Self:
        """Listen from now on."""
        with translated_errors():
            await self._conn.add_listener(self._channel, self._on_notification)
        return self

    def _on_notification(self, *_: object) -> None:
        self.notified.set()
        if self._call is not None:
            self._call()

    def _on_terminated(self, _: object) -> None:
        self.lost.set()
        self._on_notification()  # the waiting task checks for itself


async def listen(
    dsn: str, channel: str, on_notification: Callable[[], None] | None = None
) -> NotificationListener:
    """Listen on `channel`: after the return no notification is missed unless `lost` is set."""
    conn = await connect(dsn, f"catalyst listen {channel}")
    return await NotificationListener(conn, channel, on_notification).start()
