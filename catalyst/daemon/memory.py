"""What the daemon still knows when the tables cannot be asked: the last look at what it holds and what works."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from catalyst.store.orders import OrderRow
    from catalyst.store.positions import PositionRow


@dataclass
class Memory:
    """`held` and `rows` are of the last look; `symbols` is every symbol this daemon ever answered for."""

    held: "Sequence[PositionRow]" = ()
    rows: "Mapping[int, Sequence[OrderRow]]" = field(default_factory=dict)  # of each position held
    symbols: set[str] = field(default_factory=set)

    def keep(self, held: "Sequence[PositionRow]", rows: "Mapping[int, Sequence[OrderRow]]") -> None:
        """Remember a look at every open position and its orders."""
        self.held, self.rows = tuple(held), dict(rows)
        self.symbols |= {position.symbol for position in held}

    def know(self, symbols: "Iterable[str]") -> None:
        """Remember symbols that are ours to answer for."""
        self.symbols |= set(symbols)
