-- The upgrade of the earlier Catalyst's database, and the names that its saved queries use.

-- One row per upgrade; catalyst migrate writes it. The old tables are in the schema "legacy" until finalized_at.
CREATE TABLE legacy_upgrades (
    upgraded_at  timestamptz PRIMARY KEY,
    found        text        NOT NULL,             -- the state in which the database was found
    backup       text        NOT NULL,
    counts       jsonb       NOT NULL,             -- what was compared: rows and sums before and after
    finalized_at timestamptz
);

-- Columns are only added at the end: CREATE OR REPLACE keeps the grants.
CREATE OR REPLACE VIEW v_trading_cycles_legacy AS
SELECT cycle_id, cycle_date, mode, status, max_positions, max_daily_loss, scan_frequency,
       started_at, stopped_at, realized_pnl, daily_pnl,
       cycle_date AS date, status AS cycle_state, status AS phase
  FROM trading_cycles;

CREATE VIEW v_scan_results_legacy AS
SELECT r.scan_result_id AS id, s.cycle_id, r.security_id, r.rank_in_scan AS rank, r.price, r.volume,
       r.composite_score, r.status
  FROM scan_results r JOIN scans s USING (scan_id);
