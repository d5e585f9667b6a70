"""Audit: recomputes the account from the executions alone and compares.

The running totals are read only for the comparison.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from catalyst.simulator.exchange.event_queue import EventKind
from catalyst.simulator.exchange.lifecycle import VenueState
from catalyst.simulator.exchange.settings import PartialEntryLegs
from catalyst.simulator.rules.orders import OPEN_STATUSES, Execution, Order, OrderSide, OrderStatus
from catalyst.simulator.rules.wire_format import JsonObject, format_decimal

TOLERANCE: Final = Decimal("0.000001")  # average costs are rounded to ten places


@dataclass(slots=True)
class AuditResult:
    """The account according to the executions, and every difference found."""

    cash: Decimal
    realised: Decimal
    unrealised: Decimal
    positions: dict[str, Decimal]
    executions: int
    problems: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not self.problems

    def view(self) -> JsonObject:
        return {
            "clean": self.clean,
            "problems": self.problems,
            "cash": format_decimal(self.cash),
            "realised": format_decimal(self.realised),
            "unrealised": format_decimal(self.unrealised),
            "positions": {symbol: format_decimal(qty) for symbol, qty in sorted(self.positions.items())},
            "executions": self.executions,
        }


def audit(state: VenueState) -> AuditResult:
    """Recompute the account from its executions and compare it with what the exchange shows."""
    lots: dict[str, list[tuple[Decimal, Decimal]]] = defaultdict(list)
    realised = Decimal(0)
    cash = state.account.deposits - sum((fee.amount for fee in state.fees), Decimal(0))
    problems: list[str] = []
    for execution in state.executions:
        cash -= execution.side.sign * execution.qty * execution.price
        before = _lots_qty(lots[execution.symbol])
        realised += _apply_to_pool(lots[execution.symbol], execution)
        after = _lots_qty(lots[execution.symbol])
        if after != execution.position_qty:
            problems.append(
                f"{execution.symbol}: execution {execution.id} shows {execution.position_qty} shares after it, "
                f"the sum of the executions is {after}"
            )
        if execution.closing and (before == 0 or before * after < 0):
            problems.append(
                f"{execution.symbol}: exit {execution.order_id} took the account across zero, {before} to {after}"
            )
    positions = {symbol: _lots_qty(held) for symbol, held in lots.items() if _lots_qty(held)}
    unrealised = sum(
        (_unrealised_profit(state, symbol, held) for symbol, held in lots.items() if _lots_qty(held)),
        Decimal(0),
    )
    result = AuditResult(cash, realised, unrealised, positions, len(state.executions), problems)
    _compare_account(state, result)
    _check_orders(state, problems)
    return result


def _lots_qty(lots: list[tuple[Decimal, Decimal]]) -> Decimal:
    return sum((qty for qty, _ in lots), Decimal(0))


def _apply_to_pool(lots: list[tuple[Decimal, Decimal]], execution: Execution) -> Decimal:
    """Apply an execution to one symbol's pool of (signed shares, cost); return the realised profit."""
    held, cost = lots[0] if lots else (Decimal(0), Decimal(0))
    signed = execution.side.sign * execution.qty
    if held * signed >= 0:
        lots[:] = [(held + signed, cost + signed * execution.price)]
        return Decimal(0)
    closed = min(abs(signed), abs(held))
    direction = 1 if held > 0 else -1
    gain = direction * closed * execution.price - cost * closed / abs(held)
    rest = abs(signed) - closed
    left = held - direction * closed
    lots[:] = [(left, cost * abs(left) / abs(held))]
    if rest:
        lots[:] = [(execution.side.sign * rest, execution.side.sign * rest * execution.price)]
    return gain


def _unrealised_profit(state: VenueState, symbol: str, lots: list[tuple[Decimal, Decimal]]) -> Decimal:
    qty, cost = lots[0]
    price = state.mark_price(symbol)
    return Decimal(0) if price is None else qty * price - cost


def _compare_account(state: VenueState, result: AuditResult) -> None:
    account = state.account
    if account.cash != result.cash:
        result.problems.append(f"cash is {account.cash}, the executions give {result.cash}")
    shown = {symbol: position.qty for symbol, position in account.positions.items()}
    if shown != result.positions:
        result.problems.append(f"positions are {shown}, the executions give {result.positions}")
    if abs(account.realised - result.realised) > TOLERANCE:
        result.problems.append(f"realised is {account.realised}, the executions give {result.realised}")
    expected = account.deposits + result.realised + result.unrealised - account.fees
    equity = account.equity(state.mark_price)
    if abs(equity - expected) > TOLERANCE:
        result.problems.append(f"equity is {equity}, deposits and profit give {expected}")


def _check_orders(state: VenueState, problems: list[str]) -> None:
    filled: dict[str, Decimal] = defaultdict(Decimal)
    seen: set[str] = set()
    for execution in state.executions:
        if execution.id in seen:
            problems.append(f"execution {execution.id} was booked twice")
        seen.add(execution.id)
        order = state.order_store.get(execution.order_id)
        if order is None:
            problems.append(f"execution {execution.id} has no order")
        elif order.symbol != execution.symbol or order.side is not execution.side:
            problems.append(f"execution {execution.id} does not match its order {order.id}")
        filled[execution.order_id] += execution.qty
    for order in state.order_store.orders.values():
        own = order.filled_qty - order.inherited_filled_qty
        if filled[order.id] != own:
            problems.append(f"order {order.id} shows {own} filled, its executions {filled[order.id]}")
        if order.qty is not None and order.filled_qty > order.qty:
            problems.append(f"order {order.id} filled {order.filled_qty} of {order.qty}")
    for symbol, position in state.account.positions.items():
        working = _working_exits(state, symbol, OrderSide.SELL if position.qty > 0 else OrderSide.BUY)
        lagging = state.settings.position_lag or state.delayed_fills
        if working > abs(position.qty) and not lagging:
            problems.append(f"{symbol}: exits for {working} shares over a position of {position.qty}")
    _check_legs(state, problems)
    _check_reserved_shares(state, problems)


def _check_legs(state: VenueState, problems: list[str]) -> None:
    """Find legs of an order that has none, and legs that nothing will activate or end."""
    awaited = _orders_with_events(state)
    for leg in state.order_store.live():
        parent = state.order_store.parent(leg)
        if parent is None or leg.active or state.order_store.is_pending_replacement(leg):
            continue
        if not parent.is_complex:
            problems.append(f"order {leg.id} is a leg of the simple order {parent.id}")
        elif parent.terminal and not awaited & {leg.id, parent.id}:
            kept = state.settings.partial_entry is PartialEntryLegs.HELD and parent.filled_qty > 0
            if not kept or parent.status is OrderStatus.FILLED:
                problems.append(
                    f"order {leg.id} is {leg.status}, its parent {parent.id} is {parent.status}, and nothing will "
                    "activate or end it"
                )


def _check_reserved_shares(state: VenueState, problems: list[str]) -> None:
    """Find shares reserved by a group of exits of which none works or is in a list of open orders."""
    awaited = _orders_with_events(state)
    groups: dict[str, list[Order]] = defaultdict(list)
    for order in state.order_store.live():
        groups[order.parent_id or order.id].append(order)
    for key, group in groups.items():
        reserving = [
            order
            for order in group
            if not order.intent.opens_position
            and order.remaining
            and state.order_store.reserves_shares(order)
        ]
        seen = any(order.active or order.status in OPEN_STATUSES for order in group)
        if reserving and not seen and not awaited & {key, *(order.id for order in group)}:
            order = reserving[0]
            problems.append(
                f"{order.symbol}: order {order.id} is {order.status} and reserves {order.remaining} shares, and "
                "no open order shows it"
            )


def _orders_with_events(state: VenueState) -> set[str]:
    """Return the ids of orders with a scheduled event other than their expiry."""
    return {event.order_id for event in state.event_queue.events if event.kind is not EventKind.EXPIRE}


def _working_exits(state: VenueState, symbol: str, exit_side: OrderSide) -> Decimal:
    """Return the shares that working orders could take from a position; the exits of a group count once."""
    groups: dict[str, Decimal] = defaultdict(Decimal)
    for order in state.order_store.working(symbol):
        if order.side is exit_side and not order.intent.opens_position:
            key = order.parent_id or order.id
            groups[key] = max(groups[key], order.remaining)
    return sum(groups.values(), Decimal(0))
