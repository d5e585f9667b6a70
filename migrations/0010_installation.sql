-- The installation, and what positions of earlier days had made when the day began.

-- Part of every client order id: it tells our orders from those of another Catalyst on the same account. The first
-- start sets it; a restored database keeps it.
ALTER TABLE daemon ADD COLUMN installation text CHECK (installation ~ '^[0-9a-f]{6}$');

-- Dollars, realized and unrealized, of the positions that were open from earlier days when this day began. What they
-- make beyond it belongs to this day.
ALTER TABLE trading_cycles ADD COLUMN carried_pnl numeric NOT NULL DEFAULT 0;

-- Dollars of the day's transfers, fees, dividends and interest that start_equity contains; null when they could not be
-- read.
ALTER TABLE trading_cycles ADD COLUMN start_transfers numeric;
