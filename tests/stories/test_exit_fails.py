"""An exit whose step fails is begun again: soon, and then ever more rarely."""

import itertools
from datetime import datetime

from catalyst.domain.witness import Moment
from tests.stories.desk import Desk, open_desk


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
