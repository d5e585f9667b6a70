"""Exit retries: a failed exit step is retried soon, then at growing intervals."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest

from catalyst.daemon.trading_state.symbol_states import SymbolReason
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Purpose
from tests.stories.scenario import Scenario, open_scenario


class FailingSubmits:
    """Fault point that fails the first `times` writes of an order row and records when each was tried."""

    def __init__(self, scenario: Scenario, times: int) -> None:
        self.scenario, self.times, self.attempts = scenario, times, list[datetime]()

    def __call__(self, step: str, moment: Moment) -> None:
        if step == "submit" and moment is Moment.BEFORE:
            self.attempts.append(self.scenario.clock.now())
            if len(self.attempts) <= self.times:
                raise RuntimeError("set by the test")


async def test_failed_exit_is_retried_after_one_and_two_seconds(database: str) -> None:
    """An exit that fails twice is retried after one and two seconds, without waiting for the next 15 seconds."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.crash_trigger.on_step = FailingSubmits(scenario, 2)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=6)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_repeated_exit_failures_back_off_to_fifteen_seconds(database: str) -> None:
    """Retries follow after 1, 2, 4, 8 and then every 15 seconds until one succeeds."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        scenario.crash_trigger.on_step = failing_submits = FailingSubmits(scenario, 6)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=55)
        attempts = failing_submits.attempts
        pauses = [round((b - a).total_seconds()) for a, b in itertools.pairwise(attempts)]
        assert pauses == [1, 2, 4, 8, 15, 15]
        assert scenario.held_qty("AAPL") == 0


async def is_sold_within(scenario: Scenario, seconds: int) -> bool:
    """Request the exit; return true when the shares are sold within `seconds`."""
    assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
    for _ in range(seconds * 2):
        if scenario.held_qty("AAPL") == 0:
            break
        await scenario.advance(seconds=0.5)
    return scenario.held_qty("AAPL") == 0


async def test_lost_exit_request_is_resent_after_each_not_found(database: str) -> None:
    """A lost exit request is sent again with the same id after each "not found", instead of after the ten
    seconds and three reads until NEVER_ARRIVED."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=3)
        assert await is_sold_within(scenario, 8)
        await scenario.advance(seconds=20)
        exits = [order for order in await scenario.orders("AAPL") if order["order_purpose"] == "exit"]
        assert [(order["status"], order["attempts"]) for order in exits] == [("filled", 4)]
        await scenario.assert_consistent()


async def test_unreadable_position_is_read_every_two_seconds_during_exit(database: str) -> None:
    """With five failed position reads the exit sells within nine seconds instead of sixteen."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault(
            "status_before", method="GET", route="/v2/positions/*", status=503, count=5
        )
        assert await is_sold_within(scenario, 9)
        await scenario.assert_consistent()


async def test_exit_is_not_resent_while_outage_exit_handles_symbol(database: str) -> None:
    """Given an exit request got lost, when the outage exit takes over the symbol during the resend, then the
    resend is not sent."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        assert scenario.components is not None
        submission = scenario.components.submission
        calls: list[bool] = []

        def take_over_symbol(step: str, moment: Moment) -> None:
            if step == "resubmit" and moment is Moment.AFTER and not calls:
                calls.append(
                    bool(submission.requests._in_flight)
                )  # so the outage exit waits for this request
                submission.requests.symbols.add(SymbolReason.OUTAGE_EXIT, "AAPL")

        scenario.crash_trigger.on_step = take_over_symbol
        await scenario.inject_fault("drop_before", method="POST", route="/v2/orders", count=1)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=30)
        assert calls == [True]
        assert await scenario.count_submitted("AAPL") == 2  # the entry and the lost exit
        assert scenario.held_qty("AAPL") == 20


async def test_unacknowledged_exit_is_replaced_after_ten_seconds(database: str) -> None:
    """An exit stuck in pending_new is cancelled after ten seconds, and the next exit sells the unprotected
    shares."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("never_ack", symbol="AAPL", count=1)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=9)
        assert scenario.held_qty("AAPL") == 20
        await scenario.advance(seconds=6)
        assert scenario.held_qty("AAPL") == 0
        exits = [order for order in await scenario.orders("AAPL") if order["order_purpose"] == "exit"]
        assert [(order["status"], order["cancel_reason"]) for order in exits] == [
            ("cancelled", "UNACKNOWLEDGED"), ("filled", None),
        ]  # fmt: skip
        await scenario.assert_consistent()


async def test_rest_of_a_partly_filled_exit_is_sold_by_other_orders(database: str) -> None:
    """Given a sale fills 8 shares and nobody buys the rest, then after a minute the rest is cancelled and sold by
    another order, and so on; an alert says that the exit is slow, and each share is under an order all the time."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("partial", symbol="AAPL", side="sell", qty="8")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=140)
        exits = [order for order in await scenario.orders("AAPL") if order["order_purpose"] == "exit"]
        assert [(order["status"], int(order["filled_qty"])) for order in exits] == [
            ("cancelled", 8), ("cancelled", 8), ("filled", 4),
        ]  # fmt: skip
        assert "EXIT_SLOW" in await scenario.alert_events()
        totals = scenario.server.exchange.state.unprotected_time.totals(scenario.clock.now())
        assert float(str(totals["AAPL"]["longest_seconds"])) < 3
        await scenario.assert_consistent()


@asynccontextmanager
async def other_reports(scenario: Scenario) -> AsyncIterator[None]:
    """Let a report of another position arrive twice a second."""
    assert scenario.components is not None
    ledger, clock = scenario.components.ledger, scenario.clock

    async def report() -> None:
        while True:
            await clock.sleep(timedelta(seconds=0.5))
            ledger.changed.notify()

    others = asyncio.ensure_future(report())
    try:
        yield
    finally:
        others.cancel()


async def test_exit_polls_its_orders_while_reports_of_other_positions_arrive(database: str) -> None:
    """Given the stream loses every message of AAPL and reports of other positions arrive twice a second, when AAPL
    exits by a cancel of its legs, then its cancelled stop and its sale are read within seconds."""
    async with open_scenario(database, execution={"order_poll_seconds": 60}) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("stream_drop", symbol="AAPL", count=0)
        async with other_reports(scenario):
            assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
            await scenario.advance(seconds=8)
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["status"] == "closed"
        totals = scenario.server.exchange.state.unprotected_time.totals(scenario.clock.now())
        assert float(str(totals["AAPL"]["longest_seconds"])) < 4
        await scenario.assert_consistent()


@pytest.mark.parametrize("verb", ["flatten", "cancel_entries"])
async def test_flatten_polls_its_orders_while_reports_of_other_positions_arrive(
    database: str, verb: str
) -> None:
    """Given the stream loses every message of AAPL and reports of other positions arrive twice a second, when a flatten
    or a stop without flatten cancels the entry in AAPL, then its end is read within seconds."""
    async with open_scenario(database, execution={"order_poll_seconds": 60}) as scenario:
        scenario.print_trade("AAPL", "190.00")
        await scenario.advance(seconds=1)
        await scenario.submit_entry("AAPL", 20, limit="185.00", stop="183.00", target="194.00")
        await scenario.advance(seconds=1)
        await scenario.inject_fault("stream_drop", symbol="AAPL", count=0)
        assert scenario.components is not None
        flatten, within = scenario.components.flatten, timedelta(seconds=8)
        async with other_reports(scenario):
            if verb == "flatten":
                done: asyncio.Future[object] = asyncio.ensure_future(
                    flatten.run("MANUAL", by="test", purpose=Purpose.FLATTEN, within=within, cycle_id=None)
                )
            else:
                done = asyncio.ensure_future(flatten.cancel_entries(within=within))
            await scenario.advance(seconds=7)
            entry = (await scenario.orders("AAPL"))[0]
            await scenario.advance(seconds=3)
        await done
        assert entry["status"] == "cancelled"
        await scenario.assert_consistent()
