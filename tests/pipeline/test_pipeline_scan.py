from dataclasses import replace
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sample_frames import CFG, SESSION, assets, daily_references, listed, new_york, snapshot, snapshots

from catalyst.pipeline.frame import decision_table, funnel, remaining_symbols
from catalyst.pipeline.reference import reference
from catalyst.pipeline.scan import scan
from catalyst.pipeline.universe import universe
from catalyst.pipeline.volume_curve import usual_volume_share

NOW = new_york(11, 0)
NAN = float("nan")


def run_scan(shots: pd.DataFrame, ref: pd.DataFrame, now=NOW, **kw) -> pd.DataFrame:
    frame = listed(*sorted({*shots.index, *ref.index}))
    return scan(frame, shots, ref, SESSION, now, CFG.scan, **({"allow_short": False} | kw))


def test_scan_passes_a_stock_in_play_with_its_figures():
    """Gap, relative volume against the curve, spread and momentum equal a manual calculation."""
    out = run_scan(snapshots(UP=snapshot(NOW)), daily_references("UP")).loc["UP"]
    assert pd.isna(out["refused_by"])
    assert out["gap_pct"] == pytest.approx(2.0)
    assert out["momentum_open_pct"] == pytest.approx((52 / 51 - 1) * 100)
    assert out["relative_volume"] == pytest.approx(3e6 / (4e6 * usual_volume_share(90)))
    assert out["spread_bps"] == pytest.approx(0.02 / 52 * 1e4)
    assert out["minute_volume"] == pytest.approx(3e6 / 90)
    assert out["scan_rank"] == 1


def test_scan_of_a_half_day_uses_the_curve_of_its_length():
    """The middle of a half day has the usual volume of the middle of a full day."""
    half = replace(SESSION, close=new_york(13, 0))
    full_now, half_now = new_york(12, 45), new_york(11, 15)
    full = run_scan(snapshots(X=snapshot(full_now)), daily_references("X"), full_now)
    short = scan(
        listed("X"), snapshots(X=snapshot(half_now)), daily_references("X"), half, half_now, CFG.scan, allow_short=False
    )  # fmt: skip
    assert full.loc["X", "relative_volume"] == pytest.approx(3e6 / (4e6 * usual_volume_share(195)))
    assert short.loc["X", "relative_volume"] == pytest.approx(full.loc["X", "relative_volume"])


def test_refused_row_changes_no_score_of_another():
    """Scores, ranks and percentiles of the remaining rows are the same with and without refused rows, whatever
    extreme values these have."""
    good = {
        name: snapshot(NOW, trade_price=price, day_volume=volume)
        for name, price, volume in (("A", 51.5, 2e6), ("B", 52.0, 3e6), ("C", 52.3, 4e6))
    }
    spoiled = {
        "HALT": snapshot(NOW, trade_price=52.4, day_volume=9e6),
        "WIDE": snapshot(NOW, bid=50.0, ask=53.0, day_volume=8e6),
        "OLD": snapshot(NOW, trade_at=new_york(10, 0), day_volume=1e6),
    }
    alone = run_scan(snapshots(**good), daily_references(*good))
    beside = run_scan(
        snapshots(**good, **spoiled), daily_references(*good, *spoiled), halted=frozenset({"HALT"})
    )
    assert beside.loc[list(spoiled), "refused_by"].tolist() == ["scan"] * 3
    for column in ("volume_score", "momentum_score", "scan_score", "scan_rank"):
        assert beside.loc[list(good), column].tolist() == alone[column].tolist(), column
        assert beside.loc[list(spoiled), column].isna().all(), column


@pytest.mark.parametrize(
    ("spoiled", "reason"),
    [
        ({"trade_price": NAN, "trade_at": pd.NaT}, "no snapshot"),
        ({"trade_price": 0.0}, "is not a positive number"),
        ({"trade_price": -3.0}, "is not a positive number"),
        ({"trade_at": new_york(9, 29)}, "no trade since the open"),
        ({"trade_at": new_york(10, 45)}, "last trade is 900 s old, limit 420 s"),
        ({"trade_at": new_york(11, 5)}, "300 s in the future"),
        ({"bid": NAN, "ask": NAN}, "no quote"),
        ({"bid": 0.0}, "one-sided quote"),
        ({"ask": NAN}, "one-sided quote"),
        ({"bid": 52.10}, "crossed quote"),
        ({"quote_at": new_york(10, 40)}, "quote is 1200 s old"),
        ({"quote_at": pd.NaT}, "quote without a time"),
        ({"bid": 51.5, "ask": 52.5}, "spread 192 bp, limit 50 bp"),
        ({"bid": 60.0, "ask": 60.01}, "% from the quote, limit 5 %"),
        ({"day_volume": 0.0}, "no volume today"),
        ({"day_volume": NAN}, "no volume today"),
        ({"day_at": new_york(0, 0) - timedelta(days=1)}, "of an earlier day"),
        ({"day_low": 54.0}, "contradicts itself"),
        ({"prev_close": 100.0}, "split today: previous close 100 in the snapshot, 50 in the daily bars"),
        ({"day_volume": 4e5}, "relative volume 0.42, limit 1"),
    ],
)
def test_scan_refuses_bad_input_with_a_reason(spoiled: dict[str, object], reason: str):
    """Missing, stale, zero, one-sided, crossed, wide and contradictory input is refused with its reason;
    other rows keep their rank."""
    shots = snapshots(BAD=snapshot(NOW, **spoiled), GOOD=snapshot(NOW))
    out = run_scan(shots, daily_references("BAD", "GOOD"))
    assert out.loc["BAD", "refused_by"] == "scan"
    assert reason in out.loc["BAD", "reason"]
    assert np.isnan(out.loc["BAD", "scan_rank"])
    assert remaining_symbols(out) == ["GOOD"]


@pytest.mark.parametrize(
    ("price", "volume", "reason"),
    [
        (52.0 * 12, 3e5, "price is 12.48 times the previous close on 0.3 times the usual volume"),
        (25.05, 2e6, "looks like a split: price is 0.501 times the previous close"),
        (150.3, 2e6, "looks like a split: price is 3.006 times the previous close"),
    ],
)
def test_scan_refuses_a_price_jump_without_volume(price: float, volume: float, reason: str):
    """A tenfold price without volume, or one near a whole multiple on ordinary volume, is refused."""
    day = {"day_open": price, "day_high": price * 1.01, "day_low": price * 0.99, "day_volume": volume}
    quote = {"trade_price": price, "bid": price * 0.9998, "ask": price * 1.0002}
    out = run_scan(snapshots(X=snapshot(NOW, **day, **quote)), daily_references("X"))
    assert reason in out.loc["X", "reason"]


def test_scan_passes_a_halved_price_on_ten_times_the_volume():
    """A price change like a split's passes on ten times the volume."""
    shot = snapshot(
        NOW,
        trade_price=25.05,
        bid=25.04,
        ask=25.06,
        day_open=25.0,
        day_high=26.0,
        day_low=24.0,
        day_volume=2e7,
    )
    assert remaining_symbols(run_scan(snapshots(X=shot), daily_references("X"))) == ["X"]


@pytest.mark.parametrize(
    ("yard", "reason"),
    [
        ({"days": 3}, "not enough daily history: 3 bars, 5 needed"),
        ({"last_at": pd.Timestamp(new_york(0, 0) - timedelta(days=30))}, "daily history ends 30 days ago"),
        ({"avg_dollar_volume_20d": 2e6}, "average dollar volume $2.00 M, limit $5 M"),
        ({"avg_dollar_volume_20d": NAN}, "average dollar volume"),
        ({"avg_volume_20d": NAN}, "usual volume unknown"),
    ],
)
def test_scan_refuses_rows_without_daily_reference(yard: dict[str, object], reason: str):
    """A row with too little, too old or missing daily history is refused."""
    assert reason in run_scan(snapshots(X=snapshot(NOW)), daily_references("X", **yard)).loc["X", "reason"]


def test_scan_refuses_a_symbol_without_snapshot_or_history():
    """A missing snapshot and a missing history have their own reasons."""
    out = run_scan(snapshots(NEW=snapshot(NOW)), daily_references("GONE"))
    assert "no snapshot" in out.loc["GONE", "reason"]
    assert "not enough daily history: 0 bars" in out.loc["NEW", "reason"]


def test_scan_refuses_a_halted_stock():
    """A halted stock is refused with that reason."""
    out = run_scan(snapshots(X=snapshot(NOW)), daily_references("X"), halted={"X"})
    assert out.loc["X", "reason"] == "trading is halted"


def test_scan_refuses_everything_before_the_first_print():
    """A scan before the open without pre-market prints records `no pre-market data` on every row."""
    now = new_york(9, 15)
    shot = snapshot(new_york(16, 0) - timedelta(days=1))
    out = run_scan(snapshots(A=shot, B=shot), daily_references("A", "B", "C"), now)
    assert set(out["reason"]) == {"no pre-market data"}
    empty = run_scan(pd.DataFrame(index=pd.Index([], name="symbol")), daily_references("A"), now)
    assert set(empty["reason"]) == {"no pre-market data"}


def test_scan_ranks_a_pre_market_print_by_its_gap():
    """Before the open the gap is the price against yesterday's close, and today's relative volume is unknown."""
    now = new_york(9, 20)
    out = run_scan(
        snapshots(A=snapshot(now, trade_price=55.0, bid=54.99, ask=55.01)), daily_references("A"), now
    ).loc["A"]
    assert pd.isna(out["refused_by"])
    assert out["gap_pct"] == pytest.approx(10.0)
    assert np.isnan(out["relative_volume"])
    assert out["volume_score"] == 0.5


def test_scan_keeps_the_best_and_breaks_ties_by_symbol():
    """Rows beyond the cap are refused with their rank; equal scores rank alphabetically, in any input order."""
    names = [f"S{k:03}" for k in range(250)]
    shots = snapshots(**{name: snapshot(NOW) for name in reversed(names)})
    out = run_scan(shots, daily_references(*names))
    assert remaining_symbols(out) == names[:200]
    assert out.loc["S200", "reason"] == "rank 201 of 250 by scan score; the scan keeps 200"
    assert funnel(out) == {"listed": 250, "universe": 250, "scan": 200}


def test_scan_momentum_uses_earlier_snapshots():
    """Moves over 5 and 15 minutes use the nearest earlier snapshot, or are NaN when none is near."""
    earlier = [
        (NOW - timedelta(minutes=m), pd.Series({"X": p})) for m, p in ((30, 40.0), (14, 50.0), (6, 51.0))
    ]
    out = run_scan(snapshots(X=snapshot(NOW)), daily_references("X"), earlier=earlier).loc["X"]
    assert out["momentum_15m_pct"] == pytest.approx(4.0)
    assert out["momentum_5m_pct"] == pytest.approx((52 / 51 - 1) * 100)
    assert np.isnan(run_scan(snapshots(X=snapshot(NOW)), daily_references("X")).loc["X", "momentum_5m_pct"])
    gap = run_scan(snapshots(X=snapshot(NOW)), daily_references("X"), earlier=earlier[:2]).loc["X"]
    assert gap["momentum_15m_pct"] == pytest.approx(4.0)
    assert np.isnan(gap["momentum_5m_pct"])


def test_scan_ranks_fallers_like_risers_when_shorts_are_allowed():
    """Long-only prefers the rising stock; with shorts allowed the falling one scores equally."""
    fall = snapshot(
        NOW, trade_price=50.0, bid=49.99, ask=50.01, day_open=51.0, day_high=51.2, day_low=49.9, day_vwap=50.4
    )
    flat = snapshot(NOW, trade_price=51.0, bid=50.99, ask=51.01)
    shots = snapshots(RISE=snapshot(NOW), FLAT=flat, FALL=fall)
    ref = daily_references("RISE", "FLAT", "FALL")
    assert remaining_symbols(run_scan(shots, ref)) == ["RISE", "FLAT", "FALL"]
    both = run_scan(shots, ref, allow_short=True)
    assert both.loc["RISE", "scan_score"] == pytest.approx(both.loc["FALL", "scan_score"])
    assert remaining_symbols(both)[-1] == "FLAT"


MUTABLE_COLUMNS = sorted(set(snapshot(NOW)) - {"trade_at", "quote_at", "day_at", "minute_at", "prev_at"})
REFERENCE_COLUMNS = ["prev_close", "avg_volume_20d", "avg_dollar_volume_20d", "atr_14d", "days"]
BAD_VALUES = st.sampled_from([NAN, 0.0, -1.0, 1e-12, 1e12, float("inf"), float("-inf")])


@settings(max_examples=150, deadline=None)
@given(
    shot=st.dictionaries(st.sampled_from(MUTABLE_COLUMNS), BAD_VALUES, max_size=4),
    yard=st.dictionaries(st.sampled_from(REFERENCE_COLUMNS), BAD_VALUES, max_size=2),
    times=st.dictionaries(
        st.sampled_from(["trade_at", "quote_at", "day_at"]),
        st.sampled_from([pd.NaT, new_york(4, 0), new_york(15, 59)]),
        max_size=1,
    ),
    shorts=st.booleans(),
)
@example(shot={}, yard={}, times={}, shorts=False)
def test_scan_never_ranks_a_row_with_nan(shot, yard, times, shorts):
    """For any missing, zero, negative or infinite input, a remaining row has finite numbers and a refused row
    a reason."""
    shots = snapshots(BAD=snapshot(NOW, **shot, **times), GOOD=snapshot(NOW))
    ref = daily_references("BAD", "GOOD").astype({"days": "float64"})
    for name, value in yard.items():
        ref.loc["BAD", name] = value
    out = run_scan(shots, ref, allow_short=shorts)
    assert "GOOD" in remaining_symbols(out)
    row = out.loc["BAD"]
    if pd.isna(row["refused_by"]):
        for name in (
            "price",
            "bid",
            "ask",
            "spread_bps",
            "gap_pct",
            "relative_volume",
            "dollar_volume",
            "scan_score",
        ):
            assert np.isfinite(row[name]), name
        assert row["price"] > 0
        assert row["ask"] >= row["bid"] > 0
    else:
        assert row["reason"]
        assert np.isnan(row["scan_rank"])


def test_scan_rejects_a_naive_datetime():
    """A time without a zone raises."""
    with pytest.raises(ValueError, match="time zone"):
        run_scan(snapshots(X=snapshot(NOW)), daily_references("X"), NOW.replace(tzinfo=None))


def test_volume_curve_rises_to_one_at_the_close():
    """The curve is never zero, never falls and ends at one; a half day uses the same curve, scaled to its
    length."""
    shares = [usual_volume_share(minute) for minute in range(391)]
    assert shares == sorted(shares)
    assert 0 < shares[0] < 0.01
    assert shares[-1] == pytest.approx(1.0)
    assert usual_volume_share(105, 210) == pytest.approx(usual_volume_share(195))


def test_reference_averages_twenty_days_without_today():
    """Averages use the days before; a daily bar of today changes nothing."""
    days = pd.bdate_range("2026-01-19", "2026-03-02", tz="America/New_York").tz_convert("UTC")
    volume = np.arange(1.0, len(days) + 1) * 1000
    daily = pd.DataFrame(
        {
            "symbol": "X",
            "timestamp": days,
            "open": 10.0,
            "high": 10.5,
            "low": 9.5,
            "close": 10.0,
            "volume": volume,
        }
    )
    out = reference(daily, SESSION.day).loc["X"]
    assert out["days"] == len(days) - 1
    assert out["avg_volume_20d"] == pytest.approx(volume[-21:-1].mean())
    assert out["avg_dollar_volume_20d"] == pytest.approx(volume[-21:-1].mean() * 10)
    assert out["atr_14d"] == pytest.approx(1.0)
    few = reference(daily.head(10), SESSION.day).loc["X"]
    assert few["avg_volume_20d"] == pytest.approx(volume[:10].mean())
    assert np.isnan(few["atr_14d"])
    assert reference(daily.head(0), SESSION.day).empty


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("ABCDW", "Alpha Acquisition Corp. Warrant"), ("ABCD.WS", "Alpha Corp."), ("ABC.U", "Alpha Trust"),
        ("XYZU", "Alpha Acquisition Corp. Units"), ("XYZR", "Alpha Acquisition Corp. Right"),
        ("XYZU", "Alpha Corp Units each consisting of one share and one half warrant"),
        ("BAC.PRB", "Bank of Somewhere"), ("WXYZP", "Some Bancorp 6.5% Series A Preferred Stock"),
        ("WXYB", "Some Insurance 5.875% Subordinated Debentures"), ("WXYZL", "Some Corp. 7.75% Notes due 2028"),
        ("WXYZP", "Some Bancorp Depositary Shares each representing 1/40th interest"),
    ],
)  # fmt: skip
def test_universe_refuses_warrants_units_rights_preferreds_and_notes(symbol: str, name: str):
    """Warrants, units, rights, preferred stock and notes are refused by suffix or by name."""
    out = universe(assets(symbol, name=name), CFG.universe)
    assert out.loc[symbol, "reason"] == "a warrant, unit, right, preferred share or note"


@pytest.mark.parametrize(
    ("symbol", "name"),
    [
        ("BRK.B", "Berkshire Hathaway Inc. Common Stock"), ("GOOGL", "Alphabet Inc. Class A Common Stock"),
        ("UNTC", "Unit Corporation Common Stock"), ("BWR", "Bright Rights Group plc Ordinary Shares"),
        ("ADR", "Some Telecom S.A. American Depositary Shares (each representing the right to receive 20 shares)"),
        ("ADRB", "Some Bank American Depositary Shares each representing one unit"),
        ("PFD", "First Preferred Income Fund"), ("SNOW", ""), ("EPDU", "Some Partners L.P. Common Units Representing"),
    ],
)  # fmt: skip
def test_universe_keeps_shares_with_misleading_names(symbol: str, name: str):
    """A company may be called Unit, an ADR may represent rights, a fund may own preferreds."""
    assert remaining_symbols(universe(assets(symbol, name=name), CFG.universe)) == [symbol]


def test_universe_applies_allow_and_deny_lists():
    """`deny` always refuses; a non-empty `allow` admits only its symbols."""
    cfg = CFG.universe.model_copy(update={"deny": ("A",), "allow": ("A", "B")})
    out = universe(assets("A", "B", "C"), cfg)
    assert out["reason"].fillna("").to_dict() == {
        "A": "on universe.deny",
        "B": "",
        "C": "not on universe.allow",
    }


def test_universe_refuses_untradable_and_inactive_listings():
    """Inactive, untradable and foreign-board listings are refused, with the exchange's name; a symbol listed
    twice raises."""
    out = universe(
        pd.concat([assets("A", tradable=False), assets("B", status="inactive"), assets("C", exchange="OTC")]),
        CFG.universe,
    )
    assert out["reason"].to_dict() == {
        "A": "not tradable at the broker", "B": "not an active listing",
        "C": "listed on OTC, not on NYSE, NASDAQ, ARCA, AMEX",
    }  # fmt: skip
    with pytest.raises(ValueError, match="listed twice: A"):
        universe(pd.concat([assets("A"), assets("A")]), CFG.universe)


def test_universe_marks_a_missing_sector_unknown():
    """A missing sector becomes `unknown`, never an empty value."""
    assert universe(assets("A", sector=pd.NA), CFG.universe).loc["A", "sector"] == "unknown"


def test_scan_reasons_hold_one_row_per_symbol():
    """The decision table holds one row per symbol with the deciding numbers, for every refusal, in a storable
    form."""
    out = run_scan(snapshots(A=snapshot(NOW), B=snapshot(NOW, bid=0.0)), daily_references("A", "B", "C"))
    table = decision_table(out)
    assert table["symbol"].tolist() == ["A", "B", "C"]
    assert table["price"].dtype == np.float32
    assert table.set_index("symbol")["reason"].notna().tolist() == [False, True, True]
