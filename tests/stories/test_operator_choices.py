"""What a person decides about single orders and positions: fewer shares, carried positions, a test order."""

from datetime import timedelta
from decimal import Decimal

import pytest
from structlog.testing import capture_logs

from catalyst.config.schema import Mode
from catalyst.daemon.trading_day import bracket_trial
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import open_scenario
from tests.stories.test_daily_limits_and_proposals import insert_proposal
from tests.stories.test_second_symbol import given_carried_position_in_halt


async def test_fewer_shares_than_proposed_are_approved_by_name(database: str) -> None:
    """Given a proposal of 10 shares, more or none are refused, and 4 are sent once; the journal names who approved how
    many, also after a crash."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        proposal = await insert_proposal(scenario, "AAPL")
        for wrong in (11, 0):
            answer = await scenario.send_command("approve", proposal_id=proposal, quantity=wrong)
            assert "approve 1 to 10 shares" in str(answer["error"])
        answer = await scenario.send_command("approve", proposal_id=proposal, quantity=4)
        assert (answer["ok"], answer["quantity"]) == (True, "4")
        await scenario.advance(seconds=10)
        await scenario.crash()
        await scenario.start()
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 4
        assert await scenario.count_submitted("AAPL") == 1
        note = await scenario.conn.fetchval("SELECT note FROM order_events WHERE note LIKE 'proposal %'")
        assert note == f"proposal {proposal} approved by trader: 4 of 10 shares"
        decided = await scenario.conn.fetchrow("SELECT decision, decided_by, note FROM proposals")
        assert tuple(decided or ()) == ("approved", "trader", "4 of 10 shares")
        await scenario.assert_consistent()


async def test_entries_are_allowed_beside_accepted_carried_positions(database: str) -> None:
    """Given a position of the day before that cannot be sold, when a person accepts it, then an entry in another symbol
    is allowed, over a restart too; a plain resume allows none."""
    tuesday = MONDAY + timedelta(days=1)
    async with open_scenario(database, now=at("15:30", MONDAY)) as scenario:
        await given_carried_position_in_halt(scenario, tuesday)
        proposal = await insert_proposal(scenario, "MSFT")
        assert (await scenario.send_command("resume"))["accepted_carried"] == []
        answer = await scenario.send_command("approve", proposal_id=proposal)
        assert "`catalyst resume --accept-carried`" in str(answer["error"])
        answer = await scenario.send_command("resume", accept_carried=True)
        assert answer["accepted_carried"] == ["AAPL"]
        await scenario.crash()
        await scenario.start()
        scenario.print_trade("MSFT", "190.00")
        await scenario.advance(seconds=5)
        assert (await scenario.send_command("approve", proposal_id=proposal))["ok"]
        await scenario.advance(seconds=10)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (20, 10)
        await scenario.assert_consistent()


async def test_test_order_shows_three_legs_and_is_cancelled(database: str) -> None:
    """A test order is a bracket of three legs with broker ids, confirmed in the log and cancelled; nothing fills, and
    prices that are no bracket, too many shares and a held symbol are refused."""
    async with open_scenario(database) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        order = {"symbol": "AAPL", "side": "long", "quantity": 1}
        with capture_logs() as lines:
            answer = await scenario.send_command("test_order", **order)
        assert answer["ok"], answer
        [confirmed] = [line for line in lines if line["event"] == "order_confirmed"]
        assert (confirmed["order_class"], confirmed["legs"]) == ("bracket", 2)
        legs = answer["legs"]
        assert [leg["purpose"] for leg in legs][:1] == ["entry"]
        assert {leg["purpose"] for leg in legs} == {"entry", "stop_loss", "take_profit"}
        assert all(leg["broker_id"] for leg in legs)
        assert (answer["order_class"], answer["cancelled"], answer["filled"]) == ("bracket", True, "0")
        assert Decimal(legs[0]["price"]) < Decimal("172")
        await scenario.advance(seconds=2)
        assert scenario.server.exchange.state.order_store.live() == []
        wrong = await scenario.send_command("test_order", **order, stop="195")
        assert "is not below" in str(wrong["error"])
        many = await scenario.send_command("test_order", **{**order, "quantity": 11})
        assert "sends 1 to 10 shares" in str(many["error"])
        await scenario.given_position("MSFT", 5)
        held = await scenario.send_command("test_order", **{**order, "symbol": "MSFT"})
        assert "the symbol has" in str(held["error"])
        await scenario.assert_consistent()


async def test_test_order_is_refused_with_real_money(database: str) -> None:
    """In live mode no test order is sent."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        trial = bracket_trial.BracketTrial(
            scenario.components.store,
            scenario.components.market,
            scenario.components.submission,
            scenario.components.entries,
            scenario.clock,
            Mode.LIVE,
        )
        order = bracket_trial.trial_of({"symbol": "AAPL", "side": "long", "quantity": 1})
        with pytest.raises(bracket_trial.TrialRefused, match="for sim and paper"):
            await trial.run(order, by="test")
        assert await scenario.count_submitted("AAPL") == 0
