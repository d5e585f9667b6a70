"""News and screener endpoints: pages of headlines, most active symbols, and movers."""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final

import numpy as np

from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.data_api import params
from catalyst.simulator.data_api.params import DataApiError
from catalyst.simulator.market import calendar
from catalyst.simulator.market.interface import Ints, Market, SnapshotColumns
from catalyst.simulator.rules.wire_format import parse_count

MAX_ARTICLES: Final = 50
_EARLIEST: Final = datetime(1995, 1, 1, tzinfo=UTC)


def news_page(market: Market, query: Mapping[str, str], now: datetime) -> wire.Json:
    """Return one page of articles, newest first by default, and the token of the next."""
    params.check_param_names(
        query,
        "symbols",
        "start",
        "end",
        "limit",
        "sort",
        "page_token",
        "include_content",
        "exclude_contentless",
    )
    limit = params.limit_of(query, 10, MAX_ARTICLES)
    requested_symbols = frozenset(symbol for symbol in query.get("symbols", "").split(",") if symbol)
    articles = market.headlines(
        params.time_of(query, "start") or _EARLIEST, params.time_of(query, "end") or now, now
    )
    if requested_symbols:
        articles = [each for each in articles if not requested_symbols.isdisjoint(each.symbols)]
    if _bool_param(query, "exclude_contentless"):
        articles = [each for each in articles if each.summary]
    descending = params.descending_of(query, "desc")
    if descending:
        articles = articles[::-1]
    last_id = _decode_token(query.get("page_token"))
    if last_id is not None:
        articles = [each for each in articles if (each.id < last_id if descending else each.id > last_id)]
    page = articles[:limit]
    content = _bool_param(query, "include_content")
    return {
        "news": [wire.article(each, content=content) for each in page],
        "next_page_token": _encode_token(page[-1].id) if len(articles) > limit else None,
    }


def most_actives(market: Market, query: Mapping[str, str], now: datetime) -> wire.Json:
    """Return the symbols with the most volume or trades today; before the open, of the previous session."""
    params.check_param_names(query, "by", "top")
    by = query.get("by", "volume")
    if by not in ("volume", "trades"):
        raise DataApiError(400, f"invalid by: {by}")
    columns, rows = _current_session_snapshots(market, now)
    measure = columns.daily.volume if by == "volume" else columns.daily.trades
    top = rows[np.argsort(-measure[rows], kind="stable")][: _top_param(query, 100)].tolist()
    volume, trades = columns.daily.volume.tolist(), columns.daily.trades.tolist()
    return {
        "most_actives": [
            {"symbol": columns.symbols[row], "volume": volume[row], "trade_count": trades[row]} for row in top
        ],
        "last_updated": wire.format_time(now),
    }


def movers(market: Market, query: Mapping[str, str], now: datetime) -> wire.Json:
    """Return the symbols furthest above and below the previous close.

    Penny stocks are included, as with the broker.
    """
    params.check_param_names(query, "top")
    columns, rows = _current_session_snapshots(market, now)
    rows = rows[columns.previous.starts[rows] >= 0]
    previous_close, price = columns.previous.close, columns.daily.close
    change = np.zeros(len(price))
    change[rows] = price[rows] / previous_close[rows] - 1
    order = rows[np.argsort(-change[rows], kind="stable")]
    top = _top_param(query, 50)

    def mover_row(row: int) -> wire.Json:
        return {
            "symbol": columns.symbols[row],
            "percent_change": round(float(change[row]) * 100, 2),
            "change": round(float(price[row] - previous_close[row]), 4),
            "price": float(price[row]),
        }

    return {
        "gainers": [mover_row(row) for row in order[:top].tolist() if change[row] > 0],
        "losers": [mover_row(row) for row in order[::-1][:top].tolist() if change[row] < 0],
        "market_type": "stocks",
        "last_updated": wire.format_time(now),
    }


def _current_session_snapshots(market: Market, now: datetime) -> tuple[SnapshotColumns, Ints]:
    """Return all snapshots, and the rows that traded in the current session (before the open, the last one)."""
    columns = market.snapshots(list(market.assets()), now)
    session = market.session(calendar.trading_day(now))
    starts = columns.daily.starts
    if session is not None and now >= session.open:
        newest = int(calendar.midnight(session.day).timestamp())
    else:
        newest = int(starts.max(initial=-1))
    return columns, np.flatnonzero((starts == newest) & (starts >= 0))


def _top_param(query: Mapping[str, str], maximum: int) -> int:
    text = query.get("top", "10")
    number = parse_count(text)
    if number is None or not 1 <= number <= maximum:
        raise DataApiError(400, f"invalid top: {text}")
    return number


def _bool_param(query: Mapping[str, str], name: str) -> bool:
    return query.get(name, "").lower() in ("true", "1")


def _encode_token(last_id: int) -> str:
    return urlsafe_b64encode(str(last_id).encode()).decode()


def _decode_token(token: str | None) -> int | None:
    if not token:
        return None
    try:
        last_id = parse_count(urlsafe_b64decode(token).decode())
    except (ValueError, NotBase64):
        last_id = None
    if last_id is None:
        raise DataApiError(400, "invalid page_token")
    return last_id
