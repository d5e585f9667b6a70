"""Verification of an upgraded database: the checklist of the earlier system's documents, each with what was found."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Final

import asyncpg

from catalyst.store.legacy.recognition import OLD_COLUMNS, OLD_FUNCTIONS, OLD_SCHEMA, recognise
from catalyst.store.migrate import SchemaNotCurrent, require_current
from catalyst.store.pool import Connection

_VIEWS: Final = ("v_trade_pipeline_status", "v_trading_cycles_legacy", "v_scan_results_legacy")


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the list."""

    name: str
    passed: bool
    found: str


async def verify(conn: Connection) -> list[Check]:
    """Return every check; those after the first are left out while the database is not one of this release."""
    current = await _check_schema(conn)
    return [current, *([check async for check in _checks(conn)] if current.passed else ())]


async def _check_schema(conn: Connection) -> Check:
    old = await recognise(conn)
    if old is not None:
        return Check(
            "the schema is current", False, f"the earlier Catalyst's ({old.state}): run catalyst migrate"
        )
    try:
        await require_current(conn)
    except SchemaNotCurrent as error:
        return Check("the schema is current", False, str(error))
    return Check("the schema is current", True, "every migration is applied")


async def _checks(conn: Connection) -> AsyncIterator[Check]:
    columns = await conn.fetchval(
        "SELECT count(*) FROM information_schema.columns WHERE table_schema = 'public' AND table_name = 'positions' "
        "AND column_name = ANY($1)",
        list(OLD_COLUMNS),
    )
    yield Check("positions has no alpaca_* columns", columns == 0, f"{columns} found")
    purposes = await conn.fetch(
        "SELECT order_purpose AS name, count(*) AS n FROM orders GROUP BY 1 ORDER BY 1"
    )
    listed = ", ".join(f"{row['name'] or 'null'} {row['n']}" for row in purposes)
    known = all(row["name"] is not None for row in purposes)
    yield Check("each order has a purpose", known, listed or "no orders")
    wrong = await conn.fetchval(
        "SELECT count(*) FROM orders "
        "WHERE ((position_side = 'long') = (side = 'buy')) IS DISTINCT FROM (order_purpose = 'entry')"
    )
    yield Check("each side fits purpose and position", wrong == 0, f"{wrong} wrong")
    for view in _VIEWS:
        try:
            rows = await conn.fetchval(f"SELECT count(*) FROM {view}")  # noqa: S608 -- the names above
            yield Check(f"{view} answers", True, f"{rows} rows")
        except asyncpg.PostgresError as error:
            yield Check(f"{view} answers", False, error.args[0])
    functions = await conn.fetchval(
        "SELECT count(DISTINCT proname) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname = ANY($1)",
        list(OLD_FUNCTIONS),
    )
    yield Check(
        "the helper functions exist", functions == len(OLD_FUNCTIONS), f"{functions} of {len(OLD_FUNCTIONS)}"
    )
    async for check in _check_counts(conn):
        yield check


async def _check_counts(conn: Connection) -> AsyncIterator[Check]:
    """Compare the legacy rows with what the upgrade counted; a database that was never upgraded has none."""
    done = await conn.fetchrow(
        "SELECT counts, finalized_at FROM legacy_upgrades ORDER BY upgraded_at DESC LIMIT 1"
    )
    if done is None:
        return
    counts = done["counts"]
    found = await conn.fetchrow(
        """
        SELECT (SELECT count(*) FROM orders WHERE origin = 'legacy' AND client_order_id NOT LIKE 'legacy-exit-%')
               AS orders,
               (SELECT count(*) FROM positions WHERE legacy) AS positions
        """
    )
    assert found is not None  # a query without FROM returns one row
    orders = int(counts["orders"][1]) + int(counts["orders made from positions"][1])
    yield Check("the old orders are here", found["orders"] == orders, f"{found['orders']} of {orders}")
    positions = int(counts["positions"][1])
    yield Check(
        "the old positions are here", found["positions"] == positions, f"{found['positions']} of {positions}"
    )
    where = "finalized" if done["finalized_at"] else f"the old tables are kept in the schema {OLD_SCHEMA}"
    yield Check("the upgrade is recorded", True, where)
