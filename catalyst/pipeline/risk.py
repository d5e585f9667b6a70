"""Stage 7 of 8: may this trade be made, and how large? The best candidate is asked first."""

from collections.abc import Set as AbstractSet
from dataclasses import replace
from datetime import datetime
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pandas as pd

from catalyst.domain.order import PositionSide
from catalyst.domain.session import Session
from catalyst.pipeline.correlation import Likeness, likeness
from catalyst.pipeline.frame import Sieve, numbers, words
from catalyst.pipeline.proposal import Chart, Proposal, propose_from
from catalyst.pipeline.risk_checks import Alike, RiskVerdict, check
from catalyst.pipeline.risk_inputs import Account, Limits, Portfolio, Working

_NUMBERS: Final = (
    "entry", "stop", "target", "reward_risk", "quantity", "risk_amount", "risk_score", "correlation", "risk_rank",
)  # fmt: skip
_WORDS: Final = ("stop_basis", "correlated_with", "verdict")


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
            sieve.refuse(only, "; ".join(verdict.reasons))
        elif kept >= limits.keep:
            sieve.refuse(only, f"approved, but risk keeps {limits.keep}")
        else:
            kept += 1
            portfolio = replace(portfolio, working=(*portfolio.working, _as_working(proposal, verdict)))
            written["risk_rank"][row] = kept
    for name in _WORDS:
        written[name] = pd.array(written[name], dtype="str")
    return sieve.close(**written)


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
