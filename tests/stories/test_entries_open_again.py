"""Entries open again: for each cause that forbids entries, what opens them, and that it survives a restart."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from catalyst.daemon.shutdown import ExitCode
from tests.simulator.manual_feed import at
from tests.stories.scenario import ENTRY, Scenario, open_scenario
from tests.stories.test_emergency_stop import TIGHT_LIMITS, lose_over_limit
from tests.stories.test_second_day import suspend_machine

OPEN, SHUT = True, False


async def lose_money(scenario: Scenario) -> None:
    """Let the daily loss limit stop the day."""
    await lose_over_limit(scenario)
    await scenario.advance(seconds=60)
    assert "the cooldown ends" in (await scenario.send_command("resume"))["error"]


async def flatten(scenario: Scenario) -> None:
    """Flatten by command."""
    await scenario.given_position("AAPL", 20)
    assert (await scenario.send_command("flatten"))["flat"] is True


async def sigterm_with_shares(scenario: Scenario) -> None:
    """Stop the daemon by SIGTERM with shares held, and start it again."""
    await scenario.given_position("AAPL", 20)
    await restart_by_sigterm(scenario)
    position = await scenario.position("AAPL")
    assert position is not None
    assert position["close_reason"].startswith("SHUTDOWN: ")


async def restart_by_sigterm(scenario: Scenario) -> None:
    """Stop the daemon by SIGTERM, and start it again."""
    scenario.stop.request("SIGTERM", flatten=True)
    assert await scenario.wait_for_exit() == ExitCode.FLAT
    await scenario.start()


async def halt(scenario: Scenario) -> None:
    """Halt by command, and restart."""
    assert (await scenario.send_command("halt"))["ok"]
    await restart_by_sigterm(scenario)


@dataclass
class Row:
    """One row of the table: whether entries are open after the cause, and in the next session without a resume."""

    cause: Callable[[Scenario], Awaitable[None]]
    at_once: bool
    next_session: bool


TABLE = {
    "daily loss": Row(lose_money, SHUT, next_session=SHUT),
    "flatten": Row(flatten, SHUT, next_session=SHUT),
    "sigterm that sold": Row(sigterm_with_shares, SHUT, next_session=OPEN),
    "sigterm that found nothing": Row(restart_by_sigterm, OPEN, next_session=OPEN),
    "halt": Row(halt, SHUT, next_session=SHUT),
    "strict sigterm that sold": Row(sigterm_with_shares, SHUT, next_session=SHUT),
}


async def may_enter(scenario: Scenario, symbol: str) -> bool:
    """Return whether an entry is sent now."""
    scenario.print_trade(symbol, "191.00")
    await scenario.advance(seconds=1)
    row = await scenario.submit_entry(symbol, 5, **ENTRY)
    assert (row.status != "rejected") == bool(await scenario.count_submitted(symbol))
    return row.status != "rejected"


async def start_next_session(scenario: Scenario) -> None:
    """Crash the daemon and start it at 10:00 of the next session."""
    await scenario.crash()
    suspend_machine(scenario.clock, at("10:00") + timedelta(days=1) - scenario.clock.now())
    await scenario.start()
    await scenario.advance(seconds=5)


@pytest.mark.parametrize("name", TABLE)
async def test_entries_open_again_as_the_table_says(database: str, name: str) -> None:
    """Each cause forbids entries until its own end: a resume, the next session, or both."""
    row = TABLE[name]
    sections: dict[str, dict[str, Any]] = {
        "daily loss": {"risk": TIGHT_LIMITS},
        "strict sigterm that sold": {"shutdown": {"latch_after_flatten": "until_resume"}},
    }.get(name, {})
    async with open_scenario(database, **sections) as scenario:
        await row.cause(scenario)
        await scenario.advance(seconds=2)
        assert await may_enter(scenario, "WHOL") is row.at_once
        await start_next_session(scenario)
        assert await may_enter(scenario, "TSLA") is row.next_session
        answer = await scenario.send_command("resume")
        assert (answer["ok"], answer["still_closed"]) == (True, [])
        assert await may_enter(scenario, "HARD")
        await scenario.assert_consistent()


@pytest.mark.parametrize("cause", [flatten, sigterm_with_shares], ids=["flatten", "sigterm"])
async def test_resume_opens_entries_in_the_same_session(
    database: str, cause: Callable[[Scenario], Awaitable[None]]
) -> None:
    """A resume after a flatten or a SIGTERM opens entries in the same session, and the cycle is idle again."""
    async with open_scenario(database) as scenario:
        await cause(scenario)
        assert (await scenario.send_command("resume"))["still_closed"] == []
        assert await scenario.conn.fetchval("SELECT status FROM trading_cycles") == "idle"
        assert await may_enter(scenario, "MSFT")
        await scenario.assert_consistent()
