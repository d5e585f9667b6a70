"""Rows of orders, positions and orphans as plain records: the store reads and writes them, decisions compare them."""

from dataclasses import dataclass, fields
from datetime import datetime
from decimal import Decimal
from typing import Final

from catalyst.domain.ids import PREFIX
from catalyst.domain.order import WORKING, OrderState, PositionSide, Purpose, Side, Status
from catalyst.domain.position import PositionState


@dataclass(frozen=True)  # without slots: `changed` copies the columns at once
class OrderRow:
    """One row of orders, with its security's symbol. Quantities in shares, prices in dollars, times UTC."""

    order_id: int
    client_order_id: str
    alpaca_order_id: str | None
    cycle_id: str | None
    security_id: int
    symbol: str
    position_id: int | None
    parent_order_id: int | None
    replaces: int | None
    order_purpose: Purpose
    position_side: PositionSide
    side: Side
    order_class: str
    order_type: str
    time_in_force: str
    quantity: Decimal
    limit_price: Decimal | None
    stop_price: Decimal | None
    bracket_stop: Decimal | None
    bracket_target: Decimal | None
    status: Status
    filled_qty: Decimal
    filled_avg_price: Decimal | None
    broker_status: str | None
    epoch: int | None
    origin: str
    signal_id: str | None
    attempts: int
    last_attempt_at: datetime | None
    created_at: datetime
    submitted_at: datetime | None
    expires_at: datetime | None
    closed_at: datetime | None
    rejection_reason: str | None
    cancel_reason: str | None
    # The broker's own times; `closed_at` is the broker's where it reports one.
    broker_submitted_at: datetime | None = None
    broker_filled_at: datetime | None = None
    broker_canceled_at: datetime | None = None
    broker_expired_at: datetime | None = None
    # The order is accepted and not at a venue (time of receipt); afterwards the venue has it (the broker's time of its
    # last change, where it has reported one).
    pending_at: datetime | None = None
    acknowledged_at: datetime | None = None
    inactive_at: datetime | None = None  # the broker keeps the order and does not execute it (suspended)

    @property
    def is_of_another_catalyst(self) -> bool:
        """True for an external order with the id of a Catalyst: its row is not ours to act on."""
        return self.origin == "external" and self.client_order_id.startswith(PREFIX)

    @property
    def state(self) -> OrderState:
        return OrderState(self.status, self.quantity, self.filled_qty, self.rejection_reason)

    @property
    def ended_at(self) -> datetime | None:
        """When the order became terminal: at the broker if it has reported the time, else when we received it."""
        if self.closed_at is None:
            return None
        by_status = {
            Status.FILLED: self.broker_filled_at,
            Status.CANCELLED: self.broker_canceled_at,
            Status.EXPIRED: self.broker_expired_at,
        }
        return min(by_status.get(self.status) or self.closed_at, self.closed_at)

    @property
    def remaining(self) -> Decimal:
        return self.quantity - self.filled_qty

    @property
    def is_working(self) -> bool:
        return self.status in WORKING

    @property
    def is_outcome_unknown(self) -> bool:
        """True while it is not certain whether the broker has the order."""
        return self.status is Status.SUBMITTED and self.alpaca_order_id is None


_COLUMNS: Final = frozenset(column.name for column in fields(OrderRow))


def changed(row: OrderRow, **columns: object) -> OrderRow:
    """Return a copy of the row with these columns changed: as `dataclasses.replace`, in a tenth of the time.

    Raises TypeError for a name that is no column.
    """
    if not columns.keys() <= _COLUMNS:
        raise TypeError(f"an order row has no column {', '.join(sorted(columns.keys() - _COLUMNS))}")
    copy = object.__new__(OrderRow)
    copy.__dict__.update(row.__dict__, **columns)
    return copy


@dataclass(frozen=True, slots=True)
class NewOrder:
    """A new order row, written before its request is sent."""

    client_order_id: str
    symbol: str
    purpose: Purpose
    position_side: PositionSide
    side: Side
    quantity: Decimal
    order_type: str
    time_in_force: str
    order_class: str
    origin: str = "catalyst"
    cycle_id: str | None = None
    position_id: int | None = None
    parent_order_id: int | None = None
    replaces: int | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    bracket_stop: Decimal | None = None
    bracket_target: Decimal | None = None
    alpaca_order_id: str | None = None
    broker_status: str | None = None
    signal_id: str | None = None
    expires_at: datetime | None = None
    epoch: int | None = None  # None only for orders of others


@dataclass(frozen=True, slots=True)
class PositionRow:
    """One row of positions, with its security's symbol and sector. Shares, dollars, UTC."""

    position_id: int
    cycle_id: str | None
    security_id: int
    symbol: str
    sector: str | None
    side: PositionSide
    quantity: Decimal
    entered_qty: Decimal
    cost: Decimal
    exited_qty: Decimal
    proceeds: Decimal
    entry_price: Decimal
    stop_loss: Decimal | None
    take_profit: Decimal | None
    entry_time: datetime
    exit_time: datetime | None
    status: str
    realized_pnl: Decimal | None
    unrealized_pnl: Decimal | None
    last_price: Decimal | None
    protected_at: datetime | None
    unprotected_seconds: Decimal
    close_reason: str | None
    carried: bool

    @property
    def state(self) -> PositionState:
        return PositionState(self.side, self.entered_qty, self.cost, self.exited_qty, self.proceeds)


@dataclass(frozen=True, slots=True)
class Orphan:
    """One row of orphans, with its security's symbol. Shares, dollars, UTC."""

    orphan_id: int
    cycle_id: str | None
    security_id: int
    symbol: str
    position_id: int | None
    cause: str
    side: PositionSide
    quantity: Decimal
    found_qty: Decimal
    cost: Decimal | None
    exited_qty: Decimal
    proceeds: Decimal
    realized_pnl: Decimal | None
    stop_price: Decimal | None
    protected_at: datetime | None
    found_at: datetime
    ended_at: datetime | None
    end_reason: str | None

    @property
    def signed_qty(self) -> Decimal:
        return self.quantity if self.side is PositionSide.LONG else -self.quantity


@dataclass(frozen=True, slots=True)
class ExecutionRow:
    """One row of executions: shares `cum_qty - quantity` to `cum_qty` of an order. Shares, dollars."""

    order_id: int
    cum_qty: Decimal
    quantity: Decimal
    price: Decimal
    execution_id: str | None
    activity_id: str | None
