"""Shorting lock: sets the account's `no_shorting`, so that the broker rejects short sales despite a bug of ours."""

from dataclasses import dataclass
from datetime import timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.domain.errors import BrokerError
from catalyst.store import risk_events
from catalyst.store.pool import Store

log = structlog.get_logger()

LOCKED_EVENT: Final = "ACCOUNT_NO_SHORTING_SET"
UNLOCKED_EVENT: Final = "ACCOUNT_NO_SHORTING_UNSET"
RETRY_PAUSE: Final = timedelta(seconds=60)


@dataclass
class ShortingLock:
    """Sets `no_shorting` according to `trading.allow_short`. It clears only what Catalyst has set itself."""

    broker: Broker
    store: Store
    clock: Clock
    config: CurrentConfig
    applied: bool = False  # `no_shorting` has the right value, or is not managed by Catalyst

    async def run(self) -> None:
        """Retry every minute until applied: a broker error at the start must not leave shorting allowed all day."""
        while not self.applied:
            await self.clock.sleep(RETRY_PAUSE)
            await self.apply()

    async def apply(self) -> None:
        """Set `no_shorting` when it differs from the config; after a broker error `run` retries."""
        if not self.config.trading.manage_account_locks:
            self.applied = True
            return
        forbidden = not self.config.trading.allow_short
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
            # Also written when the lock was already off: an earlier run crashed before this row, and without the row
            # the next lock, which may be an operator's, would count as ours.
            await risk_events.put(
                conn,
                event_type=LOCKED_EVENT if forbidden else UNLOCKED_EVENT,
                severity="INFO",
                message=f"the account's no_shorting was set to {forbidden}".lower(),
                facts={},
                at=self.clock.now(),
            )

    async def _was_set_by_us(self) -> bool:
        """Return true when Catalyst's last recorded change turned `no_shorting` on."""
        async with self.store.read() as conn:
            last = await risk_events.last_of(conn, LOCKED_EVENT, UNLOCKED_EVENT)
        return last is not None and last.event_type == LOCKED_EVENT
