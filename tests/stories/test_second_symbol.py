"""Several symbols at once, and one thing twice: the first hides, delays and shortens nothing of the second."""

from datetime import date, timedelta
from decimal import Decimal

from catalyst.simulator.rules.orders import OrderStatus
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import Scenario, open_scenario
from tests.stories.test_daily_limits_and_proposals import insert_proposal
from tests.stories.test_orphan_positions import working_exits


async def cancel_stop_by_hand(scenario: Scenario, symbol: str) -> None:
    """Cancel the newest working stop of a symbol as an operator."""
    stop = [
        order
        for order in await scenario.orders(symbol)
        if order["order_purpose"] == "stop_loss" and order["status"] in ("submitted", "accepted")
    ][-1]
    await scenario.admin("cancel", {"id": stop["alpaca_order_id"]})
    scenario.server.exchange.confirm_cancels()


async def test_stuck_exit_of_one_symbol_delays_no_other(database: str) -> None:
    """Given the exit of AAPL waits for the end of a halt, then a cancelled stop of MSFT is replaced, and MSFT and
    TSLA are exited at once; AAPL is sold after the halt."""
    async with open_scenario(database) as scenario:
        for symbol, qty in (("AAPL", 20), ("MSFT", 10), ("TSLA", 5)):
            await scenario.given_position(symbol, qty)
        await scenario.admin("halt", {"symbol": "AAPL"})
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=5)
        await cancel_stop_by_hand(scenario, "MSFT")
        await scenario.advance(seconds=15)
        assert await working_exits(scenario, "MSFT") == [("limit", "new", 10), ("stop", "held", 10)]
        position = await scenario.position("MSFT")
        assert position is not None
        assert position["protected_at"] is not None
        for symbol in ("MSFT", "TSLA"):
            assert (await scenario.send_command("close", symbol=symbol))["ok"]
        await scenario.advance(seconds=10)
        held = [scenario.held_qty(symbol) for symbol in ("AAPL", "MSFT", "TSLA")]
        assert held == [20, 0, 0]
        await scenario.admin("resume", {"symbol": "AAPL"})
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_each_gap_over_the_budget_raises_an_alert(database: str) -> None:
    """Given stops that were cancelled by hand while no order reached the broker, then each such gap of a position
    raises one alert, the second like the first, and the gaps of two symbols are two alerts; the seconds of a gap
    count from its own start."""
    async with open_scenario(database, protection={"unprotected_budget_seconds": 3}) as scenario:
        for symbol in ("AAPL", "MSFT"):
            await scenario.given_position(symbol, 10)
        for symbols in (("AAPL", "MSFT"), ("AAPL",)):
            await scenario.inject_fault(
                "status_before", method="POST", route="/v2/orders", status=503, count=0
            )
            for symbol in symbols:
                await cancel_stop_by_hand(scenario, symbol)
            await scenario.advance(seconds=8)
            await scenario.clear_faults()
            await scenario.advance(seconds=30)
        alerts = await scenario.conn.fetch(
            "SELECT facts ->> 'symbol' AS symbol, repeats FROM alerts WHERE event = 'UNPROTECTED_OVER_BUDGET'"
        )
        assert sorted((row["symbol"], row["repeats"]) for row in alerts) == [
            ("AAPL", 0),
            ("AAPL", 0),
            ("MSFT", 0),
        ]
        for symbol, most in (("AAPL", 60), ("MSFT", 30)):
            position = await scenario.position(symbol)
            assert position is not None
            assert position["protected_at"] is not None
            assert 3 < position["unprotected_seconds"] < most
        await scenario.assert_consistent()


async def given_carried_position_in_halt(scenario: Scenario, day: date) -> None:
    """Start on `day` with an AAPL position of the day before that a trading halt keeps from being sold."""
    await scenario.given_position("AAPL", 20)
    await scenario.crash()
    scenario.print_trade("AAPL", "190.10", after=60)
    await scenario.clock.advance_to(at("09:40", day))
    await scenario.admin("halt", {"symbol": "AAPL"})
    await scenario.start()
    for symbol in ("AAPL", "MSFT"):
        scenario.print_trade(symbol, "190.00")
    await scenario.advance(seconds=20)


async def test_entry_waits_until_every_carried_position_is_exited(database: str) -> None:
    """Given a position of the day before whose exit waits for the end of a halt, then an entry in another symbol is
    refused, and allowed once the position is sold; the proof of the day counts both positions."""
    tuesday = MONDAY + timedelta(days=1)
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await given_carried_position_in_halt(scenario, tuesday)
        assert scenario.held_qty("AAPL") == 20
        proposal = await insert_proposal(scenario, "MSFT")
        answer = await scenario.send_command("approve", proposal_id=proposal)
        assert "positions of an earlier day are still held: AAPL" in str(answer["error"])
        await scenario.admin("resume", {"symbol": "AAPL"})
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        assert (await scenario.send_command("approve", proposal_id=proposal))["ok"]
        await scenario.advance(seconds=10)
        assert scenario.held_qty("MSFT") == 10
        # The proof of today needs the fills of yesterday's entry.
        assert (await scenario.send_command("flatten"))["flat"]
        await scenario.assert_consistent()


async def test_orphan_that_needs_a_step_is_checked_every_second_beside_one_that_needs_none(
    database: str,
) -> None:
    """Given orphan shares of AAPL whose stop the broker rejects, and protected ones of MSFT, then the checks stay one
    second apart while AAPL needs another step."""
    async with open_scenario(database, risk={"max_daily_loss": 50_000}) as scenario:
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/positions/AAPL", status=503, count=0
        )
        for symbol in ("AAPL", "MSFT"):
            scenario.server.exchange.state.account.positions[symbol].qty *= 2
        await scenario.advance(seconds=60)
        rows = await scenario.conn.fetch(
            "SELECT protected_at IS NOT NULL AS protected FROM orphans ORDER BY orphan_id"
        )
        assert [row["protected"] for row in rows] == [False, True]
        assert await scenario.components.orphans.check()
        await scenario.clear_faults()
        await scenario.advance(seconds=30)
        assert not await scenario.components.orphans.check()
        assert await scenario.conn.fetchval("SELECT count(*) FROM orphans WHERE protected_at IS NULL") == 0


async def test_each_short_excess_of_a_stop_has_its_own_grace(database: str) -> None:
    """Given the broker shows a stop for too many shares twice, two seconds each time, then neither excess outlasts
    its grace: stop and target stay, and no order is sent. One that lasts is replaced."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        at_exchange = scenario.server.exchange.find_order(stop["alpaca_order_id"])
        for _ in range(2):
            for quantity, seconds in ((25, 2), (20, 20)):
                at_exchange.qty = Decimal(quantity)
                await scenario.components.reconciler.reconcile("reconcile")
                await scenario.advance(seconds=seconds)
        assert await scenario.count_submitted("AAPL") == 1
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 20), ("stop", "held", 20)]
        at_exchange.qty = Decimal(25)
        await scenario.components.reconciler.reconcile("reconcile")
        await scenario.advance(seconds=20)
        assert await scenario.count_submitted("AAPL") == 2
        assert await working_exits(scenario, "AAPL") == [("limit", "new", 20), ("stop", "held", 20)]


async def test_position_is_confirmed_again_when_its_stop_is_as_it_was_before(database: str) -> None:
    """Given the broker shows a working stop as unacknowledged for two seconds and then as it was, then the position is
    protected again in the database, and no order is sent."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        await scenario.given_position("AAPL", 20)
        stop = next(o for o in await scenario.orders("AAPL") if o["order_purpose"] == "stop_loss")
        at_exchange = scenario.server.exchange.find_order(stop["alpaca_order_id"])
        before = at_exchange.status
        for status, is_protected in ((OrderStatus.PENDING_NEW, False), (before, True)):
            at_exchange.status = status
            await scenario.components.reconciler.reconcile("reconcile")
            await scenario.advance(seconds=2)
            position = await scenario.position("AAPL")
            assert position is not None
            assert (position["protected_at"] is not None) is is_protected
            assert bool(scenario.components.protector.unprotected_time.unprotected) is not is_protected
        assert await scenario.count_submitted("AAPL") == 1
