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
from catalyst.concurrency import both
from catalyst.config.schema import Execution as ExecutionConfig
from catalyst.config.schema import Reconcile
from catalyst.daemon.orders.ledger import Books
from catalyst.daemon.orders.submission import Execution
from catalyst.daemon.outage.spool_import import Spooled
from catalyst.daemon.reconciliation.discrepancies import (
    ORDERS,
    SHARES,
    Difference,
    Doubts,
    Kind,
    contradictions,
    differing_orders,
    differing_results,
    differing_shares,
)
from catalyst.daemon.reconciliation.order_adoption import Strangers
from catalyst.daemon.runtime.change_signal import Pulse
from catalyst.daemon.trading_state.account_status import LATEST, SOON, Standing
from catalyst.daemon.trading_state.entry_gate import DATABASE, DIFFERENCES, Gate
from catalyst.domain.errors import BrokerError
from catalyst.domain.order import WORKING, PositionSide, Purpose, Status
from catalyst.domain.position import CloseReason
from catalyst.domain.report import Fill, OrderReport, PositionReport
from catalyst.domain.session import trading_date
from catalyst.store import alerts, cycles, orders, orphans, positions, quarantine, reconciliation
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Store
from catalyst.store.reconciliation import Held

log = structlog.get_logger()

OVERLAP: Final = timedelta(minutes=10)  # the broker's bounds are exclusive and its clock is not ours
LOOK_BACK: Final = timedelta(days=1)
LEDGER_LAG: Final = timedelta(minutes=5)  # a fill may be in the stream that long before it is in the ledger
DOUBTFUL_LOOK: Final = timedelta(seconds=4)
A_DAY: Final = timedelta(days=1)
OURS_FOR: Final = timedelta(days=14)  # a symbol traded that recently is one we answer for
OURS_AGAIN: Final = timedelta(hours=1)
# The fills that are known by then are in the ledger, or are told of.
LEDGER_AGAIN: Final = timedelta(minutes=5)
# What works of earlier days is none that we hear of for the first time.
EARLIER_AGAIN: Final = timedelta(minutes=10)
MOST_SINGLE: Final = 10  # orders asked for one by one in a look; the others have theirs in the next


@dataclass(frozen=True, slots=True)
class Findings:
    """What one reconciliation saw. `clean` is false when a read failed or the books differ from the broker."""

    read: bool
    heard: int = 0
    fills_booked: int = 0
    strangers: int = 0
    differences: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        return self.read and not self.differences


@dataclass(frozen=True, slots=True)
class Shown:
    """What the broker shows at one look, None where it could not be read. `filled` is what its orders have filled;
    `fills` are of the ledger, and NOT_ASKED where nothing says that it has a new one."""

    orders: list[OrderReport] | None
    positions: list[PositionReport] | None
    fills: list[Fill] | None
    standing: bool
    asked_at: datetime
    changes: int  # of the books, before the first of it was asked for

    @property
    def filled(self) -> dict[str, Decimal]:
        return {
            one.broker_id: one.filled_qty
            for report in self.orders or ()
            for one in (report, *report.legs)
            if one.filled_qty
        }


NOT_ASKED: Final[list[Fill]] = []


@dataclass
class Reconciler:
    """Hears everything the broker shows, then judges what still differs.

    Two requests and three SQL statements a look at which nothing is new, whatever there is of orders and positions.
    """

    store: Store
    broker: Broker
    books: Books
    execution: Execution
    gate: Gate
    standing: Standing
    clock: Clock
    cfg: Reconcile
    polls: ExecutionConfig
    spooled: Spooled | None = (
        None  # what was done while the database was away: told before anything is judged
    )
    stream_ready: bool = False
    doubts: Doubts = field(default_factory=Doubts.none)
    strangers: Strangers = field(init=False)
    _compared_at: datetime | None = None
    _gaps: int = 0
    _gaps_filled: int = 0  # when everything could be read last
    _owed: bool = False  # a whole look was wanted, and not everything could be read
    _answered: int = 0  # beats of `soon` that had their look
    _ours: set[str] = field(default_factory=set)
    _ours_asked: datetime | None = None
    _told: set[str] = field(default_factory=set)  # differences that have their line in journal and quarantine
    _ledger_seen_to: datetime | None = None
    _ledger_heard: set[str] = field(default_factory=set)  # activity ids that had their answer
    # What the orders had filled when the ledger was read.
    _ledger_filled: dict[str, Decimal] = field(default_factory=dict)
    _earlier: bool = False  # something works that is of an earlier day
    _earlier_asked: datetime | None = None
    _known: "reconciliation.Known" = field(default_factory=dict)  # rows of the look before
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

    def __post_init__(self) -> None:
        self.strangers = Strangers(self.store, self.books, self.clock, self.execution.epoch)

    @property
    def soon(self) -> Pulse:
        """Asks for a look at once: the books' own doubts, a gap, a stranger."""
        return self.books.doubtful

    def mark_gap(self, *, stream_ready: bool) -> None:
        """Note that something may have been missed: only a look that begins after this fills the gap."""
        self._gaps += 1
        self.stream_ready = stream_ready

    async def run(self) -> None:
        """A full look every minute; in between, light polls while anything is working (2 s without a stream), of
        the shares held every half minute. What is doubted is looked at again until it is believed or gone."""
        last_full = self.clock.now()
        while True:
            pause = timedelta(seconds=self.polls.order_poll_seconds if self.stream_ready else 2.0)
            if self.doubts.pending(self.clock.now()):
                pause = min(pause, DOUBTFUL_LOOK)
            at_once = await self.soon.next(self.clock, pause, since=self._answered)
            self._answered = self.soon.count
            due = self.clock.now() - last_full >= timedelta(seconds=self.cfg.every_seconds)
            if at_once or due or self.doubts.pending(self.clock.now() - pause):
                last_full = self.clock.now()
                await self.look("reconcile", whole=at_once)
            elif await self._anything_working():
                await self._poll()

    async def _poll(self) -> None:
        """A light look: the orders, and every half minute the shares."""
        if not await self._spool_is_told():
            return
        if (reports := await self._orders(self.clock.now(), earlier=False)) is None:
            return
        await self._hear(reports, await self._rows(reports), "poll")
        held = timedelta(seconds=self.polls.position_poll_seconds)
        if self._compared_at is None or self.clock.now() - self._compared_at >= held:
            await self._compare_shares(await self._positions(), "poll")

    async def look(self, source: str, *, whole: bool = True) -> Findings:
        """One reconciliation; one that could read everything fills the stream's gap. But for `whole`, what somebody has
        heard lately is not asked for again; not so after a gap, nor after a whole look that failed, until one succeeds.
        """
        async with self._looking:
            gaps = self._gaps
            self._owed = whole or self._owed or gaps != self._gaps_filled
            findings = await self._look(source, whole=self._owed)
            if findings.read:
                self._owed, self._gaps_filled = False, gaps
                self._hold_the_gate()
                if self.stream_ready and gaps == self._gaps:
                    self.gate.clear("stream")
                self.gate.clear(DATABASE)
        return findings

    def _hold_the_gate(self) -> None:
        """Entries that were stopped, for whatever reason, begin again only with clean books: nothing of ours doubted
        and not judged yet. What was judged keeps its own symbol shut; what is about the whole account, everything.

        A gate that is open is not shut by a doubt, which blocks its symbol: a fill on its way is one. Nor does
        anything wait for an order whose outcome is unknown, whose symbol is locked until it is known.
        """
        open_questions = [
            one.text
            for one in self.doubts.open_questions(self.clock.now())
            if one.symbol is None
            or (one.symbol in self.books.memory.symbols and one.symbol not in self.gate.locked)
        ]
        about_all = [one.text for one in self.doubts.confirmed(self.clock.now()) if one.symbol is None]
        if about_all or (open_questions and not self.gate.open):
            self.gate.shut(DIFFERENCES, "; ".join(sorted({*about_all, *open_questions})))
        elif not open_questions:
            self.gate.clear(DIFFERENCES)

    async def examine(self, source: str) -> Findings:
        """Reconcile on demand: look until everything that is doubted is believed or gone."""
        findings = await self.look(source)
        while findings.read and self.doubts.pending(self.clock.now()):
            await self.clock.sleep(DOUBTFUL_LOOK)
            findings = await self.look(source)
        return findings

    async def _look(self, source: str, *, whole: bool) -> Findings:
        await self._remember_ours()
        if not await self._spool_is_told():
            return Findings(read=False)
        shown = await self._ask(whole=whole or self.doubts.pending(self.clock.now()))
        if shown.orders is None:
            return Findings(read=False)
        rows = await self._rows(shown.orders)
        heard = await self._hear(shown.orders, rows, source)
        booked = await self._hear_ledger(shown, source)
        await self._resolve(rows, shown.orders, source)
        held = shown.positions
        if held is not None and self.books.changed.count != shown.changes:
            held = await self._positions()  # what has become of them meanwhile is not there yet
        shares = await self._compare_shares(held, source)
        if booked is None or not shares or not shown.standing:
            return Findings(read=False, heard=heard)
        await self._compare_books(rows, shown.orders, shown.asked_at, source)
        differences = tuple(one.text for one in self.doubts.confirmed(self.clock.now()))
        findings = Findings(True, heard, booked, len(self.books.strangers), differences)
        if heard or booked or differences:
            log.info(
                "reconciled",
                source=source,
                orders_heard=heard,
                fills_booked=booked,
                differences=list(differences),
            )
        return findings

    async def _ask(self, *, whole: bool) -> Shown:
        """What the broker shows, asked for at once: its orders and positions at every look; the ledger, what works of
        earlier days, and the account, when it is a whole one or nobody has heard them lately."""
        now, changes = self.clock.now(), self.books.changed.count
        earlier = whole or self._earlier or _is_due(self._earlier_asked, EARLIER_AGAIN, now)
        ledger = whole or _is_due(self._ledger_seen_to, LEDGER_AGAIN, now)
        (reports, held), (fills, standing) = await both(
            both(self._orders(now, earlier=earlier), self._positions()),
            both(self._fills(now, ask=ledger), self.standing.look(every=SOON if whole else LATEST)),
        )
        return Shown(reports, held, fills, standing, now, changes)

    async def _spool_is_told(self) -> bool:
        """What was done without the tables is in them; false when the broker could not be read for it."""
        try:
            if self.spooled is not None:
                await self.spooled.bring_in()
        except BrokerError as error:
            log.warning("spool_untold", error=str(error))
            return False
        return True

    async def _anything_working(self) -> bool:
        async with self.store.read() as conn:
            return bool(await orders.working(conn)) or bool(await positions.open_positions(conn))

    async def _remember_ours(self) -> None:
        """The symbols we answer for: held, or traded in the last two weeks. Our own orders add to them at once."""
        now = self.clock.now()
        if self._ours_asked is None or now - self._ours_asked >= OURS_AGAIN:
            async with self.store.read() as conn:
                self._ours = await positions.traded_symbols(conn, since=now - OURS_FOR)
            self._ours_asked = now
            self.books.memory.know(self._ours)

    # -- orders

    async def _orders(self, now: datetime, *, earlier: bool) -> list[OrderReport] | None:
        """Every order of the day as the broker shows it, with `earlier` also what works of earlier days: a stranger's
        bid good till cancelled, say. None when it could not be read."""
        horizon = now - LOOK_BACK
        try:
            if not earlier:
                return await self.broker.orders(status="all", after=horizon)
            reports, working = await both(
                self.broker.orders(status="all", after=horizon), self.broker.orders(status="open")
            )
        except BrokerError as error:
            log.warning("orders_unreadable", error=str(error))
            return None
        old = [one for one in working if one.submitted_at and one.submitted_at < horizon]
        self._earlier, self._earlier_asked = bool(old), now
        return reports + old

    async def _rows(self, reports: list[OrderReport]) -> list[OrderRow]:
        """The rows of these reports, and every working one, before the reports are heard."""
        ids = [one.broker_id for report in reports for one in (report, *report.legs)]
        async with self.store.read() as conn:
            return await reconciliation.to_judge(conn, ids, self._known)

    async def _hear(self, reports: list[OrderReport], rows: list[OrderRow], source: str) -> int:
        """Hear every order whose report says something new; how many."""
        known = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
        heard = 0
        for report in reports:
            if all(_says_nothing_new(known.get(one.broker_id), one) for one in (report, *report.legs)):
                continue
            heard += 1
            await self.strangers.hear(report, source)
        return heard

    async def _resolve(self, rows: list[OrderRow], reports: list[OrderReport], source: str) -> None:
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
                if not self.execution.sending(row.order_id):
                    self.execution.resolving(row)
            elif row.parent_order_id is None and asked < MOST_SINGLE:
                asked += 1
                self._earlier = True  # of an earlier day, it seems: the next look asks for those
                await self.execution.refresh(row.alpaca_order_id, source)

    # -- fills

    async def _fills(self, now: datetime, *, ask: bool) -> list[Fill] | None:
        """The ledger's fills since a little before it was read last; None when it could not be read."""
        if not ask:
            return NOT_ASKED
        after = (self._ledger_seen_to or now - LOOK_BACK) - OVERLAP
        try:
            return await self.broker.fills(after=after)
        except BrokerError as error:
            log.warning("ledger_unreadable", error=str(error))
            self._ledger_seen_to = None
            return None

    async def _hear_ledger(self, shown: Shown, source: str) -> int | None:
        """Book every fill of the ledger that has no execution row yet; how many, None when the read failed. It is asked
        now if the orders have filled more than when it was read last."""
        found, filled = shown.fills, shown.filled
        if found is NOT_ASKED:
            if filled == self._ledger_filled:
                return 0
            found = await self._fills(shown.asked_at, ask=True)
        if found is None:
            return None
        ids = {fill.activity_id for fill in found if fill.activity_id is not None}
        booked = 0
        for fill in await self._missing(found):
            booked += await self.books.book(fill, source)
        self._ledger_seen_to, self._ledger_filled = shown.asked_at, filled
        self._ledger_heard = ids - self.books.strangers
        return booked

    async def _missing(self, found: list[Fill]) -> list[Fill]:
        """Fills whose ledger id no execution carries yet, and that were not answered before."""
        fresh = [fill for fill in found if fill.activity_id not in self._ledger_heard]
        ids = [fill.activity_id for fill in fresh if fill.activity_id is not None]
        if not fresh:
            return []
        async with self.store.read() as conn:
            booked = await orders.booked_activities(conn, ids)
        return [fill for fill in fresh if fill.activity_id not in booked]

    # -- what differs

    async def _positions(self) -> list[PositionReport] | None:
        try:
            return await self.broker.positions()
        except BrokerError as error:
            log.warning("positions_unreadable", error=str(error))
            return None

    async def _compare_shares(self, reports: list[PositionReport] | None, source: str) -> bool:
        """Judge shares and results; false when the broker's positions could not be read."""
        if reports is None:
            return False
        shown = {report.symbol: report for report in reports}
        now = self._compared_at = self.clock.now()
        async with self.store.read() as conn:
            held = await reconciliation.holdings(conn, since=now - LOOK_BACK)
        self.books.memory.know(one.symbol for one in held if not one.orphan)
        found = [*differing_shares(held, shown), *differing_results(held)]
        self.doubts.look(found, now, kinds=SHARES)
        self.gate.disputed = self.doubts.symbols | {one.symbol for one in held if one.orphan}
        for one in self.doubts.confirmed(now):
            if one.kind in SHARES:
                await self._believe(one, source)
        for position in held:
            if any(
                one.kind is Kind.PHANTOM and one.symbol == position.symbol
                for one in self.doubts.confirmed(now)
            ):
                await self._end_phantom(position, source)
        return True

    async def _compare_books(
        self, rows: list[OrderRow], reports: list[OrderReport], began: datetime, source: str
    ) -> None:
        """Judge orders and groups against the broker, and the rows against their journal and fills."""
        now = self.clock.now()
        ledger_to = None if self._ledger_seen_to is None else self._ledger_seen_to - LEDGER_LAG
        async with self.store.read() as conn:
            flaws = await reconciliation.flaws(conn, since=began - LOOK_BACK, ledger_to=ledger_to)
        listed_since = began - LOOK_BACK + OVERLAP
        found = [*differing_orders(rows, reports, listed_since=listed_since), *contradictions(flaws)]
        self.doubts.look(found, now, kinds=ORDERS)
        self.gate.disputed |= self.doubts.symbols
        for one in self.doubts.confirmed(now):
            if one.kind in ORDERS:
                await self._believe(one, source)

    async def _believe(self, one: Difference, source: str) -> None:
        """A difference that has lasted: told, kept as an adjustment nobody made, and, of shares, put on record.

        Shares of a symbol we never traded are somebody else's business, told of once a day.
        """
        ours = one.symbol is None or one.symbol in self.books.memory.symbols
        if not ours and one.kind is not Kind.ORPHAN:
            return
        at = self.clock.now()
        async with self.store.tx("difference") as conn:
            if await self._alert(conn, one, ours=ours):
                log.error(one.kind.lower(), symbol=one.symbol, difference=one.text, source=source)
            if ours and one.text not in self._told and one.kind is not Kind.PHANTOM:
                payload = {"symbol": one.symbol, "difference": one.text}
                if await quarantine.put_once(conn, source=source, reason=one.text, payload=payload, at=at):
                    await orders.journal(
                        conn, None, at=at, source=source, kind="adjustment", note=one.text, payload=payload
                    )
            orphaned = ours and one.kind is Kind.ORPHAN and self.cfg.orphans != "alert"
            if orphaned and one.symbol is not None:
                side = PositionSide.LONG if one.surplus > 0 else PositionSide.SHORT
                today = await cycles.of_day(conn, trading_date(at))
                await orphans.found(
                    conn,
                    one.symbol,
                    side,
                    abs(one.surplus),
                    at=at,
                    cycle_id=today.cycle_id if today else None,
                )
        self._told.add(one.text)
        if orphaned:
            self.doubts.forget(one)
            self.books.orphaned.beat()

    async def _end_phantom(self, position: Held, source: str) -> None:
        """Close a position whose shares the broker does not have and no fill explains, for all to see.

        Not while an exit of it is under way, not on the word of a list alone, and not before the ledger was
        asked about each of its orders.
        """
        if position.orphan or not position.is_open:
            return
        async with self.store.read() as conn:
            rows = await orders.of_position(conn, position.held_id)
        if any(r.status in WORKING and r.order_purpose in (Purpose.EXIT, Purpose.FLATTEN) for r in rows):
            return
        try:
            held = await self.broker.position(position.symbol)
        except BrokerError as error:
            log.warning("position_unreadable", symbol=position.symbol, error=str(error))
            return
        if held is not None and held.quantity != 0:
            return
        for row in rows:
            if row.alpaca_order_id is not None:
                await self.books.catch_up(row.alpaca_order_id, source)
        await self.books.write_off(position.held_id, f"{CloseReason.RECONCILED_PHANTOM}", source)

    async def _alert(self, conn: "orders.Conn", one: Difference, *, ours: bool) -> bool:
        return await alerts.put(
            conn,
            severity="CRITICAL" if ours else "WARNING",
            event=one.kind,
            message=one.text,
            facts={"symbol": one.symbol},
            dedupe_key=f"{one.kind}:{one.text}",
            at=self.clock.now(),
            window=alerts.WINDOW if ours else A_DAY,
        )


def _is_due(last: datetime | None, every: timedelta, now: datetime) -> bool:
    return last is None or now - last >= every


def _says_nothing_new(row: OrderRow | None, report: OrderReport) -> bool:
    """True when the row says already what the report says."""
    return (
        row is not None
        and row.broker_status == report.broker_status
        and row.filled_qty == report.filled_qty
        and row.quantity == report.quantity
        and (row.status is not Status.SUBMITTED or report.broker_status in {"new", "pending_new"})
    )
