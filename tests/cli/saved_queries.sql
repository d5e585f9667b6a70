-- The queries of the earlier system's documents. A query that does not run on the new tables is followed by the one
-- to use instead.

SELECT COUNT(*) as orders_migrated FROM orders;

SELECT COUNT(*) FROM trading_cycles;

SELECT COUNT(*) FROM positions WHERE status = 'open';

SELECT DISTINCT order_purpose FROM orders;

SELECT order_purpose, side, COUNT(*) as count
  FROM orders
  GROUP BY order_purpose, side
  ORDER BY order_purpose, side;

SELECT * FROM v_trade_pipeline_status LIMIT 1;

SELECT * FROM v_trade_pipeline_status WHERE cycle_date = CURRENT_DATE ORDER BY cycle_start DESC LIMIT 1;

SELECT cycle_id, mode, status, started_at FROM trading_cycles WHERE cycle_id = '20251201-143000';

SELECT id, rank, price, volume, composite_score
  FROM scan_results
  WHERE cycle_id = '20251201-143000'
  ORDER BY rank LIMIT 5;
-- instead:
SELECT id, rank, price, volume, composite_score
  FROM v_scan_results_legacy
  WHERE cycle_id = '20251201-143000'
  ORDER BY rank LIMIT 5;

SELECT cycle_id, mode, status, started_at, stopped_at, (stopped_at - started_at) as duration
  FROM trading_cycles
  ORDER BY started_at DESC LIMIT 10;

SELECT COUNT(*) as total_positions, SUM(CASE WHEN realized_pnl > 0 THEN 1 ELSE 0 END) as winners, SUM(CASE WHEN realized_pnl < 0 THEN 1 ELSE 0 END) as losers, ROUND(AVG(realized_pnl), 2) as avg_pnl, ROUND(SUM(realized_pnl), 2) as total_pnl
  FROM positions
  WHERE status = 'closed'
  AND DATE(entry_time) >= CURRENT_DATE - INTERVAL '7 days';

SELECT cycle_id, date, cycle_state, phase, daily_pnl FROM trading_cycles;
-- instead:
SELECT cycle_id, date, cycle_state, phase, daily_pnl FROM v_trading_cycles_legacy;

SELECT event_type, severity, message, occurred_at FROM risk_events ORDER BY occurred_at DESC LIMIT 20;

SELECT o.order_id, o.position_id, o.alpaca_order_id, s.symbol, o.status, o.side, o.order_type, o.order_purpose, o.quantity, o.submitted_at, EXTRACT(EPOCH
  FROM (NOW() - o.submitted_at))/60 as minutes_pending
  FROM orders o
  JOIN securities s ON o.security_id = s.security_id
  WHERE o.status IN ('submitted', 'pending_new', 'accepted', 'new', 'created')
  AND o.submitted_at < NOW() - INTERVAL '5 minutes';

SELECT p.position_id, s.symbol, p.quantity, p.side, p.status
  FROM positions p
  JOIN securities s ON p.security_id = s.security_id
  WHERE p.status = 'open'
  AND p.quantity > 0;

SELECT o.order_id, o.alpaca_order_id, o.status as db_status, o.filled_qty as db_filled, o.updated_at, s.symbol
  FROM orders o
  JOIN securities s ON o.security_id = s.security_id
  WHERE o.alpaca_order_id IS NOT NULL
  AND o.status NOT IN ('filled', 'cancelled', 'rejected', 'expired')
  AND o.updated_at < NOW() - INTERVAL '1 minute'
  ORDER BY o.submitted_at;

SELECT p.position_id, s.symbol, p.entry_price, p.unrealized_pnl, p.updated_at, EXTRACT(EPOCH
  FROM (NOW() - p.updated_at))/60 as minutes_since_update
  FROM positions p
  JOIN securities s ON p.security_id = s.security_id
  WHERE p.status = 'open'
  AND p.updated_at < NOW() - INTERVAL '10 minutes';

SELECT p.position_id, p.alpaca_order_id, s.symbol, p.quantity, p.entry_price, p.stop_loss, p.take_profit, p.side
  FROM positions p
  JOIN securities s ON s.security_id = p.security_id
  WHERE p.status = 'open'
  AND p.stop_loss IS NOT NULL;
-- instead:
SELECT p.position_id, o.alpaca_order_id, s.symbol, p.quantity, p.entry_price, p.stop_loss, p.take_profit, p.side
  FROM positions p
  JOIN securities s ON s.security_id = p.security_id
  LEFT JOIN orders o ON o.position_id = p.position_id
  AND o.order_purpose = 'entry'
  WHERE p.status = 'open'
  AND p.stop_loss IS NOT NULL;

SELECT proname, prosrc
  FROM pg_proc
  WHERE proname IN ('get_or_create_security', 'get_or_create_time')
  AND pronamespace = 'public'::regnamespace;

SELECT get_or_create_security('aapl'), get_or_create_time('2025-12-01 14:30:05+00');

SELECT schemaname, tablename, pg_size_pretty(pg_total_relation_size(schemaname||'.'||tablename)) AS size
  FROM pg_tables
  WHERE schemaname = 'public'
  ORDER BY pg_total_relation_size(schemaname||'.'||tablename) DESC;

SELECT count(*) as connections FROM pg_stat_activity WHERE datname = current_database();

SELECT query, calls, total_time, mean_time FROM pg_stat_statements ORDER BY total_time DESC LIMIT 10;
-- instead:
SELECT query, calls, total_exec_time, mean_exec_time
  FROM pg_stat_statements
  ORDER BY total_exec_time DESC LIMIT 10;
