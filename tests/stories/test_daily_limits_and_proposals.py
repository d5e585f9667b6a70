"""The limits of the day, supervised trading, and positions that were not left yesterday."""

from datetime import timedelta
from decimal import Decimal

import pytest

from catalyst.domain.fault_points import Moment
from catalyst.domain.ids import client_order_id
from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.store import orders, proposals
from catalyst.store.orders import NewOrder
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Desk, open_desk

TIGHT = {"max_daily_loss": 40, "warning_threshold_pct": 75}


async def proposes(desk: Desk, symbol: str, *, qty: int = 10, minutes: float = 5) -> int:
    """Leave a proposal the way a supervised scan does; its id."""
    assert desk.parts is not None
    assert desk.parts.day is not None
    now = desk.clock.now()
    new = NewOrder(
        client_order_id=client_order_id(f"proposal|{symbol}|{now.isoformat()}", "e", 0),
        symbol=symbol,
        purpose=Purpose.ENTRY,
        position_side=PositionSide.LONG,
        side=Side.BUY,
        quantity=Decimal(qty),
        order_type="limit",
        time_in_force="day",
        order_class="bracket",
        limit_price=Decimal("190.10"),
        bracket_stop=Decimal("188.00"),
        bracket_target=Decimal("194.00"),
        cycle_id=desk.parts.day.cycle_id,
        signal_id=f"proposal-{symbol}-{now.isoformat()}",
        epoch=desk.parts.epoch,
    )
    async with desk.parts.store.tx("proposal") as conn:
        order_id = await orders.insert(
            conn, new, status=Status.CREATED, at=now, source="submit", note="a story"
        )
        row = await orders.get(conn, order_id)
        return await proposals.put(
            conn,
            order_id=order_id,
            cycle_id=desk.parts.day.cycle_id,
            security_id=row.security_id,
            ticket={"symbol": symbol},
            at=now,
            expires_at=now + timedelta(minutes=minutes),
        )


async def test_a_warning_is_given_once(database: str) -> None:
    """Three quarters of the limit are lost: one warning, and none again after a restart; no exit."""
    async with open_desk(database, risk=TIGHT) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "188.40")
        await desk.waits(seconds=130)
        await desk.dies()
        await desk.opens()
        await desk.waits(seconds=130)
        warnings = [event for event in await desk.alerts() if event == "DAILY_LOSS_WARNING"]
        assert warnings == ["DAILY_LOSS_WARNING"]
        assert desk.held("AAPL") == 20
        await desk.agrees()


async def test_the_limit_ends_the_day(database: str) -> None:
    """All of the limit is lost: flat, latched through a restart, no resume during the cooldown, no entry after it."""
    async with open_desk(database, risk=TIGHT) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("MSFT", "190.00")
        await desk.waits(seconds=1)
        await desk.enters("MSFT", 10, limit="170.00", stop="160.00", target="190.00")
        await desk.waits(seconds=2)
        desk.prints("AAPL", "187.90")
        await desk.waits(seconds=90)
        assert desk.held("AAPL") == 0
        assert "EMERGENCY_STOP" in await desk.alerts()
        working = [o for o in await desk.orders("MSFT") if o["status"] in ("submitted", "accepted")]
        assert working == []
        assert not (await desk.tells("resume"))["ok"]
        await desk.dies()
        await desk.opens()
        assert desk.parts is not None
        assert "emergency_stop" in desk.parts.gate.reasons
        await desk.waits(minutes=61)
        assert "closed" in (await desk.tells("resume"))["still_shut"]
        assert (await desk.enters("TSLA", 5, **ENTRY)).status == "rejected"
        assert await desk.submits("TSLA") == 0
        stops = await desk.conn.fetchval(
            "SELECT count(*) FROM risk_events WHERE event_type = 'EMERGENCY_STOP'"
        )
        assert stops == 1
        await desk.agrees()


async def test_a_position_held_too_long(database: str) -> None:
    """After the longest time a position is left, with that reason."""
    async with open_desk(database, positions={"max_hold_time_minutes": 10}) as desk:
        await desk.holds("AAPL", 20)
        desk.prints("AAPL", "190.20", after=600)
        await desk.waits(minutes=12)
        position = await desk.position("AAPL")
        assert position is not None
        assert (desk.held("AAPL"), position["close_reason"][:10]) == (0, "TIME_LIMIT")
        await desk.agrees()


async def test_an_approved_proposal_is_sent_once(database: str) -> None:
    """Approved twice, sent once; rejected, never sent; approved too late, refused and ended."""
    async with open_desk(database) as desk:
        for symbol in ("AAPL", "MSFT", "TSLA"):
            desk.prints(symbol, "190.00")
        await desk.waits(seconds=1)
        first, second = await proposes(desk, "AAPL"), await proposes(desk, "MSFT")
        third = await proposes(desk, "TSLA", minutes=1)
        await desk.waits(seconds=30)
        assert (await desk.tells("approve", proposal_id=first))["ok"]
        assert not (await desk.tells("approve", proposal_id=first))["ok"]
        assert (await desk.tells("reject", proposal_id=second))["ok"]
        assert not (await desk.tells("approve", proposal_id=second))["ok"]
        await desk.waits(seconds=60)
        assert not (await desk.tells("approve", proposal_id=third))["ok"]
        await desk.waits(seconds=30)
        assert (desk.held("AAPL"), desk.held("MSFT"), desk.held("TSLA")) == (10, 0, 0)
        assert [await desk.submits(symbol) for symbol in ("AAPL", "MSFT", "TSLA")] == [1, 0, 0]
        ends = {(await desk.orders(s))[0]["cancel_reason"] for s in ("MSFT", "TSLA")}
        assert ends == {"OPERATOR", "EXPIRED_PROPOSAL"}
        await desk.agrees()


async def test_a_proposal_outlives_its_daemon(database: str) -> None:
    """It waits through a death and can be approved afterwards; halted, or held already, it cannot."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        proposal = await proposes(desk, "AAPL")
        await desk.dies()
        await desk.opens()
        await desk.tells("halt")
        assert not (await desk.tells("approve", proposal_id=proposal))["ok"]
        await desk.tells("resume")
        assert (await desk.tells("approve", proposal_id=proposal))["ok"]
        await desk.waits(seconds=10)
        assert desk.held("AAPL") == 10
        again = await proposes(desk, "AAPL")
        assert not (await desk.tells("approve", proposal_id=again))["ok"]
        await desk.waits(minutes=6)
        assert await desk.submits("AAPL") == 1
        await desk.agrees()


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_death_while_approving(database: str, moment: Moment) -> None:
    """Before the approval is written the proposal still waits; after it the order is marked as perhaps sent."""
    async with open_desk(database) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        proposal = await proposes(desk, "AAPL")
        await desk.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
            " VALUES ('approve', jsonb_build_object('proposal_id', $1::bigint), $2, 'trader')",
            proposal,
            desk.clock.now(),
        )
        await desk.dies_at("approve", moment)
        await desk.opens()
        await desk.waits(seconds=40)
        order = (await desk.orders("AAPL"))[0]
        if moment is Moment.BEFORE:
            assert order["status"] in {"created", "filled"}
        else:
            assert (order["status"], order["rejection_reason"]) == ("rejected", "NEVER_ARRIVED")
        await desk.agrees()


async def test_an_approval_outside_the_hours(database: str) -> None:
    """In the last minutes of the day an approval is refused: nothing is bought that must be sold at once."""
    async with open_desk(database, now=at("15:49", MONDAY)) as desk:
        desk.prints("AAPL", "190.00")
        await desk.waits(seconds=1)
        proposal = await proposes(desk, "AAPL")
        await desk.waits(minutes=2)
        assert not (await desk.tells("approve", proposal_id=proposal))["ok"]
        assert await desk.submits("AAPL") == 0


async def test_c22_positions_of_yesterday_are_left_at_the_open(database: str) -> None:
    """Held over a night by a daemon that died: protected before the open, sold at it, and no entry until then."""
    async with open_desk(database, now=at("15:30", MONDAY)) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        desk.prints("AAPL", "190.10", after=60)
        await desk.clock.advance_to(at("09:00", MONDAY + timedelta(days=1)))
        assert desk.held("AAPL") == 20

        await desk.opens()
        await desk.waits(minutes=2)
        assert desk.parts is not None
        position = await desk.position("AAPL")
        assert position is not None
        assert position["carried"]
        assert position["protected_at"] is not None
        assert (await desk.tells("approve", proposal_id=await proposes(desk, "MSFT")))["ok"] is False
        assert desk.held("AAPL") == 20

        desk.prints("AAPL", "190.30", after=28 * 60)
        await desk.waits(minutes=29)
        assert desk.held("AAPL") == 0
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")
        await desk.agrees()
