-- The broker's own times of an order: cancelled_at, filled_at and closed_at are the broker's where it reports them; the
-- journal (order_events.at) has the times of receipt.
ALTER TABLE orders
    -- Receipt of the first report that the order is accepted and not at a venue (pending_new, accepted); null: none.
    ADD COLUMN pending_at timestamptz,
    -- The venue has the order since then; null: it cannot be executed yet. It is the receipt of the first such report
    -- after pending_at. When no daemon ran in between, it is the broker's broker_submitted_at, if the market was open.
    ADD COLUMN acknowledged_at timestamptz;

-- Orders that wait for a venue at this moment. Without user triggers: these rows have the epoch of an earlier daemon.
ALTER TABLE orders DISABLE TRIGGER USER;
UPDATE orders SET pending_at = coalesce(broker_submitted_at, updated_at)
 WHERE status IN ('submitted', 'accepted') AND broker_status IN ('pending_new', 'accepted')
   AND order_purpose <> 'entry';
ALTER TABLE orders ENABLE TRIGGER USER;

-- Runs after check_order_change, which sets the times of receipt: triggers run in order of their names.
CREATE FUNCTION set_broker_times() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_submitted_at timestamp;  -- in New York
BEGIN
    IF NEW.broker_status IN ('pending_new', 'accepted') THEN
        NEW.pending_at := coalesce(NEW.pending_at, NEW.updated_at);
    ELSIF NEW.pending_at IS NOT NULL
          AND NEW.broker_status NOT IN ('pending_review', 'pending_cancel', 'canceled', 'expired', 'rejected') THEN
        IF NEW.acknowledged_at IS NULL THEN
            NEW.acknowledged_at := NEW.updated_at;
            -- No daemon ran in between: the earlier report came to another epoch, and this one came at the start. The
            -- market was open: a venue has the order on the day on which it was submitted after the open.
            IF TG_OP = 'UPDATE' AND OLD.epoch <> NEW.epoch
               AND NEW.updated_at < (SELECT started_at FROM daemon) + interval '30 seconds' THEN
                v_submitted_at := NEW.broker_submitted_at AT TIME ZONE 'America/New_York';
                IF v_submitted_at::time >= '09:30'
                   AND v_submitted_at::date = (NEW.updated_at AT TIME ZONE 'America/New_York')::date THEN
                    NEW.acknowledged_at := NEW.broker_submitted_at;
                END IF;
            END IF;
        END IF;
    END IF;
    IF NEW.filled_at IS NOT NULL THEN
        NEW.filled_at := least(NEW.filled_at, NEW.broker_filled_at);
    END IF;
    IF NEW.cancelled_at IS NOT NULL THEN
        NEW.cancelled_at := least(NEW.cancelled_at, NEW.broker_canceled_at);
    END IF;
    IF NEW.closed_at IS NOT NULL THEN
        NEW.closed_at := least(NEW.closed_at, CASE NEW.status WHEN 'filled' THEN NEW.broker_filled_at
                                                              WHEN 'cancelled' THEN NEW.broker_canceled_at
                                                              WHEN 'expired' THEN NEW.broker_expired_at END);
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER set_broker_times BEFORE INSERT OR UPDATE ON orders FOR EACH ROW
    WHEN (NEW.broker_status IS NOT NULL AND (NEW.order_purpose <> 'entry' OR NEW.closed_at IS NOT NULL))
    EXECUTE FUNCTION set_broker_times();
