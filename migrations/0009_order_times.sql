-- The broker's own times of an order: cancelled_at, filled_at and closed_at are the broker's where it reports them; the
-- journal (order_events.at) has the times of receipt.
ALTER TABLE orders
    -- Receipt of the first report that the order is accepted and not at a venue (pending_new, accepted); null: none.
    ADD COLUMN pending_at timestamptz,
    -- Receipt of the first report after pending_at that the venue has the order; null: none, it cannot be executed yet.
    ADD COLUMN acknowledged_at timestamptz;

-- Runs after check_order_change, which sets the times of receipt: triggers run in order of their names.
CREATE FUNCTION set_broker_times() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.broker_status IN ('pending_new', 'accepted') THEN
        NEW.pending_at := coalesce(NEW.pending_at, NEW.updated_at);
    ELSIF NEW.pending_at IS NOT NULL
          AND NEW.broker_status NOT IN ('pending_review', 'pending_cancel', 'canceled', 'expired', 'rejected') THEN
        NEW.acknowledged_at := coalesce(NEW.acknowledged_at, NEW.updated_at);
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
