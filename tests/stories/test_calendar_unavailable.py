"""A broker that does not tell its calendar holds nothing up that does not need it."""

from catalyst.daemon.app import Exit
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Desk, open_desk


async def loses_the_calendar(desk: Desk) -> None:
    await desk.faults("status_before", route="/v2/calendar", status=503, count=0)


async def test_a_day_that_began_is_known_without_it(database: str) -> None:
    """The daemon dies with shares held and comes back without a calendar: the tables know today's hours, so it recovers
    at once, leaves when it should have, and proves the close."""
    async with open_desk(database, now=at("15:45")) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        await loses_the_calendar(desk)
        await desk.opens()
        assert desk.parts is not None
        assert "recovery" not in desk.parts.gate.reasons
        assert desk.parts.exits.market_open
        assert await desk.leaves() is Exit.FLAT
        position = await desk.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MARKET_CLOSE")


async def test_a_first_start_without_it_recovers_and_waits_for_its_day(database: str) -> None:
    """Nobody knows today's hours: what the broker shows is adopted all the same; the day begins once it tells."""
    async with open_desk(database, opened=False) as desk:
        await loses_the_calendar(desk)
        await desk.opens()
        assert desk.parts is not None
        assert "recovery" not in desk.parts.gate.reasons
        await desk.waits(seconds=30)
        assert desk.parts.day is None
        assert desk.parts.exits.session is None
        await desk.heals()
        await desk.waits(seconds=10)
        assert desk.parts.day is not None
        desk.prints("AAPL", "190.00")
        await desk.enters("AAPL", 10, **ENTRY)
        await desk.waits(seconds=5)
        assert desk.held("AAPL") == 10
        await desk.agrees()
