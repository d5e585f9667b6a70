"""The candidate frame: one row per symbol; each stage adds columns, and a refused row stays with its reason.

Columns of every frame: `refused_by` (a name of STAGES, or NA) and `reason` (a sentence with the number and the limit
it failed, or NA). Prices are float64 dollars; `side` is long | short, from the pattern stage on.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Ints = npt.NDArray[np.int64]
Texts = npt.NDArray[np.object_]

STAGES: Final = ("universe", "scan", "news", "pattern", "technical", "score", "risk", "plan")

# A stage has run when its column here exists.
_MARKER_COLUMN: Final = {
    "universe": "refused_by",
    "scan": "scan_score",
    "news": "news_score",
    "pattern": "pattern",
    "technical": "agreement",
    "score": "composite",
    "risk": "risk_score",
    "plan": "client_order_id",
}

# The columns that are stored for every symbol of a scan, for `catalyst explain`.
_NUMBER_COLUMNS: Final = (
    "price", "gap_pct", "relative_volume", "dollar_volume", "avg_dollar_volume", "spread_bps", "momentum_pct",
    "scan_score", "news_score", "pattern_confidence", "agreement", "composite", "risk_score",
)  # fmt: skip
_TEXT_COLUMNS: Final = ("side", "pattern", "catalyst", "refused_by", "reason")


class StageFilter:
    """Collects the refusals of one stage while it runs; a row keeps the first reason that applies."""

    def __init__(self, frame: pd.DataFrame, stage: str) -> None:
        self.frame = frame
        self.stage = stage
        self.remaining: Bools = frame["refused_by"].isna().to_numpy(copy=True)
        self._refused_by = frame["refused_by"].to_numpy(dtype=object, copy=True)
        self._reason = frame["reason"].to_numpy(dtype=object, copy=True)

    def refuse(self, failing: Bools, reason: str, *numbers: npt.NDArray[Any] | float) -> None:
        """Refuse the remaining rows where `failing`; `reason` is %-formatted with each row's `numbers`."""
        rows = np.flatnonzero(failing & self.remaining)
        if not rows.size:
            return
        self.remaining[rows] = False
        self._refused_by[rows] = self.stage
        if numbers:
            columns = [np.broadcast_to(np.asarray(n), self.remaining.shape)[rows].tolist() for n in numbers]
            self._reason[rows] = [reason % values for values in zip(*columns, strict=True)]
        else:
            self._reason[rows] = reason

    def keep_best(self, score: Floats, limit: int, reason: str) -> Floats:
        """Refuse all but the `limit` best remaining rows; return each remaining row's rank, 1 the best, else NaN.

        Ties go to the symbol that sorts first. `reason` is %-formatted with (rank, remaining rows, limit).
        """
        ranks = rank(score, self.remaining, self.frame.index)
        remaining_count = float(np.count_nonzero(self.remaining))
        self.refuse(ranks > limit, reason, ranks, remaining_count, float(limit))
        return ranks

    def to_frame(self, **columns: Any) -> pd.DataFrame:
        """Return the frame with this stage's columns and refusals."""
        columns |= {
            "refused_by": pd.array(self._refused_by, dtype="str"),
            "reason": pd.array(self._reason, dtype="str"),
        }
        # One join at the end, because inserting single columns rebuilds the frame each time.
        new_columns = pd.DataFrame(columns, index=self.frame.index, copy=False)
        old_columns = self.frame[[name for name in self.frame.columns if name not in columns]]
        return pd.concat([old_columns, new_columns], axis=1)


def rank(score: Floats, among: Bools, symbols: pd.Index) -> Floats:
    """Rank the rows of `among`: 1 for the highest score, ties by symbol, NaN scores last; other rows are NaN."""
    ranks = np.full(len(score), np.nan)
    chosen = np.flatnonzero(among)
    if not chosen.size:
        return ranks
    best = np.where(np.isnan(score[chosen]), np.inf, -score[chosen])
    order = np.lexsort((symbols.to_numpy(dtype=object)[chosen].astype(str), best))
    ranks[chosen[order]] = np.arange(1, chosen.size + 1)
    return ranks


def percentile(values: Floats, among: Bools) -> Floats:
    """Return each value's percentile among the finite values of `among`: 0 the lowest, 1 the highest, ties the mean.

    A missing value gets 0.5, which is neutral. Rows outside `among` are NaN.
    """
    out = np.where(among, 0.5, np.nan)
    present = among & np.isfinite(values)
    x = values[present]
    if x.size > 1:
        ordered = np.sort(x)
        low, high = np.searchsorted(ordered, x, "left"), np.searchsorted(ordered, x, "right")
        out[present] = (low + high - 1) / (2 * (x.size - 1))
    return out


def aligned_reader(table: pd.DataFrame, index: pd.Index) -> Callable[[str], Floats]:
    """Return a function that reads a column of `table` in the order of `index`, as float64; missing ones are NaN.

    Instants become seconds since the epoch, UTC; flags become 0.0 and 1.0.
    """
    # Plain objects hash several times faster than the text index's own type.
    table_index = pd.Index(table.index.to_numpy(dtype=object), dtype=object)
    positions = table_index.get_indexer(pd.Index(index.to_numpy(dtype=object), dtype=object))
    absent = positions < 0

    def read(name: str) -> Floats:
        if name not in table.columns or not len(table):
            return np.full(len(index), np.nan)
        column = table[name]
        values = (
            epoch_seconds(column)
            if column.dtype.kind == "M"
            else column.to_numpy(dtype=np.float64, na_value=np.nan)
        )
        out: Floats = values[positions]
        out[absent | ~np.isfinite(out)] = np.nan  # an infinite price counts as missing
        return out

    return read


def epoch_seconds(column: "pd.Series[Any]") -> Floats:
    """Convert a column of aware instants to seconds since the epoch; NaN where missing."""
    stamps = column.to_numpy(dtype="datetime64[us]")
    out = stamps.astype(np.int64) / 1e6
    out[np.isnat(stamps)] = np.nan
    return out


def text_values(frame: pd.DataFrame, name: str) -> Texts:
    """Return a text column as objects; None where missing or where the frame has no such column."""
    if name not in frame.columns:
        return np.full(len(frame), None, dtype=object)
    out = frame[name].to_numpy(dtype=object, copy=True)
    out[frame[name].isna().to_numpy()] = None
    return out


def text_array(values: Texts) -> pd.api.extensions.ExtensionArray:
    """Convert objects (None where missing) to a text column."""
    return pd.array(values, dtype="str")


def float_values(frame: pd.DataFrame, name: str, missing: float = np.nan) -> Floats:
    """Return a number column as float64; all `missing` when the frame has no such column."""
    if name not in frame.columns:
        return np.full(len(frame), missing)
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def require_aware(now: datetime) -> float:
    """Return `now` as seconds since the epoch. Raises ValueError for a naive instant."""
    if now.tzinfo is None:
        raise ValueError(f"{now} has no time zone: use an aware instant")
    return now.timestamp()


def not_refused(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that no stage has refused."""
    return frame[frame["refused_by"].isna()]


def remaining_symbols(frame: pd.DataFrame) -> list[str]:
    """Return the symbols that no stage has refused, by the latest stage's rank, else by symbol."""
    remaining = not_refused(frame)
    for stage in reversed(STAGES):
        column = f"{stage}_rank"
        if column in remaining.columns and remaining[column].notna().any():
            order = np.lexsort(
                (remaining.index.to_numpy(dtype=object).astype(str), remaining[column].to_numpy())
            )
            return [str(symbol) for symbol in remaining.index[order]]
    return sorted(str(symbol) for symbol in remaining.index)


def stages_run(frame: pd.DataFrame) -> tuple[str, ...]:
    """Return the stages whose columns are in the frame, in order."""
    return tuple(stage for stage in STAGES if _MARKER_COLUMN[stage] in frame.columns)


def funnel(frame: pd.DataFrame) -> dict[str, int]:
    """Count the rows that remain after each stage that has run; `listed` counts all rows."""
    refused = frame["refused_by"].value_counts()
    remaining = len(frame)
    counts = {"listed": remaining}
    for stage in stages_run(frame):
        remaining -= int(refused.get(stage, 0))
        counts[stage] = remaining
    return counts


def decision_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a small table of every symbol's decision for storage: one row each, float32 numbers.

    Writes  symbol, the numbers of the scan and each stage's score, side, pattern, catalyst, refused_by, reason.
    """
    out = pd.DataFrame({"symbol": frame.index.to_numpy()})
    for name in _NUMBER_COLUMNS:
        if name in frame.columns:
            out[name] = frame[name].to_numpy(dtype=np.float32, na_value=np.nan)
    for name in _TEXT_COLUMNS:
        if name in frame.columns:
            out[name] = frame[name].to_numpy()
    return out
