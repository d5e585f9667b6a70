"""Shorting lock: the daemon sets `no_shorting` of the account when needed, and removes it only if the daemon
set it."""

from dataclasses import replace

from catalyst.domain.fault_points import Moment
from tests.stories.scenario import Scenario, open_scenario, settings_for

ROUTE = "/v2/account/configurations"


async def shorting_requests(scenario: Scenario) -> list[object]:
    """Return the response statuses of the requests that changed the account configuration, in order."""
    logs = await scenario.admin(f"logs?method=PATCH&path={ROUTE}")
    return [request["status"] for request in logs["requests"]]


def is_shorting_locked(scenario: Scenario) -> bool:
    """Return true when the exchange would reject a short sale."""
    return scenario.server.exchange.state.account.configuration.no_shorting


def lock_shorting_by_hand(scenario: Scenario) -> None:
    """Set the shorting lock as an operator."""
    account = scenario.server.exchange.state.account
    account.configuration = replace(account.configuration, no_shorting=True)


async def test_shorting_lock_is_retried_after_broker_errors(database: str) -> None:
    """A shorting lock that fails twice is retried until it is set once and recorded."""
    async with open_scenario(database, started=False) as scenario:
        await scenario.inject_fault("status_before", method="PATCH", route=ROUTE, status=503, count=2)
        await scenario.start()
        assert await shorting_requests(scenario) == [503]
        await scenario.advance(seconds=61)
        assert await shorting_requests(scenario) == [503, 503]
        assert not is_shorting_locked(scenario)
        await scenario.advance(seconds=130)
        assert await shorting_requests(scenario) == [503, 503, 200]
        assert is_shorting_locked(scenario)
        assert await scenario.conn.fetchval("SELECT event_type FROM risk_events") == "ACCOUNT_NO_SHORTING_SET"
        await scenario.crash()
        await scenario.start()
        assert await shorting_requests(scenario) == [503, 503, 200]


async def test_shorting_lock_set_by_operator_is_not_removed(database: str) -> None:
    """With shorts allowed, a lock set by the operator stays, and one set by the daemon is removed."""
    async with open_scenario(database, started=False, trading={"allow_short": True}) as scenario:
        lock_shorting_by_hand(scenario)
        await scenario.start()
        await scenario.advance(seconds=61)
        assert await shorting_requests(scenario) == []
        await scenario.crash()
        await scenario.conn.execute(
            "INSERT INTO risk_events (event_type, severity, message, occurred_at)"
            " VALUES ('ACCOUNT_NO_SHORTING_SET', 'INFO', 'set by us', $1)",
            scenario.clock.now(),
        )
        await scenario.start()
        assert await shorting_requests(scenario) == [200]
        assert not is_shorting_locked(scenario)


async def test_shorting_lock_removal_is_recorded_after_crash(database: str) -> None:
    """A removal whose row was lost in a crash is recorded at the next start, so that a lock set later by the
    operator stays."""
    async with open_scenario(database, started=False) as scenario:
        await scenario.start()
        await scenario.crash()
        scenario.settings = settings_for(scenario.server.url, trading={"allow_short": True})
        await scenario.crash_during_start("shorting_lock", Moment.BEFORE)
        assert not is_shorting_locked(scenario)
        await scenario.start()
        await scenario.crash()
        lock_shorting_by_hand(scenario)
        await scenario.start()
        await scenario.advance(seconds=61)
        assert is_shorting_locked(scenario)
