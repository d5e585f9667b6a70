"""Event feed of a trading day, read from the database: scans, entries, fills, protection, exits and alerts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from catalyst.domain.order import Purpose, Status
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.report.day import trade_of
from catalyst.report.formatting import describe_funnel, dollars, duration, price, quantity
from catalyst.store import alerts, candidates, positions, reporting_queries
from catalyst.store.alerts import Alert
from catalyst.store.candidates import ScanRow
from catalyst.store.pool import Connection
from catalyst.store.reporting_queries import BookedFill


class DayEventKind(StrEnum):
    SCAN = "scan"
    PROPOSAL = "proposal"
    ENTRY = "entry"
    FILL = "fill"
    PROTECTED = "protected"
    ENDED = "ended"
    EXIT = "exit"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class DayEvent:
    """One event with its text; `gain` is the P&L of an exit in dollars, None for other events."""

    at: datetime
    kind: DayEventKind
    symbol: str | None
    text: str
    gain: Decimal | None = None


@dataclass
class DayEventFeed:
    """Returns each event of a cycle once, in the order of time."""

    cycle_id: str
    _seen: set[tuple[str, object]] = field(default_factory=set)

    async def read_new(self, conn: Connection) -> list[DayEvent]:
        """Return the events that no earlier call returned."""
        day_orders = {
            order.order_id: order for order in await reporting_queries.orders_of_day(conn, self.cycle_id)
        }
        new: list[DayEvent] = []
        for scan in await candidates.scans_of(conn, self.cycle_id):
            new += self._if_new("scan", scan.scan_id, describe_scan(scan))
        for order in day_orders.values():
            new += self._order_events(order)
        for fill in await reporting_queries.fills_of_day(conn, self.cycle_id):
            new += self._if_new(
                "fill", (fill.order_id, fill.cum_qty), describe_fill(fill, day_orders.get(fill.order_id))
            )
        for position in await positions.of_cycle(conn, self.cycle_id):
            new += self._position_events(position)
        for alert in await alerts.recent(conn, 50):
            new += self._if_new("alert", alert.alert_id, describe_alert(alert))
        kind_order = list(DayEventKind)
        return sorted(new, key=lambda event: (event.at, kind_order.index(event.kind)))

    def _order_events(self, order: OrderRow) -> Iterator[DayEvent]:
        if order.order_purpose is not Purpose.ENTRY:
            return
        if order.submitted_at is not None:
            yield from self._if_new(
                "entry", order.order_id, describe_entry_order(order, order.submitted_at, DayEventKind.ENTRY)
            )
        elif order.status is Status.CREATED:
            yield from self._if_new(
                "proposal",
                order.order_id,
                describe_entry_order(order, order.created_at, DayEventKind.PROPOSAL),
            )
        if order.closed_at is not None and order.status is not Status.FILLED:
            yield from self._if_new("ended", order.order_id, describe_ended_entry(order, order.closed_at))

    def _position_events(self, position: PositionRow) -> Iterator[DayEvent]:
        if position.protected_at is not None:
            event = describe_protection(position, position.protected_at)
            yield from self._if_new("protected", position.position_id, event)
        if position.exit_time is not None:
            yield from self._if_new("exit", position.position_id, describe_exit(position, position.exit_time))

    def _if_new(self, kind: str, key: object, event: DayEvent) -> Iterator[DayEvent]:
        if (kind, key) not in self._seen:
            self._seen.add((kind, key))
            yield event


def describe_scan(scan: ScanRow) -> DayEvent:
    """Describe a scan: rows left after each stage, and its duration."""
    total_ms = sum(scan.milliseconds.values())
    degraded = f", degraded: {scan.degraded}" if scan.degraded else ""
    return DayEvent(
        scan.finished_at,
        DayEventKind.SCAN,
        None,
        f"{describe_funnel(scan.counts)}  ({total_ms:,.0f} ms{degraded})",
    )


def describe_entry_order(order: OrderRow, at: datetime, kind: DayEventKind) -> DayEvent:
    """Describe an entry order that was sent, or that waits for approval."""
    at_price = "at the market" if order.limit_price is None else f"limit {price(order.limit_price)}"
    text = (
        f"{order.side.upper()} {quantity(order.quantity)} {order.symbol} {at_price}, "
        f"stop {price(order.bracket_stop)}, target {price(order.bracket_target)}"
    )
    return DayEvent(at, kind, order.symbol, text)


def describe_ended_entry(order: OrderRow, at: datetime) -> DayEvent:
    """Describe an entry that ended without a complete fill."""
    reason = order.rejection_reason or order.cancel_reason or order.status
    partial_fill = (
        f" after {quantity(order.filled_qty)} of {quantity(order.quantity)}" if order.filled_qty else ""
    )
    return DayEvent(
        at,
        DayEventKind.ENDED,
        order.symbol,
        f"entry of {order.symbol} {order.status}{partial_fill}: {reason}",
    )


def describe_fill(fill: BookedFill, order: OrderRow | None) -> DayEvent:
    """Describe a fill."""
    verb = "bought" if fill.side == "buy" else "sold"
    of_total = "" if order is None or order.quantity == fill.quantity else f" (of {quantity(order.quantity)})"
    purpose = fill.order_purpose.replace("_", " ")
    text = f"{verb} {quantity(fill.quantity)} {fill.symbol} at {price(fill.price)}, {purpose}{of_total}"
    return DayEvent(fill.at, DayEventKind.FILL, fill.symbol, text)


def describe_protection(position: PositionRow, at: datetime) -> DayEvent:
    """Describe the moment from which a stop at the broker protects every share."""
    text = (
        f"{position.symbol}: stop {price(position.stop_loss)} and target {price(position.take_profit)} are working at "
        f"the broker, {duration(position.unprotected_seconds)} after the fill"
    )
    return DayEvent(at, DayEventKind.PROTECTED, position.symbol, text)


def describe_exit(position: PositionRow, at: datetime) -> DayEvent:
    """Describe a closed trade and its result."""
    trade = trade_of(position)
    text = (
        f"{trade.symbol} {dollars(trade.pnl, signed=True)} ({trade.pnl_pct:+} %) after {duration(trade.held_seconds)}: "
        f"{trade.reason}"
    )
    return DayEvent(at, DayEventKind.EXIT, trade.symbol, text, gain=trade.pnl)


def describe_alert(alert: Alert) -> DayEvent:
    """Describe an alert in one line: a digest has many."""
    summary = alert.message.partition("\n")[0]
    return DayEvent(alert.created_at, DayEventKind.ALERT, None, f"{alert.severity} {alert.event}: {summary}")
