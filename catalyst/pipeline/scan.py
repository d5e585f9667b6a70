"""Stage 2 of 8: selects the stocks in play from one snapshot of the whole market."""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from typing import Any, Final

import numpy as np
import pandas as pd

from catalyst.config.schema import ScanConfig
from catalyst.domain.session import Session
from catalyst.pipeline.frame import Bools, Floats, StageFilter, aligned_reader, percentile, require_aware
from catalyst.pipeline.volume_curve import usual_volume_share

PriceHistory = Sequence[tuple[datetime, "pd.Series[Any]"]]

# The day's trades may begin this long before the open (04:00 for a 09:30 open).
PRE_MARKET: Final = timedelta(hours=5, minutes=30)
# A ratio of today's price to yesterday's close this near to a whole number (or one over it) suggests a split.
_SPLIT_TOLERANCE: Final = 0.02
_SKEW_SECONDS: Final = 5.0
_WEIGHTS: Final = {"momentum_open_pct": 0.5, "momentum_15m_pct": 0.3, "momentum_5m_pct": 0.2}


def scan(
    frame: pd.DataFrame,
    snapshots: pd.DataFrame,
    ref: pd.DataFrame,
    session: Session,
    now: datetime,
    cfg: ScanConfig,
    *,
    allow_short: bool,
    halted: AbstractSet[str] = frozenset(),
    earlier: PriceHistory = (),
) -> pd.DataFrame:
    """Refuse stocks with poor data or not in play; rank the rest and keep the best `cfg.max_candidates`.

    Reads   frame; snapshots by symbol (trade_, quote, day_ and prev_ columns; missing is NaN); ref, the result of
            `reference`; earlier: (time, last prices by symbol) of earlier snapshots, at any spacing.
    Writes  price, bid, ask, spread_bps; prev_close, gap_pct (open, or before it the price, against it);
            volume, relative_volume (volume so far over the usual volume by this minute), dollar_volume (today),
            avg_dollar_volume, minute_volume (shares per minute today); momentum_open_pct, momentum_5m_pct,
            momentum_15m_pct and their blend momentum_pct (signed); atr_14d; percentiles volume_score and
            momentum_score (1 the strongest rise, 0 the deepest fall); scan_score, the weighted mean of volume,
            momentum, gap and liquidity; scan_rank.
    Raises  ValueError for a naive `now`.
    Source  relative volume: volume_curve. The blend uses only the momentum windows that have data.

    Long-only ranks high momentum first; with shorts allowed strong rises and falls rank alike. Before the first print
    of the day every row is refused with `no pre-market data`.
    """
    read, usual = aligned_reader(snapshots, frame.index), aligned_reader(ref, frame.index)
    now_s = require_aware(now)
    stage_filter = StageFilter(frame, "scan")
    facts = _row_values(read, usual, session, now)
    facts |= _momentum(facts["price"], read("day_open"), frame.index, session, now, earlier)
    _refuse_without_trade(stage_filter, read, session, now_s, frame.index.isin(list(halted)))
    _refuse_poor_quotes(stage_filter, read, facts, now_s, cfg)
    _refuse_implausible(stage_filter, facts, read, usual, session, cfg)
    if now >= session.open:
        _refuse_inconsistent_day_bar(stage_filter, facts, read, session)
    _refuse_outside_limits(stage_filter, facts, cfg, opened=now >= session.open)
    scores = _scores(facts, stage_filter.remaining, cfg, allow_short=allow_short)
    ranks = stage_filter.keep_best(
        scores["scan_score"], cfg.max_candidates, "rank %d of %d by scan score; the scan keeps %d"
    )
    return stage_filter.to_frame(**facts, **scores, scan_rank=ranks)


def _row_values(read: Any, usual: Any, session: Session, now: datetime) -> dict[str, Floats]:
    """Return the numbers of each row; any of them may be NaN, because no row is refused here."""
    price, bid, ask = read("trade_price"), read("bid"), read("ask")
    prev = np.where(np.isfinite(read("prev_close")), read("prev_close"), usual("prev_close"))
    minutes = (min(now, session.close) - session.open).total_seconds() / 60
    length = (session.close - session.open).total_seconds() / 60
    opened = minutes >= 0
    no_value = np.full(len(price), np.nan)
    volume = read("day_volume") if opened else no_value
    with np.errstate(all="ignore"):
        expected = usual("avg_volume_20d") * usual_volume_share(minutes, length)
        vwap = read("day_vwap")
        return {
            "price": price,
            "bid": bid,
            "ask": ask,
            "spread_bps": (ask - bid) / ((ask + bid) / 2) * 1e4,
            "prev_close": prev,
            "gap_pct": ((read("day_open") if opened else price) / prev - 1) * 100,
            "volume": volume,
            "relative_volume": volume / np.where(expected > 0, expected, np.nan),
            "dollar_volume": volume
            * np.where((vwap >= read("day_low")) & (vwap <= read("day_high")), vwap, price),
            "avg_dollar_volume": usual("avg_dollar_volume_20d"),
            "minute_volume": volume / max(minutes, 1.0),
            "atr_14d": usual("atr_14d"),
        }


def _momentum(
    price: Floats, day_open: Floats, index: pd.Index, session: Session, now: datetime, earlier: PriceHistory
) -> dict[str, Floats]:
    """Return the moves since the open, over 15 and over 5 minutes, and their blend, in percent; NaN where unknown."""
    moves: dict[str, Floats] = {}
    with np.errstate(all="ignore"):
        open_price = day_open if now >= session.open else np.full(len(price), np.nan)
        moves["momentum_open_pct"] = (price / np.where(open_price > 0, open_price, np.nan) - 1) * 100
        for minutes, slack in ((15, 4), (5, 2)):
            past_price = _price_at(index, earlier, now - timedelta(minutes=minutes), timedelta(minutes=slack))
            moves[f"momentum_{minutes}m_pct"] = (
                price / np.where(past_price > 0, past_price, np.nan) - 1
            ) * 100
    total, weight = np.zeros(len(price)), np.zeros(len(price))
    for name, share in _WEIGHTS.items():
        present = np.isfinite(moves[name])
        total += np.where(present, moves[name] * share, 0.0)
        weight += present * share
    moves["momentum_pct"] = np.divide(total, weight, out=np.full(len(price), np.nan), where=weight > 0)
    return moves


def _price_at(index: pd.Index, earlier: PriceHistory, at: datetime, slack: timedelta) -> Floats:
    """Return the earlier prices nearest to `at`, at most `slack` away; NaN when there are none."""
    near = [(abs(when - at), prices) for when, prices in earlier if abs(when - at) <= slack]
    if not near:
        return np.full(len(index), np.nan)
    prices = min(near, key=lambda pair: pair[0])[1]
    return prices.reindex(index).to_numpy(dtype=np.float64, na_value=np.nan)


def _refuse_without_trade(
    stage_filter: StageFilter, read: Any, session: Session, now_s: float, halted: Bools
) -> None:
    """Refuse rows without a usable last trade: no trade today, a time in the future, or a trading halt."""
    price, trade_at = read("trade_price"), read("trade_at")
    opened = now_s >= session.open.timestamp()
    day_began = (session.open if opened else session.open - PRE_MARKET).timestamp()
    stage_filter.refuse(halted, "trading is halted")
    no_trade = ~np.isfinite(trade_at) | (trade_at < day_began)
    stage_filter.refuse(no_trade & (not opened), "no pre-market data")
    stage_filter.refuse(~np.isfinite(price) & ~np.isfinite(trade_at), "no snapshot in the market data")
    stage_filter.refuse(no_trade, "no trade since the open")
    stage_filter.refuse(
        ~(price > 0) | ~np.isfinite(price), "last trade price %s is not a positive number", price
    )
    stage_filter.refuse(
        trade_at > now_s + _SKEW_SECONDS, "last trade is %.0f s in the future", trade_at - now_s
    )


def _refuse_poor_quotes(
    stage_filter: StageFilter, read: Any, facts: dict[str, Floats], now_s: float, cfg: ScanConfig
) -> None:
    bid, ask, price = facts["bid"], facts["ask"], facts["price"]
    trade_age, quote_age = now_s - read("trade_at"), now_s - read("quote_at")
    stage_filter.refuse(
        trade_age > cfg.max_trade_age_seconds,
        f"last trade is %.0f s old, limit {cfg.max_trade_age_seconds:g} s", trade_age,
    )  # fmt: skip
    stage_filter.refuse(~(bid > 0) & ~(ask > 0), "no quote")
    stage_filter.refuse(~(bid > 0) | ~(ask > 0), "one-sided quote: bid %s, ask %s", bid, ask)
    stage_filter.refuse(~np.isfinite(bid + ask), "quote is not a number: bid %s, ask %s", bid, ask)
    stage_filter.refuse(bid > ask, "crossed quote: bid %.4g above ask %.4g", bid, ask)
    stage_filter.refuse(~np.isfinite(quote_age), "quote without a time")
    stage_filter.refuse(
        ~(quote_age <= cfg.max_quote_age_seconds),
        f"quote is %.0f s old, limit {cfg.max_quote_age_seconds:g} s", quote_age,
    )  # fmt: skip
    stage_filter.refuse(quote_age < -_SKEW_SECONDS, "quote is %.0f s in the future", -quote_age)
    spread = facts["spread_bps"]
    stage_filter.refuse(
        spread > cfg.max_spread_bps, f"spread %.0f bp, limit {cfg.max_spread_bps:g} bp", spread
    )
    with np.errstate(all="ignore"):
        distance = np.abs(price / ((bid + ask) / 2) - 1) * 100
    stage_filter.refuse(
        distance > cfg.max_quote_distance_pct,
        f"last trade is %.1f %% from the quote, limit {cfg.max_quote_distance_pct:g} %%", distance,
    )  # fmt: skip


def _refuse_implausible(
    stage_filter: StageFilter,
    facts: dict[str, Floats],
    read: Any,
    usual: Any,
    session: Session,
    cfg: ScanConfig,
) -> None:
    """Refuse rows with missing or old history, splits, or a large price jump on little volume."""
    price, prev, relative = facts["price"], facts["prev_close"], facts["relative_volume"]
    days, last_at = usual("days"), usual("last_at")
    stage_filter.refuse(
        ~(days >= cfg.min_history_days),
        f"not enough daily history: %.0f bars, {cfg.min_history_days} needed", np.nan_to_num(days),
    )  # fmt: skip
    history_age = (session.open.timestamp() - last_at) / 86_400
    stage_filter.refuse(~(history_age <= 7), "daily history ends %.0f days ago", history_age)
    stage_filter.refuse(~(prev > 0), "no previous close")
    with np.errstate(all="ignore"):
        ratio, restated = price / prev, read("prev_close") / usual("prev_close")
    stage_filter.refuse(
        np.abs(np.log(np.where(restated > 0, restated, 1.0))) > np.log(1.2),
        "split today: previous close %.4g in the snapshot, %.4g in the daily bars",
        read("prev_close"), usual("prev_close"),
    )  # fmt: skip
    low_volume = ~(relative >= 3)
    stage_filter.refuse(
        ((ratio > 10) | (ratio < 0.1)) & ~(relative >= 10),
        "price is %.2f times the previous close on %.1f times the usual volume", ratio, relative,
    )  # fmt: skip
    stage_filter.refuse(
        _looks_like_split(ratio) & low_volume,
        "looks like a split: price is %.3f times the previous close",
        ratio,
    )


def _looks_like_split(ratio: Floats) -> Bools:
    """Return true where the ratio is within 2 % of 2, 3, 4 … 50 or of one over these."""
    with np.errstate(all="ignore"):
        factor = np.where(ratio > 1, ratio, 1 / ratio)
        whole = np.round(factor)
        is_split: Bools = (whole >= 2) & (whole <= 50) & (np.abs(factor / whole - 1) < _SPLIT_TOLERANCE)
    return is_split


def _refuse_inconsistent_day_bar(
    stage_filter: StageFilter, facts: dict[str, Floats], read: Any, session: Session
) -> None:
    low, high, day_open = read("day_low"), read("day_high"), read("day_open")
    midnight = (session.open - timedelta(hours=9, minutes=30)).timestamp()
    stage_filter.refuse(~(read("day_at") >= midnight), "the day's bar is missing or of an earlier day")
    stage_filter.refuse(~(facts["volume"] > 0), "no volume today")
    stage_filter.refuse(
        ~((low > 0) & (low <= day_open) & (day_open <= high)),
        "the day's bar contradicts itself: open %.4g, high %.4g, low %.4g", day_open, high, low,
    )  # fmt: skip


def _refuse_outside_limits(
    stage_filter: StageFilter, facts: dict[str, Floats], cfg: ScanConfig, *, opened: bool
) -> None:
    price, usual = facts["price"], facts["avg_dollar_volume"]
    stage_filter.refuse(price < cfg.min_price, f"price $%.4g below ${cfg.min_price:g}", price)
    stage_filter.refuse(price > cfg.max_price, f"price $%.2f above ${cfg.max_price:g}", price)
    stage_filter.refuse(
        ~(usual >= cfg.min_dollar_volume),
        f"average dollar volume $%.2f M, limit ${cfg.min_dollar_volume / 1e6:g} M", usual / 1e6,
    )  # fmt: skip
    if opened:
        relative = facts["relative_volume"]
        stage_filter.refuse(~np.isfinite(relative), "usual volume unknown")
        stage_filter.refuse(
            ~(relative >= cfg.min_relative_volume),
            f"relative volume %.2f, limit {cfg.min_relative_volume:g}", relative,
        )  # fmt: skip


def _scores(
    facts: dict[str, Floats], remaining: Bools, cfg: ScanConfig, *, allow_short: bool
) -> dict[str, Floats]:
    """Return the percentiles among the remaining rows, and their weighted mean."""
    volume = percentile(facts["relative_volume"], remaining)
    momentum = percentile(facts["momentum_pct"], remaining)
    # With shorts allowed, the strongest falls and rises count alike.
    momentum_share = np.abs(2 * momentum - 1) if allow_short else momentum
    gap = percentile(np.abs(facts["gap_pct"]), remaining)
    liquidity = percentile(facts["avg_dollar_volume"], remaining)
    total = cfg.weight_volume + cfg.weight_momentum + cfg.weight_gap + cfg.weight_liquidity
    score = (
        cfg.weight_volume * volume
        + cfg.weight_momentum * momentum_share
        + cfg.weight_gap * gap
        + cfg.weight_liquidity * liquidity
    ) / total
    return {"volume_score": volume, "momentum_score": momentum, "scan_score": score}
