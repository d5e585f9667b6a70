"""Stage 7 of 8: checks each candidate against the risk limits and sizes it, the best candidate first."""

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
    symbol: str, side: PositionSide, side_by_symbol: dict[str, PositionSide], correlations: CorrelationMatrix
) -> MostCorrelated | None:
    """Return the symbol of `side_by_symbol` with the highest correlation to the proposal; for a symbol on the opposite
    side the sign is inverted.

    None when there are no other symbols. When no correlation is known, the result has NaN and a note.
    """
    correlated = [
        (correlations.between(symbol, other) * (1 if other_side is side else -1), other)
        for other, other_side in sorted(side_by_symbol.items())
        if other != symbol
    ]
    if not correlated:
        return None
    known_pairs = [(value, other) for value, other in correlated if not np.isnan(value)]
    if known_pairs:
        value, other = max(known_pairs, key=lambda pair: pair[0])
        return MostCorrelated(other, value)
    note = f"{correlations.daily_count} daily returns of 60, {correlations.intraday_count} intraday of 120"
    return MostCorrelated(correlated[0][1], float("nan"), note)


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
    """Check the remaining rows, the best first; each counts the approved rows before it as working entries.

    Reads   frame: side, bid, ask, sector, pattern_stop, pattern_target, stop_atr, minute_volume, shortable,
            easy_to_borrow, score_rank; daily and bars of the candidates and the open symbols, for correlation.
    Writes  entry, stop, target (on tick), stop_basis, reward_risk, quantity, risk_amount, risk_score,
            correlation, correlated_with; verdict, the text of every check; risk_rank. A refused row's reason lists
            all its failed checks.
    """
    stage_filter = StageFilter(frame, "risk")
    candidates = frame.index[stage_filter.remaining]
    correlations = correlation_matrix(
        sorted({*map(str, candidates), *portfolio.side_by_symbol()}), daily, bars, session, now, bar_minutes
    )
    columns: dict[str, Any] = {name: np.full(len(frame), np.nan) for name in _NUMBER_COLUMNS}
    columns |= {name: np.full(len(frame), None, dtype=object) for name in _TEXT_COLUMNS}
    approved_count = 0
    for row in _rows_best_first(frame, stage_filter):
        levels = _chart_levels(frame, row)
        proposal = propose_from_levels(levels, limits)
        most_correlated = max_correlation(
            levels.symbol, levels.side, portfolio.side_by_symbol(), correlations
        )
        verdict = check_risk(
            proposal,
            portfolio,
            account,
            limits,
            session,
            now,
            most_correlated=most_correlated,
            halted=levels.symbol in halted,
        )
        _write_columns(columns, row, proposal, verdict, most_correlated)
        is_row = np.arange(len(frame)) == row
        if not verdict.approved:
            stage_filter.refuse(is_row, "; ".join(verdict.reasons))
        elif approved_count >= limits.max_candidates:
            stage_filter.refuse(
                is_row, f"passed the risk checks, but risk.max_candidates is {limits.max_candidates}"
            )
        else:
            approved_count += 1
            portfolio = replace(portfolio, working=(*portfolio.working, _working_entry(proposal, verdict)))
            columns["risk_rank"][row] = approved_count
    for name in _TEXT_COLUMNS:
        columns[name] = pd.array(columns[name], dtype="str")
    return stage_filter.to_frame(**columns)


def _rows_best_first(frame: pd.DataFrame, stage_filter: StageFilter) -> list[int]:
    ranks = float_values(frame, "score_rank")
    remaining = np.flatnonzero(stage_filter.remaining)
    return [int(row) for row in remaining[np.argsort(ranks[remaining], kind="stable")]]


def _chart_levels(frame: pd.DataFrame, row: int) -> ChartLevels:
    """Return one candidate's levels from the columns of the earlier stages."""
    candidate = frame.iloc[row]

    def level(name: str) -> float:
        return float(candidate[name]) if name in frame.columns else float("nan")

    return ChartLevels(
        symbol=str(frame.index[row]),
        side=PositionSide(text_values(frame, "side")[row]),
        sector=str(candidate["sector"]),
        bid=level("bid"),
        ask=level("ask"),
        stop=level("pattern_stop"),
        target=level("pattern_target"),
        atr=level("stop_atr"),
        minute_volume=level("minute_volume"),
        shortable=bool(candidate["shortable"]),
        easy_to_borrow=bool(candidate["easy_to_borrow"]),
    )


def _write_columns(
    columns: dict[str, Any],
    row: int,
    proposal: Proposal,
    verdict: RiskVerdict,
    most_correlated: MostCorrelated | None,
) -> None:
    columns["entry"][row] = float(proposal.entry)
    columns["stop"][row] = float(proposal.stop)
    columns["target"][row] = float(proposal.target)
    columns["stop_basis"][row] = proposal.basis
    columns["reward_risk"][row] = float(proposal.reward / proposal.risk) if proposal.risk > 0 else 0.0
    columns["quantity"][row] = verdict.quantity
    columns["risk_amount"][row] = float(verdict.risk_amount)
    columns["risk_score"][row] = verdict.risk_score
    columns["verdict"][row] = "; ".join(
        f"{'ok' if c.passed else 'NO'} {c.name}: {c.text}" for c in verdict.checks
    )
    if most_correlated is not None:
        columns["correlation"][row] = most_correlated.correlation
        columns["correlated_with"][row] = most_correlated.symbol


def _working_entry(proposal: Proposal, verdict: RiskVerdict) -> WorkingEntry:
    return WorkingEntry(
        proposal.symbol, proposal.side, Decimal(verdict.quantity), proposal.entry, proposal.sector
    )
