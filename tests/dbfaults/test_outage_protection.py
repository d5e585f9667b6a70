"""Protection of positions during a database outage, and its import afterwards."""

from pathlib import Path

import pytest

from tests.dbfaults.proxied_scenario import assert_sent_once, open_proxied_scenario
from tests.stories.scenario import ENTRY, Facts, Scenario

pytestmark = pytest.mark.usefixtures("short_timeouts")

OUTAGE_OCO = {"method": "POST", "route": "/v2/orders", "client_order_id": "*-zp"}


def spool_in(folder: Path) -> Facts:
    return {"spool": str(folder), "proofs": str(folder / "proofs")}


def live_orders(scenario: Scenario) -> list[tuple[str, str, int]]:
    """Return (class, type, shares) of every order that the exchange still works."""
    live = scenario.server.exchange.state.order_store.live()
    return sorted((str(o.order_class), str(o.type), int(o.qty)) for o in live)


async def test_held_stop_without_target_is_replaced_during_database_outage(
    database: str, tmp_path: Path
) -> None:
    """A stop that stays held behind a cancelled target cannot trigger: it is cancelled and an OCO follows."""
    async with open_proxied_scenario(database, database=spool_in(tmp_path)) as (scenario, proxy, _):
        await scenario.inject_fault("leg_cancel", symbol="AAPL", role="take_profit")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        proxy.refuse_connections()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=15)
        assert scenario.held_qty("AAPL") == 20
        assert live_orders(scenario) == [("oco", "limit", 20), ("oco", "stop", 20)]

        proxy.resume()
        await scenario.advance(seconds=60)
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


async def test_position_whose_stop_is_refused_is_exited_during_database_outage(
    database: str, tmp_path: Path
) -> None:
    """After four refusals, with pauses of 1, 2 and 4 s between, the shares are sold; the reason is the broker's."""
    async with open_proxied_scenario(database, database=spool_in(tmp_path)) as (scenario, proxy, _):
        await scenario.inject_fault("partial", symbol="AAPL", qty="8")
        await scenario.inject_fault(
            "status_before", **OUTAGE_OCO, status=403, code=40310000, message="no more stops today", count=0
        )
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        proxy.refuse_connections()
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        fired = scenario.server.exchange.state.faults.fired
        assert fired["status_before"] == 4

        await scenario.clear_faults()
        proxy.resume()
        await scenario.advance(seconds=60)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("EMERGENCY_STOP: AAPL cannot be protected")
        assert "no more stops today" in position["close_reason"]
        await scenario.assert_consistent()
