"""What the loops ask of the tables and of the broker, counted: as few questions for much as for little."""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson

from benchmarks._floor import fill_with_past
from catalyst.clock import SystemClock
from catalyst.store import invariant_checks, journal, reconciliation, report_writes
from catalyst.store.pool import open_store
from tests.daemon.test_order_query_counts import counted
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


async def test_a_reconciliation_asks_the_same_few_questions_however_much_is_open(database: str) -> None:
    """One bracket or three: as many statements, as many requests, and nothing is written when nothing is new."""
    async with counted(database) as (desk, counter):
        assert desk.parts is not None
        asked = []
        for symbol in ("MSFT", "AAPL", "TSLA"):
            if desk.held(symbol) == 0:
                desk.prints(symbol, "190.00")
                await desk.waits(seconds=1)
                await desk.enters(symbol, 10, **ENTRY)
                await desk.waits(seconds=3)
            assert (await desk.parts.reconciler.look("reconcile")).clean
            await counter.begins()
            assert (await desk.parts.reconciler.look("reconcile", whole=False)).clean
            asked.append(counter.steps("GET"))
            assert len(counter.asked()) <= STATEMENTS
            assert await counter.written() == 0
        assert [sorted(request.split("?")[0] for request in each) for each in asked] == [REQUESTS] * 3


async def test_no_loop_asks_for_what_another_has_just_heard(database: str) -> None:
    """Ten minutes in which nothing happens: the account and the broker's clock once a minute between the loops, the
    ledger and what works of earlier days every few; the ledger at once when an order has filled more."""
    async with counted(database) as (desk, counter):
        await desk.waits(seconds=90)
        await counter.begins()
        await desk.waits(minutes=10)
        asked = Counter(request.split("?")[0] for request in counter.steps("GET"))
        assert (asked["GET /account"], asked["GET /clock"]) == (10, 10)
        assert asked["GET /account/activities/FILL"] == 2
        await desk.enters("AAPL", 10, **ENTRY)
        await counter.begins()
        await desk.waits(seconds=65)
        assert "GET /account/activities/FILL" in counter.steps("GET")
        row = await desk.conn.fetchrow("SELECT count(*) AS n, count(activity_id) AS told FROM executions")
        assert row is not None
        assert row["n"] == row["told"] == 2


async def test_a_tick_of_the_stop_monitor_asks_nobody_anything(database: str) -> None:
    """One position or three: as long as nothing is through a level, no statement, no request and no commit; what is
    held is reread when the books say that something has changed, by two statements whatever there is of it."""
    async with counted(database) as (desk, counter):
        assert desk.parts is not None
        monitor, books = desk.parts.stop_monitor, desk.parts.books
        for symbol in ("MSFT", "AAPL", "TSLA"):
            desk.prints(symbol, "190.00")
            await desk.waits(seconds=1)
            if desk.held(symbol) == 0:
                await desk.enters(symbol, 10, **ENTRY)
                await desk.waits(seconds=3)
            await monitor.ask()
            await counter.begins()
            await monitor.tick()
            assert (counter.steps("GET"), counter.asked(), await counter.written()) == ([], [], 0)
        books.changed.count += 1  # a change at which nobody else has looked yet
        await monitor.tick()
        assert (counter.steps("GET"), len(counter.asked()), await counter.written()) == ([], 2, 0)


async def test_prices_are_two_requests_and_a_commit_only_when_one_has_changed(database: str) -> None:
    """One position or three: the prints and the quotes of all of it, and one statement for the marks that differ from
    what was written; a mark that stays the same is written again before it looks old."""
    async with counted(database) as (desk, counter):
        assert desk.parts is not None
        monitor = desk.parts.stop_monitor
        asked = []
        for symbol in ("MSFT", "AAPL", "TSLA"):
            desk.prints(symbol, "190.00")
            await desk.waits(seconds=1)
            if desk.held(symbol) == 0:
                await desk.enters(symbol, 10, **ENTRY)
                await desk.waits(seconds=3)
            await monitor.ask()
            desk.prints(symbol, "190.02")
            await desk.waits(seconds=1)
            for changed in (True, False):
                await counter.begins()
                await monitor.ask()
                assert await counter.written() == changed
                asked.append((len(counter.steps("GET")), len(counter.asked())))
            row = await desk.position(symbol)
            assert row is not None
            assert row["last_price"] == Decimal("190.01")  # the bid
        assert asked == [(2, 1), (2, 0)] * 3
        for symbol in ("MSFT", "AAPL", "TSLA"):
            desk.prints(symbol, "190.02", after=301)
        before = await desk.position("MSFT")
        await desk.waits(seconds=330)
        after = await desk.position("MSFT")
        assert before is not None
        assert after is not None
        assert (after["last_price"], after["updated_at"] > before["updated_at"]) == (
            before["last_price"],
            True,
        )


async def test_the_order_path_never_reads_a_table_through(database: str) -> None:
    """Plans made while the tables are empty are kept while they grow: on the lane of the orders they go by an index,
    the guards' own questions included, so that an order among thousands costs what the first did."""
    store = await open_store(database, SystemClock())
    try:
        async with store.read() as conn:
            await conn.execute("VACUUM (ANALYZE)")  # it is known that they are empty
        async with store.stroke("a question") as conn:
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
                await report_writes.follow(conn, [], [], at=SystemClock().now(), source="poll", epoch=0)
            await conn.execute(PLAN_OF)
            stroke = await conn.fetchval("SELECT pg_temp.plan_of($1)", said[-1])
        assert all("Index" in plan and "Seq Scan" not in plan for plan in plans)
        assert not {"Hash Join", "Merge Join"} & set(re.findall(r'"Node Type": "([\w ]+)"', stroke))
    finally:
        await store.close()


async def test_the_past_that_is_measured_beside_is_whole(database: str) -> None:
    """Books of earlier years as the benchmarks make them: no invariant falls, and the chain holds up to the proof."""
    await fill_with_past(database, 100)
    store = await open_store(database, SystemClock())
    try:
        async with store.read() as conn:
            assert await invariant_checks.violations(conn, since=0) == []
            assert await journal.verify(conn) == await journal.last_anchor(conn)
            assert (await journal.last_anchor(conn)).link == 300
    finally:
        await store.close()


async def test_what_has_ended_is_never_read_through(database: str) -> None:
    """With a day's few orders beside the many of years, a whole look of the reconciler, of the guard and of the stop
    monitor scans no table of theirs: what is at its end is not there for them."""
    await fill_with_past(database, CLOSED)
    async with counted(database) as (desk, counter):
        assert desk.parts is not None
        await counter.begins()
        await desk.parts.reconciler.look("reconcile")
        await desk.parts.guard.look()
        desk.parts.books.changed.count += 1  # so that the tables are asked
        await desk.parts.stop_monitor.tick()
        questions = {text for text in counter.proxy.asked if any(name in text for name in LARGE)}
        assert len(questions) >= 6
        await desk.conn.execute(PLAN_OF)
        for question in questions:
            # A bound in time is judged at its value, as it is in the daemon; every other argument is a key.
            text = question.replace("created_at >= $1", "created_at >= timestamptz '2026-03-01'")
            plan = orjson.loads(await desk.conn.fetchval("SELECT pg_temp.plan_of($1)", text))
            assert not set(read_through(plan)) & LARGE, text


async def test_a_busy_day_beside_months_reads_no_table_through(database: str) -> None:
    """A hundred orders of today beside thousands of months: to read all executions, or every security there is, looks
    cheaper to a planner than a hundred keys do, and is four times dearer. It is not left the choice."""
    await fill_with_past(database, CLOSED)
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
                    (reconciliation._TO_JUDGE, (ids,)),
                    (reconciliation._HOLDINGS, (since,)),
                    (reconciliation._FLAWS, (since, since + A_DAY)),
                ):
                    plan = orjson.loads(await conn.fetchval(f"EXPLAIN (FORMAT JSON) {question}", *arguments))
                    assert not set(read_through(plan)) & tables, question
    finally:
        await store.close()


def read_through(plan: Any) -> Iterator[str]:
    """The tables that a plan reads from end to end."""
    if isinstance(plan, list):
        for each in plan:
            yield from read_through(each)
    elif isinstance(plan, dict):
        if plan.get("Node Type") == "Seq Scan":
            yield plan["Relation Name"]
        for each in plan.values():
            yield from read_through(each)
