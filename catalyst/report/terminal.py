"""Rendering of a day's report as text and tables for a terminal or a pipe."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from decimal import Decimal

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from catalyst.domain.session import NEW_YORK
from catalyst.report.day import DayReport, TradeSummary
from catalyst.report.formatting import describe_proof, dollars, duration, new_york_time, price, quantity


def new_table(*headings: str, right: Sequence[str] = (), title: str | None = None) -> Table:
    """Return an empty table in the common style; the columns named in `right` are right-aligned."""
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right" if heading in right else "left", no_wrap=True)
    return table


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


def render_trades(trades: Sequence[TradeSummary]) -> Table:
    """Render one row per trade."""
    right = ("shares", "in at", "out at", "result", "%", "R", "held", "unprotected")
    table = new_table("symbol", "side", "shares", "entry", "in at", "exit", "out at", "result", "%", "R", "held",
                     "unprotected", "exit reason", right=right)  # fmt: skip
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
            f" from {figures.trades} trades: {figures.winners} won, {figures.losers} lost, win rate "
            f"{figures.win_rate.normalize():f} %, average {dollars(figures.average_pnl, signed=True)}"
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
    yield (
        f"orders    {day.orders} in all, {day.entries} entries of which {day.entries_filled} filled, {day.rejected} "
        f"rejected, {day.fills} fills"
    )
    yield f"flat      {describe_proof(day.proof)}"


def render_scans(day: DayReport) -> Table:
    """Render one row per scan: rows left after each stage, and the total milliseconds."""
    stages: list[str] = list(dict.fromkeys(stage for scan in day.scans for stage in scan.counts))
    table = new_table("scan", *stages, "ms", "degraded", right=(*stages, "ms"))
    for scan in day.scans:
        table.add_row(
            new_york_time(scan.at),
            *(f"{scan.counts[stage]:,}" if stage in scan.counts else "" for stage in stages),
            f"{scan.total_milliseconds:,.0f}",
            scan.degraded or "",
        )
    return table


def new_york_datetime(at: datetime | None) -> str:
    """Format date and time in New York; a dash for None."""
    return "–" if at is None else f"{at.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S}"
