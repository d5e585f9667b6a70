"""Broker outages: rejected requests, late or wrong reads. A wrong read alone causes no trade."""

import pytest

from catalyst.store import quarantine
from tests.stories.scenario import ENTRY, open_scenario


async def test_stop_filled_in_half_hour_broker_outage_is_booked(database: str) -> None:
    """The stop fills while every request fails for 30 minutes; it is booked after the outage."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("status_before", route="/v2/*", status=503, count=0)
        scenario.print_trade("AAPL", "187.50", after=300)
        await scenario.advance(minutes=30)
        await scenario.clear_faults()
        await scenario.advance(seconds=60)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], scenario.held_qty("AAPL")) == ("closed", 0)
        await scenario.assert_consistent()


async def test_exit_is_retried_while_broker_writes_fail(database: str) -> None:
    """While first PATCH and DELETE and then POST fail, a minute each, the exit is retried and an alert is raised;
    then it sells once."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        for verb in ("DELETE", "PATCH"):
            await scenario.inject_fault(
                "status_before", method=verb, route="/v2/orders/*", status=500, count=0
            )
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 20
        assert "EXIT_SLOW" in await scenario.alert_events()
        await scenario.inject_fault("status_before", method="POST", route="/v2/orders", status=500, count=0)
        for key in [
            key for key, rule in scenario.server.exchange.state.faults.rules.items() if rule.method != "POST"
        ]:
            scenario.server.exchange.state.faults.remove(key)
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 20
        await scenario.clear_faults()
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C29")
async def test_exit_sells_once_under_rate_limiting(database: str) -> None:
    """An exit sells once although the broker rejects 25 requests with 429."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("rate_limit", route="/v2/*", count=25)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=180)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


@pytest.mark.promise("C33")
async def test_lagging_position_list_causes_no_action(database: str) -> None:
    """A position list ten seconds behind the fills causes no alert and no second order, and an exit still
    sells."""
    async with open_scenario(database) as scenario:
        await scenario.admin("settings", {"position_lag": 10})
        await scenario.given_position("AAPL", 20)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.alert_events() == []
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        await scenario.assert_consistent()


@pytest.mark.promise("C19")
async def test_partial_entry_oco_is_retried_while_positions_lag(database: str) -> None:
    """The OCO of a partial fill is retried while the broker rejects it because its positions lag."""
    async with open_scenario(database) as scenario:
        await scenario.admin("settings", {"position_lag": 10})
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=40)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (8, "open")
        assert position["protected_at"] is not None
        await scenario.assert_consistent()


@pytest.mark.promise("C33")
@pytest.mark.parametrize("route", ["/v2/positions", "/v2/orders", "/v2/account/activities/FILL"])
async def test_empty_broker_list_causes_no_action(database: str, route: str) -> None:
    """An empty list for two minutes does not count as a flat account: nothing is closed, sold or sent."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("empty", method="GET", route=route, count=0)
        await scenario.advance(minutes=2)
        await scenario.clear_faults()
        await scenario.advance(seconds=70)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], scenario.held_qty("AAPL")) == ("open", 20)
        assert await scenario.count_submitted("AAPL") == 1
        assert scenario.components is not None
        assert scenario.components.gate.is_open
        assert scenario.components.gate.refusal("AAPL") is None
        await scenario.assert_consistent()


async def test_refused_keys_recover_without_restart(database: str) -> None:
    """With 401 for two minutes there is no request loop and entries are rejected; afterwards trading
    continues without a restart."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        requests_before = len((await scenario.admin("logs"))["requests"])
        await scenario.inject_fault("unauthorized", route="/v2/*", count=0)
        await scenario.advance(minutes=2)
        row = await scenario.submit_entry("MSFT", 5, **ENTRY)
        assert row.status == "rejected"
        assert "AUTH_REFUSED" in await scenario.alert_events()
        assert len((await scenario.admin("logs"))["requests"]) - requests_before < 120
        await scenario.clear_faults()
        await scenario.advance(seconds=60)
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        assert (await scenario.submit_entry("MSFT", 5, **ENTRY)).status != "rejected"
        await scenario.advance(seconds=10)
        await scenario.assert_consistent()


async def test_position_is_written_off_when_shares_vanish_without_fill(database: str) -> None:
    """A position without shares at the broker and without a fill is written off after repeated checks, with
    an alert and an unknown result; the symbol is free again when a person has resolved it and resumes."""
    async with open_scenario(database, risk={"max_daily_loss": 50_000}) as scenario:
        await scenario.given_position("AAPL", 20)
        for leg in [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit"]:
            await scenario.admin("cancel", {"id": leg["alpaca_order_id"]})
        scenario.server.exchange.state.account.positions.pop("AAPL")
        await scenario.advance(seconds=150)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert position["close_reason"].startswith("RECONCILED_PHANTOM")
        assert position["realized_pnl"] == 0
        assert "RECONCILED_PHANTOM" in await scenario.alert_events()
        assert (
            await scenario.conn.fetchval("SELECT count(*) FROM order_events WHERE kind = 'adjustment'") == 1
        )
        await scenario.advance(seconds=120)
        assert scenario.components is not None
        assert "safe: I9: AAPL" in (scenario.components.gate.refusal("AAPL") or "")
        async with scenario.components.store.tx("resolve") as conn:
            await quarantine.resolve_all(conn, by="trader", note="compared", at=scenario.clock.now())
        assert (await scenario.send_command("resume"))["ok"]
        assert scenario.components.gate.refusal("AAPL") is None


async def test_notional_external_order_raises_alert_and_trading_continues(database: str) -> None:
    """An external order by dollar amount, without a quantity, raises an alert; trading goes on."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.admin(
            "order",
            {"symbol": "MSFT", "notional": "100", "side": "buy", "type": "market", "time_in_force": "day"},
        )
        await scenario.advance(seconds=70)
        assert await scenario.alert_events() == ["ORDER_UNACCEPTABLE"]
        await scenario.crash()
        await scenario.start()
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert "SAFE_MODE" not in await scenario.alert_events()
