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
from catalyst.pipeline.correlation import CorrelationMatrix, correlation_matrix
from catalyst.pipeline.frame import StageFilter, float_values, text_values
from catalyst.pipeline.proposal import ChartLevels, Proposal, propose_from_levels
from catalyst.pipeline.risk_checks import MostCorrelated, RiskVerdict, check_risk
from catalyst.pipeline.risk_inputs import AccountState, Limits, Portfolio, WorkingEntry

_NUMBER_COLUMNS: Final = (
    "entry", "stop", "target", "reward_risk", "quantity", "risk_amount", "risk_score", "correlation", "risk_rank",
)  # fmt: skip
_TEXT_COLUMNS: Final = ("stop_basis", "correlated_with", "verdict")


def max_correlation(
    symbol: str, side: PositionSide, others: dict[str, PositionSide], correlations: CorrelationMatrix
) -> MostCorrelated | None:
    """The one of `others` whose returns follow the proposal's most; a bet the other way counts with its sign turned.

    None when there are no others. When some pair is unknown and no known one stands out, the unknown is reported.
    """
    found = [
        (correlations.between(symbol, other) * (1 if its_side is side else -1), other)
        for other, its_side in sorted(others.items())
        if other != symbol
    ]
    if not found:
        return None
    known_pairs = [(value, other) for value, other in found if not np.isnan(value)]
    if known_pairs:
        value, other = max(known_pairs, key=lambda pair: pair[0])
        return MostCorrelated(other, value)
    note = f"{correlations.daily_count} daily returns of 60, {correlations.intraday_count} intraday of 120"
    return MostCorrelated(found[0][1], float("nan"), note)


def risk(
    frame: pd.DataFrame,
    portfolio: Portfolio,
    account: AccountState,
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
    sieve = StageFilter(frame, "risk")
    candidates = frame.index[sieve.remaining]
    known = correlation_matrix(
        sorted({*map(str, candidates), *portfolio.side_by_symbol()}), daily, bars, session, now, bar_minutes
    )
    written: dict[str, Any] = {name: np.full(len(frame), np.nan) for name in _NUMBER_COLUMNS}
    written |= {name: np.full(len(frame), None, dtype=object) for name in _TEXT_COLUMNS}
    kept = 0
    for row in _rows_best_first(frame, sieve):
        chart = _chart_levels(frame, row)
        proposal = propose_from_levels(chart, limits)
        most_correlated = max_correlation(chart.symbol, chart.side, portfolio.side_by_symbol(), known)
        verdict = check_risk(
            proposal,
            portfolio,
            account,
            limits,
            session,
            now,
            most_correlated=most_correlated,
            halted=chart.symbol in halted,
        )
        _write_columns(written, row, proposal, verdict, most_correlated)
        only = np.arange(len(frame)) == row
        if not verdict.approved:
            sieve.refuse(only, "; ".join(verdict.reasons))
        elif kept >= limits.keep:
            sieve.refuse(only, f"approved, but risk keeps {limits.keep}")
        else:
            kept += 1
            portfolio = replace(portfolio, working=(*portfolio.working, _working_entry(proposal, verdict)))
            written["risk_rank"][row] = kept
    for name in _TEXT_COLUMNS:
        written[name] = pd.array(written[name], dtype="str")
    return sieve.to_frame(**written)


def _rows_best_first(frame: pd.DataFrame, sieve: StageFilter) -> list[int]:
    ranks = float_values(frame, "score_rank")
    standing = np.flatnonzero(sieve.remaining)
    return [int(row) for row in standing[np.argsort(ranks[standing], kind="stable")]]


def _chart_levels(frame: pd.DataFrame, row: int) -> ChartLevels:
    """One candidate's levels as the stages left them."""
    one = frame.iloc[row]

    def level(name: str) -> float:
        return float(one[name]) if name in frame.columns else float("nan")

    return ChartLevels(
        symbol=str(frame.index[row]),
        side=PositionSide(text_values(frame, "side")[row]),
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


def _write_columns(
    written: dict[str, Any],
    row: int,
    proposal: Proposal,
    verdict: RiskVerdict,
    most_correlated: MostCorrelated | None,
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
    if most_correlated is not None:
        written["correlation"][row] = most_correlated.correlation
        written["correlated_with"][row] = most_correlated.symbol


def _working_entry(proposal: Proposal, verdict: RiskVerdict) -> WorkingEntry:
    return WorkingEntry(
        proposal.symbol, proposal.side, Decimal(verdict.quantity), proposal.entry, proposal.sector
    )
