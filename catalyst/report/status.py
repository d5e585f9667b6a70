"""Current state of the system, read from the database for `catalyst status` and the live screen."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.domain.closed_entries import SILENT_AFTER, Cause, ClosedReason
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.position import ZERO
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.report.alert_delivery import delivery_problems
from catalyst.report.day import ScanFigures, scan_figures
from catalyst.report.formatting import new_york_moment, new_york_time
from catalyst.store import (
    alert_channels,
    candidates,
    cycles,
    daemon_epoch,
    flat_proofs,
    gate_reasons,
    orders,
    pipeline_views,
    positions,
    proposals,
    reporting_queries,
    trading_days,
)
from catalyst.store.alert_channels import DeliveryState
from catalyst.store.cycles import CycleRow
from catalyst.store.daemon_epoch import DaemonRow
from catalyst.store.flat_proofs import FlatProofRow
from catalyst.store.pipeline_views import OpenRisk
from catalyst.store.pool import Connection
from catalyst.store.proposals import ProposalRow
from catalyst.store.reporting_queries import Latch, SessionRow

SATURDAY: Final = 5  # of datetime.weekday()


class Verdict(StrEnum):
    """The system's state in one word; a person has halted entries: `halted`."""

    HEALTHY = "healthy"
    HALTED = "halted"
    UNHEALTHY = "unhealthy"


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """State of the daemon, as it wrote it; `alive` while it holds the account lease.

    The settings are those in force in the running daemon, or in the last one.
    """

    alive: bool
    epoch: int
    version: str | None
    account_id: str | None
    started_at: datetime | None
    heartbeat_at: datetime | None  # its last successful write
    heartbeat_age_seconds: float | None
    mode: str | None
    session_mode: str | None
    broker_url: str | None
    config_hash: str | None
    max_positions: int | None
    max_daily_loss: Decimal | None
    next_scan_at: datetime | None
    scan_failure: str | None  # of the last scan; None when it succeeded


@dataclass(frozen=True, slots=True)
class EntriesStatus:
    """Whether entries are allowed, and each reason why not. Without a daemon none is made."""

    open: bool
    reasons: tuple[ClosedReason, ...]


@dataclass(frozen=True, slots=True)
class PositionLine:
    """An open position and its protection. Dollars, shares."""

    position_id: int
    symbol: str
    side: str
    quantity: Decimal
    entry_price: Decimal
    last_price: Decimal | None
    stop: Decimal | None
    target: Decimal | None
    stop_at_broker: bool
    unprotected_qty: Decimal
    unprotected_seconds: Decimal
    unrealized_pnl: Decimal
    worst_case: Decimal | None
    entry_time: datetime
    held_seconds: float
    carried: bool


@dataclass(frozen=True, slots=True)
class SystemStatus:
    """The system's state at one instant. `problems` lists everything that makes it unhealthy, `halts` what a person
    did."""

    at: datetime
    verdict: Verdict
    daemon: DaemonStatus
    entries: EntriesStatus
    session: SessionRow | None
    phase: str  # before | open | after | closed | unknown
    cycle: CycleRow | None
    latches: tuple[Latch, ...]
    scan: ScanFigures | None
    scan_note: str
    proposals: tuple[ProposalRow, ...]
    orders: tuple[OrderRow, ...]
    positions: tuple[PositionLine, ...]
    closed_trades: int
    realized_pnl: Decimal
    unrealized_pnl: Decimal
    day_pnl: Decimal
    loss_limit: Decimal | None  # in force
    loss_limit_used_pct: float | None
    proof: FlatProofRow | None
    proof_holds: bool  # the proof is one, and nothing was traded after it
    halts: tuple[str, ...]
    alert_delivery: DeliveryState
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        return self.verdict is Verdict.HEALTHY


async def read_status(conn: Connection, at: datetime) -> SystemStatus:
    """Read the state from the database, and only from it. `at` is the market's present time; what the daemon wrote is
    never later, so a clock that is behind counts as the daemon's."""
    daemon_row = await daemon_epoch.current(conn)
    at = at if daemon_row.heartbeat_at is None else max(at, daemon_row.heartbeat_at)
    alive = daemon_row.account_id is not None and await reporting_queries.is_account_locked(
        conn, daemon_row.account_id
    )
    today = trading_date(at)
    session = await reporting_queries.session_of(conn, today)
    cycle = await cycles.of_day(conn, today)
    rows = await positions.with_unprotected_time(conn, await positions.open_positions(conn), at)
    risks = {risk.position_id: risk for risk in await pipeline_views.open_risk(conn)}
    day_positions = [] if cycle is None else await positions.of_cycle(conn, cycle.cycle_id)
    scans = [] if cycle is None else await candidates.scans_of(conn, cycle.cycle_id)
    delivery = await alert_channels.read_delivery(conn, at)
    active_latches = tuple(await reporting_queries.latches(conn))
    daemon = _daemon_status(daemon_row, alive, at)
    phase = await _market_phase(conn, session, at)
    entries = await _entries_status(conn, daemon, market_open=phase == "open")
    open_lines = tuple(_position_line(row, risks.get(row.position_id), at) for row in rows)
    realized = ZERO if cycle is None else (await positions.day_pnl(conn, cycle.cycle_id))[0]
    unrealized = sum((line.unrealized_pnl for line in open_lines), ZERO)
    scan = scan_figures(scans[-1]) if scans else None
    loss = -min(realized + unrealized, ZERO)
    limit = daemon.max_daily_loss if daemon.alive else None
    if limit is None and cycle is not None:
        limit = cycle.max_daily_loss
    proof = None if cycle is None else await flat_proofs.last_flat_proof(conn, cycle.cycle_id)
    halts = tuple(_halts(entries, at))
    problems = tuple(_problems(daemon, entries, phase, cycle, scan, open_lines, at))
    return SystemStatus(
        at=at,
        verdict=Verdict.UNHEALTHY if problems else Verdict.HALTED if halts else Verdict.HEALTHY,
        daemon=daemon,
        entries=entries,
        session=session,
        phase=phase,
        cycle=cycle,
        latches=active_latches,
        scan=scan,
        scan_note=_describe_scanning(daemon, entries, session, cycle, scan, at),
        proposals=tuple(await proposals.waiting(conn)),
        orders=tuple(await orders.working(conn)),
        positions=open_lines,
        closed_trades=sum(row.status == "closed" for row in day_positions),
        realized_pnl=realized,
        unrealized_pnl=unrealized,
        day_pnl=realized + unrealized,
        loss_limit=limit,
        loss_limit_used_pct=None if not limit or cycle is None else round(float(100 * loss / limit), 1),
        proof=proof,
        proof_holds=proof is not None and await flat_proofs.still_holds(conn, proof),
        halts=halts,
        alert_delivery=delivery,
        problems=(*problems, *delivery_problems(delivery)),
    )


def _daemon_status(row: DaemonRow, alive: bool, at: datetime) -> DaemonStatus:
    age = None if row.heartbeat_at is None else (at - row.heartbeat_at).total_seconds()
    return DaemonStatus(
        alive,
        row.epoch,
        row.version,
        row.account_id,
        row.started_at,
        row.heartbeat_at,
        age if alive else None,
        row.mode,
        row.session_mode,
        row.broker_url,
        row.config_hash,
        row.max_positions,
        row.max_daily_loss,
        row.next_scan_at if alive else None,
        row.scan_failure if alive else None,
    )


async def _entries_status(conn: Connection, daemon: DaemonStatus, *, market_open: bool) -> EntriesStatus:
    """Return what the running daemon stated; without one entries are closed, and latches are the reasons left."""
    reasons = await gate_reasons.closed_reasons(
        conn, running_epoch=daemon.epoch if daemon.alive else None, market_open=market_open
    )
    return EntriesStatus(daemon.alive and not reasons, tuple(reasons))


def _position_line(row: PositionRow, risk: OpenRisk | None, at: datetime) -> PositionLine:
    return PositionLine(
        position_id=row.position_id,
        symbol=row.symbol,
        side=row.side,
        quantity=row.quantity,
        entry_price=row.entry_price,
        last_price=row.last_price,
        stop=row.stop_loss if risk is None or risk.broker_stop_price is None else risk.broker_stop_price,
        target=row.take_profit,
        stop_at_broker=risk is not None and risk.unprotected_qty == 0,
        unprotected_qty=row.quantity if risk is None else risk.unprotected_qty,
        unprotected_seconds=row.unprotected_seconds,
        unrealized_pnl=row.unrealized_pnl or ZERO,
        worst_case=None if risk is None else risk.worst_case,
        entry_time=row.entry_time,
        held_seconds=(at - row.entry_time).total_seconds(),
        carried=row.carried,
    )


async def _market_phase(conn: Connection, session: SessionRow | None, at: datetime) -> str:
    """Return the phase of the market; unknown on a weekday whose hours no daemon has stored."""
    if session is not None:
        return "before" if at < session.open else "open" if at < session.close else "after"
    is_weekend = at.astimezone(NEW_YORK).weekday() >= SATURDAY
    return "closed" if is_weekend or await trading_days.has_later(conn, trading_date(at)) else "unknown"


def _describe_scanning(
    daemon: DaemonStatus,
    entries: EntriesStatus,
    session: SessionRow | None,
    cycle: CycleRow | None,
    scan: ScanFigures | None,
    at: datetime,
) -> str:
    """Describe in one sentence the last scan and when or why not the next one runs."""
    last_scan = "no scan yet" if scan is None else f"last scan {new_york_time(scan.at)}"
    if not daemon.alive:
        return f"{last_scan}; no scans: no daemon is running, start it with `catalyst run`"
    if cycle is None:
        return f"{last_scan}; the day begins at 08:00 New York of the next session"
    if session is None or cycle.status in (CycleStatus.CLOSED, CycleStatus.COMPLETED):
        return f"{last_scan}; no more today: the cycle is {cycle.status}"
    next_scan = daemon.next_scan_at
    if next_scan is not None and next_scan > at:
        coming = f"the next at {next_scan.astimezone(NEW_YORK):%H:%M} New York"
    else:
        coming = "the first one runs before the open" if at < session.open else "no further scan is due today"
    blocked = f"; it makes no entry: {', '.join(reason.name for reason in entries.reasons)}"
    return f"{last_scan}; {coming}{blocked if entries.reasons else ''}"


def _halts(entries: EntriesStatus, at: datetime) -> Iterator[str]:
    """Describe what a person closed."""
    for reason in entries.reasons:
        if reason.cause is Cause.PERSON:
            yield f"{describe_reason(reason, at)}; `catalyst resume` allows entries again"


def describe_reason(reason: ClosedReason, now: datetime) -> str:
    """Describe a reason with its time."""
    return f"{reason.name} since {new_york_moment(reason.since, now)}: {reason.text}"


def _problems(
    daemon: DaemonStatus,
    entries: EntriesStatus,
    phase: str,
    cycle: CycleRow | None,
    scan: ScanFigures | None,
    open_lines: tuple[PositionLine, ...],
    at: datetime,
) -> Iterator[str]:
    """Describe each problem; the gravest come first."""
    for line in open_lines:
        if line.unprotected_qty:
            yield f"{line.unprotected_qty.normalize():f} shares of {line.symbol} have no stop at the broker"
    yield from _daemon_problems(daemon, phase, cycle, at)
    for reason in entries.reasons:
        if reason.cause is Cause.FAULT:
            yield f"no entries, {describe_reason(reason, at)}"
    if cycle is not None and cycle.halted and not entries.reasons:
        yield f"no entries, the day is halted: {cycle.halt_reason}; `catalyst resume` allows entries again"
    if scan is not None and scan.degraded is not None:
        yield f"the scan of {new_york_time(scan.at)} is degraded: {scan.degraded}"


def _daemon_problems(daemon: DaemonStatus, phase: str, cycle: CycleRow | None, at: datetime) -> Iterator[str]:
    if not daemon.alive:
        yield "no daemon is running: `catalyst run` starts it"
        return
    if daemon.mode is None:
        yield "the running daemon has not stated yet whether entries are open"
    if daemon.heartbeat_at is not None and at - daemon.heartbeat_at > SILENT_AFTER:
        yield (
            f"the daemon has written nothing since {new_york_moment(daemon.heartbeat_at, at)}: it hangs, or the "
            "database takes no writes (a full disk?); what is shown here is of that time"
        )
    if phase == "open" and cycle is None:
        yield "the market is open and the daemon has not begun the day; the log says why"
    if daemon.scan_failure is not None:
        yield daemon.scan_failure
