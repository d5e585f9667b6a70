"""Ownership: whose an order is, by its row and the row of its parent.

A leg has an id of the broker, so its parent decides. `installation` is ours: its ids tell our orders, also one that was
stored as external because its row was lost, from those of another Catalyst.
"""

from collections.abc import Sequence
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from catalyst.domain.ids import PREFIX, own_prefix

if TYPE_CHECKING:
    from catalyst.store.orders import Conn

# `top` is the parent of a leg, or the order itself.
_ORDERS: Final = """
      FROM orders o JOIN securities s USING (security_id)
      JOIN orders top ON top.order_id = coalesce(o.parent_order_id, o.order_id)
"""
_IS_ANOTHERS: Final = """
    top.origin = 'external' AND starts_with(top.client_order_id, $1) AND NOT starts_with(top.client_order_id, $2)
"""


async def symbols_of_another_catalyst(
    conn: "Conn", installation: str, *, since: datetime, undecided: bool = False
) -> set[str]:
    """Return the symbols in which another Catalyst has orders created since then.

    With `undecided` only those with an order that worked when a person last resumed, or later.
    """
    found = await conn.fetch(
        f"""
        SELECT DISTINCT s.symbol {_ORDERS}
         WHERE {_IS_ANOTHERS} AND o.origin = 'external' AND o.created_at >= $3
           AND (NOT $4 OR o.closed_at IS NULL
                OR o.closed_at > (SELECT coalesce(max(taken_at), '-infinity') FROM commands
                                   WHERE kind = 'resume' AND ok))
        """,  # noqa: S608 -- literals alone
        PREFIX,
        own_prefix(installation),
        since,
        undecided,
    )
    return {record["symbol"] for record in found}


async def is_of_another_catalyst(conn: "Conn", installation: str, broker_id: str) -> bool:
    """Return true when the order with this broker id has a row, and it is another Catalyst's."""
    found: bool = await conn.fetchval(
        f"SELECT EXISTS (SELECT 1 {_ORDERS} WHERE {_IS_ANOTHERS} AND o.alpaca_order_id = $3)",
        PREFIX,
        own_prefix(installation),
        broker_id,
    )
    return found


async def external_ids(conn: "Conn", installation: str, broker_ids: Sequence[str]) -> set[str]:
    """Return those of these broker ids whose order is external, of no position, and has no id of ours."""
    found = await conn.fetch(
        f"""
        SELECT o.alpaca_order_id {_ORDERS}
         WHERE o.alpaca_order_id = ANY($1::text[]) AND o.position_id IS NULL AND top.origin = 'external'
           AND NOT starts_with(top.client_order_id, $2)
        """,
        list(broker_ids),
        own_prefix(installation),
    )
    return {record["alpaca_order_id"] for record in found}


async def own_sides(
    conn: "Conn", installation: str, symbols: Sequence[str], *, since: datetime
) -> dict[str, tuple[str, Decimal]]:
    """Return symbol and sign (1 buys, -1 sells) of our orders in these symbols since then, by broker id.

    External orders of no position without an id of ours are not ours. Neither are the exits of unexplained orphan
    shares, because we did not buy these; the exits of oversold ones are.
    """
    found = await conn.fetch(
        f"""
        SELECT o.alpaca_order_id, s.symbol, CASE o.side WHEN 'buy' THEN 1 ELSE -1 END::numeric AS sign {_ORDERS}
         WHERE s.symbol = ANY($1::text[]) AND o.created_at >= $2 AND o.alpaca_order_id IS NOT NULL
           AND (o.position_id IS NOT NULL OR top.origin NOT IN ('external', 'orphan')
                OR top.origin = 'external' AND starts_with(top.client_order_id, $3)
                OR top.origin = 'orphan'
                   AND EXISTS (SELECT 1 FROM orphans h
                                WHERE h.security_id = o.security_id AND h.side = o.position_side
                                  AND h.cause = 'oversold' AND o.created_at >= h.found_at
                                  AND (h.ended_at IS NULL OR o.created_at <= h.ended_at)))
        """,  # noqa: S608 -- literals alone
        list(symbols),
        since,
        own_prefix(installation),
    )
    return {record["alpaca_order_id"]: (record["symbol"], record["sign"]) for record in found}
