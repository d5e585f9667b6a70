"""Change signal: wakes every task that waits for the next change."""

import asyncio
from typing import TYPE_CHECKING

from catalyst.clock import Clock, wait

if TYPE_CHECKING:
    from datetime import timedelta


class ChangeSignal:
    """A beat that wakes everybody who waits for the next change. Whoever looks first and waits then takes `count`
    before the look and hands it over as `since`: a beat during the look is not lost."""

    def __init__(self) -> None:
        self.version = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        self.version += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, clock: Clock, timeout: "timedelta", *, since: int | None = None) -> bool:
        """Wait for the next beat, `at_most` of market time; true when it came, or has come after `since`."""
        if since is not None and since != self.version:
            return True
        return await wait(clock, self._event, timeout)
