"""Holding the account's lock, and asking it before anything is sent.

A connection that ends is taken anew, as long as nobody else has begun to trade. While the lock is gone, or has not
been confirmed since this process last stood still, nothing leaves: the epoch in the tables is looked at first. It is
the tables' fence too: every order is written before it is sent, and they refuse the writes of an epoch that is over.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

import structlog

from catalyst.clock import Clock, Pause
from catalyst.daemon.trading_state.entry_gate import Gate
from catalyst.domain.errors import AnotherDaemon, BrokerUnavailable, DatabaseReplaced
from catalyst.domain.fault_points import Moment, Witness, tell
from catalyst.store.account_lock import AccountLock, current_epoch, holder_of, take_account_lock
from catalyst.store.pool import is_outage

log = structlog.get_logger()

AGAIN: Final = timedelta(seconds=1)
STALL: Final = 5.0  # real seconds without a word of the server: look before the next request
STEP: Final = "lock"


async def take(dsn: str, account_id: str, clock: Clock, *, witness: Witness | None = None) -> AccountLock:
    """The account's lock. Raises AnotherDaemon, which says who holds it."""
    with clock.hold():
        tell(witness, STEP, Moment.BEFORE)
        lock = await take_account_lock(dsn, account_id)
        if lock is None:
            holder = await holder_of(dsn, account_id)
            raise AnotherDaemon(
                f"another daemon trades this account: {holder or 'it is about to leave'}; `catalyst status` shows it"
            )
        await lock.beat()
        tell(witness, STEP, Moment.AFTER)
    return lock


@dataclass
class Holding:
    """The lock of one account for one epoch; the permit of every ordinary change at the broker."""

    dsn: str
    gate: Gate
    clock: Clock
    account_id: str
    epoch: int
    lock: AccountLock
    over: bool = False  # there is a successor: nothing of ours leaves any more

    async def run(self) -> None:
        """Keep the lock for as long as the daemon lives. Raises AnotherDaemon once there is a successor, and
        DatabaseReplaced when another server stands in for the one we began on."""
        while True:
            await self.lock.kept(self.epoch)
            self._must_be_ours(self.lock)
            self.gate.shut("lock", "the account's lock is lost")
            await self._retake()
            self.gate.clear("lock")

    async def release(self) -> None:
        """Somebody else may take the lock. Idempotent."""
        await self.lock.release()

    # -- the permit

    async def ask(self) -> None:
        """Return when this daemon may send: it holds the lock and its epoch is current, and that was confirmed since
        it last stood still. Raises BrokerUnavailable otherwise: nothing has left."""
        if self.holds():
            return
        if not self.lock.lost.is_set():
            with self.clock.hold():
                await self.lock.beat()
            log.warning("standing_verified", held=not self.lock.lost.is_set(), epoch=self.lock.epoch)
        if not self.holds():
            raise BrokerUnavailable("not sent: the account's lock is not ours at this moment")

    def holds(self) -> bool:
        """True while a request may leave; asked once more in the sending thread."""
        return not self.over and self.lock.epoch == self.epoch and self.lock.confirmed(STALL)

    # -- the lock

    async def _retake(self) -> None:
        was = self.lock.timeline
        await self.lock.release()
        while True:
            try:
                if await self._taken(was):
                    return
            except Exception as error:
                if not is_outage(error):
                    raise
                log.warning("lock_unreachable", error=f"{type(error).__name__}: {error}")
            await self.clock.sleep(AGAIN)

    async def _taken(self, timeline: str | None) -> bool:
        """True when the lock is ours again; false while the server still believes in the dead connection."""
        with self.clock.hold():
            lock = await take_account_lock(self.dsn, self.account_id)
            if lock is None:
                self._must_be_current(await current_epoch(self.dsn))
                return False
            if not await lock.beat():
                await lock.release()
                return False
        try:
            self._must_be_ours(lock)
            self._must_be_the_same(timeline, lock)
        except BaseException:
            await lock.release()
            raise
        self.lock = lock
        log.warning("lock_retaken", epoch=self.epoch)
        return True

    def _must_be_the_same(self, timeline: str | None, lock: AccountLock) -> None:
        if timeline in (None, lock.timeline):
            return
        self.over = True
        raise DatabaseReplaced(
            f"another server stands in for the database (timeline {timeline}, now {lock.timeline}): what was committed "
            "last may be missing there; start anew, which asks the broker for it"
        )

    def _must_be_ours(self, lock: AccountLock) -> None:
        if lock.epoch is not None:
            self._must_be_current(lock.epoch)

    def _must_be_current(self, epoch: int) -> None:
        if epoch == self.epoch:
            return
        self.over = True
        if epoch > self.epoch:
            raise AnotherDaemon(f"epoch {epoch} has taken over from {self.epoch}")
        raise DatabaseReplaced(
            f"the database knows of epoch {epoch}, this daemon's is {self.epoch}: it is older than what was committed; "
            "start anew, which asks the broker for what is missing"
        )


@dataclass
class WithoutTables:
    """The permit of what leaves positions while the database is away: an exit may always leave then, for nobody can
    have taken over in tables that nobody reaches. Where they do answer, the epoch decides."""

    holding: Holding
    _asked: Pause = field(default_factory=Pause)
    _away: Pause | None = None  # since the database was last found to be away

    async def ask(self) -> None:
        """Return when an emergency exit may be sent. Raises BrokerUnavailable when another daemon has taken over."""
        if not self.holding.holds() and not self._is_away():
            await self._look()
        if self.holding.over:
            raise BrokerUnavailable("not sent: another daemon has taken over")
        self._asked.mark()

    def holds(self) -> bool:
        """True while a request may leave."""
        return not self.holding.over and self._asked.seconds <= STALL

    def _is_away(self) -> bool:
        return self._away is not None and self._away.seconds <= STALL

    async def _look(self) -> None:
        self._away = None
        try:
            with self.holding.clock.hold():
                epoch = await current_epoch(self.holding.dsn)
        except Exception as error:
            if not is_outage(error):
                raise
            self._away = Pause()
            log.warning("exit_without_tables_allowed", error=f"{type(error).__name__}: {error}")
        else:
            if epoch > self.holding.epoch:
                self.holding.over = True
                log.critical("superseded", epoch=self.holding.epoch, now=epoch)
