"""Statistics of trades: pure functions of results in dollars, for a day, for any range of days, and for backtests."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import accumulate
from typing import Final

from catalyst.domain.position import CENT, ZERO

_HUNDREDTH: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class TradeStatistics:
    """The statistics of closed trades. Dollars; None where there was no trade."""

    trades: int
    winners: int
    losers: int
    flat: int
    win_rate: Decimal | None  # percent of the trades
    total_pnl: Decimal
    average_pnl: Decimal | None
    best: Decimal | None
    worst: Decimal | None
    profit_factor: Decimal | None  # None without a loser
    average_r: Decimal | None  # of the trades whose risk is known


def trade_statistics(
    results: Sequence[Decimal], r_multiples: Iterable[Decimal | None] = ()
) -> TradeStatistics:
    """Compute the statistics of results in dollars, and the average of the R multiples that are known."""
    count = len(results)
    won, lost = [x for x in results if x > 0], [x for x in results if x < 0]
    total = sum(results, ZERO)
    known = [r for r in r_multiples if r is not None]
    return TradeStatistics(
        trades=count,
        winners=len(won),
        losers=len(lost),
        flat=count - len(won) - len(lost),
        win_rate=(Decimal(100) * len(won) / count).quantize(_HUNDREDTH) if count else None,
        total_pnl=total,
        average_pnl=(total / count).quantize(CENT, ROUND_HALF_EVEN) if count else None,
        best=max(results, default=None),
        worst=min(results, default=None),
        profit_factor=(sum(won, ZERO) / -sum(lost, ZERO)).quantize(_HUNDREDTH) if lost else None,
        average_r=(sum(known, ZERO) / len(known)).quantize(_HUNDREDTH) if known else None,
    )


def largest_fall(gains: Iterable[Decimal]) -> Decimal:
    """Return the largest fall of the sum of these gains below its highest value so far, in dollars, never negative."""
    curve = list(accumulate(gains, initial=ZERO))
    peaks = accumulate(curve, max)
    fall = max(peak - value for peak, value in zip(peaks, curve, strict=True))
    return fall.quantize(CENT, ROUND_HALF_EVEN)
