"""Comparison of the database with the simulated exchange: every fill, every share, every cent of a day."""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from catalyst.domain.order import PositionSide, Purpose, Side
from catalyst.domain.position import CENT, ZERO
from catalyst.domain.rows import Orphan, PositionRow
from catalyst.store.reporting_queries import BookedFill

_MAX_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Agreement:
    """The database's totals, and every difference from the exchange."""

    fills: int
    shares: Decimal
    realized: Decimal
    differences: tuple[str, ...]

    @property
    def matches(self) -> bool:
        return not self.differences

    @property
    def sentence(self) -> str:
        if self.matches:
            return (
                f"the database and the exchange agree: {self.fills} fills, {self.shares.normalize():f} shares, "
                f"realised {self.realized} to the cent"
            )
        more = len(self.differences) - _MAX_SHOWN
        return "the database and the exchange DISAGREE: " + "; ".join(
            [*self.differences[:_MAX_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        )


def compare_with_exchange(
    fills: Sequence[BookedFill],
    positions: Sequence[PositionRow],
    audit: Mapping[str, object],
    executions: Sequence[Mapping[str, object]],
    orphans: Sequence[Orphan] = (),
) -> Agreement:
    """Compare every fill, position and orphan with the exchange's audit and its execution log.

    Fills without a position (an external trade, the exit of an orphan) are valued at the average cost of such fills; a
    missing cost is a difference. `fills` are in order of time. `audit` is the response of GET /admin/audit;
    `executions` are those of GET /admin/logs: order_id, qty and price as text.
    """
    differences = [f"the exchange's own audit failed: {problem}" for problem in _as_list(audit["problems"])]
    ours = _totals_by_order((fill.alpaca_order_id or "?", fill.quantity, fill.price) for fill in fills)
    theirs = _totals_by_order(
        (str(record["order_id"]), Decimal(str(record["qty"])), Decimal(str(record["price"])))
        for record in executions
    )
    for order_id in sorted(ours.keys() | theirs.keys()):
        our_total, their_total = ours.get(order_id, (ZERO, ZERO)), theirs.get(order_id, (ZERO, ZERO))
        if our_total != their_total:
            differences.append(
                f"order {order_id}: database {our_total[0]} shares for {our_total[1]}, "
                f"exchange {their_total[0]} for {their_total[1]}"
            )
    if len(fills) != len(executions):
        differences.append(f"the database has {len(fills)} fills, the exchange {len(executions)}")
    our_shares = _shares_by_symbol(positions, orphans)
    their_shares = audit["positions"]
    assert isinstance(their_shares, Mapping)
    if our_shares != {str(symbol): Decimal(str(qty)) for symbol, qty in their_shares.items()}:
        differences.append(
            f"the database holds {our_shares or 'no shares'}, the exchange {their_shares or 'no shares'}"
        )
    gain_without_position, unknown_cost = _gain_without_position(
        fills, {record.symbol for record in orphans if record.cost is not None}
    )
    differences += [
        f"{quantity.normalize():f} shares of {symbol} were exited, and their cost is unknown"
        for symbol, quantity in unknown_cost.items()
    ]
    gains = [
        *(_gain_of_position(row) for row in positions),
        *(_gain_of_orphan(record) for record in orphans),
        gain_without_position,
    ]
    realized = sum(gains, ZERO).quantize(CENT, ROUND_HALF_EVEN)
    their_realized = Decimal(str(audit["realised"])).quantize(CENT, ROUND_HALF_EVEN)
    if realized != their_realized:
        differences.append(f"realised is {realized} in the database, {their_realized} at the exchange")
    return Agreement(len(fills), sum((fill.quantity for fill in fills), ZERO), realized, tuple(differences))


def _totals_by_order(fills: Iterable[tuple[str, Decimal, Decimal]]) -> dict[str, tuple[Decimal, Decimal]]:
    """Return the shares and dollars of each order: order id → (shares, dollars)."""
    totals: dict[str, tuple[Decimal, Decimal]] = {}
    for order_id, quantity, price in fills:
        shares, paid = totals.get(order_id, (ZERO, ZERO))
        totals[order_id] = (shares + quantity, paid + quantity * price)
    return totals


def _as_list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _shares_by_symbol(rows: Sequence[PositionRow], orphans: Sequence[Orphan]) -> dict[str, Decimal]:
    """Return the signed shares of each symbol in the database: positions and orphans, without zeros."""
    shares: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        shares[row.symbol] += row.quantity if row.side is PositionSide.LONG else -row.quantity
    for orphan in orphans:
        shares[orphan.symbol] += orphan.signed_qty
    return {symbol: quantity for symbol, quantity in shares.items() if quantity}


def _gain_of_orphan(orphan: Orphan) -> Decimal:
    """Return the exact result of an orphan that our exits created by selling too many shares, once bought back."""
    if orphan.cost is None or not orphan.exited_qty:
        return ZERO
    gain = orphan.proceeds - orphan.cost * orphan.exited_qty / orphan.found_qty
    return gain if orphan.side is PositionSide.LONG else -gain


def _gain_without_position(
    fills: Sequence[BookedFill], excluded_symbols: Container[str]
) -> tuple[Decimal, dict[str, Decimal]]:
    """Return the realised dollars of fills without a position, at average cost, and symbol → exited shares whose cost
    is unknown. `excluded_symbols` are valued by their orphan rows."""
    gain, unknown = ZERO, dict[str, Decimal]()
    pools: dict[str, tuple[Decimal, Decimal]] = {}  # symbol → signed shares, their cost
    for fill in fills:
        if fill.position_id is not None or fill.symbol in excluded_symbols:
            continue
        held, cost = pools.get(fill.symbol, (ZERO, ZERO))
        signed = fill.quantity if fill.side is Side.BUY else -fill.quantity
        if fill.order_purpose is Purpose.ENTRY:
            pools[fill.symbol] = (held + signed, cost + signed * fill.price)
            continue
        closing = min(fill.quantity, abs(held)) if held * signed < 0 else ZERO
        if closing < fill.quantity:
            unknown[fill.symbol] = unknown.get(fill.symbol, ZERO) + fill.quantity - closing
        if closing:
            share = cost * closing / abs(held)
            direction = 1 if held > 0 else -1
            gain += direction * closing * fill.price - share
            pools[fill.symbol] = (held - direction * closing, cost - share)
    return gain, unknown


def _gain_of_position(row: PositionRow) -> Decimal:
    """Return the exact realised result of a position, before it is rounded to the cent."""
    if not row.exited_qty:
        return ZERO
    basis = row.cost if row.exited_qty == row.entered_qty else row.entry_price * row.exited_qty
    gain = row.proceeds - basis
    return gain if row.side is PositionSide.LONG else -gain
