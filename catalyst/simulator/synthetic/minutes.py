"""The minutes of a generated session, of all symbols at once, and of the hours before it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import Generator

from catalyst.simulator.market import intrabar_path
from catalyst.simulator.market.interface import Floats, Ints
from catalyst.simulator.synthetic import chart_setups as setups
from catalyst.simulator.synthetic import intraday_profile as profile
from catalyst.simulator.synthetic.chart_setups import Setup
from catalyst.simulator.synthetic.stocks_in_play import Play

EARLY_MINUTES: Final = 330  # 04:00 to 09:30
EARLY_LIQUID: Final = 2e7  # dollars a day from which a stock trades before the open without news
_SHOCK: Final = 3.0  # how much wider the market moves in the minutes of the day's economic news
_WANDER: Final = 0.35  # how much of its chance drift the market keeps by the close; the mood's comes on top
_RESTLESS: Final = 0.35  # how much a stock's own volatility varies from half hour to half hour
_OUTSIDE: Final = 0.4  # how far a minute's extremes lie beyond its ends, in its standard deviations


@dataclass(frozen=True, slots=True)
class World:
    """What the day is made from, one value per symbol number."""

    close: Floats  # of the day before
    gap: Floats  # log
    sigma: Floats  # of a day, log
    together: Floats  # correlation with the market
    dollars: Floats  # usual turnover
    volume: Floats  # shares of today, regular hours
    mood: profile.Mood


@dataclass(frozen=True, slots=True)
class Minutes:
    """Minute bars in (symbol, minute) order; prices in dollars, on the tick."""

    number: Ints
    minute: Ints
    open: Ints
    high: Ints
    low: Ints
    close: Ints
    volume: Ints


def session_minutes(
    rng: Generator, world: World, plays: Sequence[Play], charts: Sequence[Setup], minutes: int
) -> Minutes:
    """The regular session. A minute nobody traded in has no bar."""
    size = profile.move_sizes(minutes)
    steps = _moves(rng, world, size, [*[play.setup for play in plays], *charts])
    for play in plays:
        if play.minute >= 0:
            steps[play.number, play.minute : play.minute + 3] += play.move / 3
    log_price = np.concatenate((np.zeros((len(steps), 1)), np.cumsum(steps, axis=1)), axis=1)
    level = (np.log(world.close) + world.gap)[:, None] + log_price
    factors = _attention(plays, charts, minutes)
    rates = profile.trade_rates(world.dollars, minutes)
    for symbol, factor in factors.items():
        rates[symbol] *= factor
    happens = -np.expm1(-rates)
    number, minute = np.nonzero(rng.random(happens.shape, dtype=np.float32) < happens)
    shares = profile.volume_shares(minutes)[minute] * np.exp(0.6 * rng.standard_normal(len(minute)))
    for symbol, factor in factors.items():
        own = slice(*np.searchsorted(number, (symbol, symbol + 1)))
        shares[own] *= factor[minute[own]]
    shares /= happens[number, minute]
    total = np.bincount(number, shares, len(world.close))
    volume = np.maximum(np.rint(shares * (world.volume / np.maximum(total, 1e-12))[number]), 1).astype(
        np.int64
    )
    ends = level[number, minute], level[number, minute + 1]
    return _bars(rng, number, minute, ends, (world.sigma[number] * size[minute]), volume)


def early_minutes(rng: Generator, world: World, plays: Sequence[Play], news_minute: Ints) -> Minutes:
    """The pre-market of the liquid and the newsworthy, ending where the session opens.

    `news_minute` is the minute (from 04:00) at which each play's price answers its news; not after 04:00 is 0.
    """
    overnight = [(play, int(at)) for play, at in zip(plays, news_minute, strict=True) if play.minute < 0]
    busy = {play.number: (play, at) for play, at in overnight}
    rows = np.union1d(np.flatnonzero(world.dollars >= EARLY_LIQUID), np.array(list(busy), dtype=np.int64))
    minute = np.arange(EARLY_MINUTES)
    shape = np.interp(minute, (0, 180, 240, EARLY_MINUTES), (0.12, 0.3, 0.7, 1.6))
    rates = np.outer(0.9 * (world.dollars[rows] / 1e9) ** 0.7, shape)
    wander = rng.standard_normal((len(rows), EARLY_MINUTES)) * (world.sigma[rows] * 0.02)[:, None]
    walk = np.cumsum(wander, axis=1)
    walk -= walk[:, -1:] * (minute + 1) / EARLY_MINUTES
    known = np.broadcast_to(np.interp(minute, (0, EARLY_MINUTES - 1), (0.35, 1.0)), walk.shape).copy()
    part = np.full(len(rows), 0.006)  # of a usual day's volume
    for place, number in enumerate(rows.tolist()):
        if number in busy:
            play, at = busy[number]
            rates[place] = np.where(minute >= at, np.maximum(rates[place], 0.9), rates[place])
            known[place] = np.where(minute >= at, np.clip(0.8 + (minute - at) / 400, 0, 1), 0.05)
            part[place] = 0.02 * play.volume
    level = np.log(world.close[rows])[:, None] + world.gap[rows][:, None] * known + walk
    before = np.concatenate((level[:, :1], level[:, :-1]), axis=1)
    row, at_minute = np.nonzero(rng.random(rates.shape) < -np.expm1(-rates))
    shares = rates[row, at_minute] * np.exp(0.7 * rng.standard_normal(len(row)))
    total = np.bincount(row, shares, len(rows))
    usual = world.dollars[rows] / world.close[rows] * part
    volume = np.maximum(np.rint(shares * (usual / np.maximum(total, 1e-12))[row]), 1).astype(np.int64)
    ends = before[row, at_minute], level[row, at_minute]
    return _bars(rng, rows[row], at_minute, ends, world.sigma[rows[row]] * 0.02, volume)


def to_tick(price: Floats) -> Ints:
    """Dollars as units on the tick: cents from $1 up, hundredths of a cent below."""
    units = np.maximum(np.rint(price * intrabar_path.UNITS), 1).astype(np.int64)
    grid = intrabar_path.tick(units)
    return (units + grid // 2) // grid * grid


def _moves(rng: Generator, world: World, size: Floats, drawn: Sequence[Setup]) -> Floats:
    """Each symbol's log return in each minute."""
    minutes, count = len(size), len(world.close)
    market = rng.standard_normal(minutes)
    shock = int(rng.integers(minutes // 3, minutes * 2 // 3))
    market[shock : shock + 3] *= _SHOCK
    market -= (1 - _WANDER) * (market @ size) * size
    restless = np.exp(_RESTLESS * rng.standard_normal((count, minutes // 30 + 1)))
    own = (
        rng.standard_normal((count, minutes), dtype=np.float32) * np.repeat(restless, 30, axis=1)[:, :minutes]
    )
    own /= np.exp(_RESTLESS**2)
    mixed = world.together[:, None] * market + np.sqrt(1 - world.together**2)[:, None] * own
    for setup in drawn:
        mixed[setup.number] *= setups.calm(setup, minutes)
    steps = mixed * world.sigma[:, None] * size
    drift = profile.DRIFT[world.mood] * world.together * world.sigma - profile.FADE[world.mood] * world.gap
    steps += drift[:, None] * size**2
    for setup in drawn:
        steps[setup.number] += np.diff(setups.log_path(rng, setup, minutes))
    return np.asarray(steps, dtype=np.float64)


def _attention(plays: Sequence[Play], charts: Sequence[Setup], minutes: int) -> dict[int, Floats]:
    """By how much news and patterns raise a symbol's trading, minute by minute."""
    factors = {chart.number: setups.volume_factors(chart, minutes) for chart in charts}
    for play in plays:
        factor = setups.volume_factors(play.setup, minutes)
        if play.minute >= 0:
            minute = np.arange(minutes)
            since = np.maximum(minute - play.minute, 0)
            factor = factor * np.where(minute >= play.minute, 1 + 7 * np.exp(-since / 20), 0.6)
        factors[play.number] = factor
    return factors


def _bars(
    rng: Generator, number: Ints, minute: Ints, ends: tuple[Floats, Floats], size: Floats, volume: Ints
) -> Minutes:
    """Bars from their log ends and the standard deviation of their minute."""
    beyond = np.abs(rng.standard_normal((2, len(number)))) * (_OUTSIDE * size)
    open_, close = to_tick(np.exp(ends[0])), to_tick(np.exp(ends[1]))
    high = to_tick(np.exp(np.maximum(*ends) + beyond[0]))
    low = to_tick(np.exp(np.minimum(*ends) - beyond[1]))
    return Minutes(
        number,
        minute,
        open_,
        np.maximum(np.maximum(open_, close), high),
        np.minimum(np.minimum(open_, close), low),
        close,
        volume,
    )
