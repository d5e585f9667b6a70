"""Rendering of a day's report as text and tables for a terminal or a pipe."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from catalyst.domain.session import NEW_YORK
from catalyst.report.day import DayReport, ProposalDecision, ProposalFigures, TradeSummary
from catalyst.report.fitted_table import ALWAYS, Column, FittedTable
from catalyst.report.formatting import (
    describe_proof,
    dollars,
    duration,
    in_stage_order,
    new_york_time,
    price,
    quantity,
)
from catalyst.store.gate_reasons import GateReason

MAX_CLOSED_SHOWN: Final = 10


def gain_text(amount: Decimal) -> Text:
    """Format signed dollars, green for a gain and red for a loss."""
    return Text(dollars(amount, signed=True), style="green" if amount > 0 else "red" if amount < 0 else "")


def render_day(day: DayReport) -> Iterator[RenderableType]:
    """Render the report of a day."""
    figures, cycle = day.figures, day.cycle
    yield Text(f"{day.day:%A %d %B %Y}", style="bold")
    ended = "still open" if cycle.end_time is None else f"completed {new_york_time(cycle.end_time)} New York"
    halted = f", halted: {cycle.halt_reason}" if cycle.halted else ""
    yield f"cycle {cycle.cycle_id}, {cycle.mode}, {cycle.status} ({ended}){halted}"
    for change in day.mode_changes:
        yield f"mode      {change.before} until {new_york_time(change.at)}, then {change.now}"
    if day.trades:
        yield render_trades(day.trades)
    yield from render_summary(day)
    if day.exits:
        reasons = (f"{exits.reason} {exits.count} ({dollars(exits.pnl, signed=True)})" for exits in day.exits)
        yield f"exits     {', '.join(reasons)}"
    if day.scans:
        yield render_scans(day)
    if figures.trades == 0:
        yield "no trade was closed; `catalyst candidates` shows the candidates and why each was refused"


def render_trades(trades: Sequence[TradeSummary]) -> FittedTable:
    """Render one row per trade."""
    table = FittedTable(
        [
            Column("symbol"),
            Column("side"),
            Column("shares", right=True),
            Column("entry", 3),
            Column("in at", right=True),
            Column("exit", 2),
            Column("out at", right=True),
            Column("result", right=True),
            Column("%", 5, right=True),
            Column("R", 4, right=True),
            Column("held", 6, right=True),
            Column("unprotected", 7, right=True),
            Column("exit reason", 1),
        ]
    )
    for trade in trades:
        table.add_row(
            Text(trade.symbol, style="bold"),
            trade.side,
            quantity(trade.quantity),
            new_york_time(trade.entry_time),
            price(trade.entry_price),
            "open" if trade.exit_time is None else new_york_time(trade.exit_time),
            price(trade.exit_price),
            gain_text(trade.pnl),
            f"{trade.pnl_pct:+}",
            "–" if trade.r_multiple is None else f"{trade.r_multiple:+}",
            duration(trade.held_seconds),
            duration(trade.unprotected_seconds),
            trade.exit or "",
        )
    return table


def render_summary(day: DayReport) -> Iterator[RenderableType]:
    """Render the result, the risk, the orders and the proof of a day, one line each."""
    figures, cycle = day.figures, day.cycle
    result = Text("result    ")
    result.append_text(gain_text(figures.total_pnl))
    if figures.win_rate is not None and figures.average_pnl is not None:
        result.append(
            f" from {figures.trades} trade{'s' * (figures.trades != 1)}: {figures.winners} won, "
            f"{figures.losers} lost, win rate {figures.win_rate.normalize():f} %, "
            f"average {dollars(figures.average_pnl, signed=True)}"
        )
    if figures.best is not None and figures.worst is not None:
        result.append(
            f", best {dollars(figures.best, signed=True)}, worst {dollars(figures.worst, signed=True)}"
        )
    yield result
    if cycle.start_equity is not None:
        end = "" if cycle.end_equity is None else f" → {dollars(cycle.end_equity)}"
        yield f"equity    {dollars(cycle.start_equity)}{end}, daily loss limit {dollars(cycle.max_daily_loss)}"
    factor = "–" if figures.profit_factor is None else str(figures.profit_factor)
    yield f"risk      largest drawdown {dollars(figures.max_drawdown)} (realised), profit factor {factor}"
    if figures.median_unprotected_seconds is not None:
        over = (
            f"; over the budget: {', '.join(figures.symbols_over_budget)}"
            if figures.symbols_over_budget
            else ""
        )
        yield (
            "no stop   time without a working stop at the broker: "
            f"median {duration(figures.median_unprotected_seconds)}, "
            f"longest {duration(figures.longest_unprotected_seconds)}{over}"
        )
    refused = f", {day.refused} more refused by our own checks" if day.refused else ""
    yield (
        f"orders    {day.orders} sent: {day.entries} entries of which {day.entries_filled} filled; {day.rejected} "
        f"rejected by the broker, {day.fills} fills{refused}"
    )
    yield from _render_proposal_figures(day.proposals)
    yield from _render_closed(day.closed)
    yield f"flat      {describe_proof(day.proof, holds=day.proof_holds)}"


def _render_proposal_figures(figures: ProposalFigures) -> Iterator[RenderableType]:
    if not figures.proposed:
        return
    approvers = f" by {', '.join(figures.approved_by)}" if figures.approved_by else ""
    waiting = f", {figures.waiting} waiting" if figures.waiting else ""
    yield (
        f"proposals {figures.proposed}: {figures.approved} approved{approvers}, {figures.rejected} rejected, "
        f"{figures.expired} expired{waiting}"
    )
    yield from (f"          {describe_decision(decision)}" for decision in figures.decisions)


def describe_decision(decision: ProposalDecision) -> str:
    """Describe who decided what about a proposal, and when."""
    note = f" ({decision.note})" if decision.note else ""
    return (
        f"{new_york_time(decision.at)} {decision.symbol}: proposal {decision.proposal_id} {decision.decision} by "
        f"{decision.by}{note}"
    )


def _render_closed(reasons: Sequence[GateReason]) -> Iterator[RenderableType]:
    """Render the times at which entries were closed during the session, the last ones of many."""
    if len(reasons) > MAX_CLOSED_SHOWN:
        yield f"closed    {len(reasons)} times for a reason that is no plan; the last {MAX_CLOSED_SHOWN}:"
    for reason in reasons[-MAX_CLOSED_SHOWN:]:
        until = "now" if reason.ended_at is None else new_york_time(reason.ended_at)
        yield f"closed    {new_york_time(reason.since)} to {until}, {reason.name}: {reason.reason}"


def render_scans(day: DayReport) -> FittedTable:
    """Render one row per scan: rows left after each stage, and the total milliseconds."""
    stages = list(in_stage_order(dict.fromkeys((stage for scan in day.scans for stage in scan.counts), 0)))
    table = FittedTable(
        [
            Column("scan"),
            *(Column(stage, _stage_rank(stage), right=True) for stage in stages),
            Column("ms", 3, right=True),
            Column("degraded", 1, prose=True),
        ]
    )
    for scan in day.scans:
        table.add_row(
            new_york_time(scan.at),
            *(f"{scan.counts[stage]:,}" if stage in scan.counts else "" for stage in stages),
            f"{scan.total_milliseconds:,.0f}",
            scan.degraded or "",
        )
    return table


def _stage_rank(stage: str) -> int:
    """Return the rank of a stage's column: the ends of the funnel matter most."""
    ends = {"plan": ALWAYS, "listed": 2, "universe": 2, "scan": 2}
    return ends.get(stage, 4)


def new_york_datetime(at: datetime | None) -> str:
    """Format date and time in New York; a dash for None."""
    return "–" if at is None else f"{at.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S}"
