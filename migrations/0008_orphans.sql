-- Shares the broker holds in a symbol of ours that no position explains, and what they come to.
--
-- They are no position: nothing of ours entered them, and a position without an entry's fill would be an invention.
-- An orphan keeps its own account: what was found, what has left since, and, where every fill of both is known (our
-- own exits sold too much), the result of it.

CREATE TABLE orphans (
    orphan_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cycle_id     text        REFERENCES trading_cycles,
    security_id  integer     NOT NULL REFERENCES securities,
    position_id  bigint      REFERENCES positions,      -- whose exits sold too much
    cause        text        NOT NULL CHECK (cause IN ('oversold', 'unexplained')),
    side         text        NOT NULL CHECK (side IN ('long', 'short')),
    quantity     numeric     NOT NULL CHECK (quantity >= 0 AND quantity < 'Infinity'),  -- still there
    found_qty    numeric     NOT NULL CHECK (found_qty > 0 AND found_qty < 'Infinity'),
    cost         numeric     CHECK (cost > 0 AND cost < 'Infinity'),  -- of found_qty; null: nobody knows
    exited_qty   numeric     NOT NULL DEFAULT 0 CHECK (exited_qty >= 0),
    proceeds     numeric     NOT NULL DEFAULT 0 CHECK (proceeds >= 0 AND proceeds < 'Infinity'),
    realized_pnl numeric,                               -- of what has left; null where the cost is
    stop_price   numeric     CHECK (stop_price > 0),
    protected_at timestamptz,
    found_at     timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    ended_at     timestamptz,
    end_reason       text,
    CHECK ((cause = 'oversold') = (position_id IS NOT NULL)),
    CHECK (cause <> 'oversold' OR cost IS NOT NULL),
    CHECK (realized_pnl IS NULL OR cost IS NOT NULL),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
    CHECK (ended_at IS NULL OR quantity = 0)
);
CREATE UNIQUE INDEX orphans_one_open ON orphans (security_id, side) WHERE ended_at IS NULL;
CREATE INDEX orphans_by_cycle ON orphans (cycle_id);
CREATE INDEX orphans_by_position ON orphans (position_id) WHERE position_id IS NOT NULL;

-- What is sent to protect or to end an orphan is an order like any other, of an origin of its own: it has no position.
ALTER TABLE orders DROP CONSTRAINT orders_origin_check;
ALTER TABLE orders ADD CONSTRAINT orders_origin_check
    CHECK (origin IN ('catalyst', 'broker', 'external', 'outage', 'legacy', 'orphan'));
ALTER TABLE orders ADD CONSTRAINT orders_orphan_has_epoch CHECK (origin <> 'orphan' OR epoch IS NOT NULL);
ALTER TABLE orders ADD CONSTRAINT orders_orphan_is_an_exit
    CHECK (origin <> 'orphan' OR (order_purpose <> 'entry' AND position_id IS NULL));
ALTER TABLE orders ADD CONSTRAINT orders_orphan_on_tick
    CHECK (origin <> 'orphan' OR (is_on_tick(limit_price) AND is_on_tick(stop_price)
           AND is_on_tick(bracket_stop) AND is_on_tick(bracket_target)));
CREATE INDEX orders_of_orphans ON orders (security_id, position_side, created_at) WHERE origin = 'orphan';

-- CT002 for orphans: what is on its way may never take more than is there. The orphan is locked before it is counted.
CREATE FUNCTION check_orphan_exit_qty() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_there numeric;
    v_open  numeric;
BEGIN
    SELECT quantity INTO v_there FROM orphans
     WHERE security_id = NEW.security_id AND side = NEW.position_side AND ended_at IS NULL FOR UPDATE;
    SELECT coalesce(sum(quantity - filled_qty), 0) INTO v_open FROM orders
     WHERE security_id = NEW.security_id AND position_side = NEW.position_side AND origin = 'orphan'
       AND status IN ('created', 'submitted', 'accepted', 'partial_fill');
    IF v_open > coalesce(v_there, 0) THEN
        RAISE EXCEPTION 'exits of an orphan would take %, % are there', v_open, coalesce(v_there, 0)
            USING ERRCODE = 'CT002';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER check_orphan_exit_qty AFTER INSERT ON orders FOR EACH ROW
    WHEN (NEW.origin = 'orphan' AND NEW.replaces IS NULL) EXECUTE FUNCTION check_orphan_exit_qty();
