"""Current state of the system, read from the database for `catalyst status` and the live screen."""

from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from catalyst.domain.cycle import CycleStatus
from catalyst.domain.position import ZERO
from catalyst.domain.rows import OrderRow, PositionRow
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.report.alert_delivery import delivery_problems
from catalyst.report.day import ScanFigures, scan_figures
from catalyst.report.formatting import new_york_time
from catalyst.store import (
    alert_channels,
    candidates,
    cycles,
    daemon_epoch,
    flat_proofs,
    orders,
    pipeline_views,
    positions,
    proposals,
    reporting_queries,
)
from catalyst.store.alert_channels import DeliveryState
from catalyst.store.cycles import CycleRow
from catalyst.store.daemon_epoch import DaemonRow
from catalyst.store.flat_proofs import FlatProofRow
from catalyst.store.pipeline_views import OpenRisk
from catalyst.store.pool import Connection
from catalyst.store.proposals import ProposalRow
from catalyst.store.reporting_queries import Latch, SessionRow


@dataclass(frozen=True, slots=True)
class DaemonStatus:
    """State of the daemon; `alive` while it holds the account lease."""

    alive: bool
    epoch: int
    version: str | None
    account_id: str | None
    started_at: datetime | None
    heartbeat_at: datetime | None
    heartbeat_age_seconds: float | None


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
    """The system's state at one instant. `problems` lists everything that makes it unhealthy."""

    at: datetime
    daemon: DaemonStatus
    session: SessionRow | None
    phase: str  # before | open | after | closed
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
    loss_limit_used_pct: float | None
    proof: FlatProofRow | None
    alert_delivery: DeliveryState
    problems: tuple[str, ...]

    @property
    def healthy(self) -> bool:
        return not self.problems


async def read_status(conn: Connection, at: datetime, *, next_scan: datetime | None = None) -> SystemStatus:
    """Read the state from the database. `at` is the market's present time, `next_scan` the next scheduled scan."""
    daemon_row = await daemon_epoch.current(conn)
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
    open_lines = tuple(_position_line(row, risks.get(row.position_id), at) for row in rows)
    realized = ZERO if cycle is None else (await positions.day_pnl(conn, cycle.cycle_id))[0]
    unrealized = sum((line.unrealized_pnl for line in open_lines), ZERO)
    scan = scan_figures(scans[-1]) if scans else None
    loss = -min(realized + unrealized, ZERO)
    return SystemStatus(
        at=at,
        daemon=daemon,
        session=session,
        phase=_market_phase(session, at),
        cycle=cycle,
        latches=active_latches,
        scan=scan,
        scan_note=_describe_scanning(daemon, session, cycle, active_latches, scan, at, next_scan),
        proposals=tuple(await proposals.waiting(conn)),
        orders=tuple(await orders.working(conn)),
        positions=open_lines,
        closed_trades=sum(row.status == "closed" for row in day_positions),
        realized_pnl=realized,
        unrealized_pnl=unrealized,
        day_pnl=realized + unrealized,
        loss_limit_used_pct=None if cycle is None else round(float(100 * loss / cycle.max_daily_loss), 1),
        proof=None if cycle is None else await flat_proofs.last_flat_proof(conn, cycle.cycle_id),
        alert_delivery=delivery,
        problems=(*_problems(daemon, cycle, active_latches, scan, open_lines), *delivery_problems(delivery)),
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
    )


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


def _market_phase(session: SessionRow | None, at: datetime) -> str:
    if session is None:
        return "closed"
    return "before" if at < session.open else "open" if at < session.close else "after"


def _describe_scanning(
    daemon: DaemonStatus,
    session: SessionRow | None,
    cycle: CycleRow | None,
    latched: tuple[Latch, ...],
    scan: ScanFigures | None,
    at: datetime,
    next_scan: datetime | None,
) -> str:
    """Describe in one sentence the last scan and when or why not the next one runs."""
    last_scan = "no scan yet" if scan is None else f"last scan {new_york_time(scan.at)}"
    if not daemon.alive:
        return f"{last_scan}; no scans: no daemon is running, start it with `catalyst run`"
    if cycle is None:
        return f"{last_scan}; the day begins at 08:00 New York of the next session"
    if session is None or cycle.status in (CycleStatus.CLOSED, CycleStatus.COMPLETED):
        return f"{last_scan}; no more today: the cycle is {cycle.status}"
    if latched or cycle.halted:
        reasons = "; ".join(f"{latch.name}: {latch.reason}" for latch in latched) or str(cycle.halt_reason)
        return f"{last_scan}; scans continue, entries are blocked by {reasons}; `catalyst resume` allows them again"
    if next_scan is not None:
        return f"{last_scan}; the next at {next_scan.astimezone(NEW_YORK):%H:%M} New York"
    return f"{last_scan}; " + (
        "the first one runs before the open" if at < session.open else "no further scan is due today"
    )


def _problems(
    daemon: DaemonStatus,
    cycle: CycleRow | None,
    latched: tuple[Latch, ...],
    scan: ScanFigures | None,
    open_lines: tuple[PositionLine, ...],
) -> list[str]:
    problems = []
    if not daemon.alive:
        problems.append("no daemon is running: `catalyst run` starts it")
    problems += [
        f"{latch.name} since {new_york_time(latch.set_at)}: {latch.reason}; `catalyst resume` allows entries again"
        for latch in latched
    ]
    if cycle is not None and cycle.halted and not latched:
        problems.append(f"halted: {cycle.halt_reason}; `catalyst resume` allows entries again")
    if scan is not None and scan.degraded is not None:
        problems.append(f"the scan of {new_york_time(scan.at)} is degraded: {scan.degraded}")
    problems += [
        f"{line.unprotected_qty.normalize():f} shares of {line.symbol} have no stop at the broker"
        for line in open_lines
        if line.unprotected_qty
    ]
    return problems
