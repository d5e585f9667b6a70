"""Stage 2 of 8: which stocks are in play right now, judged from one snapshot of the whole market."""

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

# The tape of the day may begin this long before the open (04:00 for a 09:30 open).
PRE_MARKET: Final = timedelta(hours=5, minutes=30)
# A ratio of today's price to yesterday's close this near to a whole number (or one over it) is a split's mark.
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
    """Refuse what cannot be judged or is not in play; rank the rest and keep the best `cfg.keep`.

    Reads   frame; snapshots by symbol (trade_, quote, day_ and prev_ columns; missing is NaN); ref, as
            `reference` wrote it; earlier: (when, last prices by symbol) of snapshots taken before, any spacing.
    Writes  price, bid, ask, spread_bps; prev_close, gap_pct (open, or before it the price, against it);
            volume, relative_volume (volume so far over what is usual by this minute), dollar_volume (today),
            avg_dollar_volume, minute_volume (shares a minute today); momentum_open_pct, momentum_5m_pct,
            momentum_15m_pct and their blend momentum_pct (signed); atr_14d; percentiles volume_score and
            momentum_score (1 the strongest rise, 0 the deepest fall); scan_score, the weighted mean of volume,
            momentum, gap and liquidity; scan_rank.
    Raises  ValueError for a naive `now`.
    Source  relative volume: volume_curve. Missing momentum windows leave the blend to those there are.

    Long-only ranks momentum upwards; with shorts allowed both ends of it count alike. Before the
    first print of the day every row is refused with `no pre-market data`.
    """
    read, usual = aligned_reader(snapshots, frame.index), aligned_reader(ref, frame.index)
    at = require_aware(now)
    sieve = StageFilter(frame, "scan")
    facts = _row_values(read, usual, session, now)
    facts |= _momentum(facts["price"], read("day_open"), frame.index, session, now, earlier)
    _refuse_without_trade(sieve, read, session, at, frame.index.isin(list(halted)))
    _refuse_poor_quotes(sieve, read, facts, at, cfg)
    _refuse_implausible(sieve, facts, read, usual, session, cfg)
    if now >= session.open:
        _refuse_inconsistent_day_bar(sieve, facts, read, session)
    _refuse_outside_limits(sieve, facts, cfg, opened=now >= session.open)
    scores = _scores(facts, sieve.remaining, cfg, allow_short=allow_short)
    ranks = sieve.keep_best(
        scores["scan_score"], cfg.max_candidates, "rank %d of %d by scan score; the scan keeps %d"
    )
    return sieve.to_frame(**facts, **scores, scan_rank=ranks)


def _row_values(read: Any, usual: Any, session: Session, now: datetime) -> dict[str, Floats]:
    """The plain numbers of each row; nothing is refused here, so anything may be NaN."""
    price, bid, ask = read("trade_price"), read("bid"), read("ask")
    prev = np.where(np.isfinite(read("prev_close")), read("prev_close"), usual("prev_close"))
    minutes = (min(now, session.close) - session.open).total_seconds() / 60
    length = (session.close - session.open).total_seconds() / 60
    opened = minutes >= 0
    nothing = np.full(len(price), np.nan)
    volume = read("day_volume") if opened else nothing
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
    """Moves since the open, over 15 and over 5 minutes, percent; NaN where no earlier price is known."""
    moves: dict[str, Floats] = {}
    with np.errstate(all="ignore"):
        began = day_open if now >= session.open else np.full(len(price), np.nan)
        moves["momentum_open_pct"] = (price / np.where(began > 0, began, np.nan) - 1) * 100
        for minutes, slack in ((15, 4), (5, 2)):
            then = _price_at(index, earlier, now - timedelta(minutes=minutes), timedelta(minutes=slack))
            moves[f"momentum_{minutes}m_pct"] = (price / np.where(then > 0, then, np.nan) - 1) * 100
    total, weight = np.zeros(len(price)), np.zeros(len(price))
    for name, share in _WEIGHTS.items():
        known = np.isfinite(moves[name])
        total += np.where(known, moves[name] * share, 0.0)
        weight += known * share
    moves["momentum_pct"] = np.divide(total, weight, out=np.full(len(price), np.nan), where=weight > 0)
    return moves


def _price_at(index: pd.Index, earlier: PriceHistory, then: datetime, slack: timedelta) -> Floats:
    """The remembered prices nearest to `then`, within `slack` of it."""
    near = [(abs(when - then), prices) for when, prices in earlier if abs(when - then) <= slack]
    if not near:
        return np.full(len(index), np.nan)
    prices = min(near, key=lambda pair: pair[0])[1]
    return prices.reindex(index).to_numpy(dtype=np.float64, na_value=np.nan)


def _refuse_without_trade(sieve: StageFilter, read: Any, session: Session, at: float, halted: Bools) -> None:
    """No print, an old one, one from the future, a halt: there is no price to speak of."""
    price, when = read("trade_price"), read("trade_at")
    opened = at >= session.open.timestamp()
    day_began = (session.open if opened else session.open - PRE_MARKET).timestamp()
    sieve.refuse(halted, "trading is halted")
    silent = ~np.isfinite(when) | (when < day_began)
    sieve.refuse(silent & (not opened), "no pre-market data")
    sieve.refuse(~np.isfinite(price) & ~np.isfinite(when), "no snapshot: the market data omit it")
    sieve.refuse(silent, "no trade since the open")
    sieve.refuse(~(price > 0) | ~np.isfinite(price), "last trade price %s is not a price", price)
    sieve.refuse(when > at + _SKEW_SECONDS, "last trade is %.0f s in the future", when - at)


def _refuse_poor_quotes(
    sieve: StageFilter, read: Any, facts: dict[str, Floats], at: float, cfg: ScanConfig
) -> None:
    bid, ask, price = facts["bid"], facts["ask"], facts["price"]
    trade_age, quote_age = at - read("trade_at"), at - read("quote_at")
    sieve.refuse(
        trade_age > cfg.max_trade_age_seconds,
        f"last trade is %.0f s old, limit {cfg.max_trade_age_seconds:g} s", trade_age,
    )  # fmt: skip
    sieve.refuse(~(bid > 0) & ~(ask > 0), "no quote")
    sieve.refuse(~(bid > 0) | ~(ask > 0), "one-sided quote: bid %s, ask %s", bid, ask)
    sieve.refuse(~np.isfinite(bid + ask), "quote is not a number: bid %s, ask %s", bid, ask)
    sieve.refuse(bid > ask, "crossed quote: bid %.4g above ask %.4g", bid, ask)
    sieve.refuse(~np.isfinite(quote_age), "quote without a time")
    sieve.refuse(
        ~(quote_age <= cfg.max_quote_age_seconds),
        f"quote is %.0f s old, limit {cfg.max_quote_age_seconds:g} s", quote_age,
    )  # fmt: skip
    sieve.refuse(quote_age < -_SKEW_SECONDS, "quote is %.0f s in the future", -quote_age)
    spread = facts["spread_bps"]
    sieve.refuse(spread > cfg.max_spread_bps, f"spread %.0f bp, limit {cfg.max_spread_bps:g} bp", spread)
    with np.errstate(all="ignore"):
        distance = np.abs(price / ((bid + ask) / 2) - 1) * 100
    sieve.refuse(
        distance > cfg.max_quote_distance_pct,
        f"last trade is %.1f %% from the quote, limit {cfg.max_quote_distance_pct:g} %%", distance,
    )  # fmt: skip


def _refuse_implausible(
    sieve: StageFilter, facts: dict[str, Floats], read: Any, usual: Any, session: Session, cfg: ScanConfig
) -> None:
    """History that is missing or old, splits, jumps nobody traded, a day bar that contradicts itself."""
    price, prev, relative = facts["price"], facts["prev_close"], facts["relative_volume"]
    days, last_at = usual("days"), usual("last_at")
    sieve.refuse(
        ~(days >= cfg.min_history_days),
        f"not enough daily history: %.0f bars, {cfg.min_history_days} needed", np.nan_to_num(days),
    )  # fmt: skip
    old = (session.open.timestamp() - last_at) / 86_400
    sieve.refuse(~(old <= 7), "daily history ends %.0f days ago", old)
    sieve.refuse(~(prev > 0), "no previous close")
    with np.errstate(all="ignore"):
        ratio, restated = price / prev, read("prev_close") / usual("prev_close")
    sieve.refuse(
        np.abs(np.log(np.where(restated > 0, restated, 1.0))) > np.log(1.2),
        "split today: previous close %.4g in the snapshot, %.4g in the daily bars",
        read("prev_close"), usual("prev_close"),
    )  # fmt: skip
    quiet = ~(relative >= 3)
    sieve.refuse(
        ((ratio > 10) | (ratio < 0.1)) & ~(relative >= 10),
        "price is %.2f times the previous close on %.1f times the usual volume", ratio, relative,
    )  # fmt: skip
    sieve.refuse(
        _looks_like_split(ratio) & quiet, "looks like a split: price is %.3f times the previous close", ratio
    )


def _looks_like_split(ratio: Floats) -> Bools:
    """True within 2 % of 2, 3, 4 … 50 or of one over them."""
    with np.errstate(all="ignore"):
        factor = np.where(ratio > 1, ratio, 1 / ratio)
        whole = np.round(factor)
        like: Bools = (whole >= 2) & (whole <= 50) & (np.abs(factor / whole - 1) < _SPLIT_TOLERANCE)
    return like


def _refuse_inconsistent_day_bar(
    sieve: StageFilter, facts: dict[str, Floats], read: Any, session: Session
) -> None:
    low, high, opened = read("day_low"), read("day_high"), read("day_open")
    midnight = (session.open - timedelta(hours=9, minutes=30)).timestamp()
    sieve.refuse(~(read("day_at") >= midnight), "the day's bar is missing or of an earlier day")
    sieve.refuse(~(facts["volume"] > 0), "no volume today")
    sieve.refuse(
        ~((low > 0) & (low <= opened) & (opened <= high)),
        "the day's bar contradicts itself: open %.4g, high %.4g, low %.4g", opened, high, low,
    )  # fmt: skip


def _refuse_outside_limits(
    sieve: StageFilter, facts: dict[str, Floats], cfg: ScanConfig, *, opened: bool
) -> None:
    price, usual = facts["price"], facts["avg_dollar_volume"]
    sieve.refuse(price < cfg.min_price, f"price $%.4g below ${cfg.min_price:g}", price)
    sieve.refuse(price > cfg.max_price, f"price $%.2f above ${cfg.max_price:g}", price)
    sieve.refuse(
        ~(usual >= cfg.min_dollar_volume),
        f"average dollar volume $%.2f M, limit ${cfg.min_dollar_volume / 1e6:g} M", usual / 1e6,
    )  # fmt: skip
    if opened:
        relative = facts["relative_volume"]
        sieve.refuse(~np.isfinite(relative), "usual volume unknown")
        sieve.refuse(
            ~(relative >= cfg.min_relative_volume),
            f"relative volume %.2f, limit {cfg.min_relative_volume:g}", relative,
        )  # fmt: skip


def _scores(
    facts: dict[str, Floats], standing: Bools, cfg: ScanConfig, *, allow_short: bool
) -> dict[str, Floats]:
    """Percentiles among the rows still standing, and their weighted mean."""
    volume = percentile(facts["relative_volume"], standing)
    momentum = percentile(facts["momentum_pct"], standing)
    # Bottom and top of the list are equally of interest where both sides may be taken.
    pull = np.abs(2 * momentum - 1) if allow_short else momentum
    gap = percentile(np.abs(facts["gap_pct"]), standing)
    liquidity = percentile(facts["avg_dollar_volume"], standing)
    total = cfg.weight_volume + cfg.weight_momentum + cfg.weight_gap + cfg.weight_liquidity
    score = (
        cfg.weight_volume * volume
        + cfg.weight_momentum * pull
        + cfg.weight_gap * gap
        + cfg.weight_liquidity * liquidity
    ) / total
    return {"volume_score": volume, "momentum_score": momentum, "scan_score": score}
