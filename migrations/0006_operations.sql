-- Operations: latches, flat proofs, quarantine, risk events, alerts, operator commands and proposals.

CREATE TABLE latches (
    latch_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text        NOT NULL CHECK (name IN ('emergency_stop', 'flatten', 'safe', 'halt')),
    set_at     timestamptz NOT NULL,
    reason     text        NOT NULL,
    set_by     text        NOT NULL,
    until      timestamptz,
    cleared_at timestamptz,
    cleared_by text,
    facts      jsonb       NOT NULL DEFAULT '{}',       -- SAFE mode: the invariants that failed
    CHECK ((cleared_at IS NULL) = (cleared_by IS NULL))
);
CREATE UNIQUE INDEX latches_one_active ON latches (name) WHERE cleared_at IS NULL;

CREATE TABLE flat_proofs (
    proof_id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cycle_id         text        REFERENCES trading_cycles,
    at               timestamptz NOT NULL,
    cause            text        NOT NULL,
    requested_by     text        NOT NULL,
    flat             boolean     NOT NULL,
    broker_orders    integer,                          -- null: the broker was unreachable
    broker_positions integer,
    stored_orders    integer,                          -- null: the database was unreachable
    stored_positions integer,
    facts            jsonb       NOT NULL DEFAULT '{}',
    -- coalesce: null (unreachable) does not count as zero; without it a null CHECK would pass.
    CHECK (NOT flat OR coalesce(broker_orders = 0 AND broker_positions = 0, false))
);

CREATE TABLE quarantine (
    quarantine_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at            timestamptz NOT NULL,
    source        text        NOT NULL,
    reason        text        NOT NULL,
    raw           text        NOT NULL,
    raw_sha256    text        NOT NULL,                -- of the bytes as received, before cleaning
    order_id      bigint      REFERENCES orders,
    security_id   integer     REFERENCES securities,
    resolved_at   timestamptz,
    resolved_by   text,
    note          text
);
CREATE INDEX quarantine_unresolved ON quarantine (at) WHERE resolved_at IS NULL;

CREATE TABLE risk_events (
    risk_event_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cycle_id      text        REFERENCES trading_cycles,
    event_type    text        NOT NULL,
    severity      text        NOT NULL CHECK (severity IN ('INFO', 'WARNING', 'CRITICAL')),
    message       text        NOT NULL,
    facts         jsonb       NOT NULL DEFAULT '{}',
    occurred_at   timestamptz NOT NULL
);
CREATE INDEX risk_events_by_time ON risk_events (occurred_at);

-- Alert outbox: written in the same transaction as the event, delivered later.
CREATE TABLE alerts (
    alert_id        bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    severity        text        NOT NULL CHECK (severity IN ('INFO', 'WARNING', 'CRITICAL')),
    event           text        NOT NULL,
    message         text        NOT NULL,
    facts           jsonb       NOT NULL DEFAULT '{}',
    dedupe_key      text        NOT NULL,
    created_at      timestamptz NOT NULL,
    repeats         integer     NOT NULL DEFAULT 0 CHECK (repeats >= 0),
    repeated_at     timestamptz,
    attempts        integer     NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    next_attempt_at timestamptz NOT NULL,
    last_error      text,
    delivered_at    timestamptz
);
CREATE INDEX alerts_due ON alerts (next_attempt_at) WHERE delivered_at IS NULL;
CREATE INDEX alerts_by_key ON alerts (dedupe_key, created_at);

CREATE TABLE commands (
    command_id   bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind         text        NOT NULL CHECK (kind ~ '^[a-z_]+$'),
    arguments    jsonb       NOT NULL DEFAULT '{}',
    requested_at timestamptz NOT NULL,
    requested_by text        NOT NULL,
    taken_at     timestamptz,
    answered_at  timestamptz,
    ok           boolean,
    result       jsonb,
    CHECK ((answered_at IS NULL) = (ok IS NULL)),
    CHECK (answered_at IS NULL OR taken_at IS NOT NULL)
);
CREATE INDEX commands_waiting ON commands (command_id) WHERE answered_at IS NULL;

-- Wake the daemon for a new command, and the waiting client for an answer.
CREATE FUNCTION notify_command() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify(CASE WHEN NEW.answered_at IS NULL THEN 'catalyst_commands' ELSE 'catalyst_answers' END,
                      NEW.command_id::text);
    RETURN NULL;
END $$;
CREATE TRIGGER notify_command AFTER INSERT ON commands FOR EACH ROW EXECUTE FUNCTION notify_command();
CREATE TRIGGER notify_answer AFTER UPDATE OF answered_at ON commands FOR EACH ROW
    WHEN (OLD.answered_at IS NULL AND NEW.answered_at IS NOT NULL) EXECUTE FUNCTION notify_command();

CREATE TABLE proposals (
    proposal_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    order_id    bigint      NOT NULL UNIQUE REFERENCES orders,
    cycle_id    text        NOT NULL REFERENCES trading_cycles,
    security_id integer     NOT NULL REFERENCES securities,
    ticket      jsonb       NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    decision    text        CHECK (decision IN ('approved', 'rejected', 'expired')),
    decided_at  timestamptz,
    decided_by  text,
    note        text,
    CHECK (created_at < expires_at),
    CHECK ((decision IS NULL) = (decided_at IS NULL) AND (decision IS NULL) = (decided_by IS NULL)),
    CHECK (decision <> 'approved' OR decided_at <= expires_at)
);
CREATE INDEX proposals_open ON proposals (expires_at) WHERE decision IS NULL;
