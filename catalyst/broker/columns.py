"""Market data columns: JSON rows into numpy arrays; NaN and NaT where the market sent nothing.

Each function makes one pass per column over plain dicts; no model is built per row. They run in worker
threads, one batch at a time, so that the event loop keeps running.
"""

from collections.abc import Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Final, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from catalyst.broker.outcome import is_object

FloatColumn = npt.NDArray[np.float64]
TimeColumn = npt.NDArray[np.datetime64]
JsonObject = Mapping[str, object]

_EMPTY_OBJECT: Final[JsonObject] = {}
# part of the snapshot -> (column, key)
_SNAPSHOT_PARTS: Final[dict[str, tuple[tuple[str, str], ...]]] = {
    "latestTrade": (("trade_price", "p"), ("trade_at", "t")),
    "latestQuote": (("bid", "bp"), ("ask", "ap"), ("bid_size", "bs"), ("ask_size", "as"), ("quote_at", "t")),
    "minuteBar": (("minute_close", "c"), ("minute_volume", "v"), ("minute_at", "t")),
    "dailyBar": (
        ("day_open", "o"),
        ("day_high", "h"),
        ("day_low", "l"),
        ("day_close", "c"),
        ("day_volume", "v"),
        ("day_vwap", "vw"),
        ("day_at", "t"),
    ),
    "prevDailyBar": (
        ("prev_open", "o"),
        ("prev_high", "h"),
        ("prev_low", "l"),
        ("prev_close", "c"),
        ("prev_volume", "v"),
        ("prev_at", "t"),
    ),
}
# Zero is a valid number for these; a price of zero is no price.
_ZERO_ALLOWED_KEYS: Final = frozenset({"v", "bs", "as"})
SNAPSHOT_COLUMNS: Final = tuple(column for part in _SNAPSHOT_PARTS.values() for column, _ in part)
_BAR_KEYS: Final = (
    ("timestamp", "t"),
    ("open", "o"),
    ("high", "h"),
    ("low", "l"),
    ("close", "c"),
    ("volume", "v"),
)
BAR_COLUMNS: Final = ("symbol", *(column for column, _ in _BAR_KEYS))

Columns = dict[str, npt.NDArray[np.generic]]


def snapshot_columns(snapshots: Mapping[str, object]) -> tuple[list[str], Columns]:
    """Return the symbols of a snapshots response and their columns, times as datetime64[ns] in UTC."""
    rows = {symbol: row for symbol, row in snapshots.items() if is_object(row)}
    columns: Columns = {}
    for part, wanted in _SNAPSHOT_PARTS.items():
        keys = tuple(key for _, key in wanted)
        for (column, key), raw in zip(
            wanted, _values_by_key(_parts_of(rows.values(), part), keys), strict=True
        ):
            columns[column] = times(raw) if key == "t" else numbers(raw, zero=key in _ZERO_ALLOWED_KEYS)
    _drop_invalid_quotes(columns)
    return list(rows), columns


def snapshot_frame(chunks: Sequence[tuple[list[str], Columns]]) -> pd.DataFrame:
    """Return the batches as one frame, index `symbol`, columns SNAPSHOT_COLUMNS."""
    symbols = [symbol for batch, _ in chunks for symbol in batch]
    return pd.DataFrame(
        {
            column: _concatenated([columns[column] for _, columns in chunks], column)
            for column in SNAPSHOT_COLUMNS
        },
        index=pd.Index(symbols, name="symbol", dtype=str),
    )


def bar_columns(bars: Mapping[str, object]) -> Columns:
    """Return the bars of one page in long form, BAR_COLUMNS; a bar without a time is left out."""
    per_symbol = {symbol: items for symbol, items in bars.items() if isinstance(items, list)}
    rows = [row for items in per_symbol.values() for row in items]
    symbols = np.repeat(
        np.array(list(per_symbol), dtype=object), [len(items) for items in per_symbol.values()]
    )
    if not all(map(is_object, rows)):
        keep = [is_object(row) for row in rows]
        rows, symbols = [row for row in rows if is_object(row)], symbols[keep]
    columns: Columns = {"symbol": symbols}
    for (column, key), raw in zip(
        _BAR_KEYS, _values_by_key(rows, tuple(key for _, key in _BAR_KEYS)), strict=True
    ):
        columns[column] = times(raw) if key == "t" else numbers(raw, zero=key in _ZERO_ALLOWED_KEYS)
    timed = ~np.isnat(columns["timestamp"].astype("datetime64[ns]"))
    return columns if timed.all() else {name: column[timed] for name, column in columns.items()}


def bar_frame(pages: Sequence[Columns]) -> pd.DataFrame:
    """Return the pages as one frame, sorted by symbol and time, one row for each pair."""
    frame = pd.DataFrame({name: _concatenated([page[name] for page in pages], name) for name in BAR_COLUMNS})
    frame["symbol"] = frame["symbol"].astype(str)
    ordered = frame.sort_values(["symbol", "timestamp"], kind="stable", ignore_index=True)
    return ordered.drop_duplicates(["symbol", "timestamp"], keep="last", ignore_index=True)


def numbers(raw: Sequence[object], *, zero: bool) -> FloatColumn:
    """Return `raw` as float64; null, text that is not a number, infinities, negatives, and (unless `zero`) zero
    are NaN."""
    try:
        column = np.array(raw, dtype=np.float64)  # None becomes NaN
    except (TypeError, ValueError, OverflowError):
        column = np.array([_number(value) for value in raw], dtype=np.float64)
    invalid = ~np.isfinite(column) | (column < 0 if zero else column <= 0)
    if invalid.any():
        column[invalid] = np.nan
    return column


def times(raw: Sequence[object]) -> TimeColumn:
    """Return RFC 3339 texts as datetime64[ns] in UTC; anything else is NaT."""
    try:
        distinct = list(set(raw))
        if len(distinct) * 4 < len(raw):  # bars of one minute or day: parse each time once
            parsed_times = dict(zip(distinct, times(distinct), strict=True))
            return np.array([parsed_times[text] for text in raw], dtype="datetime64[ns]")
        return np.array(_utc(raw), dtype="datetime64[ns]")
    except (TypeError, ValueError):  # an offset, a null, or no time: slower, and accepted
        parsed = pd.to_datetime(
            pd.Series([text if isinstance(text, str) else None for text in raw], dtype=object),
            utc=True,
            format="ISO8601",
            errors="coerce",
        )
        return parsed.dt.tz_localize(None).to_numpy(dtype="datetime64[ns]")


def _utc(raw: Sequence[object]) -> list[str]:
    """Return the texts without their Z, as numpy reads UTC, in four passes in C.

    Raises TypeError or ValueError when one is not text or has another zone.
    """
    joined = "\n".join(raw)  # type: ignore[arg-type]  # a value that is not text raises TypeError
    plain = joined.replace("Z\n", "\n").removesuffix("Z").split("\n")
    if len(joined) - sum(map(len, plain)) != 2 * len(raw) - 1:
        raise ValueError("not every time is UTC")
    return plain


def _number(raw: object) -> float:
    try:
        return float(raw) if isinstance(raw, (int, float, str)) and not isinstance(raw, bool) else np.nan
    except (ValueError, OverflowError):
        return np.nan


def _parts_of(rows: Iterable[JsonObject], name: str) -> list[JsonObject]:
    """Return one part of every snapshot; empty where it is null, missing or no object."""
    found = [row.get(name) for row in rows]
    if set(map(type, found)) == {dict}:
        return cast(list[JsonObject], found)
    return [part if is_object(part) else _EMPTY_OBJECT for part in found]


def _values_by_key(rows: Sequence[JsonObject], keys: tuple[str, ...]) -> list[Sequence[object]]:
    """Return for each key its value in every row; None where a row has none."""
    if not rows:
        return [() for _ in keys]
    try:
        return list(zip(*map(itemgetter(*keys), rows), strict=True))
    except KeyError:  # one row lacks one field: slower for all
        return [[row.get(key) for row in rows] for key in keys]


def _drop_invalid_quotes(columns: Columns) -> None:
    """Clear crossed quotes, and the size of a side without a price."""
    crossed = np.greater(columns["bid"], columns["ask"])
    for side, size in (("bid", "bid_size"), ("ask", "ask_size")):
        columns[side][crossed] = np.nan
        columns[size][np.isnan(columns[side].astype(np.float64))] = np.nan


def _concatenated(pieces: Sequence[npt.NDArray[np.generic]], column: str) -> object:
    """Return the pieces as one column; times become aware UTC."""
    is_time = column == "timestamp" or column.endswith("_at")
    kind = "datetime64[ns]" if is_time else object if column == "symbol" else np.float64
    whole = np.concatenate(pieces) if pieces else np.array([], dtype=kind)
    return pd.DatetimeIndex(whole).tz_localize("UTC") if is_time else whole
