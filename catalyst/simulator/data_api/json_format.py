"""Market data as the broker writes it: short keys, JSON numbers, RFC 3339 times."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
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
    """Epoch seconds as RFC 3339."""
    return [f"{text}Z" for text in np.datetime_as_string(seconds.astype("datetime64[s]")).tolist()]


def format_time(at: datetime) -> str:
    """An instant as RFC 3339; fractions only where there are any."""
    at = at.astimezone(UTC)
    return f"{at.replace(tzinfo=None).isoformat()}Z"


def bars(columns: BarColumns) -> list[Json | None]:
    """Each row as the broker's bar; None for a row that is not there."""
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
        for start, t, o, h, l, c, v, n, vw in rows  # noqa: E741 - the wire's own names
    ]


def trades(columns: SnapshotColumns, tapes: Sequence[str]) -> list[Json | None]:
    """The newest trade of each row."""
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
    """The standing quote of each row."""
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
    """Every row as the broker's snapshot; one of which nothing at all is known is left out."""
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


def trade(each: Print, tape: str) -> Json:
    """One print; `u` says what became of it."""
    trade_json: Json = {
        "t": format_time(each.at),
        "x": EXCHANGE_CODE,
        "p": float(each.price),
        "s": each.size,
        "c": ["@"],
        "i": trade_id(each),
        "z": tape,
    }
    return {**trade_json, "u": each.update} if each.update else trade_json


def trade_id(each: Print) -> int:
    """The number that tells a print from all others of its symbol."""
    return int(each.at.timestamp() // 1) * MAX_TRADES_PER_SECOND + each.number


def quote(each: BestQuote, tape: str) -> Json:
    """One quote."""
    return {
        "t": format_time(each.at),
        "bx": EXCHANGE_CODE,
        "bp": float(each.bid),
        "bs": each.bid_size,
        "ax": EXCHANGE_CODE,
        "ap": float(each.ask),
        "as": each.ask_size,
        "c": ["R"],
        "z": tape,
    }


def article(each: NewsArticle, *, content: bool) -> Json:
    """One article; its text only when asked for."""
    at = format_time(each.published)
    return {
        "id": each.id,
        "headline": each.title,
        "author": each.source,
        "created_at": at,
        "updated_at": at,
        "summary": each.summary,
        "content": f"<p>{each.summary}</p>" if content and each.summary else "",
        "url": each.url or None,
        "images": [],
        "symbols": list(each.symbols),
        "source": each.source,
    }


def tapes_of(symbols: Sequence[str], assets: Mapping[str, Asset]) -> list[str]:
    """The tape each symbol is reported on."""
    return [TAPES.get(assets[symbol].exchange, "C") for symbol in symbols]
