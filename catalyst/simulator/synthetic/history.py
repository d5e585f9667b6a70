"""What came before a generated day: daily bars of all symbols, minutes of one when somebody asks."""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.random import Generator

from catalyst.simulator.market import calendar
from catalyst.simulator.market.bar_table import SECONDS, BarTable, concatenate
from catalyst.simulator.market.interface import Ints, Session
from catalyst.simulator.synthetic import intraday_profile as profile
from catalyst.simulator.synthetic.minutes import World, to_tick

DAYS: Final = 85
MINUTE_DAYS: Final = 3
_OVERNIGHT: Final = 0.4  # share of a day's move that happens before its open


def daily_bars(rng: Generator, world: World, sessions: Sequence[Session]) -> BarTable:
    """A random walk that ends at `world.close`, with the volume the symbol usually trades."""
    count, days = len(world.close), len(sessions)
    market, own = rng.standard_normal(days), rng.standard_normal((count, days))
    moves = (0.35 * market + np.sqrt(1 - 0.35**2) * own) * world.sigma[:, None] * 0.9
    level = np.log(world.close)[:, None] - np.cumsum(moves[:, ::-1], axis=1)[:, ::-1] + moves
    before = level - moves
    opens = before + moves * _OVERNIGHT + rng.standard_normal((count, days)) * world.sigma[:, None] * 0.25
    beyond = np.abs(rng.standard_normal((2, count, days))) * world.sigma[:, None] * 0.5
    open_, close = to_tick(np.exp(opens)), to_tick(np.exp(level))
    high = np.maximum(np.maximum(open_, close), to_tick(np.exp(np.maximum(opens, level) + beyond[0])))
    low = np.minimum(np.minimum(open_, close), to_tick(np.exp(np.minimum(opens, level) - beyond[1])))
    usual = np.log(np.maximum(world.dollars / world.close, 1.0))[:, None]
    busy = 0.3 * np.abs(moves) / world.sigma[:, None] - 0.24
    volume = np.maximum(np.rint(np.exp(usual + 0.38 * rng.standard_normal((count, days)) - 0.07 + busy)), 1)
    midnights = np.array([int(calendar.midnight(session.day).timestamp()) for session in sessions])
    key = (np.arange(count)[:, None] * SECONDS + midnights).ravel()
    return BarTable(
        key,
        open_.ravel(),
        high.ravel(),
        low.ravel(),
        close.ravel(),
        volume.astype(np.int64).ravel(),
        np.full(count, 86_400),
    )


def minute_maker(
    seed: int, world: World, daily: BarTable, sessions: Sequence[Session]
) -> Callable[[int], BarTable]:
    """A function that makes one symbol's minutes of the last sessions, telling the same as its daily bars."""

    steps = np.full(len(world.close), 60)

    def make(number: int) -> BarTable:
        parts = []
        for session in sessions[-MINUTE_DAYS:]:
            rng = np.random.default_rng((seed, 3, session.day.toordinal(), number))
            midnight = int(calendar.midnight(session.day).timestamp())
            row = int(daily.last(np.array([number]), midnight)[0])
            parts.append(_minutes(rng, world, daily, number, row, session, steps))
        return concatenate(parts)

    return make


def _minutes(
    rng: Generator, world: World, daily: BarTable, number: int, row: int, session: Session, steps: Ints
) -> BarTable:
    """One session's minutes: a bridge from the open to the close that touches high and low."""
    count = int((session.close - session.open).total_seconds()) // 60
    open_, high, low, close = (
        int(column[row]) for column in (daily.open, daily.high, daily.low, daily.close)
    )
    size = profile.move_sizes(count)
    walk = np.concatenate(([0.0], np.cumsum(rng.standard_normal(count) * size * float(world.sigma[number]))))
    time = np.concatenate(([0.0], np.cumsum(size**2)))
    bridge = np.log(open_) + (walk - walk[-1] * time) + (np.log(close) - np.log(open_)) * time
    level = np.clip(to_tick(np.exp(bridge) / 1e4), low, high)
    level[0], level[-1] = open_, close
    happens = -np.expm1(-profile.trade_rates(world.dollars[[number]], count)[0])
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
        number * SECONDS + opens + minute[keep] * 60,
        starts[keep],
        tops[keep],
        bottoms[keep],
        ends[keep],
        volume[keep],
        steps,
    )
