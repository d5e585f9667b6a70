"""Orders on their way, clause by clause of what a client of this broker must do, where no other story shows it;
docs/client-behaviours.md has the whole list."""

import re
from decimal import Decimal

import pandas as pd
import pytest

from catalyst.daemon.trading_day.scanner import Scan
from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import NAMESPACE, client_order_id
from catalyst.domain.order import PositionSide
from catalyst.pipeline.plan import Plan
from tests.stories.scenario import ENTRY, Desk, open_desk
from tests.stories.test_daily_limits_and_proposals import proposes
from tests.stories.test_operator_actions import by_hand


async def entry_refusal(desk: Desk, symbol: str) -> str | None:
    """Why the day would not let an entry in `symbol` leave now."""
    assert desk.parts is not None
    assert desk.parts.day is not None
    return await desk.parts.day.refusal(symbol)


async def test_c01_the_row_is_committed_before_the_request(database: str) -> None:
    """Dead in the last moment before the request: its row is there, marked as perhaps sent, with the id it would
    have carried; the broker never heard, and the next daemon sends nothing in its place."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.dies_at("POST /orders", Moment.BEFORE, desk.enters("AAPL", 20, **ENTRY))
        (row,) = await desk.orders("AAPL")
        assert (row["status"], row["alpaca_order_id"]) == ("submitted", None)
        assert re.fullmatch(r"[A-Za-z0-9_-]{1,48}", row["client_order_id"])
        await desk.opens()
        await desk.waits(seconds=30)
        assert [o["status"] for o in await desk.orders("AAPL")] == ["rejected"]
        assert await desk.submits("AAPL") == 0


async def test_c03_a_404_is_provisional(database: str) -> None:
    """Taken, unanswered, and denied by every read for eight seconds: the row stays open, the questions grow rarer,
    nothing is sent again, and the order is adopted when it shows."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("visibility", symbol="AAPL", seconds=8)
        await desk.faults("empty", method="GET", route="/v2/orders", count=2)
        await desk.faults("stream_drop", symbol="AAPL", count=3)
        await desk.faults("drop", method="POST", route="/v2/orders")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=7)
        assert [(o["status"], o["alpaca_order_id"]) for o in await desk.orders("AAPL")] == [
            ("submitted", None)
        ]
        asked = (await desk.admin("ledger?path=/v2/orders:by_client_order_id"))["requests"]
        assert 2 <= len(asked) <= 6
        await desk.waits(seconds=20)
        assert (await desk.orders("AAPL"))[0]["status"] == "filled"
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


async def test_c04_an_id_that_is_taken_is_adopted(database: str) -> None:
    """The order was taken and the answer is that its id must be unique: it is looked up, adopted and protected."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults(
            "status", method="POST", route="/v2/orders", status=422, code=42210000,
            message="client_order_id must be unique",
        )  # fmt: skip
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=15)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


async def test_c05_a_refusal_is_kept_with_its_reason(database: str) -> None:
    """A plain no ends the row as rejected, with our class of it and the broker's own words; the keys are not blamed."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        row = await desk.enters("AAPL", 900_000, **ENTRY)
        assert row.status == "rejected"
        assert row.rejection_reason is not None
        assert row.rejection_reason.startswith("INSUFFICIENT_BUYING_POWER: ")
        assert "KEYS_REFUSED" not in await desk.alerts()
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_c08_legs_are_stored_with_the_answer(database: str, moment: Moment) -> None:
    """Dead around the transaction that hears the answer: the tables have the broker's id and both legs, or neither."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        await desk.faults("stream_drop", symbol="AAPL", count=0)
        await desk.dies_at("hear", moment, desk.enters("AAPL", 20, **ENTRY))
        entry, *legs = await desk.orders("AAPL")
        assert [leg["order_purpose"] for leg in legs] == (
            [] if moment is Moment.BEFORE else ["take_profit", "stop_loss"]
        )
        assert (entry["alpaca_order_id"] is None) is (moment is Moment.BEFORE)


@pytest.mark.parametrize("market", [("187.98", "187.99"), ("194.05", "194.06"), ("190.00", "195.00"), None])
async def test_c09_a_bracket_the_market_has_passed_is_not_sent(
    database: str, market: tuple[str, str] | None
) -> None:
    """Its levels were found at another price: at a fresh quote the stop or the target lies on the wrong side, or there
    is no quote, and the entry stays here."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        proposal = await proposes(desk, "AAPL")
        assert isinstance(desk.market.quotes, dict)
        desk.market.quotes["AAPL"] = market
        answer = await desk.tells("approve", proposal_id=proposal)
        assert answer["ok"] is False
        assert "quote" in answer["error"] or "market" in answer["error"]
        assert await desk.submits("AAPL") == 0
        desk.market.quotes["AAPL"] = ("189.99", "190.01")
        assert (await desk.tells("approve", proposal_id=proposal))["ok"]
        assert await desk.submits("AAPL") == 1


@pytest.mark.parametrize(("market", "sent"), [(("187.98", "187.99"), 0), (("189.99", "190.01"), 1)])
async def test_c09_the_scans_own_entry_looks_once_more(
    database: str, market: tuple[str, str], sent: int
) -> None:
    """An autonomous entry is held against the quote of its last moment too."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        assert desk.parts is not None
        assert desk.parts.day is not None
        assert isinstance(desk.market.quotes, dict)
        desk.market.quotes["AAPL"] = market
        now = desk.clock.now()
        prices = {"entry": "190.10", "entry_price": "190.10", "stop": "188.00", "target": "194.00"}
        plan = Plan(
            signal_id=NAMESPACE,
            client_order_id=client_order_id("a plan", "e", 0),
            symbol="AAPL",
            side=PositionSide.LONG,
            quantity=10,
            **{name: Decimal(price) for name, price in prices.items()},
            risk_amount=Decimal(21),
            composite=0.7,
            pattern=None,
            decided_at=now,
        )
        found = Scan(now, now, now, pd.DataFrame(), {}, {}, None, (plan,), pd.DataFrame())
        await desk.parts.day._enter(plan, found, 0)
        assert await desk.submits("AAPL") == sent


async def test_c09_a_stale_quote_is_no_quote(database: str) -> None:
    """A quote of more than a minute ago says nothing about the market of now."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        proposal = await proposes(desk, "AAPL")
        await desk.waits(seconds=90)
        answer = await desk.tells("approve", proposal_id=proposal)
        assert "no fresh quote" in answer["error"]
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        assert (await desk.tells("approve", proposal_id=proposal))["ok"]


async def test_c10_one_bracket_a_symbol(database: str) -> None:
    """While any order of the symbol is not at its end (a person's on either side, our own entry, one whose cancel is
    only asked for) or its shares are held, no entry leaves; other symbols are free."""
    async with open_desk(database) as desk:
        for symbol in ("AAPL", "MSFT", "TSLA"):
            desk.prints(symbol, "190.00")
        await desk.waits(seconds=1)
        resting = await by_hand(desk, "MSFT", "buy", 3, type="limit", limit_price="100.00")
        await desk.waits(seconds=5)
        assert await entry_refusal(desk, "MSFT") == "the symbol has a working order"
        assert await entry_refusal(desk, "AAPL") is None
        row = await desk.enters("AAPL", 20, **{**ENTRY, "limit": "189.00"})
        assert await entry_refusal(desk, "AAPL") == "the symbol has a working order"
        await desk.faults("cancel_delay", seconds=20, count=0)
        await desk.admin("cancel", {"id": resting})
        assert desk.parts is not None
        await desk.parts.execution.cancel(row, "ENTRY_TIMEOUT")
        await desk.waits(seconds=3)
        assert await entry_refusal(desk, "AAPL") == "the symbol has a working order"
        await desk.waits(seconds=40)
        assert await entry_refusal(desk, "AAPL") is None
        assert await entry_refusal(desk, "MSFT") is None
        await desk.holds("TSLA", 5)
        assert await entry_refusal(desk, "TSLA") == "the symbol has a working order"


async def test_c12_the_first_of_two_fills_is_lost(database: str) -> None:
    """The stream skips a partial fill and tells the next: the order's cumulative quantity shows the hole, the ledger
    fills it, and both slices are booked at their own prices."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        await desk.faults("stream_drop", event="partial_fill", symbol="AAPL")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=1)
        desk.prints("AAPL", "190.05", size=32)  # a quarter of a print is the most one order takes
        await desk.waits(seconds=1)
        desk.prints("AAPL", "190.00", size=48)
        await desk.waits(seconds=4)
        slices = await desk.conn.fetch("SELECT quantity, cum_qty FROM executions ORDER BY cum_qty")
        assert [tuple(one) for one in slices] == [(8, 8), (12, 20)]
        await desk.agrees()
