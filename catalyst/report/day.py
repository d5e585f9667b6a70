"""The report of one trading day: trades, result, drawdown, protection and scans, computed from the database alone."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from statistics import median
from typing import Final

from catalyst.domain.closed_entries import PLANNED
from catalyst.domain.order import NEVER_ARRIVED, NOT_SENT, PositionSide, Purpose, Status
from catalyst.domain.position import CENT, ZERO
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.report.formatting import in_stage_order
from catalyst.report.statistics import largest_fall, trade_statistics
from catalyst.store import (
    candidates,
    cycles,
    daemon_epoch,
    flat_proofs,
    gate_reasons,
    positions,
    proposals,
    reporting_queries,
    risk_events,
)
from catalyst.store.candidates import ScanRow
from catalyst.store.cycles import CycleRow
from catalyst.store.flat_proofs import FlatProofRow
from catalyst.store.gate_reasons import GateReason
from catalyst.store.pool import Connection
from catalyst.store.proposals import Decision, ProposalRow
from catalyst.store.reporting_queries import BookedFill

_HUNDREDTH: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class TradeSummary:
    """A position from its first fill to its last fill, or so far. Shares, dollars, seconds, UTC.

    `risk` is the loss at the planned stop, in dollars; `r_multiple` is `pnl` in units of it.
    """

    position_id: int
    symbol: str
    side: str
    sector: str | None
    quantity: Decimal
    entry_price: Decimal
    exit_price: Decimal | None
    stop_loss: Decimal | None
    take_profit: Decimal | None
    entry_time: datetime
    exit_time: datetime | None
    held_seconds: float | None
    unprotected_seconds: Decimal
    pnl: Decimal
    pnl_pct: Decimal
    risk: Decimal | None
    r_multiple: Decimal | None
    exit: str | None  # the first part of `reason`, up to the colon
    reason: str | None
    closed: bool


@dataclass(frozen=True, slots=True)
class ExitsByReason:
    """The closed trades of one exit reason: their number and total result in dollars."""

    reason: str
    count: int
    pnl: Decimal


@dataclass(frozen=True, slots=True)
class ScanFigures:
    """One scan: rows left after each stage, and the milliseconds of each stage."""

    scan_id: int
    at: datetime
    counts: dict[str, int]
    milliseconds: dict[str, float]
    total_milliseconds: float
    degraded: str | None


@dataclass(frozen=True, slots=True)
class DayFigures:
    """The statistics of the closed trades. Dollars; None where there was no trade."""

    trades: int
    winners: int
    losers: int
    flat: int
    win_rate: Decimal | None  # percent of the closed trades
    total_pnl: Decimal
    average_pnl: Decimal | None
    best: Decimal | None
    worst: Decimal | None
    profit_factor: Decimal | None  # None without a loser
    max_drawdown: Decimal  # of the realised result, from its highest point so far, never negative
    longest_unprotected_seconds: Decimal
    median_unprotected_seconds: Decimal | None
    symbols_over_budget: tuple[str, ...]  # unprotected for longer than the configured budget
    average_held_seconds: float | None


@dataclass(frozen=True, slots=True)
class ProposalDecision:
    """What a person decided about one proposal. `note`: the shares, when fewer than proposed were approved."""

    proposal_id: int
    symbol: str
    decision: str
    by: str
    at: datetime
    note: str | None


@dataclass(frozen=True, slots=True)
class ProposalFigures:
    """The proposals of a day by their decision; `waiting` have none yet. `approved_by` names who approved."""

    proposed: int
    approved: int
    rejected: int
    expired: int
    waiting: int
    approved_by: tuple[str, ...]
    decisions: tuple[ProposalDecision, ...]  # of persons, oldest first


@dataclass(frozen=True, slots=True)
class ModeChange:
    """A start of the day with another session mode than the one before it."""

    at: datetime
    before: str
    now: str


@dataclass(frozen=True, slots=True)
class DayReport:
    """All facts of a day's report. Orders are those that were sent; `refused` were not, by one of our own checks."""

    day: date
    cycle: CycleRow
    figures: DayFigures
    exits: tuple[ExitsByReason, ...]
    trades: tuple[TradeSummary, ...]
    scans: tuple[ScanFigures, ...]
    orders: int
    entries: int
    entries_filled: int
    rejected: int
    refused: int
    fills: int
    proposals: ProposalFigures
    mode_changes: tuple[ModeChange, ...]
    closed: tuple[GateReason, ...]  # why entries were closed during the session, beside the day's plan
    proof: FlatProofRow | None
    proof_holds: bool  # the proof is one, and nothing was traded after it


async def read_day_report(
    conn: Connection, day: date | None = None, *, at: datetime | None = None
) -> DayReport | None:
    """Return the report of a New York date, by default of the latest day with a cycle; None without a cycle.

    `at` is the market's present time, until which open positions are measured; by default the daemon's last heartbeat.
    """
    if day is None:
        latest = await cycles.recent(conn, 1)
        cycle = latest[0] if latest else None
    else:
        cycle = await cycles.of_day(conn, day)
    if cycle is None:
        return None
    at = at or (await daemon_epoch.current(conn)).heartbeat_at or cycle.updated_at
    rows = await positions.with_unprotected_time(conn, await positions.of_cycle(conn, cycle.cycle_id), at)
    fills = await reporting_queries.fills_of_day(conn, cycle.cycle_id)
    day_orders = await reporting_queries.orders_of_day(conn, cycle.cycle_id)
    sent = [order for order in day_orders if _was_sent(order)]
    entries = [order for order in sent if order.order_purpose is Purpose.ENTRY]
    trades = tuple(trade_of(row) for row in rows)
    proof = await flat_proofs.last_flat_proof(conn, cycle.cycle_id)
    over_budget = await risk_events.of_cycle(conn, cycle.cycle_id, "UNPROTECTED_OVER_BUDGET")
    return DayReport(
        day=cycle.cycle_date,
        cycle=cycle,
        figures=figures_of(trades, fills, rows, [str(event.facts.get("symbol")) for event in over_budget]),
        exits=exits_of(trades),
        trades=trades,
        scans=tuple(scan_figures(row) for row in await candidates.scans_of(conn, cycle.cycle_id)),
        orders=len(sent),
        entries=len(entries),
        entries_filled=sum(order.filled_qty > 0 for order in entries),
        rejected=sum(order.status is Status.REJECTED for order in sent),
        refused=sum(order.status is Status.REJECTED for order in day_orders if order not in sent),
        fills=len(fills),
        proposals=proposal_figures(await proposals.of_cycle(conn, cycle.cycle_id)),
        mode_changes=tuple(
            ModeChange(event.occurred_at, str(event.facts["before"]), str(event.facts["now"]))
            for event in await risk_events.of_cycle(conn, cycle.cycle_id, "SESSION_MODE_CHANGED")
        ),
        closed=await _closed_in_session(conn, cycle.cycle_date),
        proof=proof,
        proof_holds=proof is not None and await flat_proofs.still_holds(conn, proof),
    )


def _was_sent(order: OrderRow) -> bool:
    """Return true for an order that left: the broker knows it, has rejected it, or may know it."""
    if order.status is Status.REJECTED and order.alpaca_order_id is None:
        code = (order.rejection_reason or "").partition(":")[0]
        return code not in (NOT_SENT, NEVER_ARRIVED)
    return order.alpaca_order_id is not None or order.status is Status.SUBMITTED


async def _closed_in_session(conn: Connection, day: date) -> tuple[GateReason, ...]:
    """Return why entries were closed while the market was open, beside the day's plan."""
    session = await reporting_queries.session_of(conn, day)
    if session is None:
        return ()
    found = await gate_reasons.between(conn, session.open, session.close)
    return tuple(reason for reason in found if reason.name not in PLANNED)


def proposal_figures(rows: Sequence[ProposalRow]) -> ProposalFigures:
    """Count the proposals of a day by their decision."""
    counts = Counter(row.decision for row in rows)
    approvers = [row.decided_by or "" for row in rows if row.decision is Decision.APPROVED]
    return ProposalFigures(
        proposed=len(rows),
        approved=counts[Decision.APPROVED],
        rejected=counts[Decision.REJECTED],
        expired=counts[Decision.EXPIRED],
        waiting=counts[None],
        approved_by=tuple(dict.fromkeys(approvers)),
        decisions=tuple(decision for row in rows if (decision := decision_of(row)) is not None),
    )


def decision_of(row: ProposalRow) -> ProposalDecision | None:
    """Return what a person decided; None for a proposal that waits or has expired."""
    if row.decision in (None, Decision.EXPIRED) or row.decided_by is None or row.decided_at is None:
        return None
    return ProposalDecision(
        row.proposal_id, row.symbol, str(row.decision), row.decided_by, row.decided_at, row.note
    )


def trade_of(row: PositionRow) -> TradeSummary:
    """Return a position as a trade. The result of an open position is its realised plus its unrealised result."""
    closed = row.status == "closed"
    pnl = (row.realized_pnl or ZERO) + (ZERO if closed else row.unrealized_pnl or ZERO)
    risk = None
    if row.stop_loss is not None:
        risk = (abs(row.entry_price - row.stop_loss) * row.entered_qty).quantize(CENT, ROUND_HALF_EVEN)
    return TradeSummary(
        position_id=row.position_id,
        symbol=row.symbol,
        side=row.side,
        sector=row.sector,
        quantity=row.entered_qty,
        entry_price=row.entry_price,
        exit_price=row.state.exit_price,
        stop_loss=row.stop_loss,
        take_profit=row.take_profit,
        entry_time=row.entry_time,
        exit_time=row.exit_time,
        held_seconds=None if row.exit_time is None else (row.exit_time - row.entry_time).total_seconds(),
        unprotected_seconds=row.unprotected_seconds,
        pnl=pnl,
        pnl_pct=(100 * pnl / row.cost).quantize(_HUNDREDTH, ROUND_HALF_EVEN),
        risk=risk,
        r_multiple=(pnl / risk).quantize(_HUNDREDTH, ROUND_HALF_EVEN) if risk else None,
        exit=None if row.close_reason is None else row.close_reason.split(":", 1)[0],
        reason=row.close_reason,
        closed=closed,
    )


def figures_of(
    trades: Sequence[TradeSummary],
    fills: Sequence[BookedFill],
    rows: Sequence[PositionRow],
    symbols_over_budget: Sequence[str] = (),
) -> DayFigures:
    """Compute the statistics of the closed trades; the drawdown uses every exit fill."""
    closed_trades = [trade for trade in trades if trade.closed]
    of_trades = trade_statistics([trade.pnl for trade in closed_trades])
    held_seconds = [trade.held_seconds for trade in closed_trades if trade.held_seconds is not None]
    return DayFigures(
        trades=of_trades.trades,
        winners=of_trades.winners,
        losers=of_trades.losers,
        flat=of_trades.flat,
        win_rate=of_trades.win_rate,
        total_pnl=of_trades.total_pnl,
        average_pnl=of_trades.average_pnl,
        best=of_trades.best,
        worst=of_trades.worst,
        profit_factor=of_trades.profit_factor,
        max_drawdown=max_drawdown(fills, rows),
        longest_unprotected_seconds=max((trade.unprotected_seconds for trade in trades), default=ZERO),
        median_unprotected_seconds=median([trade.unprotected_seconds for trade in trades])
        if trades
        else None,
        symbols_over_budget=tuple(dict.fromkeys(symbols_over_budget)),
        average_held_seconds=sum(held_seconds) / len(held_seconds) if held_seconds else None,
    )


def max_drawdown(fills: Sequence[BookedFill], rows: Sequence[PositionRow]) -> Decimal:
    """Return the largest fall of the realised result below its highest point so far, in dollars, fill by fill.

    Unrealised losses between fills are not included: the database stores fills, but not every price.
    """
    row_by_id = {row.position_id: row for row in rows}
    gains = []
    for fill in sorted(fills, key=lambda fill: (fill.at, fill.order_id, fill.cum_qty)):
        row = row_by_id.get(fill.position_id) if fill.position_id is not None else None
        if row is None or fill.order_purpose is Purpose.ENTRY:
            continue
        gain = (fill.price - row.entry_price) * fill.quantity
        gains.append(gain if row.side is PositionSide.LONG else -gain)
    return largest_fall(gains)


def exits_of(trades: Sequence[TradeSummary]) -> tuple[ExitsByReason, ...]:
    """Group the closed trades by exit reason, the most frequent first."""
    results: dict[str, list[Decimal]] = {}
    for trade in trades:
        if trade.exit is not None:
            results.setdefault(trade.exit, []).append(trade.pnl)
    exits = [ExitsByReason(reason, len(pnl), sum(pnl, ZERO)) for reason, pnl in results.items()]
    return tuple(sorted(exits, key=lambda exits_of_reason: (-exits_of_reason.count, exits_of_reason.reason)))


def scan_figures(row: ScanRow) -> ScanFigures:
    """Return the figures of a stored scan, with the total time of its stages."""
    return ScanFigures(
        scan_id=row.scan_id,
        at=row.started_at,
        counts=in_stage_order(row.counts),
        milliseconds=in_stage_order(row.milliseconds),
        total_milliseconds=round(sum(row.milliseconds.values()), 1),
        degraded=row.degraded,
    )
