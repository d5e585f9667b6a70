"""Reconciliation of rows, journal, fills, orders and shares: a discrepancy is confirmed when it lasts,
recorded as an adjustment and blocks its symbol; no row is changed to hide it."""

import asyncio
from decimal import Decimal

import asyncpg
import orjson
import pytest

from catalyst.daemon.reconciliation.reconciler import ReconciliationResult
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from tests.stories.scenario import Scenario, open_scenario


async def execute_without_triggers(scenario: Scenario, sql: str, *arguments: object) -> None:
    """Execute a write that the daemon could not do, with all triggers off."""
    async with scenario.conn.transaction():
        await scenario.conn.execute("SET LOCAL session_replication_role = replica")
        await scenario.conn.execute(sql, *arguments)


async def reconciliation_alerts(scenario: Scenario) -> dict[str, str]:
    """Return the message of each alert that a reconciliation raised, by event."""
    rows = await scenario.conn.fetch(
        "SELECT event, message FROM alerts WHERE event LIKE '%MISMATCH' OR event = 'LEDGER_CONTRADICTION'"
    )
    return {row["event"]: row["message"] for row in rows}


DAMAGE = {
    "PNL_MISMATCH": (
        "UPDATE positions SET realized_pnl = realized_pnl + 0.01 WHERE position_id = $1",
        "from its fills",
    ),
    "LEG_MISMATCH": (
        """
        UPDATE orders SET order_purpose = CASE order_purpose WHEN 'stop_loss' THEN 'take_profit' ELSE 'stop_loss' END
         WHERE position_id = $1 AND order_purpose IN ('stop_loss', 'take_profit')
        """,
        "of type",
    ),
    "LEDGER_CONTRADICTION": (
        """
        DELETE FROM order_events
         WHERE order_id = (SELECT min(order_id) FROM orders WHERE position_id = $1) AND to_status = 'filled'
        """,
        "its journal ends at",
    ),
}


@pytest.mark.parametrize("event", DAMAGE)
async def test_reconciliation_reports_database_contradiction_once(database: str, event: str) -> None:
    """A wrong result, leg role or journal is reported once it lasts, with an adjustment, a quarantine row and
    a blocked symbol, and only once."""
    sql, message = DAMAGE[event]
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        position = await scenario.position("AAPL")
        assert position is not None
        fills = await scenario.conn.fetchval("SELECT count(*) FROM executions")
        await execute_without_triggers(scenario, sql, position["position_id"])
        assert scenario.components is not None
        result = await scenario.components.reconciler.reconcile("operator")
        assert result.clean  # one reconciliation does not confirm it
        assert await reconciliation_alerts(scenario) == {}
        result = await reconcile_on_demand(scenario)
        assert not result.clean
        messages = await reconciliation_alerts(scenario)
        assert message in messages[event], messages
        assert scenario.components.gate.symbols.has(SymbolReason.MISMATCHED, "AAPL")
        quarantined = "SELECT count(*) FROM quarantine WHERE reason LIKE $1 || '%'"
        count = await scenario.conn.fetchval(quarantined, event)
        assert count >= 1
        await scenario.advance(seconds=70)
        assert await scenario.conn.fetchval(quarantined, event) == count
        adjusted = "SELECT count(*) FROM order_events WHERE kind = 'adjustment' AND note LIKE $1 || '%'"
        assert await scenario.conn.fetchval(adjusted, event) == count
        assert await scenario.conn.fetchval("SELECT count(*) FROM executions") == fills


async def reconcile_on_demand(scenario: Scenario) -> ReconciliationResult:
    """Run a reconciliation until it settles while time advances; return its result."""
    assert scenario.components is not None
    task = asyncio.ensure_future(scenario.components.reconciler.run_until_settled("operator"))
    while not task.done():
        await scenario.advance(seconds=1)
    return task.result()


async def test_reconciliation_reports_order_missing_at_broker(database: str) -> None:
    """A row of a working order that the broker does not list is read by its id, reported, and blocks its
    symbol."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await execute_without_triggers(
            scenario,
            """
            WITH inserted AS (
                INSERT INTO orders (client_order_id, alpaca_order_id, security_id, order_purpose, position_side, side,
                                    quantity, order_type, time_in_force, status, broker_status, origin, epoch,
                                    created_at, updated_at, submitted_at)
                SELECT 'cat-ghost-e', gen_random_uuid()::text, security_id, 'entry', 'long', 'buy', 5, 'market', 'day',
                       'accepted', 'new', 'external', NULL, $1::timestamptz, $1, $1
                  FROM securities WHERE symbol = 'AAPL' RETURNING order_id)
            INSERT INTO order_events (order_id, at, source, kind, from_status, to_status)
            SELECT order_id, $1, 'submit', 'transition', old_status, new_status
              FROM inserted, (VALUES (1, NULL, 'created'), (2, 'created', 'submitted'), (3, 'submitted', 'accepted'))
                         AS step (n, old_status, new_status)
            """,
            scenario.clock.now(),
        )
        await reconcile_on_demand(scenario)
        assert "the broker does not list it" in (await reconciliation_alerts(scenario))["ORDER_MISMATCH"]
        assert scenario.components is not None
        assert scenario.components.gate.symbols.has(SymbolReason.MISMATCHED, "AAPL")


async def test_reconciliation_reports_fill_unknown_to_broker(database: str) -> None:
    """A fill without an account activity is reported, even where the sums agree."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.advance(minutes=7)
        assert await reconciliation_alerts(scenario) == {}
        await execute_without_triggers(
            scenario,
            "UPDATE executions SET activity_id = NULL WHERE order_id = (SELECT min(order_id) FROM orders)",
        )
        await reconcile_on_demand(scenario)
        assert (
            "is not in the account activities"
            in (await reconciliation_alerts(scenario))["LEDGER_CONTRADICTION"]
        )


async def test_reconciliation_reports_missing_shares_without_orders(database: str) -> None:
    """Fewer shares at the broker without an explanation raise an alert, an adjustment and a blocked symbol,
    but no order and no fill."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        submitted_before = await scenario.count_submitted("AAPL")
        held = scenario.server.exchange.state.account.positions["AAPL"]
        held.qty -= 8
        await scenario.advance(seconds=90)
        assert (
            "20 shares in the database, 12 at the broker"
            in (await reconciliation_alerts(scenario))["QTY_MISMATCH"]
        )
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], await scenario.count_submitted("AAPL")) == (20, submitted_before)
        assert scenario.components is not None
        assert scenario.components.gate.symbols.has(SymbolReason.MISMATCHED, "AAPL")
        held.qty += 8
        await scenario.advance(seconds=70)
        assert not scenario.components.gate.symbols.has(SymbolReason.MISMATCHED, "AAPL")
        await scenario.assert_consistent()


async def test_reconciliation_reports_each_symbol_that_differs_at_once(database: str) -> None:
    """Two symbols whose shares differ at once raise one alert each, with their own figures, adjustment and quarantine
    row. A third figure is a new discrepancy; the one that stays is not reported again."""
    async with open_scenario(database) as scenario:
        held = {}
        for symbol in ("AAPL", "MSFT"):
            await scenario.given_position(symbol, 20)
            held[symbol] = scenario.server.exchange.state.account.positions[symbol]
        held["AAPL"].qty, held["MSFT"].qty = Decimal(19), Decimal(18)
        await scenario.advance(seconds=90)
        held["MSFT"].qty = Decimal(17)
        await scenario.advance(seconds=90)
        expected = [
            f"QTY_MISMATCH {symbol}: 20 shares in the database, {shares} at the broker"
            for symbol, shares in (("AAPL", 19), ("MSFT", 18), ("MSFT", 17))
        ]
        rows = await scenario.conn.fetch(
            "SELECT message, facts FROM alerts WHERE event = 'QTY_MISMATCH' ORDER BY alert_id"
        )
        assert [row["message"].partition(";")[0] for row in rows] == expected
        assert [orjson.loads(row["facts"])["symbol"] for row in rows] == ["AAPL", "MSFT", "MSFT"]
        quarantined = await scenario.conn.fetch("SELECT reason FROM quarantine ORDER BY quarantine_id")
        assert [row["reason"] for row in quarantined] == expected
        notes = "SELECT note FROM order_events WHERE kind = 'adjustment' ORDER BY seq"
        assert [row["note"] for row in await scenario.conn.fetch(notes)] == expected
        assert scenario.components is not None
        blocked = [scenario.components.gate.symbols.has(SymbolReason.MISMATCHED, symbol) for symbol in held]
        assert blocked == [True, True]


async def test_reconciliation_runs_four_statements_for_any_position_count(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reconciliation runs at most four statements, with none to three positions."""
    statements: list[str] = []
    fetch = asyncpg.Connection.fetch

    async def counted_fetch(self: object, query: str, *arguments: object, **options: object) -> object:
        statements.append(query)
        return await fetch(self, query, *arguments, **options)  # type: ignore[arg-type]

    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        for number, symbol in enumerate((None, "AAPL", "MSFT", "TSLA")):
            if symbol is not None:
                await scenario.given_position(symbol, 5)
            await scenario.components.reconciler.reconcile("reconcile")
            statements.clear()
            with monkeypatch.context() as patched:
                patched.setattr(asyncpg.Connection, "fetch", counted_fetch)
                assert (await scenario.components.reconciler.reconcile("reconcile")).clean
            assert len(statements) <= 4, (number, statements)


async def test_fill_of_unknown_order_stays_unapplied_for_the_next_pass(database: str) -> None:
    """After a read with a fill of an order without a row, the next pass tries that fill again and no other."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        assert scenario.components is not None
        reader = scenario.components.reconciler.reader
        snapshot = await reader.read(full=True, ledger_version=0)
        assert snapshot.positions is not None
        assert {report.symbol for report in snapshot.positions} == {"AAPL", "MSFT"}
        assert snapshot.fills is not None
        known, unknown = snapshot.fills
        reader.mark_fills_applied(snapshot, {unknown.broker_id})
        assert reader.cursor.applied_activities == {known.activity_id}
        assert reader.cursor.activities_read_to == snapshot.read_at
        assert await reader.with_changed_fills(snapshot) is snapshot
