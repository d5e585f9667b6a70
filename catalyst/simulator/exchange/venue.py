"""Venue: processes time. Prints, scheduled events, sessions, halts and the ends of orders.

Synchronous and deterministic: the same market, seed and calls give the same executions at any pace.
`linked_orders` has the effects inside a group; they follow Alpaca's description of bracket, OCO and OTO
orders.
"""

from collections import deque
from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import partial

from catalyst.simulator.exchange import auctions, linked_orders
from catalyst.simulator.exchange.event_queue import EventKind, ScheduledEvent
from catalyst.simulator.exchange.fills import Fills
from catalyst.simulator.exchange.lifecycle import ONE_MICROSECOND, Fee
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.market.announcements import HaltReason, TradingStatus
from catalyst.simulator.market.interface import Print
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.rules.orders import (
    Order,
    OrderRole,
    OrderSide,
    OrderStatus,
    TimeInForce,
)
from catalyst.simulator.rules.pricing import (
    triggers,
)


class Venue(Fills):
    """Orders and account in time; only `advance` moves the time."""

    # ------------------------------------------------------------------ time

    def next_event_at(self) -> datetime | None:
        """Return the next instant at which something can happen by itself."""
        prints = (
            self.market.next_print_time(s, self.now)
            for s in self.order_store.symbols_awaiting_trades()
            if s not in self.halted
        )
        instants = [at for at in (self.event_queue.next_at(), *prints) if at is not None]
        return min(instants, default=None)

    def advance(self, to: datetime) -> None:
        """Process all prints and events up to and including `to`, in order; a past `to` changes nothing."""
        tape: dict[str, deque[Print]] = {}
        read_until = self.now  # prints up to here are processed
        while True:
            self._refresh_pending_prints(tape, read_until, to)
            symbol = min((s for s in tape if tape[s]), key=lambda s: (tape[s][0].at, s), default=None)
            event_at = self.event_queue.next_at()
            if event_at is not None and event_at > to:
                event_at = None
            if symbol is not None and (
                event_at is None or self._print_precedes_event(tape[symbol][0], event_at)
            ):
                trade = tape[symbol].popleft()
                self.now = max(self.now, trade.at)
                self.match_print(symbol, trade)
                read_until = self.now
            elif event_at is not None:
                self.now = max(self.now, event_at)
                opens = self.event_queue.next_is_open
                self._dispatch(self.event_queue.pop())
                read_until = self.now - ONE_MICROSECOND if opens else self.now
            else:
                break
        self.now = max(self.now, to)

    def _print_precedes_event(self, trade: Print, event_at: datetime) -> bool:
        """Return whether a print comes before an event: at the same instant it does, unless the event is the
        open."""
        return trade.at < event_at or (trade.at == event_at and not self.event_queue.next_is_open)

    def _refresh_pending_prints(
        self, pending_prints: dict[str, deque[Print]], read_until: datetime, to: datetime
    ) -> None:
        """Keep the pending prints of exactly the symbols with a working order, up to `to`."""
        watched = set(self.order_store.symbols_awaiting_trades())
        for symbol in self._changed_feeds & pending_prints.keys():
            del pending_prints[symbol]
        self._changed_feeds.clear()
        for symbol in watched - pending_prints.keys():
            pending_prints[symbol] = deque(self.market.prints(symbol, read_until, to))
        for symbol in pending_prints.keys() - watched:
            del pending_prints[symbol]

    def schedule_first_session(self) -> None:
        """Schedule the next open and close; called once for a new exchange."""
        session = self.hours.current_or_next(self.now)
        if session is not None:
            if session.open > self.now:
                self.event_queue.schedule(session.open, EventKind.OPEN)
            self.event_queue.schedule(session.close, EventKind.CLOSE)

    def _dispatch(self, event: ScheduledEvent) -> None:
        if event.kind is EventKind.RESUME:
            self.resume(event.other_id)
            return
        order = self.order_store.get(event.order_id)
        if order is None:
            self._open_or_close_session(event.kind)
            return
        if event.kind is EventKind.REPLACE:
            self._confirm_replace(order, self.order_store.orders[event.other_id])
            return
        keep: dict[EventKind, Callable[[Order], object]] = {
            EventKind.ACKNOWLEDGE: self.acknowledge,
            EventKind.ARRIVE: self._match_on_arrival,
            EventKind.CANCEL: self._confirm_cancel,
            EventKind.LEG_CANCEL: self._cancel_leg,
            EventKind.ACTIVATE: partial(linked_orders.activate_legs, self),
            EventKind.FILL_REMAINING: self._fill_remaining,
            EventKind.EXPIRE: self._expire,
        }
        keep[event.kind](order)

    # ------------------------------------------------------------------ sessions

    def _open_or_close_session(self, kind: EventKind) -> None:
        self.unsaved_changes = True
        if kind is EventKind.OPEN:
            self.account.last_equity = self.account.equity(self.mark_price)
            self.account.last_maintenance = self.account.margin_requirements(self.mark_price)[1]
            for position in self.account.positions.values():
                position.overnight_qty = position.qty
            auctions.open_session(self)
            return
        auctions.close_session(self)
        self._charge_fees()
        self.equity_history.append((self.now, self.account.equity(self.mark_price)))
        session = self.hours.next_session(self.now)
        if session is not None:
            self.event_queue.schedule(session.open, EventKind.OPEN)
            self.event_queue.schedule(session.close, EventKind.CLOSE)

    def resume(self, symbol: str) -> None:
        """Resume trading and announce it; the next trade is the reopening auction."""
        if symbol not in self.halted:
            return
        self.halted.discard(symbol)
        self.unsaved_changes = True
        self.announcements.publish(TradingStatus(self.now, symbol, halted=False, reason=HaltReason.NEWS))
        self._changed_feeds.add(symbol)  # a halted feed has no pending prints
        if self.hours.is_open(self.now):
            auctions.route_waiting_orders(self, symbol)

    def _charge_fees(self) -> None:
        for kind, amount in self.account.accrued_by_kind().items():
            if amount:
                self.fees.append(Fee(self.random_source.uuid(), self.now, amount, kind))
                self.account.fees += amount
                self.account.cash -= amount
        self.account.accrued_reg = self.account.accrued_taf = Decimal(0)

    # ------------------------------------------------------------------ prints

    def match_print(self, symbol: str, trade: Print) -> None:
        """Match a print with every working order of the symbol."""
        if symbol in self.halted:
            return
        if isinstance(self.market, OverriddenMarket):
            trade = self._apply_gap_fault(self.market, symbol, trade)
        for order in self.order_store.working(symbol):
            if not order.working or self._cannot_trade(order) or order.time_in_force is TimeInForce.CLS:
                continue
            if not (order.in_opening_auction and auctions.take_part(self, order, trade.price)):
                self._apply_print(order, trade)

    def _apply_gap_fault(self, market: OverriddenMarket, symbol: str, trade: Print) -> Print:
        """Return the print, moved with the whole market when it would trigger a stop and a gap fault applies."""
        for order in self.order_store.working(symbol):
            if self._cannot_trade(order) or not triggers(order, trade.price):
                continue
            fault = self.faults.fire_matching(FaultKind.GAP, **self.fault_facts(order))
            if fault is not None:
                factor = Decimal(fault.factor)
                market.add_gap(
                    symbol, factor if order.side is OrderSide.SELL else 2 - factor, trade.at - ONE_MICROSECOND
                )
                self._changed_feeds.add(symbol)
                return market.last_print(symbol, trade.at) or trade
        return trade

    # ------------------------------------------------------------------ ends of orders

    def _confirm_cancel(self, order: Order) -> None:
        if order.terminal:
            return
        if self.faults.fire_matching(FaultKind.CANCEL_REJECT, **self.fault_facts(order)):
            order.status = order.status_before_pending or OrderStatus.NEW
            self.store_order(order)
            self.emit_update(order, "order_cancel_rejected")
            return
        self.finish_order(order, OrderStatus.CANCELED)
        linked_orders.cancel_linked(self, order)

    def _cancel_leg(self, order: Order) -> None:
        target_sold = any(
            other.role is OrderRole.TARGET and other.status is OrderStatus.FILLED
            for other in self.order_store.siblings(order)
        )
        self.finish_order(
            order, OrderStatus.CANCELED, silent=target_sold and self.settings.hide_sibling_cancel
        )

    def _expire(self, order: Order) -> None:
        """End an order whose time in force is over, and its legs."""
        by_venue = self.settings.expire_as_canceled or order.time_in_force in auctions.CANCELED_BY_VENUE
        status = OrderStatus.CANCELED if by_venue else OrderStatus.EXPIRED
        for each in (order, *self.order_store.legs(order)):
            self.finish_order(each, status)

    def _confirm_replace(self, old: Order, new: Order) -> None:
        """Decide a replacement: the new order works on, or nothing has changed."""
        refused = self.faults.fire_matching(FaultKind.REPLACE_REJECT, **self.fault_facts(old)) is not None
        new.filled_qty, new.filled_value = old.filled_qty, old.filled_value
        if old.is_exit and new.remaining > linked_orders.unreserved_qty(self, old):
            refused = True  # its sibling has sold some meanwhile
        if refused or old.terminal or new.terminal or new.remaining <= 0:
            new.filled_qty = new.filled_value = Decimal(0)
            self.finish_order(new, OrderStatus.REJECTED)
            old.replaced_by = None
            if not old.terminal:
                old.status = old.status_before_pending or OrderStatus.NEW
            self.store_order(old)
            self.emit_update(old, "order_replace_rejected")
            return
        new.inherited_filled_qty = old.filled_qty
        new.parent_id = old.parent_id  # the parent may itself have been replaced meanwhile
        new.acknowledged, new.active, new.triggered = True, old.active, old.triggered
        new.status = old.status_before_pending or OrderStatus.NEW
        if new.status is OrderStatus.NEW and new.filled_qty:
            new.status = OrderStatus.PARTIALLY_FILLED
        linked_orders.replace_in_group(self, old, new)
        linked_orders.mark_replaced(self, old, new)
        self.store_order(new)
        self.emit_update(new, "new")
        linked_orders.resize_linked(self, new)
        self.schedule_event(EventKind.ARRIVE, self.random_source.draw_latency(self.settings.arrive), new)
