"""The tables are an older copy than the broker: what we sent since then comes back as what it was, by its own id."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import asyncpg

from catalyst.domain.ids import client_order_id
from tests.conftest import Server, name_of
from tests.dbfaults.proxied_scenario import sent_once
from tests.stories.scenario import ENTRY, Desk, open_desk

Doing = Callable[[Desk], Awaitable[object]]


async def nothing(desk: Desk) -> None:
    """The copy is of a day on which nothing was done yet."""


@asynccontextmanager
async def restored(postgres: Server, database: str, *, kept: Doing, lost: Doing) -> AsyncIterator[Desk]:
    """A desk, its daemon running, whose tables know of `kept` and not of `lost`."""
    async with open_desk(database) as desk:
        await kept(desk)
        await desk.dies()
        await desk.conn.close()
        old = postgres.create(name_of(database))
        try:
            desk.conn = await asyncpg.connect(database)
            await desk.opens()
            await lost(desk)
            await desk.dies()
            await desk.conn.close()
            desk.dsn = old
            desk.conn = await asyncpg.connect(old)
            await desk.opens()
            await desk.waits(seconds=20)
            yield desk
        finally:
            if desk.parts is not None:
                await desk.dies()
            await desk.conn.close()
            postgres.drop(old)
            desk.conn = await asyncpg.connect(database)


async def fills_in_part(desk: Desk) -> None:
    """Eight of twenty shares are bought, the rest is cancelled, stop and target are for eight."""
    desk.prints("AAPL", "190.00")
    await desk.waits(seconds=1)
    await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
    await desk.enters("AAPL", 20, **ENTRY)
    await desk.waits(seconds=15)
    assert desk.held("AAPL") == 8
    assert await desk.submits("AAPL") == 2


async def test_the_protection_that_was_lost_counts_again(postgres: Server, database: str) -> None:
    """Entry and OCO have no row: both are ours again, the shares are protected by the very orders that are there, and
    nothing is sent a second time."""
    async with restored(postgres, database, kept=nothing, lost=fills_in_part) as desk:
        top = next(o for o in await desk.orders("AAPL") if o["order_class"] == "oco")
        position = await desk.position("AAPL")
        assert position is not None
        assert (top["origin"], top["order_purpose"]) == ("catalyst", "take_profit")
        assert top["position_id"] == position["position_id"]
        assert position["protected_at"] is not None
        assert await desk.submits("AAPL") == 2
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
        assert "ORDER_ADOPTED" in await desk.alerts()
        assert "FOREIGN_ORDER" not in await desk.alerts()
        await sent_once(desk)
        await desk.agrees()


async def holds(desk: Desk) -> None:
    await desk.holds("AAPL", 20)


async def leaves_in_a_halt(desk: Desk) -> None:
    """An exit waits at the broker for the end of a halt."""
    await desk.admin("halt", {"symbol": "AAPL"})
    assert (await desk.tells("close", symbol="AAPL"))["ok"]
    await desk.waits(seconds=20)
    assert [one.client_order_id[-2:] for one in desk.server.exchange.book.live()] == ["-x"]


async def test_the_exit_that_was_lost_is_waited_for(postgres: Server, database: str) -> None:
    """The position is known, its exit at the broker is not: it is ours again, with the wish to leave; it is neither
    cancelled nor doubled, and what follows it is sent under an id of its own."""
    async with restored(postgres, database, kept=holds, lost=leaves_in_a_halt) as desk:
        (waiting,) = desk.server.exchange.book.live()
        row = next(o for o in await desk.orders("AAPL") if o["client_order_id"] == waiting.client_order_id)
        assert (row["origin"], row["order_purpose"]) == ("catalyst", "exit")
        assert row["status"] in ("submitted", "accepted")
        assert await desk.conn.fetchval("SELECT count(*) FROM exit_intents WHERE state = 'open'") == 1
        await desk.waits(seconds=70)  # it is priced anew
        exits = [o for o in await desk.orders("AAPL") if o["order_purpose"] == "exit"]
        assert len({o["client_order_id"] for o in exits}) == len(exits) >= 2
        await desk.admin("resume", {"symbol": "AAPL"})
        desk.prints("AAPL", "189.00")
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        assert "whose record was lost" in position["close_reason"]
        await desk.agrees()


async def test_an_exit_of_ours_that_fits_nothing_is_a_strangers(database: str) -> None:
    """By its id it is an exit of ours, and nothing is held that it could leave: that is said, and it is treated like
    anybody's order."""
    async with open_desk(database) as desk:
        desk.prints("MSFT", "190.00")
        lost = client_order_id("a position that nobody knows", "x", 0)
        bid = {
            "symbol": "MSFT",
            "side": "buy",
            "qty": "5",
            "type": "limit",
            "limit_price": "150",
            "time_in_force": "day",
        }
        await desk.admin("order", {**bid, "client_order_id": lost})
        await desk.waits(seconds=10)
        (row,) = await desk.orders("MSFT")
        assert (row["origin"], row["order_purpose"], row["position_id"]) == ("external", "exit", None)
        said = await desk.conn.fetchval("SELECT message FROM alerts WHERE event = 'ORDER_ADOPTED'")
        assert "its row was lost; it fits nothing that is held" in said
        assert await desk.conn.fetchval("SELECT count(*) FROM exit_intents") == 0
        await desk.agrees()
