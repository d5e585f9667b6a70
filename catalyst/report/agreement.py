"""Do the tables and the exchange tell the same day? Every fill, every share, every cent."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Final

from catalyst.domain.order import PositionSide
from catalyst.domain.position import CENT, ZERO
from catalyst.store.inquiry import Fill
from catalyst.store.positions import PositionRow

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both sides say, and every difference found."""

    fills: int
    shares: Decimal
    realized: Decimal
    differences: tuple[str, ...]

    @property
    def holds(self) -> bool:
        return not self.differences

    @property
    def sentence(self) -> str:
        if self.holds:
            return (
                f"the tables and the exchange agree: {self.fills} fills, {self.shares.normalize():f} shares, realised "
                f"{self.realized} to the cent"
            )
        more = len(self.differences) - _SHOWN
        return "the tables and the exchange DISAGREE: " + "; ".join(
            [*self.differences[:_SHOWN], *([f"and {more} more"] if more > 0 else [])]
        )


def compare(
    fills: Sequence[Fill],
    rows: Sequence[PositionRow],
    audit: Mapping[str, object],
    executions: Sequence[Mapping[str, object]],
) -> Agreement:
    """Hold every fill and position against the exchange's audit and its list of executions.

    `audit` is GET /admin/audit; `executions` those of GET /admin/ledger: order_id, qty, price as text.
    """
    differences = [f"the exchange finds fault with itself: {problem}" for problem in _list(audit["problems"])]
    ours = _by_order((fill.alpaca_order_id or "?", fill.quantity, fill.price) for fill in fills)
    theirs = _by_order(
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
    held = {row.symbol: _signed(row) for row in rows if row.quantity}
    shown = audit["positions"]
    assert isinstance(shown, Mapping)
    if held != {str(symbol): Decimal(str(qty)) for symbol, qty in shown.items()}:
        differences.append(f"the tables hold {held or 'nothing'}, the exchange {shown or 'nothing'}")
    realized = sum((_gain(row) for row in rows), ZERO).quantize(CENT, ROUND_HALF_EVEN)
    its_realized = Decimal(str(audit["realised"])).quantize(CENT, ROUND_HALF_EVEN)
    if realized != its_realized:
        differences.append(f"realised is {realized} in the tables, {its_realized} at the exchange")
    return Agreement(len(fills), sum((fill.quantity for fill in fills), ZERO), realized, tuple(differences))


def _by_order(fills: Iterable[tuple[str, Decimal, Decimal]]) -> dict[str, tuple[Decimal, Decimal]]:
    """Order → (shares, dollars)."""
    found: dict[str, tuple[Decimal, Decimal]] = {}
    for order_id, quantity, price in fills:
        shares, paid = found.get(order_id, (ZERO, ZERO))
        found[order_id] = (shares + quantity, paid + quantity * price)
    return found


def _list(value: object) -> list[object]:
    assert isinstance(value, list)
    return value


def _signed(row: PositionRow) -> Decimal:
    return row.quantity if row.side is PositionSide.LONG else -row.quantity


def _gain(row: PositionRow) -> Decimal:
    """The exact realised result, before it is rounded to the cent."""
    if not row.exited_qty:
        return ZERO
    basis = row.cost if row.exited_qty == row.entered_qty else row.entry_price * row.exited_qty
    gain = row.proceeds - basis
    return gain if row.side is PositionSide.LONG else -gain
