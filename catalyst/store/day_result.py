"""Day result: computed from the database, and from the broker's own list of fills."""

from collections import defaultdict
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from typing import TYPE_CHECKING, Final

from catalyst.domain.position import CENT
from catalyst.domain.report import Fill

if TYPE_CHECKING:
    from asyncpg import Record

    from catalyst.store.pool import Connection

# The broker's bounds are exclusive and its clock differs from ours.
FILLS_OVERLAP: Final = timedelta(minutes=10)

_POSITIONS: Final = """
    SELECT p.position_id, s.symbol, p.side, p.realized_pnl, p.entry_time,
           coalesce(p.close_reason LIKE 'RECONCILED_PHANTOM%', false) AS written_off,
           array_agg(o.alpaca_order_id) FILTER (WHERE o.order_purpose = 'entry' AND o.alpaca_order_id IS NOT NULL)
               AS entry_broker_ids,
           array_agg(o.alpaca_order_id) FILTER (WHERE o.order_purpose <> 'entry' AND o.alpaca_order_id IS NOT NULL)
               AS exit_broker_ids
      FROM positions p JOIN securities s USING (security_id) JOIN orders o USING (position_id)
     WHERE NOT p.legacy AND (p.status = 'open' OR p.exit_time >= $1)
     GROUP BY p.position_id, s.symbol ORDER BY p.position_id
"""


@dataclass(frozen=True, slots=True)
class PositionResult:
    """A position of the day, its result in the database, and the broker ids of its orders."""

    position_id: int
    symbol: str
    is_long: bool
    realized_pnl: Decimal
    entered_at: datetime
    written_off: bool  # written off: no fill explains where its shares went
    entry_broker_ids: frozenset[str]
    exit_broker_ids: frozenset[str]


@dataclass(frozen=True, slots=True)
class DayResult:
    """Dollars realised since the day began, by both sources. `broker_ids` are of the orders that differ."""

    database: Decimal
    broker: Decimal
    discrepancies: tuple[str, ...] = ()
    broker_ids: frozenset[str] = frozenset()
    unbooked: tuple[str, ...] = ()  # fills that could not be booked, and positions that were written off

    @property
    def contradictions(self) -> tuple[str, ...]:
        """Return everything that makes the result no proof."""
        return (*self.discrepancies, *self.unbooked)

    def with_executions(
        self, missing: Iterable[str], broker_ids: Iterable[str], unbooked: Iterable[str]
    ) -> "DayResult":
        """Return the result with the differences of the execution lists, and with the money that is not booked."""
        return replace(
            self,
            discrepancies=(*self.discrepancies, *missing),
            broker_ids=self.broker_ids | frozenset(broker_ids),
            unbooked=(*self.unbooked, *unbooked),
        )


@dataclass(frozen=True, slots=True)
class BookedFills:
    """Sums of one order's executions in the database: shares, and dollars."""

    broker_id: str
    symbol: str
    shares: Decimal
    dollars: Decimal


async def position_results(conn: "Connection", since: datetime) -> list[PositionResult]:
    """Return every position that is open or was closed since then."""
    return [_row(record) for record in await conn.fetch(_POSITIONS, since)]


def compare(rows: Sequence[PositionResult], fills: Iterable[Fill]) -> DayResult:
    """Compare each position's realised result with the broker's fills of its orders, to the cent.

    A position that was written off is money that is not booked, unless its fills were found later and explain it.
    """
    sums: dict[str, tuple[Fraction, Fraction]] = defaultdict(lambda: (Fraction(0), Fraction(0)))
    for fill in fills:
        shares, dollars = sums[fill.broker_id]
        quantity = Fraction(fill.quantity)
        sums[fill.broker_id] = (shares + quantity, dollars + quantity * Fraction(fill.price))
    database = broker = Decimal(0)
    differences, written_off, ids = [], [], set[str]()
    for row in rows:
        entered, exited = (
            _fill_totals(each, sums)[0] for each in (row.entry_broker_ids, row.exit_broker_ids)
        )
        if row.written_off and entered != exited:
            written_off.append(
                f"{row.symbol} (position {row.position_id}) was written off: no fill explains its shares"
            )
            continue
        broker_pnl = _realized_pnl(row, sums)
        database, broker = database + row.realized_pnl, broker + broker_pnl
        if broker_pnl != row.realized_pnl:
            differences.append(
                f"{row.symbol} (position {row.position_id}): {row.realized_pnl} in the database,"
                f" {broker_pnl} by the broker's fills"
            )
            ids |= row.entry_broker_ids | row.exit_broker_ids
    return DayResult(
        database.quantize(CENT),
        broker.quantize(CENT),
        tuple(differences),
        frozenset(ids),
        tuple(written_off),
    )


async def booked_fills(conn: "Connection", since: datetime, broker_ids: Sequence[str]) -> list[BookedFills]:
    """Return the sums of the executions since then of every order that has one, and of these orders; an order
    without one has zero shares."""
    found = await conn.fetch(
        """
        SELECT o.alpaca_order_id AS broker_id, s.symbol, coalesce(sum(e.quantity), 0) AS shares,
               coalesce(sum(e.quantity * e.price), 0) AS dollars
          FROM orders o JOIN securities s USING (security_id)
          LEFT JOIN executions e ON e.order_id = o.order_id AND e.at >= $1
         WHERE o.alpaca_order_id = ANY($2::text[])
            OR o.order_id = ANY(ARRAY(SELECT order_id FROM executions WHERE at >= $1))
         GROUP BY o.order_id, s.symbol ORDER BY o.order_id
        """,
        since,
        list(broker_ids),
    )
    return [BookedFills(**record) for record in found]


async def unbooked_fills(conn: "Connection", since: datetime) -> list[str]:
    """Return the reasons of the fills that could not be booked since then and that no person has resolved."""
    found = await conn.fetch(
        """
        SELECT reason FROM quarantine
         WHERE order_id IS NOT NULL AND security_id IS NULL AND resolved_at IS NULL AND at >= $1
         ORDER BY quarantine_id
        """,
        since,
    )
    return [record["reason"] for record in found]


def compare_executions(
    booked: Iterable[BookedFills], fills: Iterable[Fill], symbols: Container[str]
) -> tuple[list[str], set[str]]:
    """Compare the executions of a day, order by order, in shares and dollars; return the differences by symbol, and
    the broker ids of the orders that differ.

    `fills` are the broker's. One of an order without a row counts when its symbol is one of `symbols` or unknown.
    """
    by_order = {row.broker_id: row for row in booked}
    sums: dict[str, tuple[str, Decimal, Decimal]] = {}
    for fill in fills:
        row = by_order.get(fill.broker_id)
        if row is None and fill.symbol and fill.symbol not in symbols:
            continue
        symbol, shares, dollars = sums.get(fill.broker_id, (fill.symbol, Decimal(0), Decimal(0)))
        sums[fill.broker_id] = symbol, shares + fill.quantity, dollars + fill.quantity * fill.price
    differences, broker_ids = [], set[str]()
    for broker_id in [*by_order, *(each for each in sums if each not in by_order)]:
        row = by_order.get(broker_id)
        ours = (Decimal(0), Decimal(0)) if row is None else (row.shares, row.dollars)
        listed = sums.get(broker_id)
        theirs = (Decimal(0), Decimal(0)) if listed is None else listed[1:]
        if ours == theirs:
            continue
        broker_ids.add(broker_id)
        symbol = row.symbol if row is not None else sums[broker_id][0] or "an unknown symbol"
        differences.append(
            f"{symbol} (order {broker_id}): {ours[0].normalize():f} shares for ${ours[1].normalize():f} in the"
            f" database, {theirs[0].normalize():f} shares for ${theirs[1].normalize():f} by the broker's list"
        )
    return differences, broker_ids


def fills_needed_from(rows: Sequence[PositionResult], since: datetime) -> datetime:
    """Return from when on the broker's fills are needed."""
    return min([since, *(row.entered_at for row in rows)]) - FILLS_OVERLAP


def _realized_pnl(row: PositionResult, sums: dict[str, tuple[Fraction, Fraction]]) -> Decimal:
    entered, cost = _fill_totals(row.entry_broker_ids, sums)
    exited, proceeds = _fill_totals(row.exit_broker_ids, sums)
    if not entered or not exited:
        return Decimal(0).quantize(CENT)
    if exited > entered:  # oversold: shares sold beyond the holding do not belong to this position's result
        proceeds, exited = proceeds * entered / exited, entered
    gain = proceeds - cost * exited / entered
    return (Decimal(round((gain if row.is_long else -gain) * 100)) / 100).quantize(CENT)


def _fill_totals(
    broker_ids: frozenset[str], sums: dict[str, tuple[Fraction, Fraction]]
) -> tuple[Fraction, Fraction]:
    found = [sums[broker_id] for broker_id in broker_ids if broker_id in sums]
    return sum((shares for shares, _ in found), Fraction(0)), sum(
        (dollars for _, dollars in found), Fraction(0)
    )


def _row(record: "Record") -> PositionResult:
    return PositionResult(
        record["position_id"],
        record["symbol"],
        record["side"] == "long",
        record["realized_pnl"],
        record["entry_time"],
        record["written_off"],
        frozenset(record["entry_broker_ids"] or ()),
        frozenset(record["exit_broker_ids"] or ()),
    )
