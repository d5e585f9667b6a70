"""JSON format of the broker's market data: short keys, JSON numbers, RFC 3339 times."""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Final

import numpy as np

from catalyst.simulator.market.interface import (
    Asset,
    BarColumns,
    BestQuote,
    Ints,
    NewsArticle,
    Print,
    SnapshotColumns,
)

Json = dict[str, object]
TAPES: Final = {"NYSE": "A", "AMEX": "B", "ARCA": "B", "BATS": "B", "NASDAQ": "C"}
EXCHANGE_CODE: Final = "V"
MAX_TRADES_PER_SECOND: Final = 10_000  # room for `Print.number` in a trade id


def format_times(seconds: Ints) -> list[str]:
    """Return epoch seconds as RFC 3339 texts."""
    return [f"{text}Z" for text in np.datetime_as_string(seconds.astype("datetime64[s]")).tolist()]


def format_time(at: datetime) -> str:
    """Return an instant as RFC 3339; fractions only where there are any."""
    at = at.astimezone(UTC)
    return f"{at.replace(tzinfo=None).isoformat()}Z"


def name_change(old: str, new: str, day: date) -> Json:
    """Return the broker's record of a company that changed its symbol; the CUSIPs are of no real company."""
    return {
        "id": f"{old}-{new}-{day.isoformat()}",
        "old_symbol": old,
        "old_cusip": "000000000",
        "new_symbol": new,
        "new_cusip": "000000001",
        "process_date": day.isoformat(),
    }


def bars(columns: BarColumns) -> list[Json | None]:
    """Return each row as the broker's bar; None for a missing row."""
    rows = zip(
        columns.starts.tolist(),
        format_times(columns.starts),
        columns.open.tolist(),
        columns.high.tolist(),
        columns.low.tolist(),
        columns.close.tolist(),
        columns.volume.tolist(),
        columns.trades.tolist(),
        columns.vwap.tolist(),
        strict=True,
    )
    return [
        {"t": t, "o": o, "h": h, "l": l, "c": c, "v": v, "n": n, "vw": vw} if start >= 0 else None
        for start, t, o, h, l, c, v, n, vw in rows  # noqa: E741 - names of the API
    ]


def trades(columns: SnapshotColumns, tapes: Sequence[str]) -> list[Json | None]:
    """Return the latest trade of each row."""
    ids = columns.trade_at * MAX_TRADES_PER_SECOND
    rows = zip(
        columns.trade_at.tolist(),
        format_times(columns.trade_at),
        columns.trade_price.tolist(),
        columns.trade_size.tolist(),
        (ids if columns.trade_number is None else ids + columns.trade_number).tolist(),
        tapes,
        strict=True,
    )
    return [
        {"t": t, "x": EXCHANGE_CODE, "p": p, "s": s, "c": ["@"], "i": i, "z": z} if at >= 0 else None
        for at, t, p, s, i, z in rows
    ]


def quotes(columns: SnapshotColumns, tapes: Sequence[str]) -> list[Json | None]:
    """Return the current quote of each row."""
    rows = zip(
        columns.quote_at.tolist(),
        format_times(columns.quote_at),
        columns.bid.tolist(),
        columns.bid_size.tolist(),
        columns.ask.tolist(),
        columns.ask_size.tolist(),
        tapes,
        strict=True,
    )
    return [
        {
            "t": t,
            "bx": EXCHANGE_CODE,
            "bp": bp,
            "bs": bs,
            "ax": EXCHANGE_CODE,
            "ap": ap,
            "as": size,
            "c": ["R"],
            "z": z,
        }
        if at >= 0
        else None
        for at, t, bp, bs, ap, size, z in rows
    ]


def snapshots(columns: SnapshotColumns, tapes: Sequence[str]) -> dict[str, Json]:
    """Return each row as the broker's snapshot; a row without a trade and a daily bar is left out."""
    rows = zip(
        columns.symbols,
        trades(columns, tapes),
        quotes(columns, tapes),
        bars(columns.minute),
        bars(columns.daily),
        bars(columns.previous),
        strict=True,
    )
    return {
        symbol: {
            "latestTrade": trade,
            "latestQuote": quote,
            "minuteBar": minute,
            "dailyBar": daily,
            "prevDailyBar": previous,
        }
        for symbol, trade, quote, minute, daily, previous in rows
        if trade or daily
    }


def trade(market_print: Print, tape: str) -> Json:
    """Return one print as the broker's trade; `u` is its later update."""
    trade_json: Json = {
        "t": format_time(market_print.at),
        "x": EXCHANGE_CODE,
        "p": float(market_print.price),
        "s": market_print.size,
        "c": ["@"],
        "i": trade_id(market_print),
        "z": tape,
    }
    return {**trade_json, "u": market_print.update} if market_print.update else trade_json


def trade_id(market_print: Print) -> int:
    """Return the number that identifies a print among all of its symbol."""
    return int(market_print.at.timestamp() // 1) * MAX_TRADES_PER_SECOND + market_print.number


def quote(best_quote: BestQuote, tape: str) -> Json:
    """Return the broker's quote."""
    return {
        "t": format_time(best_quote.at),
        "bx": EXCHANGE_CODE,
        "bp": float(best_quote.bid),
        "bs": best_quote.bid_size,
        "ax": EXCHANGE_CODE,
        "ap": float(best_quote.ask),
        "as": best_quote.ask_size,
        "c": ["R"],
        "z": tape,
    }


def article(news_article: NewsArticle, *, content: bool) -> Json:
    """Return the broker's news article; its content only when requested."""
    at = format_time(news_article.published)
    return {
        "id": news_article.id,
        "headline": news_article.title,
        "author": news_article.source,
        "created_at": at,
        "updated_at": at,
        "summary": news_article.summary,
        "content": f"<p>{news_article.summary}</p>" if content and news_article.summary else "",
        "url": news_article.url or None,
        "images": [],
        "symbols": list(news_article.symbols),
        "source": news_article.source,
    }


def tapes_of(symbols: Sequence[str], assets: Mapping[str, Asset]) -> list[str]:
    """Return the tape (A, B or C) on which each symbol is reported."""
    return [TAPES.get(assets[symbol].exchange, "C") for symbol in symbols]
