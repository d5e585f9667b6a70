"""Comparison of the old rows with the new ones: nothing is lost, no sum differs, before the upgrade is committed."""

from decimal import Decimal
from typing import Final

from catalyst.domain.errors import UserError
from catalyst.store.pool import Connection

# Each row: what is counted, before, after, and how many old rows are kept or merged instead.
COMPARE: Final = """
    SELECT 'orders' AS name, orders::numeric AS before,
           (SELECT count(*) FROM old_orders o JOIN orders n ON n.order_id = o.order_id
               AND n.client_order_id = 'legacy-' || o.order_id
             WHERE o.made_from_position IS NOT TRUE)::numeric AS after,
           (SELECT count(*) FROM order_map JOIN old_orders o USING (order_id)
             WHERE reason IS NOT NULL AND o.made_from_position IS NOT TRUE)::numeric AS kept FROM old_counts
    UNION ALL
    SELECT 'orders made from positions', (SELECT count(*) FROM old_orders WHERE made_from_position),
           (SELECT count(*) FROM old_orders o JOIN orders n ON n.order_id = o.order_id
               AND n.client_order_id = 'legacy-' || o.order_id
             WHERE o.made_from_position),
           (SELECT count(*) FROM order_map JOIN old_orders o USING (order_id)
             WHERE reason IS NOT NULL AND o.made_from_position)
    UNION ALL
    SELECT 'positions', positions, (SELECT count(*) FROM positions), (SELECT count(*) FROM legacy_positions)
      FROM old_counts
    UNION ALL
    SELECT 'open positions', (SELECT count(*) FROM old_positions WHERE status = 'open'),
           (SELECT count(*) FROM positions WHERE status = 'open'),
           (SELECT count(*) FROM legacy_positions WHERE status = 'open')
    UNION ALL
    SELECT 'closed positions', (SELECT count(*) FROM old_positions WHERE status = 'closed'),
           (SELECT count(*) FROM positions WHERE status = 'closed'),
           (SELECT count(*) FROM legacy_positions WHERE status = 'closed')
    UNION ALL
    SELECT 'realized P&L', realized_pnl, (SELECT coalesce(sum(realized_pnl), 0) FROM positions),
           (SELECT coalesce(sum(o.realized_pnl), 0) FROM position_map m
              JOIN old_positions o ON o.position_id = m.old_id WHERE m.reason IS NOT NULL) FROM old_counts
    UNION ALL
    SELECT 'securities', securities, (SELECT count(*) FROM securities),
           (SELECT count(*) FROM legacy_securities) FROM old_counts
    UNION ALL
    SELECT 'cycles', cycles, (SELECT count(*) FROM trading_cycles),
           cycles - (SELECT count(*) FROM cycle_map WHERE nth = 1) FROM old_counts
    UNION ALL
    SELECT 'moments', times, (SELECT count(*) FROM time_dimension),
           times - (SELECT count(*) FROM time_map WHERE old_id = time_id) FROM old_counts
"""

_FIGURES: Final = """
    SELECT (SELECT count(*) FROM orders WHERE client_order_id LIKE 'legacy-exit-%') AS rebuilt_exits,
           (SELECT count(*) FROM positions WHERE status = 'closed' AND exit_price IS NULL) AS closed_without_price,
           (SELECT count(*) FROM positions p JOIN position_map m ON m.old_id = p.position_id
              JOIN old_positions o ON o.position_id = m.old_id
             WHERE p.status = 'closed' AND o.realized_pnl IS NULL) AS closed_without_result
"""

_KEPT: Final = """
    SELECT 'position' AS kind, regexp_replace(reason, '\\d+', 'N', 'g') AS reason, count(*) AS rows
      FROM legacy_positions GROUP BY 1, 2
    UNION ALL
    SELECT 'order', m.reason, count(*) FROM order_map m WHERE m.reason IS NOT NULL GROUP BY 1, 2
     ORDER BY 1, 2
"""


async def compare(conn: Connection) -> tuple[dict[str, tuple[Decimal, Decimal, Decimal]], list[str]]:
    """Return each count and sum as (before, after, kept), and a sentence for each kind of rows that was not copied.

    Raises UserError, which rolls the upgrade back, when a row or a cent is missing.
    """
    counts = {row["name"]: (row["before"], row["after"], row["kept"]) for row in await conn.fetch(COMPARE)}
    wrong = [
        f"{name}: {before} before, {after} after, {kept} kept"
        for name, (before, after, kept) in counts.items()
        if before != after + kept
    ]
    if wrong:
        raise UserError(f"the upgrade does not add up and was rolled back: {'; '.join(wrong)}")
    notes = [
        f"{row['rows']} {row['kind']}{'s' if row['rows'] > 1 else ''} not copied, kept in legacy_{row['kind']}s: "
        f"{row['reason']}"
        for row in await conn.fetch(_KEPT)
    ]
    figures = await conn.fetchrow(_FIGURES)
    assert figures is not None  # a query without FROM returns one row
    if figures["rebuilt_exits"]:
        notes.append(f"{figures['rebuilt_exits']} exits rebuilt from exit price and time of their positions")
    if figures["closed_without_price"]:
        notes.append(f"{figures['closed_without_price']} closed positions have no exit price")
    if figures["closed_without_result"]:
        notes.append(f"{figures['closed_without_result']} closed positions had no result and count as 0")
    return counts, notes
