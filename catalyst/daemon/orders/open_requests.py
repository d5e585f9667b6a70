"""Open requests: orders sent or about to be sent whose outcome is not certain yet."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final

from catalyst.broker.port import Priority
from catalyst.clock import Clock
from catalyst.daemon.trading_state.symbol_states import SymbolReason, SymbolStates
from catalyst.domain.order import Purpose
from catalyst.domain.report import OrderRequest
from catalyst.domain.rows import OrderRow

IDLE_POLL_INTERVAL: Final = timedelta(seconds=0.2)


@dataclass
class OpenRequests:
    """Rows without a certain outcome, and the symbols in which only the outage exit may send orders."""

    clock: Clock
    symbols: SymbolStates
    unresolved: dict[int, OrderRow] = field(default_factory=dict)  # by order id, as last sent
    _in_flight: set[int] = field(default_factory=set)  # order ids with an open request

    def add(self, row: OrderRow) -> None:
        """Store the row that is about to be sent, in place of an earlier version."""
        self.unresolved[row.order_id] = row

    def remove_if_certain(self, row: OrderRow) -> None:
        """Remove the row when its outcome is certain."""
        if not row.is_outcome_unknown:
            self.unresolved.pop(row.order_id, None)

    @contextmanager
    def in_flight(self, order_id: int) -> Iterator[None]:
        """Mark the row's request as open, also between its attempts; the outage exit waits for open requests."""
        self._in_flight.add(order_id)
        try:
            yield
        finally:
            self._in_flight.discard(order_id)

    def is_in_outage_exit(self, symbol: str) -> bool:
        """Return true while the outage exit alone may send orders of the symbol."""
        return self.symbols.has(SymbolReason.OUTAGE_EXIT, symbol)

    def is_in_flight(self, order_id: int) -> bool:
        """Return true while a request for this row is open or will be repeated."""
        return order_id in self._in_flight

    async def wait_until_idle(self, within: timedelta, symbol: str | None = None) -> bool:
        """Wait until no request (for `symbol`) is open; return false when one is still open after `within`."""
        deadline = self.clock.now() + within
        while any(
            symbol in (None, self.unresolved[key].symbol) for key in self._in_flight if key in self.unresolved
        ):
            if self.clock.now() >= deadline:
                return False
            await self.clock.sleep(IDLE_POLL_INTERVAL)
        return True


def priority_of(row: OrderRow) -> Priority:
    """Return EXIT, which may use the reserve of the rate limit, for closing and protecting orders; else ROUTINE."""
    return Priority.ROUTINE if row.order_purpose is Purpose.ENTRY else Priority.EXIT


def request_of(row: OrderRow) -> OrderRequest:
    """Build the broker request from the row alone, so a restart builds the same request."""
    return OrderRequest(
        client_order_id=row.client_order_id,
        symbol=row.symbol,
        side=row.side,
        quantity=row.quantity,
        order_type=row.order_type,
        time_in_force=row.time_in_force,
        order_class=row.order_class,
        limit_price=row.limit_price,
        stop_price=row.stop_price,
        take_profit=row.bracket_target,
        stop_loss=row.bracket_stop,
    )
