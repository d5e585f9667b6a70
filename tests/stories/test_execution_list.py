"""The proof compares all that the broker's account activities hold with all that the database holds."""

import orjson

from catalyst.daemon.shutdown import ExitCode
from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.position import CloseReason
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_flat_proofs import proof_files


async def test_exits_rejected_while_reads_are_late_lose_no_cent(database: str) -> None:
    """The list of orders answers 8 s late and every second exit gets one 401. Each exit is booked to the cent, nothing
    is unexplained, no position is written off, and the proof holds."""
    async with open_scenario(database, risk={"max_daily_loss": 50_000}) as scenario:
        symbols = ("AAPL", "MSFT", "TSLA")
        for symbol in symbols:
            await scenario.given_position(symbol, 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("slow", method="GET", route="/v2/orders", seconds=8, count=0)
        for symbol in symbols[::2]:
            await scenario.inject_fault(
                "unauthorized", method="POST", route="/v2/orders", symbol=symbol, client_order_id="cat-*-[xf]"
            )
        for symbol in symbols:
            assert (await scenario.send_command("close", symbol=symbol))["ok"]
        await scenario.advance(minutes=3)
        await scenario.clear_faults()
        await scenario.advance(minutes=2)
        for symbol in symbols:
            assert scenario.held_qty(symbol) == 0
            position = await scenario.position(symbol)
            assert position is not None
            assert (position["status"], position["close_reason"][:6]) == ("closed", "MANUAL")
        assert not {"FILL_UNEXPLAINED", "RECONCILED_PHANTOM"} & set(await scenario.alert_events())
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        await scenario.assert_consistent()


async def buy_and_stop_out(scenario: Scenario) -> None:
    """Trade a round trip in AAPL that its stop ends."""
    await scenario.given_position("AAPL", 20)
    scenario.print_trade("AAPL", "187.90")
    await scenario.advance(seconds=10)
    assert scenario.held_qty("AAPL") == 0


async def test_write_off_makes_the_proof_fail(database: str) -> None:
    """A position is written off although the exchange holds its shares no more: SAFE mode, which a crash before its
    latch does not lose; no second entry in the symbol, also after a resume; the account is flat, the proof is red and
    the exit code 2."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        row = await scenario.position("AAPL")
        assert scenario.components is not None
        assert row is not None
        for leg in [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit"]:
            await scenario.admin("cancel", {"id": leg["alpaca_order_id"]})
        scenario.server.exchange.state.account.positions.pop("AAPL")
        await scenario.advance(seconds=5)
        await scenario.components.ledger.write_off(
            row["position_id"], CloseReason.RECONCILED_PHANTOM, "reconcile"
        )
        gate = scenario.components.gate
        assert gate.symbols.has(SymbolReason.UNBOOKED, "AAPL")
        assert "AAPL: RECONCILED_PHANTOM" in gate.reasons["safe"]
        await scenario.crash()
        await scenario.conn.execute("DELETE FROM latches")  # as when the crash comes before the latch
        await scenario.start()
        gate = scenario.components.gate
        assert "AAPL: RECONCILED_PHANTOM" in gate.reasons["safe"]
        assert (await scenario.send_command("resume"))["ok"]
        assert gate.is_open
        sent_before = await scenario.count_submitted("AAPL")
        assert (await scenario.submit_entry("AAPL", 20, **ENTRY)).status == "rejected"
        assert await scenario.count_submitted("AAPL") == sent_before
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        proof = proof_files(scenario)[-1]
        assert (proof["flat"], proof["proven"]) == (True, False)
        assert "AAPL (position 1) was written off" in proof["unproven_reason"]
        assert "FLAT_NOT_PROVEN" in await scenario.alert_events()


async def test_missing_activities_forbid_a_write_off(database: str) -> None:
    """Shares vanish without a fill while the account activities cannot be read: the position stays open, because a fill
    that was not read may explain it; afterwards it is written off."""
    async with open_scenario(database, risk={"max_daily_loss": 50_000}) as scenario:
        await scenario.given_position("AAPL", 20)
        for leg in [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "take_profit"]:
            await scenario.admin("cancel", {"id": leg["alpaca_order_id"]})
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/account/activities/FILL", status=500, count=0
        )
        scenario.server.exchange.state.account.positions.pop("AAPL")
        await scenario.advance(seconds=150)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "open"
        await scenario.clear_faults()
        await scenario.advance(seconds=60)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"


async def test_sale_that_only_the_broker_knows_makes_the_proof_fail(database: str) -> None:
    """The broker's activities hold a sale that the database lacks: the proof names its shares and
    dollars, although every position agrees with the fills of its own orders."""
    async with open_scenario(database) as scenario:
        await buy_and_stop_out(scenario)
        execution = scenario.server.exchange.state.executions[-1]
        scenario.server.exchange.state.executions.append(
            type(execution)(
                **{**_facts_of(execution), "id": "planted", "order_id": "no-row", "cum_qty": execution.qty}
            )
        )
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        reason = proof_files(scenario)[-1]["unproven_reason"]
        assert reason.startswith("AAPL (order no-row): 0 shares for $0 in the database, 20 shares for $")


def _facts_of(execution: object) -> dict[str, object]:
    return {name: getattr(execution, name) for name in type(execution).__dataclass_fields__}


async def test_fill_that_cannot_be_booked_blocks_its_symbol_at_once(database: str) -> None:
    """A fill at another price than the booked one enters SAFE mode, blocks its symbol, makes the proof fail, and is
    told once, however often it is read; a restart knows it."""
    async with open_scenario(database) as scenario:
        await buy_and_stop_out(scenario)
        assert scenario.components is not None
        gate = scenario.components.gate
        state = scenario.server.exchange.state
        index = next(n for n, each in enumerate(state.executions) if each.side == "buy")
        facts = _facts_of(state.executions[index])
        state.executions[index] = type(state.executions[index])(**{**facts, "price": facts["price"] + 1})
        broker_id = str(facts["order_id"])
        for _ in range(3):
            await scenario.components.ledger.fetch_missing_fills(broker_id, "reconcile")
        assert gate.symbols.has(SymbolReason.UNBOOKED, "AAPL")
        assert "AAPL: order 1: the fill at" in gate.reasons["safe"]
        alerts = await scenario.conn.fetch("SELECT repeats FROM alerts WHERE event = 'FILL_UNEXPLAINED'")
        assert [alert["repeats"] for alert in alerts] == [0]
        lines = "SELECT count(*) FROM order_events WHERE kind = 'adjustment' AND order_id IS NOT NULL"
        assert await scenario.conn.fetchval(lines) == 1
        await scenario.crash()
        await scenario.start()
        assert scenario.components.gate.symbols.has(SymbolReason.UNBOOKED, "AAPL")
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        facts = orjson.loads(
            await scenario.conn.fetchval("SELECT facts FROM flat_proofs ORDER BY proof_id DESC LIMIT 1")
        )
        assert "the fill at" in facts["unproven_reason"]


async def test_resume_after_a_fill_that_cannot_be_booked_is_final(database: str) -> None:
    """After a resume the same fill, read again, does not enter SAFE mode; its symbol stays blocked until a person has
    resolved it and resumes. Read once more, it is known; a restart does not forget that."""
    async with open_scenario(database) as scenario:
        await buy_and_stop_out(scenario)
        state = scenario.server.exchange.state
        index = next(n for n, each in enumerate(state.executions) if each.side == "buy")
        facts = _facts_of(state.executions[index])
        state.executions[index] = type(state.executions[index])(**{**facts, "price": facts["price"] + 1})
        assert scenario.components is not None
        await scenario.components.ledger.fetch_missing_fills(str(facts["order_id"]), "reconcile")
        assert "safe" in scenario.components.gate.reasons
        await scenario.advance(seconds=5)
        for is_resolved in (False, True):
            if is_resolved:
                await scenario.conn.execute(
                    "UPDATE quarantine SET resolved_at = $1, resolved_by = 'trader', note = 'compared'",
                    scenario.clock.now(),
                )
            assert (await scenario.send_command("resume"))["ok"]
            gate = scenario.components.gate
            await scenario.components.ledger.fetch_missing_fills(str(facts["order_id"]), "reconcile")
            assert "safe" not in gate.reasons
            assert gate.symbols.has(SymbolReason.UNBOOKED, "AAPL") is not is_resolved
            await scenario.crash()
            await scenario.start()
            gate = scenario.components.gate
            assert "safe" not in gate.reasons
            assert gate.symbols.has(SymbolReason.UNBOOKED, "AAPL") is not is_resolved
        assert await scenario.conn.fetchval("SELECT count(*) FROM quarantine WHERE order_id IS NOT NULL") == 1
