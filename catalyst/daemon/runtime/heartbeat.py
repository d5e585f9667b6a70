"""The daemon's sign of life in the tables, which is also the first to notice that they are away."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.store import alerts, daemon_epoch
from catalyst.store.pool import Store, connect, is_outage

log = structlog.get_logger()

HEARTBEAT_INTERVAL: Final = timedelta(seconds=10)
CONNECT_TIMEOUT_S: Final = 2.0  # real seconds, for a page that goes around the pool


@dataclass
class Heartbeat:
    """Beats for one epoch. What keeps it from beating is paged: at once where the server still answers, else when
    it is back."""

    store: Store
    clock: Clock
    epoch: int
    _outage_since: datetime | None = None

    async def run(self) -> None:
        while True:
            try:
                await self._write_heartbeat()
            except Exception as error:
                if is_outage(error):
                    await self._record_missed(error)
                raise
            self._outage_since = None
            await self.clock.sleep(HEARTBEAT_INTERVAL)

    async def _write_heartbeat(self) -> None:
        now = self.clock.now()
        async with self.store.tx("heartbeat") as conn:
            await daemon_epoch.heartbeat(conn, self.epoch, at=now)
            if self._outage_since is not None:
                await alerts.put(
                    conn,
                    severity="CRITICAL",
                    event="DATABASE_OUTAGE",
                    message=f"the database was away for {(now - self._outage_since).total_seconds():.0f} s: no entries, "
                    "and what left meanwhile left without the tables",
                    facts={"since": self._outage_since.isoformat()},
                    dedupe_key="DATABASE_OUTAGE",
                    at=now,
                )

    async def _record_missed(self, error: Exception) -> None:
        """Note since when; a server that answers beside a pool that gives no connection is a leak, and paged now."""
        self._outage_since = self._outage_since or self.clock.now()
        if not isinstance(error, TimeoutError):
            return
        try:
            with self.clock.hold():
                conn = await connect(self.store.dsn, "catalyst alert", timeout_s=CONNECT_TIMEOUT_S)
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
            log.warning("alert_not_written", error=f"{type(silent).__name__}: {silent}")
