"""Reconciliation: rows, fills, orders and positions against what the broker shows. Also the light polls, and
recovery, which is nothing but the first reconciliation.

It corrects the tables by hearing the broker; it never trades, and it believes a difference in shares only when
two looks in a row agree.
"""

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import structlog

from catalyst.broker.port import Broker
from catalyst.clock import Clock
from catalyst.config import Execution as ExecutionConfig
from catalyst.config import Reconcile
from catalyst.daemon.books import Books, Pulse
from catalyst.daemon.execution import Execution
from catalyst.daemon.gate import DATABASE, Gate
from catalyst.daemon.spooled import Spooled
from catalyst.daemon.standing import Standing
from catalyst.domain.errors import BrokerError
from catalyst.domain.ids import is_ours
from catalyst.domain.order import WORKING, PositionSide, Purpose, Side, Status, position_side_for
from catalyst.domain.position import CloseReason
from catalyst.domain.report import Fill, OrderReport, PositionReport
from catalyst.store import alerts, orders, positions, quarantine
from catalyst.store.orders import NewOrder, OrderRow
from catalyst.store.pool import Store, is_outage
from catalyst.store.positions import PositionRow

log = structlog.get_logger()

OVERLAP: Final = timedelta(minutes=10)  # the broker's bounds are exclusive and its clock is not ours
LOOK_BACK: Final = timedelta(days=1)
DOUBT_FOR: Final = timedelta(seconds=12)  # the broker's positions may lag behind its own fills
DOUBTFUL_LOOK: Final = timedelta(seconds=4)
A_DAY: Final = timedelta(days=1)
OURS_FOR: Final = timedelta(days=14)  # a symbol traded that recently is one we answer for
PHANTOM: Final = "PHANTOM_POSITION"


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


@dataclass
class Reconciler:
    """Hears everything the broker shows."""

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
    _compared_at: datetime | None = None
    _gaps: int = 0
    _answered: int = 0  # beats of `soon` that had their look
    _doubts: dict[str, tuple[str, datetime]] = field(default_factory=dict)  # what differs, and since when
    _unreadable: set[str] = field(default_factory=set)  # broker ids of orders that no row can hold
    _ledger_seen_to: datetime | None = None
    _looking: asyncio.Lock = field(default_factory=asyncio.Lock)

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
        the shares held every half minute."""
        last_full = self.clock.now()
        while True:
            pause = timedelta(seconds=self.polls.order_poll_seconds if self.stream_ready else 2.0)
            if self._doubts:
                pause = min(pause, DOUBTFUL_LOOK)
            at_once = await self.soon.next(self.clock, pause, since=self._answered)
            self._answered = self.soon.count
            due = self.clock.now() - last_full >= timedelta(seconds=self.cfg.every_seconds)
            if at_once or due or self._doubts:
                last_full = self.clock.now()
                await self.look("reconcile")
            elif await self._anything_working():
                await self._hear_orders("poll")
                held = timedelta(seconds=self.polls.position_poll_seconds)
                if self._compared_at is None or self.clock.now() - self._compared_at >= held:
                    await self._compare_positions("poll")

    async def look(self, source: str) -> Findings:
        """One whole reconciliation; one that could read everything fills the stream's gap."""
        async with self._looking:
            gaps = self._gaps
            findings = await self._look(source)
            if findings.read and self.stream_ready and gaps == self._gaps:
                self.gate.clear("stream")
            if findings.read:
                self.gate.clear(DATABASE)
        return findings

    async def _look(self, source: str) -> Findings:
        heard = await self._hear_orders(source)
        if heard is None:
            return Findings(read=False)
        booked = await self._hear_ledger(source)
        await self._resolve_rows(source)
        differences = await self._compare_positions(source)
        if booked is None or differences is None or not await self.standing.look():
            return Findings(read=False, heard=heard)
        findings = Findings(True, heard, booked, len(self.books.strangers), tuple(differences))
        if heard or booked or differences:
            log.info(
                "reconciled",
                source=source,
                orders_heard=heard,
                fills_booked=booked,
                differences=list(differences),
            )
        return findings

    async def _anything_working(self) -> bool:
        async with self.store.read() as conn:
            return bool(await orders.working(conn)) or bool(await positions.open_positions(conn))

    # -- orders

    async def _hear_orders(self, source: str) -> int | None:
        """Hear every order of the day whose report says something new; how many, None when the read failed."""
        try:
            if self.spooled is not None:
                await self.spooled.bring_in()
            horizon = self.clock.now() - LOOK_BACK
            reports = await self.broker.orders(status="all", after=horizon)
            if (
                source != "poll"
            ):  # and what still works of earlier days: a stranger's bid good till cancelled, say
                working = await self.broker.orders(status="open")
                reports += [one for one in working if one.submitted_at and one.submitted_at < horizon]
        except BrokerError as error:
            log.warning("orders_unreadable", error=str(error))
            return None
        known = await self._known(reports)
        heard = 0
        for report in reports:
            if all(_says_nothing_new(known.get(one.broker_id), one) for one in (report, *report.legs)):
                continue
            heard += 1
            await self._hear_one(report, source)
        return heard

    async def _hear_one(self, report: OrderReport, source: str) -> None:
        """Hear one order, known or not; one that our tables cannot hold is kept aside, and the others go on."""
        if report.broker_id in self._unreadable:
            return
        try:
            if not await self.books.hear(report, source):
                await self._adopt_stranger(report, source)
        except Exception as error:
            if is_outage(error):
                raise
            log.exception("order_unacceptable", symbol=report.symbol, broker_id=report.broker_id)
            self._unreadable.add(report.broker_id)
            async with self.store.tx("quarantine") as conn:
                at = self.clock.now()
                await quarantine.put(conn, source=source, reason=str(error), payload=report.raw, at=at)
                await self._alert(
                    conn,
                    "ORDER_UNACCEPTABLE",
                    "CRITICAL",
                    report.symbol,
                    f"{report.side} {report.symbol}: an order the tables cannot hold: {error}",
                    key=report.broker_id,
                )

    async def _known(self, reports: list[OrderReport]) -> dict[str, OrderRow]:
        ids = [one.broker_id for report in reports for one in (report, *report.legs)]
        async with self.store.read() as conn:
            rows = await orders.by_broker_ids(conn, ids)
        return {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}

    async def _adopt_stranger(self, report: OrderReport, source: str) -> None:
        """Give an order we did not place (or lost the row of) its row, and say so.

        What took the place of an order of ours is that order still. An order against an open position of ours is
        an exit of it, made by a person; anything else is foreign: recorded and reported, never traded.
        """
        if await self._adopt_successor(report, source):
            return
        against = PositionSide.LONG if report.side is Side.SELL else PositionSide.SHORT
        async with self.store.tx("adopt_stranger") as conn:
            held = await positions.lock_open(conn, report.symbol, against)
            purpose = Purpose.ENTRY if held is None else Purpose.EXIT
            await orders.insert(
                conn,
                NewOrder(
                    client_order_id=report.client_order_id,
                    symbol=report.symbol,
                    purpose=purpose,
                    position_side=position_side_for(report.side, purpose),
                    side=report.side,
                    quantity=report.quantity,
                    order_type=report.order_type,
                    time_in_force=report.time_in_force,
                    order_class=report.order_class,
                    origin="external",
                    cycle_id=held.cycle_id if held else None,
                    position_id=held.position_id if held else None,
                    limit_price=report.limit_price,
                    stop_price=report.stop_price,
                    alpaca_order_id=report.broker_id,
                    broker_status=report.broker_status,
                ),
                status=Status.SUBMITTED,
                at=self.clock.now(),
                source=source,
                note="an order we have no record of placing",
            )
            await self._alert(
                conn,
                "ORDER_ADOPTED" if is_ours(report.client_order_id) else "FOREIGN_ORDER",
                "WARNING",
                report.symbol,
                f"{report.side} {report.quantity} {report.symbol} was placed by somebody else",
                key=report.broker_id,
            )
        log.warning("stranger_adopted", symbol=report.symbol, side=report.side, broker_id=report.broker_id)
        await self.books.hear(report, source)

    async def _adopt_successor(self, report: OrderReport, source: str) -> bool:
        """Give an order that replaced one of ours its row, in the same role; false when it replaced none."""
        if report.replaces is None:
            return False
        async with self.store.tx("adopt_successor") as conn:
            found = await orders.by_broker_ids(conn, [report.replaces])
            if not found or found[0].origin == "external":
                return False
            old = found[0]
            await orders.insert(
                conn,
                NewOrder(
                    client_order_id=report.client_order_id,
                    symbol=report.symbol,
                    purpose=old.order_purpose,
                    position_side=old.position_side,
                    side=old.side,
                    quantity=report.quantity,
                    order_type=report.order_type,
                    time_in_force=report.time_in_force,
                    order_class=report.order_class,
                    origin="broker",
                    cycle_id=old.cycle_id,
                    position_id=None if old.order_purpose is Purpose.ENTRY else old.position_id,
                    parent_order_id=old.parent_order_id,
                    replaces=old.order_id,
                    limit_price=report.limit_price,
                    stop_price=report.stop_price,
                    bracket_stop=old.bracket_stop,
                    bracket_target=old.bracket_target,
                    alpaca_order_id=report.broker_id,
                    broker_status=report.broker_status,
                    epoch=self.execution.epoch,
                ),
                status=Status.SUBMITTED,
                at=self.clock.now(),
                source=source,
                note=f"replaces order {old.order_id}",
            )
            await self._alert(
                conn,
                "ORDER_REPLACED",
                "WARNING",
                report.symbol,
                f"order {old.order_id} was replaced by somebody else",
                key=report.broker_id,
            )
        log.warning("successor_adopted", symbol=report.symbol, broker_id=report.broker_id)
        await self.books.hear(report, source)
        return True

    # -- fills

    async def _hear_ledger(self, source: str) -> int | None:
        """Book every fill of the ledger that has no execution row yet; how many, None when the read failed."""
        now = self.clock.now()
        after = (self._ledger_seen_to or now - LOOK_BACK) - OVERLAP
        try:
            found = await self.broker.fills(after=after)
        except BrokerError as error:
            log.warning("ledger_unreadable", error=str(error))
            return None
        booked = 0
        for fill in await self._missing(found):
            booked += await self.books.book(fill, source)
        self._ledger_seen_to = now
        return booked

    async def _missing(self, found: list[Fill]) -> list[Fill]:
        """Fills whose ledger id no execution carries yet."""
        ids = [fill.activity_id for fill in found if fill.activity_id is not None]
        async with self.store.read() as conn:
            booked = await orders.booked_activities(conn, ids)
        return [fill for fill in found if fill.activity_id not in booked]

    # -- rows the broker's list did not speak of

    async def _resolve_rows(self, source: str) -> None:
        """Ask about every working row on its own: without a broker id by ours, older than the list by its id."""
        async with self.store.read() as conn:
            rows = await orders.working(conn)
        horizon = self.clock.now() - LOOK_BACK
        for row in rows:
            if row.status is Status.CREATED:
                continue  # it waits for its moment; the proposals' owner ends it
            if row.alpaca_order_id is None:
                if not self.execution.sending(row.order_id):
                    self.execution.resolving(row)
            elif row.created_at < horizon and row.parent_order_id is None:
                await self.execution.refresh(row.alpaca_order_id, source)

    # -- shares

    async def _compare_positions(self, source: str) -> list[str] | None:
        """Differences between our open positions and the broker's that have lasted; None: not readable."""
        try:
            held = {report.symbol: report for report in await self.broker.positions()}
        except BrokerError as error:
            log.warning("positions_unreadable", error=str(error))
            return None
        async with self.store.read() as conn:
            open_rows = await positions.open_positions(conn)
            known = await positions.traded_symbols(conn, since=self.clock.now() - OURS_FOR)
        self.books.memory.know(known)
        ours: dict[str, Decimal] = {}
        for row in open_rows:
            signed = row.quantity if row.side is PositionSide.LONG else -row.quantity
            ours[row.symbol] = ours.get(row.symbol, Decimal(0)) + signed
        now = self._compared_at = self.clock.now()
        doubts: dict[str, tuple[str, datetime]] = {}
        for symbol in sorted(ours.keys() | held.keys()):
            text = _difference(symbol, ours.get(symbol, Decimal(0)), held.get(symbol))
            if text is not None:
                before, since = self._doubts.get(symbol, (text, now))
                doubts[symbol] = (text, since if before == text else now)
        self._doubts = doubts
        self.gate.disputed = set(doubts)
        confirmed = {symbol: text for symbol, (text, since) in doubts.items() if now - since >= DOUBT_FOR}
        for symbol, text in confirmed.items():
            await self._report_difference(symbol, text, source, ours=symbol in known)
        for row in open_rows:
            if confirmed.get(row.symbol, "").startswith(PHANTOM):
                await self._end_phantom(row, source)
        return list(confirmed.values())

    async def _report_difference(self, symbol: str, text: str, source: str, *, ours: bool) -> None:
        """Tell of a difference; shares of a symbol we never traded are somebody else's business, told once a day."""
        event = text.split(" ", maxsplit=1)[0]
        log.error(event.lower(), symbol=symbol, difference=text, source=source)
        async with self.store.tx("difference") as conn:
            await self._alert(
                conn,
                event,
                "CRITICAL" if ours else "WARNING",
                symbol,
                text,
                key=text,
                window=alerts.WINDOW if ours else A_DAY,
            )

    async def _end_phantom(self, position: PositionRow, source: str) -> None:
        """Close a position whose shares the broker does not have and no fill explains, for all to see.

        Not while an exit of it is under way, not on the word of a list alone, and not before the ledger was
        asked about each of its orders.
        """
        async with self.store.read() as conn:
            rows = await orders.of_position(conn, position.position_id)
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
        await self.books.write_off(position.position_id, f"{CloseReason.RECONCILED_PHANTOM}", source)

    async def _alert(
        self,
        conn: "orders.Conn",
        event: str,
        severity: str,
        symbol: str,
        message: str,
        *,
        key: str,
        window: timedelta = alerts.WINDOW,
    ) -> None:
        await alerts.put(
            conn,
            severity=severity,
            event=event,
            message=message,
            facts={"symbol": symbol},
            dedupe_key=f"{event}:{key}",
            at=self.clock.now(),
            window=window,
        )


def _says_nothing_new(row: OrderRow | None, report: OrderReport) -> bool:
    """True when the row says already what the report says."""
    return (
        row is not None
        and row.broker_status == report.broker_status
        and row.filled_qty == report.filled_qty
        and row.quantity == report.quantity
        and (row.status is not Status.SUBMITTED or report.broker_status in {"new", "pending_new"})
    )


def _difference(symbol: str, ours: Decimal, held: PositionReport | None) -> str | None:
    """One line naming what differs, stable between looks; None when nothing does."""
    theirs = held.quantity if held is not None else Decimal(0)
    if ours == theirs:
        return None
    if theirs == 0:
        return f"{PHANTOM} {symbol} ours {ours} broker 0"
    if ours == 0:
        return f"ORPHAN_POSITION {symbol} ours 0 broker {theirs}"
    return f"QTY_MISMATCH {symbol} ours {ours} broker {theirs}"
