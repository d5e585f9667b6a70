"""Recorded whole markets through every stage. Skipped without the recordings."""

from decimal import Decimal

import numpy as np
import pandas as pd
import pytest
from recorded_day import DATA, recorded_day, run_stages

from catalyst.domain.order import PositionSide
from catalyst.domain.price import on_tick
from catalyst.pipeline.frame import decision_table, funnel
from catalyst.pipeline.plan import plans

pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="no recorded market beside the repository")

CAPS = {"scan": 200, "news": 35, "pattern": 20, "technical": 10, "score": 10, "risk": 5, "plan": 3}
GAP_DAY, QUIET, TREND, OUTAGE = "2026-04-08", "2026-04-15", "2026-03-31", "2026-02-26"


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


@pytest.mark.parametrize("day", [GAP_DAY, QUIET, TREND])
def test_recorded_day_yields_plans_within_every_cap(day: str):
    """Between 10:00 and 15:00 at least three of five scans give a plan; each plan is on tick, sized and worth
    its risk."""
    plan_counts = []
    for clock in ("10:00", "10:30", "11:30", "13:00", "15:00"):
        frame = run_stages(recorded_day(day), recorded_day(day).at(clock))
        assert_frame_valid(frame)
        counts = funnel(frame)
        assert 4_100 <= counts["universe"] <= 6_500
        assert counts["scan"] == 200
        plan_counts.append(counts["plan"])
    assert plan_counts[0] > 0
    assert sum(count > 0 for count in plan_counts) >= 3


def test_recorded_day_yields_shorts_with_reversed_levels():
    """On the sell-off after a gap both sides are found, and a short has its stop above and its target below
    the entry."""
    frame = run_stages(recorded_day(GAP_DAY), recorded_day(GAP_DAY).at("10:00"), shorts=True)
    assert_frame_valid(frame)
    judged = frame[frame["composite"].notna()]
    assert set(judged["side"]) == {"long", "short"}
    short = judged[(judged["side"] == "short") & judged["entry"].notna()]
    assert (short["stop"] > short["entry"]).all()
    assert (short["target"] < short["entry"]).all()


@pytest.mark.parametrize("clock", ["10:00", "12:00"])
def test_recorded_decisions_ignore_later_data(clock: str):
    """Bars, headlines and days after the decision do not change the frame in any bit."""
    day = recorded_day(QUIET)
    now = day.at(clock)
    whole, cut = run_stages(day, now), run_stages(day.cut(now), now)
    pd.testing.assert_frame_equal(whole, cut, check_exact=True)


def test_recorded_plans_are_independent_of_headline_order():
    """Headlines in another order give the same plans."""
    day = recorded_day(GAP_DAY)
    now = day.at("11:00")
    shuffled = type(day)(
        day.session, day.bars, day.daily, day.headlines.sample(frac=1, random_state=3).reset_index(drop=True)
    )
    assert plans(run_stages(day, now)) == plans(run_stages(shuffled, now))


def test_recorded_day_yields_no_plan_before_the_open_or_in_a_feed_outage():
    """At 9:15 the reason is `no pre-market data`; in a feed outage prices are too old. Neither gives a plan."""
    day = recorded_day(QUIET)
    early = run_stages(day, day.at("09:15"))
    listed = early[early["refused_by"] == "scan"]
    assert set(listed["reason"]) == {"no pre-market data"}
    assert funnel(early)["plan"] == 0
    lost = recorded_day(OUTAGE)
    silent = run_stages(lost, lost.at("09:44"))
    assert funnel(silent)["plan"] == 0
    assert_frame_valid(silent)


def test_stored_scan_frame_is_small():
    """The whole market with its reasons compresses to less than 400 kB."""
    from io import BytesIO

    day = recorded_day(GAP_DAY)
    table = decision_table(run_stages(day, day.at("10:00")))
    assert len(table) > 7_000
    blob = BytesIO()
    table.to_parquet(blob, compression="zstd", index=False)
    assert blob.getbuffer().nbytes < 400_000
    assert np.isfinite(table["scan_score"]).sum() >= 200
