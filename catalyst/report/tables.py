"""Rendering of orders, positions, candidates, cycles and status as tables and lines for people."""

from collections.abc import Iterator, Sequence
from typing import Final

from rich.console import RenderableType
from rich.text import Text

from catalyst.domain.order import TERMINAL, Status
from catalyst.domain.position import ZERO
from catalyst.domain.rows import OrderRow
from catalyst.domain.session import NEW_YORK
from catalyst.report.alert_delivery import describe_delivery
from catalyst.report.day import TradeSummary
from catalyst.report.fitted_table import Column, FittedTable
from catalyst.report.formatting import (
    STAGE_ORDER,
    describe_proof,
    dollars,
    duration,
    new_york_time,
    price,
    quantity,
)
from catalyst.report.status import DaemonStatus, PositionLine, SystemStatus, Verdict, describe_reason
from catalyst.report.terminal import gain_text, new_york_datetime, render_trades
from catalyst.store.candidates import CandidateRow
from catalyst.store.cycles import CycleRow
from catalyst.store.proposals import ProposalRow

VERDICTS: Final = {  # word and style
    Verdict.HEALTHY: ("healthy", "bold green"),
    Verdict.HALTED: ("halted", "bold yellow"),
    Verdict.UNHEALTHY: ("NOT healthy", "bold red"),
}


def render_orders(rows: Sequence[OrderRow], *, top: int | None = None) -> Iterator[RenderableType]:
    """Render one row per order; orders with an unknown outcome first, in red. `top`: the most rows to show."""
    if not rows:
        yield "no orders"
        return
    yield orders_table(sorted(rows, key=_order_rank)[:top])
    yield from _rows_left_out(rows, top)


def _order_rank(row: OrderRow) -> tuple[bool, bool, int]:
    """Return a sort key: unknown outcomes, then working orders, then the others, each from the first to the last."""
    return not _is_unknown(row), row.status in TERMINAL, row.order_id


def _is_unknown(row: OrderRow) -> bool:
    return row.status is Status.SUBMITTED and row.alpaca_order_id is None


def orders_table(rows: Sequence[OrderRow]) -> FittedTable:
    """Return the table of these orders; a time has its date when the orders are not of one day."""
    days = {row.created_at.astimezone(NEW_YORK).date() for row in rows}
    table = FittedTable(
        [
            Column("id", 4, right=True),
            Column("created", 5),
            Column("symbol"),
            Column("purpose", 1),
            Column("side"),
            Column("shares", right=True),
            Column("type", 6),
            Column("price", right=True),
            Column("status"),
            Column("broker", 3),
            Column("reason", 2, prose=True),
        ]
    )
    for row in rows:
        table.add_row(
            str(row.order_id),
            new_york_time(row.created_at) if len(days) == 1 else new_york_datetime(row.created_at),
            Text(row.symbol, style="bold"),
            row.order_purpose.replace("_", " "),
            row.side,
            f"{quantity(row.filled_qty)}/{quantity(row.quantity)}",
            f"{row.order_type} {row.order_class}" if row.order_class != "simple" else row.order_type,
            price(row.filled_avg_price or row.stop_price or row.limit_price),
            Text("outcome unknown", style="bold red") if _is_unknown(row) else row.status,
            row.broker_status or "",
            row.rejection_reason or row.cancel_reason or "",
        )
    return table


def render_positions(
    open_positions: Sequence[PositionLine], closed: Sequence[TradeSummary]
) -> Iterator[RenderableType]:
    """Render open positions with their protection, then closed trades."""
    if open_positions:
        yield positions_table(open_positions)
        for position in open_positions:
            if not position.stop_at_broker:
                shares = f"{quantity(position.unprotected_qty)} of {quantity(position.quantity)}"
                yield Text(
                    f"! the stop of {position.symbol} is not at the broker for {shares} shares",
                    style="bold red",
                )
    if closed:
        yield render_trades(closed)
    if not open_positions and not closed:
        yield "no positions"


def positions_table(lines: Sequence[PositionLine]) -> FittedTable:
    """Return the table of open positions; a stop that does not cover every share at the broker has a mark."""
    table = FittedTable(
        [
            Column("id", 7, right=True),
            Column("symbol"),
            Column("side"),
            Column("shares", right=True),
            Column("entry", right=True),
            Column("last", right=True),
            Column("stop", right=True),
            Column("target", right=True),
            Column("unrealised", right=True),
            Column("worst case", 2, right=True),
            Column("held", 3, right=True),
            Column("unprotected", 4, right=True),
            Column("carried", 5),
        ]
    )
    for line in lines:
        table.add_row(
            str(line.position_id),
            Text(line.symbol, style="bold"),
            line.side,
            quantity(line.quantity),
            price(line.entry_price),
            price(line.last_price),
            price(line.stop) if line.stop_at_broker else Text(f"{price(line.stop)} !", style="bold red"),
            price(line.target),
            gain_text(line.unrealized_pnl),
            "–" if line.worst_case is None else dollars(line.worst_case, signed=True),
            duration(line.held_seconds),
            duration(line.unprotected_seconds),
            "carried" if line.carried else "",
        )
    return table


def render_candidates(rows: Sequence[CandidateRow], *, top: int | None = None) -> Iterator[RenderableType]:
    """Render one row per candidate, best first, with the stage that refused it and the reason."""
    if not rows:
        yield "no candidates"
        return
    table = FittedTable(
        [
            Column("at", 5),
            Column("rank", 4, right=True),
            Column("symbol"),
            Column("side", 3),
            Column("price", right=True),
            Column("scan", 7, right=True),
            Column("news", 8, right=True),
            Column("pattern", 9, right=True),
            Column("technical", 10, right=True),
            Column("composite", 2, right=True),
            Column("risk", 11, right=True),
            Column("stage"),
            Column("status", 6),
            Column("reason", 1, prose=True),
        ]
    )
    for row in sorted(rows, key=_candidate_rank)[:top]:
        scores = (row.scan_score, row.news_score, row.pattern_confidence, row.technical_score, row.composite_score,
                  row.risk_score)  # fmt: skip
        table.add_row(
            new_york_time(row.scanned_at),
            str(row.rank_in_scan),
            Text(row.symbol, style="bold" if row.verdict == "passed" else ""),
            row.side or "",
            price(row.price),
            *("" if score is None else f"{score:.3f}" for score in scores),
            row.stage_reached,
            row.status,
            row.reason or "",
        )
    yield table
    yield from _rows_left_out(rows, top)


def _candidate_rank(row: CandidateRow) -> tuple[float, bool, int, float, int]:
    """Return a sort key: the latest scan, then what passed, then how far it came, then its score."""
    stage = STAGE_ORDER.index(row.stage_reached) if row.stage_reached in STAGE_ORDER else 0
    return (
        -row.scanned_at.timestamp(),
        row.verdict != "passed",
        -stage,
        -(row.composite_score or 0.0),
        row.rank_in_scan,
    )


def _rows_left_out(rows: Sequence[object], top: int | None) -> Iterator[RenderableType]:
    if top is not None and len(rows) > top:
        yield Text(f"and {len(rows) - top} more: --top {len(rows)} shows all", style="dim")


def render_cycles(rows: Sequence[CycleRow]) -> Iterator[RenderableType]:
    """Render one row per trading day."""
    if not rows:
        yield "no cycles"
        return
    table = FittedTable(
        [
            Column("cycle"),
            Column("day", 6),
            Column("mode", 1),
            Column("status"),
            Column("started", 5),
            Column("ended", 4),
            Column("lasted", 7, right=True),
            Column("result", right=True),
            Column("equity", 2, right=True),
            Column("halted", 3, prose=True),
        ]
    )
    for row in rows:
        lasted = None if row.end_time is None else (row.end_time - row.start_time).total_seconds()
        table.add_row(
            row.cycle_id,
            row.cycle_date.isoformat(),
            row.mode,
            row.status,
            new_york_time(row.start_time),
            "–" if row.end_time is None else new_york_time(row.end_time),
            duration(lasted),
            gain_text(row.daily_pnl),
            "–" if row.end_equity is None else dollars(row.end_equity),
            row.halt_reason or "",
        )
    yield table


def render_status(system_status: SystemStatus) -> Iterator[RenderableType]:
    """Render the current state, the most important facts first."""
    verdict, style = VERDICTS[system_status.verdict]
    market = "hours not known yet" if system_status.phase == "unknown" else system_status.phase
    yield Text(f"{verdict}, {new_york_datetime(system_status.at)} New York, market {market}", style=style)
    for problem in system_status.problems:
        yield Text(f"problem   {problem}", style="red")
    for halt in system_status.halts:
        yield Text(f"halted    {halt}", style="bold yellow")
    yield _daemon_line(system_status.daemon)
    yield _entries_line(system_status)
    if system_status.cycle is None:
        yield "cycle     none today"
    else:
        yield f"cycle     {system_status.cycle.cycle_id}, {system_status.cycle.mode}, {system_status.cycle.status}"
    yield f"scans     {system_status.scan_note}"
    yield _result_line(system_status)
    if system_status.proof is not None:
        yield f"flat      {describe_proof(system_status.proof, holds=system_status.proof_holds)}"
    yield f"alerts    {describe_delivery(system_status.alert_delivery)}"
    yield from _render_proposals(system_status.proposals)
    yield from render_positions(system_status.positions, ())
    if system_status.orders:
        yield from render_orders(system_status.orders)


def _daemon_line(daemon: DaemonStatus) -> str:
    """Describe the process as it described itself; without one, the last."""
    if daemon.started_at is None:
        return "daemon    none has run on this database"
    state = "running" if daemon.alive else "not running; the last one:"
    heartbeat = (
        ""
        if daemon.heartbeat_age_seconds is None
        else f", wrote {duration(daemon.heartbeat_age_seconds)} ago"
    )
    settings = " ".join(filter(None, (daemon.mode, daemon.session_mode)))
    return f"daemon    {state} {settings}, Catalyst {daemon.version}, epoch {daemon.epoch}{heartbeat}"


def _entries_line(system_status: SystemStatus) -> str:
    """Describe whether entries are open, and each reason with its time when they are not."""
    entries = system_status.entries
    if entries.open:
        return "entries   open"
    reasons = "; ".join(describe_reason(reason, system_status.at) for reason in entries.reasons)
    return f"entries   closed: {reasons or 'no daemon is running'}"


def _result_line(system_status: SystemStatus) -> Text:
    line = Text("day       ")
    line.append_text(gain_text(system_status.day_pnl))
    closed = system_status.closed_trades
    line.append(
        f": {closed} trade{'s' * (closed != 1)} closed {dollars(system_status.realized_pnl, signed=True)}, "
        f"{len(system_status.positions)} open {dollars(system_status.unrealized_pnl, signed=True)}"
    )
    if system_status.loss_limit_used_pct is not None:
        limit = dollars(system_status.loss_limit or ZERO)
        line.append(f"; {system_status.loss_limit_used_pct:g} % of the daily loss limit {limit} used")
    return line


def _render_proposals(proposals: Sequence[ProposalRow]) -> Iterator[RenderableType]:
    for proposal in proposals:
        ticket = proposal.ticket
        yield Text(
            f"proposal  {proposal.proposal_id}: {ticket.get('side')} {ticket.get('quantity')} {proposal.symbol} at "
            f"{ticket.get('entry') or 'the market'}, stop {ticket.get('stop')}, target {ticket.get('target')}, "
            f"risk ${ticket.get('risk')}; `catalyst approve {proposal.proposal_id}` until "
            f"{new_york_time(proposal.expires_at)}",
            style="yellow",
        )
