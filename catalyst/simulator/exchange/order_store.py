"""Order store: every order of one account, by id, client id, symbol and group."""

from collections.abc import Iterable
from decimal import Decimal

from catalyst.simulator.rules.orders import (
    OPEN_STATUSES,
    Order,
    OrderClass,
    OrderSide,
    OrderStatus,
    TimeInForce,
)


class OrderStore:
    """All orders and their indexes. Call `store` after each change of an order."""

    def __init__(self) -> None:
        self.orders: dict[str, Order] = {}
        self.id_by_client_id: dict[str, str] = {}
        self.changed_ids: dict[str, None] = {}  # ids changed since the last save
        self._live: dict[str, dict[str, None]] = {}
        self._working: dict[str, dict[str, None]] = {}
        self._awaiting_trades: dict[str, dict[str, None]] = {}

    def store(self, order: Order) -> None:
        """Store the order and update the indexes of its status."""
        self.orders[order.id] = order
        self.id_by_client_id.setdefault(order.client_order_id, order.id)
        self.changed_ids[order.id] = None
        _update_index(self._live, order, include=not order.terminal)
        _update_index(self._working, order, include=order.working)
        waits = order.time_in_force is TimeInForce.CLS  # only the day's last trade matters to it
        _update_index(self._awaiting_trades, order, include=order.working and not waits)

    def get(self, order_id: str) -> Order | None:
        return self.orders.get(order_id)

    def by_client_id(self, client_order_id: str) -> Order | None:
        order_id = self.id_by_client_id.get(client_order_id)
        return None if order_id is None else self.orders[order_id]

    def live(self, symbol: str | None = None) -> list[Order]:
        """Return orders that are not terminal, oldest first; of one symbol, or of all."""
        return self._sorted_orders(self._live, symbol)

    def working(self, symbol: str) -> list[Order]:
        """Return orders that a trade may fill, oldest first."""
        return self._sorted_orders(self._working, symbol)

    def symbols_awaiting_trades(self) -> Iterable[str]:
        """Return the symbols with a working order that any trade may fill."""
        return self._awaiting_trades.keys()

    def legs(self, order: Order) -> list[Order]:
        """Return the legs of this order, in order of creation."""
        return [self.orders[leg] for leg in order.legs]

    def parent(self, order: Order) -> Order | None:
        return None if order.parent_id is None else self.orders[order.parent_id]

    def siblings(self, order: Order) -> list[Order]:
        """Return the other exits of the group; empty for an entry and for a plain order."""
        if not order.is_exit:
            return []
        parent = self.parent(order)
        top = order if parent is None else parent
        group = [top, *self.legs(top)] if top.order_class is OrderClass.OCO else self.legs(top)
        return [other for other in group if other.id != order.id]

    def reserved_shares(
        self, symbol: str, side: OrderSide, *, excluding_group_of: Order | None = None
    ) -> tuple[Decimal, list[str]]:
        """Return the shares that open orders on `side` reserve of a position, and their ids.

        The exits of one group reserve their shares once; the group of `excluding_group_of` is left out.
        """
        groups: dict[str, Decimal] = {}
        holders: list[str] = []
        for order in self.live(symbol):
            if order.side is not side or order.intent.opens_position or order.qty is None:
                continue
            if not self.reserves_shares(order):
                continue
            key = order.parent_id or order.id
            if excluding_group_of is not None and key == (
                excluding_group_of.parent_id or excluding_group_of.id
            ):
                continue
            groups[key] = max(groups.get(key, Decimal(0)), self.reserved_qty(order))
            if order.status in OPEN_STATUSES:
                holders.append(order.id)
        return sum(groups.values(), Decimal(0)), holders

    def reserves_shares(self, order: Order) -> bool:
        """Return whether an exit reserves shares: a leg does from the moment its entry is complete until it
        cannot trade."""
        if self.is_pending_replacement(order):
            return False
        parent = self.parent(order)
        if parent is not None and not order.acknowledged:
            return parent.status is OrderStatus.FILLED or parent.order_class is OrderClass.OCO
        return order.active or not order.is_exit

    def reserved_qty(self, order: Order) -> Decimal:
        """Return what is left of an order, or of its pending replacement when that is larger.

        A replacement's quantity is the total of the chain.
        """
        if order.status is OrderStatus.PENDING_REPLACE and order.replaced_by:
            new = self.orders[order.replaced_by]
            if not new.terminal:
                return max(order.remaining, new.remaining - order.filled_qty)
        return order.remaining

    def reserved_buying_power(self) -> Decimal:
        """Return the buying power reserved by orders that may still open a position."""
        total = Decimal(0)
        for order in self.live():
            if self.is_pending_replacement(order):
                continue
            reserve = order.reserve
            if order.status is OrderStatus.PENDING_REPLACE and order.replaced_by:
                new = self.orders[order.replaced_by]
                reserve = max(reserve, new.reserve - new.unit_reserve * order.filled_qty)
            total += reserve
        return total

    def is_pending_replacement(self, order: Order) -> bool:
        """Return true for an order that waits to replace another; the other one counts its reserve."""
        return order.replaces is not None and not order.acknowledged

    def _sorted_orders(self, index: dict[str, dict[str, None]], symbol: str | None) -> list[Order]:
        if symbol is not None:
            ids: Iterable[str] = index.get(symbol, ())
        else:
            ids = (order_id for row in index.values() for order_id in row)
        return sorted((self.orders[order_id] for order_id in ids), key=lambda order: order.sequence)


def _update_index(index: dict[str, dict[str, None]], order: Order, *, include: bool) -> None:
    if include:
        index.setdefault(order.symbol, {})[order.id] = None
        return
    row = index.get(order.symbol)
    if row is not None:
        row.pop(order.id, None)
        if not row:
            del index[order.symbol]
