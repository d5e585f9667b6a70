"""Lost responses to applied commits, at every transaction of an order.

The daemon cannot know whether the commit was applied. It must be right in both cases: no second order, no
lost order, each fill booked once.
"""

from decimal import Decimal

import pytest

from tests.dbfaults.proxied_scenario import (
    assert_sent_once,
    open_proxied_scenario,
    submit_entry,
    wait_for_entry_gate,
)


@pytest.mark.parametrize(
    ("label", "nth"),
    [
        ("submit", 1),  # the entry's row
        ("apply_report", 1),  # the broker's response, with the legs
        ("apply_report", 2),  # the trade update: filled
        ("apply_report", 3),  # the legs are working
        ("protected", 1),
        ("heartbeat", 1),
        ("mark", 1),
        ("risk", 1),
    ],
)
async def test_lost_commit_response_during_entry_trades_at_most_once(
    database: str, label: str, nth: int
) -> None:
    """The entry is sent and fills once; its shares are protected and sold once at the target."""
    async with open_proxied_scenario(database) as (scenario, proxy, commit_loss):
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        commit_loss.lose_response(label, nth)
        await submit_entry(scenario, "AAPL", 20)
        await scenario.advance(seconds=35)
        assert proxy.lost_responses == 1
        entry = (await scenario.orders("AAPL"))[0]
        assert (entry["status"], entry["filled_qty"], scenario.held_qty("AAPL")) == ("filled", 20, 20)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await wait_for_entry_gate(scenario)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.count_submitted("AAPL") == 1
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.parametrize(
    ("label", "nth"),
    [
        ("exit_intent", 1),
        ("prepare_exit", 1),
        ("cancel", 1),
        ("release_exit", 1),
        ("submit", 1),  # the row of the moved target
        ("apply_report", 1),
        ("apply_report", 2),
        ("apply_report", 3),
        ("apply_report", 4),
        ("apply_report", 5),
    ],
)
async def test_lost_commit_response_during_exit_sells_once(database: str, label: str, nth: int) -> None:
    """A close command sells the held quantity once, whichever commit response of the exit got lost."""
    async with open_proxied_scenario(database) as (scenario, proxy, commit_loss):
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements(
            may_stay_silent="no replacement follows" if label == "submit" else ""
        )
        commit_loss.lose_response(label, nth)
        await scenario.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
            " VALUES ('close', '{\"symbol\": \"AAPL\"}', $1, 'trader')",
            scenario.clock.now(),
        )
        await scenario.advance(seconds=60)
        assert proxy.lost_responses == 1
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await wait_for_entry_gate(scenario)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.parametrize(
    ("label", "nth"), [("cancel", 1), ("submit", 1), ("protected", 1), ("unprotected", 1)]
)
async def test_lost_commit_response_during_protection_leaves_one_oco(
    database: str, label: str, nth: int
) -> None:
    """After a partial fill of 8 of 20 shares, one stop and one target for 8 are working at the end."""
    async with open_proxied_scenario(database) as (scenario, proxy, commit_loss):
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        if label == "unprotected":  # written only for shares that were protected before
            await submit_entry(scenario, "AAPL", 20)
            await scenario.advance(seconds=20)
            commit_loss.lose_response(label, nth)
            working = list(scenario.server.exchange.state.order_store.working("AAPL"))
            await scenario.admin("cancel", {"id": working[0].id})
        else:
            row = await submit_entry(scenario, "AAPL", 20)
            assert row is not None
            commit_loss.lose_response(label, nth)
        await scenario.advance(seconds=50)
        assert proxy.lost_responses == 1
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == 8
        assert position["protected_at"] is not None
        working_rows = [o for o in await scenario.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in working_rows} == {("oco", Decimal(8))}
        assert len(working_rows) == 2
        await wait_for_entry_gate(scenario)
        await assert_sent_once(scenario)
        await scenario.assert_consistent()


@pytest.mark.parametrize("label", ["latch", "halt", "exit_intent", "submit", "apply_report", "flat_proof"])
async def test_lost_commit_response_during_flatten_ends_flat(database: str, label: str) -> None:
    """SIGTERM ends flat with exit code 0 although one commit response got lost."""
    async with open_proxied_scenario(database) as (scenario, proxy, commit_loss):
        await scenario.given_position("AAPL", 20)
        commit_loss.lose_response(label)
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() == 0
        assert proxy.lost_responses == 1
        assert scenario.held_qty("AAPL") == 0
        await assert_sent_once(scenario)
        latch = await scenario.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL")
        assert latch == "flatten"
        await scenario.assert_consistent()
