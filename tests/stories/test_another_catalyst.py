"""Another Catalyst on the account: its orders and shares are left to it, and this one does not trade.

A database that was lost is a near case: the shares of the earlier one are kept under their stop.
"""

import pytest

from catalyst.daemon.reconciliation.another_catalyst import GATE_REASON, QUIET_TIME
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from tests.stories.scenario import Scenario, open_scenario, second_installation


async def legs_of(scenario: Scenario, symbol: str) -> list[str]:
    """Return the statuses of the stop and target of a bracket at the exchange."""
    logs = await scenario.admin("logs")
    return sorted(o["status"] for o in logs["orders"] if o["symbol"] == symbol and o["side"] == "sell")


async def assert_does_not_trade(scenario: Scenario, *evidence: str) -> None:
    """Check that the daemon has sent no order, says why, and has raised one alert."""
    assert scenario.components is not None
    gate = scenario.components.gate
    assert "another Catalyst trades this account" in (gate.refusal("MSFT") or "")
    assert all(text in gate.reasons[GATE_REASON] for text in evidence)
    assert gate.symbols.has(SymbolReason.ANOTHER_CATALYST, "AAPL")
    alerts = await scenario.conn.fetch("SELECT event, message FROM alerts WHERE severity = 'CRITICAL'")
    assert [alert["event"] for alert in alerts if alert["event"] != "STREAM_LOST"] == ["ANOTHER_CATALYST"]
    assert await scenario.conn.fetchval("SELECT count(*) FROM orders WHERE origin <> 'external'") == 0
    assert await scenario.conn.fetchval("SELECT count(*) FROM positions") == 0


@pytest.mark.parametrize("first_is_older", [True, False])
async def test_second_installation_leaves_orders_of_first_alone(
    database: str, second_database: str, *, first_is_older: bool
) -> None:
    """Two daemons with two databases trade one account. The second one, which starts first or last in the order of
    the databases, touches nothing: the first one's stop works and its shares are held until it exits them itself."""
    dsns = (database, second_database) if first_is_older else (second_database, database)
    async with open_scenario(dsns[0]) as first:
        await first.given_position("AAPL", 20)
        before = await first.count_submitted("AAPL")
        async with second_installation(first, dsns[1], gets_stream=False) as second:
            await first.advance(minutes=10)
            assert first.components is not None
            installation = first.components.submission.installation
            await assert_does_not_trade(
                second, f"orders of installation {installation}", "another connection holds the stream"
            )
            assert first.held_qty("AAPL") == 20
            assert await legs_of(first, "AAPL") == ["held", "new"]
            assert GATE_REASON not in first.components.gate.reasons
            assert await first.count_submitted("AAPL") == before

            first.print_trade("AAPL", "194.05")
            await first.advance(seconds=30)
            assert first.held_qty("AAPL") == 0
            position = await first.position("AAPL")
            assert position is not None
            assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
            orphan = await second.conn.fetchrow("SELECT quantity, ended_at FROM orphans")
            assert orphan is not None
            assert (orphan["quantity"], orphan["ended_at"] is not None) == (0, True)
        await first.assert_consistent()


async def test_shares_of_lost_database_stay_under_their_stop(database: str, second_database: str) -> None:
    """A daemon dies after a purchase and starts on an empty database in the same session: the shares of today are
    not sold as carried, their stop stays, and no entry is made. When the stop is gone for good, a new one is sent."""
    async with open_scenario(database) as lost:
        await lost.given_position("AAPL", 20)
        await lost.crash()
        async with second_installation(lost, second_database, gets_stream=True) as scenario:
            await scenario.advance(minutes=15)
            await assert_does_not_trade(scenario, "orders of installation")
            assert scenario.held_qty("AAPL") == 20
            assert await legs_of(scenario, "AAPL") == ["held", "new"]
            orphan = await scenario.conn.fetchrow("SELECT quantity, ended_at FROM orphans")
            assert orphan is not None
            assert (orphan["quantity"], orphan["ended_at"]) == (20, None)

            for order in (await scenario.admin("logs"))["orders"]:
                if order["symbol"] == "AAPL" and order["status"] in ("new", "held"):
                    await scenario.admin("cancel", {"id": order["id"]})
            await scenario.advance(minutes=2)
            assert await scenario.count_submitted("AAPL") == 1  # the other may be between two of its steps
            await scenario.advance(seconds=QUIET_TIME.total_seconds())
            assert scenario.components is not None
            assert GATE_REASON not in scenario.components.gate.reasons
            await scenario.advance(seconds=30)
            assert await legs_of(scenario, "AAPL") == ["canceled", "canceled", "held", "new"]
            assert scenario.held_qty("AAPL") == 20
