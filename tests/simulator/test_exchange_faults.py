"""Every fault kind fires as often as its count or probability says, and each firing is counted."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal
from functools import partial
from itertools import pairwise
from random import Random
from typing import Any

import orjson
import pytest
import requests
import websockets

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.exchange.views import order_view
from catalyst.simulator.faults.rules import (
    ACTIVE_UNTIL_REMOVED,
    HANDSHAKE_FAULTS,
    REQUEST_FAULTS,
    Fault,
    FaultKind,
    FaultRules,
    possible_conditions,
)
from catalyst.simulator.faults.schedule import DEFAULT_RATE, FaultSchedule
from catalyst.simulator.market.overrides import OverriddenMarket
from catalyst.simulator.rules.orders import Order, OrderRole, OrderSide, OrderStatus
from catalyst.simulator.rules.wire_format import ApiError
from catalyst.simulator.trading_api.order_parsing import parse_submit_request
from tests.conformance.exchange_thread import new_york, small_market
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.served_exchange import (
    AUTH,
    HeldRequest,
    ServedExchange,
    frames_until_close,
    send_and_receive,
    serve_exchange,
    subscribed_socket,
)

SYMBOLS = ("AAPL", "MSFT", "TSLA")
PRICES = {"AAPL": 100, "MSFT": 300, "TSLA": 200}
# Hardly any time passes in these tests, so a late message never arrives.
RULE_FIELDS: dict[FaultKind, dict[str, Any]] = {
    FaultKind.SLOW: {"seconds": 30.0},
    FaultKind.SLOW_BEFORE: {"seconds": 30.0},
    FaultKind.HTML: {"status": 502},
    FaultKind.HTML_BEFORE: {"status": 502},
    FaultKind.REMOVE_FIELDS: {"fields": ["filled_qty"]},
    FaultKind.CLOCK_SKEW: {"seconds": 90.0},
    FaultKind.PARTIAL: {"qty": "7"},
    FaultKind.LEG_REJECT: {"role": "stop_loss"},
    FaultKind.LEG_CANCEL: {"role": "stop_loss"},
    FaultKind.CANCEL_DELAY: {"seconds": 60.0},
    FaultKind.VISIBILITY: {"seconds": 10.0},
    FaultKind.POSITION_LAG: {"seconds": 5.0},
    FaultKind.HALT: {"qty": "4", "seconds": 30.0},
    FaultKind.STREAM_LATE: {"seconds": 9999.0, "event": "fill"},
    FaultKind.STREAM_FIELDS: {"fields": ["event"]},
}
Occasions = Callable[[], Awaitable[list[bool]]]  # three results; True where the fault took effect


def price_at_percent(symbol: str, percent: int) -> str:
    return str(PRICES[symbol] * (100 + percent) // 100)


def place_brackets(scenario: ExchangeScenario, symbols: tuple[str, ...] = SYMBOLS) -> list[Order]:
    """Open a position with a bracket in each symbol."""
    orders = []
    for symbol in symbols:
        legs = {
            "take_profit": {"limit_price": price_at_percent(symbol, 10)},
            "stop_loss": {"stop_price": price_at_percent(symbol, -10)},
        }
        orders.append(scenario.submit("buy", 10, symbol, order_class="bracket", **legs))
        scenario.advance()
    return orders


def place_resting_orders(scenario: ExchangeScenario) -> list[Order]:
    """Place a working limit order in each symbol, far from the market."""
    orders = [scenario.submit("buy", 10, s, "limit", limit_price=price_at_percent(s, -50)) for s in SYMBOLS]
    scenario.advance()
    return orders


# ---------------------------------------------------------------------- requests


async def request_outcome(served: ServedExchange, method: str, path: str) -> object:
    """Return status and document of the response, or the way it failed; what the server holds until its end or
    for market time counts as nothing."""
    request = await served.start_held_request(method, path)
    fault = served.server.middleware.request_log[-1].fault
    try:
        if fault in {FaultKind.HANG, FaultKind.HANG_BEFORE} and await request.is_held():
            return "nothing"
        if fault in {FaultKind.SLOW, FaultKind.SLOW_BEFORE} and await is_late(served, request):
            return "nothing"
        response = await request.response
        return response.status_code, response.json()
    except requests.exceptions.JSONDecodeError:
        return "no JSON"
    except requests.exceptions.ConnectionError:
        return "cut"


async def is_late(served: ServedExchange, request: HeldRequest) -> bool:
    """Let a minute pass; return true when the response was given at least a second after its request."""
    served.scenario.exchange.state.settings.rate_limit = (
        0  # the reset header shows the second of the response
    )
    asked_at = served.clock.now()
    await served.clock.advance(timedelta(minutes=1))
    response = await request.response
    return int(response.headers["X-Ratelimit-Reset"]) > int(asked_at.timestamp()) + 1


async def request_occasions(served: ServedExchange, kind: FaultKind) -> list[bool]:
    """Send three requests; True where the response is not the exchange's normal document."""
    if kind in {FaultKind.STALE, FaultKind.EMPTY}:
        if kind is FaultKind.STALE:
            assert await request_outcome(served, "GET", "/v2/positions") == (
                200,
                [],
            )  # this response will be repeated
        served.scenario.given_position("AAPL", 1)
        served.clock._now = served.scenario.now
        return [await request_outcome(served, "GET", "/v2/positions") == (200, []) for _ in range(3)]
    order = served.scenario.submit_bracket(10, "AAPL")
    path = "/v2/clock" if kind is FaultKind.CLOCK_SKEW else f"/v2/orders/{order.id}?nested=true"
    state = served.scenario.exchange.state
    if kind is FaultKind.CLOCK_SKEW:
        stamps = [(await request_outcome(served, "GET", path))[1]["timestamp"] for _ in range(3)]  # type: ignore[index]
        return [not stamp.startswith("2026-03-09T11:00:00") for stamp in stamps]
    return [
        await request_outcome(served, "GET", path)
        != (200, order_view(order, state.order_store, state.settings, nested=True))
        for _ in range(3)
    ]


# ---------------------------------------------------------------------- orders


def submit_occasions(scenario: ExchangeScenario, wanted: OrderStatus) -> list[bool]:
    orders = [scenario.submit("buy", 10, symbol) for symbol in SYMBOLS]
    scenario.advance()
    return [order.status is wanted for order in orders]


def stop_leg_occasions(scenario: ExchangeScenario, *wanted: OrderStatus) -> list[bool]:
    return [scenario.leg(order, OrderRole.STOP).status in wanted for order in place_brackets(scenario)]


def cancel_occasions(scenario: ExchangeScenario, wanted: OrderStatus) -> list[bool]:
    orders = place_resting_orders(scenario)
    for order in orders:
        scenario.exchange.cancel(order.id)
    scenario.advance(0.9)
    return [order.status is wanted for order in orders]


def replacement_occasions(scenario: ExchangeScenario) -> list[bool]:
    changed = [scenario.replace(order, qty=5) for order in place_resting_orders(scenario)]
    scenario.advance()
    return [order.status is OrderStatus.REJECTED for order in changed]


def double_exit_occasions(scenario: ExchangeScenario) -> list[bool]:
    orders = place_brackets(scenario)
    for symbol in SYMBOLS:
        scenario.print_trade(symbol, price_at_percent(symbol, 12))
    scenario.advance()
    return [scenario.leg(order, OrderRole.STOP).status is OrderStatus.FILLED for order in orders]


def stop_replaced_occasions(scenario: ExchangeScenario) -> list[bool]:
    orders = place_brackets(scenario)
    stops = [scenario.leg(order, OrderRole.STOP) for order in orders]
    for symbol in SYMBOLS:
        scenario.print_trade(symbol, price_at_percent(symbol, -12))
    return [stop.status is OrderStatus.REPLACED for stop in stops]


def no_trigger_occasions(scenario: ExchangeScenario) -> list[bool]:
    orders = place_brackets(scenario)
    for symbol in SYMBOLS:
        for _ in range(3):
            scenario.print_trade(symbol, price_at_percent(symbol, -12))
    return [scenario.leg(order, OrderRole.STOP).status is OrderStatus.HELD for order in orders]


def partial_occasions(scenario: ExchangeScenario) -> list[bool]:
    orders = [scenario.submit("buy", 10, symbol) for symbol in SYMBOLS]
    for _ in range(3):
        scenario.advance()
        for symbol in SYMBOLS:
            scenario.print_trade(symbol, price_at_percent(symbol, 0))
    return [order.status is OrderStatus.PARTIALLY_FILLED for order in orders]


def visibility_occasions(scenario: ExchangeScenario) -> list[bool]:
    not_found = []
    for symbol in SYMBOLS:
        order = scenario.submit("buy", 1, symbol)
        try:
            scenario.exchange.find_order_by_client_id(order.client_order_id)
        except ApiError:
            not_found.append(True)
        else:
            not_found.append(False)
    return not_found


def position_lag_occasions(scenario: ExchangeScenario) -> list[bool]:
    for symbol in SYMBOLS:
        scenario.submit("buy", 3, symbol)
    scenario.advance(0.15)
    listed = {position.symbol for position in scenario.exchange.positions()}
    lagging = [scenario.exchange.position_qty(symbol) == 0 for symbol in SYMBOLS]
    assert lagging == [symbol not in listed for symbol in SYMBOLS]
    scenario.advance(5)
    assert [scenario.exchange.position_qty(symbol) for symbol in SYMBOLS] == [3, 3, 3]
    return lagging


def halt_occasions(scenario: ExchangeScenario) -> list[bool]:
    """Each order fills partly and its symbol halts; the reopening auction fills the rest."""
    orders = [scenario.submit("buy", 10, symbol) for symbol in SYMBOLS]
    scenario.advance()
    halted = [symbol in scenario.exchange.state.halted for symbol in SYMBOLS]
    assert halted == [order.status is OrderStatus.PARTIALLY_FILLED for order in orders]
    scenario.exchange.state.faults.remove()
    scenario.advance(300)
    assert scenario.exchange.state.halted == set()
    for symbol in SYMBOLS:
        scenario.print_trade(symbol, price_at_percent(symbol, 0))
    assert [order.status for order in orders] == [OrderStatus.FILLED] * 3
    return halted


def gap_occasions(scenario: ExchangeScenario) -> list[bool]:
    """The triggering trade comes far below the printed price, and the last print agrees."""
    prices = []
    for symbol in SYMBOLS:
        scenario.given_position(symbol, 1)
        scenario.submit("sell", 1, symbol, "stop", stop_price=price_at_percent(symbol, -5))
    scenario.advance()
    for symbol in SYMBOLS:
        scenario.print_trade(symbol, price_at_percent(symbol, -6))
        sold = scenario.exchange.state.executions[-1]
        last = scenario.exchange.state.market.last_print(symbol, scenario.now)
        assert last is not None
        assert abs(last.price - sold.price) < 1
        prices.append(sold.price < PRICES[symbol] * 92 / 100)
    return prices


ORDER_OCCASIONS: dict[FaultKind, Callable[[ExchangeScenario], list[bool]]] = {
    FaultKind.REJECT: lambda scenario: submit_occasions(scenario, OrderStatus.REJECTED),
    FaultKind.NEVER_ACK: lambda scenario: submit_occasions(scenario, OrderStatus.PENDING_NEW),
    FaultKind.PARTIAL: partial_occasions,
    FaultKind.LEG_REJECT: lambda scenario: stop_leg_occasions(scenario, OrderStatus.REJECTED),
    FaultKind.LEG_CANCEL: lambda scenario: stop_leg_occasions(scenario, OrderStatus.CANCELED),
    FaultKind.CANCEL_DELAY: lambda scenario: cancel_occasions(scenario, OrderStatus.PENDING_CANCEL),
    FaultKind.CANCEL_LOSES: lambda scenario: cancel_occasions(scenario, OrderStatus.FILLED),
    FaultKind.CANCEL_REJECT: lambda scenario: cancel_occasions(scenario, OrderStatus.NEW),
    FaultKind.REPLACE_REJECT: replacement_occasions,
    FaultKind.DOUBLE_EXIT: double_exit_occasions,
    FaultKind.STOP_REPLACED: stop_replaced_occasions,
    FaultKind.NO_TRIGGER: no_trigger_occasions,
    FaultKind.VISIBILITY: visibility_occasions,
    FaultKind.POSITION_LAG: position_lag_occasions,
    FaultKind.HALT: halt_occasions,
    FaultKind.GAP: gap_occasions,
}


# ---------------------------------------------------------------------- the stream


async def handshake_occasions(served: ServedExchange, kind: FaultKind) -> list[bool]:
    """Try three times to authenticate; for a second-connection fault the first connection stays open."""

    async def authenticate() -> bool:
        try:
            async with websockets.connect(served.server.stream_url, proxy=None) as socket:
                reply = await send_and_receive(socket, AUTH)
                return bool(reply["data"]["status"] == "authorized")
        except websockets.exceptions.InvalidStatus as refused:
            return refused.response.status_code != 429

    if kind is not FaultKind.STREAM_SECOND:
        return [not await authenticate() for _ in range(3)]
    served.scenario.exchange.state.settings.one_stream = (
        False  # the setting would reject every second connection without a fault
    )
    async with subscribed_socket(served.server):
        return [not await authenticate() for _ in range(3)]


async def message_occasions(served: ServedExchange) -> list[bool]:
    """Buy three times, each with its own connection; True where the messages are not exactly `new` and
    `fill`."""
    affected = []
    for symbol in SYMBOLS:
        async with subscribed_socket(served.server) as socket:
            order = served.scenario.submit("buy", 1, symbol)
            await served.advance()
            try:
                received = [summary_of(frame) for frame in await frames_until_close(served, socket)]
            except websockets.exceptions.ConnectionClosed:
                received = ["closed"]
            fields = len(
                order_view(
                    order,
                    served.scenario.exchange.state.order_store,
                    served.scenario.exchange.state.settings,
                    nested=True,
                )
            )
            affected.append(received != [("new", "new", fields), ("fill", "filled", fields)])
    return affected


def summary_of(raw: bytes) -> object:
    """Return event, status and field count of the order in a frame; the raw frame if it is no update."""
    try:
        data = orjson.loads(raw)["data"]
        return data["event"], data["order"]["status"], len(data["order"])
    except (ValueError, KeyError, TypeError):
        return raw


# ---------------------------------------------------------------------- every kind, by count and probability


@asynccontextmanager
async def fault_occasions(kind: FaultKind) -> AsyncIterator[tuple[FaultRules, Occasions]]:
    """Yield the fault rules of a new exchange and a function that gives the fault three occasions."""
    if kind in ORDER_OCCASIONS:
        scenario = ExchangeScenario()
        if kind is FaultKind.GAP:
            scenario.exchange.state.market = OverriddenMarket(scenario.feed)  # type: ignore[arg-type]  # as much of a market as is needed

        async def orders() -> list[bool]:
            return ORDER_OCCASIONS[kind](scenario)

        yield scenario.exchange.state.faults, orders
        return
    async with serve_exchange() as served:

        async def wire_occasions() -> list[bool]:
            if kind is FaultKind.LIQUIDATE_FAIL:
                for symbol in SYMBOLS:
                    served.scenario.given_position(symbol, 1)
                served.clock._now = served.scenario.now
                return [
                    row["status"] == 500 for row in (await served.request("DELETE", "/v2/positions")).json()
                ]
            if kind in HANDSHAKE_FAULTS:
                return await handshake_occasions(served, kind)
            if kind in REQUEST_FAULTS:
                return await request_occasions(served, kind)
            return await message_occasions(served)

        yield served.server.exchange.state.faults, wire_occasions


@pytest.mark.parametrize("kind", FaultKind)
async def test_fault_rule_fires_its_count_and_is_counted(kind: FaultKind) -> None:
    """A count of 2 affects two of three occasions; a fault active until removed affects all three and counts
    each."""
    async with fault_occasions(kind) as (faults, occasions):
        rule = faults.add(Fault(kind, **{"count": 2, **event_filter(kind), **RULE_FIELDS.get(kind, {})}))
        affected = await occasions()
        until_removed = kind in ACTIVE_UNTIL_REMOVED
        assert affected == ([True] * 3 if until_removed else [True, True, False])
        assert faults.fired == {kind: rule.fired} == {kind: 3 if until_removed else 2}


CONDITION_VALUES: dict[str, tuple[str, ...]] = {
    "symbol": SYMBOLS,
    "client_order_id": ("?*",),
    "side": tuple(OrderSide),
    "role": tuple(OrderRole),
}


@pytest.mark.parametrize("kind", ORDER_OCCASIONS)
async def test_order_fault_meets_every_condition_it_may_have(kind: FaultKind) -> None:
    """Of the rules with each value of a condition some fire: the exchange gives the kind that fact of an order."""
    assert possible_conditions(kind) == CONDITION_VALUES.keys()
    for condition, values in CONDITION_VALUES.items():
        async with fault_occasions(kind) as (faults, occasions):
            for value in values:
                faults.add(Fault(kind, **{"count": 0, **RULE_FIELDS.get(kind, {}), condition: value}))
            assert any(await occasions()), condition


@pytest.mark.parametrize("kind", FaultKind)
async def test_fault_rate_decides_how_often_it_fires(kind: FaultKind) -> None:
    """A rate of 1 affects every occasion, a rate of 0 none."""
    async with fault_occasions(kind) as (faults, occasions):
        rules = FaultSchedule(3, {kind: 1.0}).rules()
        for rule in rules:
            for name, value in event_filter(kind).items():
                setattr(rule, name, value)
            faults.add(rule)
        assert await occasions() == [True] * 3
        assert faults.fired.keys() == {kind}
        assert faults.fired[kind] >= 3
    assert FaultSchedule(3, {kind: 0.0}).rules() == []


def event_filter(kind: FaultKind) -> dict[str, str]:
    """Restrict a stream fault to one event, so that each occasion has one matching message."""
    is_message_fault = kind.startswith("stream_") and kind not in HANDSHAKE_FAULTS
    if kind is FaultKind.STREAM_REPLAY:
        return {"event": "fill"}  # the message that ends an order
    return {"event": "new"} if is_message_fault else {}


def test_fault_occasions_are_normal_without_faults() -> None:
    """Without a fault no occasion above counts as affected."""

    async def run_without_faults() -> None:
        for kind in FaultKind:
            async with fault_occasions(kind) as (_, occasions):
                assert await occasions() == [False] * 3, kind

    asyncio.run(run_without_faults())


# ---------------------------------------------------------------------- schedules


def trade_under_schedule(seed: int, rate: float = 0.2) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Trade 120 random steps under a fault schedule; return the fired faults and the orders' statuses."""
    scenario = ExchangeScenario()
    scenario.feed.quote_size = 30
    kinds = [kind for kind in ORDER_OCCASIONS if kind not in {FaultKind.DOUBLE_EXIT, FaultKind.POSITION_LAG}]
    scenario.exchange.state.faults.add_schedule(FaultSchedule.uniform(seed, rate, kinds))
    random = Random(99)
    for _ in range(120):
        symbol = random.choice(SYMBOLS)
        try:
            match random.randrange(4):
                case 0:
                    place_brackets(scenario, (symbol,))
                case 1:
                    scenario.submit("buy", random.randint(1, 40), symbol)
                case 2:
                    scenario.exchange.cancel(
                        random.choice(
                            [order.id for order in scenario.exchange.state.order_store.live()] or [""]
                        )
                    )
                case _:
                    scenario.exchange.close_position(symbol)
        except ApiError:
            pass
        scenario.print_trade(
            symbol, price_at_percent(symbol, random.randint(-14, 14)), random.randint(1, 200)
        )
        scenario.advance(random.choice([0.05, 0.5, 5.0]))
        assert audit(scenario.exchange.state).problems == []
    return scenario.exchange.state.faults.fired, [
        (o.client_order_id, o.status) for o in scenario.exchange.state.order_store.orders.values()
    ]


def test_fault_schedule_repeats_with_its_seed() -> None:
    """Equal seed and orders give equal faults and results, another seed gives others, and the audit is clean."""
    fired, statuses = trade_under_schedule(1)
    assert (fired, statuses) == trade_under_schedule(1)
    assert statuses != trade_under_schedule(2)[1]
    assert len(fired) >= 8
    assert trade_under_schedule(1, rate=0.0)[0] == {}


def test_fault_rate_is_the_share_of_occasions() -> None:
    """A rate of 0.1 affects a tenth of 4,000 requests, evenly spread; each kind has its own random numbers."""
    rules = FaultRules()
    rules.add_schedule(FaultSchedule(5, {FaultKind.DROP: 0.1, FaultKind.REJECT: 0.5}))
    fired_at = [n for n in range(4000) if rules.fire_matching(FaultKind.DROP, method="GET") is not None]
    assert 340 < len(fired_at) < 460
    assert max(b - a for a, b in pairwise(fired_at)) < 100
    assert rules.fired == {"drop": len(fired_at)}
    orders = [f"order-{n}" for n in range(1000)]
    rules.add_schedule(FaultSchedule(5, {FaultKind.PARTIAL: 0.2}))
    affected = [o for o in orders if rules.active(FaultKind.PARTIAL, client_order_id=o) is not None]
    assert 150 < len(affected) < 250
    assert affected == [o for o in orders if rules.active(FaultKind.PARTIAL, client_order_id=o) is not None]


async def test_admin_api_adds_a_random_fault_schedule() -> None:
    """The schedule has every kind by default; the count of fired faults survives the removal of the rules."""
    async with serve_exchange() as served:
        rules = await served.post_admin("faults", random={"seed": 11})
        assert {rule["kind"] for rule in rules} == set(FaultKind)
        assert {rule["probability"]["rate"] for rule in rules} == {DEFAULT_RATE}
        await served.request("DELETE", "/admin/faults")
        await served.post_admin("faults", random={"seed": 11, "rates": {"rate_limit": 1, "drop": 0}})
        for _ in range(3):
            assert (await served.request("GET", "/v2/account")).status_code == 429
        await served.request("DELETE", "/admin/faults")
        assert (await served.request("GET", "/v2/account")).status_code == 200
        assert (await served.request("GET", "/admin/state")).json()["faults_fired"] == {"rate_limit": 3}
        selected_rules = await served.post_admin(
            "faults", random={"seed": 1, "rate": 0.5, "kinds": ["garble", "reject"]}
        )
        assert [rule["kind"] for rule in selected_rules] == ["garble", "reject"]
        for body in ({"kinds": ["nonsense"]}, {"rate": 2}, {"rates": {"drop": "often"}}, {"sed": 1}, 7):
            assert (await served.request("POST", "/admin/faults", json={"random": body})).status_code == 422


async def test_position_lag_fault_rejects_an_oco_until_booked() -> None:
    """An OCO is rejected until the fill is in the position, and accepted afterwards."""
    async with serve_exchange() as served:
        await served.post_admin("faults", kind="position_lag", symbol="AAPL", seconds=2)
        served.scenario.submit("buy", 10)
        await served.advance()
        body = {
            "symbol": "AAPL",
            "side": "sell",
            "qty": 10,
            "type": "limit",
            "time_in_force": "day",
            "order_class": "oco",
            "take_profit": {"limit_price": 110},
            "stop_loss": {"stop_price": 90},
        }
        early_response = await served.request("POST", "/v2/orders", json=body)
        assert (early_response.status_code, early_response.json()["message"]) == (
            422,
            "oco orders must be exit orders",
        )
        assert (await served.request("GET", "/v2/positions")).json() == []
        await served.advance(2)
        assert (await served.request("POST", "/v2/orders", json=body)).status_code == 200


def executions_with_halt(step: float) -> list[tuple[object, ...]]:
    """Return the executions of a market order whose symbol a fault halts for 30 seconds after five shares."""
    market = OverriddenMarket(small_market())
    exchange = Exchange(market, new_york("11:00"), deposit=Decimal(10_000_000))
    exchange.state.announcements.on_change(partial(market.apply_announcements, exchange.state.announcements))
    exchange.state.faults.add(Fault(FaultKind.HALT, qty="5", seconds=30.0))
    body = {"symbol": "AAPL", "side": "buy", "qty": 2000, "type": "market", "time_in_force": "day"}
    exchange.submit(parse_submit_request(body))
    while exchange.state.now < new_york("11:05"):
        exchange.venue.advance(exchange.state.now + timedelta(seconds=step))
    return [(e.at, e.qty, e.price) for e in exchange.state.executions]


def test_halt_duration_does_not_depend_on_step_size() -> None:
    """No trade happens during the halt and trading resumes after it, equally in one large step and in small
    ones."""
    one_step = executions_with_halt(300.0)
    for step in (0.7, 20.0):  # with the last, the halt begins in one step and ends inside another
        assert one_step == executions_with_halt(step)
    assert [qty for _, qty, _ in one_step] == [5, 1995]  # the reopening auction fills the rest
    assert one_step[1][0] - one_step[0][0] >= timedelta(seconds=30)  # type: ignore[operator]
