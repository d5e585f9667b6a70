"""Heartbeat: writes the time to the daemon's row every ten seconds and alerts after a database outage."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.domain.errors import DatabaseUnavailable
from catalyst.store import alerts, daemon_epoch
from catalyst.store.pool import Store, connected

log = structlog.get_logger()

HEARTBEAT_INTERVAL: Final = timedelta(seconds=10)
CONNECT_TIMEOUT_S: Final = 2.0  # real seconds, for an alert written on a connection outside the pool


@dataclass
class Heartbeat:
    """Writes the heartbeat of one epoch.

    A failed heartbeat raises an alert: at once when the server still answers, else when the database is back.
    """

    store: Store
    clock: Clock
    epoch: int
    _outage_since: datetime | None = None

    async def run(self) -> None:
        """Write the heartbeat until it fails; raises the error, after which the supervisor restarts the loop."""
        while True:
            try:
                await self._write_heartbeat()
            except DatabaseUnavailable as error:
                await self._record_missed(error)
                raise
            self._outage_since = None
            await self.clock.sleep(HEARTBEAT_INTERVAL)

    async def _write_heartbeat(self) -> None:
        now = self.clock.now()
        async with self.store.tx("heartbeat") as conn:
            await daemon_epoch.heartbeat(conn, self.epoch, at=now)
            if self._outage_since is not None:
                await alerts.raise_alert(
                    conn,
                    "DATABASE_OUTAGE",
                    f"the database was down for {(now - self._outage_since).total_seconds():.0f} s: entries were"
                    " blocked; exits and stops sent meanwhile are in the SPOOL_IMPORTED alert",
                    facts={"since": self._outage_since.isoformat()},
                    at=now,
                )

    async def _record_missed(self, error: DatabaseUnavailable) -> None:
        """Store the start of the outage; raise an alert at once when only the pool has no free connection (a leak)."""
        self._outage_since = self._outage_since or self.clock.now()
        if not isinstance(error.__cause__, TimeoutError):
            return
        try:
            with self.clock.hold():
                async with (
                    connected(self.store.dsn, "catalyst alert", timeout_s=CONNECT_TIMEOUT_S) as conn,
                    conn.transaction(),
                ):
                    await alerts.raise_alert(
                        conn,
                        "POOL_EXHAUSTED",
                        "the database answers, but all pool connections are in use: restart the daemon",
                        facts={},
                        at=self.clock.now(),
                    )
        except DatabaseUnavailable as alert_error:
            log.warning("alert_not_written", error=str(alert_error))
