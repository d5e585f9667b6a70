"""Reconciliation, four ways: rows, journal and fills, the broker's orders with its ledger, and its positions. Also
the light polls, and recovery, which is nothing but the first reconciliation.

It corrects the tables by hearing the broker; it never trades, and it believes a difference only when two looks in a
row agree. A fill is never invented: what nothing explains is kept as an adjustment, paged, and its symbol blocked.
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

OVERLAP: Final = timedelta(minutes=10)  # the broker's bounds are exclusive and its clock is not ours
LOOK_BACK: Final = timedelta(days=1)
ACTIVITIES_LAG: Final = timedelta(
    minutes=5
)  # a fill may be in the stream that long before it is in the ledger
SUSPECTED_RECHECK_INTERVAL: Final = timedelta(seconds=4)
EXTERNAL_ALERT_WINDOW: Final = timedelta(days=1)
OWN_SYMBOL_WINDOW: Final = timedelta(days=14)  # a symbol traded that recently is one we answer for
OWN_SYMBOLS_REFRESH: Final = timedelta(hours=1)
# The fills that are known by then are in the ledger, or are told of.
ACTIVITIES_REFRESH: Final = timedelta(minutes=5)
# What works of earlier days is none that we hear of for the first time.
EARLIER_ORDERS_REFRESH: Final = timedelta(minutes=10)
MAX_SINGLE_LOOKUPS: Final = 10  # orders asked for one by one in a look; the others have theirs in the next


@dataclass(frozen=True, slots=True)
class ReconciliationResult:
    """What one reconciliation saw. `clean` is false when a read failed or the books differ from the broker."""

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
    """What the broker shows at one look, None where it could not be read. `filled` is what its orders have filled;
    `fills` are of the ledger, and NOT_ASKED where nothing says that it has a new one."""

    orders: list[OrderReport] | None
    positions: list[PositionReport] | None
    fills: list[Fill] | None
    account_read: bool
    read_at: datetime
    ledger_version: int  # of the books, before the first of it was asked for

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
    """Hears everything the broker shows, then judges what still differs.

    Two requests and three SQL statements a look at which nothing is new, whatever there is of orders and positions.
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
    spool_import: SpoolImport | None = (
        None  # what was done while the database was away: told before anything is judged
    )
    stream_ready: bool = False
    discrepancies: SuspectedDiscrepancies = field(default_factory=SuspectedDiscrepancies.empty)
    order_adoption: OrderAdoption = field(init=False)
    _shares_compared_at: datetime | None = None
    _gap_count: int = 0
    _filled_gap_count: int = 0  # when everything could be read last
    _full_pass_due: bool = False  # a whole look was wanted, and not everything could be read
    _handled_version: int = 0  # beats of `soon` that had their look
    _own_symbols: set[str] = field(default_factory=set)
    _own_symbols_read_at: datetime | None = None
    _reported: set[str] = field(
        default_factory=set
    )  # differences that have their line in journal and quarantine
    _activities_read_to: datetime | None = None
    _applied_activities: set[str] = field(default_factory=set)  # activity ids that had their answer
    # What the orders had filled when the ledger was read.
    _filled_at_activities_read: dict[str, Decimal] = field(default_factory=dict)
    _has_earlier_orders: bool = False  # something works that is of an earlier day
    _earlier_orders_read_at: datetime | None = None
    _cached_rows: "reconciliation.RowCache" = field(default_factory=dict)  # rows of the look before
    _pass_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.order_adoption = OrderAdoption(self.store, self.ledger, self.clock, self.submission.epoch)

    @property
    def requested(self) -> ChangeSignal:
        """Asks for a look at once: the books' own doubts, a gap, a stranger."""
        return self.ledger.reconcile_requested

    def mark_gap(self, *, stream_ready: bool) -> None:
        """Note that something may have been missed: only a look that begins after this fills the gap."""
        self._gap_count += 1
        self.stream_ready = stream_ready

    async def run(self) -> None:
        """A full look every minute; in between, light polls while anything is working (2 s without a stream), of
        the shares held every half minute. What is doubted is looked at again until it is believed or gone."""
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
        """A light look: the orders, and every half minute the shares."""
        if not await self._import_spool():
            return
        if (reports := await self._read_orders(self.clock.now(), earlier=False)) is None:
            return
        await self._apply_reports(reports, await self._read_rows(reports), "poll")
        held = timedelta(seconds=self.polling_cfg.position_poll_seconds)
        if self._shares_compared_at is None or self.clock.now() - self._shares_compared_at >= held:
            await self._compare_shares(await self._read_positions(), "poll")

    async def reconcile(self, source: str, *, full: bool = True) -> ReconciliationResult:
        """One reconciliation; one that could read everything fills the stream's gap. But for `whole`, what somebody has
        heard lately is not asked for again; not so after a gap, nor after a whole look that failed, until one succeeds.
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
        """Entries that were stopped, for whatever reason, begin again only with clean books: nothing of ours doubted
        and not judged yet. What was judged keeps its own symbol shut; what is about the whole account, everything.

        A gate that is open is not shut by a doubt, which blocks its symbol: a fill on its way is one. Nor does
        anything wait for an order whose outcome is unknown, whose symbol is locked until it is known.
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
        """Reconcile on demand: look until everything that is doubted is believed or gone."""
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
            held = await self._read_positions()  # what has become of them meanwhile is not there yet
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
        """What the broker shows, asked for at once: its orders and positions at every look; the ledger, what works of
        earlier days, and the account, when it is a whole one or nobody has heard them lately."""
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
        """What was done without the tables is in them; false when the broker could not be read for it."""
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
        """The symbols we answer for: held, or traded in the last two weeks. Our own orders add to them at once."""
        now = self.clock.now()
        if self._own_symbols_read_at is None or now - self._own_symbols_read_at >= OWN_SYMBOLS_REFRESH:
            async with self.store.read() as conn:
                self._own_symbols = await positions.traded_symbols(conn, since=now - OWN_SYMBOL_WINDOW)
            self._own_symbols_read_at = now
            self.ledger.last_known.add_symbols(self._own_symbols)

    # -- orders

    async def _read_orders(self, now: datetime, *, earlier: bool) -> list[OrderReport] | None:
        """Every order of the day as the broker shows it, with `earlier` also what works of earlier days: a stranger's
        bid good till cancelled, say. None when it could not be read."""
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
        """The rows of these reports, and every working one, before the reports are heard."""
        ids = [one.broker_id for report in reports for one in (report, *report.legs)]
        async with self.store.read() as conn:
            return await reconciliation.orders_to_compare(conn, ids, self._cached_rows)

    async def _apply_reports(self, reports: list[OrderReport], rows: list[OrderRow], source: str) -> int:
        """Hear every order whose report says something new; how many."""
        known = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
        applied = 0
        for report in reports:
            if all(_is_unchanged(known.get(one.broker_id), one) for one in (report, *report.legs)):
                continue
            applied += 1
            await self.order_adoption.apply_or_adopt(report, source)
        return applied

    async def _resolve_unlisted(self, rows: list[OrderRow], reports: list[OrderReport], source: str) -> None:
        """Ask on their own about working rows the list did not speak of: without a broker id by ours, else by its."""
        listed = {one.broker_id for report in reports for one in (report, *report.legs)}
        spoken = listed | {report.client_order_id for report in reports}
        asked = 0
        for row in rows:
            if row.status not in WORKING or row.status is Status.CREATED:
                continue  # what was not sent yet waits for its moment; the proposals' owner ends it
            if row.client_order_id in spoken or row.alpaca_order_id in listed:
                continue
            if row.alpaca_order_id is None:
                if not self.submission.is_in_flight(row.order_id):
                    self.submission.start_resolution(row)
            elif row.parent_order_id is None and asked < MAX_SINGLE_LOOKUPS:
                asked += 1
                self._has_earlier_orders = True  # of an earlier day, it seems: the next look asks for those
                await self.submission.refresh(row.alpaca_order_id, source)

    # -- fills

    async def _read_fills(self, now: datetime, *, read: bool) -> list[Fill] | None:
        """The ledger's fills since a little before it was read last; None when it could not be read."""
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
        """Book every fill of the ledger that has no execution row yet; how many, None when the read failed. It is asked
        now if the orders have filled more than when it was read last."""
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
        """Fills whose ledger id no execution carries yet, and that were not answered before."""
        fresh = [fill for fill in fills if fill.activity_id not in self._applied_activities]
        ids = [fill.activity_id for fill in fresh if fill.activity_id is not None]
        if not fresh:
            return []
        async with self.store.read() as conn:
            booked = await orders.booked_activity_ids(conn, ids)
        return [fill for fill in fresh if fill.activity_id not in booked]

    # -- what differs

    async def _read_positions(self) -> list[PositionReport] | None:
        try:
            return await self.broker.positions()
        except BrokerError as error:
            log.warning("positions_read_failed", error=str(error))
            return None

    async def _compare_shares(self, reports: list[PositionReport] | None, source: str) -> bool:
        """Judge shares and results; false when the broker's positions could not be read."""
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
        """Judge orders and groups against the broker, and the rows against their journal and fills."""
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
        """A difference that has lasted: told, kept as an adjustment nobody made, and, of shares, put on record.

        Shares of a symbol we never traded are somebody else's business, told of once a day.
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
        """Close a position whose shares the broker does not have and no fill explains, for all to see.

        Not while an exit of it is under way, not on the word of a list alone, and not before the ledger was
        asked about each of its orders.
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
    """True when the row says already what the report says."""
    return (
        row is not None
        and row.broker_status == report.broker_status
        and row.filled_qty == report.filled_qty
        and row.quantity == report.quantity
        and (row.status is not Status.SUBMITTED or report.broker_status in {"new", "pending_new"})
    )
