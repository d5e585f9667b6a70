"""Requests whose outcome nobody knows: one order at the exchange, one row in the tables, whatever was answered."""

import asyncio

import pytest

from tests.stories.scenario import ENTRY, open_desk

LANDED = [
    {"kind": "drop"},
    {"kind": "status", "status": 504},
    {"kind": "status", "status": 500},
    {"kind": "html", "status": 502},
    {"kind": "garble"},
]
LOST = [
    {"kind": "drop_before"},
    {"kind": "status_before", "status": 503},
    {"kind": "html_before", "status": 502},
]


@pytest.mark.parametrize("rule", LANDED, ids=lambda rule: str(rule["kind"]) + str(rule.get("status", "")))
async def test_c03_an_entry_that_landed_unanswered(database: str, rule: dict[str, object]) -> None:
    """It is found by our own id, adopted with its legs and protected; nothing is sent twice."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.admin("faults", {**rule, "method": "POST", "route": "/v2/orders"})
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert await desk.submits("AAPL") == 1
        assert len(await desk.orders("AAPL")) == 3
        await desk.agrees()


@pytest.mark.parametrize("rule", LOST, ids=lambda rule: str(rule["kind"]))
async def test_c03_an_entry_that_never_arrived(database: str, rule: dict[str, object]) -> None:
    """After ten quiet seconds and three clear answers it ends as never arrived, and its symbol is free again."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.admin("faults", {**rule, "method": "POST", "route": "/v2/orders"})
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=8)
        assert [o["status"] for o in await desk.orders("AAPL")] == ["submitted"]
        assert desk.parts is not None
        assert "AAPL" in desk.parts.gate.locked
        await desk.waits(seconds=20)
        orders = await desk.orders("AAPL")
        assert [(o["status"], o["rejection_reason"]) for o in orders] == [("rejected", "NEVER_ARRIVED")]
        assert "AAPL" not in desk.parts.gate.locked
        await desk.agrees()


async def test_c06_an_entry_refused_at_the_door_goes_again_under_its_id(database: str) -> None:
    """Two times 429, which is never heard: the third send of the same id is the order."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("rate_limit", method="POST", route="/v2/orders", count=1)
        entering = asyncio.ensure_future(desk.enters("AAPL", 20, **ENTRY))
        await desk.waits(seconds=30)
        row = await entering
        assert row.attempts == 2
        ledger = await desk.admin("ledger?method=POST&path=/v2/orders&symbol=AAPL")
        assert len({entry["client_order_id"] for entry in ledger["requests"]}) == 1
        assert desk.held("AAPL") == 20
        await desk.agrees()


async def test_an_order_that_rises_after_it_was_given_up(database: str) -> None:
    """Invisible for half a minute and declared dead, it shows up working: paged, and cancelled as stale."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        await desk.faults("visibility", symbol="AAPL", seconds=40)
        await desk.faults("empty", method="GET", route="/v2/orders", count=0)
        await desk.faults("stream_drop", symbol="AAPL", count=0)
        await desk.faults("drop", method="POST", route="/v2/orders")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=25)
        assert [o["status"] for o in await desk.orders("AAPL")] == ["rejected"]
        await desk.heals()
        await desk.waits(seconds=90)
        orders = await desk.orders("AAPL")
        assert {o["status"] for o in orders} == {"cancelled"}
        assert "ORDER_ROSE_AGAIN" in await desk.alerts()
        await desk.agrees()


async def test_an_exit_that_landed_unanswered_sells_once(database: str) -> None:
    """The sale was taken and the answer lost: the shares are gone once, and the position closes by its fill."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("drop", method="POST", route="/v2/orders")
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=30)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        assert await desk.submits("AAPL") == 2
        await desk.agrees()


async def test_c01_an_exit_that_is_refused_goes_again_under_a_new_id(database: str) -> None:
    """Two refusals by the broker, for any reason, and the third sale goes through: an exit never gives up, and no id
    is used for a second order."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults(
            "status_before", method="POST", route="/v2/orders", status=403, code=40310000, count=2,
            message="insufficient qty available for order (requested: 20, available: 0)",
        )  # fmt: skip
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=30)
        assert desk.held("AAPL") == 0
        exits = [o for o in await desk.orders("AAPL") if o["order_purpose"] == "exit"]
        assert [o["status"] for o in exits] == ["rejected", "rejected", "filled"]
        assert len({o["client_order_id"] for o in exits}) == 3
        await desk.agrees()


@pytest.mark.parametrize("kind", ["drop", "drop_before", "cancel_reject", "status"])
async def test_a_cancel_nobody_answers(database: str, kind: str) -> None:
    """The cancel of what holds the shares is lost or refused: it is asked for again, and the exit goes on."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        if kind == "cancel_reject":
            await desk.faults(kind, symbol="AAPL")
        else:
            await desk.faults(kind, method="DELETE", route="/v2/orders/*")
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=30)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_an_answer_about_another_order_settles_nothing(database: str) -> None:
    """An acknowledgement without the fields money depends on is a doubt; the order is found by our id."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("remove_fields", method="POST", route="/v2/orders", fields=["symbol", "side"])
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await desk.agrees()


async def test_a_flatten_with_an_entry_nobody_knows_of(database: str) -> None:
    """SIGTERM while an entry's fate is unknown: the other position is left at once, and the entry is ended too."""
    async with open_desk(database) as desk:
        await desk.holds("MSFT", 10)
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        await desk.faults("drop", method="POST", route="/v2/orders", symbol="AAPL")
        await desk.faults("visibility", symbol="AAPL", seconds=8)
        await desk.faults("stream_drop", symbol="AAPL", count=2)
        await desk.enters("AAPL", 20, **ENTRY)
        desk.stop.ask("SIGTERM", flatten=True)
        await desk.waits(seconds=3)
        assert desk.held("MSFT") == 0
        assert await desk.leaves() == 0
        await desk.agrees()


async def test_a_sale_sent_again_and_refused_may_still_have_landed(database: str) -> None:
    """The first request of an exit is long on its way; the second, under the same id, is turned away at the door.
    That is no verdict: the first lands, is adopted, and the shares are sold once."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("drop", method="POST", route="/v2/orders", symbol="AAPL")
        await desk.faults("visibility", symbol="AAPL", side="sell", seconds=12)
        await desk.faults("stream_drop", symbol="AAPL", side="sell", count=0)
        await desk.faults("rate_limit", method="POST", route="/v2/orders", symbol="AAPL", nth=2, count=9)
        await desk.faults("empty", method="GET", route="/v2/orders", count=0)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=11)
        await desk.heals()
        await desk.waits(seconds=60)
        exits = [o for o in await desk.orders("AAPL") if o["order_purpose"] == "exit"]
        assert [o["status"] for o in exits] == ["filled"]
        assert desk.held("AAPL") == 0
        await desk.agrees()
