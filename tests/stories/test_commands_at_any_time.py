"""Commands at any time: the daemon takes them whenever it runs, says what waits for the open, and refuses old ones."""

import asyncio
from datetime import timedelta

import orjson
import pytest

from catalyst.cli.command_lines import close_line, flatten_line
from catalyst.daemon.shutdown import InterruptKey, StopRequest
from tests.simulator.manual_feed import MONDAY, at
from tests.stories.scenario import Facts, Scenario, open_scenario
from tests.stories.test_second_day import suspend_machine
from tests.waiting import pause

SUNDAY = MONDAY - timedelta(days=1)


async def insert_command(
    scenario: Scenario, kind: str, age: timedelta = timedelta(0), **arguments: object
) -> int:
    """Insert a command that was requested `age` ago; return its id."""
    command_id: int = await scenario.conn.fetchval(
        "INSERT INTO commands (kind, arguments, requested_at, requested_by)"
        " VALUES ($1, $2::jsonb, $3, 'trader') RETURNING command_id",
        kind,
        orjson.dumps(arguments).decode(),
        scenario.clock.now() - age,
    )
    return command_id


async def answer_of(scenario: Scenario, command_id: int) -> Facts | None:
    """Return the daemon's answer; None while it has not answered."""
    row = await scenario.conn.fetchrow("SELECT ok, result FROM commands WHERE command_id = $1", command_id)
    assert row is not None
    return None if row["ok"] is None else {"ok": row["ok"], **orjson.loads(row["result"])}


async def answer_to_old_command(scenario: Scenario, kind: str, age: timedelta, **arguments: object) -> Facts:
    """Insert a command that was requested `age` ago, and return the daemon's answer."""
    command_id = await insert_command(scenario, kind, age, **arguments)
    for _ in range(30):
        if (answer := await answer_of(scenario, command_id)) is not None:
            return answer
        await scenario.advance(seconds=1)
    raise AssertionError(f"the daemon did not answer {kind}")


async def answer_during_start(
    scenario: Scenario, starting: "asyncio.Task[None]", kind: str, **arguments: object
) -> Facts:
    """Insert a command and return its answer, while the start goes on and moves the time."""
    command_id = await insert_command(scenario, kind, **arguments)
    while (answer := await answer_of(scenario, command_id)) is None:
        assert not starting.done()
        await pause()
    return answer


async def test_commands_are_answered_while_the_start_waits_for_the_broker(database: str) -> None:
    """While the broker lists no order, the start is not complete. A scan waits and is refused; a halt does not wait for
    it. A resume is carried out, a close and a flatten are stored and say what they wait for; then all is sold."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        await scenario.crash()
        await scenario.inject_fault("status_before", method="GET", route="/v2/orders", status=503, count=0)
        starting = asyncio.create_task(scenario.start())
        scan_id = await insert_command(scenario, "scan", trade=True)
        assert (await answer_during_start(scenario, starting, "halt", reason="news"))["ok"]
        assert await answer_of(scenario, scan_id) is None  # it waits for the start, and nothing waits for it
        resumed = await answer_during_start(scenario, starting, "resume")
        assert resumed["cleared"] == ["halt"]
        assert "recovery" in resumed["still_closed"]
        closing = await answer_during_start(scenario, starting, "close", symbol="MSFT")
        assert (closing["ok"], len(closing["closing"])) == (True, 1)
        flat = await answer_during_start(scenario, starting, "flatten")
        assert (flat["flat"], sorted(flat["held"])) == (False, ["10 MSFT", "20 AAPL"])
        for answer, line in ((closing, close_line(closing)), (flat, flatten_line(flat))):
            assert answer["waits_for"] == "the start has not read the broker's orders and positions yet"
            assert answer["waits_for"] in line
        refused = await answer_of(scenario, scan_id)
        assert refused is not None
        assert "has not read the broker's orders" in refused["error"]
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (20, 10)
        await scenario.clear_faults()
        await starting
        await scenario.advance(seconds=30)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 0)
        assert scenario.components is not None
        assert list(scenario.components.gate.reasons) == ["flatten"]
        await scenario.assert_consistent()


async def test_commands_are_taken_on_a_sunday(database: str) -> None:
    """On a Sunday, before any day has begun: halt, resume and flatten are carried out at once, a scan is refused with
    the time of the next open, a close with its reason."""
    async with open_scenario(database, now=at("12:00", SUNDAY)) as scenario:
        asked_at = scenario.clock.now()
        assert (await scenario.send_command("halt", reason="away"))["ok"]
        await scenario.crash()
        await scenario.start()
        assert scenario.components is not None
        assert "halt" in scenario.components.gate.reasons
        answer = await scenario.send_command("resume")
        assert (answer["cleared"], answer["still_closed"]) == (["halt"], [])
        assert "at the open, Mon 09 Mar 09:30" in (await scenario.send_command("scan", trade=True))["error"]
        assert "no open position in AAPL" in (await scenario.send_command("close", symbol="AAPL"))["error"]
        assert (await scenario.send_command("flatten"))["flat"] is True
        assert scenario.clock.now() - asked_at < timedelta(minutes=1)


async def test_flatten_after_the_close_exits_at_the_open_although_resumed(database: str) -> None:
    """A close and a flatten after the close answer at once that the shares wait for the open; they are sold then, also
    when a person resumes before it."""
    overnight = {"close_all_at_market_close": False}
    async with open_scenario(database, now=at("15:45"), once=False, positions=overnight) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        suspend_machine(scenario.clock, at("16:01") - scenario.clock.now())
        await scenario.advance(seconds=20)
        asked_at = scenario.clock.now()
        closing = await scenario.send_command("close", symbol="AAPL")
        assert (closing["ok"], closing["market_open"]) == (True, False)
        answer = await scenario.send_command("flatten")
        assert (answer["flat"], sorted(answer["held"])) == (False, ["10 MSFT", "20 AAPL"])
        assert "at the" in answer["sold_when"]
        assert scenario.clock.now() - asked_at < timedelta(seconds=30)
        assert (await scenario.send_command("resume"))["cleared"] == ["flatten"]
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (20, 10)
        suspend_machine(scenario.clock, at("09:29") + timedelta(days=1) - scenario.clock.now())
        await scenario.advance(minutes=2)
        for symbol in ("AAPL", "MSFT"):
            scenario.print_trade(symbol, "190.00")
        await scenario.advance(seconds=30)
        assert (scenario.held_qty("AAPL"), scenario.held_qty("MSFT")) == (0, 0)
        await scenario.assert_consistent()


@pytest.mark.parametrize("kind", ["scan", "resume", "approve", "reject"])
async def test_command_older_than_its_life_is_answered_too_old(database: str, kind: str) -> None:
    """A command of two days ago, or of two minutes ago, is not carried out; a halt is, whatever its age."""
    async with open_scenario(database) as scenario:
        assert (await answer_to_old_command(scenario, "halt", timedelta(days=3)))["ok"]
        for age, text in ((timedelta(days=2), "2 d"), (timedelta(minutes=2), "2 min")):
            answer = await answer_to_old_command(scenario, kind, age, trade=True, proposal_id=1)
            assert not answer["ok"]
            assert f"too old: it was requested {text} ago" in answer["error"]
        assert scenario.components is not None
        assert "halt" in scenario.components.gate.reasons  # no resume
        assert not await scenario.conn.fetchval("SELECT count(*) FROM scans")
        assert not (await answer_to_old_command(scenario, "flatten", timedelta(days=1)))["ok"]


async def test_flatten_of_a_stopped_process_ignores_its_age_of_minutes(database: str) -> None:
    """A flatten and a close that waited ten minutes for the daemon are carried out."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.given_position("MSFT", 10)
        assert (await answer_to_old_command(scenario, "close", timedelta(minutes=10), symbol="AAPL"))["ok"]
        await scenario.advance(seconds=5)
        assert (await answer_to_old_command(scenario, "flatten", timedelta(minutes=10)))["flat"] is True


def test_first_interrupt_asks_and_second_within_five_seconds_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C on a terminal names the positions and asks; a second one stops as SIGTERM does, a late one asks again."""
    said: list[str] = []
    seconds = 0.0
    monkeypatch.setattr("catalyst.clock.StallTimer.seconds", property(lambda _: seconds))
    stop = StopRequest(describe_positions=lambda: "AAPL 20 shares at $190.01, stop $188.00")
    key = InterruptKey(stop, flatten=True, write=said.append)
    key.press()
    assert "AAPL 20 shares" in said[0]
    assert "Ctrl-C again within 5 s to sell everything; otherwise the daemon goes on" in said[0]
    seconds = 5.1
    key.press()
    assert (len(said), stop.requested.is_set()) == (2, False)
    seconds = 4.9
    key.press()
    assert (len(said), stop.requested.is_set(), stop.flatten) == (2, True, True)
