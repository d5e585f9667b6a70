"""What becomes of orders as time passes: acknowledgement, trades, triggers, cancels, and the end of the day.

Synchronous and deterministic: the same market, seed and calls give the same executions, whatever the pace.
One file, because it is one life: from acknowledgement to the end. Effects on a group are in `groups`, and
follow Alpaca's description of bracket, OCO and OTO orders.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Final

from catalyst.simulator.exchange import auctions, linked_orders
from catalyst.simulator.exchange.account import Account, regulatory_fees
from catalyst.simulator.exchange.event_queue import EventKind, EventQueue, ScheduledEvent
from catalyst.simulator.exchange.order_store import OrderStore
from catalyst.simulator.exchange.randomness import RandomSource
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.exchange.stale_views import StaleViews
from catalyst.simulator.exchange.unprotected_time import UnprotectedShareSeconds, unprotected_qty
from catalyst.simulator.exchange.views import order_view
from catalyst.simulator.exchange.watchlists import Watchlist
from catalyst.simulator.faults.rules import FaultKind, FaultRules
from catalyst.simulator.market.announcements import Announcements, HaltReason, TradingStatus
from catalyst.simulator.market.interface import BestQuote, Print
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.market.trading_feed import TradingFeed
from catalyst.simulator.rules.orders import (
    Execution,
    Order,
    OrderClass,
    OrderRole,
    OrderSide,
    OrderStatus,
    TimeInForce,
)
from catalyst.simulator.rules.pricing import (
    effective_limit,
    is_stop,
    is_within_limit,
    opposite_quote,
    participation_qty,
    price_on_arrival,
    price_on_print,
    triggers,
    update_trailing_stop,
)
from catalyst.simulator.rules.trading_hours import TradingHours
from catalyst.simulator.rules.wire_format import JsonObject, format_decimal, format_instant, seconds

ONE_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class TradeUpdateMessage:
    """One trade_updates message, rendered as of its instant."""

    event: str
    symbol: str
    order_id: str
    client_order_id: str
    role: OrderRole
    data: JsonObject


@dataclass(frozen=True, slots=True)
class Fee:
    """A regulatory fee taken at a close: of the SEC (REG) or of FINRA (TAF)."""

    id: str
    at: datetime
    amount: Decimal
    kind: str = "REG"


@dataclass(frozen=True, slots=True)
class Transfer:
    """Money that came in, or went out when negative."""

    id: str
    at: datetime
    amount: Decimal


class Venue:
    """Orders and the account in time. `advance` is the only way time passes."""

    def __init__(
        self,
        market: TradingFeed,
        account: Account,
        start: datetime,
        random_source: RandomSource,
        settings: ExchangeSettings,
    ) -> None:
        self.market = market
        self.account = account
        self.now = start
        self.random_source = random_source
        self.settings = settings
        self.faults = FaultRules()
        self.order_store = OrderStore()
        self.event_queue = EventQueue()
        self.hours = TradingHours(market)
        self.halted: set[str] = set()
        self.executions: list[Execution] = []
        self.fees: list[Fee] = []
        self.transfers = [Transfer(account.id, start, account.deposits)]
        self.watchlists: dict[str, Watchlist] = {}
        self.equity_history: list[tuple[datetime, Decimal]] = []
        self.unprotected_time = UnprotectedShareSeconds()
        self.announcements = Announcements()
        self.stale_views = StaleViews()
        self.outbox: list[TradeUpdateMessage] = []
        self.sequence = 0
        self.delayed_fills: list[
            tuple[datetime, Execution]
        ] = []  # fills not yet in the position book, and until when
        self._changed_feeds: set[str] = set()  # symbols whose tape is not what it was
        self.unsaved_changes = False  # something outside the orders changed since it was last saved

    # ------------------------------------------------------------------ time

    def next_event_at(self) -> datetime | None:
        """The next instant at which something can happen by itself."""
        prints = (
            self.market.next_print_time(s, self.now)
            for s in self.order_store.symbols_awaiting_trades()
            if s not in self.halted
        )
        instants = [at for at in (self.event_queue.next_at(), *prints) if at is not None]
        return min(instants, default=None)

    def advance(self, to: datetime) -> None:
        """Live through everything up to and including `to`, in order; a `to` in the past changes nothing."""
        tape: dict[str, deque[Print]] = {}
        read_until = self.now  # up to here the tape is over
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
        """A trade goes before a promise of the same instant, but not before the opening bell."""
        return trade.at < event_at or (trade.at == event_at and not self.event_queue.next_is_open)

    def _refresh_pending_prints(
        self, pending_prints: dict[str, deque[Print]], read_until: datetime, to: datetime
    ) -> None:
        """Have the tape of exactly the symbols in which something works, from what was heard to `to`."""
        watched = set(self.order_store.symbols_awaiting_trades())
        for symbol in self._changed_feeds & pending_prints.keys():
            del pending_prints[symbol]
        self._changed_feeds.clear()
        for symbol in watched - pending_prints.keys():
            pending_prints[symbol] = deque(self.market.prints(symbol, read_until, to))
        for symbol in pending_prints.keys() - watched:
            del pending_prints[symbol]

    def schedule_first_session(self) -> None:
        """Promise the next open and close; called once for a new exchange."""
        session = self.hours.current_or_next(self.now)
        if session is not None:
            if session.open > self.now:
                self.event_queue.schedule(session.open, EventKind.OPEN)
            self.event_queue.schedule(session.close, EventKind.CLOSE)

    def schedule_event(
        self, kind: EventKind, delay: timedelta, order: Order, other: Order | None = None
    ) -> None:
        """Promise something about an order."""
        self.event_queue.schedule(self.now + delay, kind, order.id, other.id if other else "")

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

    # ------------------------------------------------------------------ the day

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

    def halt(self, symbol: str, reason: HaltReason = HaltReason.NEWS) -> None:
        """Trading in the symbol stops, and the tape says so: nothing trades, market orders are refused."""
        if symbol not in self.halted:
            self.halted.add(symbol)
            self.unsaved_changes = True
            self.announcements.publish(TradingStatus(self.now, symbol, halted=True, reason=reason))

    def resume(self, symbol: str) -> None:
        """Trading goes on, and the tape says so: the next trade is the reopening auction."""
        if symbol not in self.halted:
            return
        self.halted.discard(symbol)
        self.unsaved_changes = True
        self.announcements.publish(TradingStatus(self.now, symbol, halted=False, reason=HaltReason.NEWS))
        self._changed_feeds.add(symbol)  # a halted tape told of no trades to come
        if self.hours.is_open(self.now):
            auctions.route_waiting_orders(self, symbol)

    def _charge_fees(self) -> None:
        for kind, amount in self.account.accrued_by_kind().items():
            if amount:
                self.fees.append(Fee(self.random_source.uuid(), self.now, amount, kind))
                self.account.fees += amount
                self.account.cash -= amount
        self.account.accrued_reg = self.account.accrued_taf = Decimal(0)

    def is_hard_to_borrow(self, symbol: str) -> bool:
        asset = self.market.assets().get(symbol)
        return symbol in self.settings.hard_to_borrow or (asset is not None and not asset.easy_to_borrow)

    def mark_price(self, symbol: str) -> Decimal | None:
        """The last trade's price."""
        last = self.market.last_print(symbol, self.now)
        return None if last is None else last.price

    # ------------------------------------------------------------------ telling

    def store_order(self, order: Order) -> None:
        """Keep a changed order, and account for what it protects."""
        order.updated_at = self.now
        self.order_store.store(order)
        if self.settings.order_lag > 0:
            self.stale_views.record(order, self.now)
        unprotected_shares = unprotected_qty(self.order_store, order.symbol, self.account.qty(order.symbol))
        self.unprotected_time.record(order.symbol, unprotected_shares, self.now)

    def emit_update(self, order: Order, event: str, **facts: object) -> None:
        """Put a trade update in the outbox, with the order as it is now."""
        data: JsonObject = {
            "event": event,
            "execution_id": self.random_source.uuid(),
            "timestamp": format_instant(self.now),
            "order": order_view(order, self.order_store, self.settings, nested=True, stream=True),
        }
        data.update(facts)
        self.outbox.append(
            TradeUpdateMessage(event, order.symbol, order.id, order.client_order_id, order.role, data)
        )

    def fault_facts(self, order: Order) -> dict[str, str | None]:
        """What fault rules may ask about an order."""
        return {
            "symbol": order.symbol,
            "client_order_id": order.client_order_id,
            "role": order.role.value,
            "side": order.side.value,
        }

    # ------------------------------------------------------------------ acknowledgement and arrival

    def acknowledge(self, order: Order) -> None:
        """The venue has the order: it works from here on, unless it is rejected."""
        if order.terminal or order.acknowledged:
            return
        if self.faults.fire_matching(FaultKind.REJECT, **self.fault_facts(order)):
            self.finish_order(order, OrderStatus.REJECTED)
            for leg in self.order_store.legs(order):
                self.finish_order(leg, OrderStatus.CANCELED)
            return
        order.acknowledged = True
        if order.status is OrderStatus.PENDING_CANCEL:
            order.status_before_pending = OrderStatus.NEW
        else:
            order.status = OrderStatus.NEW
        if order.order_class is OrderClass.OCO:
            for leg in self.order_store.legs(order):
                leg.active = leg.acknowledged = True
                self.store_order(leg)
        self.store_order(order)
        self.emit_update(order, "new")
        self.schedule_event(EventKind.ARRIVE, self.random_source.draw_latency(self.settings.arrive), order)

    def _match_on_arrival(self, order: Order) -> None:
        """The order meets the quote: takers trade with its far side, up to its size."""
        if not order.working or order.in_opening_auction or self._cannot_trade(order):
            return
        if order.time_in_force is TimeInForce.CLS:
            return
        met = None if is_stop(order) and not order.triggered else price_on_arrival(order, self._quote(order))
        if met is not None and order.time_in_force is TimeInForce.FOK and met[1] < order.remaining:
            met = None
        if met is not None:
            self.fill_up_to(order, Decimal(max(met[1], 1)), met[0])
        if order.time_in_force in {TimeInForce.IOC, TimeInForce.FOK} and not order.terminal:
            self.finish_order(order, OrderStatus.CANCELED)

    def _cannot_trade(self, order: Order) -> bool:
        open_now = self.hours.accepts_trades(self.now, extended_hours=order.extended_hours)
        return order.symbol in self.halted or not open_now

    def _quote(self, order: Order) -> BestQuote | None:
        return self.market.quote(order.symbol, self.now)

    # ------------------------------------------------------------------ trades

    def match_print(self, symbol: str, trade: Print) -> None:
        """A trade on the tape meets every order that works in the symbol."""
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
        """The trade, further away and the market with it when it would trigger a stop and a fault says so."""
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

    def _apply_print(self, order: Order, trade: Print) -> None:
        """A trade moves, triggers or fills one order."""
        if update_trailing_stop(order, trade.price):
            self.store_order(order)
        if triggers(order, trade.price):
            stuck = self.faults.active(FaultKind.NO_TRIGGER, **self.fault_facts(order))
            if stuck is not None:
                stuck.record_hit(order.id)
                return
            self._fill_triggered_stop(self._trigger_stop(order), trade)
        elif not is_stop(order) or order.triggered:
            price = price_on_print(order, trade.price, lambda: self.market.quote(order.symbol, trade.at))
            if price is not None:
                self.fill_up_to(order, participation_qty(trade.size, self.settings.participation), price)

    def _fill_triggered_stop(self, order: Order, trade: Print) -> None:
        """A triggered stop is a new taker: it meets the quote, or the trade itself where there is none."""
        quote = self.market.quote(order.symbol, trade.at)
        if opposite_quote(quote, order.side) is None:
            price = price_on_print(order, trade.price, lambda: None)
            size = participation_qty(trade.size, self.settings.participation)
            if price is not None:
                self.fill_up_to(order, size, price)
            return
        met = price_on_arrival(order, quote)
        if met is not None:
            self.fill_up_to(order, Decimal(max(met[1], 1)), met[0])

    def _trigger_stop(self, order: Order) -> Order:
        """The stop is triggered: its sibling ends as replaced; the order that now works is returned."""
        order.triggered = True
        if order.status is OrderStatus.HELD:
            order.status = OrderStatus.NEW
        worker = order
        if order.role is OrderRole.STOP and (
            self.settings.stop_by_replacement
            or self.faults.fire_matching(FaultKind.STOP_REPLACED, **self.fault_facts(order))
        ):
            worker = linked_orders.replace_triggered_stop(self, order)
        else:
            self.store_order(order)
        if not self.faults.active(FaultKind.DOUBLE_EXIT, symbol=order.symbol):
            for sibling in self.order_store.siblings(worker):
                if not sibling.terminal:
                    linked_orders.mark_replaced(self, sibling, worker)
        return worker

    def fill_up_to(self, order: Order, capacity: Decimal, price: Decimal) -> None:
        """Fill up to `capacity` shares, as far as the fault menu lets it."""
        if order.notional is not None and order.qty is None:
            order.qty = (order.notional / price).quantize(Decimal("0.000000001"))
            order.unit_reserve = price
        qty = min(order.remaining, capacity)
        if order.notional is not None:
            qty = order.remaining
        if qty > 1 and self.random_source.occurs(self.settings.partial_probability):
            qty = max(Decimal(1), qty // 2)
        stall = self.faults.active(FaultKind.PARTIAL, **self.fault_facts(order))
        if stall is not None and (most := stall.max_fill_qty(order.filled_qty + order.remaining)) is not None:
            stall.record_hit(order.id)
            qty = min(qty, most - order.filled_qty)
        if qty <= 0:
            return
        halt = (
            self.faults.fire_matching(FaultKind.HALT, **self.fault_facts(order))
            if order.remaining > 1
            else None
        )
        if halt is not None:
            part = Decimal(halt.qty) if halt.qty else max(order.remaining // 2, Decimal(1))
            qty = min(qty, part)
        self._book_fill(order, qty, price)
        if halt is not None:
            self.halt(order.symbol)
            if halt.seconds:
                until = self.now + seconds(halt.seconds)
                self.event_queue.schedule(until, EventKind.RESUME, other_id=order.symbol)

    def _book_fill(self, order: Order, qty: Decimal, price: Decimal) -> None:
        """Book one execution and everything that follows from it."""
        order.filled_qty += qty
        order.filled_value += qty * price
        if not order.remaining:
            order.status = OrderStatus.FILLED
            order.filled_at = self.now
            order.active = False
        elif order.status not in {OrderStatus.PENDING_CANCEL, OrderStatus.PENDING_REPLACE}:
            order.status = OrderStatus.PARTIALLY_FILLED
        else:
            order.status_before_pending = OrderStatus.PARTIALLY_FILLED
        position = self.account.book_fill(order.symbol, order.side, qty, price)
        execution = Execution(
            id=self.random_source.uuid(),
            at=self.now,
            order_id=order.id,
            client_order_id=order.client_order_id,
            symbol=order.symbol,
            side=order.side,
            qty=qty,
            price=price,
            cum_qty=order.filled_qty,
            leaves_qty=order.remaining,
            order_status=OrderStatus.FILLED
            if order.status is OrderStatus.FILLED
            else OrderStatus.PARTIALLY_FILLED,
            closing=not order.intent.opens_position,
            position_qty=position,
        )
        self.executions.append(execution)
        lag = self.faults.fire_matching(FaultKind.POSITION_LAG, **self.fault_facts(order))
        if lag is not None:
            self.delayed_fills = [row for row in self.delayed_fills if row[0] > self.now]
            self.delayed_fills.append((self.now + seconds(lag.seconds), execution))
        if self.settings.charge_fees:
            terms = self.settings
            reg, taf = regulatory_fees(execution, terms.sec_fee, terms.taf_fee, terms.taf_cap)
            self.account.accrued_reg += reg
            self.account.accrued_taf += taf
        self.store_order(order)
        self.emit_update(
            order,
            "fill" if order.status is OrderStatus.FILLED else "partial_fill",
            execution_id=execution.id,
            price=format_decimal(price),
            qty=format_decimal(qty),
            position_qty=format_decimal(position),
        )
        self._after_fill(order, price)

    def _after_fill(self, order: Order, price: Decimal) -> None:
        if order.role is OrderRole.ENTRY and order.status is OrderStatus.FILLED:
            self.schedule_event(
                EventKind.ACTIVATE, self.random_source.draw_latency(self.settings.activate), order
            )
        if not order.is_exit:
            return
        siblings = [sibling for sibling in self.order_store.siblings(order) if not sibling.terminal]
        if order.status is not OrderStatus.FILLED:
            for sibling in siblings:
                if order.role is OrderRole.TARGET:
                    sibling.qty = sibling.filled_qty + order.remaining
                    self.store_order(sibling)
            return
        if siblings and self.faults.fire_matching(FaultKind.DOUBLE_EXIT, symbol=order.symbol):
            for sibling in siblings:
                self._book_fill(sibling, sibling.remaining, price)
            return
        for sibling in siblings:
            sibling.active = False  # what is shown may lag, but it can no longer trade
            self.store_order(sibling)
            self.schedule_event(
                EventKind.LEG_CANCEL, self.random_source.draw_latency(self.settings.leg_cancel), sibling
            )

    def _fill_remaining(self, order: Order) -> None:
        price = self.mark_price(order.symbol)
        if order.working and price is not None:
            limit = effective_limit(order)
            self._book_fill(
                order, order.remaining, price if is_within_limit(limit, order.side, price) else limit or price
            )

    # ------------------------------------------------------------------ endings

    def finish_order(self, order: Order, status: OrderStatus, *, silent: bool = False) -> bool:
        """End an order that is not over; true when it was this. The stream is told unless `untold`."""
        if order.terminal:
            return False
        order.status = status
        order.active = False
        if status is OrderStatus.CANCELED:
            order.canceled_at = self.now
        elif status is OrderStatus.EXPIRED:
            order.expired_at = self.now
        elif status is OrderStatus.REJECTED:
            order.failed_at = self.now
        self.store_order(order)
        if not silent:
            self.emit_update(order, status.value)
        return True

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
        """The order's time is over, and its legs' with it."""
        by_venue = self.settings.expire_as_canceled or order.time_in_force in auctions.CANCELED_BY_VENUE
        status = OrderStatus.CANCELED if by_venue else OrderStatus.EXPIRED
        for each in (order, *self.order_store.legs(order)):
            self.finish_order(each, status)

    def _confirm_replace(self, old: Order, new: Order) -> None:
        """The venue answers a replacement: the new order works on, or nothing has changed."""
        refused = self.faults.fire_matching(FaultKind.REPLACE_REJECT, **self.fault_facts(old)) is not None
        new.filled_qty, new.filled_value = old.filled_qty, old.filled_value
        if old.is_exit and new.remaining > linked_orders.unreserved_qty(self, old):
            refused = True  # its sibling has sold some in the meantime
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
        new.parent_id = old.parent_id  # the parent may itself have been replaced in the meantime
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

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence
