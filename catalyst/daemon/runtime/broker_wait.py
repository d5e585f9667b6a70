"""Broker wait: what a start does while the broker does not answer and the database has open work.

The start waits without limit: an exit of the process would leave positions without a daemon. It raises an alert, logs
once a minute and tells the service manager. Without open work, and for a person who waits for the result of a flatten,
the start is given up after BROKER_TIMEOUT.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.runtime.alert_delivery import AlertDelivery
from catalyst.daemon.runtime.watchdog import notify_service_manager
from catalyst.domain.errors import DatabaseUnavailable
from catalyst.notify.channel import Channel
from catalyst.store import alerts, orders, orphans, positions
from catalyst.store.pool import Connection, connected

log = structlog.get_logger()

BROKER_TIMEOUT: Final = timedelta(
    seconds=30
)  # from the first error until the alert, or until the start is given up
LOG_INTERVAL: Final = timedelta(seconds=60)
CONNECT_TIMEOUT_S: Final = 2.0  # real seconds
EXTEND_START_US: Final = (
    120_000_000  # microseconds that the service manager waits longer, from each report on
)


@dataclass(frozen=True)
class _DirectConnections:
    """Connections of their own to the database: a start has no pool yet."""

    dsn: str

    def read(self) -> AbstractAsyncContextManager[Connection]:
        return connected(self.dsn, "catalyst start", timeout_s=CONNECT_TIMEOUT_S)

    @asynccontextmanager
    async def tx(self, _label: str, /) -> AsyncIterator[Connection]:
        async with self.read() as conn, conn.transaction():
            yield conn


@dataclass
class BrokerWait:
    """One start's wait for the broker. `notify_socket`: the service manager's address, None without one."""

    dsn: str
    clock: Clock
    notify_socket: str | None
    channels: Sequence[Channel] = ()  # send the alert; empty once the delivery of alerts runs
    has_limit: bool = False  # give up also with open work
    _since: datetime | None = None
    _logged_at: datetime | None = None
    _delivery: AlertDelivery | None = None
    _open_work: str = ""  # what is open, in words; empty: nothing, or not read yet

    async def must_go_on(self, error: str) -> bool:
        """Report one failed read of the broker; return true while the start has to try again."""
        now = self.clock.now()
        self._since = self._since or now
        is_late = now - self._since >= BROKER_TIMEOUT
        if is_late:
            await self._read_open_work_and_alert(now)
            await self._send_alert()
        if self._logged_at is None or now - self._logged_at >= LOG_INTERVAL:
            self._logged_at = now
            log.warning(
                "broker_unreachable", error=error, since=self._since.isoformat(), open_work=self._open_work
            )
        if self._open_work:
            status = f"waiting for the broker since {self._since:%H:%M:%S} UTC: {self._open_work}"
            notify_service_manager(
                self.notify_socket, f"STATUS={status}\nEXTEND_TIMEOUT_USEC={EXTEND_START_US}"
            )
        return not is_late or (bool(self._open_work) and not self.has_limit)

    async def _send_alert(self) -> None:
        """Send the alert at once: the delivery of alerts begins only when the broker has answered."""
        if self._delivery is None and self.channels:
            self._delivery = AlertDelivery(_DirectConnections(self.dsn), self.channels, self.clock)
        if self._delivery is not None:
            try:
                await self._delivery.send_due()
            except DatabaseUnavailable as error:
                log.warning("alert_not_sent", error=str(error))

    def end(self) -> None:
        """Report that the broker answers."""
        if self._since is not None:
            log.warning("broker_reachable", seconds=(self.clock.now() - self._since).total_seconds())
        if self._open_work:
            notify_service_manager(self.notify_socket, "STATUS=the broker answers")
        self._since = self._logged_at = None
        self._open_work = ""

    async def _read_open_work_and_alert(self, now: datetime) -> None:
        """Read what is open, and raise an alert when anything is; keep the earlier answer when the read fails."""
        assert self._since is not None  # set by the first error
        try:
            with self.clock.hold():
                async with (
                    connected(self.dsn, "catalyst start", timeout_s=CONNECT_TIMEOUT_S) as conn,
                    conn.transaction(),
                ):
                    held = await positions.open_positions(conn)
                    found = await orphans.open_orphans(conn)
                    working = await orders.working(conn)
                    if not (held or found or working):
                        self._open_work = ""
                        return
                    symbols = sorted(
                        {row.symbol for row in held}
                        | {row.symbol for row in found}
                        | {row.symbol for row in working}
                    )
                    self._open_work = (
                        f"{len(held)} positions, {len(found)} orphans and {len(working)} orders are open "
                        f"({', '.join(symbols)})"
                    )
                    await alerts.raise_alert(
                        conn,
                        "BROKER_UNREACHABLE",
                        f"the broker does not answer since {self._since:%H:%M:%S} UTC and {self._open_work}; the start "
                        "tries again until it does, stops at the broker keep working; check the network",
                        facts={"symbols": symbols},
                        at=now,
                    )
        except DatabaseUnavailable as error:
            log.warning("open_work_not_read", error=str(error))
