"""People at the same account: sales, purchases and cancels by hand, two daemons, signals, and orders to the daemon."""

import asyncio

import pytest

from catalyst.domain.errors import AnotherDaemon
from catalyst.domain.fault_points import Moment
from catalyst.simulator.trading_api.order_parsing import read_replace
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Desk, open_desk


async def by_hand(desk: Desk, symbol: str, side: str, qty: int, **terms: str) -> str:
    order = {"symbol": symbol, "side": side, "qty": str(qty), "type": "market", "time_in_force": "day"}
    return str((await desk.admin("order", {**order, **terms}))["id"])


async def test_c17_shares_sold_by_hand(database: str) -> None:
    """A person sells all of it: the position closes as external, and nothing of ours sells more."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        target = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "take_profit")
        await desk.admin("cancel", {"id": target["alpaca_order_id"]})
        desk.server.exchange.confirm_cancels()
        await by_hand(desk, "AAPL", "sell", 20)
        await desk.waits(seconds=40)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], desk.held("AAPL")) == ("closed", 0)
        assert position["close_reason"].startswith("EXTERNAL")
        await desk.agrees()


async def test_a_persons_resting_order_does_not_hold_up_an_exit(database: str) -> None:
    """Half of our shares are offered by hand far above the market; when we leave, that offer is cleared away."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        target = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "take_profit")
        await desk.admin("cancel", {"id": target["alpaca_order_id"]})
        desk.server.exchange.confirm_cancels()
        await by_hand(desk, "AAPL", "sell", 10, type="limit", limit_price="250.00")
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=40)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_c17_foreign_orders_and_shares_are_left_alone(database: str) -> None:
    """A person holds one stock and bids for another: both are told of, and a flatten touches neither."""
    async with open_desk(database) as desk:
        desk.prints("MSFT", "190.00")
        desk.prints("TSLA", "190.00")
        await desk.waits(seconds=1)
        await by_hand(desk, "MSFT", "buy", 7)
        resting = await by_hand(desk, "TSLA", "buy", 3, type="limit", limit_price="100.00")
        await desk.holds("AAPL", 20)
        await desk.waits(seconds=90)
        assert "FOREIGN_ORDER" in await desk.alerts()
        assert (await desk.tells("flatten"))["flat"] is True
        assert desk.held("AAPL") == 0
        assert desk.held("MSFT") == 7
        assert desk.server.exchange.find(resting).status == "new"


async def test_an_entry_replaced_by_hand_is_ours_still(database: str) -> None:
    """A person changes the price of our bid: the new order is the entry, its fill the position, its legs the stop."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "191.00")
        await desk.waits(seconds=1)
        row = await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=2)
        entry = (await desk.orders("AAPL"))[0]
        desk.server.exchange.replace(entry["alpaca_order_id"], read_replace({"limit_price": "191.50"}))
        await desk.waits(seconds=30)
        assert desk.held("AAPL") == 20
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (20, "open")
        assert position["protected_at"] is not None
        first = next(o for o in await desk.orders("AAPL") if o["order_id"] == row.order_id)
        assert first["status"] == "replaced"
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=20)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_c45_a_second_daemon_is_refused(database: str) -> None:
    """While one trades the account, another does not start, and the first goes on."""
    async with open_desk(database) as desk:
        second = Desk(desk.clock, desk.market, desk.server, desk.dsn, desk.settings, desk.conn)
        with pytest.raises(AnotherDaemon):
            await second.opens()
        await second._stack.aclose()
        await desk.holds("AAPL", 20)
        await desk.agrees()


async def test_a_lost_lock_is_taken_again(database: str) -> None:
    """The connection that holds the lock is cut: no entry while it is gone, then all goes on in the same process."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        await desk.conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE application_name = 'catalyst lock' AND datname = current_database()"
        )
        await desk.waits(seconds=15)
        assert desk.parts.gate.open
        held = await desk.conn.fetchval(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted"
            " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        assert held == 1
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_every_connection_is_cut(database: str) -> None:
    """The server drops all our sessions at once: the daemon lives on, nothing is lost, entries resume."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        for _ in range(3):
            await desk.conn.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
            await desk.waits(seconds=20)
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=70)
        assert desk.held("AAPL") == 0
        assert desk.parts.gate.open
        await desk.agrees()


@pytest.mark.parametrize(
    ("step", "moment"),
    [("submit", Moment.AFTER), ("POST /orders", Moment.BEFORE), ("POST /orders", Moment.AFTER)],
)
async def test_sigterm_in_the_middle_of_an_entry(database: str, step: str, moment: Moment) -> None:
    """Asked to stop while an entry is on its way: it does not leave any more, or it is undone; flat in the end."""
    async with open_desk(database) as desk:
        await desk.holds("MSFT", 10)
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        asked = desk.stop

        def ask(step_now: str, moment_now: Moment) -> None:
            if (step_now, moment_now) == (step, moment):
                asked.ask("SIGTERM", flatten=True)

        desk.fate.also = ask
        entering = asyncio.ensure_future(desk.enters("AAPL", 20, **ENTRY))
        assert await desk.leaves() == 0
        await asyncio.gather(entering, return_exceptions=True)
        assert desk.held("AAPL") == desk.held("MSFT") == 0
        await desk.agrees()


async def test_sigterm_before_recovery_is_done(database: str) -> None:
    """The broker cannot be read at the start and somebody asks to stop: it ends within its bound, not flat. The wish
    is kept: the next start enters nothing, and leaves what is held."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        await desk.faults("status_before", method="GET", route="/v2/orders", status=503, count=0)
        opening = asyncio.ensure_future(desk.opens())
        await desk.waits(seconds=10)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves(step=5) == 2
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        await desk.heals()
        await desk.opens()
        await desk.waits(seconds=30)
        assert await desk.conn.fetchval("SELECT name FROM latches WHERE cleared_at IS NULL") == "flatten"
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_c27_sigterm_after_the_close_says_what_it_cannot_do(database: str) -> None:
    """Shares are held when the market is shut: the code says not flat, somebody is paged, the wish is kept."""
    async with open_desk(
        database, now=at("15:40", MONDAY), positions={"close_all_at_market_close": False}
    ) as desk:
        await desk.holds("AAPL", 20)
        await desk.waits(minutes=21)
        if desk.parts is not None and desk._life is not None and not desk._life.done():
            desk.stop.ask("SIGTERM", flatten=True)
            assert await desk.leaves(step=5) == 2
            assert "NOT_FLAT" in await desk.alerts()
        assert desk.held("AAPL") == 20


async def test_halt_and_resume(database: str) -> None:
    """Halted, no entry leaves and protection runs on; resumed, entries leave again."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert (await desk.tells("halt", reason="lunch"))["ok"]
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        assert (await desk.enters("MSFT", 5, **ENTRY)).status == "rejected"
        await desk.dies()
        await desk.opens()
        assert (await desk.enters("MSFT", 5, **ENTRY)).status == "rejected"
        assert (await desk.tells("resume"))["still_shut"] == []
        assert (await desk.enters("MSFT", 5, **ENTRY)).status != "rejected"
        await desk.waits(seconds=5)
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_no_entry_after_a_flatten_until_the_next_session(database: str) -> None:
    """The operator flattens and resumes: the day's cycle stays closed all the same."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert (await desk.tells("flatten"))["flat"] is True
        assert "closed" in (await desk.tells("resume"))["still_shut"]
        assert (await desk.enters("MSFT", 5, **ENTRY)).status == "rejected"
        assert await desk.submits("MSFT") == 0
        await desk.agrees()


async def test_commands_that_make_no_sense(database: str) -> None:
    """Unknown verbs, symbols nobody holds and missing arguments are answered, and the next command is taken."""
    async with open_desk(database) as desk:
        assert not (await desk.tells("dance"))["ok"]
        assert not (await desk.tells("close", symbol="TSLA"))["ok"]
        assert not (await desk.tells("close"))["ok"]
        assert not (await desk.tells("approve", proposal_id=99))["ok"]
        assert not (await desk.tells("approve", proposal_id="x"))["ok"]
        assert (await desk.tells("halt"))["ok"]
        await desk.agrees()
