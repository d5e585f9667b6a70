-- What the running daemon says about itself, so that no screen has to guess: why entries are closed, and the settings
-- in force.

-- One row per reason and time. The daemon is the only writer; the reasons in force are those of the current epoch
-- without an end.
CREATE TABLE gate_reasons (
    gate_reason_id bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    epoch          bigint      NOT NULL,
    name           text        NOT NULL,
    reason         text        NOT NULL,
    since          timestamptz NOT NULL,
    ended_at       timestamptz
);
CREATE UNIQUE INDEX gate_reasons_in_force ON gate_reasons (name) WHERE ended_at IS NULL;
CREATE INDEX gate_reasons_by_time ON gate_reasons (since);

-- What the running daemon says about itself: settings, which a reload of the configuration changes, and its scans. Null
-- before the first start.
ALTER TABLE daemon
    ADD COLUMN mode           text CHECK (mode IN ('sim', 'paper', 'live')),
    ADD COLUMN session_mode   text CHECK (session_mode IN ('supervised', 'autonomous')),
    ADD COLUMN broker_url     text,
    ADD COLUMN max_positions  integer,
    ADD COLUMN max_daily_loss numeric,
    ADD COLUMN next_scan_at   timestamptz,
    ADD COLUMN scan_failure   text;
