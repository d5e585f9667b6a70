"""Reports and requests exchanged with a broker. The broker adapter converts raw payloads to these types."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TypeVar

from catalyst.domain.order import TERMINAL, Side, status_of

Raw = Mapping[str, object]
T = TypeVar("T")


class Listing(list[T]):
    """One list of the broker. `unreadable_rows` counts its rows that could not be parsed: with one, the list is
    incomplete, and what it does not show may exist."""

    def __init__(self, rows: Iterable[T] = (), unreadable_rows: int = 0) -> None:
        super().__init__(rows)
        self.unreadable_rows = unreadable_rows


@dataclass(frozen=True, slots=True)
class Fill:
    """One execution. Every source identifies it by (broker order id, cumulative quantity after it).

    `quantity` and `price` (dollars) belong to this execution alone; `at` is the broker's time, UTC.
    """

    broker_id: str
    cum_qty: Decimal
    quantity: Decimal
    price: Decimal
    at: datetime
    execution_id: str | None = None  # from the stream
    activity_id: str | None = None  # from the account activities
    symbol: str = field(default="", compare=False)  # from the account activities


@dataclass(frozen=True, slots=True)
class CashActivity:
    """A change of the account's cash that is no trade: a transfer, fee, dividend, interest. Dollars, signed."""

    activity_id: str
    kind: str
    amount: Decimal


@dataclass(frozen=True, slots=True)
class OrderReport:
    """One order as the broker reports it. Decimals in shares and dollars; times aware, UTC."""

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
    filled_at: datetime | None = None
    canceled_at: datetime | None = None
    expired_at: datetime | None = None
    updated_at: datetime | None = None
    legs: tuple["OrderReport", ...] = ()
    unreadable_legs: int = 0
    raw: Raw = field(default_factory=dict[str, object], repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class TradeUpdate:
    """One message of the trade_updates stream: an event, the order after it, and the fill, if it is one."""

    event: str
    order: OrderReport
    fill: Fill | None
    position_qty: Decimal | None
    at: datetime | None


@dataclass(frozen=True, slots=True)
class PositionReport:
    """A position at the broker: `quantity` is signed, negative when short."""

    symbol: str
    quantity: Decimal
    available: Decimal  # shares not reserved by working orders; signed like quantity
    entry_price: Decimal | None
    current_price: Decimal | None
    unrealized_pl: Decimal | None
    intraday_pl: Decimal | None = None  # what it made since the last close
    raw: Raw = field(default_factory=dict[str, object], repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class AccountReport:
    """The account at the broker, in dollars."""

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
        """True when the broker lets this account open positions."""
        return self.status == "ACTIVE" and not (
            self.trading_blocked or self.account_blocked or self.suspended_by_user
        )


@dataclass(frozen=True, slots=True)
class AssetReport:
    """One instrument as the broker lists it."""

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
    """The broker's clock and market hours."""

    at: datetime
    is_open: bool
    next_open: datetime
    next_close: datetime


@dataclass(frozen=True, slots=True)
class Quote:
    """The best bid and ask, in dollars; a missing side is None."""

    symbol: str
    at: datetime
    bid: Decimal | None
    ask: Decimal | None


@dataclass(frozen=True, slots=True)
class Trade:
    """The last trade that counts for the price, in dollars."""

    symbol: str
    at: datetime
    price: Decimal


@dataclass(frozen=True, slots=True)
class OrderRequest:
    """An order to send to the broker. Quantities are whole shares; prices are on tick."""

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
    """Return true unless the status is terminal; an unknown status counts as working."""
    return status_of(report.broker_status, report.filled_qty, report.quantity) not in TERMINAL


def fills_by_order(reports: Sequence[OrderReport]) -> Iterator[tuple[OrderReport, Decimal]]:
    """Yield each order with the shares that it filled itself.

    The broker shows the fills of a replaced order as fills of its replacement too.
    """
    filled = {report.broker_id: report.filled_qty for report in reports}
    for report in reports:
        carried = min(filled.get(report.replaces or "", Decimal(0)), report.filled_qty)
        yield report, report.filled_qty - carried
