"""The entry gate: closed until every reason not to open a position is gone. Exits never ask it."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

import structlog

from catalyst.domain.invariants import Invariant

log = structlog.get_logger()

DATABASE: Final = "database"  # the reason while it is away; a reconciliation that worked takes it away
SAFE_MODE: Final = "safe"  # the reason, and the latch, when an invariant does not hold
DISCREPANCIES: Final = "discrepancies"  # the reason while a gate that was shut waits for books that are clean


@dataclass
class EntryGate:
    """Reasons by name; an entry needs there to be none. Starts shut: nothing has been recovered yet."""

    reasons: dict[str, str] = field(default_factory=lambda: {"recovery": "not reconciled yet"})
    unresolved_symbols: set[str] = field(
        default_factory=set
    )  # symbols with an order whose outcome is unknown
    mismatched_symbols: set[str] = field(
        default_factory=set
    )  # symbols in which broker and tables hold different shares
    failed_invariants: dict[Invariant, str] = field(default_factory=dict)  # why, since the last resume
    latch_pending: asyncio.Event = field(
        default_factory=asyncio.Event
    )  # set while `broken` is not in the tables yet

    @property
    def is_open(self) -> bool:
        return not self.reasons

    def close(self, name: str, why: str) -> None:
        if self.reasons.get(name) != why:
            log.warning("entries_stopped", gate=name, reason=why)
        self.reasons[name] = why

    def reopen(self, name: str) -> None:
        if self.reasons.pop(name, None) is not None:
            log.info("entries_cleared", gate=name, still=sorted(self.reasons))

    def enter_safe_mode(self, invariant: Invariant, why: str) -> None:
        """SAFE: entries stop at once and stay stopped, through restarts, until somebody resumes.

        Whoever keeps the latch writes it and pages. Protection, exits and reconciliation go on.
        """
        if invariant in self.failed_invariants:
            return
        first = not self.failed_invariants
        self.failed_invariants[invariant] = why
        self.reasons[SAFE_MODE] = safe_mode_reason(self.failed_invariants)
        self.latch_pending.set()
        log.critical("safe_mode_entered" if first else "safe_mode_extended", invariant=invariant, reason=why)

    def leave_safe_mode(self) -> None:
        """SAFE is over: somebody has looked, and nothing that can be looked at fails."""
        self.failed_invariants.clear()
        self.latch_pending.clear()
        self.reopen(SAFE_MODE)

    def refusal(self, symbol: str) -> str | None:
        """Why `symbol` may not be entered now; None when it may."""
        if self.reasons:
            return "; ".join(f"{name}: {why}" for name, why in sorted(self.reasons.items()))
        if symbol in self.mismatched_symbols:
            return "the broker holds other shares of this symbol than the tables"
        return "an order of this symbol is unresolved" if symbol in self.unresolved_symbols else None


def safe_mode_reason(failed_invariants: dict[Invariant, str]) -> str:
    """The latch's reason: every invariant that failed, the first one first."""
    return "; ".join(f"{invariant}: {why}" for invariant, why in failed_invariants.items())
