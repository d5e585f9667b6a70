"""The close of the day: what cannot be asked at that moment is asked again, until the cycle is completed and proven."""

from collections.abc import Sequence
from datetime import timedelta

import pytest

from catalyst.daemon.app import Exit
from tests.simulator.manual_feed import at
from tests.stories.scenario import Desk, Facts, open_desk


async def last_cycle(desk: Desk) -> Facts:
    row = await desk.conn.fetchrow("SELECT * FROM trading_cycles ORDER BY cycle_date LIMIT 1")
    return dict(row)


async def proofs_of(desk: Desk, cause: str) -> Sequence[bool]:
    """Whether each proof of that cause proved it, oldest first."""
    found = await desk.conn.fetch(
        "SELECT (facts ->> 'proven')::boolean AS proven FROM flat_proofs WHERE cause = $1 ORDER BY proof_id",
        cause,
    )
    return [row["proven"] for row in found]


async def trades_until_the_close(desk: Desk) -> None:
    """A position is left before the close, and nothing is held."""
    await desk.holds("AAPL", 20)
    desk.prints("AAPL", "190.20", after=60)
    await desk.waits(minutes=5)
    assert desk.held("AAPL") == 0


async def has_ended(desk: Desk) -> bool:
    """Whether the daemon has ended, given a few seconds: its tasks end in turns of the loop, which the clock does not
    wait for."""
    assert desk._life is not None
    for _ in range(5):
        await desk.waits(seconds=1)
    return desk._life.done()


@pytest.mark.parametrize("route", ["/v2/account", "/v2/account/activities/FILL"])
async def test_a_broker_that_does_not_answer_at_the_close(database: str, route: str) -> None:
    """Five minutes of errors on any of its reads: asked again, somebody is paged once, and then the cycle is completed
    with its proof; the daemon of one day does not end before."""
    async with open_desk(database, now=at("15:49")) as desk:
        await trades_until_the_close(desk)
        await desk.waits(minutes=6, seconds=30)
        await desk.faults("status_before", method="GET", route=route, status=503, count=0)
        await desk.waits(minutes=5)
        assert (await last_cycle(desk))["status"] == "closed"
        assert await proofs_of(desk, "the close of the day") == []
        assert desk._life is not None
        assert not desk._life.done()
        assert (await desk.alerts()).count("DAY_UNCLOSED") == 1
        await desk.heals()
        await desk.waits(seconds=90)
        assert await has_ended(desk)
        assert await desk.leaves() is Exit.FLAT
        cycle = await last_cycle(desk)
        assert cycle["status"] == "completed"
        assert cycle["end_equity"] == desk.server.exchange.account.cash
        assert await proofs_of(desk, "the close of the day") == [True]
        assert "JOB_FAILED" not in await desk.alerts()


async def test_a_stumble_at_the_close_wakes_nobody(database: str) -> None:
    """One error: asked again at once, and nobody is told."""
    async with open_desk(database, now=at("15:49")) as desk:
        await trades_until_the_close(desk)
        await desk.waits(minutes=6, seconds=30)
        await desk.faults("status_before", method="GET", route="/v2/account", status=503, count=2)
        assert await desk.leaves() is Exit.FLAT
        assert (await last_cycle(desk))["status"] == "completed"
        assert "DAY_UNCLOSED" not in await desk.alerts()


async def test_a_day_that_falls_is_taken_up_again(database: str) -> None:
    """The first look of the day fails until after the close, when the next session would be next: it is still this
    day that is begun, and ended."""
    async with open_desk(database, now=at("16:04:30"), opened=False) as desk:
        await desk.faults("status_before", method="GET", route="/v2/account", status=503, nth=3, count=0)
        await desk.opens()
        await desk.waits(minutes=2)
        await desk.heals()
        await desk.waits(minutes=2)
        assert await has_ended(desk)
        assert await desk.leaves() is Exit.FLAT
        assert (await last_cycle(desk))["status"] == "completed"


async def test_a_daemon_dead_over_the_close(database: str) -> None:
    """It comes back the next morning: yesterday's cycle is completed and proven by yesterday's fills, and today has a
    cycle of its own."""
    async with open_desk(database, now=at("15:49")) as desk:
        await trades_until_the_close(desk)
        await desk.dies()
        await desk.waits(hours=17)
        await desk.opens()
        await desk.waits(seconds=10)
        yesterday = await last_cycle(desk)
        assert yesterday["status"] == "completed"
        assert yesterday["realized_pnl"] == await desk.conn.fetchval(
            "SELECT sum(realized_pnl) FROM positions"
        )
        assert await proofs_of(desk, "the close of the day, made up for") == [True]
        assert await desk.conn.fetchval(
            "SELECT count(*) FROM trading_cycles WHERE cycle_date = $1 AND status = 'idle'",
            (at("09:00") + timedelta(days=1)).date(),
        )


async def test_a_daemon_that_is_back_after_the_close_makes_up_for_it_at_once(database: str) -> None:
    """Dead from before the close until ten minutes after it: proven and completed then, not the next morning."""
    async with open_desk(database, now=at("15:49")) as desk:
        await trades_until_the_close(desk)
        await desk.dies()
        await desk.waits(minutes=16)
        await desk.opens()
        await desk.waits(seconds=10)
        assert (await last_cycle(desk))["status"] == "completed"
        assert await proofs_of(desk, "the close of the day, made up for") == [True]


async def test_shares_that_a_death_carried_over_the_close_are_told_of_once(database: str) -> None:
    """Whoever is back after the close cannot leave them any more, and says so; another start says nothing new."""
    async with open_desk(database, now=at("15:45")) as desk:
        await desk.holds("AAPL", 20)
        await desk.dies()
        await desk.waits(minutes=25)
        for _ in range(2):
            await desk.opens()
            await desk.waits(seconds=10)
            assert (await desk.alerts()).count("NOT_FLAT") == 1
            assert await proofs_of(desk, "the close of the day") == [False]
            await desk.dies()
        assert (await last_cycle(desk))["status"] != "completed"


async def test_a_day_that_ends_with_shares_held_says_so(database: str) -> None:
    """Every exit is refused until the market is shut: the daemon of one day leaves, and not with the code of who is
    proven flat."""
    async with open_desk(database, now=at("15:49")) as desk:
        await desk.holds("AAPL", 20)
        await desk.faults(
            "status_before", method="POST", route="/v2/orders", status=403, code=40310000, count=0
        )
        assert await desk.leaves() is Exit.NOT_FLAT
        assert desk.held("AAPL") == 20
        assert (await last_cycle(desk))["status"] == "closed"
        assert await proofs_of(desk, "the close of the day") == [False]
