"""Order creation: turns an admitted request into an order and its legs. It stores nothing."""

from dataclasses import replace
from decimal import Decimal

from catalyst.simulator.exchange.admission import AdmittedOrder
from catalyst.simulator.exchange.lifecycle import VenueState
from catalyst.simulator.rules.orders import (
    Order,
    OrderClass,
    OrderRole,
    OrderSide,
    OrderStatus,
    OrderType,
    SubmitRequest,
)


def new_order(state: VenueState, request: SubmitRequest, admitted: AdmittedOrder, source: str) -> Order:
    """Return the order of a request, without legs; it waits when its hours have not begun."""
    routed = state.hours.is_tradable(state.now, extended_hours=request.extended_hours)
    is_oco = request.order_class is OrderClass.OCO
    simple = request.order_class is OrderClass.SIMPLE
    role = OrderRole.PLAIN if simple else OrderRole.TARGET if is_oco else OrderRole.ENTRY
    order = Order(
        id=state.random_source.uuid(),
        client_order_id=request.client_order_id or state.random_source.uuid(),
        symbol=request.symbol,
        asset_id=admitted.asset.id,
        side=request.side,
        type=request.type,
        order_class=request.order_class,
        time_in_force=request.time_in_force,
        role=role,
        intent=admitted.intent,
        status=OrderStatus.PENDING_NEW if routed else OrderStatus.ACCEPTED,
        created_at=state.now,
        submitted_at=state.now,
        updated_at=state.now,
        sequence=state.next_sequence(),
        expires_at=state.hours.expiry(
            state.now, request.time_in_force, extended_hours=request.extended_hours
        ),
        source=source,
        qty=admitted.qty,
        notional=request.notional,
        limit_price=request.take_profit if is_oco else request.limit_price,
        stop_price=request.stop_price,
        trail_price=request.trail_price,
        trail_percent=request.trail_percent,
        extended_hours=request.extended_hours,
        unit_reserve=admitted.unit_reserve,
        active=is_oco,
    )
    if order.type is OrderType.TRAILING_STOP:
        set_trailing_stop(state, order)
    return order


def new_legs(state: VenueState, parent: Order, request: SubmitRequest) -> list[Order]:
    """Return the exit legs of a parent: the target, unless the parent of an OCO is it, then the stop."""
    legs = []
    if request.take_profit is not None and parent.order_class is not OrderClass.OCO:
        legs.append(_new_leg(state, parent, OrderRole.TARGET, OrderType.LIMIT, request.take_profit, None))
    if request.stop_loss is not None:
        kind = OrderType.STOP if request.stop_loss_limit is None else OrderType.STOP_LIMIT
        legs.append(_new_leg(state, parent, OrderRole.STOP, kind, request.stop_loss_limit, request.stop_loss))
    return legs


def _new_leg(
    state: VenueState,
    parent: Order,
    role: OrderRole,
    kind: OrderType,
    limit: Decimal | None,
    stop: Decimal | None,
) -> Order:
    is_oco = parent.order_class is OrderClass.OCO
    side = parent.side if is_oco else parent.side.opposite
    closing = {OrderSide.BUY: "sell_to_close", OrderSide.SELL: "buy_to_close"}  # by side of the entry
    return replace(
        parent,
        id=state.random_source.uuid(),
        client_order_id=state.random_source.uuid(),
        side=side,
        type=kind,
        role=role,
        intent=parent.intent if is_oco else type(parent.intent)(closing[parent.side]),
        status=OrderStatus.HELD,
        sequence=state.next_sequence(),
        limit_price=limit,
        stop_price=stop,
        unit_reserve=Decimal(0),
        active=False,
        parent_id=parent.id,
        legs=[],
    )


def new_replacement(state: VenueState, changed: Order, client_order_id: str | None) -> Order:
    """Return the pending order that replaces another one; `changed` is that order with the new terms."""
    new = replace(
        changed,
        id=state.random_source.uuid(),
        client_order_id=client_order_id or state.random_source.uuid(),
        status=OrderStatus.PENDING_NEW,
        submitted_at=state.now,
        sequence=state.next_sequence(),
        replaces=changed.id,
        acknowledged=False,
        active=False,
        status_before_pending=None,
        filled_qty=Decimal(0),
        filled_value=Decimal(0),
        inherited_filled_qty=Decimal(0),
        filled_at=None,
        legs=[],
    )
    new.expires_at = state.hours.expiry(state.now, new.time_in_force, extended_hours=new.extended_hours)
    return new


def set_trailing_stop(state: VenueState, order: Order) -> None:
    """Set the high-water mark and the stop price of a trailing stop from the last trade, if there is one."""
    price = state.mark_price(order.symbol)
    if price is not None:
        order.hwm = price
        gap = order.trail_price or price * (order.trail_percent or Decimal(0)) / 100
        order.stop_price = price - gap if order.side is OrderSide.SELL else price + gap
