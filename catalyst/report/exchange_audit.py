"""Do the tables and the exchange tell the same day? Every fill, every share, every cent."""

from collections import defaultdict
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from catalyst.domain.order import PositionSide, Purpose, Side
from catalyst.domain.position import CENT, ZERO
from catalyst.store.orphans import Orphan
from catalyst.store.positions import PositionRow
from catalyst.store.reporting_queries import BookedFill

_MAX_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides say, and every difference found."""

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
                f"the tables and the exchange agree: {self.fills} fills, {self.shares.normalize():f} shares, realised "
                f"{self.realized} to the cent"
            )
        more = len(self.differences) - _MAX_SHOWN
        return "the tables and the exchange DISAGREE: " + "; ".join(
            [*self.differences[:_MAX_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        )


def compare_with_exchange(
    fills: Sequence[BookedFill],
    positions: Sequence[PositionRow],
    audit: Mapping[str, object],
    executions: Sequence[Mapping[str, object]],
    orphans: Sequence[Orphan] = (),
) -> Agreement:
    """Hold every fill, position and orphan against the exchange's audit and its list of executions.

    What a fill without a position bought or sold (a person's trade, an orphan that was left) is counted at the average
    cost of such fills; where the tables know no cost of it, that is a difference. `fills` are in order of time.
    `audit` is GET /admin/audit; `executions` those of GET /admin/logs: order_id, qty, price as text.
    """
    differences = [
        f"the exchange finds fault with itself: {problem}" for problem in _as_list(audit["problems"])
    ]
    ours = _totals_by_order((fill.alpaca_order_id or "?", fill.quantity, fill.price) for fill in fills)
    theirs = _totals_by_order(
        (str(one["order_id"]), Decimal(str(one["qty"])), Decimal(str(one["price"]))) for one in executions
    )
    for order_id in sorted(ours.keys() | theirs.keys()):
        mine, its = ours.get(order_id, (ZERO, ZERO)), theirs.get(order_id, (ZERO, ZERO))
        if mine != its:
            differences.append(
                f"order {order_id}: tables {mine[0]} shares for {mine[1]}, exchange {its[0]} for {its[1]}"
            )
    if len(fills) != len(executions):
        differences.append(f"the tables have {len(fills)} fills, the exchange {len(executions)}")
    held = _shares_by_symbol(positions, orphans)
    shown = audit["positions"]
    assert isinstance(shown, Mapping)
    if held != {str(symbol): Decimal(str(qty)) for symbol, qty in shown.items()}:
        differences.append(f"the tables hold {held or 'nothing'}, the exchange {shown or 'nothing'}")
    loose, unknown = _gain_without_position(fills, {one.symbol for one in orphans if one.cost is not None})
    differences += [
        f"{quantity.normalize():f} shares of {symbol} left whose cost is in no table"
        for symbol, quantity in unknown.items()
    ]
    gains = [
        *(_gain_of_position(row) for row in positions),
        *(_gain_of_orphan(one) for one in orphans),
        loose,
    ]
    realized = sum(gains, ZERO).quantize(CENT, ROUND_HALF_EVEN)
    its_realized = Decimal(str(audit["realised"])).quantize(CENT, ROUND_HALF_EVEN)
    if realized != its_realized:
        differences.append(f"realised is {realized} in the tables, {its_realized} at the exchange")
    return Agreement(len(fills), sum((fill.quantity for fill in fills), ZERO), realized, tuple(differences))


def _totals_by_order(fills: Iterable[tuple[str, Decimal, Decimal]]) -> dict[str, tuple[Decimal, Decimal]]:
    """Order → (shares, dollars)."""
    found: dict[str, tuple[Decimal, Decimal]] = {}
    for order_id, quantity, price in fills:
        shares, paid = found.get(order_id, (ZERO, ZERO))
        found[order_id] = (shares + quantity, paid + quantity * price)
    return found


def _as_list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _shares_by_symbol(rows: Sequence[PositionRow], orphans: Sequence[Orphan]) -> dict[str, Decimal]:
    """Symbol → shares, signed, of the tables: positions, and what no position explains."""
    found: dict[str, Decimal] = defaultdict(Decimal)
    for row in rows:
        found[row.symbol] += row.quantity if row.side is PositionSide.LONG else -row.quantity
    for orphan in orphans:
        found[orphan.symbol] += orphan.signed_qty
    return {symbol: quantity for symbol, quantity in found.items() if quantity}


def _gain_of_orphan(orphan: Orphan) -> Decimal:
    """The exact result of what our own exits sold too much of, and bought back."""
    if orphan.cost is None or not orphan.exited_qty:
        return ZERO
    gain = orphan.proceeds - orphan.cost * orphan.exited_qty / orphan.found_qty
    return gain if orphan.side is PositionSide.LONG else -gain


def _gain_without_position(
    fills: Sequence[BookedFill], excluded_symbols: Container[str]
) -> tuple[Decimal, dict[str, Decimal]]:
    """Dollars that fills without a position realised, by average cost; and symbol → shares that left without a fill
    that says what they cost. `but`: symbols whose orphans keep their own account."""
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
        left = min(fill.quantity, abs(held)) if held * signed < 0 else ZERO
        if left < fill.quantity:
            unknown[fill.symbol] = unknown.get(fill.symbol, ZERO) + fill.quantity - left
        if left:
            share = cost * left / abs(held)
            direction = 1 if held > 0 else -1
            gain += direction * left * fill.price - share
            pools[fill.symbol] = (held - direction * left, cost - share)
    return gain, unknown


def _gain_of_position(row: PositionRow) -> Decimal:
    """The exact realised result, before it is rounded to the cent."""
    if not row.exited_qty:
        return ZERO
    basis = row.cost if row.exited_qty == row.entered_qty else row.entry_price * row.exited_qty
    gain = row.proceeds - basis
    return gain if row.side is PositionSide.LONG else -gain
