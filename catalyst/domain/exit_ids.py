"""Base of the client order ids of a position's exits."""

from collections.abc import Sequence

from catalyst.domain.order import Purpose
from catalyst.domain.rows import OrderRow, PositionRow


def exit_id_base(position: PositionRow, rows: Sequence[OrderRow]) -> str:
    """Return the base of the ids of a position's exits; `rows` are its orders.

    An entry whose late fill opened this position opened another one before, which has used its ids.
    """
    entry = next((row for row in rows if row.order_purpose is Purpose.ENTRY), None)
    name = position.symbol if entry is None else entry.client_order_id
    if entry is not None and entry.filled_qty <= position.entered_qty:
        return name
    return f"{name}|{position.entry_time.isoformat()}"
