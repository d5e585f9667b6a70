-- Orders, fills, the journal and positions, with the second lock on each rule the code already keeps.
--
-- What the database refuses, by SQLSTATE:
--   CT001  the writer's epoch is not the current one: another daemon has taken over
--   CT002  exits would exceed what the position holds
--   CT003  the order's status would change along an edge that is not in order_edges
--   CT004  history would be rewritten
--   CT005  filled quantities would contradict the fill ledger
--   CT006  a status would change without its line in the journal
--   CT007  a position would exist without a filled entry, or an entry's fill without its position
--
-- Intent may be refused, facts may not: a report of the broker is always recordable, even when it shows that
-- the account is where it must not be. So CT002 judges only what Catalyst itself wants to add.

CREATE TABLE daemon (
    one          boolean     PRIMARY KEY DEFAULT true CHECK (one),
    -- Unique, so that changing it is a change of key: it waits for the writers that hold the row by FOR KEY
    -- SHARE, and the heartbeat does not.
    epoch        bigint      NOT NULL UNIQUE CHECK (epoch >= 0),
    account_id   text,                                 -- pinned by the first daemon that starts
    started_at   timestamptz,
    version      text,
    commit       text,
    config_hash  text,
    lockfile_hash    text,
    pid          integer,
    heartbeat_at timestamptz
);
INSERT INTO daemon (epoch) VALUES (0);

-- The manifest of every epoch: which code and configuration wrote the rows that carry its number.
CREATE TABLE daemon_runs (
    epoch       bigint      PRIMARY KEY CHECK (epoch > 0),
    account_id  text        NOT NULL,
    started_at  timestamptz NOT NULL,
    version     text        NOT NULL,
    commit      text        NOT NULL,
    config_hash text        NOT NULL,
    lockfile_hash   text        NOT NULL,
    pid         integer     NOT NULL,
    ended_at    timestamptz,
    end_reason      text
);

CREATE TABLE order_edges (
    from_status text NOT NULL,
    to_status   text NOT NULL,
    kind        text NOT NULL CHECK (kind IN ('normal', 'late', 'correction')),
    reason      text,                                  -- the edge exists only for this rejection_reason
    PRIMARY KEY (from_status, to_status)
);
INSERT INTO order_edges (from_status, to_status, kind, reason) VALUES
    ('created', 'submitted', 'normal', NULL),
    ('created', 'cancelled', 'normal', NULL),
    ('created', 'rejected', 'normal', NULL),
    ('submitted', 'accepted', 'normal', NULL),
    ('submitted', 'partial_fill', 'normal', NULL),
    ('submitted', 'filled', 'normal', NULL),
    ('submitted', 'cancelled', 'normal', NULL),
    ('submitted', 'rejected', 'normal', NULL),
    ('submitted', 'expired', 'normal', NULL),
    ('submitted', 'replaced', 'normal', NULL),
    ('accepted', 'partial_fill', 'normal', NULL),
    ('accepted', 'filled', 'normal', NULL),
    ('accepted', 'cancelled', 'normal', NULL),
    ('accepted', 'rejected', 'normal', NULL),
    ('accepted', 'expired', 'normal', NULL),
    ('accepted', 'replaced', 'normal', NULL),
    ('partial_fill', 'partial_fill', 'normal', NULL),
    ('partial_fill', 'filled', 'normal', NULL),
    ('partial_fill', 'cancelled', 'normal', NULL),
    ('partial_fill', 'rejected', 'normal', NULL),
    ('partial_fill', 'expired', 'normal', NULL),
    ('partial_fill', 'replaced', 'normal', NULL),
    ('cancelled', 'partial_fill', 'late', NULL),
    ('cancelled', 'filled', 'late', NULL),
    ('expired', 'partial_fill', 'late', NULL),
    ('expired', 'filled', 'late', NULL),
    ('replaced', 'partial_fill', 'late', NULL),
    ('replaced', 'filled', 'late', NULL),
    ('rejected', 'accepted', 'late', 'NEVER_ARRIVED'),
    ('rejected', 'partial_fill', 'late', 'NEVER_ARRIVED'),
    ('rejected', 'filled', 'late', 'NEVER_ARRIVED'),
    ('rejected', 'cancelled', 'late', 'NEVER_ARRIVED'),
    -- Repairs, open only to a transaction that says so: set_config('catalyst.correction', 'on', true).
    ('cancelled', 'accepted', 'correction', NULL),
    ('cancelled', 'rejected', 'correction', NULL),
    ('cancelled', 'expired', 'correction', NULL),
    ('cancelled', 'replaced', 'correction', NULL),
    ('expired', 'accepted', 'correction', NULL),
    ('expired', 'rejected', 'correction', NULL),
    ('expired', 'cancelled', 'correction', NULL),
    ('expired', 'replaced', 'correction', NULL),
    ('replaced', 'accepted', 'correction', NULL),
    ('replaced', 'rejected', 'correction', NULL),
    ('replaced', 'cancelled', 'correction', NULL),
    ('replaced', 'expired', 'correction', NULL),
    ('rejected', 'expired', 'correction', NULL),
    ('rejected', 'replaced', 'correction', NULL);

CREATE TABLE positions (
    position_id       bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cycle_id          text    REFERENCES trading_cycles,
    security_id       integer NOT NULL REFERENCES securities,
    side              text    NOT NULL CHECK (side IN ('long', 'short')),
    quantity          numeric NOT NULL CHECK (quantity >= 0),
    entered_qty       numeric NOT NULL CHECK (entered_qty < 'Infinity'),     -- NaN is the largest numeric
    entry_price       numeric NOT NULL CHECK (entry_price > 0 AND entry_price < 'Infinity'),  -- average, unrounded
    cost              numeric NOT NULL CHECK (cost >= 0 AND cost < 'Infinity'),  -- exact sum of qty times price
    exited_qty        numeric NOT NULL DEFAULT 0 CHECK (exited_qty >= 0),
    proceeds          numeric NOT NULL DEFAULT 0 CHECK (proceeds >= 0 AND proceeds < 'Infinity'),
    exit_price        numeric CHECK (exit_price > 0),
    stop_loss         numeric CHECK (stop_loss > 0),
    take_profit       numeric CHECK (take_profit > 0),
    entry_time        timestamptz NOT NULL,
    exit_time         timestamptz,
    closed_at         timestamptz GENERATED ALWAYS AS (exit_time) STORED,
    status            text    NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'closed')),
    realized_pnl      numeric NOT NULL DEFAULT 0,
    unrealized_pnl    numeric NOT NULL DEFAULT 0,
    last_price        numeric CHECK (last_price > 0),
    high_since_entry  numeric CHECK (high_since_entry > 0),
    low_since_entry   numeric CHECK (low_since_entry > 0),
    protected_at      timestamptz,
    unprotected_seconds     numeric NOT NULL DEFAULT 0 CHECK (unprotected_seconds >= 0),
    close_reason      varchar(255),
    carried           boolean NOT NULL DEFAULT false,
    legacy            boolean NOT NULL DEFAULT false,  -- from before the orders table: keeps its own words
    updated_at        timestamptz NOT NULL,
    CHECK (quantity <= entered_qty),
    CHECK ((status = 'open') = (quantity > 0)),
    CHECK ((status = 'closed') = (exit_time IS NOT NULL)),
    CHECK (legacy OR status = 'open' OR close_reason IS NOT NULL),
    CHECK (legacy OR close_reason ~ ('^(STOP_LOSS_HIT|TAKE_PROFIT_HIT|TIME_LIMIT|MARKET_CLOSE|MANUAL'
                                     '|EMERGENCY_STOP|RECONCILED_PHANTOM|EXTERNAL)(:|$)'))
);
CREATE UNIQUE INDEX positions_one_open ON positions (security_id, side) WHERE status = 'open';
CREATE INDEX positions_by_cycle ON positions (cycle_id);
CREATE INDEX positions_by_security ON positions (security_id);
CREATE INDEX positions_by_exit_time ON positions (exit_time) WHERE exit_time IS NOT NULL;
CREATE INDEX positions_by_close_reason ON positions (close_reason) WHERE close_reason IS NOT NULL;

-- Source: Regulation NMS Rule 612: whole cents from one dollar, hundredths of a cent below.
CREATE FUNCTION is_on_tick(price numeric) RETURNS boolean LANGUAGE sql IMMUTABLE
    RETURN price IS NULL OR (price > 0 AND price = round(price, CASE WHEN price >= 1 THEN 2 ELSE 4 END));

CREATE TABLE orders (
    order_id         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_order_id  text    NOT NULL UNIQUE,
    alpaca_order_id  text    UNIQUE,
    cycle_id         text    REFERENCES trading_cycles,
    security_id      integer NOT NULL REFERENCES securities,
    position_id      bigint  REFERENCES positions,
    parent_order_id  bigint  REFERENCES orders,
    replaces         bigint  REFERENCES orders,
    order_purpose    text    NOT NULL CHECK (order_purpose IN
                     ('entry', 'stop_loss', 'take_profit', 'exit', 'flatten')),
    position_side    text    NOT NULL CHECK (position_side IN ('long', 'short')),
    side             text    NOT NULL CHECK (side IN ('buy', 'sell')),
    order_class      text    NOT NULL DEFAULT 'simple',
    order_type       text    NOT NULL,
    time_in_force    text    NOT NULL,
    quantity         numeric NOT NULL CHECK (quantity > 0 AND quantity < 'Infinity'),
    limit_price      numeric CHECK (limit_price > 0 AND limit_price < 'Infinity'),
    stop_price       numeric CHECK (stop_price > 0 AND stop_price < 'Infinity'),
    bracket_stop     numeric CHECK (bracket_stop > 0 AND bracket_stop < 'Infinity'),
    bracket_target   numeric CHECK (bracket_target > 0 AND bracket_target < 'Infinity'),
    status           text    NOT NULL DEFAULT 'created' CHECK (status IN
                     ('created', 'submitted', 'accepted', 'partial_fill', 'filled', 'cancelled', 'rejected',
                      'expired', 'replaced')),
    filled_qty       numeric NOT NULL DEFAULT 0 CHECK (filled_qty >= 0),
    filled_avg_price numeric CHECK (filled_avg_price > 0),
    broker_status    text,
    epoch            bigint,                           -- of the daemon that wrote it last
    origin           text    NOT NULL DEFAULT 'catalyst' CHECK (origin IN
                     ('catalyst', 'broker', 'external', 'outage', 'legacy')),
    signal_id        text,
    attempts         integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    last_attempt_at  timestamptz,
    created_at       timestamptz NOT NULL,
    submitted_at     timestamptz,
    accepted_at      timestamptz,
    filled_at        timestamptz,
    cancelled_at     timestamptz,
    closed_at        timestamptz,
    updated_at       timestamptz NOT NULL,
    expires_at       timestamptz,
    rejection_reason text,
    cancel_reason    text,
    CHECK (filled_qty <= quantity),
    CHECK (status <> 'created' OR (filled_qty = 0 AND submitted_at IS NULL)),
    CHECK (order_id <> parent_order_id AND order_id <> replaces),
    -- Entries go with the position, every exit against it.
    CHECK (((position_side = 'long') = (side = 'buy')) = (order_purpose = 'entry')),
    CHECK (origin NOT IN ('catalyst', 'broker') OR epoch IS NOT NULL),
    CHECK (origin <> 'catalyst' OR (order_class IN ('simple', 'bracket', 'oco', 'oto')
           AND order_type IN ('market', 'limit', 'stop', 'stop_limit', 'trailing_stop')
           AND time_in_force IN ('day', 'gtc', 'opg', 'cls', 'ioc', 'fok'))),
    CHECK (origin <> 'catalyst' OR (is_on_tick(limit_price) AND is_on_tick(stop_price)
           AND is_on_tick(bracket_stop) AND is_on_tick(bracket_target))),
    CHECK (order_purpose <> 'entry' OR position_id IS NULL OR filled_qty > 0),
    CHECK (order_purpose NOT IN ('exit', 'flatten') OR position_id IS NOT NULL
           OR origin NOT IN ('catalyst', 'broker')),
    CHECK (order_purpose NOT IN ('stop_loss', 'take_profit') OR position_id IS NOT NULL
           OR parent_order_id IS NOT NULL OR origin NOT IN ('catalyst', 'broker'))
);
CREATE UNIQUE INDEX orders_one_entry_per_signal ON orders (signal_id)
    WHERE order_purpose = 'entry' AND status NOT IN ('rejected', 'cancelled');
CREATE INDEX orders_working ON orders (security_id)
    WHERE status IN ('created', 'submitted', 'accepted', 'partial_fill');
CREATE INDEX orders_by_position ON orders (position_id) WHERE position_id IS NOT NULL;
CREATE INDEX orders_by_parent ON orders (parent_order_id) WHERE parent_order_id IS NOT NULL;
CREATE INDEX orders_by_replaced ON orders (replaces) WHERE replaces IS NOT NULL;
CREATE INDEX orders_by_cycle ON orders (cycle_id, order_id);
CREATE INDEX orders_by_created_at ON orders (created_at);

CREATE TABLE executions (
    order_id     bigint  NOT NULL REFERENCES orders,
    cum_qty      numeric NOT NULL CHECK (cum_qty > 0 AND cum_qty < 'Infinity'),
    quantity     numeric NOT NULL CHECK (quantity > 0),
    price        numeric NOT NULL CHECK (price > 0 AND price < 'Infinity'),
    at           timestamptz NOT NULL,
    source       text    NOT NULL,
    execution_id text,                                 -- the stream's; null until heard
    activity_id  text,                                 -- the ledger's; null until heard
    PRIMARY KEY (order_id, cum_qty),
    CHECK (quantity <= cum_qty)
);
CREATE UNIQUE INDEX executions_by_activity ON executions (activity_id) WHERE activity_id IS NOT NULL;
CREATE INDEX executions_by_time ON executions (at);

CREATE TABLE order_events (
    seq         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id    bigint      REFERENCES orders,         -- null: about the account, not one order
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

CREATE TABLE exit_intents (
    intent_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position_id bigint      NOT NULL REFERENCES positions,
    reason      text        NOT NULL,
    purpose     text        NOT NULL CHECK (purpose IN ('exit', 'flatten')),
    requested_by    text        NOT NULL,
    requested_at    timestamptz NOT NULL,
    state       text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'abandoned')),
    done_at     timestamptz,
    CHECK ((state = 'open') = (done_at IS NULL))
);
CREATE UNIQUE INDEX exit_intents_one_open ON exit_intents (position_id) WHERE state = 'open';

-- Shares that working exits could still take from a position. A stop and a target of one family (a bracket's
-- legs, or an OCO and its leg) take them once; a replacement and the order it replaces, once; legs whose entry
-- is not booked as completely filled sleep at the broker, and take none.
CREATE FUNCTION open_exit_quantity(p_position_id bigint) RETURNS numeric LANGUAGE sql STABLE AS $$
    WITH working AS (
        SELECT o.order_id, o.order_purpose, o.replaces, o.quantity - o.filled_qty AS remaining,
               CASE WHEN o.order_purpose NOT IN ('stop_loss', 'take_profit') THEN -o.order_id
                    WHEN parent.order_id IS NULL THEN o.order_id
                    WHEN parent.order_purpose = 'entry' THEN parent.order_id
                    ELSE coalesce(parent.parent_order_id, parent.order_id) END AS family,
               coalesce(parent.order_purpose = 'entry' AND parent.filled_qty < parent.quantity, false) AS asleep
          FROM orders o LEFT JOIN orders parent ON parent.order_id = o.parent_order_id
         WHERE o.position_id = p_position_id AND o.order_purpose <> 'entry'
           AND o.status IN ('created', 'submitted', 'accepted', 'partial_fill')
    ), families AS (
        SELECT greatest(sum(greatest(w.remaining, old.remaining)) FILTER (WHERE w.order_purpose = 'stop_loss'),
                        sum(greatest(w.remaining, old.remaining)) FILTER (WHERE w.order_purpose <> 'stop_loss'))
               AS held
          FROM working w LEFT JOIN working old ON old.order_id = w.replaces
         WHERE NOT w.asleep AND NOT EXISTS (SELECT 1 FROM working new WHERE new.replaces = w.order_id)
         GROUP BY w.family
    )
    SELECT coalesce(sum(held), 0) FROM families
$$;

CREATE FUNCTION check_order_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_epoch bigint;
    v_edge  order_edges;
BEGIN
    -- The position is locked before anything is counted: of many exits at once each sees those before it, and
    -- none waits for another in a circle.
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

    IF TG_OP = 'INSERT' THEN
        IF NEW.origin = 'catalyst' AND NEW.status NOT IN ('created', 'submitted') THEN
            RAISE EXCEPTION 'order % would begin as %', NEW.client_order_id, NEW.status USING ERRCODE = 'CT003';
        END IF;
        RETURN NEW;
    END IF;

    IF NEW.status <> OLD.status THEN
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
        RAISE EXCEPTION 'order % keeps what it is: ids, security, purpose, sides, creation', OLD.order_id
            USING ERRCODE = 'CT004';
    END IF;
    IF OLD.closed_at IS NOT NULL AND (
          NEW.submitted_at IS DISTINCT FROM coalesce(OLD.submitted_at, NEW.submitted_at)
       OR NEW.accepted_at IS DISTINCT FROM coalesce(OLD.accepted_at, NEW.accepted_at)
       OR NEW.filled_at IS DISTINCT FROM coalesce(OLD.filled_at, NEW.filled_at)
       OR NEW.cancelled_at IS DISTINCT FROM coalesce(OLD.cancelled_at, NEW.cancelled_at)
       OR (NEW.closed_at IS DISTINCT FROM OLD.closed_at AND NEW.status = OLD.status)) THEN
        RAISE EXCEPTION 'order % has ended and keeps its times', OLD.order_id USING ERRCODE = 'CT004';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER check_order_change BEFORE INSERT OR UPDATE ON orders FOR EACH ROW EXECUTE FUNCTION check_order_change();

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

-- Judged at commit, when the transaction has said everything it had to say about an order.
CREATE FUNCTION check_order_totals() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    v_order orders;
    v_last  text;
    v_sum   numeric;
BEGIN
    SELECT * INTO v_order FROM orders WHERE order_id = NEW.order_id;
    IF v_order.origin = 'legacy' THEN
        RETURN NULL;
    END IF;
    SELECT to_status INTO v_last FROM order_events
     WHERE order_id = v_order.order_id AND to_status IS NOT NULL
       AND kind IN ('transition', 'fill', 'late', 'correction')
     ORDER BY seq DESC LIMIT 1;
    IF v_last IS DISTINCT FROM v_order.status THEN
        RAISE EXCEPTION 'order % is %, its journal ends at %', v_order.order_id, v_order.status,
            coalesce(v_last, 'nothing') USING ERRCODE = 'CT006';
    END IF;
    SELECT coalesce(sum(quantity), 0) INTO v_sum FROM executions WHERE order_id = v_order.order_id;
    IF v_sum <> v_order.filled_qty THEN
        RAISE EXCEPTION 'order % has filled %, its executions sum to %', v_order.order_id, v_order.filled_qty,
            v_sum USING ERRCODE = 'CT005';
    END IF;
    IF v_order.origin = 'catalyst' AND v_order.order_purpose = 'entry' AND v_order.filled_qty > 0
       AND v_order.position_id IS NULL THEN
        RAISE EXCEPTION 'entry % has filled % without a position', v_order.order_id, v_order.filled_qty
            USING ERRCODE = 'CT007';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER order_totals_on_insert AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION check_order_totals();
CREATE CONSTRAINT TRIGGER order_totals_on_update AFTER UPDATE OF status, filled_qty ON orders
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
    WHEN (NEW.status <> OLD.status OR NEW.filled_qty <> OLD.filled_qty) EXECUTE FUNCTION check_order_totals();
CREATE CONSTRAINT TRIGGER order_adds_up_fill AFTER INSERT ON executions DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION check_order_totals();

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

CREATE FUNCTION forbid_rewrite() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'CT004';
END $$;
CREATE TRIGGER order_events_append_only BEFORE UPDATE OR DELETE ON order_events
    FOR EACH ROW EXECUTE FUNCTION forbid_rewrite();
CREATE TRIGGER order_events_no_truncate BEFORE TRUNCATE ON order_events
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_rewrite();
CREATE TRIGGER executions_no_delete BEFORE DELETE ON executions
    FOR EACH ROW EXECUTE FUNCTION forbid_rewrite();
CREATE TRIGGER executions_no_truncate BEFORE TRUNCATE ON executions
    FOR EACH STATEMENT EXECUTE FUNCTION forbid_rewrite();
-- A fill booked from one source learns its other name when the second source tells of it; nothing else changes.
CREATE TRIGGER executions_append_only BEFORE UPDATE ON executions FOR EACH ROW
    WHEN ((OLD.order_id, OLD.cum_qty, OLD.quantity, OLD.price, OLD.at, OLD.source)
          IS DISTINCT FROM (NEW.order_id, NEW.cum_qty, NEW.quantity, NEW.price, NEW.at, NEW.source)
          OR NEW.execution_id IS DISTINCT FROM coalesce(OLD.execution_id, NEW.execution_id)
          OR NEW.activity_id IS DISTINCT FROM coalesce(OLD.activity_id, NEW.activity_id))
    EXECUTE FUNCTION forbid_rewrite();
