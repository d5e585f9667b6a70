"""Reference values of each symbol (average volume, ATR, previous close) from the daily bars before the open."""

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
    """Return the daily bars that began before `day` in New York, so never today's unfinished bar."""
    midnight = pd.Timestamp(datetime.combine(day, time(), NEW_YORK))
    stamps: pd.Series[Any] = daily["timestamp"]
    return daily[stamps < midnight]


def reference(daily: pd.DataFrame, day: date) -> pd.DataFrame:
    """Compute the reference values for `day`, one row for every symbol that has an earlier daily bar.

    Reads   daily: symbol, timestamp (start of the day, UTC), open, high, low, close, volume; sorted by both.
    Writes  index symbol; prev_close; avg_volume_20d and avg_dollar_volume_20d, means over the last 20 bars or
            fewer; atr_14d, dollars, NaN before 15 bars; days, the number of bars; last_at, the last bar's start.
    Source  Wilder, New Concepts in Technical Trading Systems, 1978 (ATR).
    """
    matrix = bar_matrix_of(earlier_days(daily, day))
    if not matrix.symbols.size:
        return pd.DataFrame(
            columns=list(_REFERENCE_COLUMNS), index=pd.Index([], name="symbol", dtype="str"), dtype=float
        )
    return pd.DataFrame(
        {
            "prev_close": matrix.at_last_bar(matrix.close),
            "avg_volume_20d": _mean_of_last(matrix, matrix.volume),
            "avg_dollar_volume_20d": _mean_of_last(matrix, matrix.volume * matrix.close),
            "atr_14d": matrix.at_last_bar(atr(matrix.high, matrix.low, matrix.close)),
            "days": matrix.counts,
            "last_at": pd.to_datetime(matrix.at_last_bar(matrix.time), unit="s", utc=True),
        },
        index=pd.Index(matrix.symbols, name="symbol"),
    )


def _mean_of_last(matrix: BarMatrix, values: Any) -> Any:
    """Return each symbol's mean over its last 20 bars, or over all when there are fewer."""
    columns = np.arange(values.shape[1])
    recent = (columns < matrix.counts[:, None]) & (columns >= matrix.counts[:, None] - AVERAGE_DAYS)
    return np.where(recent, values, 0.0).sum(axis=1) / np.minimum(matrix.counts, AVERAGE_DAYS)
