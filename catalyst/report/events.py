"""What happened since the last look, told from the tables: scans, entries, fills, protection, exits, alerts."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum

from catalyst.domain.order import Purpose, Status
from catalyst.report.day import trade_of
from catalyst.report.formatting import dollars, funnel, price, quantity, span
from catalyst.store import alerts, candidates, positions, reporting_queries
from catalyst.store.alerts import Alert
from catalyst.store.candidates import ScanRow
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Connection
from catalyst.store.positions import PositionRow
from catalyst.store.reporting_queries import Fill


class Kind(StrEnum):
    SCAN = "scan"
    PROPOSAL = "proposal"
    ENTRY = "entry"
    FILL = "fill"
    PROTECTED = "protected"
    ENDED = "ended"
    EXIT = "exit"
    ALERT = "alert"


@dataclass(frozen=True, slots=True)
class Happening:
    """One event as a person reads it."""

    at: datetime
    kind: Kind
    symbol: str | None
    text: str
    gain: Decimal | None = None


@dataclass
class Follower:
    """Tells each event of a cycle once, in the order of time."""

    cycle_id: str
    _told: set[tuple[str, object]] = field(default_factory=set)

    async def look(self, conn: Connection) -> list[Happening]:
        """Everything that is new since the last look."""
        ordered = {
            order.order_id: order for order in await reporting_queries.orders_of_day(conn, self.cycle_id)
        }
        new: list[Happening] = []
        for scan in await candidates.scans_of(conn, self.cycle_id):
            new += self._once("scan", scan.scan_id, told_scan(scan))
        for order in ordered.values():
            new += self._of_order(order)
        for fill in await reporting_queries.fills_of_day(conn, self.cycle_id):
            new += self._once(
                "fill", (fill.order_id, fill.cum_qty), told_fill(fill, ordered.get(fill.order_id))
            )
        for position in await positions.of_cycle(conn, self.cycle_id):
            new += self._of_position(position)
        for alert in await alerts.recent(conn, 50):
            new += self._once("alert", alert.alert_id, told_alert(alert))
        order_of = list(Kind)
        return sorted(new, key=lambda one: (one.at, order_of.index(one.kind)))

    def _of_order(self, order: OrderRow) -> Iterator[Happening]:
        if order.order_purpose is not Purpose.ENTRY:
            return
        if order.submitted_at is not None:
            yield from self._once("entry", order.order_id, told_entry(order, order.submitted_at, Kind.ENTRY))
        elif order.status is Status.CREATED:
            yield from self._once(
                "proposal", order.order_id, told_entry(order, order.created_at, Kind.PROPOSAL)
            )
        if order.closed_at is not None and order.status is not Status.FILLED:
            yield from self._once("ended", order.order_id, told_end(order, order.closed_at))

    def _of_position(self, position: PositionRow) -> Iterator[Happening]:
        if position.protected_at is not None:
            told = told_protection(position, position.protected_at)
            yield from self._once("protected", position.position_id, told)
        if position.exit_time is not None:
            yield from self._once("exit", position.position_id, told_exit(position, position.exit_time))

    def _once(self, what: str, which: object, told: Happening) -> Iterator[Happening]:
        if (what, which) not in self._told:
            self._told.add((what, which))
            yield told


def told_scan(scan: ScanRow) -> Happening:
    """The funnel, and how long it took."""
    took = sum(scan.milliseconds.values())
    degraded = f", degraded: {scan.degraded}" if scan.degraded else ""
    return Happening(scan.finished_at, Kind.SCAN, None, f"{funnel(scan.counts)}  ({took:,.0f} ms{degraded})")


def told_entry(order: OrderRow, at: datetime, kind: Kind) -> Happening:
    """The order as it was sent, or as it waits for a yes."""
    at_price = "at the market" if order.limit_price is None else f"limit {price(order.limit_price)}"
    text = (
        f"{order.side.upper()} {quantity(order.quantity)} {order.symbol} {at_price}, "
        f"stop {price(order.bracket_stop)}, target {price(order.bracket_target)}"
    )
    return Happening(at, kind, order.symbol, text)


def told_end(order: OrderRow, at: datetime) -> Happening:
    """An entry that ended without being filled whole."""
    why = order.rejection_reason or order.cancel_reason or order.status
    got = f" after {quantity(order.filled_qty)} of {quantity(order.quantity)}" if order.filled_qty else ""
    return Happening(at, Kind.ENDED, order.symbol, f"entry of {order.symbol} {order.status}{got}: {why}")


def told_fill(fill: Fill, order: OrderRow | None) -> Happening:
    """Shares that changed hands."""
    done = "bought" if fill.side == "buy" else "sold"
    of = "" if order is None or order.quantity == fill.quantity else f" (of {quantity(order.quantity)})"
    purpose = fill.order_purpose.replace("_", " ")
    text = f"{done} {quantity(fill.quantity)} {fill.symbol} at {price(fill.price)}, {purpose}{of}"
    return Happening(fill.at, Kind.FILL, fill.symbol, text)


def told_protection(position: PositionRow, at: datetime) -> Happening:
    """From when on the broker's stop covers every share."""
    text = (
        f"{position.symbol}: stop {price(position.stop_loss)} and target {price(position.take_profit)} work at the "
        f"broker, {span(position.naked_seconds)} after the fill"
    )
    return Happening(at, Kind.PROTECTED, position.symbol, text)


def told_exit(position: PositionRow, at: datetime) -> Happening:
    """A trade's end and what it brought."""
    trade = trade_of(position)
    text = (
        f"{trade.symbol} {dollars(trade.pnl, signed=True)} ({trade.pnl_pct:+} %) after {span(trade.held_seconds)}: "
        f"{trade.reason}"
    )
    return Happening(at, Kind.EXIT, trade.symbol, text, gain=trade.pnl)


def told_alert(alert: Alert) -> Happening:
    """What a person should hear of."""
    return Happening(alert.created_at, Kind.ALERT, None, f"{alert.severity} {alert.event}: {alert.message}")
