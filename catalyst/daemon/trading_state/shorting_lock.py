"""The account's own `no_shorting`: the last guard of a long-only daemon, where no bug of ours reaches."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.schema import TradingConfig
from catalyst.domain.errors import BrokerError
from catalyst.store import risk_events
from catalyst.store.pool import Store

log = structlog.get_logger()

LOCKED_EVENT: Final = "ACCOUNT_NO_SHORTING_SET"
UNLOCKED_EVENT: Final = "ACCOUNT_NO_SHORTING_UNSET"
RETRY_PAUSE: Final = timedelta(seconds=60)


@dataclass
class ShortingLock:
    """Lets the switch follow `trading.allow_short`. Only a lock that we set ourselves is ever taken off."""

    broker: Broker
    store: Store
    clock: Clock
    cfg: TradingConfig
    applied: bool = False  # the switch stands where it should, or is none of our business

    async def run(self) -> None:
        """Ask until it is settled: an account whose broker stumbled at the start is not left open for the day."""
        while not self.applied:
            await self.clock.sleep(RETRY_PAUSE)
            await self.apply()

    async def apply(self) -> None:
        """Move the switch if it must be moved; a broker that cannot be asked now is asked again by `run`."""
        if not self.cfg.manage_account_locks:
            self.applied = True
            return
        forbidden = not self.cfg.allow_short
        if not forbidden and not await self._was_set_by_us():
            self.applied = True
            return
        try:
            changed = await self.broker.forbid_shorting(forbidden)
        except BrokerError as error:
            log.warning("shorting_lock_failed", error=str(error))
            return
        self.applied = True
        if not changed and forbidden:
            return
        log.info("shorting_lock_changed", no_shorting=forbidden)
        async with self.store.tx("shorting_lock") as conn:
            # also where it stood open already: we died before its row, and the next lock is not ours
            await risk_events.put(
                conn,
                event_type=LOCKED_EVENT if forbidden else UNLOCKED_EVENT,
                severity="INFO",
                message=f"the account's no_shorting was set to {forbidden}".lower(),
                facts={},
                at=self.clock.now(),
            )

    async def _was_set_by_us(self) -> bool:
        async with self.store.read() as conn:
            last = await risk_events.last_of(conn, LOCKED_EVENT, UNLOCKED_EVENT)
        return last is not None and last.event_type == LOCKED_EVENT
