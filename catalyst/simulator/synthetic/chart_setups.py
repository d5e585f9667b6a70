"""Synthetic chart patterns: their shapes as knots, and the price move that follows.

A shape is drawn for the long side in units of its height; a short pattern is its mirror image. A shape ends at
its trigger. The price then continues or turns with equal probability, over equal distances, so recognizing the
shape gives no advantage.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.random import Generator

from catalyst.simulator.market.interface import Floats


class ChartShape(StrEnum):
    """Shapes of chart patterns; each is also drawn upside down."""

    FLAG = "flag"
    OPENING_RANGE = "opening range breakout"
    VWAP_RECLAIM = "vwap reclaim"
    TRIANGLE = "ascending triangle"
    CUP = "cup and handle"
    DOUBLE = "double bottom"
    SHOULDERS = "inverse head and shoulders"


@dataclass(frozen=True, slots=True)
class _Knots:
    """The points of a shape; `minutes` from its start, `heights` in units of the pattern's height."""

    minutes: tuple[float, ...]
    heights: tuple[float, ...]
    volumes: tuple[float, ...]  # of the segment that ends at the knot, as a multiple of the usual
    at_open: bool = False  # starts with the session


_KNOTS: Final = {
    ChartShape.FLAG: _Knots(
        (0, 14, 17, 20, 24, 28, 31), (0, 1, 0.82, 0.9, 0.72, 0.8, 0.9), (1, 2.6, 1, 0.7, 0.6, 0.6, 1)
    ),
    ChartShape.OPENING_RANGE: _Knots(
        (0, 4, 9, 15, 22, 30), (0, 0.8, 0.05, 0.9, 0.35, 0.95), (1, 1.3, 1, 1, 0.8, 1.2), at_open=True
    ),
    ChartShape.VWAP_RECLAIM: _Knots((0, 20, 38, 46, 52), (0, -1, -0.9, -0.3, 0.1), (1, 1.4, 0.8, 1.5, 1.3)),
    ChartShape.TRIANGLE: _Knots(
        (0, 12, 22, 31, 39, 46, 52, 57), (0, 1, 0.25, 0.98, 0.5, 0.99, 0.72, 1), (1, 1.8, 1, 1, 0.8, 0.8, 0.6, 1)
    ),
    ChartShape.CUP: _Knots(
        (0, 10, 25, 40, 55, 70, 78, 86, 92),
        (0, -0.35, -0.8, -1, -0.8, -0.05, -0.3, -0.28, 0),
        (1, 1.2, 0.9, 0.6, 0.8, 1.4, 0.7, 0.6, 1.1),
    ),
    ChartShape.DOUBLE: _Knots((0, 18, 32, 46, 60), (0.2, -1, -0.35, -0.98, -0.35), (1, 1.6, 1, 1, 1.3)),
    ChartShape.SHOULDERS: _Knots(
        (0, 12, 22, 36, 48, 58, 68), (0, -0.55, -0.1, -1, -0.1, -0.5, -0.1), (1, 1.3, 1, 1.2, 1, 0.7, 1.2)
    ),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ChartSetup:
    """One pattern of one stock today; `start` and `end` in session minutes, `height` as a fraction of the price."""

    number: int
    shape: ChartShape
    side: int  # 1 long, -1 short
    start: int
    end: int
    height: float
    succeeds: bool


def draw_setup(
    rng: Generator, number: int, side: int, sigma: float, minutes: int, earliest: int
) -> ChartSetup:
    """Return a random pattern that starts at `earliest` or later; about half of them within 25 minutes of it.

    `sigma` is the stock's daily standard deviation, which sets the height.
    """
    shapes = [shape for shape in ChartShape if earliest == 0 or not _KNOTS[shape].at_open]
    shape = shapes[int(rng.integers(len(shapes)))]
    knots = _KNOTS[shape]
    time_scale = float(rng.uniform(0.75, 1.35))
    length = max(int(knots.minutes[-1] * time_scale), 10)
    latest = max(minutes - length - 60, 1)
    if knots.at_open:
        start = 0
    elif rng.random() < 0.5:
        start = earliest + int(rng.integers(0, 25))
    else:
        start = int(rng.integers(earliest, max(latest, earliest + 1)))
    start = min(start, latest)
    return ChartSetup(
        number=number,
        shape=shape,
        side=side,
        start=start,
        end=start + length,
        height=max(0.008, float(rng.uniform(0.45, 0.9)) * sigma),
        succeeds=bool(rng.random() < 0.5),
    )


def log_path(rng: Generator, setup: ChartSetup, minutes: int) -> Floats:
    """Return the log price added by the pattern and its outcome at each minute boundary of the session."""
    knots = _KNOTS[setup.shape]
    knot_minutes = setup.start + np.array(knots.minutes) / knots.minutes[-1] * (setup.end - setup.start)
    heights = np.array(knots.heights) - knots.heights[0]
    heights[1:-1] += rng.normal(0, 0.03, len(heights) - 2)
    trigger = heights[-1]
    distance = float(rng.uniform(0.6, 1.5))
    outcome_end = setup.end + rng.uniform(15, 45)
    if setup.succeeds:
        outcome_minutes, outcome_heights = (
            (setup.end + (outcome_end - setup.end) / 2, outcome_end),
            (trigger + distance * 0.7, trigger + distance),
        )
    else:
        # a failed breakout often continues for a few minutes first
        outcome_minutes, outcome_heights = (setup.end + 4, outcome_end), (trigger + 0.12, trigger - distance)
    all_minutes = np.concatenate((knot_minutes, outcome_minutes))
    all_heights = np.concatenate((heights, outcome_heights))
    return setup.side * setup.height * np.interp(np.arange(minutes + 1), all_minutes, all_heights)


def volume_factors(setup: ChartSetup, minutes: int) -> Floats:
    """Return the volume of each minute that the pattern causes, as a multiple of the usual volume."""
    knots = _KNOTS[setup.shape]
    knot_minutes = setup.start + np.array(knots.minutes) / knots.minutes[-1] * (setup.end - setup.start)
    minute = np.arange(minutes)
    factors = np.ones(minutes)
    inside = (minute >= setup.start) & (minute < setup.end)
    segment = np.clip(np.searchsorted(knot_minutes, minute, side="right"), 1, len(knot_minutes) - 1)
    factors[inside] = np.array(knots.volumes)[segment][inside]
    breakout = (minute >= setup.end) & (minute < setup.end + 8)
    factors[breakout] = 2.4 if setup.succeeds else 1.5
    return factors


def noise_factors(setup: ChartSetup, minutes: int) -> Floats:
    """Return the factor on the stock's own noise in each minute: smaller while the pattern forms."""
    minute = np.arange(minutes)
    return np.where((minute >= setup.start) & (minute < setup.end + 5), 0.4, 1.0)
