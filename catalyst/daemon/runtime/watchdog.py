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
from catalyst.daemon.runtime.supervisor import Loop, Loops

log = structlog.get_logger()

# Loops that never end by themselves while the daemon lives.
ENDLESS: Final = frozenset(
    {"exits", "guard", "entries", "stop_monitor", "risk_watch", "reconciler", "orphans", "safety", "lock", "heartbeat"}
)  # fmt: skip


@dataclass
class Watchdog:
    """Speaks to `address`, None: nobody listens. `within` is how long it may be silent, None: for ever."""

    loops: Loops
    clock: Clock
    address: str | None
    within: timedelta | None

    def say(self, words: str) -> None:
        """One datagram; what cannot be sent is logged and lost: trading does not wait for a service manager."""
        if self.address is None:
            return
        where = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as speaking:
                speaking.setblocking(False)
                speaking.sendto(words.encode(), where)
        except OSError as error:
            log.warning("service_manager_unreachable", words=words, error=str(error))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Fed beside the block, from before anything is recovered until the last share is left."""
        feeding: dict[str, Loop] = (
            {} if self.within is None or self.address is None else {"watchdog": self.run}
        )
        async with self.loops.running(feeding):
            try:
                yield
            finally:
                self.say("STOPPING=1")

    async def run(self) -> None:
        """Fed at twice the pace that is asked for, while the event loop turns and no loop has ended; it is starved
        for good once one has."""
        assert self.within is not None  # watching() did not begin it otherwise
        told = False
        while True:
            ended = sorted(self.loops.ended & ENDLESS)
            if not ended:
                self.say("WATCHDOG=1")
            elif not told:
                told = True
                log.critical("watchdog_starved", ended=ended)
            await self.clock.sleep(self.within / 2)
