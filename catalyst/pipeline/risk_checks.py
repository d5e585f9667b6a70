"""Risk check of one proposal: runs every check even after a failure, so that all results can be explained."""

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
from catalyst.pipeline.risk_inputs import AccountState, Limits, Portfolio

APPROVAL_REASON: Final = "Risk within limits"
_ZERO: Final = Decimal(0)
_CENT: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class RiskCheck:
    """The result of one check. `limit_share` is the part of the limit that the trade uses, None without a limit."""

    name: str
    passed: bool
    text: str
    limit_share: float | None = None


@dataclass(frozen=True, slots=True)
class RiskVerdict:
    """The result of all checks. `reasons` are the texts of the failed checks, or APPROVAL_REASON; `risk_score` in
    [0, 1] is the highest used share of any limit; `risk_amount`, dollars, is quantity x |entry - stop|."""

    approved: bool
    reasons: tuple[str, ...]
    risk_score: float
    risk_amount: Decimal
    quantity: int
    checks: tuple[RiskCheck, ...] = ()


@dataclass(frozen=True, slots=True)
class MostCorrelated:
    """The open or approved symbol with the highest correlation to the proposal; `correlation` is NaN when unknown."""

    symbol: str
    correlation: float
    note: str = ""


def check_risk(
    proposal: Proposal,
    portfolio: Portfolio,
    account: AccountState,
    limits: Limits,
    session: Session | None,
    now: datetime,
    *,
    most_correlated: MostCorrelated | None = None,
    halted: bool = False,
) -> RiskVerdict:
    """Check one proposal, and size it when it has no quantity. Pure: no order is sent, no state is stored.

    With `session` None the market hours are not checked. Source: docs on limits; sizing is fixed-fractional.
    """
    quantity = (
        position_size(proposal, portfolio, account, limits)
        if proposal.quantity is None
        else proposal.quantity
    )
    checks = (
        *_permission_checks(proposal, portfolio, account, limits, session, now, halted=halted),
        *_level_checks(proposal, limits),
        *_amount_checks(proposal, quantity, portfolio, account, limits),
        _correlation_check(most_correlated, limits),
    )
    failed = tuple(check.text for check in checks if not check.passed)
    shares = [check.limit_share for check in checks if check.limit_share is not None]
    return RiskVerdict(
        approved=not failed,
        reasons=failed or (APPROVAL_REASON,),
        risk_score=min(max([0.0, *shares]), 1.0),
        risk_amount=(quantity * abs(proposal.entry - proposal.stop)).quantize(_CENT),
        quantity=quantity,
        checks=checks,
    )


def position_size(proposal: Proposal, portfolio: Portfolio, account: AccountState, limits: Limits) -> int:
    """Return whole shares: risk dollars over the stop distance, capped by position size, buying power and volume."""
    if proposal.risk <= 0 or proposal.entry <= 0:
        return 0
    caps = [
        account.equity * limits.risk_per_trade_pct / 100 * limits.size_factor / proposal.risk,
        limits.max_position_size * limits.size_factor / proposal.entry,
        _free_buying_power(portfolio, account) / proposal.entry,
    ]
    if proposal.minute_volume is not None:
        caps.append(proposal.minute_volume * limits.max_participation_pct / 100)
    return max(int(min(caps).to_integral_value(ROUND_FLOOR)), 0)


def _free_buying_power(portfolio: Portfolio, account: AccountState) -> Decimal:
    """Return the buying power left after the working entries that the broker has not deducted yet."""
    return account.buying_power - sum((w.value for w in portfolio.working if not w.in_buying_power), _ZERO)


def _permission_checks(
    proposal: Proposal,
    portfolio: Portfolio,
    account: AccountState,
    limits: Limits,
    session: Session | None,
    now: datetime,
    *,
    halted: bool,
) -> Iterator[RiskCheck]:
    """Check whether the account, the market and the symbol may be traded now."""
    yield RiskCheck(
        "account", account.restriction is None, account.restriction or "the account may open positions"
    )
    if session is None:
        yield RiskCheck("market_hours", True, "market hours not checked")
    else:
        last = session.close - timedelta(minutes=limits.no_entry_minutes)
        text = f"entries are made from {session.open:%H:%M} to {last:%H:%M} UTC; it is {now:%H:%M}"
        yield RiskCheck("market_hours", session.open <= now < last, text)
    yield RiskCheck(
        "halted", not halted, f"trading in {proposal.symbol} is {'halted' if halted else 'not halted'}"
    )
    yield _borrow_check(proposal, account, limits)
    open_symbols = {entry.symbol for entry in portfolio.positions}
    working_symbols = {entry.symbol for entry in portfolio.working}
    existing = (
        "is open"
        if proposal.symbol in open_symbols
        else "has a working entry"
        if proposal.symbol in working_symbols
        else None
    )
    yield RiskCheck(
        "duplicate",
        existing is None,
        f"{proposal.symbol} {existing or 'has no open position and no working entry'}",
    )
    used = portfolio.slots_used() + 1
    yield RiskCheck(
        "positions", used <= limits.max_positions,
        f"with this entry {used} positions and entries, max_positions {limits.max_positions}",
        used / limits.max_positions,
    )  # fmt: skip


def _borrow_check(proposal: Proposal, account: AccountState, limits: Limits) -> RiskCheck:
    """Check a short: trading.allow_short, the account's permission and shares to borrow. A long always passes."""
    if proposal.side is PositionSide.LONG:
        return RiskCheck("side", True, "a long needs no borrow")
    obstacles = {
        "trading.allow_short is false": limits.allow_short,
        "the account may not short": account.shorting_enabled,
        f"{proposal.symbol} is not shortable": proposal.shortable,
        f"{proposal.symbol} is not easy to borrow": proposal.easy_to_borrow,
    }
    failed = [text for text, passed in obstacles.items() if not passed]
    return RiskCheck("side", not failed, "; ".join(failed) or "shares can be borrowed")


def _level_checks(proposal: Proposal, limits: Limits) -> Iterator[RiskCheck]:
    """Check the order of the three prices, their distances, the reward/risk ratio and the spread."""
    tick = tick_of(proposal.entry)
    ordered = proposal.stop > 0 and proposal.target > 0 and min(proposal.risk, proposal.reward) >= tick
    text = f"stop ${proposal.stop}, entry ${proposal.entry}, target ${proposal.target} for a {proposal.side}"
    yield RiskCheck("order_of_prices", ordered, text)
    stop_pct = proposal.risk / proposal.entry * 100 if proposal.entry > 0 else _ZERO
    yield RiskCheck(
        "stop_distance",
        stop_pct <= limits.max_stop_pct,
        f"stop {stop_pct:.1f} % away, max_stop_pct {limits.max_stop_pct:g}",
    )
    ratio = proposal.reward / proposal.risk if proposal.risk > 0 else _ZERO
    yield RiskCheck(
        "reward_risk", ratio >= limits.min_reward_risk,
        f"reward/risk {ratio:.2f}, min_reward_risk {limits.min_reward_risk}",
    )  # fmt: skip
    if proposal.bid is None or proposal.ask is None or proposal.bid + proposal.ask <= 0:
        yield RiskCheck("spread", True, "spread not checked")
        return
    spread = proposal.ask - proposal.bid
    bps = spread / (proposal.ask + proposal.bid) * 20_000
    yield RiskCheck(
        "spread",
        _ZERO <= bps <= limits.max_spread_bps,
        f"spread {bps:.1f} bp, max_spread_bps {limits.max_spread_bps}",
    )
    yield RiskCheck(
        "stop_beyond_spread",
        proposal.risk > spread,
        f"stop is ${proposal.risk} away, the spread is ${spread}",
    )


def _amount_checks(
    proposal: Proposal, quantity: int, portfolio: Portfolio, account: AccountState, limits: Limits
) -> Iterator[RiskCheck]:
    """Check the size against the limits in dollars and shares."""
    value, at_risk = quantity * proposal.entry, quantity * max(proposal.risk, _ZERO)
    largest = limits.max_position_size * limits.size_factor
    yield _cap_check(
        "position_size", value, largest, f"position ${value:,.2f}, max_position_size ${largest:,.2f}"
    )
    yield RiskCheck(
        "min_size",
        quantity >= 1 and value >= limits.min_position_size,
        f"{quantity} shares worth ${value:,.2f}, min_position_size ${limits.min_position_size:,.2f}",
    )
    allowed = account.equity * limits.risk_per_trade_pct / 100 * limits.size_factor
    yield _cap_check(
        "risk_per_trade", at_risk, allowed, f"risk ${at_risk:,.2f}, allowed per trade ${allowed:,.2f}"
    )
    lost, max_amount = max(-account.day_pnl, _ZERO) + at_risk, limits.max_daily_loss
    yield _cap_check(
        "daily_loss",
        lost,
        max_amount,
        f"day's loss with this stop ${lost:,.2f}, max_daily_loss ${max_amount:,.2f}",
    )
    buying_power = _free_buying_power(portfolio, account)
    yield _cap_check(
        "buying_power", value, buying_power, f"position ${value:,.2f}, buying power left ${buying_power:,.2f}"
    )
    yield _sector_check(proposal, value, portfolio, limits)
    if proposal.minute_volume is None:
        yield RiskCheck("participation", True, "participation not checked")
    else:
        share = limits.max_participation_pct
        max_amount = proposal.minute_volume * share / 100
        text = f"{quantity:,} shares, {share:g} % of a minute's volume is {max_amount:,.0f}"
        yield _cap_check("participation", Decimal(quantity), max_amount, text)


def _cap_check(name: str, used: Decimal, limit: Decimal, text: str) -> RiskCheck:
    return RiskCheck(name, used <= limit and limit > 0, text, float(used / limit) if limit > 0 else 1.0)


def _sector_check(proposal: Proposal, value: Decimal, portfolio: Portfolio, limits: Limits) -> RiskCheck:
    if limits.sectors_to_limit and proposal.sector not in limits.sectors_to_limit:
        return RiskCheck("sector", True, f"sector {proposal.sector} is not limited")
    share = limits.max_sector_exposure_pct
    used, max_value = portfolio.sector_value(proposal.sector) + value, limits.max_deployed * share / 100
    text = f"sector {proposal.sector} ${used:,.2f} with this trade, {share:g} % allowed: ${max_value:,.2f}"
    return _cap_check("sector", used, max_value, text)


def _correlation_check(most_correlated: MostCorrelated | None, limits: Limits) -> RiskCheck:
    if not limits.check_correlation:
        return RiskCheck("correlation", True, "correlation check is switched off")
    if most_correlated is None:
        return RiskCheck("correlation", True, "no open position or working entry to correlate with")
    if np.isnan(most_correlated.correlation):
        return RiskCheck(
            "correlation", True, f"correlation unknown ({most_correlated.note}): the sector limit decides"
        )
    return RiskCheck(
        "correlation", most_correlated.correlation <= limits.max_correlation,
        f"correlation {most_correlated.correlation:.2f} with {most_correlated.symbol}, "
        f"max_correlation {limits.max_correlation:g}",
        max(most_correlated.correlation, 0.0) / limits.max_correlation,
    )  # fmt: skip
