"""Reconciliation: rows, journal and fills, the broker's orders with its account activities, and its
positions.

It also runs the light polls; recovery is the first reconciliation. It corrects the database by applying
reports and never trades. Two reads in a row confirm a discrepancy. It invents no fill: an unexplained
difference is stored as an adjustment, alerted, and blocks its symbol.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.concurrency import gather_both
from catalyst.config.schema import ExecutionConfig, ReconcileConfig
from catalyst.daemon.orders.ledger import OrderLedger
from catalyst.daemon.orders.submission import OrderSubmission
from catalyst.daemon.outage.spool_import import SpoolImport
from catalyst.daemon.reconciliation.discrepancies import (
    ORDER_KINDS,
    SHARE_KINDS,
    Discrepancy,
    DiscrepancyKind,
    SuspectedDiscrepancies,
    ledger_discrepancies,
    order_discrepancies,
    result_discrepancies,
    share_discrepancies,
)
from catalyst.daemon.reconciliation.order_adoption import OrderAdoption
from catalyst.daemon.runtime.change_signal import ChangeSignal
from catalyst.daemon.trading_state.account_status import FULL_PASS_INTERVAL, MAX_READ_INTERVAL, AccountStatus
from catalyst.daemon.trading_state.entry_gate import DATABASE, DISCREPANCIES, EntryGate
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import WORKING, PositionSide, Purpose, Status
from catalyst.domain.position import CloseReason
from catalyst.domain.report import Fill, OrderReport, PositionReport
from catalyst.domain.session import trading_date
from catalyst.store import alerts, cycles, orders, orphans, positions, quarantine, reconciliation
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store
from catalyst.store.reconciliation import StoredHolding

log = structlog.get_logger()

OVERLAP: Final = timedelta(minutes=10)  # the broker's bounds are exclusive and its clock differs from ours
LOOK_BACK: Final = timedelta(days=1)
ACTIVITIES_LAG: Final = timedelta(
    minutes=5
)  # a fill may reach the stream that long before the account activities
SUSPECTED_RECHECK_INTERVAL: Final = timedelta(seconds=4)
EXTERNAL_ALERT_WINDOW: Final = timedelta(days=1)
OWN_SYMBOL_WINDOW: Final = timedelta(days=14)  # a symbol traded that recently is ours
OWN_SYMBOLS_REFRESH: Final = timedelta(hours=1)
# Fills known by then are in the account activities, or were reported.
ACTIVITIES_REFRESH: Final = timedelta(minutes=5)
# Working orders of earlier days are read with this limit.
EARLIER_ORDERS_REFRESH: Final = timedelta(minutes=10)
MAX_SINGLE_LOOKUPS: Final = 10  # orders read one by one in a pass; the others follow in the next pass


@dataclass(frozen=True, slots=True)
class ReconciliationResult:
    """Result of one reconciliation. `clean` is false when a read failed or the ledger differs from the
    broker."""

    complete: bool
    orders_applied: int = 0
    fills_booked: int = 0
    unknown_orders: int = 0
    discrepancies: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return self.complete and not self.discrepancies


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """What the broker shows in one pass; None where it could not be read.

    `filled` is what its orders have filled. `fills` are from the account activities; NOT_ASKED when nothing
    indicates a new one.
    """

    orders: list[OrderReport] | None
    positions: list[PositionReport] | None
    fills: list[Fill] | None
    account_read: bool
    read_at: datetime
    ledger_version: int  # version of the order ledger before the first read

    @property
    def filled_by_order(self) -> dict[str, Decimal]:
        return {
            one.broker_id: one.filled_qty
            for report in self.orders or ()
            for one in (report, *report.legs)
            if one.filled_qty
        }


NOT_READ: Final[list[Fill]] = []


@dataclass
class Reconciler:
    """Applies everything the broker shows, then compares what still differs.

    A pass without news takes two requests and three SQL statements, for any number of orders and positions.
    """

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission
    gate: EntryGate
    account_status: AccountStatus
    clock: Clock
    cfg: ReconcileConfig
    polling_cfg: ExecutionConfig
    spool_import: SpoolImport | None = None  # the spool is imported before anything is compared
    stream_ready: bool = False
    discrepancies: SuspectedDiscrepancies = field(default_factory=SuspectedDiscrepancies.empty)
    order_adoption: OrderAdoption = field(init=False)
    _shares_compared_at: datetime | None = None
    _gap_count: int = 0
    _filled_gap_count: int = 0  # time of the last complete pass
    _full_pass_due: bool = False  # a full pass was requested and not everything could be read
    _handled_version: int = 0  # version of `requested` that was handled
    _own_symbols: set[str] = field(default_factory=set)
    _own_symbols_read_at: datetime | None = None
    _reported: set[str] = field(default_factory=set)  # discrepancies that stand in journal and quarantine
    _activities_read_to: datetime | None = None
    _applied_activities: set[str] = field(default_factory=set)  # activity ids that were applied
    # Filled quantities of the orders when the account activities were read.
    _filled_at_activities_read: dict[str, Decimal] = field(default_factory=dict)
    _has_earlier_orders: bool = False  # an order of an earlier day is working
    _earlier_orders_read_at: datetime | None = None
    _cached_rows: "reconciliation.RowCache" = field(default_factory=dict)  # rows of the pass before
    _pass_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.order_adoption = OrderAdoption(self.store, self.ledger, self.clock, self.submission.epoch)

    @property
    def requested(self) -> ChangeSignal:
        """Return the signal that requests a pass at once: the ledger's doubts, a gap, an external order."""
        return self.ledger.reconcile_requested

    def mark_gap(self, *, stream_ready: bool) -> None:
        """Note that a message may be missing. Only a pass that begins after this fills the gap."""
        self._gap_count += 1
        self.stream_ready = stream_ready

    async def run(self) -> None:
        """Run a full pass every minute, and light polls while an order works (every 2 s without a stream;
        positions every 30 s). A suspected discrepancy is read again until it is confirmed or gone."""
        last_full = self.clock.now()
        while True:
            pause = timedelta(seconds=self.polling_cfg.order_poll_seconds if self.stream_ready else 2.0)
            if self.discrepancies.has_suspected(self.clock.now()):
                pause = min(pause, SUSPECTED_RECHECK_INTERVAL)
            at_once = await self.requested.wait(self.clock, pause, since=self._handled_version)
            self._handled_version = self.requested.version
            due = self.clock.now() - last_full >= timedelta(seconds=self.cfg.every_seconds)
            if at_once or due or self.discrepancies.has_suspected(self.clock.now() - pause):
                last_full = self.clock.now()
                await self.reconcile("reconcile", full=at_once)
            elif await self._has_open_work():
                await self._poll()

    async def _poll(self) -> None:
        """Run a light pass: the orders, and every 30 s the positions."""
        if not await self._import_spool():
            return
        if (reports := await self._read_orders(self.clock.now(), earlier=False)) is None:
            return
        await self._apply_reports(reports, await self._read_rows(reports), "poll")
        held = timedelta(seconds=self.polling_cfg.position_poll_seconds)
        if self._shares_compared_at is None or self.clock.now() - self._shares_compared_at >= held:
            await self._compare_shares(await self._read_positions(), "poll")

    async def reconcile(self, source: str, *, full: bool = True) -> ReconciliationResult:
        """Run one reconciliation; a complete one fills the stream's gap.

        Without `whole` it skips what somebody read lately. After a gap, or after a failed full pass, it reads
        everything until one pass succeeds.
        """
        async with self._pass_lock:
            gaps = self._gap_count
            self._full_pass_due = full or self._full_pass_due or gaps != self._filled_gap_count
            findings = await self._run_pass(source, full=self._full_pass_due)
            if findings.complete:
                self._full_pass_due, self._filled_gap_count = False, gaps
                self._update_entry_gate()
                if self.stream_ready and gaps == self._gap_count:
                    self.gate.reopen("stream")
                self.gate.reopen(DATABASE)
        return findings

    def _update_entry_gate(self) -> None:
        """Reopen the entry gate only with a clean ledger: no discrepancy of ours is merely suspected.

        A confirmed discrepancy keeps its symbol blocked; one of the whole account keeps the gate closed. A
        suspected one blocks its symbol and does not close an open gate, because a fill in flight looks the
        same. An order with unknown outcome blocks its own symbol until it is resolved.
        """
        open_questions = [
            one.text
            for one in self.discrepancies.suspected(self.clock.now())
            if one.symbol is None
            or (
                one.symbol in self.ledger.last_known.symbols
                and one.symbol not in self.gate.unresolved_symbols
            )
        ]
        about_all = [one.text for one in self.discrepancies.confirmed(self.clock.now()) if one.symbol is None]
        if about_all or (open_questions and not self.gate.is_open):
            self.gate.close(DISCREPANCIES, "; ".join(sorted({*about_all, *open_questions})))
        elif not open_questions:
            self.gate.reopen(DISCREPANCIES)

    async def run_until_settled(self, source: str) -> ReconciliationResult:
        """Reconcile on request: repeat until every suspected discrepancy is confirmed or gone."""
        findings = await self.reconcile(source)
        while findings.complete and self.discrepancies.has_suspected(self.clock.now()):
            await self.clock.sleep(SUSPECTED_RECHECK_INTERVAL)
            findings = await self.reconcile(source)
        return findings

    async def _run_pass(self, source: str, *, full: bool) -> ReconciliationResult:
        await self._refresh_own_symbols()
        if not await self._import_spool():
            return ReconciliationResult(complete=False)
        shown = await self._read_broker(full=full or self.discrepancies.has_suspected(self.clock.now()))
        if shown.orders is None:
            return ReconciliationResult(complete=False)
        rows = await self._read_rows(shown.orders)
        applied = await self._apply_reports(shown.orders, rows, source)
        booked = await self._apply_activities(shown, source)
        await self._resolve_unlisted(rows, shown.orders, source)
        held = shown.positions
        if held is not None and self.ledger.changed.version != shown.ledger_version:
            held = await self._read_positions()  # the broker's positions may not show their change yet
        shares = await self._compare_shares(held, source)
        if booked is None or not shares or not shown.account_read:
            return ReconciliationResult(complete=False, orders_applied=applied)
        await self._compare_orders(rows, shown.orders, shown.read_at, source)
        discrepancies = tuple(one.text for one in self.discrepancies.confirmed(self.clock.now()))
        findings = ReconciliationResult(
            True, applied, booked, len(self.ledger.unknown_broker_ids), discrepancies
        )
        if applied or booked or discrepancies:
            log.info(
                "reconciled",
                source=source,
                orders_applied=applied,
                fills_booked=booked,
                discrepancies=list(discrepancies),
            )
        return findings

    async def _read_broker(self, *, full: bool) -> BrokerSnapshot:
        """Read the broker at once: orders and positions in every pass; account activities, orders of earlier
        days and the account in a full pass, or when nobody read them lately."""
        now, changes = self.clock.now(), self.ledger.changed.version
        earlier = (
            full
            or self._has_earlier_orders
            or _is_due(self._earlier_orders_read_at, EARLIER_ORDERS_REFRESH, now)
        )
        ledger = full or _is_due(self._activities_read_to, ACTIVITIES_REFRESH, now)
        (reports, held), (fills, standing) = await gather_both(
            gather_both(self._read_orders(now, earlier=earlier), self._read_positions()),
            gather_both(
                self._read_fills(now, read=ledger),
                self.account_status.refresh(every=FULL_PASS_INTERVAL if full else MAX_READ_INTERVAL),
            ),
        )
        return BrokerSnapshot(reports, held, fills, standing, now, changes)

    async def _import_spool(self) -> bool:
        """Import the spool; false when the broker could not be read for it."""
        try:
            if self.spool_import is not None:
                await self.spool_import.run()
        except BrokerError as error:
            log.warning("spool_import_failed", error=str(error))
            return False
        return True

    async def _has_open_work(self) -> bool:
        async with self.store.read() as conn:
            return bool(await orders.working(conn)) or bool(await positions.open_positions(conn))

    async def _refresh_own_symbols(self) -> None:
        """Read the symbols we answer for: held, or traded in the last two weeks. New orders add theirs at
        once."""
        now = self.clock.now()
        if self._own_symbols_read_at is None or now - self._own_symbols_read_at >= OWN_SYMBOLS_REFRESH:
            async with self.store.read() as conn:
                self._own_symbols = await positions.traded_symbols(conn, since=now - OWN_SYMBOL_WINDOW)
            self._own_symbols_read_at = now
            self.ledger.last_known.add_symbols(self._own_symbols)

    # -- orders

    async def _read_orders(self, now: datetime, *, earlier: bool) -> list[OrderReport] | None:
        """Return every order of the day; with `earlier` also working orders of earlier days, such as an
        external GTC order. None when the read failed."""
        horizon = now - LOOK_BACK
        try:
            if not earlier:
                return await self.broker.orders(status="all", after=horizon)
            reports, working = await gather_both(
                self.broker.orders(status="all", after=horizon), self.broker.orders(status="open")
            )
        except BrokerError as error:
            log.warning("orders_read_failed", error=str(error))
            return None
        old = [one for one in working if one.submitted_at and one.submitted_at < horizon]
        self._has_earlier_orders, self._earlier_orders_read_at = bool(old), now
        return reports + old

    async def _read_rows(self, reports: list[OrderReport]) -> list[OrderRow]:
        """Read the rows of these reports and every working row, before the reports are applied."""
        ids = [one.broker_id for report in reports for one in (report, *report.legs)]
        async with self.store.read() as conn:
            return await reconciliation.orders_to_compare(conn, ids, self._cached_rows)

    async def _apply_reports(self, reports: list[OrderReport], rows: list[OrderRow], source: str) -> int:
        """Apply every report with news; return how many."""
        known = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
        applied = 0
        for report in reports:
            if all(_is_unchanged(known.get(one.broker_id), one) for one in (report, *report.legs)):
                continue
            applied += 1
            await self.order_adoption.apply_or_adopt(report, source)
        return applied

    async def _resolve_unlisted(self, rows: list[OrderRow], reports: list[OrderReport], source: str) -> None:
        """Read working rows that the list did not show: by our id without a broker id, else by the broker's
        id."""
        listed = {one.broker_id for report in reports for one in (report, *report.legs)}
        spoken = listed | {report.client_order_id for report in reports}
        asked = 0
        for row in rows:
            if row.status not in WORKING or row.status is Status.CREATED:
                continue  # not sent yet; the owner of the proposals ends it
            if row.client_order_id in spoken or row.alpaca_order_id in listed:
                continue
            if row.alpaca_order_id is None:
                if not self.submission.is_in_flight(row.order_id):
                    self.submission.start_resolution(row)
            elif row.parent_order_id is None and asked < MAX_SINGLE_LOOKUPS:
                asked += 1
                self._has_earlier_orders = True  # probably of an earlier day: the next pass reads those
                await self.submission.refresh(row.alpaca_order_id, source)

    # -- fills

    async def _read_fills(self, now: datetime, *, read: bool) -> list[Fill] | None:
        """Return the fills of the account activities since a little before the last read; None when the read
        failed."""
        if not read:
            return NOT_READ
        after = (self._activities_read_to or now - LOOK_BACK) - OVERLAP
        try:
            return await self.broker.fills(after=after)
        except BrokerError as error:
            log.warning("activities_read_failed", error=str(error))
            self._activities_read_to = None
            return None

    async def _apply_activities(self, snapshot: BrokerSnapshot, source: str) -> int | None:
        """Book every fill of the account activities without an execution row; return how many, None when the
        read failed. Read now if the orders filled more than at the last read."""
        found, filled = snapshot.fills, snapshot.filled_by_order
        if found is NOT_READ:
            if filled == self._filled_at_activities_read:
                return 0
            found = await self._read_fills(snapshot.read_at, read=True)
        if found is None:
            return None
        ids = {fill.activity_id for fill in found if fill.activity_id is not None}
        booked = 0
        for fill in await self._unbooked_fills(found):
            booked += await self.ledger.apply_fill(fill, source)
        self._activities_read_to, self._filled_at_activities_read = snapshot.read_at, filled
        self._applied_activities = ids - self.ledger.unknown_broker_ids
        return booked

    async def _unbooked_fills(self, fills: list[Fill]) -> list[Fill]:
        """Return the fills whose activity id stands in no execution row and was not applied before."""
        fresh = [fill for fill in fills if fill.activity_id not in self._applied_activities]
        ids = [fill.activity_id for fill in fresh if fill.activity_id is not None]
        if not fresh:
            return []
        async with self.store.read() as conn:
            booked = await orders.booked_activity_ids(conn, ids)
        return [fill for fill in fresh if fill.activity_id not in booked]

    # -- discrepancies

    async def _read_positions(self) -> list[PositionReport] | None:
        try:
            return await self.broker.positions()
        except BrokerError as error:
            log.warning("positions_read_failed", error=str(error))
            return None

    async def _compare_shares(self, reports: list[PositionReport] | None, source: str) -> bool:
        """Compare shares and results; false when the broker's positions could not be read."""
        if reports is None:
            return False
        shown = {report.symbol: report for report in reports}
        now = self._shares_compared_at = self.clock.now()
        async with self.store.read() as conn:
            held = await reconciliation.holdings(conn, since=now - LOOK_BACK)
        self.ledger.last_known.add_symbols(one.symbol for one in held if not one.is_orphan)
        found = [*share_discrepancies(held, shown), *result_discrepancies(held)]
        self.discrepancies.update(found, now, kinds=SHARE_KINDS)
        self.gate.mismatched_symbols = self.discrepancies.symbols | {
            one.symbol for one in held if one.is_orphan
        }
        for one in self.discrepancies.confirmed(now):
            if one.kind in SHARE_KINDS:
                await self._confirm(one, source)
        for position in held:
            if any(
                one.kind is DiscrepancyKind.PHANTOM and one.symbol == position.symbol
                for one in self.discrepancies.confirmed(now)
            ):
                await self._write_off_missing(position, source)
        return True

    async def _compare_orders(
        self, rows: list[OrderRow], reports: list[OrderReport], began: datetime, source: str
    ) -> None:
        """Compare orders and groups with the broker, and the rows with journal and fills."""
        now = self.clock.now()
        ledger_to = None if self._activities_read_to is None else self._activities_read_to - ACTIVITIES_LAG
        async with self.store.read() as conn:
            flaws = await reconciliation.contradictions(
                conn, since=began - LOOK_BACK, activities_read_to=ledger_to
            )
        listed_since = began - LOOK_BACK + OVERLAP
        found = [*order_discrepancies(rows, reports, listed_since=listed_since), *ledger_discrepancies(flaws)]
        self.discrepancies.update(found, now, kinds=ORDER_KINDS)
        self.gate.mismatched_symbols |= self.discrepancies.symbols
        for one in self.discrepancies.confirmed(now):
            if one.kind in ORDER_KINDS:
                await self._confirm(one, source)

    async def _confirm(self, discrepancy: Discrepancy, source: str) -> None:
        """Record a confirmed discrepancy: alert, adjustment in the journal, and for shares an orphan row.

        Shares of a symbol that we never traded are external: one alert a day.
        """
        ours = discrepancy.symbol is None or discrepancy.symbol in self.ledger.last_known.symbols
        if not ours and discrepancy.kind is not DiscrepancyKind.ORPHAN:
            return
        at = self.clock.now()
        async with self.store.tx("discrepancy") as conn:
            if await self._alert_discrepancy(conn, discrepancy, ours=ours):
                log.error(
                    discrepancy.kind.lower(),
                    symbol=discrepancy.symbol,
                    difference=discrepancy.text,
                    source=source,
                )
            if (
                ours
                and discrepancy.text not in self._reported
                and discrepancy.kind is not DiscrepancyKind.PHANTOM
            ):
                payload = {"symbol": discrepancy.symbol, "discrepancy": discrepancy.text}
                if await quarantine.put_once(
                    conn, source=source, reason=discrepancy.text, payload=payload, at=at
                ):
                    await orders.journal(
                        conn,
                        None,
                        at=at,
                        source=source,
                        kind="adjustment",
                        note=discrepancy.text,
                        payload=payload,
                    )
            orphaned = ours and discrepancy.kind is DiscrepancyKind.ORPHAN and self.cfg.orphans != "alert"
            if orphaned and discrepancy.symbol is not None:
                side = PositionSide.LONG if discrepancy.surplus > 0 else PositionSide.SHORT
                today = await cycles.of_day(conn, trading_date(at))
                await orphans.record(
                    conn,
                    discrepancy.symbol,
                    side,
                    abs(discrepancy.surplus),
                    at=at,
                    cycle_id=today.cycle_id if today else None,
                )
        self._reported.add(discrepancy.text)
        if orphaned:
            self.discrepancies.discard(discrepancy)
            self.ledger.orphan_found.notify()

    async def _write_off_missing(self, position: StoredHolding, source: str) -> None:
        """Write off a position whose shares the broker lacks and that no fill explains.

        Not while an exit of it works, not from a list alone, and not before the account activities of each of
        its orders were read.
        """
        if position.is_orphan or not position.is_open:
            return
        async with self.store.read() as conn:
            rows = await orders.of_position(conn, position.holding_id)
        if any(r.status in WORKING and r.order_purpose in (Purpose.EXIT, Purpose.FLATTEN) for r in rows):
            return
        try:
            held = await self.broker.position(position.symbol)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=position.symbol, error=str(error))
            return
        if held is not None and held.quantity != 0:
            return
        for row in rows:
            if row.alpaca_order_id is not None:
                await self.ledger.fetch_missing_fills(row.alpaca_order_id, source)
        await self.ledger.write_off(position.holding_id, f"{CloseReason.RECONCILED_PHANTOM}", source)

    async def _alert_discrepancy(self, conn: "orders.Conn", discrepancy: Discrepancy, *, ours: bool) -> bool:
        return await alerts.put(
            conn,
            severity="CRITICAL" if ours else "WARNING",
            event=discrepancy.kind,
            message=discrepancy.text,
            facts={"symbol": discrepancy.symbol},
            dedupe_key=f"{discrepancy.kind}:{discrepancy.text}",
            at=self.clock.now(),
            window=alerts.DEDUPE_WINDOW if ours else EXTERNAL_ALERT_WINDOW,
        )


def _is_due(last: datetime | None, every: timedelta, now: datetime) -> bool:
    return last is None or now - last >= every


def _is_unchanged(row: OrderRow | None, report: OrderReport) -> bool:
    """Return true when the row holds what the report says."""
    return (
        row is not None
        and row.broker_status == report.broker_status
        and row.filled_qty == report.filled_qty
        and row.quantity == report.quantity
        and (row.status is not Status.SUBMITTED or report.broker_status in {"new", "pending_new"})
    )
