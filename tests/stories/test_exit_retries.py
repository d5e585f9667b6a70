"""An exit whose step fails is begun again: soon, and then ever more rarely."""

import itertools
from datetime import datetime

from catalyst.domain.fault_points import Moment
from tests.stories.scenario import Scenario, open_scenario


class FailingSubmits:
    """The next orders of ours cannot be written, so many times; when each was tried."""

    def __init__(self, scenario: Scenario, times: int) -> None:
        self.desk, self.times, self.tried = scenario, times, list[datetime]()

    def __call__(self, step: str, moment: Moment) -> None:
        if step == "submit" and moment is Moment.BEFORE:
            self.tried.append(self.desk.clock.now())
            if len(self.tried) <= self.times:
                raise RuntimeError("the story makes it fail")


async def test_failed_exit_is_retried_after_one_and_two_seconds(database: str) -> None:
    """Twice it fails: begun again after a second and after two more, not with the next quarter minute."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.crash_trigger.on_step = FailingSubmits(scenario, 2)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=6)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_repeated_exit_failures_back_off_to_fifteen_seconds(database: str) -> None:
    """After one second, two, four, eight, and then every fifteen; the first that succeeds leaves it."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.crash_trigger.on_step = failing_submits = FailingSubmits(scenario, 6)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=55)
        tried = failing_submits.tried
        pauses = [round((b - a).total_seconds()) for a, b in itertools.pairwise(tried)]
        assert pauses == [1, 2, 4, 8, 15, 15]
        assert scenario.held_qty("AAPL") == 0


async def is_sold_within(scenario: Scenario, seconds: int) -> bool:
    assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
    for _ in range(seconds * 2):
        if scenario.held_qty("AAPL") == 0:
            break
        await scenario.advance(seconds=0.5)
    return scenario.held_qty("AAPL") == 0


async def test_lost_exit_request_is_resent_after_each_not_found(database: str) -> None:
    """Three requests are cut before the broker hears them, and nobody knows that: each "not found" sends the same order
    once more. The verdict that it never arrived would take ten seconds and three looks longer."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=3)
        assert await is_sold_within(scenario, 8)
        await scenario.advance(seconds=20)
        sent = [order for order in await scenario.orders("AAPL") if order["order_purpose"] == "exit"]
        assert [(order["status"], order["attempts"]) for order in sent] == [("filled", 4)]
        await scenario.assert_consistent()


async def test_unreadable_position_is_read_every_two_seconds_during_exit(database: str) -> None:
    """Five answers in a row are errors: it is sold within nine seconds, not within sixteen."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/positions/*", status=503, count=5
        )
        assert await is_sold_within(scenario, 9)
        await scenario.assert_consistent()


async def test_exit_is_not_resent_while_outage_exit_handles_symbol(database: str) -> None:
    """The exit was lost, and while its second sending is written down another hand begins to leave the symbol: nothing
    is sent beside it."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        assert scenario.components is not None
        execution = scenario.components.submission
        calls: list[bool] = []

        def takes_over(step: str, moment: Moment) -> None:
            if step == "resubmit" and moment is Moment.AFTER and not calls:
                calls.append(bool(execution._in_flight))  # so the other hand waits for what may be on its way
                execution.outage_symbols.add("AAPL")

        scenario.crash_trigger.on_step = takes_over
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=1)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        before = await scenario.count_submitted("AAPL")
        await scenario.advance(seconds=30)
        assert calls == [True]
        assert await scenario.count_submitted("AAPL") == before
        assert scenario.held_qty("AAPL") == 20


async def test_unacknowledged_exit_is_replaced_after_ten_seconds(database: str) -> None:
    """It hangs in pending_new, its shares bare: after ten seconds it is cancelled, and the next one sells them."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("never_ack", symbol="AAPL", count=1)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=9)
        assert scenario.held_qty("AAPL") == 20
        await scenario.advance(seconds=6)
        assert scenario.held_qty("AAPL") == 0
        sent = [order for order in await scenario.orders("AAPL") if order["order_purpose"] == "exit"]
        assert [(order["status"], order["cancel_reason"]) for order in sent] == [
            ("cancelled", "UNACKNOWLEDGED"), ("filled", None),
        ]  # fmt: skip
        await scenario.assert_consistent()
