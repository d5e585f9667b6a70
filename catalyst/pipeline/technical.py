"""Stage 5 of 8: checks that the indicators agree with the setup's side and that the move is not exhausted."""

from collections.abc import Mapping
from datetime import datetime
from itertools import pairwise
from typing import Final

import numpy as np
import pandas as pd

from catalyst.config.schema import TechnicalConfig
from catalyst.domain.session import Session
from catalyst.pipeline.bar_matrix import (
    BarMatrix,
    bar_matrix_of,
    bars_since,
    finished_bars,
    regular_hours_bars,
    resample_bars,
)
from catalyst.pipeline.frame import Floats, Ints, StageFilter, float_values, require_aware, text_values
from catalyst.pipeline.indicators import adx, atr, bollinger, ema, macd, obv, rsi, slope, stochastic, vwap
from catalyst.pipeline.reference import earlier_days

# Positions last hours, so stops use the noise (ATR) of bars of this length, whatever bars the stage reads.
NOISE_MINUTES: Final = 5.0
_SESSION_MINUTES: Final = 390.0
_OBV_WINDOW: Final = 20


def technical(
    frame: pd.DataFrame,
    bars: pd.DataFrame,
    daily: pd.DataFrame,
    session: Session,
    now: datetime,
    cfg: TechnicalConfig,
    *,
    bar_minutes: int,
) -> pd.DataFrame:
    """Let the indicators of three timeframes vote on each candidate's side; keep the best `cfg.max_candidates`.

    Reads   frame: side, price, atr_14d, pattern_confidence; bars: 1- or 5-minute, today's and (if there are any)
            earlier sessions'; daily: bars of earlier days. Unfinished bars, bars outside regular hours and today's
            daily bar are ignored.
    Writes  rsi, macd, macd_signal, bollinger_upper, _middle, _lower and _place (0 lower band, 1 upper),
            atr, adx, plus_di, minus_di, ema_9,
            ema_20, ema_50, obv_slope (shares a bar, over the mean volume), stoch_k, stoch_d of the bars given, NaN
            until warm; vwap and vwap_distance_pct of today; daily_rsi, daily_adx, daily_ema_20, daily_ema_50;
            votes (number of warm ones), votes_of (number of all); agreement [0, 1]; stop_atr, dollars;
            technical_rank.
    Raises  ValueError for a naive `now` or unsorted bars.
    Source  see `indicator_votes` for every vote. A timeframe's agreement is the mean of its warm votes; the total is
            their weighted mean, mapped from [-1, 1] for the candidate's side to [0, 1].

    stop_atr is the ATR of a five-minute bar: from the given bars once warm (scaled by the square root of time for
    another length), else the daily ATR times sqrt(5 / 390). Fewer than `cfg.min_votes` warm votes refuse the row.
    """
    stage_filter = StageFilter(frame, "technical")
    symbols = frame.index[stage_filter.remaining]
    session_bars = regular_hours_bars(_bars_of(finished_bars(bars, now, bar_minutes), symbols))
    intraday = bar_matrix_of(session_bars)
    quarter = resample_bars(intraday, session.open.timestamp(), 900.0, require_aware(now))
    day = bar_matrix_of(_bars_of(earlier_days(daily, session.day), symbols))
    today = bar_matrix_of(bars_since(session_bars, session.open))
    by_timeframe = [
        _indicator_values(matrix, matrix.row_indices(frame.index)) for matrix in (intraday, quarter, day)
    ]
    today_vwap = _vwap_values(today, today.row_indices(frame.index))
    price = float_values(frame, "price")
    sign = np.where(text_values(frame, "side") == "short", -1.0, 1.0)
    votes_by_timeframe = [indicator_votes(values, price) for values in by_timeframe]
    votes_by_timeframe[0]["vwap"] = np.sign(price - today_vwap["vwap"])
    weights = (cfg.weight_intraday, cfg.weight_quarter_hour, cfg.weight_daily)
    agreement, warm, total = _agreement(votes_by_timeframe, weights, sign)
    move = _moves_in_atr(frame, today_vwap["vwap"], sign)
    stop_atr = _stop_atr(by_timeframe[0]["atr"], float_values(frame, "atr_14d"), bar_minutes)
    stage_filter.refuse(
        warm < cfg.min_votes,
        f"not enough history (%d of %d votes, {cfg.min_votes} needed)",
        warm,
        float(total),
    )
    _refuse_exhausted(stage_filter, by_timeframe[0]["rsi"], move, sign, cfg)
    stage_filter.refuse(
        ~(agreement >= cfg.min_agreement), f"indicators agree %.2f with a %s, limit {cfg.min_agreement:g}",
        agreement, text_values(frame, "side"),
    )  # fmt: skip
    confidence = float_values(frame, "pattern_confidence")
    order = (agreement + np.where(np.isfinite(confidence), confidence, 0.5)) / 2
    ranks = stage_filter.keep_best(
        order, cfg.max_candidates, "rank %d of %d by agreement and pattern; the stage keeps %d"
    )
    return stage_filter.to_frame(
        **by_timeframe[0], **today_vwap,
        daily_rsi=by_timeframe[2]["rsi"], daily_adx=by_timeframe[2]["adx"], daily_ema_20=by_timeframe[2]["ema_20"],
        daily_ema_50=by_timeframe[2]["ema_50"],
        votes=warm, votes_of=float(total), agreement=agreement, move_atr=move[0], vwap_atr=move[1],
        stop_atr=stop_atr, technical_rank=ranks,
    )  # fmt: skip


def _bars_of(bars: pd.DataFrame, symbols: pd.Index) -> pd.DataFrame:
    return bars[bars["symbol"].isin(symbols)]


def _indicator_values(matrix: BarMatrix, rows: Ints) -> dict[str, Floats]:
    """Return the indicators at each symbol's last bar, in the order of the frame."""
    nine, twenty, fifty = ema(matrix.close, 9, 20, 50)
    macd_values, bands = macd(matrix.close), bollinger(matrix.close)
    trend, oscillator = (
        adx(matrix.high, matrix.low, matrix.close),
        stochastic(matrix.high, matrix.low, matrix.close),
    )
    obv_slope = slope(obv(matrix.close, matrix.volume), _OBV_WINDOW)
    matrices = {
        "rsi": rsi(matrix.close), "macd": macd_values.line, "macd_signal": macd_values.signal,
        "bollinger_upper": bands.upper, "bollinger_middle": bands.middle, "bollinger_lower": bands.lower,
        "atr": atr(matrix.high, matrix.low, matrix.close), "adx": trend.adx, "plus_di": trend.plus,
        "minus_di": trend.minus, "ema_9": nine, "ema_20": twenty, "ema_50": fifty, "obv_slope": obv_slope,
        "stoch_k": oscillator.k, "stoch_d": oscillator.d,
    }  # fmt: skip
    out = {name: _in_frame_order(matrix.at_last_bar(values), rows) for name, values in matrices.items()}
    mean_volume = np.where(matrix.filled, matrix.volume, 0.0).sum(axis=1) / np.maximum(matrix.counts, 1)
    with np.errstate(all="ignore"):
        width = out["bollinger_upper"] - out["bollinger_lower"]
        out["bollinger_place"] = (
            _in_frame_order(matrix.at_last_bar(matrix.close), rows) - out["bollinger_lower"]
        ) / np.where(width > 0, width, np.nan)
        out["obv_slope"] = np.clip(out["obv_slope"] / _in_frame_order(mean_volume, rows), -9.0, 9.0)
    return out


def _in_frame_order(values: Floats, rows: Ints) -> Floats:
    return np.where(rows >= 0, values[rows], np.nan) if values.size else np.full(rows.size, np.nan)


def _vwap_values(today: BarMatrix, rows: Ints) -> dict[str, Floats]:
    """Return today's VWAP, and the distance of the last close from it in percent."""
    level = today.at_last_bar(vwap(today.high, today.low, today.close, today.volume))
    with np.errstate(all="ignore"):
        distance = (today.at_last_bar(today.close) / level - 1) * 100
    return {"vwap": _in_frame_order(level, rows), "vwap_distance_pct": _in_frame_order(distance, rows)}


def indicator_votes(values: Mapping[str, Floats], price: Floats) -> dict[str, Floats]:
    """Return each indicator's vote in [-1, 1], 1 for rising; NaN until it is warm.

    rsi          (RSI - 50) / 20, clipped: momentum, not reversal (a day trade follows the move)
    macd         the sign of the histogram
    bollinger    the price's position between the bands, -1 at the lower, 1 at the upper
    adx          the side of the larger directional indicator, times ADX / 25, clipped
    ema          price above EMA 9, 9 above 20, 20 above 50: the mean of the comparisons that are warm
    obv          the slope of on-balance volume, in mean volumes per bar, doubled, clipped
    stochastics  half: the sign of %K - %D; half: %K's position in the range, clipped
    """
    with np.errstate(all="ignore"):
        width = values["bollinger_upper"] - values["bollinger_middle"]
        averages = [price, values["ema_9"], values["ema_20"], values["ema_50"]]
        comparisons = np.stack([np.sign(upper - lower) for upper, lower in pairwise(averages)])
        warm = np.isfinite(comparisons)
        ema_vote = np.where(warm.any(axis=0), np.nansum(comparisons, axis=0) / warm.sum(axis=0), np.nan)
        return {
            "rsi": np.clip((values["rsi"] - 50) / 20, -1, 1),
            "macd": np.sign(values["macd"] - values["macd_signal"]),
            "bollinger": np.clip(np.where(width > 0, (price - values["bollinger_middle"]) / width, 0 * width), -1, 1),
            "adx": np.sign(values["plus_di"] - values["minus_di"]) * np.clip(values["adx"] / 25, 0, 1),
            "ema": ema_vote,
            "obv": np.clip(2 * values["obv_slope"], -1, 1),
            "stochastics": (
                np.sign(values["stoch_k"] - values["stoch_d"]) + np.clip((values["stoch_k"] - 50) / 30, -1, 1)
            )
            / 2,
        }  # fmt: skip


def _agreement(
    votes_by_timeframe: list[dict[str, Floats]], weights: tuple[float, ...], sign: Floats
) -> tuple[Floats, Floats, int]:
    """Return the agreement with the side in [0, 1], the number of warm votes, and the number of all votes."""
    means, counts = [], []
    for votes in votes_by_timeframe:
        votes_matrix = np.stack(list(votes.values()))
        warm = np.isfinite(votes_matrix)
        count = warm.sum(axis=0)
        total = np.where(warm, votes_matrix, 0.0).sum(axis=0)
        means.append(np.divide(total, count, out=np.zeros(count.size), where=count > 0))
        counts.append(count)
    used_weights = np.stack([weight * (count > 0) for weight, count in zip(weights, counts, strict=True)])
    total_weight = used_weights.sum(axis=0)
    mean = np.divide(
        (used_weights * np.stack(means)).sum(axis=0),
        total_weight,
        out=np.full(sign.size, np.nan),
        where=total_weight > 0,
    )
    warm_votes = np.sum(counts, axis=0).astype(np.float64)
    return (1 + sign * mean) / 2, warm_votes, sum(len(votes) for votes in votes_by_timeframe)


def _moves_in_atr(frame: pd.DataFrame, level: Floats, sign: Floats) -> tuple[Floats, Floats]:
    """Return the move since the open and the distance from VWAP, in daily ATRs, positive in the side's direction."""
    price, daily_atr = float_values(frame, "price"), float_values(frame, "atr_14d")
    with np.errstate(all="ignore"):
        open_price = price / (1 + float_values(frame, "momentum_open_pct") / 100)
        return sign * (price - open_price) / daily_atr, sign * (price - level) / daily_atr


def _stop_atr(intraday: Floats, daily: Floats, bar_minutes: int) -> Floats:
    warm = intraday * np.sqrt(NOISE_MINUTES / bar_minutes)
    scaled = daily * np.sqrt(NOISE_MINUTES / _SESSION_MINUTES)
    chosen: Floats = np.where(np.isfinite(warm), warm, scaled)
    return chosen


def _refuse_exhausted(
    stage_filter: StageFilter,
    rsi_value: Floats,
    move: tuple[Floats, Floats],
    sign: Floats,
    cfg: TechnicalConfig,
) -> None:
    """Refuse exhausted moves: too high an RSI, or too far from the open or from VWAP. Unknown values pass."""
    side_rsi = np.where(sign > 0, rsi_value, 100 - rsi_value)
    stage_filter.refuse(
        side_rsi > cfg.max_rsi, f"exhausted: RSI %.0f with the move, limit {cfg.max_rsi:g}", side_rsi
    )
    stage_filter.refuse(
        move[0] > cfg.max_move_atr,
        f"exhausted: %.1f daily ATRs from the open, limit {cfg.max_move_atr:g}",
        move[0],
    )
    stage_filter.refuse(
        move[1] > cfg.max_vwap_distance_atr,
        f"exhausted: %.1f daily ATRs from VWAP, limit {cfg.max_vwap_distance_atr:g}",
        move[1],
    )
