"""Bars, trades and quotes of the past, page by page: sorted by symbol, then time; the limit counts them all."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from typing import Final

import numpy as np

from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.data_api.params import BarLength, DataApiError, HistoryRange, Months, Weeks
from catalyst.simulator.market import calendar
from catalyst.simulator.market.aggregation import group_by_start, select_rows
from catalyst.simulator.market.interface import BarColumns, Ints, Market

Page = tuple[dict[str, list[wire.Json | None]], str | None]
RowReader = Callable[[str, datetime, datetime], Iterator[tuple[datetime, wire.Json]]]
_INSTANT: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)


def bars_page(
    market: Market, symbols: Sequence[str], length: BarLength, wanted: HistoryRange, at: datetime
) -> Page:
    """One page of bars and the token of the next."""
    after, since = decode_bar_token(wanted.token)
    page: dict[str, list[wire.Json | None]] = {}
    room, last = wanted.limit, ""
    for symbol in sorted(symbols):
        if symbol < after:
            continue
        columns = bars_of(market, symbol, length, wanted, at, since if symbol == after else None)
        if not len(columns.starts):
            continue
        if room == 0:
            return page, last
        served = select_rows(columns, slice(room))
        page[symbol] = wire.bars(served)
        room -= len(served.starts)
        last = encode_bar_token(symbol, int(served.starts[-1]))
        if len(served.starts) < len(columns.starts):
            return page, last
    return page, None


def bars_of(
    market: Market, symbol: str, length: BarLength, wanted: HistoryRange, at: datetime, since: int | None
) -> BarColumns:
    """The bars of one symbol that start in the asked stretch and were not served yet, in the asked order."""
    if isinstance(length, timedelta):
        columns = market.bars(symbol, length, wanted.start, wanted.end, at)
    else:
        columns = _calendar_bars(market, symbol, length, wanted, at)
    return _unserved_rows(columns, since, descending=wanted.descending)


def _calendar_bars(
    market: Market, symbol: str, length: Weeks | Months, wanted: HistoryRange, at: datetime
) -> BarColumns:
    """Weeks from Monday on, months from the first on, made of the days they have so far.

    A bar belongs to the stretch when it starts in it, whatever of its days do.
    """
    first = calendar.midnight(length.begin(calendar.trading_day(wanted.start))).astimezone(UTC)
    last = calendar.midnight(length.end(calendar.trading_day(wanted.end))).astimezone(UTC) - _INSTANT
    days = market.bars(symbol, _DAY, first, last, at)
    starts = np.array([_calendar_bar_start(length, start) for start in days.starts.tolist()], dtype=np.int64)
    inside = (starts >= wanted.start.timestamp()) & (starts <= wanted.end.timestamp())
    rows = np.flatnonzero(inside)
    return group_by_start(select_rows(days, rows), starts[rows])


def _calendar_bar_start(length: Weeks | Months, midnight: int) -> int:
    day: date = length.begin(calendar.trading_day(datetime.fromtimestamp(midnight, UTC)))
    return int(calendar.midnight(day).timestamp())


def trades_page(market: Market, symbols: Sequence[str], wanted: HistoryRange, at: datetime) -> Page:
    """One page of trades and the token of the next."""

    def rows(symbol: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, wire.Json]]:
        tape = wire.tapes_of([symbol], market.assets())[0]
        found = market.trades(symbol, start - _INSTANT, end, at)
        for each in reversed(found) if wanted.descending else found:
            yield each.at, wire.trade(each, tape)

    return _page(market, symbols, wanted, at, rows)


def quotes_page(market: Market, symbols: Sequence[str], wanted: HistoryRange, at: datetime) -> Page:
    """One page of quotes, recorded ones or those that stood when a trade happened, and the token of the next."""

    def rows(symbol: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, wire.Json]]:
        tape = wire.tapes_of([symbol], market.assets())[0]
        found = market.quotes(symbol, start - _INSTANT, end)
        for each in reversed(found) if wanted.descending else found:
            yield each.at, wire.quote(each, tape)

    return _page(market, symbols, wanted, at, rows)


def _page(
    market: Market, symbols: Sequence[str], wanted: HistoryRange, at: datetime, rows: RowReader
) -> Page:
    """Several rows may share an instant: a token counts those of its instant that were served."""
    after, since, served = _decode_token(wanted.token)
    page: dict[str, list[wire.Json | None]] = {}
    room, last = wanted.limit, ""
    for symbol in sorted(symbol for symbol in symbols if symbol >= after and symbol in market.assets()):
        start, end, skip = wanted.start, min(wanted.end, at), 0
        if symbol == after and since is not None:
            start, end = (start, since) if wanted.descending else (since, end)
            skip = served
        found = list(islice(rows(symbol, start, end), skip, skip + room + 1))
        if found and room == 0:
            return page, last
        served_rows = found[:room]
        if served_rows:
            page[symbol] = [row for _, row in served_rows]
            newest = served_rows[-1][0]
            count = sum(instant == newest for instant, _ in served_rows)
            again = skip if symbol == after and newest == since else 0
            last = _encode_token(symbol, newest, count + again)
        if len(found) > room:
            return page, last
        room -= len(found)
    return page, None


def _unserved_rows(columns: BarColumns, since: int | None, *, descending: bool) -> BarColumns:
    """The rows not served yet, in the asked order."""
    if since is not None:
        rest: Ints = np.flatnonzero(columns.starts < since if descending else columns.starts > since)
        columns = select_rows(columns, rest)
    return select_rows(columns, slice(None, None, -1)) if descending else columns


def encode_bar_token(symbol: str, second: int) -> str:
    """The page that begins after the bar of `symbol` that starts at `second`."""
    return _encode_token(symbol, datetime.fromtimestamp(second, UTC), 0)


def decode_bar_token(token: str | None) -> tuple[str, int | None]:
    """Symbol and second of the last bar of the page before; the very beginning without a token."""
    symbol, at, _ = _decode_token(token)
    return symbol, None if at is None else int(at.timestamp())


def _encode_token(symbol: str, at: datetime, served: int) -> str:
    text = f"{symbol}|M|{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z|{served}"
    return urlsafe_b64encode(text.encode()).decode()


def _decode_token(token: str | None) -> tuple[str, datetime | None, int]:
    """Symbol and instant of the last row served, and how many of that instant were. Raises RefusalError (400)."""
    if token is None:
        return "", None, 0
    try:
        symbol, _, text, served = urlsafe_b64decode(token).decode().split("|")
        return symbol, datetime.fromisoformat(text[:26]).replace(tzinfo=UTC), max(int(served), 0)
    except (ValueError, NotBase64):
        raise DataApiError(400, "invalid page_token") from None
