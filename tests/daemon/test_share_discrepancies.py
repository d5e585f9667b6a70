"""Share discrepancies: what is found for longs is found for shorts, and one symbol hides no other."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from catalyst.daemon.reconciliation.discrepancies import (
    CONFIRM_AFTER,
    SHARE_KINDS,
    Discrepancy,
    DiscrepancyKind,
    SuspectedDiscrepancies,
    share_discrepancies,
)
from catalyst.domain.order import PositionSide
from catalyst.domain.report import PositionReport
from catalyst.store.reconciliation import StoredHolding

NOW = datetime(2026, 4, 8, 14, 15, tzinfo=UTC)
ZERO = Decimal(0)
PHANTOM, ORPHAN, QUANTITY = DiscrepancyKind.PHANTOM, DiscrepancyKind.ORPHAN, DiscrepancyKind.QUANTITY


def holding_of(signed_qty: int, *, symbol: str = "AAPL", is_orphan: bool = False) -> StoredHolding:
    """Return an open position, or orphan shares, of this signed quantity."""
    quantity, side = Decimal(abs(signed_qty)), PositionSide.LONG if signed_qty > 0 else PositionSide.SHORT
    return StoredHolding(
        holding_id=1, is_orphan=is_orphan, symbol=symbol, side=side, quantity=quantity, entered_qty=quantity,
        cost=ZERO, exited_qty=ZERO, proceeds=ZERO, realized_pnl=None, is_open=True, legacy=False, written_off=False,
        fills_in=quantity, fills_cost=ZERO, fills_out=ZERO, fills_proceeds=ZERO,
    )  # fmt: skip


def position_at_broker(quantity: int, symbol: str = "AAPL") -> PositionReport:
    """Return the broker's position of this signed quantity."""
    return PositionReport(
        symbol=symbol, quantity=Decimal(quantity), available=Decimal(quantity), entry_price=Decimal(190),
        current_price=Decimal(190), unrealized_pl=None,
    )  # fmt: skip


def find_discrepancies(held: int, orphan: int, at_broker: int) -> list[tuple[DiscrepancyKind, Decimal]]:
    """Return kind and surplus of each discrepancy of a symbol."""
    holdings = [holding_of(held)] if held else []
    holdings += [holding_of(orphan, is_orphan=True)] if orphan else []
    reports = {"AAPL": position_at_broker(at_broker)} if at_broker else {}
    return [(each.kind, each.surplus) for each in share_discrepancies(holdings, reports)]


@pytest.mark.parametrize("sign", [1, -1], ids=["long", "short"])
@pytest.mark.parametrize(
    ("held", "orphan", "at_broker", "kind", "surplus"),
    [
        (20, 0, 20, None, 0),
        (0, 7, 7, None, 0),
        (20, 0, 0, PHANTOM, 0),
        (0, 0, 7, ORPHAN, 7),
        (20, 0, 27, ORPHAN, 7),
        (20, 0, 12, QUANTITY, 0),
        (20, 0, -5, QUANTITY, 0),
        (20, 7, 12, QUANTITY, 0),
    ],
)
def test_share_discrepancy_of_a_short_mirrors_that_of_a_long(
    sign: int, held: int, orphan: int, at_broker: int, kind: DiscrepancyKind | None, surplus: int
) -> None:
    """Shares that no row explains are orphan shares on either side; missing shares are never."""
    expected = [] if kind is None else [(kind, Decimal(sign * surplus))]
    assert find_discrepancies(sign * held, sign * orphan, sign * at_broker) == expected


def test_each_symbol_that_differs_is_found_and_confirmed_at_its_own_time() -> None:
    """Two symbols that differ are two discrepancies; the one found later is confirmed later, and the end of one
    leaves the other."""
    first = Discrepancy(ORPHAN, "AAPL", "AAPL: 0 shares in the database, 7 at the broker", Decimal(7))
    second = Discrepancy(PHANTOM, "MSFT", "MSFT: 10 shares in the database, 0 at the broker")
    reports = {"AAPL": position_at_broker(7), "TSLA": position_at_broker(3, "TSLA")}
    holdings = [holding_of(10, symbol="MSFT"), holding_of(3, symbol="TSLA")]
    assert list(share_discrepancies(holdings, reports)) == [first, second]
    suspected = SuspectedDiscrepancies.empty()
    suspected.update([first], NOW, kinds=SHARE_KINDS)
    later = NOW + timedelta(seconds=5)
    suspected.update([first, second], later, kinds=SHARE_KINDS)
    assert suspected.symbols == {"AAPL", "MSFT"}
    assert suspected.confirmed(NOW + CONFIRM_AFTER) == [first]
    assert suspected.suspected(NOW + CONFIRM_AFTER) == [second]
    suspected.update([second], NOW + CONFIRM_AFTER, kinds=SHARE_KINDS)
    assert suspected.confirmed(later + CONFIRM_AFTER) == [second]
    assert suspected.symbols == {"MSFT"}
