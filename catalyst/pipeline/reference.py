"""What is usual for each symbol, from the daily bars of earlier days; computed once before the open."""

from datetime import date, datetime, time
from typing import Any

import numpy as np
import pandas as pd

from catalyst.domain.session import NEW_YORK
from catalyst.pipeline.bar_matrix import BarMatrix, bar_matrix_of
from catalyst.pipeline.indicators import atr

AVERAGE_DAYS = 20
_REFERENCE_COLUMNS = ("prev_close", "avg_volume_20d", "avg_dollar_volume_20d", "atr_14d", "days", "last_at")


def earlier_days(daily: pd.DataFrame, day: date) -> pd.DataFrame:
    """The daily bars that began before `day` did in New York: never today's unfinished one."""
    midnight = pd.Timestamp(datetime.combine(day, time(), NEW_YORK))
    stamps: pd.Series[Any] = daily["timestamp"]
    return daily[stamps < midnight]


def reference(daily: pd.DataFrame, day: date) -> pd.DataFrame:
    """The yardsticks of `day`, a row for every symbol that has an earlier daily bar.

    Reads   daily: symbol, timestamp (start of the day, UTC), open, high, low, close, volume; sorted by both.
    Writes  index symbol; prev_close; avg_volume_20d and avg_dollar_volume_20d, means over the last 20 bars or
            what there is; atr_14d, dollars, NaN before 15 bars; days, how many bars; last_at, the last bar's start.
    Source  Wilder, New Concepts in Technical Trading Systems, 1978 (ATR).
    """
    grid = bar_matrix_of(earlier_days(daily, day))
    if not grid.symbols.size:
        return pd.DataFrame(
            columns=list(_REFERENCE_COLUMNS), index=pd.Index([], name="symbol", dtype="str"), dtype=float
        )
    return pd.DataFrame(
        {
            "prev_close": grid.at_last_bar(grid.close),
            "avg_volume_20d": _mean_of_last(grid, grid.volume),
            "avg_dollar_volume_20d": _mean_of_last(grid, grid.volume * grid.close),
            "atr_14d": grid.at_last_bar(atr(grid.high, grid.low, grid.close)),
            "days": grid.counts,
            "last_at": pd.to_datetime(grid.at_last_bar(grid.time), unit="s", utc=True),
        },
        index=pd.Index(grid.symbols, name="symbol"),
    )


def _mean_of_last(grid: BarMatrix, values: Any) -> Any:
    """Each symbol's mean over its last 20 bars."""
    columns = np.arange(values.shape[1])
    recent = (columns < grid.counts[:, None]) & (columns >= grid.counts[:, None] - AVERAGE_DAYS)
    return np.where(recent, values, 0.0).sum(axis=1) / np.minimum(grid.counts, AVERAGE_DAYS)
