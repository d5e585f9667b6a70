"""Auctions endpoint: price and instant of each day's opening and closing auction, from the daily bars."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.data_api.history import Page, bars_of, decode_bar_token, encode_bar_token
from catalyst.simulator.data_api.params import HistoryRange
from catalyst.simulator.market import calendar
from catalyst.simulator.market.interface import Market

# Primary listing exchange of each tape. Below, the conditions of official prices.
_PRIMARY_EXCHANGE: Final = {"A": "N", "B": "P", "C": "Q"}
_OPENING_CONDITIONS: Final = ("O", "Q")  # auction trade, official open
_CLOSING_CONDITIONS: Final = ("6", "M")  # auction trade, official close
DAY: Final = timedelta(days=1)


def auctions_page(market: Market, symbols: Sequence[str], history_range: HistoryRange, at: datetime) -> Page:
    """Return one page of days with the auctions that have happened, and the token of the next page.

    The first regular price of a day is used for its opening auction, the last for its closing auction.
    """
    after, since = decode_bar_token(history_range.token)
    page: dict[str, list[wire.Json | None]] = {}
    remaining, last = history_range.limit, ""
    for symbol in sorted(symbol for symbol in symbols if symbol >= after and symbol in market.assets()):
        exchange = _PRIMARY_EXCHANGE[wire.tapes_of([symbol], market.assets())[0]]
        days = bars_of(market, symbol, DAY, history_range, at, since if symbol == after else None)
        rows = zip(days.starts.tolist(), days.open.tolist(), days.close.tolist(), strict=True)
        for start, open_, close in rows:
            auction_rows = _auctions_of_day(market, start, open_, close, exchange, history_range, at)
            if auction_rows is None:
                continue
            if remaining == 0:
                return page, last
            page.setdefault(symbol, []).append(auction_rows)
            remaining, last = remaining - 1, encode_bar_token(symbol, start)
    return page, None


def _auctions_of_day(
    market: Market,
    start: int,
    open_: float,
    close: float,
    exchange: str,
    history_range: HistoryRange,
    at: datetime,
) -> wire.Json | None:
    """Return the auctions of one day; None when none of them lies in the requested range."""
    day = calendar.trading_day(datetime.fromtimestamp(start, UTC))
    session = market.session(day)
    if session is None:
        return None

    def auction_rows(instant: datetime, price: float, conditions: Sequence[str]) -> list[wire.Json]:
        if not history_range.start <= instant <= min(history_range.end, at):
            return []
        return [{"t": wire.format_time(instant), "x": exchange, "p": price, "c": each} for each in conditions]

    opening, closing = (
        auction_rows(session.open, open_, _OPENING_CONDITIONS),
        auction_rows(session.close, close, _CLOSING_CONDITIONS),
    )
    return {"d": day.isoformat(), "o": opening, "c": closing} if opening or closing else None
