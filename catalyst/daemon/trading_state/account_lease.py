"""Account lease: the right of one daemon to send orders for one account, checked before every request.

The lease is an advisory lock on a database connection plus the fencing epoch in the database. A lost connection is
replaced as long as no other daemon has begun to trade. While the lock is lost, or unconfirmed since the process last
stalled, nothing is sent before the epoch has been read. The epoch also fences the database: every order is written
before it is sent, and the database refuses writes of a superseded epoch.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock, StallTimer
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import (
    AnotherDaemonRunning,
    BrokerUnavailable,
    DatabaseReplaced,
    DatabaseUnavailable,
)
from catalyst.domain.fault_points import FaultPoint, Moment, reach
from catalyst.store.account_lock import AccountLock, acquire_account_lock, current_epoch, lock_holder_of

log = structlog.get_logger()

RETRY_PAUSE: Final = timedelta(seconds=1)
MAX_UNCONFIRMED_S: Final = (
    5.0  # real seconds since the server last confirmed the lock; after it, ping before a request
)
FAULT_STEP: Final = "account_lease"


async def acquire_lease(
    dsn: str, account_id: str, clock: Clock, *, fault_point: FaultPoint | None = None
) -> AccountLock:
    """Acquire the account lease. Raises AnotherDaemonRunning, whose text names the holder."""
    with clock.hold():
        reach(fault_point, FAULT_STEP, Moment.BEFORE)
        lock = await acquire_account_lock(dsn, account_id)
        if lock is None:
            holder = await lock_holder_of(dsn, account_id)
            raise AnotherDaemonRunning(
                "another daemon trades this account: "
                f"{holder or 'its process is not known, it may be stopping'}; `catalyst status` shows it"
            )
        await lock.ping()
        reach(fault_point, FAULT_STEP, Moment.AFTER)
    return lock


@dataclass
class AccountLease:
    """Holds the lock of one account for one epoch; every ordinary request to the broker is checked against it."""

    dsn: str
    gate: EntryGate
    clock: Clock
    account_id: str
    epoch: int
    lock: AccountLock
    superseded: bool = False  # another daemon has taken over, or the database was replaced: send nothing more

    async def run(self) -> None:
        """Keep the lock, and reacquire it when it is lost, until the daemon stops.

        Raises AnotherDaemonRunning once another daemon has taken over, DatabaseReplaced when another server has
        replaced the one the daemon started on.
        """
        while True:
            await self.lock.until_lost(self.epoch)
            self._check_lock_epoch(self.lock)
            self.gate.close(
                "account_lease", "the account lease is lost: nothing is sent until it is reacquired"
            )
            await self._reacquire()
            self.gate.reopen("account_lease")

    def mark_superseded(self) -> None:
        """Refuse every request from now on."""
        self.superseded = True

    async def release(self) -> None:
        """Release the lock. Idempotent."""
        await self.lock.release()

    # -- check before a request

    async def check(self) -> None:
        """Return when this daemon may send: it holds the lock, its epoch is current, and both were confirmed since the
        process last stalled. Raises BrokerUnavailable otherwise; nothing has been sent."""
        if self.is_valid():
            return
        if not self.lock.lost.is_set():
            with self.clock.hold():
                await self.lock.ping()
            log.warning("lease_verified", held=not self.lock.lost.is_set(), epoch=self.lock.epoch)
        if not self.is_valid():
            raise BrokerUnavailable("not sent: this daemon does not hold the account lease")

    def is_valid(self) -> bool:
        """Return true while a request may be sent; the sending thread checks it again."""
        return (
            not self.superseded and self.lock.epoch == self.epoch and self.lock.confirmed(MAX_UNCONFIRMED_S)
        )

    # -- reacquire the lock

    async def _reacquire(self) -> None:
        old_timeline = self.lock.timeline
        await self.lock.release()
        while True:
            try:
                if await self._try_reacquire(old_timeline):
                    return
            except DatabaseUnavailable as error:
                log.warning("lease_reacquire_failed", error=str(error))
            await self.clock.sleep(RETRY_PAUSE)

    async def _try_reacquire(self, timeline: str | None) -> bool:
        """Return true when the lock is held again; false while the server still counts the lost connection."""
        with self.clock.hold():
            lock = await acquire_account_lock(self.dsn, self.account_id)
            if lock is None:
                self._check_epoch(await current_epoch(self.dsn))
                return False
            if not await lock.ping():
                await lock.release()
                return False
        try:
            self._check_lock_epoch(lock)
            self._check_same_server(timeline, lock)
        except (AnotherDaemonRunning, DatabaseReplaced):
            await lock.release()
            raise
        self.lock = lock
        log.warning("lease_reacquired", epoch=self.epoch)
        return True

    def _check_same_server(self, timeline: str | None, lock: AccountLock) -> None:
        if timeline in (None, lock.timeline):
            return
        self.mark_superseded()
        raise DatabaseReplaced(
            f"another database server has taken over (timeline {timeline}, now {lock.timeline}): the last "
            "commits may be missing there; start the daemon again, which reads them from the broker"
        )

    def _check_lock_epoch(self, lock: AccountLock) -> None:
        if lock.epoch is not None:
            self._check_epoch(lock.epoch)

    def _check_epoch(self, epoch: int) -> None:
        if epoch == self.epoch:
            return
        self.mark_superseded()
        if epoch > self.epoch:
            raise AnotherDaemonRunning(f"epoch {epoch} has taken over from {self.epoch}")
        raise DatabaseReplaced(
            f"the database has epoch {epoch}, this daemon {self.epoch}: the database misses commits; "
            "start the daemon again, which reads them from the broker"
        )


@dataclass
class OutagePermit:
    """Permit for exits during a database outage.

    An exit is allowed while the database is not reachable, because no other daemon can have taken over in it. When the
    database answers, the epoch decides.
    """

    lease: AccountLease
    _last_check: StallTimer = field(default_factory=StallTimer)
    _last_outage: StallTimer | None = None  # since the last failed read of the epoch

    async def check(self) -> None:
        """Return when an outage exit may be sent. Raises BrokerUnavailable when another daemon has taken over."""
        if not self.lease.is_valid() and not self._is_database_down():
            await self._check_epoch()
        if self.lease.superseded:
            raise BrokerUnavailable("not sent: another daemon has taken over")
        self._last_check.mark()

    def is_valid(self) -> bool:
        """Return true while a request may be sent."""
        return not self.lease.superseded and self._last_check.seconds <= MAX_UNCONFIRMED_S

    def _is_database_down(self) -> bool:
        return self._last_outage is not None and self._last_outage.seconds <= MAX_UNCONFIRMED_S

    async def _check_epoch(self) -> None:
        self._last_outage = None
        try:
            with self.lease.clock.hold():
                epoch = await current_epoch(self.lease.dsn)
        except DatabaseUnavailable as error:
            self._last_outage = StallTimer()
            log.warning("outage_exit_permitted", error=str(error))
        else:
            if epoch > self.lease.epoch:
                self.lease.mark_superseded()
                log.critical("superseded", epoch=self.lease.epoch, now=epoch)
