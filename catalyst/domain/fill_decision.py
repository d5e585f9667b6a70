"""Fill decision: what the fills of one group change in orders, position and orphan shares. Pure.

Every fill of an order that has a row is booked once, in every status of the row. An execution is known by its shares:
those from `cum_qty - quantity` to `cum_qty` of its order. Only a fill that overlaps a different booked execution is
not booked; it goes to quarantine.
"""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal

from catalyst.domain import order as machine
from catalyst.domain.order import EdgeKind, PositionSide, Purpose
from catalyst.domain.position import (
    CENT,
    CloseReason,
    PositionState,
    PositionStatus,
    add_fill,
    reduce_by_fill,
)
from catalyst.domain.report import Fill
from catalyst.domain.report_changes import (
    FillBooking,
    JournalLine,
    LinkedOrders,
    OpenedPosition,
    OrderAlert,
    OrderChange,
    OrphanFill,
    OversoldShares,
    PositionChange,
    QuarantineEntry,
)
from catalyst.domain.rows import ExecutionRow, OrderRow, Orphan, PositionRow, changed
from catalyst.domain.session import trading_date


@dataclass(frozen=True, slots=True)
class FillRows:
    """Rows that fills need beside their orders: all entries, or all exits, of one position."""

    executions: Mapping[int, Sequence[ExecutionRow]] = field(default_factory=dict)  # by order id
    # The position of the orders, or else the open one of their symbol and side.
    position: PositionRow | None = None
    parents: Mapping[int, OrderRow] = field(default_factory=dict)  # by order id
    entry_legs: Sequence[OrderRow] = ()  # legs of the entry and of the orders it replaced
    position_orders: Sequence[OrderRow] = ()
    unlinked: Sequence[OrderRow] = ()  # outage orders of the symbol without a position
    working: Sequence[OrderRow] = ()  # working orders of the symbol, read when it has unlinked orders
    intent_reason: str | None = None  # of the position's open exit intent
    outage_reason: str = ""  # reason of the outage exit that may be linked
    orphan: Orphan | None = None  # open orphan shares of symbol and side, read when there is no position


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a decision needs beside rows and reports."""

    at: datetime  # now
    source: str
    adopted_symbols: AbstractSet[str] = frozenset()  # symbols in which external entries are protected
    unlinked_symbols: AbstractSet[str] = frozenset()  # symbols with outage orders that have no position
    # The broker was read for the entries of these exits and shows no missing fill.
    entries_complete: bool = False

    @property
    def trading_day(self) -> date:
        return trading_date(self.at)


@dataclass
class FillDecision:
    """Books fills one after the other; collects what they change."""

    rows: FillRows
    given: Circumstances
    opened: OpenedPosition | None = None
    position: PositionChange | None = None
    booked: list[FillBooking] = field(default_factory=list)
    known_fills: list[tuple[int, Fill]] = field(default_factory=list)
    links: list[LinkedOrders] = field(default_factory=list)
    oversold: list[OversoldShares] = field(default_factory=list)
    orphan_fills: list[OrphanFill] = field(default_factory=list)
    quarantined: list[QuarantineEntry] = field(default_factory=list)
    alerts: list[OrderAlert] = field(default_factory=list)
    unread_entries: set[str] = field(default_factory=set)
    reconcile: bool = False
    orphans_changed: bool = False

    def book(self, row: OrderRow, fill: Fill) -> OrderChange | None:
        """Book one fill; return the change of its order, None when it was booked before or goes to quarantine."""
        executions = self._executions_of(row)
        if self._is_booked(row, fill, executions):
            return None
        if (reason := _contradiction(fill, executions)) is not None:
            self._quarantine(row, fill, reason)
            return None
        new_status, kind = machine.after_fill(row.state, fill.quantity)
        filled_qty = row.filled_qty + fill.quantity
        notional = sum((each.quantity * each.price for each in executions), fill.quantity * fill.price)
        after = changed(row, status=new_status, filled_qty=filled_qty, filled_avg_price=notional / filled_qty)
        note = f"{fill.quantity} @ {fill.price}, {fill.cum_qty} in all"
        is_late = kind is EdgeKind.LATE
        change = OrderChange(
            row, after, (JournalLine("late" if is_late else "fill", row.status, new_status, note),)
        )
        if is_late:
            self._alert_unexpected(row, fill, filled_qty)
        is_entry = row.order_purpose is Purpose.ENTRY
        held_qty = self._enter(row, fill, change) if is_entry else self._exit(row, fill)
        self.booked.append(FillBooking(row, fill, held_qty))
        return change

    def _executions_of(self, row: OrderRow) -> list[ExecutionRow]:
        """Return the executions of an order: those that are stored, and those booked by this decision."""
        new = [booked.fill for booked in self.booked if booked.order.order_id == row.order_id]
        return [
            *self.rows.executions.get(row.order_id, ()),
            *(
                ExecutionRow(
                    row.order_id, each.cum_qty, each.quantity, each.price, each.execution_id, each.activity_id
                )
                for each in new
            ),
        ]

    def _is_booked(self, row: OrderRow, fill: Fill, executions: Sequence[ExecutionRow]) -> bool:
        """Return true when the execution is booked already; an id that it did not have is to be added.

        Another price for the same shares goes to quarantine; the booked price stays. The fills of an order of the
        earlier Catalyst were booked as one, at its own price.
        """
        if row.origin == "legacy" and fill.cum_qty <= row.filled_qty:
            return True
        for each in executions:
            if (each.cum_qty, each.quantity) != (fill.cum_qty, fill.quantity):
                continue
            if (fill.execution_id and not each.execution_id) or (fill.activity_id and not each.activity_id):
                self.known_fills.append((row.order_id, fill))
            if each.price != fill.price:
                self._quarantine(row, fill, f"the fill at {fill.price} is booked at {each.price}")
            return True
        return False

    # -- entries

    def _enter(self, row: OrderRow, fill: Fill, change: OrderChange) -> Decimal | None:
        """Open the position with an entry fill, or add the fill to it; return its shares, None without a position."""
        is_entered = any(
            booked.order.order_id == row.order_id and booked.held_qty is not None for booked in self.booked
        )
        if row.origin == "external" and not is_entered and not self._is_protected_by_us(row, fill):
            if not row.is_of_another_catalyst:  # one alert tells of all its orders
                message = (
                    f"an order that Catalyst did not place filled {fill.quantity} @ {fill.price}; reconcile.orphans "
                    "decides what happens to these shares"
                )
                self.alerts.append(OrderAlert("EXTERNAL_FILL", row, message))
            self.reconcile = True
            return None
        position = self.rows.position
        if self.opened is not None:
            state = add_fill(self.opened.state, fill.quantity, fill.price)
            self.opened = replace(self.opened, entry=change, state=state)
            return state.quantity
        if position is None or position.status == PositionStatus.CLOSED:
            state = add_fill(PositionState(row.position_side), fill.quantity, fill.price)
            self.opened = OpenedPosition(change, fill, state)
            position_id = None
        else:
            before = position.state if self.position is None else self.position.state
            state = add_fill(before, fill.quantity, fill.price)
            position_id = position.position_id
            self.position = PositionChange(position_id, row.symbol, state, self.given.at)
        self._link_entry(row, position_id)
        return state.quantity

    def _link_entry(self, entry: OrderRow, position_id: int | None) -> None:
        """Link the entry, its legs and the outage orders of its symbol to the position; None: the one it opens."""
        if position_id is None:  # the statement that opens the position links the entry and its own legs
            orders = [leg for leg in self.rows.entry_legs if leg.parent_order_id != entry.order_id]
        else:
            orders = [row for row in (entry, *self.rows.entry_legs) if row.position_id != position_id]
        order_ids = tuple(row.order_id for row in orders)
        exits = [row for row in self.rows.unlinked if row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN)]
        outage_ids = tuple(row.order_id for row in self.rows.unlinked)
        if order_ids or outage_ids:
            self.links.append(
                LinkedOrders(
                    (*order_ids, *outage_ids),
                    position_id,
                    exits[0] if exits else None,
                    self.rows.outage_reason,
                    len(outage_ids),
                )
            )

    def _is_protected_by_us(self, entry: OrderRow, fill: Fill) -> bool:
        """Return true when Catalyst must protect an external entry.

        This is so when the entry is linked, or when a person placed it in a symbol we trade, `orphans` is not "alert",
        and this is its first fill, made today. It is never so for an entry of another Catalyst.
        """
        if entry.position_id is not None:
            return True
        if entry.is_of_another_catalyst:
            return False
        is_today = trading_date(fill.at) == self.given.trading_day
        return not entry.filled_qty and is_today and entry.symbol in self.given.adopted_symbols

    # -- exits

    def _exit(self, row: OrderRow, fill: Fill) -> Decimal | None:
        """Reduce the position by an exit fill; close it with its reason at zero shares. Return the shares left."""
        parent = None if row.parent_order_id is None else self.rows.parents.get(row.parent_order_id)
        position, must_link = self._position_of_exit(row, parent)
        self._require_entry_fills(row, fill, parent, position)
        if position is None:
            self._reduce_orphan(row, fill)
            return None
        if must_link:
            order_ids = tuple(
                order.order_id for order in (row, parent) if order is not None and order.position_id is None
            )
            is_exit = row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN)
            self.links.append(
                LinkedOrders(
                    order_ids, position.position_id, row if is_exit else None, self.rows.outage_reason
                )
            )
        before = position.state if self.position is None else self.position.state
        new_state, surplus = reduce_by_fill(before, fill.quantity, fill.price)
        if surplus:
            self._record_oversold(row, position, fill, surplus)
        if surplus == fill.quantity:
            return new_state.quantity  # the position was closed before; its close time and reason stay
        self.position = PositionChange(
            position.position_id, row.symbol, new_state, fill.at, self._close_reason(row, position, fill)
        )
        return new_state.quantity

    def _position_of_exit(self, row: OrderRow, parent: OrderRow | None) -> tuple[PositionRow | None, bool]:
        """Return the position of an exit, and whether the exit must be linked to it.

        An exit sent during a database outage belongs to the open position when an entry of it was placed before.
        """
        position = self.rows.position
        if row.position_id is not None or (parent is not None and parent.position_id is not None):
            return position, False
        if position is None or "outage" not in (row.origin, None if parent is None else parent.origin):
            return None, False
        if any(position.position_id == link.position_id for link in self.links):
            return position, False
        sent_at = (parent or row).created_at
        fits = any(
            order.order_purpose is Purpose.ENTRY and order.created_at <= sent_at
            for order in self.rows.position_orders
        )
        return (position, True) if fits else (None, False)

    def _held_qty(self, position: PositionRow) -> Decimal:
        """Return the shares of the position after the fills booked so far; none are left of one written off."""
        return position.quantity if self.position is None else self.position.state.quantity

    def _require_entry_fills(
        self,
        row: OrderRow,
        fill: Fill,
        parent: OrderRow | None,
        position: PositionRow | None,
    ) -> None:
        """Add the entries of this position, or the parent of this leg, whose fills may be missing.

        With only a part of the entry booked, the first slices of the exit would close the position, and the rest of the
        entry would open a second one. An outage exit without a position may belong to any working entry of the symbol.

        A leg becomes active only when its entry is completely filled. So a leg's fill proves missing fills of a working
        entry, even when a read of the broker shows none. This is no proof for a terminal entry: a replaced entry fills
        under another id, and no document says what happens to the legs of an entry cancelled after a partial fill.
        """
        exceeds_held = position is None or self._held_qty(position) < fill.quantity
        from_outage = "outage" in (row.origin, None if parent is None else parent.origin)
        entry_working = parent is not None and parent.order_purpose is Purpose.ENTRY and parent.is_working
        complete = self.given.entries_complete
        if not exceeds_held and not ((entry_working or from_outage) and not complete):
            return
        related = [] if position is None else list(self.rows.position_orders)
        related += [] if parent is None else [parent]
        if position is None:
            related += [order for order in self.rows.working if order.position_side is row.position_side]
        entry_ids = {
            order.alpaca_order_id
            for order in related
            if order.order_purpose is Purpose.ENTRY
            and order.filled_qty < order.quantity
            and (exceeds_held or order.is_working)
        } - {None}
        is_leg = parent is not None and parent.is_working and parent.alpaca_order_id in entry_ids
        if entry_ids and (is_leg or not complete):
            self.unread_entries |= {str(entry_id) for entry_id in entry_ids}

    def _record_oversold(self, row: OrderRow, position: PositionRow, fill: Fill, surplus: Decimal) -> None:
        """Record the surplus as orphan shares on the opposite side, until it is closed."""
        self.oversold.append(
            OversoldShares(
                row.symbol,
                machine.position_side_for(row.side, Purpose.ENTRY),
                surplus,
                surplus * fill.price,
                position.cycle_id,
                position.position_id,
            )
        )
        message = (
            f"exit order {row.order_id} filled {surplus} shares more than the position held; Catalyst closes them "
            "with an opposite order"
        )
        self.alerts.append(OrderAlert("OVERSOLD", row, message))
        self.reconcile = self.orphans_changed = True

    def _reduce_orphan(self, row: OrderRow, fill: Fill) -> None:
        """Reduce the symbol's orphan shares by an exit fill without a position; alert when there are none."""
        orphan = self.orphan_fills[-1].after if self.orphan_fills else self.rows.orphan
        if orphan is None:
            message = (
                f"exit order {row.order_id} filled {fill.quantity} @ {fill.price}, and no open position or orphan "
                "explains it; compare the shares with the broker's app"
            )
            self.alerts.append(OrderAlert("EXIT_WITHOUT_POSITION", row, message))
            return
        self.orphan_fills.append(OrphanFill(reduce_orphan(orphan, fill), row, fill))
        self.orphans_changed = True

    def _close_reason(self, row: OrderRow, position: PositionRow, fill: Fill) -> str:
        """Return "REASON: details": of the exit order's purpose, or of the open exit intent."""
        below, above = ("<=", ">=") if position.side is PositionSide.LONG else (">=", "<=")
        if row.origin == "external":
            return f"{CloseReason.EXTERNAL}: {row.symbol} @ ${fill.price}"
        intent_reason = self.rows.intent_reason
        if intent_reason is None and any(
            link.exit_order is not None and link.exit_order.order_id == row.order_id for link in self.links
        ):
            intent_reason = self.rows.outage_reason
        match row.order_purpose:
            case Purpose.TAKE_PROFIT if (
                row.replaces is not None and row.origin == "catalyst" and intent_reason
            ):
                return intent_reason  # the exit moved the take profit to the market price
            case Purpose.STOP_LOSS:
                level = row.stop_price or position.stop_loss
                return f"{CloseReason.STOP_LOSS_HIT}: {row.symbol} @ ${fill.price} {below} ${level}"
            case Purpose.TAKE_PROFIT:
                level = row.limit_price or position.take_profit
                return f"{CloseReason.TAKE_PROFIT_HIT}: {row.symbol} @ ${fill.price} {above} ${level}"
            case _:
                return intent_reason or f"{CloseReason.MANUAL}: {row.symbol} @ ${fill.price}"

    # -- alerts

    def _alert_unexpected(self, row: OrderRow, fill: Fill, filled_qty: Decimal) -> None:
        if filled_qty > row.quantity:
            message = (
                f"order {row.order_id} is for {row.quantity} shares and has filled {filled_qty}; the fill is booked,"
                " compare the shares with the broker's app"
            )
            self.alerts.append(OrderAlert("OVERFILLED", row, message))
            return
        message = (
            f"order {row.order_id} was {row.status} and filled {fill.quantity} @ {fill.price} afterwards; the fill"
            " is booked"
        )
        self.alerts.append(OrderAlert("LATE_FILL", row, message))

    def _quarantine(self, row: OrderRow, fill: Fill, reason: str) -> None:
        payload = {
            "broker_id": fill.broker_id,
            "cum_qty": str(fill.cum_qty),
            "qty": str(fill.quantity),
            "price": str(fill.price),
        }
        reason = f"order {row.order_id}: {reason}"
        alert = OrderAlert("FILL_UNEXPLAINED", row, reason)
        self.quarantined.append(QuarantineEntry(alert, "adjustment", reason, reason, payload))


def _contradiction(fill: Fill, executions: Sequence[ExecutionRow]) -> str | None:
    """Return why a fill contradicts the booked executions of its order; None when it does not."""
    start = fill.cum_qty - fill.quantity
    if fill.quantity <= 0 or start < 0:
        return f"{fill.quantity} shares of {fill.cum_qty} cannot fill"
    for each in executions:
        if start < each.cum_qty and each.cum_qty - each.quantity < fill.cum_qty:
            return (
                f"the fill {fill.quantity} @ {fill.price}, {fill.cum_qty} in all, contradicts the booked fill"
                f" {each.quantity} @ {each.price}, {each.cum_qty} in all"
            )
    return None


def reduce_orphan(orphan: Orphan, fill: Fill) -> Orphan:
    """Return the orphan after an exit fill; shares beyond it are not its own.

    The result is rounded once, to the cent.
    """
    taken = min(fill.quantity, orphan.quantity)
    exited, proceeds = orphan.exited_qty + taken, orphan.proceeds + taken * fill.price
    realized = None
    if orphan.cost is not None:
        gain = proceeds - orphan.cost * exited / orphan.found_qty
        gain = gain if orphan.side is PositionSide.LONG else -gain
        realized = gain.quantize(CENT, ROUND_HALF_EVEN)
    return replace(
        orphan, quantity=orphan.quantity - taken, exited_qty=exited, proceeds=proceeds, realized_pnl=realized
    )
