"""The entry gate: closed until every reason not to open a position is gone. Exits never ask it."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from catalyst.domain.invariants import Invariant

log = structlog.get_logger()

DATABASE: Final = "database"  # the reason while it is away; a reconciliation that worked takes it away
SAFE: Final = "safe"  # the reason, and the latch, when an invariant does not hold
DIFFERENCES: Final = "differences"  # the reason while a gate that was shut waits for books that are clean


@dataclass
class Gate:
    """Reasons by name; an entry needs there to be none. Starts shut: nothing has been recovered yet."""

    reasons: dict[str, str] = field(default_factory=lambda: {"recovery": "not reconciled yet"})
    locked: set[str] = field(default_factory=set)  # symbols with an order whose outcome is unknown
    disputed: set[str] = field(
        default_factory=set
    )  # symbols in which broker and tables hold different shares
    broken: dict[Invariant, str] = field(default_factory=dict)  # why, since the last resume
    unsafe: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # set while `broken` is not in the tables yet

    @property
    def open(self) -> bool:
        return not self.reasons

    def shut(self, name: str, why: str) -> None:
        if self.reasons.get(name) != why:
            log.warning("entries_stopped", gate=name, reason=why)
        self.reasons[name] = why

    def clear(self, name: str) -> None:
        if self.reasons.pop(name, None) is not None:
            log.info("entries_cleared", gate=name, still=sorted(self.reasons))

    def violated(self, invariant: Invariant, why: str) -> None:
        """SAFE: entries stop at once and stay stopped, through restarts, until somebody resumes.

        Whoever keeps the latch writes it and pages. Protection, exits and reconciliation go on.
        """
        if invariant in self.broken:
            return
        first = not self.broken
        self.broken[invariant] = why
        self.reasons[SAFE] = reason_of(self.broken)
        self.unsafe.set()
        log.critical("safe_mode_entered" if first else "safe_mode_deepened", invariant=invariant, reason=why)

    def made_safe(self) -> None:
        """SAFE is over: somebody has looked, and nothing that can be looked at fails."""
        self.broken.clear()
        self.unsafe.clear()
        self.clear(SAFE)

    def refusal(self, symbol: str) -> str | None:
        """Why `symbol` may not be entered now; None when it may."""
        if self.reasons:
            return "; ".join(f"{name}: {why}" for name, why in sorted(self.reasons.items()))
        if symbol in self.disputed:
            return "the broker holds other shares of this symbol than the tables"
        return "an order of this symbol is unresolved" if symbol in self.locked else None


def reason_of(broken: dict[Invariant, str]) -> str:
    """The latch's reason: every invariant that failed, the first one first."""
    return "; ".join(f"{invariant}: {why}" for invariant, why in broken.items())
