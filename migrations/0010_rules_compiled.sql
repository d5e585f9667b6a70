-- What a row may hold is the same as before, only who asks is another. PostgreSQL reads and plans every CHECK of a table
-- anew in every statement that writes to it, however few rows: these fifty were a quarter of all that the server spent on
-- an order. What PL/pgSQL has compiled it keeps, so each table's rules are one list in a trigger now, and a broken one is
-- the error it was: SQLSTATE 23514, with the rule's name as its constraint. As in a CHECK, a rule that comes to null holds.

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
        -- NaN is the largest numeric: none of these takes it.
        WHEN NOT (NEW.quantity > 0 AND NEW.quantity < 'Infinity') THEN 'orders_quantity_check'
        WHEN NOT (NEW.limit_price > 0 AND NEW.limit_price < 'Infinity') THEN 'orders_limit_price_check'
        WHEN NOT (NEW.stop_price > 0 AND NEW.stop_price < 'Infinity') THEN 'orders_stop_price_check'
        WHEN NOT (NEW.bracket_stop > 0 AND NEW.bracket_stop < 'Infinity') THEN 'orders_bracket_stop_check'
        WHEN NOT (NEW.bracket_target > 0 AND NEW.bracket_target < 'Infinity') THEN 'orders_bracket_target_check'
        WHEN NOT (NEW.filled_qty >= 0) THEN 'orders_filled_qty_check'
        WHEN NOT (NEW.filled_avg_price > 0) THEN 'orders_filled_avg_price_check'
        WHEN NOT (NEW.attempts >= 0) THEN 'orders_attempts_check'
        WHEN NOT (NEW.filled_qty <= NEW.quantity) THEN 'orders_filled_within_quantity'
        WHEN NOT (NEW.status <> 'created' OR (NEW.filled_qty = 0 AND NEW.submitted_at IS NULL)) THEN 'orders_created_is_unsent'
        WHEN NOT (NEW.order_id <> NEW.parent_order_id AND NEW.order_id <> NEW.replaces) THEN 'orders_not_its_own_parent'
        -- Entries go with the position, every exit against it.
        WHEN NOT (((NEW.position_side = 'long') = (NEW.side = 'buy')) = (NEW.order_purpose = 'entry'))
            THEN 'orders_side_fits_purpose'
        WHEN NOT (NOT v_ours OR NEW.epoch IS NOT NULL) THEN 'orders_own_has_epoch'
        WHEN NOT (NEW.origin <> 'catalyst'
                  OR (NEW.order_class IN ('simple', 'bracket', 'oco', 'oto')
                      AND NEW.order_type IN ('market', 'limit', 'stop', 'stop_limit', 'trailing_stop')
                      AND NEW.time_in_force IN ('day', 'gtc', 'opg', 'cls', 'ioc', 'fok'))) THEN 'orders_own_has_known_terms'
        WHEN NOT (NEW.origin <> 'catalyst'
                  OR (is_on_tick(NEW.limit_price) AND is_on_tick(NEW.stop_price) AND is_on_tick(NEW.bracket_stop)
                      AND is_on_tick(NEW.bracket_target))) THEN 'orders_own_on_tick'
        WHEN NOT (NEW.order_purpose <> 'entry' OR NEW.position_id IS NULL OR NEW.filled_qty > 0) THEN 'orders_linked_entry_has_fill'
        WHEN NOT (NEW.order_purpose NOT IN ('exit', 'flatten') OR NEW.position_id IS NOT NULL OR NOT v_ours)
            THEN 'orders_exit_has_position'
        WHEN NOT (NEW.order_purpose NOT IN ('stop_loss', 'take_profit') OR NEW.position_id IS NOT NULL
                  OR NEW.parent_order_id IS NOT NULL OR NOT v_ours) THEN 'orders_protective_has_position_or_parent'
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
                                         '|EMERGENCY_STOP|RECONCILED_PHANTOM|EXTERNAL)(:|$)')) THEN 'positions_close_reason_known'
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

-- By their names they come after the guards, as the CHECKs did.
CREATE TRIGGER validate_order_row BEFORE INSERT OR UPDATE ON orders
    FOR EACH ROW EXECUTE FUNCTION validate_order_row();
CREATE TRIGGER validate_position_row BEFORE INSERT OR UPDATE ON positions
    FOR EACH ROW EXECUTE FUNCTION validate_position_row();
CREATE TRIGGER validate_execution_row BEFORE INSERT OR UPDATE ON executions
    FOR EACH ROW EXECUTE FUNCTION validate_execution_row();

DO $$
DECLARE
    v_check record;
BEGIN
    FOR v_check IN SELECT conrelid::regclass AS relation, conname FROM pg_constraint
                    WHERE contype = 'c' AND conrelid IN ('orders'::regclass, 'positions'::regclass,
                                                         'executions'::regclass) LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', v_check.relation, v_check.conname);
    END LOOP;
END $$;

-- The same link by one question instead of three: what an expression can do, PL/pgSQL does without asking anybody.
CREATE OR REPLACE FUNCTION append_journal_link() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    v_locked text := pg_advisory_xact_lock(206145, 1);  -- before the chain's end is looked for
BEGIN
    INSERT INTO journal_chain (link, seq, hash)
    SELECT coalesce(last.link, 0) + 1, NEW.seq,
           sha256(coalesce(last.hash, ''::bytea) || convert_to(journal_line(NEW), 'UTF8'))
      FROM (SELECT) AS once LEFT JOIN (SELECT link, hash FROM journal_chain ORDER BY link DESC LIMIT 1) AS last ON true;
    RETURN NULL;
END $$;

-- An order adds up, as before, with what is looked at and no more; and a fill that was booked can only have broken the
-- sum, so it asks for that alone: what the order itself became is judged where the order changed.
CREATE OR REPLACE FUNCTION check_order_totals() RETURNS trigger LANGUAGE plpgsql AS $$
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
DROP TRIGGER order_adds_up_fill ON executions;
CREATE CONSTRAINT TRIGGER fill_total_on_insert AFTER INSERT ON executions DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION check_fill_total();
