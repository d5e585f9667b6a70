"""Opening and closing auctions: a price and an instant of each day, as the daily bars know them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.data_api.history import Page, bars_of, position, token_of
from catalyst.simulator.data_api.params import Range
from catalyst.simulator.market import calendar
from catalyst.simulator.market.interface import Market

# The primary listing exchange of each tape, and the conditions of its official prices.
_PRIMARY: Final = {"A": "N", "B": "P", "C": "Q"}
_OPENING: Final = ("O", "Q")  # the auction's trade, the official open
_CLOSING: Final = ("6", "M")  # the auction's trade, the official close
DAY: Final = timedelta(days=1)


def auctions_page(market: Market, symbols: Sequence[str], asked: Range, at: datetime) -> Page:
    """One page of days, each with the auctions that have happened, and the token of the next.

    A day's first regular price stands for its opening auction and its last for the closing one.
    """
    after, since = position(asked.token)
    page: dict[str, list[wire.Json | None]] = {}
    room, last = asked.limit, ""
    for symbol in sorted(symbol for symbol in symbols if symbol >= after and symbol in market.assets()):
        exchange = _PRIMARY[wire.tapes_of([symbol], market.assets())[0]]
        days = bars_of(market, symbol, DAY, asked, at, since if symbol == after else None)
        rows = zip(days.starts.tolist(), days.open.tolist(), days.close.tolist(), strict=True)
        for start, open_, close in rows:
            told = _day(market, start, open_, close, exchange, asked, at)
            if told is None:
                continue
            if room == 0:
                return page, last
            page.setdefault(symbol, []).append(told)
            room, last = room - 1, token_of(symbol, start)
    return page, None


def _day(
    market: Market, start: int, open_: float, close: float, exchange: str, asked: Range, at: datetime
) -> wire.Json | None:
    """One day; None when nothing of it lies in the asked stretch."""
    day = calendar.trading_day(datetime.fromtimestamp(start, UTC))
    session = market.session(day)
    if session is None:
        return None

    def told(instant: datetime, price: float, conditions: Sequence[str]) -> list[wire.Json]:
        if not asked.start <= instant <= min(asked.end, at):
            return []
        return [{"t": wire.moment(instant), "x": exchange, "p": price, "c": each} for each in conditions]

    opening, closing = told(session.open, open_, _OPENING), told(session.close, close, _CLOSING)
    return {"d": day.isoformat(), "o": opening, "c": closing} if opening or closing else None
