"""Slow responses on a manual clock: they take market time although their client holds the clock."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from catalyst.clock import ManualClock


@dataclass(frozen=True, slots=True)
class SlowResponseClock:
    """Clock of the exchange's request faults. Each sleep is inside one request, whose client holds the clock: this hold
    is released meanwhile, so that the daemon goes on while its request has no response yet."""

    clock: ManualClock

    def now(self) -> datetime:
        """Return the present market time."""
        return self.clock.now()

    async def sleep(self, duration: timedelta) -> None:
        """Sleep while the market goes on."""
        self.clock._holds -= 1
        try:
            await self.clock.sleep(duration)
        finally:
            self.clock._holds += 1
