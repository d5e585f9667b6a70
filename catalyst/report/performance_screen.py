"""Rendering of a performance and of risk events as tables and lines for people."""

from collections.abc import Iterator, Sequence

from rich.console import RenderableType
from rich.text import Text

from catalyst.domain.session import NEW_YORK
from catalyst.report.fitted_table import Column, FittedTable
from catalyst.report.formatting import describe_funnel, dollars, duration, new_york_time
from catalyst.report.performance import DayLine, Performance
from catalyst.report.statistics import TradeStatistics
from catalyst.report.terminal import gain_text
from catalyst.store.risk_events import RiskEvent


def render_performance(performance: Performance) -> Iterator[RenderableType]:
    """Render the result of the range, its exits and its funnel, then a row for each day."""
    yield Text(f"{performance.since} to {performance.until}: {len(performance.days)} days", style="bold")
    yield _result_line(performance.statistics)
    factor = performance.statistics.profit_factor
    average_r = performance.statistics.average_r
    yield (
        f"risk      largest drawdown of a day {dollars(performance.worst_drawdown)} (realised), profit factor "
        f"{'–' if factor is None else factor}, average R {'–' if average_r is None else f'{average_r:+}'}"
    )
    yield f"entries   {performance.entries} sent, {performance.entries_filled} filled"
    exits = ", ".join(f"{e.reason} {e.count} ({dollars(e.pnl, signed=True)})" for e in performance.exits)
    yield f"exits     {exits or 'none'}"
    yield f"scans     {performance.scans}: {describe_funnel(performance.funnel) or 'none'}"
    if performance.days:
        yield _days_table(performance.days)


def _result_line(statistics: TradeStatistics) -> Text:
    line = Text("result    ")
    line.append_text(gain_text(statistics.total_pnl))
    if statistics.win_rate is None or statistics.average_pnl is None:
        return line.append(" without a closed trade")
    return line.append(
        f" from {statistics.trades} trades: {statistics.winners} won, {statistics.losers} lost, win rate "
        f"{statistics.win_rate.normalize():f} %, average {dollars(statistics.average_pnl, signed=True)}"
    )


def _days_table(days: Sequence[DayLine]) -> FittedTable:
    table = FittedTable(
        [
            Column("day"),
            Column("cycle", 6),
            Column("mode", 3),
            Column("status", 2),
            Column("started", 7),
            Column("lasted", 8, right=True),
            Column("trades", right=True),
            Column("won", 4, right=True),
            Column("result", right=True),
            Column("drawdown", 1, right=True),
            Column("flat", 5),
        ]
    )
    for day in days:
        lasted = None if day.end_time is None else (day.end_time - day.start_time).total_seconds()
        table.add_row(
            day.day.isoformat(),
            day.cycle_id,
            day.mode,
            f"{day.status}, halted" if day.halted else day.status,
            new_york_time(day.start_time),
            duration(lasted),
            str(day.trades),
            "–" if day.win_rate is None else f"{day.win_rate.normalize():f} %",
            gain_text(day.pnl),
            dollars(day.max_drawdown),
            "proven" if day.proven_flat else "NOT proven",
        )
    return table


def render_events(events: Sequence[RiskEvent]) -> Iterator[RenderableType]:
    """Render one row for each risk event, newest first."""
    if not events:
        yield "no risk events"
        return
    table = FittedTable(
        [Column("at"), Column("severity"), Column("event"), Column("message", prose=True), Column("cycle", 1)]
    )
    for event in events:
        table.add_row(
            f"{event.occurred_at.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S}",
            event.severity,
            event.event_type,
            event.message,
            event.cycle_id or "",
        )
    yield table
