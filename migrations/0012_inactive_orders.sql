-- Receipt of the first report that the broker keeps the order and does not execute it; null: none, or it works again.
ALTER TABLE orders ADD COLUMN inactive_at timestamptz;

CREATE FUNCTION set_inactive_time() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.inactive_at := CASE WHEN NEW.broker_status IN ('suspended', 'done_for_day', 'calculated')
                            THEN coalesce(NEW.inactive_at, NEW.updated_at)
                            WHEN NEW.broker_status IN ('new', 'accepted', 'held', 'partially_filled', 'filled') THEN NULL
                            ELSE NEW.inactive_at END;
    RETURN NEW;
END $$;
-- Runs after check_order_change, which sets the times of receipt: triggers run in order of their names.
CREATE TRIGGER set_inactive_time BEFORE INSERT OR UPDATE ON orders FOR EACH ROW
    WHEN (NEW.broker_status IN ('suspended', 'done_for_day', 'calculated') OR NEW.inactive_at IS NOT NULL)
    EXECUTE FUNCTION set_inactive_time();
