"""Orders of the exchange: enums, the request, the order and the execution."""

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final


class OrderSide(StrEnum):
    BUY = "buy"
    SELL = "sell"

    @property
    def sign(self) -> int:
        """Return +1 for a buy, -1 for a sell."""
        return 1 if self is OrderSide.BUY else -1

    @property
    def opposite(self) -> "OrderSide":
        return OrderSide.SELL if self is OrderSide.BUY else OrderSide.BUY


class OrderType(StrEnum):
    MARKET = "market"
    LIMIT = "limit"
    STOP = "stop"
    STOP_LIMIT = "stop_limit"
    TRAILING_STOP = "trailing_stop"


class TimeInForce(StrEnum):
    DAY = "day"
    GTC = "gtc"
    OPG = "opg"
    CLS = "cls"
    IOC = "ioc"
    FOK = "fok"


class OrderClass(StrEnum):
    SIMPLE = "simple"
    BRACKET = "bracket"
    OCO = "oco"
    OTO = "oto"


class OrderRole(StrEnum):
    """Role of an order inside its group."""

    PLAIN = "plain"
    ENTRY = "entry"
    TARGET = "take_profit"
    STOP = "stop_loss"


class PositionIntent(StrEnum):
    BUY_TO_OPEN = "buy_to_open"
    BUY_TO_CLOSE = "buy_to_close"
    SELL_TO_OPEN = "sell_to_open"
    SELL_TO_CLOSE = "sell_to_close"

    @property
    def opens_position(self) -> bool:
        return self in {PositionIntent.BUY_TO_OPEN, PositionIntent.SELL_TO_OPEN}


class OrderStatus(StrEnum):
    PENDING_NEW = "pending_new"
    ACCEPTED = "accepted"
    NEW = "new"
    HELD = "held"
    PARTIALLY_FILLED = "partially_filled"
    PENDING_CANCEL = "pending_cancel"
    PENDING_REPLACE = "pending_replace"
    FILLED = "filled"
    CANCELED = "canceled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    REPLACED = "replaced"


TERMINAL: Final = frozenset(
    {
        OrderStatus.FILLED,
        OrderStatus.CANCELED,
        OrderStatus.EXPIRED,
        OrderStatus.REJECTED,
        OrderStatus.REPLACED,
    }
)
OPEN_STATUSES: Final = frozenset(OrderStatus) - TERMINAL - {OrderStatus.HELD}
VENUE_STATUSES: Final = frozenset(
    {OrderStatus.NEW, OrderStatus.PARTIALLY_FILLED, OrderStatus.PENDING_CANCEL, OrderStatus.PENDING_REPLACE}
)


@dataclass(frozen=True, slots=True)
class SubmitRequest:
    """A parsed order request that was not checked yet."""

    symbol: str
    side: OrderSide
    type: OrderType
    time_in_force: TimeInForce
    order_class: OrderClass
    qty: Decimal | None
    notional: Decimal | None
    limit_price: Decimal | None
    stop_price: Decimal | None
    trail_price: Decimal | None
    trail_percent: Decimal | None
    extended_hours: bool
    client_order_id: str | None
    take_profit: Decimal | None
    stop_loss: Decimal | None
    stop_loss_limit: Decimal | None
    position_intent: str | None


@dataclass(frozen=True, slots=True)
class ReplaceRequest:
    """A requested change of an order; None is unchanged."""

    qty: Decimal | None
    time_in_force: TimeInForce | None
    limit_price: Decimal | None
    stop_price: Decimal | None
    trail: Decimal | None
    client_order_id: str | None


@dataclass(slots=True)
class Order:
    """One order, working or terminal; orders are never removed."""

    id: str
    client_order_id: str
    symbol: str
    asset_id: str
    side: OrderSide
    type: OrderType
    order_class: OrderClass
    time_in_force: TimeInForce
    role: OrderRole
    intent: PositionIntent
    status: OrderStatus
    created_at: datetime
    submitted_at: datetime
    updated_at: datetime
    sequence: int
    expires_at: datetime
    source: str
    qty: Decimal | None = None
    notional: Decimal | None = None
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trail_price: Decimal | None = None
    trail_percent: Decimal | None = None
    hwm: Decimal | None = None
    extended_hours: bool = False
    filled_qty: Decimal = Decimal(0)
    filled_value: Decimal = Decimal(0)  # the sum of price times quantity
    inherited_filled_qty: Decimal = Decimal(0)  # filled under the ids that this order replaces
    unit_reserve: Decimal = Decimal(0)  # buying power that a share reserves while it may open a position
    active: bool = False  # a working leg, whatever its status says
    triggered: bool = False  # a triggered stop
    acknowledged: bool = False
    in_opening_auction: bool = False  # takes part in the symbol's next trade as in an auction
    status_before_pending: OrderStatus | None = None  # before a cancel or a replacement became pending
    parent_id: str | None = None
    legs: list[str] = field(default_factory=list)
    replaces: str | None = None
    replaced_by: str | None = None
    filled_at: datetime | None = None
    expired_at: datetime | None = None
    canceled_at: datetime | None = None
    failed_at: datetime | None = None
    replaced_at: datetime | None = None
    cancel_requested_at: datetime | None = None

    @property
    def terminal(self) -> bool:
        return self.status in TERMINAL

    @property
    def working(self) -> bool:
        """Return true while a trade may still fill it: acknowledged, or an active leg that is shown as held.

        An exit whose group has ended does not trade, whatever is pending for it.
        """
        if not self.acknowledged or (self.is_exit and not self.active):
            return False
        return self.status in VENUE_STATUSES or (self.status is OrderStatus.HELD and self.active)

    @property
    def remaining(self) -> Decimal:
        return Decimal(0) if self.qty is None else self.qty - self.filled_qty

    @property
    def is_complex(self) -> bool:
        return self.order_class is not OrderClass.SIMPLE

    @property
    def is_exit(self) -> bool:
        """Return true for a leg and for an order of an exit group."""
        return self.role in {OrderRole.TARGET, OrderRole.STOP}

    @property
    def average_fill_price(self) -> Decimal | None:
        if not self.filled_qty:
            return None
        return (self.filled_value / self.filled_qty).quantize(Decimal("0.000000001"))

    @property
    def reserve(self) -> Decimal:
        """Return the buying power that this order reserves now."""
        if self.terminal or not self.intent.opens_position:
            return Decimal(0)
        return self.unit_reserve if self.qty is None else self.unit_reserve * self.remaining


@dataclass(frozen=True, slots=True)
class Execution:
    """One trade of the account."""

    id: str
    at: datetime
    order_id: str
    client_order_id: str
    symbol: str
    side: OrderSide
    qty: Decimal
    price: Decimal
    cum_qty: Decimal
    leaves_qty: Decimal
    order_status: OrderStatus
    closing: bool  # the order was an exit
    position_qty: Decimal  # after it, signed
