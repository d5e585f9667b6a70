"""When a daemon dies: at a named step, before it is taken or after it is done, and never a line later.

A step is a transaction by its label ("submit", "hear", "latch" ...) or a request by verb and path
("POST /orders", "DELETE /orders/*"); patterns match both.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from catalyst.domain.fault_points import Moment


@dataclass
class CrashAt:
    """A witness of every step. Unarmed it only keeps count; armed, it ends the daemon's life at one of them."""

    crashed: bool = False
    steps: list[str] = field(default_factory=list)
    on_step: Callable[[str, Moment], None] | None = None  # told of every step too
    _step: str | None = None
    _moment: Moment = Moment.BEFORE
    _nth: int = 1

    def arm(self, step: str, moment: Moment, *, nth: int = 1) -> None:
        """The `nth` step from now on that matches is the last thing that happens."""
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
        """A new life."""
        self.crashed, self._step, self.on_step = False, None, None
        self.steps.clear()
