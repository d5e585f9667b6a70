"""Symbol batches: many symbols in few requests. A URL has a length limit (414) that no document states."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

MAX_SYMBOLS: Final = 500
MAX_SYMBOLS_BYTES: Final = 5_600  # leaves room for host, path and other parameters within 6 kB


def batch_symbols(symbols: Sequence[str], max_symbols: int = MAX_SYMBOLS) -> list[tuple[str, ...]]:
    """Return the distinct symbols in order, in as few batches as the limits allow; none for no symbols."""
    return list(_batches(dict.fromkeys(symbols), max_symbols))


def _batches(symbols: dict[str, None], max_symbols: int) -> Iterator[tuple[str, ...]]:
    batch: list[str] = []
    size = 0
    for symbol in symbols:
        cost = len(symbol.encode()) + 3  # a comma may be sent as %2C
        if batch and (len(batch) == max_symbols or size + cost > MAX_SYMBOLS_BYTES):
            yield tuple(batch)
            batch, size = [], 0
        batch.append(symbol)
        size += cost
    if batch:
        yield tuple(batch)


def encode_query(**params: str | int) -> str:
    """Return the query with plain commas; encoded, each would cost three bytes of a short URL."""
    return urlencode(params, safe=",:")


def rfc3339(at: datetime) -> str:
    """Return an aware instant in the format of the broker's queries."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
