"""Who goes with whom: the effects of one order of a bracket, OCO or OTO on the others."""

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from catalyst.simulator.exchange.event_queue import DueKind
from catalyst.simulator.exchange.settings import PartialEntry
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.rules.orders import Order, OrderType, Role, Status

if TYPE_CHECKING:
    from catalyst.simulator.exchange.venue import Venue


def substitute(venue: "Venue", order: Order) -> Order:
    """The broker works a triggered stop under an order id of its own."""
    worker = replace(
        order,
        id=venue.draws.identity(),
        client_order_id=venue.draws.identity(),
        sequence=venue.next_sequence(),
        submitted_at=venue.now,
        replaces=order.id,
        status=Status.NEW,
        legs=[],
    )
    if order.type is OrderType.STOP:
        worker.type, worker.stop_price = OrderType.MARKET, None
    venue.book.file(worker)
    swap_leg(venue, order, worker)
    supersede(venue, order, worker)
    venue.file(worker)
    venue.tell(worker, "new")
    return worker


def supersede(venue: "Venue", order: Order, by: Order) -> None:
    order.status = Status.REPLACED
    order.replaced_at = venue.now
    order.replaced_by = by.id
    order.active = False
    venue.file(order)
    venue.tell(order, "replaced")


def activate(venue: "Venue", entry: Order) -> None:
    """The entry is complete: the target goes live as `new`, the stop goes live behind `held`."""
    legs = [leg for leg in venue.book.legs(entry) if leg.status is Status.HELD]
    free = bool(legs) and free_of_others(venue, legs[0]) >= legs[0].remaining
    for leg in legs:
        facts = venue.facts(leg)
        if not free or venue.faults.take(FaultKind.LEG_REJECT, **facts):
            venue.finish(leg, Status.REJECTED)
            continue
        if venue.faults.take(FaultKind.LEG_CANCEL, **facts):
            venue.finish(leg, Status.CANCELED)
            continue
        leg.active = leg.acknowledged = True
        leg.submitted_at = venue.now
        alone = len(legs) == 1
        if leg.role is Role.TARGET or alone:
            leg.status = Status.NEW
        venue.file(leg)
        if leg.status is Status.NEW:
            venue.tell(leg, "new")
            venue.later(DueKind.ARRIVE, venue.draws.latency(venue.switches.arrive), leg)


def free_of_others(venue: "Venue", leg: Order) -> Decimal:
    """Shares that no order outside the leg's group holds."""
    held, _ = venue.book.held(leg.symbol, leg.side, beside=leg)
    return abs(venue.account.qty(leg.symbol)) - held


def swap_leg(venue: "Venue", old: Order, new: Order) -> None:
    """The new order takes the old one's place in its group, legs included."""
    parent = venue.book.parent(old)
    if parent is not None:
        parent.legs = [new.id if leg == old.id else leg for leg in parent.legs]
        venue.book.file(parent)
    if old.legs:
        new.legs, old.legs = old.legs, []
        for leg in venue.book.legs(new):
            leg.parent_id = new.id
            venue.book.file(leg)


def orphan(venue: "Venue", order: Order) -> None:
    """One order of a group was cancelled: the others follow."""
    if order.role is Role.ENTRY:
        if not (order.filled_qty and venue.switches.partial_entry is PartialEntry.HELD):
            for leg in venue.book.legs(order):
                venue.later(DueKind.LEG_CANCEL, venue.draws.latency(venue.switches.orphan_cancel), leg)
        return
    entry = venue.book.parent(order) if order.is_exit else None
    for other in (*venue.book.siblings(order), *((entry,) if entry else ())):
        if not other.terminal:
            venue.later(DueKind.LEG_CANCEL, venue.draws.latency(venue.switches.leg_cancel), other)


def resize(venue: "Venue", order: Order) -> None:
    """Legs of a resized entry, and the siblings of a resized target, follow its quantity."""
    followers = venue.book.legs(order) if order.legs else []
    if order.role is Role.TARGET:
        followers = [s for s in venue.book.siblings(order) if not s.terminal]
    for follower in followers:
        follower.qty = follower.filled_qty + (
            order.remaining if order.role is Role.TARGET else order.qty or Decimal(0)
        )
        venue.file(follower)
