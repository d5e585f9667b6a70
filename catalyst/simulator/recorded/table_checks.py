"""Checks of recorded tables: a sentence with file and row for what cannot be played."""

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

_BAR_NUMBERS: Final = ("open", "high", "low", "close", "volume")
_NUMBERS: Final = (
    *_BAR_NUMBERS, "price", "size",
    "bid_open", "bid_close", "bid_price", "bid_size", "ask_open", "ask_close", "ask_price", "ask_size",
)  # fmt: skip


def check_table(table: pa.Table, file: Path, times: tuple[str, ...]) -> pa.Table:
    """Return the table when it has rows, each with a symbol and its times, and numbers where these belong.

    The first row has number 1. Raises ValueError.
    """
    if table.num_rows == 0:
        raise ValueError(f"{file} has no rows")
    for name in ("symbol", *times):
        _require_column(table, file, name)
        _require_values(table, file, name)
    if not _is_text(table["symbol"].type):
        raise ValueError(f"{file}: the column symbol holds {table['symbol'].type}, not text")
    if "" in (symbols := table["symbol"].to_pylist()):
        raise ValueError(f"{file}, row {symbols.index('') + 1}: symbol is empty; correct or delete the row")
    is_intraday = "timestamp" in times and not any(name in table.column_names for name in _NUMBERS)
    for name in _BAR_NUMBERS if "open" in table.column_names or is_intraday else ():
        _require_column(table, file, name)
    for name in _NUMBERS:
        if name in table.column_names and not _is_number(table[name].type):
            _refuse_text(table, file, name)
    return table


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or (pa.types.is_dictionary(kind) and _is_text(kind.value_type))
    )


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _require_column(table: pa.Table, file: Path, name: str) -> None:
    if name not in table.column_names:
        raise ValueError(
            f"{file} has no column {name!r}; add it. Its columns are {', '.join(table.column_names)}"
        )


def _require_values(table: pa.Table, file: Path, name: str) -> None:
    """Raise ValueError for the first row in which the column is empty."""
    if table[name].null_count:
        row = pc.index(pc.is_null(table[name]), True).as_py() + 1
        raise ValueError(f"{file}, row {row}: {name} is empty; correct or delete the row")


def _refuse_text(table: pa.Table, file: Path, name: str) -> None:
    """Raise ValueError with the first row in which the column is no number."""
    for row, value in enumerate(table[name].to_pylist(), 1):
        try:
            float(value)
        except (TypeError, ValueError):
            shown = "empty" if value is None else f"{str(value)[:40]!r}, which is no number"
            raise ValueError(f"{file}, row {row}: {name} is {shown}; correct or delete the row") from None
    raise ValueError(f"{file}: the column {name} holds {table[name].type}, not numbers; convert it")
