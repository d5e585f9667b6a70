"""Venue: processes time. Prints, scheduled events, sessions, halts and the ends of orders.

Synchronous and deterministic: the same market, seed and calls give the same executions at any pace.
`linked_orders` has the effects inside a group; they follow Alpaca's description of bracket, OCO and OTO
orders.
"""

from collections import deque
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Final

from catalyst.simulator.exchange import auctions, fills, linked_orders
from catalyst.simulator.exchange.event_queue import EventKind, ScheduledEvent
from catalyst.simulator.exchange.lifecycle import ONE_MICROSECOND, Fee, VenueState
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.market.announcements import HaltReason, TradingStatus
from catalyst.simulator.market.interface import Print
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.rules.orders import Order, OrderRole, OrderSide, OrderStatus, TimeInForce
from catalyst.simulator.rules.pricing import triggers


class Venue:
    """Processes the time of one exchange; only `advance` moves its `now`."""

    def __init__(self, state: VenueState) -> None:
        self._state = state

    # ------------------------------------------------------------------ time

    def next_event_at(self) -> datetime | None:
        """Return the next instant at which something can happen by itself."""
        state = self._state
        prints = (
            state.market.next_print_time(symbol, state.now)
            for symbol in state.order_store.symbols_awaiting_trades()
            if symbol not in state.halted
        )
        instants = [at for at in (state.event_queue.next_at(), *prints) if at is not None]
        return min(instants, default=None)

    def advance(self, to: datetime) -> None:
        """Process all prints and events up to and including `to`, in order; a past `to` changes nothing."""
        state = self._state
        pending: dict[str, deque[Print]] = {}
        read_until = state.now  # prints up to here are processed
        while True:
            self._refresh_pending_prints(pending, read_until, to)
            symbol = min(
                (s for s in pending if pending[s]), key=lambda s: (pending[s][0].at, s), default=None
            )
            event_at = state.event_queue.next_at()
            if event_at is not None and event_at > to:
                event_at = None
            if symbol is not None and (
                event_at is None or self._print_precedes_event(pending[symbol][0], event_at)
            ):
                trade = pending[symbol].popleft()
                state.now = max(state.now, trade.at)
                self._match_print(symbol, trade)
                read_until = state.now
            elif event_at is not None:
                state.now = max(state.now, event_at)
                opens = state.event_queue.next_is_open
                self._dispatch(state.event_queue.pop())
                read_until = state.now - ONE_MICROSECOND if opens else state.now
            else:
                break
        state.now = max(state.now, to)

    def _print_precedes_event(self, trade: Print, event_at: datetime) -> bool:
        """Return whether a print comes before an event: at the same instant it does, unless the event is the
        open."""
        return trade.at < event_at or (trade.at == event_at and not self._state.event_queue.next_is_open)

    def _refresh_pending_prints(
        self, pending: dict[str, deque[Print]], read_until: datetime, to: datetime
    ) -> None:
        """Keep the pending prints of exactly the symbols with a working order, up to `to`."""
        state = self._state
        watched = set(state.order_store.symbols_awaiting_trades())
        for symbol in state.changed_feeds & pending.keys():
            del pending[symbol]
        state.changed_feeds.clear()
        for symbol in watched - pending.keys():
            pending[symbol] = deque(state.market.prints(symbol, read_until, to))
        for symbol in pending.keys() - watched:
            del pending[symbol]

    def _dispatch(self, event: ScheduledEvent) -> None:
        state = self._state
        if event.kind is EventKind.RESUME:
            self.resume(event.other_id)
            return
        order = state.order_store.get(event.order_id)
        if order is None:
            self._open_or_close_session(event.kind)
        elif event.kind is EventKind.REPLACE:
            _confirm_replace(state, order, state.order_store.orders[event.other_id])
        else:
            ORDER_EVENT_HANDLERS[event.kind](state, order)

    # ------------------------------------------------------------------ sessions and halts

    def schedule_first_session(self) -> None:
        """Schedule the next open and close; called once for a new exchange."""
        state = self._state
        session = state.hours.current_or_next(state.now)
        if session is not None:
            if session.open > state.now:
                state.event_queue.schedule(session.open, EventKind.OPEN)
            state.event_queue.schedule(session.close, EventKind.CLOSE)

    def _open_or_close_session(self, kind: EventKind) -> None:
        state = self._state
        state.unsaved_changes = True
        if kind is EventKind.OPEN:
            state.account.last_equity = state.account.equity(state.mark_price)
            state.account.last_maintenance = state.account.margin_requirements(state.mark_price)[1]
            for position in state.account.positions.values():
                position.overnight_qty = position.qty
            auctions.open_session(state)
            return
        auctions.close_session(state)
        self._charge_fees()
        state.equity_history.append((state.now, state.account.equity(state.mark_price)))
        session = state.hours.next_session(state.now)
        if session is not None:
            state.event_queue.schedule(session.open, EventKind.OPEN)
            state.event_queue.schedule(session.close, EventKind.CLOSE)

    def resume(self, symbol: str) -> None:
        """Resume trading and announce it; the next trade is the reopening auction."""
        state = self._state
        if symbol not in state.halted:
            return
        state.halted.discard(symbol)
        state.unsaved_changes = True
        state.announcements.publish(TradingStatus(state.now, symbol, halted=False, reason=HaltReason.NEWS))
        state.changed_feeds.add(symbol)  # a halted feed has no pending prints
        if state.hours.is_open(state.now):
            auctions.route_waiting_orders(state, symbol)

    def _charge_fees(self) -> None:
        state, account = self._state, self._state.account
        for kind, amount in account.accrued_by_kind().items():
            if amount:
                state.fees.append(Fee(state.random_source.uuid(), state.now, amount, kind))
                account.fees += amount
                account.cash -= amount
        account.accrued_reg = account.accrued_taf = Decimal(0)

    # ------------------------------------------------------------------ prints

    def _match_print(self, symbol: str, trade: Print) -> None:
        """Match a print with every working order of the symbol."""
        state = self._state
        if symbol in state.halted:
            return
        if isinstance(state.market, OverriddenMarket):
            trade = self._apply_gap_fault(state.market, symbol, trade)
        for order in state.order_store.working(symbol):
            if not order.working or state.cannot_trade(order) or order.time_in_force is TimeInForce.CLS:
                continue
            if not (order.in_opening_auction and auctions.take_part(state, order, trade.price)):
                fills.apply_print(state, order, trade)

    def _apply_gap_fault(self, market: OverriddenMarket, symbol: str, trade: Print) -> Print:
        """Return the print, moved with the whole market when it would trigger a stop and a gap fault applies."""
        state = self._state
        for order in state.order_store.working(symbol):
            if state.cannot_trade(order) or not triggers(order, trade.price):
                continue
            fault = state.faults.fire_matching(FaultKind.GAP, **state.fault_facts(order))
            if fault is not None:
                factor = Decimal(fault.factor)
                market.add_gap(
                    symbol, factor if order.side is OrderSide.SELL else 2 - factor, trade.at - ONE_MICROSECOND
                )
                state.changed_feeds.add(symbol)
                return market.last_print(symbol, trade.at) or trade
        return trade


# ---------------------------------------------------------------------- ends of orders


def _confirm_cancel(state: VenueState, order: Order) -> None:
    """Cancel an order and its linked orders, unless it is terminal or a fault rejects the cancel."""
    if order.terminal:
        return
    if state.faults.fire_matching(FaultKind.CANCEL_REJECT, **state.fault_facts(order)):
        order.status = order.status_before_pending or OrderStatus.NEW
        state.store_order(order)
        state.emit_update(order, "order_cancel_rejected")
        return
    state.finish_order(order, OrderStatus.CANCELED)
    linked_orders.cancel_linked(state, order)


def _cancel_leg(state: VenueState, order: Order) -> None:
    """Cancel a leg; without a trade update when its target sold and `hide_sibling_cancel` is set."""
    target_sold = any(
        other.role is OrderRole.TARGET and other.status is OrderStatus.FILLED
        for other in state.order_store.siblings(order)
    )
    state.finish_order(order, OrderStatus.CANCELED, silent=target_sold and state.settings.hide_sibling_cancel)


def _expire(state: VenueState, order: Order) -> None:
    """End an order whose time in force is over, and its legs."""
    by_venue = state.settings.expire_as_canceled or order.time_in_force in auctions.CANCELED_BY_VENUE
    status = OrderStatus.CANCELED if by_venue else OrderStatus.EXPIRED
    for each in (order, *state.order_store.legs(order)):
        state.finish_order(each, status)


def _confirm_replace(state: VenueState, old: Order, new: Order) -> None:
    """Decide a replacement: the new order works on, or nothing has changed."""
    refused = state.faults.fire_matching(FaultKind.REPLACE_REJECT, **state.fault_facts(old)) is not None
    new.filled_qty, new.filled_value = old.filled_qty, old.filled_value
    if old.is_exit and new.remaining > linked_orders.unreserved_qty(state, old):
        refused = True  # its sibling has sold some meanwhile
    if refused or old.terminal or new.terminal or new.remaining <= 0:
        new.filled_qty = new.filled_value = Decimal(0)
        state.finish_order(new, OrderStatus.REJECTED)
        old.replaced_by = None
        if not old.terminal:
            old.status = old.status_before_pending or OrderStatus.NEW
        state.store_order(old)
        state.emit_update(old, "order_replace_rejected")
        return
    new.inherited_filled_qty = old.filled_qty
    new.parent_id = old.parent_id  # the parent may itself have been replaced meanwhile
    new.acknowledged, new.active, new.triggered = True, old.active, old.triggered
    new.status = old.status_before_pending or OrderStatus.NEW
    if new.status is OrderStatus.NEW and new.filled_qty:
        new.status = OrderStatus.PARTIALLY_FILLED
    linked_orders.replace_in_group(state, old, new)
    linked_orders.mark_replaced(state, old, new)
    state.store_order(new)
    state.emit_update(new, "new")
    linked_orders.resize_linked(state, new)
    state.schedule_event(EventKind.ARRIVE, state.random_source.draw_latency(state.settings.arrive), new)


ORDER_EVENT_HANDLERS: Final[dict[EventKind, Callable[[VenueState, Order], None]]] = {
    EventKind.ACKNOWLEDGE: fills.acknowledge,
    EventKind.ARRIVE: fills.match_on_arrival,
    EventKind.CANCEL: _confirm_cancel,
    EventKind.LEG_CANCEL: _cancel_leg,
    EventKind.ACTIVATE: linked_orders.activate_legs,
    EventKind.FILL_REMAINING: fills.fill_remaining,
    EventKind.EXPIRE: _expire,
}
