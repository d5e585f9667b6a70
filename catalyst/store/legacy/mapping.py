"""Mapping of the old rows: which row here each becomes, in temporary tables; a row that none can become has a reason.

Purposes, sides, statuses and fills of orders are decided here, once, for every state in which the database was found.
"""

from typing import Final

# Every word that the earlier system or the broker wrote as an order's status. Its own watchdog wrote not_found.
ORDER_STATUSES: Final = {
    "created": "created",
    **dict.fromkeys(("submitted", "pending_new", "new", "pending_review"), "submitted"),
    **dict.fromkeys(
        (
            "accepted", "accepted_for_bidding", "held", "stopped", "suspended", "pending_cancel", "pending_replace",
            "done_for_day", "calculated",
        ),
        "accepted",
    ),
    **dict.fromkeys(("partial_fill", "partially_filled"), "partial_fill"),
    "filled": "filled",
    **dict.fromkeys(("cancelled", "canceled"), "cancelled"),
    "expired": "expired",
    **dict.fromkeys(("rejected", "not_found"), "rejected"),
    "replaced": "replaced",
}  # fmt: skip

_STATUS_ROWS: Final = ", ".join(f"('{word}', '{status}')" for word, status in ORDER_STATUSES.items())

STATEMENTS: Final = (
    (
        "count the old rows",
        """
        CREATE TEMP TABLE old_counts ON COMMIT DROP AS
        SELECT (SELECT count(*) FROM old_orders) AS orders, (SELECT count(*) FROM old_positions) AS positions,
               (SELECT coalesce(sum(realized_pnl), 0) FROM old_positions) AS realized_pnl,
               (SELECT count(*) FROM old_cycles) AS cycles, (SELECT count(*) FROM old_securities) AS securities,
               (SELECT count(*) FROM old_times) AS times
        """,
    ),
    (
        "map the words of order statuses",
        f"""
        CREATE TEMP TABLE old_statuses ON COMMIT DROP AS
        SELECT * FROM (VALUES {_STATUS_ROWS}) AS v (word, status)
        """,  # noqa: S608 -- the words above
    ),
    (
        "map the securities, one for each symbol",
        r"""
        CREATE TEMP TABLE security_map ON COMMIT DROP AS
        SELECT security_id AS old_id, upper(btrim(symbol)) AS symbol,
               first_value(security_id) OVER (PARTITION BY upper(btrim(symbol)) ORDER BY security_id) AS security_id
          FROM old_securities WHERE upper(btrim(symbol)) ~ '^\S{1,32}$'
        """,
    ),
    (
        "map the cycles, one for each date",
        r"""
        CREATE TEMP TABLE cycle_map ON COMMIT DROP AS
        WITH dated AS (
            SELECT *, coalesce(cycle_date, (started_at AT TIME ZONE 'America/New_York')::date) AS day FROM old_cycles
        ), named AS (
            SELECT cycle_id AS old_id, day, started_at,
                   CASE WHEN cycle_id ~ '^\d{8}-\d{6}$' THEN cycle_id
                        ELSE to_char(day, 'YYYYMMDD-') || to_char(
                             coalesce(started_at AT TIME ZONE 'America/New_York', day + time '09:30'), 'HH24MISS')
                    END AS own_id
              FROM dated WHERE day IS NOT NULL
        )
        SELECT old_id, day, first_value(own_id) OVER of_day AS cycle_id, row_number() OVER of_day AS nth
          FROM named WINDOW of_day AS (PARTITION BY day ORDER BY started_at NULLS LAST, old_id)
        """,
    ),
    (
        "map the moments, one for each minute",
        """
        CREATE TEMP TABLE time_map ON COMMIT DROP AS
        SELECT time_id AS old_id, date_trunc('minute', at, 'UTC') AS minute, is_trading_day,
               first_value(time_id) OVER (PARTITION BY date_trunc('minute', at, 'UTC') ORDER BY time_id) AS time_id
          FROM old_times WHERE at IS NOT NULL
        """,
    ),
    (
        "link orders to the positions that name them",
        """
        UPDATE old_orders o SET position_id = p.position_id FROM old_positions p
         WHERE o.position_id IS NULL AND o.parent_order_id IS NULL AND o.alpaca_order_id = p.alpaca_order_id
        """,
    ),
    (
        "make the order of each position that has none",
        """
        INSERT INTO old_orders (order_id, position_id, cycle_id, security_id, old_purpose, side, order_class,
                                order_type, time_in_force, quantity, alpaca_order_id, status, created_at,
                                submitted_at, updated_at, made_from_position)
        SELECT (SELECT coalesce(max(order_id), 0) FROM old_orders) + row_number() OVER (ORDER BY p.position_id),
               p.position_id, p.cycle_id, p.security_id, 'entry', p.side, 'simple', 'market', 'day', p.quantity,
               CASE WHEN row_number() OVER (PARTITION BY p.alpaca_order_id ORDER BY p.position_id) = 1
                    THEN p.alpaca_order_id END,
               coalesce(p.alpaca_status, CASE WHEN p.status IN ('open', 'closed') THEN 'filled' ELSE p.status END),
               p.entry_time, p.entry_time, coalesce(p.updated_at, p.entry_time), true
          FROM old_positions p
         WHERE (p.alpaca_order_id IS NOT NULL OR p.status IN ('open', 'closed'))
           AND NOT EXISTS (SELECT 1 FROM old_orders o
                            WHERE o.position_id = p.position_id AND o.parent_order_id IS NULL)
        """,
    ),
    ("count the values of the orders for the planner", "ANALYZE old_orders, old_positions"),
    (
        "decide purpose, side, status and fill of each order",
        """
        CREATE TEMP TABLE order_map ON COMMIT DROP AS
        WITH linked AS (
            SELECT o.*, parent.order_id IS NOT NULL AS is_leg,
                   coalesce(o.position_id, parent.position_id) AS of_position
              FROM old_orders o LEFT JOIN old_orders parent ON parent.order_id = o.parent_order_id
        ), ranked AS (
            SELECT l.*, row_number() OVER (PARTITION BY of_position, is_leg ORDER BY order_id) AS nth,
                   row_number() OVER (PARTITION BY alpaca_order_id ORDER BY order_id) AS nth_of_broker_id
              FROM linked l
        ), with_purpose AS (
            SELECT r.*, CASE WHEN is_leg AND order_type IN ('stop', 'stop_limit') THEN 'stop_loss'
                             WHEN is_leg AND order_type = 'limit' THEN 'take_profit'
                             WHEN old_purpose IN ('entry', 'exit', 'stop_loss', 'take_profit', 'flatten')
                             THEN old_purpose
                             WHEN NOT is_leg AND (of_position IS NULL OR nth = 1) THEN 'entry'
                             ELSE 'exit' END AS purpose
              FROM ranked r
        ), with_facts AS (
            SELECT w.order_id, w.of_position, w.purpose, w.nth_of_broker_id, w.status AS old_status,
                   CASE WHEN p.side IN ('long', 'buy') THEN 'long' WHEN p.side IN ('short', 'sell') THEN 'short'
                        WHEN w.side IN ('buy', 'long') THEN CASE w.purpose WHEN 'entry' THEN 'long' ELSE 'short' END
                        WHEN w.side IN ('sell', 'short') THEN CASE w.purpose WHEN 'entry' THEN 'short' ELSE 'long' END
                    END AS position_side,
                   m.security_id,
                   -- A position that was closed at a price was bought: its entry is filled, whatever its status says.
                   CASE WHEN w.purpose = 'entry' AND p.status = 'closed' AND p.exit_price > 0 THEN 'filled'
                        WHEN NOT is_stale THEN s.status
                        -- The earlier system seldom updated a status. It held the shares, so their entry filled; the
                        -- reconciliation compares them with the broker. Any other day order of then has expired.
                        WHEN w.purpose = 'entry' AND p.status = 'open' THEN 'filled'
                        WHEN w.alpaca_order_id IS NOT NULL THEN 'expired'
                        ELSE s.status END AS word,
                   coalesce(nullif(w.quantity, 0), p.quantity) AS wanted, coalesce(w.filled_qty, 0) AS booked,
                   coalesce(nullif(w.filled_avg_price, 0),
                            CASE WHEN w.purpose = 'entry' THEN p.entry_price ELSE p.exit_price END,
                            w.limit_price, w.stop_price) AS price,
                   w.alpaca_order_id
              FROM with_purpose w
              LEFT JOIN old_positions p ON p.position_id = w.of_position
              LEFT JOIN security_map m ON m.old_id = coalesce(w.security_id, p.security_id)
              LEFT JOIN old_statuses s ON s.word = lower(btrim(w.status))
             CROSS JOIN LATERAL (
                   SELECT coalesce(s.status IN ('submitted', 'accepted', 'partial_fill')
                                   AND coalesce(lower(w.time_in_force), 'day') <> 'gtc'
                                   AND (w.created_at AT TIME ZONE 'America/New_York')::date
                                       < (SELECT day FROM upgrade_day), false) AS is_stale) stale
        ), with_fill AS (
            SELECT f.*, CASE WHEN booked > 0 THEN booked WHEN word = 'filled' THEN wanted ELSE 0 END AS filled
              FROM with_facts f
        )
        SELECT order_id, of_position, security_id, purpose, position_side,
               CASE WHEN (position_side = 'long') = (purpose = 'entry') THEN 'buy' ELSE 'sell' END AS side,
               greatest(wanted, filled) AS quantity, filled, CASE WHEN filled > 0 AND price > 0 THEN price END AS price,
               CASE WHEN filled > 0 AND filled >= wanted THEN 'filled'
                    WHEN word NOT IN ('created', 'submitted', 'accepted', 'partial_fill', 'filled') THEN word
                    -- Without the broker's id nobody can ask the broker about it: it is over.
                    WHEN alpaca_order_id IS NULL AND (filled > 0 OR word = 'created') THEN 'cancelled'
                    WHEN alpaca_order_id IS NULL THEN 'rejected'
                    WHEN filled > 0 THEN 'partial_fill'
                    WHEN word = 'submitted' THEN 'submitted'
                    ELSE 'accepted' END AS status,
               CASE WHEN security_id IS NULL THEN 'its security is missing'
                    WHEN word IS NULL THEN format('its status %s is unknown', coalesce(old_status, 'null'))
                    WHEN position_side IS NULL THEN 'its side is unknown'
                    WHEN NOT coalesce(wanted > 0, false) THEN 'it has no quantity'
                    WHEN alpaca_order_id IS NOT NULL AND nth_of_broker_id > 1
                    THEN 'it repeats the broker id of an earlier order' END AS reason
          FROM with_fill
        """,
    ),
    (
        "decide which positions were held",
        """
        CREATE TEMP TABLE position_map ON COMMIT DROP AS
        WITH fills AS (
            SELECT of_position, sum(filled) FILTER (WHERE purpose = 'entry') AS entered,
                   min(order_id) FILTER (WHERE purpose = 'entry') AS entry_order_id,
                   coalesce(sum(filled) FILTER (WHERE purpose <> 'entry'), 0) AS exited,
                   coalesce(sum(filled * price) FILTER (WHERE purpose <> 'entry'), 0) AS proceeds
              FROM order_map WHERE reason IS NULL AND of_position IS NOT NULL GROUP BY of_position
        ), judged AS (
            SELECT p.position_id AS old_id, m.security_id,
                   CASE WHEN p.side IN ('long', 'buy') THEN 'long' WHEN p.side IN ('short', 'sell') THEN 'short'
                    END AS side,
                   p.status, f.entered, coalesce(f.exited, 0) AS exited, coalesce(f.proceeds, 0) AS proceeds,
                   CASE WHEN m.security_id IS NULL THEN 'its security is missing'
                        WHEN p.side NOT IN ('long', 'buy', 'short', 'sell') OR p.side IS NULL
                        THEN 'its side is unknown'
                        WHEN coalesce(f.entered, 0) = 0
                        THEN 'no fill' || coalesce(': an attempt of order ' || f.entry_order_id, '')
                        WHEN p.status NOT IN ('open', 'closed') OR p.status IS NULL
                        THEN format('its status %s does not fit its fill', coalesce(p.status, 'null'))
                        WHEN NOT coalesce(p.entry_price > 0, false) THEN 'it has no entry price'
                        WHEN p.status = 'open' AND NOT coalesce(p.quantity > 0, false) THEN 'open without shares'
                        WHEN p.entry_time IS NULL THEN 'it has no entry time' END AS reason
              FROM old_positions p
              LEFT JOIN security_map m ON m.old_id = p.security_id
              LEFT JOIN fills f ON f.of_position = p.position_id
        )
        -- The broker holds one position for each symbol and side, so open rows of the same are one.
        SELECT j.*, CASE WHEN reason IS NULL AND status = 'open'
                         THEN min(old_id) FILTER (WHERE reason IS NULL AND status = 'open')
                              OVER (PARTITION BY security_id, side)
                         WHEN reason IS NULL THEN old_id END AS position_id
          FROM judged j
        """,
    ),
    (
        "count the mapped rows for the planner",
        "ANALYZE order_map, position_map, security_map, cycle_map, time_map",
    ),
)
