"""Loops that outlive their failures: a daemon whose reconciliation stumbles still has to watch its stops.

What fails is told of, entries stop (SAFE mode, when the fault is ours), and the loop begins again: each derives from
rows and the broker what there is to do. Only a successor ends the process: two daemons must not trade one account.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.runtime.change_signal import Pulse
from catalyst.daemon.trading_state.entry_gate import DATABASE, Gate
from catalyst.domain.errors import AnotherDaemon, BrokerError, DatabaseReplaced
from catalyst.domain.invariants import Invariant
from catalyst.store.pool import is_passing

log = structlog.get_logger()

Loop = Callable[[], Coroutine[Any, Any, None]]

AGAIN: Final = timedelta(seconds=2)


@dataclass
class Loops:
    """Runs loops. `look_again` is beaten after each failure: what was missed meanwhile has to be asked for."""

    gate: Gate
    clock: Clock
    look_again: Pulse
    ended: set[str] = field(default_factory=set)  # loops that came to an end by themselves

    @asynccontextmanager
    async def running(self, loops: Mapping[str, Loop]) -> AsyncIterator[None]:
        """Run `loops` beside the block, and cancel them when it ends. AnotherDaemon and
        DatabaseReplaced from one of them end it."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._endure(name, loop), name=name) for name, loop in loops.items()]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _endure(self, name: str, loop: Loop) -> None:
        while True:
            try:
                await loop()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # Of something it waited for: nobody asked the loop to end.
                if task is not None and not task.cancelling():
                    log.critical("loop_cancelled", loop=name)
                    self.gate.shut("loops", f"{name} was cancelled")
                    self.ended.add(name)  # the watchdog is starved: a start recovers
                raise
            except Exception as error:
                causes = list(_leaves(error))
                if any(isinstance(cause, (AnotherDaemon, DatabaseReplaced)) for cause in causes):
                    log.critical("superseded", loop=name, why=str(causes[0]))
                    raise
                self._tell(name, error, causes)
            else:
                self.ended.add(name)
                return
            self.look_again.beat()
            await self.clock.sleep(AGAIN)

    def _tell(self, name: str, error: Exception, causes: list[BaseException]) -> None:
        """Stop entries and say why; what is no weather is a fault of ours, and SAFE until a person has looked."""
        if all(isinstance(cause, BrokerError) for cause in causes):
            log.warning("loop_interrupted", loop=name, error=str(causes[0]))
            return
        if all(isinstance(cause, BrokerError) or is_passing(cause) for cause in causes):
            log.error("database_away", loop=name, error=f"{type(causes[0]).__name__}: {causes[0]}")
            self.gate.shut(DATABASE, "the database cannot be reached")
            return
        log.error("loop_failed", loop=name, exc_info=error)
        self.gate.violated(Invariant.I23, f"{name} failed and began again: {type(error).__name__}: {error}")


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors a group holds, however deep; one that is none is itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error
