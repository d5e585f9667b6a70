"""Stage 5 of 8: do the indicators agree with the setup's side, and is the move not yet spent?"""

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

# A position lives for hours: stops are set against the noise of this bar, whatever bars we were given.
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
    """Let the indicators of three timeframes vote on each candidate's side; keep the `cfg.keep` most agreed on.

    Reads   frame: side, price, atr_14d, pattern_confidence; bars: 1- or 5-minute, today's and (if there are any)
            earlier sessions'; daily: bars of earlier days. Unfinished bars, those outside regular hours and today's
            daily bar are not looked at.
    Writes  rsi, macd, macd_signal, bollinger_upper, _middle, _lower and _place (0 lower band, 1 upper),
            atr, adx, plus_di, minus_di, ema_9,
            ema_20, ema_50, obv_slope (shares a bar, over the mean volume), stoch_k, stoch_d of the bars given, NaN
            until warm; vwap and vwap_distance_pct of today; daily_rsi, daily_adx, daily_ema_20, daily_ema_50;
            votes (how many were warm), votes_of; agreement [0, 1]; stop_atr, dollars; technical_rank.
    Raises  ValueError for a naive `now` or unsorted bars.
    Source  see `votes_on` for every vote. A timeframe's agreement is the mean of its warm votes; the whole is
            their weighted mean, mapped from [-1, 1] for the candidate's side to [0, 1].

    stop_atr is the ATR of a five-minute bar: from the bars given once warm (scaled by the root of time when they
    are of another length), else the daily ATR times sqrt(5 / 390). Fewer warm votes than `cfg.quorum` refuse.
    """
    sieve = StageFilter(frame, "technical")
    wanted = frame.index[sieve.remaining]
    known = regular_hours_bars(_bars_of(finished_bars(bars, now, bar_minutes), wanted))
    fine = bar_matrix_of(known)
    quarter = resample_bars(fine, session.open.timestamp(), 900.0, require_aware(now))
    day = bar_matrix_of(_bars_of(earlier_days(daily, session.day), wanted))
    today = bar_matrix_of(bars_since(known, session.open))
    read = [_indicator_values(grid, grid.row_indices(frame.index)) for grid in (fine, quarter, day)]
    anchored = _vwap_values(today, today.row_indices(frame.index))
    price = float_values(frame, "price")
    sign = np.where(text_values(frame, "side") == "short", -1.0, 1.0)
    frames = [indicator_votes(values, price) for values in read]
    frames[0]["vwap"] = np.sign(price - anchored["vwap"])
    weights = (cfg.weight_intraday, cfg.weight_quarter_hour, cfg.weight_daily)
    agreement, warm, total = _agreement(frames, weights, sign)
    move = _moves_in_atr(frame, anchored["vwap"], sign)
    stop_atr = _stop_atr(read[0]["atr"], float_values(frame, "atr_14d"), bar_minutes)
    sieve.refuse(
        warm < cfg.min_votes,
        f"not enough history (%d of %d votes, {cfg.min_votes} needed)",
        warm,
        float(total),
    )
    _refuse_spent(sieve, read[0]["rsi"], move, sign, cfg)
    sieve.refuse(
        ~(agreement >= cfg.min_agreement), f"indicators agree %.2f with a %s, limit {cfg.min_agreement:g}",
        agreement, text_values(frame, "side"),
    )  # fmt: skip
    confidence = float_values(frame, "pattern_confidence")
    order = (agreement + np.where(np.isfinite(confidence), confidence, 0.5)) / 2
    ranks = sieve.keep_best(
        order, cfg.max_candidates, "rank %d of %d by agreement and pattern; the stage keeps %d"
    )
    return sieve.to_frame(
        **read[0], **anchored,
        daily_rsi=read[2]["rsi"], daily_adx=read[2]["adx"], daily_ema_20=read[2]["ema_20"],
        daily_ema_50=read[2]["ema_50"],
        votes=warm, votes_of=float(total), agreement=agreement, move_atr=move[0], vwap_atr=move[1],
        stop_atr=stop_atr, technical_rank=ranks,
    )  # fmt: skip


def _bars_of(bars: pd.DataFrame, symbols: pd.Index) -> pd.DataFrame:
    return bars[bars["symbol"].isin(symbols)]


def _indicator_values(grid: BarMatrix, rows: Ints) -> dict[str, Floats]:
    """The indicators at each symbol's last bar, in the order of the frame."""
    nine, twenty, fifty = ema(grid.close, 9, 20, 50)
    moving, bands = macd(grid.close), bollinger(grid.close)
    trend, oscillator = adx(grid.high, grid.low, grid.close), stochastic(grid.high, grid.low, grid.close)
    flow = slope(obv(grid.close, grid.volume), _OBV_WINDOW)
    last = {
        "rsi": rsi(grid.close), "macd": moving.line, "macd_signal": moving.signal,
        "bollinger_upper": bands.upper, "bollinger_middle": bands.middle, "bollinger_lower": bands.lower,
        "atr": atr(grid.high, grid.low, grid.close), "adx": trend.adx, "plus_di": trend.plus,
        "minus_di": trend.minus, "ema_9": nine, "ema_20": twenty, "ema_50": fifty, "obv_slope": flow,
        "stoch_k": oscillator.k, "stoch_d": oscillator.d,
    }  # fmt: skip
    out = {name: _in_frame_order(grid.at_last_bar(values), rows) for name, values in last.items()}
    usual = np.where(grid.filled, grid.volume, 0.0).sum(axis=1) / np.maximum(grid.counts, 1)
    with np.errstate(all="ignore"):
        width = out["bollinger_upper"] - out["bollinger_lower"]
        out["bollinger_place"] = (
            _in_frame_order(grid.at_last_bar(grid.close), rows) - out["bollinger_lower"]
        ) / np.where(width > 0, width, np.nan)
        out["obv_slope"] = np.clip(out["obv_slope"] / _in_frame_order(usual, rows), -9.0, 9.0)
    return out


def _in_frame_order(values: Floats, rows: Ints) -> Floats:
    return np.where(rows >= 0, values[rows], np.nan) if values.size else np.full(rows.size, np.nan)


def _vwap_values(today: BarMatrix, rows: Ints) -> dict[str, Floats]:
    """Today's VWAP and how far the last close is from it."""
    level = today.at_last_bar(vwap(today.high, today.low, today.close, today.volume))
    with np.errstate(all="ignore"):
        distance = (today.at_last_bar(today.close) / level - 1) * 100
    return {"vwap": _in_frame_order(level, rows), "vwap_distance_pct": _in_frame_order(distance, rows)}


def indicator_votes(values: Mapping[str, Floats], price: Floats) -> dict[str, Floats]:
    """Each indicator's vote in [-1, 1], 1 for rising; NaN until it is warm.

    rsi          (RSI - 50) / 20, cut: momentum, not reversal (a day trade goes with the move)
    macd         the sign of the histogram
    bollinger    where the price stands between the bands, -1 lower to 1 upper
    adx          the side of the larger directional indicator, times ADX / 25, cut
    ema          the price above EMA 9, 9 above 20, 20 above 50: the mean of the comparisons that are warm
    obv          the slope of on-balance volume, in mean volumes a bar, doubled, cut
    stochastics  %K against %D, half a vote; on the price's half of the range, the other half
    """
    with np.errstate(all="ignore"):
        width = values["bollinger_upper"] - values["bollinger_middle"]
        ladder = [price, values["ema_9"], values["ema_20"], values["ema_50"]]
        steps = np.stack([np.sign(upper - lower) for upper, lower in pairwise(ladder)])
        warm = np.isfinite(steps)
        ladder_vote = np.where(warm.any(axis=0), np.nansum(steps, axis=0) / warm.sum(axis=0), np.nan)
        return {
            "rsi": np.clip((values["rsi"] - 50) / 20, -1, 1),
            "macd": np.sign(values["macd"] - values["macd_signal"]),
            "bollinger": np.clip(np.where(width > 0, (price - values["bollinger_middle"]) / width, 0 * width), -1, 1),
            "adx": np.sign(values["plus_di"] - values["minus_di"]) * np.clip(values["adx"] / 25, 0, 1),
            "ema": ladder_vote,
            "obv": np.clip(2 * values["obv_slope"], -1, 1),
            "stochastics": (
                np.sign(values["stoch_k"] - values["stoch_d"]) + np.clip((values["stoch_k"] - 50) / 30, -1, 1)
            )
            / 2,
        }  # fmt: skip


def _agreement(
    frames: list[dict[str, Floats]], weights: tuple[float, ...], sign: Floats
) -> tuple[Floats, Floats, int]:
    """Agreement with the side [0, 1], the number of warm votes, and how many there could have been."""
    means, counts = [], []
    for votes in frames:
        cast = np.stack(list(votes.values()))
        warm = np.isfinite(cast)
        count = warm.sum(axis=0)
        total = np.where(warm, cast, 0.0).sum(axis=0)
        means.append(np.divide(total, count, out=np.zeros(count.size), where=count > 0))
        counts.append(count)
    share = np.stack([weight * (count > 0) for weight, count in zip(weights, counts, strict=True)])
    whole = share.sum(axis=0)
    mean = np.divide(
        (share * np.stack(means)).sum(axis=0), whole, out=np.full(sign.size, np.nan), where=whole > 0
    )
    warm_votes = np.sum(counts, axis=0).astype(np.float64)
    return (1 + sign * mean) / 2, warm_votes, sum(len(votes) for votes in frames)


def _moves_in_atr(frame: pd.DataFrame, level: Floats, sign: Floats) -> tuple[Floats, Floats]:
    """The way gone since the open and from VWAP, in daily ATRs, positive with the side."""
    price, usual = float_values(frame, "price"), float_values(frame, "atr_14d")
    with np.errstate(all="ignore"):
        opened = price / (1 + float_values(frame, "momentum_open_pct") / 100)
        return sign * (price - opened) / usual, sign * (price - level) / usual


def _stop_atr(intraday: Floats, daily: Floats, bar_minutes: int) -> Floats:
    warm = intraday * np.sqrt(NOISE_MINUTES / bar_minutes)
    scaled = daily * np.sqrt(NOISE_MINUTES / _SESSION_MINUTES)
    chosen: Floats = np.where(np.isfinite(warm), warm, scaled)
    return chosen


def _refuse_spent(
    sieve: StageFilter, strength: Floats, move: tuple[Floats, Floats], sign: Floats, cfg: TechnicalConfig
) -> None:
    """A move that has run its day's length, or is stretched, is somebody else's profit. Unknown is not spent."""
    along = np.where(sign > 0, strength, 100 - strength)
    sieve.refuse(along > cfg.max_rsi, f"spent: RSI %.0f with the move, limit {cfg.max_rsi:g}", along)
    sieve.refuse(
        move[0] > cfg.max_move_atr,
        f"spent: %.1f daily ATRs from the open, limit {cfg.max_move_atr:g}",
        move[0],
    )
    sieve.refuse(
        move[1] > cfg.max_vwap_distance_atr,
        f"spent: %.1f daily ATRs from VWAP, limit {cfg.max_vwap_distance_atr:g}",
        move[1],
    )
