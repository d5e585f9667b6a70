"""Change signal: wakes every task that waits for the next change of the order ledger."""

import asyncio
from typing import TYPE_CHECKING

from catalyst.clock import Clock, wait

if TYPE_CHECKING:
    from datetime import timedelta


class ChangeSignal:
    """Counter of changes that tasks can wait on.

    A task that reads first and waits afterwards takes `version` before it reads and passes it as `since`; a change
    during the read is then not lost.
    """

    def __init__(self) -> None:
        self.version = 0
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Count one change and wake every waiting task."""
        self.version += 1
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, clock: Clock, at_most: "timedelta", *, since: int | None = None) -> bool:
        """Wait for the next change, `at_most` of market time; true when one came, or had come after `since`."""
        if since is not None and since != self.version:
            return True
        return await wait(clock, self._event, at_most)
