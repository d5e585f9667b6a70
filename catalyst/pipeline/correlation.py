"""How alike two stocks have moved, from returns at common times."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd

from catalyst.domain.session import Session
from catalyst.pipeline.bar_matrix import finished_bars
from catalyst.pipeline.frame import Floats, epoch_seconds
from catalyst.pipeline.reference import earlier_days

MIN_DAILY_RETURNS: Final = 60
MIN_INTRADAY_RETURNS: Final = 120


@dataclass(frozen=True, slots=True)
class CorrelationMatrix:
    """Pairwise correlations of some symbols; NaN where the history was too short to say."""

    symbols: tuple[str, ...]
    matrix: Floats
    daily_count: int  # the most daily returns any pair had in common
    intraday_count: int

    def between(self, one: str, other: str) -> float:
        """The correlation of two symbols, NaN when unknown."""
        if one not in self.symbols or other not in self.symbols:
            return float("nan")
        return float(self.matrix[self.symbols.index(one), self.symbols.index(other)])


def correlation_matrix(
    symbols: list[str],
    daily: pd.DataFrame,
    bars: pd.DataFrame,
    session: Session,
    now: datetime,
    bar_minutes: int,
) -> CorrelationMatrix:
    """Correlations over the last 60 daily returns; where a pair has fewer, over at least 120 intraday ones.

    Reads   daily, bars: symbol, timestamp, close, sorted. Only days before the session's and bars finished by
            `now` count; an intraday return spans two neighbouring bars, never a gap or a night.
    """
    by_day = _returns(earlier_days(daily, session.day), symbols, None)[-MIN_DAILY_RETURNS:]
    by_bar = _returns(finished_bars(bars, now, bar_minutes), symbols, 60.0 * bar_minutes)
    days, many_days = _correlate(by_day)
    minutes, many_minutes = _correlate(by_bar)
    matrix = np.where(
        many_days >= MIN_DAILY_RETURNS, days, np.where(many_minutes >= MIN_INTRADAY_RETURNS, minutes, np.nan)
    )
    most = (int(seen.max()) if seen.size else 0 for seen in (many_days, many_minutes))
    return CorrelationMatrix(tuple(symbols), matrix, *most)


def _returns(bars: pd.DataFrame, symbols: list[str], step: float | None) -> Floats:
    """Log returns, times down, `symbols` across; NaN where either end is missing."""
    own = bars[bars["symbol"].isin(symbols)]
    if own.empty:
        return np.full((0, len(symbols)), np.nan)
    time = epoch_seconds(own["timestamp"])
    times, row = np.unique(time, return_inverse=True)
    column = pd.Index(symbols).get_indexer(pd.Index(own["symbol"]))
    log = np.full((times.size, len(symbols)), np.nan)
    close = own["close"].to_numpy(dtype=np.float64)
    log[row, column] = np.log(np.where(close > 0, close, np.nan))
    moves = np.diff(log, axis=0)
    if step is not None:
        moves = moves[np.diff(times) == step]
    return moves


def _correlate(moves: Floats) -> tuple[Floats, Floats]:
    """Pearson's correlation of every pair of columns over the rows both have, and how many those are."""
    known = np.isfinite(moves).astype(np.float64)
    x = np.where(known > 0, moves, 0.0)
    count = known.T @ known
    total, square, cross = x.T @ known, (x * x).T @ known, x.T @ x
    with np.errstate(all="ignore"):
        spread = count * square - total**2
        correlation = (count * cross - total * total.T) / np.sqrt(spread * spread.T)
    return np.clip(correlation, -1.0, 1.0), count
