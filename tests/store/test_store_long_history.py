"""A long history does not slow the day: frequent queries do not scan past rows."""

from datetime import timedelta

import pytest
from store.raw_rows import AT, CYCLE, RawRows

from catalyst.store import orders, positions, reconciliation

PAST_ORDERS = 20_000


@pytest.fixture
async def history(raw_rows: RawRows) -> RawRows:
    """Insert twenty thousand terminal orders with as many closed positions, one open position and one open
    order."""
    async with raw_rows.conn.transaction():
        await raw_rows.conn.execute("SET LOCAL session_replication_role = replica")
        await raw_rows.conn.execute(
            """
            INSERT INTO positions (cycle_id, security_id, side, quantity, entered_qty, entry_price, cost, entry_time,
                                   exit_time, status, close_reason, updated_at)
            SELECT $1, 1, 'long', 0, 100, 190, 19000, $2, $2, 'closed', 'MARKET_CLOSE', $2
              FROM generate_series(1, $3::int)
            """,
            CYCLE,
            AT,
            PAST_ORDERS,
        )
        await raw_rows.conn.execute(
            """
            INSERT INTO orders (client_order_id, alpaca_order_id, cycle_id, security_id, position_id, order_purpose,
                                position_side, side, order_type, time_in_force, quantity, filled_qty, status, epoch,
                                created_at, updated_at, closed_at)
            SELECT 'past-' || n, 'b-' || n, $1, 1, n, 'exit', 'long', 'sell', 'market', 'day', 100, 100, 'filled', 1,
                   $2, $2, $2
              FROM generate_series(1, $3::int) n
            """,
            CYCLE,
            AT,
            PAST_ORDERS,
        )
        await raw_rows.conn.execute(
            """
            INSERT INTO executions (order_id, cum_qty, quantity, price, at, source)
            SELECT order_id, 100, 100, 191, $1, 'stream' FROM orders
            """,
            AT,
        )
        await raw_rows.conn.execute(
            """
            INSERT INTO order_events (order_id, at, source, kind, to_status)
            SELECT order_id, $1, 'stream', 'transition', step
              FROM orders, unnest(ARRAY['created', 'submitted', 'filled']) AS step
            """,
            AT,
        )
    await raw_rows.insert_position(symbol="MSFT")
    await raw_rows.insert_order()
    await raw_rows.conn.execute("ANALYZE")
    return raw_rows


async def test_daily_queries_scan_no_history(history: RawRows):
    """No plan of a daily query scans past orders, fills, journal rows or positions."""
    exits = await history.conn.fetchval("SELECT prosrc FROM pg_proc WHERE proname = 'open_exit_quantity'")
    queries: list[tuple[str, list[object]]] = [
        (orders._WORKING, []),
        (orders._OF_SYMBOL_WORKING, ["AAPL"]),
        (orders._LOCK_BY_REPORTS, [["b-17"], ["past-17"]]),
        (orders._OF_POSITION, [17]),
        (orders._LEGS, [17]),
        (positions._OPEN, []),
        (positions._LOCK_OPEN, ["AAPL", "long"]),
        (exits.replace("p_position_id", "$1"), [17]),
        ("SELECT * FROM v_open_risk", []),
        ("SELECT sum(quantity) FROM executions WHERE order_id = $1", [17]),
        ("SELECT to_status FROM order_events WHERE order_id = $1 ORDER BY seq DESC LIMIT 1", [17]),
    ]
    await history.conn.execute("SET plan_cache_mode = force_generic_plan")
    for sql, arguments in queries:
        plan = "\n".join(line[0] for line in await history.conn.fetch(f"EXPLAIN {sql}", *arguments))
        for table in ("orders", "positions", "executions", "order_events"):
            assert f"Seq Scan on {table}" not in plan, (sql, plan)


async def test_reconciliation_queries_scan_no_history(history: RawRows):
    """No plan of a reconciliation query scans them, a day later."""
    later = AT + timedelta(days=1)
    queries: list[tuple[str, list[object]]] = [
        (reconciliation._ORDERS_TO_COMPARE, [["b-17", "b-18"]]),
        (reconciliation._HOLDINGS, [later]),
        (reconciliation._CONTRADICTIONS, [later, later + timedelta(hours=1)]),
        ("SELECT activity_id FROM executions WHERE activity_id = ANY($1::text[])", [["a-17"]]),
    ]
    await history.conn.execute("SET plan_cache_mode = force_custom_plan")
    for sql, arguments in queries:
        plan = "\n".join(line[0] for line in await history.conn.fetch(f"EXPLAIN {sql}", *arguments))
        of_one_cycle = sql == reconciliation._CONTRADICTIONS  # all of these positions belong to this cycle
        for table in ("orders", "executions", "order_events", *(() if of_one_cycle else ("positions",))):
            assert f"Seq Scan on {table}" not in plan, (sql, plan)
