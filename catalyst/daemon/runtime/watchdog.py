"""Watchdog: reports READY, WATCHDOG and STOPPING to the service manager; without one it does nothing.

Source: sd_notify(3): a datagram of assignments to $NOTIFY_SOCKET; `@` begins an abstract address. systemd kills and
restarts a daemon that sends no WATCHDOG=1 within $WATCHDOG_USEC; the new process recovers.
"""

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.runtime.supervisor import Loop, Supervisor

log = structlog.get_logger()

# Loops that run until the daemon stops; one that ends earlier is a defect.
ENDLESS_LOOPS: Final = frozenset(
    {"exits", "position_protector", "entry_expiry", "stop_monitor", "daily_loss_limit", "reconciler", "orphans",
     "safe_mode", "account_lease", "heartbeat"}
)  # fmt: skip


@dataclass
class Watchdog:
    """Sends to the socket `address` (None: no service manager). `timeout` is the watchdog interval (None: no limit)."""

    supervisor: Supervisor
    clock: Clock
    address: str | None
    timeout: timedelta | None

    def notify(self, state: str) -> None:
        """Send one datagram."""
        notify_service_manager(self.address, state)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Run the watchdog loop while the block runs (recovery to the last exit), then send STOPPING=1."""
        loops: dict[str, Loop] = (
            {} if self.timeout is None or self.address is None else {"watchdog": self.run}
        )
        async with self.supervisor.running(loops):
            try:
                yield
            finally:
                self.notify("STOPPING=1")

    async def run(self) -> None:
        """Send WATCHDOG=1 twice per timeout while no endless loop has ended; once one has, never again.

        A blocked event loop stops it too.
        """
        assert self.timeout is not None  # watching() starts run() only with a timeout
        logged = False
        while True:
            ended = sorted(self.supervisor.ended & ENDLESS_LOOPS)
            if not ended:
                self.notify("WATCHDOG=1")
            elif not logged:
                logged = True
                log.critical("watchdog_starved", ended=ended)
            await self.clock.sleep(self.timeout / 2)


def notify_service_manager(address: str | None, state: str) -> None:
    """Send one datagram to the service manager's socket; None: there is none.

    A failure is logged and not retried: trading does not wait for the service manager.
    """
    if address is None:
        return
    socket_name = f"\0{address[1:]}" if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), socket_name)
    except OSError as error:
        log.warning("service_manager_unreachable", state=state, error=str(error))
