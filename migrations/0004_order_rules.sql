-- Rules of the order ledger. The code keeps the same rules; the database checks them a second time.
--
-- SQLSTATE of a refused statement:
--   CT001  the row carries an old epoch: another daemon has taken over
--   CT002  working exits would exceed the shares of the position or of the orphan
--   CT003  the order's status would change along no edge of order_edges
--   CT004  an append-only row, or a fixed column of an order, would change
--   CT005  the order's filled quantity would differ from the sum of its executions, or would fall
--   CT006  the order's status would differ from the last status in its journal
--   CT007  a position would exist without a filled entry, or a filled entry without its position
--   CT008  a row has changed since the writer read it: the statement wrote nothing; read again, decide again
--   23514  a row breaks a rule of validate_*_row; the constraint's name is the rule's name
--
-- The rules refuse what Catalyst wants to do, never what the broker reports: a report of a forbidden state of the
-- account can be stored. Therefore CT002 checks only orders that Catalyst itself adds or enlarges.

-- True for null and for a price on the minimum increment. Source: Regulation NMS Rule 612: whole cents from one
-- dollar, hundredths of a cent below. PL/pgSQL caches the compiled expression. A function in SQL is expanded and
-- planned in each statement at each place that calls it, which cost a sixth of the server's time per order.
CREATE FUNCTION is_on_tick(price numeric) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS $$
BEGIN
    RETURN price IS NULL OR (price > 0 AND price = round(price, CASE WHEN price >= 1 THEN 2 ELSE 4 END));
END $$;

-- The rules of one row are triggers and not CHECK constraints: PostgreSQL parses and plans every CHECK of a table in
-- each statement that writes to it, and fifty of them cost a quarter of the server's time per order. PL/pgSQL keeps the
-- compiled list. The error is that of a CHECK. As in a CHECK, a rule that evaluates to null passes.
CREATE FUNCTION raise_check_violation(p_table text, p_rule text, p_row text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'new row for relation "%" violates check constraint "%"', p_table, p_rule
        USING ERRCODE = 'check_violation', SCHEMA = 'public', TABLE = p_table, CONSTRAINT = p_rule,
              DETAIL = 'Failing row contains ' || p_row;
END $$;

CREATE FUNCTION validate_order_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_ours   boolean := NEW.origin IN ('catalyst', 'broker');
    v_broken text;
BEGIN
    v_broken := CASE
        WHEN NOT (NEW.order_purpose IN ('entry', 'stop_loss', 'take_profit', 'exit', 'flatten'))
            THEN 'orders_order_purpose_check'
        WHEN NOT (NEW.position_side IN ('long', 'short')) THEN 'orders_position_side_check'
        WHEN NOT (NEW.side IN ('buy', 'sell')) THEN 'orders_side_check'
        WHEN NOT (NEW.status IN ('created', 'submitted', 'accepted', 'partial_fill', 'filled', 'cancelled', 'rejected',
                                 'expired', 'replaced')) THEN 'orders_status_check'
        WHEN NOT (NEW.origin IN ('catalyst', 'broker', 'external', 'outage', 'legacy', 'orphan'))
            THEN 'orders_origin_check'
        -- NaN is the largest numeric, so "< 'Infinity'" refuses it too.
        WHEN NOT (NEW.quantity > 0 AND NEW.quantity < 'Infinity') THEN 'orders_quantity_check'
        WHEN NOT (NEW.limit_price > 0 AND NEW.limit_price < 'Infinity') THEN 'orders_limit_price_check'
        WHEN NOT (NEW.stop_price > 0 AND NEW.stop_price < 'Infinity') THEN 'orders_stop_price_check'
        WHEN NOT (NEW.bracket_stop > 0 AND NEW.bracket_stop < 'Infinity') THEN 'orders_bracket_stop_check'
        WHEN NOT (NEW.bracket_target > 0 AND NEW.bracket_target < 'Infinity') THEN 'orders_bracket_target_check'
        WHEN NOT (NEW.filled_qty >= 0) THEN 'orders_filled_qty_check'
        WHEN NOT (NEW.filled_avg_price > 0) THEN 'orders_filled_avg_price_check'
        WHEN NOT (NEW.attempts >= 0) THEN 'orders_attempts_check'
        WHEN NOT (NEW.status <> 'created' OR (NEW.filled_qty = 0 AND NEW.submitted_at IS NULL))
            THEN 'orders_created_is_unsent'
        WHEN NOT (NEW.order_id <> NEW.parent_order_id AND NEW.order_id <> NEW.replaces) THEN 'orders_not_its_own_parent'
        -- An entry trades in the position's direction, an exit against it.
        WHEN NOT (((NEW.position_side = 'long') = (NEW.side = 'buy')) = (NEW.order_purpose = 'entry'))
            THEN 'orders_side_fits_purpose'
        WHEN NOT (NOT v_ours OR NEW.epoch IS NOT NULL) THEN 'orders_own_has_epoch'
        WHEN NOT (NEW.origin <> 'catalyst'
                  OR (NEW.order_class IN ('simple', 'bracket', 'oco', 'oto')
                      AND NEW.order_type IN ('market', 'limit', 'stop', 'stop_limit', 'trailing_stop')
                      AND NEW.time_in_force IN ('day', 'gtc', 'opg', 'cls', 'ioc', 'fok')))
            THEN 'orders_own_has_known_terms'
        WHEN NOT (NEW.origin <> 'catalyst'
                  OR (is_on_tick(NEW.limit_price) AND is_on_tick(NEW.stop_price) AND is_on_tick(NEW.bracket_stop)
                      AND is_on_tick(NEW.bracket_target))) THEN 'orders_own_on_tick'
        WHEN NOT (NEW.order_purpose <> 'entry' OR NEW.position_id IS NULL OR NEW.filled_qty > 0)
            THEN 'orders_linked_entry_has_fill'
        WHEN NOT (NEW.order_purpose NOT IN ('exit', 'flatten') OR NEW.position_id IS NOT NULL OR NOT v_ours)
            THEN 'orders_exit_has_position'
        WHEN NOT (NEW.order_purpose NOT IN ('stop_loss', 'take_profit') OR NEW.position_id IS NOT NULL
                  OR NEW.parent_order_id IS NOT NULL OR NOT v_ours)
            THEN 'orders_protective_has_position_or_parent'
        WHEN NOT (NEW.origin <> 'orphan' OR NEW.epoch IS NOT NULL) THEN 'orders_orphan_has_epoch'
        WHEN NOT (NEW.origin <> 'orphan' OR (NEW.order_purpose <> 'entry' AND NEW.position_id IS NULL))
            THEN 'orders_orphan_is_an_exit'
        WHEN NOT (NEW.origin <> 'orphan'
                  OR (is_on_tick(NEW.limit_price) AND is_on_tick(NEW.stop_price) AND is_on_tick(NEW.bracket_stop)
                      AND is_on_tick(NEW.bracket_target))) THEN 'orders_orphan_on_tick'
    END;
    IF v_broken IS NOT NULL THEN
        PERFORM raise_check_violation('orders', v_broken, NEW::text);
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION validate_position_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_broken text;
BEGIN
    v_broken := CASE
        WHEN NOT (NEW.side IN ('long', 'short')) THEN 'positions_side_check'
        WHEN NOT (NEW.status IN ('open', 'closed')) THEN 'positions_status_check'
        WHEN NOT (NEW.quantity >= 0) THEN 'positions_quantity_check'
        WHEN NOT (NEW.entered_qty < 'Infinity') THEN 'positions_entered_qty_check'
        WHEN NOT (NEW.entry_price > 0 AND NEW.entry_price < 'Infinity') THEN 'positions_entry_price_check'
        WHEN NOT (NEW.cost >= 0 AND NEW.cost < 'Infinity') THEN 'positions_cost_check'
        WHEN NOT (NEW.exited_qty >= 0) THEN 'positions_exited_qty_check'
        WHEN NOT (NEW.proceeds >= 0 AND NEW.proceeds < 'Infinity') THEN 'positions_proceeds_check'
        WHEN NOT (NEW.exit_price > 0) THEN 'positions_exit_price_check'
        WHEN NOT (NEW.stop_loss > 0) THEN 'positions_stop_loss_check'
        WHEN NOT (NEW.take_profit > 0) THEN 'positions_take_profit_check'
        WHEN NOT (NEW.last_price > 0) THEN 'positions_last_price_check'
        WHEN NOT (NEW.high_since_entry > 0) THEN 'positions_high_since_entry_check'
        WHEN NOT (NEW.low_since_entry > 0) THEN 'positions_low_since_entry_check'
        WHEN NOT (NEW.unprotected_seconds >= 0) THEN 'positions_unprotected_seconds_check'
        WHEN NOT (NEW.quantity <= NEW.entered_qty) THEN 'positions_quantity_within_entered'
        WHEN NOT ((NEW.status = 'open') = (NEW.quantity > 0)) THEN 'positions_open_has_quantity'
        WHEN NOT ((NEW.status = 'closed') = (NEW.exit_time IS NOT NULL)) THEN 'positions_closed_has_exit_time'
        WHEN NOT (NEW.legacy OR NEW.status = 'open' OR NEW.close_reason IS NOT NULL) THEN 'positions_closed_has_reason'
        WHEN NOT (NEW.legacy
                  OR NEW.close_reason ~ ('^(STOP_LOSS_HIT|TAKE_PROFIT_HIT|TIME_LIMIT|MARKET_CLOSE|MANUAL'
                                         '|EMERGENCY_STOP|RECONCILED_PHANTOM|EXTERNAL)(:|$)'))
            THEN 'positions_close_reason_known'
    END;
    IF v_broken IS NOT NULL THEN
        PERFORM raise_check_violation('positions', v_broken, NEW::text);
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION validate_execution_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_broken text;
BEGIN
    v_broken := CASE
        WHEN NOT (NEW.quantity <= NEW.cum_qty) THEN 'executions_quantity_within_cumulative'
        WHEN NOT (NEW.cum_qty > 0 AND NEW.cum_qty < 'Infinity') THEN 'executions_cum_qty_check'
        WHEN NOT (NEW.quantity > 0) THEN 'executions_quantity_check'
        WHEN NOT (NEW.price > 0 AND NEW.price < 'Infinity') THEN 'executions_price_check'
    END;
    IF v_broken IS NOT NULL THEN
        PERFORM raise_check_violation('executions', v_broken, NEW::text);
    END IF;
    RETURN NEW;
END $$;

-- BEFORE triggers of a table fire in alphabetical order: validate_* runs after check_order_change and after
-- executions_append_only.
CREATE TRIGGER validate_order_row BEFORE INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION validate_order_row();
CREATE TRIGGER validate_position_row BEFORE INSERT OR UPDATE ON positions
    FOR EACH ROW EXECUTE FUNCTION validate_position_row();
CREATE TRIGGER validate_execution_row BEFORE INSERT OR UPDATE ON executions
    FOR EACH ROW EXECUTE FUNCTION validate_execution_row();

-- Return the shares that the working exits of a position could still take from it. Counted once: the stop and the
-- target of one group (the legs of a bracket, or an OCO and its leg), and an order together with its replacement. Not
-- counted: legs whose entry is not yet booked as completely filled, because they are inactive at the broker.
CREATE FUNCTION open_exit_quantity(p_position_id bigint) RETURNS numeric LANGUAGE sql STABLE AS $$
    WITH working AS (
        SELECT o.order_id, o.order_purpose, o.replaces, o.quantity - o.filled_qty AS remaining,
               CASE WHEN o.order_purpose NOT IN ('stop_loss', 'take_profit') THEN -o.order_id
                    WHEN parent.order_id IS NULL THEN o.order_id
                    WHEN parent.order_purpose = 'entry' THEN parent.order_id
                    ELSE coalesce(parent.parent_order_id, parent.order_id) END AS order_group,
               coalesce(parent.order_purpose = 'entry' AND parent.filled_qty < parent.quantity, false) AS is_inactive
          FROM orders o LEFT JOIN orders parent ON parent.order_id = o.parent_order_id
         WHERE o.position_id = p_position_id AND o.order_purpose <> 'entry'
           AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill')
    ), groups AS (
        SELECT greatest(sum(greatest(w.remaining, replaced.remaining)) FILTER (WHERE w.order_purpose = 'stop_loss'),
                        sum(greatest(w.remaining, replaced.remaining)) FILTER (WHERE w.order_purpose <> 'stop_loss'))
               AS reserved_qty
          FROM working w LEFT JOIN working replaced ON replaced.order_id = w.replaces
         WHERE NOT w.is_inactive
           AND NOT EXISTS (SELECT 1 FROM working replacement WHERE replacement.replaces = w.order_id)
         GROUP BY w.order_group
    )
    SELECT coalesce(sum(reserved_qty), 0) FROM groups
$$;

-- Check an insert or update of an order: epoch, first status, status change, and the columns that never change. Set
-- the times that belong to a status.
CREATE FUNCTION check_order_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_epoch bigint;
    v_edge  order_edges;
BEGIN
    -- Lock the position before its exits are counted: of concurrent exits each one sees the earlier ones, and there
    -- is no deadlock.
    IF NEW.order_purpose <> 'entry' AND NEW.position_id IS NOT NULL AND (TG_OP = 'INSERT'
       OR NEW.quantity > OLD.quantity OR NEW.position_id IS DISTINCT FROM OLD.position_id) THEN
        PERFORM 1 FROM positions WHERE position_id = NEW.position_id FOR UPDATE;
    END IF;

    IF NEW.epoch IS NOT NULL THEN
        SELECT epoch INTO v_epoch FROM daemon FOR KEY SHARE;
        IF NEW.epoch IS DISTINCT FROM v_epoch THEN
            RAISE EXCEPTION 'order % is written by epoch %, the current one is %',
                NEW.client_order_id, NEW.epoch, v_epoch USING ERRCODE = 'CT001';
        END IF;
    END IF;

    -- The times of receipt: the first time of each status is kept.
    IF TG_OP = 'INSERT' OR NEW.status <> OLD.status THEN
        IF NEW.status = 'accepted' THEN
            NEW.accepted_at := coalesce(NEW.accepted_at, NEW.updated_at);
        ELSIF NEW.status = 'filled' THEN
            NEW.filled_at := coalesce(NEW.filled_at, NEW.updated_at);
        ELSIF NEW.status = 'cancelled' THEN
            NEW.cancelled_at := coalesce(NEW.cancelled_at, NEW.updated_at);
            NEW.cancel_reason := coalesce(NEW.cancel_reason, 'BROKER');
        END IF;
        NEW.closed_at := CASE WHEN NEW.status IN ('filled', 'cancelled', 'rejected', 'expired', 'replaced')
                              THEN coalesce(NEW.closed_at, NEW.updated_at) END;
    END IF;

    IF TG_OP = 'INSERT' THEN
        IF NEW.origin = 'catalyst' AND NEW.status NOT IN ('created', 'submitted') THEN
            RAISE EXCEPTION 'order % cannot start as %', NEW.client_order_id, NEW.status USING ERRCODE = 'CT003';
        END IF;
        RETURN NEW;
    END IF;

    -- A fill is a fact: no edge is looked up for it.
    IF NEW.status <> OLD.status AND NEW.filled_qty = OLD.filled_qty THEN
        SELECT * INTO v_edge FROM order_edges WHERE from_status = OLD.status AND to_status = NEW.status;
        IF NOT FOUND
           OR (v_edge.reason IS NOT NULL AND NOT starts_with(coalesce(OLD.rejection_reason, ''), v_edge.reason)
               AND coalesce(current_setting('catalyst.correction', true), '') <> 'on')
           OR (v_edge.kind = 'correction' AND coalesce(current_setting('catalyst.correction', true), '') <> 'on')
        THEN
            RAISE EXCEPTION 'order % is % and cannot become %', OLD.order_id, OLD.status, NEW.status
                USING ERRCODE = 'CT003';
        END IF;
    END IF;
    IF NEW.filled_qty < OLD.filled_qty THEN
        RAISE EXCEPTION 'order % has filled % and cannot have filled %', OLD.order_id, OLD.filled_qty,
            NEW.filled_qty USING ERRCODE = 'CT005';
    END IF;
    IF (NEW.client_order_id, NEW.security_id, NEW.order_purpose, NEW.position_side, NEW.side, NEW.created_at)
       IS DISTINCT FROM
       (OLD.client_order_id, OLD.security_id, OLD.order_purpose, OLD.position_side, OLD.side, OLD.created_at)
       OR NEW.alpaca_order_id IS DISTINCT FROM coalesce(OLD.alpaca_order_id, NEW.alpaca_order_id) THEN
        RAISE EXCEPTION 'order %: ids, security, purpose, sides and creation time cannot change', OLD.order_id
            USING ERRCODE = 'CT004';
    END IF;
    IF OLD.closed_at IS NOT NULL AND (
          NEW.submitted_at IS DISTINCT FROM coalesce(OLD.submitted_at, NEW.submitted_at)
       OR NEW.accepted_at IS DISTINCT FROM coalesce(OLD.accepted_at, NEW.accepted_at)
       OR NEW.filled_at IS DISTINCT FROM coalesce(OLD.filled_at, NEW.filled_at)
       OR NEW.cancelled_at IS DISTINCT FROM coalesce(OLD.cancelled_at, NEW.cancelled_at)
       OR (NEW.closed_at IS DISTINCT FROM OLD.closed_at AND NEW.status = OLD.status)) THEN
        RAISE EXCEPTION 'order % is terminal, its times cannot change', OLD.order_id USING ERRCODE = 'CT004';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_order_change BEFORE INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION check_order_change();

-- CT002 for positions.
CREATE FUNCTION check_exit_qty() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_open numeric := open_exit_quantity(NEW.position_id);
    v_held numeric;
BEGIN
    SELECT quantity INTO v_held FROM positions WHERE position_id = NEW.position_id;
    IF v_open > v_held THEN
        RAISE EXCEPTION 'exits of position % would take %, it holds %', NEW.position_id, v_open, v_held
            USING ERRCODE = 'CT002';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER check_exit_qty_on_insert AFTER INSERT ON orders FOR EACH ROW
    WHEN (NEW.origin = 'catalyst' AND NEW.order_purpose <> 'entry' AND NEW.position_id IS NOT NULL)
    EXECUTE FUNCTION check_exit_qty();
CREATE TRIGGER check_exit_qty_on_update AFTER UPDATE OF quantity, position_id ON orders FOR EACH ROW
    WHEN (NEW.origin = 'catalyst' AND NEW.order_purpose <> 'entry' AND NEW.position_id IS NOT NULL
          AND (NEW.quantity > OLD.quantity OR NEW.position_id IS DISTINCT FROM OLD.position_id))
    EXECUTE FUNCTION check_exit_qty();

-- CT002 for orphan shares. The orphan's row is locked before its exits are counted.
CREATE FUNCTION check_orphan_exit_qty() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_held numeric;
    v_open numeric;
BEGIN
    SELECT quantity INTO v_held FROM orphans
     WHERE security_id = NEW.security_id AND side = NEW.position_side AND ended_at IS NULL FOR UPDATE;
    SELECT coalesce(sum(quantity - filled_qty), 0) INTO v_open FROM orders
     WHERE security_id = NEW.security_id AND position_side = NEW.position_side AND origin = 'orphan'
       AND status IN ('created', 'submitted', 'accepted', 'partial_fill');
    IF v_open > coalesce(v_held, 0) THEN
        RAISE EXCEPTION 'exits of an orphan would take %, it holds %', v_open, coalesce(v_held, 0)
            USING ERRCODE = 'CT002';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER check_orphan_exit_qty AFTER INSERT ON orders FOR EACH ROW
    WHEN (NEW.origin = 'orphan' AND NEW.replaces IS NULL) EXECUTE FUNCTION check_orphan_exit_qty();

-- CT005, CT006 and CT007 for orders, checked at commit, when all statements of the transaction have run.
CREATE FUNCTION check_order_totals() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_status   text;
    v_filled   numeric;
    v_origin   text;
    v_purpose  text;
    v_position bigint;
    v_last     text;
    v_sum      numeric;
BEGIN
    SELECT status, filled_qty, origin, order_purpose, position_id,
           (SELECT coalesce(sum(quantity), 0) FROM executions e WHERE e.order_id = NEW.order_id)
      INTO v_status, v_filled, v_origin, v_purpose, v_position, v_sum
      FROM orders WHERE order_id = NEW.order_id;
    IF v_origin = 'legacy' THEN
        RETURN NULL;
    END IF;
    SELECT to_status INTO v_last FROM order_events
     WHERE order_id = NEW.order_id AND to_status IS NOT NULL
       AND kind IN ('transition', 'fill', 'late', 'correction')
     ORDER BY seq DESC LIMIT 1;
    IF v_last IS DISTINCT FROM v_status THEN
        RAISE EXCEPTION 'order % is %, its journal ends at %', NEW.order_id, v_status, coalesce(v_last, 'nothing')
            USING ERRCODE = 'CT006';
    END IF;
    IF v_sum <> v_filled THEN
        RAISE EXCEPTION 'order % has filled %, its executions sum to %', NEW.order_id, v_filled, v_sum
            USING ERRCODE = 'CT005';
    END IF;
    IF v_origin = 'catalyst' AND v_purpose = 'entry' AND v_filled > 0 AND v_position IS NULL THEN
        RAISE EXCEPTION 'entry % has filled % without a position', NEW.order_id, v_filled USING ERRCODE = 'CT007';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER order_totals_on_insert AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION check_order_totals();
CREATE CONSTRAINT TRIGGER order_totals_on_update AFTER UPDATE OF status, filled_qty ON orders
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.status <> OLD.status OR NEW.filled_qty <> OLD.filled_qty) EXECUTE FUNCTION check_order_totals();

-- CT005 for a booked fill. A new execution can break only the sum; order_totals_on_update checks the order's change.
CREATE FUNCTION check_fill_total() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_filled numeric;
    v_sum    numeric;
BEGIN
    SELECT filled_qty, (SELECT sum(quantity) FROM executions e WHERE e.order_id = NEW.order_id) INTO v_filled, v_sum
      FROM orders WHERE order_id = NEW.order_id AND origin <> 'legacy';
    IF v_sum <> v_filled THEN
        RAISE EXCEPTION 'order % has filled %, its executions sum to %', NEW.order_id, v_filled, v_sum
            USING ERRCODE = 'CT005';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER fill_total_on_insert AFTER INSERT ON executions DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION check_fill_total();

-- CT007 for positions, checked at commit.
CREATE FUNCTION check_position_has_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT 1 FROM orders WHERE position_id = NEW.position_id AND order_purpose = 'entry'
                   AND filled_qty > 0) THEN
        RAISE EXCEPTION 'position % has no filled entry', NEW.position_id USING ERRCODE = 'CT007';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER position_has_entry AFTER INSERT ON positions DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NOT NEW.legacy) EXECUTE FUNCTION check_position_has_entry();

-- CT004 for append-only tables.
CREATE FUNCTION forbid_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'CT004';
END $$;
CREATE TRIGGER executions_no_delete BEFORE DELETE ON executions
    FOR EACH ROW EXECUTE FUNCTION forbid_rewrite();
CREATE TRIGGER executions_no_truncate BEFORE TRUNCATE ON executions
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_rewrite();
-- An execution booked from one source gets its second id when the other source reports it; nothing else changes.
CREATE TRIGGER executions_append_only BEFORE UPDATE ON executions FOR EACH ROW
    WHEN ((OLD.order_id, OLD.cum_qty, OLD.quantity, OLD.price, OLD.at, OLD.source)
          IS DISTINCT FROM (NEW.order_id, NEW.cum_qty, NEW.quantity, NEW.price, NEW.at, NEW.source)
          OR NEW.execution_id IS DISTINCT FROM coalesce(OLD.execution_id, NEW.execution_id)
          OR NEW.activity_id IS DISTINCT FROM coalesce(OLD.activity_id, NEW.activity_id))
    EXECUTE FUNCTION forbid_rewrite();

-- CT008. Called inside a single-statement write, which has no other moment to compare the rows with those that its
-- writer read before: the statement counts the unchanged and the expected rows and passes both numbers.
CREATE FUNCTION require_unchanged(p_unchanged bigint, p_expected bigint) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
    IF p_unchanged <> p_expected THEN
        RAISE EXCEPTION '% of % rows are unchanged', p_unchanged, p_expected USING ERRCODE = 'CT008';
    END IF;
    RETURN p_unchanged;
END $$;
