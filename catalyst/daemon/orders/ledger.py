"""Order ledger: applies broker reports; the only writer of fills, positions and reported order states.

Stream, polling, reconciliation, recovery and the responses to our own requests all call `apply_report`,
`apply_trade_update`, `apply_batch` or `apply_fill`. These are idempotent and independent of the order of arrival.

One way for all: load the rows (`store.report_rows`), decide (`domain.report_decision`), write (`store.report_writes`).
The rows may come from the cache: the writing statement checks that they are unchanged. A decision that needs more than
one statement is made again from locked rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import structlog

from catalyst.broker.port import Broker, Priority
from catalyst.clock import Clock, TurnsLock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.last_known_state import LastKnownState
from catalyst.daemon.orders.report_log import log_decision
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.trading_state.entry_gate import EntryGate
from catalyst.daemon.trading_state.symbol_states import SymbolReason, SymbolStates
from catalyst.domain.errors import BrokerError
from catalyst.domain.fill_decision import Circumstances
from catalyst.domain.invariants import Invariant
from catalyst.domain.order import TERMINAL, Purpose, Verdict
from catalyst.domain.position import PositionStatus
from catalyst.domain.report import Fill, OrderReport, TradeUpdate
from catalyst.domain.report_changes import ReportDecision
from catalyst.domain.report_decision import ReportRows, decide, decide_batch, leg_row
from catalyst.domain.rows import OrderRow, changed
from catalyst.domain.session import start_of_day, trading_date
from catalyst.store import (
    alerts,
    exit_intents,
    orders,
    positions,
    quarantine,
    report_rows,
    report_writes,
)
from catalyst.store.constraint_errors import DuplicateRow, StaleRow
from catalyst.store.pool import Store

log = structlog.get_logger()

MAX_CACHED_ROWS: Final = 1_024  # working orders


@dataclass
class OrderLedger:
    """Writes broker reports to the database. `changed` is notified after every commit that changed something."""

    store: Store
    broker: Broker
    clock: Clock
    epoch: int
    config: CurrentConfig
    gate: EntryGate
    changed: ChangeSignal = field(default_factory=ChangeSignal)
    filled: ChangeSignal = field(default_factory=ChangeSignal)
    reconcile_requested: ChangeSignal = field(default_factory=ChangeSignal)  # full pass needed now
    unknown_broker_ids: set[str] = field(default_factory=set)  # reported broker ids without a row
    last_known: LastKnownState = field(default_factory=LastKnownState)
    # Notified when orphan shares appear or their number changes.
    orphan_found: ChangeSignal = field(default_factory=ChangeSignal)
    stale_reports: int = 0
    _lock: TurnsLock = field(default_factory=TurnsLock)
    # Working orders as last written or read, by client order id, oldest first.
    _row_cache: dict[str, OrderRow] = field(default_factory=dict)

    def write_lock(self) -> TurnsLock:
        """Return the writer lock; while it is held, no broker report is written."""
        return self._lock

    @property
    def symbols(self) -> SymbolStates:
        """States of single symbols."""
        return self.gate.symbols

    async def load_symbol_states(self) -> None:
        """Load what previous runs left: outage orders that are not linked to a position yet, and money that is not
        booked.

        Such money that no person has seen enters SAFE mode: a crash may have come before the latch was written.
        """
        async with self.store.read() as conn:
            self.symbols.add(SymbolReason.UNLINKED, *await orders.symbols_with_unlinked_orders(conn))
        for found in await self.refresh_unbooked():
            if found.is_new:
                self.gate.enter_safe_mode(Invariant.I3, f"{found.symbol}: {found.reason}")

    async def refresh_unbooked(self) -> list[quarantine.Unbooked]:
        """Block exactly the symbols with money of today that is not booked and that no person has resolved."""
        today = start_of_day(trading_date(self.clock.now()))
        async with self.store.read() as conn:
            found = await quarantine.unbooked(conn, since=today)
        self.symbols.set_symbols(SymbolReason.UNBOOKED, {each.symbol for each in found})
        return found

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

    # -- reports and fills

    async def apply_report(self, report: OrderReport, source: str) -> bool:
        """Apply a broker's report of an order and its legs; return false when the order has no row (external).

        When the broker shows more filled shares than are booked, the fills are read from the account activities and
        written together with the report.
        """
        decision = await self._apply(report, (), source)
        return decision is None or decision.verdict is not None

    async def apply_trade_update(self, update: TradeUpdate) -> bool:
        """Apply one message of the stream: its fill and its state in one transaction.

        Return false when the order must be read from the broker: no row, an unknown status, a contradiction, or an exit
        fill that waits for entry fills.
        """
        fills = () if update.fill is None else (update.fill,)
        decision = await self._apply(update.order, fills, "stream")
        return decision is not None and decision.verdict not in (
            None,
            Verdict.UNKNOWN,
            Verdict.CONTRADICTION,
        )

    async def apply_batch(self, updates: Sequence[TradeUpdate]) -> int:
        """Apply the longest prefix of `updates` that one statement can write; return its length.

        Return 0, with nothing written, when the prefix has fewer than two messages or a cached row is outdated; the
        caller then applies the first message by itself.
        """
        async with self._lock:
            if any(self.symbols.has(SymbolReason.UNLINKED, update.order.symbol) for update in updates):
                return 0
            batch = [(update.order, update.fill) for update in updates]
            count, decision = decide_batch(self._cached_rows(), batch, self._circumstances("stream"))
            if count < 2 or not await self._write_statement(decision, "stream"):
                return 0
        self.unknown_broker_ids -= decision.known_broker_ids
        self._after_commit(decision)
        return count

    async def apply_fill(self, fill: Fill, source: str) -> bool:
        """Book one fill of the account activities; return true when it was not booked before."""
        decision = await self._apply(None, (fill,), source)
        return decision is not None and bool(decision.booked)

    async def fetch_missing_fills(self, broker_id: str, source: str) -> bool:
        """Fetch all fills of one order from the account activities and book the missing ones.

        Return false when one of them may be unread or has to wait.
        """
        try:
            fills = await self.broker.fills(order_id=broker_id, priority=Priority.EXIT)
        except BrokerError as error:
            log.warning("activities_read_failed", broker_id=broker_id, error=str(error))
            return False
        for fill in fills:
            if await self._apply(None, (fill,), source) is None:
                return False  # the later fills wait for the same entry fills
        return not fills.unreadable_rows

    async def write_off(self, position_id: int, reason: str, source: str) -> bool:
        """Close a position whose shares are missing at the broker without a fill; its P&L beyond its fills is unknown.

        It blocks its symbol and enters SAFE mode, because money is not booked. Return false when it is already closed.
        A fill that arrives later is still booked on it.
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
            await exit_intents.end_intent(conn, position_id, state="abandoned", at=at, epoch=self.epoch)
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
            await quarantine.put(
                conn,
                source=source,
                reason=why,
                payload=payload,
                at=at,
                order_id=entry,
                security_id=position.security_id,
            )
            log.error("position_written_off", **payload)
            await alerts.raise_alert(
                conn, "RECONCILED_PHANTOM", why, subject=position_id, facts=payload, at=at
            )
        self.symbols.add(SymbolReason.UNBOOKED, position.symbol)
        self.gate.enter_safe_mode(Invariant.I9, f"{position.symbol}: {why}")
        self.changed.notify()
        return True

    # -- load, decide, write

    async def _apply(
        self, report: OrderReport | None, fills: Sequence[Fill], source: str
    ) -> ReportDecision | None:
        """Apply a group of reports and its fills; return what was decided, None when an exit fill has to wait."""
        entries_complete = fills_read = legs_written = False
        while True:
            decision = await self._apply_once(
                report, fills, source, entries_complete=entries_complete, write_partly=fills_read
            )
            if decision.unread_entries:
                if entries_complete or not await self._entry_fills_complete(decision.unread_entries, source):
                    # The waiting fill must not hold back the other orders of the group.
                    if report is not None:
                        await self._apply_once(report, (), source, write_partly=True)
                    return None
                entries_complete = True
            elif decision.missing_fills and not fills_read and report is not None:
                fills_read = True
                fills = await self._read_missing_fills(report, fills, decision, source)
            elif decision.has_incomplete_legs and not legs_written:
                legs_written = True  # what a new leg reports beyond its status is applied once it has a row
            else:
                if decision.missing_fills:
                    log.warning("fills_missing", broker_ids=decision.missing_fills)
                return decision

    async def _read_missing_fills(
        self, report: OrderReport, fills: Sequence[Fill], decision: ReportDecision, source: str
    ) -> list[Fill]:
        """Return the fills to apply with the report: `fills` and the missing ones, from the account activities.

        Those of an entry are booked here: the fills of its legs need the position that they open.
        """
        missing = await self._fetch_fills(decision.missing_fills)
        if not decision.is_entry:
            return [*fills, *missing]
        own_fills = [*fills, *(fill for fill in missing if fill.broker_id == report.broker_id)]
        await self._apply_once(replace(report, legs=()), own_fills, source, write_partly=True)
        return [fill for fill in missing if fill.broker_id != report.broker_id]

    async def _apply_once(
        self,
        report: OrderReport | None,
        fills: Sequence[Fill],
        source: str,
        *,
        entries_complete: bool = False,
        write_partly: bool = False,
    ) -> ReportDecision:
        """Load the rows, decide, and write; nothing is written while the decision asks for a read.

        With `write_partly` a report is written although fills of its orders are missing.
        """
        async with self._lock:
            given = self._circumstances(source, entries_complete=entries_complete)
            decision = await self._write_by_statement(report, fills, given, write_partly=write_partly)
            if decision is None:
                decision = await self._write_locked(report, fills, given, write_partly=write_partly)
        self.unknown_broker_ids -= decision.known_broker_ids
        self.unknown_broker_ids |= decision.unknown_broker_ids
        if not _must_wait(decision, write_partly=write_partly):
            self._after_commit(decision)
        return decision

    async def _write_by_statement(
        self,
        report: OrderReport | None,
        fills: Sequence[Fill],
        given: Circumstances,
        *,
        write_partly: bool,
    ) -> ReportDecision | None:
        """Decide from cached or just read rows; return None, with nothing written, when one statement is not enough."""
        if report is None or self.symbols.has(SymbolReason.UNLINKED, report.symbol):
            return None  # outage orders may have to be linked to the position
        for rows in (self._cached_rows(), None):
            if rows is None:
                async with self.store.read() as conn:
                    rows = await report_rows.read(conn, (report, *report.legs))  # noqa: PLW2901 -- the second way
            decision = decide(rows, report, fills, given)
            if decision is None or (decision.is_empty and not rows.current):
                continue  # a cached row may be outdated, so an unchanged one proves nothing
            if _must_wait(decision, write_partly=write_partly):
                if rows.current:
                    return decision
                continue
            if not decision.is_one_statement:
                return None
            if await self._write_statement(decision, given.source):
                return decision
        return None

    async def _write_locked(
        self,
        report: OrderReport | None,
        fills: Sequence[Fill],
        given: Circumstances,
        *,
        write_partly: bool,
    ) -> ReportDecision:
        """Decide from locked rows and write the decision in their transaction."""
        group = () if report is None else (report, *report.legs)
        for each in group:
            self._row_cache.pop(each.client_order_id, None)
        label = "book_fill" if report is None else "apply_report"
        async with self.store.tx(label) as conn:
            rows = await report_rows.lock(conn, group, fills, unlinked_symbols=given.unlinked_symbols)
            if report is None and not rows.by_broker_id:
                return ReportDecision(unknown_broker_ids=frozenset(fill.broker_id for fill in fills))
            decision = decide(rows, report, fills, given)
            assert decision is not None  # locked rows suffice
            if _must_wait(decision, write_partly=write_partly):
                return decision
            written = await report_writes.write(
                conn, decision, at=given.at, source=given.source, epoch=self.epoch
            )
        log_decision(decision, written, given.source)
        return replace(decision, quarantined=written.quarantined)  # what was stored before is known

    async def _write_statement(self, decision: ReportDecision, source: str) -> bool:
        """Write a decision that is one statement; return false, with nothing written, when a row has changed."""
        if decision.is_empty:
            return True
        for change in decision.order_changes:
            self._row_cache.pop(change.before.client_order_id, None)  # cached again after the write
        try:
            async with self.store.order_statement("apply_report") as conn:
                written = await report_writes.write(
                    conn, decision, at=self.clock.now(), source=source, epoch=self.epoch
                )
        except (DuplicateRow, StaleRow):
            return False
        for change in decision.order_changes:
            position_id = written.positions.get(change.before.order_id)
            self.cache_row(
                change.after if position_id is None else changed(change.after, position_id=position_id)
            )
        for new_leg in decision.new_legs:
            self.cache_row(leg_row(new_leg, written.legs[new_leg.report.broker_id]))
        log_decision(decision, written, source)
        return True

    def _after_commit(self, decision: ReportDecision) -> None:
        """Count stale reports and notify the waiting tasks; a task woken before the commit would not see the rows.

        A fill that could not be booked blocks its symbol and enters SAFE mode.
        """
        self.stale_reports += decision.stale_reports
        for item in decision.quarantined:
            if item.is_fill:
                self.symbols.add(SymbolReason.UNBOOKED, item.alert.order.symbol)
                self.gate.enter_safe_mode(Invariant.I3, f"{item.alert.order.symbol}: {item.reason}")
        if decision.reconcile:
            self.reconcile_requested.notify()
        if decision.orphans_changed:
            self.orphan_found.notify()
        if not decision.is_empty:
            self.changed.notify()
            self.clock.slow_down_briefly()
        if decision.booked:
            self.filled.notify()

    def _cached_rows(self) -> ReportRows:
        return ReportRows(self._row_cache, {}, current=False)

    def _circumstances(self, source: str, *, entries_complete: bool = False) -> Circumstances:
        adopted = self.last_known.symbols if self.config.reconcile.orphans != "alert" else frozenset()
        return Circumstances(
            self.clock.now(),
            source,
            adopted,
            self.symbols.symbols(SymbolReason.UNLINKED),
            entries_complete=entries_complete,
        )

    async def _fetch_fills(self, broker_ids: Sequence[str]) -> list[Fill]:
        """Return the fills of these orders from the account activities; none of an order that cannot be read."""
        found: list[Fill] = []
        for broker_id in broker_ids:
            try:
                found += await self.broker.fills(order_id=broker_id, priority=Priority.EXIT)
            except BrokerError as error:
                log.warning("activities_read_failed", broker_id=broker_id, error=str(error))
        return found

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


def _must_wait(decision: ReportDecision, *, write_partly: bool) -> bool:
    """Return true when the decision asks for a read before it may be written."""
    return bool(decision.unread_entries) or (bool(decision.missing_fills) and not write_partly)
