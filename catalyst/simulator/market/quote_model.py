"""Bids and offers for a tape that has none: a spread model, stated as an assumption.

Measured spreads exist for a few liquid names only (SPY 0.6 basis points, IBM 2.2, GOOG 5.0, one cent on a
$14 BAC). The model is a power of the 20-day dollar volume through those: 2 bp at $1 billion a day, 11 at $30
million, 60 at $1 million, 185 at $100,000; never less than a tick nor more than 300 bp. It is three times
as wide at the open, shrinking to normal in ten minutes, and four times outside regular hours.

The quote stands around the newest print, which lies at the bid, at the ask or between. Regular hours renew
it every five seconds; outside them only a print does. Nothing but the newest print, the hour and what was
known before the day enters it.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from catalyst.simulator.market.interface import Floats, Ints
from catalyst.simulator.market.intrabar_path import CENT, UNITS, tick_units

QUOTE_INTERVAL_S: Final = 5  # seconds
OPEN_SPREAD_FACTOR: Final = 3.0
OPEN_SPREAD_SECONDS: Final = 600  # seconds after the open
EXTENDED_SPREAD_FACTOR: Final = 4.0


@dataclass(frozen=True, slots=True)
class QuoteColumns:
    """One quote a row: epoch seconds, price units, shares."""

    at: Ints
    bid: Ints
    ask: Ints
    bid_size: Ints
    ask_size: Ints


def spread_of(dollar_volume: Floats) -> Floats:
    """The assumed regular-hours spread, as a fraction of the price."""
    points = 60.0 * (1e6 / np.maximum(dollar_volume, 1.0)) ** 0.49
    return np.clip(points, 0.5, 300.0) / 1e4


def depth_of(share_volume: Floats) -> Ints:
    """The assumed usual size at the best price, in shares: round lots, as the root of the volume."""
    return 100 * np.maximum(1, np.sqrt(share_volume) / 1000).astype(np.int64)


def quotes(
    salt: Ints, last: Ints, traded_at: Ints, spread: Floats, depth: Ints, at: int, hours: tuple[int, int]
) -> QuoteColumns:
    """The quotes standing at `at` around prints of price `last` at `traded_at` (epoch seconds).

    `salt`, a number of each symbol's own, decides which side a print was on; `hours` are open and close of the
    day's regular session.
    """
    opens, closes = hours
    regular = opens <= at < closes
    renewed = at // QUOTE_INTERVAL_S * QUOTE_INTERVAL_S if regular else 0
    since = np.maximum(traded_at, max(renewed, opens) if regular else 0)
    settling = max(0.0, 1 - (at - opens) / OPEN_SPREAD_SECONDS)
    width = 1 + (OPEN_SPREAD_FACTOR - 1) * settling if regular else EXTENDED_SPREAD_FACTOR
    grid = tick_units(last)
    below, above = last // grid * grid, -(-last // grid) * grid
    wanted = np.maximum(np.rint(last * spread * width / grid).astype(np.int64), 1)
    rest = np.maximum(wanted - (above - below) // grid, 0)
    mixed = (salt % 65_521 * 40_503 + since // QUOTE_INTERVAL_S * 7_919) % 65_521
    lower = (rest + mixed % 2) // 2
    bid = np.maximum(below - lower * grid, 1)
    ask = np.maximum(above + (rest - lower) * grid, bid + tick_units(bid))
    ask = np.where(ask >= UNITS, -(-ask // CENT) * CENT, ask)
    return QuoteColumns(since, bid, ask, depth * (1 + mixed // 2 % 3), depth * (1 + mixed // 8 % 3))


def one_quote(
    salt: int, last: int, traded_at: int, spread: float, depth: int, at: int, hours: tuple[int, int]
) -> tuple[int, int, int, int, int]:
    """What `quotes` says of a single symbol, without arrays: since, bid, ask and their sizes.

    Whoever follows a few symbols print by print asks tens of thousands of times a day.
    """
    opens, closes = hours
    regular = opens <= at < closes
    since = max(traded_at, at // QUOTE_INTERVAL_S * QUOTE_INTERVAL_S, opens) if regular else max(traded_at, 0)
    settling = max(0.0, 1 - (at - opens) / OPEN_SPREAD_SECONDS)
    width = 1 + (OPEN_SPREAD_FACTOR - 1) * settling if regular else EXTENDED_SPREAD_FACTOR
    grid = CENT if last >= UNITS else 1
    below, above = last // grid * grid, -(-last // grid) * grid
    wanted = max(round(last * spread * width / grid), 1)
    rest = max(wanted - (above - below) // grid, 0)
    mixed = (salt % 65_521 * 40_503 + since // QUOTE_INTERVAL_S * 7_919) % 65_521
    lower = (rest + mixed % 2) // 2
    bid = max(below - lower * grid, 1)
    ask = max(above + (rest - lower) * grid, bid + (CENT if bid >= UNITS else 1))
    if ask >= UNITS:
        ask = -(-ask // CENT) * CENT
    return since, bid, ask, depth * (1 + mixed // 2 % 3), depth * (1 + mixed // 8 % 3)
