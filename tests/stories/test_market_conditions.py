"""Gaps, halts and prices that are none."""

from decimal import Decimal

import pytest

from catalyst.domain.order import Purpose
from tests.simulator.manual_feed import HALF_DAY, at
from tests.stories.scenario import ENTRY, open_desk
from tests.stories.test_orphan_positions import live_exits


async def test_a_gap_through_the_stop(database: str) -> None:
    """Eight per cent below a stop of one: sold where the market is, and the loss is the real one."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "174.80")
        await desk.waits(seconds=5)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        assert position["exit_price"] < 175
        await desk.agrees()


async def test_c20_a_stop_that_does_not_act(database: str) -> None:
    """The price trades through the stop and nothing happens: after two looks and the grace we sell ourselves."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("no_trigger", symbol="AAPL", count=0)
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=45)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await desk.agrees()


async def test_a_print_from_before_the_entry_is_no_evidence(database: str) -> None:
    """The last trade lies below the stop, but it is older than our shares: they are kept."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=1)
        assert isinstance(desk.market.quotes, dict)
        desk.market.quotes["AAPL"] = ("190.00", "190.02")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 20
        assert await desk.submits("AAPL") == 1


async def test_a_target_that_died_is_watched_by_us(database: str) -> None:
    """The target leg is cancelled by the venue and the stop lives: the target's price is still taken."""
    async with open_desk(database) as desk:
        await desk.faults("leg_cancel", symbol="AAPL", role="take_profit")
        await desk.holds("AAPL", 20)
        await desk.waits(seconds=10)
        desk.prints("AAPL", "194.20")
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
        await desk.agrees()


async def test_c23_a_halt_while_we_leave(database: str) -> None:
    """The symbol is halted: the exit waits at the broker, one at a time, somebody is told, and the first trade after
    the halt sells. What waits is priced anew every minute, far enough away for any reopening."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.admin("halt", {"symbol": "AAPL"})
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 20
        assert "EXIT_SLOW" in await desk.alerts()
        live = [one for one in desk.server.exchange.book.live() if one.symbol == "AAPL"]
        assert len(live) == 1
        exits = [o for o in await desk.orders("AAPL") if o["order_purpose"] == "exit"]
        assert [o["order_type"] for o in exits] == ["market", "limit", "market", "limit"]
        await desk.admin("resume", {"symbol": "AAPL"})
        desk.prints("AAPL", "181.00")
        await desk.waits(seconds=1)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_f061_a_stop_that_dies_in_a_halt(database: str) -> None:
    """Halted for a band, and the stop is cancelled by the venue meanwhile: a new stop and target for exactly the shares
    stand at once, and when the symbol reopens below, they act."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.admin("halt", {"symbol": "AAPL", "reason": "price_bands"})
        stop = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "stop_loss")
        await desk.admin("cancel", {"id": stop["alpaca_order_id"]})
        await desk.waits(seconds=20)
        assert await live_exits(desk, "AAPL") == [("limit", "new", 20), ("stop", "held", 20)]
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert position["naked_seconds"] > 0
        await desk.admin("resume", {"symbol": "AAPL"})
        desk.prints("AAPL", "187.50")
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0
        await desk.agrees()


@pytest.mark.parametrize("factor", [2, Decimal("0.1")])
async def test_f065_a_split_is_corrected_by_no_order(database: str, factor: Decimal | int) -> None:
    """The broker shows twice the shares, or a tenth of them, and no fill tells why: told, kept as what nobody
    explains, the symbol blocked; no fill is invented and nothing is sold for it."""
    async with open_desk(database, reconcile={"orphans": "alert"}, risk={"max_daily_loss": 50_000}) as desk:
        await desk.holds("AAPL", 20)
        desk.server.exchange.account.positions["AAPL"].qty *= factor
        await desk.waits(seconds=90)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["status"], position["quantity"], desk.held("AAPL")) == ("open", 20, 20 * factor)
        assert await desk.submits("AAPL") == 1
        assert {"ORPHAN_POSITION", "QTY_MISMATCH"} & set(await desk.alerts())
        assert await desk.conn.fetchval("SELECT count(*) FROM order_events WHERE kind = 'adjustment'") == 1
        assert await desk.conn.fetchval("SELECT count(*) FROM executions") == 1
        assert desk.parts is not None
        assert desk.parts.gate.refusal("AAPL") is not None


async def test_c27_an_exit_after_the_close_leaves_the_protection(database: str) -> None:
    """Asked to leave when nothing can be sold: what rests at the broker is not cancelled for it."""
    async with open_desk(
        database,
        now=at("15:40"),
        positions={"close_all_at_market_close": False},
        risk={"max_daily_loss": "900"},
    ) as desk:
        await desk.holds("AAPL", 20)
        await desk.waits(minutes=21)
        assert desk.parts is not None
        cancelled = len((await desk.admin("ledger?method=DELETE"))["requests"])
        position = await desk.position("AAPL")
        assert position is not None
        await desk.parts.exits.ask(
            position["position_id"], reason="MANUAL: late", purpose=Purpose.EXIT, by="trader"
        )
        await desk.waits(seconds=20)
        assert len((await desk.admin("ledger?method=DELETE"))["requests"]) == cancelled


async def test_c22_a_half_day_ends_flat(database: str) -> None:
    """The market shuts at one: ten minutes before, everything is left."""
    async with open_desk(database, now=at("12:48", HALF_DAY)) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "190.20", after=120)
        await desk.waits(minutes=6)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")
        assert await desk.leaves(step=5) == 0
        assert await desk.conn.fetchval("SELECT status FROM trading_cycles") == "completed"
        await desk.agrees()


async def test_a_short_bracket_is_stopped_and_targeted(database: str) -> None:
    """Sold short twice: one leaves at its target below, one at its stop above, each with its sign and reason."""
    async with open_desk(database, trading={"allow_short": True}) as desk:
        for symbol in ("AAPL", "MSFT"):
            desk.prints(symbol, "190.00")
        await desk.waits(seconds=1)
        short = {"limit": "189.90", "stop": "192.00", "target": "186.00", "side": "short"}
        await desk.enters("AAPL", 20, **short)
        await desk.enters("MSFT", 10, **short)
        await desk.waits(seconds=5)
        assert (desk.held("AAPL"), desk.held("MSFT")) == (-20, -10)
        desk.prints("AAPL", "185.90")
        desk.prints("MSFT", "192.30")
        await desk.waits(seconds=10)
        gain, loss = await desk.position("AAPL"), await desk.position("MSFT")
        assert gain is not None
        assert loss is not None
        assert gain["close_reason"].startswith("TAKE_PROFIT_HIT")
        assert gain["realized_pnl"] > 0
        assert loss["close_reason"].startswith("STOP_LOSS_HIT")
        assert loss["realized_pnl"] < 0
        await desk.agrees()


async def test_a_short_is_bought_back_on_demand(database: str) -> None:
    """A short of which only a part was sold is protected by an OCO above and below, and bought back when asked."""
    async with open_desk(database, trading={"allow_short": True}) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, limit="189.90", stop="192.00", target="186.00", side="short")
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["quantity"], desk.held("AAPL")) == (8, -8)
        assert position["protected_at"] is not None
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0
        await desk.agrees()
