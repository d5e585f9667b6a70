-- State of the alert channels, issues of the doctor that last, and the age of the API key.

-- One row per channel that a daemon has had; in_use: the last daemon has it.
CREATE TABLE alert_channels (
    channel           text        PRIMARY KEY,
    severities        text[]      NOT NULL,
    in_use            boolean     NOT NULL,
    last_delivered_at timestamptz,
    failing_since     timestamptz,                     -- null: it took the last message, or had none
    last_error        text,
    CONSTRAINT failure_has_an_error CHECK ((failing_since IS NULL) = (last_error IS NULL))
);

-- An issue of the doctor is one event for as long as it lasts; ended_at is null until it is gone.
ALTER TABLE risk_events
    ADD COLUMN issue_key text,
    ADD COLUMN ended_at  timestamptz,
    ADD CONSTRAINT only_issues_end CHECK (ended_at IS NULL OR issue_key IS NOT NULL);
CREATE UNIQUE INDEX risk_events_open_issue ON risk_events (issue_key)
    WHERE issue_key IS NOT NULL AND ended_at IS NULL;

-- First use of each API key, by the hash of its id.
CREATE TABLE api_keys (
    key_sha256    text        PRIMARY KEY,
    first_seen_at timestamptz NOT NULL
);
