"""Fills: acknowledgement, arrival, triggers and executions of orders."""

from decimal import Decimal

from catalyst.simulator.exchange import linked_orders
from catalyst.simulator.exchange.account import regulatory_fees
from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.lifecycle import OrderLifecycle
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.market.interface import Print
from catalyst.simulator.rules.orders import (
    Execution,
    Order,
    OrderClass,
    OrderRole,
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
from catalyst.simulator.rules.wire_format import format_decimal, seconds


class Fills(OrderLifecycle):
    """Fills orders from quotes and prints, and applies the effect of a fill on the linked orders."""

    def acknowledge(self, order: Order) -> None:
        """Acknowledge an order: it works from here on, unless a fault rejects it."""
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
        """Match an arriving order with the opposite quote, up to its size."""
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

    def _apply_print(self, order: Order, trade: Print) -> None:
        """Apply a print to one order: move its trail, trigger it, or fill it."""
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
        """Fill a triggered stop from the quote, or from the print where there is none."""
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
        """Trigger the stop and end its sibling as replaced; return the order that works now."""
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
        """Fill up to `capacity` shares, as far as the fault rules allow."""
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
        """Book one execution with all its effects."""
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
            sibling.active = False  # the shown state may lag, but it can no longer trade
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
