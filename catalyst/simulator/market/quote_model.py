"""Quote model: bids and asks for symbols without recorded quotes. Its spreads are an assumption.

Measured spreads exist for a few liquid symbols only (SPY 0.6 basis points, IBM 2.2, GOOG 5.0, one cent on a $14
BAC). The model is a power of the 20-day dollar volume through those: 2 bp at $1 billion a day, 11 at $30
million, 60 at $1 million, 185 at $100,000; never less than a tick nor more than 300 bp. The spread is three
times as wide at the open, shrinks to normal in ten minutes, and is four times as wide outside regular hours.

The quote lies around the newest print, which is at the bid, at the ask or between them. In regular hours the
quote is renewed every five seconds, outside them only by a print. It depends only on the newest print, the time
of day, and data from before the day.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np

from catalyst.simulator.market.interface import Floats, Ints
from catalyst.simulator.market.intrabar_path import CENT, UNITS, tick_units

QUOTE_INTERVAL_S: Final = 5
OPEN_SPREAD_FACTOR: Final = 3.0
OPEN_SPREAD_SECONDS: Final = 600  # seconds after the open
EXTENDED_SPREAD_FACTOR: Final = 4.0


@dataclass(frozen=True, slots=True)
class QuoteColumns:
    """Quotes, one per row: epoch seconds, price units, shares."""

    at: Ints
    bid: Ints
    ask: Ints
    bid_size: Ints
    ask_size: Ints


def spread_of(dollar_volume: Floats) -> Floats:
    """Return the assumed spread in regular hours, as a fraction of the price."""
    basis_points = 60.0 * (1e6 / np.maximum(dollar_volume, 1.0)) ** 0.49
    return np.clip(basis_points, 0.5, 300.0) / 1e4


def depth_of(share_volume: Floats) -> Ints:
    """Return the assumed usual size at the best price, in shares: round lots, by the root of the volume."""
    return 100 * np.maximum(1, np.sqrt(share_volume) / 1000).astype(np.int64)


def quotes(
    salt: Ints, last: Ints, traded_at: Ints, spread: Floats, depth: Ints, at: int, hours: tuple[int, int]
) -> QuoteColumns:
    """Return the quotes at `at` around prints of price `last` at `traded_at` (epoch seconds).

    `salt`, a fixed number of each symbol, decides on which side a print was; `hours` are open and close of the
    day's regular session.
    """
    opens, closes = hours
    regular = opens <= at < closes
    renewed_at = at // QUOTE_INTERVAL_S * QUOTE_INTERVAL_S if regular else 0
    since = np.maximum(traded_at, max(renewed_at, opens) if regular else 0)
    widening = max(0.0, 1 - (at - opens) / OPEN_SPREAD_SECONDS)
    width = 1 + (OPEN_SPREAD_FACTOR - 1) * widening if regular else EXTENDED_SPREAD_FACTOR
    tick = tick_units(last)
    below, above = last // tick * tick, -(-last // tick) * tick
    spread_ticks = np.maximum(np.rint(last * spread * width / tick).astype(np.int64), 1)
    extra_ticks = np.maximum(spread_ticks - (above - below) // tick, 0)
    mixed_hash = (salt % 65_521 * 40_503 + since // QUOTE_INTERVAL_S * 7_919) % 65_521
    ticks_below = (extra_ticks + mixed_hash % 2) // 2
    bid = np.maximum(below - ticks_below * tick, 1)
    ask = np.maximum(above + (extra_ticks - ticks_below) * tick, bid + tick_units(bid))
    ask = np.where(ask >= UNITS, -(-ask // CENT) * CENT, ask)
    return QuoteColumns(since, bid, ask, depth * (1 + mixed_hash // 2 % 3), depth * (1 + mixed_hash // 8 % 3))


def one_quote(
    salt: int, last: int, traded_at: int, spread: float, depth: int, at: int, hours: tuple[int, int]
) -> tuple[int, int, int, int, int]:
    """Return the quote that `quotes` gives for a single symbol, without arrays: since, bid, ask, bid and ask size.

    A reader that follows a few symbols print by print calls this tens of thousands of times a day.
    """
    opens, closes = hours
    regular = opens <= at < closes
    since = max(traded_at, at // QUOTE_INTERVAL_S * QUOTE_INTERVAL_S, opens) if regular else max(traded_at, 0)
    widening = max(0.0, 1 - (at - opens) / OPEN_SPREAD_SECONDS)
    width = 1 + (OPEN_SPREAD_FACTOR - 1) * widening if regular else EXTENDED_SPREAD_FACTOR
    tick = CENT if last >= UNITS else 1
    below, above = last // tick * tick, -(-last // tick) * tick
    spread_ticks = max(round(last * spread * width / tick), 1)
    extra_ticks = max(spread_ticks - (above - below) // tick, 0)
    mixed_hash = (salt % 65_521 * 40_503 + since // QUOTE_INTERVAL_S * 7_919) % 65_521
    ticks_below = (extra_ticks + mixed_hash % 2) // 2
    bid = max(below - ticks_below * tick, 1)
    ask = max(above + (extra_ticks - ticks_below) * tick, bid + (CENT if bid >= UNITS else 1))
    if ask >= UNITS:
        ask = -(-ask // CENT) * CENT
    return since, bid, ask, depth * (1 + mixed_hash // 2 % 3), depth * (1 + mixed_hash // 8 % 3)
