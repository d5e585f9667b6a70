"""Day result: computed from the database, and from the broker's own list of fills."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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


async def position_results(conn: "Connection", since: datetime) -> list[PositionResult]:
    """Return every position that is open or was closed since then."""
    return [_row(record) for record in await conn.fetch(_POSITIONS, since)]


def compare(rows: Sequence[PositionResult], fills: Iterable[Fill]) -> DayResult:
    """Compare each position's realised result with the broker's fills of its orders, to the cent."""
    sums: dict[str, tuple[Fraction, Fraction]] = defaultdict(lambda: (Fraction(0), Fraction(0)))
    for fill in fills:
        shares, dollars = sums[fill.broker_id]
        quantity = Fraction(fill.quantity)
        sums[fill.broker_id] = (shares + quantity, dollars + quantity * Fraction(fill.price))
    comparable = [row for row in rows if not row.written_off]
    database = broker = Decimal(0)
    differences, ids = [], set[str]()
    for row in comparable:
        broker_pnl = _realized_pnl(row, sums)
        database, broker = database + row.realized_pnl, broker + broker_pnl
        if broker_pnl != row.realized_pnl:
            differences.append(
                f"{row.symbol} (position {row.position_id}): {row.realized_pnl} in the database,"
                f" {broker_pnl} by the broker's fills"
            )
            ids |= row.entry_broker_ids | row.exit_broker_ids
    return DayResult(database.quantize(CENT), broker.quantize(CENT), tuple(differences), frozenset(ids))


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
