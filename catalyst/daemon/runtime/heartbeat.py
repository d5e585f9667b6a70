"""The daemon's sign of life in the tables, which is also the first to notice that they are away."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.store import alerts, daemon_epoch
from catalyst.store.pool import Store, connect, is_outage

log = structlog.get_logger()

EVERY: Final = timedelta(seconds=10)
ANSWER: Final = 2.0  # real seconds, for a page that goes around the pool


@dataclass
class Heartbeat:
    """Beats for one epoch. What keeps it from beating is paged: at once where the server still answers, else when
    it is back."""

    store: Store
    clock: Clock
    epoch: int
    _away_since: datetime | None = None

    async def run(self) -> None:
        while True:
            try:
                await self._beat()
            except Exception as error:
                if is_outage(error):
                    await self._missed(error)
                raise
            self._away_since = None
            await self.clock.sleep(EVERY)

    async def _beat(self) -> None:
        now = self.clock.now()
        async with self.store.tx("heartbeat") as conn:
            await daemon_epoch.beat(conn, self.epoch, at=now)
            if self._away_since is not None:
                await alerts.put(
                    conn,
                    severity="CRITICAL",
                    event="DATABASE_WAS_AWAY",
                    message=f"the database was away for {(now - self._away_since).total_seconds():.0f} s: no entries, "
                    "and what left meanwhile left without the tables",
                    facts={"since": self._away_since.isoformat()},
                    dedupe_key="DATABASE_WAS_AWAY",
                    at=now,
                )

    async def _missed(self, error: Exception) -> None:
        """Note since when; a server that answers beside a pool that gives no connection is a leak, and paged now."""
        self._away_since = self._away_since or self.clock.now()
        if not isinstance(error, TimeoutError):
            return
        try:
            with self.clock.hold():
                conn = await connect(self.store.dsn, "catalyst page", answer=ANSWER)
                try:
                    async with conn.transaction():
                        await alerts.put(
                            conn,
                            severity="CRITICAL",
                            event="POOL_EXHAUSTED",
                            message="the database answers, and no connection of ours is free: something holds them all",
                            facts={},
                            dedupe_key="POOL_EXHAUSTED",
                            at=self.clock.now(),
                        )
                finally:
                    conn.terminate()
        except Exception as silent:
            if not is_outage(silent):
                raise
            log.warning("page_unwritten", error=f"{type(silent).__name__}: {silent}")
