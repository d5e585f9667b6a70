"""A database of the earlier Catalyst (v6): the tables, columns and scripts of its documents, with 83 orders.

16 positions are open and 67 closed, long and short. The scripts of its phases 1 and 2 lead to each later state.
"""

import asyncpg

# The columns that its documents read and write.
DDL = """
    CREATE TABLE sectors (sector_id SERIAL PRIMARY KEY, name VARCHAR(50));
    CREATE TABLE securities (
        security_id SERIAL PRIMARY KEY, symbol VARCHAR(10) UNIQUE, name VARCHAR(200), exchange VARCHAR(20),
        sector_id INTEGER REFERENCES sectors, is_active BOOLEAN
    );
    CREATE TABLE time_dimension (
        time_id BIGSERIAL PRIMARY KEY, timestamp TIMESTAMP WITH TIME ZONE UNIQUE, date DATE, year INTEGER,
        month INTEGER, day INTEGER, day_of_week INTEGER, hour INTEGER, minute INTEGER, is_market_hours BOOLEAN,
        is_trading_day BOOLEAN
    );
    CREATE TABLE trading_cycles (
        cycle_id VARCHAR(20) PRIMARY KEY, cycle_date DATE, mode VARCHAR(20), status VARCHAR(20),
        max_positions INTEGER, max_daily_loss DECIMAL(12, 2), scan_frequency INTEGER,
        start_time TIMESTAMP WITH TIME ZONE, end_time TIMESTAMP WITH TIME ZONE, started_at TIMESTAMP WITH TIME ZONE,
        stopped_at TIMESTAMP WITH TIME ZONE, updated_at TIMESTAMP WITH TIME ZONE
    );
    CREATE TABLE positions (
        position_id SERIAL PRIMARY KEY, cycle_id VARCHAR(20) REFERENCES trading_cycles,
        security_id INTEGER REFERENCES securities, side VARCHAR(10), quantity INTEGER, entry_price DECIMAL(12, 4),
        exit_price DECIMAL(12, 4), stop_loss DECIMAL(12, 4), take_profit DECIMAL(12, 4),
        entry_time TIMESTAMP WITH TIME ZONE, closed_at TIMESTAMP WITH TIME ZONE, status VARCHAR(20),
        realized_pnl DECIMAL(12, 2), unrealized_pnl DECIMAL(12, 2), close_reason VARCHAR(255),
        alpaca_order_id VARCHAR(100), alpaca_status VARCHAR(50), updated_at TIMESTAMP WITH TIME ZONE
    );
    CREATE INDEX IF NOT EXISTS idx_positions_close_reason ON positions(close_reason) WHERE close_reason IS NOT NULL;
    CREATE TABLE scan_results (
        id SERIAL PRIMARY KEY, cycle_id VARCHAR(20), security_id INTEGER REFERENCES securities,
        scan_time_id BIGINT REFERENCES time_dimension, rank INTEGER, price DECIMAL(12, 4), volume BIGINT,
        composite_score DECIMAL(6, 4), status VARCHAR(20)
    );
    CREATE TABLE risk_events (
        event_id SERIAL PRIMARY KEY, cycle_id VARCHAR(20), event_type VARCHAR(50), severity VARCHAR(20), message TEXT,
        occurred_at TIMESTAMP WITH TIME ZONE
    );
    CREATE FUNCTION get_or_create_security(p_symbol VARCHAR(10)) RETURNS INTEGER LANGUAGE plpgsql AS $$
    BEGIN
        RETURN (SELECT security_id FROM securities WHERE symbol = UPPER(p_symbol));
    END $$;
"""

# 8 symbols; every third position is short. Positions 1 to 67 are closed, 68 to 83 open: two of each symbol, one long
# and one short.
ROWS = """
    INSERT INTO sectors (name) VALUES ('Technology'), ('Financial');
    INSERT INTO securities (symbol, exchange, sector_id, is_active)
    SELECT s, 'NASDAQ', 1 + n % 2, true
      FROM unnest(ARRAY['AAPL', 'MSFT', 'TSLA', 'NVDA', 'AMD', 'INTC', 'JPM', 'BAC']) WITH ORDINALITY AS x (s, n);
    INSERT INTO securities (symbol, exchange, is_active) VALUES ('aapl', 'UNKNOWN', true);
    INSERT INTO time_dimension (timestamp, date, is_market_hours, is_trading_day)
    SELECT t, t::date, true, true
      FROM unnest(ARRAY['2025-12-01 14:30:05+00', '2025-12-01 14:30:40+00', '2025-12-01 21:30:00+00']::timestamptz[]) t;
    INSERT INTO trading_cycles (cycle_id, cycle_date, mode, status, max_positions, max_daily_loss, scan_frequency,
                                start_time, end_time, started_at, stopped_at, updated_at)
    SELECT to_char(d, 'YYYYMMDD') || '-143000', d, CASE WHEN n = 3 THEN 'autonomous' ELSE 'normal' END,
           CASE WHEN n = 2 THEN 'failed' WHEN n = 10 THEN 'monitoring' ELSE 'completed' END, 5, 2000, 300,
           d + time '14:30', d + time '21:00', d + time '14:30', d + time '21:00', d + time '21:00'
      FROM generate_series(1, 10) n, LATERAL (SELECT date '2025-12-01' + n - 1 AS d) x;
    -- A second cycle of one date, begun after the first.
    INSERT INTO trading_cycles (cycle_id, cycle_date, mode, status, max_positions, max_daily_loss, scan_frequency,
                                start_time, end_time, updated_at)
    VALUES ('20251201-160000', '2025-12-01', 'normal', 'completed', 5, 2000, 300, '2025-12-01 16:00+00',
            '2025-12-01 21:00+00', '2025-12-01 21:00+00');
    INSERT INTO positions (cycle_id, security_id, side, quantity, entry_price, stop_loss, take_profit, entry_time,
                           status, alpaca_order_id, alpaca_status, updated_at, realized_pnl, unrealized_pnl)
    SELECT CASE WHEN n % 10 = 0 THEN '20251201-160000' ELSE to_char(d, 'YYYYMMDD') || '-143000' END, 1 + n % 8,
           CASE WHEN n <= 67 THEN CASE n % 3 WHEN 0 THEN 'short' ELSE 'long' END
                WHEN n <= 75 THEN 'long' ELSE 'short' END,
           10 + n, 100 + n + 0.25, 98, 112, d + time '15:00', 'open', 'alp-' || n, 'filled', d + time '15:05', 0,
           CASE WHEN n > 67 THEN 1.11 END
      FROM generate_series(1, 83) n, LATERAL (SELECT date '2025-12-01' + n % 10 AS d) x;
    UPDATE positions SET status = 'closed', exit_price = entry_price + position_id % 7 - 3,
           realized_pnl = CASE side WHEN 'long' THEN 1 ELSE -1 END * (position_id % 7 - 3) * quantity + 0.01,
           closed_at = entry_time + interval '1 hour', close_reason = 'STOP_LOSS_HIT: at its stop'
     WHERE position_id <= 67;
    INSERT INTO scan_results (cycle_id, security_id, scan_time_id, rank, price, volume, composite_score, status)
    SELECT '20251201-160000', CASE n WHEN 1 THEN 9 ELSE n END, n, n, 100, 1000000, 0.8, 'candidate'
      FROM generate_series(1, 3) n;
    INSERT INTO risk_events (cycle_id, event_type, severity, message, occurred_at)
    VALUES ('20251201-160000', 'daily_loss_warning', 'warning', '75 % of the limit', '2025-12-01 17:00+00');
"""

# Attempts: positions whose order never filled, as v6 stored them.
ATTEMPTS = """
    INSERT INTO positions (cycle_id, security_id, side, quantity, entry_price, entry_time, status, alpaca_order_id,
                           alpaca_status, updated_at)
    SELECT '20251201-143000', 1, 'long', 10, 100, '2025-12-01 15:00+00', p, 'att-' || a, a, '2025-12-01 15:05+00'
      FROM (VALUES ('cancelled', 'canceled'), ('failed', 'rejected'), ('cancelled', 'expired'),
                   ('open', 'not_found'), ('open', 'what_is_this')) AS v (p, a);
"""

ORDERS_TABLE = """
    CREATE TABLE orders (
        order_id SERIAL PRIMARY KEY, position_id INTEGER REFERENCES positions, cycle_id VARCHAR(20),
        security_id INTEGER REFERENCES securities, parent_order_id INTEGER REFERENCES orders, side VARCHAR(10),
        order_type VARCHAR(20), quantity INTEGER, limit_price DECIMAL(12, 4), stop_price DECIMAL(12, 4),
        alpaca_order_id VARCHAR(100), status VARCHAR(20), filled_qty INTEGER, filled_avg_price DECIMAL(12, 4),
        submitted_at TIMESTAMP WITH TIME ZONE, filled_at TIMESTAMP WITH TIME ZONE,
        created_at TIMESTAMP WITH TIME ZONE, updated_at TIMESTAMP WITH TIME ZONE
    );
"""
# Phase 1 gave each order the side of an entry.
MIGRATE_ORDERS = """
    INSERT INTO orders (position_id, cycle_id, security_id, side, order_type, quantity, alpaca_order_id, status,
                        filled_qty, filled_avg_price, submitted_at, filled_at, created_at, updated_at)
    SELECT p.position_id, p.cycle_id, p.security_id, CASE WHEN p.side = 'long' THEN 'buy' ELSE 'sell' END, 'market',
           p.quantity, p.alpaca_order_id, p.alpaca_status, CASE p.alpaca_status WHEN 'filled' THEN p.quantity END,
           CASE p.alpaca_status WHEN 'filled' THEN p.entry_price END, p.entry_time, p.entry_time, p.entry_time,
           p.updated_at
      FROM positions p WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.alpaca_order_id = p.alpaca_order_id)
       AND ($1::int IS NULL OR p.position_id <= $1) ORDER BY p.position_id;
"""
# Exits of two closed positions and the legs of an open one, with the wrong sides of phase 1; the legs have no position.
LATER_ORDERS = """
    INSERT INTO orders (position_id, security_id, side, order_type, quantity, alpaca_order_id, status, filled_qty,
                        filled_avg_price, created_at, submitted_at, updated_at)
    SELECT p.position_id, p.security_id, CASE WHEN p.side = 'long' THEN 'buy' ELSE 'sell' END, 'market', p.quantity,
           'exit-' || p.position_id, 'filled', p.quantity, p.exit_price, p.closed_at, p.closed_at, p.closed_at
      FROM positions p WHERE p.position_id IN (2, 3);
    INSERT INTO orders (position_id, parent_order_id, security_id, side, order_type, quantity, limit_price, stop_price,
                        alpaca_order_id, status, created_at, submitted_at, updated_at)
    SELECT NULL, o.order_id, o.security_id, 'buy', v.type, o.quantity, v.limit_price, v.stop_price, v.id, v.status,
           o.created_at, o.created_at, o.created_at
      FROM orders o, (VALUES ('stop', NULL, 98, 'leg-stop', 'held'), ('limit', 300, NULL, 'leg-target', 'new'))
           AS v (type, limit_price, stop_price, id, status)
     WHERE o.alpaca_order_id = 'alp-70';
    -- An order of nobody's position.
    INSERT INTO orders (security_id, side, order_type, quantity, alpaca_order_id, status, created_at)
    VALUES (1, 'sell', 'limit', 5, 'alone', 'canceled', '2025-12-02 15:00+00');
"""
PURPOSES = """
    ALTER TABLE orders ADD COLUMN IF NOT EXISTS order_purpose VARCHAR(20);
    UPDATE orders o SET order_purpose = 'entry'
     WHERE order_purpose IS NULL AND (o.order_id = (SELECT MIN(o2.order_id) FROM orders o2
                                                     WHERE o2.position_id = o.position_id)
                                      OR o.position_id IS NULL);
"""
OTHER_PURPOSES = """
    UPDATE orders o SET order_purpose = 'exit' WHERE order_purpose IS NULL AND o.position_id IS NOT NULL;
    UPDATE orders o
    SET order_purpose = CASE
        WHEN o.order_type = 'stop' OR o.order_type = 'stop_limit' THEN 'stop_loss'
        WHEN o.order_type = 'limit' AND o.parent_order_id IS NOT NULL THEN 'take_profit'
        ELSE o.order_purpose
    END
    WHERE o.parent_order_id IS NOT NULL;
    UPDATE orders o SET side = 'sell' FROM positions p
     WHERE o.position_id = p.position_id AND o.order_purpose = 'exit' AND p.side = 'long' AND o.side = 'buy';
    UPDATE orders o SET side = 'buy' FROM positions p
     WHERE o.position_id = p.position_id AND o.order_purpose = 'exit' AND p.side = 'short' AND o.side = 'sell';
"""
DROP_ONE = "ALTER TABLE positions DROP COLUMN IF EXISTS alpaca_status;"
DROP_BOTH = DROP_ONE + "ALTER TABLE positions DROP COLUMN IF EXISTS alpaca_order_id;"

# Each state by the scripts that lead to it; a number is the last position whose order phase 1 had copied.
STATES: dict[str, tuple[str | int | None, ...]] = {
    "v6": (),
    "phase_1_table_only": (ORDERS_TABLE,),
    "phase_1_half": (ORDERS_TABLE, 40),
    "phase_1": (ORDERS_TABLE, None, LATER_ORDERS),
    "phase_2_column_only": (
        ORDERS_TABLE,
        None,
        LATER_ORDERS,
        "ALTER TABLE orders ADD COLUMN order_purpose VARCHAR(20)",
    ),
    "phase_2_half": (ORDERS_TABLE, None, LATER_ORDERS, PURPOSES),
    "phase_2_sides": (ORDERS_TABLE, None, LATER_ORDERS, PURPOSES, OTHER_PURPOSES),
    "phase_2_one_column": (ORDERS_TABLE, None, LATER_ORDERS, PURPOSES, OTHER_PURPOSES, DROP_ONE),
    "phase_2": (ORDERS_TABLE, None, LATER_ORDERS, PURPOSES, OTHER_PURPOSES, DROP_BOTH),
}


async def create(conn: "asyncpg.Connection[asyncpg.Record]", state: str, *, attempts: bool = False) -> None:
    """Create the earlier database in one of its states."""
    await conn.execute(DDL)
    await conn.execute(ROWS)
    if attempts:
        await conn.execute(ATTEMPTS)
    for script in STATES[state]:
        if isinstance(script, str):
            await conn.execute(script)
        else:
            await conn.execute(MIGRATE_ORDERS.replace("$1", str(script) if script else "NULL"))


async def digest(conn: "asyncpg.Connection[asyncpg.Record]", schema: str = "public") -> dict[str, str]:
    """Return the columns and a hash of the rows of each table, the columns of each view, and the functions."""
    found = {}
    for row in await conn.fetch(
        "SELECT c.oid, relname, relkind, (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ',' "
        "ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped) AS columns "
        "FROM pg_class c WHERE relnamespace = to_regnamespace($1) AND relkind IN ('r', 'v', 'S', 'i')",
        schema,
    ):
        rows = (
            await conn.fetchval(
                f"SELECT md5(coalesce(string_agg(t::text, '|' ORDER BY t::text), '')) FROM {schema}.{row['relname']} t"
            )
            if row["relkind"] == b"r"
            else ""
        )
        found[row["relname"]] = f"{row['relkind']!r} {row['columns']} {rows}"
    for row in await conn.fetch(
        "SELECT proname, md5(prosrc) AS source FROM pg_proc WHERE pronamespace = to_regnamespace($1)", schema
    ):
        found[f"{row['proname']}()"] = row["source"]
    return found
