"""Order lifecycle: the state of the exchange, and the steps that every change of an order takes."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from catalyst.simulator.exchange.account import Account
from catalyst.simulator.exchange.event_queue import EventKind, EventQueue
from catalyst.simulator.exchange.order_store import OrderStore
from catalyst.simulator.exchange.randomness import RandomSource
from catalyst.simulator.exchange.settings import ExchangeSettings
from catalyst.simulator.exchange.stale_views import StaleViews
from catalyst.simulator.exchange.unprotected_time import UnprotectedTime, unprotected_qty
from catalyst.simulator.exchange.views import order_view
from catalyst.simulator.faults.rules import FaultRules
from catalyst.simulator.market.announcements import Announcements, HaltReason, TradingStatus
from catalyst.simulator.market.trading_feed import TradingFeed
from catalyst.simulator.rules.orders import Execution, Order, OrderRole, OrderSide, OrderStatus
from catalyst.simulator.rules.trading_hours import TradingHours
from catalyst.simulator.rules.wire_format import JsonObject, format_instant

UNNUMBERED_EVENTS: Final = frozenset({"pending_new"})  # without an execution id
ONE_MICROSECOND: Final = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class TradeUpdateMessage:
    """One trade_updates message, rendered as of its instant."""

    event: str
    symbol: str
    order_id: str
    client_order_id: str
    role: OrderRole
    side: OrderSide
    data: JsonObject


@dataclass(frozen=True, slots=True)
class Fee:
    """A regulatory fee charged at a close: of the SEC (REG) or of FINRA (TAF)."""

    id: str
    at: datetime
    amount: Decimal
    kind: str = "REG"


@dataclass(frozen=True, slots=True)
class Transfer:
    """A deposit, or a withdrawal when negative."""

    id: str
    at: datetime
    amount: Decimal


class VenueState:
    """State of one account at the exchange; stores orders, emits updates, schedules events and ends orders."""

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
        self.equity_history: list[tuple[datetime, Decimal]] = []
        self.unprotected_time = UnprotectedTime()
        self.announcements = Announcements()
        self.stale_views = StaleViews()
        self.outbox: list[TradeUpdateMessage] = []
        self.sequence = 0
        # fills that positions do not show yet, and until when
        self.delayed_fills: list[tuple[datetime, Execution]] = []
        self.changed_feeds: set[str] = set()  # symbols whose feed has changed
        self.unsaved_changes = False  # something outside the orders changed since the last save

    def mark_price(self, symbol: str) -> Decimal | None:
        """Return the price of the last trade."""
        last = self.market.last_print(symbol, self.now)
        return None if last is None else last.price

    def is_hard_to_borrow(self, symbol: str) -> bool:
        asset = self.market.assets().get(symbol)
        return symbol in self.settings.hard_to_borrow or (asset is not None and not asset.easy_to_borrow)

    def halt(self, symbol: str, reason: HaltReason = HaltReason.NEWS) -> None:
        """Halt the symbol and announce it: nothing trades, market orders are rejected."""
        if symbol not in self.halted:
            self.halted.add(symbol)
            self.unsaved_changes = True
            self.announcements.publish(TradingStatus(self.now, symbol, halted=True, reason=reason))

    def store_order(self, order: Order) -> None:
        """Store a changed order, and record the unprotected shares of its symbol."""
        order.updated_at = self.now
        self.order_store.store(order)
        if self.settings.order_lag > 0:
            self.stale_views.record(order, self.now)
        unprotected_shares = unprotected_qty(self.order_store, order.symbol, self.account.qty(order.symbol))
        self.unprotected_time.record(order.symbol, order.id, unprotected_shares, self.now)

    def emit_update(self, order: Order, event: str, **facts: object) -> None:
        """Put a trade update in the outbox, with the order as it is now."""
        data: JsonObject = {
            "event": event,
            "execution_id": None if event in UNNUMBERED_EVENTS else self.random_source.uuid(),
            "timestamp": format_instant(self.now),
            "order": order_view(order, self.order_store, self.settings, nested=True, stream=True),
        }
        data.update(facts)
        self.outbox.append(
            TradeUpdateMessage(
                event, order.symbol, order.id, order.client_order_id, order.role, order.side, data
            )
        )

    def fault_facts(self, order: Order) -> dict[str, str | None]:
        """Return the facts of an order that fault rules match."""
        return {
            "symbol": order.symbol,
            "client_order_id": order.client_order_id,
            "role": order.role.value,
            "side": order.side.value,
        }

    def finish_order(self, order: Order, status: OrderStatus, *, silent: bool = False) -> bool:
        """End an order that is not terminal; true when this call ended it. `silent` emits no trade update."""
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

    def schedule_event(
        self, kind: EventKind, delay: timedelta, order: Order, other: Order | None = None
    ) -> None:
        """Schedule an event of an order."""
        self.event_queue.schedule(self.now + delay, kind, order.id, other.id if other else "")

    def next_sequence(self) -> int:
        self.sequence += 1
        return self.sequence

    def cannot_trade(self, order: Order) -> bool:
        """Return whether the order's symbol is halted, or its trading hours are over."""
        open_now = self.hours.accepts_trades(self.now, extended_hours=order.extended_hours)
        return order.symbol in self.halted or not open_now
