"""What the daemon knows without asking the tables: the last look at what it holds and what works.

It holds good until the books say that something has changed since; when the tables cannot be asked, it is all there is.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from catalyst.store.orders import OrderRow
    from catalyst.store.positions import PositionRow


@dataclass
class Memory:
    """`held` and `rows` are of the last look, which began at `at` when the books had changed `changes` times;
    `symbols` is every symbol this daemon ever answered for."""

    held: "Sequence[PositionRow]" = ()
    rows: "Mapping[int, Sequence[OrderRow]]" = field(default_factory=dict)  # of each position held
    symbols: set[str] = field(default_factory=set)
    changes: int | None = None
    at: "datetime | None" = None

    def keep(
        self,
        held: "Sequence[PositionRow]",
        rows: "Mapping[int, Sequence[OrderRow]]",
        *,
        changes: int,
        at: "datetime",
    ) -> None:
        """Remember a look at every open position and its orders."""
        self.held, self.rows, self.changes, self.at = tuple(held), dict(rows), changes, at
        self.symbols |= {position.symbol for position in held}

    def holds_good(self, *, changes: int, since: "datetime") -> bool:
        """True when the look is no older than that, and the books have not changed after it began."""
        return self.changes == changes and self.at is not None and self.at >= since

    def know(self, symbols: "Iterable[str]") -> None:
        """Remember symbols that are ours to answer for."""
        self.symbols |= set(symbols)
