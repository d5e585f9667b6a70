-- A position that the exit of a stopping process closed has the reason SHUTDOWN.

CREATE OR REPLACE FUNCTION validate_position_row() RETURNS trigger LANGUAGE plpgsql AS $$
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
                                         '|EMERGENCY_STOP|SHUTDOWN|RECONCILED_PHANTOM|EXTERNAL)(:|$)'))
            THEN 'positions_close_reason_known'
    END;
    IF v_broken IS NOT NULL THEN
        PERFORM raise_check_violation('positions', v_broken, NEW::text);
    END IF;
    RETURN NEW;
END $$;
