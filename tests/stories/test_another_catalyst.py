"""Another Catalyst on the account: its orders and shares are left to it, and this one does not trade.

A database that was lost is a near case: the shares of the earlier one are kept under their stop.
"""

from datetime import timedelta

import pytest

from catalyst.daemon.reconciliation.another_catalyst import GATE_REASON, QUIET_TIME
from catalyst.daemon.shutdown import ExitCode
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario, second_installation
from tests.stories.test_flat_proofs import proof_files


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
    """A daemon dies after a purchase and starts on an empty database on the same machine: orders and shares are its
    own, the position is kept under its stop, nothing is sold as carried, and SIGTERM exits it and proves it."""
    async with open_scenario(database) as lost:
        await lost.given_position("AAPL", 20)
        await lost.crash()
        async with second_installation(
            lost, second_database, gets_stream=True, same_machine=True
        ) as scenario:
            await scenario.advance(minutes=15)
            assert scenario.components is not None
            assert scenario.components.gate.is_open
            assert scenario.held_qty("AAPL") == 20
            assert await legs_of(scenario, "AAPL") == ["held", "new"]
            position = await scenario.position("AAPL")
            assert position is not None
            assert (position["carried"], position["protected_at"] is not None) == (False, True)
            assert await scenario.conn.fetchval("SELECT count(*) FROM orphans") == 0
            scenario.stop.request("SIGTERM", flatten=True)
            assert await scenario.wait_for_exit() is ExitCode.FLAT
            assert scenario.held_qty("AAPL") == 0
            assert [proof["proven"] for proof in proof_files(scenario)] == [True]
            await scenario.assert_consistent()


async def test_shares_of_lost_machine_wait_for_a_person(database: str, second_database: str) -> None:
    """The machine was lost with the database: the orders count as another Catalyst's. Its shares keep their stop; when
    that is gone, no order is sent until a person resumes, and as long as they are held nothing is proven flat."""
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
            await scenario.advance(seconds=2 * QUIET_TIME.total_seconds())
            assert scenario.components is not None
            assert GATE_REASON not in scenario.components.gate.reasons
            assert await scenario.count_submitted("AAPL") == 1
            assert (await scenario.send_command("resume"))["ok"]
            await scenario.advance(seconds=90)
            assert await legs_of(scenario, "AAPL") == ["canceled", "canceled", "held", "new"]
            scenario.stop.request("SIGTERM", flatten=True)
            assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
            assert scenario.held_qty("AAPL") == 20
            (proof,) = proof_files(scenario)
            assert (proof["proven"], proof["broker_positions"], proof["stored_positions"]) == (False, 1, 1)


ANOTHERS_ORDER = {"symbol": "AAPL", "time_in_force": "gtc", "client_order_id": f"cat-abcdef-{'0' * 32}-e"}
BRACKET = {
    "side": "buy",
    "qty": "20",
    "type": "market",
    "order_class": "bracket",
    "take_profit": {"limit_price": "194.00"},
    "stop_loss": {"stop_price": "180.00"},
}


async def send_as_another(scenario: Scenario, **terms: object) -> str:
    """Send an order with the id of another installation; return the broker id."""
    return str((await scenario.admin("order", {**ANOTHERS_ORDER, **terms}))["id"])


async def status_of(scenario: Scenario, broker_id: str) -> str:
    """Return the status of an order at the exchange."""
    logs = await scenario.admin("logs")
    return str(next(order["status"] for order in logs["orders"] if order["id"] == broker_id))


async def alerts_of(scenario: Scenario, event: str) -> list[str]:
    """Return the messages of all alerts of an event."""
    found = await scenario.conn.fetch("SELECT message FROM alerts WHERE event = $1", event)
    return [row["message"] for row in found]


async def test_exit_runs_beside_an_order_of_another_catalyst(database: str) -> None:
    """An order of another Catalyst reserves 15 of our 20 shares. It is not cancelled and holds up no exit: the free 5
    are sold, one alert names it, and when a person has cancelled it, the rest is sold."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        held = scenario.server.exchange.state.account.positions["AAPL"]
        held.qty += 15
        blocking_id = await send_as_another(scenario, side="sell", qty="15", type="stop", stop_price="180.00")
        held.qty -= 15
        await scenario.refuse_replacements()
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert await status_of(scenario, blocking_id) == "new"
        assert scenario.held_qty("AAPL") == 15
        assert [blocking_id in message for message in await alerts_of(scenario, "EXIT_BLOCKED")] == [True]
        await scenario.admin("cancel", {"id": blocking_id})
        await scenario.advance(seconds=30)
        assert scenario.held_qty("AAPL") == 0


async def test_exit_cancels_no_leg_of_another_catalyst(database: str) -> None:
    """The legs of another Catalyst's filled bracket have ids of the broker and are listed alone. An exit that lacks
    shares sells what is free and leaves them alone."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await send_as_another(scenario, **BRACKET)
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 40
        scenario.server.exchange.state.account.positions["AAPL"].qty -= 5
        await scenario.refuse_replacements()
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 20
        assert await legs_of(scenario, "AAPL") == ["canceled", "canceled", "filled", "held", "new"]


async def test_leg_that_is_listed_alone_belongs_to_its_parent(database: str) -> None:
    """A bracket of another Catalyst from Monday works on Wednesday: the broker lists its leg alone, without the parent.
    The leg is stored below its parent as the other's, and the symbol is left to the other."""
    async with open_scenario(database, started=False) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await send_as_another(scenario, **BRACKET)
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.clock.advance_to(at("10:15", MONDAY + timedelta(days=2)))
        await scenario.start()
        await scenario.advance(minutes=3)
        stored: list[Facts] = await scenario.orders("AAPL")
        (parent,) = [order for order in stored if order["parent_order_id"] is None]
        assert parent["client_order_id"] == ANOTHERS_ORDER["client_order_id"]
        assert {order["origin"] for order in stored} == {"external"}
        assert await legs_of(scenario, "AAPL") == ["held", "new"]
        assert scenario.components is not None
        assert scenario.components.gate.symbols.has(SymbolReason.ANOTHER_CATALYST, "AAPL")
        assert await scenario.count_submitted("AAPL") == 0


async def test_exit_of_ours_that_fits_nothing_makes_the_proof_fail(database: str) -> None:
    """A working order with an exit id of ours has no row and fits no shares: it is stored as external, and counts."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        own_id = scenario.own_order_id("lost", "x")
        await send_as_another(
            scenario,
            symbol="MSFT",
            side="buy",
            qty="5",
            type="limit",
            limit_price="100.00",
            client_order_id=own_id,
        )
        await scenario.advance(seconds=30)
        (stored,) = [each for each in await scenario.orders("MSFT") if each["client_order_id"] == own_id]
        assert stored["origin"] == "external"
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        assert [proof["broker_orders"] for proof in proof_files(scenario)] == [1]


async def test_two_installations_exit_each_its_own_shares_of_one_symbol(
    database: str, second_database: str
) -> None:
    """Two daemons enter AAPL at the same moment, before one sees the other. Each keeps its 20 shares under its own
    stop and sends nothing for the other's; the second one exits its own, then the first one's target fills."""
    async with open_scenario(database) as first:
        first.print_trade("AAPL", "191.00")
        async with second_installation(first, second_database, gets_stream=False) as second:
            assert first.components is not None
            assert second.components is not None
            for reason in list(second.components.gate.reasons):
                second.components.gate.reopen(reason)
            for each in (second, first):
                assert (await each.submit_entry("AAPL", 20, **ENTRY)).status != "rejected"
            first.print_trade("AAPL", "190.00")
            await first.advance(minutes=5)
            assert first.held_qty("AAPL") == 40
            assert await legs_of(first, "AAPL") == ["held", "held", "new", "new"]
            assert (await second.send_command("close", symbol="AAPL"))["ok"]
            await first.advance(seconds=60)
            assert first.held_qty("AAPL") == 20
            assert await legs_of(first, "AAPL") == ["canceled", "filled", "held", "new", "replaced"]
            first.print_trade("AAPL", "194.05")
            await first.advance(seconds=60)
            assert first.held_qty("AAPL") == 0
            reasons = []
            for each in (first, second):
                position = await each.position("AAPL")
                assert position is not None
                reasons.append(position["close_reason"].split(":")[0])
                assert await each.conn.fetchval("SELECT count(*) FROM orders WHERE origin = 'orphan'") == 0
            assert reasons == ["TAKE_PROFIT_HIT", "MANUAL"]
