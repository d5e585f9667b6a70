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
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.trading_state.entry_gate import DATABASE, EntryGate
from catalyst.domain.errors import AnotherDaemonRunning, BrokerError, DatabaseReplaced
from catalyst.domain.invariants import Invariant
from catalyst.store.pool import is_transient

log = structlog.get_logger()

Loop = Callable[[], Coroutine[Any, Any, None]]

RESTART_PAUSE: Final = timedelta(seconds=2)


@dataclass
class Supervisor:
    """Runs loops. `look_again` is beaten after each failure: what was missed meanwhile has to be asked for."""

    gate: EntryGate
    clock: Clock
    reconcile_requested: ChangeSignal
    ended: set[str] = field(default_factory=set)  # loops that came to an end by themselves

    @asynccontextmanager
    async def running(self, loops: Mapping[str, Loop]) -> AsyncIterator[None]:
        """Run `loops` beside the block, and cancel them when it ends. AnotherDaemon and
        DatabaseReplaced from one of them end it."""
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._restart_on_failure(name, loop), name=name)
                for name, loop in loops.items()
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _restart_on_failure(self, name: str, loop: Loop) -> None:
        while True:
            try:
                await loop()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # Of something it waited for: nobody asked the loop to end.
                if task is not None and not task.cancelling():
                    log.critical("loop_cancelled", loop=name)
                    self.gate.close("loop_cancelled", f"{name} was cancelled")
                    self.ended.add(name)  # the watchdog is starved: a start recovers
                raise
            except Exception as error:
                causes = list(_leaf_errors(error))
                if any(isinstance(cause, (AnotherDaemonRunning, DatabaseReplaced)) for cause in causes):
                    log.critical("superseded", loop=name, why=str(causes[0]))
                    raise
                self._handle_failure(name, error, causes)
            else:
                self.ended.add(name)
                return
            self.reconcile_requested.notify()
            await self.clock.sleep(RESTART_PAUSE)

    def _handle_failure(self, name: str, error: Exception, causes: list[BaseException]) -> None:
        """Stop entries and say why; what is no weather is a fault of ours, and SAFE until a person has looked."""
        if all(isinstance(cause, BrokerError) for cause in causes):
            log.warning("loop_interrupted", loop=name, error=str(causes[0]))
            return
        if all(isinstance(cause, BrokerError) or is_transient(cause) for cause in causes):
            log.error("database_outage", loop=name, error=f"{type(causes[0]).__name__}: {causes[0]}")
            self.gate.close(DATABASE, "the database cannot be reached")
            return
        log.error("loop_failed", loop=name, exc_info=error)
        self.gate.enter_safe_mode(
            Invariant.I23, f"{name} failed and began again: {type(error).__name__}: {error}"
        )


def _leaf_errors(error: BaseException) -> Iterator[BaseException]:
    """The errors a group holds, however deep; one that is none is itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaf_errors(inner)
    else:
        yield error
