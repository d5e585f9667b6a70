"""Requests that are lost again and again: how often one order is sent, and what ends it."""

import asyncio

import pytest

from tests.stories.scenario import ENTRY, Facts, Scenario, open_scenario
from tests.stories.test_operator_actions import order_by_hand, sell_by_hand_unseen


async def orders_of(scenario: Scenario, symbol: str, *purposes: str) -> list[Facts]:
    """Return the orders of these purposes that have no parent, oldest first."""
    return [
        order
        for order in await scenario.orders(symbol)
        if order["order_purpose"] in purposes and order["parent_order_id"] is None
    ]


@pytest.mark.parametrize("purpose", ["exit", "take_profit"])
async def test_order_whose_every_request_is_lost_is_sent_four_times_and_replaced(
    database: str, purpose: str
) -> None:
    """Given every POST is lost for 40 s, then an exit and the OCO of unprotected shares are sent four times
    under one id, end as NEVER_ARRIVED and are followed by an order with another id; afterwards the shares are sold,
    or protected, once."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=0)
        if purpose == "exit":
            await scenario.refuse_replacements()
            assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        else:
            stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
            await scenario.admin("cancel", {"id": stop["alpaca_order_id"]})
            scenario.server.exchange.confirm_cancels()
        await scenario.advance(seconds=40)
        # An exit whose requests stay lost is postponed: the OCO of its shares is lost too.
        purposes = ("exit", "take_profit") if purpose == "exit" else (purpose,)
        sent = [o for o in await orders_of(scenario, "AAPL", *purposes) if o["submitted_at"] is not None]
        lost = [o for o in sent if o["alpaca_order_id"] is None]
        ended = [order for order in lost if order["status"] == "rejected"]
        assert len(ended) >= 2
        assert {(order["rejection_reason"], order["attempts"]) for order in ended} == {("NEVER_ARRIVED", 4)}
        assert {order["attempts"] for order in lost} <= {1, 2, 3, 4}
        assert len({order["client_order_id"] for order in lost}) == len(lost)
        await scenario.clear_faults()
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == (0 if purpose == "exit" else 20)
        arrived = [
            order for order in await orders_of(scenario, "AAPL", *purposes) if order["alpaca_order_id"]
        ]
        if purpose == "exit":
            assert sum(order["filled_qty"] for order in arrived) == 20
        else:
            assert [order["quantity"] for order in arrived] == [20]
        await scenario.assert_consistent()


async def test_entry_is_not_sent_again_when_the_gate_closed_after_its_first_attempt(database: str) -> None:
    """Given the broker rejects the first attempt with 429 and entries are halted during the pause, then the entry is
    not sent a second time, although another symbol's exit still is."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("rate_limit", method="POST", route="/v2/orders", count=1)
        entry_task = asyncio.ensure_future(scenario.submit_entry("AAPL", 20, **ENTRY))
        await scenario.advance(seconds=0.5)
        assert [order["attempts"] for order in await scenario.orders("AAPL")] == [1]
        scenario.components.gate.close("halt", "requested by the operator")
        await scenario.advance(seconds=10)
        row = await entry_task
        assert (row.status, row.attempts, scenario.held_qty("AAPL")) == ("rejected", 1, 0)
        assert row.rejection_reason is not None
        assert row.rejection_reason.startswith("NOT_SENT: entry not allowed now: halt")
        assert await scenario.count_submitted("AAPL") == 1


async def test_entry_with_duplicate_id_response_raises_no_alert(database: str) -> None:
    """An entry whose only response says that its id is taken is the order that the broker has: its fill is expected,
    so it is neither late nor a contradiction."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault(
            "status", method="POST", route="/v2/orders", status=422, code=42210000,
            message="client_order_id must be unique",
        )  # fmt: skip
        row = await scenario.submit_entry("AAPL", 20, **ENTRY)
        assert row.status != "rejected"
        await scenario.advance(seconds=15)
        assert scenario.held_qty("AAPL") == 20
        assert (await scenario.orders("AAPL"))[0]["status"] == "filled"
        assert await scenario.alert_events() == []
        kinds = await scenario.conn.fetch("SELECT DISTINCT kind FROM order_events")
        assert {row["kind"] for row in kinds} <= {"transition", "fill", "note"}


async def test_entry_stays_unresolved_while_the_account_cannot_be_read(database: str) -> None:
    """Not found proves nothing while the control read of the account fails: the row stays open and its symbol is
    blocked, and another symbol is not; once the account can be read, the entry never arrived."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=1)
        await scenario.inject_fault("status_before", method="GET", route="/v2/account", status=500, count=0)
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=40)
        (order,) = await scenario.orders("AAPL")
        assert (order["status"], order["attempts"]) == ("submitted", 1)
        gate = scenario.components.gate
        assert gate.symbols.entry_refusal("AAPL") is not None
        assert gate.symbols.entry_refusal("MSFT") is None
        await scenario.clear_faults()
        await scenario.advance(seconds=30)
        (order,) = await scenario.orders("AAPL")
        assert (order["status"], order["rejection_reason"]) == ("rejected", "NEVER_ARRIVED")
        assert gate.symbols.entry_refusal("AAPL") is None


async def test_exit_cancels_order_by_hand_that_was_adopted_meanwhile(database: str) -> None:
    """Given an exit waits for a read of the broker, when a person's order to sell half of the shares gets its row,
    then the exit cancels it at once and sells all shares, instead of waiting for the person's price."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/positions/AAPL", status=500, count=0
        )
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=5)
        await order_by_hand(scenario, "AAPL", "sell", 10, type="limit", limit_price="250.00")
        await scenario.advance(seconds=20)
        external = [o for o in await scenario.orders("AAPL") if o["origin"] == "external"]
        assert [order["order_purpose"] for order in external] == ["exit"]
        await scenario.clear_faults()
        await scenario.advance(seconds=15)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_exit_sells_the_smaller_quantity_when_the_broker_shows_fewer_shares(database: str) -> None:
    """Given a person sold 8 of 20 shares and no list shows it yet, then an exit sells the 12 shares that the broker
    has, once, and no request for more is sent."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await sell_by_hand_unseen(scenario, "AAPL", 8)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        sales = await orders_of(scenario, "AAPL", "exit")
        assert [
            order["quantity"] for order in sales if order["origin"] == "catalyst" and order["submitted_at"]
        ] == [12]
        await scenario.clear_faults()
        await scenario.advance(seconds=70)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], scenario.held_qty("AAPL")) == ("closed", 0)
        await scenario.assert_consistent()


async def test_symbol_stays_blocked_until_its_own_order_is_found(database: str) -> None:
    """Given two entries without a response, one of which arrived, then its symbol is free once it is found, and the
    other symbol stays blocked until its order certainly never arrived."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        symbols = scenario.components.gate.symbols
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", symbol="AAPL", count=1)
        await scenario.inject_fault("drop", method="POST", route="/v2/orders", symbol="MSFT", count=1)
        for symbol in ("AAPL", "MSFT"):
            await scenario.submit_entry(symbol, 10, **ENTRY)
        await scenario.advance(seconds=5)
        assert (await scenario.orders("MSFT"))[0]["status"] == "filled"
        assert symbols.entry_refusal("MSFT") is None
        assert symbols.entry_refusal("AAPL") is not None
        await scenario.advance(seconds=25)
        assert (await scenario.orders("AAPL"))[0]["rejection_reason"] == "NEVER_ARRIVED"
        assert symbols.entry_refusal("AAPL") is None


async def test_exit_goes_on_after_two_short_absences_of_its_shares(database: str) -> None:
    """Given the broker shows no position for ten seconds, then an error, then no position for eight seconds more, then
    the exit is not given up, because no absence lasted, and sells when the shares are shown again."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        route = "/v2/positions/AAPL"
        for status, code, seconds in ((404, 40410000, 10), (500, 50010000, 5), (404, 40410000, 8)):
            await scenario.inject_fault(
                "status_before", method="GET", route=route, status=status, code=code,
                message="position does not exist" if status == 404 else "internal server error", count=0,
            )  # fmt: skip
            if seconds == 10:
                await scenario.refuse_replacements()
                assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
            await scenario.advance(seconds=seconds)
            await scenario.clear_faults()
        assert scenario.held_qty("AAPL") == 20
        assert await scenario.conn.fetchval("SELECT state FROM exit_intents") == "open"
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()
