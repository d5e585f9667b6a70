"""Symbol states: what is known of single symbols that forbids an entry, or changes who may send their orders."""

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final


class SymbolReason(StrEnum):
    """A reason that holds for one symbol. The value is the text for a person."""

    MISMATCHED = "broker and database hold different quantities of this symbol"
    UNRESOLVED = "an order of this symbol has an unknown outcome"
    OUTAGE_EXIT = "the outage exit is closing this position"  # the outage exit alone sends its orders
    UNBOOKED = "a fill of this symbol could not be booked, or its position was written off"
    ANOTHER_CATALYST = "another Catalyst on this account has orders in this symbol"
    UNLINKED = "an order sent during a database outage is not linked to a position yet"


_FORBIDS_ENTRY: Final = (
    SymbolReason.MISMATCHED,
    SymbolReason.UNRESOLVED,
    SymbolReason.UNBOOKED,
    SymbolReason.OUTAGE_EXIT,
    SymbolReason.ANOTHER_CATALYST,
)


@dataclass
class SymbolStates:
    """The symbols of each reason. Asked by the entry gate, the order ledger, submission and the exits."""

    _symbols: dict[SymbolReason, set[str]] = field(
        default_factory=lambda: {reason: set() for reason in SymbolReason}
    )

    def add(self, reason: SymbolReason, *symbols: str) -> None:
        """Set the reason for these symbols."""
        self._symbols[reason].update(symbols)

    def remove(self, reason: SymbolReason, symbol: str) -> None:
        """Remove the reason from one symbol. Idempotent."""
        self._symbols[reason].discard(symbol)

    def set_symbols(self, reason: SymbolReason, symbols: Iterable[str]) -> None:
        """Set the reason for exactly these symbols."""
        self._symbols[reason] = set(symbols)

    def has(self, reason: SymbolReason, symbol: str) -> bool:
        """Return true when the reason holds for the symbol."""
        return symbol in self._symbols[reason]

    def symbols(self, reason: SymbolReason) -> AbstractSet[str]:
        """Return a copy of the symbols for which the reason holds."""
        return frozenset(self._symbols[reason])

    def entry_refusal(self, symbol: str) -> str | None:
        """Return why the symbol may not be entered now; None when no reason holds for it."""
        return next((str(reason) for reason in _FORBIDS_ENTRY if self.has(reason, symbol)), None)
