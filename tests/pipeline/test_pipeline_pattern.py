"""Patterns on charts drawn by hand, mirrored, at every price level, and without their later bars."""

from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_frames import CFG, SESSION, candidates, candles, instant_after, new_york, price_path

from catalyst.config.schema import PatternConfig
from catalyst.pipeline.detectors import PATTERNS
from catalyst.pipeline.pattern import pattern

LOOSE = PatternConfig(min_confidence=0.0)


def pattern_row(
    bars: pd.DataFrame, *, cfg: PatternConfig = LOOSE, minutes: int = 5, shorts: bool = False, **columns
):
    """Return the row of the chart's symbol, decided just after its last bar."""
    frame = candidates("X", **columns)
    return pattern(
        frame, bars, SESSION, instant_after(bars, minutes), cfg, bar_minutes=minutes, allow_short=shorts
    ).loc["X"]


def volume_rising_at_end(path: list[float], last: int = 1) -> list[float]:
    """Return even volume that triples in the last bars."""
    return [1e5] * (len(path) - last) + [3e5] * last


BULL_FLAG = price_path((0, 50), (2, 49.9), (8, 52), (12, 51.5), (13, 52.2))
TRIANGLE = price_path((0, 50.6), (4, 50), (8, 51), (11, 50.4), (15, 51), (18, 50.75), (19, 51.15))
DOUBLE_BOTTOM = price_path((0, 51.4), (6, 50), (10, 51), (14, 50), (19, 51.1))
HEAD_SHOULDERS = price_path((0, 51.5), (4, 50.5), (8, 51), (12, 49.6), (16, 51), (20, 50.5), (24, 51.15))
CUP = price_path((0, 50.2), (4, 51), (7, 50.4), (11, 50), (15, 50.4), (18, 51), (21, 50.7), (22, 51.1))
RECLAIM = price_path((0, 50), (2, 50), (8, 48.8), (14, 49.5), (16, 49.75))
RANGE_BREAK = price_path((0, 50), (1, 50.4), (2, 49.9), (3, 50.5))
GAP = price_path((0, 52.0), (1, 51.9), (2, 52.0), (3, 52.3))


@pytest.mark.parametrize(
    ("path", "name", "columns"),
    [
        (BULL_FLAG, "bull_flag", {}),
        (TRIANGLE, "ascending_triangle", {}),
        (DOUBLE_BOTTOM, "double_bottom", {}),
        (HEAD_SHOULDERS, "inverse_head_and_shoulders", {}),
        (CUP, "cup_and_handle", {}),
        (RECLAIM, "vwap_reclaim", {}),
        (RANGE_BREAK, "opening_range_breakout", {"prev_close": 50.0}),
        (GAP, "gap_and_go", {"prev_close": 50.0}),
    ],
)
def test_pattern_is_recognised_on_a_drawn_chart(path: list[float], name: str, columns: dict[str, float]):
    """The textbook shape is found by name; the price lies above the trigger, between stop and target."""
    bars = candles("X", path, volume=volume_rising_at_end(path))
    row = pattern_row(bars, **({"prev_close": 49.8} | columns))
    assert row["pattern"] == name
    assert row["side"] == "long"
    assert row["pattern_stop"] < row["pattern_trigger"] < path[-1] < row["pattern_target"]
    assert 0.4 <= row["pattern_confidence"] <= 1
    assert row["pattern_from"] >= pd.Timestamp(SESSION.open)


def test_bull_flag_levels_come_from_pole_and_consolidation():
    """The trigger is the pole's top, the stop the low of the consolidation, the target the pole's height
    above the top."""
    row = pattern_row(candles("X", BULL_FLAG, volume=volume_rising_at_end(BULL_FLAG)))
    top, base, rest = 52.02, 49.88, 51.48
    assert row["pattern_trigger"] == pytest.approx(top)
    assert row["pattern_stop"] == pytest.approx(rest)
    assert row["pattern_target"] == pytest.approx(top + (top - base))


def test_opening_range_breakout_is_found_after_four_bars():
    """By 09:50 of five-minute bars, the trigger is the high of the first quarter hour, the stop its middle,
    the target twice its height above the high."""
    row = pattern_row(candles("X", RANGE_BREAK, volume=volume_rising_at_end(RANGE_BREAK)))
    high, low = 50.42, 49.88
    assert row["pattern_trigger"] == pytest.approx(high)
    assert row["pattern_stop"] == pytest.approx((high + low) / 2)
    assert row["pattern_target"] == pytest.approx(high + 2 * (high - low))
    assert row["chart_bars"] == 4


def test_bull_flag_is_found_in_one_minute_bars():
    """Parameters are in minutes: a flag in five-minute bars is also a flag in one-minute bars."""
    fine = price_path(
        *((5 * bar, price) for bar, price in ((0, 50), (2, 49.9), (8, 52), (12, 51.5), (13, 52.2)))
    )
    row = pattern_row(candles("X", fine, minutes=1, volume=volume_rising_at_end(fine, 3)), minutes=1)
    assert row["pattern"] == "bull_flag"


@pytest.mark.parametrize(
    ("path", "bull", "bear"),
    [
        (BULL_FLAG, "bull_flag", "bear_flag"),
        (TRIANGLE, "ascending_triangle", "descending_triangle"),
        (DOUBLE_BOTTOM, "double_bottom", "double_top"),
        (HEAD_SHOULDERS, "inverse_head_and_shoulders", "head_and_shoulders"),
        (CUP, "cup_and_handle", "inverted_cup_and_handle"),
        (RECLAIM, "vwap_reclaim", "vwap_loss"),
        (RANGE_BREAK, "opening_range_breakout", "opening_range_breakdown"),
        (GAP, "gap_and_go", "gap_and_go_down"),
    ],
)
def test_mirrored_bull_pattern_is_its_bear_pattern(path: list[float], bull: str, bear: str):
    """Every level mirrored at $50 gives the bear pattern with the same confidence."""
    prev = 50.0 if bull in {"gap_and_go", "opening_range_breakout"} else 49.8
    up = candles("X", path, volume=volume_rising_at_end(path))
    down = up.assign(
        open=100 - up["open"], high=100 - up["low"], low=100 - up["high"], close=100 - up["close"]
    )
    long, short = (
        pattern_row(up, prev_close=prev, shorts=True),
        pattern_row(down, prev_close=100 - prev, shorts=True),
    )
    assert (long["pattern"], short["pattern"]) == (bull, bear)
    assert (long["side"], short["side"]) == ("long", "short")
    for level in ("pattern_trigger", "pattern_stop", "pattern_target"):
        assert short[level] == pytest.approx(100 - long[level])
    assert short["pattern_confidence"] == pytest.approx(long["pattern_confidence"])
    without_shorts = pattern_row(down, prev_close=100 - prev)
    assert pd.isna(without_shorts["pattern"])
    assert without_shorts["side"] == "long"


def random_day(seed: int, bars: int, minutes: int = 5) -> pd.DataFrame:
    """Return a random day with random wicks and volumes."""
    rng = np.random.default_rng(seed)
    close = 50 + np.cumsum(rng.normal(0, 0.12, bars) + np.sin(np.arange(bars) / 6) * 0.08)
    frame = candles("X", list(close), minutes, rng.integers(1_000, 90_000, bars).astype(float))
    wicks = rng.uniform(0, 0.1, (2, bars))
    return frame.assign(high=frame["high"] + wicks[0], low=frame["low"] - wicks[1])


LEVELS = ["pattern_trigger", "pattern_stop", "pattern_target"]


NAMES = (
    "bull_flag", "ascending_triangle", "double_bottom", "inverse_head_and_shoulders", "cup_and_handle",
    "vwap_reclaim", "opening_range_breakout", "gap_and_go",
)  # fmt: skip
CHARTS = (BULL_FLAG, TRIANGLE, DOUBLE_BOTTOM, HEAD_SHOULDERS, CUP, RECLAIM, RANGE_BREAK, GAP)


def noisy_chart(seed: int, symbol: str = "X") -> pd.DataFrame:
    """Return a drawn chart with random noise; few random days have a pattern, each noisy chart has one."""
    rng = np.random.default_rng(seed)
    path = CHARTS[seed % len(CHARTS)]
    close = np.array(path) + rng.normal(0, 0.005, len(path))
    frame = candles(symbol, list(close), volume=volume_rising_at_end(path))
    wicks = rng.uniform(0, 0.005, (2, len(path)))
    return frame.assign(high=frame["high"] + wicks[0], low=frame["low"] - wicks[1])


def day_of(seed: int, bars: int) -> pd.DataFrame:
    """Return a noisy chart for an even seed, a random day of `bars` for an odd one."""
    return random_day(seed, bars) if seed % 2 else noisy_chart(seed // 2)


@pytest.mark.parametrize("seed", range(24))
def test_pattern_is_recognised_on_a_noisy_chart(seed: int):
    """A little noise does not hide a drawn pattern; so the tests on noisy charts compare levels, not gaps."""
    row = pattern_row(noisy_chart(seed), shorts=True, prev_close=49.8)
    assert row["pattern"] == NAMES[seed % len(NAMES)]
    assert row[LEVELS].notna().all()


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), bars=st.integers(1, 78), factor=st.sampled_from([0.01, 0.5, 3.0, 128.0]))
def test_pattern_is_independent_of_the_price_level(seed: int, bars: int, factor: float):
    """Scaling every price scales the levels and does not change the name."""
    day = day_of(seed, bars)
    scaled = day.assign(**{name: day[name] * factor for name in ("open", "high", "low", "close")})
    original = pattern_row(day, shorts=True, prev_close=49.0)
    rescaled = pattern_row(scaled, shorts=True, prev_close=49.0 * factor)
    assert str(original["pattern"]) == str(rescaled["pattern"])
    np.testing.assert_allclose(
        rescaled[LEVELS].astype(float).to_numpy(),
        original[LEVELS].astype(float).to_numpy() * factor,
        rtol=1e-9,
    )


@pytest.mark.slow(15)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 100_000), bars=st.integers(1, 78))
def test_pattern_levels_are_mirrored_on_a_mirrored_day(seed: int, bars: int):
    """On any day, mirroring the prices mirrors the levels of the best setup and keeps its confidence."""
    up = day_of(seed, bars)
    down = up.assign(
        open=128 - up["open"], high=128 - up["low"], low=128 - up["high"], close=128 - up["close"]
    )
    original = pattern_row(up, shorts=True, prev_close=49.0, momentum_pct=1.0)
    mirrored = pattern_row(down, shorts=True, prev_close=79.0, momentum_pct=-1.0)
    assert {original["side"], mirrored["side"]} == {"long", "short"}
    if pd.isna(original["pattern"]):
        assert pd.isna(mirrored["pattern"])
    else:
        np.testing.assert_allclose(
            mirrored[LEVELS].astype(float).to_numpy(),
            128 - original[LEVELS].astype(float).to_numpy(),
            rtol=1e-7,
        )
        assert mirrored["pattern_confidence"] == pytest.approx(original["pattern_confidence"], abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 100_000), finished=st.integers(1, 60), factor=st.floats(0.2, 5))
def test_pattern_stage_ignores_unfinished_bars(seed: int, finished: int, factor: float):
    """Bars that have not ended by the decision do not change it, whatever their values."""
    day = random_day(seed, 78)
    now = (day["timestamp"].iloc[finished - 1] + pd.Timedelta(minutes=5)).to_pydatetime()
    future = day.copy()
    for name in ("open", "high", "low", "close", "volume"):
        future.loc[finished:, name] = future.loc[finished:, name] * factor
    frame = candidates("X")
    results = [
        pattern(frame, bars, SESSION, now, LOOSE, bar_minutes=5, allow_short=True)
        for bars in (day.head(finished), future, day)
    ]
    pd.testing.assert_frame_equal(results[0], results[1])
    pd.testing.assert_frame_equal(results[0], results[2])


def test_pattern_is_independent_of_other_symbols():
    """A symbol's levels are equal alone and among others with histories of other lengths."""
    days = {f"S{k}": noisy_chart(k, f"S{k}") for k in range(len(CHARTS))}
    now = new_york(15, 0)
    cfg = without_bar_age_limit(LOOSE)
    everyone = pd.concat(list(days.values()))
    together = pattern(candidates(*days), everyone, SESSION, now, cfg, bar_minutes=5, allow_short=True)
    assert together["pattern"].tolist() == list(NAMES)
    for symbol, bars in days.items():
        alone = pattern(candidates(symbol), bars, SESSION, now, cfg, bar_minutes=5, allow_short=True)
        pd.testing.assert_series_equal(
            together.loc[symbol, LEVELS].astype(float), alone.loc[symbol, LEVELS].astype(float), rtol=1e-12
        )


def without_bar_age_limit(cfg: PatternConfig) -> PatternConfig:
    return cfg.model_copy(update={"max_bar_age_minutes": 600.0})


def test_pattern_stage_gives_a_reason_for_no_bars_old_bars_and_no_pattern():
    """Missing bars, old bars and a missing pattern each have their own reason."""
    flat = [50.0] * 20
    bars = pd.concat([candles("FLAT", flat), candles("OLD", flat[:4])])
    out = pattern(
        candidates("FLAT", "NONE", "OLD"),
        bars,
        SESSION,
        instant_after(bars),
        CFG.pattern,
        bar_minutes=5,
        allow_short=True,
    )
    assert out["refused_by"].tolist() == ["pattern"] * 3
    assert out["reason"].to_dict() == {
        "FLAT": "no pattern in 20 bars",
        "NONE": "no finished bar of today", "OLD": "last bar ended 80 min ago, limit 15",
    }  # fmt: skip


def test_pattern_stage_refuses_an_extended_or_old_breakout():
    """A chart is refused when most of the way to the target is gone or the crossing is old."""
    ran = [*BULL_FLAG[:-1], 53.8]
    assert pd.isna(pattern_row(candles("X", ran, volume=volume_rising_at_end(ran)))["pattern"])
    stale = BULL_FLAG + [52.25] * 8
    assert pd.isna(
        pattern_row(candles("X", stale, volume=volume_rising_at_end(BULL_FLAG) + [1e5] * 8))["pattern"]
    )


def test_pattern_stage_ignores_bars_of_earlier_days():
    """Only bars that began at the open or later are used."""
    bars = candles("X", BULL_FLAG, volume=volume_rising_at_end(BULL_FLAG))
    earlier = bars.assign(timestamp=bars["timestamp"] - pd.Timedelta(days=3))
    out = pattern(
        candidates("X"), earlier, SESSION, instant_after(bars), LOOSE, bar_minutes=5, allow_short=False
    ).loc["X"]
    assert out["reason"] == "no finished bar of today"
    both = pattern(
        candidates("X"),
        pd.concat([earlier, bars]),
        SESSION,
        instant_after(bars),
        LOOSE,
        bar_minutes=5,
        allow_short=False,
    ).loc["X"]
    assert both["pattern"] == "bull_flag"
    assert both["chart_bars"] == len(bars)


def test_pattern_stage_passes_rows_neutral_when_off_or_not_required():
    """Rows pass without confidence; the side is long, or short where that is allowed and the price has
    fallen."""
    bars = candles("DOWN", [50.0] * 20)
    frame = candidates("DOWN", momentum_pct=-1.0)

    def passing(shorts: bool, **kw: bool) -> pd.Series:
        return pattern(
            frame, bars, SESSION, instant_after(bars), CFG.pattern, bar_minutes=5, allow_short=shorts, **kw
        ).loc["DOWN"]

    for kw in ({"enabled": False}, {"required": False}):
        row = passing(True, **kw)
        assert pd.isna(row["refused_by"])
        assert row["side"] == "short"
        assert np.isnan(row["pattern_confidence"])
        assert passing(False, **kw)["side"] == "long"


def test_pattern_stage_keeps_the_highest_confidence():
    """Rows beyond the cap are refused by confidence, with their rank."""
    names = [f"S{k:02}" for k in range(24)]
    bars = pd.concat([candles(name, BULL_FLAG, volume=volume_rising_at_end(BULL_FLAG)) for name in names])
    out = pattern(
        candidates(*names), bars, SESSION, instant_after(bars), LOOSE, bar_minutes=5, allow_short=False
    )
    assert out["refused_by"].isna().sum() == 20
    assert out.loc["S23", "reason"] == "rank 24 of 24 by pattern; the stage keeps 20"


def test_pattern_stage_skips_invalid_bars_and_rejects_unsorted_ones():
    """A bar with contradictory prices is skipped; unsorted bars are an error of the caller."""
    bars = candles("X", BULL_FLAG, volume=volume_rising_at_end(BULL_FLAG))
    broken = pd.concat(
        [bars, bars.tail(1).assign(timestamp=bars["timestamp"].max() + timedelta(minutes=5), low=99.0)]
    )
    whole, spoiled = pattern_row(bars), pattern_row(broken, cfg=without_bar_age_limit(LOOSE))
    assert whole["pattern_stop"] == spoiled["pattern_stop"]
    with pytest.raises(ValueError, match="sorted"):
        pattern_row(bars.iloc[::-1])


def test_pattern_is_found_on_a_half_day():
    """On a half day the same bars give the same pattern."""
    half = replace(SESSION, close=new_york(13, 0))
    bars = candles("X", BULL_FLAG, volume=volume_rising_at_end(BULL_FLAG))
    out = pattern(candidates("X"), bars, half, instant_after(bars), LOOSE, bar_minutes=5, allow_short=False)
    assert out.loc["X", "pattern"] == "bull_flag"


def test_side_name_and_levels_belong_to_one_setup():
    """On many random charts, some with setups of both sides at once, side, name and levels are those of one setup."""
    rng = np.random.default_rng(11)
    symbols = [f"S{number:03}" for number in range(400)]
    moves = rng.normal(0, 0.1, (400, 120))
    bars = pd.concat(
        [
            candles(symbol, list(50 + np.cumsum(row)), minutes=1, volume=rng.uniform(5e4, 3e5, 120))
            for symbol, row in zip(symbols, moves, strict=True)
        ],
        ignore_index=True,
    )
    out = pattern(
        candidates(*symbols, prev_close=50.0), bars, SESSION, instant_after(bars, 1), LOOSE,
        bar_minutes=1, allow_short=True,
    )  # fmt: skip
    found = out[out["pattern"].notna()]
    assert set(found["side"]) == {"long", "short"}
    side_of_name = {spec.long_name: "long" for spec in PATTERNS} | {
        spec.short_name: "short" for spec in PATTERNS
    }
    assert found["side"].tolist() == [side_of_name[name] for name in found["pattern"]]
    sign = np.where(found["side"] == "long", 1.0, -1.0)
    assert (sign * (found["pattern_target"] - found["pattern_trigger"]) > 0).all()
    assert (sign * (found["pattern_trigger"] - found["pattern_stop"]) > 0).all()
    assert (found[["pattern_trigger", "pattern_stop", "pattern_target"]] > 0).all(axis=None)
