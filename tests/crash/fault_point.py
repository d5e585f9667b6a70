"""Crash trigger: ends a daemon at a named step, before or after the step, so that no later line runs.

A step is a transaction label ("submit", "apply_report", "latch" ...) or a request by verb and path ("POST
/orders", "DELETE /orders/*"); patterns match both.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from catalyst.domain.fault_points import Moment


@dataclass
class CrashAt:
    """Fault point that records every step and, when armed, crashes the daemon at one of them."""

    crashed: bool = False
    steps: list[str] = field(default_factory=list)
    on_step: Callable[[str, Moment], None] | None = None  # called at every step
    _step: str | None = None
    _moment: Moment = Moment.BEFORE
    _nth: int = 1

    def arm(self, step: str, moment: Moment, *, nth: int = 1) -> None:
        """Crash at the `nth` step from now that matches the pattern `step`, at this moment."""
        self._step, self._moment, self._nth = step, moment, nth

    def __call__(self, step: str, moment: Moment, /) -> None:
        if self.crashed:
            raise asyncio.CancelledError
        self.steps.append(f"{moment} {step}")
        if self.on_step is not None:
            self.on_step(step, moment)
        if self._step is None or moment is not self._moment or not fnmatchcase(step, self._step):
            return
        self._nth -= 1
        if self._nth == 0:
            self.crashed = True
            raise asyncio.CancelledError

    def reset(self) -> None:
        """Disarm the trigger for a new process run and forget its steps."""
        self.crashed, self._step, self.on_step = False, None, None
        self.steps.clear()
