"""First live sessions: smaller trades in the first sessions with real money, and a person's approval in the first.

One database belongs to one account, so its completed days are the sessions of the account.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.config.schema import Mode
from catalyst.domain.session import trading_date
from catalyst.store import cycles
from catalyst.store.pool import Store

FULL_SIZE: Final = Decimal(1)


@dataclass
class FirstLiveSessions:
    """Reads how many sessions of the account are completed; nothing is special outside live mode."""

    store: Store
    clock: Clock
    config: CurrentConfig
    mode: Mode

    async def size_factor(self) -> Decimal:
        """Return the factor for the size of a position and the risk of a trade today."""
        live = self.config.in_force.live
        if self.mode is not Mode.LIVE or await self._completed() >= live.first_sessions:
            return FULL_SIZE
        return Decimal(str(live.size_factor))

    async def is_first(self) -> bool:
        """Return true in the first live session, in which each trade waits for a person."""
        return (
            self.mode is Mode.LIVE
            and self.config.in_force.live.first_sessions > 0
            and await self._completed() == 0
        )

    async def _completed(self) -> int:
        async with self.store.read() as conn:
            return await cycles.count_completed(conn, trading_date(self.clock.now()))
