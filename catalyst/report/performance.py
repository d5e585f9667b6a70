"""The performance over a range of days: its trades, exits by reason, funnel, and a line for each day."""

from collections import Counter
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal

from catalyst.domain.position import ZERO
from catalyst.report.day import DayReport, ExitsByReason, exits_of, read_day_report
from catalyst.report.formatting import in_stage_order
from catalyst.report.statistics import TradeStatistics, trade_statistics
from catalyst.store import cycles
from catalyst.store.pool import Connection


@dataclass(frozen=True, slots=True)
class DayLine:
    """One day of the range: its cycle, and what its closed trades made. Dollars, UTC."""

    day: date
    cycle_id: str
    mode: str
    status: str
    halted: bool
    start_time: datetime
    end_time: datetime | None
    trades: int
    win_rate: Decimal | None
    pnl: Decimal
    max_drawdown: Decimal
    proven_flat: bool


@dataclass(frozen=True, slots=True)
class Performance:
    """The days with a cycle from `since` to `until`, both included. `worst_drawdown` is the largest of a single day."""

    since: date
    until: date
    statistics: TradeStatistics
    worst_drawdown: Decimal
    exits: tuple[ExitsByReason, ...]
    scans: int
    funnel: dict[str, int]  # rows left after each stage, over all scans
    entries: int
    entries_filled: int
    days: tuple[DayLine, ...]


async def read_performance(
    conn: Connection, since: date, until: date, *, at: datetime | None = None
) -> Performance:
    """Return the performance of the New York dates from `since` to `until`. `at`: as in `read_day_report`."""
    found = [await read_day_report(conn, day, at=at) for day in await cycles.days_between(conn, since, until)]
    reports = [report for report in found if report is not None]
    trades = [trade for report in reports for trade in report.trades]
    closed = [trade for trade in trades if trade.closed]
    funnel: Counter[str] = Counter()
    for report in reports:
        for scan in report.scans:
            funnel.update(scan.counts)
    return Performance(
        since=since,
        until=until,
        statistics=trade_statistics([t.pnl for t in closed], [t.r_multiple for t in closed]),
        worst_drawdown=max((report.figures.max_drawdown for report in reports), default=ZERO),
        exits=exits_of(trades),
        scans=sum(len(report.scans) for report in reports),
        funnel=in_stage_order(funnel),
        entries=sum(report.entries for report in reports),
        entries_filled=sum(report.entries_filled for report in reports),
        days=tuple(map(_day_line, reports)),
    )


def _day_line(report: DayReport) -> DayLine:
    cycle, figures = report.cycle, report.figures
    return DayLine(
        day=report.day,
        cycle_id=cycle.cycle_id,
        mode=cycle.mode,
        status=str(cycle.status),
        halted=cycle.halted,
        start_time=cycle.start_time,
        end_time=cycle.end_time,
        trades=figures.trades,
        win_rate=figures.win_rate,
        pnl=figures.total_pnl,
        max_drawdown=figures.max_drawdown,
        proven_flat=report.proof is not None and report.proof.proven and report.proof_holds,
    )
