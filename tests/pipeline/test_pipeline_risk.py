from dataclasses import fields, replace
from decimal import Decimal
from uuid import UUID

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sample_frames import CFG, DAY, SESSION, candidates, candles, new_york

from catalyst.config.schema import Config
from catalyst.domain.order import PositionSide
from catalyst.domain.price import on_tick
from catalyst.pipeline.correlation import correlation_matrix
from catalyst.pipeline.frame import remaining_symbols
from catalyst.pipeline.plan import entry_order_id, plan, plans, signal_id
from catalyst.pipeline.proposal import ChartLevels, Proposal, propose, propose_from_levels
from catalyst.pipeline.risk import max_correlation, risk
from catalyst.pipeline.risk_checks import APPROVAL_REASON, MostCorrelated, RiskVerdict, check_risk
from catalyst.pipeline.risk_inputs import (
    AccountState,
    HeldPosition,
    Limits,
    Portfolio,
    WorkingEntry,
    limits_of,
)
from tests.changed_config import changed_config

D = Decimal
LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
NOW = new_york(11, 0)
HERE = "0a1b2c"  # the installation
LIMITS = limits_of(Config())
ACCOUNT = AccountState(equity=D(100_000), start_of_day_equity=D(100_000), buying_power=D(200_000))
EMPTY = Portfolio()


def check_trade(
    proposal: Proposal,
    portfolio: Portfolio = EMPTY,
    account: AccountState = ACCOUNT,
    limits: Limits = LIMITS,
    **kw,
) -> RiskVerdict:
    return check_risk(proposal, portfolio, account, limits, SESSION, kw.pop("now", NOW), **kw)


def tesla_proposal(**changes: object) -> Proposal:
    return replace(propose("TSLA", LONG, D(250), LIMITS, quantity=10), **changes)


def test_risk_check_approves_the_golden_case():
    """Ten TSLA at $250 with a 2 % stop are approved: $50.00 at risk, a score of 0.5, one reason."""
    verdict = check_trade(tesla_proposal())
    assert verdict.approved
    assert verdict.risk_amount == D("50.00")
    assert str(verdict.risk_amount) == "50.00"
    assert verdict.reasons == ("Risk within limits",)
    assert verdict.quantity == 10
    assert verdict.risk_score == pytest.approx(0.5)  # half of max_position_size is the most used limit
    assert check_risk(tesla_proposal(), EMPTY, ACCOUNT, LIMITS, None, NOW).approved


def test_risk_limits_default_to_the_configuration_defaults():
    """Limits() equals the limits of an empty config.yaml."""
    assert limits_of(Config()) == Limits()


HELD = HeldPosition("AAPL", LONG, D(20), D(180), sector="Technology", mark_price=D(190))


@pytest.mark.parametrize(
    ("changes", "portfolio", "account", "reason"),
    [
        ({}, EMPTY, replace(ACCOUNT, restriction="halted by the operator"), "halted by the operator"),
        ({}, Portfolio(positions=(replace(HELD, symbol="TSLA"),)), ACCOUNT, "TSLA is open"),
        ({}, Portfolio(working=(WorkingEntry("TSLA", LONG, D(1), D(250)),)), ACCOUNT, "TSLA has a working entry"),
        (
            {}, Portfolio(tuple(replace(HELD, symbol=f"S{k}", sector=f"{k}") for k in range(3)),
                          tuple(WorkingEntry(f"W{k}", LONG, D(1), D(9)) for k in range(2))), ACCOUNT,
            "with this entry 6 positions and entries, max_positions 5",
        ),
        ({"quantity": 21}, EMPTY, ACCOUNT, "position $5,250.00, max_position_size $5,000.00"),
        ({"quantity": 0}, EMPTY, ACCOUNT, "0 shares worth $0.00, min_position_size $100.00"),
        ({}, EMPTY, replace(ACCOUNT, equity=D(9_000)), "risk $50.00, allowed per trade $45.00"),
        ({}, EMPTY, replace(ACCOUNT, day_pnl=D(-1_960)),
         "day's loss with this stop $2,010.00, max_daily_loss $2,000.00"),
        ({}, EMPTY, replace(ACCOUNT, buying_power=D(2_000)), "position $2,500.00, buying power left $2,000.00"),
        (
            {"sector": "Technology"}, Portfolio((replace(HELD, quantity=D(40)),)), ACCOUNT,
            "sector Technology $10,100.00 with this trade, 40 % allowed: $10,000.00",
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
        ({"side": SHORT, "stop": D(255), "target": D(235)}, EMPTY, ACCOUNT, "trading.allow_short is false"),
    ],
)  # fmt: skip
def test_risk_limit_refuses_with_its_figure(
    changes: dict[str, object], portfolio: Portfolio, account: AccountState, reason: str
):
    """One trade past one limit is refused, and the reason states the figure and the limit."""
    verdict = check_trade(tesla_proposal(**changes), portfolio, account)
    assert not verdict.approved
    assert any(reason in verdict_reason for verdict_reason in verdict.reasons), verdict.reasons


def test_profit_of_the_day_does_not_raise_the_loss_limit():
    """A stop that costs more than the limit of the day is refused, however much the day has gained."""
    for day_pnl in (0, 100, 5_000):
        account = replace(ACCOUNT, day_pnl=D(day_pnl))
        verdict = check_trade(tesla_proposal(), EMPTY, account, replace(LIMITS, max_daily_loss=D(40)))
        assert verdict.reasons == ("day's loss with this stop $50.00, max_daily_loss $40.00",)


def test_half_filled_entry_takes_one_position_and_all_its_dollars():
    """A symbol with filled and working shares counts once among the positions; both parts count in its sector."""
    held = replace(HELD, quantity=D(8), mark_price=D(180))
    rest = WorkingEntry("AAPL", LONG, D(12), D(180), "Technology")
    others = tuple(WorkingEntry(f"W{k}", LONG, D(1), D(9)) for k in range(3))
    portfolio = Portfolio((held,), (rest, *others))
    assert portfolio.slots_used() == 4
    assert portfolio.sector_value("Technology") == 20 * 180
    assert check_trade(tesla_proposal(), portfolio).approved
    full = replace(portfolio, working=(*portfolio.working, WorkingEntry("W4", LONG, D(1), D(9))))
    assert "with this entry 6 positions" in check_trade(tesla_proposal(), full).reasons[0]


def test_scan_approves_at_most_the_configured_number_of_candidates():
    """With `risk.max_candidates` 2 the third candidate states the limit, although positions are free."""
    out = run_risk(scored_frame(*"ABC", sector=list("ABC")), limits=replace(LIMITS, max_candidates=2))
    assert remaining_symbols(out) == ["A", "B"]
    assert out.loc["C", "reason"] == "passed the risk checks, but risk.max_candidates is 2"


def test_every_limit_follows_its_own_keys():
    """Each key of the configuration changes the limit that bears its name, or the one listed here, and no other. The
    last entry follows the earlier of two times."""
    names = {
        "positions.default_stop_loss_pct": "default_stop_pct",
        "positions.default_take_profit_pct": "default_target_pct",
        "correlation.check_enabled": "check_correlation",
        "session.no_entries_before_close_minutes": "no_entry_minutes",
        "plan.entry_type": "market_entry",
    }
    base = Config()
    changed = changed_config(base)
    followed: set[str] = set()
    for section, info in Config.model_fields.items():
        for key in info.annotation.model_fields:
            value = getattr(getattr(changed, section), key)
            one = getattr(base, section).model_copy(update={key: value})
            limits = limits_of(base.model_copy(update={section: one}))
            moved = [f.name for f in fields(Limits) if getattr(limits, f.name) != getattr(LIMITS, f.name)]
            expected = names.get(f"{section}.{key}", key)
            assert moved in ([], [expected]), f"{section}.{key} changes {moved}"
            assert not moved or section not in ("scan", "news", "pattern", "technical", "scoring")
            followed.update(moved)
    assert followed == {f.name for f in fields(Limits)} - {"size_factor"}
    late_exit = base.session.model_copy(update={"flat_before_close_minutes": 60})
    assert limits_of(base.model_copy(update={"session": late_exit})).no_entry_minutes == 60


def test_risk_check_evaluates_every_check():
    """A trade that breaks four rules gets four reasons, and the list of checks has the passed ones too."""
    bad = tesla_proposal(quantity=30, target=D(255), bid=D(249), ask=D(251))
    verdict = check_trade(bad, EMPTY, replace(ACCOUNT, buying_power=D(10)))
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
def test_risk_check_refuses_entries_outside_entry_hours(hour: int, minute: int, open_: bool):
    """Entries are allowed from the open until 45 minutes before the close, also the early close of a half
    day."""
    assert check_trade(tesla_proposal(), now=new_york(hour, minute)).approved is open_
    half = replace(SESSION, close=new_york(13, 0))
    assert not check_risk(tesla_proposal(), EMPTY, ACCOUNT, LIMITS, half, new_york(12, 30)).approved


def test_risk_check_refuses_a_halted_symbol():
    """A halted symbol is refused."""
    assert check_trade(tesla_proposal(), halted=True).reasons == ("trading in TSLA is halted",)


@pytest.mark.parametrize(
    ("limits", "account", "facts", "obstacle"),
    [
        ({"allow_short": True}, {}, {}, None),
        ({"allow_short": True}, {"shorting_enabled": False}, {}, "the account may not short"),
        ({"allow_short": True}, {}, {"shortable": False}, "TSLA is not shortable"),
        ({"allow_short": True}, {}, {"easy_to_borrow": False}, "TSLA is not easy to borrow"),
        ({"allow_short": False}, {}, {}, "trading.allow_short is false"),
    ],
)
def test_risk_check_refuses_a_short_unless_all_conditions_hold(
    limits: dict, account: dict, facts: dict, obstacle: str | None
):
    """A short needs our setting, the account's setting, and shares that can be borrowed."""
    proposal = replace(
        propose("TSLA", SHORT, D(250), LIMITS, quantity=10),
        **({"shortable": True, "easy_to_borrow": True} | facts),
    )
    verdict = check_trade(proposal, account=replace(ACCOUNT, **account), limits=replace(LIMITS, **limits))
    assert verdict.reasons == ((obstacle,) if obstacle else (APPROVAL_REASON,))


def test_risk_check_refuses_correlation_above_the_limit():
    """0.71 with an open position is refused; an unknown correlation states how little history there is and
    leaves the decision to the sector limit."""
    assert check_trade(tesla_proposal(), most_correlated=MostCorrelated("AAPL", 0.70)).approved
    high = check_trade(tesla_proposal(), most_correlated=MostCorrelated("AAPL", 0.71))
    assert high.reasons == ("correlation 0.71 with AAPL, max_correlation 0.7",)
    unknown = check_trade(
        tesla_proposal(),
        most_correlated=MostCorrelated("AAPL", float("nan"), "49 daily returns of 60, 78 intraday of 120"),
    )
    assert unknown.approved
    text = next(c.text for c in unknown.checks if c.name == "correlation")
    assert (
        text == "correlation unknown (49 daily returns of 60, 78 intraday of 120): the sector limit decides"
    )
    off = check_trade(
        tesla_proposal(),
        limits=replace(LIMITS, check_correlation=False),
        most_correlated=MostCorrelated("AAPL", 0.99),
    )
    assert off.approved


def test_sector_limit_applies_to_named_sectors_only():
    """An empty list limits all sectors, `unknown` counts as a sector, and a list limits only the sectors it
    names."""
    full = Portfolio((replace(HELD, quantity=D(50), sector="unknown"),))
    assert "unknown" in check_trade(tesla_proposal(), full).reasons[0]
    named = replace(LIMITS, sectors_to_limit=frozenset({"Technology"}))
    assert check_trade(tesla_proposal(), full, limits=named).approved


def test_position_size_is_risk_over_stop_distance_within_caps():
    """Risk dollars give the size, capped by position size, buying power net of unreserved entries, and
    liquidity; always whole shares."""
    base = replace(tesla_proposal(), quantity=None, stop=D(240))
    roomy = replace(LIMITS, max_position_size=D(50_000))
    assert check_trade(base, limits=roomy).quantity == 50  # $500 over $10
    assert check_trade(base).quantity == 20  # $5,000 over $250
    assert check_trade(base, account=replace(ACCOUNT, buying_power=D(3_000))).quantity == 12
    working = Portfolio(
        working=(
            WorkingEntry("A", LONG, D(10), D(100)),
            WorkingEntry("B", LONG, D(5), D(100), in_buying_power=True),
        )
    )
    assert check_trade(base, working, replace(ACCOUNT, buying_power=D(3_000))).quantity == 8
    assert check_trade(replace(base, minute_volume=D(777))).quantity == 7
    assert check_trade(base, limits=replace(LIMITS, size_factor=D("0.5"))).quantity == 10
    assert check_trade(replace(base, stop=D(250))).quantity == 0


@settings(max_examples=150, deadline=None)
@given(
    price=st.decimals("1.00", "500.00", places=2),
    away=st.decimals("0.2", "4.9", places=1),
    equity=st.integers(1_000, 1_000_000),
    power=st.integers(0, 400_000),
    volume=st.integers(0, 2_000_000),
    short=st.booleans(),
)
@example(price=D(50), away=D(2), equity=100_000, power=200_000, volume=1_000_000, short=False)
def test_approved_trade_stays_within_every_limit(price, away, equity, power, volume, short):
    """For any account and price, an approved trade has at least one share and every dollar amount within its
    limit."""
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
    account = AccountState(D(equity), D(equity), D(power))
    verdict = check_risk(proposal, EMPTY, account, limits, SESSION, NOW)
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


def mirrored(exposures: tuple) -> tuple:
    """Return positions or working entries with the other side."""
    return tuple(replace(each, side=SHORT if each.side is LONG else LONG) for each in exposures)


@settings(max_examples=150, deadline=None)
@given(
    entry=st.decimals("20.00", "400.00", places=2),
    risk_cents=st.integers(-5, 1_000),
    reward_cents=st.integers(-5, 1_900),
    half_spread=st.integers(0, 40),
    quantity=st.none() | st.integers(1, 200),
    held=st.lists(
        st.tuples(st.sampled_from("ABC"), st.integers(1, 60), st.sampled_from(["Oil", "Gas"])), max_size=4
    ),
    day_pnl=st.integers(-2_100, 500),
)
def test_risk_check_of_a_short_mirrors_the_long(
    entry, risk_cents, reward_cents, half_spread, quantity, held, day_pnl
):
    """With equal distances and mirrored positions a short gets the verdict of the long: its size, its positive dollars
    at risk, and for each check the result and the used share of the limit."""
    risk_distance, reward, half = D(risk_cents) / 100, D(reward_cents) / 100, D(half_spread) / 100
    facts = {
        "symbol": "X", "entry": entry, "quantity": quantity, "sector": "Oil", "bid": entry - half, "ask": entry + half,
        "minute_volume": D(9_000), "shortable": True, "easy_to_borrow": True,
    }  # fmt: skip
    long = Proposal(side=LONG, stop=entry - risk_distance, target=entry + reward, **facts)
    short = Proposal(side=SHORT, stop=entry + risk_distance, target=entry - reward, **facts)
    positions = tuple(
        HeldPosition(symbol, LONG if number % 2 else SHORT, D(shares), entry, sector=sector)
        for number, (symbol, shares, sector) in enumerate(held)
    )
    working = tuple(
        WorkingEntry(each.symbol, each.side, each.quantity, entry, each.sector) for each in positions[:2]
    )
    account = replace(ACCOUNT, equity=D(40_000), buying_power=D(30_000), day_pnl=D(day_pnl))
    limits = replace(LIMITS, allow_short=True)
    one = check_trade(long, Portfolio(positions, working), account, limits)
    other = check_trade(short, Portfolio(mirrored(positions), mirrored(working)), account, limits)
    assert (other.quantity, other.risk_score) == (one.quantity, one.risk_score)
    assert other.risk_amount == one.risk_amount >= 0
    assert [(c.name, c.passed, c.limit_share) for c in other.checks] == [
        (c.name, c.passed, c.limit_share) for c in one.checks
    ]


def chart_levels(side: PositionSide = LONG, **changes: float) -> ChartLevels:
    facts = {
        "bid": 49.99, "ask": 50.01, "stop": 49.3, "target": 52.5, "atr": 0.2, "minute_volume": 1e5,
    } | changes  # fmt: skip
    return ChartLevels("X", side, "Technology", shortable=True, easy_to_borrow=True, **facts)  # type: ignore[arg-type]


def test_proposal_levels_fall_back_from_chart_to_atr_to_percent():
    """The stop is the pattern's, or beyond the noise (ATR), or the default when it is missing or too far; for
    both sides."""
    nan = float("nan")
    assert propose_from_levels(chart_levels(), LIMITS).stop == D("49.30")
    # The entry is the ask plus 15 bp, rounded away from paying more.
    assert propose_from_levels(chart_levels(), LIMITS).entry == D("50.08")
    assert propose_from_levels(chart_levels(stop=50.0), LIMITS).basis == "atr"
    assert propose_from_levels(chart_levels(stop=50.0), LIMITS).stop == D("49.88")
    default = propose_from_levels(chart_levels(stop=nan, target=nan), LIMITS)
    assert (default.basis, default.stop, default.target) == ("percent", D("49.08"), D("53.08"))
    assert propose_from_levels(chart_levels(stop=40.0), LIMITS).basis == "percent"
    assert propose_from_levels(chart_levels(stop=nan, atr=1.5), LIMITS).stop == D("48.58")
    short = propose_from_levels(chart_levels(SHORT, stop=50.7, target=47.5), LIMITS)
    assert (short.entry, short.stop, short.target) == (D("49.92"), D("50.70"), D("47.50"))
    market = propose_from_levels(chart_levels(), replace(LIMITS, market_entry=True))
    assert market.entry == D("50.01")


def scored_frame(*symbols: str, **columns: object) -> pd.DataFrame:
    """Return a frame as after the score stage, ranks in order."""
    facts: dict[str, object] = {
        "side": "long", "bid": 49.99, "ask": 50.01, "pattern": "bull_flag", "pattern_stop": 49.3,
        "pattern_target": 52.5, "stop_atr": 0.2, "composite": 0.7,
    }  # fmt: skip
    frame = candidates(*symbols, **(facts | columns))
    return frame.assign(score_rank=np.arange(1.0, len(symbols) + 1))


def run_risk(
    frame: pd.DataFrame, portfolio: Portfolio = EMPTY, daily: pd.DataFrame | None = None, **kw
) -> pd.DataFrame:
    none = candles("X", [1.0]).head(0)
    return risk(
        frame, portfolio, kw.pop("account", ACCOUNT), kw.pop("limits", LIMITS), SESSION, NOW,
        daily=none if daily is None else daily, bars=none, bar_minutes=5, **kw,
    )  # fmt: skip


def test_risk_stage_counts_earlier_picks_as_working_entries():
    """Sector room, slots and buying power are used up in score order."""
    out = run_risk(scored_frame(*"ABCDEFG", sector=["Tech", "Tech", "Tech", "Oil", "Gas", "Air", "Sea"]))
    assert remaining_symbols(out) == ["A", "B", "D", "E", "F"]
    assert "Tech $14,873.76 with this trade" in out.loc["C", "reason"]
    assert "with this entry 6 positions and entries, max_positions 5" in out.loc["G", "reason"]
    poor = run_risk(
        scored_frame("A", "B", sector=["1", "2"]), account=replace(ACCOUNT, buying_power=D(6_000))
    )
    assert poor.loc["B", "quantity"] * 50.08 < 6_000 - poor.loc["A", "quantity"] * 50.08


def test_risk_stage_stores_every_check_as_text():
    """The verdict column also explains an approval."""
    row = run_risk(scored_frame("A")).loc["A"]
    assert row["quantity"] == 99
    assert row["risk_amount"] == pytest.approx(99 * (50.08 - 49.30))
    assert row["reward_risk"] == pytest.approx((52.5 - 50.08) / (50.08 - 49.30))
    assert "ok reward_risk: reward/risk 3.10, min_reward_risk 2.0" in row["verdict"]
    assert "ok sector:" in row["verdict"]


def bars_of_returns(symbols: dict[str, np.ndarray], step: str = "1D") -> pd.DataFrame:
    """Return closes with the given log returns, ending the day before."""
    parts = []
    for symbol, moves in sorted(symbols.items()):
        close = 50 * np.exp(np.cumsum(np.r_[0.0, moves]))
        stamps = pd.date_range(end=new_york(0, 0) - pd.Timedelta(days=1), periods=close.size, freq=step)
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


def test_correlation_equals_numpy_on_common_days():
    """Pearson over the last 60 common daily returns equals corrcoef; too few returns give NaN, not zero."""
    rng = np.random.default_rng(7)
    base = rng.normal(0, 0.02, 80)
    moves = {"A": base, "B": base * 0.5 + rng.normal(0, 0.01, 80), "C": -base, "D": rng.normal(0, 0.02, 30)}
    daily = bars_of_returns(moves)
    correlations = correlation_matrix(["A", "B", "C", "D"], daily, daily.head(0), SESSION, NOW, 1)
    assert correlations.between("A", "B") == pytest.approx(
        np.corrcoef(moves["A"][-60:], moves["B"][-60:])[0, 1]
    )
    assert correlations.between("A", "C") == pytest.approx(-1.0)
    assert np.isnan(correlations.between("A", "D"))
    assert np.isnan(correlations.between("A", "NEVER"))


def test_correlation_uses_intraday_returns_when_days_are_too_few():
    """120 one-minute returns of neighbouring bars are used; gaps and nights are not returns."""
    rng = np.random.default_rng(8)
    moves = rng.normal(0, 0.001, 380)
    path = 50 * np.exp(np.cumsum(moves))
    bars = pd.concat([candles("A", list(path), 1), candles("B", list(100 / path), 1)])
    late = new_york(15, 59)
    daily = bars_of_returns({"A": moves[:30], "B": moves[:30]})
    assert correlation_matrix(["A", "B"], daily, bars, SESSION, late, 1).between("A", "B") == pytest.approx(
        -1.0
    )
    assert np.isnan(
        correlation_matrix(["A", "B"], daily, bars, SESSION, new_york(11, 25), 1).between("A", "B")
    )
    holes = bars[bars["timestamp"].dt.minute % 2 == 0]  # 190 bars, and no two neighbours
    assert np.isnan(correlation_matrix(["A", "B"], daily, holes, SESSION, late, 1).between("A", "B"))


def test_correlation_sign_is_reversed_for_opposite_sides():
    """A short hedges a correlated long and doubles the risk of an anti-correlated one."""
    base = np.random.default_rng(9).normal(0, 0.02, 80)
    daily = bars_of_returns({"A": base, "B": base, "C": -base})
    correlations = correlation_matrix(["A", "B", "C"], daily, daily.head(0), SESSION, NOW, 1)
    strongest = max_correlation("A", LONG, {"B": SHORT, "C": SHORT}, correlations)
    assert strongest is not None
    assert (strongest.symbol, strongest.correlation) == ("C", pytest.approx(1.0))
    assert max_correlation("A", LONG, {}, correlations) is None


def test_risk_stage_refuses_a_correlated_later_pick():
    """Of two fully correlated stocks only the better-scored one passes."""
    base = np.random.default_rng(10).normal(0, 0.02, 80)
    out = run_risk(scored_frame("A", "B", sector=["1", "2"]), daily=bars_of_returns({"A": base, "B": base}))
    assert remaining_symbols(out) == ["A"]
    assert out.loc["B", "reason"] == "correlation 1.00 with A, max_correlation 0.7"
    assert out.loc["B", "correlated_with"] == "A"


def run_plan(*symbols: str, **kw: object) -> pd.DataFrame:
    frame = run_risk(scored_frame(*symbols, sector=list(symbols)))
    return plan(frame, SESSION, NOW, CFG.plan, installation=HERE, top_n=3, **kw)  # type: ignore[arg-type]


def test_plan_takes_the_best_three_with_unique_ids():
    """Three of five approved rows are planned with exact prices and whole shares; the others state their
    rank."""
    out = run_plan(*"ABCDE")
    made = plans(out)
    assert [p.symbol for p in made] == ["A", "B", "C"]
    first = made[0]
    assert (first.entry, first.stop, first.target, first.quantity) == (D("50.08"), D("49.30"), D("52.50"), 99)
    assert (first.side, first.pattern, first.decided_at) == (LONG, "bull_flag", NOW)
    assert first.risk_amount == D("77.22")
    assert out.loc["D", "reason"] == "rank 4 of 5 approved; the plan takes 3"
    assert len({p.client_order_id for p in made}) == 3


def test_risk_and_plan_take_the_best_score_before_the_first_symbol():
    """Z scores best and A worst. Z gets the only room of the sector, and the plans are sent from Z on."""
    one_sector = scored_frame("A", "M", "Z", sector="Tech").assign(score_rank=[3.0, 2.0, 1.0])
    out = run_risk(one_sector)
    assert remaining_symbols(out) == ["Z", "M"]
    assert "Tech $14,873.76 with this trade" in out.loc["A", "reason"]
    made = plans(plan(out, SESSION, NOW, CFG.plan, installation=HERE, top_n=3))
    assert [each.symbol for each in made] == ["Z", "M"]
    best = plans(plan(out, SESSION, NOW, CFG.plan, installation=HERE, top_n=1))
    assert [each.symbol for each in best] == ["Z"]


def test_plan_is_bounded_by_free_slots():
    """`slots` limits the number of plans; zero slots give no plan and keep every row."""
    assert [p.symbol for p in plans(run_plan("A", "B", slots=1))] == ["A"]
    out = run_plan("A", "B", slots=0)
    assert plans(out) == []
    assert len(out) == 2


def test_market_entry_plan_has_no_limit_price():
    """`plan.entry_type: market` gives a plan without a limit price."""
    cfg = CFG.plan.model_copy(update={"entry_type": "market"})
    made = plans(
        plan(
            run_risk(scored_frame("A"), limits=replace(LIMITS, market_entry=True)),
            SESSION,
            NOW,
            cfg,
            installation=HERE,
            top_n=3,
        )
    )[0]
    assert made.entry is None
    assert made.entry_price == D("50.01")


def test_signal_and_order_ids_are_deterministic():
    """Equal inputs give equal ids in every process, each input changes them, and the broker accepts their
    characters."""
    signal = signal_id(DAY, "catalyst", "AAPL", LONG, NOW)
    assert signal == signal_id(DAY, "catalyst", "AAPL", LONG, NOW)
    assert signal == UUID("bf0447b9-e27b-5c85-a868-ce7f68b591c1")
    assert (
        entry_order_id(HERE, DAY, "catalyst", signal, "AAPL")
        == "cat-0a1b2c-7626d636e38d585cbde54876b54abd20-e"
    )
    others = {
        signal_id(DAY, "catalyst", "AAPL", SHORT, NOW), signal_id(DAY, "catalyst", "MSFT", LONG, NOW),
        signal_id(DAY, "other", "AAPL", LONG, NOW), signal_id(DAY, "catalyst", "AAPL", LONG, new_york(11, 30)),
    }  # fmt: skip
    assert len(others | {signal}) == 5
    ids = [entry_order_id(HERE, DAY, "catalyst", other, "AAPL", n) for other in others for n in (1, 2)]
    assert len(set(ids)) == len(ids)
    for order_id in ids:
        head, installation, body, role = order_id.split("-")
        assert (head, installation, len(body), len(order_id) <= 48) == ("cat", HERE, 32, True)
        assert set(body) <= set("0123456789abcdef")
        assert role.isalpha()
    naive = NOW.replace(tzinfo=None)
    with pytest.raises(ValueError, match="time zone"):
        signal_id(DAY, "catalyst", "AAPL", LONG, naive)
