"""Pagination: where the next page begins, and iteration over a large JSON array."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from json import JSONDecodeError, JSONDecoder
from typing import Final

from catalyst.domain.errors import BrokerUnavailable
from catalyst.domain.report import OrderReport

_DECODER: Final = JSONDecoder()
_SEPARATORS: Final = " \t\r\n,"


def next_page_start(
    page: Sequence[OrderReport], cursor: datetime | None, overlap: timedelta, *, progressed: bool
) -> datetime:
    """Return the exclusive start of the page after `page`: a little before its end, so that equal times are
    not lost.

    A page of only known orders steps past its end. When even that does not advance, the list cannot be read
    completely, which is a failed read.
    """
    times = [order.submitted_at for order in page if order.submitted_at is not None]
    if not times:
        raise BrokerUnavailable(
            "a full page of orders without a submission time: the next one cannot be found"
        )
    after = max(times) - overlap if progressed else max(times)
    if cursor is not None and after <= cursor:
        after = max(times)
        if after <= cursor:
            raise BrokerUnavailable(
                "a full page of orders has only orders of one instant: the next page cannot be requested"
            )
    return after


def array_items(text: str) -> Iterator[object]:
    """Yield the items of a JSON array one by one, so that other threads can run between them.

    Raises BrokerUnavailable when `text` is not an array, JSONDecodeError when it is truncated.
    """
    at = _skip_chars(text, 0, " \t\r\n")
    if text[at : at + 1] != "[":
        raise BrokerUnavailable("the response is not a list")
    at = _skip_chars(text, at + 1, _SEPARATORS)
    while text[at : at + 1] != "]":
        if at >= len(text):
            raise JSONDecodeError("the array is cut off", text, at)
        item, at = _DECODER.raw_decode(text, at)
        yield item
        at = _skip_chars(text, at, _SEPARATORS)


def _skip_chars(text: str, at: int, chars: str) -> int:
    while at < len(text) and text[at] in chars:
        at += 1
    return at
