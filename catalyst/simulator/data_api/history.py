"""History endpoints: pages of bars, trades and quotes, sorted by symbol, then time; the limit counts all rows."""

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
from catalyst.simulator.rules.wire_format import parse_count, within_range

Page = tuple[dict[str, list[wire.Json | None]], str | None]
RowReader = Callable[[str, datetime, datetime], Iterator[tuple[datetime, wire.Json]]]
_INSTANT: Final = timedelta(microseconds=1)
_DAY: Final = timedelta(days=1)


def bars_page(
    market: Market, symbols: Sequence[str], length: BarLength, history_range: HistoryRange, at: datetime
) -> Page:
    """Return one page of bars and the token of the next."""
    after, since = decode_bar_token(history_range.token)
    page: dict[str, list[wire.Json | None]] = {}
    remaining, last = history_range.limit, ""
    for symbol in sorted(symbols):
        if symbol < after:
            continue
        columns = bars_of(market, symbol, length, history_range, at, since if symbol == after else None)
        if not len(columns.starts):
            continue
        if remaining == 0:
            return page, last
        served = select_rows(columns, slice(remaining))
        page[symbol] = wire.bars(served)
        remaining -= len(served.starts)
        last = encode_bar_token(symbol, int(served.starts[-1]))
        if len(served.starts) < len(columns.starts):
            return page, last
    return page, None


def bars_of(
    market: Market,
    symbol: str,
    length: BarLength,
    history_range: HistoryRange,
    at: datetime,
    since: int | None,
) -> BarColumns:
    """Return the bars of one symbol that start in the range and were not served yet, in the requested order."""
    if isinstance(length, timedelta):
        columns = market.bars(symbol, length, history_range.start, history_range.end, at)
    else:
        columns = _calendar_bars(market, symbol, length, history_range, at)
    return _unserved_rows(columns, since, descending=history_range.descending)


def _calendar_bars(
    market: Market, symbol: str, length: Weeks | Months, history_range: HistoryRange, at: datetime
) -> BarColumns:
    """Return weekly bars (from Monday) or monthly bars (from the first), made of their days so far.

    A bar belongs to the range when its start lies in it; its later days may lie outside.
    """
    first = calendar.midnight(length.begin(calendar.trading_day(history_range.start))).astimezone(UTC)
    last = calendar.midnight(length.end(calendar.trading_day(history_range.end))).astimezone(UTC) - _INSTANT
    days = market.bars(symbol, _DAY, first, last, at)
    starts = np.array([_calendar_bar_start(length, start) for start in days.starts.tolist()], dtype=np.int64)
    inside = (starts >= history_range.start.timestamp()) & (starts <= history_range.end.timestamp())
    rows = np.flatnonzero(inside)
    return group_by_start(select_rows(days, rows), starts[rows])


def _calendar_bar_start(length: Weeks | Months, midnight: int) -> int:
    day: date = length.begin(calendar.trading_day(datetime.fromtimestamp(midnight, UTC)))
    return int(calendar.midnight(day).timestamp())


def trades_page(market: Market, symbols: Sequence[str], history_range: HistoryRange, at: datetime) -> Page:
    """Return one page of trades and the token of the next."""

    def rows(symbol: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, wire.Json]]:
        tape = wire.tapes_of([symbol], market.assets())[0]
        trades = market.trades(symbol, start - _INSTANT, end, at)
        for each in reversed(trades) if history_range.descending else trades:
            yield each.at, wire.trade(each, tape)

    return _page(market, symbols, history_range, at, rows)


def quotes_page(market: Market, symbols: Sequence[str], history_range: HistoryRange, at: datetime) -> Page:
    """Return one page of quotes, recorded ones or those at each trade, and the token of the next."""

    def rows(symbol: str, start: datetime, end: datetime) -> Iterator[tuple[datetime, wire.Json]]:
        tape = wire.tapes_of([symbol], market.assets())[0]
        quotes = market.quotes(symbol, start - _INSTANT, end)
        for each in reversed(quotes) if history_range.descending else quotes:
            yield each.at, wire.quote(each, tape)

    return _page(market, symbols, history_range, at, rows)


def _page(
    market: Market, symbols: Sequence[str], history_range: HistoryRange, at: datetime, rows: RowReader
) -> Page:
    """Return one page of rows and the token of the next.

    Several rows may share an instant, so a token counts the served rows of its instant.
    """
    after, since, served = _decode_token(history_range.token)
    page: dict[str, list[wire.Json | None]] = {}
    remaining, last = history_range.limit, ""
    for symbol in sorted(symbol for symbol in symbols if symbol >= after and symbol in market.assets()):
        start, end, skip = history_range.start, min(history_range.end, at), 0
        if symbol == after and since is not None:
            start, end = (start, since) if history_range.descending else (since, end)
            skip = served
        unserved = list(islice(rows(symbol, start, end), skip, skip + remaining + 1))
        if unserved and remaining == 0:
            return page, last
        served_rows = unserved[:remaining]
        if served_rows:
            page[symbol] = [row for _, row in served_rows]
            newest = served_rows[-1][0]
            count = sum(instant == newest for instant, _ in served_rows)
            served_before = skip if symbol == after and newest == since else 0
            last = _encode_token(symbol, newest, count + served_before)
        if len(unserved) > remaining:
            return page, last
        remaining -= len(unserved)
    return page, None


def _unserved_rows(columns: BarColumns, since: int | None, *, descending: bool) -> BarColumns:
    """Return the rows not served yet, in the requested order."""
    if since is not None:
        unserved: Ints = np.flatnonzero(columns.starts < since if descending else columns.starts > since)
        columns = select_rows(columns, unserved)
    return select_rows(columns, slice(None, None, -1)) if descending else columns


def encode_bar_token(symbol: str, second: int) -> str:
    """Return the token of the page that begins after the bar of `symbol` that starts at `second`."""
    return _encode_token(symbol, datetime.fromtimestamp(second, UTC), 0)


def decode_bar_token(token: str | None) -> tuple[str, int | None]:
    """Return symbol and start (epoch seconds) of the last bar of the previous page; ("", None) without a token."""
    symbol, at, _ = _decode_token(token)
    return symbol, None if at is None else int(at.timestamp())


def _encode_token(symbol: str, at: datetime, served: int) -> str:
    text = f"{symbol}|M|{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}000Z|{served}"
    return urlsafe_b64encode(text.encode()).decode()


def _decode_token(token: str | None) -> tuple[str, datetime | None, int]:
    """Return symbol and instant of the last served row, and the number of served rows of that instant.

    Raises DataApiError (400).
    """
    if token is None:
        return "", None, 0
    try:
        symbol, _, text, number = urlsafe_b64decode(token).decode().split("|")
        at, served = within_range(datetime.fromisoformat(text[:26]).replace(tzinfo=UTC)), parse_count(number)
    except (ValueError, NotBase64):
        served = None
    if served is None:
        raise DataApiError(400, "invalid page_token")
    return symbol, at, served
