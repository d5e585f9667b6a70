-- The installation, and what positions of earlier days had made when the day began.

-- Part of every client order id: it tells our orders from those of another Catalyst on the same account. The first
-- start sets it; a restored database keeps it.
ALTER TABLE daemon ADD COLUMN installation text CHECK (installation ~ '^[0-9a-f]{6}$');

-- Dollars, realized and unrealized, that a position of an earlier day had made when the last day began, or when it was
-- found: what it makes beyond them belongs to that day. Null: not carried, or closed before this column existed.
ALTER TABLE positions ADD COLUMN carried_pnl numeric;
UPDATE positions SET carried_pnl = realized_pnl + unrealized_pnl WHERE status = 'open' AND carried;

-- Dollars of the day's transfers, fees, dividends and interest that start_equity contains; null when they could not be
-- read.
ALTER TABLE trading_cycles ADD COLUMN start_transfers numeric;

-- Orders that are not ours are few; each start asks which of them are another Catalyst's.
CREATE INDEX orders_external ON orders (created_at) WHERE origin = 'external';
