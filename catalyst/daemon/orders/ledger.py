"""The one door: every word a broker says about an order comes through here, whoever brought it.

Stream, polling, reconciliation, recovery and the answer to our own request all call `hear` or `book`. Both are
idempotent and blind to order. Nothing else writes order states, fills or positions.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock
from catalyst.config.schema import ReconcileConfig
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

MAX_CACHED_ROWS: Final = 1_024  # orders at work


class MissingEntryFills(Exception):
    """An exit filled for more shares than are booked as bought: fills of these entries, by the broker's ids, may have
    been missed."""

    def __init__(self, entry_broker_ids: Sequence[str]) -> None:
        super().__init__(", ".join(entry_broker_ids))
        self.entry_broker_ids = tuple(entry_broker_ids)


@dataclass
class OrderLedger:
    """Its fields are all it can touch. `changed` beats after every commit that changed something."""

    store: Store
    broker: Broker
    clock: Clock
    epoch: int
    changed: ChangeSignal = field(default_factory=ChangeSignal)
    filled: ChangeSignal = field(default_factory=ChangeSignal)
    reconcile_requested: ChangeSignal = field(
        default_factory=ChangeSignal
    )  # the broker should be asked for everything at once
    unknown_broker_ids: set[str] = field(
        default_factory=set
    )  # broker ids we heard of and have no row for yet
    last_known: LastKnownState = field(default_factory=LastKnownState)
    cfg: ReconcileConfig = field(
        default_factory=ReconcileConfig
    )  # what becomes of what a person buys of a symbol of ours
    orphan_found: ChangeSignal = field(
        default_factory=ChangeSignal
    )  # shares that no position explains were found
    stale_reports: int = 0
    # Symbols left or protected without the tables, whose position these do not know yet.
    unlinked_symbols: set[str] = field(default_factory=set)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    _pending_signals: set[ChangeSignal] = field(
        default_factory=set
    )  # pulses to beat once what they tell of is committed
    # Orders as they were last written or read, by our own id, oldest first. What rests on one is written only if
    # the row is still the same, so an old one costs a second look and nothing else.
    _row_cache: dict[str, OrderRow] = field(default_factory=dict)

    def write_lock(self) -> asyncio.Lock:
        """While it is held, nothing the broker says is written."""
        return self._lock

    async def load_unlinked_symbols(self) -> None:
        """Know what an earlier life has left without the tables, and not tied to a position yet."""
        async with self.store.read() as conn:
            self.unlinked_symbols |= await orders.symbols_with_unlinked_orders(conn)

    def cache_row(self, row: OrderRow) -> None:
        """Keep a row for what is said of it next."""
        self._row_cache.pop(row.client_order_id, None)
        if row.status not in TERMINAL:
            self._row_cache[row.client_order_id] = row
        if len(self._row_cache) > MAX_CACHED_ROWS:
            del self._row_cache[next(iter(self._row_cache))]

    def cached_row(self, client_order_id: str) -> OrderRow | None:
        """The row as it was last written or read here."""
        return self._row_cache.get(client_order_id)

    async def apply_report(self, report: OrderReport, source: str) -> bool:
        """Apply what the broker shows of one order and its legs; false when it is a stranger's.

        When the broker has filled more than we booked, the ledger is asked for the fills first: a report moves
        a state, it never invents a fill.
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

        False when the broker should be asked: a stranger's order, or a word that says nothing to us.
        """
        verdict = await self._apply_simple(update.order, update.fill, "stream")
        if verdict is None:
            verdict = await self._apply(update.order, update.fill, "stream")
        if verdict is Verdict.MISSING_FILLS:
            await self.apply_report(update.order, "stream")
        return verdict not in (None, Verdict.UNKNOWN, Verdict.CONTRADICTION)

    async def apply_batch(self, updates: Sequence[TradeUpdate]) -> int:
        """Apply as many of the first of these messages as are plain cases, in one transaction; how many those were.

        One alone is no gain, and when a row is no longer as it is remembered nothing is written: 0 then, and the first
        is to be heard by itself.
        """
        async with self._lock:
            if any(update.order.symbol in self.unlinked_symbols for update in updates):
                return 0
            count, stroke = changes_of_batch(self._row_cache, updates)
            if count < 2 or not await self._write_changes(stroke, "stream"):
                return 0
        self._after_commit(stroke, [update.order for update in updates[:count]])
        return count

    async def apply_fill(self, fill: Fill, source: str) -> bool:
        """Book one fill of the ledger; true when it was not booked before."""
        return await self._book_or_defer(fill, source) or False

    async def _book_or_defer(self, fill: Fill, source: str) -> bool | None:
        """The same; None when it has to wait until what it sold is booked as bought."""
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
        """Ask the activities ledger for every fill of one order, and book what is missing."""
        try:
            found = await self.broker.fills(order_id=broker_id, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("activities_read_failed", broker_id=broker_id, error=str(error))
            return
        for fill in found:
            if await self._book_or_defer(fill, source) is None:
                return  # the fills behind it wait for the same

    async def _entry_fills_complete(self, entry_broker_ids: Sequence[str], source: str) -> bool:
        """Hear these entries, and what took their place; true when all the broker says of their fills is booked.

        Otherwise what was sold has to wait until it is booked as bought. Their legs are not heard along: what a leg has
        sold is what waits here, and would ask for its entry again, without an end.
        """
        waiting = list(entry_broker_ids)
        while waiting:
            broker_id = waiting.pop()
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
            waiting += [report.replaced_by] if report.replaced_by else []
        return True

    async def write_off(self, position_id: int, reason: str, source: str) -> bool:
        """Close a position whose shares are gone and that no fill explains; its P&L beyond its fills is unknown.

        False when it is closed by now. A fill that turns up later is booked on it all the same.
        """
        at = self.clock.now()
        async with self._lock, self.store.tx("write_off") as conn:
            held = await positions.lock(conn, position_id)
            if held.status == PositionStatus.CLOSED:
                return False
            why = f"{reason}: {held.quantity} {held.symbol} are not at the broker; P&L of them unknown"
            await positions.write_off(conn, position_id, at=at, close_reason=why)
            await exit_intents.end_intent(conn, position_id, state="abandoned", at=at)
            rows = await orders.of_position(conn, position_id)
            entry = next((row.order_id for row in rows if row.order_purpose is Purpose.ENTRY), None)
            payload = {"position_id": position_id, "quantity": str(held.quantity), "symbol": held.symbol}
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

    # -- a plain report, one statement

    async def _apply_simple(self, report: OrderReport, fill: Fill | None, source: str) -> Verdict | None:
        """Let a plain report of an order and its legs, or the first fill of an entry, have its effect: by one
        statement, by none when it says nothing new. None when it is no plain case; then nothing was written.

        What is remembered is believed only where the statement itself looks whether it is still so.
        """
        if any(one.replaced_by is not None for one in (report, *report.legs)):
            return None  # who took its place is a question
        async with self._lock:
            if report.symbol in self.unlinked_symbols:
                return None  # its position is more than its own entry
            for rows in (self._row_cache, None):
                known = await self._load_rows(report) if rows is None else rows
                stroke = (
                    changes_of_report(known, report, source, fresh=rows is None)
                    if fill is None
                    else changes_of_opening_fill(known, report, fill)
                )
                if stroke is None or (stroke.is_empty and rows is not None):
                    continue
                if await self._write_changes(stroke, source):
                    break
            else:
                return None
        self._after_commit(stroke, [report])
        return stroke.verdict

    def _after_commit(self, changes: OrderChanges, reports: Sequence[OrderReport]) -> None:
        """Whoever waits for what these reports told of is woken: it is committed."""
        self.stale_reports += changes.stale_reports
        self.unknown_broker_ids -= {one.broker_id for report in reports for one in (report, *report.legs)}
        if not changes.is_empty:
            self.changed.notify()
            self.clock.slow_down_briefly()
        if changes.fills:
            self.filled.notify()

    async def _load_rows(self, report: OrderReport) -> dict[str, OrderRow]:
        """The rows of an order and its legs as they are now, by our own ids."""
        family = (report, *report.legs)
        async with self.store.read() as conn:
            rows = await orders.by_report(
                conn, [one.broker_id for one in family], [one.client_order_id for one in family]
            )
        return {row.client_order_id: row for row in rows}

    async def _write_changes(self, changes: OrderChanges, source: str) -> bool:
        """Write it; false when a row was no longer as it was seen, and nothing was written."""
        if changes.is_empty:
            return True
        for step in changes.order_updates:
            self._row_cache.pop(step.row.client_order_id, None)  # whatever becomes of it
        now = self.clock.now()
        entries = [
            OpeningFill(
                step, fill, add_fill(PositionState(step.row.position_side), fill.quantity, fill.price)
            )
            for step, fill in zip(changes.order_updates, changes.fills, strict=bool(changes.fills))
        ]
        try:
            async with self.store.order_statement("apply_report") as conn:
                if entries:
                    held = await report_writes.open_positions_from_fills(
                        conn, entries, at=now, source=source, epoch=self.epoch
                    )
                else:
                    legs = await report_writes.apply_order_updates(
                        conn, changes.order_updates, changes.new_legs, at=now, source=source, epoch=self.epoch
                    )
        except (DuplicateRow, StaleRow):
            return False
        for entry in entries:
            row = entry.update.row
            self.cache_row(row_after(entry.update, entry.fill))
            _log_entry_fill(row, entry.fill, entry.position_state, held[row.order_id])
        for step in () if entries else changes.order_updates:
            self.cache_row(row_after(step))
            if step.new_status is not step.row.status:
                _log_transition(step.row, step.new_status, step.report, source)
        for birth in changes.new_legs:
            self.cache_row(leg_row(birth, legs[birth.report.broker_id]))
            _log_leg_adopted(birth.parent, birth.purpose)
        return True

    def _notify_pending(self) -> None:
        """Wake those who look for what was just committed: woken before, they would not find it."""
        news, self._pending_signals = self._pending_signals, set()
        for pulse in news:
            pulse.notify()

    # -- one report, one transaction

    async def _apply(self, report: OrderReport, fill: Fill | None, source: str) -> Verdict | None:
        """Book `fill`, then let the report move the state. None when we have no row for the order, or when it sold
        what is not booked as bought yet: then everything is asked for."""
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
            unseen = (
                changed
                and report.replaced_by is not None
                and not await orders.stored_broker_ids(conn, [report.replaced_by])
            )
            await self._adopt_legs(conn, row, report, source)
        if unseen:
            self.reconcile_requested.notify()  # the order that took its place has no row: it is among those of the day
        if changed or booked:
            self.changed.notify()
            self.clock.slow_down_briefly()
        if booked:
            self.filled.notify()
        self._notify_pending()
        return outcome.verdict

    async def _match_order(self, conn: "Conn", row: OrderRow, report: OrderReport, source: str) -> bool:
        """Write the broker's id the first time it is shown, and follow its word and its size."""
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
                conn, row, report, source, "another broker id under our client order id"
            )
            return False
        elif row.broker_status != report.broker_status:
            await orders.set_broker_status(conn, row.order_id, report.broker_status, at, epoch=self.epoch)
        if report.quantity != row.quantity:
            resized_leg = row.origin == "broker" and row.filled_qty <= report.quantity
            if not resized_leg:
                if not already_reported:  # said once, not at every poll
                    await self._quarantine_report(
                        conn, row, report, source, "the quantity is not the one we sent"
                    )
                return False
            await orders.resize(conn, row.order_id, report.quantity, at, source, epoch=self.epoch)
        return True

    async def _apply_outcome(
        self, conn: "Conn", row: OrderRow, report: OrderReport, outcome: machine.ReportOutcome, source: str
    ) -> bool:
        """Follow the verdict; true when something was written that others wait for."""
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
                await self._quarantine_report(conn, row, report, source, "a status we do not know")
                return False
            case Verdict.CONTRADICTION:
                await self._quarantine_report(
                    conn, row, report, source, f"no way from {row.status} to {outcome.then}"
                )
                return False
            case Verdict.MOVE:
                assert outcome.then is not None  # a move names its end
                late = outcome.kind is EdgeKind.LATE
                await orders.transition(
                    conn,
                    row.order_id,
                    from_status=row.status,
                    to_status=outcome.then,
                    at=at,
                    source=source,
                    kind="late" if late else "transition",
                    note=report.broker_status,
                    rejection_reason=rejection_reason(report) if outcome.then is Status.REJECTED else None,
                    epoch=self.epoch,
                )
                if late:
                    await self._alert(conn, "ORDER_REVIVED", row, f"{row.status} became {outcome.then}")
                _log_transition(row, outcome.then, report, source)
                return True

    async def _adopt_legs(self, conn: "Conn", row: OrderRow, report: OrderReport, source: str) -> None:
        """Give every leg the broker shows its row, in the transaction of the parent's answer."""
        if not report.legs:
            return
        known = await orders.stored_broker_ids(conn, [leg.broker_id for leg in report.legs])
        position_id = (await orders.get(conn, row.order_id)).position_id
        at = self.clock.now()
        for leg in report.legs:
            if leg.broker_id in known or await self._is_requested_replacement(conn, leg):
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
        """True for a replacement that we asked for: it has its row, by our id, before the broker names it."""
        return leg.replaces is not None and await orders.by_client_id(conn, leg.client_order_id) is not None

    async def _replaced_row(self, conn: "Conn", report: OrderReport) -> OrderRow | None:
        """Our row of the order that `report` took the place of: a triggered stop fills under a new id."""
        if report.replaces is None:
            return None
        found = await orders.by_broker_ids(conn, [report.replaces])
        return found[0] if found else None

    # -- one fill

    async def _book_fill(
        self, conn: "Conn", row: OrderRow, fill: Fill, source: str, *, entries_complete: bool = False
    ) -> bool:
        """Book one execution with everything it changes; false when it was booked before.

        Raises Uncovered for an exit's fill of more shares than are booked as bought, where an entry may have filled
        further; `covered` says that the broker was asked, and denies it.
        """
        try:
            then, kind = machine.after_fill(row.state, fill.quantity)
        except (InvariantBroken, IllegalTransition) as error:
            if await self._is_booked(conn, row, fill, source):
                return False
            await self._quarantine_fill(conn, row, fill, source, str(error))
            return False
        fresh = await self._add_execution(conn, row, fill, source)
        if not fresh:
            return False
        await orders.recompute_filled(conn, row.order_id, self.clock.now(), epoch=self.epoch)
        await orders.transition(
            conn,
            row.order_id,
            from_status=row.status,
            to_status=then,
            at=self.clock.now(),
            source=source,
            kind="late" if kind is EdgeKind.LATE else "fill",
            note=report_writes.fill_note(fill.quantity, fill.price, fill.cum_qty),
            epoch=self.epoch,
        )
        if kind is EdgeKind.LATE:
            await self._alert(conn, "LATE_FILL", row, f"{row.status} filled {fill.quantity} @ {fill.price}")
        if row.order_purpose is Purpose.ENTRY:
            await self._apply_entry_fill(conn, row, fill)
        else:
            await self._apply_exit_fill(conn, row, fill, entries_complete=entries_complete)
        return True

    async def _add_execution(self, conn: "Conn", row: OrderRow, fill: Fill, source: str) -> bool:
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
        """True when the ledger has this very slice already; its other id is kept."""
        found = await conn.fetchval(
            "SELECT quantity = $3 AND price = $4 FROM executions WHERE order_id = $1 AND cum_qty = $2",
            row.order_id,
            fill.cum_qty,
            fill.quantity,
            fill.price,
        )
        if found:
            await self._add_execution(conn, row, fill, source)
        return bool(found)

    async def _apply_entry_fill(self, conn: "Conn", row: OrderRow, fill: Fill) -> None:
        """An entry fill opens the position, or adds to the one this entry opened."""
        if row.origin == "external" and not self._is_ours_to_protect(row, fill):
            await self._alert(conn, "FOREIGN_FILL", row, f"{fill.quantity} @ {fill.price}")
            self._pending_signals.add(self.reconcile_requested)
            return
        held = (
            await positions.lock(conn, row.position_id)
            if row.position_id is not None
            else await positions.lock_open(conn, row.symbol, row.position_side)
        )
        if held is None or held.status == PositionStatus.CLOSED:
            holding = add_fill(PositionState(row.position_side), fill.quantity, fill.price)
            position_id = await positions.insert(
                conn,
                cycle_id=row.cycle_id,
                security_id=row.security_id,
                state=holding,
                stop_loss=row.bracket_stop,
                take_profit=row.bracket_target,
                at=fill.at,
            )
        else:
            holding = add_fill(held.state, fill.quantity, fill.price)
            position_id = held.position_id
            await positions.update(conn, position_id, holding, at=self.clock.now())
        legs = await self._legs(conn, row)
        unlinked = [order.order_id for order in (row, *legs) if order.position_id != position_id]
        await orders.link(conn, unlinked, position_id, self.clock.now(), epoch=self.epoch)
        await self._link_outage_orders(conn, row, position_id)
        _log_entry_fill(row, fill, holding, position_id)

    async def _link_outage_orders(self, conn: "Conn", entry: OrderRow, position_id: int) -> None:
        """What left or was protected without the tables, before these heard of this fill, is this position's."""
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
        """The same by the exit's own fill: the position that is open, when its entry was placed before the exit."""
        held = await positions.lock_open(conn, row.symbol, row.position_side)
        if held is None:
            return None
        top = parent or row
        family = await orders.of_position(conn, held.position_id)
        if not any(o.order_purpose is Purpose.ENTRY and o.created_at <= top.created_at for o in family):
            return None
        ids = [one.order_id for one in (row, parent) if one is not None and one.position_id is None]
        await orders.link(conn, ids, held.position_id, self.clock.now(), epoch=self.epoch)
        await self._restore_intent(conn, [row], held.position_id)
        return held.position_id

    async def _restore_intent(self, conn: "Conn", rows: Sequence[OrderRow], position_id: int) -> None:
        """What left for a reason leaves its position for it."""
        leaving = next((row for row in rows if row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN)), None)
        if leaving is None:
            return
        await exit_intents.create_intent(
            conn,
            position_id,
            reason=await orders.first_note(conn, leaving.order_id),
            purpose=leaving.order_purpose,
            requested_by="outage",
            at=leaving.created_at,
        )

    def _is_ours_to_protect(self, entry: OrderRow, fill: Fill) -> bool:
        """True when an entry without our record is ours to protect: one whose id was derived here, or a person's of a
        symbol we trade, today, and from its first share."""
        if entry.position_id is not None or is_ours(entry.client_order_id):
            return True
        today = trading_date(fill.at) == trading_date(self.clock.now())
        adopts = self.cfg.orphans != "alert"
        return adopts and not entry.filled_qty and today and entry.symbol in self.last_known.symbols

    async def _legs(self, conn: "Conn", entry: OrderRow) -> list[OrderRow]:
        """The legs of an entry, those of the orders it took the place of included: they moved with it."""
        legs = await orders.legs_of(conn, entry.order_id)
        while entry.replaces is not None:
            entry = await orders.get(conn, entry.replaces)
            legs += await orders.legs_of(conn, entry.order_id)
        return legs

    async def _apply_exit_fill(
        self, conn: "Conn", row: OrderRow, fill: Fill, *, entries_complete: bool
    ) -> None:
        """An exit fill reduces its position; at zero it is closed with its reason."""
        parent = None if row.parent_order_id is None else await orders.get(conn, row.parent_order_id)
        position_id = row.position_id or (None if parent is None else parent.position_id)
        from_outage = "outage" in (row.origin, None if parent is None else parent.origin)
        if from_outage and position_id is None:
            position_id = await self._link_by_exit_fill(conn, row, parent)
        held = None if position_id is None else await positions.lock(conn, position_id)
        short = held is None or held.quantity < fill.quantity
        filling = parent is not None and parent.order_purpose is Purpose.ENTRY and parent.is_working
        if short or ((filling or from_outage) and not entries_complete):
            await self._require_entry_fills(
                conn, row, held, parent, exceeds_held=short, entries_complete=entries_complete
            )
        if position_id is None or held is None:
            await self._reduce_orphan(conn, row, fill)
            return
        holding, oversold = reduce_by_fill(held.state, fill.quantity, fill.price)
        if oversold:
            await self._record_oversold(conn, row, held, fill, oversold)
        if oversold == fill.quantity:
            return  # it was closed before, at its own time and for its own reason
        reason = await self._close_reason(conn, row, held, fill)
        await positions.update(conn, position_id, holding, at=fill.at, close_reason=reason)
        log.info(
            "exit_filled",
            symbol=row.symbol,
            purpose=row.order_purpose,
            qty=str(fill.quantity),
            price=str(fill.price),
            left=str(holding.quantity),
            position_id=position_id,
        )
        if holding.status is PositionStatus.CLOSED:
            await exit_intents.end_intent(conn, position_id, state="done", at=self.clock.now())
            log.info(
                "position_closed",
                symbol=row.symbol,
                reason=reason,
                realized_pnl=str(holding.realized_pnl),
                position_id=position_id,
            )

    async def _require_entry_fills(
        self,
        conn: "Conn",
        row: OrderRow,
        held: PositionRow | None,
        parent: OrderRow | None,
        *,
        exceeds_held: bool,
        entries_complete: bool,
    ) -> None:
        """Raise Uncovered when an entry of this position, or the one whose leg it is, may have filled further: with a
        part of it booked, the first slices of the exit would close the position, and its rest be one of its own. What
        left without the tables, and has no position yet, may be any entry's of the symbol that works.

        A leg lives only once its entry has filled completely: that is stronger than a read that denies it. Not so once
        the entry is at its end: one that was replaced fills under another id, and what becomes of the legs of one that
        was cancelled after a partial fill, no document says.
        """
        family = [] if held is None else await orders.of_position(conn, held.position_id)
        family += [] if parent is None else [parent]
        if held is None and row.symbol in self.unlinked_symbols:
            working = await orders.working_of_symbol(conn, row.symbol)
            family += [order for order in working if order.position_side is row.position_side]
        entries = {
            order.alpaca_order_id
            for order in family
            if order.order_purpose is Purpose.ENTRY
            and order.filled_qty < order.quantity
            and (exceeds_held or order.is_working)
        } - {None}
        is_leg = parent is not None and parent.is_working and parent.alpaca_order_id in entries
        if entries and (is_leg or not entries_complete):
            raise MissingEntryFills(sorted(str(each) for each in entries))

    async def _record_oversold(
        self, conn: "Conn", row: OrderRow, held: PositionRow, fill: Fill, surplus: Decimal
    ) -> None:
        """The surplus is on the other side now, and stays on record until it is bought back."""
        other = machine.position_side_for(row.side, Purpose.ENTRY)
        await orphans.record(
            conn,
            row.symbol,
            other,
            surplus,
            at=self.clock.now(),
            cycle_id=held.cycle_id,
            position_id=held.position_id,
            cost=surplus * fill.price,
        )
        await self._alert(conn, "OVERSOLD", row, f"{surplus} shares more than were held")
        self._pending_signals |= {self.reconcile_requested, self.orphan_found}

    async def _reduce_orphan(self, conn: "Conn", row: OrderRow, fill: Fill) -> None:
        """The fill of an exit without a position takes shares that no position explains, when there are such."""
        orphan = await orphans.lock_open(conn, row.symbol, row.position_side)
        if orphan is None:
            await self._alert(conn, "EXIT_WITHOUT_POSITION", row, f"{fill.quantity} @ {fill.price}")
            return
        left = await orphans.reduce(conn, orphan, fill.quantity, fill.price, at=fill.at)
        log.info(
            "orphan_reduced",
            symbol=row.symbol,
            purpose=row.order_purpose,
            qty=str(fill.quantity),
            price=str(fill.price),
            left=str(left.quantity),
            realized_pnl=_text_or_none(left.realized_pnl),
        )
        self._pending_signals.add(self.orphan_found)

    async def _close_reason(self, conn: "Conn", row: OrderRow, held: PositionRow, fill: Fill) -> str:
        below, above = ("<=", ">=") if held.side is machine.PositionSide.LONG else (">=", "<=")
        if row.origin == "external":
            return f"{CloseReason.EXTERNAL}: {row.symbol} @ ${fill.price}"
        match row.order_purpose:
            case Purpose.TAKE_PROFIT if (
                row.replaces is not None
                and row.origin == "catalyst"
                and (intent := await exit_intents.open_intent_of(conn, held.position_id)) is not None
            ):
                return intent.reason  # the target was moved to the market, to leave
            case Purpose.STOP_LOSS:
                level = row.stop_price or held.stop_loss
                return f"{CloseReason.STOP_LOSS_HIT}: {row.symbol} @ ${fill.price} {below} ${level}"
            case Purpose.TAKE_PROFIT:
                level = row.limit_price or held.take_profit
                return f"{CloseReason.TAKE_PROFIT_HIT}: {row.symbol} @ ${fill.price} {above} ${level}"
            case _:
                intent = await exit_intents.open_intent_of(conn, held.position_id)
                return intent.reason if intent else f"{CloseReason.MANUAL}: {row.symbol} @ ${fill.price}"

    # -- what could not be understood is kept, and somebody is told

    async def _quarantine_report(
        self, conn: "Conn", row: OrderRow, report: OrderReport, source: str, why: str
    ) -> None:
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
        event = "UNKNOWN_BROKER_STATUS" if "do not know" in why else "ORDER_CONTRADICTION"
        await self._alert(conn, event, row, f"{why}: {report.broker_status}")

    async def _quarantine_fill(self, conn: "Conn", row: OrderRow, fill: Fill, source: str, why: str) -> None:
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
        """Leave a critical alert in the outbox, in the same transaction as what it tells of."""
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


def _log_transition(row: OrderRow, then: Status, report: OrderReport, source: str) -> None:
    event = f"order_{then}"
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


def _log_entry_fill(row: OrderRow, fill: Fill, holding: PositionState, position_id: int) -> None:
    log.info(
        "entry_filled",
        symbol=row.symbol,
        side=row.position_side,
        qty=str(fill.quantity),
        price=str(fill.price),
        held=str(holding.quantity),
        of=str(row.quantity),
        stop=_text_or_none(row.bracket_stop),
        target=_text_or_none(row.bracket_target),
        position_id=position_id,
    )


def _text_or_none(price: Decimal | None) -> str | None:
    return None if price is None else str(price)
