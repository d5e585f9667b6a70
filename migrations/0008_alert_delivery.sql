-- Alert delivery: which channel has sent which alert, who acknowledged it, and the reminders of critical alerts.

ALTER TABLE alerts
    ADD COLUMN acknowledged_at timestamptz,
    ADD COLUMN acknowledged_by text,
    ADD COLUMN reminders       integer NOT NULL DEFAULT 0 CHECK (reminders >= 0),
    ADD COLUMN reminded_at     timestamptz,
    ADD CONSTRAINT acknowledged_by_somebody CHECK ((acknowledged_at IS NULL) = (acknowledged_by IS NULL));

-- One row per alert and channel that took it. The alert is delivered when every channel of its severity has a row.
CREATE TABLE alert_deliveries (
    alert_id     bigint      NOT NULL REFERENCES alerts ON DELETE CASCADE,
    channel      text        NOT NULL,
    delivered_at timestamptz NOT NULL,
    PRIMARY KEY (alert_id, channel)
);

CREATE INDEX alerts_unacknowledged ON alerts (created_at) WHERE acknowledged_at IS NULL AND severity = 'CRITICAL';
