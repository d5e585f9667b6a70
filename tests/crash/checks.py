"""Checks of a finished crash scenario, read from the database and from the exchange's logs.

Each check returns its problems, one sentence each; an empty list means that the check passed. No check asks
the daemon.
"""

from collections import Counter
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, Final

from catalyst.daemon.runtime.startup_survey import CRASH_LOOP
from catalyst.daemon.shutdown import ExitCode
from catalyst.simulator.exchange.unprotected_time import unprotected_qty
from tests.audit import assert_journal_leads_to_state, assert_ledger_equals_exchange
from tests.crash.restartable_daemon import CrashHarness

Facts = dict[str, Any]

MUTATING = ("POST", "DELETE", "PATCH")
MAX_UNPROTECTED_SECONDS = 15.0  # market seconds; includes three seconds of downtime and one start


async def find_problems(
    harness: CrashHarness,
    *,
    expected_alerts: frozenset[str],
    external_symbols: frozenset[str],
    max_qty: Decimal,
    random_faults: bool = False,
) -> list[str]:
    """Return every problem of a finished run.

    `expected_alerts` are the CRITICAL alerts that the scenario may raise, `external_symbols` the symbols with
    external orders, `max_qty` the shares of one signal.

    After `random_faults` any alert, any unprotected time and quarantined messages are allowed. Instead,
    entries must be allowed again and no invariant may have failed.
    """
    logs, audit = await harness.admin("logs"), await harness.admin("audit")
    problems = [f"a daemon ended with an error: {error}" for error in harness.failures]
    problems += await _assertion_problems(
        assert_ledger_equals_exchange(harness.conn, logs, _without_external(audit, external_symbols))
    )
    problems += await _assertion_problems(assert_journal_leads_to_state(harness.conn))
    problems += _sent_once(logs)
    problems += await _recorded_first(harness, logs)
    problems += _never_short(logs, max_qty, external_symbols)
    problems += await _one_entry_per_signal(harness)
    unresolved = await _everything_resolved(harness)
    if random_faults:
        pending_approvals = await _pending_approvals(harness)
        unresolved = [
            text
            for text in unresolved
            if not text.startswith("quarantined: ") and text not in pending_approvals
        ]
    problems += unresolved
    problems += await _protected(harness)
    problems += await _flat_after_latch(harness, logs, external_symbols)
    if random_faults:
        return problems + await _recovered_from_faults(harness)
    problems += _unprotected_too_long(harness, external_symbols)
    problems += await _no_unexpected_alerts(harness, expected_alerts)
    return problems


async def find_problems_after_close(harness: CrashHarness, *, max_qty: Decimal) -> list[str]:
    """Return every problem of a day whose faults lasted to its end: the books are equal, and exit code and flat proof
    say what is true. Shares that could not be sold have a good-till-cancelled stop."""
    logs, audit = await harness.admin("logs"), await harness.admin("audit")
    problems = [f"a daemon ended with an error: {error}" for error in harness.failures]
    books = await _assertion_problems(assert_ledger_equals_exchange(harness.conn, logs, audit))
    books += await _assertion_problems(assert_journal_leads_to_state(harness.conn))
    problems += books + _sent_once(logs) + await _recorded_first(harness, logs)
    problems += _never_short(logs, max_qty, frozenset())
    problems += await _one_entry_per_signal(harness)
    if not harness.exit_codes:
        return [*problems, "the daemon did not end after the close"]
    exit_code, held = harness.exit_codes[-1], audit["positions"]
    row = await harness.conn.fetchrow(
        "SELECT flat AND facts->>'proven' = 'true' AS proven, facts->>'unproven_reason' AS reason FROM flat_proofs"
        " ORDER BY proof_id DESC LIMIT 1"
    )
    is_proven = row is not None and bool(row["proven"])
    is_true = not books and not held
    if is_proven != (exit_code is ExitCode.FLAT):
        problems.append(f"exit code {exit_code}, and the last proof is proven: {is_proven}")
    if is_proven != is_true:
        reason = "no proof" if row is None else row["reason"]
        problems.append(f"proven: {is_proven} ({reason}); held {held or 'nothing'}, books equal: {not books}")
    for symbol, shares in held.items():
        covered = sum(
            order.remaining
            for order in harness.server.exchange.state.order_store.live(symbol)
            if order.stop_price is not None and order.time_in_force.value == "gtc"
        )
        if covered < Decimal(shares):
            problems.append(f"{shares} {symbol} are held after the close, {covered} under a stop that stays")
    return problems


async def find_restart_changes(harness: CrashHarness) -> list[str]:
    """Restart twice in a market without prints; return each mutating request sent and each row changed."""
    if harness.is_stopped():
        # A daemon that exited early has read fewer account activities than one that runs on.
        await harness.start()
        await harness.advance(seconds=5)
    rows_before, requests_before = await _rows(harness), await _mutating_requests(harness)
    for _ in range(2):
        await harness.crash()
        await harness.advance(seconds=1)
        await harness.start()
        await harness.advance(seconds=5)
    problems = [
        f"a restart without prints sent {request}"
        for request in (await _mutating_requests(harness))[len(requests_before) :]
    ]
    rows_after = await _rows(harness)
    for name, rows in rows_before.items():
        if rows != rows_after[name]:
            changed = sorted(set(rows) ^ set(rows_after[name]))
            problems.append(f"a restart without prints changed {name}: {changed[:2]}")
    return problems


async def _assertion_problems(check: Awaitable[None]) -> list[str]:
    """Return the text of the assertion that `check` fails with, at most 1,500 characters."""
    try:
        await check
    except AssertionError as error:
        return [" ".join(str(error).split())[:1500] or "order ledger and exchange differ"]
    return []


def _without_external(audit: Facts, external_symbols: frozenset[str]) -> Facts:
    """Return the audit without the positions of external symbols; their orders and fills have rows too."""
    held = {symbol: qty for symbol, qty in audit["positions"].items() if symbol not in external_symbols}
    return {**audit, "positions": held}


def _sent_once(logs: Facts) -> list[str]:
    """Check that the exchange accepted each client order id at most once."""
    accepted = Counter(
        request["client_order_id"]
        for request in logs["requests"]
        if request["method"] == "POST" and request["path"] == "/v2/orders" and request["status"] == 200
    )
    ids = Counter(order["client_order_id"] for order in logs["orders"])
    return [f"{cid} was accepted {n} times" for cid, n in (accepted | ids).items() if n > 1]


async def _recorded_first(harness: CrashHarness, logs: Facts) -> list[str]:
    """Check that each order we sent has a row, with at least as many attempts as requests were made."""
    sent = Counter(
        request["client_order_id"]
        for request in logs["requests"]
        if request["method"] == "POST" and request["path"] == "/v2/orders"
    )
    rows = await harness.conn.fetch("SELECT client_order_id, attempts FROM orders")
    attempts = {row["client_order_id"]: row["attempts"] for row in rows}
    return [
        f"{cid} was sent {n} times and recorded {attempts.get(cid)}"
        for cid, n in sent.items()
        if attempts.get(cid, 0) < n
    ]


def _never_short(logs: Facts, max_qty: Decimal, external_symbols: frozenset[str]) -> list[str]:
    """Check that after each execution the position was between zero and the quantity of one signal."""
    return [
        f"{e['symbol']} had {e['position_qty']} shares after an execution"
        for e in logs["executions"]
        if not 0 <= Decimal(e["position_qty"]) <= max_qty and e["symbol"] not in external_symbols
    ]


async def _one_entry_per_signal(harness: CrashHarness) -> list[str]:
    """Check that each signal filled at most one entry."""
    rows = await harness.conn.fetch(
        """
        SELECT signal_id, count(*) AS n FROM orders
         WHERE order_purpose = 'entry' AND filled_qty > 0 AND signal_id IS NOT NULL
         GROUP BY signal_id HAVING count(*) > 1
        """
    )
    return [f"signal {row['signal_id']} filled {row['n']} entries" for row in rows]


async def _everything_resolved(harness: CrashHarness) -> list[str]:
    """Check that no row is unfinished: order without a broker id, open exit, unanswered command, quarantine."""
    rows = await harness.conn.fetch(
        """
        SELECT 'order ' || order_id || ' is ' || status || ', unknown at the broker' AS problem FROM orders
         WHERE status IN ('created', 'submitted') AND alpaca_order_id IS NULL
        UNION ALL
        SELECT 'the exit of position ' || position_id || ' is not done' FROM exit_intents WHERE state = 'open'
        UNION ALL
        SELECT 'command ' || command_id || ' (' || kind || ') was taken and not answered' FROM commands
         WHERE taken_at IS NOT NULL AND answered_at IS NULL
        UNION ALL
        SELECT 'quarantined: ' || reason FROM quarantine
        """
    )
    return [row["problem"] for row in rows]


async def _pending_approvals(harness: CrashHarness) -> set[str]:
    """Return the texts of proposals whose approval got lost to a fault: they wait until they expire."""
    rows = await harness.conn.fetch(
        "SELECT 'order ' || order_id || ' is created, unknown at the broker' AS problem FROM proposals"
        " WHERE decision IS NULL"
    )
    return {row["problem"] for row in rows}


async def _protected(harness: CrashHarness) -> list[str]:
    """Check that each open position has a working stop for its whole quantity and `protected_at` set."""
    rows = await harness.conn.fetch(
        "SELECT s.symbol, p.quantity, p.protected_at FROM positions p JOIN securities s USING (security_id)"
        " WHERE p.status = 'open'"
    )
    problems = []
    for row in rows:
        qty = unprotected_qty(
            harness.server.exchange.state.order_store, row["symbol"], harness.held_qty(row["symbol"])
        )
        if qty or row["protected_at"] is None:
            problems.append(
                f"{row['symbol']}: {qty} of {row['quantity']} shares unprotected, "
                f"protected_at {row['protected_at']}"
            )
    return problems


def longest_unprotected_seconds(harness: CrashHarness, external_symbols: frozenset[str]) -> float:
    """Return the longest time, in market seconds, in which own shares had no working stop at the exchange."""
    by_symbol = harness.server.exchange.state.unprotected_time.totals(harness.server.exchange.state.now)
    own = [times for symbol, times in by_symbol.items() if symbol not in external_symbols]
    return max((float(times["longest_seconds"]) for times in own), default=0.0)


def _unprotected_too_long(harness: CrashHarness, external_symbols: frozenset[str]) -> list[str]:
    """Check that no own share was unprotected for more than MAX_UNPROTECTED_SECONDS."""
    seconds = longest_unprotected_seconds(harness, external_symbols)
    return [f"shares were unprotected for {seconds} s"] if seconds > MAX_UNPROTECTED_SECONDS else []


async def _flat_after_latch(
    harness: CrashHarness, logs: Facts, external_symbols: frozenset[str]
) -> list[str]:
    """Check that after a flatten or an emergency stop no share, no working order and no new entry remain."""
    latch = await harness.conn.fetchrow(
        "SELECT name, set_at FROM latches WHERE cleared_at IS NULL AND name IN ('flatten', 'emergency_stop')"
        " ORDER BY set_at LIMIT 1"
    )
    if latch is None:
        return []
    problems = [
        f"{latch['name']} is latched and {position.qty} {symbol} are held"
        for symbol, position in harness.server.exchange.state.account.positions.items()
        if position.qty and symbol not in external_symbols
    ]
    problems += [
        f"{latch['name']} is latched and an order in {order.symbol} is working"
        for order in harness.server.exchange.state.order_store.live()
        if order.symbol not in external_symbols
    ]
    rows = await harness.conn.fetch(
        "SELECT client_order_id FROM orders WHERE order_purpose = 'entry' AND origin = 'catalyst'"
        " AND submitted_at > $1",
        latch["set_at"],
    )
    return problems + [f"{row['client_order_id']} was submitted after {latch['name']}" for row in rows]


async def _no_unexpected_alerts(harness: CrashHarness, expected_alerts: frozenset[str]) -> list[str]:
    """Check that no CRITICAL alert other than the expected ones was raised."""
    rows = await harness.conn.fetch("SELECT event, message FROM alerts WHERE severity = 'CRITICAL'")
    return [f"alert: {row['event']}: {row['message']}" for row in rows if row["event"] not in expected_alerts]


# Reasons that may keep the entry gate closed after random faults: an operator command, the day's end, a crash loop.
PERMANENT_GATE_REASONS: Final = frozenset(
    {CRASH_LOOP, "halt", "flatten", "emergency_stop", "day_ending", "cycle_closed", "stopping"}
)


async def _recovered_from_faults(harness: CrashHarness) -> list[str]:
    """Check that no invariant failed and that a running daemon allows entries again."""
    problems = [
        f"alert: {row['message']}"
        for row in await harness.conn.fetch("SELECT message FROM alerts WHERE event = 'SAFE_MODE'")
    ]
    if harness.current_run is not None and harness.active_run.components is not None:
        reasons = harness.active_run.components.gate.reasons
        problems += [
            f"the entry gate is still closed: {name}: {text}"
            for name, text in reasons.items()
            if name not in PERMANENT_GATE_REASONS
        ]
    return problems


async def _mutating_requests(harness: CrashHarness) -> list[str]:
    """Return every POST, DELETE and PATCH request that the exchange received, as "METHOD path"."""
    logs = await harness.admin("logs")
    return [f"{r['method']} {r['path']}" for r in logs["requests"] if r["method"] in MUTATING]


async def _rows(harness: CrashHarness) -> dict[str, list[str]]:
    """Return the rows of orders, executions, positions and order events, as texts, without the mark-to-market
    columns."""
    tables = {
        "orders": "SELECT * FROM orders ORDER BY order_id",
        # Without activity_id, which the account activities may show late.
        "executions": "SELECT order_id, cum_qty, quantity, price, at, source, execution_id FROM executions"
        " ORDER BY order_id, cum_qty",
        "positions": "SELECT * FROM positions ORDER BY position_id",
        "order_events": "SELECT order_id, seq, kind, to_status FROM order_events ORDER BY seq",
    }
    marks = {"last_price", "unrealized_pnl", "high_since_entry", "low_since_entry", "updated_at"}
    return {
        name: [str({k: v for k, v in row.items() if k not in marks}) for row in await harness.conn.fetch(sql)]
        for name, sql in tables.items()
    }
