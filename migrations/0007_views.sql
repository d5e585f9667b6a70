-- Views for reports and for saved queries.

CREATE VIEW v_trade_pipeline_status AS
SELECT c.cycle_id,
       c.cycle_date,
       c.status     AS cycle_status,
       c.start_time AS cycle_start,
       c.end_time   AS cycle_end,
       c.updated_at AS cycle_updated,
       o.total      AS orders_total,
       o.pending    AS orders_pending,
       o.filled     AS orders_filled,
       o.cancelled  AS orders_cancelled,
       p.total      AS positions_total,
       p.open       AS positions_open,
       p.daily_pnl,
       o.last_order_at
  FROM trading_cycles c
 CROSS JOIN LATERAL (
       SELECT count(*) AS total,
              count(*) FILTER (WHERE status IN ('created', 'submitted', 'accepted', 'partial_fill')) AS pending,
              count(*) FILTER (WHERE status = 'filled') AS filled,
              count(*) FILTER (WHERE status IN ('cancelled', 'rejected', 'expired', 'replaced')) AS cancelled,
              max(created_at) AS last_order_at
         FROM orders WHERE cycle_id = c.cycle_id) o
 CROSS JOIN LATERAL (
       SELECT count(*) AS total,
              count(*) FILTER (WHERE status = 'open') AS open,
              coalesce(sum(realized_pnl + unrealized_pnl), 0) AS daily_pnl
         FROM positions WHERE cycle_id = c.cycle_id) p
 ORDER BY c.cycle_date DESC;

-- Every entry order, with the status that the seeds gave to a position that was never opened.
CREATE VIEW v_trade_attempts AS
SELECT o.order_id,
       o.cycle_id,
       s.symbol,
       o.position_side,
       o.quantity,
       o.filled_qty,
       o.status AS order_status,
       CASE WHEN p.position_id IS NOT NULL THEN p.status
            WHEN o.filled_qty > 0 THEN 'open'
            WHEN o.status = 'rejected' THEN 'failed'
            WHEN o.status IN ('cancelled', 'expired', 'replaced') THEN 'cancelled'
            ELSE 'pending' END AS attempt_status,
       o.position_id,
       o.signal_id,
       coalesce(o.rejection_reason, o.cancel_reason) AS reason,
       o.created_at
  FROM orders o
  JOIN securities s USING (security_id)
  LEFT JOIN positions p ON p.position_id = o.position_id
 WHERE o.order_purpose = 'entry';

-- Every open position with its protection and its worst case.
CREATE VIEW v_open_risk AS
SELECT p.position_id,
       p.cycle_id,
       s.symbol,
       p.side,
       p.quantity,
       p.entry_price,
       p.last_price,
       p.stop_loss,
       p.take_profit,
       coalesce(b.quantity, 0) AS protected_qty,             -- by a working stop at the broker
       greatest(p.quantity - coalesce(b.quantity, 0), 0) AS unprotected_qty,
       b.stop_price AS broker_stop_price,
       open_exit_quantity(p.position_id) AS exiting_qty,
       -- Dollars lost or won if the stop fills at its price; null when there is no stop.
       CASE p.side WHEN 'long' THEN 1 ELSE -1 END * (coalesce(b.stop_price, p.stop_loss) - p.entry_price)
           * p.quantity AS worst_case,
       p.protected_at,
       p.unprotected_seconds,
       p.carried
  FROM positions p
  JOIN securities s USING (security_id)
  LEFT JOIN LATERAL (
       SELECT sum(o.quantity - o.filled_qty) AS quantity,
              CASE p.side WHEN 'long' THEN min(o.stop_price) ELSE max(o.stop_price) END AS stop_price
         FROM orders o LEFT JOIN orders parent ON parent.order_id = o.parent_order_id
        WHERE o.position_id = p.position_id AND o.order_purpose = 'stop_loss'
          AND o.alpaca_order_id IS NOT NULL
          AND o.status IN ('submitted', 'accepted', 'partial_fill')
          AND NOT (coalesce(parent.order_purpose, '') = 'entry' AND parent.filled_qty < parent.quantity)) b ON true
 WHERE p.status = 'open';

-- Column names used by saved queries of the earlier system.
CREATE VIEW v_trading_cycles_legacy AS
SELECT cycle_id, cycle_date, mode, status, max_positions, max_daily_loss, scan_frequency,
       started_at, stopped_at, realized_pnl, daily_pnl
  FROM trading_cycles;
