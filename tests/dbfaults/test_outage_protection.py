"""Protection of positions during a database outage, and its import afterwards."""

from decimal import Decimal
from pathlib import Path

from structlog.testing import capture_logs

from tests.dbfaults.proxied_scenario import open_proxied_scenario
from tests.stories.scenario import ENTRY, Facts, Scenario
from tests.stories.test_operator_actions import order_by_hand

OUTAGE_OCO = {"method": "POST", "route": "/v2/orders", "client_order_id": "*-zp"}


def spool_in(folder: Path) -> Facts:
    return {"spool": str(folder), "proofs": str(folder / "proofs")}


def live_orders(scenario: Scenario) -> list[tuple[str, str, int]]:
    """Return (class, type, shares) of every order that the exchange still works."""
    live = scenario.server.exchange.state.order_store.live()
    return sorted((str(o.order_class), str(o.type), int(o.qty)) for o in live)


async def test_exits_of_others_are_left_alone_during_database_outage(database: str, tmp_path: Path) -> None:
    """A person buys shares of our symbol and sets an exit: neither it nor our stop and target are cancelled."""
    async with open_proxied_scenario(database, database=spool_in(tmp_path)) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        own = live_orders(scenario)
        proxy.refuse_connections()
        await scenario.advance(seconds=10)
        await order_by_hand(scenario, "AAPL", "buy", 10)
        await scenario.advance(seconds=1)
        await order_by_hand(scenario, "AAPL", "sell", 10, type="limit", limit_price="205")
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 30
        assert live_orders(scenario) == sorted([*own, ("simple", "limit", 10)])
        proxy.resume()
        await scenario.advance(seconds=60)


async def test_position_whose_stop_is_refused_is_exited_during_database_outage(
    database: str, tmp_path: Path
) -> None:
    """After four refusals, a second apart, the shares are sold; the reason is the broker's."""
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


async def test_shares_without_a_stop_are_measured_over_a_database_outage(
    database: str, tmp_path: Path
) -> None:
    """A stop cancelled during the outage, whose replacement does not arrive for half a minute, is logged after fifteen
    seconds; when the database is back the seconds are those of the exchange and the alert is raised."""
    async with open_proxied_scenario(database, database=spool_in(tmp_path)) as (scenario, proxy, _):
        await scenario.given_position("AAPL", 20)
        proxy.refuse_connections()
        await scenario.advance(seconds=10)
        await scenario.inject_fault("drop_before", **OUTAGE_OCO, count=0)
        stop = next(o for o in scenario.server.exchange.state.order_store.live() if str(o.type) == "stop")
        await scenario.admin("cancel", {"id": stop.id})
        scenario.server.exchange.confirm_cancels()
        with capture_logs() as lines:
            await scenario.advance(seconds=14)
            assert "unprotected_over_budget" not in [line["event"] for line in lines]
            await scenario.advance(seconds=16)
            assert [line["event"] for line in lines].count("unprotected_over_budget") == 1
        await scenario.clear_faults()
        await scenario.advance(seconds=20)
        proxy.resume()
        await scenario.advance(seconds=60)
        position = await scenario.position("AAPL")
        totals = (await scenario.admin("unprotected"))["AAPL"]
        assert position is not None
        seconds = Decimal(totals["share_seconds"]) / 20
        assert seconds > 20
        assert seconds - 1 <= position["unprotected_seconds"] <= seconds + 5
        assert "UNPROTECTED_OVER_BUDGET" in await scenario.alert_events()
        await scenario.assert_consistent()
