"""Linked orders: the effects of one order of a bracket, OCO or OTO on the others."""

from dataclasses import replace
from decimal import Decimal

from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.lifecycle import VenueState
from catalyst.simulator.exchange.settings import PartialEntryLegs
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Order, OrderRole, OrderStatus, OrderType


def replace_triggered_stop(state: VenueState, order: Order) -> Order:
    """Continue a triggered stop under a new order id, as the broker does."""
    worker = replace(
        order,
        id=state.random_source.uuid(),
        client_order_id=state.random_source.uuid(),
        sequence=state.next_sequence(),
        submitted_at=state.now,
        replaces=order.id,
        status=OrderStatus.NEW,
        legs=[],
    )
    if order.type is OrderType.STOP:
        worker.type, worker.stop_price = OrderType.MARKET, None
    state.order_store.store(worker)
    replace_in_group(state, order, worker)
    mark_replaced(state, order, worker)
    state.store_order(worker)
    state.emit_update(worker, "new")
    return worker


def mark_replaced(state: VenueState, order: Order, successor: Order) -> None:
    """End an order as replaced by its successor."""
    order.status = OrderStatus.REPLACED
    order.replaced_at = state.now
    order.replaced_by = successor.id
    order.active = False
    state.store_order(order)
    state.emit_update(order, "replaced")


def activate_legs(state: VenueState, entry: Order) -> None:
    """Activate the legs of a filled entry: the target becomes `new`, the stop stays `held` and can trigger."""
    legs = [leg for leg in state.order_store.legs(entry) if leg.status is OrderStatus.HELD]
    free = bool(legs) and unreserved_qty(state, legs[0]) >= legs[0].remaining
    for leg in legs:
        facts = state.fault_facts(leg)
        if not free or state.faults.fire_matching(FaultKind.LEG_REJECT, **facts):
            state.finish_order(leg, OrderStatus.REJECTED)
            continue
        if state.faults.fire_matching(FaultKind.LEG_CANCEL, **facts):
            state.finish_order(leg, OrderStatus.CANCELED)
            continue
        leg.active = leg.acknowledged = True
        leg.submitted_at = state.now
        alone = len(legs) == 1
        if leg.role is OrderRole.TARGET or alone:
            leg.status = OrderStatus.NEW
        state.store_order(leg)
        if leg.status is OrderStatus.NEW:
            state.emit_update(leg, "new")
            state.schedule_event(
                EventKind.ARRIVE, state.random_source.draw_latency(state.settings.arrive), leg
            )


def unreserved_qty(state: VenueState, leg: Order) -> Decimal:
    """Return the shares that no order outside the leg's group reserves."""
    held, _ = state.order_store.reserved_shares(leg.symbol, leg.side, excluding_group_of=leg)
    return abs(state.account.qty(leg.symbol)) - held


def replace_in_group(state: VenueState, old: Order, new: Order) -> None:
    """Put the new order in the old one's place in its group, legs included."""
    parent = state.order_store.parent(old)
    if parent is not None:
        parent.legs = [new.id if leg == old.id else leg for leg in parent.legs]
        state.order_store.store(parent)
    if old.legs:
        new.legs, old.legs = old.legs, []
        for leg in state.order_store.legs(new):
            leg.parent_id = new.id
            state.order_store.store(leg)


def cancel_linked(state: VenueState, order: Order) -> None:
    """Cancel the other orders of the group after one was cancelled."""
    if order.role is OrderRole.ENTRY:
        if not (order.filled_qty and state.settings.partial_entry is PartialEntryLegs.HELD):
            for leg in state.order_store.legs(order):
                state.schedule_event(
                    EventKind.LEG_CANCEL,
                    state.random_source.draw_latency(state.settings.entry_legs_cancel),
                    leg,
                )
        return
    entry = state.order_store.parent(order) if order.is_exit else None
    for other in (*state.order_store.siblings(order), *((entry,) if entry else ())):
        if not other.terminal:
            state.schedule_event(
                EventKind.LEG_CANCEL,
                state.random_source.draw_latency(state.settings.leg_cancel),
                other,
            )


def resize_linked(state: VenueState, order: Order) -> None:
    """Resize the legs of a resized entry, and the siblings of a resized target."""
    followers = state.order_store.legs(order) if order.legs else []
    if order.role is OrderRole.TARGET:
        followers = [s for s in state.order_store.siblings(order) if not s.terminal]
    for follower in followers:
        follower.qty = follower.filled_qty + (
            order.remaining if order.role is OrderRole.TARGET else order.qty or Decimal(0)
        )
        state.store_order(follower)
