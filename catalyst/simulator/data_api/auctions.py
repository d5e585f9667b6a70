"""Opening and closing auctions: a price and an instant of each day, as the daily bars know them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from catalyst.simulator.data_api import json_format as wire
from catalyst.simulator.data_api.history import Page, bars_of, decode_bar_token, encode_bar_token
from catalyst.simulator.data_api.params import HistoryRange
from catalyst.simulator.market import calendar
from catalyst.simulator.market.interface import Market

# The primary listing exchange of each tape, and the conditions of its official prices.
_PRIMARY_EXCHANGE: Final = {"A": "N", "B": "P", "C": "Q"}
_OPENING_CONDITIONS: Final = ("O", "Q")  # the auction's trade, the official open
_CLOSING_CONDITIONS: Final = ("6", "M")  # the auction's trade, the official close
DAY: Final = timedelta(days=1)


def auctions_page(market: Market, symbols: Sequence[str], wanted: HistoryRange, at: datetime) -> Page:
    """One page of days, each with the auctions that have happened, and the token of the next.

    A day's first regular price stands for its opening auction and its last for the closing one.
    """
    after, since = decode_bar_token(wanted.token)
    page: dict[str, list[wire.Json | None]] = {}
    room, last = wanted.limit, ""
    for symbol in sorted(symbol for symbol in symbols if symbol >= after and symbol in market.assets()):
        exchange = _PRIMARY_EXCHANGE[wire.tapes_of([symbol], market.assets())[0]]
        days = bars_of(market, symbol, DAY, wanted, at, since if symbol == after else None)
        rows = zip(days.starts.tolist(), days.open.tolist(), days.close.tolist(), strict=True)
        for start, open_, close in rows:
            auction_rows = _auctions_of_day(market, start, open_, close, exchange, wanted, at)
            if auction_rows is None:
                continue
            if room == 0:
                return page, last
            page.setdefault(symbol, []).append(auction_rows)
            room, last = room - 1, encode_bar_token(symbol, start)
    return page, None


def _auctions_of_day(
    market: Market, start: int, open_: float, close: float, exchange: str, wanted: HistoryRange, at: datetime
) -> wire.Json | None:
    """One day; None when nothing of it lies in the asked stretch."""
    day = calendar.trading_day(datetime.fromtimestamp(start, UTC))
    session = market.session(day)
    if session is None:
        return None

    def auction_rows(instant: datetime, price: float, conditions: Sequence[str]) -> list[wire.Json]:
        if not wanted.start <= instant <= min(wanted.end, at):
            return []
        return [{"t": wire.format_time(instant), "x": exchange, "p": price, "c": each} for each in conditions]

    opening, closing = (
        auction_rows(session.open, open_, _OPENING_CONDITIONS),
        auction_rows(session.close, close, _CLOSING_CONDITIONS),
    )
    return {"d": day.isoformat(), "o": opening, "c": closing} if opening or closing else None
