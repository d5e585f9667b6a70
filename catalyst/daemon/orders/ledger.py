"""Order ledger: applies broker reports; the only writer of fills, positions and reported order states.

Stream, polling, reconciliation, recovery and the responses to our own requests all call `apply_report`,
`apply_trade_update` or `apply_fill`. These are idempotent and independent of the order of arrival.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.changes import (
    OrderChanges,
    changes_of_batch,
    changes_of_opening_fill,
    changes_of_report,
    leg_purpose,
    leg_row,
    rejection_reason,
    row_after,
)
from catalyst.daemon.orders.last_known_state import LastKnownState
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.domain import order as machine
from catalyst.domain.errors import BrokerError, IllegalTransition, InvariantBroken
from catalyst.domain.ids import is_ours
from catalyst.domain.order import TERMINAL, EdgeKind, Purpose, Status, Verdict
from catalyst.domain.position import CloseReason, PositionState, PositionStatus, add_fill, reduce_by_fill
from catalyst.domain.report import Fill, OrderReport, TradeUpdate
from catalyst.domain.session import trading_date
from catalyst.store import alerts, exit_intents, orders, orphans, positions, quarantine, report_writes
from catalyst.store.constraint_errors import DuplicateRow, StaleRow
from catalyst.store.orders import NewOrder, OrderRow
from catalyst.store.pool import Store
from catalyst.store.positions import PositionRow
from catalyst.store.report_writes import OpeningFill

if TYPE_CHECKING:
    from catalyst.store.orders import Conn

log = structlog.get_logger()

MAX_CACHED_ROWS: Final = 1_024  # working orders


class MissingEntryFills(Exception):
    """An exit fill exceeds the booked entry fills; fills of the entries `entry_broker_ids` may be missing."""

    def __init__(self, entry_broker_ids: Sequence[str]) -> None:
        super().__init__(", ".join(entry_broker_ids))
        self.entry_broker_ids = tuple(entry_broker_ids)


@dataclass
class OrderLedger:
    """Writes broker reports to the database. `changed` is notified after every commit that changed something."""

    store: Store
    broker: Broker
    clock: Clock
    epoch: int
    config: CurrentConfig
    changed: ChangeSignal = field(default_factory=ChangeSignal)
    filled: ChangeSignal = field(default_factory=ChangeSignal)
    reconcile_requested: ChangeSignal = field(default_factory=ChangeSignal)  # full pass needed now
    unknown_broker_ids: set[str] = field(default_factory=set)  # reported broker ids without a row
    last_known: LastKnownState = field(default_factory=LastKnownState)
    # Notified when orphan shares appear or their number changes.
    orphan_found: ChangeSignal = field(default_factory=ChangeSignal)
    stale_reports: int = 0
    # Symbols with orders sent during a database outage and not yet linked to a position.
    unlinked_symbols: set[str] = field(default_factory=set)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pending_signals: set[ChangeSignal] = field(default_factory=set)  # signals to notify after the commit
    # Working orders as last written or read, by client order id, oldest first. A write based on a cached row checks
    # that the row is unchanged, so an outdated one costs only a second read.
    _row_cache: dict[str, OrderRow] = field(default_factory=dict)

    def write_lock(self) -> asyncio.Lock:
        """Return the writer lock; while it is held, no broker report is written."""
        return self._lock

    async def load_unlinked_symbols(self) -> None:
        """Load the symbols with outage orders of previous runs that are not linked to a position yet."""
        async with self.store.read() as conn:
            self.unlinked_symbols |= await orders.symbols_with_unlinked_orders(conn)

    def cache_row(self, row: OrderRow) -> None:
        """Cache a working row for its next report; remove a terminal one."""
        self._row_cache.pop(row.client_order_id, None)
        if row.status not in TERMINAL:
            self._row_cache[row.client_order_id] = row
        if len(self._row_cache) > MAX_CACHED_ROWS:
            del self._row_cache[next(iter(self._row_cache))]

    def cached_row(self, client_order_id: str) -> OrderRow | None:
        """Return the row as last written or read here; None when it is not cached."""
        return self._row_cache.get(client_order_id)

    async def apply_report(self, report: OrderReport, source: str) -> bool:
        """Apply a broker's report of one order and its legs; return false when the order has no row (external).

        When the broker shows more filled shares than are booked, the fills are fetched from the account activities
        first: a report moves a state and never creates a fill.
        """
        if await self._apply_simple(report, None, source) is not None:
            return True
        verdict = await self._apply(report, None, source)
        if verdict is Verdict.MISSING_FILLS:
            await self.fetch_missing_fills(report.broker_id, source)
            verdict = await self._apply(report, None, source)
            if verdict is Verdict.MISSING_FILLS:
                log.warning("fills_missing", broker_id=report.broker_id, broker_filled=str(report.filled_qty))
        for leg in report.legs:
            await self.apply_report(leg, source)
        return verdict is not None

    async def apply_trade_update(self, update: TradeUpdate) -> bool:
        """Apply one message of the stream: its fill and its state in one transaction.

        Return false when the order must be read from the broker: no row, an unknown status or a contradiction.
        """
        verdict = await self._apply_simple(update.order, update.fill, "stream")
        if verdict is None:
            verdict = await self._apply(update.order, update.fill, "stream")
        if verdict is Verdict.MISSING_FILLS:
            await self.apply_report(update.order, "stream")
        return verdict not in (None, Verdict.UNKNOWN, Verdict.CONTRADICTION)

    async def apply_batch(self, updates: Sequence[TradeUpdate]) -> int:
        """Apply the longest prefix of `updates` that holds only simple cases, in one transaction; return its length.

        Return 0, with nothing written, when the prefix has fewer than two messages or a cached row is outdated; the
        caller then applies the first message by itself.
        """
        async with self._lock:
            if any(update.order.symbol in self.unlinked_symbols for update in updates):
                return 0
            count, changes = changes_of_batch(self._row_cache, updates)
            if count < 2 or not await self._write_changes(changes, "stream"):
                return 0
        self._after_commit(changes, [update.order for update in updates[:count]])
        return count

    async def apply_fill(self, fill: Fill, source: str) -> bool:
        """Book one fill of the account activities; return true when it was not booked before."""
        return await self._book_or_defer(fill, source) or False

    async def _book_or_defer(self, fill: Fill, source: str) -> bool | None:
        """Book one fill; return None when an exit fill must wait until its entry fills are booked."""
        try:
            return await self._book_in_transaction(fill, source)
        except MissingEntryFills as missing:
            if not await self._entry_fills_complete(missing.entry_broker_ids, source):
                return None
        try:
            return await self._book_in_transaction(fill, source, entries_complete=True)
        except MissingEntryFills:
            return None

    async def _book_in_transaction(self, fill: Fill, source: str, *, entries_complete: bool = False) -> bool:
        async with self._lock, self.store.tx("book_fill") as conn:
            row = await orders.lock_by_report(conn, fill.broker_id, None)
            if row is None:
                self.unknown_broker_ids.add(fill.broker_id)
                return False
            booked = await self._book_fill(conn, row, fill, source, entries_complete=entries_complete)
        if booked:
            self.changed.notify()
            self.clock.slow_down_briefly()
            self.filled.notify()
        self._notify_pending()
        return booked

    async def fetch_missing_fills(self, broker_id: str, source: str) -> None:
        """Fetch all fills of one order from the account activities and book the missing ones."""
        try:
            fills = await self.broker.fills(order_id=broker_id, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("activities_read_failed", broker_id=broker_id, error=str(error))
            return
        for fill in fills:
            if await self._book_or_defer(fill, source) is None:
                return  # the later fills wait for the same entry fills

    async def _entry_fills_complete(self, entry_broker_ids: Sequence[str], source: str) -> bool:
        """Read and apply these entries and their replacements; return true when all their fills are booked.

        On false the exit fill has to wait. The legs in the reports are left out: the waiting exit fill may be a leg's,
        and applying the leg would read the entry again without end.
        """
        to_read = list(entry_broker_ids)
        while to_read:
            broker_id = to_read.pop()
            try:
                report = await self.broker.order(broker_id, priority=Priority.EXIT)
            except BrokerError as error:
                log.warning("entry_read_failed", broker_id=broker_id, error=str(error))
                return False
            await self.apply_report(replace(report, legs=()), source)
            async with self.store.read() as conn:
                rows = await orders.by_broker_ids(conn, [broker_id])
            if not rows or rows[0].filled_qty < report.filled_qty:
                return False
            to_read += [report.replaced_by] if report.replaced_by else []
        return True

    async def write_off(self, position_id: int, reason: str, source: str) -> bool:
        """Close a position whose shares are missing at the broker without a fill; its P&L beyond its fills is unknown.

        Return false when it is already closed. A fill that arrives later is still booked on it.
        """
        at = self.clock.now()
        async with self._lock, self.store.tx("write_off") as conn:
            position = await positions.lock(conn, position_id)
            if position.status == PositionStatus.CLOSED:
                return False
            why = (
                f"{reason}: {position.quantity} {position.symbol} are not at the broker; their P&L is unknown"
            )
            await positions.write_off(conn, position_id, at=at, close_reason=why)
            await exit_intents.end_intent(conn, position_id, state="abandoned", at=at)
            rows = await orders.of_position(conn, position_id)
            entry = next((row.order_id for row in rows if row.order_purpose is Purpose.ENTRY), None)
            payload = {
                "position_id": position_id,
                "quantity": str(position.quantity),
                "symbol": position.symbol,
            }
            await orders.journal(
                conn, entry, at=at, source=source, kind="adjustment", note=why, payload=payload
            )
            await quarantine.put(conn, source=source, reason=why, payload=payload, at=at)
            log.error("position_written_off", **payload)
            await alerts.put(
                conn,
                severity="CRITICAL",
                event="RECONCILED_PHANTOM",
                message=why,
                facts=payload,
                dedupe_key=f"RECONCILED_PHANTOM:{position_id}",
                at=at,
            )
        self.changed.notify()
        return True

    # -- a simple report, written by one statement

    async def _apply_simple(self, report: OrderReport, fill: Fill | None, source: str) -> Verdict | None:
        """Apply a simple report of an order and its legs, or the first fill of an entry, with at most one statement.

        Return None, with nothing written, when it is not a simple case. Cached rows are used only for changes whose
        statement checks that the rows are unchanged; without changes the rows are read.
        """
        if any(order_report.replaced_by is not None for order_report in (report, *report.legs)):
            return None  # the replacement has to be matched
        async with self._lock:
            if report.symbol in self.unlinked_symbols:
                return None  # outage orders may have to be linked to its position
            for cached_rows in (self._row_cache, None):
                rows = await self._load_rows(report) if cached_rows is None else cached_rows
                changes = (
                    changes_of_report(rows, report, source, fresh=cached_rows is None)
                    if fill is None
                    else changes_of_opening_fill(rows, report, fill)
                )
                if changes is None or (changes.is_empty and cached_rows is not None):
                    continue
                if await self._write_changes(changes, source):
                    break
            else:
                return None
        self._after_commit(changes, [report])
        return changes.verdict

    def _after_commit(self, changes: OrderChanges, reports: Sequence[OrderReport]) -> None:
        """Update counters and notify the waiting tasks, after the commit of these reports."""
        self.stale_reports += changes.stale_reports
        self.unknown_broker_ids -= {
            order_report.broker_id for report in reports for order_report in (report, *report.legs)
        }
        if not changes.is_empty:
            self.changed.notify()
            self.clock.slow_down_briefly()
        if changes.fills:
            self.filled.notify()

    async def _load_rows(self, report: OrderReport) -> dict[str, OrderRow]:
        """Read the current rows of an order and its legs, by client order id."""
        group = (report, *report.legs)
        async with self.store.read() as conn:
            rows = await orders.by_report(
                conn,
                [order_report.broker_id for order_report in group],
                [order_report.client_order_id for order_report in group],
            )
        return {row.client_order_id: row for row in rows}

    async def _write_changes(self, changes: OrderChanges, source: str) -> bool:
        """Write the changes by one statement; return false, with nothing written, when a row has changed."""
        if changes.is_empty:
            return True
        for update in changes.order_updates:
            self._row_cache.pop(update.row.client_order_id, None)  # cached again after the write
        now = self.clock.now()
        opening_fills = [
            OpeningFill(
                update, fill, add_fill(PositionState(update.row.position_side), fill.quantity, fill.price)
            )
            for update, fill in zip(changes.order_updates, changes.fills, strict=bool(changes.fills))
        ]
        try:
            async with self.store.order_statement("apply_report") as conn:
                if opening_fills:
                    position_ids = await report_writes.open_positions_from_fills(
                        conn, opening_fills, at=now, source=source, epoch=self.epoch
                    )
                else:
                    leg_ids = await report_writes.apply_order_updates(
                        conn, changes.order_updates, changes.new_legs, at=now, source=source, epoch=self.epoch
                    )
        except (DuplicateRow, StaleRow):
            return False
        for opening in opening_fills:
            row = opening.update.row
            self.cache_row(row_after(opening.update, opening.fill))
            _log_entry_fill(row, opening.fill, opening.position_state, position_ids[row.order_id])
        for update in () if opening_fills else changes.order_updates:
            self.cache_row(row_after(update))
            if update.new_status is not update.row.status:
                _log_transition(update.row, update.new_status, update.report, source)
        for new_leg in changes.new_legs:
            self.cache_row(leg_row(new_leg, leg_ids[new_leg.report.broker_id]))
            _log_leg_adopted(new_leg.parent, new_leg.purpose)
        return True

    def _notify_pending(self) -> None:
        """Notify the pending signals after the commit; a task woken earlier would not see the rows."""
        signals, self._pending_signals = self._pending_signals, set()
        for signal in signals:
            signal.notify()

    # -- any report, in one transaction

    async def _apply(self, report: OrderReport, fill: Fill | None, source: str) -> Verdict | None:
        """Book `fill`, then let the report move the state.

        Return None when the order has no row, or when an exit fill must wait for entry fills; the caller then has the
        order read from the broker.
        """
        try:
            return await self._apply_once(report, fill, source)
        except MissingEntryFills as missing:
            if not await self._entry_fills_complete(missing.entry_broker_ids, source):
                return None
        try:
            return await self._apply_once(report, fill, source, entries_complete=True)
        except MissingEntryFills:
            return None

    async def _apply_once(
        self, report: OrderReport, fill: Fill | None, source: str, *, entries_complete: bool = False
    ) -> Verdict | None:
        self._row_cache.pop(report.client_order_id, None)
        async with self._lock, self.store.tx("apply_report") as conn:
            row = await orders.lock_by_report(conn, report.broker_id, report.client_order_id)
            if row is None:
                self.unknown_broker_ids.add(report.broker_id)
                return None
            self.unknown_broker_ids.discard(report.broker_id)
            if not await self._match_order(conn, row, report, source):
                return Verdict.CONTRADICTION
            booked = fill is not None and await self._book_fill(
                conn, row, fill, source, entries_complete=entries_complete
            )
            if booked:
                row = await orders.get(conn, row.order_id)
            outcome = machine.outcome_of_report(row.state, report.broker_status, report.filled_qty)
            changed = await self._apply_outcome(conn, row, report, outcome, source)
            has_unknown_replacement = (
                changed
                and report.replaced_by is not None
                and not await orders.stored_broker_ids(conn, [report.replaced_by])
            )
            await self._adopt_legs(conn, row, report, source)
        if has_unknown_replacement:
            self.reconcile_requested.notify()  # reads today's orders, which include the replacement
        if changed or booked:
            self.changed.notify()
            self.clock.slow_down_briefly()
        if booked:
            self.filled.notify()
        self._notify_pending()
        return outcome.verdict

    async def _match_order(self, conn: "Conn", row: OrderRow, report: OrderReport, source: str) -> bool:
        """Store the broker id once, then the broker's status and a leg's new size; return false on a mismatch."""
        at = self.clock.now()
        already_reported = row.alpaca_order_id is not None and row.broker_status == report.broker_status
        if row.alpaca_order_id is None:
            await orders.set_broker_id(
                conn,
                row.order_id,
                broker_id=report.broker_id,
                broker_status=report.broker_status,
                at=at,
                epoch=self.epoch,
            )
        elif row.alpaca_order_id != report.broker_id:
            await self._quarantine_report(
                conn, row, report, source, "the broker shows another broker id for our client order id"
            )
            return False
        elif row.broker_status != report.broker_status:
            await orders.set_broker_status(conn, row.order_id, report.broker_status, at, epoch=self.epoch)
        if report.quantity != row.quantity:
            resized_leg = row.origin == "broker" and row.filled_qty <= report.quantity
            if not resized_leg:
                if not already_reported:  # quarantine once, not at every poll
                    await self._quarantine_report(
                        conn, row, report, source, "the quantity differs from the one we sent"
                    )
                return False
            await orders.resize(conn, row.order_id, report.quantity, at, source, epoch=self.epoch)
        return True

    async def _apply_outcome(
        self, conn: "Conn", row: OrderRow, report: OrderReport, outcome: machine.ReportOutcome, source: str
    ) -> bool:
        """Write the outcome; return true when a change was written that waiting tasks must see."""
        at = self.clock.now()
        match outcome.verdict:
            case Verdict.SAME:
                return row.broker_status != report.broker_status
            case Verdict.STALE:
                self.stale_reports += 1
                return False
            case Verdict.MISSING_FILLS:
                return False
            case Verdict.UNKNOWN:
                await self._quarantine_report(conn, row, report, source, "unknown broker status")
                return False
            case Verdict.CONTRADICTION:
                await self._quarantine_report(
                    conn, row, report, source, f"no transition from {row.status} to {outcome.then}"
                )
                return False
            case Verdict.MOVE:
                assert outcome.then is not None  # a MOVE always has a target status
                is_late = outcome.kind is EdgeKind.LATE
                await orders.transition(
                    conn,
                    row.order_id,
                    from_status=row.status,
                    to_status=outcome.then,
                    at=at,
                    source=source,
                    kind="late" if is_late else "transition",
                    note=report.broker_status,
                    rejection_reason=rejection_reason(report) if outcome.then is Status.REJECTED else None,
                    epoch=self.epoch,
                )
                if is_late:
                    await self._alert(conn, "ORDER_REVIVED", row, f"{row.status} order became {outcome.then}")
                _log_transition(row, outcome.then, report, source)
                return True

    async def _adopt_legs(self, conn: "Conn", row: OrderRow, report: OrderReport, source: str) -> None:
        """Insert a row for every reported leg that has none, in the transaction of the parent's report."""
        if not report.legs:
            return
        stored_ids = await orders.stored_broker_ids(conn, [leg.broker_id for leg in report.legs])
        position_id = (await orders.get(conn, row.order_id)).position_id
        at = self.clock.now()
        for leg in report.legs:
            if leg.broker_id in stored_ids or await self._is_requested_replacement(conn, leg):
                continue
            replaced = await self._replaced_row(conn, leg)
            purpose = leg_purpose(leg) if replaced is None else replaced.order_purpose
            await orders.insert(
                conn,
                NewOrder(
                    client_order_id=leg.client_order_id,
                    symbol=row.symbol,
                    purpose=purpose,
                    position_side=row.position_side,
                    side=machine.side_for(row.position_side, purpose),
                    quantity=leg.quantity,
                    order_type=leg.order_type,
                    time_in_force=leg.time_in_force,
                    order_class=leg.order_class,
                    origin="broker",
                    cycle_id=row.cycle_id,
                    position_id=position_id,
                    parent_order_id=row.order_id,
                    replaces=None if replaced is None else replaced.order_id,
                    limit_price=leg.limit_price,
                    stop_price=leg.stop_price,
                    alpaca_order_id=leg.broker_id,
                    broker_status=leg.broker_status,
                    epoch=self.epoch,
                ),
                status=Status.SUBMITTED,
                at=at,
                source=source,
                note=f"leg of order {row.order_id}",
            )
            self.unknown_broker_ids.discard(leg.broker_id)
            _log_leg_adopted(row, purpose)

    async def _is_requested_replacement(self, conn: "Conn", leg: OrderReport) -> bool:
        """Return true for a replacement we requested: its row exists under our client order id before the report."""
        return leg.replaces is not None and await orders.by_client_id(conn, leg.client_order_id) is not None

    async def _replaced_row(self, conn: "Conn", report: OrderReport) -> OrderRow | None:
        """Return the row of the order that `report` replaced: a triggered stop fills under a new id."""
        if report.replaces is None:
            return None
        rows = await orders.by_broker_ids(conn, [report.replaces])
        return rows[0] if rows else None

    # -- fills

    async def _book_fill(
        self, conn: "Conn", row: OrderRow, fill: Fill, source: str, *, entries_complete: bool = False
    ) -> bool:
        """Book one execution with everything it changes; return false when it was booked before or is quarantined.

        Raises MissingEntryFills for an exit fill when entry fills may be missing; `entries_complete` means that the
        broker has been read and shows no missing entry fill.
        """
        try:
            new_status, kind = machine.after_fill(row.state, fill.quantity)
        except (InvariantBroken, IllegalTransition) as error:
            if await self._is_booked(conn, row, fill, source):
                return False
            await self._quarantine_fill(conn, row, fill, source, str(error))
            return False
        inserted = await self._add_execution(conn, row, fill, source)
        if not inserted:
            return False
        await orders.recompute_filled(conn, row.order_id, self.clock.now(), epoch=self.epoch)
        await orders.transition(
            conn,
            row.order_id,
            from_status=row.status,
            to_status=new_status,
            at=self.clock.now(),
            source=source,
            kind="late" if kind is EdgeKind.LATE else "fill",
            note=report_writes.fill_note(fill.quantity, fill.price, fill.cum_qty),
            epoch=self.epoch,
        )
        if kind is EdgeKind.LATE:
            await self._alert(
                conn, "LATE_FILL", row, f"the {row.status} order filled {fill.quantity} @ {fill.price}"
            )
        if row.order_purpose is Purpose.ENTRY:
            await self._apply_entry_fill(conn, row, fill)
        else:
            await self._apply_exit_fill(conn, row, fill, entries_complete=entries_complete)
        return True

    async def _add_execution(self, conn: "Conn", row: OrderRow, fill: Fill, source: str) -> bool:
        """Insert the execution; return false when it exists, and add an id that it did not have."""
        return await orders.add_execution(
            conn,
            row.order_id,
            cum_qty=fill.cum_qty,
            quantity=fill.quantity,
            price=fill.price,
            at=fill.at,
            source=source,
            execution_id=fill.execution_id,
            activity_id=fill.activity_id,
        )

    async def _is_booked(self, conn: "Conn", row: OrderRow, fill: Fill, source: str) -> bool:
        """Return true when this execution is stored already; an id it did not have is added."""
        is_stored = await conn.fetchval(
            "SELECT quantity = $3 AND price = $4 FROM executions WHERE order_id = $1 AND cum_qty = $2",
            row.order_id,
            fill.cum_qty,
            fill.quantity,
            fill.price,
        )
        if is_stored:
            await self._add_execution(conn, row, fill, source)
        return bool(is_stored)

    async def _apply_entry_fill(self, conn: "Conn", row: OrderRow, fill: Fill) -> None:
        """Open the position with an entry fill, or add the fill to the open position."""
        if row.origin == "external" and not self._is_ours_to_protect(row, fill):
            await self._alert(
                conn, "FOREIGN_FILL", row, f"external order filled {fill.quantity} @ {fill.price}"
            )
            self._pending_signals.add(self.reconcile_requested)
            return
        position = (
            await positions.lock(conn, row.position_id)
            if row.position_id is not None
            else await positions.lock_open(conn, row.symbol, row.position_side)
        )
        if position is None or position.status == PositionStatus.CLOSED:
            new_state = add_fill(PositionState(row.position_side), fill.quantity, fill.price)
            position_id = await positions.insert(
                conn,
                cycle_id=row.cycle_id,
                security_id=row.security_id,
                state=new_state,
                stop_loss=row.bracket_stop,
                take_profit=row.bracket_target,
                at=fill.at,
            )
        else:
            new_state = add_fill(position.state, fill.quantity, fill.price)
            position_id = position.position_id
            await positions.update(conn, position_id, new_state, at=self.clock.now())
        legs = await self._legs(conn, row)
        unlinked = [order.order_id for order in (row, *legs) if order.position_id != position_id]
        await orders.link(conn, unlinked, position_id, self.clock.now(), epoch=self.epoch)
        await self._link_outage_orders(conn, row, position_id)
        _log_entry_fill(row, fill, new_state, position_id)

    async def _link_outage_orders(self, conn: "Conn", entry: OrderRow, position_id: int) -> None:
        """Link exits and stops sent during a database outage to the position that this entry fill opened."""
        if entry.symbol not in self.unlinked_symbols:
            return
        rows = await orders.unlinked(conn, entry.symbol, entry.position_side, since=entry.created_at)
        if not rows:
            return
        await orders.link(
            conn, [row.order_id for row in rows], position_id, self.clock.now(), epoch=self.epoch
        )
        await self._restore_intent(conn, rows, position_id)
        log.warning("orders_linked", symbol=entry.symbol, position_id=position_id, orders=len(rows))

    async def _link_by_exit_fill(self, conn: "Conn", row: OrderRow, parent: OrderRow | None) -> int | None:
        """Link an outage exit at its own fill: to the open position, if its entry was placed before the exit.

        Return the position's id, None when no position fits.
        """
        position = await positions.lock_open(conn, row.symbol, row.position_side)
        if position is None:
            return None
        exit_order = parent or row
        position_orders = await orders.of_position(conn, position.position_id)
        if not any(
            order.order_purpose is Purpose.ENTRY and order.created_at <= exit_order.created_at
            for order in position_orders
        ):
            return None
        unlinked = [
            order.order_id for order in (row, parent) if order is not None and order.position_id is None
        ]
        await orders.link(conn, unlinked, position.position_id, self.clock.now(), epoch=self.epoch)
        await self._restore_intent(conn, [row], position.position_id)
        return position.position_id

    async def _restore_intent(self, conn: "Conn", rows: Sequence[OrderRow], position_id: int) -> None:
        """Create the exit intent of an outage exit, with the reason stored in the order's first note."""
        exit_row = next((row for row in rows if row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN)), None)
        if exit_row is None:
            return
        await exit_intents.create_intent(
            conn,
            position_id,
            reason=await orders.first_note(conn, exit_row.order_id),
            purpose=exit_row.order_purpose,
            requested_by="outage",
            at=exit_row.created_at,
        )

    def _is_ours_to_protect(self, entry: OrderRow, fill: Fill) -> bool:
        """Return true when an external entry must be protected by Catalyst.

        This is so when the entry is linked, when its client order id is one of ours, or when a person placed it in a
        symbol we trade, `orphans` is not "alert", and this is its first fill, made today.
        """
        if entry.position_id is not None or is_ours(entry.client_order_id):
            return True
        is_today = trading_date(fill.at) == trading_date(self.clock.now())
        adopts = self.config.reconcile.orphans != "alert"
        return adopts and not entry.filled_qty and is_today and entry.symbol in self.last_known.symbols

    async def _legs(self, conn: "Conn", entry: OrderRow) -> list[OrderRow]:
        """Return the legs of an entry and of the orders it replaced: legs move to the replacement."""
        legs = await orders.legs_of(conn, entry.order_id)
        while entry.replaces is not None:
            entry = await orders.get(conn, entry.replaces)
            legs += await orders.legs_of(conn, entry.order_id)
        return legs

    async def _apply_exit_fill(
        self, conn: "Conn", row: OrderRow, fill: Fill, *, entries_complete: bool
    ) -> None:
        """Reduce the position by an exit fill; close it with its reason at zero shares."""
        parent = None if row.parent_order_id is None else await orders.get(conn, row.parent_order_id)
        position_id = row.position_id or (None if parent is None else parent.position_id)
        from_outage = "outage" in (row.origin, None if parent is None else parent.origin)
        if from_outage and position_id is None:
            position_id = await self._link_by_exit_fill(conn, row, parent)
        position = None if position_id is None else await positions.lock(conn, position_id)
        exceeds_held = position is None or position.quantity < fill.quantity
        entry_working = parent is not None and parent.order_purpose is Purpose.ENTRY and parent.is_working
        if exceeds_held or ((entry_working or from_outage) and not entries_complete):
            await self._require_entry_fills(
                conn, row, position, parent, exceeds_held=exceeds_held, entries_complete=entries_complete
            )
        if position_id is None or position is None:
            await self._reduce_orphan(conn, row, fill)
            return
        new_state, oversold = reduce_by_fill(position.state, fill.quantity, fill.price)
        if oversold:
            await self._record_oversold(conn, row, position, fill, oversold)
        if oversold == fill.quantity:
            return  # the position was closed before; its close time and reason stay
        reason = await self._close_reason(conn, row, position, fill)
        await positions.update(conn, position_id, new_state, at=fill.at, close_reason=reason)
        log.info(
            "exit_filled",
            symbol=row.symbol,
            purpose=row.order_purpose,
            qty=str(fill.quantity),
            price=str(fill.price),
            left=str(new_state.quantity),
            position_id=position_id,
        )
        if new_state.status is PositionStatus.CLOSED:
            await exit_intents.end_intent(conn, position_id, state="done", at=self.clock.now())
            log.info(
                "position_closed",
                symbol=row.symbol,
                reason=reason,
                realized_pnl=str(new_state.realized_pnl),
                position_id=position_id,
            )

    async def _require_entry_fills(
        self,
        conn: "Conn",
        row: OrderRow,
        position: PositionRow | None,
        parent: OrderRow | None,
        *,
        exceeds_held: bool,
        entries_complete: bool,
    ) -> None:
        """Raise MissingEntryFills when an entry of this position, or the parent of this leg, may have more fills.

        With only a part of the entry booked, the first slices of the exit would close the position, and the rest of the
        entry would open a second one. An outage exit without a position may belong to any working entry of the symbol.

        A leg becomes active only when its entry is completely filled. So a leg's fill proves missing fills of a working
        entry, even when a read of the broker shows none. This is no proof for a terminal entry: a replaced entry fills
        under another id, and no document says what happens to the legs of an entry cancelled after a partial fill.
        """
        related = [] if position is None else await orders.of_position(conn, position.position_id)
        related += [] if parent is None else [parent]
        if position is None and row.symbol in self.unlinked_symbols:
            working = await orders.working_of_symbol(conn, row.symbol)
            related += [order for order in working if order.position_side is row.position_side]
        entry_ids = {
            order.alpaca_order_id
            for order in related
            if order.order_purpose is Purpose.ENTRY
            and order.filled_qty < order.quantity
            and (exceeds_held or order.is_working)
        } - {None}
        is_leg = parent is not None and parent.is_working and parent.alpaca_order_id in entry_ids
        if entry_ids and (is_leg or not entries_complete):
            raise MissingEntryFills(sorted(str(entry_id) for entry_id in entry_ids))

    async def _record_oversold(
        self, conn: "Conn", row: OrderRow, position: PositionRow, fill: Fill, surplus: Decimal
    ) -> None:
        """Record the surplus as orphan shares on the opposite side, until it is closed."""
        opposite_side = machine.position_side_for(row.side, Purpose.ENTRY)
        await orphans.record(
            conn,
            row.symbol,
            opposite_side,
            surplus,
            at=self.clock.now(),
            cycle_id=position.cycle_id,
            position_id=position.position_id,
            cost=surplus * fill.price,
        )
        await self._alert(
            conn, "OVERSOLD", row, f"the exit filled {surplus} shares more than the position held"
        )
        self._pending_signals |= {self.reconcile_requested, self.orphan_found}

    async def _reduce_orphan(self, conn: "Conn", row: OrderRow, fill: Fill) -> None:
        """Reduce the symbol's orphan shares by an exit fill without a position; alert when there are none."""
        orphan = await orphans.lock_open(conn, row.symbol, row.position_side)
        if orphan is None:
            await self._alert(
                conn, "EXIT_WITHOUT_POSITION", row, f"exit filled {fill.quantity} @ {fill.price}"
            )
            return
        remaining = await orphans.reduce(conn, orphan, fill.quantity, fill.price, at=fill.at)
        log.info(
            "orphan_reduced",
            symbol=row.symbol,
            purpose=row.order_purpose,
            qty=str(fill.quantity),
            price=str(fill.price),
            left=str(remaining.quantity),
            realized_pnl=_text_or_none(remaining.realized_pnl),
        )
        self._pending_signals.add(self.orphan_found)

    async def _close_reason(self, conn: "Conn", row: OrderRow, position: PositionRow, fill: Fill) -> str:
        """Return "REASON: details": of the exit order's purpose, or of the open exit intent."""
        below, above = ("<=", ">=") if position.side is machine.PositionSide.LONG else (">=", "<=")
        if row.origin == "external":
            return f"{CloseReason.EXTERNAL}: {row.symbol} @ ${fill.price}"
        match row.order_purpose:
            case Purpose.TAKE_PROFIT if (
                row.replaces is not None
                and row.origin == "catalyst"
                and (intent := await exit_intents.open_intent_of(conn, position.position_id)) is not None
            ):
                return intent.reason  # the exit moved the take profit to the market price
            case Purpose.STOP_LOSS:
                level = row.stop_price or position.stop_loss
                return f"{CloseReason.STOP_LOSS_HIT}: {row.symbol} @ ${fill.price} {below} ${level}"
            case Purpose.TAKE_PROFIT:
                level = row.limit_price or position.take_profit
                return f"{CloseReason.TAKE_PROFIT_HIT}: {row.symbol} @ ${fill.price} {above} ${level}"
            case _:
                intent = await exit_intents.open_intent_of(conn, position.position_id)
                return intent.reason if intent else f"{CloseReason.MANUAL}: {row.symbol} @ ${fill.price}"

    # -- quarantine and alerts

    async def _quarantine_report(
        self, conn: "Conn", row: OrderRow, report: OrderReport, source: str, why: str
    ) -> None:
        """Store a report that cannot be applied in journal and quarantine, and alert."""
        at = self.clock.now()
        await orders.journal(
            conn,
            row.order_id,
            at=at,
            source=source,
            kind="unknown",
            note=f"{why}: {report.broker_status}",
            payload=report.raw,
        )
        await quarantine.put(conn, source=source, reason=why, payload=report.raw, at=at)
        event = "UNKNOWN_BROKER_STATUS" if "unknown broker status" in why else "ORDER_CONTRADICTION"
        await self._alert(conn, event, row, f"{why}: {report.broker_status}")

    async def _quarantine_fill(self, conn: "Conn", row: OrderRow, fill: Fill, source: str, why: str) -> None:
        """Store a fill that cannot be booked in journal and quarantine, and alert."""
        at = self.clock.now()
        payload = {
            "broker_id": fill.broker_id,
            "cum_qty": str(fill.cum_qty),
            "qty": str(fill.quantity),
            "price": str(fill.price),
        }
        await orders.journal(
            conn, row.order_id, at=at, source=source, kind="adjustment", note=why, payload=payload
        )
        await quarantine.put(conn, source=source, reason=why, payload=payload, at=at)
        await self._alert(conn, "FILL_UNEXPLAINED", row, why)

    async def _alert(self, conn: "Conn", event: str, row: OrderRow, message: str) -> None:
        """Write a CRITICAL alert to the outbox, in the transaction of its cause."""
        log.error(event.lower(), order_id=row.order_id, symbol=row.symbol, message=message)
        await alerts.put(
            conn,
            severity="CRITICAL",
            event=event,
            message=f"{row.symbol}: {message}",
            facts={"order_id": row.order_id, "symbol": row.symbol, "purpose": row.order_purpose},
            dedupe_key=f"{event}:{row.order_id}",
            at=self.clock.now(),
        )


def _log_transition(row: OrderRow, new_status: Status, report: OrderReport, source: str) -> None:
    event = f"order_{new_status}"
    log.info(
        event,
        order_id=row.order_id,
        symbol=row.symbol,
        purpose=row.order_purpose,
        side=row.side,
        qty=str(row.quantity),
        broker_status=report.broker_status,
        source=source,
    )


def _log_leg_adopted(parent: OrderRow, purpose: Purpose) -> None:
    log.info("leg_adopted", order_id=parent.order_id, symbol=parent.symbol, purpose=purpose)


def _log_entry_fill(row: OrderRow, fill: Fill, state: PositionState, position_id: int) -> None:
    log.info(
        "entry_filled",
        symbol=row.symbol,
        side=row.position_side,
        qty=str(fill.quantity),
        price=str(fill.price),
        held=str(state.quantity),
        of=str(row.quantity),
        stop=_text_or_none(row.bracket_stop),
        target=_text_or_none(row.bracket_target),
        position_id=position_id,
    )


def _text_or_none(price: Decimal | None) -> str | None:
    return None if price is None else str(price)
