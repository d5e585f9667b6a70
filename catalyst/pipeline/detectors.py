"""Chart pattern detectors: each is a function from a Chart to Setups, written for rising prices (see chart).

A pattern is triggered when a recent close crosses its trigger. Distances are in units (the mean true range of today's
bars), times in minutes. `back` makes a detector skip that many of the latest pivots, because a pivot may form after the
breakout. Source of the shapes and measured moves: Edwards and Magee, Technical Analysis of Stock Trends; Bulkowski,
Encyclopedia of Chart Patterns; opening range: Crabel, Day Trading with Short Term Price Patterns and Opening Range
Breakout. The numeric limits are our own.
"""

from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np

from catalyst.config.schema import PatternConfig
from catalyst.pipeline.chart import (
    Chart,
    Setups,
    bars_above,
    bars_in,
    highest,
    lowest,
    mean_quality,
    value_at,
)
from catalyst.pipeline.frame import Floats, Ints

Detector = Callable[[Chart, PatternConfig, int], Setups]

# A breakout that falls back by this part of the pattern's height has failed.
_FAILURE_SHARE: Final = 0.25


def flag(chart: Chart, cfg: PatternConfig, back: int) -> Setups:
    """Find flags: a steep pole, a shallow pullback, a new high.

    Pole: from the lowest low of the 60 minutes before the top, at least 3 units, and at least twice the pullback's
    depth. Pullback: 10 to 60 minutes since the top. Trigger: the top. Stop: the pullback's low. Target: the trigger
    plus the pole's height.
    """
    del cfg
    top = chart.tops[:, back]
    trigger = value_at(chart.high, top)
    base, first = lowest(chart.low, np.where(top >= 0, np.maximum(top - bars_in(chart, 60), 0), -1), top)
    breakout = chart.last - bars_above(chart, trigger) + 1
    pullback_low, _ = lowest(chart.low, top + 1, breakout - 1)
    pole, depth, length = trigger - base, trigger - pullback_low, breakout - top
    found = (
        (top >= 0)
        & (pole >= 3 * chart.range_unit)
        & (depth <= 0.5 * pole)
        & (length >= bars_in(chart, 10))
        & (length <= bars_in(chart, 60))
    )
    steep = pole / chart.range_unit / np.maximum(top - first, 1) * 2
    return Setups(
        found, trigger, pullback_low, trigger + pole, mean_quality(1 - 2 * depth / pole + 0.4, steep), first
    )


def opening_range(chart: Chart, cfg: PatternConfig, back: int) -> Setups:
    """Find breakouts above the opening range within two and a half hours of the open.

    Trigger: the range's high. Stop: its middle. Target: the trigger plus twice its height.
    """
    del back
    first = np.zeros(chart.bar_count.size, dtype=np.int64)
    range_end = (chart.minute + chart.bar_minutes <= cfg.opening_range_minutes).sum(axis=1) - 1
    high, _ = highest(chart.high, first, range_end)
    low, _ = lowest(chart.low, first, range_end)
    height = high - low
    minute = value_at(chart.minute, chart.last)
    found = (range_end >= 0) & (chart.last > range_end) & (height >= chart.range_unit) & (minute <= 150)
    beyond_vwap = (chart.last_close - value_at(chart.vwap, chart.last)) / chart.range_unit
    shape = mean_quality(1.4 - height / (6 * chart.range_unit), beyond_vwap)
    return Setups(found, high, (high + low) / 2, high + 2 * height, shape, first)


def triangle(chart: Chart, cfg: PatternConfig, back: int) -> Setups:
    """Find ascending triangles: two tops at one level, with rising lows before, between and after them.

    Tops within 0.75 units, 15 to 180 minutes apart; each low at least a quarter unit above the previous one; height at
    least 2 units. Trigger: the higher top. Stop: the last low. Target: the trigger plus the triangle's height.
    """
    del cfg
    late, early = chart.tops[:, back], chart.tops[:, back + 1]
    early_top, late_top = value_at(chart.high, early), value_at(chart.high, late)
    trigger = np.maximum(early_top, late_top)
    breakout = chart.last - bars_above(chart, trigger) + 1
    low, first = lowest(chart.low, np.where(early >= 0, np.maximum(early - bars_in(chart, 30), 0), -1), early)
    between, _ = lowest(chart.low, early, late)
    after, _ = lowest(chart.low, late + 1, breakout - 1)
    height = trigger - low
    apart = late - early
    rise = np.minimum(after - between, between - low)
    found = (
        (early >= 0)
        & (np.abs(early_top - late_top) <= 0.75 * chart.range_unit)
        & (apart >= bars_in(chart, 15))
        & (apart <= bars_in(chart, 180))
        & (rise >= 0.25 * chart.range_unit)
        & (height >= 2 * chart.range_unit)
    )
    shape = mean_quality(
        1 - np.abs(early_top - late_top) / chart.range_unit,
        rise / chart.range_unit,
        height / (4 * chart.range_unit),
    )
    return Setups(found, trigger, after, trigger + height, shape, first)


def double_bottom(chart: Chart, cfg: PatternConfig, back: int) -> Setups:
    """Find double bottoms: two lows at one level and a close above the peak between them.

    Lows within 0.75 units, 15 to 180 minutes apart; the peak at least 2.5 units above. Trigger: the peak. Stop: a
    quarter of the height below it, at least one unit. Target: the trigger plus the height.
    """
    del cfg
    late, early = chart.bottoms[:, back], chart.bottoms[:, back + 1]
    early_low, late_low = value_at(chart.low, early), value_at(chart.low, late)
    peak, _ = highest(chart.high, early, late)
    height = peak - np.minimum(early_low, late_low)
    apart = late - early
    found = (
        (early >= 0)
        & (np.abs(early_low - late_low) <= 0.75 * chart.range_unit)
        & (apart >= bars_in(chart, 15))
        & (apart <= bars_in(chart, 180))
        & (height >= 2.5 * chart.range_unit)
    )
    shape = mean_quality(1 - np.abs(early_low - late_low) / chart.range_unit, height / (5 * chart.range_unit))
    return Setups(found, peak, _failure_stop(chart, peak, height), peak + height, shape, early)


def head_and_shoulders(chart: Chart, cfg: PatternConfig, back: int) -> Setups:
    """Find inverse head and shoulders: three lows, the middle one deepest, and a close above the higher of the two
    peaks between them. (Mirrored it is the top form.)

    Shoulders within 1.5 units of each other and at least one unit above the head. Trigger: the higher peak. Stop: a
    quarter of the height below it, at least one unit. Target: the trigger plus its height above the head.
    """
    del cfg
    right, head, left = (chart.bottoms[:, back + k] for k in range(3))
    low_right, low_head, low_left = (value_at(chart.low, place) for place in (right, head, left))
    peak_one, _ = highest(chart.high, left, head)
    peak_two, _ = highest(chart.high, head, right)
    trigger = np.maximum(peak_one, peak_two)
    height = trigger - low_head
    shoulder = np.minimum(low_left, low_right)
    found = (
        (left >= 0)
        & (np.abs(low_left - low_right) <= 1.5 * chart.range_unit)
        & (shoulder - low_head >= chart.range_unit)
        & (np.abs(peak_one - peak_two) <= 0.5 * height)
        & (right - left <= bars_in(chart, 240))
    )
    shape = mean_quality(
        1 - np.abs(low_left - low_right) / (2 * chart.range_unit),
        1 - 2 * np.abs(peak_one - peak_two) / height,
        (shoulder - low_head) / (2 * chart.range_unit),
    )
    return Setups(found, trigger, _failure_stop(chart, trigger, height), trigger + height, shape, left)


def cup_and_handle(chart: Chart, cfg: PatternConfig, back: int) -> Setups:
    """Find cups with a handle: two rims at one level around a low, a shallow handle, a new high.

    Rims within one unit, 30 to 240 minutes apart; the low in the middle three fifths of the cup and at least 2.5 units
    deep; handle of 5 to 60 minutes, at most two fifths of the cup's depth. Trigger: the higher rim. Stop: the handle's
    low. Target: the trigger plus the cup's depth.
    """
    del cfg
    right, left = chart.tops[:, back], chart.tops[:, back + 1]
    rim_right, rim_left = value_at(chart.high, right), value_at(chart.high, left)
    trigger = np.maximum(rim_left, rim_right)
    bottom, bottom_column = lowest(chart.low, left, right)
    breakout = chart.last - bars_above(chart, trigger) + 1
    handle, _ = lowest(chart.low, right + 1, breakout - 1)
    depth, length = trigger - bottom, right - left
    middle = (bottom_column - left) / np.maximum(length, 1)
    found = (
        (left >= 0)
        & (np.abs(rim_left - rim_right) <= chart.range_unit)
        & (length >= bars_in(chart, 30))
        & (length <= bars_in(chart, 240))
        & (np.abs(middle - 0.5) <= 0.3)
        & (depth >= 2.5 * chart.range_unit)
        & (trigger - handle <= 0.4 * depth)
        & (breakout - right >= bars_in(chart, 5))
        & (breakout - right <= bars_in(chart, 60))
    )
    shape = mean_quality(
        1 - 2 * np.abs(middle - 0.5),
        1 - np.abs(rim_left - rim_right) / chart.range_unit,
        depth / (5 * chart.range_unit),
    )
    return Setups(found, trigger, handle, trigger + depth, shape, left)


def vwap_reclaim(chart: Chart, cfg: PatternConfig, back: int) -> Setups:
    """Find closes above the day's VWAP after at least 15 minutes below it.

    The dip is at least 2 units deep. Trigger: the present VWAP. Stop: a quarter of the dip below it, at least one
    unit. Target: the VWAP plus the dip's depth.
    """
    del back
    above = chart.close > chart.vwap
    columns = np.arange(chart.close.shape[1])
    filled = columns < chart.bar_count[:, None]
    breakout = _last_where(filled & ~above) + 1
    before = columns < breakout[:, None]
    dip_start = _last_where(filled & above & before) + 1
    bars_since_breakout = chart.last - breakout + 1
    # Without volume there is no VWAP and no dip.
    dip = np.where(np.isfinite(chart.vwap), chart.vwap - chart.low, -np.inf)
    depth, _ = highest(dip, dip_start, breakout - 1)
    trigger = value_at(chart.vwap, chart.last)
    found = (
        (breakout >= 1)
        & (breakout - dip_start >= bars_in(chart, 15))
        & (bars_since_breakout >= 1)
        & (bars_since_breakout <= bars_in(chart, cfg.max_trigger_age_minutes))
        & (depth >= 2 * chart.range_unit)
    )
    shape = mean_quality(depth / (4 * chart.range_unit), (chart.last_close - trigger) / chart.range_unit)
    return Setups(
        found, trigger, _failure_stop(chart, trigger, depth), trigger + depth, shape, np.maximum(dip_start, 0)
    )


def gap_and_go(chart: Chart, cfg: PatternConfig, back: int) -> Setups:
    """Find gaps up that hold more than half of the gap and then pass the high of the first 5 minutes.

    Within 90 minutes of the open; the gap is at least 3 units. Trigger: the high of the first 5 minutes. Stop: their
    low. Target: the trigger plus the gap.
    """
    del cfg, back
    first = np.zeros(chart.bar_count.size, dtype=np.int64)
    range_end = (chart.minute + chart.bar_minutes <= 5).sum(axis=1) - 1
    high, _ = highest(chart.high, first, range_end)
    low, _ = lowest(chart.low, first, range_end)
    day_low, _ = lowest(chart.low, first, chart.last)
    gap = low - chart.prev_close
    vwap = value_at(chart.vwap, chart.last)
    found = (
        (range_end >= 0)
        & (chart.last > range_end)
        & (gap >= 3 * chart.range_unit)
        & (day_low >= chart.prev_close + gap / 2)
        & (chart.last_close > vwap)
        & (value_at(chart.minute, chart.last) <= 90)
    )
    shape = mean_quality(gap / (8 * chart.range_unit), (chart.last_close - vwap) / chart.range_unit)
    return Setups(found, high, low, high + gap, shape, first)


def _failure_stop(chart: Chart, trigger: Floats, height: Floats) -> Floats:
    return trigger - np.maximum(_FAILURE_SHARE * height, chart.range_unit)


def _last_where(mask: np.ndarray[tuple[int, ...], np.dtype[np.bool_]]) -> Ints:
    """Return the last true column of each row, -1 where there is none."""
    if not mask.shape[1]:
        return np.full(len(mask), -1, dtype=np.int64)
    column = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)
    return np.where(mask.any(axis=1), column, -1)


class PatternSpec(NamedTuple):
    """A detector, its names for long and short, and how many values of `back` (from 0) are tried."""

    detect: Detector
    long_name: str
    short_name: str
    pivot_skips: int


PATTERNS: Final = (
    PatternSpec(flag, "bull_flag", "bear_flag", 3),
    PatternSpec(opening_range, "opening_range_breakout", "opening_range_breakdown", 1),
    PatternSpec(triangle, "ascending_triangle", "descending_triangle", 3),
    PatternSpec(double_bottom, "double_bottom", "double_top", 3),
    PatternSpec(head_and_shoulders, "inverse_head_and_shoulders", "head_and_shoulders", 3),
    PatternSpec(cup_and_handle, "cup_and_handle", "inverted_cup_and_handle", 3),
    PatternSpec(vwap_reclaim, "vwap_reclaim", "vwap_loss", 1),
    PatternSpec(gap_and_go, "gap_and_go", "gap_and_go_down", 1),
)
