"""The opening, reopening and closing auctions: one price for everybody who takes part.

A symbol's opening auction is its first trade of the session, its reopening auction the first trade after a halt,
its closing auction the session's last trade. Who takes part and accepts the price gets all of it at that price.
"""

from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from catalyst.simulator.exchange import linked_orders
from catalyst.simulator.rules.orders import Intent, Order, Status, TimeInForce
from catalyst.simulator.rules.pricing import is_stop, limit_of, within
from catalyst.simulator.rules.trading_hours import day_of

if TYPE_CHECKING:
    from catalyst.simulator.exchange.venue import Venue

EVERYTHING: Final = Decimal("Infinity")
AT_ONCE: Final = frozenset({TimeInForce.OPG, TimeInForce.IOC, TimeInForce.FOK})
BY_THE_VENUE: Final = AT_ONCE | {TimeInForce.CLS}  # what is left of these ends as canceled, never as expired


def open_session(venue: "Venue") -> None:
    """Route what waits for the open; it and everything that rests takes part in the first trade."""
    for symbol in sorted({order.symbol for order in venue.book.live()} - venue.halted):
        recall(venue, symbol)
        route(venue, symbol)


def recall(venue: "Venue", symbol: str) -> None:
    """Short sales of a name that became hard to borrow over night are cancelled before the open."""
    if not venue.hard_to_borrow(symbol):
        return
    for order in venue.book.live(symbol):
        if order.intent is Intent.SELL_TO_OPEN:
            venue.finish(order, Status.CANCELED)
            linked_orders.orphan(venue, order)


def route(venue: "Venue", symbol: str) -> None:
    """Acknowledge the symbol's waiting orders, and let all that work there take part in its next trade."""
    for order in venue.book.live(symbol):
        if order.status is Status.ACCEPTED and not order.acknowledged:
            venue.acknowledge(order)
        if order.working and order.time_in_force is not TimeInForce.CLS:
            order.opening = True
            venue.book.file(order)


def cross(venue: "Venue", order: Order, price: Decimal) -> bool:
    """Have an order take part in an opening at this price; false for a stop, which the trade may elect.

    An order for the opening alone, or for at once, does not outlive it.
    """
    order.opening = False
    venue.book.file(order)
    if is_stop(order) and not order.elected:
        return False
    if within(limit_of(order), order.side, price):
        venue.trade(order, EVERYTHING, price)
    if order.time_in_force in AT_ONCE:
        venue.finish(order, Status.CANCELED)
    return True


def close_session(venue: "Venue") -> None:
    """Hold the closing auction; openings that never came are over."""
    for order in venue.book.live():
        if order.terminal:
            continue
        if order.opening:
            order.opening = False
            venue.book.file(order)
        if order.time_in_force is TimeInForce.CLS and order.working:
            price = official_close(venue, order.symbol)
            if price is not None and within(limit_of(order), order.side, price):
                venue.trade(order, EVERYTHING, price)
            venue.finish(order, Status.CANCELED)
        elif order.time_in_force is TimeInForce.OPG and order.acknowledged:
            venue.finish(order, Status.CANCELED)


def official_close(venue: "Venue", symbol: str) -> Decimal | None:
    """The session's last trade; None when there was none, or the symbol is halted."""
    last = venue.market.last_print(symbol, venue.now)
    if last is None or symbol in venue.halted or last.at < _opened(venue):
        return None
    return last.price


def _opened(venue: "Venue") -> datetime:
    session = venue.hours.session(day_of(venue.now))
    return venue.now if session is None else session.open
