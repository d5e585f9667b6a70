"""Own shares: how many shares of a symbol our fills explain, from the broker's orders alone. Pure.

Used where no row of the database tells it: what a person bought or sold by hand must not be mistaken for ours.
"""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from catalyst.domain.ids import ENTRY_ROLE, role_of
from catalyst.domain.order import Side
from catalyst.domain.report import OrderReport, fills_by_order, is_working_report

ZERO: Final = Decimal(0)
_LONG_AGO: Final = datetime(1970, 1, 1, tzinfo=UTC)


def own_net(orders: Sequence[OrderReport], own_ids: Collection[str]) -> Decimal:
    """Return our shares, negative when short; `orders` are all of one symbol, with their legs.

    `own_ids`: the broker ids of our orders. In the order of their fills, our entries add shares, and our exits and the
    opposite orders of others take shares away, never past 0: what remains of an opposite order was another's, and an
    exit whose entry is too old to be shown took shares that are not counted.
    """
    entries = own_entries(orders, own_ids)
    net = ZERO
    fills = [(order, quantity) for order, quantity in fills_by_order(orders) if quantity > 0]
    for order, quantity in sorted(fills, key=lambda fill: _fill_time(fill[0], entries)):
        signed = quantity if order.side is Side.BUY else -quantity
        if order.broker_id in entries:
            net += signed
        elif net * signed < 0:
            net = max(net + signed, ZERO) if net > 0 else min(net + signed, ZERO)
    return net


def own_entries(orders: Sequence[OrderReport], own_ids: Collection[str]) -> set[str]:
    """Return the broker ids of our entries, and of the orders that replaced one."""
    entries = {
        order.broker_id
        for order in orders
        if order.broker_id in own_ids and role_of(order.client_order_id) == ENTRY_ROLE
    }
    by_time = sorted(orders, key=lambda order: order.submitted_at or _LONG_AGO)
    for order in by_time:
        if order.replaces in entries:
            entries.add(order.broker_id)
    return entries


def orders_that_reserve(
    needed: Decimal, held: Decimal, exits: Sequence[OrderReport], own_ids: Collection[str]
) -> list[OrderReport]:
    """Return the orders of others to cancel so that `needed` of the `held` shares are free, the newest first.

    `exits` are the working orders that sell the shares (or buy them back). It does not use the broker's available
    shares: they may lag behind a cancel of ours.
    """
    others = [order for order in exits if order.broker_id not in own_ids and is_working_report(order)]
    free = held - sum((order.quantity - order.filled_qty for order in others), ZERO)
    chosen: list[OrderReport] = []
    for order in reversed(others):
        if free >= needed:
            break
        chosen.append(order)
        free += order.quantity - order.filled_qty
    return chosen


def _fill_time(order: OrderReport, entries: Collection[str]) -> tuple[datetime, bool]:
    """Return the sort key of an order: an exit that is filled in part may have been sent with its entry, as a leg."""
    is_entry = order.broker_id in entries
    last = order.submitted_at if is_entry else order.updated_at or order.submitted_at
    return order.filled_at or last or _LONG_AGO, not is_entry
