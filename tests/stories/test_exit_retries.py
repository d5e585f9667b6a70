"""An exit whose step fails is begun again: soon, and then ever more rarely."""

import itertools
from datetime import datetime

from catalyst.domain.fault_points import Moment
from tests.stories.scenario import Desk, open_desk


class Stumbling:
    """The next orders of ours cannot be written, so many times; when each was tried."""

    def __init__(self, desk: Desk, times: int) -> None:
        self.desk, self.times, self.tried = desk, times, list[datetime]()

    def __call__(self, step: str, moment: Moment) -> None:
        if step == "submit" and moment is Moment.BEFORE:
            self.tried.append(self.desk.clock.now())
            if len(self.tried) <= self.times:
                raise RuntimeError("the story makes it fail")


async def test_an_exit_that_fails_is_begun_again_soon(database: str) -> None:
    """Twice it fails: begun again after a second and after two more, not with the next quarter minute."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.fate.also = Stumbling(desk, 2)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=6)
        assert desk.held("AAPL") == 0
        await desk.agrees()


async def test_an_exit_that_goes_on_failing_is_tried_ever_more_rarely(database: str) -> None:
    """After one second, two, four, eight, and then every fifteen; the first that succeeds leaves it."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        desk.fate.also = stumbling = Stumbling(desk, 6)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=55)
        tried = stumbling.tried
        pauses = [round((b - a).total_seconds()) for a, b in itertools.pairwise(tried)]
        assert pauses == [1, 2, 4, 8, 15, 15]
        assert desk.held("AAPL") == 0


async def sold_within(desk: Desk, seconds: int) -> bool:
    assert (await desk.tells("close", symbol="AAPL"))["ok"]
    for _ in range(seconds * 2):
        if desk.held("AAPL") == 0:
            break
        await desk.waits(seconds=0.5)
    return desk.held("AAPL") == 0


async def test_an_exit_that_is_lost_again_and_again_is_sent_again(database: str) -> None:
    """Three requests are cut before the broker hears them, and nobody knows that: each "not found" sends the same order
    once more. The verdict that it never arrived would take ten seconds and three looks longer."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("drop_before", method="POST", route="/v2/orders", count=3)
        assert await sold_within(desk, 8)
        await desk.waits(seconds=20)
        sent = [order for order in await desk.orders("AAPL") if order["order_purpose"] == "exit"]
        assert [(order["status"], order["attempts"]) for order in sent] == [("filled", 4)]
        await desk.agrees()


async def test_a_position_that_cannot_be_read_is_asked_for_every_two_seconds(database: str) -> None:
    """Five answers in a row are errors: it is sold within nine seconds, not within sixteen."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("status_before", method="GET", route="/v2/positions/*", status=503, count=5)
        assert await sold_within(desk, 9)
        await desk.agrees()


async def test_who_is_left_without_the_tables_is_not_sent_for_again(database: str) -> None:
    """The exit was lost, and while its second sending is written down another hand begins to leave the symbol: nothing
    is sent beside it."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        assert desk.parts is not None
        execution = desk.parts.execution
        calls: list[bool] = []

        def takes_over(step: str, moment: Moment) -> None:
            if step == "resubmit" and moment is Moment.AFTER and not calls:
                calls.append(bool(execution._calls))  # so the other hand waits for what may be on its way
                execution.elsewhere.add("AAPL")

        desk.fate.also = takes_over
        await desk.faults("drop_before", method="POST", route="/v2/orders", count=1)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        before = await desk.submits("AAPL")
        await desk.waits(seconds=30)
        assert calls == [True]
        assert await desk.submits("AAPL") == before
        assert desk.held("AAPL") == 20


async def test_an_exit_that_no_venue_acknowledges_makes_way_for_another(database: str) -> None:
    """It hangs in pending_new, its shares bare: after ten seconds it is cancelled, and the next one sells them."""
    async with open_desk(database) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults("never_ack", symbol="AAPL", count=1)
        assert (await desk.tells("close", symbol="AAPL"))["ok"]
        await desk.waits(seconds=9)
        assert desk.held("AAPL") == 20
        await desk.waits(seconds=6)
        assert desk.held("AAPL") == 0
        sent = [order for order in await desk.orders("AAPL") if order["order_purpose"] == "exit"]
        assert [(order["status"], order["cancel_reason"]) for order in sent] == [
            ("cancelled", "UNACKNOWLEDGED"), ("filled", None),
        ]  # fmt: skip
        await desk.agrees()
