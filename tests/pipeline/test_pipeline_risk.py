from dataclasses import replace
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sample_frames import CFG, DAY, SESSION, at, candidates, candles

from catalyst.config.schema import Config
from catalyst.domain.order import PositionSide
from catalyst.domain.price import on_tick
from catalyst.pipeline.correlation import likeness
from catalyst.pipeline.frame import survivors
from catalyst.pipeline.plan import entry_order_id, plan, plans, signal_id
from catalyst.pipeline.proposal import Chart, Proposal, propose, propose_from
from catalyst.pipeline.risk import most_alike, risk
from catalyst.pipeline.risk_checks import APPROVED, Alike, RiskVerdict, check
from catalyst.pipeline.risk_inputs import Account, Held, Limits, Portfolio, Working, limits_of

D = Decimal
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
NOW = at(11, 0)
LIMITS = limits_of(Config())
ACCOUNT = Account(equity=D(100_000), start_of_day_equity=D(100_000), buying_power=D(200_000))
EMPTY = Portfolio()


def ask(
    proposal: Proposal,
    portfolio: Portfolio = EMPTY,
    account: Account = ACCOUNT,
    limits: Limits = LIMITS,
    **kw,
) -> RiskVerdict:
    return check(proposal, portfolio, account, limits, SESSION, kw.pop("now", NOW), **kw)


def tesla(**changes: object) -> Proposal:
    return replace(propose("TSLA", LONG, D(250), LIMITS, quantity=10), **changes)


def test_the_golden_case():
    """Ten TSLA at $250 with a 2 % stop: approved, $50.00 at risk, a score in [0, 1], one reason."""
    verdict = ask(tesla())
    assert verdict.approved
    assert verdict.risk_amount == D("50.00")
    assert str(verdict.risk_amount) == "50.00"
    assert verdict.reasons == ("Risk within limits",)
    assert verdict.quantity == 10
    assert verdict.risk_score == pytest.approx(0.5)  # half of max_position_size is the most used
    assert check(tesla(), EMPTY, ACCOUNT, LIMITS, None, NOW).approved


def test_the_configuration_s_defaults_are_the_limits_defaults():
    """A Limits() made by hand and one from an empty config.yaml say the same."""
    assert limits_of(Config()) == Limits()


HELD = Held("AAPL", LONG, D(20), D(180), sector="Technology", last=D(190))


@pytest.mark.parametrize(
    ("changes", "portfolio", "account", "reason"),
    [
        ({}, EMPTY, replace(ACCOUNT, restriction="halted by the operator"), "halted by the operator"),
        ({}, Portfolio(positions=(replace(HELD, symbol="TSLA"),)), ACCOUNT, "TSLA is open"),
        ({}, Portfolio(working=(Working("TSLA", LONG, D(1), D(250)),)), ACCOUNT, "TSLA has a working entry"),
        (
            {}, Portfolio(tuple(replace(HELD, symbol=f"S{k}", sector=f"{k}") for k in range(3)),
                          tuple(Working(f"W{k}", LONG, D(1), D(9)) for k in range(2))), ACCOUNT,
            "would be position 6, max_positions 5",
        ),
        ({"quantity": 21}, EMPTY, ACCOUNT, "position $5,250.00, max_position_size $5,000.00"),
        ({"quantity": 0}, EMPTY, ACCOUNT, "0 shares worth $0.00, min_position_size $100.00"),
        ({}, EMPTY, replace(ACCOUNT, equity=D(9_000)), "risk $50.00, allowed per trade $45.00"),
        ({}, EMPTY, replace(ACCOUNT, day_pnl=D(-1_960)),
         "day's loss with this stop $2,010.00, max_daily_loss $2,000.00"),
        ({}, EMPTY, replace(ACCOUNT, buying_power=D(2_000)), "position $2,500.00, buying power left $2,000.00"),
        (
            {"sector": "Technology"}, Portfolio((replace(HELD, quantity=D(40)),)), ACCOUNT,
            "Technology $10,100.00 with this trade, 40 % allowed: $10,000.00",
        ),
        ({"minute_volume": D(900)}, EMPTY, ACCOUNT, "10 shares, 1 % of a minute's volume is 9"),
        ({"bid": D("249.50"), "ask": D("250.50")}, EMPTY, ACCOUNT, "spread 40.0 bp, max_spread_bps 30"),
        (
            {"bid": D("249.90"), "ask": D("250.10"), "stop": D("249.85"), "target": D(251)}, EMPTY, ACCOUNT,
            "stop is $0.15 away, the spread is $0.20",
        ),
        ({"target": D(255)}, EMPTY, ACCOUNT, "reward/risk 1.00, min_reward_risk 2.0"),
        ({"stop": D(251)}, EMPTY, ACCOUNT, "stop $251, entry $250.00, target $265.00 for a long"),
        ({"stop": D(200), "target": D(400)}, EMPTY, ACCOUNT, "stop 20.0 % away, max_stop_pct 5"),
        ({"side": SHORT, "stop": D(255), "target": D(235)}, EMPTY, ACCOUNT, "trading.allow_short is off"),
    ],
)  # fmt: skip
def test_each_limit_refuses_with_its_number(
    changes: dict[str, object], portfolio: Portfolio, account: Account, reason: str
):
    """One trade past one limit is refused, and the reason names the figure and the limit."""
    verdict = ask(tesla(**changes), portfolio, account)
    assert not verdict.approved
    assert any(reason in said for said in verdict.reasons), verdict.reasons


def test_every_check_is_evaluated_and_not_only_the_first():
    """A trade that breaks four rules hears all four, and the list of checks has the others as well."""
    bad = tesla(quantity=30, target=D(255), bid=D(249), ask=D(251))
    verdict = ask(bad, EMPTY, replace(ACCOUNT, buying_power=D(10)))
    assert {c.name for c in verdict.checks if not c.passed} == {
        "position_size", "reward_risk", "spread", "buying_power",
    }  # fmt: skip
    assert len(verdict.reasons) == 4
    assert len(verdict.checks) >= 16
    assert verdict.risk_score == 1.0


@pytest.mark.parametrize(
    ("hour", "minute", "open_"),
    [(9, 29, False), (9, 30, True), (15, 14, True), (15, 15, False), (16, 0, False)],
)
def test_entries_keep_to_market_hours_and_leave_before_the_close(hour: int, minute: int, open_: bool):
    """From the open until 45 minutes before the close; on a half day before that close."""
    assert ask(tesla(), now=at(hour, minute)).approved is open_
    half = replace(SESSION, close=at(13, 0))
    assert not check(tesla(), EMPTY, ACCOUNT, LIMITS, half, at(12, 30)).approved


def test_a_halt_refuses():
    """A halted symbol is not traded."""
    assert ask(tesla(), halted=True).reasons == ("trading in TSLA is halted",)


@pytest.mark.parametrize(
    ("limits", "account", "facts", "obstacle"),
    [
        ({"allow_short": True}, {}, {}, None),
        ({"allow_short": True}, {"shorting_enabled": False}, {}, "the account may not short"),
        ({"allow_short": True}, {}, {"shortable": False}, "TSLA is not shortable"),
        ({"allow_short": True}, {}, {"easy_to_borrow": False}, "TSLA is not easy to borrow"),
        ({"allow_short": False}, {}, {}, "trading.allow_short is off"),
    ],
)
def test_a_short_needs_every_door_open(limits: dict, account: dict, facts: dict, obstacle: str | None):
    """Our switch, the account's, and shares that can be borrowed."""
    proposal = replace(
        propose("TSLA", SHORT, D(250), LIMITS, quantity=10),
        **({"shortable": True, "easy_to_borrow": True} | facts),
    )
    verdict = ask(proposal, account=replace(ACCOUNT, **account), limits=replace(LIMITS, **limits))
    assert verdict.reasons == ((obstacle,) if obstacle else (APPROVED,))


def test_correlation_is_refused_above_the_limit_and_explained_when_unknown():
    """0.71 with an open position refuses; unknown says how little history there was and leaves it to the sector."""
    assert ask(tesla(), alike=Alike("AAPL", 0.70)).approved
    high = ask(tesla(), alike=Alike("AAPL", 0.71))
    assert high.reasons == ("correlation 0.71 with AAPL, max_correlation 0.7",)
    unknown = ask(tesla(), alike=Alike("AAPL", float("nan"), "49 daily returns of 60, 78 intraday of 120"))
    assert unknown.approved
    said = next(c.text for c in unknown.checks if c.name == "correlation")
    assert (
        said == "correlation unknown (49 daily returns of 60, 78 intraday of 120): the sector limit decides"
    )
    off = ask(tesla(), limits=replace(LIMITS, check_correlation=False), alike=Alike("AAPL", 0.99))
    assert off.approved


def test_only_the_named_sectors_are_limited():
    """An empty list limits all of them, an unknown sector is a sector, a list limits what it names."""
    full = Portfolio((replace(HELD, quantity=D(50), sector="unknown"),))
    assert "unknown" in ask(tesla(), full).reasons[0]
    named = replace(LIMITS, sectors_to_limit=frozenset({"Technology"}))
    assert ask(tesla(), full, limits=named).approved


def test_the_size_is_the_risk_over_the_distance_under_every_cap():
    """Risk dollars first, then size, buying power net of unreserved entries, and liquidity; always whole shares."""
    base = replace(tesla(), quantity=None, stop=D(240))
    roomy = replace(LIMITS, max_position_size=D(50_000))
    assert ask(base, limits=roomy).quantity == 50  # 500 dollars over 10
    assert ask(base).quantity == 20  # 5,000 dollars over 250
    assert ask(base, account=replace(ACCOUNT, buying_power=D(3_000))).quantity == 12
    working = Portfolio(
        working=(Working("A", LONG, D(10), D(100)), Working("B", LONG, D(5), D(100), reserved=True))
    )
    assert ask(base, working, replace(ACCOUNT, buying_power=D(3_000))).quantity == 8
    assert ask(replace(base, minute_volume=D(777))).quantity == 7
    assert ask(base, limits=replace(LIMITS, size_factor=D("0.5"))).quantity == 10
    assert ask(replace(base, stop=D(250))).quantity == 0


@settings(max_examples=150, deadline=None)
@given(
    price=st.decimals("1.00", "500.00", places=2),
    away=st.decimals("0.2", "4.9", places=1),
    equity=st.integers(1_000, 1_000_000),
    power=st.integers(0, 400_000),
    volume=st.integers(0, 2_000_000),
    short=st.booleans(),
)
def test_an_approved_trade_never_passes_a_limit(price, away, equity, power, volume, short):
    """Whatever the account and the price: approved means at least one share and every dollar within its limit."""
    side = SHORT if short else LONG
    limits = replace(LIMITS, allow_short=True)
    stop = price * (1 + away / 100 if short else 1 - away / 100)
    target = price * (1 - 3 * away / 100 if short else 1 + 3 * away / 100)
    proposal = replace(
        propose("X", side, price, limits, stop=stop, target=target, shortable=True, easy_to_borrow=True),
        minute_volume=D(volume),
    )
    assert on_tick(proposal.entry)
    assert on_tick(proposal.stop)
    assert on_tick(proposal.target)
    account = Account(D(equity), D(equity), D(power))
    verdict = check(proposal, EMPTY, account, limits, SESSION, NOW)
    if verdict.approved:
        value = verdict.quantity * proposal.entry
        assert verdict.quantity >= 1
        assert limits.min_position_size <= value <= limits.max_position_size
        assert value <= power
        assert (
            verdict.quantity * abs(proposal.entry - proposal.stop)
            <= D(equity) * limits.risk_per_trade_pct / 100
        )
        assert verdict.quantity <= D(volume) / 100
        assert proposal.reward / proposal.risk >= limits.min_reward_risk
    assert 0 <= verdict.risk_score <= 1


def chart(side: PositionSide = LONG, **changes: float) -> Chart:
    facts = {
        "bid": 49.99, "ask": 50.01, "stop": 49.3, "target": 52.5, "atr": 0.2, "minute_volume": 1e5,
    } | changes  # fmt: skip
    return Chart("X", side, "Technology", shortable=True, easy_to_borrow=True, **facts)  # type: ignore[arg-type]


def test_levels_come_from_the_chart_then_from_the_noise_then_from_the_percentages():
    """The pattern's stop; moved out of the noise; the default when there is none or it is too far; both sides."""
    nan = float("nan")
    assert propose_from(chart(), LIMITS).stop == D("49.30")
    assert propose_from(chart(), LIMITS).entry == D(
        "50.08"
    )  # the ask and 15 bp, rounded away from paying more
    assert propose_from(chart(stop=50.0), LIMITS).basis == "atr"
    assert propose_from(chart(stop=50.0), LIMITS).stop == D("49.88")
    default = propose_from(chart(stop=nan, target=nan), LIMITS)
    assert (default.basis, default.stop, default.target) == ("percent", D("49.08"), D("53.08"))
    assert propose_from(chart(stop=40.0), LIMITS).basis == "percent"
    assert propose_from(chart(stop=nan, atr=1.5), LIMITS).stop == D("48.58")
    short = propose_from(chart(SHORT, stop=50.7, target=47.5), LIMITS)
    assert (short.entry, short.stop, short.target) == (D("49.92"), D("50.70"), D("47.50"))
    market = propose_from(chart(), replace(LIMITS, market_entry=True))
    assert market.entry == D("50.01")


def judged(*symbols: str, **columns: object) -> pd.DataFrame:
    """A frame as the score stage leaves it, ranks in order."""
    facts: dict[str, object] = {
        "side": "long", "bid": 49.99, "ask": 50.01, "pattern": "bull_flag", "pattern_stop": 49.3,
        "pattern_target": 52.5, "stop_atr": 0.2, "composite": 0.7,
    }  # fmt: skip
    frame = candidates(*symbols, **(facts | columns))
    return frame.assign(score_rank=np.arange(1.0, len(symbols) + 1))


def decide(
    frame: pd.DataFrame, portfolio: Portfolio = EMPTY, daily: pd.DataFrame | None = None, **kw
) -> pd.DataFrame:
    none = candles("X", [1.0]).head(0)
    return risk(
        frame, portfolio, kw.pop("account", ACCOUNT), kw.pop("limits", LIMITS), SESSION, NOW,
        daily=none if daily is None else daily, bars=none, bar_minutes=5, **kw,
    )  # fmt: skip


def test_earlier_picks_count_as_working_for_the_later_ones():
    """Sector room, slots and buying power are used up in the order of the score."""
    out = decide(judged(*"ABCDEFG", sector=["Tech", "Tech", "Tech", "Oil", "Gas", "Air", "Sea"]))
    assert survivors(out) == ["A", "B", "D", "E", "F"]
    assert "Tech $14,873.76 with this trade" in out.loc["C", "reason"]
    assert "would be position 6, max_positions 5" in out.loc["G", "reason"]
    poor = decide(judged("A", "B", sector=["1", "2"]), account=replace(ACCOUNT, buying_power=D(6_000)))
    assert poor.loc["B", "quantity"] * 50.08 < 6_000 - poor.loc["A", "quantity"] * 50.08


def test_the_stage_keeps_every_check_in_words_and_the_figures():
    """The verdict column explains an approval as well as a refusal."""
    row = decide(judged("A")).loc["A"]
    assert row["quantity"] == 99
    assert row["risk_amount"] == pytest.approx(99 * (50.08 - 49.30))
    assert row["reward_risk"] == pytest.approx((52.5 - 50.08) / (50.08 - 49.30))
    assert "ok reward_risk: reward/risk 3.10, min_reward_risk 2.0" in row["verdict"]
    assert "ok sector:" in row["verdict"]


def returns(symbols: dict[str, np.ndarray], step: str = "1D") -> pd.DataFrame:
    """Closes that walk with the given log returns, ending the day before."""
    parts = []
    for symbol, moves in sorted(symbols.items()):
        close = 50 * np.exp(np.cumsum(np.r_[0.0, moves]))
        stamps = pd.date_range(end=at(0, 0) - pd.Timedelta(days=1), periods=close.size, freq=step)
        parts.append(
            pd.DataFrame(
                {
                    "symbol": symbol,
                    "timestamp": stamps,
                    "open": close,
                    "high": close,
                    "low": close,
                    "close": close,
                    "volume": 1.0,
                }
            )
        )
    return pd.concat(parts, ignore_index=True)


def test_correlation_equals_numpy_on_the_days_both_have():
    """Pearson over the last 60 common daily returns, as corrcoef gives; too few is unknown, not zero."""
    rng = np.random.default_rng(7)
    base = rng.normal(0, 0.02, 80)
    moves = {"A": base, "B": base * 0.5 + rng.normal(0, 0.01, 80), "C": -base, "D": rng.normal(0, 0.02, 30)}
    daily = returns(moves)
    known = likeness(["A", "B", "C", "D"], daily, daily.head(0), SESSION, NOW, 1)
    assert known.between("A", "B") == pytest.approx(np.corrcoef(moves["A"][-60:], moves["B"][-60:])[0, 1])
    assert known.between("A", "C") == pytest.approx(-1.0)
    assert np.isnan(known.between("A", "D"))
    assert np.isnan(known.between("A", "NEVER"))


def test_intraday_returns_stand_in_where_the_days_are_too_few():
    """120 one-minute returns of neighbouring bars; gaps and nights are not returns."""
    rng = np.random.default_rng(8)
    moves = rng.normal(0, 0.001, 200)
    path = 50 * np.exp(np.cumsum(moves))
    bars = pd.concat([candles("A", list(path), 1), candles("B", list(100 / path), 1)])
    late = at(14, 0)
    daily = returns({"A": moves[:30], "B": moves[:30]})
    assert likeness(["A", "B"], daily, bars, SESSION, late, 1).between("A", "B") == pytest.approx(-1.0)
    assert np.isnan(likeness(["A", "B"], daily, bars, SESSION, at(11, 25), 1).between("A", "B"))
    holes = bars[bars["timestamp"].dt.minute % 2 == 0]
    assert np.isnan(likeness(["A", "B"], daily, holes, SESSION, late, 1).between("A", "B"))


def test_a_bet_the_other_way_is_the_opposite_of_alike():
    """A short against a correlated long hedges; against an anti-correlated one it doubles the bet."""
    base = np.random.default_rng(9).normal(0, 0.02, 80)
    daily = returns({"A": base, "B": base, "C": -base})
    known = likeness(["A", "B", "C"], daily, daily.head(0), SESSION, NOW, 1)
    found = most_alike("A", LONG, {"B": SHORT, "C": SHORT}, known)
    assert found is not None
    assert (found.symbol, found.correlation) == ("C", pytest.approx(1.0))
    assert most_alike("A", LONG, {}, known) is None


def test_the_stage_refuses_a_twin_of_an_earlier_pick():
    """Two stocks that move as one are one bet: the better-scored stays."""
    base = np.random.default_rng(10).normal(0, 0.02, 80)
    out = decide(judged("A", "B", sector=["1", "2"]), daily=returns({"A": base, "B": base}))
    assert survivors(out) == ["A"]
    assert out.loc["B", "reason"] == "correlation 1.00 with A, max_correlation 0.7"
    assert out.loc["B", "correlated_with"] == "A"


def planned(*symbols: str, **kw: object) -> pd.DataFrame:
    frame = decide(judged(*symbols, sector=list(symbols)))
    return plan(frame, SESSION, NOW, CFG.plan, top_n=3, **kw)  # type: ignore[arg-type]


def test_the_plan_takes_the_best_three_on_tick_with_their_own_ids():
    """Three plans of five approved, exact prices, whole shares; the others say their rank."""
    out = planned(*"ABCDE")
    made = plans(out)
    assert [p.symbol for p in made] == ["A", "B", "C"]
    first = made[0]
    assert (first.entry, first.stop, first.target, first.quantity) == (D("50.08"), D("49.30"), D("52.50"), 99)
    assert (first.side, first.pattern, first.decided_at) == (LONG, "bull_flag", NOW)
    assert first.risk_amount == D("77.22")
    assert out.loc["D", "reason"] == "rank 4 of 5 approved; the plan takes 3"
    assert len({p.client_order_id for p in made}) == 3


def test_fewer_free_slots_take_fewer():
    """`slots` bounds the plan; none means no plan, and no row is lost."""
    assert [p.symbol for p in plans(planned("A", "B", slots=1))] == ["A"]
    out = planned("A", "B", slots=0)
    assert plans(out) == []
    assert len(out) == 2


def test_a_market_entry_has_no_limit_and_keeps_the_price_it_was_sized_at():
    """`plan.entry_type: market` leaves the limit away."""
    cfg = CFG.plan.model_copy(update={"entry_type": "market"})
    made = plans(
        plan(decide(judged("A"), limits=replace(LIMITS, market_entry=True)), SESSION, NOW, cfg, top_n=3)
    )[0]
    assert made.entry is None
    assert made.entry_price == D("50.01")


def test_ids_are_derived_and_never_drawn():
    """The same facts give the same ids in every process; each fact changes them; the broker takes their letters."""
    signal = signal_id(DAY, "catalyst", "AAPL", LONG, NOW)
    assert signal == signal_id(DAY, "catalyst", "AAPL", LONG, NOW)
    assert signal == UUID("bf0447b9-e27b-5c85-a868-ce7f68b591c1")
    assert entry_order_id(DAY, "catalyst", signal, "AAPL") == "cat-7626d636e38d585cbde54876b54abd20-e"
    others = {
        signal_id(DAY, "catalyst", "AAPL", SHORT, NOW), signal_id(DAY, "catalyst", "MSFT", LONG, NOW),
        signal_id(DAY, "other", "AAPL", LONG, NOW), signal_id(DAY, "catalyst", "AAPL", LONG, at(11, 30)),
    }  # fmt: skip
    assert len(others | {signal}) == 5
    ids = [entry_order_id(DAY, "catalyst", one, "AAPL", n) for one in others for n in (1, 2)]
    assert len(set(ids)) == len(ids)
    for one in ids:
        head, body, role = one.split("-")
        assert (head, len(body), len(one) <= 48) == ("cat", 32, True)
        assert set(body) <= set("0123456789abcdef")
        assert role.isalpha()
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        signal_id(DAY, "catalyst", "AAPL", LONG, naive)
