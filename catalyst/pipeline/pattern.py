"""Stage 4 of 8: is there a setup on the chart, with a level that was just crossed and one that proves it wrong?"""

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

# Confidence is shape, volume and room, in these parts.
_SHAPE_WEIGHT, _VOLUME_WEIGHT, _ROOM_WEIGHT = 0.40, 0.35, 0.25


@dataclass(slots=True)
class BestSetups:
    """The best setup of each symbol so far."""

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
    """Find each candidate's best setup in today's finished bars; keep the `cfg.keep` most convincing.

    Reads   frame: prev_close, momentum_pct, news_rank; bars: symbol, timestamp (start), open, high, low, close,
            volume, 1- or 5-minute, sorted. Bars of earlier sessions and unfinished ones are not looked at.
    Writes  side (long | short); pattern, pattern_trigger, pattern_stop, pattern_target (dollars),
            pattern_confidence [0, 1], pattern_from (start of its first bar), pattern_bars (how many it spans);
            chart_bars, today's bars seen; pattern_rank.
    Raises  ValueError for a naive `now` or unsorted bars.

    Confidence is 0.40 shape, 0.35 volume since the break (against the hour before it), 0.25 room left to the
    target. Switched off (`enabled`), or not `required` and nothing found: the row passes without levels, neutral,
    and its side is the way its price has moved.
    """
    sieve = StageFilter(frame, "pattern")
    today = bars_since(finished_bars(bars, now, bar_minutes), session.open)
    grid = bar_matrix_of(today[today["symbol"].isin(frame.index[sieve.remaining])])
    rows = grid.row_indices(frame.index)
    seen = np.where(rows >= 0, grid.counts[rows] if grid.counts.size else 0, 0)
    if enabled:
        ended = _in_frame_order(grid.at_last_bar(grid.time), rows) + 60 * bar_minutes
        age = (require_aware(now) - ended) / 60
        sieve.refuse(seen == 0, "no finished bar of today")
        sieve.refuse(
            age > cfg.max_bar_age_minutes,
            f"last bar ended %.0f min ago, limit {cfg.max_bar_age_minutes:g}",
            age,
        )
    best = (
        _find_best_setups(grid, frame, rows, session, cfg, bar_minutes, allow_short=allow_short)
        if enabled
        else None
    )
    columns = _pattern_columns(best, grid, rows, frame, allow_short=allow_short)
    confidence: Floats = columns["pattern_confidence"]
    if enabled:
        weak = ~(confidence >= cfg.min_confidence)
        if required:
            sieve.refuse(np.isnan(confidence), "no pattern in %d bars", seen)
            sieve.refuse(weak, f"pattern confidence %.2f, limit {cfg.min_confidence:g}", confidence)
    order = np.where(np.isnan(confidence), -float_values(frame, "news_rank", 0.0) / 1e6, confidence)
    ranks = sieve.keep_best(order, cfg.max_candidates, "rank %d of %d by pattern; the stage keeps %d")
    return sieve.to_frame(**columns, chart_bars=seen.astype(np.float64), pattern_rank=ranks)


def _in_frame_order(values: Floats, rows: Ints) -> Floats:
    """Values by grid row, in the order of the frame."""
    return np.where(rows >= 0, values[rows], np.nan) if values.size else np.full(rows.size, np.nan)


def _find_best_setups(
    grid: BarMatrix,
    frame: pd.DataFrame,
    rows: Ints,
    session: Session,
    cfg: PatternConfig,
    bar_minutes: int,
    *,
    allow_short: bool,
) -> BestSetups:
    prev = np.full(grid.counts.size, np.nan)
    prev[rows[rows >= 0]] = float_values(frame, "prev_close")[rows >= 0]
    reach = true_range(grid.high, grid.low, grid.close)
    if reach.shape[1]:
        reach[:, 0] = grid.high[:, 0] - grid.low[:, 0]
    chart = chart_of(
        grid, vwap(grid.high, grid.low, grid.close, grid.volume), reach, session.open.timestamp(), prev,
        bar_minutes=bar_minutes, pivot_bars=max(1, round(cfg.pivot_minutes / bar_minutes)),
        tail_bars=max(1, round(cfg.max_trigger_age_minutes / bar_minutes)) + 1,
    )  # fmt: skip
    none = np.full(grid.counts.size, np.nan)
    blank = np.full(grid.counts.size, None, dtype=object)
    best = BestSetups(
        blank,
        blank.copy(),
        none,
        none.copy(),
        none.copy(),
        none.copy(),
        np.full(grid.counts.size, -1, dtype=np.int64),
    )
    sides = (PositionSide.LONG, PositionSide.SHORT) if allow_short else (PositionSide.LONG,)
    for side in sides if grid.counts.size else ():
        sign = 1.0 if side is PositionSide.LONG else -1.0
        upright = chart if side is PositionSide.LONG else chart.mirrored()
        for each in PATTERNS:
            for back in range(each.pivot_skips):
                with np.errstate(all="ignore"):
                    setups = each.detect(upright, cfg, back)
                    confidence = _confidence(upright, setups, cfg)
                name = each.long_name if side is PositionSide.LONG else each.short_name
                _replace_with_better(best, setups, confidence, name, side, sign)
    return best


def _confidence(chart: Chart, setups: Setups, cfg: PatternConfig) -> Floats:
    """How convincing each setup is; NaN where it has not just been triggered, or has mostly run."""
    run = bars_above(chart, setups.trigger)
    way = setups.target - setups.trigger
    gone = (chart.last_close - setups.trigger) / way
    fires = (
        setups.found
        & (run >= 1)
        & (run < chart.recent_closes.shape[1])
        & (run < chart.bar_count)
        & (way > 0)
        & (gone <= cfg.max_extension)
        & (setups.stop < chart.last_close)
    )
    broke = chart.bar_count - run
    hour = max(1, round(60 / chart.bar_minutes))
    breaking = mean_volume(chart, broke, chart.bar_count)
    before = mean_volume(chart, np.maximum(broke - hour, 0), broke)
    volume = np.clip((breaking / before - 0.6) / 1.2, 0.0, 1.0)
    room = 1 - gone / cfg.max_extension if cfg.max_extension > 0 else 1.0 - 0.0 * gone
    score = (
        _SHAPE_WEIGHT * setups.shape
        + _VOLUME_WEIGHT * mean_quality(volume)
        + _ROOM_WEIGHT * mean_quality(room)
    )
    return np.where(fires, score, np.nan)


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
    best: BestSetups | None, grid: BarMatrix, rows: Ints, frame: pd.DataFrame, *, allow_short: bool
) -> dict[str, Any]:
    """The stage's columns in the order of the frame; the way of the price where no pattern gives a side."""
    size = rows.size
    moved_down = float_values(frame, "momentum_pct", 0.0) < 0
    side = np.where(moved_down & allow_short, PositionSide.SHORT.value, PositionSide.LONG.value).astype(
        object
    )
    name = np.full(size, None, dtype=object)
    none = np.full(size, np.nan)
    if best is None or not grid.counts.size:
        return {
            "side": pd.array(side, dtype="str"), "pattern": pd.array(name, dtype="str"),
            "pattern_trigger": none, "pattern_stop": none, "pattern_target": none, "pattern_confidence": none,
            "pattern_from": pd.to_datetime(none, unit="s", utc=True), "pattern_bars": none,
        }  # fmt: skip
    has = (rows >= 0) & np.isfinite(_in_frame_order(best.confidence, rows))
    name[has], side[has] = best.name[rows[has]], best.side[rows[has]]
    began = np.where(has, _in_frame_order(value_at(grid.time, best.first), rows), np.nan)
    spans = np.where(has, _in_frame_order((grid.counts - best.first).astype(np.float64), rows), np.nan)
    return {
        "side": pd.array(side, dtype="str"),
        "pattern": pd.array(name, dtype="str"),
        "pattern_trigger": _in_frame_order(best.trigger, rows),
        "pattern_stop": _in_frame_order(best.stop, rows),
        "pattern_target": _in_frame_order(best.target, rows),
        "pattern_confidence": _in_frame_order(best.confidence, rows),
        "pattern_from": pd.to_datetime(began, unit="s", utc=True),
        "pattern_bars": spans,
    }
