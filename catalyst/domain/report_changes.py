"""Report changes: the rows, alerts and reads that a decision about broker reports asks for. Plain records."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from catalyst.domain.order import PositionSide, Status, Verdict
from catalyst.domain.position import PositionState
from catalyst.domain.report import Fill, OrderReport, Raw
from catalyst.domain.rows import NewOrder, OrderRow, Orphan


@dataclass(frozen=True, slots=True)
class JournalLine:
    """One line of an order's journal."""

    kind: str
    from_status: Status | None
    to_status: Status | None
    note: str


@dataclass(frozen=True, slots=True)
class OrderChange:
    """An order's row as it was read, as it is to be, and the journal lines between the two."""

    before: OrderRow
    after: OrderRow
    journal: tuple[JournalLine, ...] = ()


@dataclass(frozen=True, slots=True)
class NewLeg:
    """A leg without a row, of an order that has one."""

    parent: OrderRow
    order: NewOrder
    status: Status
    report: OrderReport
    rejection_reason: str | None = None


@dataclass(frozen=True, slots=True)
class OpenedPosition:
    """A position that the first fills of `entry` open, with its state after them."""

    entry: OrderChange
    fill: Fill  # the first
    state: PositionState


@dataclass(frozen=True, slots=True)
class PositionChange:
    """The new state of a position; `close_reason` is set when it is closed."""

    position_id: int
    symbol: str
    state: PositionState
    at: datetime
    close_reason: str | None = None


@dataclass(frozen=True, slots=True)
class FillBooking:
    """An execution to insert, with the order as it was before and the shares of the position after it."""

    order: OrderRow
    fill: Fill
    held_qty: Decimal | None = None  # None: the fill changed no position


@dataclass(frozen=True, slots=True)
class LinkedOrders:
    """Orders to link to a position; None: the position that the decision opens. `exit_order` gives it an intent."""

    order_ids: tuple[int, ...]
    position_id: int | None
    exit_order: OrderRow | None = None  # an exit sent during a database outage
    exit_reason: str = ""
    from_outage: int = 0  # number of linked orders that were sent during a database outage


@dataclass(frozen=True, slots=True)
class OversoldShares:
    """Shares that an exit sold beyond its position: orphan shares on the opposite side. `cost` in dollars."""

    symbol: str
    side: PositionSide
    quantity: Decimal
    cost: Decimal
    cycle_id: str | None
    position_id: int


@dataclass(frozen=True, slots=True)
class OrphanFill:
    """A fill that reduces orphan shares, and the orphan after it."""

    after: Orphan
    order: OrderRow
    fill: Fill


@dataclass(frozen=True, slots=True)
class OrderAlert:
    """A CRITICAL alert about one order."""

    event: str
    order: OrderRow
    message: str


@dataclass(frozen=True, slots=True)
class QuarantineEntry:
    """An input that cannot be applied, with its alert. `kind` is that of its journal line."""

    alert: OrderAlert
    kind: str
    reason: str
    note: str
    payload: Raw

    @property
    def is_fill(self) -> bool:
        """True for a fill that could not be booked."""
        return self.kind == "adjustment"


@dataclass(frozen=True, slots=True)
class ReportDecision:
    """What one group of reports and its fills change. Nothing is written while a read is asked for."""

    verdict: Verdict | None = None  # about the first report; None: its order has no row
    order_changes: tuple[OrderChange, ...] = ()
    new_legs: tuple[NewLeg, ...] = ()
    opened: tuple[OpenedPosition, ...] = ()
    position: PositionChange | None = None
    booked: tuple[FillBooking, ...] = ()
    known_fills: tuple[tuple[int, Fill], ...] = ()  # (order id, fill): booked before without one of its ids
    links: tuple[LinkedOrders, ...] = ()
    oversold: tuple[OversoldShares, ...] = ()
    orphan_fills: tuple[OrphanFill, ...] = ()
    quarantined: tuple[QuarantineEntry, ...] = ()
    alerts: tuple[OrderAlert, ...] = ()
    stale_reports: int = 0
    known_broker_ids: frozenset[str] = frozenset()
    unknown_broker_ids: frozenset[str] = frozenset()
    # Reads that are needed first.
    missing_fills: tuple[str, ...] = ()  # broker ids of orders with more filled shares than are booked
    is_entry: bool = False  # the first report is about an entry
    unread_entries: tuple[str, ...] = ()  # broker ids of entries whose fills come before an exit's
    # A report names a replacement without a row, or the broker holds shares that need a full pass.
    reconcile: bool = False
    orphans_changed: bool = False

    @property
    def is_empty(self) -> bool:
        """True when nothing is to be written."""
        return not (
            self.order_changes
            or self.new_legs
            or self.opened
            or self.booked
            or self.known_fills
            or self.links
            or self.quarantined
            or self.alerts
        )

    @property
    def has_incomplete_legs(self) -> bool:
        """True when a new leg has fills to book, or a status to be quarantined."""
        new_ids = {leg.order.alpaca_order_id for leg in self.new_legs}
        return not new_ids.isdisjoint(self.missing_fills) or any(
            leg.order.broker_status is None for leg in self.new_legs
        )

    @property
    def is_one_statement(self) -> bool:
        """True when one statement writes it: changes of orders with new legs, or opened positions."""
        needs_transaction = (
            self.position
            or self.known_fills
            or self.links
            or self.oversold
            or self.orphan_fills
            or self.quarantined
            or self.alerts
        )
        if needs_transaction:
            return False
        if self.opened:
            opening_ids = {opened.entry.before.order_id for opened in self.opened}
            changed_ids = {change.before.order_id for change in self.order_changes}
            return not self.new_legs and changed_ids <= opening_ids and len(self.booked) == len(self.opened)
        return not self.booked
