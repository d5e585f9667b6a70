"""Who goes with whom: the effects of one order of a bracket, OCO or OTO on the others."""

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.settings import PartialEntryLegs
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Order, OrderRole, OrderStatus, OrderType

if TYPE_CHECKING:
    from catalyst.simulator.exchange.venue import Venue


def replace_triggered_stop(venue: "Venue", order: Order) -> Order:
    """The broker works a triggered stop under an order id of its own."""
    worker = replace(
        order,
        id=venue.random_source.uuid(),
        client_order_id=venue.random_source.uuid(),
        sequence=venue.next_sequence(),
        submitted_at=venue.now,
        replaces=order.id,
        status=OrderStatus.NEW,
        legs=[],
    )
    if order.type is OrderType.STOP:
        worker.type, worker.stop_price = OrderType.MARKET, None
    venue.order_store.store(worker)
    replace_in_group(venue, order, worker)
    mark_replaced(venue, order, worker)
    venue.store_order(worker)
    venue.emit_update(worker, "new")
    return worker


def mark_replaced(venue: "Venue", order: Order, successor: Order) -> None:
    order.status = OrderStatus.REPLACED
    order.replaced_at = venue.now
    order.replaced_by = successor.id
    order.active = False
    venue.store_order(order)
    venue.emit_update(order, "replaced")


def activate_legs(venue: "Venue", entry: Order) -> None:
    """The entry is complete: the target goes live as `new`, the stop goes live behind `held`."""
    legs = [leg for leg in venue.order_store.legs(entry) if leg.status is OrderStatus.HELD]
    free = bool(legs) and unreserved_qty(venue, legs[0]) >= legs[0].remaining
    for leg in legs:
        facts = venue.fault_facts(leg)
        if not free or venue.faults.fire_matching(FaultKind.LEG_REJECT, **facts):
            venue.finish_order(leg, OrderStatus.REJECTED)
            continue
        if venue.faults.fire_matching(FaultKind.LEG_CANCEL, **facts):
            venue.finish_order(leg, OrderStatus.CANCELED)
            continue
        leg.active = leg.acknowledged = True
        leg.submitted_at = venue.now
        alone = len(legs) == 1
        if leg.role is OrderRole.TARGET or alone:
            leg.status = OrderStatus.NEW
        venue.store_order(leg)
        if leg.status is OrderStatus.NEW:
            venue.emit_update(leg, "new")
            venue.schedule_event(
                EventKind.ARRIVE, venue.random_source.draw_latency(venue.settings.arrive), leg
            )


def unreserved_qty(venue: "Venue", leg: Order) -> Decimal:
    """Shares that no order outside the leg's group holds."""
    held, _ = venue.order_store.reserved_shares(leg.symbol, leg.side, excluding_group_of=leg)
    return abs(venue.account.qty(leg.symbol)) - held


def replace_in_group(venue: "Venue", old: Order, new: Order) -> None:
    """The new order takes the old one's place in its group, legs included."""
    parent = venue.order_store.parent(old)
    if parent is not None:
        parent.legs = [new.id if leg == old.id else leg for leg in parent.legs]
        venue.order_store.store(parent)
    if old.legs:
        new.legs, old.legs = old.legs, []
        for leg in venue.order_store.legs(new):
            leg.parent_id = new.id
            venue.order_store.store(leg)


def cancel_linked(venue: "Venue", order: Order) -> None:
    """One order of a group was cancelled: the others follow."""
    if order.role is OrderRole.ENTRY:
        if not (order.filled_qty and venue.settings.partial_entry is PartialEntryLegs.HELD):
            for leg in venue.order_store.legs(order):
                venue.schedule_event(
                    EventKind.LEG_CANCEL,
                    venue.random_source.draw_latency(venue.settings.entry_legs_cancel),
                    leg,
                )
        return
    entry = venue.order_store.parent(order) if order.is_exit else None
    for other in (*venue.order_store.siblings(order), *((entry,) if entry else ())):
        if not other.terminal:
            venue.schedule_event(
                EventKind.LEG_CANCEL, venue.random_source.draw_latency(venue.settings.leg_cancel), other
            )


def resize_linked(venue: "Venue", order: Order) -> None:
    """Legs of a resized entry, and the siblings of a resized target, follow its quantity."""
    followers = venue.order_store.legs(order) if order.legs else []
    if order.role is OrderRole.TARGET:
        followers = [s for s in venue.order_store.siblings(order) if not s.terminal]
    for follower in followers:
        follower.qty = follower.filled_qty + (
            order.remaining if order.role is OrderRole.TARGET else order.qty or Decimal(0)
        )
        venue.store_order(follower)
