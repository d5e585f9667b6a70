"""Refused exits: the broker refuses the sale of shares that a stop protects."""

from datetime import timedelta

from catalyst.simulator.rules.orders import OrderSide
from catalyst.simulator.rules.pricing import is_stop
from tests.stories.scenario import Scenario, open_scenario

DAY_TRADING = {
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
NOT_REPLACEABLE = {
    "kind": "status_before",
    "method": "PATCH",
    "route": "/v2/orders/*",
    "status": 422,
    "code": 40010001,
    "message": "unable to replace order, order isn't sent to exchange yet",
    "count": 0,
}


async def refuse(scenario: Scenario, **rule: object) -> None:
    """Let the exchange refuse the requests of this rule."""
    kind = str(rule.pop("kind"))
    await scenario.inject_fault(kind, **rule)


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
