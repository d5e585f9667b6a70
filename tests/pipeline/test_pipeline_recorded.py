"""Market days through every stage: generated days, and recorded whole markets where the recordings are present."""

from dataclasses import replace
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from recorded_day import DATA, GENERATED_SYMBOL_COUNT, RecordedDay, generated_day, recorded_day, run_stages

from catalyst.domain.order import PositionSide
from catalyst.domain.price import on_tick
from catalyst.pipeline.frame import decision_table, funnel
from catalyst.pipeline.plan import plans
from catalyst.simulator.synthetic.intraday_profile import MarketRegime

CAPS = {"scan": 200, "news": 35, "pattern": 20, "technical": 10, "score": 10, "risk": 5, "plan": 3}
GAP_DAY, QUIET, TREND, OUTAGE = "2026-04-08", "2026-04-15", "2026-03-31", "2026-02-26"
GENERATED_GAP, GENERATED_QUIET, GENERATED_TREND = (
    MarketRegime.GAP_UP,
    MarketRegime.QUIET,
    MarketRegime.TREND_UP,
)


def days_of(generated: list[MarketRegime], recorded: list[str]) -> list[MarketRegime | str]:
    """Return the generated days, and the recorded ones where they are present."""
    return [*generated, *(recorded if DATA.is_dir() else [])]


def day_of(name: MarketRegime | str) -> RecordedDay:
    return generated_day(name) if isinstance(name, MarketRegime) else recorded_day(name)


def assert_frame_valid(frame: pd.DataFrame) -> None:
    """Assert the invariants of every frame: caps, reasons, scores, ranks, prices on tick and plan sizes."""
    counts = funnel(frame)
    assert all(counts[stage] <= cap for stage, cap in CAPS.items())
    assert frame["reason"].notna().equals(frame["refused_by"].notna())
    assert not frame["reason"].fillna("").str.contains(r"\bnan\b").any()
    assert (frame["reason"].dropna().str.len() > 5).all()
    for score in ("scan_score", "news_score", "pattern_confidence", "agreement", "composite", "risk_score"):
        assert frame[score].dropna().between(0, 1).all(), score
    ranked = frame["scan_rank"].dropna()
    assert sorted(ranked) == list(range(1, len(ranked) + 1))
    for planned in plans(frame):
        away = planned.entry_price - planned.stop
        if planned.side is PositionSide.SHORT:
            away = -away
        assert away > 0
        assert planned.entry is not None
        assert on_tick(planned.entry)
        assert on_tick(planned.stop)
        assert on_tick(planned.target)
        assert planned.quantity * away == planned.risk_amount
        assert planned.risk_amount <= Decimal(500)
        assert Decimal(100) <= planned.quantity * planned.entry_price <= Decimal(5000)
        assert abs(planned.target - planned.entry_price) / away >= 2


@pytest.mark.parametrize(
    "name", days_of([GENERATED_GAP, GENERATED_QUIET, GENERATED_TREND], [GAP_DAY, QUIET, TREND])
)
def test_market_day_yields_plans_within_every_cap(name: MarketRegime | str):
    """Between 10:00 and 15:00 at least three of five scans give a plan; each plan is on tick, sized and worth
    its risk."""
    day = day_of(name)
    low, high = (
        (GENERATED_SYMBOL_COUNT, GENERATED_SYMBOL_COUNT) if isinstance(name, MarketRegime) else (4_100, 6_500)
    )
    plan_counts = []
    for clock in ("10:00", "10:30", "11:30", "13:00", "15:00"):
        frame = run_stages(day, day.at(clock))
        assert_frame_valid(frame)
        counts = funnel(frame)
        assert low <= counts["universe"] <= high
        assert counts["scan"] == 200
        plan_counts.append(counts["plan"])
    assert plan_counts[0] > 0
    assert sum(count > 0 for count in plan_counts) >= 3


@pytest.mark.parametrize("name", days_of([GENERATED_GAP], [GAP_DAY]))
def test_market_day_yields_shorts_with_reversed_levels(name: MarketRegime | str):
    """On the sell-off after a gap both sides are found, and a short has its stop above and its target below
    the entry."""
    day = day_of(name)
    frame = run_stages(day, day.at("10:00"), shorts=True)
    assert_frame_valid(frame)
    judged = frame[frame["composite"].notna()]
    assert set(judged["side"]) == {"long", "short"}
    short = judged[(judged["side"] == "short") & judged["entry"].notna()]
    assert (short["stop"] > short["entry"]).all()
    assert (short["target"] < short["entry"]).all()


@pytest.mark.parametrize("name", days_of([GENERATED_QUIET], [QUIET]))
@pytest.mark.parametrize("clock", ["10:00", "12:00"])
def test_decisions_ignore_later_data(clock: str, name: MarketRegime | str):
    """Bars, headlines and days after the decision do not change the frame in any bit."""
    day = day_of(name)
    now = day.at(clock)
    whole, cut = run_stages(day, now), run_stages(day.cut(now), now)
    pd.testing.assert_frame_equal(whole, cut, check_exact=True)


@pytest.mark.parametrize("name", days_of([GENERATED_GAP], [GAP_DAY]))
def test_plans_are_independent_of_headline_order(name: MarketRegime | str):
    """Headlines in another order give the same plans."""
    day = day_of(name)
    now = day.at("11:00")
    shuffled = replace(day, headlines=day.headlines.sample(frac=1, random_state=3).reset_index(drop=True))
    assert plans(run_stages(day, now)) == plans(run_stages(shuffled, now))


@pytest.mark.parametrize("name", days_of([GENERATED_QUIET], [QUIET]))
def test_market_day_yields_no_plan_before_the_open(name: MarketRegime | str):
    """At 9:15 the reason is `no pre-market data`, and there is no plan."""
    day = day_of(name)
    early = run_stages(day, day.at("09:15"))
    listed = early[early["refused_by"] == "scan"]
    assert set(listed["reason"]) == {"no pre-market data"}
    assert funnel(early)["plan"] == 0


@pytest.mark.parametrize("name", days_of([GENERATED_GAP], [OUTAGE]))
def test_market_day_yields_no_plan_in_a_feed_outage(name: MarketRegime | str):
    """Prices are too old in a feed outage; there is no plan. The generated day gets its outage here: no bar from
    9:35."""
    lost = day_of(name)
    if isinstance(name, MarketRegime):
        lost = lost.cut(lost.at("09:35"))
    silent = run_stages(lost, lost.at("09:44"))
    assert funnel(silent)["plan"] == 0
    assert_frame_valid(silent)


@pytest.mark.parametrize(
    ("name", "rows", "size"),
    [
        (GENERATED_GAP, GENERATED_SYMBOL_COUNT, 120_000),
        *([(GAP_DAY, 7_000, 400_000)] if DATA.is_dir() else []),
    ],
)
def test_stored_scan_frame_is_small(name: MarketRegime | str, rows: int, size: int):
    """The whole market with its reasons compresses to less than 400 kB."""
    from io import BytesIO

    day = day_of(name)
    table = decision_table(run_stages(day, day.at("10:00")))
    assert len(table) > rows
    blob = BytesIO()
    table.to_parquet(blob, compression="zstd", index=False)
    assert blob.getbuffer().nbytes < size
    assert np.isfinite(table["scan_score"]).sum() >= 200
