"""What a broker tells us, in our own words. Raw payloads end at the broker's edge; these travel inside."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal

from catalyst.domain.order import TERMINAL, Side, status_of

Raw = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution. Its identity is (broker order id, cumulative quantity after it), from every source.

    `quantity` and `price` (dollars) belong to this execution alone; `at` is the broker's time, UTC.
    """

    broker_id: str
    cum_qty: Decimal
    quantity: Decimal
    price: Decimal
    at: datetime
    execution_id: str | None = None  # the stream's
    activity_id: str | None = None  # the ledger's


@dataclass(frozen=True, slots=True)
class OrderReport:
    """One order as the broker shows it now. Decimals in shares and dollars; times aware, UTC."""

    broker_id: str
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    filled_qty: Decimal
    filled_avg_price: Decimal | None
    broker_status: str
    order_type: str
    order_class: str
    time_in_force: str
    limit_price: Decimal | None
    stop_price: Decimal | None
    replaced_by: str | None = None
    replaces: str | None = None
    submitted_at: datetime | None = None
    updated_at: datetime | None = None
    legs: tuple["OrderReport", ...] = ()
    raw: Raw = field(default_factory=dict[str, object], repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TradeUpdate:
    """One message of the trade_updates stream: an event, the order after it, and the fill if it was one."""

    event: str
    order: OrderReport
    fill: Fill | None
    position_qty: Decimal | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class PositionReport:
    """Shares the broker holds for us: `quantity` signed, negative when short."""

    symbol: str
    quantity: Decimal
    available: Decimal  # not held by working orders; signed like quantity
    entry_price: Decimal
    current_price: Decimal | None
    unrealized_pl: Decimal | None
    raw: Raw = field(default_factory=dict[str, object], repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class AccountReport:
    """The account, dollars."""

    account_id: str
    account_number: str
    status: str
    equity: Decimal
    last_equity: Decimal
    cash: Decimal
    buying_power: Decimal
    trading_blocked: bool
    account_blocked: bool
    suspended_by_user: bool
    shorting_enabled: bool
    raw: Raw = field(default_factory=dict[str, object], repr=False, compare=False)

    @property
    def can_open_positions(self) -> bool:
        """True when the broker would let this account open a position."""
        return self.status == "ACTIVE" and not (
            self.trading_blocked or self.account_blocked or self.suspended_by_user
        )


@dataclass(frozen=True, slots=True)
class AssetReport:
    """One tradable instrument, as the broker lists it."""

    asset_id: str
    symbol: str
    name: str
    exchange: str
    status: str
    tradable: bool
    shortable: bool
    easy_to_borrow: bool
    fractionable: bool
    marginable: bool


@dataclass(frozen=True, slots=True)
class ClockReport:
    """The broker's own clock."""

    at: datetime
    is_open: bool
    next_open: datetime
    next_close: datetime


@dataclass(frozen=True, slots=True)
class Quote:
    """The best bid and ask, dollars; a missing side is None. Sizes in shares."""

    symbol: str
    at: datetime
    bid: Decimal | None
    ask: Decimal | None


@dataclass(frozen=True, slots=True)
class Trade:
    """The last eligible print."""

    symbol: str
    at: datetime
    price: Decimal


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """What we ask the broker to do. Quantities are whole shares; prices are on tick."""

    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    order_type: str  # market | limit | stop
    time_in_force: str
    order_class: str = "simple"  # simple | bracket | oco
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    take_profit: Decimal | None = None
    stop_loss: Decimal | None = None


def is_working_report(report: OrderReport) -> bool:
    """A word we do not know is a working order's."""
    return status_of(report.broker_status, report.filled_qty, report.quantity) not in TERMINAL
