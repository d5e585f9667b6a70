"""Monitoring loop: serves /health and /metrics, and reads the database's figures for them every ten seconds."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.components import Components
from catalyst.daemon.monitoring.reading import DaemonReading, read_daemon
from catalyst.daemon.runtime.watchdog import Watchdog
from catalyst.domain.errors import DatabaseContention, DatabaseUnavailable
from catalyst.store.monitoring_figures import StoredFigures, read_figures

log = structlog.get_logger()

FIGURES_INTERVAL: Final = timedelta(seconds=10)
RETRY_PAUSE: Final = timedelta(seconds=60)  # while the port is taken


@dataclass
class Monitoring:
    """Serves on `port` what the components hold. A scrape sends no statement and no request."""

    components: Components
    watchdog: Watchdog
    port: int
    stored: StoredFigures | None = None

    @property
    def clock(self) -> Clock:
        return self.components.clock

    def read(self) -> DaemonReading:
        """Return the daemon's state now."""
        return read_daemon(self.components, self.watchdog, self.stored)

    async def run(self) -> None:
        """Serve until cancelled. A port that is not free is logged and tried again: trading does not need it."""
        # aiohttp and prometheus-client cost memory and time at a start: only a daemon that serves imports them.
        from catalyst.daemon.monitoring.http_server import MonitoringServer

        while True:
            try:
                async with MonitoringServer(self.port, self.read) as server:
                    log.info("monitoring_served", port=server.port, paths=["/health", "/metrics"])
                    await self._read_figures_forever()
            except OSError as error:
                log.error("monitoring_not_served", port=self.port, error=str(error))  # noqa: TRY400 -- no traceback
            await self.clock.sleep(RETRY_PAUSE)

    async def _read_figures_forever(self) -> None:
        while True:
            await self._read_figures()
            await self.clock.sleep(FIGURES_INTERVAL)

    async def _read_figures(self) -> None:
        """Read the figures of the database; during an outage the last ones stay and grow old."""
        now = self.clock.now()
        try:
            async with self.components.store.read() as conn:
                self.stored = await read_figures(
                    conn,
                    self.components.current_day.cycle_id,
                    severities=self.components.alert_delivery.severities,
                    at=now,
                )
        except (DatabaseUnavailable, DatabaseContention) as error:
            log.warning("monitoring_figures_not_read", error=str(error))
