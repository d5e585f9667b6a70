"""Fills, protection and leaving, clause by clause of what a client of this broker must do;
docs/client-behaviours.md has the whole list."""

import asyncio

import pytest

from catalyst.simulator.trading_api.order_parsing import read_replace
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Desk, open_desk
from tests.stories.test_operator_actions import by_hand


async def replaces_by_hand(desk: Desk, broker_id: str, limit_price: str) -> str:
    replaced = desk.server.exchange.replace(broker_id, read_replace({"limit_price": limit_price}))
    desk.server._woken.set()  # it was asked for behind the driver's back
    return replaced.id


async def test_c13_an_expired_entry_with_a_fill_is_a_position(database: str) -> None:
    """Eight of twenty fill, the daemon dies, and the rest expires with the day: the next one holds eight shares, in
    the tables too."""
    async with open_desk(database, now=at("15:45"), positions={"close_all_at_market_close": False}) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=2)
        await desk.dies()
        await desk.clock.advance_to(at("16:01"))
        await desk.opens()
        await desk.waits(seconds=5)
        entry = (await desk.orders("AAPL"))[0]
        assert (entry["status"], entry["filled_qty"]) == ("expired", 8)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], position["quantity"], desk.held("AAPL")) == ("open", 8, 8)
        await desk.agrees()


async def test_c15_a_chain_of_replacements_is_followed_to_its_end(database: str) -> None:
    """Replaced twice while nobody of ours was alive: the last order is the entry, and its fill the position."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=2)
        broker_id = (await desk.orders("AAPL"))[0]["alpaca_order_id"]
        await desk.dies()
        for price in ("190.20", "191.50"):
            broker_id = await replaces_by_hand(desk, broker_id, price)
            await desk.waits(seconds=2)
        assert desk.held("AAPL") == 20
        await desk.opens()
        await desk.waits(seconds=20)
        entries = [o for o in await desk.orders("AAPL") if o["order_purpose"] == "entry"]
        assert [o["status"] for o in entries] == ["replaced", "replaced", "filled"]
        assert [o["replaces"] for o in entries] == [None, entries[0]["order_id"], entries[1]["order_id"]]
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (20, "open")
        assert position["protected_at"] is not None
        await desk.agrees()


async def test_c15_a_successor_nobody_told_of_is_looked_for(database: str) -> None:
    """The stream tells that an order was replaced and is silent about the order in its place: it is asked for at
    once, not at the next poll."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=16)
        broker_id = (await desk.orders("AAPL"))[0]["alpaca_order_id"]
        await desk.faults("stream_drop", event="new", symbol="AAPL", count=0)
        await replaces_by_hand(desk, broker_id, "190.20")
        await desk.waits(seconds=3)
        entries = [o for o in await desk.orders("AAPL") if o["order_purpose"] == "entry"]
        assert len(entries) == 2
        assert entries[1]["replaces"] == entries[0]["order_id"]


async def test_c16_a_fill_before_any_answer(database: str) -> None:
    """The answer to the submit is lost, every read denies the order, and the stream tells its fill: the row is found
    by our own id, and the shares are booked at once."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("visibility", symbol="AAPL", seconds=60)
        await desk.faults("empty", method="GET", route="/v2/orders", count=0)
        await desk.faults("stream_drop", event="new", symbol="AAPL", count=0)
        await desk.faults("drop", method="POST", route="/v2/orders")
        row = await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=3)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["quantity"] == 20
        (entry,) = [o for o in await desk.orders("AAPL") if o["order_purpose"] == "entry"]
        assert (entry["order_id"], entry["status"]) == (row.order_id, "filled")
        await desk.heals()
        await desk.waits(seconds=30)
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


async def test_c18_shares_that_stay_bare_are_told_of(database: str) -> None:
    """Eight of twenty fill and the cancel of the rest hangs half a minute: somebody is paged while nothing protects the
    eight, then one OCO does, and the time without it is on record."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.faults("cancel_delay", symbol="AAPL", seconds=30)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=25)
        assert "NAKED_OVER_BUDGET" in await desk.alerts()
        assert await desk.submits("AAPL") == 1
        await desk.waits(seconds=25)
        position = await desk.position("AAPL")
        assert position is not None
        assert 30 <= position["naked_seconds"] <= 45
        live = [o for o in await desk.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live} == {("oco", 8)}
        await desk.agrees()


async def test_c20_a_quote_counts_while_nothing_rests_at_the_broker(database: str) -> None:
    """Nothing trades, nothing protects the shares, and the bid falls through the stop: we leave on the quote."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.faults("cancel_delay", symbol="AAPL", seconds=30)
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=5)
        assert isinstance(desk.market.quotes, dict)
        desk.market.quotes["AAPL"] = ("187.50", "187.52")
        await desk.waits(seconds=8)
        reason = await desk.conn.fetchval("SELECT reason FROM exit_intents WHERE state = 'open'")
        assert str(reason).startswith("STOP_LOSS_HIT: AAPL @ $187.5")
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_c23_everything_is_good_for_the_day(database: str) -> None:
    """A stock that turned hard to borrow takes day orders only: entry, the OCO of a partial fill and the exit all
    are, so none is refused."""
    async with open_desk(database) as desk:
        await desk.admin("switches", {"hard_to_borrow": ["AAPL"]})
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=20)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=15)
        assert desk.held("AAPL") == 0
        orders = await desk.orders("AAPL")
        assert {o["time_in_force"] for o in orders} == {"day"}
        assert not [o for o in orders if o["status"] == "rejected"]
        await desk.agrees()


async def test_c24_cancels_that_fail_are_gone_around(database: str) -> None:
    """The venue refuses every cancel of what holds the shares: after a while the target is moved to the market, its
    row written first, and the shares leave once, for the reason we had. The stop goes with its group."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("cancel_reject", symbol="AAPL", count=0)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=8)
        assert desk.held("AAPL") == 20
        await desk.waits(seconds=20)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        _, target, stop, moved = await desk.orders("AAPL")
        assert (target["status"], stop["status"], moved["status"]) == ("replaced", "cancelled", "filled")
        assert (moved["replaces"], moved["origin"]) == (target["order_id"], "catalyst")
        assert len((await desk.admin("ledger?method=PATCH&path=/v2/orders"))["requests"]) == 1
        await desk.agrees()


@pytest.mark.parametrize("rule", ["replace_reject", "drop", "drop_before", "refused"])
async def test_c24_a_replacement_is_only_asked_for(database: str, rule: str) -> None:
    """The broker says yes and the venue no, or the answer is lost, or it is a no: the old target is still what the
    broker shows of it, one sale comes of it all, and cancelling goes on."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("cancel_reject", symbol="AAPL", count=8)
        if rule == "replace_reject":
            await desk.faults(rule, symbol="AAPL")
        elif rule == "refused":
            await desk.faults(
                "status_before", method="PATCH", route="/v2/orders/*", status=422, code=40010001,
                message="unable to replace order, order isn't sent to exchange yet",
            )  # fmt: skip
        else:
            await desk.faults(rule, method="PATCH", route="/v2/orders/*")
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        assert len((await desk.admin("ledger?method=PATCH&path=/v2/orders"))["requests"]) == 1
        assert await desk.submits("AAPL") == (1 if rule == "drop" else 2)
        await desk.agrees()


async def test_c25_the_account_is_never_liquidated_as_a_whole(database: str) -> None:
    """Flat by our own orders, symbol by symbol: the broker's "close everything" is not asked, for it carries no id of
    ours and would sell what is not ours."""
    async with open_desk(database) as desk:
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        await by_hand(desk, "MSFT", "buy", 7)
        await desk.holds("AAPL", 20)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        assert (desk.held("AAPL"), desk.held("MSFT")) == (0, 7)
        assert not (await desk.admin("ledger?method=DELETE&path=/v2/positions"))["requests"]
        whole = (await desk.admin("ledger?method=DELETE&path=/v2/orders"))["requests"]
        assert not [one for one in whole if one["path"] == "/v2/orders"]
        rows = (await desk.admin("ledger"))["requests"]
        sale = max(number for number, one in enumerate(rows) if one["method"] == "POST")
        assert {"/v2/orders", "/v2/positions"} <= {
            one["path"] for one in rows[sale:] if one["method"] == "GET"
        }


async def test_c26_what_holds_the_shares_is_found_by_its_name(database: str) -> None:
    """A person's offer holds half of the shares and no list shows it: the broker's refusal names it, it is cancelled,
    and the sale goes through."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("empty", method="GET", route="/v2/orders", count=0)
        await desk.faults("stream_drop", symbol="AAPL", side="sell", event="new", count=0)
        target = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "take_profit")
        await desk.admin("cancel", {"id": target["alpaca_order_id"]})
        desk.server.exchange.confirm_cancels()
        offer = await by_hand(desk, "AAPL", "sell", 10, type="limit", limit_price="250.00")
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=60)
        assert desk.server.exchange.find(offer).status == "canceled"
        assert desk.held("AAPL") == 0


async def test_c26_no_position_is_done(database: str) -> None:
    """A person sold the shares and nothing has told us yet: "position does not exist" ends the exit, and no sale of
    ours is sent; once it is told, the position closes as sold by somebody else."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status_before", method="GET", route="/v2/positions", status=500, count=0)
        await desk.faults("empty", method="GET", route="/v2/orders", count=0)
        await desk.faults("empty", method="GET", route="/v2/account/activities/FILL", count=0)
        await desk.faults("stream_drop", symbol="AAPL", side="sell", count=0)
        target = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "take_profit")
        await desk.admin("cancel", {"id": target["alpaca_order_id"]})
        desk.server.exchange.confirm_cancels()
        await by_hand(desk, "AAPL", "sell", 20)
        await desk.waits(seconds=1)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=30)
        assert await desk.conn.fetchval("SELECT state FROM exit_intents") == "abandoned"
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], desk.held("AAPL")) == ("open", 0)
        await desk.heals()
        await desk.waits(seconds=70)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], position["close_reason"][:8]) == ("closed", "EXTERNAL")
        sales = [o for o in await desk.orders("AAPL") if o["order_purpose"] in ("exit", "flatten")]
        assert {o["origin"] for o in sales} == {"external"}
        await desk.agrees()


async def test_c28_the_tables_have_the_last_word(database: str) -> None:
    """Asked twice to stop: one flatten, nothing is asked of the broker after the proof, and the last thing that
    happens is a transaction. The stream's task is gone."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.stop.ask("SIGTERM", flatten=True)
        desk.stop.ask("SIGINT", flatten=False)
        assert await desk.leaves() == 0
        assert desk.held("AAPL") == 0
        assert await desk.conn.fetchval("SELECT count(*) FROM flat_proofs") == 1
        proof = desk.fate.steps.index("after flat_proof")
        assert desk.fate.steps[-1] == "after ending"
        assert not [step for step in desk.fate.steps[proof:] if "/" in step]
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "trade_updates"]


@pytest.mark.parametrize(
    "rule",
    [
        {"kind": "stream_mute", "count": 0},
        {"kind": "rate_limit", "route": "/v2/*", "count": 0},
        {"kind": "status_before", "route": "/v2/*", "status": 500, "count": 0},
    ],
    ids=lambda rule: str(rule["kind"]),
)
async def test_c29_flat_through_bad_weather(database: str, rule: dict[str, object]) -> None:
    """SIGTERM with a mute stream, or with every request turned away for half a minute: flat within the minute."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.admin("faults", rule)
        desk.stop.ask("SIGTERM", flatten=True)
        if rule["kind"] != "stream_mute":
            await desk.waits(seconds=30)
            assert desk.held("AAPL") == 20
            await desk.heals()
        assert await desk.leaves() == 0
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_c29_a_dark_minute_is_made_up_for(database: str) -> None:
    """Every request fails for longer than a flatten may take: it says so by its code, and the next start goes on."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status_before", route="/v2/*", status=500, count=0)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 2
        await desk.heals()
        assert desk.held("AAPL") == 20
        await desk.opens()
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=40)
        assert desk.held("AAPL") == 0
        await desk.agrees()
