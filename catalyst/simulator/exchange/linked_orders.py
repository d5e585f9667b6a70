"""Linked orders: the effects of one order of a bracket, OCO or OTO on the others."""

from dataclasses import replace
from decimal import Decimal

from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.lifecycle import OrderLifecycle
from catalyst.simulator.exchange.settings import PartialEntryLegs
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Order, OrderRole, OrderStatus, OrderType


def replace_triggered_stop(lifecycle: OrderLifecycle, order: Order) -> Order:
    """Continue a triggered stop under a new order id, as the broker does."""
    worker = replace(
        order,
        id=lifecycle.random_source.uuid(),
        client_order_id=lifecycle.random_source.uuid(),
        sequence=lifecycle.next_sequence(),
        submitted_at=lifecycle.now,
        replaces=order.id,
        status=OrderStatus.NEW,
        legs=[],
    )
    if order.type is OrderType.STOP:
        worker.type, worker.stop_price = OrderType.MARKET, None
    lifecycle.order_store.store(worker)
    replace_in_group(lifecycle, order, worker)
    mark_replaced(lifecycle, order, worker)
    lifecycle.store_order(worker)
    lifecycle.emit_update(worker, "new")
    return worker


def mark_replaced(lifecycle: OrderLifecycle, order: Order, successor: Order) -> None:
    order.status = OrderStatus.REPLACED
    order.replaced_at = lifecycle.now
    order.replaced_by = successor.id
    order.active = False
    lifecycle.store_order(order)
    lifecycle.emit_update(order, "replaced")


def activate_legs(lifecycle: OrderLifecycle, entry: Order) -> None:
    """Activate the legs of a filled entry: the target becomes `new`, the stop works behind `held`."""
    legs = [leg for leg in lifecycle.order_store.legs(entry) if leg.status is OrderStatus.HELD]
    free = bool(legs) and unreserved_qty(lifecycle, legs[0]) >= legs[0].remaining
    for leg in legs:
        facts = lifecycle.fault_facts(leg)
        if not free or lifecycle.faults.fire_matching(FaultKind.LEG_REJECT, **facts):
            lifecycle.finish_order(leg, OrderStatus.REJECTED)
            continue
        if lifecycle.faults.fire_matching(FaultKind.LEG_CANCEL, **facts):
            lifecycle.finish_order(leg, OrderStatus.CANCELED)
            continue
        leg.active = leg.acknowledged = True
        leg.submitted_at = lifecycle.now
        alone = len(legs) == 1
        if leg.role is OrderRole.TARGET or alone:
            leg.status = OrderStatus.NEW
        lifecycle.store_order(leg)
        if leg.status is OrderStatus.NEW:
            lifecycle.emit_update(leg, "new")
            lifecycle.schedule_event(
                EventKind.ARRIVE, lifecycle.random_source.draw_latency(lifecycle.settings.arrive), leg
            )


def unreserved_qty(lifecycle: OrderLifecycle, leg: Order) -> Decimal:
    """Return the shares that no order outside the leg's group reserves."""
    held, _ = lifecycle.order_store.reserved_shares(leg.symbol, leg.side, excluding_group_of=leg)
    return abs(lifecycle.account.qty(leg.symbol)) - held


def replace_in_group(lifecycle: OrderLifecycle, old: Order, new: Order) -> None:
    """Put the new order in the old one's place in its group, legs included."""
    parent = lifecycle.order_store.parent(old)
    if parent is not None:
        parent.legs = [new.id if leg == old.id else leg for leg in parent.legs]
        lifecycle.order_store.store(parent)
    if old.legs:
        new.legs, old.legs = old.legs, []
        for leg in lifecycle.order_store.legs(new):
            leg.parent_id = new.id
            lifecycle.order_store.store(leg)


def cancel_linked(lifecycle: OrderLifecycle, order: Order) -> None:
    """Cancel the other orders of the group after one was cancelled."""
    if order.role is OrderRole.ENTRY:
        if not (order.filled_qty and lifecycle.settings.partial_entry is PartialEntryLegs.HELD):
            for leg in lifecycle.order_store.legs(order):
                lifecycle.schedule_event(
                    EventKind.LEG_CANCEL,
                    lifecycle.random_source.draw_latency(lifecycle.settings.entry_legs_cancel),
                    leg,
                )
        return
    entry = lifecycle.order_store.parent(order) if order.is_exit else None
    for other in (*lifecycle.order_store.siblings(order), *((entry,) if entry else ())):
        if not other.terminal:
            lifecycle.schedule_event(
                EventKind.LEG_CANCEL,
                lifecycle.random_source.draw_latency(lifecycle.settings.leg_cancel),
                other,
            )


def resize_linked(lifecycle: OrderLifecycle, order: Order) -> None:
    """Resize the legs of a resized entry, and the siblings of a resized target."""
    followers = lifecycle.order_store.legs(order) if order.legs else []
    if order.role is OrderRole.TARGET:
        followers = [s for s in lifecycle.order_store.siblings(order) if not s.terminal]
    for follower in followers:
        follower.qty = follower.filled_qty + (
            order.remaining if order.role is OrderRole.TARGET else order.qty or Decimal(0)
        )
        lifecycle.store_order(follower)
