-- Order ledger: the writer's epoch, positions, orders, executions, exit intents and orphan shares.
-- 0004_order_rules.sql holds the rules of these tables, 0005_journal.sql the journal of every order.

CREATE TABLE daemon (
    one           boolean     PRIMARY KEY DEFAULT true CHECK (one),  -- exactly one row
    -- UNIQUE makes the epoch a key column: an update of it waits for writers that hold the row FOR KEY SHARE, and
    -- the heartbeat's update does not.
    epoch         bigint      NOT NULL UNIQUE CHECK (epoch >= 0),
    account_id    text,                                -- set by the first daemon that starts
    started_at    timestamptz,
    version       text,
    commit        text,
    config_hash   text,
    lockfile_hash text,
    pid           integer,
    heartbeat_at  timestamptz
);
INSERT INTO daemon (epoch) VALUES (0);

-- One row per epoch: the code and the configuration that wrote the rows with this epoch.
CREATE TABLE daemon_runs (
    epoch         bigint      PRIMARY KEY CHECK (epoch > 0),
    account_id    text        NOT NULL,
    started_at    timestamptz NOT NULL,
    version       text        NOT NULL,
    commit        text        NOT NULL,
    config_hash   text        NOT NULL,
    lockfile_hash text        NOT NULL,
    pid           integer     NOT NULL,
    ended_at      timestamptz,
    end_reason    text
);

-- The status changes that a report or a step of Catalyst may make; the same table as in domain/order.py. A fill is
-- booked in every status.
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
    -- Repairs: allowed only in a transaction that ran set_config('catalyst.correction', 'on', true).
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

-- positions, orders and executions have no CHECK: validate_*_row in 0004_order_rules.sql holds the rules of a row.
CREATE TABLE positions (
    position_id         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cycle_id            text    REFERENCES trading_cycles,
    security_id         integer NOT NULL REFERENCES securities,
    side                text    NOT NULL,
    quantity            numeric NOT NULL,              -- shares held now
    entered_qty         numeric NOT NULL,
    entry_price         numeric NOT NULL,              -- average, unrounded
    cost                numeric NOT NULL,              -- exact sum of quantity times price
    exited_qty          numeric NOT NULL DEFAULT 0,
    proceeds            numeric NOT NULL DEFAULT 0,
    exit_price          numeric,
    stop_loss           numeric,
    take_profit         numeric,
    entry_time          timestamptz NOT NULL,
    exit_time           timestamptz,
    closed_at           timestamptz GENERATED ALWAYS AS (exit_time) STORED,
    status              text    NOT NULL DEFAULT 'open',
    realized_pnl        numeric NOT NULL DEFAULT 0,
    unrealized_pnl      numeric NOT NULL DEFAULT 0,
    last_price          numeric,
    high_since_entry    numeric,
    low_since_entry     numeric,
    protected_at        timestamptz,
    unprotected_seconds numeric NOT NULL DEFAULT 0,
    close_reason        varchar(255),
    carried             boolean NOT NULL DEFAULT false,
    legacy              boolean NOT NULL DEFAULT false,  -- older than the orders table: keeps its own close reason
    updated_at          timestamptz NOT NULL
);
CREATE UNIQUE INDEX positions_one_open ON positions (security_id, side) WHERE status = 'open';
CREATE INDEX positions_by_cycle ON positions (cycle_id);
CREATE INDEX positions_by_security ON positions (security_id);
CREATE INDEX positions_by_exit_time ON positions (exit_time) WHERE exit_time IS NOT NULL;
CREATE INDEX positions_by_close_reason ON positions (close_reason) WHERE close_reason IS NOT NULL;

CREATE TABLE orders (
    order_id         bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    client_order_id  text    NOT NULL UNIQUE,
    alpaca_order_id  text    UNIQUE,
    cycle_id         text    REFERENCES trading_cycles,
    security_id      integer NOT NULL REFERENCES securities,
    position_id      bigint  REFERENCES positions,
    parent_order_id  bigint  REFERENCES orders,
    replaces         bigint  REFERENCES orders,
    order_purpose    text    NOT NULL,
    position_side    text    NOT NULL,
    side             text    NOT NULL,
    order_class      text    NOT NULL DEFAULT 'simple',
    order_type       text    NOT NULL,
    time_in_force    text    NOT NULL,
    quantity         numeric NOT NULL,
    limit_price      numeric,
    stop_price       numeric,
    bracket_stop     numeric,
    bracket_target   numeric,
    status           text    NOT NULL DEFAULT 'created',
    filled_qty       numeric NOT NULL DEFAULT 0,
    filled_avg_price numeric,
    broker_status    text,
    epoch            bigint,                           -- of the daemon that wrote the row last
    origin           text    NOT NULL DEFAULT 'catalyst',
    signal_id        text,
    attempts         integer NOT NULL DEFAULT 0,
    last_attempt_at  timestamptz,
    created_at       timestamptz NOT NULL,
    submitted_at     timestamptz,
    accepted_at      timestamptz,
    filled_at        timestamptz,
    cancelled_at     timestamptz,
    closed_at        timestamptz,
    -- The broker's own times. The columns above hold the times at which Catalyst received the reports.
    broker_submitted_at timestamptz,
    broker_filled_at    timestamptz,
    broker_canceled_at  timestamptz,
    broker_expired_at   timestamptz,
    updated_at       timestamptz NOT NULL,
    expires_at       timestamptz,
    rejection_reason text,
    cancel_reason    text
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
CREATE INDEX orders_of_orphans ON orders (security_id, position_side, created_at) WHERE origin = 'orphan';

CREATE TABLE executions (
    order_id     bigint  NOT NULL REFERENCES orders,
    cum_qty      numeric NOT NULL,                     -- filled quantity of the order after this fill
    quantity     numeric NOT NULL,
    price        numeric NOT NULL,
    at           timestamptz NOT NULL,
    source       text    NOT NULL,
    execution_id text,                                 -- from the trade update; null until received
    activity_id  text,                                 -- from the account activities; null until received
    PRIMARY KEY (order_id, cum_qty)
);
CREATE UNIQUE INDEX executions_by_activity ON executions (activity_id) WHERE activity_id IS NOT NULL;
CREATE INDEX executions_by_time ON executions (at);

CREATE TABLE exit_intents (
    intent_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    position_id  bigint      NOT NULL REFERENCES positions,
    reason       text        NOT NULL,
    purpose      text        NOT NULL CHECK (purpose IN ('exit', 'flatten')),
    requested_by text        NOT NULL,
    requested_at timestamptz NOT NULL,
    state        text        NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'done', 'abandoned')),
    done_at      timestamptz,
    CHECK ((state = 'open') = (done_at IS NULL))
);
CREATE UNIQUE INDEX exit_intents_one_open ON exit_intents (position_id) WHERE state = 'open';

-- Orphan shares: the broker holds them in a symbol of Catalyst and no position explains them. They have no entry fill,
-- so they are no position. A row counts the shares found and the shares sold since. It has a realized result only
-- where every fill is known (cause 'oversold': Catalyst's own exits sold too much).
CREATE TABLE orphans (
    orphan_id    bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    cycle_id     text        REFERENCES trading_cycles,
    security_id  integer     NOT NULL REFERENCES securities,
    position_id  bigint      REFERENCES positions,      -- the position whose exits sold too much
    cause        text        NOT NULL CHECK (cause IN ('oversold', 'unexplained')),
    side         text        NOT NULL CHECK (side IN ('long', 'short')),
    quantity     numeric     NOT NULL CHECK (quantity >= 0 AND quantity < 'Infinity'),  -- shares held now
    found_qty    numeric     NOT NULL CHECK (found_qty > 0 AND found_qty < 'Infinity'),
    cost         numeric     CHECK (cost > 0 AND cost < 'Infinity'),  -- of found_qty; null: unknown
    exited_qty   numeric     NOT NULL DEFAULT 0 CHECK (exited_qty >= 0),
    proceeds     numeric     NOT NULL DEFAULT 0 CHECK (proceeds >= 0 AND proceeds < 'Infinity'),
    realized_pnl numeric,                               -- of exited_qty; null where cost is null
    stop_price   numeric     CHECK (stop_price > 0),
    protected_at timestamptz,
    found_at     timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    ended_at     timestamptz,
    end_reason   text,
    CHECK ((cause = 'oversold') = (position_id IS NOT NULL)),
    CHECK (cause <> 'oversold' OR cost IS NOT NULL),
    CHECK (realized_pnl IS NULL OR cost IS NOT NULL),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
    CHECK (ended_at IS NULL OR quantity = 0)
);
CREATE UNIQUE INDEX orphans_one_open ON orphans (security_id, side) WHERE ended_at IS NULL;
CREATE INDEX orphans_by_cycle ON orphans (cycle_id);
CREATE INDEX orphans_by_position ON orphans (position_id) WHERE position_id IS NOT NULL;
