"""What must be true when a story is over, wherever in it a daemon died. Each check is one sentence when it fails.

Read from the database's rows and from the exchange's own ledger; nothing here asks the daemon.
"""

from collections import Counter
from collections.abc import Awaitable
from decimal import Decimal
from typing import Any, Final

from catalyst.daemon.runtime.startup_survey import LOOP
from catalyst.simulator.exchange.unprotected_time import unprotected
from tests.audit import books_equal, journal_folds
from tests.crash.restartable_daemon import World

Facts = dict[str, Any]

MUTATING = ("POST", "DELETE", "PATCH")
NAKED_AT_MOST = 15.0  # market seconds, a silence of three and a start among them


async def problems_of(
    world: World, *, expected: frozenset[str], foreign: frozenset[str], most: Decimal, stormy: bool = False
) -> list[str]:
    """Everything that is not as it must be. `expected` are the critical alerts this story may raise, `foreign`
    the symbols in which somebody else trades, `most` the shares a signal was for.

    After a storm somebody may have been paged, shares may have been bare for as long as nothing got through, and
    what nobody could read is kept aside; instead, entries must be allowed again and no invariant may have fallen.
    """
    ledger, audit = await world.admin("ledger"), await world.admin("audit")
    found = [f"a daemon ended by itself: {why}" for why in world.failures]
    found += await _true(books_equal(world.conn, ledger, _ours(audit, foreign)))
    found += await _true(journal_folds(world.conn))
    found += _sent_once(ledger)
    found += await _recorded_first(world, ledger)
    found += _never_short(ledger, most, foreign)
    found += await _one_entry_a_signal(world)
    unresolved = await _everything_resolved(world)
    if stormy:
        waiting = await _waiting_for_a_person(world)
        unresolved = [
            what for what in unresolved if not what.startswith("quarantined: ") and what not in waiting
        ]
    found += unresolved
    found += await _protected(world)
    found += await _latched(world, ledger, foreign)
    if stormy:
        return found + await _calm(world)
    found += _naked_too_long(world, foreign)
    found += await _quiet_pager(world, expected)
    return found


async def unchanged_by_restarts(world: World) -> list[str]:
    """Two restarts while nothing happens on the market: no request that changes anything, no row changed."""
    if world.gone():  # one that left at once has heard less of the broker's ledger than one that stays
        await world.opens()
        await world.waits(seconds=5)
    before, sent = await _rows(world), await _changes(world)
    for _ in range(2):
        await world.dies()
        await world.waits(seconds=1)
        await world.opens()
        await world.waits(seconds=5)
    found = [f"a silent restart sent {request}" for request in (await _changes(world))[len(sent) :]]
    after = await _rows(world)
    for name, rows in before.items():
        if rows != after[name]:
            changed = sorted(set(rows) ^ set(after[name]))
            found.append(f"a silent restart changed {name}: {changed[:2]}")
    return found


async def _true(check: Awaitable[None]) -> list[str]:
    try:
        await check
    except AssertionError as error:
        return [" ".join(str(error).split())[:1500] or "the books differ"]
    return []


def _ours(audit: Facts, foreign: frozenset[str]) -> Facts:
    """The audit without the shares of others; their orders and fills have rows all the same."""
    held = {symbol: qty for symbol, qty in audit["positions"].items() if symbol not in foreign}
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


async def _recorded_first(world: World, ledger: Facts) -> list[str]:
    """Every order we sent has its row, and no fewer attempts in it than requests were made."""
    sent = Counter(
        request["client_order_id"]
        for request in ledger["requests"]
        if request["method"] == "POST" and request["path"] == "/v2/orders"
    )
    rows = await world.conn.fetch("SELECT client_order_id, attempts FROM orders")
    attempts = {row["client_order_id"]: row["attempts"] for row in rows}
    return [
        f"{cid} was sent {n} times and recorded {attempts.get(cid)}"
        for cid, n in sent.items()
        if attempts.get(cid, 0) < n
    ]


def _never_short(ledger: Facts, most: Decimal, foreign: frozenset[str]) -> list[str]:
    """At no execution were fewer than no shares held, or more than one signal was for."""
    return [
        f"{e['symbol']} stood at {e['position_qty']} shares after an execution"
        for e in ledger["executions"]
        if not 0 <= Decimal(e["position_qty"]) <= most and e["symbol"] not in foreign
    ]


async def _one_entry_a_signal(world: World) -> list[str]:
    rows = await world.conn.fetch(
        """
        SELECT signal_id, count(*) AS n FROM orders
         WHERE order_purpose = 'entry' AND filled_qty > 0 AND signal_id IS NOT NULL
         GROUP BY signal_id HAVING count(*) > 1
        """
    )
    return [f"signal {row['signal_id']} filled {row['n']} entries" for row in rows]


async def _everything_resolved(world: World) -> list[str]:
    """No row waits for an answer that will not come."""
    rows = await world.conn.fetch(
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


async def _waiting_for_a_person(world: World) -> set[str]:
    """Tickets whose approval the weather swallowed: they wait, until they expire."""
    rows = await world.conn.fetch(
        "SELECT 'order ' || order_id || ' is created, unknown at the broker' AS what FROM proposals"
        " WHERE decision IS NULL"
    )
    return {row["what"] for row in rows}


async def _protected(world: World) -> list[str]:
    """Whatever is open stands under a working stop for its whole quantity, and the row says since when."""
    rows = await world.conn.fetch(
        "SELECT s.symbol, p.quantity, p.protected_at FROM positions p JOIN securities s USING (security_id)"
        " WHERE p.status = 'open'"
    )
    found = []
    for row in rows:
        naked = unprotected(world.server.exchange.book, row["symbol"], world.held(row["symbol"]))
        if naked or row["protected_at"] is None:
            found.append(
                f"{row['symbol']}: {naked} of {row['quantity']} shares naked, "
                f"protected_at {row['protected_at']}"
            )
    return found


def longest_naked(world: World, foreign: frozenset[str]) -> float:
    """The longest stretch of market seconds in which shares of ours stood without cover, as the exchange saw it."""
    exposure = world.server.exchange.exposure.now(world.server.exchange.now)
    ours = [one for symbol, one in exposure.items() if symbol not in foreign]
    return max((float(one["longest_seconds"]) for one in ours), default=0.0)


def _naked_too_long(world: World, foreign: frozenset[str]) -> list[str]:
    naked = longest_naked(world, foreign)
    return [f"shares stood naked for {naked} s"] if naked > NAKED_AT_MOST else []


async def _latched(world: World, ledger: Facts, foreign: frozenset[str]) -> list[str]:
    """After a flatten or an emergency stop: no share, no working order, and no entry was sent since."""
    latch = await world.conn.fetchrow(
        "SELECT name, set_at FROM latches WHERE cleared_at IS NULL AND name IN ('flatten', 'emergency_stop')"
        " ORDER BY set_at LIMIT 1"
    )
    if latch is None:
        return []
    found = [
        f"{latch['name']} is latched and {position.qty} {symbol} are held"
        for symbol, position in world.server.exchange.account.positions.items()
        if position.qty and symbol not in foreign
    ]
    found += [
        f"{latch['name']} is latched and an order in {order.symbol} works"
        for order in world.server.exchange.book.live()
        if order.symbol not in foreign
    ]
    rows = await world.conn.fetch(
        "SELECT client_order_id FROM orders WHERE order_purpose = 'entry' AND origin = 'catalyst'"
        " AND submitted_at > $1",
        latch["set_at"],
    )
    return found + [f"{row['client_order_id']} was entered after {latch['name']}" for row in rows]


async def _quiet_pager(world: World, expected: frozenset[str]) -> list[str]:
    """Nobody was paged for anything but what this story is about."""
    rows = await world.conn.fetch("SELECT event, message FROM alerts WHERE severity = 'CRITICAL'")
    return [f"paged: {row['event']}: {row['message']}" for row in rows if row["event"] not in expected]


# What may go on keeping entries out after a storm: a person's word, the day's end, too many starts.
STAYS: Final = frozenset({LOOP, "halt", "flatten", "emergency_stop", "close", "closed", "stopping"})


async def _calm(world: World) -> list[str]:
    """No invariant fell, and whoever lives lets entries through again."""
    found = [
        f"paged: {row['message']}"
        for row in await world.conn.fetch("SELECT message FROM alerts WHERE event = 'SAFE_MODE'")
    ]
    if world.living is not None and world.living_now.parts is not None:
        reasons = world.living_now.parts.gate.reasons
        found += [
            f"entries are still stopped: {name}: {why}" for name, why in reasons.items() if name not in STAYS
        ]
    return found


async def _changes(world: World) -> list[str]:
    """Every request so far that could have changed something at the exchange."""
    ledger = await world.admin("ledger")
    return [f"{r['method']} {r['path']}" for r in ledger["requests"] if r["method"] in MUTATING]


async def _rows(world: World) -> dict[str, list[str]]:
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
        name: [str({k: v for k, v in row.items() if k not in marks}) for row in await world.conn.fetch(sql)]
        for name, sql in tables.items()
    }
