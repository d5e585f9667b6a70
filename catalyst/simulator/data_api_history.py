"""Bars, trades and quotes of the past, page by page: sorted by symbol, then time; the limit counts them all."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Final

import numpy as np

from catalyst.simulator import data_api_wire as wire
from catalyst.simulator.data_api_params import Range, RefusalError
from catalyst.simulator.market import BarColumns, Market
from catalyst.simulator.market_aggregate import take

Page = tuple[dict[str, list[wire.Json | None]], str | None]
_INSTANT: Final = timedelta(microseconds=1)


def bars_page(market: Market, symbols: Sequence[str], length: timedelta, asked: Range, at: datetime) -> Page:
    """One page of bars and the token of the next."""
    after, since = _position(asked.token)
    page: dict[str, list[wire.Json | None]] = {}
    room, last = asked.limit, ""
    for symbol in sorted(symbols):
        if symbol < after:
            continue
        columns = market.bars(symbol, length, asked.start, asked.end, at)
        columns = _ordered(columns, since if symbol == after else None, descending=asked.descending)
        if not len(columns.starts):
            continue
        if room == 0:
            return page, last
        served = take(columns, slice(room))
        page[symbol] = wire.bars(served)
        room -= len(served.starts)
        last = _token(symbol, int(served.starts[-1]))
        if len(served.starts) < len(columns.starts):
            return page, last
    return page, None


def trades_page(market: Market, symbols: Sequence[str], asked: Range, at: datetime) -> Page:
    """One page of trades and the token of the next."""

    def rows(symbol: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, wire.Json]]:
        tape = wire.tapes_of([symbol], market.assets())[0]
        found = market.prints(symbol, start - _INSTANT, end)
        for each in reversed(found) if asked.descending else found:
            yield each.at, wire.trade(each, tape)

    return _page(market, symbols, asked, at, rows)


def quotes_page(market: Market, symbols: Sequence[str], asked: Range, at: datetime) -> Page:
    """One page of the quotes that stood when a trade happened, and the token of the next."""

    def rows(symbol: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, wire.Json]]:
        tape = wire.tapes_of([symbol], market.assets())[0]
        found = market.prints(symbol, start - _INSTANT, end)
        for each in reversed(found) if asked.descending else found:
            quote = market.quote(symbol, each.at)
            if quote is not None:
                yield each.at, wire.quote(quote, tape)

    return _page(market, symbols, asked, at, rows)


def _page(
    market: Market,
    symbols: Sequence[str],
    asked: Range,
    at: datetime,
    rows: Callable[[str, datetime, datetime], Iterator[tuple[datetime, wire.Json]]],
) -> Page:
    after, since = _position(asked.token)
    page: dict[str, list[wire.Json | None]] = {}
    room, last = asked.limit, ""
    for symbol in sorted(symbol for symbol in symbols if symbol >= after and symbol in market.assets()):
        start, end = asked.start, min(asked.end, at)
        if symbol == after and since is not None:
            served = datetime.fromtimestamp(since, UTC)
            start, end = (start, served - _INSTANT) if asked.descending else (served + _INSTANT, end)
        found = list(islice(rows(symbol, start, end), room + 1))
        if found and room == 0:
            return page, last
        if found[:room]:
            page[symbol] = [row for _, row in found[:room]]
            last = _token(symbol, int(found[:room][-1][0].timestamp()))
        if len(found) > room:
            return page, last
        room -= len(found)
    return page, None


def _ordered(columns: BarColumns, since: int | None, *, descending: bool) -> BarColumns:
    """The rows not served yet, in the asked order."""
    if since is not None:
        rest = columns.starts < since if descending else columns.starts > since
        columns = take(columns, np.flatnonzero(rest))
    return take(columns, slice(None, None, -1)) if descending else columns


def _token(symbol: str, second: int) -> str:
    """The page that begins after `second` of `symbol`."""
    text = f"{symbol}|M|{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}.000000000Z"
    return urlsafe_b64encode(text.encode()).decode()


def _position(token: str | None) -> tuple[str, int | None]:
    """Symbol and second of the last row of the page before; the very beginning without a token."""
    if token is None:
        return "", None
    try:
        symbol, _, text = urlsafe_b64decode(token).decode().split("|")
        at = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
    except (ValueError, NotBase64):
        raise RefusalError(400, "invalid page_token") from None
    return symbol, int(at.timestamp())
