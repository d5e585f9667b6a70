"""History before a synthetic day: daily bars of all symbols, and minute bars of single symbols on request."""

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
_OVERNIGHT_SHARE: Final = 0.4  # fraction of a day's move that happens before its open


def daily_bars(rng: Generator, model: MarketModel, sessions: Sequence[MarketSession]) -> BarTable:
    """Return the daily bars of a random walk that ends at `model.close`, with each symbol's usual volume."""
    count, days = len(model.close), len(sessions)
    market_moves, own_moves = rng.standard_normal(days), rng.standard_normal((count, days))
    moves = (0.35 * market_moves + np.sqrt(1 - 0.35**2) * own_moves) * model.sigma[:, None] * 0.9
    level = np.log(model.close)[:, None] - np.cumsum(moves[:, ::-1], axis=1)[:, ::-1] + moves
    previous_level = level - moves
    opens = (
        previous_level
        + moves * _OVERNIGHT_SHARE
        + rng.standard_normal((count, days)) * model.sigma[:, None] * 0.25
    )
    overshoot = np.abs(rng.standard_normal((2, count, days))) * model.sigma[:, None] * 0.5
    open_, close = to_tick(np.exp(opens)), to_tick(np.exp(level))
    high = np.maximum(np.maximum(open_, close), to_tick(np.exp(np.maximum(opens, level) + overshoot[0])))
    low = np.minimum(np.minimum(open_, close), to_tick(np.exp(np.minimum(opens, level) - overshoot[1])))
    usual_log_shares = np.log(np.maximum(model.dollar_volume / model.close, 1.0))[:, None]
    move_effect = 0.3 * np.abs(moves) / model.sigma[:, None] - 0.24
    volume = np.maximum(
        np.rint(np.exp(usual_log_shares + 0.38 * rng.standard_normal((count, days)) - 0.07 + move_effect)), 1
    )
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
    """Return a function that makes one symbol's minute bars of the last sessions, consistent with its daily bars."""

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
    """Return one session's minute bars: a Brownian bridge from open to close that touches high and low."""
    count = int((session.close - session.open).total_seconds()) // 60
    open_, high, low, close = (
        int(column[row]) for column in (daily.open, daily.high, daily.low, daily.close)
    )
    minute_sigma = profile.minute_sigmas(count)
    walk = np.concatenate(
        ([0.0], np.cumsum(rng.standard_normal(count) * minute_sigma * float(model.sigma[number])))
    )
    time = np.concatenate(([0.0], np.cumsum(minute_sigma**2)))
    bridge = np.log(open_) + (walk - walk[-1] * time) + (np.log(close) - np.log(open_)) * time
    level = np.clip(to_tick(np.exp(bridge) / 1e4), low, high)
    level[0], level[-1] = open_, close
    trade_probability = -np.expm1(-profile.trade_rates(model.dollar_volume[[number]], count)[0])
    minute = np.flatnonzero(rng.random(count) < trade_probability)
    minute = np.union1d(minute, np.array([0, count - 1])[: max(1, min(2, int(daily.volume[row])))])
    starts, ends = level[minute], level[minute + 1]
    starts[0], ends[-1] = open_, close
    tops, bottoms = np.maximum(starts, ends), np.minimum(starts, ends)
    tops[np.argmax(tops)], bottoms[np.argmin(bottoms)] = high, low
    shares = profile.volume_shares(count)[minute] * np.exp(0.6 * rng.standard_normal(len(minute)))
    cumulative_volume: Ints = np.rint(np.cumsum(shares) / shares.sum() * int(daily.volume[row])).astype(
        np.int64
    )
    volume = np.diff(np.concatenate(([0], cumulative_volume)))
    # drop minutes without shares, except those with one of the day's four prices
    retained = np.flatnonzero((volume > 0) | (tops == high) | (bottoms == low))
    retained = np.union1d(retained, np.array([0, len(minute) - 1]))
    opens = int(session.open.timestamp())
    return BarTable(
        number * KEY_STRIDE + opens + minute[retained] * 60,
        starts[retained],
        tops[retained],
        bottoms[retained],
        ends[retained],
        volume[retained],
        steps,
    )
