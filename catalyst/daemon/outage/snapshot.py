"""Outage snapshot: one read of the broker, from which the outage exit and the outage protection decide."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from catalyst.broker.port import Broker, Priority
from catalyst.domain.order import Side
from catalyst.domain.own_shares import orders_that_reserve, own_net
from catalyst.domain.position import whole_shares
from catalyst.domain.report import Listing, OrderReport, PositionReport, is_working_report


@dataclass(frozen=True, slots=True)
class OutageSnapshot:
    """One read of the broker: its orders of the last day and its open positions by symbol.

    Orders of another Catalyst on the account are left out: they are neither counted nor cancelled.
    `orders` holds parents and legs, `top_level_orders` only parents.
    """

    orders: tuple[OrderReport, ...]
    top_level_orders: tuple[OrderReport, ...]
    positions: dict[str, PositionReport]
    unreadable_rows: int = 0  # with one, nothing is proven flat
    own_ids: frozenset[str] = frozenset()  # broker ids of our orders
    only_own: bool = False  # orders that are not ours do not count

    @property
    def counted_parents(self) -> Sequence[OrderReport]:
        if not self.only_own:
            return self.top_level_orders
        return [order for order in self.top_level_orders if order.broker_id in self.own_ids]

    def own_net(self, symbol: str) -> Decimal:
        return whole_shares(own_net(self.orders_of(symbol), self.own_ids))

    def orders_of(self, symbol: str) -> list[OrderReport]:
        return [order for order in self.orders if order.symbol == symbol]

    def working_orders(self, symbol: str, *, all_orders: bool = False) -> list[OrderReport]:
        """Return the orders to cancel: working parents, and the working legs of other parents.

        A leg ends with its working parent. `all_orders`: also those that do not count.
        """
        working: list[OrderReport] = []
        for parent in self.top_level_orders if all_orders else self.counted_parents:
            if parent.symbol == symbol:
                working += (
                    [parent]
                    if is_working_report(parent)
                    else [leg for leg in parent.legs if is_working_report(leg)]
                )
        return working

    def others_that_reserve(self, held: PositionReport, quantity: Decimal) -> list[OrderReport]:
        """Return the orders of others to cancel so that `quantity` of the shares held can be sold."""
        side = Side.SELL if held.quantity > 0 else Side.BUY
        working = self.working_orders(held.symbol, all_orders=True)
        exits = [order for order in working if order.side is side]
        return orders_that_reserve(quantity, abs(held.quantity), exits, self.own_ids)

    def own_held(self, held: PositionReport) -> Decimal:
        """Return how many of the shares held our fills explain."""
        net = self.own_net(held.symbol)
        return min(abs(net), abs(whole_shares(held.quantity))) if net * held.quantity > 0 else Decimal(0)

    def may_cancel_own_exits(self, symbol: str, *, market_open: bool) -> bool:
        """Return true when our shares can be sold next, or there are none: a stop that is not replaced stays."""
        held = self.positions.get(symbol)
        if held is None:
            return not self.own_net(symbol)
        return market_open and self.own_held(held) > 0


async def read_orders(broker: Broker, after: datetime, *, with_older: bool) -> Listing[OrderReport]:
    """Read the orders since `after`; `with_older`: also every older one that still works."""
    if not with_older:
        return await broker.orders(status="all", after=after, priority=Priority.EXIT)
    working = await broker.orders(status="open", priority=Priority.EXIT)
    recent = await broker.orders(status="all", after=after, priority=Priority.EXIT)
    shown = {order.broker_id for parent in recent for order in (parent, *parent.legs)}
    older = [order for order in working if order.broker_id not in shown]
    return Listing([*older, *recent], working.unreadable_rows + recent.unreadable_rows)
