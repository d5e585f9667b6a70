"""Lists and single answers as a person reads them: orders, positions, candidates, cycles, a symbol's story."""

from collections.abc import Iterator, Mapping, Sequence

from rich.console import RenderableType
from rich.text import Text

from catalyst.domain.order import Status
from catalyst.report.day import Trade
from catalyst.report.explain import Explanation, Look
from catalyst.report.formatting import clock, dollars, price, proof, quantity, span
from catalyst.report.status import Held, Now
from catalyst.report.terminal import gain, show_trades, table_of, when
from catalyst.store.candidates import CandidateRow
from catalyst.store.cycles import CycleRow
from catalyst.store.orders import OrderRow
from catalyst.store.proposals import Proposal


def show_orders(rows: Sequence[OrderRow]) -> Iterator[RenderableType]:
    """One line an order; those whose fate is unknown first, in red."""
    if not rows:
        yield "no orders"
        return
    table = table_of("id", "created", "symbol", "purpose", "side", "shares", "type", "price", "status", "broker", "why",
                     right=("id", "shares", "price"))  # fmt: skip
    for row in sorted(rows, key=lambda one: (one.status is not Status.SUBMITTED, one.order_id)):
        unknown = row.status is Status.SUBMITTED and row.alpaca_order_id is None
        table.add_row(
            str(row.order_id),
            when(row.created_at),
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


def show_positions(open_now: Sequence[Held], closed: Sequence[Trade]) -> Iterator[RenderableType]:
    """What is held with its protection, then what was."""
    if open_now:
        figures = ("shares", "entry", "last", "stop", "target", "unrealised", "worst case", "held", "naked")
        table = table_of("id", "symbol", "side", *figures, right=("id", *figures))
        for held in open_now:
            table.add_row(
                str(held.position_id),
                Text(held.symbol, style="bold"),
                held.side + (" carried" if held.carried else ""),
                quantity(held.quantity),
                price(held.entry_price),
                price(held.last_price),
                price(held.stop)
                if held.stop_at_broker
                else Text(f"{price(held.stop)} not at the broker", style="bold red"),
                price(held.target),
                gain(held.unrealized_pnl),
                "–" if held.worst_case is None else dollars(held.worst_case, signed=True),
                span(held.held_seconds),
                span(held.naked_seconds),
            )
        yield table
    if closed:
        yield show_trades(closed)
    if not open_now and not closed:
        yield "no positions"


def show_candidates(rows: Sequence[CandidateRow]) -> Iterator[RenderableType]:
    """One line a candidate, best first, with the stage that refused it and why."""
    if not rows:
        yield "no candidates"
        return
    figures = ("rank", "price", "scan", "news", "pattern", "technical", "composite", "risk")
    table = table_of(
        "at", "rank", "symbol", "side", "price", *figures[2:], "stage", "status", "why", right=figures
    )
    for row in rows:
        scores = (row.scan_score, row.news_score, row.pattern_confidence, row.technical_score, row.composite_score,
                  row.risk_score)  # fmt: skip
        table.add_row(
            clock(row.scanned_at),
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


def show_cycles(rows: Sequence[CycleRow]) -> Iterator[RenderableType]:
    """One line a trading day."""
    if not rows:
        yield "no cycles"
        return
    table = table_of("cycle", "day", "mode", "status", "started", "ended", "lasted", "result", "equity", "halted",
                     right=("lasted", "result", "equity"))  # fmt: skip
    for row in rows:
        lasted = None if row.end_time is None else (row.end_time - row.start_time).total_seconds()
        table.add_row(
            row.cycle_id,
            row.cycle_date.isoformat(),
            row.mode,
            row.status,
            clock(row.start_time),
            "–" if row.end_time is None else clock(row.end_time),
            span(lasted),
            gain(row.daily_pnl),
            "–" if row.end_equity is None else dollars(row.end_equity),
            row.halt_reason or "",
        )
    yield table


def show_now(now: Now) -> Iterator[RenderableType]:
    """The present, in the order of what matters."""
    verdict = "healthy" if now.healthy else "NOT healthy"
    yield Text(
        f"{verdict}, {when(now.at)} New York, market {now.phase}",
        style="bold green" if now.healthy else "bold red",
    )
    for problem in now.problems:
        yield Text(f"problem   {problem}", style="red")
    daemon = now.daemon
    beat = (
        ""
        if daemon.heartbeat_age_seconds is None
        else f", last beat {span(daemon.heartbeat_age_seconds)} ago"
    )
    yield f"daemon    {'alive' if daemon.alive else 'not running'}, epoch {daemon.epoch}{beat}"
    if now.cycle is None:
        yield "cycle     none today"
    else:
        yield f"cycle     {now.cycle.cycle_id}, {now.cycle.mode}, {now.cycle.status}"
    yield f"scans     {now.scanning}"
    yield _result(now)
    if now.proof is not None:
        yield f"flat      {proof(now.proof)}"
    yield from _waiting(now.proposals)
    yield from show_positions(now.positions, ())
    if now.orders:
        yield from show_orders(now.orders)


def _result(now: Now) -> Text:
    line = Text("day       ")
    line.append_text(gain(now.day_pnl))
    line.append(
        f": {now.closed_trades} trades closed {dollars(now.realized_pnl, signed=True)}, {len(now.positions)} open "
        f"{dollars(now.unrealized_pnl, signed=True)}"
    )
    if now.loss_limit_used_pct is not None:
        line.append(f"; {now.loss_limit_used_pct:g} % of the daily loss limit used")
    return line


def _waiting(proposals: Sequence[Proposal]) -> Iterator[RenderableType]:
    for one in proposals:
        ticket = one.ticket
        yield Text(
            f"proposal  {one.proposal_id}: {ticket.get('side')} {ticket.get('quantity')} {one.symbol} at "
            f"{ticket.get('entry') or 'the market'}, stop {ticket.get('stop')}, target {ticket.get('target')}, risk "
            f"${ticket.get('risk')}; `catalyst approve {one.proposal_id}` until {clock(one.expires_at)}",
            style="yellow",
        )


def show_explanation(told: Explanation, *, every: bool = False) -> Iterator[RenderableType]:
    """A symbol's day; the details of its best look, or of each with `every`."""
    about = ", ".join(filter(None, (told.name, told.sector or "sector unknown", told.exchange)))
    yield Text(f"{told.symbol}  {about}", style="bold")
    yield f"{told.day}, cycle {told.cycle_id}, {len(told.looks)} scans"
    for look in told.looks:
        yield Text(
            f"{clock(look.at)}  {look.verdict}", style="" if look.stage else "green" if look.listed else "dim"
        )
    chosen = [look for look in told.looks if look.numbers or look.candidate]
    for look in chosen if every else sorted(chosen, key=_depth)[-1:]:
        yield from _details(look)
    if told.orders:
        yield from show_orders(told.orders)
    if told.trades:
        yield show_trades(told.trades)


def _depth(look: Look) -> tuple[bool, bool, int, int]:
    """How far a look went: the one worth showing comes last."""
    reached = len(look.numbers) + (0 if look.candidate is None else len(look.candidate.detail))
    return look.stage is None, look.order_id is not None, reached, look.scan_id


def _details(look: Look) -> Iterator[RenderableType]:
    yield Text(f"\nwhat the scan of {clock(look.at)} saw", style="bold")
    yield from _facts("numbers", look.numbers)
    if look.candidate is None:
        return
    yield from _facts("detail", look.candidate.detail)
    for headline in look.headlines:
        age = span((look.at - headline.published_at).total_seconds())
        yield f"headline  {headline.sentiment:+.2f} “{headline.headline}” ({headline.source}, {age} before)"
    for pattern in look.patterns:
        yield (
            f"pattern   {pattern.pattern} {pattern.side}, confidence {pattern.confidence:.2f}: trigger "
            f"{price(pattern.trigger)}, invalid at {price(pattern.invalidation)}, target {price(pattern.target)}"
        )
    if look.indicators is not None:
        agreement = "–" if look.indicators.agreement is None else f"{look.indicators.agreement:.2f}"
        yield f"technical agreement {agreement}"
        yield from _facts(
            "", {name: round(x, 4) for name, x in look.indicators.values.items() if x is not None}
        )


def _facts(name: str, facts: Mapping[str, object]) -> Iterator[RenderableType]:
    if facts:
        yield f"{name:<10}" + ", ".join(
            f"{key} {value:,.6g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in facts.items()
        )
