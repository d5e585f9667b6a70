"""Opening, reopening and closing auctions: one price for all participating orders.

A symbol's opening auction is its first trade of the session, its reopening auction the first trade after a
halt, its closing auction the session's last trade. An order that takes part and accepts the price fills
completely at that price.
"""

from datetime import datetime
from decimal import Decimal
from typing import Final

from catalyst.simulator.exchange import linked_orders
from catalyst.simulator.exchange.fills import acknowledge, fill_up_to
from catalyst.simulator.exchange.lifecycle import VenueState
from catalyst.simulator.rules.orders import Order, OrderStatus, PositionIntent, TimeInForce
from catalyst.simulator.rules.pricing import effective_limit, is_stop, is_within_limit
from catalyst.simulator.rules.trading_hours import new_york_date

UNLIMITED_QTY: Final = Decimal("Infinity")
IMMEDIATE: Final = frozenset({TimeInForce.OPG, TimeInForce.IOC, TimeInForce.FOK})
CANCELED_BY_VENUE: Final = IMMEDIATE | {TimeInForce.CLS}  # the rest ends as canceled, never as expired


def open_session(state: VenueState) -> None:
    """Route orders that wait for the open; they and all working orders take part in the first trade."""
    for symbol in sorted({order.symbol for order in state.order_store.live()} - state.halted):
        cancel_unborrowable_shorts(state, symbol)
        route_waiting_orders(state, symbol)


def cancel_unborrowable_shorts(state: VenueState, symbol: str) -> None:
    """Cancel short sales of a symbol that became hard to borrow overnight, before the open."""
    if not state.is_hard_to_borrow(symbol):
        return
    for order in state.order_store.live(symbol):
        if order.intent is PositionIntent.SELL_TO_OPEN:
            state.finish_order(order, OrderStatus.CANCELED)
            linked_orders.cancel_linked(state, order)


def route_waiting_orders(state: VenueState, symbol: str) -> None:
    """Acknowledge the symbol's waiting orders; all working orders take part in its next trade."""
    for order in state.order_store.live(symbol):
        if order.status is OrderStatus.ACCEPTED and not order.acknowledged:
            acknowledge(state, order)
        if order.working and order.time_in_force is not TimeInForce.CLS:
            order.in_opening_auction = True
            state.order_store.store(order)


def take_part(state: VenueState, order: Order, price: Decimal) -> bool:
    """Let an order take part in an auction at this price; false for a stop, which the trade may trigger.

    OPG, IOC and FOK orders end with the auction.
    """
    order.in_opening_auction = False
    state.order_store.store(order)
    if is_stop(order) and not order.triggered:
        return False
    if is_within_limit(effective_limit(order), order.side, price):
        fill_up_to(state, order, UNLIMITED_QTY, price)
    if order.time_in_force in IMMEDIATE:
        state.finish_order(order, OrderStatus.CANCELED)
    return True


def close_session(state: VenueState) -> None:
    """Hold the closing auction; opening auctions that did not happen are over."""
    for order in state.order_store.live():
        if order.terminal:
            continue
        if order.in_opening_auction:
            order.in_opening_auction = False
            state.order_store.store(order)
        if order.time_in_force is TimeInForce.CLS and order.working:
            price = official_close(state, order.symbol)
            if price is not None and is_within_limit(effective_limit(order), order.side, price):
                fill_up_to(state, order, UNLIMITED_QTY, price)
            state.finish_order(order, OrderStatus.CANCELED)
        elif order.time_in_force is TimeInForce.OPG and order.acknowledged:
            state.finish_order(order, OrderStatus.CANCELED)


def official_close(state: VenueState, symbol: str) -> Decimal | None:
    """Return the session's last trade; None when there was none, or the symbol is halted."""
    last = state.market.last_print(symbol, state.now)
    if last is None or symbol in state.halted or last.at < _session_open(state):
        return None
    return last.price


def _session_open(state: VenueState) -> datetime:
    session = state.hours.session(new_york_date(state.now))
    return state.now if session is None else session.open
