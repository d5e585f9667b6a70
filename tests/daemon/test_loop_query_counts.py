"""Statements and requests of the loops: their number does not grow with open positions or with the order
history."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from benchmarks._floor import insert_past_orders
from catalyst.clock import SystemClock
from catalyst.store import invariant_checks, journal, reconciliation, report_statements
from catalyst.store.pool import open_store
from tests.daemon.test_order_query_counts import open_counted_scenario
from tests.stories.scenario import ENTRY

CLOSED = 20_000
A_DAY = timedelta(days=1)
# EXPLAIN of a statement without its arguments (PostgreSQL 16 and newer).
PLAN_OF = """
CREATE FUNCTION pg_temp.plan_of(statement text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || statement INTO plan;
    RETURN plan;
END $$
"""
LARGE = {"orders", "positions", "executions", "order_events"}
# Of a reconciliation that finds nothing new.
STATEMENTS = 3
REQUESTS = ["GET /orders", "GET /positions"]


async def test_reconciliation_query_count_is_independent_of_open_positions(database: str) -> None:
    """With one to three brackets a reconciliation runs as many statements and requests, and writes nothing
    when nothing is new."""
    async with open_counted_scenario(database) as (scenario, counter):
        assert scenario.components is not None
        requests = []
        for symbol in ("MSFT", "AAPL", "TSLA"):
            if scenario.held_qty(symbol) == 0:
                scenario.print_trade(symbol, "190.00")
                await scenario.advance(seconds=1)
                await scenario.submit_entry(symbol, 10, **ENTRY)
                await scenario.advance(seconds=3)
            assert (await scenario.components.reconciler.reconcile("reconcile")).clean
            # It books the fill's activity id, a change that other loops read the database for.
            await scenario.clock.wait_until_quiet()
            await counter.reset()
            assert (await scenario.components.reconciler.reconcile("reconcile", full=False)).clean
            requests.append(counter.completed_steps("GET"))
            assert len(counter.statement_heads()) <= STATEMENTS
            assert await counter.written_transactions() == 0
        assert [sorted(request.split("?")[0] for request in run) for run in requests] == [REQUESTS] * 3


async def test_loops_share_broker_reads_within_their_intervals(database: str) -> None:
    """In ten quiet minutes the loops read account and clock once a minute and activities twice, and the two
    examinations of the doctor read clock and activities once each; a new fill reads the activities at once."""
    async with open_counted_scenario(database) as (scenario, counter):
        await scenario.advance(seconds=90)
        await counter.reset()
        await scenario.advance(minutes=10)
        requests = Counter(request.split("?")[0] for request in counter.completed_steps("GET"))
        assert (requests["GET /account"], requests["GET /clock"]) == (10, 10 + 2)
        assert requests["GET /account/activities/FILL"] == 2 + 2
        await scenario.submit_entry("AAPL", 10, **ENTRY)
        await counter.reset()
        await scenario.advance(seconds=65)
        assert "GET /account/activities/FILL" in counter.completed_steps("GET")
        row = await scenario.conn.fetchrow(
            "SELECT count(*) AS n, count(activity_id) AS with_activity_id FROM executions"
        )
        assert row is not None
        assert row["n"] == row["with_activity_id"] == 2


async def test_stop_monitor_tick_runs_no_query_or_request(database: str) -> None:
    """While no level is crossed, a tick runs no statement and no request with one to three positions; after a
    change signal it runs two statements."""
    async with open_counted_scenario(database) as (scenario, counter):
        assert scenario.components is not None
        monitor, ledger = scenario.components.stop_monitor, scenario.components.ledger
        for symbol in ("MSFT", "AAPL", "TSLA"):
            scenario.print_trade(symbol, "190.00")
            await scenario.advance(seconds=1)
            if scenario.held_qty(symbol) == 0:
                await scenario.submit_entry(symbol, 10, **ENTRY)
                await scenario.advance(seconds=3)
            await monitor.refresh_prices()
            await counter.reset()
            await monitor.check_positions()
            assert (
                counter.completed_steps("GET"),
                counter.statement_heads(),
                await counter.written_transactions(),
            ) == ([], [], 0)
        ledger.changed.version += 1  # a change that no other loop has read yet
        await monitor.check_positions()
        assert (
            counter.completed_steps("GET"),
            len(counter.statement_heads()),
            await counter.written_transactions(),
        ) == ([], 2, 0)


async def test_price_refresh_makes_two_requests_and_commits_only_changes(database: str) -> None:
    """A refresh reads the trades and quotes of all positions and writes changed marks in one statement; an
    unchanged mark is written again before it looks stale."""
    async with open_counted_scenario(database) as (scenario, counter):
        assert scenario.components is not None
        monitor = scenario.components.stop_monitor
        requests = []
        for symbol in ("MSFT", "AAPL", "TSLA"):
            scenario.print_trade(symbol, "190.00")
            await scenario.advance(seconds=1)
            if scenario.held_qty(symbol) == 0:
                await scenario.submit_entry(symbol, 10, **ENTRY)
                await scenario.advance(seconds=3)
            await monitor.refresh_prices()
            scenario.print_trade(symbol, "190.02")
            await scenario.advance(seconds=1)
            for changed in (True, False):
                await counter.reset()
                await monitor.refresh_prices()
                assert await counter.written_transactions() == changed
                requests.append((len(counter.completed_steps("GET")), len(counter.statement_heads())))
            row = await scenario.position(symbol)
            assert row is not None
            assert row["last_price"] == Decimal("190.01")  # the bid
        assert requests == [(2, 1), (2, 0)] * 3
        for symbol in ("MSFT", "AAPL", "TSLA"):
            scenario.print_trade(symbol, "190.02", after=301)
        before = await scenario.position("MSFT")
        await scenario.advance(seconds=330)
        after = await scenario.position("MSFT")
        assert before is not None
        assert after is not None
        assert (after["last_price"], after["updated_at"] > before["updated_at"]) == (
            before["last_price"],
            True,
        )


async def test_order_path_plans_use_indexes_as_tables_grow(database: str) -> None:
    """Plans made on empty tables use indexes on the order connections, those of trigger queries included."""
    store = await open_store(database, SystemClock())
    try:
        async with store.read() as conn:
            await conn.execute("VACUUM (ANALYZE)")  # the statistics count no row yet
        async with store.order_statement("a statement") as conn:
            plans = [
                (await conn.fetchval(f"EXPLAIN (FORMAT JSON) {statement}"))
                for statement in (
                    "SELECT link, hash FROM journal_chain ORDER BY link DESC LIMIT 1",
                    "SELECT sum(quantity) FROM executions WHERE order_id = 1",
                    "SELECT to_status FROM order_events WHERE order_id = 1 ORDER BY seq DESC LIMIT 1",
                    "SELECT order_id FROM orders WHERE client_order_id = 'x'",
                )
            ]
            await conn.execute(PLAN_OF)
            written = [
                await conn.fetchval("SELECT pg_temp.plan_of($1)", statement)
                for statement in (
                    *report_statements.WRITE_ORDERS.values(),
                    *report_statements.OPEN_POSITIONS.values(),
                )
            ]
        assert all("Index" in plan and "Seq Scan" not in plan for plan in plans)
        for plan in written:
            assert not {"Hash Join", "Merge Join"} & set(re.findall(r'"Node Type": "([\w ]+)"', plan))
    finally:
        await store.close()


async def test_generated_history_satisfies_invariants(database: str) -> None:
    """The order history of the benchmarks satisfies every invariant and has a valid journal chain."""
    await insert_past_orders(database, 100)
    store = await open_store(database, SystemClock())
    try:
        async with store.read() as conn:
            assert await invariant_checks.violations(conn, since_seq=0) == []
            assert await journal.verify(conn) == await journal.last_anchor(conn)
            assert (await journal.last_anchor(conn)).link == 300
    finally:
        await store.close()


async def test_loops_scan_no_large_table_with_long_history(database: str) -> None:
    """With a long order history the reconciler, the protector and the stop monitor scan no large table: they
    read no terminal rows."""
    await insert_past_orders(database, CLOSED)
    async with open_counted_scenario(database) as (scenario, counter):
        assert scenario.components is not None
        await counter.reset()
        await scenario.components.reconciler.reconcile("reconcile")
        await scenario.components.protector.check()
        scenario.components.ledger.changed.version += 1  # so that the monitor reads the database
        await scenario.components.stop_monitor.check_positions()
        statements = {text for text in counter.proxy.statements if any(name in text for name in LARGE)}
        assert len(statements) >= 6
        await scenario.conn.execute(PLAN_OF)
        for statement in statements:
            # The plan depends on the value of the time bound, as in the daemon; every other argument is a key.
            text = statement.replace("created_at >= $1", "created_at >= timestamptz '2026-03-01'")
            plan = orjson.loads(await scenario.conn.fetchval("SELECT pg_temp.plan_of($1)", text))
            assert not set(scanned_tables(plan)) & LARGE, text


async def test_busy_day_with_long_history_scans_no_large_table(database: str) -> None:
    """With 100 orders today and a long history the reconciliation queries scan no large table, although the
    planner estimates a scan cheaper than 100 keys; it is four times slower."""
    await insert_past_orders(database, CLOSED)
    store = await open_store(database, SystemClock())
    since = datetime(2026, 3, 8, 14, tzinfo=UTC)
    try:
        async with store.read() as conn:
            await conn.execute("SET session_replication_role = replica")
            await conn.execute("UPDATE orders SET created_at = $1 WHERE order_id <= 100", since + A_DAY)
            await conn.execute("SET session_replication_role = origin")
            await conn.execute("VACUUM (ANALYZE)")
            ids = [f"broker-past-{number}" for number in range(100)]
            # The page cost as we set it, and PostgreSQL's default.
            for page_cost, tables in ((None, {*LARGE, "securities"}), (4, LARGE)):
                if page_cost is not None:
                    await conn.execute(f"SET random_page_cost = {page_cost}")
                for statement, arguments in (
                    (reconciliation._ORDERS_TO_COMPARE, (ids,)),
                    (reconciliation._HOLDINGS, (since,)),
                    (reconciliation._CONTRADICTIONS, (since, since + A_DAY)),
                ):
                    plan = orjson.loads(await conn.fetchval(f"EXPLAIN (FORMAT JSON) {statement}", *arguments))
                    assert not set(scanned_tables(plan)) & tables, statement
    finally:
        await store.close()


def scanned_tables(plan: Any) -> Iterator[str]:
    """Yield the tables that a plan scans completely."""
    if isinstance(plan, list):
        for node in plan:
            yield from scanned_tables(node)
    elif isinstance(plan, dict):
        if plan.get("Node Type") == "Seq Scan":
            yield plan["Relation Name"]
        for node in plan.values():
            yield from scanned_tables(node)
