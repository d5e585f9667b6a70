"""Judge of a fault day: compares the exchange's executions and unprotected times with everything that the daemon says.

It reads raw rows. A violation is one sentence; an empty list means that the day is green.
"""

from collections import Counter, defaultdict
from collections.abc import Awaitable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

from catalyst.report.day import DayReport, read_day_report
from catalyst.store import positions
from catalyst.store.pool import connect
from tests.audit import (
    WORKING_STATUSES,
    assert_journal_leads_to_state,
    assert_ledger_equals_exchange,
    realized_of,
)
from tests.fault_days.day import DayRecord, Downtime

Facts = dict[str, Any]

# The stored unprotected time is at most so much below and above the exchange's, for each position.
MAX_BELOW_S: Final = 1.0
MAX_ABOVE_S: Final = 5.0
# A longer time without protection needs an alert, unless the daemon could not run in it.
ALERT_AFTER_S: Final = 20.0
MIN_GAP_S: Final = 0.001
NOTHING: Final = "no incident"


@dataclass(frozen=True, slots=True)
class Exposure:
    """Unprotected seconds of the shares of one symbol in one day, and what caused the longest part."""

    symbol: str
    cause: str
    exchange_s: float
    database_s: float


@dataclass
class Verdict:
    """The result of a day."""

    seed: int
    violations: list[str] = field(default_factory=list)
    cents: Decimal = Decimal(0)  # of difference in the realised result
    exit_code: int | None = None
    unproven_reason: str | None = None
    held: dict[str, str] = field(default_factory=dict)  # shares at the exchange in the end
    positions: int = 0
    fills: int = 0
    realized: Decimal = Decimal(0)
    exposures: list[Exposure] = field(default_factory=list)
    gaps: list[tuple[str, str, float]] = field(default_factory=list)  # cause, incident, seconds
    fired: Counter[str] = field(default_factory=Counter)
    incidents: Counter[str] = field(default_factory=Counter)
    starts: int = 0
    alerts: Counter[str] = field(default_factory=Counter)
    real_seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.violations


async def judge(seed: int, record: DayRecord, dsn: str, folder: Path, now: datetime) -> Verdict:
    """Return the verdict on a day that has ended; `now` is the market's time."""
    verdict = Verdict(
        seed,
        list(record.problems),
        exit_code=record.exit_code,
        fired=record.fired,
        incidents=record.incidents,
    )
    verdict.starts, verdict.fills = record.starts, len(record.logs["executions"])
    conn = await connect(dsn, "the judge")
    try:
        books = await _problem_of(assert_ledger_equals_exchange(conn, record.logs, record.audit))
        books += await _problem_of(assert_journal_leads_to_state(conn))
        verdict.violations += books + _orders_sent_twice(record.logs) + _short(record.logs)
        await _judge_result(verdict, conn, record)
        _judge_flatness(verdict, conn, record)
        await _judge_proof(verdict, conn, folder, is_equal=not books and not verdict.cents)
        report = await read_day_report(conn, at=now)
        _judge_report(verdict, report)
        await _judge_unprotected_time(verdict, conn, record, now)
        for row in await conn.fetch("SELECT event, count(*) AS n FROM alerts GROUP BY event"):
            verdict.alerts[row["event"]] = row["n"]
    finally:
        await conn.close()
    return verdict


async def _problem_of(check: Awaitable[None]) -> list[str]:
    """Return the text of the assertion that fails, shortened."""
    try:
        await check
    except AssertionError as error:
        return [" ".join(str(error).split())[:1500] or "order ledger and exchange differ"]
    return []


def _orders_sent_twice(logs: Facts) -> list[str]:
    ids = Counter(order["client_order_id"] for order in logs["orders"])
    return [f"{client_id} was accepted {n} times" for client_id, n in ids.items() if n > 1]


def _short(logs: Facts) -> list[str]:
    return [
        f"{execution['symbol']} had {execution['position_qty']} shares after an execution"
        for execution in logs["executions"]
        if Decimal(execution["position_qty"]) < 0
    ]


async def _judge_result(verdict: Verdict, conn: Any, record: DayRecord) -> None:
    """Compare the realised dollars, and the shares held, of both sides."""
    stored = await conn.fetchval(
        "SELECT (SELECT coalesce(sum(realized_pnl), 0) FROM positions)"
        " + (SELECT coalesce(sum(realized_pnl), 0) FROM orphans)"
    )
    verdict.realized = realized_of(record.logs["executions"])
    verdict.cents = abs(stored - verdict.realized) * 100
    verdict.positions = await conn.fetchval("SELECT count(*) FROM positions")
    if verdict.cents:
        verdict.violations.append(f"realised {stored} in the database, {verdict.realized} at the exchange")


def _judge_flatness(verdict: Verdict, conn: Any, record: DayRecord) -> None:
    """Note what is held at the end; shares without a working good-till-cancelled stop are a violation."""
    verdict.held = dict(record.audit["positions"])
    working = [order for order in record.logs["orders"] if order["status"] in WORKING_STATUSES]
    for symbol, shares in verdict.held.items():
        stops = [
            order
            for order in working
            if order["symbol"] == symbol and order["time_in_force"] == "gtc" and order["stop_price"]
        ]
        covered = sum((Decimal(order["qty"]) - Decimal(order["filled_qty"]) for order in stops), Decimal(0))
        if covered < Decimal(shares):
            verdict.violations.append(
                f"{shares} {symbol} are held after the close, {covered} under a GTC stop"
            )


async def _judge_proof(verdict: Verdict, conn: Any, folder: Path, *, is_equal: bool) -> None:
    """Compare exit code, last proof row and proof files with the truth."""
    row = await conn.fetchrow("SELECT flat, facts FROM flat_proofs ORDER BY proof_id DESC LIMIT 1")
    facts = {} if row is None else row["facts"]
    is_proven = row is not None and row["flat"] and facts.get("proven") is True
    verdict.unproven_reason = None if is_proven else facts.get("unproven_reason", "no proof was written")
    is_true = is_equal and not verdict.held
    if (verdict.exit_code == 0) != is_proven and verdict.exit_code is not None:
        verdict.violations.append(f"exit code {verdict.exit_code}, but the last proof is proven: {is_proven}")
    if verdict.exit_code == 0 and not is_true:
        verdict.violations.append("exit code 0, but the account is not flat or the books differ")
    if is_proven and not is_true:
        verdict.violations.append("proven flat, but the account is not flat or the books differ")
    if is_true and not is_proven:
        verdict.violations.append(f"flat and equal, but not proven: {verdict.unproven_reason}")
    if is_proven and not any(folder.glob("share/**/proofs/*.json")):  # noqa: ASYNC240 - every process has ended
        verdict.violations.append("proven flat without a proof file")


def _judge_report(verdict: Verdict, report: DayReport | None) -> None:
    if report is None:
        verdict.violations.append("the day has no report")
        return
    if report.fills != verdict.fills:
        verdict.violations.append(f"the report has {report.fills} fills, the exchange {verdict.fills}")
    # Orphan shares are no trades of the report.
    if abs(report.figures.total_pnl - verdict.realized) >= Decimal("0.01") and not verdict.held:
        verdict.violations.append(
            f"the report shows {report.figures.total_pnl} dollars, the exchange made {verdict.realized}"
        )


async def _judge_unprotected_time(verdict: Verdict, conn: Any, record: DayRecord, now: datetime) -> None:
    """Compare the unprotected seconds of each symbol, and look for the alert of each long gap."""
    orders = {order["id"]: order for order in record.logs["orders"]}
    rows = await positions.closed_since(conn, now - timedelta(days=7)) + await positions.open_positions(conn)
    rows = await positions.with_unprotected_time(conn, rows, now)
    stored: dict[str, float] = defaultdict(float)
    count: Counter[str] = Counter()
    lives: dict[str, list[tuple[datetime, datetime]]] = defaultdict(list)
    for row in rows:
        stored[row.symbol] += float(row.unprotected_seconds)
        count[row.symbol] += 1
        lives[row.symbol].append((row.entry_time, row.exit_time or now))
    orphans = {
        row["symbol"]
        for row in await conn.fetch("SELECT symbol FROM orphans JOIN securities USING (security_id)")
    }
    alerted = {
        row["symbol"]
        for row in await conn.fetch(
            "SELECT facts->>'symbol' AS symbol FROM alerts WHERE event = 'UNPROTECTED_OVER_BUDGET'"
        )
    }
    for symbol in sorted(stored.keys() | record.unprotected.keys()):
        gaps = [
            (gap["order_id"], datetime.fromisoformat(gap["began"]), datetime.fromisoformat(gap["ended"]))
            for gap in record.unprotected.get(symbol, {}).get("gaps", [])
        ]
        seconds = [(ended - began).total_seconds() for _, began, ended in gaps]
        total, causes = sum(seconds), [_cause(orders.get(order_id)) for order_id, *_ in gaps]
        incidents = [_incident(record.downtimes, began, ended) for _, began, ended in gaps]
        verdict.gaps += [
            (cause, incident, lasted)
            for cause, incident, lasted in zip(causes, incidents, seconds, strict=True)
            if lasted > MIN_GAP_S
        ]
        longest = max(range(len(gaps)), key=lambda index: seconds[index], default=None)
        cause = "none" if longest is None or not total else causes[longest]
        verdict.exposures.append(Exposure(symbol, cause, total, stored[symbol]))
        if symbol in orphans:
            continue  # the time of orphan shares is not part of a position
        number = max(count[symbol], 1)
        down = sum(
            max((min(ended, stop.ended) - max(began, stop.began)).total_seconds(), 0.0)
            for stop in record.downtimes
            for began, ended in lives[symbol]
        )
        if stored[symbol] < total - MAX_BELOW_S * number:
            verdict.violations.append(
                f"{symbol}: unprotected {stored[symbol]:.1f} s in the database, {total:.1f} s at the exchange"
            )
        if stored[symbol] > total + MAX_ABOVE_S * number + down:
            verdict.violations.append(
                f"{symbol}: unprotected {stored[symbol]:.1f} s in the database, only {total:.1f} s at the exchange"
            )
        long_gaps = [
            lasted
            for lasted, incident in zip(seconds, incidents, strict=True)
            if lasted > ALERT_AFTER_S and incident == NOTHING
        ]
        if long_gaps and symbol not in alerted:
            verdict.violations.append(f"{symbol}: unprotected for {max(long_gaps):.1f} s without an alert")


def _cause(order: Facts | None) -> str:
    """Return how a gap began, by the order whose change began it."""
    if order is None:
        return "unknown"
    if order["side"] == "buy":
        return "entry filled"
    is_leg = order["role"] in ("stop_loss", "take_profit") or order["order_class"] == "oco"
    by_request = " on request" if order["cancel_requested_at"] else ""
    return f"{'leg' if is_leg else 'exit'} {order['status'].replace('canceled', 'cancelled')}{by_request}"


def _incident(downtimes: list[Downtime], began: datetime, ended: datetime) -> str:
    """Return the kind of the first incident that overlaps a time."""
    return next(
        (str(stop.kind) for stop in downtimes if stop.began <= ended and began <= stop.ended),
        NOTHING,
    )
