"""Reconciler: compares our rows, journal and fills with the broker's orders, account activities and positions.

It corrects the database by applying the broker's reports, and never trades. It also runs the light polls; recovery
is the first reconciliation. It invents no fill: a discrepancy that consecutive reads confirm is alerted, stored as an
adjustment and in quarantine, and blocks its symbol.
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
from catalyst.config.current import CurrentConfig
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
# A fill can be on the stream this long before it is in the account activities.
ACTIVITIES_LAG: Final = timedelta(minutes=5)
SUSPECTED_RECHECK_INTERVAL: Final = timedelta(seconds=4)
EXTERNAL_ALERT_WINDOW: Final = timedelta(days=1)
OWN_SYMBOL_WINDOW: Final = timedelta(days=14)  # a symbol traded within this time is ours
OWN_SYMBOLS_REFRESH: Final = timedelta(hours=1)
# Between two reads of the account activities when no order shows a new fill.
ACTIVITIES_REFRESH: Final = timedelta(minutes=5)
# Between two reads of the working orders of earlier days, when none is known.
EARLIER_ORDERS_REFRESH: Final = timedelta(minutes=10)
MAX_SINGLE_LOOKUPS: Final = 10  # single order reads per pass; the next pass reads the others


@dataclass(frozen=True, slots=True)
class ReconciliationResult:
    """Result of one reconciliation. `discrepancies` are the texts of the confirmed ones."""

    complete: bool  # every read succeeded
    orders_applied: int = 0
    fills_booked: int = 0
    unknown_orders: int = 0
    discrepancies: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Return true when every read succeeded and no discrepancy is confirmed."""
        return self.complete and not self.discrepancies


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    """The broker's orders, positions and fills as read in one pass; None where a read failed.

    `fills` are from the account activities; NOT_READ when the pass did not read them.
    """

    orders: list[OrderReport] | None
    positions: list[PositionReport] | None
    fills: list[Fill] | None
    account_read: bool
    read_at: datetime
    ledger_version: int  # version of the order ledger before the first read

    @property
    def filled_by_order(self) -> dict[str, Decimal]:
        """Return the filled quantity of each order and leg with fills, by broker id."""
        return {
            order.broker_id: order.filled_qty
            for report in self.orders or ()
            for order in (report, *report.legs)
            if order.filled_qty
        }


NOT_READ: Final[list[Fill]] = []  # compared by identity


@dataclass
class Reconciler:
    """Applies the broker's reports, then compares the database with the broker.

    A pass without changes takes two requests and three SQL statements, for any number of orders and positions.
    """

    store: Store
    broker: Broker
    ledger: OrderLedger
    submission: OrderSubmission
    gate: EntryGate
    account_status: AccountStatus
    spool_import: SpoolImport  # the spool is imported before anything is compared
    clock: Clock
    config: CurrentConfig
    stream_ready: bool = False
    discrepancies: SuspectedDiscrepancies = field(default_factory=SuspectedDiscrepancies.empty)
    order_adoption: OrderAdoption = field(init=False)
    _shares_compared_at: datetime | None = None
    _gap_count: int = 0  # calls of `mark_gap`
    _filled_gap_count: int = 0  # value of `_gap_count` at the start of the last complete pass
    _full_pass_due: bool = False  # a full pass was requested and none has been complete since
    _handled_version: int = 0  # last version of `requested` that started a pass
    _own_symbols: set[str] = field(default_factory=set)
    _own_symbols_read_at: datetime | None = None
    _reported: set[str] = field(default_factory=set)  # texts of discrepancies in journal and quarantine
    _activities_read_to: datetime | None = None  # None: the next pass reads them from LOOK_BACK on
    _applied_activities: set[str] = field(default_factory=set)  # ids of the last read that were applied
    # Filled quantities of the orders when the account activities were read.
    _filled_at_activities_read: dict[str, Decimal] = field(default_factory=dict)
    _has_earlier_orders: bool = False  # an order of an earlier day is working
    _earlier_orders_read_at: datetime | None = None
    _cached_rows: "reconciliation.RowCache" = field(default_factory=dict)  # rows of the previous pass
    _pass_lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.order_adoption = OrderAdoption(self.store, self.ledger, self.clock, self.submission.epoch)

    @property
    def requested(self) -> ChangeSignal:
        """Return the signal that requests a pass at once: an inconsistent report, a gap, an external order."""
        return self.ledger.reconcile_requested

    def mark_gap(self, *, stream_ready: bool) -> None:
        """Record that messages of the stream may be missing. Only a pass that begins later fills the gap."""
        self._gap_count += 1
        self.stream_ready = stream_ready

    async def run(self) -> None:
        """Reconcile every `every_seconds`, and on request with a full pass; between, poll while anything is open.

        The pause between polls is `order_poll_seconds` with a ready stream and 2 s without. While a discrepancy is
        suspected, the reconciliation is repeated until it is confirmed or gone.
        """
        last_full = self.clock.now()
        while True:
            pause = timedelta(seconds=self.config.execution.order_poll_seconds if self.stream_ready else 2.0)
            if self.discrepancies.has_suspected(self.clock.now()):
                pause = min(pause, SUSPECTED_RECHECK_INTERVAL)
            was_requested = await self.requested.wait(self.clock, pause, since=self._handled_version)
            self._handled_version = self.requested.version
            due = self.clock.now() - last_full >= timedelta(seconds=self.config.reconcile.every_seconds)
            if was_requested or due or self.discrepancies.has_suspected(self.clock.now() - pause):
                last_full = self.clock.now()
                await self.reconcile("reconcile", full=was_requested)
            elif await self._has_open_work():
                await self._poll()

    async def _poll(self) -> None:
        """Apply the day's orders, and compare positions every `position_poll_seconds`."""
        if not await self._import_spool():
            return
        if (reports := await self._read_orders(self.clock.now(), earlier=False)) is None:
            return
        await self._apply_reports(reports, await self._read_rows(reports), "poll")
        positions_interval = timedelta(seconds=self.config.execution.position_poll_seconds)
        if (
            self._shares_compared_at is None
            or self.clock.now() - self._shares_compared_at >= positions_interval
        ):
            await self._compare_shares(await self._read_positions(), "poll")

    async def reconcile(self, source: str, *, full: bool = True) -> ReconciliationResult:
        """Run one pass; a complete pass fills the gap of the stream and reopens the entry gate.

        A pass that is not `full` skips what was read recently. After a gap or an incomplete full pass, every pass is
        full until one is complete.
        """
        async with self._pass_lock:
            gap_count = self._gap_count
            self._full_pass_due = full or self._full_pass_due or gap_count != self._filled_gap_count
            result = await self._run_pass(source, full=self._full_pass_due)
            if result.complete:
                self._full_pass_due, self._filled_gap_count = False, gap_count
                self._update_entry_gate()
                if self.stream_ready and gap_count == self._gap_count:
                    self.gate.reopen("stream")
                self.gate.reopen(DATABASE)
        return result

    def _update_entry_gate(self) -> None:
        """Reopen the entry gate when no discrepancy of our symbols is suspected and none of the account is confirmed.

        A confirmed discrepancy of the whole account closes the gate; one of a symbol blocks only that symbol. A
        suspected discrepancy blocks its symbol and keeps a closed gate closed. It does not close an open gate, because
        a fill that is not yet reported looks equal. Symbols with an order of unknown outcome are left out: that order
        blocks its symbol until it is resolved.
        """
        suspected = [
            discrepancy.text
            for discrepancy in self.discrepancies.suspected(self.clock.now())
            if discrepancy.symbol is None
            or (
                discrepancy.symbol in self.ledger.last_known.symbols
                and discrepancy.symbol not in self.gate.unresolved_symbols
            )
        ]
        of_account = [
            discrepancy.text
            for discrepancy in self.discrepancies.confirmed(self.clock.now())
            if discrepancy.symbol is None
        ]
        if of_account or (suspected and not self.gate.is_open):
            self.gate.close(DISCREPANCIES, "; ".join(sorted({*of_account, *suspected})))
        elif not suspected:
            self.gate.reopen(DISCREPANCIES)

    async def run_until_settled(self, source: str) -> ReconciliationResult:
        """Reconcile until no discrepancy is suspected any more, or a pass is incomplete; return the last result."""
        result = await self.reconcile(source)
        while result.complete and self.discrepancies.has_suspected(self.clock.now()):
            await self.clock.sleep(SUSPECTED_RECHECK_INTERVAL)
            result = await self.reconcile(source)
        return result

    async def _run_pass(self, source: str, *, full: bool) -> ReconciliationResult:
        await self._refresh_own_symbols()
        if not await self._import_spool():
            return ReconciliationResult(complete=False)
        snapshot = await self._read_broker(full=full or self.discrepancies.has_suspected(self.clock.now()))
        if snapshot.orders is None:
            return ReconciliationResult(complete=False)
        rows = await self._read_rows(snapshot.orders)
        applied = await self._apply_reports(snapshot.orders, rows, source)
        booked = await self._apply_activities(snapshot, source)
        await self._resolve_unlisted(rows, snapshot.orders, source)
        broker_positions = snapshot.positions
        if broker_positions is not None and self.ledger.changed.version != snapshot.ledger_version:
            broker_positions = await self._read_positions()  # orders changed since the positions were read
        shares_compared = await self._compare_shares(broker_positions, source)
        if booked is None or not shares_compared or not snapshot.account_read:
            return ReconciliationResult(complete=False, orders_applied=applied)
        await self._compare_orders(rows, snapshot.orders, snapshot.read_at, source)
        discrepancies = tuple(
            discrepancy.text for discrepancy in self.discrepancies.confirmed(self.clock.now())
        )
        result = ReconciliationResult(
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
        return result

    async def _read_broker(self, *, full: bool) -> BrokerSnapshot:
        """Read the broker, all requests at once.

        Every pass reads the day's orders and the positions. A full pass also reads account activities, orders of
        earlier days and the account; other passes do so only when the last read is too old.
        """
        now, ledger_version = self.clock.now(), self.ledger.changed.version
        earlier = (
            full
            or self._has_earlier_orders
            or _is_due(self._earlier_orders_read_at, EARLIER_ORDERS_REFRESH, now)
        )
        with_activities = full or _is_due(self._activities_read_to, ACTIVITIES_REFRESH, now)
        (reports, broker_positions), (fills, account_read) = await gather_both(
            gather_both(self._read_orders(now, earlier=earlier), self._read_positions()),
            gather_both(
                self._read_fills(now, read=with_activities),
                self.account_status.refresh(every=FULL_PASS_INTERVAL if full else MAX_READ_INTERVAL),
            ),
        )
        return BrokerSnapshot(reports, broker_positions, fills, account_read, now, ledger_version)

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
                self._own_symbols = await positions.traded_symbols(conn, since=now - OWN_SYMBOL_WINDOW)
            self._own_symbols_read_at = now
            self.ledger.last_known.add_symbols(self._own_symbols)

    # -- orders

    async def _read_orders(self, now: datetime, *, earlier: bool) -> list[OrderReport] | None:
        """Return the orders of the last day; None when the read failed.

        With `earlier` also older orders that are still working, such as an external GTC order.
        """
        horizon = now - LOOK_BACK
        try:
            if not earlier:
                return await self.broker.orders(status="all", after=horizon)
            reports, open_orders = await gather_both(
                self.broker.orders(status="all", after=horizon), self.broker.orders(status="open")
            )
        except BrokerError as error:
            log.warning("orders_read_failed", error=str(error))
            return None
        earlier_orders = [
            report for report in open_orders if report.submitted_at and report.submitted_at < horizon
        ]
        self._has_earlier_orders, self._earlier_orders_read_at = bool(earlier_orders), now
        return reports + earlier_orders

    async def _read_rows(self, reports: list[OrderReport]) -> list[OrderRow]:
        """Read the rows of these reports and every working row, before the reports are applied."""
        ids = [order.broker_id for report in reports for order in (report, *report.legs)]
        async with self.store.read() as conn:
            return await reconciliation.orders_to_compare(conn, ids, self._cached_rows)

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
                self._has_earlier_orders = True  # it is probably of an earlier day; the next pass reads those
                await self.submission.refresh(row.alpaca_order_id, source)

    # -- fills

    async def _read_fills(self, now: datetime, *, read: bool) -> list[Fill] | None:
        """Return the fills of the account activities since OVERLAP before the last read.

        NOT_READ when `read` is false, None when the read failed.
        """
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
        """Book every fill of the account activities that has no execution row.

        Return the number booked; None when the read failed. A snapshot without account activities reads them now if
        the filled quantities of the orders have changed since the last read.
        """
        fills, filled_by_order = snapshot.fills, snapshot.filled_by_order
        if fills is NOT_READ:
            if filled_by_order == self._filled_at_activities_read:
                return 0
            fills = await self._read_fills(snapshot.read_at, read=True)
        if fills is None:
            return None
        activity_ids = {fill.activity_id for fill in fills if fill.activity_id is not None}
        booked = 0
        for fill in await self._unbooked_fills(fills):
            booked += await self.ledger.apply_fill(fill, source)
        self._activities_read_to, self._filled_at_activities_read = snapshot.read_at, filled_by_order
        self._applied_activities = activity_ids - self.ledger.unknown_broker_ids
        return booked

    async def _unbooked_fills(self, fills: list[Fill]) -> list[Fill]:
        """Return the fills without an execution row, except those that the last read applied."""
        new_fills = [fill for fill in fills if fill.activity_id not in self._applied_activities]
        activity_ids = [fill.activity_id for fill in new_fills if fill.activity_id is not None]
        if not new_fills:
            return []
        async with self.store.read() as conn:
            booked_ids = await orders.booked_activity_ids(conn, activity_ids)
        return [fill for fill in new_fills if fill.activity_id not in booked_ids]

    # -- discrepancies

    async def _read_positions(self) -> list[PositionReport] | None:
        """Return the broker's positions; None when the read failed."""
        try:
            return await self.broker.positions()
        except BrokerError as error:
            log.warning("positions_read_failed", error=str(error))
            return None

    async def _compare_shares(self, reports: list[PositionReport] | None, source: str) -> bool:
        """Compare shares with the broker's and results with the fills; record what is confirmed.

        Return false without `reports`: the broker's positions could not be read.
        """
        if reports is None:
            return False
        broker_positions = {report.symbol: report for report in reports}
        now = self._shares_compared_at = self.clock.now()
        async with self.store.read() as conn:
            holdings = await reconciliation.holdings(conn, since=now - LOOK_BACK)
        self.ledger.last_known.add_symbols(holding.symbol for holding in holdings if not holding.is_orphan)
        discrepancies = [*share_discrepancies(holdings, broker_positions), *result_discrepancies(holdings)]
        self.discrepancies.update(discrepancies, now, kinds=SHARE_KINDS)
        self.gate.set_mismatched_symbols(
            self.discrepancies.symbols | {holding.symbol for holding in holdings if holding.is_orphan}
        )
        for discrepancy in self.discrepancies.confirmed(now):
            if discrepancy.kind in SHARE_KINDS:
                await self._confirm(discrepancy, source)
        for holding in holdings:
            if any(
                discrepancy.kind is DiscrepancyKind.PHANTOM and discrepancy.symbol == holding.symbol
                for discrepancy in self.discrepancies.confirmed(now)
            ):
                await self._write_off_missing(holding, source)
        return True

    async def _compare_orders(
        self, rows: list[OrderRow], reports: list[OrderReport], began: datetime, source: str
    ) -> None:
        """Compare orders and legs with the broker's, and rows with journal and fills; record what is confirmed.

        `rows` were read before `reports` were applied; `began` is when the pass read the broker.
        """
        now = self.clock.now()
        activities_read_to = (
            None if self._activities_read_to is None else self._activities_read_to - ACTIVITIES_LAG
        )
        async with self.store.read() as conn:
            contradictions = await reconciliation.contradictions(
                conn, since=began - LOOK_BACK, activities_read_to=activities_read_to
            )
        listed_since = began - LOOK_BACK + OVERLAP
        discrepancies = [
            *order_discrepancies(rows, reports, listed_since=listed_since),
            *ledger_discrepancies(contradictions),
        ]
        self.discrepancies.update(discrepancies, now, kinds=ORDER_KINDS)
        self.gate.mismatched_symbols.update(self.discrepancies.symbols)
        for discrepancy in self.discrepancies.confirmed(now):
            if discrepancy.kind in ORDER_KINDS:
                await self._confirm(discrepancy, source)

    async def _confirm(self, discrepancy: Discrepancy, source: str) -> None:
        """Record a confirmed discrepancy: an alert, and for our symbols quarantine, adjustment and orphan row.

        A symbol that we did not trade lately is not ours: its shares raise one alert a day, its other discrepancies
        are ignored. A missing position gets no adjustment, because it is written off.
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
                    discrepancy=discrepancy.text,
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
            is_new_orphan = (
                ours
                and discrepancy.kind is DiscrepancyKind.ORPHAN
                and self.config.reconcile.orphans != "alert"
            )
            if is_new_orphan and discrepancy.symbol is not None:
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
        if is_new_orphan:
            self.discrepancies.discard(discrepancy)
            self.ledger.orphan_found.notify()

    async def _write_off_missing(self, position: StoredHolding, source: str) -> None:
        """Write off a position whose shares the broker does not have and whose fills do not explain it.

        Does nothing while an exit of the position is working. Reads the single position, because a list alone is not
        enough, and first books the missing fills of each of its orders.
        """
        if position.is_orphan or not position.is_open:
            return
        async with self.store.read() as conn:
            rows = await orders.of_position(conn, position.holding_id)
        if any(
            row.status in WORKING and row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN) for row in rows
        ):
            return
        try:
            broker_position = await self.broker.position(position.symbol)
        except BrokerError as error:
            log.warning("position_read_failed", symbol=position.symbol, error=str(error))
            return
        if broker_position is not None and broker_position.quantity != 0:
            return
        for row in rows:
            if row.alpaca_order_id is not None:
                await self.ledger.fetch_missing_fills(row.alpaca_order_id, source)
        await self.ledger.write_off(position.holding_id, f"{CloseReason.RECONCILED_PHANTOM}", source)

    async def _alert_discrepancy(self, conn: "orders.Conn", discrepancy: Discrepancy, *, ours: bool) -> bool:
        """Write the alert; false when it was written already within its window."""
        return await alerts.put(
            conn,
            severity="CRITICAL" if ours else "WARNING",
            event=discrepancy.kind,
            message=f"{discrepancy.text}; compare with the broker's app, then run `catalyst doctor`"
            if ours
            else discrepancy.text,
            facts={"symbol": discrepancy.symbol},
            dedupe_key=f"{discrepancy.kind}:{discrepancy.text}",
            at=self.clock.now(),
            window=alerts.DEDUPE_WINDOW if ours else EXTERNAL_ALERT_WINDOW,
        )


def _is_due(last: datetime | None, every: timedelta, now: datetime) -> bool:
    """Return true when `last` is None or at least `every` ago."""
    return last is None or now - last >= every


def _is_unchanged(row: OrderRow | None, report: OrderReport) -> bool:
    """Return true when the row agrees with the report in status, filled quantity and quantity."""
    return (
        row is not None
        and row.broker_status == report.broker_status
        and row.filled_qty == report.filled_qty
        and row.quantity == report.quantity
        and (row.status is not Status.SUBMITTED or report.broker_status in {"new", "pending_new"})
    )
