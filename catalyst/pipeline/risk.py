"""Stage 7 of 8: may this trade be made, and how large? Every check is evaluated, so that all can be explained."""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Any, Final

import numpy as np
import pandas as pd

from catalyst.domain.order import PositionSide
from catalyst.domain.price import tick_of
from catalyst.domain.session import Session
from catalyst.pipeline.correlation import Likeness, likeness
from catalyst.pipeline.exposure import Account, Limits, Portfolio, Working
from catalyst.pipeline.frame import Sieve, numbers, words
from catalyst.pipeline.proposal import Chart, Proposal, propose_from

APPROVED: Final = "Risk within limits"
_ZERO: Final = Decimal(0)
_CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Check:
    """One question and its answer. `share` is how much of its limit the trade would use, None where it has none."""

    name: str
    passed: bool
    text: str
    share: float | None = None


@dataclass(frozen=True, slots=True)
class RiskVerdict:
    """The answer. `reasons` are the failed checks' words, or the one phrase of approval; `risk_score` in [0, 1] is
    the highest share of any limit used; `risk_amount`, dollars, is quantity x |entry - stop|."""

    approved: bool
    reasons: tuple[str, ...]
    risk_score: float
    risk_amount: Decimal
    quantity: int
    checks: tuple[Check, ...] = ()


@dataclass(frozen=True, slots=True)
class Alike:
    """The open position or earlier pick that moves most like the proposal; `correlation` NaN when unknown."""

    symbol: str
    correlation: float
    note: str = ""


def check(
    proposal: Proposal,
    portfolio: Portfolio,
    account: Account,
    limits: Limits,
    session: Session | None,
    now: datetime,
    *,
    alike: Alike | None = None,
    halted: bool = False,
) -> RiskVerdict:
    """Judge one proposal; sizes it when it has no quantity. Pure: nothing is sent, nothing remembered.

    `session` None: market hours are not looked at. Source: docs on limits; sizing is fixed-fractional.
    """
    quantity = size(proposal, portfolio, account, limits) if proposal.quantity is None else proposal.quantity
    checks = (
        *_standing(proposal, portfolio, account, limits, session, now, halted=halted),
        *_levels(proposal, limits),
        *_amounts(proposal, quantity, portfolio, account, limits),
        _likeness(alike, limits),
    )
    failed = tuple(each.text for each in checks if not each.passed)
    shares = [each.share for each in checks if each.share is not None]
    return RiskVerdict(
        approved=not failed,
        reasons=failed or (APPROVED,),
        risk_score=min(max([0.0, *shares]), 1.0),
        risk_amount=(quantity * abs(proposal.entry - proposal.stop)).quantize(_CENT),
        quantity=quantity,
        checks=checks,
    )


def size(proposal: Proposal, portfolio: Portfolio, account: Account, limits: Limits) -> int:
    """Whole shares: risk dollars over the distance to the stop, capped by size, buying power and liquidity."""
    if proposal.risk <= 0 or proposal.entry <= 0:
        return 0
    caps = [
        account.equity * limits.risk_per_trade_pct / 100 * limits.size_factor / proposal.risk,
        limits.max_position_size * limits.size_factor / proposal.entry,
        _buying_power(portfolio, account) / proposal.entry,
    ]
    if proposal.minute_volume is not None:
        caps.append(proposal.minute_volume * limits.max_participation_pct / 100)
    return max(int(min(caps).to_integral_value(ROUND_FLOOR)), 0)


def _buying_power(portfolio: Portfolio, account: Account) -> Decimal:
    """What is left to buy with once the entries the broker has not counted yet are paid."""
    return account.buying_power - sum((w.value for w in portfolio.working if not w.reserved), _ZERO)


def _standing(
    proposal: Proposal,
    portfolio: Portfolio,
    account: Account,
    limits: Limits,
    session: Session | None,
    now: datetime,
    *,
    halted: bool,
) -> Iterator[Check]:
    """May the account, the market and the symbol be traded now?"""
    yield Check(
        "account", account.restriction is None, account.restriction or "the account may open positions"
    )
    if session is None:
        yield Check("market_hours", True, "market hours not checked")
    else:
        last = session.close - timedelta(minutes=limits.quiet_minutes)
        text = f"entries are made from {session.open:%H:%M} to {last:%H:%M} UTC; it is {now:%H:%M}"
        yield Check("market_hours", session.open <= now < last, text)
    yield Check(
        "halted", not halted, f"trading in {proposal.symbol} is {'halted' if halted else 'not halted'}"
    )
    yield _borrow(proposal, account, limits)
    held = {each.symbol for each in portfolio.positions}
    worked = {each.symbol for each in portfolio.working}
    where = (
        "is open" if proposal.symbol in held else "has a working entry" if proposal.symbol in worked else None
    )
    yield Check("duplicate", where is None, f"{proposal.symbol} {where or 'is neither open nor working'}")
    used = portfolio.slots_used() + 1
    yield Check(
        "positions", used <= limits.max_positions,
        f"would be position {used}, max_positions {limits.max_positions}", used / limits.max_positions,
    )  # fmt: skip


def _borrow(proposal: Proposal, account: Account, limits: Limits) -> Check:
    """A long needs nothing; a short needs our switch, the account's, and shares to borrow."""
    if proposal.side is PositionSide.LONG:
        return Check("side", True, "a long needs no borrow")
    obstacles = {
        "trading.allow_short is off": limits.allow_short,
        "the account may not short": account.shorting_enabled,
        f"{proposal.symbol} is not shortable": proposal.shortable,
        f"{proposal.symbol} is not easy to borrow": proposal.easy_to_borrow,
    }
    in_the_way = [text for text, cleared in obstacles.items() if not cleared]
    return Check("side", not in_the_way, "; ".join(in_the_way) or "shares can be borrowed")


def _levels(proposal: Proposal, limits: Limits) -> Iterator[Check]:
    """Are the three prices in order, far enough apart, and worth the risk?"""
    tick = tick_of(proposal.entry)
    ordered = proposal.stop > 0 and proposal.target > 0 and min(proposal.risk, proposal.reward) >= tick
    text = f"stop ${proposal.stop}, entry ${proposal.entry}, target ${proposal.target} for a {proposal.side}"
    yield Check("order_of_prices", ordered, text)
    far = proposal.risk / proposal.entry * 100 if proposal.entry > 0 else _ZERO
    yield Check(
        "stop_distance",
        far <= limits.max_stop_pct,
        f"stop {far:.1f} % away, max_stop_pct {limits.max_stop_pct:g}",
    )
    ratio = proposal.reward / proposal.risk if proposal.risk > 0 else _ZERO
    yield Check(
        "reward_risk", ratio >= limits.min_reward_risk,
        f"reward/risk {ratio:.2f}, min_reward_risk {limits.min_reward_risk}",
    )  # fmt: skip
    if proposal.bid is None or proposal.ask is None or proposal.bid + proposal.ask <= 0:
        yield Check("spread", True, "spread not checked")
        return
    spread = proposal.ask - proposal.bid
    bps = spread / (proposal.ask + proposal.bid) * 20_000
    yield Check(
        "spread",
        _ZERO <= bps <= limits.max_spread_bps,
        f"spread {bps:.1f} bp, max_spread_bps {limits.max_spread_bps}",
    )
    yield Check(
        "stop_beyond_spread",
        proposal.risk > spread,
        f"stop is ${proposal.risk} away, the spread is ${spread}",
    )


def _amounts(
    proposal: Proposal, quantity: int, portfolio: Portfolio, account: Account, limits: Limits
) -> Iterator[Check]:
    """Does the size fit the limits in dollars and shares?"""
    value, at_risk = quantity * proposal.entry, quantity * max(proposal.risk, _ZERO)
    largest = limits.max_position_size * limits.size_factor
    yield _cap("position_size", value, largest, "position ${:,.2f}, max_position_size ${:,.2f}")
    yield Check(
        "min_size", quantity >= 1 and value >= limits.min_position_size,
        f"{quantity} shares worth ${value:,.2f}, min_position_size ${limits.min_position_size:,.2f}",
    )  # fmt: skip
    allowed = account.equity * limits.risk_per_trade_pct / 100 * limits.size_factor
    yield _cap("risk_per_trade", at_risk, allowed, "risk ${:,.2f}, allowed per trade ${:,.2f}")
    lost = max(-account.day_pnl, _ZERO)
    yield _cap(
        "daily_loss",
        lost + at_risk,
        limits.max_daily_loss,
        "day's loss with this stop ${:,.2f}, max_daily_loss ${:,.2f}",
    )
    left = _buying_power(portfolio, account)
    yield _cap("buying_power", value, left, "position ${:,.2f}, buying power left ${:,.2f}")
    yield _sector(proposal, value, portfolio, limits)
    if proposal.minute_volume is None:
        yield Check("participation", True, "participation not checked")
    else:
        most = proposal.minute_volume * limits.max_participation_pct / 100
        text = f"{{:,.0f}} shares, {limits.max_participation_pct:g} % of a minute's volume is {{:,.0f}}"
        yield _cap("participation", Decimal(quantity), most, text)


def _cap(name: str, used: Decimal, limit: Decimal, text: str) -> Check:
    share = float(used / limit) if limit > 0 else 1.0
    return Check(name, used <= limit and limit > 0, text.format(used, limit), share)


def _sector(proposal: Proposal, value: Decimal, portfolio: Portfolio, limits: Limits) -> Check:
    if limits.sectors_to_limit and proposal.sector not in limits.sectors_to_limit:
        return Check("sector", True, f"sector {proposal.sector} is not limited")
    most = limits.deployable * limits.max_sector_exposure_pct / 100
    text = f"{proposal.sector} ${{:,.2f}} with this trade, {limits.max_sector_exposure_pct:g} % allowed: ${{:,.2f}}"
    return _cap("sector", portfolio.in_sector(proposal.sector) + value, most, text)


def _likeness(alike: Alike | None, limits: Limits) -> Check:
    if not limits.check_correlation:
        return Check("correlation", True, "correlation check is switched off")
    if alike is None:
        return Check("correlation", True, "nothing open to be correlated with")
    if np.isnan(alike.correlation):
        return Check("correlation", True, f"correlation unknown ({alike.note}): the sector limit decides")
    return Check(
        "correlation", alike.correlation <= limits.max_correlation,
        f"correlation {alike.correlation:.2f} with {alike.symbol}, max_correlation {limits.max_correlation:g}",
        max(alike.correlation, 0.0) / limits.max_correlation,
    )  # fmt: skip


def most_alike(
    symbol: str, side: PositionSide, others: dict[str, PositionSide], known: Likeness
) -> Alike | None:
    """The one of `others` whose returns follow the proposal's most; a bet the other way counts with its sign turned.

    None when there are no others. When some pair is unknown and no known one stands out, the unknown is reported.
    """
    found = [
        (known.between(symbol, other) * (1 if its_side is side else -1), other)
        for other, its_side in sorted(others.items())
        if other != symbol
    ]
    if not found:
        return None
    heard = [(value, other) for value, other in found if not np.isnan(value)]
    if heard:
        value, other = max(heard, key=lambda pair: pair[0])
        return Alike(other, value)
    note = f"{known.daily_seen} daily returns of 60, {known.intraday_seen} intraday of 120"
    return Alike(found[0][1], float("nan"), note)


def risk(
    frame: pd.DataFrame,
    portfolio: Portfolio,
    account: Account,
    limits: Limits,
    session: Session,
    now: datetime,
    *,
    daily: pd.DataFrame,
    bars: pd.DataFrame,
    bar_minutes: int,
    halted: AbstractSet[str] = frozenset(),
) -> pd.DataFrame:
    """Judge the standing rows best first, each as if the approved ones before it were already working.

    Reads   frame: side, bid, ask, sector, pattern_stop, pattern_target, stop_atr, minute_volume, shortable,
            easy_to_borrow, score_rank; daily and bars of the candidates and of what is held, for correlation.
    Writes  entry, stop, target (on tick), stop_basis, reward_risk, quantity, risk_amount, risk_score,
            correlation, correlated_with; verdict, every check in words; risk_rank. A refused row's reason lists
            all its failed checks.
    """
    sieve = Sieve(frame, "risk")
    candidates = frame.index[sieve.standing]
    known = likeness(
        sorted({*map(str, candidates), *portfolio.sides()}), daily, bars, session, now, bar_minutes
    )
    written: dict[str, Any] = {name: np.full(len(frame), np.nan) for name in _NUMBERS}
    written |= {name: np.full(len(frame), None, dtype=object) for name in _WORDS}
    kept = 0
    for row in _best_first(frame, sieve):
        chart = _chart(frame, row)
        proposal = propose_from(chart, limits)
        alike = most_alike(chart.symbol, chart.side, portfolio.sides(), known)
        verdict = check(
            proposal, portfolio, account, limits, session, now, alike=alike, halted=chart.symbol in halted
        )
        _write(written, row, proposal, verdict, alike)
        only = np.arange(len(frame)) == row
        if not verdict.approved:
            sieve.refuse(only, "; ".join(verdict.reasons).replace("%", "%%") % ())
        elif kept >= limits.keep:
            sieve.refuse(only, f"approved, but risk keeps {limits.keep}")
        else:
            kept += 1
            portfolio = replace(portfolio, working=(*portfolio.working, _as_working(proposal, verdict)))
            written["risk_rank"][row] = kept
    for name in _WORDS:
        written[name] = pd.array(written[name], dtype="str")
    return sieve.close(**written)


_NUMBERS: Final = (
    "entry", "stop", "target", "reward_risk", "quantity", "risk_amount", "risk_score", "correlation", "risk_rank",
)  # fmt: skip
_WORDS: Final = ("stop_basis", "correlated_with", "verdict")


def _best_first(frame: pd.DataFrame, sieve: Sieve) -> list[int]:
    ranks = numbers(frame, "score_rank")
    standing = np.flatnonzero(sieve.standing)
    return [int(row) for row in standing[np.argsort(ranks[standing], kind="stable")]]


def _chart(frame: pd.DataFrame, row: int) -> Chart:
    """One candidate's levels as the stages left them."""
    one = frame.iloc[row]

    def level(name: str) -> float:
        return float(one[name]) if name in frame.columns else float("nan")

    return Chart(
        symbol=str(frame.index[row]),
        side=PositionSide(words(frame, "side")[row]),
        sector=str(one["sector"]),
        bid=level("bid"),
        ask=level("ask"),
        stop=level("pattern_stop"),
        target=level("pattern_target"),
        atr=level("stop_atr"),
        minute_volume=level("minute_volume"),
        shortable=bool(one["shortable"]),
        easy_to_borrow=bool(one["easy_to_borrow"]),
    )


def _write(
    written: dict[str, Any], row: int, proposal: Proposal, verdict: RiskVerdict, alike: Alike | None
) -> None:
    written["entry"][row] = float(proposal.entry)
    written["stop"][row] = float(proposal.stop)
    written["target"][row] = float(proposal.target)
    written["stop_basis"][row] = proposal.basis
    written["reward_risk"][row] = float(proposal.reward / proposal.risk) if proposal.risk > 0 else 0.0
    written["quantity"][row] = verdict.quantity
    written["risk_amount"][row] = float(verdict.risk_amount)
    written["risk_score"][row] = verdict.risk_score
    written["verdict"][row] = "; ".join(
        f"{'ok' if c.passed else 'NO'} {c.name}: {c.text}" for c in verdict.checks
    )
    if alike is not None:
        written["correlation"][row] = alike.correlation
        written["correlated_with"][row] = alike.symbol


def _as_working(proposal: Proposal, verdict: RiskVerdict) -> Working:
    return Working(proposal.symbol, proposal.side, Decimal(verdict.quantity), proposal.entry, proposal.sector)
