"""Many symbols in few requests: a URL has a length limit (414), and no document says which."""

import asyncio
from collections.abc import Coroutine, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar
from urllib.parse import urlencode

T = TypeVar("T")
U = TypeVar("U")

MOST_SYMBOLS: Final = 500
MOST_BYTES: Final = 5_600  # leaves room for host, path and the other parameters within 6 kB


def chunked(symbols: Sequence[str], most: int = MOST_SYMBOLS) -> list[tuple[str, ...]]:
    """The distinct symbols in their order, in as few chunks as the limits allow; none for no symbols."""
    return list(_chunks(dict.fromkeys(symbols), most))


def _chunks(symbols: dict[str, None], most: int) -> Iterator[tuple[str, ...]]:
    chunk: list[str] = []
    size = 0
    for symbol in symbols:
        cost = len(symbol.encode()) + 3  # a comma may travel as %2C
        if chunk and (len(chunk) == most or size + cost > MOST_BYTES):
            yield tuple(chunk)
            chunk, size = [], 0
        chunk.append(symbol)
        size += cost
    if chunk:
        yield tuple(chunk)


def query_of(**params: str | int) -> str:
    """The query with plain commas: encoded, each would cost three bytes of a short URL."""
    return urlencode(params, safe=",:")


def rfc3339(at: datetime) -> str:
    """An aware instant as the broker's queries take it."""
    return at.astimezone(UTC).isoformat().replace("+00:00", "Z")


async def together(work: Iterable[Coroutine[object, object, T]]) -> list[T]:
    """The results of all, in order; the first error once every one has ended."""
    results: list[T] = []
    for ended in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(ended, BaseException):
            raise ended
        results.append(ended)
    return results


async def both(one: Coroutine[object, object, T], other: Coroutine[object, object, U]) -> tuple[T, U]:
    """The results of two that run at once; the first error once both have ended."""
    first, second = await asyncio.gather(one, other, return_exceptions=True)
    if isinstance(first, BaseException):
        raise first
    if isinstance(second, BaseException):
        raise second
    return first, second
