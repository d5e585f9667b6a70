"""What the service manager is told: that we are ready, that we live, that we are stopping. Without one, nothing.

Source: sd_notify(3): a datagram of assignments to $NOTIFY_SOCKET; `@` begins an abstract address. A daemon that no
longer says WATCHDOG=1 within $WATCHDOG_USEC is killed and started again, and starting is recovering.
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

# Loops that never end by themselves while the daemon lives.
ENDLESS_LOOPS: Final = frozenset(
    {"exits", "position_protector", "entry_expiry", "stop_monitor", "daily_loss_limit", "reconciler", "orphans", "safe_mode", "account_lease", "heartbeat"}
)  # fmt: skip


@dataclass
class Watchdog:
    """Speaks to `address`, None: nobody listens. `within` is how long it may be silent, None: for ever."""

    supervisor: Supervisor
    clock: Clock
    address: str | None
    timeout: timedelta | None

    def notify(self, state: str) -> None:
        """One datagram; what cannot be sent is logged and lost: trading does not wait for a service manager."""
        if self.address is None:
            return
        where = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaking:
                speaking.setblocking(False)
                speaking.sendto(state.encode(), where)
        except OSError as error:
            log.warning("service_manager_unreachable", state=state, error=str(error))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Fed beside the block, from before anything is recovered until the last share is left."""
        feeding: dict[str, Loop] = (
            {} if self.timeout is None or self.address is None else {"watchdog": self.run}
        )
        async with self.supervisor.running(feeding):
            try:
                yield
            finally:
                self.notify("STOPPING=1")

    async def run(self) -> None:
        """Fed at twice the pace that is asked for, while the event loop turns and no loop has ended; it is starved
        for good once one has."""
        assert self.timeout is not None  # watching() did not begin it otherwise
        logged = False
        while True:
            ended = sorted(self.supervisor.ended & ENDLESS_LOOPS)
            if not ended:
                self.notify("WATCHDOG=1")
            elif not logged:
                logged = True
                log.critical("watchdog_starved", ended=ended)
            await self.clock.sleep(self.timeout / 2)
