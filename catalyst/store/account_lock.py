"""Account lock: a connection that holds the advisory lock of one account."""

import asyncio
import hashlib
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from catalyst.clock import StallTimer, wait_real
from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.store.driver_errors import translated_errors
from catalyst.store.pool import close_connection, connect, connected

_PING_TIMEOUT_S: Final = 2.0  # real seconds for the lock's connection to respond
# Real seconds between two pings: they bound a real socket and do not follow the market clock.
PING_INTERVAL_S: Final = 1.0

# The first eight digits of the WAL file name: a failover changes them, a restart does not.
_SERVER_STATE: Final = """
    SELECT (SELECT epoch FROM daemon) AS epoch,
           left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline
"""


class AccountLock:
    """The right to trade an account while this connection is open. `lost` is set when the connection is gone.
    `epoch` and `timeline` come from the last ping."""

    def __init__(self, conn: "asyncpg.Connection[asyncpg.Record]") -> None:
        self.lost = asyncio.Event()
        self.epoch: int | None = None
        self.timeline: str | None = None
        self._conn = conn
        self._ping_lock = asyncio.Lock()
        self._since_confirmed = StallTimer()
        conn.add_termination_listener(self._on_terminated)

    def confirmed(self, within: float) -> bool:
        """Return true when the server confirmed the lock in the last `within` real seconds. Thread-safe."""
        return not self.lost.is_set() and self._since_confirmed.seconds <= within

    async def ping(self) -> bool:
        """Return true when the server responds on this connection; otherwise set `lost`."""
        async with self._ping_lock:
            if self.lost.is_set():
                return False
            try:
                with translated_errors():
                    server_state = await self._conn.fetchrow(_SERVER_STATE, timeout=_PING_TIMEOUT_S)
            except (DatabaseUnavailable, DatabaseContention, asyncpg.PostgresError):
                self.lost.set()
                self._conn.terminate()
            else:
                assert server_state is not None  # a query without a FROM has one row
                self.epoch, self.timeline = server_state["epoch"], server_state["timeline"]
                if not self.lost.is_set():
                    self._since_confirmed.mark()
        return not self.lost.is_set()

    async def until_lost(self, epoch: int) -> None:
        """Return once the lock is lost or another epoch than `epoch` is current; ping every real second."""
        while await self.ping() and self.epoch == epoch:
            await wait_real(self.lost, PING_INTERVAL_S)

    async def release(self) -> None:
        """Release the lock. Idempotent."""
        self._conn.remove_termination_listener(self._on_terminated)
        self.lost.set()
        await close_connection(self._conn)

    def _on_terminated(self, _: object) -> None:
        self.lost.set()


@dataclass(frozen=True, slots=True)
class LockHolder:
    """The holder of an account lease, as the server and the database show it."""

    client: str
    since: datetime
    epoch: int | None
    pid: int | None
    heartbeat_at: datetime | None

    def __str__(self) -> str:
        run = f"epoch {self.epoch}, process {self.pid}" if self.pid is not None else f"epoch {self.epoch}"
        heartbeat = f", last heartbeat {self.heartbeat_at:%H:%M:%S} UTC" if self.heartbeat_at else ""
        return f"{run} from {self.client}, connected since {self.since:%Y-%m-%d %H:%M:%S} UTC{heartbeat}"


async def acquire_account_lock(dsn: str, account_id: str) -> AccountLock | None:
    """Acquire the lock of `account_id`; None when another daemon holds it. It ends with its connection."""
    conn = await connect(dsn, "catalyst lock", writable=True)
    with translated_errors(), ExitStack() as on_failure:
        on_failure.callback(conn.terminate)
        acquired = await conn.fetchval("SELECT pg_try_advisory_lock($1)", lock_key(account_id))
        on_failure.pop_all()
    if acquired:
        return AccountLock(conn)
    await close_connection(conn)
    return None


async def lock_holder_of(dsn: str, account_id: str) -> LockHolder | None:
    """Return the holder of the lock of `account_id` in this database; None when it is free."""
    async with connected(dsn, "catalyst lease query") as conn:
        found = await conn.fetchrow(
            """
            SELECT coalesce(host(a.client_addr), 'this machine') AS client, a.backend_start AS since,
                   d.epoch, d.pid, d.heartbeat_at
              FROM pg_locks l
              JOIN pg_stat_activity a USING (pid)
             CROSS JOIN daemon d
             WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
               AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
               AND (l.classid::bigint << 32) | l.objid::bigint = $1
            """,
            lock_key(account_id),
        )
    return None if found is None else LockHolder(**found)


async def current_epoch(dsn: str) -> int:
    """Read the current epoch on a connection of its own. Raises DatabaseUnavailable during an outage."""
    async with connected(dsn, "catalyst epoch query", timeout_s=_PING_TIMEOUT_S) as conn:
        epoch: int = await conn.fetchval("SELECT epoch FROM daemon", timeout=_PING_TIMEOUT_S)
    return epoch


def lock_key(account_id: str) -> int:
    """Return the number of the advisory lock: 64 bits of the hash of the account id, signed as in PostgreSQL."""
    digest = hashlib.sha256(b"catalyst account " + account_id.encode()).digest()
    return int.from_bytes(digest[:8], signed=True)
