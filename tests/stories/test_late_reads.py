"""Reads that come late: a gap during a pass, and an exit that no read shows yet."""

from catalyst.domain.fault_points import Moment
from tests.stories.scenario import open_scenario


async def test_pass_leaves_the_gate_closed_when_messages_were_lost_during_it(database: str) -> None:
    """Given the stream reconnects while a pass reads the broker, then this pass does not open the entry gate, because
    it may have read before the lost messages; the next pass does, and reads the account activities too."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        reconciler, gate = scenario.components.reconciler, scenario.components.gate

        def lose_messages(step: str, moment: Moment) -> None:
            if (step, moment) == ("GET /positions", Moment.BEFORE):
                scenario.crash_trigger.on_step = None
                reconciler.mark_gap(stream_ready=True)
                gate.close("stream", "trade updates may be missing")

        scenario.crash_trigger.on_step = lose_messages
        assert (await reconciler.reconcile("reconcile")).complete
        assert "stream" in gate.reasons
        reads = scenario.crash_trigger.steps.count("after GET /account/activities/FILL")
        assert (await reconciler.reconcile("reconcile", full=False)).complete
        assert "stream" not in gate.reasons
        assert scenario.crash_trigger.steps.count("after GET /account/activities/FILL") == reads + 1


async def test_position_is_not_written_off_while_its_exit_works(database: str) -> None:
    """Given an exit sold the shares and for 40 s no message, list or activity shows it, while the broker's positions
    are empty already, then the position is not written off; it closes with the exit's fill and its exact result."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("stream_drop", symbol="AAPL", event="fill", count=0)
        await scenario.inject_fault("empty", method="GET", route="/v2/account/activities/FILL", count=0)
        await scenario.inject_fault("empty", method="GET", route="/v2/orders", count=0)
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders/*", status=500, count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=40)
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "open"
        await scenario.clear_faults()
        await scenario.advance(seconds=30)
        position = await scenario.position("AAPL")
        assert position is not None
        assert (position["status"], position["close_reason"][:6]) == ("closed", "MANUAL")
        assert "RECONCILED_PHANTOM" not in await scenario.alert_events()
        await scenario.assert_consistent()
