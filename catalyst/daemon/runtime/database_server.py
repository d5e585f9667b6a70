"""Database server: starts the embedded PostgreSQL server again when it ends while the daemon runs.

Until it answers again the daemon is in a database outage: positions are watched, protected and exited without it.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.embedded import EmbeddedPostgres, EmbeddedUnavailable

log = structlog.get_logger()

CHECK_INTERVAL: Final = timedelta(seconds=5)
MAX_PAUSE: Final = timedelta(seconds=60)  # between two starts that fail; the first pause is CHECK_INTERVAL
MAX_STARTS: Final = 5  # within START_WINDOW; a server that ends so often needs a person
START_WINDOW: Final = timedelta(minutes=10)


@dataclass
class DatabaseServerWatch:
    """Checks the server that this process started or joined."""

    server: EmbeddedPostgres
    clock: Clock
    max_starts: int = MAX_STARTS
    _starts: deque[datetime] = field(default_factory=deque)  # of the last START_WINDOW

    async def run(self) -> None:
        """Start the server again each time it has ended, with a growing pause and a limit; never returns."""
        pause, was_running = CHECK_INTERVAL, True
        while True:
            await self.clock.sleep(pause)
            if self.server.is_running():
                pause, was_running = CHECK_INTERVAL, True
                continue
            if was_running:
                log.critical("database_server_ended", cluster=str(self.server.cluster))
                was_running = False
            pause = CHECK_INTERVAL if self._may_start() and await self._start() else min(pause * 2, MAX_PAUSE)

    def _may_start(self) -> bool:
        """Return false once the server was started `max_starts` times within START_WINDOW."""
        now = self.clock.now()
        while self._starts and now - self._starts[0] >= START_WINDOW:
            self._starts.popleft()
        if len(self._starts) < self.max_starts:
            self._starts.append(now)
            return True
        log.error(
            "database_server_not_started",
            reason=f"{self.max_starts} starts within {START_WINDOW.seconds // 60} minutes: see server.log",
            cluster=str(self.server.cluster),
        )
        return False

    async def _start(self) -> bool:
        """Start the server; return false when it does not start."""
        try:
            with self.clock.hold():
                await asyncio.to_thread(self.server.restart)
        except (EmbeddedUnavailable, OSError) as error:
            log.error(  # noqa: TRY400 - the reason is the last lines of the server's own log
                "database_server_not_started", reason=str(error), cluster=str(self.server.cluster)
            )
            return False
        log.warning("database_server_started", cluster=str(self.server.cluster))
        return True
