"""Report rows: loads the rows that a decision about broker reports compares."""

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from catalyst.domain.fill_decision import FillRows
from catalyst.domain.order import Purpose
from catalyst.domain.report import Fill, OrderReport
from catalyst.domain.report_decision import ReportRows
from catalyst.domain.rows import ExecutionRow, OrderRow, PositionRow
from catalyst.store import exit_intents, orders, orphans, positions

if TYPE_CHECKING:
    from catalyst.store.orders import Conn


async def read(conn: "Conn", group: Sequence[OrderReport]) -> ReportRows:
    """Return the order rows of these reports and of the orders that they replace or that replace them."""
    broker_ids, client_ids = _ids_of(group, ())
    return ReportRows.just_read(await orders.by_report(conn, broker_ids, client_ids))


async def lock(
    conn: "Conn",
    group: Sequence[OrderReport],
    fills: Sequence[Fill],
    *,
    unlinked_symbols: AbstractSet[str],
) -> ReportRows:
    """Return the rows of these reports and fills, locked until the transaction ends, with the rows of the fills.

    `unlinked_symbols` are those with outage orders that are not linked to a position.
    """
    broker_ids, client_ids = _ids_of(group, fills)
    rows = await orders.lock_by_reports(conn, broker_ids, client_ids)
    filled_ids = {fill.broker_id for fill in fills}
    reported = {report.client_order_id: report.broker_id for report in group}
    filled = [row for row in rows if (row.alpaca_order_id or reported.get(row.client_order_id)) in filled_ids]
    if not filled:
        return ReportRows.just_read(rows, FillRows())
    executions = await _executions(conn, [row.order_id for row in filled])
    if filled[0].order_purpose is Purpose.ENTRY:
        fill_rows = await _entry_fill_rows(conn, filled[0], executions, unlinked_symbols)
    else:
        fill_rows = await _exit_fill_rows(conn, filled, rows, executions, unlinked_symbols)
    return ReportRows.just_read(rows, fill_rows)


def _ids_of(group: Sequence[OrderReport], fills: Sequence[Fill]) -> tuple[list[str], list[str]]:
    """Return the broker ids and client order ids that these reports and fills name."""
    broker_ids = {fill.broker_id for fill in fills}
    for report in group:
        broker_ids |= {report.broker_id, report.replaces or "", report.replaced_by or ""}
    broker_ids.discard("")
    return sorted(broker_ids), [report.client_order_id for report in group if report.client_order_id]


async def _entry_fill_rows(
    conn: "Conn",
    entry: OrderRow,
    executions: Mapping[int, Sequence[ExecutionRow]],
    unlinked_symbols: AbstractSet[str],
) -> FillRows:
    position = (
        await positions.lock(conn, entry.position_id)
        if entry.position_id is not None
        else await positions.lock_open(conn, entry.symbol, entry.position_side)
    )
    unlinked: list[OrderRow] = []
    outage_reason = ""
    if entry.symbol in unlinked_symbols:
        unlinked = await orders.unlinked(conn, entry.symbol, entry.position_side, since=entry.created_at)
        exits = [row for row in unlinked if row.order_purpose in (Purpose.EXIT, Purpose.FLATTEN)]
        outage_reason = await orders.first_note(conn, exits[0].order_id) if exits else ""
    return FillRows(
        executions=executions,
        position=position,
        entry_legs=await _entry_legs(conn, entry),
        unlinked=unlinked,
        outage_reason=outage_reason,
    )


async def _entry_legs(conn: "Conn", entry: OrderRow) -> list[OrderRow]:
    """Return the legs of an entry and of the orders it replaced: legs move to the replacement."""
    legs = await orders.legs_of(conn, entry.order_id)
    while entry.replaces is not None:
        entry = await orders.get(conn, entry.replaces)
        legs += await orders.legs_of(conn, entry.order_id)
    return legs


async def _exit_fill_rows(
    conn: "Conn",
    exits: Sequence[OrderRow],
    rows: Sequence[OrderRow],
    executions: Mapping[int, Sequence[ExecutionRow]],
    unlinked_symbols: AbstractSet[str],
) -> FillRows:
    row = exits[0]
    parents = {each.order_id: each for each in rows}
    for each in exits:
        if each.parent_order_id is not None and each.parent_order_id not in parents:
            parents[each.parent_order_id] = await orders.get(conn, each.parent_order_id)
    parent = None if row.parent_order_id is None else parents[row.parent_order_id]
    position_id = row.position_id or (None if parent is None else parent.position_id)
    from_outage = "outage" in (row.origin, None if parent is None else parent.origin)
    position: PositionRow | None = None
    if position_id is not None:
        position = await positions.lock(conn, position_id)
    elif from_outage:
        position = await positions.lock_open(conn, row.symbol, row.position_side)
    intent = None if position is None else await exit_intents.open_intent_of(conn, position.position_id)
    is_linked = position_id is not None
    return FillRows(
        executions=executions,
        position=position,
        parents=parents,
        position_orders=[] if position is None else await orders.of_position(conn, position.position_id),
        working=await orders.working_of_symbol(conn, row.symbol) if row.symbol in unlinked_symbols else [],
        intent_reason=None if intent is None else intent.reason,
        outage_reason=await orders.first_note(conn, row.order_id) if from_outage and not is_linked else "",
        orphan=None if is_linked else await orphans.lock_open(conn, row.symbol, row.position_side),
    )


async def _executions(conn: "Conn", order_ids: Sequence[int]) -> dict[int, list[ExecutionRow]]:
    """Return the booked executions of these orders, by order id."""
    found: dict[int, list[ExecutionRow]] = {}
    for record in await conn.fetch(
        "SELECT order_id, cum_qty, quantity, price, execution_id, activity_id FROM executions"
        " WHERE order_id = ANY($1::bigint[]) ORDER BY order_id, cum_qty",
        list(order_ids),
    ):
        found.setdefault(record["order_id"], []).append(ExecutionRow(**record))
    return found
