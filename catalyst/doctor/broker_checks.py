"""What the tables say beside what the broker shows: orders, shares, protection, the result. Questions only."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from catalyst.broker.port import Broker
from catalyst.doctor.database_checks import unprotected_issue
from catalyst.doctor.issues import Issue, IssueKind, Severity, new_issue
from catalyst.domain.errors import BrokerError, NotFound
from catalyst.domain.ids import is_ours
from catalyst.domain.order import TERMINAL, PositionSide, Side, Status, status_of
from catalyst.domain.protection import LIVE_STATUSES
from catalyst.domain.report import Fill, OrderReport, PositionReport
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.store import day_result, orders, positions
from catalyst.store.day_result import PositionResult
from catalyst.store.orders import OrderRow
from catalyst.store.pool import Connection
from catalyst.store.positions import PositionRow

ORDER_LOOK_BACK: Final = timedelta(days=1)
OWN_SYMBOL_WINDOW: Final = timedelta(days=14)  # a symbol traded that recently is one we answer for
MAX_CLOCK_SKEW: Final = timedelta(seconds=2)
MINOR_DIFFERENCE_PCT: Final = Decimal(10)  # percent of difference below which a mismatch is a warning
MAX_SINGLE_READS: Final = 20  # orders asked for one by one in an examination
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """The broker's word: the orders of the last day with their legs, the shares, the fills, its clock."""

    orders: tuple[OrderReport, ...]
    positions: dict[str, PositionReport]
    fills: tuple[Fill, ...]
    clock: datetime


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """The tables' word of the same."""

    working_orders: tuple[OrderRow, ...]
    open_positions: tuple[PositionRow, ...]
    own_symbols: frozenset[str]
    position_results: tuple[PositionResult, ...]
    fills_since: datetime


async def read_broker(broker: Broker, since: datetime, at: datetime) -> BrokerFacts:
    """Raises BrokerError: half an answer is none."""
    tops = await broker.orders(status="all", after=at - ORDER_LOOK_BACK)
    held = {one.symbol: one for one in await broker.positions() if one.quantity != 0}
    fills = tuple(await broker.fills(after=since))
    flat = tuple(one for top in tops for one in (top, *top.legs))
    return BrokerFacts(flat, held, fills, (await broker.clock()).at)


async def read_database(conn: Connection, at: datetime) -> DatabaseFacts:
    """What the tables hold that the broker may know too."""
    day = datetime.combine(trading_date(at), time(), NEW_YORK).astimezone(UTC)
    rows = await day_result.position_results(conn, day)
    return DatabaseFacts(
        tuple(await orders.working(conn)),
        tuple(await positions.open_positions(conn)),
        frozenset(await positions.traded_symbols(conn, since=at - OWN_SYMBOL_WINDOW)),
        tuple(rows),
        day_result.fills_needed_from(rows, day),
    )


async def compare_with_broker(conn: Connection, broker: Broker, at: datetime) -> list[Issue]:
    """Every difference of one look. Raises BrokerError when the broker cannot be read."""
    stored = await read_database(conn, at)
    shown = await read_broker(broker, stored.fills_since, at)
    rows = await orders.by_broker_ids(conn, [one.broker_id for one in shown.orders])
    known = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
    found = [
        *_share_mismatches(stored, shown),
        *_status_mismatches(known, shown),
        *_orphan_orders(known, shown),
        *_unprotected_shares(stored, shown),
    ]
    found += [one async for one in _orders_missing_at_broker(stored, shown, broker)]
    comparison = day_result.compare(stored.position_results, shown.fills)
    found += [
        new_issue(IssueKind.PNL_MISMATCH, what, subject=what.split(":")[0], transient=True)
        for what in comparison.discrepancies
    ]
    skew = shown.clock - at
    if abs(skew) > MAX_CLOCK_SKEW:
        seconds = round(abs(skew.total_seconds()), 1)
        way = "behind" if skew > timedelta(0) else "ahead of"
        found.append(
            new_issue(
                IssueKind.CLOCK_SKEW,
                f"this clock is {seconds:g} s {way} the broker's",
                transient=True,
                difference=seconds,
            )
        )
    return found


def _share_mismatches(stored: DatabaseFacts, shown: BrokerFacts) -> Iterator[Issue]:
    ours: dict[str, Decimal] = {}
    ids: dict[str, int] = {}
    for row in stored.open_positions:
        signed = row.quantity if row.side is PositionSide.LONG else -row.quantity
        ours[row.symbol] = ours.get(row.symbol, ZERO) + signed
        ids[row.symbol] = row.position_id
    for symbol in sorted(ours.keys() | shown.positions.keys()):
        mine = ours.get(symbol, ZERO)
        theirs = shown.positions[symbol].quantity if symbol in shown.positions else ZERO
        if mine == theirs:
            continue
        foreign = mine == 0 and symbol not in stored.own_symbols
        kind = _kind_of_mismatch(mine, theirs)
        percent = abs(theirs - mine) / max(abs(mine), abs(theirs)) * 100
        severity = Severity.INFO if foreign else None
        if kind is IssueKind.QTY_MISMATCH and percent < MINOR_DIFFERENCE_PCT:
            severity = Severity.WARNING
        yield new_issue(
            kind,
            f"{symbol}: the tables hold {mine.normalize():f}, the broker {theirs.normalize():f}"
            + (", and we never traded it" if foreign else ""),
            severity=severity,
            transient=True,
            symbol=symbol,
            position_id=ids.get(symbol),
            db_qty=mine,
            alpaca_qty=theirs,
            difference=theirs - mine,
            difference_pct=round(percent, 2),
        )


def _kind_of_mismatch(mine: Decimal, theirs: Decimal) -> IssueKind:
    if theirs == 0:
        return IssueKind.PHANTOM_POSITION
    if mine == 0:
        return IssueKind.OVERSOLD if theirs < 0 else IssueKind.ORPHAN_POSITION
    return IssueKind.OVERSOLD if (mine > 0) is not (theirs > 0) else IssueKind.QTY_MISMATCH


def _status_mismatches(rows_by_broker_id: dict[str, OrderRow], shown: BrokerFacts) -> Iterator[Issue]:
    for report in shown.orders:
        row = rows_by_broker_id.get(report.broker_id)
        if row is None:
            continue
        theirs = status_of(report.broker_status, report.filled_qty, report.quantity)
        if theirs is None or (theirs is row.status and report.filled_qty == row.filled_qty):
            continue
        if theirs is Status.SUBMITTED and row.status is Status.ACCEPTED:
            continue  # the broker's `new` after its `accepted`: both of them alive
        yield new_issue(
            IssueKind.ORDER_STATUS_MISMATCH,
            f"order {row.order_id} ({row.symbol}) is {row.status} with {row.filled_qty.normalize():f} filled, at the "
            f"broker {report.broker_status} with {report.filled_qty.normalize():f}",
            subject=str(row.order_id),
            transient=True,
            order_id=row.order_id,
            alpaca_order_id=report.broker_id,
            symbol=row.symbol,
            db_status=row.status,
            alpaca_status=report.broker_status,
        )


def _orphan_orders(rows_by_broker_id: dict[str, OrderRow], shown: BrokerFacts) -> Iterator[Issue]:
    """Orders with our ids that no row explains."""
    for report in shown.orders:
        if is_ours(report.client_order_id) and report.broker_id not in rows_by_broker_id:
            yield new_issue(
                IssueKind.ORPHAN_ORDER,
                f"{report.side} {report.quantity.normalize():f} {report.symbol} is ours by its id and has no row",
                subject=report.broker_id,
                transient=True,
                alpaca_order_id=report.broker_id,
                symbol=report.symbol,
                alpaca_status=report.broker_status,
            )


async def _orders_missing_at_broker(
    stored: DatabaseFacts, shown: BrokerFacts, broker: Broker
) -> AsyncIterator[Issue]:
    """Working rows the broker's list did not show: each is asked for by its own id."""
    seen = {one.broker_id for one in shown.orders}
    unseen = [
        row
        for row in stored.working_orders
        if row.alpaca_order_id is not None and row.alpaca_order_id not in seen
    ]
    for row in unseen[:MAX_SINGLE_READS]:
        assert row.alpaca_order_id is not None
        facts = {"order_id": row.order_id, "alpaca_order_id": row.alpaca_order_id, "symbol": row.symbol}
        what = f"order {row.order_id} ({row.symbol})"
        try:
            report = await broker.order(row.alpaca_order_id)
        except NotFound:
            said = f"{what} is {row.status}, and the broker has no such order"
            yield new_issue(
                IssueKind.ORDER_NOT_FOUND, said, subject=str(row.order_id), transient=True, base_facts=facts
            )
        except BrokerError as error:
            said = f"{what} could not be asked for: {error}"
            yield new_issue(
                IssueKind.ORDER_CHECK_ERROR,
                said,
                subject=str(row.order_id),
                error=str(error),
                base_facts=facts,
            )
        else:
            for one in _status_mismatches(
                {row.alpaca_order_id: row}, BrokerFacts((report,), {}, (), shown.clock)
            ):
                yield one


def _unprotected_shares(stored: DatabaseFacts, shown: BrokerFacts) -> Iterator[Issue]:
    """Shares of ours for which the broker itself shows neither a live stop nor an exit at work."""
    ids = {row.symbol: row.position_id for row in stored.open_positions}
    for symbol, held in shown.positions.items():
        if symbol not in ids:
            continue
        away = Side.SELL if held.quantity > 0 else Side.BUY
        covered = _protected_qty(
            [one for one in shown.orders if one.symbol == symbol and one.side is away], shown.orders
        )
        bare = abs(held.quantity) - covered
        if bare > 0:
            yield unprotected_issue(
                symbol, f"{bare.normalize():f} of {abs(held.quantity).normalize():f}", ids[symbol]
            )


def _protected_qty(exits: Sequence[OrderReport], all_orders: Sequence[OrderReport]) -> Decimal:
    """Shares under a live stop or in an exit at work; the legs of an entry that may still fill cover none."""
    unfinished = {
        leg.broker_id
        for top in all_orders
        if top.filled_qty < top.quantity
        for leg in top.legs
        if not _is_oco(top)
    }
    total = ZERO
    for one in exits:
        alive = status_of(one.broker_status, one.filled_qty, one.quantity) not in TERMINAL
        stops = one.stop_price is not None and one.broker_status in LIVE_STATUSES
        at_work = one.order_type == "market" and alive
        if alive and one.broker_id not in unfinished and (stops or at_work):
            total += one.quantity - one.filled_qty
    return total


def _is_oco(top: OrderReport) -> bool:
    return top.order_class == "oco"
