"""The entry gate: closed until every reason not to open a position is gone. Exits never ask it."""

from dataclasses import dataclass, field
from typing import Final

import structlog

log = structlog.get_logger()

DATABASE: Final = "database"  # the reason while it is away; a reconciliation that worked takes it away
DEFECT: Final = "defect "  # begins the name of a reason that is a fault of ours


@dataclass
class Gate:
    """Reasons by name; an entry needs there to be none. Starts shut: nothing has been recovered yet."""

    reasons: dict[str, str] = field(default_factory=lambda: {"recovery": "not reconciled yet"})
    locked: set[str] = field(default_factory=set)  # symbols with an order whose outcome is unknown
    disputed: set[str] = field(
        default_factory=set
    )  # symbols in which broker and tables hold different shares

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

    def defects(self) -> list[str]:
        """Names of reasons that only a person (or a restart) may take away."""
        return [name for name in self.reasons if name.startswith(DEFECT)]

    def refusal(self, symbol: str) -> str | None:
        """Why `symbol` may not be entered now; None when it may."""
        if self.reasons:
            return "; ".join(f"{name}: {why}" for name, why in sorted(self.reasons.items()))
        if symbol in self.disputed:
            return "the broker holds other shares of this symbol than the tables"
        return "an order of this symbol is unresolved" if symbol in self.locked else None
