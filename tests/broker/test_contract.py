"""Contract of every exchange behind the client: the simulator over the wire, and Alpaca's paper account when
keys are set.

The first half runs against both (APCA_API_KEY_ID and APCA_API_SECRET_KEY name a paper account; its orders are
one share at a dollar, far from any market, and are cancelled). The second half needs an exchange with fault
injection.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.market_data import AlpacaMarketData
from catalyst.broker.news import AlpacaNews
from catalyst.broker.port import Broker, MalformedMessage, Priority, StreamGap, StreamState
from catalyst.broker.request import Timeouts
from catalyst.broker.trade_updates import AlpacaTradeUpdates, StreamMessage
from catalyst.clock import NEW_YORK, Clock, ManualClock, SystemClock
from catalyst.domain.errors import (
    AuthRefused,
    BrokerError,
    BrokerUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRejected,
    OutcomeUnknown,
)
from catalyst.domain.order import Side
from catalyst.domain.report import Fill, OrderReport, OrderRequest, TradeUpdate
from catalyst.simulator.faults.rules import FaultKind
from catalyst.simulator.server import SimulatorServer, run_server
from catalyst.simulator.synthetic import market as synthetic_market
from tests.broker.unhurried_stream import UnhurriedStream
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.waiting import LIMIT_S, wait_until

KEYS = {"key": "demo", "secret": "demo"}
LONG_TIMEOUTS = Timeouts(connect=LIMIT_S, read=LIMIT_S, total=LIMIT_S)  # a busy machine answers late
SHORT_TIMEOUTS = Timeouts(connect=LIMIT_S, read=1.5, total=LIMIT_S)  # for one request that gets no response


@dataclass
class Venue:
    """An exchange, a client connected to it, and a way to advance market time."""

    broker: Broker
    clock: Clock
    advance: Callable[[float], Any]
    prefix: str

    def order_far_from_market(self, number: int, **changes: Any) -> OrderRequest:
        """Return an order that no market fills: one share at about a dollar."""
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

    async def wait_for_status(self, broker_id: str, *statuses: str) -> OrderReport:
        """Return the order once it has one of `statuses`."""
        for _ in range(60):
            report = await self.broker.order(broker_id, priority=Priority.EXIT)
            if report.broker_status in statuses:
                return report
            await self.advance(0.5)
        raise AssertionError(f"{report.broker_status} is none of {statuses}")


@dataclass
class SimulatedVenue(Venue):
    """The simulator, with fault injection and access to its state."""

    scenario: ExchangeScenario
    server: SimulatorServer
    malformed: list[tuple[str, object]]

    def add_fault(self, kind: FaultKind, **rule: Any) -> None:
        self.scenario.add_fault(kind, **rule)

    @contextmanager
    def short_timeouts(self) -> Iterator[None]:
        """Let the client wait 1.5 s for a response instead of minutes, which a hanging one would cost."""
        assert isinstance(self.broker, AlpacaBroker)
        client = self.broker._rest_client
        client._timeouts = SHORT_TIMEOUTS
        try:
            yield
        finally:
            client._timeouts = LONG_TIMEOUTS

    async def print_trade(self, symbol: str, price: str, size: int = 100_000) -> None:
        """Print a trade one millisecond from now and let the simulator process it."""
        self.scenario.feed.add_trade(symbol, self.clock.now() + timedelta(milliseconds=1), price, size)
        await self.advance(0.002)
        self.server.exchange.venue.advance(self.clock.now())
        self.server.publish_changes()

    @property
    def stored_client_order_ids(self) -> list[str]:
        """Client order ids stored in the simulator, whatever its responses were."""
        return [
            order.client_order_id
            for order in self.scenario.exchange.state.order_store.orders.values()
            if order.parent_id is None
        ]


@pytest.fixture
async def sim() -> AsyncIterator[SimulatedVenue]:
    scenario = ExchangeScenario()
    clock = ManualClock(scenario.now)
    malformed: list[tuple[str, object]] = []
    async with run_server(scenario.exchange, clock) as server:
        broker = AlpacaBroker(
            clock,
            base_url=server.url,
            timeouts=LONG_TIMEOUTS,
            on_malformed=lambda reason, raw: malformed.append((reason, raw)),
            **KEYS,
        )

        async def advance(seconds: float) -> None:
            await clock.advance(timedelta(seconds=seconds))

        with scenario:
            yield SimulatedVenue(broker, clock, advance, "cat", scenario, server, malformed)
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
    selected: Venue = request.getfixturevalue("sim" if request.param == "simulator" else "paper")
    return selected


# --- every exchange ----------------------------------------------------------------------------------------


async def test_broker_contract_reads_account_clock_and_calendar(venue: Venue) -> None:
    """Account, clock and calendar are parsed; money is Decimal and times are UTC."""
    account = await venue.broker.account()
    assert account.can_open_positions
    assert account.equity > 0
    reported = await venue.broker.clock()
    assert abs(reported.at - venue.clock.now()) < timedelta(seconds=30)
    assert reported.next_close > reported.at
    day = reported.at.astimezone(NEW_YORK).date()
    sessions = await venue.broker.calendar(day, day + timedelta(days=10))
    assert 6 <= len(sessions) <= 9
    assert all(session.open.tzinfo is UTC or session.open.utcoffset() == timedelta(0) for session in sessions)


async def test_broker_contract_reads_all_assets(venue: Venue) -> None:
    """Every listed asset is parsed."""
    assets = {asset.symbol: asset for asset in await venue.broker.assets()}
    assert assets["AAPL"].tradable
    assert assets["AAPL"].easy_to_borrow


async def test_broker_contract_submits_finds_and_cancels_an_order(venue: Venue) -> None:
    """An order is sent once and found by either id and in the list. Its client id stays used, also after the
    cancel."""
    request = venue.order_far_from_market(1)
    before = venue.clock.now() - timedelta(seconds=2)
    sent = await venue.broker.submit(request)
    assert (sent.client_order_id, sent.quantity, sent.limit_price) == (
        request.client_order_id,
        1,
        Decimal("1.01"),
    )
    await venue.wait_for_status(sent.broker_id, "new", "accepted")
    assert (await venue.broker.order_by_client_id(request.client_order_id)).broker_id == sent.broker_id
    listed = await venue.broker.orders(status="open", after=before, symbols=["AAPL"])
    assert [order.broker_id for order in listed if order.client_order_id == request.client_order_id] == [
        sent.broker_id
    ]
    with pytest.raises(DuplicateOrder):
        await venue.broker.submit(request)
    await venue.broker.cancel(sent.broker_id)
    ended = await venue.wait_for_status(sent.broker_id, "canceled")
    assert ended.filled_qty == 0
    with pytest.raises(DuplicateOrder):
        await venue.broker.submit(request)


async def test_broker_contract_nests_both_legs_under_a_bracket_order(venue: Venue) -> None:
    """A bracket is one order with a take-profit leg and a stop leg, distinguished by their types."""
    request = venue.order_far_from_market(
        2, order_class="bracket", take_profit=Decimal(9000), stop_loss=Decimal("0.9")
    )
    sent = await venue.broker.submit(request)
    nested = await venue.broker.order(sent.broker_id)
    assert sorted(leg.order_type for leg in nested.legs) == ["limit", "stop"]
    assert {leg.limit_price or leg.stop_price for leg in nested.legs} == {Decimal(9000), Decimal("0.9")}
    assert {order.order_class for order in (nested, *nested.legs)} == {"bracket"}
    found = await venue.broker.order_by_client_id(request.client_order_id)
    assert {leg.broker_id for leg in found.legs} == {leg.broker_id for leg in nested.legs}
    await venue.wait_for_status(sent.broker_id, "new", "accepted")
    await venue.broker.cancel(sent.broker_id)
    await venue.wait_for_status(sent.broker_id, "canceled")


async def test_broker_contract_raises_not_found_for_unknown_ids(venue: Venue) -> None:
    """An unknown id raises NotFound in both lookups; a missing position is None."""
    with pytest.raises(NotFound):
        await venue.broker.order("00000000-0000-4000-8000-000000000000")
    with pytest.raises(NotFound):
        await venue.broker.order_by_client_id(f"{venue.prefix}-never")
    with pytest.raises((NotFound, OrderRejected)):
        await venue.broker.cancel("00000000-0000-4000-8000-000000000000")
    assert await venue.broker.position("TSLA") is None


async def test_broker_contract_classifies_rejections(venue: Venue) -> None:
    """An order above the buying power and an unknown asset are rejected with our reason codes."""
    with pytest.raises(OrderRejected) as poor:
        await venue.broker.submit(venue.order_far_from_market(3, quantity=Decimal(9_000_000)))
    assert poor.value.code == "INSUFFICIENT_BUYING_POWER"
    with pytest.raises(OrderRejected) as unknown:
        await venue.broker.submit(venue.order_far_from_market(4, symbol="NOSUCHX"))
    assert unknown.value.code == "NOT_TRADABLE"


async def test_broker_contract_returns_positions_and_fills_as_lists(venue: Venue) -> None:
    """Positions and fills are lists, empty or not."""
    assert isinstance(await venue.broker.positions(), list)
    recent = await venue.broker.fills(after=venue.clock.now() - timedelta(days=2))
    assert all(isinstance(fill, Fill) for fill in recent)


# --- fills in the simulator --------------------------------------------------------------------------------


async def test_bracket_exits_at_its_target_and_cancels_its_stop(sim: SimulatedVenue) -> None:
    """After the entry fills, the target is working and the stop is held. The target's fill cancels the stop.
    Every fill is in the account activities."""
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
    await sim.print_trade("AAPL", "100")
    bought = await sim.wait_for_status(sent.broker_id, "filled")
    await sim.advance(1)
    legs = {leg.order_type: leg for leg in (await sim.broker.order(sent.broker_id)).legs}
    assert (legs["limit"].broker_status, legs["stop"].broker_status) == ("new", "held")
    held = await sim.broker.position("AAPL")
    assert held is not None
    assert (held.quantity, held.available, held.entry_price) == (100, 0, bought.filled_avg_price)
    with pytest.raises(OrderRejected) as refused:
        await sim.broker.submit(
            OrderRequest("cat-exit", "AAPL", Side.SELL, Decimal(100), "market", "day"), priority=Priority.EXIT
        )
    assert refused.value.code == "INSUFFICIENT_QTY"
    assert legs["limit"].broker_id in refused.value.related
    await sim.print_trade("AAPL", "110.05")
    await sim.advance(2)
    assert (await sim.broker.order(legs["limit"].broker_id)).broker_status == "filled"
    assert (await sim.broker.order(legs["stop"].broker_id)).broker_status == "canceled"
    assert await sim.broker.position("AAPL") is None
    assert await sim.broker.positions() == []
    fills = await sim.broker.fills()
    assert sum(fill.quantity for fill in fills if fill.broker_id == sent.broker_id) == 100
    assert (
        max(fill.cum_qty for fill in await sim.broker.fills(order_id=legs["limit"].broker_id))
        == legs["limit"].quantity
    )
    assert sim.malformed == []


async def test_oco_is_rejected_when_flat_and_accepted_for_a_position(sim: SimulatedVenue) -> None:
    """An OCO without a position is NOT_EXIT; with shares it is a target with a stop leg."""
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
    with pytest.raises(OrderRejected) as refused:
        await sim.broker.submit(oco)
    assert refused.value.code == "NOT_EXIT"
    sim.scenario.given_position("AAPL", 100)
    await sim.advance(2)
    sent = await sim.broker.submit(oco, priority=Priority.EXIT)
    assert [leg.order_type for leg in (await sim.broker.order(sent.broker_id)).legs] == ["stop"]
    with pytest.raises(OrderRejected) as second:
        await sim.broker.submit(replace(oco, client_order_id="cat-oco-2"))
    assert second.value.code == "INSUFFICIENT_QTY"


async def test_order_list_of_three_pages_is_complete_and_sorted(sim: SimulatedVenue) -> None:
    """More orders than two pages hold are each returned once, oldest first, over the real wire."""
    for number in range(1_100):
        sim.scenario.submit("buy", 1, kind="limit", limit_price="1.01", client_order_id=f"many-{number}")
        if number % 3 == 0:
            sim.scenario.advance(0.01)
    await sim.advance((sim.scenario.now - sim.clock.now()).total_seconds() + 1)
    orders = await sim.broker.orders(status="all")
    assert len(orders) == len({order.broker_id for order in orders}) == 1_100
    assert {order.client_order_id for order in orders} == set(sim.stored_client_order_ids)
    times = [order.submitted_at for order in orders if order.submitted_at is not None]
    assert times == sorted(times)


async def test_forbid_shorting_changes_the_account_only_when_it_differs(sim: SimulatedVenue) -> None:
    """The account setting is changed when it differs; a second call changes nothing."""
    assert await sim.broker.forbid_shorting(True)
    assert not await sim.broker.forbid_shorting(True)
    assert await sim.broker.forbid_shorting(False)


# --- faults of the simulator -------------------------------------------------------------------------------

FAULTS_AFTER_ACCEPTANCE = [
    (FaultKind.HANG, {}),
    (FaultKind.DROP, {}),
    (FaultKind.STATUS, {"status": 504}),
    (FaultKind.STATUS, {"status": 500}),
    (FaultKind.HTML, {"status": 502}),
    (FaultKind.HTML, {"status": 200}),
    (FaultKind.GARBLE, {}),
]


@pytest.mark.parametrize(("kind", "rule"), FAULTS_AFTER_ACCEPTANCE)
async def test_accepted_order_with_a_lost_response_is_found_by_client_order_id(
    sim: SimulatedVenue, kind: FaultKind, rule: dict[str, Any]
) -> None:
    """For every kind of lost response the outcome is unknown, the order is found by our client id, and a
    resend is a duplicate."""
    sim.add_fault(kind, method="POST", route="/v2/orders", **rule)
    request = sim.order_far_from_market(1)
    with sim.short_timeouts(), pytest.raises(OutcomeUnknown):
        await sim.broker.submit(request)
    assert sim.stored_client_order_ids == ["cat-1"]
    assert (await sim.broker.order_by_client_id("cat-1")).client_order_id == "cat-1"
    with pytest.raises(DuplicateOrder):
        await sim.broker.submit(request)
    assert sim.stored_client_order_ids == ["cat-1"]


@pytest.mark.parametrize(
    ("kind", "rule"),
    [
        (FaultKind.HANG_BEFORE, {}),
        (FaultKind.DROP_BEFORE, {}),
        (FaultKind.STATUS_BEFORE, {"status": 504}),
        (FaultKind.HTML_BEFORE, {"status": 503}),
    ],
)
async def test_unaccepted_order_without_a_response_has_unknown_outcome(
    sim: SimulatedVenue, kind: FaultKind, rule: dict[str, Any]
) -> None:
    """An order that was never accepted also has an unknown outcome; the lookup raises NotFound, and the same
    id may be sent again."""
    sim.add_fault(kind, method="POST", route="/v2/orders", **rule)
    request = sim.order_far_from_market(1)
    with sim.short_timeouts(), pytest.raises(OutcomeUnknown):
        await sim.broker.submit(request)
    with pytest.raises(NotFound):
        await sim.broker.order_by_client_id("cat-1")
    assert (await sim.broker.submit(request)).client_order_id == "cat-1"
    assert sim.stored_client_order_ids == ["cat-1"]


async def test_submit_after_429_may_reuse_the_client_order_id(sim: SimulatedVenue) -> None:
    """A rate-limited submit stores no order, and the same id is accepted afterwards."""
    sim.add_fault(FaultKind.RATE_LIMIT, method="POST")
    with pytest.raises(BrokerUnavailable):
        await sim.broker.submit(sim.order_far_from_market(1), priority=Priority.EXIT)
    assert sim.stored_client_order_ids == []
    await sim.broker.submit(sim.order_far_from_market(1), priority=Priority.EXIT)
    assert sim.stored_client_order_ids == ["cat-1"]


async def test_client_order_id_lookup_returns_not_found_until_the_order_is_visible(
    sim: SimulatedVenue,
) -> None:
    """The lookup may lag behind the order, so its 404 is provisional."""
    sim.add_fault(FaultKind.VISIBILITY, seconds=3)
    await sim.broker.submit(sim.order_far_from_market(1))
    with pytest.raises(NotFound):
        await sim.broker.order_by_client_id("cat-1")
    await sim.advance(4)
    assert (await sim.broker.order_by_client_id("cat-1")).client_order_id == "cat-1"


async def test_wrong_keys_raise_auth_refused_on_every_endpoint_and_the_stream(sim: SimulatedVenue) -> None:
    """Wrong keys raise AuthRefused on each call and give state REFUSED on the stream."""
    broker = AlpacaBroker(sim.clock, base_url=sim.server.url, key="demo", secret="wrong")
    for call in (broker.account(), broker.positions(), broker.submit(sim.order_far_from_market(1))):
        with pytest.raises(AuthRefused):
            await call
    await broker.close()
    stream = AlpacaTradeUpdates(sim.clock, url=sim.server.stream_url, key="demo", secret="wrong")
    messages = stream.listen()
    first = await anext(messages)
    assert isinstance(first, StreamGap)
    assert first.state is StreamState.REFUSED
    await messages.aclose()


@pytest.mark.parametrize("field", ["filled_avg_price", "legs", "client_order_id", "asset_id", "submitted_at"])
async def test_order_list_survives_a_missing_optional_field(sim: SimulatedVenue, field: str) -> None:
    """A removed or an added optional field leaves the order in the list, without a malformed report."""
    await sim.broker.submit(sim.order_far_from_market(1))
    sim.add_fault(FaultKind.REMOVE_FIELDS, method="GET", fields=[field])
    assert len(await sim.broker.orders(status="all")) == 1
    sim.add_fault(FaultKind.ADD_FIELDS, method="GET")
    assert len(await sim.broker.orders(status="all")) == 1
    assert sim.malformed == []


async def test_order_without_filled_quantity_is_reported_as_malformed(sim: SimulatedVenue) -> None:
    """An order without filled_qty is not an order with zero filled."""
    await sim.broker.submit(sim.order_far_from_market(1))
    sim.add_fault(FaultKind.REMOVE_FIELDS, method="GET", fields=["filled_qty"])
    assert await sim.broker.orders(status="all") == []
    assert len(sim.malformed) == 1


async def test_cancel_without_a_response_has_unknown_outcome(sim: SimulatedVenue) -> None:
    """A cancel without a response may have been received: the order's status shows it."""
    sent = await sim.broker.submit(sim.order_far_from_market(1))
    await sim.wait_for_status(sent.broker_id, "new")
    sim.add_fault(FaultKind.HANG, method="DELETE")
    with sim.short_timeouts(), pytest.raises(OutcomeUnknown):
        await sim.broker.cancel(sent.broker_id)
    await sim.wait_for_status(sent.broker_id, "canceled")


async def test_cancel_of_a_filled_order_is_rejected_as_not_cancelable(sim: SimulatedVenue) -> None:
    """A rejected cancel means that there are fills to read."""
    sent = await sim.broker.submit(
        OrderRequest("cat-1", "AAPL", Side.BUY, Decimal(10), "market", "day"), priority=Priority.EXIT
    )
    await sim.print_trade("AAPL", "100")
    await sim.wait_for_status(sent.broker_id, "filled")
    with pytest.raises(OrderRejected) as refused:
        await sim.broker.cancel(sent.broker_id)
    assert refused.value.code == "NOT_CANCELABLE"


async def test_routine_calls_stop_before_the_exchange_limit_and_exits_pass(sim: SimulatedVenue) -> None:
    """Routine calls stop before the exchange's limit, no 429 occurs, and exits are still sent."""
    refused = 0
    for _ in range(160):
        try:
            await sim.broker.clock()
        except BrokerUnavailable:
            refused += 1
    assert 0 < refused < 30
    sent = await sim.broker.submit(sim.order_far_from_market(1), priority=Priority.EXIT)
    await sim.broker.cancel(sent.broker_id)
    assert {entry.status for entry in sim.server.middleware.request_log} == {200, 204}
    assert all(
        entry.user_agent and entry.user_agent.startswith("catalyst/")
        for entry in sim.server.middleware.request_log
    )


# --- the stream --------------------------------------------------------------------------------------------


class StreamRecorder:
    """Stream consumer that stores every message."""

    def __init__(self, sim: SimulatedVenue) -> None:
        self.stream = UnhurriedStream(sim.clock, url=sim.server.stream_url, **KEYS)
        self.messages: list[StreamMessage] = []
        self._sim = sim
        self._task = asyncio.create_task(self._listen())
        assert isinstance(sim.clock, ManualClock)
        sim.clock.advance_only_when(self._caught_up)

    async def _listen(self) -> None:
        async for message in self.stream.listen():
            self.messages.append(message)

    def _caught_up(self) -> bool:
        return self._task.done() or self.stream.frames_processed >= self._sim.server.frames_sent

    @property
    def events(self) -> list[str]:
        return [message.event for message in self.messages if isinstance(message, TradeUpdate)]

    @property
    def gaps(self) -> list[StreamState]:
        return [message.state for message in self.messages if isinstance(message, StreamGap)]

    async def wait_until_ready(self) -> None:
        await wait_until(lambda: self.stream.state is StreamState.READY)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def recorder(sim: SimulatedVenue) -> AsyncIterator[StreamRecorder]:
    stream_recorder = StreamRecorder(sim)
    await stream_recorder.wait_until_ready()
    yield stream_recorder
    await stream_recorder.close()


async def test_stream_fills_equal_the_account_activities(
    sim: SimulatedVenue, recorder: StreamRecorder
) -> None:
    """Fills of the stream and of the account activities have equal identities: order and cumulative quantity."""
    sim.add_fault(FaultKind.STREAM_DUPLICATE, event="new")
    sent = await sim.broker.submit(
        sim.order_far_from_market(1, quantity=Decimal(100), limit_price=Decimal("99.00"))
    )
    await sim.advance(1)
    for _ in range(5):
        await sim.print_trade("AAPL", "98.90", size=100)
        await sim.advance(0.5)
    await sim.wait_for_status(sent.broker_id, "filled")
    streamed = [
        message.fill
        for message in recorder.messages
        if isinstance(message, TradeUpdate) and message.fill is not None
    ]
    activities = await sim.broker.fills(order_id=sent.broker_id)
    assert [(fill.broker_id, fill.cum_qty, fill.quantity, fill.price) for fill in streamed] == [
        (fill.broker_id, fill.cum_qty, fill.quantity, fill.price) for fill in activities
    ]
    assert len(streamed) > 1
    assert recorder.events.count("new") == 2
    assert recorder.stream.frames_processed == sim.server.frames_sent


@pytest.mark.parametrize(
    ("kind", "rule", "malformed"),
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
async def test_stream_continues_after_any_faulty_message(
    sim: SimulatedVenue, recorder: StreamRecorder, kind: FaultKind, rule: dict[str, Any], malformed: bool
) -> None:
    """After any faulty frame the exchange can send, the next message is received."""
    sim.add_fault(kind, event="new", **rule)
    first = await sim.broker.submit(sim.order_far_from_market(1))
    await sim.wait_for_status(first.broker_id, "new")
    second = await sim.broker.submit(sim.order_far_from_market(2))
    await sim.wait_for_status(second.broker_id, "new")
    await sim.advance(1)
    last = recorder.messages[-1]
    assert isinstance(last, TradeUpdate)
    assert (last.event, last.order.client_order_id) == ("new", "cat-2")
    assert any(isinstance(message, MalformedMessage) for message in recorder.messages) is malformed
    assert recorder.gaps == [StreamState.READY]


@pytest.mark.parametrize(
    "kind", [FaultKind.STREAM_DISCONNECT, FaultKind.STREAM_MUTE, FaultKind.STREAM_HALF_OPEN]
)
async def test_stream_reports_a_gap_and_reconnects_after_any_silence(
    sim: SimulatedVenue, recorder: StreamRecorder, kind: FaultKind
) -> None:
    """A closed, mute or half-open connection is reported as a gap, and the stream reconnects by itself."""
    await sim.advance(31)
    sim.add_fault(kind, event="new")
    before = sim.clock.now()
    sent = await sim.broker.submit(sim.order_far_from_market(1))
    await sim.wait_for_status(sent.broker_id, "new")
    if kind is FaultKind.STREAM_MUTE:
        recorder.stream.limit_acknowledgements()
        await sim.advance(31)
    if kind is FaultKind.STREAM_HALF_OPEN:
        recorder.stream.limit_pongs()
    await wait_until(lambda: StreamState.LOST in recorder.gaps)
    recorder.stream.remove_limits()
    lost = next(
        message
        for message in recorder.messages
        if isinstance(message, StreamGap) and message.state is StreamState.LOST
    )
    assert lost.since is not None
    assert lost.since <= before
    await sim.advance(2)
    await recorder.wait_until_ready()
    assert recorder.gaps == [StreamState.READY, StreamState.LOST, StreamState.READY]
    await sim.broker.cancel(sent.broker_id)
    await sim.advance(2)
    assert recorder.events[-1] == "canceled"


async def test_stream_retries_after_429_on_the_handshake(sim: SimulatedVenue) -> None:
    """A 429 on the handshake is a loss with a longer delay; the stream retries."""
    sim.add_fault(FaultKind.STREAM_BUSY)
    recorder = StreamRecorder(sim)
    await wait_until(lambda: recorder.gaps)
    assert recorder.gaps == [StreamState.LOST]
    await sim.advance(6)
    await recorder.wait_until_ready()
    await recorder.close()


# --- market data -------------------------------------------------------------------------------------------


async def test_market_data_client_reads_a_synthetic_market() -> None:
    """Snapshots, bars, quotes, prints and headlines of the simulator's market are read over the whole wire."""
    scenario = ExchangeScenario()
    at = datetime(2026, 11, 20, 15, 31, tzinfo=UTC)
    clock = ManualClock(at)
    market = synthetic_market.make_market(7, at.date(), symbols=700)
    async with run_server(scenario.exchange, clock, market=market) as server:
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
        reported = await news.headlines(sorted(market.assets()), at - timedelta(hours=20), at)
        assert (reported["published_at"] <= at).all()
        assert len(reported) > 50
        for client in (data, news):
            await client.close()


async def test_every_call_raises_broker_unavailable_without_a_server(sim: SimulatedVenue) -> None:
    """Without a server every call raises BrokerUnavailable and none hangs."""
    broker = AlpacaBroker(sim.clock, base_url="http://127.0.0.1:9", **KEYS)
    data = AlpacaMarketData(sim.clock, base_url="http://127.0.0.1:9", **KEYS)
    now = sim.clock.now()
    for call in (
        broker.account(),
        broker.positions(),
        broker.orders(status="all"),
        broker.fills(),
        broker.assets(),
        broker.submit(sim.order_far_from_market(1)),
        broker.cancel("1"),
        broker.forbid_shorting(True),
        data.snapshots(["AAPL"]),
        data.bars(["AAPL"], "1Min", now - timedelta(hours=1), now),
        data.quotes(["AAPL"]),
    ):
        with pytest.raises(BrokerError) as raised:
            await call
        assert isinstance(raised.value, BrokerUnavailable)
    await broker.close()
    await data.close()
