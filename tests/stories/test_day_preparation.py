"""A day is prepared whole or not at all, and a broker that stumbles is asked again."""

from catalyst.daemon.trading_day.schedule import Job
from tests.simulator.manual_feed import at
from tests.stories.scenario import Desk, open_desk


def prepared(desk: Desk) -> bool:
    """Whether the scanner holds this session's universe and yardsticks."""
    assert desk.parts is not None
    assert desk.parts.exits.session is not None
    return desk.parts.scanner.prepared == desk.parts.exits.session.day


async def test_a_broker_that_stumbles_is_asked_again(database: str) -> None:
    """The list of assets fails three times: within a minute and a half the universe stands, and nobody is told."""
    async with open_desk(database, opened=False) as desk:
        await desk.faults("status_before", route="/v2/assets", status=502, count=3)
        await desk.opens()
        assert not prepared(desk)
        await desk.waits(seconds=90)
        assert prepared(desk)
        assert await desk.conn.fetchval("SELECT count(*) FROM securities") > 0
        assert await desk.alerts() == []


async def test_half_a_day_is_no_day(database: str) -> None:
    """The assets are read, their daily bars are not: no scan goes by half of it; the next makes it whole."""
    async with open_desk(database, opened=False) as desk:
        await desk.faults("status_before", route="/v2/stocks/bars", status=502, count=0)
        await desk.opens()
        await desk.waits(seconds=120)
        assert not prepared(desk)
        assert desk.parts is not None
        assert desk.parts.scanner.base.empty
        assert await desk.alerts() == ["JOB_FAILED"]
        await desk.heals()
        await desk.waits(minutes=14)
        assert prepared(desk)
        status = await desk.conn.fetchval("SELECT count(*) FROM scans")
        assert status == 1


async def test_what_queued_up_before_the_exits_is_left_out(database: str) -> None:
    """Scans that took too long are still waiting when the exits are due: none of them, nor a preparation, holds the
    exits up."""
    async with open_desk(database, now=at("15:49")) as desk:
        await desk.waits(minutes=2)
        assert desk.parts is not None
        assert desk.parts.day is not None
        for job in (Job.PRE_OPEN, Job.FIRST_SCAN, Job.LOOK, Job.SCAN):
            await desk.parts.day.run(job)
        assert not prepared(desk)
        requests = (await desk.admin("ledger?method=GET&path=/v2/assets"))["requests"]
        assert requests == []
        assert await desk.conn.fetchval("SELECT count(*) FROM scans") == 0
