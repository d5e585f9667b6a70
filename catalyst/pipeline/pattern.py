"""Stage 4 of 8: finds chart patterns, each with a trigger that was just crossed, a stop and a target."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from catalyst.config.schema import PatternConfig
from catalyst.domain.order import PositionSide
from catalyst.domain.session import Session
from catalyst.pipeline.bar_matrix import BarMatrix, bar_matrix_of, bars_since, finished_bars
from catalyst.pipeline.chart import Chart, Setups, bars_above, chart_of, mean_quality, mean_volume, value_at
from catalyst.pipeline.detectors import PATTERNS
from catalyst.pipeline.frame import Floats, Ints, StageFilter, float_values, require_aware
from catalyst.pipeline.indicators import true_range, vwap

# Weights of shape, volume and remaining room in the confidence.
_SHAPE_WEIGHT, _VOLUME_WEIGHT, _ROOM_WEIGHT = 0.40, 0.35, 0.25


@dataclass(slots=True)
class BestSetups:
    """The best setup of each symbol so far; one value per symbol, prices in dollars."""

    name: npt.NDArray[np.object_]
    side: npt.NDArray[np.object_]
    trigger: Floats
    stop: Floats
    target: Floats
    confidence: Floats
    first: Ints


def pattern(
    frame: pd.DataFrame,
    bars: pd.DataFrame,
    session: Session,
    now: datetime,
    cfg: PatternConfig,
    *,
    bar_minutes: int,
    allow_short: bool,
    enabled: bool = True,
    required: bool = True,
) -> pd.DataFrame:
    """Find each candidate's best setup in today's finished bars; keep the `cfg.max_candidates` most confident.

    Reads   frame: prev_close, momentum_pct, news_rank; bars: symbol, timestamp (start), open, high, low, close,
            volume, 1- or 5-minute, sorted. Bars of earlier sessions and unfinished bars are ignored.
    Writes  side (long | short); pattern, pattern_trigger, pattern_stop, pattern_target (dollars),
            pattern_confidence [0, 1], pattern_from (start of its first bar), pattern_bars (number of its bars);
            chart_bars, number of today's bars; pattern_rank.
    Raises  ValueError for a naive `now` or unsorted bars.

    Confidence is 0.40 shape, 0.35 volume since the breakout (against the hour before it), 0.25 room left to the
    target. When the stage is not `enabled`, or not `required` and there is no pattern, the row passes without levels
    and neutral, and its side is the direction of its price move.
    """
    stage_filter = StageFilter(frame, "pattern")
    today = bars_since(finished_bars(bars, now, bar_minutes), session.open)
    matrix = bar_matrix_of(today[today["symbol"].isin(frame.index[stage_filter.remaining])])
    rows = matrix.row_indices(frame.index)
    bar_count = np.where(rows >= 0, matrix.counts[rows] if matrix.counts.size else 0, 0)
    if enabled:
        bar_end = _in_frame_order(matrix.at_last_bar(matrix.time), rows) + 60 * bar_minutes
        age = (require_aware(now) - bar_end) / 60
        stage_filter.refuse(bar_count == 0, "no finished bar of today")
        stage_filter.refuse(
            age > cfg.max_bar_age_minutes,
            f"last bar ended %.0f min ago, limit {cfg.max_bar_age_minutes:g}",
            age,
        )
    best = (
        _find_best_setups(matrix, frame, rows, session, cfg, bar_minutes, allow_short=allow_short)
        if enabled
        else None
    )
    columns = _pattern_columns(best, matrix, rows, frame, allow_short=allow_short)
    confidence: Floats = columns["pattern_confidence"]
    if enabled:
        is_weak = ~(confidence >= cfg.min_confidence)
        if required:
            stage_filter.refuse(np.isnan(confidence), "no pattern in %d bars", bar_count)
            stage_filter.refuse(is_weak, f"pattern confidence %.2f, limit {cfg.min_confidence:g}", confidence)
    order = np.where(np.isnan(confidence), -float_values(frame, "news_rank", 0.0) / 1e6, confidence)
    ranks = stage_filter.keep_best(order, cfg.max_candidates, "rank %d of %d by pattern; the stage keeps %d")
    return stage_filter.to_frame(**columns, chart_bars=bar_count.astype(np.float64), pattern_rank=ranks)


def _in_frame_order(values: Floats, rows: Ints) -> Floats:
    """Reorder values from matrix rows to frame rows; NaN for symbols without bars."""
    return np.where(rows >= 0, values[rows], np.nan) if values.size else np.full(rows.size, np.nan)


def _find_best_setups(
    matrix: BarMatrix,
    frame: pd.DataFrame,
    rows: Ints,
    session: Session,
    cfg: PatternConfig,
    bar_minutes: int,
    *,
    allow_short: bool,
) -> BestSetups:
    prev_close = np.full(matrix.counts.size, np.nan)
    prev_close[rows[rows >= 0]] = float_values(frame, "prev_close")[rows >= 0]
    true_ranges = true_range(matrix.high, matrix.low, matrix.close)
    if true_ranges.shape[1]:
        true_ranges[:, 0] = matrix.high[:, 0] - matrix.low[:, 0]
    chart = chart_of(
        matrix, vwap(matrix.high, matrix.low, matrix.close, matrix.volume), true_ranges, session.open.timestamp(),
        prev_close, bar_minutes=bar_minutes, pivot_bars=max(1, round(cfg.pivot_minutes / bar_minutes)),
        tail_bars=max(1, round(cfg.max_trigger_age_minutes / bar_minutes)) + 1,
    )  # fmt: skip
    no_value = np.full(matrix.counts.size, np.nan)
    no_name = np.full(matrix.counts.size, None, dtype=object)
    best = BestSetups(
        no_name,
        no_name.copy(),
        no_value,
        no_value.copy(),
        no_value.copy(),
        no_value.copy(),
        np.full(matrix.counts.size, -1, dtype=np.int64),
    )
    sides = (PositionSide.LONG, PositionSide.SHORT) if allow_short else (PositionSide.LONG,)
    for side in sides if matrix.counts.size else ():
        sign = 1.0 if side is PositionSide.LONG else -1.0
        rising_chart = chart if side is PositionSide.LONG else chart.mirrored()
        for spec in PATTERNS:
            for back in range(spec.pivot_skips):
                with np.errstate(all="ignore"):
                    setups = spec.detect(rising_chart, cfg, back)
                    confidence = _confidence(rising_chart, setups, cfg)
                name = spec.long_name if side is PositionSide.LONG else spec.short_name
                _replace_with_better(best, setups, confidence, name, side, sign)
    return best


def _confidence(chart: Chart, setups: Setups, cfg: PatternConfig) -> Floats:
    """Return each setup's confidence; NaN where it was not triggered recently, or where most of the move is over."""
    bars_since = bars_above(chart, setups.trigger)
    target_distance = setups.target - setups.trigger
    extension = (chart.last_close - setups.trigger) / target_distance
    is_triggered = (
        setups.found
        & (bars_since >= 1)
        & (bars_since < chart.recent_closes.shape[1])
        & (bars_since < chart.bar_count)
        & (target_distance > 0)
        & (extension <= cfg.max_extension)
        & (setups.stop < chart.last_close)
    )
    breakout = chart.bar_count - bars_since
    bars_per_hour = max(1, round(60 / chart.bar_minutes))
    breakout_volume = mean_volume(chart, breakout, chart.bar_count)
    prior_volume = mean_volume(chart, np.maximum(breakout - bars_per_hour, 0), breakout)
    volume = np.clip((breakout_volume / prior_volume - 0.6) / 1.2, 0.0, 1.0)
    room = 1 - extension / cfg.max_extension if cfg.max_extension > 0 else 1.0 - 0.0 * extension
    score = (
        _SHAPE_WEIGHT * setups.shape
        + _VOLUME_WEIGHT * mean_quality(volume)
        + _ROOM_WEIGHT * mean_quality(room)
    )
    return np.where(is_triggered, score, np.nan)


def _replace_with_better(
    best: BestSetups, setups: Setups, confidence: Floats, name: str, side: PositionSide, sign: float
) -> None:
    better = np.isfinite(confidence) & ~(confidence <= best.confidence)
    best.name[better] = name
    best.side[better] = side.value
    best.trigger[better] = sign * setups.trigger[better]
    best.stop[better] = sign * setups.stop[better]
    best.target[better] = sign * setups.target[better]
    best.confidence[better] = confidence[better]
    best.first[better] = setups.first[better]


def _pattern_columns(
    best: BestSetups | None, matrix: BarMatrix, rows: Ints, frame: pd.DataFrame, *, allow_short: bool
) -> dict[str, Any]:
    """Return the stage's columns in frame order; without a pattern the side is the direction of the price move."""
    size = rows.size
    moved_down = float_values(frame, "momentum_pct", 0.0) < 0
    side = np.where(moved_down & allow_short, PositionSide.SHORT.value, PositionSide.LONG.value).astype(
        object
    )
    name = np.full(size, None, dtype=object)
    nans = np.full(size, np.nan)
    if best is None or not matrix.counts.size:
        return {
            "side": pd.array(side, dtype="str"), "pattern": pd.array(name, dtype="str"),
            "pattern_trigger": nans, "pattern_stop": nans, "pattern_target": nans, "pattern_confidence": nans,
            "pattern_from": pd.to_datetime(nans, unit="s", utc=True), "pattern_bars": nans,
        }  # fmt: skip
    has_pattern = (rows >= 0) & np.isfinite(_in_frame_order(best.confidence, rows))
    name[has_pattern], side[has_pattern] = best.name[rows[has_pattern]], best.side[rows[has_pattern]]
    first_time = np.where(has_pattern, _in_frame_order(value_at(matrix.time, best.first), rows), np.nan)
    span = np.where(
        has_pattern, _in_frame_order((matrix.counts - best.first).astype(np.float64), rows), np.nan
    )
    return {
        "side": pd.array(side, dtype="str"),
        "pattern": pd.array(name, dtype="str"),
        "pattern_trigger": _in_frame_order(best.trigger, rows),
        "pattern_stop": _in_frame_order(best.stop, rows),
        "pattern_target": _in_frame_order(best.target, rows),
        "pattern_confidence": _in_frame_order(best.confidence, rows),
        "pattern_from": pd.to_datetime(first_time, unit="s", utc=True),
        "pattern_bars": span,
    }
