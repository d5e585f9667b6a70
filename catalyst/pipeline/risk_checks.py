"""The risk check of one proposal: every question is asked and answered, so that all of them can be explained."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_FLOOR, Decimal
from typing import Final

import numpy as np

from catalyst.domain.order import PositionSide
from catalyst.domain.price import tick_of
from catalyst.domain.session import Session
from catalyst.pipeline.proposal import Proposal
from catalyst.pipeline.risk_inputs import Account, Limits, Portfolio

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
    yield _cap("position_size", value, largest, f"position ${value:,.2f}, max_position_size ${largest:,.2f}")
    yield Check(
        "min_size",
        quantity >= 1 and value >= limits.min_position_size,
        f"{quantity} shares worth ${value:,.2f}, min_position_size ${limits.min_position_size:,.2f}",
    )
    allowed = account.equity * limits.risk_per_trade_pct / 100 * limits.size_factor
    yield _cap("risk_per_trade", at_risk, allowed, f"risk ${at_risk:,.2f}, allowed per trade ${allowed:,.2f}")
    lost, most = max(-account.day_pnl, _ZERO) + at_risk, limits.max_daily_loss
    yield _cap(
        "daily_loss", lost, most, f"day's loss with this stop ${lost:,.2f}, max_daily_loss ${most:,.2f}"
    )
    left = _buying_power(portfolio, account)
    yield _cap("buying_power", value, left, f"position ${value:,.2f}, buying power left ${left:,.2f}")
    yield _sector(proposal, value, portfolio, limits)
    if proposal.minute_volume is None:
        yield Check("participation", True, "participation not checked")
    else:
        share = limits.max_participation_pct
        most = proposal.minute_volume * share / 100
        text = f"{quantity:,} shares, {share:g} % of a minute's volume is {most:,.0f}"
        yield _cap("participation", Decimal(quantity), most, text)


def _cap(name: str, used: Decimal, limit: Decimal, text: str) -> Check:
    return Check(name, used <= limit and limit > 0, text, float(used / limit) if limit > 0 else 1.0)


def _sector(proposal: Proposal, value: Decimal, portfolio: Portfolio, limits: Limits) -> Check:
    if limits.sectors_to_limit and proposal.sector not in limits.sectors_to_limit:
        return Check("sector", True, f"sector {proposal.sector} is not limited")
    share = limits.max_sector_exposure_pct
    used, most = portfolio.in_sector(proposal.sector) + value, limits.deployable * share / 100
    text = f"{proposal.sector} ${used:,.2f} with this trade, {share:g} % allowed: ${most:,.2f}"
    return _cap("sector", used, most, text)


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
