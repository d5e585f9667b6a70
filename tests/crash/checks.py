"""What must be true when a story is over, wherever in it a daemon died. Each check is one sentence when it fails.

Read from the database's rows and from the exchange's own ledger; nothing here asks the daemon.
"""

from collections import Counter
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, Final

from catalyst.daemon.runtime.startup_survey import CRASH_LOOP
from catalyst.simulator.exchange.unprotected_time import unprotected_qty
from tests.audit import assert_journal_leads_to_state, assert_ledger_equals_exchange
from tests.crash.restartable_daemon import CrashHarness

Facts = dict[str, Any]

MUTATING = ("POST", "DELETE", "PATCH")
MAX_UNPROTECTED_SECONDS = 15.0  # market seconds, a silence of three and a start among them


async def find_problems(
    harness: CrashHarness,
    *,
    expected_alerts: frozenset[str],
    external_symbols: frozenset[str],
    max_qty: Decimal,
    random_faults: bool = False,
) -> list[str]:
    """Everything that is not as it must be. `expected` are the critical alerts this story may raise, `foreign`
    the symbols in which somebody else trades, `most` the shares a signal was for.

    After a storm somebody may have been paged, shares may have been bare for as long as nothing got through, and
    what nobody could read is kept aside; instead, entries must be allowed again and no invariant may have fallen.
    """
    ledger, audit = await harness.admin("logs"), await harness.admin("audit")
    found = [f"a daemon ended by itself: {why}" for why in harness.failures]
    found += await _assertion_problems(
        assert_ledger_equals_exchange(harness.conn, ledger, _without_external(audit, external_symbols))
    )
    found += await _assertion_problems(assert_journal_leads_to_state(harness.conn))
    found += _sent_once(ledger)
    found += await _recorded_first(harness, ledger)
    found += _never_short(ledger, max_qty, external_symbols)
    found += await _one_entry_per_signal(harness)
    unresolved = await _everything_resolved(harness)
    if random_faults:
        waiting = await _pending_approvals(harness)
        unresolved = [
            what for what in unresolved if not what.startswith("quarantined: ") and what not in waiting
        ]
    found += unresolved
    found += await _protected(harness)
    found += await _flat_after_latch(harness, ledger, external_symbols)
    if random_faults:
        return found + await _recovered_from_faults(harness)
    found += _unprotected_too_long(harness, external_symbols)
    found += await _no_unexpected_alerts(harness, expected_alerts)
    return found


async def find_restart_changes(harness: CrashHarness) -> list[str]:
    """Two restarts while nothing happens on the market: no request that changes anything, no row changed."""
    if (
        harness.is_stopped()
    ):  # one that left at once has heard less of the broker's ledger than one that stays
        await harness.start()
        await harness.waits(seconds=5)
    before, sent = await _rows(harness), await _mutating_requests(harness)
    for _ in range(2):
        await harness.crash()
        await harness.waits(seconds=1)
        await harness.start()
        await harness.waits(seconds=5)
    found = [
        f"a silent restart sent {request}" for request in (await _mutating_requests(harness))[len(sent) :]
    ]
    after = await _rows(harness)
    for name, rows in before.items():
        if rows != after[name]:
            changed = sorted(set(rows) ^ set(after[name]))
            found.append(f"a silent restart changed {name}: {changed[:2]}")
    return found


async def _assertion_problems(check: Awaitable[None]) -> list[str]:
    try:
        await check
    except AssertionError as error:
        return [" ".join(str(error).split())[:1500] or "the books differ"]
    return []


def _without_external(audit: Facts, external_symbols: frozenset[str]) -> Facts:
    """The audit without the shares of others; their orders and fills have rows all the same."""
    held = {symbol: qty for symbol, qty in audit["positions"].items() if symbol not in external_symbols}
    return {**audit, "positions": held}


def _sent_once(ledger: Facts) -> list[str]:
    """No client order id is accepted twice."""
    accepted = Counter(
        request["client_order_id"]
        for request in ledger["requests"]
        if request["method"] == "POST" and request["path"] == "/v2/orders" and request["status"] == 200
    )
    ids = Counter(order["client_order_id"] for order in ledger["orders"])
    return [f"{cid} was accepted {n} times" for cid, n in (accepted | ids).items() if n > 1]


async def _recorded_first(harness: CrashHarness, ledger: Facts) -> list[str]:
    """Every order we sent has its row, and no fewer attempts in it than requests were made."""
    sent = Counter(
        request["client_order_id"]
        for request in ledger["requests"]
        if request["method"] == "POST" and request["path"] == "/v2/orders"
    )
    rows = await harness.conn.fetch("SELECT client_order_id, attempts FROM orders")
    attempts = {row["client_order_id"]: row["attempts"] for row in rows}
    return [
        f"{cid} was sent {n} times and recorded {attempts.get(cid)}"
        for cid, n in sent.items()
        if attempts.get(cid, 0) < n
    ]


def _never_short(ledger: Facts, max_qty: Decimal, external_symbols: frozenset[str]) -> list[str]:
    """At no execution were fewer than no shares held, or more than one signal was for."""
    return [
        f"{e['symbol']} stood at {e['position_qty']} shares after an execution"
        for e in ledger["executions"]
        if not 0 <= Decimal(e["position_qty"]) <= max_qty and e["symbol"] not in external_symbols
    ]


async def _one_entry_per_signal(harness: CrashHarness) -> list[str]:
    rows = await harness.conn.fetch(
        """
        SELECT signal_id, count(*) AS n FROM orders
         WHERE order_purpose = 'entry' AND filled_qty > 0 AND signal_id IS NOT NULL
         GROUP BY signal_id HAVING count(*) > 1
        """
    )
    return [f"signal {row['signal_id']} filled {row['n']} entries" for row in rows]


async def _everything_resolved(harness: CrashHarness) -> list[str]:
    """No row waits for an answer that will not come."""
    rows = await harness.conn.fetch(
        """
        SELECT 'order ' || order_id || ' is ' || status || ', unknown at the broker' AS what FROM orders
         WHERE status IN ('created', 'submitted') AND alpaca_order_id IS NULL
        UNION ALL
        SELECT 'the exit of position ' || position_id || ' is not done' FROM exit_intents WHERE state = 'open'
        UNION ALL
        SELECT 'command ' || command_id || ' (' || kind || ') was taken and never answered' FROM commands
         WHERE taken_at IS NOT NULL AND answered_at IS NULL
        UNION ALL
        SELECT 'quarantined: ' || reason FROM quarantine
        """
    )
    return [row["what"] for row in rows]


async def _pending_approvals(harness: CrashHarness) -> set[str]:
    """Tickets whose approval the weather swallowed: they wait, until they expire."""
    rows = await harness.conn.fetch(
        "SELECT 'order ' || order_id || ' is created, unknown at the broker' AS what FROM proposals"
        " WHERE decision IS NULL"
    )
    return {row["what"] for row in rows}


async def _protected(harness: CrashHarness) -> list[str]:
    """Whatever is open stands under a working stop for its whole quantity, and the row says since when."""
    rows = await harness.conn.fetch(
        "SELECT s.symbol, p.quantity, p.protected_at FROM positions p JOIN securities s USING (security_id)"
        " WHERE p.status = 'open'"
    )
    found = []
    for row in rows:
        naked = unprotected_qty(
            harness.server.exchange.order_store, row["symbol"], harness.held_qty(row["symbol"])
        )
        if naked or row["protected_at"] is None:
            found.append(
                f"{row['symbol']}: {naked} of {row['quantity']} shares naked, "
                f"protected_at {row['protected_at']}"
            )
    return found


def longest_unprotected_seconds(harness: CrashHarness, external_symbols: frozenset[str]) -> float:
    """The longest stretch of market seconds in which shares of ours stood without cover, as the exchange saw it."""
    exposure = harness.server.exchange.unprotected_time.totals(harness.server.exchange.now)
    ours = [one for symbol, one in exposure.items() if symbol not in external_symbols]
    return max((float(one["longest_seconds"]) for one in ours), default=0.0)


def _unprotected_too_long(harness: CrashHarness, external_symbols: frozenset[str]) -> list[str]:
    naked = longest_unprotected_seconds(harness, external_symbols)
    return [f"shares stood naked for {naked} s"] if naked > MAX_UNPROTECTED_SECONDS else []


async def _flat_after_latch(
    harness: CrashHarness, ledger: Facts, external_symbols: frozenset[str]
) -> list[str]:
    """After a flatten or an emergency stop: no share, no working order, and no entry was sent since."""
    latch = await harness.conn.fetchrow(
        "SELECT name, set_at FROM latches WHERE cleared_at IS NULL AND name IN ('flatten', 'emergency_stop')"
        " ORDER BY set_at LIMIT 1"
    )
    if latch is None:
        return []
    found = [
        f"{latch['name']} is latched and {position.qty} {symbol} are held"
        for symbol, position in harness.server.exchange.account.positions.items()
        if position.qty and symbol not in external_symbols
    ]
    found += [
        f"{latch['name']} is latched and an order in {order.symbol} works"
        for order in harness.server.exchange.order_store.live()
        if order.symbol not in external_symbols
    ]
    rows = await harness.conn.fetch(
        "SELECT client_order_id FROM orders WHERE order_purpose = 'entry' AND origin = 'catalyst'"
        " AND submitted_at > $1",
        latch["set_at"],
    )
    return found + [f"{row['client_order_id']} was entered after {latch['name']}" for row in rows]


async def _no_unexpected_alerts(harness: CrashHarness, expected_alerts: frozenset[str]) -> list[str]:
    """Nobody was paged for anything but what this story is about."""
    rows = await harness.conn.fetch("SELECT event, message FROM alerts WHERE severity = 'CRITICAL'")
    return [f"paged: {row['event']}: {row['message']}" for row in rows if row["event"] not in expected_alerts]


# What may go on keeping entries out after a storm: a person's word, the day's end, too many starts.
PERMANENT_GATE_REASONS: Final = frozenset(
    {CRASH_LOOP, "halt", "flatten", "emergency_stop", "day_ending", "cycle_closed", "stopping"}
)


async def _recovered_from_faults(harness: CrashHarness) -> list[str]:
    """No invariant fell, and whoever lives lets entries through again."""
    found = [
        f"paged: {row['message']}"
        for row in await harness.conn.fetch("SELECT message FROM alerts WHERE event = 'SAFE_MODE'")
    ]
    if harness.current_run is not None and harness.active_run.components is not None:
        reasons = harness.active_run.components.gate.reasons
        found += [
            f"entries are still stopped: {name}: {why}"
            for name, why in reasons.items()
            if name not in PERMANENT_GATE_REASONS
        ]
    return found


async def _mutating_requests(harness: CrashHarness) -> list[str]:
    """Every request so far that could have changed something at the exchange."""
    ledger = await harness.admin("logs")
    return [f"{r['method']} {r['path']}" for r in ledger["requests"] if r["method"] in MUTATING]


async def _rows(harness: CrashHarness) -> dict[str, list[str]]:
    """Orders, executions and positions, without what a mark to market writes."""
    tables = {
        "orders": "SELECT * FROM orders ORDER BY order_id",
        # But for a fill's name in the ledger, which may be learnt late.
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
