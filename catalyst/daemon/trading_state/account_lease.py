"""Holding the account's lock, and asking it before anything is sent.

A connection that ends is taken anew, as long as nobody else has begun to trade. While the lock is gone, or has not
been confirmed since this process last stood still, nothing leaves: the epoch in the tables is looked at first. It is
the tables' fence too: every order is written before it is sent, and they refuse the writes of an epoch that is over.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock, StallTimer
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.domain.errors import AnotherDaemonRunning, BrokerUnavailable, DatabaseReplaced
from catalyst.domain.fault_points import FaultPoint, Moment, reach
from catalyst.store.account_lock import AccountLock, acquire_account_lock, current_epoch, lock_holder_of
from catalyst.store.pool import is_outage

log = structlog.get_logger()

RETRY_PAUSE: Final = timedelta(seconds=1)
MAX_UNCONFIRMED_S: Final = 5.0  # real seconds without a word of the server: look before the next request
FAULT_STEP: Final = "account_lease"


async def acquire_lease(
    dsn: str, account_id: str, clock: Clock, *, fault_point: FaultPoint | None = None
) -> AccountLock:
    """The account's lock. Raises AnotherDaemon, which says who holds it."""
    with clock.hold():
        reach(fault_point, FAULT_STEP, Moment.BEFORE)
        lock = await acquire_account_lock(dsn, account_id)
        if lock is None:
            holder = await lock_holder_of(dsn, account_id)
            raise AnotherDaemonRunning(
                f"another daemon trades this account: {holder or 'it is about to leave'}; `catalyst status` shows it"
            )
        await lock.ping()
        reach(fault_point, FAULT_STEP, Moment.AFTER)
    return lock


@dataclass
class AccountLease:
    """The lock of one account for one epoch; the permit of every ordinary change at the broker."""

    dsn: str
    gate: EntryGate
    clock: Clock
    account_id: str
    epoch: int
    lock: AccountLock
    superseded: bool = False  # there is a successor: nothing of ours leaves any more

    async def run(self) -> None:
        """Keep the lock for as long as the daemon lives. Raises AnotherDaemon once there is a successor, and
        DatabaseReplaced when another server stands in for the one we began on."""
        while True:
            await self.lock.until_lost(self.epoch)
            self._check_lock_epoch(self.lock)
            self.gate.close("account_lease", "the account's lock is lost")
            await self._reacquire()
            self.gate.reopen("account_lease")

    async def release(self) -> None:
        """Somebody else may take the lock. Idempotent."""
        await self.lock.release()

    # -- the permit

    async def check(self) -> None:
        """Return when this daemon may send: it holds the lock and its epoch is current, and that was confirmed since
        it last stood still. Raises BrokerUnavailable otherwise: nothing has left."""
        if self.is_valid():
            return
        if not self.lock.lost.is_set():
            with self.clock.hold():
                await self.lock.ping()
            log.warning("lease_verified", held=not self.lock.lost.is_set(), epoch=self.lock.epoch)
        if not self.is_valid():
            raise BrokerUnavailable("not sent: the account's lock is not ours at this moment")

    def is_valid(self) -> bool:
        """True while a request may leave; asked once more in the sending thread."""
        return (
            not self.superseded and self.lock.epoch == self.epoch and self.lock.confirmed(MAX_UNCONFIRMED_S)
        )

    # -- the lock

    async def _reacquire(self) -> None:
        was = self.lock.timeline
        await self.lock.release()
        while True:
            try:
                if await self._try_reacquire(was):
                    return
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("lease_reacquire_failed", error=f"{type(error).__name__}: {error}")
            await self.clock.sleep(RETRY_PAUSE)

    async def _try_reacquire(self, timeline: str | None) -> bool:
        """True when the lock is ours again; false while the server still believes in the dead connection."""
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
        except BaseException:
            await lock.release()
            raise
        self.lock = lock
        log.warning("lease_reacquired", epoch=self.epoch)
        return True

    def _check_same_server(self, timeline: str | None, lock: AccountLock) -> None:
        if timeline in (None, lock.timeline):
            return
        self.superseded = True
        raise DatabaseReplaced(
            f"another server stands in for the database (timeline {timeline}, now {lock.timeline}): what was committed "
            "last may be missing there; start anew, which asks the broker for it"
        )

    def _check_lock_epoch(self, lock: AccountLock) -> None:
        if lock.epoch is not None:
            self._check_epoch(lock.epoch)

    def _check_epoch(self, epoch: int) -> None:
        if epoch == self.epoch:
            return
        self.superseded = True
        if epoch > self.epoch:
            raise AnotherDaemonRunning(f"epoch {epoch} has taken over from {self.epoch}")
        raise DatabaseReplaced(
            f"the database knows of epoch {epoch}, this daemon's is {self.epoch}: it is older than what was committed; "
            "start anew, which asks the broker for what is missing"
        )


@dataclass
class OutagePermit:
    """The permit of what leaves positions while the database is away: an exit may always leave then, for nobody can
    have taken over in tables that nobody reaches. Where they do answer, the epoch decides."""

    lease: AccountLease
    _last_check: StallTimer = field(default_factory=StallTimer)
    _last_outage: StallTimer | None = None  # since the database was last found to be away

    async def check(self) -> None:
        """Return when an emergency exit may be sent. Raises BrokerUnavailable when another daemon has taken over."""
        if not self.lease.is_valid() and not self._is_database_down():
            await self._check_epoch()
        if self.lease.superseded:
            raise BrokerUnavailable("not sent: another daemon has taken over")
        self._last_check.mark()

    def is_valid(self) -> bool:
        """True while a request may leave."""
        return not self.lease.superseded and self._last_check.seconds <= MAX_UNCONFIRMED_S

    def _is_database_down(self) -> bool:
        return self._last_outage is not None and self._last_outage.seconds <= MAX_UNCONFIRMED_S

    async def _check_epoch(self) -> None:
        self._last_outage = None
        try:
            with self.lease.clock.hold():
                epoch = await current_epoch(self.lease.dsn)
        except Exception as error:
            if not is_outage(error):
                raise
            self._last_outage = StallTimer()
            log.warning("outage_exit_permitted", error=f"{type(error).__name__}: {error}")
        else:
            if epoch > self.lease.epoch:
                self.lease.superseded = True
                log.critical("superseded", epoch=self.lease.epoch, now=epoch)
