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
class LastKnownState:
    """`held` and `rows` are of the last look, which began at `at` when the books had changed `changes` times;
    `symbols` is every symbol this daemon ever answered for."""

    positions: "Sequence[PositionRow]" = ()
    orders: "Mapping[int, Sequence[OrderRow]]" = field(default_factory=dict)  # of each position held
    symbols: set[str] = field(default_factory=set)
    version: int | None = None
    read_at: "datetime | None" = None

    def update(
        self,
        positions: "Sequence[PositionRow]",
        orders: "Mapping[int, Sequence[OrderRow]]",
        *,
        version: int,
        read_at: "datetime",
    ) -> None:
        """Remember a look at every open position and its orders."""
        self.positions, self.orders, self.version, self.read_at = (
            tuple(positions),
            dict(orders),
            version,
            read_at,
        )
        self.symbols |= {position.symbol for position in positions}

    def is_current(self, *, version: int, since: "datetime") -> bool:
        """True when the look is no older than that, and the books have not changed after it began."""
        return self.version == version and self.read_at is not None and self.read_at >= since

    def add_symbols(self, symbols: "Iterable[str]") -> None:
        """Remember symbols that are ours to answer for."""
        self.symbols |= set(symbols)
