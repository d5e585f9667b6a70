"""A COMMIT that was applied and whose answer was lost, at every transaction of an order's life.

The daemon cannot know whether it happened. What it does next must be right either way: no second order, no lost
one, every fill once.
"""

from decimal import Decimal

import pytest

from tests.dbfaults.proxied_scenario import enters, gate_opens, open_desk_behind, sent_once


@pytest.mark.parametrize(
    ("label", "nth"),
    [
        ("submit", 1),  # the entry's row
        ("hear", 1),  # the broker's answer, with the legs
        ("hear", 2),  # what the stream says: filled
        ("hear", 3),  # the legs are live
        ("protected", 1),
        ("heartbeat", 1),
        ("mark", 1),
        ("risk", 1),
    ],
)
async def test_the_answer_to_an_entrys_commit_is_lost(database: str, label: str, nth: int) -> None:
    """Bought once or not at all, protected, sold once at its target; books, journal and exchange agree."""
    async with open_desk_behind(database) as (desk, proxy, fate):
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        fate.loses(label, nth)
        await enters(desk, "AAPL", 20)
        await desk.waits(seconds=35)
        assert proxy.lost == 1
        entry = (await desk.orders("AAPL"))[0]
        assert entry["status"] in ("filled", "rejected")
        assert desk.held("AAPL") == entry["filled_qty"]
        if entry["filled_qty"]:
            position = await desk.position("AAPL")
            assert position is not None
            assert position["protected_at"] is not None
        await gate_opens(desk)
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0
        assert await desk.submits("AAPL") <= 1
        await sent_once(desk)
        await desk.agrees()


@pytest.mark.parametrize(
    ("label", "nth"),
    [
        ("exit_intent", 1),
        ("cancel", 1),
        ("submit", 1),  # the exit's row
        ("hear", 1),
        ("hear", 2),
        ("hear", 3),
        ("hear", 4),
        ("hear", 5),
    ],
)
async def test_the_answer_to_an_exits_commit_is_lost(database: str, label: str, nth: int) -> None:
    """Asked to close, the daemon sells exactly what is held, once, whatever it did not hear of its own writing."""
    async with open_desk_behind(database) as (desk, proxy, fate):
        await desk.holds("AAPL", 20)
        fate.loses(label, nth)
        await desk.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
            " VALUES ('close', '{\"symbol\": \"AAPL\"}', $1, 'trader')",
            desk.clock.now(),
        )
        await desk.waits(seconds=60)
        assert proxy.lost == 1
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        await gate_opens(desk)
        await sent_once(desk)
        await desk.agrees()


@pytest.mark.parametrize(("label", "nth"), [("cancel", 1), ("submit", 1), ("protected", 1), ("uncovered", 1)])
async def test_the_answer_to_a_protections_commit_is_lost(database: str, label: str, nth: int) -> None:
    """Eight of twenty fill: in the end one stop and one target for eight, never two of either."""
    async with open_desk_behind(database) as (desk, proxy, fate):
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        if label == "uncovered":  # written only of what was protected before
            await enters(desk, "AAPL", 20)
            await desk.waits(seconds=20)
            fate.loses(label, nth)
            live = list(desk.server.exchange.book.working("AAPL"))
            await desk.admin("cancel", {"id": live[0].id})
        else:
            row = await enters(desk, "AAPL", 20)
            assert row is not None
            fate.loses(label, nth)
        await desk.waits(seconds=50)
        assert proxy.lost == 1
        position = await desk.position("AAPL")
        assert position is not None
        assert position["quantity"] == 8
        assert position["protected_at"] is not None
        live_rows = [o for o in await desk.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live_rows} == {("oco", Decimal(8))}
        assert len(live_rows) == 2
        await gate_opens(desk)
        await sent_once(desk)
        await desk.agrees()


@pytest.mark.parametrize("label", ["latch", "halt", "cycle", "exit_intent", "submit", "hear", "flat_proof"])
async def test_the_answer_to_a_flattens_commit_is_lost(database: str, label: str) -> None:
    """SIGTERM: flat within its bound and code zero, though the answer to one of its commits never came."""
    async with open_desk_behind(database) as (desk, proxy, fate):
        await desk.holds("AAPL", 20)
        fate.loses(label)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        assert proxy.lost == 1
        assert desk.held("AAPL") == 0
        await sent_once(desk)
        latch = await desk.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL")
        assert latch == "flatten"
        await desk.agrees()
