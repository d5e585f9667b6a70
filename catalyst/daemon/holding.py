"""Holding the account's lock: a connection that ends is taken anew, as long as nobody else has begun to trade.

What keeps two daemons apart while the lock is gone is the epoch: every order is written before it is sent, and the
tables refuse the writes of an epoch that is over.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock, wait
from catalyst.daemon.gate import Gate
from catalyst.domain.errors import AnotherDaemon
from catalyst.store import manifest
from catalyst.store.dedicated import AccountLock, take_account_lock
from catalyst.store.pool import Store, is_outage

log = structlog.get_logger()

BEAT: Final = timedelta(seconds=5)  # a connection that ends is noticed at once, a silent one by this
AGAIN: Final = timedelta(seconds=1)


@dataclass
class Holding:
    """The lock of one account for one epoch."""

    store: Store
    gate: Gate
    clock: Clock
    account_id: str
    epoch: int
    lock: AccountLock

    async def run(self) -> None:
        """Keep the lock for as long as the daemon lives. Raises AnotherDaemon once there is a successor."""
        while True:
            while await self.lock.beat():
                await wait(self.clock, self.lock.lost, BEAT)
            self.gate.shut("lock", "the account's lock is lost")
            await self._retake()
            self.gate.clear("lock")

    async def _retake(self) -> None:
        await self.lock.release()
        while True:
            try:
                if await self._taken():
                    return
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("lock_unreachable", error=f"{type(error).__name__}: {error}")
            await self.clock.sleep(AGAIN)

    async def _taken(self) -> bool:
        """True when the lock is ours again; false while the server still believes in the dead connection."""
        with self.clock.hold():
            lock = await take_account_lock(self.store.dsn, self.account_id)
        if lock is not None:
            self.lock = lock
        async with self.store.read() as conn:
            current = (await manifest.current(conn)).epoch
        if current != self.epoch:
            raise AnotherDaemon(f"epoch {current} has taken over from {self.epoch}")
        return lock is not None
