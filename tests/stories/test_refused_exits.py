"""Refused exits: the broker refuses the sale of shares that a stop protects."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from catalyst.daemon.shutdown import ExitCode
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Purpose
from catalyst.simulator.rules.orders import OrderSide
from catalyst.simulator.rules.pricing import is_stop
from tests.simulator.manual_feed import at
from tests.stories.scenario import Scenario, open_scenario

DAY_TRADING: dict[str, Any] = {
    "kind": "status_before",
    "method": "POST",
    "route": "/v2/orders",
    "symbol": "AAPL",
    "client_order_id": "cat-*-[xf]",
    "status": 403,
    "code": 40310000,
    "message": "insufficient day trading buying power",
    "count": 0,
}
NOT_REPLACEABLE: dict[str, Any] = {
    "kind": "status_before",
    "method": "PATCH",
    "route": "/v2/orders/*",
    "status": 422,
    "code": 40010001,
    "message": "unable to replace order, order isn't sent to exchange yet",
    "count": 0,
}


def working_stops(scenario: Scenario, symbol: str) -> list[tuple[str, int]]:
    """Return time in force and quantity of each stop that works at the exchange."""
    return [
        (order.time_in_force.value, int(order.remaining))
        for order in scenario.server.exchange.state.order_store.working(symbol)
        if is_stop(order) and order.side is OrderSide.SELL
    ]


async def longest_gap(scenario: Scenario, symbol: str) -> float:
    """Return the longest time without a stop, in seconds, as the exchange measured it."""
    totals = scenario.server.exchange.state.unprotected_time.totals(scenario.clock.now())
    return float(totals[symbol]["longest_seconds"]) if symbol in totals else 0.0


async def test_exit_sells_by_the_target_while_plain_sales_are_refused(database: str) -> None:
    """Given every plain sale is refused, when a person closes the position, then the target moves to the market and
    fills; the stop works until then."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(**DAY_TRADING, may_stay_silent="the target sells")
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 0
        assert await longest_gap(scenario, "AAPL") < 1
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        await scenario.assert_consistent()


async def test_refused_exit_is_protected_again_and_alerted(database: str) -> None:
    """Given sales and replacements are refused, when a person closes the position, then the stop is back within
    seconds, one alert has the broker's words, and the exit is tried at a slow pace until the broker accepts it."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(**DAY_TRADING)
        await scenario.inject_fault(**NOT_REPLACEABLE)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(minutes=5)
        assert await longest_gap(scenario, "AAPL") < 10
        assert working_stops(scenario, "AAPL") == [("gtc", 20)]
        sales = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "exit"]
        assert 3 <= len(sales) <= 7
        messages = await scenario.conn.fetch(
            "SELECT severity, message FROM alerts WHERE event = 'EXIT_REFUSED'"
        )
        assert len(messages) == 1
        assert messages[0]["severity"] == "CRITICAL"
        assert "insufficient day trading buying power" in messages[0]["message"]
        await scenario.clear_faults()
        await scenario.clock.advance(timedelta(minutes=6))
        assert scenario.held_qty("AAPL") == 0
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["close_reason"].startswith("MANUAL")
        await scenario.assert_consistent()


async def not_sold_alerts(scenario: Scenario) -> list[str]:
    """Return the messages of the alerts about shares that were not sold."""
    rows = await scenario.conn.fetch("SELECT message FROM alerts WHERE event = 'NOT_SOLD' ORDER BY alert_id")
    return [str(row["message"]) for row in rows]


async def test_sigterm_leaves_unsold_shares_under_a_stop_that_stays(database: str) -> None:
    """Given sales and replacements are refused, when the daemon is stopped, then the process ends with NOT_FLAT within
    its minute, a good-till-cancelled stop works at the broker, and an alert names it."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(**DAY_TRADING)
        await scenario.inject_fault(**NOT_REPLACEABLE)
        began = scenario.clock.now()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        assert scenario.clock.now() - began <= timedelta(seconds=61)
        assert working_stops(scenario, "AAPL") == [("gtc", 20)]
        assert await longest_gap(scenario, "AAPL") < 10
        [message] = await not_sold_alerts(scenario)
        assert "AAPL 20 shares, stop $188.00 good till cancelled" in message
        assert "insufficient day trading buying power" in message
        await scenario.assert_consistent()


async def test_day_stop_of_shares_in_a_refused_exit_outlives_the_session(database: str) -> None:
    """Given the target cannot be moved during a halt, so that the legs of the day never were cancelled, when the day
    ends, then a good-till-cancelled stop replaces them before the close, and it works after it."""
    async with open_scenario(database, now=at("15:48")) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(
            "status_before", method="PATCH", route="/v2/orders/*", status=422, code=42210000, count=0,
            message="order rejected due to trading halt on symbol",
        )  # fmt: skip
        await scenario.clock.advance_to(at("15:59"))
        assert working_stops(scenario, "AAPL") == [("day", 20)]
        assert await longest_gap(scenario, "AAPL") < 1
        await scenario.clock.advance_to(at("15:59:40"))
        assert working_stops(scenario, "AAPL") == [("gtc", 20)]
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        assert working_stops(scenario, "AAPL") == [("gtc", 20)]
        assert "trading halt" in (await not_sold_alerts(scenario))[0]
        await scenario.assert_consistent()


@pytest.mark.parametrize("end", ["close", "SIGTERM"])
async def test_day_stop_stays_while_the_broker_refuses_every_sale(database: str, end: str) -> None:
    """Given the broker refuses every sale and every stop, when the day or the process ends, then the stop of the day
    works until the close, because nothing could replace it, and the alert says when it ends."""
    async with open_scenario(database, now=at("15:48")) as scenario:
        await scenario.given_position("AAPL", 20)
        for method, route in (("PATCH", "/v2/orders/*"), ("POST", "/v2/orders")):
            await scenario.inject_fault(
                "status_before", method=method, route=route, status=403, code=40310100, count=0,
                message="trade denied due to pattern day trading protection", may_stay_silent="the stop stays",
            )  # fmt: skip
        if end == "SIGTERM":
            scenario.stop.request("SIGTERM", flatten=True)
        else:
            await scenario.clock.advance_to(at("15:59:50"))
            assert working_stops(scenario, "AAPL") == [("day", 20)]
            assert await longest_gap(scenario, "AAPL") < 1
            position = await scenario.position("AAPL")
            assert position is not None
            assert position["protected_at"] is not None
        assert await scenario.wait_for_exit() is ExitCode.NOT_FLAT
        if end == "SIGTERM":
            assert working_stops(scenario, "AAPL") == [("day", 20)]
            assert await longest_gap(scenario, "AAPL") < 1
        [message] = await not_sold_alerts(scenario)
        assert "AAPL 20 shares, stop $188.00 that ends with the session (DAY_TRADING" in message


@pytest.mark.parametrize(("accepted_at", "sold_by"), [("15:52:00", "15:52:35"), ("15:58:40", "15:59:20")])
async def test_exits_are_tried_often_until_shortly_before_the_close(
    database: str, accepted_at: str, sold_by: str
) -> None:
    """Given sales are refused for minutes while the day ends, when the broker accepts them again, then the exit is
    tried within half a minute, also shortly before the close, and sells."""
    async with open_scenario(database, now=at("15:48")) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault(**DAY_TRADING)
        await scenario.clock.advance_to(at(accepted_at))
        await scenario.clear_faults()
        await scenario.clock.advance_to(at(sold_by))
        assert scenario.held_qty("AAPL") == 0
        assert await scenario.wait_for_exit() is ExitCode.FLAT
        assert await not_sold_alerts(scenario) == []


async def test_person_exits_shares_that_were_to_stay(database: str) -> None:
    """Given the exits of the day have ended unsold, when the broker accepts sales again and a person closes the
    position before the close, then it is sold."""
    async with open_scenario(database, now=at("15:48")) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault(**DAY_TRADING)
        await scenario.clock.advance_to(at("15:59:30"))
        assert scenario.components is not None
        assert scenario.components.exits.overnight
        await scenario.clear_faults()
        await scenario.advance(seconds=5)
        assert scenario.held_qty("AAPL") == 20
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.clock.advance_to(at("15:59:59"))
        assert scenario.held_qty("AAPL") == 0


async def test_ended_exits_wake_nobody_twice(database: str) -> None:
    """The end of exits wakes the waiting tasks once: a repeated call would let the flatten run without a pause."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        exits, changed = scenario.components.exits, scenario.components.exits.ledger.changed
        exits.end_exits([1])
        version = changed.version
        exits.end_exits([1])
        assert changed.version == version
        exits.end_exits([1, 2])
        assert changed.version == version + 1


async def test_ended_exits_may_begin_again_in_the_next_session(database: str) -> None:
    """A process that lives over the night begins the next session with every exit; within the session none begins."""
    async with open_scenario(database) as scenario:
        assert scenario.components is not None
        exits, day = scenario.components.exits, scenario.components.current_day
        exits.end_exits([1])
        exits.stops_refused = True
        await exits.start_open_intents()
        assert (exits.overnight, exits.stops_refused) == ({1}, True)
        assert day.session is not None
        night = timedelta(days=1)
        day.set_session(
            replace(
                day.session,
                day=day.session.day + night,
                open=day.session.open + night,
                close=day.session.close + night,
            )
        )
        await exits.start_open_intents()
        assert (exits.overnight, exits.stops_refused) == (set(), False)


@pytest.mark.parametrize("seconds", [5, 20])
async def test_flatten_with_a_short_time_limit_sells(database: str, seconds: int) -> None:
    """Given the flatten may take 20 s or less and the legs must be cancelled first, then SIGTERM sells the shares."""
    async with open_scenario(database, shutdown={"flatten_timeout_seconds": seconds}) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        scenario.stop.request("SIGTERM", flatten=True)
        assert await scenario.wait_for_exit(step=0.2) is ExitCode.FLAT
        assert scenario.held_qty("AAPL") == 0


async def test_stop_of_unsold_shares_works_the_next_morning(database: str) -> None:
    """Given shares that could not be sold before the close, then the next morning's exit sells them."""
    async with open_scenario(database, now=at("15:48"), once=False) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault(**DAY_TRADING)
        await scenario.inject_fault(**NOT_REPLACEABLE)
        await scenario.clock.advance_to(at("16:01"))
        assert working_stops(scenario, "AAPL") == [("gtc", 20)]
        await scenario.crash()
        await scenario.clear_faults()
        await scenario.clock.advance_to(at("09:31") + timedelta(days=1))
        scenario.print_trade("AAPL", "190.00")
        assert working_stops(scenario, "AAPL") == [("gtc", 20)]
        await scenario.start()
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_several_exits_leave_one_position_at_a_time_without_a_stop(database: str) -> None:
    """Given every replacement is refused, when three positions are exited together, then the legs of one position are
    cancelled and its shares sold before those of the next; a cut in the middle leaves the others protected."""
    symbols = ("AAPL", "MSFT", "TSLA")
    async with open_scenario(database, risk={"max_positions": 10}) as scenario:
        for symbol in symbols:
            await scenario.given_position(symbol, 20)
        await scenario.refuse_replacements()
        unprotected = scenario.server.exchange.state.unprotected_time.lasting
        most: list[int] = []
        scenario.crash_trigger.on_step = lambda *_: most.append(len(unprotected))
        await scenario.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by) VALUES ('flatten', '{}', $1, 'a')",
            scenario.clock.now(),
        )
        for _ in range(60):
            await scenario.advance(seconds=0.5)
            most.append(len(unprotected))
        assert [scenario.held_qty(symbol) for symbol in symbols] == [0, 0, 0]
        assert max(most) == 1
        await scenario.assert_consistent()


async def test_prepared_sale_of_a_crashed_exit_is_sent_by_the_next_start(database: str) -> None:
    """Given a crash after the sale was written and before it was sent, then the next start sends that sale once."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.crash_at("release_exit", Moment.BEFORE, scenario.send_command("close", symbol="AAPL"))
        assert scenario.held_qty("AAPL") == 20
        [sale] = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "exit"]
        assert (sale["status"], sale["submitted_at"]) == ("created", None)
        await scenario.start()
        await scenario.advance(seconds=10)
        assert scenario.held_qty("AAPL") == 0
        sales = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "exit"]
        assert [(o["order_id"], o["status"]) for o in sales] == [(sale["order_id"], "filled")]
        await scenario.assert_consistent()


async def test_prepared_sale_ends_with_its_position(database: str) -> None:
    """Given the stop fills while the exit waits for the cancel of the legs, then the sale that was written ends with
    the exit intent, and nothing works any more."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        await scenario.inject_fault("cancel_delay", symbol="AAPL", seconds=5, count=0)
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=2)
        scenario.print_trade("AAPL", "187.50")
        await scenario.advance(seconds=20)
        assert scenario.held_qty("AAPL") == 0
        [sale] = [o for o in await scenario.orders("AAPL") if o["order_purpose"] == "exit"]
        assert (sale["status"], sale["cancel_reason"]) == ("cancelled", "NEVER_SENT")
        await scenario.assert_consistent()


@pytest.mark.parametrize("is_fill_booked", [True, False])
async def test_exit_sells_the_rest_of_a_partly_filled_target(database: str, *, is_fill_booked: bool) -> None:
    """Given the target has sold 8 of 20 shares, and the database still counts 20 under the stop or does not know the
    fill, when the position is exited, then the legs are cancelled and the other 12 shares are sold within seconds."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.inject_fault("partial", symbol="AAPL", qty="8", role="take_profit")
        if is_fill_booked:
            await scenario.inject_fault("stream_drop", symbol="AAPL", role="stop_loss")
            await scenario.inject_fault("slow", method="GET", route="/v2/orders/*", seconds=5)
        else:
            await scenario.inject_fault("stream_drop", symbol="AAPL", side="sell", count=2)
        scenario.print_trade("AAPL", "194.05")
        await scenario.advance(seconds=0.2)
        assert scenario.components is not None
        position = await scenario.position("AAPL")
        assert position is not None
        assert position["quantity"] == (12 if is_fill_booked else 20)
        await scenario.components.exits.request(
            position["position_id"], reason="MANUAL: AAPL", purpose=Purpose.EXIT, by="a"
        )
        await scenario.advance(seconds=8)
        assert scenario.held_qty("AAPL") == 0
        assert await longest_gap(scenario, "AAPL") < 5
        assert not (await scenario.admin("logs?method=PATCH&path=/v2/orders"))[
            "requests"
        ]  # the target is read before it is moved
        await scenario.assert_consistent()


async def test_exit_that_fails_is_postponed_and_alerted(database: str) -> None:
    """Given the database refuses the row of each sale by a rule of its own, when a person closes the position, then no
    leg is cancelled, the exit is postponed with growing pauses and alerted, and it sells once the rule is gone."""
    async with open_scenario(database) as scenario:
        await scenario.given_position("AAPL", 20)
        await scenario.refuse_replacements()
        owner = await asyncpg.connect(database)
        await owner.execute(
            """
            CREATE FUNCTION refuse_sale() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no sale''; END';
            CREATE TRIGGER refuse_sale BEFORE INSERT ON orders FOR EACH ROW
                WHEN (NEW.order_purpose = 'exit') EXECUTE FUNCTION refuse_sale();
            """
        )
        assert (await scenario.send_command("close", symbol="AAPL"))["ok"]
        await scenario.advance(seconds=40)
        assert await longest_gap(scenario, "AAPL") < 1
        assert "EXIT_REFUSED" in await scenario.alert_events()
        refusal = await scenario.conn.fetchval("SELECT refusal FROM exit_intents")
        assert refusal.startswith("SUBMIT_FAILED: the exit failed: RaiseError: no sale")
        await owner.execute("DROP TRIGGER refuse_sale ON orders")
        await owner.close()
        await scenario.advance(seconds=60)
        assert scenario.held_qty("AAPL") == 0
        await scenario.assert_consistent()


async def test_hanging_cancels_of_several_exits_are_repeated_side_by_side(database: str) -> None:
    """Given the broker loses the first four cancels of each position, when three positions are exited, then each exit
    begins its cancels in its turn and repeats them without another turn, so that all are sold within half a minute."""
    symbols = ("AAPL", "MSFT", "TSLA")
    async with open_scenario(database, risk={"max_positions": 10}) as scenario:
        for symbol in symbols:
            await scenario.given_position(symbol, 20)
        await scenario.refuse_replacements()
        for symbol in symbols:
            await scenario.inject_fault(
                "drop_before", method="DELETE", route="/v2/orders/*", symbol=symbol, count=8
            )
        await scenario.conn.execute(
            "INSERT INTO commands (kind, arguments, requested_at, requested_by) VALUES ('flatten', '{}', $1, 'a')",
            scenario.clock.now(),
        )
        await scenario.advance(seconds=32)
        assert [scenario.held_qty(symbol) for symbol in symbols] == [0, 0, 0]
        await scenario.assert_consistent()
