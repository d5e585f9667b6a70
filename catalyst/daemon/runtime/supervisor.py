"""Supervisor: runs the daemon's loops and restarts a loop that fails, so that stops are watched all the time.

A failure is logged and entries stop where needed (SAFE mode when the error is a defect of ours); then the loop
starts again and derives its work from the rows and the broker. Only AnotherDaemonRunning and DatabaseReplaced end the
process: two daemons must not trade one account.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, NoReturn, TypeVar

import structlog

from catalyst.clock import Clock, Turns, count_turns
from catalyst.concurrency import leaf_errors
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.trading_state.entry_gate import DATABASE, EntryGate
from catalyst.domain.errors import (
    AnotherDaemonRunning,
    BrokerError,
    DatabaseContention,
    DatabaseReplaced,
    DatabaseUnavailable,
)
from catalyst.domain.invariants import Invariant

log = structlog.get_logger()

T = TypeVar("T")
Loop = Callable[[], Coroutine[Any, Any, None]]

RESTART_PAUSE: Final = timedelta(seconds=2)
# Loops that only show what others do: a defect of theirs is logged and stops no entries.
OBSERVING_LOOPS: Final = frozenset({"monitoring"})


@dataclass
class Supervisor:
    """Runs loops. `reconcile_requested` is notified after each failure, because reports may have been missed."""

    gate: EntryGate
    clock: Clock
    reconcile_requested: ChangeSignal
    ended: set[str] = field(default_factory=set)  # loops that returned or were cancelled from inside
    turns: dict[str, Turns] = field(default_factory=dict)  # of each running loop

    @asynccontextmanager
    async def running(self, loops: Mapping[str, Loop]) -> AsyncIterator[None]:
        """Run `loops` while the block runs, and cancel them when it ends.

        AnotherDaemonRunning or DatabaseReplaced from a loop cancels the block and is raised in an exception group.
        """
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
        self.turns[name] = count_turns()
        try:
            await self._run_until_ended(name, loop)
        finally:
            self.turns.pop(name, None)

    async def _run_until_ended(self, name: str, loop: Loop) -> None:
        while True:
            try:
                await loop()
            except asyncio.CancelledError:
                task = asyncio.current_task()
                # The cancellation came from something the loop awaited; the loop itself was not cancelled.
                if task is not None and not task.cancelling():
                    log.critical("loop_cancelled", loop=name)
                    self.gate.close("loop_cancelled", f"{name} was cancelled")
                    self.ended.add(name)  # the watchdog stops; systemd restarts the process, which recovers
                raise
            except Exception as error:  # any failed loop must run again
                causes = list(leaf_errors(error))
                if any(isinstance(cause, (AnotherDaemonRunning, DatabaseReplaced)) for cause in causes):
                    log.critical("superseded", loop=name, reason=str(causes[0]))
                    raise
                self._handle_failure(name, error, causes)
            else:
                self.ended.add(name)
                return
            self.reconcile_requested.notify()
            await self.clock.sleep(RESTART_PAUSE)

    def _handle_failure(self, name: str, error: Exception, causes: list[BaseException]) -> None:
        """Log the failure and stop entries where needed.

        A broker error stops no entries. A database outage closes the entry gate. Any other error is a defect of ours
        and enters SAFE mode until an operator resumes; not one of an observing loop.
        """
        if all(isinstance(cause, BrokerError) for cause in causes):
            log.warning("loop_interrupted", loop=name, error=str(causes[0]))
            return
        if all(isinstance(cause, (BrokerError, DatabaseUnavailable, DatabaseContention)) for cause in causes):
            log.error("database_outage", loop=name, error=str(causes[0]))
            self.gate.close(DATABASE, "the database cannot be reached")
            return
        log.error("loop_failed", loop=name, exc_info=error)
        if name in OBSERVING_LOOPS:
            return
        self.gate.enter_safe_mode(
            Invariant.I23, f"loop {name} failed and was restarted: {type(error).__name__}: {error}"
        )


async def run_on_signal(
    signal: ChangeSignal, clock: Clock, step: Callable[[], Awaitable[T]], pause: Callable[[T], timedelta]
) -> NoReturn:
    """Call `step` until it raises or is cancelled: after each change of `signal`, and at the latest after a pause.

    `pause` gets the result of the step and returns market time. A change during a step starts the next one at once.
    """
    while True:
        version = signal.version
        result = await step()
        await signal.wait(clock, pause(result), since=version)
