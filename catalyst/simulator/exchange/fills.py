"""Fills: acknowledgement, arrival, triggers and executions of orders, from quotes and prints."""

from decimal import Decimal

from catalyst.simulator.exchange import linked_orders
from catalyst.simulator.exchange.account import regulatory_fees
from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.lifecycle import VenueState
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


def acknowledge(state: VenueState, order: Order) -> None:
    """Acknowledge an order: it works from here on, unless a fault rejects it."""
    if order.terminal or order.acknowledged:
        return
    if state.faults.fire_matching(FaultKind.REJECT, **state.fault_facts(order)):
        state.finish_order(order, OrderStatus.REJECTED)
        for leg in state.order_store.legs(order):
            state.finish_order(leg, OrderStatus.CANCELED)
        return
    order.acknowledged = True
    if order.status is OrderStatus.PENDING_CANCEL:
        order.status_before_pending = OrderStatus.NEW
    else:
        order.status = OrderStatus.NEW
    if order.order_class is OrderClass.OCO:
        for leg in state.order_store.legs(order):
            leg.active = leg.acknowledged = True
            state.store_order(leg)
    state.store_order(order)
    state.emit_update(order, "new")
    state.schedule_event(EventKind.ARRIVE, state.random_source.draw_latency(state.settings.arrive), order)


def match_on_arrival(state: VenueState, order: Order) -> None:
    """Match an arriving order with the opposite quote, up to its size."""
    if not order.working or order.in_opening_auction or state.cannot_trade(order):
        return
    if order.time_in_force is TimeInForce.CLS:
        return
    if is_stop(order) and not order.triggered:
        met = None
    else:
        met = price_on_arrival(order, state.market.quote(order.symbol, state.now))
    if met is not None and order.time_in_force is TimeInForce.FOK and met[1] < order.remaining:
        met = None
    if met is not None:
        fill_up_to(state, order, Decimal(max(met[1], 1)), met[0])
    if order.time_in_force in {TimeInForce.IOC, TimeInForce.FOK} and not order.terminal:
        state.finish_order(order, OrderStatus.CANCELED)


def apply_print(state: VenueState, order: Order, trade: Print) -> None:
    """Apply a print to one order: move its trail, trigger it, or fill it."""
    if update_trailing_stop(order, trade.price):
        state.store_order(order)
    if triggers(order, trade.price):
        stuck = state.faults.active(FaultKind.NO_TRIGGER, **state.fault_facts(order))
        if stuck is not None:
            stuck.record_hit(order.id)
            return
        _fill_triggered_stop(state, _trigger_stop(state, order), trade)
    elif not is_stop(order) or order.triggered:
        price = price_on_print(order, trade.price, lambda: state.market.quote(order.symbol, trade.at))
        if price is not None:
            fill_up_to(state, order, participation_qty(trade.size, state.settings.participation), price)


def _fill_triggered_stop(state: VenueState, order: Order, trade: Print) -> None:
    """Fill a triggered stop from the quote, or from the print where there is none."""
    quote = state.market.quote(order.symbol, trade.at)
    if opposite_quote(quote, order.side) is None:
        price = price_on_print(order, trade.price, lambda: None)
        size = participation_qty(trade.size, state.settings.participation)
        if price is not None:
            fill_up_to(state, order, size, price)
        return
    met = price_on_arrival(order, quote)
    if met is not None:
        fill_up_to(state, order, Decimal(max(met[1], 1)), met[0])


def _trigger_stop(state: VenueState, order: Order) -> Order:
    """Trigger the stop and end its sibling as replaced; return the order that works now."""
    order.triggered = True
    if order.status is OrderStatus.HELD:
        order.status = OrderStatus.NEW
    worker = order
    if order.role is OrderRole.STOP and (
        state.settings.stop_by_replacement
        or state.faults.fire_matching(FaultKind.STOP_REPLACED, **state.fault_facts(order))
    ):
        worker = linked_orders.replace_triggered_stop(state, order)
    else:
        state.store_order(order)
    if not state.faults.fires_next(FaultKind.DOUBLE_EXIT, **state.fault_facts(worker)):
        for sibling in state.order_store.siblings(worker):
            if not sibling.terminal:
                linked_orders.mark_replaced(state, sibling, worker)
    return worker


def fill_up_to(state: VenueState, order: Order, capacity: Decimal, price: Decimal) -> None:
    """Fill up to `capacity` shares, as far as the fault rules allow."""
    if order.notional is not None and order.qty is None:
        order.qty = (order.notional / price).quantize(Decimal("0.000000001"))
        order.unit_reserve = price
    qty = min(order.remaining, capacity)
    if order.notional is not None:
        qty = order.remaining
    if qty > 1 and state.random_source.occurs(state.settings.partial_probability):
        qty = max(Decimal(1), qty // 2)
    stall = state.faults.active(FaultKind.PARTIAL, **state.fault_facts(order))
    most = None if stall is None else stall.max_fill_qty(order.filled_qty + order.remaining)
    if stall is not None and most is not None and most - order.filled_qty < qty:
        stall.record_hit(order.id)
        qty = most - order.filled_qty
    if qty <= 0:
        return
    halt = (
        state.faults.fire_matching(FaultKind.HALT, **state.fault_facts(order))
        if order.remaining > 1
        else None
    )
    if halt is not None:
        part = Decimal(halt.qty) if halt.qty else max(order.remaining // 2, Decimal(1))
        qty = min(qty, part)
    _book_fill(state, order, qty, price)
    if halt is not None:
        state.halt(order.symbol)
        if halt.seconds:
            until = state.now + seconds(halt.seconds)
            state.event_queue.schedule(until, EventKind.RESUME, other_id=order.symbol)


def _book_fill(state: VenueState, order: Order, qty: Decimal, price: Decimal) -> None:
    """Book one execution with all its effects."""
    order.filled_qty += qty
    order.filled_value += qty * price
    if not order.remaining:
        order.status = OrderStatus.FILLED
        order.filled_at = state.now
        order.active = False
    elif order.status not in {OrderStatus.PENDING_CANCEL, OrderStatus.PENDING_REPLACE}:
        order.status = OrderStatus.PARTIALLY_FILLED
    else:
        order.status_before_pending = OrderStatus.PARTIALLY_FILLED
    position = state.account.book_fill(order.symbol, order.side, qty, price)
    execution = Execution(
        id=state.random_source.uuid(),
        at=state.now,
        order_id=order.id,
        client_order_id=order.client_order_id,
        symbol=order.symbol,
        side=order.side,
        qty=qty,
        price=price,
        cum_qty=order.filled_qty,
        leaves_qty=order.remaining,
        order_status=(
            OrderStatus.FILLED if order.status is OrderStatus.FILLED else OrderStatus.PARTIALLY_FILLED
        ),
        closing=not order.intent.opens_position,
        position_qty=position,
    )
    state.executions.append(execution)
    lag = state.faults.fire_matching(FaultKind.POSITION_LAG, **state.fault_facts(order))
    if lag is not None:
        state.delayed_fills = [row for row in state.delayed_fills if row[0] > state.now]
        state.delayed_fills.append((state.now + seconds(lag.seconds), execution))
    if state.settings.charge_fees:
        terms = state.settings
        reg, taf = regulatory_fees(execution, terms.sec_fee, terms.taf_fee, terms.taf_cap)
        state.account.accrued_reg += reg
        state.account.accrued_taf += taf
    state.store_order(order)
    state.emit_update(
        order,
        "fill" if order.status is OrderStatus.FILLED else "partial_fill",
        execution_id=execution.id,
        price=format_decimal(price),
        qty=format_decimal(qty),
        position_qty=format_decimal(position),
    )
    _after_fill(state, order, price)


def _after_fill(state: VenueState, order: Order, price: Decimal) -> None:
    """Apply the effect of a fill on the linked orders: activate the legs of an entry, resize or end siblings."""
    if order.role is OrderRole.ENTRY and order.status is OrderStatus.FILLED:
        state.schedule_event(
            EventKind.ACTIVATE, state.random_source.draw_latency(state.settings.activate), order
        )
    if not order.is_exit:
        return
    siblings = [sibling for sibling in state.order_store.siblings(order) if not sibling.terminal]
    if order.status is not OrderStatus.FILLED:
        for sibling in siblings:
            if order.role is OrderRole.TARGET:
                sibling.qty = sibling.filled_qty + order.remaining
                state.store_order(sibling)
        return
    if siblings and state.faults.fire_matching(FaultKind.DOUBLE_EXIT, **state.fault_facts(order)):
        for sibling in siblings:
            _book_fill(state, sibling, sibling.remaining, price)
        return
    for sibling in siblings:
        sibling.active = False  # the shown state may lag, but it can no longer trade
        state.store_order(sibling)
        state.schedule_event(
            EventKind.LEG_CANCEL, state.random_source.draw_latency(state.settings.leg_cancel), sibling
        )


def fill_remaining(state: VenueState, order: Order) -> None:
    """Fill the rest of a working order at the last trade, or at its limit where the trade is beyond it."""
    price = state.mark_price(order.symbol)
    if order.working and price is not None:
        limit = effective_limit(order)
        within_limit = is_within_limit(limit, order.side, price)
        _book_fill(state, order, order.remaining, price if within_limit else limit or price)
