from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import talib
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_frames import CFG, SESSION, candidates, candles, instant_after, new_york

from catalyst.pipeline.bar_matrix import bar_matrix_of, finished_bars, resample_bars
from catalyst.pipeline.frame import remaining_symbols
from catalyst.pipeline.score import score
from catalyst.pipeline.technical import technical

RISING_INTRADAY = list(50 + np.linspace(0, 0.8, 40) + np.sin(np.arange(40)) * 0.08)


def daily_bars(symbol: str, path: list[float]) -> pd.DataFrame:
    """Return daily bars that end the session before."""
    stamps = pd.bdate_range(end="2026-02-27", periods=len(path), tz="America/New_York").tz_convert("UTC")
    close = np.asarray(path)
    return pd.DataFrame(
        {
            "symbol": symbol,
            "timestamp": stamps,
            "open": close,
            "high": close * 1.01,
            "low": close * 0.99,
            "close": close,
            "volume": 1e6,
        }
    )


def run_technical(
    bars: pd.DataFrame,
    daily: pd.DataFrame,
    *symbols: str,
    minutes: int = 5,
    now=None,
    cfg=None,
    **columns: object,
):
    names = symbols or ("X",)
    settings_of_stage = CFG.technical if cfg is None else cfg
    facts: dict[str, object] = {"side": "long", "pattern_confidence": 0.6, "price": bars["close"].iloc[-1]}
    frame = candidates(*names, **(facts | columns))
    return technical(
        frame,
        bars,
        daily,
        SESSION,
        now or instant_after(bars, minutes),
        settings_of_stage,
        bar_minutes=minutes,
    )


RISING_DAYS = list(np.linspace(40, 50, 50) + np.sin(np.arange(50)) * 0.4)


def test_technical_values_equal_talib():
    """RSI, ADX, ATR and the signal line of the last finished bar equal TA-Lib's on the same bars."""
    bars = candles("X", RISING_INTRADAY)
    row = run_technical(bars, daily_bars("X", RISING_DAYS)).loc["X"]
    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    assert row["rsi"] == pytest.approx(talib.RSI(close)[-1], rel=1e-9)
    assert row["adx"] == pytest.approx(talib.ADX(high, low, close)[-1], rel=1e-9)
    assert row["atr"] == pytest.approx(talib.ATR(high, low, close)[-1], rel=1e-9)
    assert row["macd_signal"] == pytest.approx(talib.MACD(close)[1][-1], rel=1e-9)
    assert row["daily_rsi"] == pytest.approx(talib.RSI(np.array(RISING_DAYS))[-1], rel=1e-9)
    assert row["stop_atr"] == pytest.approx(row["atr"])


def test_technical_agreement_is_for_the_side():
    """Agreement is relative to the side: support for a long counts as much against a short."""
    long = run_technical(candles("X", RISING_INTRADAY), daily_bars("X", RISING_DAYS)).loc["X"]
    short = run_technical(candles("X", RISING_INTRADAY), daily_bars("X", RISING_DAYS), side="short").loc["X"]
    assert long["agreement"] > 0.7
    assert short["agreement"] == pytest.approx(1 - long["agreement"])
    assert short["reason"].startswith("indicators agree 0.")
    assert "with a short" in short["reason"]


def test_technical_has_enough_votes_by_ten_o_clock():
    """Six five-minute bars and fifty days give enough votes; the intraday indicators are NaN, not zero."""
    row = run_technical(candles("X", RISING_INTRADAY[:6]), daily_bars("X", RISING_DAYS), price=50.3).loc["X"]
    assert pd.isna(row["refused_by"])
    assert row["votes"] >= CFG.technical.min_votes
    assert np.isnan(row["rsi"])
    assert np.isnan(row["adx"])
    assert row["stop_atr"] == pytest.approx(1.5 * np.sqrt(5 / 390))


def test_technical_gives_no_weight_to_a_timeframe_without_history():
    """Without daily bars the agreement is the one of the other timeframes alone, not half way to neutral."""
    bars = candles("X", RISING_INTRADAY)
    frame = candidates("X", side="long", pattern_confidence=0.6, price=bars["close"].iloc[-1])
    no_days = daily_bars("X", RISING_DAYS).head(0)
    agreements = [
        technical(
            frame, bars, no_days, SESSION, instant_after(bars),
            CFG.technical.model_copy(update={"weight_daily": weight}), bar_minutes=5,
        ).loc["X", "agreement"]
        for weight in (0.0, 0.3, 2.0)
    ]  # fmt: skip
    assert agreements[0] > 0.7
    assert agreements[1:] == [pytest.approx(agreements[0])] * 2


def test_quarter_hour_bars_exist_only_when_they_have_ended():
    """At 9:50 the bar of 9:45 has not ended: only that of 9:30 exists. A symbol without a bar has none."""
    minutes = bar_matrix_of(candles("X", list(np.linspace(50, 51, 20)), 1))
    for until, starts in (((9, 44), []), ((9, 45), [0]), ((9, 50), [0]), ((10, 0), [0, 900])):
        quarter = resample_bars(minutes, SESSION.open.timestamp(), 900.0, new_york(*until).timestamp())
        assert [float(at) - SESSION.open.timestamp() for at in quarter.time.ravel()] == starts, until
    first = resample_bars(minutes, SESSION.open.timestamp(), 900.0, new_york(9, 50).timestamp())
    assert (first.close[0, 0], first.volume[0, 0]) == (minutes.close[0, 14], 15e5)


def test_technical_refuses_too_little_history_with_the_vote_count():
    """Too few warm votes refuse the row."""
    row = run_technical(candles("X", RISING_INTRADAY[:6]), daily_bars("X", RISING_DAYS[:6])).loc["X"]
    assert row["refused_by"] == "technical"
    assert row["reason"] == "not enough history (1 of 22 votes, 6 needed)"


def test_technical_refuses_an_exhausted_move_on_either_side():
    """A price too far from the open or from VWAP, or a too strong RSI, is refused with its number."""
    far = run_technical(
        candles("X", RISING_INTRADAY), daily_bars("X", RISING_DAYS), momentum_open_pct=6.0, price=53.0
    ).loc["X"]
    assert "daily ATRs from the open, limit 1.5" in far["reason"]
    stretched = run_technical(candles("X", RISING_INTRADAY), daily_bars("X", RISING_DAYS), price=53.0).loc[
        "X"
    ]
    assert "daily ATRs from VWAP, limit 1" in stretched["reason"]
    straight = candles("X", list(np.linspace(50, 50.7, 40)))
    assert (
        "exhausted: RSI 100 with the move, limit 88"
        in run_technical(straight, daily_bars("X", RISING_DAYS)).loc["X", "reason"]
    )
    down = candles("X", list(np.linspace(50, 49.3, 40)))
    assert (
        "exhausted: RSI 100 with"
        in run_technical(down, daily_bars("X", RISING_DAYS), side="short").loc["X", "reason"]
    )


def test_technical_stop_atr_is_scaled_to_five_minute_bars():
    """stop_atr is per five-minute bar for any bar length."""
    row = run_technical(candles("X", RISING_INTRADAY, 1), daily_bars("X", RISING_DAYS), minutes=1).loc["X"]
    assert row["stop_atr"] == pytest.approx(row["atr"] * np.sqrt(5))


def test_technical_intraday_votes_use_earlier_sessions():
    """With bars of an earlier session before today's, the five-minute RSI is warm from the first minutes;
    VWAP uses today's bars only."""
    today = candles("X", RISING_INTRADAY[:6])
    yesterday = candles("X", RISING_INTRADAY).assign(
        timestamp=lambda b: b["timestamp"] - pd.Timedelta(days=3)
    )
    row = run_technical(pd.concat([yesterday, today]), daily_bars("X", RISING_DAYS)).loc["X"]
    assert np.isfinite(row["rsi"])
    typical = (today["high"] + today["low"] + today["close"]) / 3
    assert row["vwap"] == pytest.approx((typical * today["volume"]).sum() / today["volume"].sum())


def test_technical_ignores_pre_market_bars():
    """Pre-market prints change no indicator and no VWAP."""
    today = candles("X", RISING_INTRADAY)
    early = candles("X", [48.0, 53.0, 47.0]).assign(
        timestamp=lambda b: b["timestamp"] - pd.Timedelta(hours=2)
    )
    with_them = run_technical(
        pd.concat([early, today]), daily_bars("X", RISING_DAYS), now=instant_after(today)
    )
    pd.testing.assert_frame_equal(with_them, run_technical(today, daily_bars("X", RISING_DAYS)))


@settings(max_examples=20, deadline=None)
@given(finished=st.integers(3, 39), factor=st.floats(0.5, 2))
def test_technical_stage_ignores_unfinished_bars_and_todays_daily_bar(finished: int, factor: float):
    """Bars that end after the decision and a daily bar of today do not change any column."""
    bars = candles("X", RISING_INTRADAY)
    daily = daily_bars("X", RISING_DAYS)
    now = (bars["timestamp"].iloc[finished - 1] + pd.Timedelta(minutes=5)).to_pydatetime()
    future = bars.copy()
    for name in ("open", "high", "low", "close"):
        future.loc[finished:, name] *= factor
    today = daily.tail(1).assign(timestamp=pd.Timestamp(new_york(0, 0)), close=90.0, high=95.0)
    cut = run_technical(bars.head(finished), daily, now=now, price=50.5)
    pd.testing.assert_frame_equal(cut, run_technical(future, pd.concat([daily, today]), now=now, price=50.5))


def test_technical_uses_only_finished_quarter_hour_bars():
    """Only finished quarter-hour bars vote: at 15:44 the bar from 15:30 does not, at 15:45 it does."""
    bars = candles("X", list(50 + np.sin(np.arange(75) / 3)))
    fallen = bars.copy()
    fallen.loc[72:73, ["close", "low"]] -= 1  # 15:30 to 15:40
    cfg = CFG.technical.model_copy(update={"weight_intraday": 0.0})  # the five-minute bars have no weight

    def agreement(of: pd.DataFrame, minute: int) -> float:
        now = new_york(15, minute)
        return run_technical(of, daily_bars("X", RISING_DAYS), now=now, cfg=cfg, price=50.0).loc[
            "X", "agreement"
        ]

    assert agreement(fallen, 44) == agreement(bars, 44)
    assert agreement(fallen, 45) != agreement(bars, 45)


def test_bar_counts_from_its_end_on():
    """The bar of 9:35 counts from 9:40:00 on, not a second before."""
    bars = candles("X", [50.0, 50.1, 50.2])
    counts = [
        len(finished_bars(bars, new_york(*at), 5)) for at in ((9, 34, 59), (9, 39, 59), (9, 40), (10, 0))
    ]
    assert counts == [0, 1, 2, 3]


def test_technical_values_are_independent_of_other_symbols():
    """A symbol's values are equal alone and beside a symbol with a history of another length."""
    bars = pd.concat([candles("X", RISING_INTRADAY), candles("Y", RISING_INTRADAY[:9])])
    daily = pd.concat([daily_bars("X", RISING_DAYS), daily_bars("Y", RISING_DAYS[:30])])
    both = run_technical(bars, daily, "X", "Y", now=new_york(13, 0), price=50.5)
    alone = run_technical(
        candles("X", RISING_INTRADAY), daily_bars("X", RISING_DAYS), "X", now=new_york(13, 0), price=50.5
    )
    columns = ["rsi", "atr", "adx", "agreement", "votes", "vwap", "obv_slope", "stop_atr"]
    pd.testing.assert_series_equal(
        both.loc["X", columns].astype(float), alone.loc["X", columns].astype(float)
    )


def test_technical_stage_keeps_the_highest_agreement():
    """Rows beyond the cap are refused by rank; a frame without remaining rows is no error."""
    names = [f"S{k:02}" for k in range(12)]
    bars = pd.concat([candles(name, RISING_INTRADAY) for name in names])
    daily = pd.concat([daily_bars(name, RISING_DAYS) for name in names])
    out = run_technical(bars, daily, *names, price=50.8)
    assert remaining_symbols(out) == names[:10]
    all_refused = run_technical(bars, daily, *names, price=50.8, reason="x", refused_by="scan")
    assert remaining_symbols(all_refused) == []


def test_composite_is_the_weighted_sum_of_four_components():
    """0.30 news + 0.30 technical (half agreement, half pattern) + 0.20 momentum + 0.20 volume."""
    frame = candidates(
        "X",
        side="long",
        agreement=0.9,
        pattern_confidence=0.7,
        news_score=0.6,
        momentum_score=0.95,
        volume_score=0.4,
    )
    row = score(frame, CFG.scoring).loc["X"]
    assert row["composite"] == pytest.approx(0.3 * 0.6 + 0.3 * 0.8 + 0.2 * 0.95 + 0.2 * 0.4)
    short = score(frame.assign(side="short"), CFG.scoring).loc["X"]
    assert short["news_component"] == pytest.approx(0.4)
    assert short["momentum_component"] == pytest.approx(0.05)


def test_composite_is_neutral_for_missing_components():
    """A missing component counts as neutral (0.5)."""
    nan = float("nan")
    row = score(
        candidates("X", side="long", agreement=nan, pattern_confidence=nan, volume_score=nan), CFG.scoring
    )
    assert row.loc["X", "technical_component"] == 0.5
    assert row.loc["X", "volume_component"] == 0.5


def test_score_stage_refuses_a_low_composite():
    """The reason states the composite and the minimum."""
    frame = candidates("A", "B", "C", side="long", agreement=0.8, pattern_confidence=0.8)
    out = score(
        frame.assign(news_score=[0.0, 0.9, 0.9], momentum_score=[0.1, 0.9, 0.9], volume_score=0.2),
        CFG.scoring,
    )
    assert remaining_symbols(out) == ["B", "C"]
    assert out.loc["A", "reason"] == "composite 0.30 below 0.5"


@settings(max_examples=50)
@given(parts=st.lists(st.floats(0, 1), min_size=5, max_size=5), short=st.booleans())
def test_composite_stays_between_zero_and_one(parts: list[float], short: bool):
    """Components in [0, 1] give a composite in [0, 1]."""
    names = ("agreement", "pattern_confidence", "news_score", "momentum_score", "volume_score")
    frame = candidates("X", side="short" if short else "long", **dict(zip(names, parts, strict=True)))
    assert 0 <= score(frame, CFG.scoring).loc["X", "composite"] <= 1 + 1e-12


def test_scoring_config_refuses_weights_not_summing_to_one():
    """The configuration raises when it is loaded."""
    from pydantic import ValidationError

    from catalyst.config.schema import ScoringConfig

    with pytest.raises(ValidationError, match="sum to 1"):
        ScoringConfig(news=0.5)


def test_technical_rejects_a_naive_datetime():
    """A time without a zone raises."""
    bars = candles("X", RISING_INTRADAY)
    with pytest.raises(ValueError, match="time zone"):
        run_technical(
            bars, daily_bars("X", RISING_DAYS), now=(SESSION.open + timedelta(hours=1)).replace(tzinfo=None)
        )
