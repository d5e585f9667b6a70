"""What the loops ask of the tables and of the broker, counted: as few questions for much as for little."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from benchmarks._floor import insert_past_orders
from catalyst.clock import SystemClock
from catalyst.store import invariant_checks, journal, reconciliation, report_writes
from catalyst.store.pool import open_store
from tests.daemon.test_order_query_counts import open_counted_scenario
from tests.stories.scenario import ENTRY

CLOSED = 20_000
A_DAY = timedelta(days=1)
# EXPLAIN of a statement with arguments that nobody gave (PostgreSQL 16 and newer).
PLAN_OF = """
CREATE FUNCTION pg_temp.plan_of(question text) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
    plan json;
BEGIN
    EXECUTE 'EXPLAIN (GENERIC_PLAN, FORMAT JSON) ' || question INTO plan;
    RETURN plan;
END $$
"""
LARGE = {"orders", "positions", "executions", "order_events"}
# Of a look at which nothing is new.
STATEMENTS = 3
REQUESTS = ["GET /orders", "GET /positions"]


async def test_reconciliation_query_count_is_independent_of_open_positions(database: str) -> None:
    """One bracket or three: as many statements, as many requests, and nothing is written when nothing is new."""
    async with open_counted_scenario(database) as (scenario, counter):
        assert scenario.components is not None
        asked = []
        for symbol in ("MSFT", "AAPL", "TSLA"):
            if scenario.held_qty(symbol) == 0:
                scenario.print_trade(symbol, "190.00")
                await scenario.advance(seconds=1)
                await scenario.submit_entry(symbol, 10, **ENTRY)
                await scenario.advance(seconds=3)
            assert (await scenario.components.reconciler.reconcile("reconcile")).clean
            await counter.reset()
            assert (await scenario.components.reconciler.reconcile("reconcile", full=False)).clean
            asked.append(counter.completed_steps("GET"))
            assert len(counter.statement_heads()) <= STATEMENTS
            assert await counter.written_transactions() == 0
        assert [sorted(request.split("?")[0] for request in each) for each in asked] == [REQUESTS] * 3


async def test_loops_share_broker_reads_within_their_intervals(database: str) -> None:
    """Ten minutes in which nothing happens: the account and the broker's clock once a minute between the loops, the
    ledger and what works of earlier days every few; the ledger at once when an order has filled more."""
    async with open_counted_scenario(database) as (scenario, counter):
        await scenario.advance(seconds=90)
        await counter.reset()
        await scenario.advance(minutes=10)
        asked = Counter(request.split("?")[0] for request in counter.completed_steps("GET"))
        assert (asked["GET /account"], asked["GET /clock"]) == (10, 10)
        assert asked["GET /account/activities/FILL"] == 2
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
    """One position or three: as long as nothing is through a level, no statement, no request and no commit; what is
    held is reread when the books say that something has changed, by two statements whatever there is of it."""
    async with open_counted_scenario(database) as (scenario, counter):
        assert scenario.components is not None
        monitor, books = scenario.components.stop_monitor, scenario.components.ledger
        for symbol in ("MSFT", "AAPL", "TSLA"):
            scenario.print_trade(symbol, "190.00")
            await scenario.advance(seconds=1)
            if scenario.held_qty(symbol) == 0:
                await scenario.submit_entry(symbol, 10, **ENTRY)
                await scenario.advance(seconds=3)
            await monitor.refresh_prices()
            await counter.reset()
            await monitor.tick()
            assert (
                counter.completed_steps("GET"),
                counter.statement_heads(),
                await counter.written_transactions(),
            ) == ([], [], 0)
        books.changed.version += 1  # a change at which nobody else has looked yet
        await monitor.tick()
        assert (
            counter.completed_steps("GET"),
            len(counter.statement_heads()),
            await counter.written_transactions(),
        ) == ([], 2, 0)


async def test_price_refresh_makes_two_requests_and_commits_only_changes(database: str) -> None:
    """One position or three: the prints and the quotes of all of it, and one statement for the marks that differ from
    what was written; a mark that stays the same is written again before it looks old."""
    async with open_counted_scenario(database) as (scenario, counter):
        assert scenario.components is not None
        monitor = scenario.components.stop_monitor
        asked = []
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
                asked.append((len(counter.completed_steps("GET")), len(counter.statement_heads())))
            row = await scenario.position(symbol)
            assert row is not None
            assert row["last_price"] == Decimal("190.01")  # the bid
        assert asked == [(2, 1), (2, 0)] * 3
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
    """Plans made while the tables are empty are kept while they grow: on the lane of the orders they go by an index,
    the guards' own questions included, so that an order among thousands costs what the first did."""
    store = await open_store(database, SystemClock())
    try:
        async with store.read() as conn:
            await conn.execute("VACUUM (ANALYZE)")  # it is known that they are empty
        async with store.order_statement("a question") as conn:
            plans = [
                (await conn.fetchval(f"EXPLAIN (FORMAT JSON) {question}"))
                for question in (
                    "SELECT link, hash FROM journal_chain ORDER BY link DESC LIMIT 1",
                    "SELECT sum(quantity) FROM executions WHERE order_id = 1",
                    "SELECT to_status FROM order_events WHERE order_id = 1 ORDER BY seq DESC LIMIT 1",
                    "SELECT order_id FROM orders WHERE client_order_id = 'x'",
                )
            ]
            said: list[str] = []
            with conn.query_logger(lambda query: said.append(query.query)):
                await report_writes.apply_order_updates(
                    conn, [], [], at=SystemClock().now(), source="poll", epoch=0
                )
            await conn.execute(PLAN_OF)
            statement_plan = await conn.fetchval("SELECT pg_temp.plan_of($1)", said[-1])
        assert all("Index" in plan and "Seq Scan" not in plan for plan in plans)
        assert not {"Hash Join", "Merge Join"} & set(re.findall(r'"Node Type": "([\w ]+)"', statement_plan))
    finally:
        await store.close()


async def test_generated_history_satisfies_invariants(database: str) -> None:
    """Books of earlier years as the benchmarks make them: no invariant falls, and the chain holds up to the proof."""
    await insert_past_orders(database, 100)
    store = await open_store(database, SystemClock())
    try:
        async with store.read() as conn:
            assert await invariant_checks.violations(conn, since_seq=0) == []
            assert await journal.verify(conn) == await journal.last_anchor(conn)
            assert (await journal.last_anchor(conn)).link == 300
    finally:
        await store.close()


async def test_loops_scan_no_table_of_terminal_rows(database: str) -> None:
    """With a day's few orders beside the many of years, a whole look of the reconciler, of the guard and of the stop
    monitor scans no table of theirs: what is at its end is not there for them."""
    await insert_past_orders(database, CLOSED)
    async with open_counted_scenario(database) as (scenario, counter):
        assert scenario.components is not None
        await counter.reset()
        await scenario.components.reconciler.reconcile("reconcile")
        await scenario.components.protector.check()
        scenario.components.ledger.changed.version += 1  # so that the tables are asked
        await scenario.components.stop_monitor.tick()
        questions = {text for text in counter.proxy.statements if any(name in text for name in LARGE)}
        assert len(questions) >= 6
        await scenario.conn.execute(PLAN_OF)
        for question in questions:
            # A bound in time is judged at its value, as it is in the daemon; every other argument is a key.
            text = question.replace("created_at >= $1", "created_at >= timestamptz '2026-03-01'")
            plan = orjson.loads(await scenario.conn.fetchval("SELECT pg_temp.plan_of($1)", text))
            assert not set(scanned_tables(plan)) & LARGE, text


async def test_busy_day_with_long_history_scans_no_large_table(database: str) -> None:
    """A hundred orders of today beside thousands of months: to read all executions, or every security there is, looks
    cheaper to a planner than a hundred keys do, and is four times dearer. It is not left the choice."""
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
            for dear, tables in (
                (None, {*LARGE, "securities"}),
                (4, LARGE),
            ):  # as it is set, and as it is by default
                if dear is not None:
                    await conn.execute(f"SET random_page_cost = {dear}")
                for question, arguments in (
                    (reconciliation._ORDERS_TO_COMPARE, (ids,)),
                    (reconciliation._HOLDINGS, (since,)),
                    (reconciliation._CONTRADICTIONS, (since, since + A_DAY)),
                ):
                    plan = orjson.loads(await conn.fetchval(f"EXPLAIN (FORMAT JSON) {question}", *arguments))
                    assert not set(scanned_tables(plan)) & tables, question
    finally:
        await store.close()


def scanned_tables(plan: Any) -> Iterator[str]:
    """The tables that a plan reads from end to end."""
    if isinstance(plan, list):
        for each in plan:
            yield from scanned_tables(each)
    elif isinstance(plan, dict):
        if plan.get("Node Type") == "Seq Scan":
            yield plan["Relation Name"]
        for each in plan.values():
            yield from scanned_tables(each)
