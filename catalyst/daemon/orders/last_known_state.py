"""Last known state: open positions and their orders as last read from the database, kept in memory.

It is current until the order ledger changes. During a database outage it is the only source.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from catalyst.domain.rows import OrderRow, PositionRow


@dataclass
class LastKnownState:
    """Result of the last read, which began at `read_at`, when `OrderLedger.changed` had the version `version`.

    `symbols` holds every symbol in which this daemon has had an order or position since its start, `own_ids` the client
    order ids of our working orders: one of an earlier release does not tell by itself that it is ours.
    """

    positions: "Sequence[PositionRow]" = ()
    orders: "Mapping[int, Sequence[OrderRow]]" = field(default_factory=dict)  # by position id
    symbols: set[str] = field(default_factory=set)
    own_ids: set[str] = field(default_factory=set)
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
        """Store a read of all open positions and their orders; add their symbols."""
        self.positions, self.orders, self.version, self.read_at = (
            tuple(positions),
            dict(orders),
            version,
            read_at,
        )
        self.symbols |= {position.symbol for position in positions}

    def is_current(self, *, version: int, since: "datetime") -> bool:
        """Return true when the read began at `since` or later and the ledger has not changed from `version`."""
        return self.version == version and self.read_at is not None and self.read_at >= since

    def set_own_ids(self, client_order_ids: "Iterable[str]") -> None:
        """Replace the ids of our working orders."""
        self.own_ids = set(client_order_ids)

    def add_symbols(self, symbols: "Iterable[str]") -> None:
        """Add symbols for which this daemon is responsible."""
        self.symbols |= set(symbols)
