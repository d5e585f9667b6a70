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
from tests.simulator.exchange_scenario import ExchangeScenario

KEYS = {"key": "demo", "secret": "demo"}
SHORT_TIMEOUTS = Timeouts(connect=1.0, read=1.5, total=2.5)  # a busy machine answers later than an idle one


@dataclass
class Venue:
    """An exchange, a client at its door, and a way to let market time pass."""

    broker: Broker
    clock: Clock
    advance: Callable[[float], Any]
    prefix: str

    def order_far_from_market(self, number: int, **changes: Any) -> OrderRequest:
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

    async def wait_for_status(self, broker_id: str, *statuses: str) -> OrderReport:
        """The order once it has one of the statuses."""
        for _ in range(60):
            report = await self.broker.order(broker_id, priority=Priority.EXIT)
            if report.broker_status in statuses:
                return report
            await self.advance(0.5)
        raise AssertionError(f"{report.broker_status} is none of {statuses}")


@dataclass
class SimulatedVenue(Venue):
    """Our own exchange, which can be broken and looked into."""

    scenario: ExchangeScenario
    server: SimulatorServer
    malformed: list[tuple[str, object]]

    def add_fault(self, kind: FaultKind, **rule: Any) -> None:
        self.scenario.add_fault(kind, **rule)

    async def print_trade(self, symbol: str, price: str, size: int = 100_000) -> None:
        """A trade a millisecond from now, and the exchange has seen it."""
        self.scenario.feed.add_trade(symbol, self.clock.now() + timedelta(milliseconds=1), price, size)
        await self.advance(0.002)
        self.server.exchange.venue.advance(self.clock.now())
        self.server.publish_changes()

    @property
    def stored_client_order_ids(self) -> list[str]:
        """The client ids the exchange itself knows, whatever the wire said."""
        return [
            one.client_order_id
            for one in self.scenario.exchange.state.order_store.orders.values()
            if one.parent_id is None
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
            timeouts=SHORT_TIMEOUTS,
            on_malformed=lambda reason, raw: malformed.append((reason, raw)),
            **KEYS,
        )

        async def advance(seconds: float) -> None:
            await clock.advance(timedelta(seconds=seconds))

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
    found: Venue = request.getfixturevalue("sim" if request.param == "simulator" else "paper")
    return found


# --- every exchange ----------------------------------------------------------------------------------------


async def test_broker_contract_reads_account_clock_and_calendar(venue: Venue) -> None:
    """Account, clock and calendar are understood, in money that is Decimal and times that are UTC."""
    account = await venue.broker.account()
    assert account.can_open_positions
    assert account.equity > 0
    reported = await venue.broker.clock()
    assert abs(reported.at - venue.clock.now()) < timedelta(seconds=30)
    assert reported.next_close > reported.at
    day = reported.at.astimezone(NEW_YORK).date()
    sessions = await venue.broker.calendar(day, day + timedelta(days=10))
    assert 6 <= len(sessions) <= 9
    assert all(one.open.tzinfo is UTC or one.open.utcoffset() == timedelta(0) for one in sessions)


async def test_broker_contract_reads_all_assets(venue: Venue) -> None:
    """Every listed asset is understood."""
    assets = {one.symbol: one for one in await venue.broker.assets()}
    assert assets["AAPL"].tradable
    assert assets["AAPL"].easy_to_borrow


async def test_broker_contract_submits_finds_and_cancels_an_order(venue: Venue) -> None:
    """Sent once, found by either id and in the list, its id taken for ever, cancelled, and not cancelable twice."""
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
    assert [one.broker_id for one in listed if one.client_order_id == request.client_order_id] == [
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
    """A bracket is one order with a take-profit and a stop under it, told apart by their types."""
    request = venue.order_far_from_market(
        2, order_class="bracket", take_profit=Decimal(9000), stop_loss=Decimal("0.9")
    )
    sent = await venue.broker.submit(request)
    nested = await venue.broker.order(sent.broker_id)
    assert sorted(one.order_type for one in nested.legs) == ["limit", "stop"]
    assert {one.limit_price or one.stop_price for one in nested.legs} == {Decimal(9000), Decimal("0.9")}
    assert {one.order_class for one in (nested, *nested.legs)} == {"bracket"}
    found = await venue.broker.order_by_client_id(request.client_order_id)
    assert {one.broker_id for one in found.legs} == {one.broker_id for one in nested.legs}
    await venue.wait_for_status(sent.broker_id, "new", "accepted")
    await venue.broker.cancel(sent.broker_id)
    await venue.wait_for_status(sent.broker_id, "canceled")


async def test_broker_contract_raises_not_found_for_unknown_ids(venue: Venue) -> None:
    """An unknown id is NotFound, by either door; a position that is not there is None."""
    with pytest.raises(NotFound):
        await venue.broker.order("00000000-0000-4000-8000-000000000000")
    with pytest.raises(NotFound):
        await venue.broker.order_by_client_id(f"{venue.prefix}-never")
    with pytest.raises((NotFound, OrderRejected)):
        await venue.broker.cancel("00000000-0000-4000-8000-000000000000")
    assert await venue.broker.position("TSLA") is None


async def test_broker_contract_classifies_rejections(venue: Venue) -> None:
    """More than there is money for, and an asset that does not exist, are plain refusals with our names."""
    with pytest.raises(OrderRejected) as poor:
        await venue.broker.submit(venue.order_far_from_market(3, quantity=Decimal(9_000_000)))
    assert poor.value.code == "INSUFFICIENT_BUYING_POWER"
    with pytest.raises(OrderRejected) as unknown:
        await venue.broker.submit(venue.order_far_from_market(4, symbol="NOSUCHX"))
    assert unknown.value.code == "NOT_TRADABLE"


async def test_broker_contract_returns_positions_and_fills_as_lists(venue: Venue) -> None:
    """The lists are lists, with or without anything in them."""
    assert isinstance(await venue.broker.positions(), list)
    recent = await venue.broker.fills(after=venue.clock.now() - timedelta(days=2))
    assert all(isinstance(one, Fill) for one in recent)


# --- an exchange that fills --------------------------------------------------------------------------------


async def test_bracket_exits_at_its_target_and_cancels_its_stop(sim: SimulatedVenue) -> None:
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
    await sim.print_trade("AAPL", "100")
    bought = await sim.wait_for_status(sent.broker_id, "filled")
    await sim.advance(1)
    legs = {one.order_type: one for one in (await sim.broker.order(sent.broker_id)).legs}
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
    assert sum(one.quantity for one in fills if one.broker_id == sent.broker_id) == 100
    assert (
        max(one.cum_qty for one in await sim.broker.fills(order_id=legs["limit"].broker_id))
        == legs["limit"].quantity
    )
    assert sim.malformed == []


async def test_oco_is_rejected_when_flat_and_accepted_for_a_position(sim: SimulatedVenue) -> None:
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
    with pytest.raises(OrderRejected) as refused:
        await sim.broker.submit(oco)
    assert refused.value.code == "NOT_EXIT"
    sim.scenario.given_position("AAPL", 100)
    await sim.advance(2)
    sent = await sim.broker.submit(oco, priority=Priority.EXIT)
    assert [one.order_type for one in (await sim.broker.order(sent.broker_id)).legs] == ["stop"]
    with pytest.raises(OrderRejected) as second:
        await sim.broker.submit(replace(oco, client_order_id="cat-oco-2"))
    assert second.value.code == "INSUFFICIENT_QTY"


async def test_order_list_of_three_pages_is_complete_and_sorted(sim: SimulatedVenue) -> None:
    """Over the real wire, more orders than two pages hold come back once each, oldest first."""
    for number in range(1_100):
        sim.scenario.submit("buy", 1, kind="limit", limit_price="1.01", client_order_id=f"many-{number}")
        if number % 3 == 0:
            sim.scenario.advance(0.01)
    await sim.advance((sim.scenario.now - sim.clock.now()).total_seconds() + 1)
    found = await sim.broker.orders(status="all")
    assert len(found) == len({one.broker_id for one in found}) == 1_100
    assert {one.client_order_id for one in found} == set(sim.stored_client_order_ids)
    times = [one.submitted_at for one in found if one.submitted_at is not None]
    assert times == sorted(times)


async def test_forbid_shorting_changes_the_account_only_when_it_differs(sim: SimulatedVenue) -> None:
    """The account's own lock is set when it differs, and a second time is no change."""
    assert await sim.broker.forbid_shorting(True)
    assert not await sim.broker.forbid_shorting(True)
    assert await sim.broker.forbid_shorting(False)


# --- an exchange that breaks -------------------------------------------------------------------------------

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
    """Whatever hid the answer: the outcome is unknown, the order is found by our id, and a resend meets itself."""
    sim.add_fault(kind, method="POST", route="/v2/orders", **rule)
    request = sim.order_far_from_market(1)
    with pytest.raises(OutcomeUnknown):
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
    """Seen from here it looks the same; the lookup says that it is not there, and the same id may go again."""
    sim.add_fault(kind, method="POST", route="/v2/orders", **rule)
    request = sim.order_far_from_market(1)
    with pytest.raises(OutcomeUnknown):
        await sim.broker.submit(request)
    with pytest.raises(NotFound):
        await sim.broker.order_by_client_id("cat-1")
    assert (await sim.broker.submit(request)).client_order_id == "cat-1"
    assert sim.stored_client_order_ids == ["cat-1"]


async def test_submit_after_429_may_reuse_the_client_order_id(sim: SimulatedVenue) -> None:
    """Refused at the door: nothing there, and the same id goes through afterwards."""
    sim.add_fault(FaultKind.RATE_LIMIT, method="POST")
    with pytest.raises(BrokerUnavailable):
        await sim.broker.submit(sim.order_far_from_market(1), priority=Priority.EXIT)
    assert sim.stored_client_order_ids == []
    await sim.broker.submit(sim.order_far_from_market(1), priority=Priority.EXIT)
    assert sim.stored_client_order_ids == ["cat-1"]


async def test_client_order_id_lookup_returns_not_found_until_the_order_is_visible(
    sim: SimulatedVenue,
) -> None:
    """The lookup may lag behind the order: its 404 is provisional."""
    sim.add_fault(FaultKind.VISIBILITY, seconds=3)
    await sim.broker.submit(sim.order_far_from_market(1))
    with pytest.raises(NotFound):
        await sim.broker.order_by_client_id("cat-1")
    await sim.advance(4)
    assert (await sim.broker.order_by_client_id("cat-1")).client_order_id == "cat-1"


async def test_wrong_keys_raise_auth_refused_on_every_endpoint_and_the_stream(sim: SimulatedVenue) -> None:
    """Wrong keys are named as such by every door, and by the stream."""
    broker = AlpacaBroker(sim.clock, base_url=sim.server.url, key="demo", secret="wrong")
    for asking in (broker.account(), broker.positions(), broker.submit(sim.order_far_from_market(1))):
        with pytest.raises(AuthRefused):
            await asking
    await broker.close()
    stream = AlpacaTradeUpdates(sim.clock, url=sim.server.stream_url, key="demo", secret="wrong")
    messages = stream.listen()
    first = await anext(messages)
    assert isinstance(first, StreamGap)
    assert first.state is StreamState.REFUSED
    await messages.aclose()


@pytest.mark.parametrize("field", ["filled_avg_price", "legs", "client_order_id", "asset_id", "submitted_at"])
async def test_order_list_survives_a_missing_optional_field(sim: SimulatedVenue, field: str) -> None:
    """A field that the broker stops to send costs itself; a new one costs nothing."""
    await sim.broker.submit(sim.order_far_from_market(1))
    sim.add_fault(FaultKind.REMOVE_FIELDS, method="GET", fields=[field])
    assert len(await sim.broker.orders(status="all")) == 1
    sim.add_fault(FaultKind.ADD_FIELDS, method="GET")
    assert len(await sim.broker.orders(status="all")) == 1
    assert sim.malformed == []


async def test_order_without_filled_quantity_is_reported_as_malformed(sim: SimulatedVenue) -> None:
    """An order without its filled quantity is not an order with none filled."""
    await sim.broker.submit(sim.order_far_from_market(1))
    sim.add_fault(FaultKind.REMOVE_FIELDS, method="GET", fields=["filled_qty"])
    assert await sim.broker.orders(status="all") == []
    assert len(sim.malformed) == 1


async def test_cancel_without_a_response_has_unknown_outcome(sim: SimulatedVenue) -> None:
    """A cancel that hung may have been heard: the order says."""
    sent = await sim.broker.submit(sim.order_far_from_market(1))
    await sim.wait_for_status(sent.broker_id, "new")
    sim.add_fault(FaultKind.HANG, method="DELETE")
    with pytest.raises(OutcomeUnknown):
        await sim.broker.cancel(sent.broker_id)
    await sim.wait_for_status(sent.broker_id, "canceled")


async def test_cancel_of_a_filled_order_is_rejected_as_not_cancelable(sim: SimulatedVenue) -> None:
    """The broker's no to a cancel says that there are fills to ask for."""
    sent = await sim.broker.submit(
        OrderRequest("cat-1", "AAPL", Side.BUY, Decimal(10), "market", "day"), priority=Priority.EXIT
    )
    await sim.print_trade("AAPL", "100")
    await sim.wait_for_status(sent.broker_id, "filled")
    with pytest.raises(OrderRejected) as refused:
        await sim.broker.cancel(sent.broker_id)
    assert refused.value.code == "NOT_CANCELABLE"


async def test_routine_calls_stop_before_the_exchange_limit_and_exits_pass(sim: SimulatedVenue) -> None:
    """Routine calls stop before the exchange's limit, no 429 is met, and exits still go through."""
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
    """A listener that keeps what it heard."""

    def __init__(self, sim: SimulatedVenue, **options: Any) -> None:
        self.stream = AlpacaTradeUpdates(sim.clock, url=sim.server.stream_url, **KEYS, **options)
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
        return [one.event for one in self.messages if isinstance(one, TradeUpdate)]

    @property
    def gaps(self) -> list[StreamState]:
        return [one.state for one in self.messages if isinstance(one, StreamGap)]

    async def wait_until_ready(self) -> None:
        async with asyncio.timeout(20):
            while self.stream.state is not StreamState.READY:  # noqa: ASYNC110 - a real socket
                await asyncio.sleep(0.01)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


@pytest.fixture
async def recorder(sim: SimulatedVenue) -> AsyncIterator[StreamRecorder]:
    listening = StreamRecorder(sim, ping_interval=0.2, pong_timeout=0.2)
    await listening.wait_until_ready()
    yield listening
    await listening.close()


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
        one.fill for one in recorder.messages if isinstance(one, TradeUpdate) and one.fill is not None
    ]
    ledger = await sim.broker.fills(order_id=sent.broker_id)
    assert [(one.broker_id, one.cum_qty, one.quantity, one.price) for one in streamed] == [
        (one.broker_id, one.cum_qty, one.quantity, one.price) for one in ledger
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
    """After anything the exchange can put on the socket, the next message is heard."""
    sim.add_fault(kind, event="new", **rule)
    first = await sim.broker.submit(sim.order_far_from_market(1))
    await sim.wait_for_status(first.broker_id, "new")
    second = await sim.broker.submit(sim.order_far_from_market(2))
    await sim.wait_for_status(second.broker_id, "new")
    await sim.advance(1)
    last = recorder.messages[-1]
    assert isinstance(last, TradeUpdate)
    assert (last.event, last.order.client_order_id) == ("new", "cat-2")
    assert any(isinstance(one, MalformedMessage) for one in recorder.messages) is malformed
    assert recorder.gaps == [StreamState.READY]


@pytest.mark.parametrize(
    "kind", [FaultKind.STREAM_DISCONNECT, FaultKind.STREAM_MUTE, FaultKind.STREAM_HALF_OPEN]
)
async def test_stream_reports_a_gap_and_reconnects_after_any_silence(
    sim: SimulatedVenue, recorder: StreamRecorder, kind: FaultKind
) -> None:
    """Closed, mute or half open: the gap is announced, and the stream comes back by itself."""
    await sim.advance(31)
    sim.add_fault(kind, event="new")
    before = sim.clock.now()
    sent = await sim.broker.submit(sim.order_far_from_market(1))
    await sim.wait_for_status(sent.broker_id, "new")
    if kind is FaultKind.STREAM_MUTE:
        await sim.advance(31)
    async with asyncio.timeout(20):
        while StreamState.LOST not in recorder.gaps:  # noqa: ASYNC110 - a real socket goes silent
            await asyncio.sleep(0.01)
    lost = next(
        one for one in recorder.messages if isinstance(one, StreamGap) and one.state is StreamState.LOST
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
    """A 429 on the handshake is a loss with a longer delay, not an end."""
    sim.add_fault(FaultKind.STREAM_BUSY)
    recorder = StreamRecorder(sim)
    async with asyncio.timeout(20):
        while not recorder.gaps:  # noqa: ASYNC110 - a real socket
            await asyncio.sleep(0.01)
    assert recorder.gaps == [StreamState.LOST]
    await sim.advance(6)
    await recorder.wait_until_ready()
    await recorder.close()


# --- market data -------------------------------------------------------------------------------------------


async def test_market_data_client_reads_a_synthetic_market() -> None:
    """Snapshots, bars, quotes, prints and headlines of the exchange's own market, through the whole wire."""
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
        broker.submit(sim.order_far_from_market(1)),
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
