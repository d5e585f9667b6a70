-- Journal: one line for each event of an order, and a hash chain over all lines in the order of their commits.
--
-- Each link's hash covers its line and the hash before it, so a changed, removed, inserted or moved line changes
-- every later hash. The last hash is also written outside this database: to the flat proof files and the log.

CREATE TABLE order_events (
    seq         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id    bigint      REFERENCES orders,         -- null: an event of the account
    at          timestamptz NOT NULL,
    source      text        NOT NULL CHECK (source ~ '^[a-z_]+$'),
    kind        text        NOT NULL CHECK (kind ~ '^[a-z_]+$'),
    from_status text,
    to_status   text,
    payload     jsonb,
    note        text
);
CREATE INDEX order_events_by_order ON order_events (order_id, seq);
CREATE INDEX order_events_by_time ON order_events (at);
CREATE TRIGGER order_events_append_only BEFORE UPDATE OR DELETE ON order_events
    FOR EACH ROW EXECUTE FUNCTION forbid_rewrite();
CREATE TRIGGER order_events_no_truncate BEFORE TRUNCATE ON order_events
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_rewrite();

CREATE TABLE journal_chain (
    link bigint PRIMARY KEY CHECK (link > 0),           -- 1, 2, 3, ... in the order of commits, no gap
    -- No foreign key: it would write a row lock to each new line. The trigger is the only writer, and the verifier
    -- looks for lines without a link and links without a line.
    seq  bigint NOT NULL UNIQUE,
    hash bytea  NOT NULL CHECK (length(hash) = 32)
);

-- Return the hashed text of a line: a JSON array of its columns as text, null where a column is null, the time in
-- microseconds since 1970. Two different lines have different texts.
CREATE FUNCTION journal_line(e order_events) RETURNS text LANGUAGE sql STABLE
    RETURN json_build_array(e.seq::text, e.order_id::text, (extract(epoch FROM e.at) * 1000000)::bigint::text,
                            e.source, e.kind, e.from_status, e.to_status, e.payload::text, e.note)::text;

-- Append one line to the chain. This runs at commit under an advisory lock. The transaction then has all its other
-- locks, so there is no deadlock; the next transaction sees this link or its rollback. SECURITY DEFINER: the daemon's
-- role has no other way to write to the chain. One query and one expression instead of three queries, to save time.
CREATE FUNCTION append_journal_link() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    v_locked text := pg_advisory_xact_lock(206145, 1);  -- before the last link is read
BEGIN
    INSERT INTO journal_chain (link, seq, hash)
    SELECT coalesce(last.link, 0) + 1, NEW.seq,
           sha256(coalesce(last.hash, ''::bytea) || convert_to(journal_line(NEW), 'UTF8'))
      FROM (SELECT) AS once LEFT JOIN (SELECT link, hash FROM journal_chain ORDER BY link DESC LIMIT 1) AS last ON true;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER append_journal_link AFTER INSERT ON order_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION append_journal_link();
CREATE TRIGGER journal_chain_append_only BEFORE UPDATE OR DELETE ON journal_chain
    FOR EACH ROW EXECUTE FUNCTION forbid_rewrite();
CREATE TRIGGER journal_chain_no_truncate BEFORE TRUNCATE ON journal_chain
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_rewrite();
