"""Watchdog: reports READY, STATUS, WATCHDOG and STOPPING to the service manager; without one it does nothing.

Source: sd_notify(3): a datagram of assignments to $NOTIFY_SOCKET; `@` begins an abstract address. systemd kills and
restarts a daemon that sends no WATCHDOG=1 within $WATCHDOG_USEC; the new process recovers.

WATCHDOG=1 is sent while the event loop runs, no endless loop has ended, and each watched loop takes turns. A loop that
waits for time, the broker or the database takes its turns, however long that lasts: a restart would not help it.
"""

import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.runtime.supervisor import Loop, Supervisor
from catalyst.domain.closed_entries import STOPPING

log = structlog.get_logger()

# Loops that run until the daemon stops; one that ends earlier is a defect.
ENDLESS_LOOPS: Final = frozenset(
    {"exits", "position_protector", "entry_expiry", "stop_monitor", "stop_prices", "daily_loss_limit", "reconciler",
     "orphans", "safe_mode", "account_lease", "heartbeat"}
)  # fmt: skip

# Loops that must take turns: they apply the stream, keep the stops at the broker, and watch prices and the database.
WATCHED_LOOPS: Final = frozenset({"stream", "position_protector", "stop_monitor", "stop_prices"})
MAX_TIME_WITHOUT_TURN: Final = timedelta(seconds=10)
STOP_EXTENSION: Final = timedelta(seconds=30)  # time that each feed of a stopping daemon asks for
FEEDS_PER_TIMEOUT: Final = 6  # a loop that is late once or twice costs no restart


@dataclass
class Watchdog:
    """Sends to the socket `address` (None: no service manager). `timeout` is the watchdog interval (None: no limit).

    `status` returns the line that `systemctl status` shows.
    """

    supervisor: Supervisor
    clock: Clock
    address: str | None
    timeout: timedelta | None
    status: Callable[[], str] = lambda: ""
    _sent_status: str = ""
    _turns: dict[str, tuple[int, datetime]] = field(
        default_factory=dict
    )  # turns of a loop, and since when that many

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
            self.send_status("recovering: reads every order and position at the broker")
            try:
                yield
            finally:
                self.notify("STOPPING=1")

    async def run(self) -> None:
        """Send WATCHDOG=1 several times per timeout while no endless loop has ended and none is late.

        A blocked event loop stops it too.
        """
        assert self.timeout is not None  # watching() starts run() only with a timeout
        logged: tuple[list[str], list[str]] = ([], [])
        while True:
            ended, late = sorted(self.supervisor.ended & ENDLESS_LOOPS), self.late_loops()
            if not ended and not late:
                self.notify("WATCHDOG=1")
                if STOPPING in self.supervisor.gate.reasons:
                    # TimeoutStopSec bounds a stop that hangs, not an exit that goes on; the daemon bounds that itself.
                    self.notify(f"EXTEND_TIMEOUT_USEC={STOP_EXTENSION // timedelta(microseconds=1)}")
            elif (ended, late) != logged:
                log.critical("watchdog_starved", ended=ended, late=late)
            logged = (ended, late)
            self.send_status(self.status())
            await self.clock.sleep(self.timeout / FEEDS_PER_TIMEOUT)

    def late_loops(self) -> list[str]:
        """Return the watched loops that took no turn for MAX_TIME_WITHOUT_TURN and wait for nothing outside."""
        now, late = self.clock.now(), []
        for name in sorted(WATCHED_LOOPS & self.supervisor.turns.keys()):
            taken, waits = self.supervisor.turns[name].count()
            last_taken, since = self._turns.get(name, (-1, now))
            if waits or taken != last_taken:
                self._turns[name] = (taken, now)
            elif now - since >= MAX_TIME_WITHOUT_TURN:
                late.append(name)
        return late

    def send_status(self, text: str) -> None:
        """Send the line for `systemctl status` when it differs from the last one."""
        if text and text != self._sent_status:
            self._sent_status = text
            self.notify(f"STATUS={text}")


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
