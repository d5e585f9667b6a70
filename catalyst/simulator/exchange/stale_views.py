"""Stale views: REST may show an order as it was before its last change."""

from dataclasses import replace
from datetime import datetime

from catalyst.simulator.rules.orders import Order


class StaleViews:
    """Earlier states of orders, kept while REST may still show them."""

    def __init__(self) -> None:
        self._past: dict[str, list[tuple[datetime, Order]]] = {}

    def record(self, order: Order, now: datetime) -> None:
        """Record the state of the order from now on."""
        self._past.setdefault(order.id, []).append((now, replace(order)))

    def state_at(self, order: Order, until: datetime) -> Order:
        """Return the order as it was at `until`, or at its creation when that was later; the current one when
        nothing was recorded."""
        past = self._past.get(order.id)
        if not past:
            return order
        old = [state for at, state in past if at <= until]
        return replace(old[-1] if old else past[0][1], legs=order.legs)
