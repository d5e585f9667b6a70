"""Comparison of the database with the broker: orders, shares, protection and result. Reads only."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from catalyst.broker.port import Broker
from catalyst.doctor.database_checks import unprotected_issue
from catalyst.doctor.issues import Issue, IssueKind, Severity, new_issue
from catalyst.domain.errors import BrokerError, BrokerUnavailable, NotFound
from catalyst.domain.ids import is_ours
from catalyst.domain.order import TERMINAL, PositionSide, Side, Status, status_of
from catalyst.domain.position import whole_shares
from catalyst.domain.protection import LIVE_STATUSES
from catalyst.domain.report import Fill, OrderReport, PositionReport
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.store import daemon_epoch, day_result, orders, positions
from catalyst.store.day_result import PositionResult
from catalyst.store.pool import Connection, Store

ORDER_LOOK_BACK: Final = timedelta(days=1)
OWN_SYMBOL_WINDOW: Final = timedelta(days=14)  # a symbol traded this recently counts as ours
MAX_CLOCK_SKEW: Final = timedelta(seconds=2)
MINOR_DIFFERENCE_PCT: Final = Decimal(10)  # percent; a smaller share difference is only a warning
MAX_SINGLE_READS: Final = 20  # orders read one by one in an examination
ZERO: Final = Decimal(0)


@dataclass(frozen=True, slots=True)
class BrokerFacts:
    """The broker's state: the orders of the last day with their legs, positions by symbol, fills, and its clock."""

    orders: tuple[OrderReport, ...]
    positions: dict[str, PositionReport]
    fills: tuple[Fill, ...]
    clock: datetime


@dataclass(frozen=True, slots=True)
class DatabaseFacts:
    """The database's state: working orders, open positions, own symbols and the results of positions."""

    working_orders: tuple[OrderRow, ...]
    open_positions: tuple[PositionRow, ...]
    own_symbols: frozenset[str]
    position_results: tuple[PositionResult, ...]
    fills_since: datetime


async def read_broker(broker: Broker, since: datetime, at: datetime) -> BrokerFacts:
    """Read the broker's state. Raises BrokerError when one of the reads fails or a row cannot be read."""
    parent_orders = await broker.orders(status="all", after=at - ORDER_LOOK_BACK)
    held = await broker.positions()
    fills = await broker.fills(after=since)
    unreadable_rows = sum(rows.unreadable_rows for rows in (parent_orders, held, fills))
    if unreadable_rows:
        raise BrokerUnavailable(f"{unreadable_rows} rows of the broker's lists cannot be read")
    positions_by_symbol = {position.symbol: position for position in held if position.quantity != 0}
    all_orders = tuple(order for parent in parent_orders for order in (parent, *parent.legs))
    return BrokerFacts(all_orders, positions_by_symbol, tuple(fills), (await broker.clock()).at)


async def read_database(conn: Connection, at: datetime) -> DatabaseFacts:
    """Read the database's state for the comparison with the broker."""
    day = datetime.combine(trading_date(at), time(), NEW_YORK).astimezone(UTC)
    rows = await day_result.position_results(conn, day)
    return DatabaseFacts(
        tuple(await orders.working(conn)),
        tuple(await positions.open_positions(conn)),
        frozenset(await positions.traded_symbols(conn, since=at - OWN_SYMBOL_WINDOW)),
        tuple(rows),
        day_result.fills_needed_from(rows, day),
    )


async def compare_with_broker(store: Store, broker: Broker, at: datetime) -> list[Issue]:
    """Compare database and broker once and return every difference as an issue. Raises BrokerError.

    No connection is held while the broker is read: the daemon's loops need them.
    """
    async with store.read() as conn:
        database_facts = await read_database(conn, at)
    broker_facts = await read_broker(broker, database_facts.fills_since, at)
    async with store.read() as conn:
        rows = await orders.by_broker_ids(conn, [order.broker_id for order in broker_facts.orders])
        installation = await daemon_epoch.installation(conn)
    rows_by_broker_id = {row.alpaca_order_id: row for row in rows if row.alpaca_order_id is not None}
    issues = [
        *_share_mismatches(database_facts, broker_facts),
        *_status_mismatches(rows_by_broker_id, broker_facts),
        *_orphan_orders(rows_by_broker_id, broker_facts, installation),
        *_unprotected_shares(database_facts, broker_facts),
    ]
    issues += [issue async for issue in _orders_missing_at_broker(database_facts, broker_facts, broker)]
    comparison = day_result.compare(database_facts.position_results, broker_facts.fills)
    issues += [
        new_issue(IssueKind.PNL_MISMATCH, discrepancy, subject=discrepancy.split(":")[0], transient=True)
        for discrepancy in comparison.discrepancies
    ]
    skew = broker_facts.clock - at
    if abs(skew) > MAX_CLOCK_SKEW:
        seconds = round(abs(skew.total_seconds()), 1)
        direction = "behind" if skew > timedelta(0) else "ahead of"
        issues.append(
            new_issue(
                IssueKind.CLOCK_SKEW,
                f"this machine's clock is {seconds:g} s {direction} the broker's",
                transient=True,
                difference=seconds,
            )
        )
    return issues


def _share_mismatches(database_facts: DatabaseFacts, broker_facts: BrokerFacts) -> Iterator[Issue]:
    qty_by_symbol: dict[str, Decimal] = {}
    id_by_symbol: dict[str, int] = {}
    for row in database_facts.open_positions:
        signed = row.quantity if row.side is PositionSide.LONG else -row.quantity
        qty_by_symbol[row.symbol] = qty_by_symbol.get(row.symbol, ZERO) + signed
        id_by_symbol[row.symbol] = row.position_id
    for symbol in sorted(qty_by_symbol.keys() | broker_facts.positions.keys()):
        our_qty = qty_by_symbol.get(symbol, ZERO)
        held = broker_facts.positions.get(symbol)
        broker_qty = ZERO if held is None else whole_shares(held.quantity)
        if our_qty == broker_qty:
            continue
        external = our_qty == 0 and symbol not in database_facts.own_symbols
        kind = _kind_of_mismatch(our_qty, broker_qty)
        percent = abs(broker_qty - our_qty) / max(abs(our_qty), abs(broker_qty)) * 100
        severity = Severity.INFO if external else None
        if kind is IssueKind.QTY_MISMATCH and percent < MINOR_DIFFERENCE_PCT:
            severity = Severity.WARNING
        yield new_issue(
            kind,
            f"{symbol}: the database holds {our_qty.normalize():f}, the broker {broker_qty.normalize():f}"
            + (", and Catalyst never traded it" if external else ""),
            severity=severity,
            transient=True,
            symbol=symbol,
            position_id=id_by_symbol.get(symbol),
            db_qty=our_qty,
            alpaca_qty=broker_qty,
            difference=broker_qty - our_qty,
            difference_pct=round(percent, 2),
        )


def _kind_of_mismatch(our_qty: Decimal, broker_qty: Decimal) -> IssueKind:
    if broker_qty == 0:
        return IssueKind.PHANTOM_POSITION
    if our_qty == 0:
        return IssueKind.OVERSOLD if broker_qty < 0 else IssueKind.ORPHAN_POSITION
    return IssueKind.OVERSOLD if (our_qty > 0) is not (broker_qty > 0) else IssueKind.QTY_MISMATCH


def _status_mismatches(rows_by_broker_id: dict[str, OrderRow], broker_facts: BrokerFacts) -> Iterator[Issue]:
    for report in broker_facts.orders:
        row = rows_by_broker_id.get(report.broker_id)
        if row is None:
            continue
        broker_status = status_of(report.broker_status, report.filled_qty, report.quantity)
        if broker_status is None or (broker_status is row.status and report.filled_qty == row.filled_qty):
            continue
        if broker_status is Status.SUBMITTED and row.status is Status.ACCEPTED:
            continue  # the broker may show `new` after `accepted`: the order is working in both
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


def _orphan_orders(
    rows_by_broker_id: dict[str, OrderRow], broker_facts: BrokerFacts, installation: str
) -> Iterator[Issue]:
    """Return an issue for each order at the broker that has one of our ids and no row."""
    for report in broker_facts.orders:
        if is_ours(report.client_order_id, installation) and report.broker_id not in rows_by_broker_id:
            yield new_issue(
                IssueKind.ORPHAN_ORDER,
                f"{report.side} {report.quantity.normalize():f} {report.symbol} has an id of Catalyst and "
                "no row in the database",
                subject=report.broker_id,
                transient=True,
                alpaca_order_id=report.broker_id,
                symbol=report.symbol,
                alpaca_status=report.broker_status,
            )


async def _orders_missing_at_broker(
    database_facts: DatabaseFacts, broker_facts: BrokerFacts, broker: Broker
) -> AsyncIterator[Issue]:
    """Read the working orders that the broker's list omits, each by its broker id, and return the issues."""
    listed_ids = {order.broker_id for order in broker_facts.orders}
    missing = [
        row
        for row in database_facts.working_orders
        if row.alpaca_order_id is not None and row.alpaca_order_id not in listed_ids
    ]
    for row in missing[:MAX_SINGLE_READS]:
        assert row.alpaca_order_id is not None
        facts = {"order_id": row.order_id, "alpaca_order_id": row.alpaca_order_id, "symbol": row.symbol}
        order_text = f"order {row.order_id} ({row.symbol})"
        try:
            report = await broker.order(row.alpaca_order_id)
        except NotFound:
            message = f"{order_text} is {row.status}, and the broker has no such order"
            yield new_issue(
                IssueKind.ORDER_NOT_FOUND,
                message,
                subject=str(row.order_id),
                transient=True,
                base_facts=facts,
            )
        except BrokerError as error:
            message = f"{order_text} could not be read at the broker: {error}"
            yield new_issue(
                IssueKind.ORDER_CHECK_ERROR,
                message,
                subject=str(row.order_id),
                error=str(error),
                base_facts=facts,
            )
        else:
            for issue in _status_mismatches(
                {row.alpaca_order_id: row}, BrokerFacts((report,), {}, (), broker_facts.clock)
            ):
                yield issue


def _unprotected_shares(database_facts: DatabaseFacts, broker_facts: BrokerFacts) -> Iterator[Issue]:
    """Return an issue for shares of our positions without a working stop and without a working exit at the broker."""
    id_by_symbol = {row.symbol: row.position_id for row in database_facts.open_positions}
    for symbol, position in broker_facts.positions.items():
        if symbol not in id_by_symbol:
            continue
        exit_side = Side.SELL if position.quantity > 0 else Side.BUY
        protected_qty = _protected_qty(
            [order for order in broker_facts.orders if order.symbol == symbol and order.side is exit_side],
            broker_facts.orders,
        )
        unprotected_qty = abs(position.quantity) - protected_qty
        if unprotected_qty > 0:
            yield unprotected_issue(
                symbol,
                f"{unprotected_qty.normalize():f} of {abs(position.quantity).normalize():f}",
                id_by_symbol[symbol],
            )


def _protected_qty(exits: Sequence[OrderReport], all_orders: Sequence[OrderReport]) -> Decimal:
    """Return the shares under a working stop or in a working market exit; legs of an unfilled entry protect none."""
    inactive_legs = {
        leg.broker_id
        for parent in all_orders
        if parent.filled_qty < parent.quantity
        for leg in parent.legs
        if not _is_oco(parent)
    }
    total = ZERO
    for order in exits:
        is_working = status_of(order.broker_status, order.filled_qty, order.quantity) not in TERMINAL
        is_live_stop = order.stop_price is not None and order.broker_status in LIVE_STATUSES
        is_market_exit = order.order_type == "market" and is_working
        if is_working and order.broker_id not in inactive_legs and (is_live_stop or is_market_exit):
            total += order.quantity - order.filled_qty
    return total


def _is_oco(parent: OrderReport) -> bool:
    return parent.order_class == "oco"
