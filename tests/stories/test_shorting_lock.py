"""The account's own `no_shorting`: set by us when it must be, taken off only by whom it was set."""

from dataclasses import replace

from catalyst.domain.fault_points import Moment
from tests.stories.scenario import Desk, open_desk, settings_for

ROUTE = "/v2/account/configurations"


async def switched(desk: Desk) -> list[object]:
    """What was asked of the account's switch, in order."""
    ledger = await desk.admin(f"ledger?method=PATCH&path={ROUTE}")
    return [request["status"] for request in ledger["requests"]]


def is_shut(desk: Desk) -> bool:
    """Whether the exchange would refuse a short sale."""
    return desk.server.exchange.account.configuration.no_shorting


def shut(desk: Desk) -> None:
    """A person moves the switch."""
    account = desk.server.exchange.account
    account.configuration = replace(account.configuration, no_shorting=True)


async def test_an_account_left_open_by_a_stumbling_broker_is_shut_later(database: str) -> None:
    """The switch cannot be moved at the start, nor a minute later; then it is, once, and the tables know it."""
    async with open_desk(database, opened=False) as desk:
        await desk.faults("status_before", method="PATCH", route=ROUTE, status=503, count=2)
        await desk.opens()
        assert await switched(desk) == [503]
        await desk.waits(seconds=61)
        assert await switched(desk) == [503, 503]
        assert not is_shut(desk)
        await desk.waits(seconds=130)
        assert await switched(desk) == [503, 503, 200]
        assert is_shut(desk)
        assert await desk.conn.fetchval("SELECT event_type FROM risk_events") == "ACCOUNT_NO_SHORTING_SET"
        await desk.dies()
        await desk.opens()
        assert await switched(desk) == [503, 503, 200]


async def test_only_our_own_lock_is_taken_off(database: str) -> None:
    """Shorts are allowed: a lock that a person set stays; one that an earlier daemon of ours set goes."""
    async with open_desk(database, opened=False, trading={"allow_short": True}) as desk:
        shut(desk)
        await desk.opens()
        await desk.waits(seconds=61)
        assert await switched(desk) == []
        await desk.dies()
        await desk.conn.execute(
            "INSERT INTO risk_events (event_type, severity, message, occurred_at)"
            " VALUES ('ACCOUNT_NO_SHORTING_SET', 'INFO', 'set by us', $1)",
            desk.clock.now(),
        )
        await desk.opens()
        assert await switched(desk) == [200]
        assert not is_shut(desk)


async def test_a_death_before_the_lock_is_booked_as_taken_off(database: str) -> None:
    """The switch was moved back, and we died before its row: the next start writes it, so that what a person locks
    later stays locked."""
    async with open_desk(database, opened=False) as desk:
        await desk.opens()
        await desk.dies()
        desk.settings = settings_for(desk.server.url, trading={"allow_short": True})
        await desk.dies_opening("account_lock", Moment.BEFORE)
        assert not is_shut(desk)
        await desk.opens()
        await desk.dies()
        shut(desk)
        await desk.opens()
        await desk.waits(seconds=61)
        assert is_shut(desk)
