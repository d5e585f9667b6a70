-- Trading cycles, one per trading day, and the scans of each: input, scores and decisions.

CREATE TABLE trading_cycles (
    cycle_id       text        PRIMARY KEY CHECK (cycle_id ~ '^\d{8}-\d{6}$'),
    cycle_date     date        NOT NULL UNIQUE,        -- New York: one cycle per trading day
    mode           text        NOT NULL CHECK (mode IN ('supervised', 'autonomous')),
    status         text        NOT NULL DEFAULT 'idle' CHECK (status IN
                   ('idle', 'scanning', 'evaluating', 'trading', 'monitoring', 'closed', 'completed')),
    halted         boolean     NOT NULL DEFAULT false,
    halt_reason    text,
    halted_until   timestamptz,
    max_positions  integer     NOT NULL CHECK (max_positions > 0),
    max_daily_loss numeric     NOT NULL CHECK (max_daily_loss > 0),
    scan_frequency integer     NOT NULL CHECK (scan_frequency >= 0),   -- seconds; 0: only at the fixed times
    start_equity   numeric,
    end_equity     numeric,
    realized_pnl   numeric     NOT NULL DEFAULT 0,
    unrealized_pnl numeric     NOT NULL DEFAULT 0,
    daily_pnl      numeric     NOT NULL DEFAULT 0,
    start_time     timestamptz NOT NULL,
    end_time       timestamptz,
    started_at     timestamptz GENERATED ALWAYS AS (start_time) STORED,
    stopped_at     timestamptz GENERATED ALWAYS AS (end_time) STORED,
    updated_at     timestamptz NOT NULL,
    config_hash    text        NOT NULL,
    CHECK (NOT halted OR halt_reason IS NOT NULL),
    CHECK ((status = 'completed') = (end_time IS NOT NULL))
);

CREATE TABLE scans (
    scan_id       bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cycle_id      text        NOT NULL REFERENCES trading_cycles,
    started_at    timestamptz NOT NULL,
    finished_at   timestamptz NOT NULL,
    degraded      text,                                -- reason when a source failed: no autonomous entries
    universe      integer     NOT NULL CHECK (universe >= 0),
    counts        jsonb       NOT NULL,                -- stage name: rows that remain after it
    milliseconds  jsonb       NOT NULL,                -- stage name: wall-clock duration
    CHECK (started_at <= finished_at)
);
CREATE INDEX scans_by_cycle ON scans (cycle_id, scan_id);

-- The complete frame of a scan: every symbol with the stage that dropped it, compressed by the caller.
-- A separate table, so that the owner can delete old frames and keep the results.
CREATE TABLE scan_frames (
    scan_id bigint  PRIMARY KEY REFERENCES scans,
    format  text    NOT NULL,
    rows    integer NOT NULL CHECK (rows >= 0),
    frame   bytea   NOT NULL
);
ALTER TABLE scan_frames ALTER COLUMN frame SET STORAGE EXTERNAL;

CREATE TABLE scan_results (
    scan_result_id     bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scan_id            bigint  NOT NULL REFERENCES scans,
    security_id        integer NOT NULL REFERENCES securities,
    rank_in_scan       integer NOT NULL CHECK (rank_in_scan BETWEEN 1 AND 200),
    side               text    CHECK (side IN ('long', 'short')),
    price              numeric CHECK (price > 0),
    volume             numeric CHECK (volume >= 0),
    scan_score         double precision,
    momentum_score     double precision,
    volume_score       double precision,
    news_score         double precision,
    pattern_confidence double precision,
    technical_score    double precision,
    composite_score    double precision,
    risk_score         double precision,
    stage_reached      text    NOT NULL CHECK (stage_reached IN
                       ('universe', 'scan', 'news', 'pattern', 'technical', 'score', 'risk', 'plan')),
    verdict            text    NOT NULL CHECK (verdict IN ('passed', 'refused')),
    reason             text,
    status             text    NOT NULL DEFAULT 'candidate' CHECK (status IN
                       ('candidate', 'refused', 'proposed', 'ordered')),
    signal_id          text,
    detail             jsonb   NOT NULL DEFAULT '{}',  -- risk verdict and other grounds of the decision
    UNIQUE (scan_id, rank_in_scan),
    UNIQUE (scan_id, security_id),
    CHECK (verdict = 'passed' OR reason IS NOT NULL)
);
CREATE INDEX scan_results_by_security ON scan_results (security_id, scan_id);

CREATE TABLE news_sentiment (
    news_id      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scan_id      bigint      NOT NULL REFERENCES scans,
    security_id  integer     NOT NULL REFERENCES securities,
    headline     text        NOT NULL,
    source       text        NOT NULL,
    url          text,
    catalyst     text,
    published_at timestamptz NOT NULL,
    received_at  timestamptz NOT NULL,
    sentiment    double precision NOT NULL CHECK (sentiment BETWEEN -1 AND 1),
    relevance    double precision NOT NULL DEFAULT 1 CHECK (relevance BETWEEN 0 AND 1),
    score        double precision
);
CREATE INDEX news_sentiment_by_scan ON news_sentiment (scan_id, security_id);

CREATE TABLE pattern_analysis (
    pattern_id   bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scan_id      bigint  NOT NULL REFERENCES scans,
    security_id  integer NOT NULL REFERENCES securities,
    pattern      text    NOT NULL,
    side         text    NOT NULL CHECK (side IN ('long', 'short')),
    confidence   double precision NOT NULL CHECK (confidence BETWEEN 0 AND 1),
    trigger      numeric,
    invalidation numeric,
    target       numeric,
    first_bar    timestamptz,
    last_bar     timestamptz,
    detail       jsonb   NOT NULL DEFAULT '{}'
);
CREATE INDEX pattern_analysis_by_scan ON pattern_analysis (scan_id, security_id);

CREATE TABLE technical_indicators (
    technical_id bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    scan_id      bigint  NOT NULL REFERENCES scans,
    security_id  integer NOT NULL REFERENCES securities,
    agreement    double precision CHECK (agreement BETWEEN 0 AND 1),
    values       jsonb   NOT NULL,                     -- indicator name: value; null when missing
    UNIQUE (scan_id, security_id)
);
