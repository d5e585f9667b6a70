"""Entry gate: forbids entries while at least one reason is set. Exits do not check it."""

import asyncio
import logging
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import structlog

from catalyst.clock import Clock
from catalyst.daemon.trading_state.symbol_states import SymbolStates
from catalyst.domain.closed_entries import PLANNED
from catalyst.domain.invariants import Invariant

log = structlog.get_logger()

DATABASE: Final = "database"  # reason during a database outage; a successful reconciliation removes it
SAFE_MODE: Final = "safe"  # reason and latch when an invariant fails
MAX_REASON_CHARS: Final = 1_000  # of a failed invariant: the log, the latch, alerts and messages repeat it
DISCREPANCIES: Final = "discrepancies"  # keeps a closed gate closed until a reconciliation is clean


@dataclass
class EntryGate:
    """Reasons by name; entries need an empty `reasons`. Starts closed, because nothing has been recovered yet.

    The heartbeat stores `stated_reasons`; every screen reads them there.
    """

    clock: Clock
    reasons: dict[str, str] = field(default_factory=lambda: {"recovery": "not reconciled yet"})
    symbols: SymbolStates = field(default_factory=SymbolStates)  # reasons that hold for one symbol
    failed_invariants: dict[Invariant, str] = field(default_factory=dict)  # reasons, since the last resume
    # Set while `failed_invariants` is not in the database yet.
    latch_pending: asyncio.Event = field(default_factory=asyncio.Event)
    # Wakes the heartbeat, which stores the reasons: set by each change of a reason, or of another stored statement.
    statement_changed: asyncio.Event = field(default_factory=asyncio.Event)
    _since: dict[str, datetime] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._since = dict.fromkeys(self.reasons, self.clock.now())

    @property
    def stated_reasons(self) -> dict[str, tuple[str, datetime]]:
        """Name → text and the time since when it closes entries."""
        return {name: (why, self._since[name]) for name, why in self.reasons.items()}

    @property
    def is_open(self) -> bool:
        return not self.reasons

    def close(self, name: str, why: str) -> None:
        """Forbid entries for the reason `name`; a repeated call replaces its text."""
        if self.reasons.get(name) != why:
            level = logging.INFO if name in PLANNED else logging.WARNING
            log.log(level, "gate_reason_added", name=name, reason=why)
        self._set(name, why)

    def _set(self, name: str, why: str) -> None:
        if self.reasons.get(name) != why:
            self.statement_changed.set()
        self.reasons[name] = why
        self._since.setdefault(name, self.clock.now())

    def reopen(self, name: str) -> None:
        """Remove the reason `name`; the gate opens when it was the last one. Idempotent."""
        if self.reasons.pop(name, None) is not None:
            del self._since[name]
            self.statement_changed.set()
            log.info("gate_reason_removed", name=name, remaining=sorted(self.reasons))

    def enter_safe_mode(self, invariant: Invariant, why: str) -> None:
        """Enter SAFE mode: entries stop at once and stay stopped, across restarts, until an operator resumes.

        `SafeMode.persist_latch` writes the latch and alerts. Protection, exits and reconciliation continue.
        """
        if invariant in self.failed_invariants:
            return
        first = not self.failed_invariants
        why = why[:MAX_REASON_CHARS]
        self.failed_invariants[invariant] = why
        self._set(SAFE_MODE, safe_mode_reason(self.failed_invariants))
        self.latch_pending.set()
        log.critical("safe_mode_entered" if first else "safe_mode_extended", invariant=invariant, reason=why)

    def leave_safe_mode(self) -> None:
        """Leave SAFE mode, after an operator has resumed and no checkable invariant fails."""
        self.failed_invariants.clear()
        self.latch_pending.clear()
        self.reopen(SAFE_MODE)

    def refusal(self, symbol: str) -> str | None:
        """Return why `symbol` may not be entered now; None when it may."""
        if self.reasons:
            return "; ".join(f"{name}: {why}" for name, why in sorted(self.reasons.items()))
        return self.symbols.entry_refusal(symbol)


def safe_mode_reason(failed_invariants: dict[Invariant, str]) -> str:
    """Return the latch's reason: every failed invariant, in the order of failure."""
    return "; ".join(f"{invariant}: {why}" for invariant, why in failed_invariants.items())
