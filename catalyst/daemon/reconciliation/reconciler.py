"""Reconciler: compares our rows, journal and fills with the broker's orders, account activities and positions.

It corrects the database by applying the broker's reports, and never trades. It also runs the light polls; recovery
is the first reconciliation. It invents no fill: a discrepancy that consecutive reads confirm is alerted, stored as an
adjustment and in quarantine, and blocks its symbol.
"""

from collections.abc import Mapping
from dataclasses import InitVar, dataclass, field, replace
from datetime import datetime, timedelta
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock, TurnsLock
from catalyst.config.current import CurrentConfig
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.outage.spool_import import SpoolImport
from catalyst.daemon.reconciliation.another_catalyst import AnotherCatalyst
from catalyst.daemon.reconciliation.broker_snapshot import BrokerReader, BrokerSnapshot
from catalyst.daemon.reconciliation.comparison import BrokerComparison
from catalyst.daemon.reconciliation.discrepancy_actions import DiscrepancyActions
from catalyst.daemon.reconciliation.order_adoption import OrderAdoption
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.trading_state.account_status import AccountStatus
from catalyst.daemon.trading_state.entry_gate import DATABASE, EntryGate
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import WORKING, Status
from catalyst.domain.report import Fill, OrderReport
from catalyst.domain.rows import OrderRow
from catalyst.store import alerts, orders, positions, reconciliation
from catalyst.store.pool import Store

log = structlog.get_logger()

SUSPECTED_RECHECK_INTERVAL: Final = timedelta(seconds=4)
OWN_SYMBOL_WINDOW: Final = timedelta(days=14)  # a symbol traded within this time is ours
OWN_SYMBOLS_REFRESH: Final = timedelta(hours=1)
UNREADABLE_ROWS: Final = "unreadable_rows"  # reason of the entry gate
UNREADABLE_ALERT_WINDOW: Final = timedelta(days=1)
MAX_SINGLE_LOOKUPS: Final = 10  # single order reads per pass; the next pass reads the others


@dataclass(frozen=True, slots=True)
class ReconciliationResult:
    """Result of one reconciliation. `discrepancies` are the texts of the confirmed ones."""

    complete: bool  # every read succeeded, and every row could be read
    only_rows_unreadable: bool = False  # every read succeeded, and some rows could not be read
    orders_applied: int = 0
    fills_booked: int = 0
    unknown_orders: int = 0
    discrepancies: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Return true when every read succeeded and no discrepancy is confirmed."""
        return self.complete and not self.discrepancies


@dataclass
class PassesDue:
    """Passes that must still run: to fill a gap of the stream, after an incomplete full pass, on request."""

    stream_ready: bool = False
    gap_count: int = 0
    filled_gap_count: int = 0  # value of `gap_count` at the start of the last complete pass
    full_pass_due: bool = False  # a full pass was requested and none has been complete since
    handled_version: int = 0  # last version of `Reconciler.requested` that started a pass
    complete_at: datetime | None = None  # start of the last complete pass

    def mark_gap(self, *, stream_ready: bool) -> None:
        """Count a gap of the stream."""
        self.gap_count += 1
        self.stream_ready = stream_ready


@dataclass
class Reconciler:
    """Applies the broker's reports, then compares the database with the broker.

    A pass without changes takes two requests and three SQL statements, for any number of orders and positions.
    """

    store: Store
    broker: InitVar[Broker]
    ledger: OrderLedger
    submission: OrderSubmission
    gate: EntryGate
    account_status: InitVar[AccountStatus]
    another_catalyst: AnotherCatalyst
    spool_import: SpoolImport  # the spool is imported before anything is compared
    clock: Clock
    config: CurrentConfig
    reader: BrokerReader = field(init=False)
    order_adoption: OrderAdoption = field(init=False)
    comparison: BrokerComparison = field(init=False)
    _passes: PassesDue = field(default_factory=PassesDue)
    _own_symbols_read_at: datetime | None = None
    _cached_rows: "reconciliation.RowCache" = field(default_factory=dict)  # rows of the previous pass
    _pass_lock: TurnsLock = field(default_factory=TurnsLock)

    def __post_init__(self, broker: Broker, account_status: AccountStatus) -> None:
        self.reader = BrokerReader(broker, account_status, self.clock)
        self.order_adoption = OrderAdoption(
            self.store, self.ledger, self.clock, self.submission.epoch, self.submission.installation
        )
        actions = DiscrepancyActions(self.store, broker, self.ledger, self.clock, self.config)
        self.comparison = BrokerComparison(self.store, self.ledger, self.gate, actions, self.clock)

    @property
    def requested(self) -> ChangeSignal:
        """Return the signal that requests a pass at once: an inconsistent report, a gap, an external order."""
        return self.ledger.reconcile_requested

    @property
    def complete_at(self) -> datetime | None:
        """Return when the last complete pass began; None before the first one."""
        return self._passes.complete_at

    def mark_gap(self, *, stream_ready: bool) -> None:
        """Record that messages of the stream may be missing. Only a pass that begins later fills the gap."""
        self._passes.mark_gap(stream_ready=stream_ready)

    async def run(self) -> None:
        """Reconcile every `every_seconds`, and on request with a full pass; between, poll while anything is open.

        The pause between polls is `order_poll_seconds` with a ready stream and 2 s without. While a discrepancy is
        suspected, the reconciliation is repeated until it is confirmed or gone.
        """
        passes, last_full = self._passes, self.clock.now()
        while True:
            pause = timedelta(
                seconds=self.config.execution.order_poll_seconds if passes.stream_ready else 2.0
            )
            if self.comparison.has_suspected:
                pause = min(pause, SUSPECTED_RECHECK_INTERVAL)
            was_requested = await self.requested.wait(self.clock, pause, since=passes.handled_version)
            passes.handled_version = self.requested.version
            due = self.clock.now() - last_full >= timedelta(seconds=self.config.reconcile.every_seconds)
            if was_requested or due or self.comparison.suspected.has_suspected(self.clock.now() - pause):
                last_full = self.clock.now()
                await self.reconcile("reconcile", full=was_requested)
            elif await self._has_open_work():
                await self._poll()

    async def _poll(self) -> None:
        """Apply the day's orders, and compare positions every `position_poll_seconds`."""
        if not await self._import_spool():
            return
        if (reports := await self.reader.read_orders(self.clock.now(), earlier=False)) is None:
            return
        await self._watch_unreadable_rows({"orders": reports.unreadable_rows}, complete=False)
        rows = await self._read_rows(reports)
        await self.another_catalyst.watch_orders(reports, rows, complete=False)
        await self._apply_reports(reports, rows, "poll")
        compared_at = self.comparison.shares_compared_at
        positions_interval = timedelta(seconds=self.config.execution.position_poll_seconds)
        if compared_at is None or self.clock.now() - compared_at >= positions_interval:
            broker_positions = await self.reader.read_positions()
            if broker_positions is not None:
                counts = {"positions": broker_positions.unreadable_rows}
                await self._watch_unreadable_rows(counts, complete=False)
            await self.comparison.compare_shares(broker_positions, "poll")

    async def reconcile(self, source: str, *, full: bool = True) -> ReconciliationResult:
        """Run one pass; a complete pass fills the gap of the stream and reopens the entry gate.

        A pass that is not `full` skips what was read recently. After a gap or an incomplete full pass, every pass is
        full until one is complete.
        """
        async with self._pass_lock:
            passes, gap_count, began = self._passes, self._passes.gap_count, self.clock.now()
            passes.full_pass_due = full or passes.full_pass_due or gap_count != passes.filled_gap_count
            result = await self._run_pass(source, full=passes.full_pass_due)
            passes.complete_at = began if result.complete else passes.complete_at
            if result.complete:
                passes.full_pass_due, passes.filled_gap_count = False, gap_count
                self.comparison.update_entry_gate()
                if passes.stream_ready and gap_count == passes.gap_count:
                    self.gate.reopen("stream")
                self.gate.reopen(DATABASE)
        return result

    async def run_until_settled(self, source: str) -> ReconciliationResult:
        """Reconcile until no discrepancy is suspected any more, or a pass is incomplete; return the last result."""
        result = await self.reconcile(source)
        while result.complete and self.comparison.has_suspected:
            await self.clock.sleep(SUSPECTED_RECHECK_INTERVAL)
            result = await self.reconcile(source)
        return result

    async def _run_pass(self, source: str, *, full: bool) -> ReconciliationResult:
        await self._refresh_own_symbols()
        if not await self._import_spool():
            return ReconciliationResult(complete=False)
        snapshot = await self.reader.read(
            full=full or self.comparison.has_suspected, ledger_version=self.ledger.changed.version
        )
        reports = snapshot.orders
        if reports is None:
            return ReconciliationResult(complete=False)
        rows = await self._read_rows(reports)
        await self.another_catalyst.watch_orders(reports, rows, complete=not reports.unreadable_rows)
        applied = await self._apply_reports(reports, rows, source)
        snapshot = await self.reader.with_changed_fills(snapshot)
        booked = await self._apply_activities(snapshot, source)
        await self._resolve_unlisted(rows, reports, source)
        broker_positions = snapshot.positions
        if broker_positions is not None and self.ledger.changed.version != snapshot.ledger_version:
            broker_positions = (
                await self.reader.read_positions()
            )  # orders changed since the positions were read
        snapshot = replace(snapshot, positions=broker_positions)
        all_read = broker_positions is not None and booked is not None
        await self._watch_unreadable_rows(snapshot.unreadable_rows, complete=all_read)
        shares_compared = await self.comparison.compare_shares(broker_positions, source)
        if booked is None or broker_positions is None or not snapshot.account_read:
            return ReconciliationResult(complete=False, orders_applied=applied)
        if snapshot.unreadable_rows or not shares_compared:
            return ReconciliationResult(False, only_rows_unreadable=True, orders_applied=applied)
        await self.comparison.compare_orders(
            rows,
            reports,
            source,
            began=snapshot.read_at,
            activities_read_to=self.reader.cursor.activities_read_to,
        )
        discrepancies = self.comparison.confirmed_texts
        result = ReconciliationResult(
            True,
            orders_applied=applied,
            fills_booked=booked,
            unknown_orders=len(self.ledger.unknown_broker_ids),
            discrepancies=discrepancies,
        )
        if applied or booked or discrepancies:
            log.info(
                "reconciled",
                source=source,
                orders_applied=applied,
                fills_booked=booked,
                discrepancies=list(discrepancies),
            )
        return result

    async def _watch_unreadable_rows(self, counts: Mapping[str, int], *, complete: bool) -> None:
        """Close the entry gate and alert once while a list of the broker has an unreadable row.

        Only a `complete` pass without one reopens the gate.
        """
        lists = [f"{count} rows of the broker's {name}" for name, count in sorted(counts.items()) if count]
        if not lists:
            if complete:
                self.gate.reopen(UNREADABLE_ROWS)
            return
        text = f"{' and '.join(lists)} cannot be read"
        if UNREADABLE_ROWS in self.gate.reasons:
            self.gate.close(UNREADABLE_ROWS, text)
            return
        async with self.store.tx("alert") as conn:
            await alerts.raise_alert(
                conn,
                "BROKER_ROWS_UNREADABLE",
                f"{text}: no entries, no proof and no comparison of shares until they can; what can be read stays"
                " protected. See broker_row_malformed in the log, and compare with the broker's app",
                facts=dict(counts),
                at=self.clock.now(),
                window=UNREADABLE_ALERT_WINDOW,
            )
        self.gate.close(
            UNREADABLE_ROWS, text
        )  # after the alert: a failed commit is repeated by the next read

    async def _import_spool(self) -> bool:
        """Import the spool; false when the import could not read the broker or the file.

        An unreadable file closes the entry gate until a pass is complete: the database misses what it holds.
        """
        try:
            await self.spool_import.run()
        except BrokerError as error:
            log.warning("spool_import_failed", error=str(error))
            return False
        except OSError as error:
            log.critical("spool_import_failed", error=str(error))
            self.gate.close(DATABASE, f"the spool cannot be imported: {error}")
            return False
        return True

    async def _has_open_work(self) -> bool:
        """Return true while an order is working or a position is open."""
        async with self.store.read() as conn:
            return bool(await orders.working(conn)) or bool(await positions.open_positions(conn))

    async def _refresh_own_symbols(self) -> None:
        """Refresh the set of our symbols every hour: held, or traded in the last two weeks.

        A new order adds its symbol at once, elsewhere.
        """
        now = self.clock.now()
        if self._own_symbols_read_at is None or now - self._own_symbols_read_at >= OWN_SYMBOLS_REFRESH:
            async with self.store.read() as conn:
                own_symbols = await positions.traded_symbols(conn, since=now - OWN_SYMBOL_WINDOW)
            self._own_symbols_read_at = now
            self.ledger.last_known.add_symbols(own_symbols)

    # -- orders

    async def _read_rows(self, reports: list[OrderReport]) -> list[OrderRow]:
        """Read the rows of these reports and every working row, before the reports are applied."""
        ids = [order.broker_id for report in reports for order in (report, *report.legs)]
        async with self.store.read() as conn:
            rows = await reconciliation.orders_to_compare(conn, ids, self._cached_rows)
        self.ledger.last_known.set_own_ids(row.client_order_id for row in rows if row.origin != "external")
        return rows

    async def _apply_reports(self, reports: list[OrderReport], rows: list[OrderRow], source: str) -> int:
        """Apply every report that differs from its row; return how many."""
        rows_by_broker_id = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
        applied = 0
        for report in reports:
            if all(
                _is_unchanged(rows_by_broker_id.get(order.broker_id), order)
                for order in (report, *report.legs)
            ):
                continue
            applied += 1
            await self.order_adoption.apply_or_adopt(report, source)
        return applied

    async def _resolve_unlisted(self, rows: list[OrderRow], reports: list[OrderReport], source: str) -> None:
        """Resolve working rows that the broker's list does not show.

        A row without a broker id is looked up by our client order id; a parent order with one is read by it, at most
        MAX_SINGLE_LOOKUPS per pass.
        """
        listed = {order.broker_id for report in reports for order in (report, *report.legs)}
        listed_or_by_client_id = listed | {report.client_order_id for report in reports}
        lookups = 0
        for row in rows:
            if row.status not in WORKING or row.status is Status.CREATED:
                continue  # not sent yet; entry expiry ends it
            if row.client_order_id in listed_or_by_client_id or row.alpaca_order_id in listed:
                continue
            if row.alpaca_order_id is None:
                self.submission.start_resolution(row)
            elif row.parent_order_id is None and lookups < MAX_SINGLE_LOOKUPS:
                lookups += 1
                # It is probably of an earlier day; the next pass reads those.
                self.reader.expect_earlier_orders()
                await self.submission.refresh(row.alpaca_order_id, source)

    # -- fills

    async def _apply_activities(self, snapshot: BrokerSnapshot, source: str) -> int | None:
        """Book every fill of the account activities that has no execution row.

        Return the number booked; None when the activities could not be read.
        """
        if snapshot.fills is None:
            return 0 if snapshot.fills_skipped else None
        booked = 0
        for fill in await self._unbooked_fills(snapshot.fills):
            booked += await self.ledger.apply_fill(fill, source)
        if not snapshot.fills.unreadable_rows:  # otherwise the next pass reads the same fills again
            self.reader.mark_fills_applied(snapshot, self.ledger.unknown_broker_ids)
        return booked

    async def _unbooked_fills(self, fills: list[Fill]) -> list[Fill]:
        """Return the fills without an execution row, except those that the last read applied."""
        new_fills = [fill for fill in fills if fill.activity_id not in self.reader.cursor.applied_activities]
        activity_ids = [fill.activity_id for fill in new_fills if fill.activity_id is not None]
        if not new_fills:
            return []
        async with self.store.read() as conn:
            booked_ids = await orders.booked_activity_ids(conn, activity_ids)
        return [fill for fill in new_fills if fill.activity_id not in booked_ids]


def _is_unchanged(row: OrderRow | None, report: OrderReport) -> bool:
    """Return true when the row agrees with the report in status, filled quantity and quantity."""
    return (
        row is not None
        and row.broker_status == report.broker_status
        and row.filled_qty == report.filled_qty
        and row.quantity == report.quantity
        and (row.status is not Status.SUBMITTED or report.broker_status in {"new", "pending_new"})
    )
