"""Rendering of orders, positions, candidates, cycles, status and explanations as tables and lines for people."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from catalyst.domain.order import Status
from catalyst.domain.rows import OrderRow
from catalyst.report.alert_delivery import describe_delivery
from catalyst.report.day import TradeSummary
from catalyst.report.explain import Explanation, SymbolScan
from catalyst.report.formatting import describe_proof, dollars, duration, new_york_time, price, quantity
from catalyst.report.status import PositionLine, SystemStatus
from catalyst.report.terminal import gain_text, new_table, new_york_datetime, render_trades
from catalyst.store.candidates import CandidateRow
from catalyst.store.cycles import CycleRow
from catalyst.store.proposals import ProposalRow


def render_orders(rows: Sequence[OrderRow]) -> Iterator[RenderableType]:
    """Render one row per order; orders with an unknown outcome first, in red."""
    if not rows:
        yield "no orders"
        return
    table = new_table("id", "created", "symbol", "purpose", "side", "shares", "type", "price", "status", "broker",
                      "reason", right=("id", "shares", "price"))  # fmt: skip
    for row in sorted(rows, key=lambda row: (row.status is not Status.SUBMITTED, row.order_id)):
        unknown = row.status is Status.SUBMITTED and row.alpaca_order_id is None
        table.add_row(
            str(row.order_id),
            new_york_datetime(row.created_at),
            Text(row.symbol, style="bold"),
            row.order_purpose.replace("_", " "),
            row.side,
            f"{quantity(row.filled_qty)}/{quantity(row.quantity)}",
            f"{row.order_type} {row.order_class}" if row.order_class != "simple" else row.order_type,
            price(row.filled_avg_price or row.stop_price or row.limit_price),
            Text("outcome unknown", style="bold red") if unknown else row.status,
            row.broker_status or "",
            row.rejection_reason or row.cancel_reason or "",
        )
    yield table


def render_positions(
    open_positions: Sequence[PositionLine], closed: Sequence[TradeSummary]
) -> Iterator[RenderableType]:
    """Render open positions with their protection, then closed trades."""
    if open_positions:
        figures = (
            "shares",
            "entry",
            "last",
            "stop",
            "target",
            "unrealised",
            "worst case",
            "held",
            "unprotected",
        )
        table = new_table("id", "symbol", "side", *figures, right=("id", *figures))
        for position in open_positions:
            table.add_row(
                str(position.position_id),
                Text(position.symbol, style="bold"),
                position.side + (" carried" if position.carried else ""),
                quantity(position.quantity),
                price(position.entry_price),
                price(position.last_price),
                price(position.stop)
                if position.stop_at_broker
                else Text(f"{price(position.stop)} not at the broker", style="bold red"),
                price(position.target),
                gain_text(position.unrealized_pnl),
                "–" if position.worst_case is None else dollars(position.worst_case, signed=True),
                duration(position.held_seconds),
                duration(position.unprotected_seconds),
            )
        yield table
    if closed:
        yield render_trades(closed)
    if not open_positions and not closed:
        yield "no positions"


def render_candidates(rows: Sequence[CandidateRow]) -> Iterator[RenderableType]:
    """Render one row per candidate, best first, with the stage that refused it and the reason."""
    if not rows:
        yield "no candidates"
        return
    figures = ("rank", "price", "scan", "news", "pattern", "technical", "composite", "risk")
    table = new_table(
        "at", "rank", "symbol", "side", "price", *figures[2:], "stage", "status", "reason", right=figures
    )
    for row in rows:
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


def render_cycles(rows: Sequence[CycleRow]) -> Iterator[RenderableType]:
    """Render one row per trading day."""
    if not rows:
        yield "no cycles"
        return
    table = new_table("cycle", "day", "mode", "status", "started", "ended", "lasted", "result", "equity", "halted",
                     right=("lasted", "result", "equity"))  # fmt: skip
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
    verdict = "healthy" if system_status.healthy else "NOT healthy"
    yield Text(
        f"{verdict}, {new_york_datetime(system_status.at)} New York, market {system_status.phase}",
        style="bold green" if system_status.healthy else "bold red",
    )
    for problem in system_status.problems:
        yield Text(f"problem   {problem}", style="red")
    daemon = system_status.daemon
    heartbeat = (
        ""
        if daemon.heartbeat_age_seconds is None
        else f", last heartbeat {duration(daemon.heartbeat_age_seconds)} ago"
    )
    yield f"daemon    {'alive' if daemon.alive else 'not running'}, epoch {daemon.epoch}{heartbeat}"
    if system_status.cycle is None:
        yield "cycle     none today"
    else:
        yield f"cycle     {system_status.cycle.cycle_id}, {system_status.cycle.mode}, {system_status.cycle.status}"
    yield f"scans     {system_status.scan_note}"
    yield _result_line(system_status)
    if system_status.proof is not None:
        yield f"flat      {describe_proof(system_status.proof)}"
    yield f"alerts    {describe_delivery(system_status.alert_delivery)}"
    yield from _render_proposals(system_status.proposals)
    yield from render_positions(system_status.positions, ())
    if system_status.orders:
        yield from render_orders(system_status.orders)


def _result_line(system_status: SystemStatus) -> Text:
    line = Text("day       ")
    line.append_text(gain_text(system_status.day_pnl))
    line.append(
        f": {system_status.closed_trades} trades closed {dollars(system_status.realized_pnl, signed=True)}, "
        f"{len(system_status.positions)} open {dollars(system_status.unrealized_pnl, signed=True)}"
    )
    if system_status.loss_limit_used_pct is not None:
        line.append(f"; {system_status.loss_limit_used_pct:g} % of the daily loss limit used")
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


def render_explanation(explanation: Explanation, *, every_scan: bool = False) -> Iterator[RenderableType]:
    """Render a symbol's day, with the details of its best scan, or of every scan with `every_scan`."""
    about = ", ".join(
        filter(None, (explanation.name, explanation.sector or "sector unknown", explanation.exchange))
    )
    yield Text(f"{explanation.symbol}  {about}", style="bold")
    yield f"{explanation.day}, cycle {explanation.cycle_id}, {len(explanation.scans)} scans"
    for symbol_scan in explanation.scans:
        yield Text(
            f"{new_york_time(symbol_scan.at)}  {symbol_scan.verdict}",
            style="" if symbol_scan.stage else "green" if symbol_scan.listed else "dim",
        )
    with_details = [
        symbol_scan for symbol_scan in explanation.scans if symbol_scan.numbers or symbol_scan.candidate
    ]
    for symbol_scan in with_details if every_scan else sorted(with_details, key=_detail_rank)[-1:]:
        yield from _render_details(symbol_scan)
    if explanation.orders:
        yield from render_orders(explanation.orders)
    if explanation.trades:
        yield render_trades(explanation.trades)


def _detail_rank(symbol_scan: SymbolScan) -> tuple[bool, bool, int, int]:
    """Return a sort key by how far the symbol went in a scan; the scan with the most details sorts last."""
    detail_count = len(symbol_scan.numbers) + (
        0 if symbol_scan.candidate is None else len(symbol_scan.candidate.detail)
    )
    return symbol_scan.stage is None, symbol_scan.order_id is not None, detail_count, symbol_scan.scan_id


def _render_details(symbol_scan: SymbolScan) -> Iterator[RenderableType]:
    yield Text(f"\ndetails of the scan of {new_york_time(symbol_scan.at)}", style="bold")
    yield from _render_facts("numbers", symbol_scan.numbers)
    if symbol_scan.candidate is None:
        return
    yield from _render_facts("detail", symbol_scan.candidate.detail)
    for headline in symbol_scan.headlines:
        age = duration((symbol_scan.at - headline.published_at).total_seconds())
        yield f"headline  {headline.sentiment:+.2f} “{headline.headline}” ({headline.source}, {age} before)"
    for pattern in symbol_scan.patterns:
        yield (
            f"pattern   {pattern.pattern} {pattern.side}, confidence {pattern.confidence:.2f}: trigger "
            f"{price(pattern.trigger)}, invalid at {price(pattern.invalidation)}, target {price(pattern.target)}"
        )
    if symbol_scan.indicators is not None:
        agreement = (
            "–" if symbol_scan.indicators.agreement is None else f"{symbol_scan.indicators.agreement:.2f}"
        )
        yield f"technical agreement {agreement}"
        yield from _render_facts(
            "", {name: round(x, 4) for name, x in symbol_scan.indicators.values.items() if x is not None}
        )


def _render_facts(name: str, facts: Mapping[str, object]) -> Iterator[RenderableType]:
    if facts:
        yield f"{name:<10}" + ", ".join(
            f"{key} {value:,.6g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in facts.items()
        )
