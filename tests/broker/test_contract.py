"""What every exchange behind the client keeps: our own over the wire, and Alpaca's paper account when keys are set.

The first half runs against both (APCA_API_KEY_ID and APCA_API_SECRET_KEY name a paper account; its orders are one
share at a dollar, far from any market, and are cancelled). The second half needs an exchange that can be broken.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.news import AlpacaNews
from catalyst.broker.port import Broker, Gap, Garbled, Priority, StreamState
from catalyst.broker.request import Bounds
from catalyst.broker.trade_updates import AlpacaTradeUpdates, Message
from catalyst.clock import NEW_YORK, Clock, ManualClock, SystemClock
from catalyst.domain.errors import (
    AuthRefused,
    BrokerError,
    BrokerUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRefused,
    OutcomeUnknown,
)
from catalyst.domain.order import Side
from catalyst.domain.report import Fill, OrderReport, OrderRequest, TradeUpdate
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.server import Server, running
from catalyst.simulator.synthetic import market as synthetic_market
from tests.simulator.exchange_scenario import Desk

KEYS = {"key": "demo", "secret": "demo"}
SHORT = Bounds(connect=1.0, read=1.5, total=2.5)  # a busy machine answers later than an idle one


@dataclass
class Venue:
    """An exchange, a client at its door, and a way to let market time pass."""

    broker: Broker
    clock: Clock
    passes: Callable[[float], Any]
    prefix: str

    def far_off(self, number: int, **changes: Any) -> OrderRequest:
        """An order that no market fills: one share at a dollar."""
        request = OrderRequest(
            client_order_id=f"{self.prefix}-{number}",
            symbol="AAPL",
            side=Side.BUY,
            quantity=Decimal(1),
            order_type="limit",
            time_in_force="day",
            limit_price=Decimal("1.01"),
        )
        return replace(request, **changes)

    async def until(self, broker_id: str, *statuses: str) -> OrderReport:
        """The order once it has one of the statuses."""
        for _ in range(60):
            report = await self.broker.order(broker_id, priority=Priority.EXIT)
            if report.broker_status in statuses:
                return report
            await self.passes(0.5)
        raise AssertionError(f"{report.broker_status} is none of {statuses}")


@dataclass
class Sim(Venue):
    """Our own exchange, which can be broken and looked into."""

    desk: Desk
    server: Server
    garbled: list[tuple[str, object]]

    def breaks(self, kind: FaultKind, **rule: Any) -> None:
        self.desk.breaks(kind, **rule)

    async def prints(self, symbol: str, price: str, size: int = 100_000) -> None:
        """A trade a millisecond from now, and the exchange has seen it."""
        self.desk.tape.trades(symbol, self.clock.now() + timedelta(milliseconds=1), price, size)
        await self.passes(0.002)
        self.server.exchange.advance(self.clock.now())
        self.server.settle()

    @property
    def orders_there(self) -> list[str]:
        """The client ids the exchange itself knows, whatever the wire said."""
        return [
            one.client_order_id for one in self.desk.exchange.book.orders.values() if one.parent_id is None
        ]


@pytest.fixture
async def sim() -> AsyncIterator[Sim]:
    desk = Desk()
    clock = ManualClock(desk.now)
    garbled: list[tuple[str, object]] = []
    async with running(desk.exchange, clock) as server:
        broker = AlpacaBroker(
            clock,
            base_url=server.url,
            bounds=SHORT,
            on_garbled=lambda reason, raw: garbled.append((reason, raw)),
            **KEYS,
        )

        async def passes(seconds: float) -> None:
            await clock.advance(timedelta(seconds=seconds))

        yield Sim(broker, clock, passes, "cat", desk, server, garbled)
        await broker.close()


@pytest.fixture
async def paper() -> AsyncIterator[Venue]:
    key, secret = os.environ.get("APCA_API_KEY_ID"), os.environ.get("APCA_API_SECRET_KEY")
    if not key or not secret:
        pytest.skip("no paper account: APCA_API_KEY_ID and APCA_API_SECRET_KEY are not set")
    clock = SystemClock()
    broker = AlpacaBroker(clock, base_url="https://paper-api.alpaca.markets", key=key, secret=secret)
    yield Venue(broker, clock, asyncio.sleep, f"cat-contract-{int(clock.now().timestamp())}")
    await broker.close()


@pytest.fixture(params=["simulator", "paper"])
def venue(request: pytest.FixtureRequest) -> Venue:
    found: Venue = request.getfixturevalue("sim" if request.param == "simulator" else "paper")
    return found


# --- every exchange ----------------------------------------------------------------------------------------


async def test_an_account_says_whether_it_may_trade(venue: Venue) -> None:
    """Account, clock and calendar are understood, in money that is Decimal and times that are UTC."""
    account = await venue.broker.account()
    assert account.may_enter
    assert account.equity > 0
    told = await venue.broker.clock()
    assert abs(told.at - venue.clock.now()) < timedelta(seconds=30)
    assert told.next_close > told.at
    day = told.at.astimezone(NEW_YORK).date()
    sessions = await venue.broker.calendar(day, day + timedelta(days=10))
    assert 6 <= len(sessions) <= 9
    assert all(one.open.tzinfo is UTC or one.open.utcoffset() == timedelta(0) for one in sessions)


async def test_the_universe_is_read_whole(venue: Venue) -> None:
    """Every listed asset is understood."""
    assets = {one.symbol: one for one in await venue.broker.assets()}
    assert assets["AAPL"].tradable
    assert assets["AAPL"].easy_to_borrow


async def test_an_order_lives_and_is_cancelled(venue: Venue) -> None:
    """Sent once, found by either id and in the list, its id taken for ever, cancelled, and not cancelable twice."""
    request = venue.far_off(1)
    before = venue.clock.now() - timedelta(seconds=2)
    sent = await venue.broker.submit(request)
    assert (sent.client_order_id, sent.quantity, sent.limit_price) == (
        request.client_order_id,
        1,
        Decimal("1.01"),
    )
    await venue.until(sent.broker_id, "new", "accepted")
    assert (await venue.broker.order_by_client_id(request.client_order_id)).broker_id == sent.broker_id
    listed = await venue.broker.orders(status="open", after=before, symbols=["AAPL"])
    assert [one.broker_id for one in listed if one.client_order_id == request.client_order_id] == [
        sent.broker_id
    ]
    with pytest.raises(DuplicateOrder):
        await venue.broker.submit(request)
    await venue.broker.cancel(sent.broker_id)
    ended = await venue.until(sent.broker_id, "canceled")
    assert ended.filled_qty == 0
    with pytest.raises(DuplicateOrder):
        await venue.broker.submit(request)


async def test_a_bracket_shows_three_legs(venue: Venue) -> None:
    """A bracket is one order with a take-profit and a stop under it, told apart by their types."""
    request = venue.far_off(2, order_class="bracket", take_profit=Decimal(9000), stop_loss=Decimal("0.9"))
    sent = await venue.broker.submit(request)
    nested = await venue.broker.order(sent.broker_id)
    assert sorted(one.order_type for one in nested.legs) == ["limit", "stop"]
    assert {one.limit_price or one.stop_price for one in nested.legs} == {Decimal(9000), Decimal("0.9")}
    assert {one.order_class for one in (nested, *nested.legs)} == {"bracket"}
    found = await venue.broker.order_by_client_id(request.client_order_id)
    assert {one.broker_id for one in found.legs} == {one.broker_id for one in nested.legs}
    await venue.until(sent.broker_id, "new", "accepted")
    await venue.broker.cancel(sent.broker_id)
    await venue.until(sent.broker_id, "canceled")


async def test_what_does_not_exist_is_not_found(venue: Venue) -> None:
    """An unknown id is NotFound, by either door; a position that is not there is None."""
    with pytest.raises(NotFound):
        await venue.broker.order("00000000-0000-4000-8000-000000000000")
    with pytest.raises(NotFound):
        await venue.broker.order_by_client_id(f"{venue.prefix}-never")
    with pytest.raises((NotFound, OrderRefused)):
        await venue.broker.cancel("00000000-0000-4000-8000-000000000000")
    assert await venue.broker.position("TSLA") is None


async def test_refusals_are_named(venue: Venue) -> None:
    """More than there is money for, and an asset that does not exist, are plain refusals with our names."""
    with pytest.raises(OrderRefused) as poor:
        await venue.broker.submit(venue.far_off(3, quantity=Decimal(9_000_000)))
    assert poor.value.code == "INSUFFICIENT_BUYING_POWER"
    with pytest.raises(OrderRefused) as unknown:
        await venue.broker.submit(venue.far_off(4, symbol="NOSUCHX"))
    assert unknown.value.code == "NOT_TRADABLE"


async def test_positions_and_fills_are_lists(venue: Venue) -> None:
    """The lists are lists, with or without anything in them."""
    assert isinstance(await venue.broker.positions(), list)
    recent = await venue.broker.fills(after=venue.clock.now() - timedelta(days=2))
    assert all(isinstance(one, Fill) for one in recent)


# --- an exchange that fills --------------------------------------------------------------------------------


async def test_a_day_of_one_bracket(sim: Sim) -> None:
    """Entry fills, target works, stop is held; the target fills, the stop is cancelled; every fill is in the ledger."""
    entry = OrderRequest(
        "cat-entry",
        "AAPL",
        Side.BUY,
        Decimal(100),
        "market",
        "day",
        "bracket",
        take_profit=Decimal("110.00"),
        stop_loss=Decimal("95.00"),
    )
    sent = await sim.broker.submit(entry)
    await sim.prints("AAPL", "100")
    bought = await sim.until(sent.broker_id, "filled")
    await sim.passes(1)
    legs = {one.order_type: one for one in (await sim.broker.order(sent.broker_id)).legs}
    assert (legs["limit"].broker_status, legs["stop"].broker_status) == ("new", "held")
    held = await sim.broker.position("AAPL")
    assert held is not None
    assert (held.quantity, held.available, held.entry_price) == (100, 0, bought.filled_avg_price)
    with pytest.raises(OrderRefused) as refused:
        await sim.broker.submit(
            OrderRequest("cat-exit", "AAPL", Side.SELL, Decimal(100), "market", "day"), priority=Priority.EXIT
        )
    assert refused.value.code == "INSUFFICIENT_QTY"
    assert legs["limit"].broker_id in refused.value.related
    await sim.prints("AAPL", "110.05")
    await sim.passes(2)
    assert (await sim.broker.order(legs["limit"].broker_id)).broker_status == "filled"
    assert (await sim.broker.order(legs["stop"].broker_id)).broker_status == "canceled"
    assert await sim.broker.position("AAPL") is None
    assert await sim.broker.positions() == []
    fills = await sim.broker.fills()
    assert sum(one.quantity for one in fills if one.broker_id == sent.broker_id) == 100
    assert (
        max(one.cum_qty for one in await sim.broker.fills(order_id=legs["limit"].broker_id))
        == legs["limit"].quantity
    )
    assert sim.garbled == []


async def test_an_oco_protects_what_is_held(sim: Sim) -> None:
    """An OCO from flat is NOT_EXIT; with shares it is a target with a stop under it."""
    oco = OrderRequest(
        "cat-oco",
        "AAPL",
        Side.SELL,
        Decimal(100),
        "limit",
        "day",
        "oco",
        take_profit=Decimal("110"),
        stop_loss=Decimal("95"),
    )
    with pytest.raises(OrderRefused) as refused:
        await sim.broker.submit(oco)
    assert refused.value.code == "NOT_EXIT"
    sim.desk.holds("AAPL", 100)
    await sim.passes(2)
    sent = await sim.broker.submit(oco, priority=Priority.EXIT)
    assert [one.order_type for one in (await sim.broker.order(sent.broker_id)).legs] == ["stop"]
    with pytest.raises(OrderRefused) as second:
        await sim.broker.submit(replace(oco, client_order_id="cat-oco-2"))
    assert second.value.code == "INSUFFICIENT_QTY"


async def test_a_list_of_a_thousand_orders_is_whole(sim: Sim) -> None:
    """Over the real wire, more orders than two pages hold come back once each, oldest first."""
    for number in range(1_100):
        sim.desk.sends("buy", 1, kind="limit", limit_price="1.01", client_order_id=f"many-{number}")
        if number % 3 == 0:
            sim.desk.passes(0.01)
    await sim.passes((sim.desk.now - sim.clock.now()).total_seconds() + 1)
    found = await sim.broker.orders(status="all")
    assert len(found) == len({one.broker_id for one in found}) == 1_100
    assert {one.client_order_id for one in found} == set(sim.orders_there)
    times = [one.submitted_at for one in found if one.submitted_at is not None]
    assert times == sorted(times)


async def test_no_shorting_is_set_once(sim: Sim) -> None:
    """The account's own lock is set when it differs, and a second time is no change."""
    assert await sim.broker.forbid_shorting(True)
    assert not await sim.broker.forbid_shorting(True)
    assert await sim.broker.forbid_shorting(False)


# --- an exchange that breaks -------------------------------------------------------------------------------

ACCEPTED_AND_SILENT = [
    (FaultKind.HANG, {}),
    (FaultKind.DROP, {}),
    (FaultKind.STATUS, {"status": 504}),
    (FaultKind.STATUS, {"status": 500}),
    (FaultKind.HTML, {"status": 502}),
    (FaultKind.HTML, {"status": 200}),
    (FaultKind.GARBLE, {}),
]


@pytest.mark.parametrize(("kind", "rule"), ACCEPTED_AND_SILENT)
async def test_accepted_and_not_answered_is_found_by_our_id(
    sim: Sim, kind: FaultKind, rule: dict[str, Any]
) -> None:
    """Whatever hid the answer: the outcome is unknown, the order is found by our id, and a resend meets itself."""
    sim.breaks(kind, method="POST", route="/v2/orders", **rule)
    request = sim.far_off(1)
    with pytest.raises(OutcomeUnknown):
        await sim.broker.submit(request)
    assert sim.orders_there == ["cat-1"]
    assert (await sim.broker.order_by_client_id("cat-1")).client_order_id == "cat-1"
    with pytest.raises(DuplicateOrder):
        await sim.broker.submit(request)
    assert sim.orders_there == ["cat-1"]


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (FaultKind.HANG_BEFORE, {}),
        (FaultKind.DROP_BEFORE, {}),
        (FaultKind.STATUS_BEFORE, {"status": 504}),
        (FaultKind.HTML_BEFORE, {"status": 503}),
    ],
)
async def test_never_accepted_and_not_answered_is_unknown_too(
    sim: Sim, kind: FaultKind, rule: dict[str, Any]
) -> None:
    """Seen from here it looks the same; the lookup says that it is not there, and the same id may go again."""
    sim.breaks(kind, method="POST", route="/v2/orders", **rule)
    request = sim.far_off(1)
    with pytest.raises(OutcomeUnknown):
        await sim.broker.submit(request)
    with pytest.raises(NotFound):
        await sim.broker.order_by_client_id("cat-1")
    assert (await sim.broker.submit(request)).client_order_id == "cat-1"
    assert sim.orders_there == ["cat-1"]


async def test_a_429_was_never_accepted(sim: Sim) -> None:
    """Refused at the door: nothing there, and the same id goes through afterwards."""
    sim.breaks(FaultKind.RATE_LIMIT, method="POST")
    with pytest.raises(BrokerUnavailable):
        await sim.broker.submit(sim.far_off(1), priority=Priority.EXIT)
    assert sim.orders_there == []
    await sim.broker.submit(sim.far_off(1), priority=Priority.EXIT)
    assert sim.orders_there == ["cat-1"]


async def test_an_order_that_shows_late_is_not_found_at_first(sim: Sim) -> None:
    """The lookup may lag behind the order: its 404 is provisional."""
    sim.breaks(FaultKind.VISIBILITY, seconds=3)
    await sim.broker.submit(sim.far_off(1))
    with pytest.raises(NotFound):
        await sim.broker.order_by_client_id("cat-1")
    await sim.passes(4)
    assert (await sim.broker.order_by_client_id("cat-1")).client_order_id == "cat-1"


async def test_keys_that_are_refused(sim: Sim) -> None:
    """Wrong keys are named as such by every door, and by the stream."""
    broker = AlpacaBroker(sim.clock, base_url=sim.server.url, key="demo", secret="wrong")
    for asking in (broker.account(), broker.positions(), broker.submit(sim.far_off(1))):
        with pytest.raises(AuthRefused):
            await asking
    await broker.close()
    stream = AlpacaTradeUpdates(sim.clock, url=sim.server.stream_url, key="demo", secret="wrong")
    messages = stream.listen()
    first = await anext(messages)
    assert isinstance(first, Gap)
    assert first.state is StreamState.REFUSED
    await messages.aclose()


@pytest.mark.parametrize("field", ["filled_avg_price", "legs", "client_order_id", "asset_id", "submitted_at"])
async def test_a_field_that_is_gone_loses_no_order(sim: Sim, field: str) -> None:
    """A field that the broker stops to send costs itself; a new one costs nothing."""
    await sim.broker.submit(sim.far_off(1))
    sim.breaks(FaultKind.REMOVE_FIELDS, method="GET", fields=[field])
    assert len(await sim.broker.orders(status="all")) == 1
    sim.breaks(FaultKind.ADD_FIELDS, method="GET")
    assert len(await sim.broker.orders(status="all")) == 1
    assert sim.garbled == []


async def test_an_essential_field_that_is_gone_is_told(sim: Sim) -> None:
    """An order without its filled quantity is not an order with none filled."""
    await sim.broker.submit(sim.far_off(1))
    sim.breaks(FaultKind.REMOVE_FIELDS, method="GET", fields=["filled_qty"])
    assert await sim.broker.orders(status="all") == []
    assert len(sim.garbled) == 1


async def test_a_cancel_that_was_not_answered_is_in_doubt(sim: Sim) -> None:
    """A cancel that hung may have been heard: the order says."""
    sent = await sim.broker.submit(sim.far_off(1))
    await sim.until(sent.broker_id, "new")
    sim.breaks(FaultKind.HANG, method="DELETE")
    with pytest.raises(OutcomeUnknown):
        await sim.broker.cancel(sent.broker_id)
    await sim.until(sent.broker_id, "canceled")


async def test_a_filled_order_cannot_be_cancelled(sim: Sim) -> None:
    """The broker's no to a cancel says that there are fills to ask for."""
    sent = await sim.broker.submit(
        OrderRequest("cat-1", "AAPL", Side.BUY, Decimal(10), "market", "day"), priority=Priority.EXIT
    )
    await sim.prints("AAPL", "100")
    await sim.until(sent.broker_id, "filled")
    with pytest.raises(OrderRefused) as refused:
        await sim.broker.cancel(sent.broker_id)
    assert refused.value.code == "NOT_CANCELABLE"


async def test_the_reserve_holds_against_the_exchange(sim: Sim) -> None:
    """Routine calls stop before the exchange's limit, no 429 is met, and exits still go through."""
    refused = 0
    for _ in range(160):
        try:
            await sim.broker.clock()
        except BrokerUnavailable:
            refused += 1
    assert 0 < refused < 30
    sent = await sim.broker.submit(sim.far_off(1), priority=Priority.EXIT)
    await sim.broker.cancel(sent.broker_id)
    assert {entry.status for entry in sim.server.transport.ledger} == {200, 204}
    assert all(
        entry.user_agent and entry.user_agent.startswith("catalyst/") for entry in sim.server.transport.ledger
    )


# --- the stream --------------------------------------------------------------------------------------------


class Ear:
    """A listener that keeps what it heard."""

    def __init__(self, sim: Sim, **options: Any) -> None:
        self.stream = AlpacaTradeUpdates(sim.clock, url=sim.server.stream_url, **KEYS, **options)
        self.heard: list[Message] = []
        self._sim = sim
        self._task = asyncio.create_task(self._listen())
        assert isinstance(sim.clock, ManualClock)
        sim.clock.quiet_when(self._caught_up)

    async def _listen(self) -> None:
        async for message in self.stream.listen():
            self.heard.append(message)

    def _caught_up(self) -> bool:
        return self._task.done() or self.stream.frames_received >= self._sim.server.frames_sent

    @property
    def events(self) -> list[str]:
        return [one.event for one in self.heard if isinstance(one, TradeUpdate)]

    @property
    def gaps(self) -> list[StreamState]:
        return [one.state for one in self.heard if isinstance(one, Gap)]

    async def ready(self) -> None:
        async with asyncio.timeout(20):
            while self.stream.state is not StreamState.READY:  # noqa: ASYNC110 - a real socket
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def ear(sim: Sim) -> AsyncIterator[Ear]:
    listening = Ear(sim, ping=0.2, pong=0.2)
    await listening.ready()
    yield listening
    await listening.close()


async def test_the_stream_tells_each_execution_once(sim: Sim, ear: Ear) -> None:
    """The same fills as the ledger's, with the same identity: order and cumulative quantity."""
    sim.breaks(FaultKind.STREAM_DUPLICATE, event="new")
    sent = await sim.broker.submit(sim.far_off(1, quantity=Decimal(100), limit_price=Decimal("99.00")))
    await sim.passes(1)
    for _ in range(5):
        await sim.prints("AAPL", "98.90", size=100)
        await sim.passes(0.5)
    await sim.until(sent.broker_id, "filled")
    streamed = [one.fill for one in ear.heard if isinstance(one, TradeUpdate) and one.fill is not None]
    ledger = await sim.broker.fills(order_id=sent.broker_id)
    assert [(one.broker_id, one.cum_qty, one.quantity, one.price) for one in streamed] == [
        (one.broker_id, one.cum_qty, one.quantity, one.price) for one in ledger
    ]
    assert len(streamed) > 1
    assert ear.events.count("new") == 2
    assert ear.stream.frames_received == sim.server.frames_sent


@pytest.mark.parametrize(
    ("kind", "rule", "garbled"),
    [
        (FaultKind.STREAM_NULL, {}, True),
        (FaultKind.STREAM_RAW, {"text": '{"stream": "trade_upd'}, True),
        (FaultKind.STREAM_FIELDS, {"fields": ["filled_qty"]}, True),
        (FaultKind.STREAM_FIELDS, {"fields": ["timestamp", "asset_id"]}, False),
        (FaultKind.STREAM_ERROR, {}, True),
        (FaultKind.STREAM_EVENT, {}, False),
        (FaultKind.STREAM_STATUS, {}, False),
        (FaultKind.STREAM_DROP, {}, False),
    ],
)
async def test_no_message_ends_the_stream(
    sim: Sim, ear: Ear, kind: FaultKind, rule: dict[str, Any], garbled: bool
) -> None:
    """After anything the exchange can put on the socket, the next message is heard."""
    sim.breaks(kind, event="new", **rule)
    first = await sim.broker.submit(sim.far_off(1))
    await sim.until(first.broker_id, "new")
    second = await sim.broker.submit(sim.far_off(2))
    await sim.until(second.broker_id, "new")
    await sim.passes(1)
    last = ear.heard[-1]
    assert isinstance(last, TradeUpdate)
    assert (last.event, last.order.client_order_id) == ("new", "cat-2")
    assert any(isinstance(one, Garbled) for one in ear.heard) is garbled
    assert ear.gaps == [StreamState.READY]


@pytest.mark.parametrize(
    "kind", [FaultKind.STREAM_DISCONNECT, FaultKind.STREAM_MUTE, FaultKind.STREAM_HALF_OPEN]
)
async def test_every_silence_is_announced(sim: Sim, ear: Ear, kind: FaultKind) -> None:
    """Closed, mute or half open: the gap is announced, and the stream comes back by itself."""
    await sim.passes(31)
    sim.breaks(kind, event="new")
    before = sim.clock.now()
    sent = await sim.broker.submit(sim.far_off(1))
    await sim.until(sent.broker_id, "new")
    if kind is FaultKind.STREAM_MUTE:
        await sim.passes(31)
    async with asyncio.timeout(20):
        while StreamState.LOST not in ear.gaps:  # noqa: ASYNC110 - a real socket goes silent
            await asyncio.sleep(0.01)
    lost = next(one for one in ear.heard if isinstance(one, Gap) and one.state is StreamState.LOST)
    assert lost.since is not None
    assert lost.since <= before
    await sim.passes(2)
    await ear.ready()
    assert ear.gaps == [StreamState.READY, StreamState.LOST, StreamState.READY]
    await sim.broker.cancel(sent.broker_id)
    await sim.passes(2)
    assert ear.events[-1] == "canceled"


async def test_a_busy_exchange_is_asked_again(sim: Sim) -> None:
    """A 429 on the handshake is a loss with a longer delay, not an end."""
    sim.breaks(FaultKind.STREAM_BUSY)
    ear = Ear(sim)
    async with asyncio.timeout(20):
        while not ear.gaps:  # noqa: ASYNC110 - a real socket
            await asyncio.sleep(0.01)
    assert ear.gaps == [StreamState.LOST]
    await sim.passes(6)
    await ear.ready()
    await ear.close()


# --- market data -------------------------------------------------------------------------------------------


async def test_a_generated_market_is_read_in_columns() -> None:
    """Snapshots, bars, quotes, prints and headlines of the exchange's own market, through the whole wire."""
    desk = Desk()
    at = datetime(2026, 11, 20, 15, 31, tzinfo=UTC)
    clock = ManualClock(at)
    market = synthetic_market.make(7, at.date(), symbols=700)
    async with running(desk.exchange, clock, market=market) as server:
        data = AlpacaMarketData(clock, base_url=server.url, **KEYS)
        symbols = [*sorted(market.assets())[:600], "NOSUCHX"]
        frame = await data.snapshots(symbols)
        assert set(frame.index) < set(symbols)
        priced = frame[frame["trade_price"].notna()]
        assert len(priced) > 300
        assert ((priced["bid"] <= priced["ask"]) | priced["bid"].isna() | priced["ask"].isna()).all()
        some = list(priced.index[:3])
        trades, quotes = await data.trades(some), await data.quotes(some)
        assert {symbol: float(trades[symbol].price) for symbol in some} == dict(
            priced.loc[some, "trade_price"]
        )
        assert set(quotes) <= set(some)
        bars = await data.bars(some, "1Min", at - timedelta(hours=1), at)
        assert set(bars["symbol"]) <= set(some)
        assert bars["timestamp"].between(at - timedelta(hours=1), at).all()
        days = await data.bars(symbols, "1Day", at - timedelta(days=60), at)
        assert days.groupby("symbol")["timestamp"].apply(lambda times: times.is_monotonic_increasing).all()
        assert len(days) > 10_000
        news = AlpacaNews(clock, base_url=server.url, **KEYS)
        told = await news.headlines(sorted(market.assets()), at - timedelta(hours=20), at)
        assert (told["published_at"] <= at).all()
        assert len(told) > 50
        for client in (data, news):
            await client.close()


async def test_an_outage_is_an_error_for_every_question(sim: Sim) -> None:
    """With nobody at the door every call ends in an error that says so, and none hangs."""
    broker = AlpacaBroker(sim.clock, base_url="http://127.0.0.1:9", **KEYS)
    data = AlpacaMarketData(sim.clock, base_url="http://127.0.0.1:9", **KEYS)
    now = sim.clock.now()
    for asking in (
        broker.account(),
        broker.positions(),
        broker.orders(status="all"),
        broker.fills(),
        broker.assets(),
        broker.submit(sim.far_off(1)),
        broker.cancel("1"),
        broker.forbid_shorting(True),
        data.snapshots(["AAPL"]),
        data.bars(["AAPL"], "1Min", now - timedelta(hours=1), now),
        data.quotes(["AAPL"]),
    ):
        with pytest.raises(BrokerError) as raised:
            await asking
        assert isinstance(raised.value, BrokerUnavailable)
    await broker.close()
    await data.close()
