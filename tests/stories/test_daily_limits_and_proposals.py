"""Daily loss limit, hold time limit, proposals, and positions carried overnight."""

from datetime import timedelta
from decimal import Decimal

import pytest

from catalyst.daemon.trading_day.portfolio import read_portfolio
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import PositionSide, Purpose, Side, Status
from catalyst.domain.rows import NewOrder
from catalyst.store import orders, proposals
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import ENTRY, Scenario, open_scenario

TIGHT_LIMITS = {"max_daily_loss": 40, "warning_threshold_pct": 75}


async def insert_proposal(
    scenario: Scenario, symbol: str, *, qty: int = 10, minutes: float = 5, market: bool = False
) -> int:
    """Insert a proposal as a supervised scan does, of a market or a limit entry; return its id."""
    assert scenario.components is not None
    assert scenario.components.current_day.cycle_id is not None
    now = scenario.clock.now()
    new = NewOrder(
        client_order_id=scenario.own_order_id(f"proposal|{symbol}|{now.isoformat()}", "e"),
        symbol=symbol,
        purpose=Purpose.ENTRY,
        position_side=PositionSide.LONG,
        side=Side.BUY,
        quantity=Decimal(qty),
        order_type="market" if market else "limit",
        time_in_force="day",
        order_class="bracket",
        limit_price=None if market else Decimal("190.10"),
        bracket_stop=Decimal("188.00"),
        bracket_target=Decimal("194.00"),
        cycle_id=scenario.components.current_day.cycle_id,
        signal_id=f"proposal-{symbol}-{now.isoformat()}",
        epoch=scenario.components.epoch,
    )
    async with scenario.components.store.tx("proposal") as conn:
        order_id = await orders.insert(
            conn, new, status=Status.CREATED, at=now, source="submit", note="scenario test"
        )
        row = await orders.get(conn, order_id)
        return await proposals.put(
            conn,
            order_id=order_id,
            cycle_id=scenario.components.current_day.cycle_id,
            security_id=row.security_id,
            ticket={"symbol": symbol},
            at=now,
            expires_at=now + timedelta(minutes=minutes),
        )


async def test_loss_warning_is_raised_once_across_restarts(database: str) -> None:
    """A loss of 75 % of the limit raises one warning, none after a restart, and causes no exit."""
    async with open_scenario(database, risk=TIGHT_LIMITS) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "188.40")
        await scenario.advance(seconds=130)
        await scenario.crash()
        await scenario.start()
        await scenario.advance(seconds=130)
        warnings = [event for event in await scenario.alert_events() if event == "DAILY_LOSS_WARNING"]
        assert warnings == ["DAILY_LOSS_WARNING"]
        assert scenario.held_qty("AAPL") == 20
        await scenario.assert_consistent()


async def test_each_crossing_of_the_threshold_raises_a_warning(database: str) -> None:
    """A loss above the threshold, a recovery, and a second loss minutes later raise two warnings and two alerts; a loss
    that stays raises no other."""
    async with open_scenario(database, risk=TIGHT_LIMITS) as scenario:
        await scenario.given_position("AAPL", 20)
        for price in ("188.40", "189.90", "188.40"):
            scenario.print_trade("AAPL", price)
            await scenario.advance(seconds=130)
        events = await scenario.conn.fetchval(
            "SELECT count(*) FROM risk_events WHERE event_type = 'DAILY_LOSS_WARNING'"
        )
        alerts = await scenario.conn.fetch("SELECT repeats FROM alerts WHERE event = 'DAILY_LOSS_WARNING'")
        assert (events, [row["repeats"] for row in alerts]) == (2, [0, 0])
        assert scenario.held_qty("AAPL") == 20


async def test_loss_of_exactly_the_limit_stops_the_day(database: str) -> None:
    """20 shares bought at 190.01 and marked at 188.01 lose 40.00, the limit; the broker's equity shows 39.80. What our
    positions made counts, and the limit itself stops the day."""
    async with open_scenario(database, risk=TIGHT_LIMITS) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "188.02")
        await scenario.advance(seconds=130)
        reason = await scenario.conn.fetchval(
            "SELECT message FROM risk_events WHERE event_type = 'EMERGENCY_STOP'"
        )
        assert reason == "daily loss 40.00 reached the limit 40.00"
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_portfolio_counts_proposals_and_open_remainders(database: str) -> None:
    """The risk check sees a half filled entry as 8 held and 12 working shares. It sees a waiting proposal as a working
    entry whose buying power the broker has not deducted; a market entry counts at its target, the most it may cost."""
    async with open_scenario(database, execution={"partial_entry_grace_seconds": 60}) as scenario:
        for symbol in ("AAPL", "MSFT", "TSLA"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="entry")
        await scenario.submit_entry("AAPL", 20, **ENTRY)
        await insert_proposal(scenario, "MSFT")
        await insert_proposal(scenario, "TSLA", market=True)
        await scenario.advance(seconds=3)
        components = scenario.components
        assert components is not None
        assert components.current_day.cycle_id is not None
        portfolio, account = await read_portfolio(
            components.store, components.broker, components.gate, cycle_id=components.current_day.cycle_id,
            start_equity=None, sectors=dict.fromkeys(("AAPL", "MSFT", "TSLA"), "Tech"),
        )  # fmt: skip
        assert [(held.symbol, held.quantity) for held in portfolio.positions] == [("AAPL", 8)]
        working = {each.symbol: (each.quantity, each.in_buying_power) for each in portfolio.working}
        assert working == {"AAPL": (12, True), "MSFT": (10, False), "TSLA": (10, False)}
        assert portfolio.slots_used() == 3
        assert portfolio.sector_value("Tech") == 8 * Decimal("189.99") + 22 * Decimal("190.10") + 1940
        assert account.restriction is None


async def test_loss_limit_flattens_and_latches_the_day(database: str) -> None:
    """A breached loss limit ends flat and stays latched after a restart; a resume is refused during the
    cooldown and opens no entries after it."""
    emergency = {"cooldown_period_minutes": 10}
    async with open_scenario(database, risk=TIGHT_LIMITS, emergency=emergency) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("MSFT", 10, limit="170.00", stop="160.00", target="190.00")
        await scenario.advance(seconds=2)
        scenario.print_trade("AAPL", "187.90")
        await scenario.advance(seconds=90)
        assert scenario.held_qty("AAPL") == 0
        assert "EMERGENCY_STOP" in await scenario.alert_events()
        working = [o for o in await scenario.orders("MSFT") if o["status"] in ("submitted", "accepted")]
        assert working == []
        assert not (await scenario.send_command("resume"))["ok"]
        await scenario.crash()
        await scenario.start()
        assert scenario.components is not None
        assert "emergency_stop" in scenario.components.gate.reasons
        await scenario.advance(minutes=11)
        assert "cycle_closed" in (await scenario.send_command("resume"))["still_closed"]
        assert (await scenario.submit_entry("TSLA", 5, **ENTRY)).status == "rejected"
        assert await scenario.count_submitted("TSLA") == 0
        stops = await scenario.conn.fetchval(
            "SELECT count(*) FROM risk_events WHERE event_type = 'EMERGENCY_STOP'"
        )
        assert stops == 1
        await scenario.assert_consistent()


async def test_position_over_hold_time_limit_is_exited(database: str) -> None:
    """A position over the hold time limit is exited with this reason."""
    async with open_scenario(database, positions={"max_hold_time_minutes": 10}) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.print_trade("AAPL", "190.20", after=600)
        await scenario.advance(minutes=12)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (scenario.held_qty("AAPL"), position["close_reason"][:10]) == (0, "TIME_LIMIT")
        await scenario.assert_consistent()


async def test_halted_position_over_the_hold_time_limit_does_not_delay_another(database: str) -> None:
    """Two positions are held too long. The first is halted and cannot be sold; the second is exited at once."""
    async with open_scenario(database, positions={"max_hold_time_minutes": 10}) as scenario:
        for symbol in ("AAPL", "MSFT"):
            await scenario.given_position(symbol, 20)
        await scenario.admin("halt", {"symbol": "AAPL"})
        scenario.print_trade("MSFT", "190.20", after=590)
        await scenario.advance(minutes=12)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (20, 0)
        position = await scenario.position("MSFT")
        assert position is not None
        assert position["close_reason"][:10] == "TIME_LIMIT"


async def test_proposal_decisions_are_applied_once(database: str) -> None:
    """A proposal approved twice is sent once; a rejected one is never sent; a late approval is refused and
    the proposal expires."""
    async with open_scenario(database) as scenario:
        for symbol in ("AAPL", "MSFT", "TSLA"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=1)
        first, second = await insert_proposal(scenario, "AAPL"), await insert_proposal(scenario, "MSFT")
        third = await insert_proposal(scenario, "TSLA", minutes=1)
        await scenario.advance(seconds=30)
        assert (await scenario.send_command("approve", proposal_id=first))["ok"]
        assert not (await scenario.send_command("approve", proposal_id=first))["ok"]
        assert (await scenario.send_command("reject", proposal_id=second))["ok"]
        assert not (await scenario.send_command("approve", proposal_id=second))["ok"]
        await scenario.advance(seconds=60)
        assert not (await scenario.send_command("approve", proposal_id=third))["ok"]
        await scenario.advance(seconds=30)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT"), scenario.held_qty("TSLA")) == (10, 0, 0)
        assert [await scenario.count_submitted(symbol) for symbol in ("AAPL", "MSFT", "TSLA")] == [1, 0, 0]
        cancel_reasons = {(await scenario.orders(s))[0]["cancel_reason"] for s in ("MSFT", "TSLA")}
        assert cancel_reasons == {"OPERATOR", "EXPIRED_PROPOSAL"}
        await scenario.assert_consistent()


async def test_pending_proposal_can_be_approved_after_crash(database: str) -> None:
    """A proposal survives a crash and can be approved later, unless trading is halted or the symbol is held."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        proposal = await insert_proposal(scenario, "AAPL")
        await scenario.crash()
        await scenario.start()
        await scenario.send_command("halt")
        assert not (await scenario.send_command("approve", proposal_id=proposal))["ok"]
        await scenario.send_command("resume")
        assert (await scenario.send_command("approve", proposal_id=proposal))["ok"]
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 10
        second_proposal = await insert_proposal(scenario, "AAPL")
        assert not (await scenario.send_command("approve", proposal_id=second_proposal))["ok"]
        await scenario.advance(minutes=6)
        assert await scenario.count_submitted("AAPL") == 1
        await scenario.assert_consistent()


@pytest.mark.parametrize("moment", [Moment.BEFORE, Moment.AFTER])
async def test_crash_during_approval_keeps_proposal_or_marks_order_sent(
    database: str, moment: Moment
) -> None:
    """A crash before the approval is stored keeps the proposal pending, and it can be approved; after it, the order
    counts as possibly sent."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        proposal = await insert_proposal(scenario, "AAPL")
        await scenario.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
            " VALUES ('approve', jsonb_build_object('proposal_id', $1::bigint), $2, 'trader')",
            proposal,
            scenario.clock.now(),
        )
        await scenario.crash_at("approve", moment)
        await scenario.start()
        await scenario.advance(seconds=40)
        order = (await scenario.orders("AAPL"))[0]
        if moment is Moment.BEFORE:
            assert (order["status"], await scenario.count_submitted("AAPL")) == ("created", 0)
            assert (await scenario.send_command("approve", proposal_id=proposal))["ok"]
            await scenario.advance(seconds=5)
            assert scenario.held_qty("AAPL") == 10
        else:
            assert (order["status"], order["rejection_reason"]) == ("rejected", "NEVER_ARRIVED")
        await scenario.assert_consistent()


async def test_approval_in_last_minutes_is_refused(database: str) -> None:
    """An approval in the last minutes of the day is refused, because the position would be exited at once."""
    async with open_scenario(database, now=at("15:49", MONDAY)) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        proposal = await insert_proposal(scenario, "AAPL")
        await scenario.advance(minutes=2)
        assert not (await scenario.send_command("approve", proposal_id=proposal))["ok"]
        assert await scenario.count_submitted("AAPL") == 0


@pytest.mark.promise("C22")
async def test_overnight_position_is_protected_and_sold_at_open(database: str) -> None:
    """A position carried overnight by a crash gets a stop before the open, which works from the open on, and is sold
    then; no entry is allowed before."""
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.crash()
        scenario.print_trade("AAPL", "190.10", after=60)
        await scenario.clock.advance_to(at("09:00", MONDAY + timedelta(days=1)))
        assert scenario.held_qty("AAPL") == 20

        await scenario.start()
        await scenario.advance(minutes=2)
        assert scenario.components is not None
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["carried"]
        assert position["protected_at"] is None  # the stop waits for the open
        waiting = "SELECT count(*) FROM orders WHERE order_purpose = 'stop_loss' AND status = 'accepted'"
        assert await scenario.conn.fetchval(waiting) == 1
        assert (await scenario.send_command("approve", proposal_id=await insert_proposal(scenario, "MSFT")))[
            "ok"
        ] is False
        assert scenario.held_qty("AAPL") == 20

        scenario.print_trade("AAPL", "190.30", after=28 * 60)
        await scenario.advance(minutes=29)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")
        await scenario.assert_consistent()
