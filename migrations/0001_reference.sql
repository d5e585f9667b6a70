-- Reference data: sectors, securities, the exchange's calendar, and the time dimension of the seeds.
-- No migration reads the server's clock: the caller gives every instant, because its clock may differ.

CREATE TABLE sectors (
    sector_id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name      text NOT NULL UNIQUE CHECK (name <> '')
);

CREATE TABLE securities (
    security_id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    symbol        text    NOT NULL UNIQUE CHECK (symbol = upper(symbol) AND symbol ~ '^\S{1,32}$'),
    name          text    NOT NULL DEFAULT '',
    exchange      text    NOT NULL DEFAULT 'UNKNOWN',
    sector_id     integer REFERENCES sectors,          -- null: unknown
    tradable      boolean NOT NULL DEFAULT false,
    shortable     boolean NOT NULL DEFAULT false,
    borrow_status text    NOT NULL DEFAULT 'unknown'
                  CHECK (borrow_status IN ('easy_to_borrow', 'hard_to_borrow', 'not_shortable', 'unknown')),
    fractionable  boolean NOT NULL DEFAULT false,
    marginable    boolean NOT NULL DEFAULT false,
    is_active     boolean NOT NULL DEFAULT true,
    refreshed_at  timestamptz                          -- null: never in the broker's asset list
);
CREATE INDEX securities_by_sector ON securities (sector_id);

CREATE TABLE trading_days (
    date     date        PRIMARY KEY,                  -- New York
    open     timestamptz NOT NULL,
    close    timestamptz NOT NULL,
    half_day boolean     NOT NULL,
    CHECK (open < close)
);

CREATE TABLE time_dimension (
    time_id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    timestamp       timestamptz NOT NULL UNIQUE,       -- whole minutes, UTC; the parts below are in New York time
    date            date        NOT NULL,
    year            integer     NOT NULL,
    month           integer     NOT NULL,
    day             integer     NOT NULL,
    day_of_week     integer     NOT NULL,              -- 1 Monday to 7 Sunday
    hour            integer     NOT NULL,
    minute          integer     NOT NULL,
    is_market_hours boolean     NOT NULL,              -- open <= timestamp < close of that trading day
    is_trading_day  boolean     NOT NULL
);

-- Return the id of a symbol; insert the symbol when it is new. Concurrent callers get the same id.
CREATE FUNCTION get_or_create_security(p_symbol varchar) RETURNS integer LANGUAGE plpgsql AS $$
DECLARE
    v_id integer;
BEGIN
    SELECT security_id INTO v_id FROM securities WHERE symbol = upper(p_symbol);
    IF v_id IS NULL THEN
        INSERT INTO securities (symbol) VALUES (upper(p_symbol))
        ON CONFLICT (symbol) DO NOTHING RETURNING security_id INTO v_id;
    END IF;
    IF v_id IS NULL THEN  -- a concurrent transaction inserted it and committed
        SELECT security_id INTO v_id FROM securities WHERE symbol = upper(p_symbol);
    END IF;
    RETURN v_id;
END $$;

-- Return the id of a minute; insert or correct its row, so that its market hours match the current calendar.
CREATE FUNCTION get_or_create_time(p_timestamp timestamptz) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    v_minute  timestamptz := date_trunc('minute', p_timestamp, 'UTC');
    v_local   timestamp   := v_minute AT TIME ZONE 'America/New_York';
    v_session trading_days;
    v_trading boolean;
    v_market  boolean;
    v_id      bigint;
BEGIN
    SELECT * INTO v_session FROM trading_days WHERE date = v_local::date;
    v_trading := FOUND;
    v_market := v_trading AND v_minute >= v_session.open AND v_minute < v_session.close;
    SELECT time_id INTO v_id FROM time_dimension
     WHERE timestamp = v_minute AND is_market_hours = v_market AND is_trading_day = v_trading;
    IF v_id IS NULL THEN
        INSERT INTO time_dimension (timestamp, date, year, month, day, day_of_week, hour, minute,
                                    is_market_hours, is_trading_day)
        VALUES (v_minute, v_local::date, extract(year FROM v_local), extract(month FROM v_local),
                extract(day FROM v_local), extract(isodow FROM v_local), extract(hour FROM v_local),
                extract(minute FROM v_local), v_market, v_trading)
        ON CONFLICT (timestamp) DO UPDATE
            SET is_market_hours = excluded.is_market_hours, is_trading_day = excluded.is_trading_day
        RETURNING time_id INTO v_id;
    END IF;
    RETURN v_id;
END $$;
