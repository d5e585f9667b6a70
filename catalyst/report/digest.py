"""Digest of a day: the text that is mailed after the close, from the database alone."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from catalyst.domain.session import start_of_day
from catalyst.report.day import DayReport, TradeSummary, read_day_report
from catalyst.report.formatting import describe_proof, dollars, new_york_time, price, quantity
from catalyst.store import alerts, flat_proofs, journal, risk_events
from catalyst.store.cycles import CycleRow
from catalyst.store.flat_proofs import FlatProofRow
from catalyst.store.journal import ChainLink
from catalyst.store.pool import Connection
from catalyst.store.risk_events import RiskEvent

MAX_TRADES: Final = 100  # named in one digest
HOW_TO_USE_THE_HASH: Final = (
    "keep this mail: a journal that is rewritten later has another hash at this line",
    "(`catalyst doctor --journal` verifies it against its own proofs)",
)


@dataclass(frozen=True, slots=True)
class Digest:
    """All facts of a digest. `alerts`: their number by severity since the day began, `unacknowledged` the critical ones
    among them that nobody acknowledged; `issues` are those that the doctor still finds."""

    day: DayReport
    proofs: tuple[FlatProofRow, ...]
    issues: tuple[RiskEvent, ...]
    alerts: dict[str, int]
    unacknowledged: int
    journal_head: ChainLink


async def read_digest(conn: Connection, cycle: CycleRow, at: datetime) -> Digest:
    """Read the facts of one day's digest."""
    day = await read_day_report(conn, cycle.cycle_date, at=at)
    assert day is not None  # the cycle exists
    counts, unacknowledged = await alerts.counts_between(
        conn, start_of_day(cycle.cycle_date), start_of_day(cycle.cycle_date + timedelta(days=1))
    )
    return Digest(
        day,
        tuple(await flat_proofs.of_cycle(conn, cycle.cycle_id)),
        tuple(await risk_events.open_issues(conn)),
        counts,
        unacknowledged,
        await journal.head(conn),
    )


def digest_text(digest: Digest) -> str:
    """Return the digest; its first line is a summary of the whole."""
    return "\n".join(_lines(digest))


def _lines(digest: Digest) -> Iterator[str]:
    from rich.text import Text

    from catalyst.report.terminal import render_summary

    day = digest.day
    proven = "proven flat" if day.proof is not None and day.proof.proven else "NOT proven flat"
    yield f"{day.day:%A %d %B %Y}: {dollars(_result(day), signed=True)}, {_trades(day)}, {proven}"
    yield ""
    yield f"cycle     {day.cycle.cycle_id}, {day.cycle.mode}, {day.cycle.status}"
    for part in render_summary(day):
        yield part.plain if isinstance(part, Text) else str(part)
    for proof in digest.proofs[:-1]:
        yield f"          before: {describe_proof(proof)}"
    if day.exits:
        exits = (f"{each.reason} {each.count} ({dollars(each.pnl, signed=True)})" for each in day.exits)
        yield f"exits     {', '.join(exits)}"
    degraded = sum(scan.degraded is not None for scan in day.scans)
    yield f"scans     {len(day.scans)}, {degraded} of them degraded"
    yield f"doctor    {_count(len(digest.issues), 'open issue')}"
    for issue in digest.issues:
        yield f"          {issue.severity} {issue.event_type}: {issue.message}"
    yield f"alerts    {_alerts(digest)}"
    head = digest.journal_head
    yield f"journal   line {head.link}, hash {head.hex or 'none'}"
    for sentence in HOW_TO_USE_THE_HASH:
        yield f"          {sentence}"
    yield ""
    yield from (_trade_line(trade) for trade in day.trades[:MAX_TRADES])
    if len(day.trades) > MAX_TRADES:
        yield f"and {len(day.trades) - MAX_TRADES} more: catalyst report {day.day}"
    if not day.trades:
        yield "no trade"


def _result(day: DayReport) -> Decimal:
    return sum((trade.pnl for trade in day.trades), Decimal(0))


def _trades(day: DayReport) -> str:
    still_open = sum(not trade.closed for trade in day.trades)
    return _count(len(day.trades), "trade") + (f", {still_open} of them open" if still_open else "")


def _trade_line(trade: TradeSummary) -> str:
    entry = f"{new_york_time(trade.entry_time)} at {price(trade.entry_price)}"
    out = "open"
    if trade.exit_time is not None:
        out = f"{new_york_time(trade.exit_time)} at {price(trade.exit_price)}"
    reason = f", {trade.exit}" if trade.exit else ""
    shares = f"{trade.symbol} {trade.side} {quantity(trade.quantity)}"
    return f"{shares}: {entry} → {out}, {dollars(trade.pnl, signed=True)}{reason}"


def _alerts(digest: Digest) -> str:
    counts = ", ".join(f"{count} {severity}" for severity, count in digest.alerts.items()) or "none"
    return f"{counts}; {digest.unacknowledged} CRITICAL not acknowledged" if digest.unacknowledged else counts


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
