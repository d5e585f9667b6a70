"""Checks that need only the database: daemon, safe mode, invariants, stuck orders, stale data, protection, journal."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from catalyst import flat_proof_files
from catalyst.doctor.issues import Issue, IssueKind, new_issue
from catalyst.domain.closed_entries import SILENT_AFTER, Cause, ClosedReason
from catalyst.domain.cycle import CycleStatus
from catalyst.domain.invariants import STATEMENTS, Invariant, Violation
from catalyst.domain.order import Purpose, Status
from catalyst.domain.protection import is_covered
from catalyst.domain.rows import OrderRow
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.domain.unprotected_time import Gap, orphan_gaps, position_gaps, seconds_of
from catalyst.store import (
    alert_channels,
    api_keys,
    candidates,
    cycles,
    daemon_epoch,
    gate_reasons,
    invariant_checks,
    journal,
    latches,
    orders,
    orphans,
    pipeline_views,
    positions,
    quarantine,
    reporting_queries,
)
from catalyst.store.alert_channels import DeliveryState
from catalyst.store.journal import START, ChainBreak
from catalyst.store.pool import Connection

STUCK_AFTER: Final = timedelta(minutes=5)
CYCLE_STALE_AFTER: Final = timedelta(minutes=30)
DATA_STALE_AFTER: Final = timedelta(minutes=10)
UNPROTECTED_AFTER: Final = timedelta(seconds=15)
ALERTS_FAIL_AFTER: Final = timedelta(minutes=2)  # the first tries come after 15, 45 and 105 s
KEY_OLD_AFTER: Final = timedelta(days=90)
DAY_END_GRACE: Final = timedelta(minutes=5)  # after the close: last reports, proof, end of the cycle
MINUTE: Final = timedelta(minutes=1)


async def check_database(conn: Connection, at: datetime, *, flat_at_close: bool = True) -> list[Issue]:
    """Return the issues found by all checks except the journal's.

    `flat_at_close`: every position must be exited before the close.
    """
    daemon = await daemon_epoch.current(conn)
    alive = daemon.account_id is not None and await reporting_queries.is_account_locked(
        conn, daemon.account_id
    )
    at = at if daemon.heartbeat_at is None else max(at, daemon.heartbeat_at)
    session = await reporting_queries.session_of(conn, trading_date(at))
    open_now = session is not None and session.open <= at < session.close
    issues: list[Issue] = []
    if open_now and not alive:
        issues.append(new_issue(IssueKind.DAEMON_DOWN, "the market is open and no daemon is running"))
    if alive and daemon.heartbeat_at is not None and at - daemon.heartbeat_at > SILENT_AFTER:
        issues.append(_silent_issue(daemon.heartbeat_at))
    if alive and daemon.scan_failure is not None:
        issues.append(new_issue(IssueKind.SCAN_FAILED, daemon.scan_failure))
    reasons = await gate_reasons.closed_reasons(
        conn, running_epoch=daemon.epoch if alive else None, market_open=open_now
    )
    issues += _closed_entries(reasons)
    issues += await _safe_mode_issues(conn)
    issues += [_violation_issue(violation) for violation in await _violations(conn)]
    issues += _stuck_orders(await orders.working(conn), at)
    if open_now:
        issues += await _stale_data(conn, at)
    issues += await _unfinished_days(conn, at, open_now=open_now, flat_at_close=flat_at_close)
    issues += await _quarantine_issues(conn)
    issues += _failing_channels(await alert_channels.read_delivery(conn, at), at)
    return [*issues, *await _unprotected_shares(conn, at, open_now=open_now)]


async def pipeline_summary(conn: Connection, at: datetime) -> dict[str, object]:
    """Return the status of today's cycle with counts of orders and positions and the daily result."""
    cycle = await cycles.of_day(conn, trading_date(at))
    status = None if cycle is None else await pipeline_views.pipeline_status(conn, cycle.cycle_id)
    if cycle is None or status is None:
        return {"status": "NO_CYCLE", "message": "no trading day has begun today", "cycle_id": None}
    return {
        "status": status.cycle_status,
        "cycle_id": status.cycle_id,
        "cycle_start": status.cycle_start,
        "orders": {
            "pending": status.orders_pending,
            "filled": status.orders_filled,
            "total": status.orders_total,
        },
        "positions": {"total": status.positions_total, "open": status.positions_open},
        "pnl": {"daily": status.daily_pnl},
    }


async def alert_summary(conn: Connection, at: datetime) -> dict[str, object]:
    """Return the last delivery of an alert, the alerts that wait, and the state of each channel."""
    state = await alert_channels.read_delivery(conn, at)
    return {
        "last_delivered_at": state.last_delivered_at,
        "waiting": state.waiting,
        "oldest_waiting_at": state.oldest_waiting_at,
        "channels": [asdict(channel) for channel in state.channels],
    }


async def old_key_issues(conn: Connection, key_id: str, at: datetime) -> list[Issue]:
    """Return an issue for a key that was first used more than 90 days ago."""
    since = await api_keys.first_used_at(conn, key_id)
    if since is None or at - since <= KEY_OLD_AFTER:
        return []
    days = (at - since).days
    message = (
        f"the API key is in use for {days} days: create a new one at the broker, and set ALPACA_API_KEY and "
        "ALPACA_SECRET_KEY"
    )
    return [new_issue(IssueKind.KEY_OLD, message, days=days)]


async def verify_journal(
    conn: Connection, folder: Path, account_name: str, *, whole: bool
) -> tuple[list[Issue], int]:
    """Verify the journal's hash chain since the last flat proof, or with `whole` all of it against every proof.

    Return the issues and the number of links verified.
    """
    since = START if whole else await journal.last_anchor(conn)
    last_link = await journal.verify(conn, since)
    if isinstance(last_link, ChainBreak):
        return [_journal_issue(last_link.sentence, seq=last_link.seq, link=last_link.link)], 0
    first_hash = await journal.first_hash(conn)
    files = list(flat_proof_files.read_flat_proofs(folder, account_name))
    for path, facts in files if whole else files[-1:]:
        anchor = journal.link_from_facts(flat_proof_files.journal_head_of(facts, first_hash))
        written_at = flat_proof_files.written_at(facts)
        chain_break = None if anchor is None else await journal.check_proof(conn, anchor, written_at)
        if chain_break is not None:
            return [_journal_issue(f"{chain_break.sentence}, according to {path}", link=chain_break.link)], 0
    for anchor in await journal.anchors(conn, limit=100_000) if whole else ():
        if (chain_break := await journal.check_anchor(conn, anchor)) is not None:
            return [
                _journal_issue(
                    f"{chain_break.sentence}, according to a flat proof in the database",
                    link=chain_break.link,
                )
            ], 0
    return [], last_link.link - since.link


def _journal_issue(sentence: str, **facts: object) -> Issue:
    return new_issue(
        IssueKind.ILLEGAL_HISTORY, sentence, subject="journal", invariant=Invariant.I26, base_facts=facts
    )


async def _violations(conn: Connection) -> list[Violation]:
    since = (await journal.last_anchor(conn)).seq
    latched_since = (await latches.latch_facts(conn, "safe") or {}).get("since")
    return await invariant_checks.violations(
        conn, since_seq=min(since, latched_since) if isinstance(latched_since, int) else since
    )


def _violation_issue(violation: Violation) -> Issue:
    kind = IssueKind.DUPLICATE_ORDER if violation.invariant is Invariant.I11 else IssueKind.ILLEGAL_HISTORY
    return new_issue(
        kind,
        violation.description,
        subject=f"{violation.invariant} {violation.subject}",
        invariant=violation.invariant,
        statement=STATEMENTS[violation.invariant].text,
        base_facts=violation.facts,
    )


async def _safe_mode_issues(conn: Connection) -> Iterator[Issue]:
    facts = await latches.latch_facts(conn, "safe")
    if facts is None:
        return iter(())
    failed_invariants = facts.get("failed_invariants")
    reason_by_invariant = failed_invariants if isinstance(failed_invariants, dict) else {}
    reasons = "; ".join(f"{name}: {reason}" for name, reason in reason_by_invariant.items())
    message = f"no entry until `catalyst resume`: {reasons}"
    return iter(
        [
            new_issue(
                IssueKind.SAFE_MODE,
                message,
                invariants=sorted(reason_by_invariant),
                broken=reason_by_invariant,
            )
        ]
    )


def _closed_entries(reasons: Sequence[ClosedReason]) -> Iterator[Issue]:
    """Return an issue for each reason that closes entries and is no plan; SAFE mode has an issue of its own."""
    for reason in reasons:
        if reason.cause is Cause.PLAN or reason.name == "safe":
            continue
        yield new_issue(
            IssueKind.HALTED if reason.cause is Cause.PERSON else IssueKind.GATE_CLOSED,
            f"no entries since {reason.since.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S} New York, {reason.name}: "
            f"{reason.text}",
            subject=reason.name,
            transient=reason.cause is Cause.FAULT,
            reason=reason.name,
            since=reason.since,
        )


def _silent_issue(heartbeat_at: datetime) -> Issue:
    since = f"{heartbeat_at.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S} New York"
    return new_issue(
        IssueKind.DAEMON_SILENT,
        f"the daemon holds the account and has written nothing since {since}: it hangs, or its writes fail",
        since=heartbeat_at,
        transient=True,
    )


def _stuck_orders(working: list[OrderRow], at: datetime) -> Iterator[Issue]:
    """Return an issue for each working order older than 5 minutes. Stops and targets at the broker may rest; an order
    that waits for approval may wait until it expires."""
    for row in working:
        if row.order_purpose in (Purpose.STOP_LOSS, Purpose.TAKE_PROFIT) and row.alpaca_order_id is not None:
            continue
        since = row.submitted_at or row.created_at
        if row.status is Status.CREATED:
            since = row.expires_at or row.created_at + STUCK_AFTER
        if row.origin == "external" or at - since <= STUCK_AFTER:
            continue
        minutes = round((at - since) / MINUTE, 1)
        yield new_issue(
            IssueKind.STUCK_ORDER,
            f"{row.order_purpose} {row.side} {row.quantity.normalize():f} {row.symbol} is {row.status} for {minutes:g} "
            "minutes",
            subject=str(row.order_id),
            order_id=row.order_id,
            alpaca_order_id=row.alpaca_order_id,
            symbol=row.symbol,
            side=row.side,
            order_type=row.order_type,
            order_purpose=row.order_purpose,
            quantity=row.quantity,
            minutes_pending=minutes,
            db_status=row.status,
        )


async def _stale_data(conn: Connection, at: datetime) -> list[Issue]:
    """Return an issue for a degraded scan, a cycle that no daemon kept for 30 minutes, and each position not marked for
    10. A daemon keeps its cycle by writing it or by a heartbeat: few scans a day write it seldom."""
    issues = []
    cycle = await cycles.of_day(conn, trading_date(at))
    scans = [] if cycle is None else await candidates.scans_of(conn, cycle.cycle_id)
    if scans and scans[-1].degraded is not None:
        issues.append(
            new_issue(IssueKind.SCAN_DEGRADED, f"the last scan of today is degraded: {scans[-1].degraded}")
        )
    finished = (CycleStatus.CLOSED, CycleStatus.COMPLETED)
    if cycle is not None and cycle.status not in finished:
        heartbeat_at = (await daemon_epoch.current(conn)).heartbeat_at
        kept_at = max(cycle.updated_at, heartbeat_at or cycle.updated_at)
        if at - kept_at > CYCLE_STALE_AFTER:
            minutes = round((at - kept_at) / MINUTE)
            issues.append(
                new_issue(
                    IssueKind.CYCLE_STALE,
                    f"cycle {cycle.cycle_id} is {cycle.status} and no daemon has kept it for {minutes} minutes",
                    cycle_id=cycle.cycle_id,
                    minutes_since_update=minutes,
                )
            )
    rows = await conn.fetch(
        """
        SELECT p.position_id, s.symbol, p.updated_at FROM positions p JOIN securities s USING (security_id)
         WHERE p.status = 'open' AND p.updated_at < $1 ORDER BY p.position_id
        """,
        at - DATA_STALE_AFTER,
    )
    for row in rows:
        minutes = round((at - row["updated_at"]) / MINUTE)
        issues.append(
            new_issue(
                IssueKind.STALE_POSITION_DATA,
                f"{row['symbol']} was last marked {minutes} minutes ago",
                position_id=row["position_id"],
                symbol=row["symbol"],
                minutes_since_update=minutes,
            )
        )
    return issues


async def _unfinished_days(
    conn: Connection, at: datetime, *, open_now: bool, flat_at_close: bool
) -> list[Issue]:
    """Return the issues of the last session's end: what is held or open after it, and days that were not completed."""
    session = await reporting_queries.last_closed_session(conn, at)
    if session is None:
        return []
    issues = []
    held = [row for row in await positions.open_positions(conn) if row.entry_time < session.close]
    if held and flat_at_close and not open_now:
        symbols = [row.symbol for row in held]
        issues.append(
            new_issue(
                IssueKind.POSITIONS_AFTER_CLOSE,
                f"{len(held)} positions are held after the close of {session.day}: {', '.join(symbols)}; the daemon "
                "exits them after the next open",
                symbols=symbols,
            )
        )
    if at - session.close < DAY_END_GRACE:
        return issues
    held_ids = set() if flat_at_close else {row.position_id for row in held}
    working = [
        row
        for row in await orders.working(conn)
        if row.origin != "external"
        and row.created_at < at - DAY_END_GRACE
        and row.position_id not in held_ids
    ]
    if working and not open_now:
        issues.append(
            new_issue(
                IssueKind.OPEN_AFTER_CLOSE,
                f"{len(working)} orders are open after the close of {session.day}: "
                f"{', '.join(sorted({row.symbol for row in working}))}",
                order_ids=[row.order_id for row in working],
            )
        )
    return issues + [
        new_issue(
            IssueKind.CYCLE_NOT_COMPLETED,
            f"the day {cycle.cycle_date} is {cycle.status}: it was not closed and not proven flat",
            subject=cycle.cycle_id,
            cycle_id=cycle.cycle_id,
        )
        for cycle in await cycles.unfinished_before(conn, session.day + timedelta(days=1))
    ]


async def _quarantine_issues(conn: Connection) -> list[Issue]:
    count = await quarantine.count_unresolved(conn)
    if not count:
        return []
    oldest = (await quarantine.unresolved(conn, 1))[0]
    return [
        new_issue(
            IssueKind.QUARANTINE_OPEN,
            f"{count} reports of the broker are in quarantine and nobody has checked them; the oldest is of "
            f"{oldest.at:%Y-%m-%d %H:%M} UTC: {oldest.reason}",
            count=count,
        )
    ]


def _failing_channels(state: DeliveryState, at: datetime) -> Iterator[Issue]:
    for channel in state.channels:
        if channel.failing_since is not None and at - channel.failing_since > ALERTS_FAIL_AFTER:
            yield new_issue(
                IssueKind.ALERTS_NOT_DELIVERED,
                f"alert channel {channel.channel} fails since {channel.failing_since:%Y-%m-%d %H:%M} UTC: "
                f"{channel.last_error}",
                subject=channel.channel,
                channel=channel.channel,
                error=channel.last_error,
            )


async def _unprotected_shares(conn: Connection, at: datetime, *, open_now: bool) -> list[Issue]:
    """Return an issue for the shares of each position and orphan that have had no working stop for 15 s.

    An exit that is open is no excuse. Outside trading hours a stop that the broker has accepted suffices.
    """
    held = await positions.open_positions(conn)
    rows = await orders.of_positions(conn, [position.position_id for position in held])
    fills = await orders.fills_of(conn, [row.order_id for group in rows.values() for row in group])
    issues: list[Issue] = []
    for position in held:
        gaps = position_gaps(position, rows[position.position_id], fills, at) or ()
        if not open_now and is_covered(position.quantity, rows[position.position_id]):
            continue
        issues += _gap_issues(gaps, position.symbol, position.quantity, position.position_id)
    for orphan in await orphans.open_orphans(conn):
        of_orphan = await orders.of_orphan(conn, orphan.symbol, orphan.side, since=orphan.found_at)
        fills = await orders.fills_of(conn, [row.order_id for row in of_orphan])
        if open_now or not is_covered(orphan.quantity, of_orphan):
            gaps = orphan_gaps(orphan, of_orphan, fills, at)
            issues += _gap_issues(gaps, orphan.symbol, orphan.quantity, orphan.position_id)
    return issues


def _gap_issues(
    gaps: Sequence[Gap], symbol: str, quantity: Decimal, position_id: int | None
) -> Iterator[Issue]:
    if gaps and gaps[-1].lasts and gaps[-1].ended - gaps[-1].began > UNPROTECTED_AFTER:
        shares = f"{gaps[-1].shares.normalize():f} of {quantity.normalize():f}"
        yield unprotected_issue(symbol, shares, position_id, seconds=seconds_of(gaps))


def unprotected_issue(
    symbol: str, shares: str, position_id: int | None, *, seconds: Decimal | None = None
) -> Issue:
    """Return the issue for shares without a stop; transient, because a group being replaced has none for a moment.

    `seconds`: the unprotected seconds of the position; None when only the broker was read.
    """
    lasted = "" if seconds is None else f"; unprotected for {seconds.quantize(Decimal('0.1')):f} s so far"
    return new_issue(
        IssueKind.UNPROTECTED_POSITION,
        f"{shares} shares of {symbol} have no working stop at the broker{lasted}",
        position_id=position_id,
        symbol=symbol,
        unprotected_seconds=seconds,
        transient=True,
    )
