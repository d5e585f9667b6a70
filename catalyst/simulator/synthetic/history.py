"""What came before a generated day: daily bars of all symbols, minutes of one when somebody asks."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.random import Generator

from catalyst.simulator.market import calendar
from catalyst.simulator.market.bar_table import KEY_STRIDE, BarTable, concatenate_tables
from catalyst.simulator.market.interface import Ints, MarketSession
from catalyst.simulator.synthetic import intraday_profile as profile
from catalyst.simulator.synthetic.minutes import MarketModel, to_tick

HISTORY_DAYS: Final = 85
MINUTE_DAYS: Final = 3
_OVERNIGHT_SHARE: Final = 0.4  # share of a day's move that happens before its open


def daily_bars(rng: Generator, model: MarketModel, sessions: Sequence[MarketSession]) -> BarTable:
    """A random walk that ends at `world.close`, with the volume the symbol usually trades."""
    count, days = len(model.close), len(sessions)
    market, own = rng.standard_normal(days), rng.standard_normal((count, days))
    moves = (0.35 * market + np.sqrt(1 - 0.35**2) * own) * model.sigma[:, None] * 0.9
    level = np.log(model.close)[:, None] - np.cumsum(moves[:, ::-1], axis=1)[:, ::-1] + moves
    before = level - moves
    opens = (
        before + moves * _OVERNIGHT_SHARE + rng.standard_normal((count, days)) * model.sigma[:, None] * 0.25
    )
    beyond = np.abs(rng.standard_normal((2, count, days))) * model.sigma[:, None] * 0.5
    open_, close = to_tick(np.exp(opens)), to_tick(np.exp(level))
    high = np.maximum(np.maximum(open_, close), to_tick(np.exp(np.maximum(opens, level) + beyond[0])))
    low = np.minimum(np.minimum(open_, close), to_tick(np.exp(np.minimum(opens, level) - beyond[1])))
    usual = np.log(np.maximum(model.dollar_volume / model.close, 1.0))[:, None]
    busy = 0.3 * np.abs(moves) / model.sigma[:, None] - 0.24
    volume = np.maximum(np.rint(np.exp(usual + 0.38 * rng.standard_normal((count, days)) - 0.07 + busy)), 1)
    midnights = np.array([int(calendar.midnight(session.day).timestamp()) for session in sessions])
    key = (np.arange(count)[:, None] * KEY_STRIDE + midnights).ravel()
    return BarTable(
        key,
        open_.ravel(),
        high.ravel(),
        low.ravel(),
        close.ravel(),
        volume.astype(np.int64).ravel(),
        np.full(count, 86_400),
    )


def make_minute_source(
    seed: int, model: MarketModel, daily: BarTable, sessions: Sequence[MarketSession]
) -> Callable[[int], BarTable]:
    """A function that makes one symbol's minutes of the last sessions, telling the same as its daily bars."""

    steps = np.full(len(model.close), 60)

    def make(number: int) -> BarTable:
        parts = []
        for session in sessions[-MINUTE_DAYS:]:
            rng = np.random.default_rng((seed, 3, session.day.toordinal(), number))
            midnight = int(calendar.midnight(session.day).timestamp())
            row = int(daily.last_rows(np.array([number]), midnight)[0])
            parts.append(_session_minutes(rng, model, daily, number, row, session, steps))
        return concatenate_tables(parts)

    return make


def _session_minutes(
    rng: Generator,
    model: MarketModel,
    daily: BarTable,
    number: int,
    row: int,
    session: MarketSession,
    steps: Ints,
) -> BarTable:
    """One session's minutes: a bridge from the open to the close that touches high and low."""
    count = int((session.close - session.open).total_seconds()) // 60
    open_, high, low, close = (
        int(column[row]) for column in (daily.open, daily.high, daily.low, daily.close)
    )
    size = profile.minute_sigmas(count)
    walk = np.concatenate(([0.0], np.cumsum(rng.standard_normal(count) * size * float(model.sigma[number]))))
    time = np.concatenate(([0.0], np.cumsum(size**2)))
    bridge = np.log(open_) + (walk - walk[-1] * time) + (np.log(close) - np.log(open_)) * time
    level = np.clip(to_tick(np.exp(bridge) / 1e4), low, high)
    level[0], level[-1] = open_, close
    happens = -np.expm1(-profile.trade_rates(model.dollar_volume[[number]], count)[0])
    minute = np.flatnonzero(rng.random(count) < happens)
    minute = np.union1d(minute, np.array([0, count - 1])[: max(1, min(2, int(daily.volume[row])))])
    starts, ends = level[minute], level[minute + 1]
    starts[0], ends[-1] = open_, close
    tops, bottoms = np.maximum(starts, ends), np.minimum(starts, ends)
    tops[np.argmax(tops)], bottoms[np.argmin(bottoms)] = high, low
    shares = profile.volume_shares(count)[minute] * np.exp(0.6 * rng.standard_normal(len(minute)))
    edges: Ints = np.rint(np.cumsum(shares) / shares.sum() * int(daily.volume[row])).astype(np.int64)
    volume = np.diff(np.concatenate(([0], edges)))
    # a minute that got no share is no bar, unless it carries one of the day's four prices
    keep = np.flatnonzero((volume > 0) | (tops == high) | (bottoms == low))
    keep = np.union1d(keep, np.array([0, len(minute) - 1]))
    opens = int(session.open.timestamp())
    return BarTable(
        number * KEY_STRIDE + opens + minute[keep] * 60,
        starts[keep],
        tops[keep],
        bottoms[keep],
        ends[keep],
        volume[keep],
        steps,
    )
