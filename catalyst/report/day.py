"""The figures of one trading day, computed from the tables alone."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import ROUND_HALF_EVEN, Decimal
from itertools import accumulate
from statistics import median
from typing import Final

from catalyst.domain.order import PositionSide, Purpose
from catalyst.domain.position import CENT, ZERO
from catalyst.report.formatting import in_stage_order
from catalyst.store import candidates, cycles, flat_proofs, positions, reporting_queries, risk_events
from catalyst.store.candidates import ScanRow
from catalyst.store.cycles import CycleRow
from catalyst.store.flat_proofs import FlatProofRow
from catalyst.store.pool import Connection
from catalyst.store.positions import PositionRow
from catalyst.store.reporting_queries import BookedFill

_HUNDREDTH: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class TradeSummary:
    """A position from its first fill to its last, or so far. Shares, dollars, seconds, UTC.

    `risk` is what the stop of the plan would have cost; `r` the result in units of it.
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
    exit: str | None  # the word the reason starts with
    reason: str | None
    closed: bool


@dataclass(frozen=True, slots=True)
class ExitsByReason:
    """The exits of one reason."""

    reason: str
    count: int
    pnl: Decimal


@dataclass(frozen=True, slots=True)
class ScanFigures:
    """One scan: rows standing after each stage, milliseconds each took."""

    scan_id: int
    at: datetime
    counts: dict[str, int]
    milliseconds: dict[str, float]
    total_milliseconds: float
    degraded: str | None


@dataclass(frozen=True, slots=True)
class DayFigures:
    """What the closed trades came to. Dollars; None where nothing was traded."""

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
    max_drawdown: Decimal  # of the realised curve, from its highest point so far, never negative
    longest_unprotected_seconds: Decimal
    median_unprotected_seconds: Decimal | None
    symbols_over_budget: tuple[str, ...]  # symbols that were bare longer than the budget of the day
    average_held_seconds: float | None


@dataclass(frozen=True, slots=True)
class DayReport:
    """Everything a report of the day says."""

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
    fills: int
    proof: FlatProofRow | None


async def read_day_report(conn: Connection, day: date | None = None) -> DayReport | None:
    """The figures of a New York date, of the latest day with a cycle when none is given; None without a cycle."""
    if day is None:
        latest = await cycles.recent(conn, 1)
        cycle = latest[0] if latest else None
    else:
        cycle = await cycles.of_day(conn, day)
    if cycle is None:
        return None
    rows = await positions.of_cycle(conn, cycle.cycle_id)
    fills = await reporting_queries.fills_of_day(conn, cycle.cycle_id)
    ordered = await reporting_queries.orders_of_day(conn, cycle.cycle_id)
    entries = [order for order in ordered if order.order_purpose is Purpose.ENTRY]
    trades = tuple(trade_of(row) for row in rows)
    bare = await risk_events.of_cycle(conn, cycle.cycle_id, "UNPROTECTED_OVER_BUDGET")
    return DayReport(
        day=cycle.cycle_date,
        cycle=cycle,
        figures=figures_of(trades, fills, rows, [str(event.facts.get("symbol")) for event in bare]),
        exits=exits_of(trades),
        trades=trades,
        scans=tuple(scan_figures(row) for row in await candidates.scans_of(conn, cycle.cycle_id)),
        orders=len(ordered),
        entries=len(entries),
        entries_filled=sum(order.filled_qty > 0 for order in entries),
        rejected=sum(order.status == "rejected" for order in ordered),
        fills=len(fills),
        proof=await flat_proofs.last_flat_proof(conn, cycle.cycle_id),
    )


def trade_of(row: PositionRow) -> TradeSummary:
    """A position as a trade. Open: its result so far is what was realised and what it stands at."""
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
    """The summary of the closed trades; the drawdown looks at every exit fill."""
    done = [trade for trade in trades if trade.closed]
    results = [trade.pnl for trade in done]
    won, lost = [x for x in results if x > 0], [x for x in results if x < 0]
    total = sum(results, ZERO)
    held = [trade.held_seconds for trade in done if trade.held_seconds is not None]
    return DayFigures(
        trades=len(done),
        winners=len(won),
        losers=len(lost),
        flat=len(done) - len(won) - len(lost),
        win_rate=(Decimal(100) * len(won) / len(done)).quantize(_HUNDREDTH) if done else None,
        total_pnl=total,
        average_pnl=(total / len(done)).quantize(CENT, ROUND_HALF_EVEN) if done else None,
        best=max(results, default=None),
        worst=min(results, default=None),
        profit_factor=(sum(won, ZERO) / -sum(lost, ZERO)).quantize(_HUNDREDTH) if lost else None,
        max_drawdown=max_drawdown(fills, rows),
        longest_unprotected_seconds=max((trade.unprotected_seconds for trade in trades), default=ZERO),
        median_unprotected_seconds=median([trade.unprotected_seconds for trade in trades])
        if trades
        else None,
        symbols_over_budget=tuple(dict.fromkeys(symbols_over_budget)),
        average_held_seconds=sum(held) / len(held) if held else None,
    )


def max_drawdown(fills: Sequence[BookedFill], rows: Sequence[PositionRow]) -> Decimal:
    """The deepest fall of the realised result below its highest point so far, dollars, fill by fill.

    What an open position stood at between its fills is not in it: the tables keep fills, not every price.
    """
    of = {row.position_id: row for row in rows}
    gains = []
    for fill in sorted(fills, key=lambda one: (one.at, one.order_id, one.cum_qty)):
        row = of.get(fill.position_id) if fill.position_id is not None else None
        if row is None or fill.order_purpose is Purpose.ENTRY:
            continue
        gain = (fill.price - row.entry_price) * fill.quantity
        gains.append(gain if row.side is PositionSide.LONG else -gain)
    curve = list(accumulate(gains, initial=ZERO))
    peaks = accumulate(curve, max)
    return max(peak - value for peak, value in zip(peaks, curve, strict=True)).quantize(CENT, ROUND_HALF_EVEN)


def exits_of(trades: Sequence[TradeSummary]) -> tuple[ExitsByReason, ...]:
    """The closed trades by why they ended, the most frequent first."""
    results: dict[str, list[Decimal]] = {}
    for trade in trades:
        if trade.exit is not None:
            results.setdefault(trade.exit, []).append(trade.pnl)
    found = [ExitsByReason(reason, len(pnl), sum(pnl, ZERO)) for reason, pnl in results.items()]
    return tuple(sorted(found, key=lambda one: (-one.count, one.reason)))


def scan_figures(row: ScanRow) -> ScanFigures:
    """A stored scan, with what all its stages took together."""
    return ScanFigures(
        scan_id=row.scan_id,
        at=row.started_at,
        counts=in_stage_order(row.counts),
        milliseconds=in_stage_order(row.milliseconds),
        total_milliseconds=round(sum(row.milliseconds.values()), 1),
        degraded=row.degraded,
    )
