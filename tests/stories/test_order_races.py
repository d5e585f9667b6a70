"""Fills, cancels, legs and exits race each other; no share is lost, none is sold that is not held."""

from decimal import Decimal

import pytest

from catalyst.domain.report import Fill
from tests.stories.scenario import ENTRY, open_desk


async def test_the_rest_of_an_entry_fills_before_its_cancel(database: str) -> None:
    """Eight filled, the rest cancelled after the grace, and the fill wins: twenty held under their own legs."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.faults("cancel_loses", symbol="AAPL")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=20)
        assert desk.held("AAPL") == 20
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        await desk.agrees()


@pytest.mark.parametrize("partial_entry", ["canceled", "held"])
async def test_c13_the_legs_of_a_partial_entry(database: str, partial_entry: str) -> None:
    """Whether the broker drops the legs of a cancelled entry or leaves them asleep: one OCO for what filled."""
    async with open_desk(database) as desk:
        await desk.admin("switches", {"partial_entry": partial_entry})
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("partial", symbol="AAPL", qty="8", role="entry")
        await desk.enters("AAPL", 20, **ENTRY)
        await desk.waits(seconds=25)
        live = [o for o in await desk.orders("AAPL") if o["status"] in ("submitted", "accepted")]
        assert {(o["order_class"], o["quantity"]) for o in live} == {("oco", Decimal(8))}
        await desk.agrees()


@pytest.mark.parametrize("kind", ["leg_reject", "leg_cancel"])
async def test_c19_a_stop_that_never_goes_live(database: str, kind: str) -> None:
    """The venue turns the stop leg away as the entry fills: a new stop and target stand within seconds, and the
    time without one is on record."""
    async with open_desk(database) as desk:
        await desk.faults(kind, symbol="AAPL", role="stop_loss")
        await desk.holds("AAPL", 20)
        await desk.waits(seconds=10)
        position = await desk.position("AAPL")
        assert position is not None
        assert position["protected_at"] is not None
        assert position["naked_seconds"] > 0
        await desk.agrees()


async def test_a_stop_cancelled_by_a_person(database: str) -> None:
    """Protected for a minute, then the stop is gone: it is put back, the record says since when, and how long."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.waits(seconds=60)
        before = await desk.position("AAPL")
        assert before is not None
        stop = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "stop_loss")
        await desk.admin("cancel", {"id": stop["alpaca_order_id"]})
        await desk.waits(seconds=15)
        after = await desk.position("AAPL")
        assert after is not None
        assert after["protected_at"] > before["protected_at"]
        assert before["naked_seconds"] < after["naked_seconds"] < before["naked_seconds"] + 10
        assert desk.held("AAPL") == 20
        await desk.agrees()


async def test_c08_legs_missing_from_the_answer(database: str) -> None:
    """The acknowledgement shows no legs: they are read, found, and no second pair is placed."""
    async with open_desk(database) as desk:
        await desk.faults("leg_omit", method="POST", route="/v2/orders")
        await desk.holds("AAPL", 20)
        await desk.waits(seconds=10)
        assert len(await desk.orders("AAPL")) == 3
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


async def test_a_target_that_fills_in_part_shrinks_the_stop(database: str) -> None:
    """Eight of twenty leave at the target: the tables' stop is for twelve, as the broker's, and nothing is redone."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("partial", symbol="AAPL", qty="8", role="take_profit")
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=20)
        position = await desk.position("AAPL")
        assert position is not None
        assert (position["quantity"], position["status"]) == (12, "open")
        stop = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "stop_loss")
        assert (stop["quantity"], stop["status"]) == (12, "accepted")
        assert await desk.submits("AAPL") == 1
        desk.prints("AAPL", "187.90")
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 0
        await desk.agrees()


@pytest.mark.parametrize("price", ["194.05", "187.90"])
async def test_c21_a_leg_fills_while_we_leave(database: str, price: str) -> None:
    """The target, or the stop, fills before our cancel gets through: what is gone is not sold again."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("cancel_delay", symbol="AAPL", seconds=3, count=0)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        desk.prints("AAPL", price)
        await desk.waits(seconds=30)
        assert desk.held("AAPL") == 0
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


async def test_c25_everybody_wants_to_leave_at_once(database: str) -> None:
    """Operator, flatten and SIGTERM in the same second: one sale."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by) VALUES"
            " ('close', '{\"symbol\": \"AAPL\"}', $1, 'a'), ('flatten', '{}', $1, 'b')",
            desk.clock.now(),
        )
        desk.stop.ask("SIGTERM", flatten=True)
        desk.stop.ask("SIGTERM", flatten=True)
        assert await desk.leaves() == 0
        assert desk.held("AAPL") == 0
        assert await desk.submits("AAPL") == 2
        await desk.agrees()


async def test_c21_a_cancel_that_hangs_for_minutes(database: str) -> None:
    """The legs stay in pending_cancel for two minutes: no second sale, somebody is told, and then it is sold."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("cancel_delay", symbol="AAPL", seconds=120, count=0)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=60)
        assert desk.held("AAPL") == 20
        assert "EXIT_SLOW" in await desk.alerts()
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 0
        assert await desk.submits("AAPL") == 2
        await desk.agrees()


async def test_both_exits_fill(database: str) -> None:
    """The broker's OCO fails and we are short: somebody is paged, the surplus is bought back within seconds on an
    account of its own, the position keeps its first ending, and the books are the exchange's to the cent."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("double_exit", symbol="AAPL")
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 0
        assert "OVERSOLD" in await desk.alerts()
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("TAKE_PROFIT_HIT")
        assert position["exited_qty"] == 20
        orphan = await desk.conn.fetchrow("SELECT * FROM orphans")
        assert (orphan["cause"], orphan["position_id"]) == ("oversold", position["position_id"])
        assert (orphan["quantity"], orphan["ending"]) == (0, "left")
        await desk.waits(seconds=10)
        assert desk.parts is not None
        assert "AAPL" not in desk.parts.gate.disputed
        await desk.agrees(crossed=True)


async def test_f057_the_old_exit_fills_after_a_new_entry(database: str) -> None:
    """Left by the target and entered again, and then the ledger tells of a fill of the first position's stop: it is
    booked where it belongs, somebody is told, and the second position is as it was."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "194.05")
        await desk.waits(seconds=10)
        old = next(o for o in await desk.orders("AAPL") if o["order_purpose"] == "stop_loss")
        first = await desk.position("AAPL")
        assert (old["status"], (first or {})["status"]) == ("cancelled", "closed")
        await desk.holds("AAPL", 12)
        assert desk.parts is not None
        late = Fill(
            old["alpaca_order_id"],
            Decimal(20),
            Decimal(20),
            Decimal("187.90"),
            desk.clock.now(),
            activity_id="late",
        )
        assert await desk.parts.books.book(late, "reconcile")
        await desk.waits(seconds=30)
        assert {"LATE_FILL", "OVERSOLD"} <= set(await desk.alerts())
        rows = await desk.conn.fetch("SELECT * FROM positions ORDER BY position_id")
        assert [(r["entered_qty"], r["exited_qty"], r["quantity"], r["status"]) for r in rows] == [
            (20, 20, 0, "closed"),
            (12, 0, 12, "open"),
        ]
        assert rows[0]["close_reason"].startswith("TAKE_PROFIT_HIT")
        booked = await desk.conn.fetchval(
            "SELECT sum(quantity) FROM executions WHERE order_id = $1", old["order_id"]
        )
        assert (booked, desk.held("AAPL")) == (20, 12)  # nothing was bought back: the broker is not short


async def test_a_leg_dies_with_the_price_beyond_it(database: str) -> None:
    """The stop is gone and the price below it, so no stop can be placed: the shares are sold at once, as a stop."""
    async with open_desk(database) as desk:
        await desk.faults("leg_cancel", symbol="AAPL", role="stop_loss")
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        await desk.faults("slow_before", method="DELETE", route="/v2/orders/*", seconds=0.5)
        await desk.enters("AAPL", 20, **ENTRY)
        desk.prints("AAPL", "187.00", after=0.4)
        await desk.waits(seconds=12)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("STOP_LOSS_HIT")
        await desk.agrees()
