-- The journal is tied together: each line, in the order in which lines were committed, carries a hash over itself and
-- over everything before it. Whoever changes, removes, inserts or reorders a line has to change every hash after it,
-- and the last one is written where this database's owner cannot reach: into the proofs of being flat and the log.

CREATE TABLE journal_chain (
    link bigint PRIMARY KEY CHECK (link > 0),           -- 1, 2, 3 ... in order of commit, without a gap
    -- No foreign key: its lock would be written onto each new line. The trigger is the only writer, and the verifier
    -- asks for lines without a link and links without a line.
    seq  bigint NOT NULL UNIQUE,
    hash bytea  NOT NULL CHECK (length(hash) = 32)
);

-- What is hashed of a line: a JSON array of its columns as text, null where there is none, the instant in
-- microseconds since 1970. Two lines that differ anywhere differ here.
CREATE FUNCTION journal_line(e order_events) RETURNS text LANGUAGE sql STABLE
    RETURN json_build_array(e.seq::text, e.order_id::text, (extract(epoch FROM e.at) * 1000000)::bigint::text,
                            e.source, e.kind, e.from_status, e.to_status, e.payload::text, e.note)::text;

-- Ties one line to the chain. The lock is on no row: it is taken at commit, when the transaction has taken every lock
-- it needs, so that nobody waits in a circle; whoever comes next sees this link, or that it never came to be.
-- A definer's function, so that the daemon's role can add to the chain in no other way.
CREATE FUNCTION append_journal_link() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp AS $$
DECLARE
    v_link bigint;
    v_hash bytea;
BEGIN
    PERFORM pg_advisory_xact_lock(206145, 1);
    SELECT link, hash INTO v_link, v_hash FROM journal_chain ORDER BY link DESC LIMIT 1;
    INSERT INTO journal_chain (link, seq, hash)
    VALUES (coalesce(v_link, 0) + 1, NEW.seq,
            sha256(coalesce(v_hash, ''::bytea) || convert_to(journal_line(NEW), 'UTF8')));
    RETURN NULL;
END $$;

-- Lines from before the chain: tied in the order of their numbers.
DO $$
DECLARE
    v_line order_events;
    v_link bigint := 0;
    v_hash bytea := ''::bytea;
BEGIN
    FOR v_line IN SELECT * FROM order_events ORDER BY seq LOOP
        v_link := v_link + 1;
        v_hash := sha256(v_hash || convert_to(journal_line(v_line), 'UTF8'));
        INSERT INTO journal_chain (link, seq, hash) VALUES (v_link, v_line.seq, v_hash);
    END LOOP;
END $$;

CREATE CONSTRAINT TRIGGER append_journal_link AFTER INSERT ON order_events DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION append_journal_link();
CREATE TRIGGER journal_chain_append_only BEFORE UPDATE OR DELETE ON journal_chain
    FOR EACH ROW EXECUTE FUNCTION forbid_rewrite();
CREATE TRIGGER journal_chain_no_truncate BEFORE TRUNCATE ON journal_chain
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_rewrite();

-- What a latch was set for, beside its reason: SAFE mode names every invariant that failed.
ALTER TABLE latches ADD COLUMN facts jsonb NOT NULL DEFAULT '{}';
