"""The broker's practice stream: FAKEPACA trades every second of every day, so that a client has something to hear.

It plays the same minute over and over, whatever the hour, and has nothing to do with the market.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.data_api.json_format import TRADES_A_SECOND, VENUE, Json
from catalyst.simulator.data_stream.subscription import Subscription

SYMBOL: Final = "FAKEPACA"
TAPE: Final = "N"  # of no tape
MINUTE: Final = 60
SHARES: Final = 100  # a trade
SPREAD: Final = 1  # cents on either side of the newest trade
CENTS: Final = [
    13_000 + min(step, MINUTE - step) for step in range(MINUTE)
]  # up for half a minute, down again
LATEST: Final = timedelta(minutes=5)  # of a leap in time, only this much is told


def next_due(heard: Subscription, after: datetime) -> datetime | None:
    """The next second after `after`, when anything of the symbol is heard."""
    channels = ("trades", "quotes", "bars", "dailyBars")
    if not any(heard.wants(channel, SYMBOL) for channel in channels):
        return None
    return datetime.fromtimestamp(int(after.timestamp()) + 1, UTC)


def messages(heard: Subscription, after: datetime, until: datetime) -> list[Json]:
    """What is heard of (after, until], or of its newest minutes: each second a trade and a quote, then bars."""
    told: list[Json] = []
    begin = max(int(after.timestamp()), int((until - LATEST).timestamp()))
    for second in range(begin + 1, int(until.timestamp()) + 1):
        at = datetime.fromtimestamp(second, UTC)
        told += [
            {"T": kind, "S": SYMBOL, **row}
            for kind, channel, row in (
                ("t", "trades", _trade(at, second)),
                ("q", "quotes", _quote(at, second)),
                *((("b", "bars", _bar(at, 1)), ("d", "dailyBars", _day(at))) if second % MINUTE == 0 else ()),
            )
            if heard.wants(channel, SYMBOL)
        ]
    return told


def _trade(at: datetime, second: int) -> Json:
    price = CENTS[second % MINUTE] / 100
    number = second * TRADES_A_SECOND
    return {"t": at, "x": VENUE, "p": price, "s": SHARES, "c": ["@"], "i": number, "z": TAPE}


def _quote(at: datetime, second: int) -> Json:
    cents = CENTS[second % MINUTE]
    bid, ask = (cents - SPREAD) / 100, (cents + SPREAD) / 100
    sides: Json = {"bx": VENUE, "bp": bid, "bs": SHARES, "ax": VENUE, "ap": ask, "as": SHARES}
    return {"t": at, **sides, "c": ["R"], "z": TAPE}


def _day(ended: datetime) -> Json:
    """The bar of the New York day in which the minute that `ended` lies, so far."""
    midnight = (ended - timedelta(seconds=MINUTE)).astimezone(NEW_YORK).replace(hour=0, minute=0, second=0)
    return _bar(ended, int(ended.timestamp() - midnight.timestamp()) // MINUTE)


def _bar(ended: datetime, minutes: int) -> Json:
    """The bar of so many whole minutes, the last of which has `ended`."""
    count = minutes * MINUTE
    return {
        "t": ended - timedelta(seconds=count),
        "o": CENTS[0] / 100,
        "h": max(CENTS) / 100,
        "l": min(CENTS) / 100,
        "c": CENTS[-1] / 100,
        "v": count * SHARES,
        "n": count,
        "vw": sum(CENTS) / len(CENTS) / 100,
    }
