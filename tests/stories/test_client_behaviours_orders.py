"""Client behaviours: submitting orders. docs/client-behaviours.md has the whole list."""

import re
from decimal import Decimal

import pytest

from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import NAMESPACE
from catalyst.domain.order import PositionSide
from catalyst.pipeline.plan import Plan
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_daily_limits_and_proposals import insert_proposal
from tests.stories.test_operator_actions import order_by_hand


async def entry_refusal(scenario: Scenario, symbol: str) -> str | None:
    """Return the reason why the trading day refuses an entry in `symbol` now, or None."""
    assert scenario.components is not None
    return await scenario.components.entries.refusal(symbol)


@pytest.mark.promise("C01")
async def test_order_row_is_committed_before_request(database: str) -> None:
    """Given a crash directly before the request, then the row exists as submitted with its client order id,
    the broker has no order, and the next daemon sends none."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.crash_at("POST /orders", Moment.BEFORE, scenario.submit_entry("AAPL", 20, **ENTRY))
        (row,) = await scenario.orders("AAPL")
        assert (row["status"], row["alpaca_order_id"]) == ("submitted", None)
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,48}", row["client_order_id"])
        await scenario.start()
        await scenario.advance(seconds=30)
        assert [o["status"] for o in await scenario.orders("AAPL")] == ["rejected"]
        assert await scenario.count_submitted("AAPL") == 0


@pytest.mark.promise("C03")
async def test_order_not_found_stays_open_until_adopted(database: str) -> None:
    """An accepted order that every read denies for 8 s stays open, is read at growing intervals, is not sent
    again, and is adopted once visible."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("visibility", symbol="AAPL", seconds=8)
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=2)
        await scenario.inject_fault("stream_drop", symbol="AAPL", count=3)
        await scenario.inject_fault("drop", method="POST", route="/v2/orders")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=7)
        assert [(o["status"], o["alpaca_order_id"]) for o in await scenario.orders("AAPL")] == [
            ("submitted", None)
        ]
        requests = (await scenario.admin("logs?path=/v2/orders:by_client_order_id"))["requests"]
        assert 2 <= len(requests) <= 6
        await scenario.advance(seconds=20)
        assert (await scenario.orders("AAPL"))[0]["status"] == "filled"
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


@pytest.mark.promise("C04")
async def test_order_with_duplicate_id_response_is_adopted(database: str) -> None:
    """An order with the response "client_order_id must be unique" is read, adopted and protected."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault(
            "status", method="POST", route="/v2/orders", status=422, code=42210000,
            message="client_order_id must be unique",
        )  # fmt: skip
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=15)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


@pytest.mark.promise("C05")
async def test_broker_rejection_is_stored_with_its_reason(database: str) -> None:
    """A rejected order stores our class of the reason and the broker's message, and does not count as an
    authorization error."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        row = await scenario.submit_entry("AAPL", 900_000, **ENTRY)
        assert row.status == "rejected"
        assert row.rejection_reason is not None
        assert row.rejection_reason.startswith("INSUFFICIENT_BUYING_POWER: ")
        assert "AUTH_REFUSED" not in await scenario.alert_events()
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


@pytest.mark.promise("C08")
@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_submit_response_and_legs_are_stored_in_one_transaction(database: str, moment: Moment) -> None:
    """A crash around the transaction of the response leaves the broker id and both legs in the database, or
    neither."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("stream_drop", symbol="AAPL", count=0)
        await scenario.crash_at("apply_report", moment, scenario.submit_entry("AAPL", 20, **ENTRY))
        entry, *legs = await scenario.orders("AAPL")
        assert [leg["order_purpose"] for leg in legs] == (
            [] if moment is Moment.BEFORE else ["take_profit", "stop_loss"]
        )
        assert (entry["alpaca_order_id"] is None) is (moment is Moment.BEFORE)


@pytest.mark.promise("C09")
@pytest.mark.parametrize(
    ("market", "reason"),
    [
        (("187.98", "187.99"), "the stop 188.00 is not below the market at 187.98 to 187.99 and the entry"),
        (("194.05", "194.06"), "the target 194.00 is not above the market at 194.05 to 194.06 and the entry"),
        (("190.00", "195.00"), "the target 194.00 is not above the market at 190.0 to 195.0 and the entry"),
        (None, "there is no fresh quote"),
    ],
)
async def test_bracket_beyond_market_quote_is_refused(
    database: str, market: tuple[str, str] | None, reason: str
) -> None:
    """An approval is refused while the quote is beyond stop or target, or missing."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        proposal = await insert_proposal(scenario, "AAPL")
        assert isinstance(scenario.market.quotes, dict)
        scenario.market.quotes["AAPL"] = market
        answer = await scenario.send_command("approve", proposal_id=proposal)
        assert answer["ok"] is False
        assert answer["error"].endswith(reason)
        assert await scenario.count_submitted("AAPL") == 0
        scenario.market.quotes["AAPL"] = ("189.99", "190.01")
        assert (await scenario.send_command("approve", proposal_id=proposal))["ok"]
        assert await scenario.count_submitted("AAPL") == 1


@pytest.mark.promise("C09")
@pytest.mark.parametrize(("market", "sent"), [(("187.98", "187.99"), 0), (("189.99", "190.01"), 1)])
async def test_autonomous_entry_is_checked_against_last_quote(
    database: str, market: tuple[str, str], sent: int
) -> None:
    """An autonomous entry is checked against the quote directly before it is sent."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        assert scenario.components is not None
        assert isinstance(scenario.market.quotes, dict)
        scenario.market.quotes["AAPL"] = market
        now = scenario.clock.now()
        prices = {"entry": "190.10", "entry_price": "190.10", "stop": "188.00", "target": "194.00"}
        plan = Plan(
            signal_id=NAMESPACE,
            client_order_id=scenario.own_order_id("a plan", "e"),
            symbol="AAPL",
            side=PositionSide.LONG,
            quantity=10,
            **{name: Decimal(price) for name, price in prices.items()},
            risk_amount=Decimal(21),
            composite=0.7,
            pattern=None,
            decided_at=now,
        )
        await scenario.components.entries.place(plan, scan_id=0, degraded=False)
        assert await scenario.count_submitted("AAPL") == sent


@pytest.mark.promise("C09")
async def test_entry_is_refused_with_stale_quote(database: str) -> None:
    """An approval is refused with a quote older than one minute."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        proposal = await insert_proposal(scenario, "AAPL")
        await scenario.advance(seconds=90)
        answer = await scenario.send_command("approve", proposal_id=proposal)
        assert "no fresh quote" in answer["error"]
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        assert (await scenario.send_command("approve", proposal_id=proposal))["ok"]


@pytest.mark.promise("C10")
async def test_entry_is_refused_while_symbol_has_orders_or_shares(database: str) -> None:
    """An entry is refused while its symbol has shares or any order that is not terminal: external, own, or
    with a pending cancel."""
    async with open_scenario(database) as scenario:
        for symbol in ("AAPL", "MSFT", "TSLA"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        resting = await order_by_hand(scenario, "MSFT", "buy", 3, type="limit", limit_price="100.00")
        await scenario.advance(seconds=5)
        assert await entry_refusal(scenario, "MSFT") == "the symbol has a working order"
        assert await entry_refusal(scenario, "AAPL") is None
        row = await scenario.submit_entry("AAPL", 20, **{**ENTRY, "limit": "189.00"})
        assert await entry_refusal(scenario, "AAPL") == "the symbol has a working order"
        await scenario.inject_fault("cancel_delay", seconds=20, count=0)
        await scenario.admin("cancel", {"id": resting})
        assert scenario.components is not None
        await scenario.components.submission.cancel(row, "ENTRY_TIMEOUT")
        await scenario.advance(seconds=3)
        assert await entry_refusal(scenario, "AAPL") == "the symbol has a working order"
        await scenario.advance(seconds=40)
        assert await entry_refusal(scenario, "AAPL") is None
        assert await entry_refusal(scenario, "MSFT") is None
        await scenario.given_position("TSLA", 5)
        assert await entry_refusal(scenario, "TSLA") == "the symbol has a working order"


@pytest.mark.promise("C12")
async def test_missing_first_fill_is_booked_from_account_activities(database: str) -> None:
    """A partial fill missing from the stream shows in the cumulative quantity of the next; the activities
    supply it, and both are booked at their own prices."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "191.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("stream_drop", event="partial_fill", symbol="AAPL")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await scenario.advance(seconds=1)
        scenario.print_trade("AAPL", "190.05", size=32)  # an order takes at most a quarter of a print
        await scenario.advance(seconds=1)
        scenario.print_trade("AAPL", "190.00", size=48)
        await scenario.advance(seconds=4)
        slices = await scenario.conn.fetch("SELECT quantity, cum_qty FROM executions ORDER BY cum_qty")
        assert [tuple(row) for row in slices] == [(8, 8), (12, 20)]
        await scenario.assert_consistent()
