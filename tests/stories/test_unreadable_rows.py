"""Rows of the broker's lists that cannot be read: what a list does not show may exist, so nothing is concluded."""

from decimal import Decimal

import pytest

from catalyst.daemon.reconciliation.reconciler import UNREADABLE_ROWS
from catalyst.daemon.shutdown import ExitCode
from tests.stories.scenario import open_scenario
from tests.stories.test_flat_proofs import proof_files
from tests.stories.test_orphan_positions import buy_by_hand

LISTS = {
    "positions": ("/v2/positions", ["qty"]),
    "orders": ("/v2/orders", ["side"]),
    "account activities": ("/v2/account/activities/FILL", ["cum_qty"]),
}


@pytest.mark.parametrize("name", LISTS)
async def test_list_with_unreadable_row_proves_nothing(database: str, name: str) -> None:
    """While a row of one list lacks a field that money depends on, no position is a phantom, entries wait, one alert
    tells, a restart protects what it holds, and SIGTERM sells but proves nothing: a person's shares are listed."""
    route, fields = LISTS[name]
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("TSLA", "190.00")
        await scenario.advance(seconds=1)
        await buy_by_hand(scenario, "TSLA", 5)
        await buy_by_hand(scenario, "TSLA", 5, type="limit", limit_price="150.00")
        await scenario.advance(seconds=5)
        await scenario.inject_fault("remove_fields", method="GET", route=route, fields=fields, count=0)
        await scenario.advance(minutes=6)
        assert scenario.components is not None
        assert (
            f"rows of the broker's {name} cannot be read" in scenario.components.gate.reasons[UNREADABLE_ROWS]
        )
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["protected_at"] is not None) == ("open", True)
        events = await scenario.alert_events()
        assert not {"PHANTOM_POSITION", "RECONCILED_PHANTOM", "QTY_MISMATCH", "ORDER_MISMATCH"} & set(events)
        await scenario.crash()
        await scenario.start()
        await scenario.advance(seconds=30)
        assert (await scenario.alert_events()).count("BROKER_ROWS_UNREADABLE") == 1

        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        assert scenario.held_qty("AAPL") == 0
        proof = proof_files(scenario)[-1]
        assert (proof["proven"], proof["unreadable_rows"] > 0) == (False, True)
        assert "cannot be read" in proof["unproven_reason"]


async def test_position_without_entry_price_still_exists(database: str) -> None:
    """A position row without prices keeps its shares: they are compared, sold and proven."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        fields = ["avg_entry_price", "current_price", "unrealized_pl", "qty_available"]
        await scenario.inject_fault(
            "remove_fields", method="GET", route="/v2/positions", fields=fields, count=0
        )
        scenario.server.exchange.state.account.positions["AAPL"].qty -= Decimal(8)
        await scenario.advance(seconds=90)
        assert "QTY_MISMATCH" in await scenario.alert_events()
        scenario.server.exchange.state.account.positions["AAPL"].qty += Decimal(8)
        await scenario.advance(seconds=90)
        assert scenario.components is not None
        assert UNREADABLE_ROWS not in scenario.components.gate.reasons
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
