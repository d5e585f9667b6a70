-- Refused exits: an exit that the broker refuses is postponed, and the row of a sale is written before a leg is
-- cancelled. The journal's chain is serialised by a row that only its owner can lock.

-- An exit waits until retry_at; meanwhile the protective orders work again. Null: it runs now.
ALTER TABLE exit_intents
    ADD COLUMN retry_at timestamptz,
    ADD COLUMN refusal  text,                        -- our code, ": ", the broker's message
    ADD COLUMN refusals integer NOT NULL DEFAULT 0 CHECK (refusals >= 0);

-- Return the shares that the working exits of a position could still take from it. Counted once: the stop and the
-- target of one group (the legs of a bracket, or an OCO and its leg), and an order together with its replacement. Not
-- counted: legs whose entry is not yet booked as completely filled, because they are inactive at the broker. Sales that
-- were never sent may be as large as the protective orders that end before they are sent.
CREATE OR REPLACE FUNCTION open_exit_quantity(p_position_id bigint) RETURNS numeric LANGUAGE sql STABLE AS $$
    WITH working AS (
        SELECT o.order_id, o.order_purpose, o.replaces, o.quantity - o.filled_qty AS remaining,
               CASE WHEN o.order_purpose NOT IN ('stop_loss', 'take_profit') THEN -o.order_id
                    WHEN parent.order_id IS NULL THEN o.order_id
                    WHEN parent.order_purpose = 'entry' THEN parent.order_id
                    ELSE coalesce(parent.parent_order_id, parent.order_id) END AS order_group,
               coalesce(parent.order_purpose = 'entry' AND parent.filled_qty < parent.quantity, false) AS is_inactive,
               CASE WHEN o.order_purpose IN ('stop_loss', 'take_profit') THEN 'protective'
                    WHEN o.status = 'created' THEN 'prepared' ELSE 'sent' END AS kind
          FROM orders o LEFT JOIN orders parent ON parent.order_id = o.parent_order_id
         WHERE o.position_id = p_position_id AND o.order_purpose <> 'entry'
           AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill')
    ), groups AS (
        SELECT min(w.kind) AS kind,
               greatest(sum(greatest(w.remaining, replaced.remaining)) FILTER (WHERE w.order_purpose = 'stop_loss'),
                        sum(greatest(w.remaining, replaced.remaining)) FILTER (WHERE w.order_purpose <> 'stop_loss'))
               AS reserved_qty
          FROM working w LEFT JOIN working replaced ON replaced.order_id = w.replaces
         WHERE NOT w.is_inactive
           AND NOT EXISTS (SELECT 1 FROM working replacement WHERE replacement.replaces = w.order_id)
         GROUP BY w.order_group
    )
    SELECT coalesce(sum(reserved_qty) FILTER (WHERE kind = 'sent'), 0)
           + greatest(coalesce(sum(reserved_qty) FILTER (WHERE kind = 'protective'), 0),
                      coalesce(sum(reserved_qty) FILTER (WHERE kind = 'prepared'), 0))
      FROM groups
$$;

-- Lock the position before an exit is released, as check_order_change does before one is inserted.
CREATE FUNCTION lock_position_of_released_exit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM positions WHERE position_id = NEW.position_id FOR UPDATE;
    RETURN NEW;
END $$;
CREATE TRIGGER lock_position_of_released_exit BEFORE UPDATE OF status ON orders FOR EACH ROW
    WHEN (OLD.status = 'created' AND NEW.status = 'submitted' AND NEW.order_purpose <> 'entry'
          AND NEW.position_id IS NOT NULL)
    EXECUTE FUNCTION lock_position_of_released_exit();
CREATE TRIGGER check_exit_qty_on_release AFTER UPDATE OF status ON orders FOR EACH ROW
    WHEN (OLD.status = 'created' AND NEW.status = 'submitted' AND NEW.origin = 'catalyst'
          AND NEW.order_purpose <> 'entry' AND NEW.position_id IS NOT NULL)
    EXECUTE FUNCTION check_exit_qty();

-- One row, locked by whoever appends to the journal's chain. An advisory lock can be held by everybody who may
-- connect; this row can be locked only with a right on the table, and no role gets one.
CREATE TABLE journal_lock (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row)
);
INSERT INTO journal_lock DEFAULT VALUES;

-- Append one line to the chain. This runs at commit under the row lock. The transaction then has all its other locks,
-- so there is no deadlock; the next transaction sees this link or its rollback. SECURITY DEFINER: the daemon's role
-- has no other way to write to the chain.
CREATE OR REPLACE FUNCTION append_journal_link() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
BEGIN
    PERFORM 1 FROM journal_lock FOR UPDATE;  -- before the last link is read
    INSERT INTO journal_chain (link, seq, hash)
    SELECT coalesce(last.link, 0) + 1, NEW.seq,
           sha256(coalesce(last.hash, ''::bytea) || convert_to(journal_line(NEW), 'UTF8'))
      FROM (SELECT) AS once LEFT JOIN (SELECT link, hash FROM journal_chain ORDER BY link DESC LIMIT 1) AS last ON true;
    RETURN NULL;
END $$;
