"""The broker's test stream: FAKEPACA trades every second of every day, so that a client always receives data.

It repeats one minute at every hour and does not depend on the market.
"""

from datetime import UTC, datetime, timedelta
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.data_api.json_format import EXCHANGE_CODE, MAX_TRADES_PER_SECOND, Json
from catalyst.simulator.data_stream.subscription import Subscription

SYMBOL: Final = "FAKEPACA"
TAPE: Final = "N"  # none of the tapes A, B and C
MINUTE: Final = 60
SHARES_PER_TRADE: Final = 100
HALF_SPREAD_CENTS: Final = 1  # cents on either side of the latest trade
# rise for half a minute, then fall
PRICES_CENTS: Final = [13_000 + min(step, MINUTE - step) for step in range(MINUTE)]
MAX_CATCH_UP: Final = timedelta(minutes=5)  # after a jump in time, only this much is sent


def next_due(subscription: Subscription, after: datetime) -> datetime | None:
    """Return the next second after `after`; None when no channel of the symbol is subscribed."""
    channels = ("trades", "quotes", "bars", "dailyBars")
    if not any(subscription.includes(channel, SYMBOL) for channel in channels):
        return None
    return datetime.fromtimestamp(int(after.timestamp()) + 1, UTC)


def messages(subscription: Subscription, after: datetime, until: datetime) -> list[Json]:
    """Return the messages of (after, until], or of its newest `MAX_CATCH_UP`.

    Each second has a trade and a quote, each minute then the bars.
    """
    outgoing: list[Json] = []
    begin = max(int(after.timestamp()), int((until - MAX_CATCH_UP).timestamp()))
    for second in range(begin + 1, int(until.timestamp()) + 1):
        at = datetime.fromtimestamp(second, UTC)
        outgoing += [
            {"T": kind, "S": SYMBOL, **row}
            for kind, channel, row in (
                ("t", "trades", _trade(at, second)),
                ("q", "quotes", _quote(at, second)),
                *(
                    (("b", "bars", _bar(at, 1)), ("d", "dailyBars", _day_bar(at)))
                    if second % MINUTE == 0
                    else ()
                ),
            )
            if subscription.includes(channel, SYMBOL)
        ]
    return outgoing


def _trade(at: datetime, second: int) -> Json:
    price = PRICES_CENTS[second % MINUTE] / 100
    number = second * MAX_TRADES_PER_SECOND
    return {
        "t": at,
        "x": EXCHANGE_CODE,
        "p": price,
        "s": SHARES_PER_TRADE,
        "c": ["@"],
        "i": number,
        "z": TAPE,
    }


def _quote(at: datetime, second: int) -> Json:
    cents = PRICES_CENTS[second % MINUTE]
    bid, ask = (cents - HALF_SPREAD_CENTS) / 100, (cents + HALF_SPREAD_CENTS) / 100
    sides: Json = {
        "bx": EXCHANGE_CODE,
        "bp": bid,
        "bs": SHARES_PER_TRADE,
        "ax": EXCHANGE_CODE,
        "ap": ask,
        "as": SHARES_PER_TRADE,
    }
    return {"t": at, **sides, "c": ["R"], "z": TAPE}


def _day_bar(ended: datetime) -> Json:
    """Return the running bar of the New York day that contains the minute before `ended`."""
    midnight = (ended - timedelta(seconds=MINUTE)).astimezone(NEW_YORK).replace(hour=0, minute=0, second=0)
    return _bar(ended, int(ended.timestamp() - midnight.timestamp()) // MINUTE)


def _bar(ended: datetime, minutes: int) -> Json:
    """Return the bar of `minutes` whole minutes, the last of which ended at `ended`."""
    count = minutes * MINUTE
    return {
        "t": ended - timedelta(seconds=count),
        "o": PRICES_CENTS[0] / 100,
        "h": max(PRICES_CENTS) / 100,
        "l": min(PRICES_CENTS) / 100,
        "c": PRICES_CENTS[-1] / 100,
        "v": count * SHARES_PER_TRADE,
        "n": count,
        "vw": sum(PRICES_CENTS) / len(PRICES_CENTS) / 100,
    }
