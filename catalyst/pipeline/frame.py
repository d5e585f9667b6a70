"""The candidate frame: one row a symbol, widening from stage to stage; a refused row stays, with its reason.

Columns every frame has: `refused_by` (a name of STAGES, or NA) and `reason` (a sentence with the number and the
limit it failed, or NA). Prices are float64 dollars; `side` is long | short once a stage has taken a view.
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

# The column whose presence says that a stage has run.
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

# What a person asks of a row later: kept for every symbol of a scan.
_NUMBER_COLUMNS: Final = (
    "price", "gap_pct", "relative_volume", "dollar_volume", "avg_dollar_volume", "spread_bps", "momentum_pct",
    "scan_score", "news_score", "pattern_confidence", "agreement", "composite", "risk_score",
)  # fmt: skip
_TEXT_COLUMNS: Final = ("side", "pattern", "catalyst", "refused_by", "reason")


class StageFilter:
    """The refusals of one stage while it runs: the first reason that applies to a row is the one kept."""

    def __init__(self, frame: pd.DataFrame, stage: str) -> None:
        self.frame = frame
        self.stage = stage
        self.remaining: Bools = frame["refused_by"].isna().to_numpy(copy=True)
        self._refused_by = frame["refused_by"].to_numpy(dtype=object, copy=True)
        self._reason = frame["reason"].to_numpy(dtype=object, copy=True)

    def refuse(self, failing: Bools, reason: str, *numbers: npt.NDArray[Any] | float) -> None:
        """Refuse the standing rows where `failing`; `reason` is %-formatted with each row's `numbers`."""
        hit = np.flatnonzero(failing & self.remaining)
        if not hit.size:
            return
        self.remaining[hit] = False
        self._refused_by[hit] = self.stage
        if numbers:
            columns = [np.broadcast_to(np.asarray(n), self.remaining.shape)[hit].tolist() for n in numbers]
            self._reason[hit] = [reason % row for row in zip(*columns, strict=True)]
        else:
            self._reason[hit] = reason

    def keep_best(self, score: Floats, limit: int, reason: str) -> Floats:
        """Refuse all but the `limit` best standing rows; return every standing row's rank, 1 the best, else NaN.

        Ties go to the symbol that sorts first. `reason` is %-formatted with (rank, how many stood, limit).
        """
        ranks = rank(score, self.remaining, self.frame.index)
        stood = float(np.count_nonzero(self.remaining))
        self.refuse(ranks > limit, reason, ranks, stood, float(limit))
        return ranks

    def to_frame(self, **columns: Any) -> pd.DataFrame:
        """The frame with this stage's columns and refusals."""
        columns |= {
            "refused_by": pd.array(self._refused_by, dtype="str"),
            "reason": pd.array(self._reason, dtype="str"),
        }
        # One join at the end: a column inserted at a time would rebuild the frame a time.
        fresh = pd.DataFrame(columns, index=self.frame.index, copy=False)
        kept = self.frame[[name for name in self.frame.columns if name not in columns]]
        return pd.concat([kept, fresh], axis=1)


def rank(score: Floats, among: Bools, symbols: pd.Index) -> Floats:
    """1 for the highest score among the rows chosen, NaN elsewhere; ties by symbol, a NaN score last."""
    ranks = np.full(len(score), np.nan)
    chosen = np.flatnonzero(among)
    if not chosen.size:
        return ranks
    best = np.where(np.isnan(score[chosen]), np.inf, -score[chosen])
    order = np.lexsort((symbols.to_numpy(dtype=object)[chosen].astype(str), best))
    ranks[chosen[order]] = np.arange(1, chosen.size + 1)
    return ranks


def percentile(values: Floats, among: Bools) -> Floats:
    """Each value's place among the finite ones chosen, 0 the lowest, 1 the highest, ties in the middle.

    A missing value is 0.5: it neither helps nor hurts. Rows not chosen are NaN.
    """
    out = np.where(among, 0.5, np.nan)
    known = among & np.isfinite(values)
    x = values[known]
    if x.size > 1:
        ordered = np.sort(x)
        low, high = np.searchsorted(ordered, x, "left"), np.searchsorted(ordered, x, "right")
        out[known] = (low + high - 1) / (2 * (x.size - 1))
    return out


def aligned_reader(table: pd.DataFrame, index: pd.Index) -> Callable[[str], Floats]:
    """A reader of `table`'s columns in the order of `index`, as float64; rows and columns it lacks are NaN.

    Instants come as seconds since the epoch, UTC; flags as 0.0 and 1.0.
    """
    # Plain objects hash several times faster than the text index's own type.
    known = pd.Index(table.index.to_numpy(dtype=object), dtype=object)
    places = known.get_indexer(pd.Index(index.to_numpy(dtype=object), dtype=object))
    absent = places < 0

    def read(name: str) -> Floats:
        if name not in table.columns or not len(table):
            return np.full(len(index), np.nan)
        column = table[name]
        values = (
            epoch_seconds(column)
            if column.dtype.kind == "M"
            else column.to_numpy(dtype=np.float64, na_value=np.nan)
        )
        out: Floats = values[places]
        out[absent | ~np.isfinite(out)] = np.nan  # an infinite price is no price
        return out

    return read


def epoch_seconds(column: "pd.Series[Any]") -> Floats:
    """Seconds since the epoch of a column of aware instants; NaN where there is none."""
    stamps = column.to_numpy(dtype="datetime64[us]")
    out = stamps.astype(np.int64) / 1e6
    out[np.isnat(stamps)] = np.nan
    return out


def text_values(frame: pd.DataFrame, name: str) -> Texts:
    """A text column as objects, None where missing or where the frame has no such column."""
    if name not in frame.columns:
        return np.full(len(frame), None, dtype=object)
    out = frame[name].to_numpy(dtype=object, copy=True)
    out[frame[name].isna().to_numpy()] = None
    return out


def text_array(values: Texts) -> pd.api.extensions.ExtensionArray:
    """Objects, None where missing, as a text column."""
    return pd.array(values, dtype="str")


def float_values(frame: pd.DataFrame, name: str, missing: float = np.nan) -> Floats:
    """A number column as float64, `missing` where the frame has no such column."""
    if name not in frame.columns:
        return np.full(len(frame), missing)
    return frame[name].to_numpy(dtype=np.float64, na_value=np.nan)


def require_aware(now: datetime) -> float:
    """Seconds since the epoch of `now`; a naive instant is a programming error."""
    if now.tzinfo is None:
        raise ValueError(f"{now} has no time zone: every instant is aware")
    return now.timestamp()


def not_refused(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows nobody has refused."""
    return frame[frame["refused_by"].isna()]


def remaining_symbols(frame: pd.DataFrame) -> list[str]:
    """The symbols nobody has refused, best first by the latest rank there is, then by symbol."""
    standing = not_refused(frame)
    for stage in reversed(STAGES):
        column = f"{stage}_rank"
        if column in standing.columns and standing[column].notna().any():
            order = np.lexsort(
                (standing.index.to_numpy(dtype=object).astype(str), standing[column].to_numpy())
            )
            return [str(symbol) for symbol in standing.index[order]]
    return sorted(str(symbol) for symbol in standing.index)


def stages_run(frame: pd.DataFrame) -> tuple[str, ...]:
    """The stages whose columns are in the frame, in order."""
    return tuple(stage for stage in STAGES if _MARKER_COLUMN[stage] in frame.columns)


def funnel(frame: pd.DataFrame) -> dict[str, int]:
    """How many rows stood after each stage that has run; `listed` is where the funnel began."""
    refused = frame["refused_by"].value_counts()
    standing = len(frame)
    counts = {"listed": standing}
    for stage in stages_run(frame):
        standing -= int(refused.get(stage, 0))
        counts[stage] = standing
    return counts


def decision_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Every symbol with what decided it, small enough to keep: one row each, float32 numbers, few words.

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
