"""Who may enter again, and when: clean books first; a latch is kept whatever comes after it."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import pytest

from catalyst.daemon.startup import sit_down
from catalyst.domain.errors import UserError
from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import client_order_id
from catalyst.domain.invariants import Invariant
from tests.stories.scenario import ENTRY, Desk, open_desk
from tests.stories.test_orphan_positions import buys


async def asks(desk: Desk, kind: str) -> int:
    """Leave a command and do not wait for its answer; its id."""
    number: int = await desk.conn.fetchval(
        "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
        " VALUES ($1, '{}', $2, 'trader') RETURNING command_id",
        kind,
        desk.clock.now(),
    )
    return number


async def latches(desk: Desk) -> set[str]:
    return {r["name"] for r in await desk.conn.fetch("SELECT name FROM latches WHERE cleared_at IS NULL")}


async def test_entries_wait_for_books_that_are_clean(database: str) -> None:
    """A start finds fewer shares at the broker than in the tables: no symbol is entered until that is judged, and from
    then on only this one is shut. A doubt that comes later shuts its own symbol alone."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        held = desk.server.exchange.account.positions["AAPL"]
        held.qty -= 8
        await desk.opens()
        assert desk.parts is not None
        gate = desk.parts.gate
        assert "ours 20 broker 12" in gate.reasons["differences"]
        desk.prints("MSFT", "191.00")
        await desk.waits(seconds=1)
        assert (await desk.enters("MSFT", 5, **ENTRY)).status == "rejected"
        assert await desk.submits("MSFT") == 0
        await desk.waits(seconds=20)
        assert (gate.open, "AAPL" in gate.disputed) == (True, True)
        assert "QTY_MISMATCH" in await desk.alerts()
        held.qty += 4
        for _ in range(40):
            await desk.waits(seconds=1)
            assert gate.open
        held.qty += 4
        await desk.waits(seconds=70)
        assert gate.refusal("AAPL") is None


async def test_a_strangers_shares_hold_nobody_up(database: str) -> None:
    """Shares of a symbol that we never traded are no difference of ours: the gate opens with the first look."""
    async with open_desk(database, opened=False) as desk:
        desk.prints("TSLA", "190.00")
        await desk.waits(seconds=1)
        await buys(desk, "TSLA", 3)
        await desk.waits(seconds=1)
        await desk.opens()
        await desk.waits(seconds=1)
        assert desk.parts is not None
        assert desk.parts.gate.open


async def test_an_entry_whose_row_was_lost_is_ended_by_a_flatten(database: str) -> None:
    """The broker works an entry of ours that the tables lost: it is no stranger's, so a flatten cancels it."""
    async with open_desk(database) as desk:
        desk.prints("MSFT", "195.00")
        await desk.waits(seconds=1)
        await buys(
            desk,
            "MSFT",
            10,
            client_order_id=client_order_id("lost", "e", 0),
            type="limit",
            limit_price="190.00",
        )
        await desk.waits(seconds=20)
        row = (await desk.orders("MSFT"))[0]
        assert (row["order_purpose"], row["origin"], row["status"]) == ("entry", "catalyst", "submitted")
        assert (await desk.tells("flatten"))["flat"]
        assert [o["status"] for o in await desk.orders("MSFT")] == ["cancelled"]
        assert not [one for one in desk.server.exchange.book.live() if one.symbol == "MSFT"]
        await desk.agrees()


async def test_an_exit_whose_row_was_lost_enters_nothing(database: str) -> None:
    """A sale of ours that the tables lost, of shares they never heard of, opens no short position: its id says that it
    was sent to leave."""
    async with open_desk(database) as desk:
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        await buys(desk, "MSFT", 10)
        await desk.waits(seconds=5)
        await buys(desk, "MSFT", 10, side="sell", client_order_id=client_order_id("lost", "x", 0))
        await desk.waits(seconds=20)
        assert desk.held("MSFT") == 0
        assert [o["order_purpose"] for o in await desk.orders("MSFT")] == ["entry", "exit"]
        assert await desk.position("MSFT") is None
        assert {"ORDER_ADOPTED", "EXIT_WITHOUT_POSITION"} <= set(await desk.alerts())


async def test_what_comes_after_a_flatten_is_left_too(database: str) -> None:
    """Flat, and the latch set: shares that an order of ours brings later are left again, without a restart."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert (await desk.tells("flatten"))["flat"]
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        await buys(desk, "MSFT", 10, client_order_id=client_order_id("lost", "e", 0))
        await desk.waits(seconds=45)
        assert desk.held("MSFT") == 0
        position = await desk.position("MSFT")
        assert position is not None
        assert position["status"] == "closed"
        await desk.agrees()


async def test_a_stop_that_keeps_the_shares_keeps_them_over_a_restart(database: str) -> None:
    """`close_all_positions_on_limit` off: the day is stopped, what is held stays under its stop, and the next start
    does not sell it either."""
    async with open_desk(
        database,
        risk={"max_daily_loss": "20", "warning_threshold_pct": 50},
        emergency={"close_all_positions_on_limit": False},
    ) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "188.30")
        await desk.waits(seconds=100)
        assert await latches(desk) == {"emergency_stop"}
        await desk.dies()
        await desk.opens()
        await desk.waits(seconds=40)
        assert desk.held("AAPL") == 20
        await desk.agrees()


async def test_a_flatten_is_not_lost_with_the_daemon_that_took_it(database: str) -> None:
    """Killed between taking the command and its first row: the next daemon carries it out and answers."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        asked = await asks(desk, "flatten")
        await desk.dies_at("take_command", Moment.AFTER)
        assert await latches(desk) == set()
        await desk.opens()
        await desk.waits(seconds=30)
        assert (desk.held("AAPL"), await latches(desk)) == (0, {"flatten"})
        assert await desk.conn.fetchval("SELECT ok FROM commands WHERE command_id = $1", asked)
        await desk.agrees()


async def test_what_breaks_while_a_person_looks_is_safe_mode_still(database: str) -> None:
    """Resumed for one invariant, while another fell meanwhile: nobody has looked at that one, and its latch is owed."""
    async with open_desk(database) as desk:
        assert desk.parts is not None
        gate, safety = desk.parts.gate, desk.parts.safety
        gate.violated(Invariant.I2, "looked at")
        await desk.waits(seconds=1)
        gate.violated(Invariant.I6, "came later")
        safety.resumed({Invariant.I2})
        assert gate.broken == {Invariant.I6: "came later"}
        await desk.waits(seconds=1)
        reason = await desk.conn.fetchval("SELECT reason FROM latches WHERE cleared_at IS NULL")
        assert reason == "I6: came later"
        assert not gate.open


async def test_a_start_asks_a_broker_that_stumbles_again(database: str) -> None:
    """Two answers of 503 to the first question are no reason to stay away from what is held; half a minute of them
    is."""
    async with open_desk(database, opened=False) as desk, AsyncExitStack() as stack:
        await desk.faults("status_before", method="GET", route="/v2/account", status=503, count=2)
        begun = asyncio.create_task(sit_down(stack, desk.settings, desk.clock))
        await desk.waits(seconds=12)
        assert (await begun).account_number
        await desk.faults("status_before", method="GET", route="/v2/account", status=503, count=0)
        begun = asyncio.create_task(sit_down(stack, desk.settings, desk.clock))
        await desk.waits(seconds=40)
        with pytest.raises(UserError, match="does not answer"):
            await begun


async def test_a_leg_that_was_replaced_has_its_successor_asked_for(database: str) -> None:
    """The parent's report alone tells that its stop gave way to another order, which it does not show: everything is
    asked for at once."""
    async with open_desk(database) as desk:
        entry = await desk.holds("AAPL", 20)
        await desk.faults("stream_drop", symbol="AAPL", count=0)
        await desk.admin("switches", {"stop_by_replacement": True})
        desk.prints("AAPL", "187.90")
        await desk.waits(seconds=0.2)
        assert desk.parts is not None
        assert entry.alpaca_order_id is not None
        report = await desk.parts.broker.order(entry.alpaca_order_id)
        assert any(leg.replaced_by for leg in report.legs)
        alone = replace(report, legs=tuple(leg for leg in report.legs if leg.replaces is None))
        before = desk.parts.books.doubtful.count
        await desk.parts.books.hear(alone, "poll")
        assert desk.parts.books.doubtful.count > before
        await desk.heals()
        await desk.waits(seconds=20)
        assert (await desk.position("AAPL") or {})["status"] == "closed"
        await desk.agrees()


async def test_a_day_begins_without_the_end_of_another(database: str) -> None:
    """The loop of an earlier day fell after its exits were due, and was begun again only with this day: what that day
    shut is open."""
    async with open_desk(database) as desk:
        assert desk.parts is not None
        assert desk.parts.day is not None
        for left in ("close", "closed"):
            desk.parts.gate.shut(left, "the day is ending")
        await desk.parts.day.begin()
        await desk.waits(seconds=10)
        assert desk.parts.gate.open
        await desk.parts.day.go_flat()
        await desk.parts.day.begin()
        assert "closed" in desk.parts.gate.reasons
