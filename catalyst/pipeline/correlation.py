"""Correlation of stocks, computed from their returns at common times."""

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
    """Pairwise correlations of symbols; NaN where the common history is too short."""

    symbols: tuple[str, ...]
    matrix: Floats
    daily_count: int  # the most daily returns that any pair has in common
    intraday_count: int

    def between(self, first: str, second: str) -> float:
        """Return the correlation of two symbols, NaN when unknown."""
        if first not in self.symbols or second not in self.symbols:
            return float("nan")
        return float(self.matrix[self.symbols.index(first), self.symbols.index(second)])


def correlation_matrix(
    symbols: list[str],
    daily: pd.DataFrame,
    bars: pd.DataFrame,
    session: Session,
    now: datetime,
    bar_minutes: int,
) -> CorrelationMatrix:
    """Correlate the last 60 daily returns; for a pair with fewer use at least 120 intraday returns.

    Reads   daily, bars: symbol, timestamp, close, sorted. Only days before the session's day and bars finished by
            `now` are used; an intraday return spans two neighbouring bars, never a gap or a night.
    """
    daily_returns = _returns(earlier_days(daily, session.day), symbols, None)[-MIN_DAILY_RETURNS:]
    intraday_returns = _returns(finished_bars(bars, now, bar_minutes), symbols, 60.0 * bar_minutes)
    daily_correlation, daily_count = _correlate(daily_returns)
    intraday_correlation, intraday_count = _correlate(intraday_returns)
    matrix = np.where(
        daily_count >= MIN_DAILY_RETURNS,
        daily_correlation,
        np.where(intraday_count >= MIN_INTRADAY_RETURNS, intraday_correlation, np.nan),
    )
    max_counts = (int(count.max()) if count.size else 0 for count in (daily_count, intraday_count))
    return CorrelationMatrix(tuple(symbols), matrix, *max_counts)


def _returns(bars: pd.DataFrame, symbols: list[str], step: float | None) -> Floats:
    """Compute log returns, times x `symbols`; NaN where one of the two prices is missing."""
    selected = bars[bars["symbol"].isin(symbols)]
    if selected.empty:
        return np.full((0, len(symbols)), np.nan)
    time = epoch_seconds(selected["timestamp"])
    times, row = np.unique(time, return_inverse=True)
    column = pd.Index(symbols).get_indexer(pd.Index(selected["symbol"]))
    log_close = np.full((times.size, len(symbols)), np.nan)
    close = selected["close"].to_numpy(dtype=np.float64)
    log_close[row, column] = np.log(np.where(close > 0, close, np.nan))
    returns = np.diff(log_close, axis=0)
    if step is not None:
        returns = returns[np.diff(times) == step]
    return returns


def _correlate(returns: Floats) -> tuple[Floats, Floats]:
    """Compute Pearson's correlation of every pair of columns over their common rows, and the number of these rows."""
    present = np.isfinite(returns).astype(np.float64)
    x = np.where(present > 0, returns, 0.0)
    count = present.T @ present
    total, square, cross = x.T @ present, (x * x).T @ present, x.T @ x
    with np.errstate(all="ignore"):
        variance = count * square - total**2
        correlation = (count * cross - total * total.T) / np.sqrt(variance * variance.T)
    return np.clip(correlation, -1.0, 1.0), count
