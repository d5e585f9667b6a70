"""Every fault of the menu fires, as often as it was told to, and is counted; by number and by chance."""

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
from catalyst.simulator.faults.rules import REQUEST_FAULTS, STANDING, Fault, FaultBook, FaultKind
from catalyst.simulator.faults.schedule import RATE, Schedule
from catalyst.simulator.market.overrides import HandledMarket
from catalyst.simulator.rules.orders import Order, Role, Status
from catalyst.simulator.rules.wire_format import Refusal
from catalyst.simulator.trading_api.order_parsing import read_order
from tests.conformance.exchange_thread import new_york, small_market
from tests.simulator.exchange_scenario import Desk
from tests.simulator.served_exchange import AUTH, Wire, listening, receives, says, wired

SYMBOLS = ("AAPL", "MSFT", "TSLA")
PRICES = {"AAPL": 100, "MSFT": 300, "TSLA": 200}
# Where no time passes, a slow answer and a late message do not come.
RULES: dict[FaultKind, dict[str, Any]] = {
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
Occasions = Callable[[], Awaitable[list[bool]]]  # three of them; true for each that was spoiled


def far(symbol: str, percent: int) -> str:
    return str(PRICES[symbol] * (100 + percent) // 100)


def brackets(desk: Desk, symbols: tuple[str, ...] = SYMBOLS) -> list[Order]:
    """A protected position in each symbol."""
    orders = []
    for symbol in symbols:
        legs = {
            "take_profit": {"limit_price": far(symbol, 10)},
            "stop_loss": {"stop_price": far(symbol, -10)},
        }
        orders.append(desk.sends("buy", 10, symbol, order_class="bracket", **legs))
        desk.passes()
    return orders


def resting(desk: Desk) -> list[Order]:
    """A working limit order in each symbol, far from the market."""
    orders = [desk.sends("buy", 10, s, "limit", limit_price=far(s, -50)) for s in SYMBOLS]
    desk.passes()
    return orders


# ---------------------------------------------------------------------- requests


async def outcome(wire: Wire, method: str, path: str, **more: Any) -> object:
    """What a client gets: the document, or how it failed to get one."""
    try:
        response = await wire.http_(method, path, timeout=0.25, **more)
        return response.status_code, response.json()
    except requests.exceptions.ReadTimeout:
        return "nothing"
    except requests.exceptions.JSONDecodeError:
        return "no JSON"
    except requests.exceptions.ConnectionError:
        return "cut"


async def request_occasions(wire: Wire, kind: FaultKind) -> list[bool]:
    """Three questions; spoiled when what comes is not the document that the exchange would send."""
    if kind in {FaultKind.STALE, FaultKind.EMPTY}:
        if kind is FaultKind.STALE:
            assert await outcome(wire, "GET", "/v2/positions") == (200, [])  # what will be told again
        wire.desk.holds("AAPL", 1)
        wire.clock._now = wire.desk.now
        return [await outcome(wire, "GET", "/v2/positions") == (200, []) for _ in range(3)]
    order = wire.desk.bracket(10, "AAPL")
    path = "/v2/clock" if kind is FaultKind.CLOCK_SKEW else f"/v2/orders/{order.id}?nested=true"
    healthy = order_view(order, wire.desk.exchange.book, wire.desk.exchange.switches, nested=True)
    if kind is FaultKind.CLOCK_SKEW:
        stamps = [(await outcome(wire, "GET", path))[1]["timestamp"] for _ in range(3)]  # type: ignore[index]
        return [not stamp.startswith("2026-03-09T11:00:00") for stamp in stamps]
    return [await outcome(wire, "GET", path) != (200, healthy) for _ in range(3)]


# ---------------------------------------------------------------------- orders


def each_sent(desk: Desk, wanted: Status) -> list[bool]:
    orders = [desk.sends("buy", 10, symbol) for symbol in SYMBOLS]
    desk.passes()
    return [order.status is wanted for order in orders]


def each_stop(desk: Desk, *wanted: Status) -> list[bool]:
    return [desk.leg(order, Role.STOP).status in wanted for order in brackets(desk)]


def each_cancel(desk: Desk, wanted: Status) -> list[bool]:
    orders = resting(desk)
    for order in orders:
        desk.exchange.cancel(order.id)
    desk.passes(0.9)
    return [order.status is wanted for order in orders]


def each_replacement(desk: Desk) -> list[bool]:
    changed = [desk.replaces(order, qty=5) for order in resting(desk)]
    desk.passes()
    return [order.status is Status.REJECTED for order in changed]


def each_target(desk: Desk) -> list[bool]:
    orders = brackets(desk)
    for symbol in SYMBOLS:
        desk.prints(symbol, far(symbol, 12))
    desk.passes()
    return [desk.leg(order, Role.STOP).status is Status.FILLED for order in orders]


def each_triggered(desk: Desk) -> list[bool]:
    orders = brackets(desk)
    stops = [desk.leg(order, Role.STOP) for order in orders]
    for symbol in SYMBOLS:
        desk.prints(symbol, far(symbol, -12))
    return [stop.status is Status.REPLACED for stop in stops]


def each_untriggered(desk: Desk) -> list[bool]:
    orders = brackets(desk)
    for symbol in SYMBOLS:
        for _ in range(3):
            desk.prints(symbol, far(symbol, -12))
    return [desk.leg(order, Role.STOP).status is Status.HELD for order in orders]


def each_partial(desk: Desk) -> list[bool]:
    orders = [desk.sends("buy", 10, symbol) for symbol in SYMBOLS]
    for _ in range(3):
        desk.passes()
        for symbol in SYMBOLS:
            desk.prints(symbol, far(symbol, 0))
    return [order.status is Status.PARTIALLY_FILLED for order in orders]


def each_unseen(desk: Desk) -> list[bool]:
    found = []
    for symbol in SYMBOLS:
        order = desk.sends("buy", 1, symbol)
        try:
            desk.exchange.find_by_client_id(order.client_order_id)
        except Refusal:
            found.append(True)
        else:
            found.append(False)
    return found


def each_lagging(desk: Desk) -> list[bool]:
    for symbol in SYMBOLS:
        desk.sends("buy", 3, symbol)
    desk.passes(0.15)
    shown = {position.symbol for position in desk.exchange.positions()}
    lagging = [desk.exchange.position_qty(symbol) == 0 for symbol in SYMBOLS]
    assert lagging == [symbol not in shown for symbol in SYMBOLS]
    desk.passes(5)
    assert [desk.exchange.position_qty(symbol) for symbol in SYMBOLS] == [3, 3, 3]
    return lagging


def each_halted(desk: Desk) -> list[bool]:
    """Part of each order fills, and the symbol halts; the rest fills in the reopening."""
    orders = [desk.sends("buy", 10, symbol) for symbol in SYMBOLS]
    desk.passes()
    stopped = [symbol in desk.exchange.halted for symbol in SYMBOLS]
    assert stopped == [order.status is Status.PARTIALLY_FILLED for order in orders]
    desk.exchange.faults.remove()
    desk.passes(300)
    assert desk.exchange.halted == set()
    for symbol in SYMBOLS:
        desk.prints(symbol, far(symbol, 0))
    assert [order.status for order in orders] == [Status.FILLED] * 3
    return stopped


def each_gap(desk: Desk) -> list[bool]:
    """The trade that triggers comes far below the one that was to come, and the tape agrees."""
    prices = []
    for symbol in SYMBOLS:
        desk.holds(symbol, 1)
        desk.sends("sell", 1, symbol, "stop", stop_price=far(symbol, -5))
    desk.passes()
    for symbol in SYMBOLS:
        desk.prints(symbol, far(symbol, -6))
        sold = desk.exchange.executions[-1]
        last = desk.exchange.market.last_print(symbol, desk.now)
        assert last is not None
        assert abs(last.price - sold.price) < 1
        prices.append(sold.price < PRICES[symbol] * 92 / 100)
    return prices


ORDERS: dict[FaultKind, Callable[[Desk], list[bool]]] = {
    FaultKind.REJECT: lambda desk: each_sent(desk, Status.REJECTED),
    FaultKind.NEVER_ACK: lambda desk: each_sent(desk, Status.PENDING_NEW),
    FaultKind.PARTIAL: each_partial,
    FaultKind.LEG_REJECT: lambda desk: each_stop(desk, Status.REJECTED),
    FaultKind.LEG_CANCEL: lambda desk: each_stop(desk, Status.CANCELED),
    FaultKind.CANCEL_DELAY: lambda desk: each_cancel(desk, Status.PENDING_CANCEL),
    FaultKind.CANCEL_LOSES: lambda desk: each_cancel(desk, Status.FILLED),
    FaultKind.CANCEL_REJECT: lambda desk: each_cancel(desk, Status.NEW),
    FaultKind.REPLACE_REJECT: each_replacement,
    FaultKind.DOUBLE_EXIT: each_target,
    FaultKind.STOP_REPLACED: each_triggered,
    FaultKind.NO_TRIGGER: each_untriggered,
    FaultKind.VISIBILITY: each_unseen,
    FaultKind.POSITION_LAG: each_lagging,
    FaultKind.HALT: each_halted,
    FaultKind.GAP: each_gap,
}


# ---------------------------------------------------------------------- the stream

HANDSHAKES = {FaultKind.STREAM_REFUSE, FaultKind.STREAM_BUSY, FaultKind.STREAM_SECOND}


async def handshake_occasions(wire: Wire, kind: FaultKind) -> list[bool]:
    """Three attempts to be let in, the first connection staying open where a second is meant."""

    async def let_in() -> bool:
        try:
            async with websockets.connect(wire.server.stream_url, proxy=None) as socket:
                told = await says(socket, AUTH)
                return bool(told["data"]["status"] == "authorized")
        except websockets.exceptions.InvalidStatus as refused:
            return refused.response.status_code != 429

    if kind is not FaultKind.STREAM_SECOND:
        return [not await let_in() for _ in range(3)]
    wire.desk.exchange.switches.one_stream = False  # it would refuse every second connection by itself
    async with listening(wire.server):
        return [not await let_in() for _ in range(3)]


async def message_occasions(wire: Wire) -> list[bool]:
    """Three fills, each heard on a connection of its own; spoiled when not exactly `new` and `fill` come."""
    spoiled = []
    for symbol in SYMBOLS:
        async with listening(wire.server) as socket:
            before = wire.server.frames_sent
            order = wire.desk.sends("buy", 1, symbol)
            await wire.passes()
            heard: list[object] = []
            try:
                while len(heard) < max(wire.server.frames_sent - before, 2):
                    heard.append(await asyncio.wait_for(one(socket), 0.15))
            except (TimeoutError, websockets.exceptions.ConnectionClosed):
                heard.append("silence")
            fields = len(order_view(order, wire.desk.exchange.book, wire.desk.exchange.switches, nested=True))
            spoiled.append(heard != [("new", "new", fields), ("fill", "filled", fields)])
    return spoiled


async def one(socket: Any) -> object:
    """Event, status and number of the order's fields in the next frame; the frame when it is no update."""
    raw = await receives(socket)
    try:
        data = orjson.loads(raw)["data"]
        return data["event"], data["order"]["status"], len(data["order"])
    except (ValueError, KeyError, TypeError):
        return raw


# ---------------------------------------------------------------------- every kind, by number and by chance


@asynccontextmanager
async def house(kind: FaultKind) -> AsyncIterator[tuple[FaultBook, Occasions]]:
    """Something to break, and three occasions for it."""
    if kind in ORDERS:
        desk = Desk()
        if kind is FaultKind.GAP:
            desk.exchange.market = HandledMarket(desk.tape)  # type: ignore[arg-type]  # as much of a market as is needed

        async def orders() -> list[bool]:
            return ORDERS[kind](desk)

        yield desk.exchange.faults, orders
        return
    async with wired() as wire:

        async def wires() -> list[bool]:
            if kind is FaultKind.LIQUIDATE_FAIL:
                for symbol in SYMBOLS:
                    wire.desk.holds(symbol, 1)
                wire.clock._now = wire.desk.now
                return [row["status"] == 500 for row in (await wire.http_("DELETE", "/v2/positions")).json()]
            if kind in HANDSHAKES:
                return await handshake_occasions(wire, kind)
            if kind in REQUEST_FAULTS:
                return await request_occasions(wire, kind)
            return await message_occasions(wire)

        yield wire.server.exchange.faults, wires


@pytest.mark.parametrize("kind", FaultKind)
async def test_each_fault_fires_as_often_as_it_was_told_and_is_counted(kind: FaultKind) -> None:
    """Twice, of three occasions; what stands until it is removed spoils all three and counts each."""
    async with house(kind) as (faults, occasions):
        rule = faults.add(Fault(kind, **{"count": 2, **event_of(kind), **RULES.get(kind, {})}))
        spoiled = await occasions()
        stands = kind in STANDING - {FaultKind.DOUBLE_EXIT}
        assert spoiled == ([True] * 3 if stands else [True, True, False])
        assert faults.fired == {kind: rule.fired} == {kind: 3 if stands else 2}


@pytest.mark.parametrize("kind", FaultKind)
async def test_each_fault_fires_by_chance_and_is_counted(kind: FaultKind) -> None:
    """At a rate of one every occasion is spoiled; at none, none."""
    async with house(kind) as (faults, occasions):
        rules = Schedule(3, {kind: 1.0}).rules()
        for rule in rules:
            for name, value in event_of(kind).items():
                setattr(rule, name, value)
            faults.add(rule)
        assert await occasions() == [True] * 3
        assert faults.fired.keys() == {kind}
        assert faults.fired[kind] >= 3
    assert Schedule(3, {kind: 0.0}).rules() == []


def event_of(kind: FaultKind) -> dict[str, str]:
    """Messages of one event only, so that each occasion is one."""
    named = kind.startswith("stream_") and kind not in HANDSHAKES
    return {"event": "new"} if named else {}


def test_without_faults_nothing_is_spoiled() -> None:
    """The occasions above see a fault, and not their own noise."""

    async def quiet() -> None:
        for kind in FaultKind:
            async with house(kind) as (_, occasions):
                assert await occasions() == [False] * 3, kind

    asyncio.run(quiet())


# ---------------------------------------------------------------------- schedules


def a_day(seed: int, rate: float = 0.2) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """A customer's hour under a schedule: what fired, and what became of the orders."""
    desk = Desk()
    desk.tape.sizes = 30
    kinds = [kind for kind in ORDERS if kind not in {FaultKind.DOUBLE_EXIT, FaultKind.POSITION_LAG}]
    desk.exchange.faults.follow(Schedule.of(seed, rate, kinds))
    random = Random(99)
    for _ in range(120):
        symbol = random.choice(SYMBOLS)
        try:
            match random.randrange(4):
                case 0:
                    brackets(desk, (symbol,))
                case 1:
                    desk.sends("buy", random.randint(1, 40), symbol)
                case 2:
                    desk.exchange.cancel(
                        random.choice([order.id for order in desk.exchange.book.live()] or [""])
                    )
                case _:
                    desk.exchange.close(symbol)
        except Refusal:
            pass
        desk.prints(symbol, far(symbol, random.randint(-14, 14)), random.randint(1, 200))
        desk.passes(random.choice([0.05, 0.5, 5.0]))
        assert audit(desk.exchange).problems == []
    return desk.exchange.faults.fired, [
        (o.client_order_id, o.status) for o in desk.exchange.book.orders.values()
    ]


def test_a_schedule_repeats_with_its_seed() -> None:
    """The same seed and customer: the same faults and the same fates; another seed: others. The books balance."""
    fired, fates = a_day(1)
    assert (fired, fates) == a_day(1)
    assert fates != a_day(2)[1]
    assert len(fired) >= 8
    assert a_day(1, rate=0.0)[0] == {}


def test_a_rate_is_the_share_of_the_occasions() -> None:
    """Of four thousand requests a tenth, spread over them; each kind has dice of its own."""
    book = FaultBook()
    book.follow(Schedule(5, {FaultKind.DROP: 0.1, FaultKind.REJECT: 0.5}))
    at = [n for n in range(4000) if book.take(FaultKind.DROP, method="GET") is not None]
    assert 340 < len(at) < 460
    assert max(b - a for a, b in pairwise(at)) < 100
    assert book.fired == {"drop": len(at)}
    orders = [f"order-{n}" for n in range(1000)]
    book.follow(Schedule(5, {FaultKind.PARTIAL: 0.2}))
    struck = [o for o in orders if book.standing(FaultKind.PARTIAL, client_order_id=o) is not None]
    assert 150 < len(struck) < 250
    assert struck == [o for o in orders if book.standing(FaultKind.PARTIAL, client_order_id=o) is not None]


async def test_a_schedule_comes_over_the_side_door() -> None:
    """Over the whole menu by default; the count of what fired outlives the healing."""
    async with wired() as wire:
        rules = await wire.admin("faults", random={"seed": 11})
        assert {rule["kind"] for rule in rules} == set(FaultKind)
        assert {rule["chance"]["rate"] for rule in rules} == {RATE}
        await wire.http_("DELETE", "/admin/faults")
        await wire.admin("faults", random={"seed": 11, "rates": {"rate_limit": 1, "drop": 0}})
        for _ in range(3):
            assert (await wire.http_("GET", "/v2/account")).status_code == 429
        await wire.http_("DELETE", "/admin/faults")
        assert (await wire.http_("GET", "/v2/account")).status_code == 200
        assert (await wire.http_("GET", "/admin/state")).json()["faults_fired"] == {"rate_limit": 3}
        one = await wire.admin("faults", random={"seed": 1, "rate": 0.5, "kinds": ["garble", "reject"]})
        assert [rule["kind"] for rule in one] == ["garble", "reject"]
        for wrong in ({"kinds": ["nonsense"]}, {"rate": 2}, {"rates": {"drop": "often"}}, {"sed": 1}, 7):
            assert (await wire.http_("POST", "/admin/faults", json={"random": wrong})).status_code == 422


async def test_a_lagging_position_hides_an_oco() -> None:
    """For as long as the fill is not booked there is nothing to exit, and then there is."""
    async with wired() as wire:
        await wire.admin("faults", kind="position_lag", symbol="AAPL", seconds=2)
        wire.desk.sends("buy", 10)
        await wire.passes()
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
        early = await wire.http_("POST", "/v2/orders", json=body)
        assert (early.status_code, early.json()["message"]) == (422, "oco orders must be exit orders")
        assert (await wire.http_("GET", "/v2/positions")).json() == []
        await wire.passes(2)
        assert (await wire.http_("POST", "/v2/orders", json=body)).status_code == 200


def a_halted_order(step: float) -> list[tuple[object, ...]]:
    """A market order's executions when a fault halts its symbol for half a minute after five shares."""
    market = HandledMarket(small_market())
    exchange = Exchange(market, new_york("11:00"), deposit=Decimal(10_000_000))
    exchange.notices.on_change(partial(market.heed, exchange.notices))
    exchange.faults.add(Fault(FaultKind.HALT, qty="5", seconds=30.0))
    body = {"symbol": "AAPL", "side": "buy", "qty": 2000, "type": "market", "time_in_force": "day"}
    exchange.submit(read_order(body))
    while exchange.now < new_york("11:05"):
        exchange.advance(exchange.now + timedelta(seconds=step))
    return [(e.at, e.qty, e.price) for e in exchange.executions]


def test_a_halt_lasts_as_long_at_any_pace() -> None:
    """Nothing trades in between, and what was silent is heard again, in one leap as in small steps."""
    leap = a_halted_order(300.0)
    for step in (0.7, 20.0):  # the last has the halt begin in one step and end in the middle of another
        assert leap == a_halted_order(step)
    assert [qty for _, qty, _ in leap] == [5, 1995]  # the rest in the reopening
    assert leap[1][0] - leap[0][0] >= timedelta(seconds=30)  # type: ignore[operator]
