"""What REST shows of an order whose last change is still on its way: REST may trail the stream."""

from dataclasses import replace
from datetime import datetime

from catalyst.simulator.rules.orders import Order


class StaleViews:
    """Earlier states of orders, kept only while somebody wants to see them late."""

    def __init__(self) -> None:
        self._past: dict[str, list[tuple[datetime, Order]]] = {}

    def record(self, order: Order, now: datetime) -> None:
        """Keep the state the order has from now on."""
        self._past.setdefault(order.id, []).append((now, replace(order)))

    def state_at(self, order: Order, until: datetime) -> Order:
        """The order as it was at `until`, or at its birth when that was later; as it is when nothing was noted."""
        past = self._past.get(order.id)
        if not past:
            return order
        old = [state for at, state in past if at <= until]
        return replace(old[-1] if old else past[0][1], legs=order.legs)
