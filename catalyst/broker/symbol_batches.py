"""Many symbols in few requests: a URL has a length limit (414), and no document says which."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlencode

MAX_SYMBOLS: Final = 500
MAX_SYMBOLS_BYTES: Final = 5_600  # leaves room for host, path and the other parameters within 6 kB


def batch_symbols(symbols: Sequence[str], max_symbols: int = MAX_SYMBOLS) -> list[tuple[str, ...]]:
    """The distinct symbols in their order, in as few chunks as the limits allow; none for no symbols."""
    return list(_batches(dict.fromkeys(symbols), max_symbols))


def _batches(symbols: dict[str, None], max_symbols: int) -> Iterator[tuple[str, ...]]:
    chunk: list[str] = []
    size = 0
    for symbol in symbols:
        cost = len(symbol.encode()) + 3  # a comma may travel as %2C
        if chunk and (len(chunk) == max_symbols or size + cost > MAX_SYMBOLS_BYTES):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(symbol)
        size += cost
    if chunk:
        yield tuple(chunk)


def encode_query(**params: str | int) -> str:
    """The query with plain commas: encoded, each would cost three bytes of a short URL."""
    return urlencode(params, safe=",:")


def rfc3339(at: datetime) -> str:
    """An aware instant as the broker's queries take it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")
