"""The trade_updates stream against a peer that plays the broker's socket, well and badly."""

import asyncio
import http
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise
from typing import Any

import orjson
import pytest
from websockets.asyncio.server import Request, Response, Server, ServerConnection, serve

from catalyst.broker.port import Gap, Garbled, StreamState
from catalyst.broker.trade_updates import AlpacaTradeUpdates, Message
from catalyst.clock import ManualClock
from catalyst.domain.report import TradeUpdate
from tests.broker.scripted_server import KEY, SECRET, order_json

Script = Callable[[ServerConnection], Awaitable[None]]
OK = {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}
NO = {"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}}
LISTENING = {"stream": "listening", "data": {"streams": ["trade_updates"]}}


def update(event: str = "new", **changes: object) -> dict[str, Any]:
    return {
        "stream": "trade_updates",
        "data": {
            "event": event,
            "execution_id": "ex-1",
            "timestamp": "2026-11-20T15:04:20.182987144Z",
            "order": order_json(status="new"),
            **changes,
        },
    }


def partial_fill(filled: str, **changes: object) -> dict[str, Any]:
    order = order_json(status="partially_filled", filled_qty=filled, filled_avg_price="100.05")
    return update(
        "partial_fill", order=order, **{"qty": "3", "price": "100.05", "position_qty": "3", **changes}
    )


async def admit(connection: ServerConnection, *, binary: bool = True) -> None:
    """Log in and listen, as the broker does: its frames are binary and carry JSON."""

    async def say(message: object) -> None:
        raw = orjson.dumps(message)
        await connection.send(raw if binary else raw.decode())

    login = orjson.loads(await connection.recv())
    assert login == {"action": "authenticate", "data": {"key_id": KEY, "secret_key": SECRET}}
    await say(OK)
    listen = orjson.loads(await connection.recv())
    assert listen == {"action": "listen", "data": {"streams": ["trade_updates"]}}
    await say(LISTENING)


def sends(*frames: object, then_close: bool = False, binary: bool = True) -> Script:
    """Admits, sends the frames (bytes and text as they are), and stays, or hangs up."""

    async def script(connection: ServerConnection) -> None:
        await admit(connection, binary=binary)
        for frame in frames:
            await connection.send(frame if isinstance(frame, (bytes, str)) else orjson.dumps(frame))
        if not then_close:
            await stay(connection)

    return script


async def stay(connection: ServerConnection) -> None:
    """Acknowledge what is asked until the other side goes."""
    async for raw in connection:
        assert orjson.loads(raw)["action"] == "listen"
        await connection.send(orjson.dumps(LISTENING))


class Socket:
    """A broker's socket: each connection plays the next script, the last one stays."""

    def __init__(self, *scripts: Script, refuse: dict[int, int] | None = None) -> None:
        self._scripts = list(scripts)
        self._refuse = refuse or {}  # connection number -> HTTP status
        self.connections = 0
        self.agents: list[str] = []
        self.url = ""

    async def play(self, connection: ServerConnection) -> None:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        await script(connection)

    def handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        self.connections += 1
        self.agents.append(request.headers["User-Agent"])
        status = self._refuse.get(self.connections)
        return None if status is None else connection.respond(http.HTTPStatus(status), "no\n")


@asynccontextmanager
async def listening(
    clock: ManualClock, socket: Socket, **options: Any
) -> AsyncIterator[tuple[AlpacaTradeUpdates, AsyncIterator[Message]]]:
    server: Server
    async with serve(
        socket.play, "127.0.0.1", 0, process_request=socket.handshake, ping_interval=None, close_timeout=0.1
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        socket.url = f"ws://127.0.0.1:{port}/stream"
        stream = AlpacaTradeUpdates(clock, url=socket.url, key=KEY, secret=SECRET, epoch=3, **options)
        messages = stream.listen()
        async with aclosing(messages):  # type: ignore[type-var]
            yield stream, messages


async def heard(messages: AsyncIterator[Message], count: int) -> list[Message]:
    """The next `count` messages; a message that never comes fails the test instead of hanging it."""
    async with asyncio.timeout(20):
        return [await anext(messages) for _ in range(count)]


async def after_backoff(clock: ManualClock, messages: AsyncIterator[Message]) -> Message:
    """The next message, as soon as enough market time has passed for it, to a quarter of a second."""
    waiting = asyncio.ensure_future(anext(messages))
    for _ in range(300):
        await clock.advance(timedelta(seconds=0.25))
        if waiting.done():
            break
    async with asyncio.timeout(20):
        return await waiting


@pytest.mark.parametrize("binary", [True, False])
async def test_ready_is_announced_before_the_first_message(clock: ManualClock, binary: bool) -> None:
    """Text or binary, the first thing heard is that the stream listens; then come the updates."""
    socket = Socket(sends(update(), binary=binary))
    async with listening(clock, socket) as (stream, messages):
        assert stream.state is StreamState.CONNECTING
        ready, first = await heard(messages, 2)
        assert ready == Gap(StreamState.READY, None, "listening")
        assert isinstance(first, TradeUpdate)
        assert (first.event, first.order.broker_status, first.fill) == ("new", "new", None)
        assert stream.state is StreamState.READY
    assert socket.agents[0].startswith("catalyst/")
    assert socket.agents[0].endswith(" epoch/3")
    assert stream.state is StreamState.LOST


async def test_c12_a_fill_is_this_executions(clock: ManualClock) -> None:
    """Price and quantity are the execution's, the cumulative quantity is the order's."""
    socket = Socket(sends(partial_fill("7")))
    async with listening(clock, socket) as (_, messages):
        _, message = await heard(messages, 2)
    assert isinstance(message, TradeUpdate)
    assert message.fill is not None
    assert (message.fill.quantity, message.fill.cum_qty, message.fill.price) == (3, 7, Decimal("100.05"))
    assert (message.position_qty, message.fill.execution_id) == (3, "ex-1")
    assert message.fill.at == datetime(2026, 11, 20, 15, 4, 20, 182987, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes",
    [{"price": None}, {"qty": None}, {"qty": "0"}, {"qty": "8"}],
)
async def test_a_fill_without_its_numbers_keeps_its_order(
    clock: ManualClock, changes: dict[str, object]
) -> None:
    """An execution that does not say how much or at what price is not made up; the order says there was one."""
    socket = Socket(sends(partial_fill("7", **changes)))
    async with listening(clock, socket) as (_, messages):
        _, message = await heard(messages, 2)
    assert isinstance(message, TradeUpdate)
    assert (message.fill, message.order.filled_qty) == (None, 7)


async def test_c36_nothing_that_arrives_ends_the_stream(clock: ManualClock) -> None:
    """Null data, broken JSON, unknown streams, error frames, bad orders: each is handed on raw, and the next comes."""
    bad: list[bytes] = [
        b'{"stream":"trade_updates","data":null}',
        b'{"stream":"trade_updates"',
        b"\xff\xfe",
        b"",
        b"[]",
        b"null",
        b'{"stream":"weather","data":{}}',
        b'{"action":"error","data":{"error_message":"internal server error"}}',
        orjson.dumps(update(order=None)),
        orjson.dumps(update(order=order_json(qty=None))),
        orjson.dumps(update(event=None)),
        orjson.dumps(update(price="cheap", event="fill")),
    ]
    socket = Socket(sends(*bad, update("a_new_event")))
    async with listening(clock, socket) as (stream, messages):
        _, *garbled, last = await heard(messages, len(bad) + 2)
        assert [one.raw for one in garbled if isinstance(one, Garbled)] == bad
        assert isinstance(last, TradeUpdate)
        assert last.event == "a_new_event"
        assert (
            stream.frames_received == len(bad) - 1
        )  # the broker's word of its own error is no frame of the stream


async def test_c14_an_unknown_status_is_an_update(clock: ManualClock) -> None:
    """A word nobody knows travels on; deciding what it means is not the stream's."""
    socket = Socket(sends(update("held_for_review", order=order_json(status="thinking", new_field=1))))
    async with listening(clock, socket) as (_, messages):
        _, message = await heard(messages, 2)
    assert isinstance(message, TradeUpdate)
    assert message.order.broker_status == "thinking"


async def test_a_bad_leg_is_told_beside_its_order(clock: ManualClock) -> None:
    """The order is heard, and so is that a part of it was not understood; one frame counts once."""
    socket = Socket(sends(update(order=order_json(legs=[{"id": "leg"}])), update()))
    async with listening(clock, socket) as (stream, messages):
        _, first, second, third = await heard(messages, 4)
        assert [type(one) for one in (first, second, third)] == [TradeUpdate, Garbled, TradeUpdate]
        assert stream.frames_received == 1


async def test_c34_a_lost_connection_is_announced_twice(clock: ManualClock) -> None:
    """Lost since the last word, and ready again since then: what lay between must be asked for."""
    socket = Socket(sends(update(), then_close=True), sends(update("canceled")))
    async with listening(clock, socket) as (stream, messages):
        await heard(messages, 2)
        since = clock.now()
        (lost,) = await heard(messages, 1)
        assert isinstance(lost, Gap)
        assert (lost.state, lost.since) == (StreamState.LOST, since)
        assert stream.state is StreamState.LOST
        ready = await after_backoff(clock, messages)
        assert ready == Gap(StreamState.READY, since, "listening")
        assert clock.now() > since
        (after,) = await heard(messages, 1)
        assert isinstance(after, TradeUpdate)
        assert after.event == "canceled"
    assert socket.connections == 2


async def test_c38_a_half_open_socket_is_noticed(clock: ManualClock) -> None:
    """A peer that is gone without a goodbye answers no ping, and that is a loss within seconds."""

    async def freezes(connection: ServerConnection) -> None:
        await admit(connection)
        connection.transport.pause_reading()
        await noticed.wait()
        connection.transport.abort()

    noticed = asyncio.Event()
    socket = Socket(freezes)
    async with listening(clock, socket, ping=0.05, pong=0.05) as (_, messages):
        _, lost = await heard(messages, 2)
        noticed.set()
    assert isinstance(lost, Gap)
    assert lost.state is StreamState.LOST
    assert "ping timeout" in lost.reason


def acknowledging(times: int, *frames: object) -> Script:
    """Admits, acknowledges that many repeated listens, and is deaf to the others; pings are always answered."""

    async def script(connection: ServerConnection) -> None:
        await admit(connection)
        for _ in range(times):
            assert orjson.loads(await connection.recv())["action"] == "listen"
            await connection.send(orjson.dumps(LISTENING))
        for frame in frames:
            await connection.send(orjson.dumps(frame))
        await connection.wait_closed()

    return script


async def test_c34_a_mute_stream_is_noticed(clock: ManualClock) -> None:
    """A socket that answers pings and no more questions, having answered them before, is a loss."""
    async with listening(clock, Socket(acknowledging(2), sends()), pong=0.1) as (stream, messages):
        await heard(messages, 1)
        waiting = asyncio.ensure_future(anext(messages))
        await clock.advance(timedelta(seconds=61))
        assert stream.state is StreamState.READY
        await clock.advance(timedelta(seconds=31))
        lost = await waiting
    assert isinstance(lost, Gap)
    assert (lost.state, lost.reason) == (StreamState.LOST, "mute")


async def test_a_server_that_does_not_repeat_itself_is_left_alone(clock: ManualClock) -> None:
    """Where a repeated listen was never acknowledged, its silence proves nothing."""
    socket = Socket(acknowledging(0))
    async with listening(clock, socket, pong=0.1) as (stream, messages):
        await heard(messages, 1)
        waiting = asyncio.ensure_future(anext(messages))
        await clock.advance(timedelta(minutes=5))
        assert not waiting.done()
        assert stream.state is StreamState.READY
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert socket.connections == 1


@pytest.mark.parametrize("silent_from", ["login", "listen"])
async def test_c37_an_admission_that_is_never_answered_is_a_loss(
    clock: ManualClock, silent_from: str
) -> None:
    """A server that opens the socket and then says nothing does not hold us for ever."""

    async def mute(connection: ServerConnection) -> None:
        await connection.recv()
        if silent_from == "listen":
            await connection.send(orjson.dumps(OK))
        await connection.wait_closed()

    socket = Socket(mute)
    async with listening(clock, socket, open_within=0.2) as (_, messages):
        (lost,) = await heard(messages, 1)
    assert isinstance(lost, Gap)
    assert (lost.state, lost.since) == (StreamState.LOST, None)


async def test_c35_a_refused_login_is_surfaced_and_tried_slowly(clock: ManualClock) -> None:
    """Refused keys are not an outage: they are announced as such, and tried again twice a minute at most."""

    async def refuses(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(orjson.dumps(NO))
        await connection.wait_closed()

    socket = Socket(refuses, refuses, sends(update()))
    async with listening(clock, socket) as (stream, messages):
        (refused,) = await heard(messages, 1)
        assert isinstance(refused, Gap)
        assert refused.state is StreamState.REFUSED
        assert SECRET not in refused.reason
        waiting = asyncio.ensure_future(anext(messages))
        await clock.advance(timedelta(seconds=29))
        assert socket.connections == 1
        await clock.advance(timedelta(seconds=2))
        assert socket.connections == 2
        assert stream.state is StreamState.REFUSED
        await clock.advance(timedelta(seconds=31))
        assert await waiting == Gap(StreamState.READY, None, "listening")


async def test_c35_keys_that_stop_opening_are_surfaced(clock: ManualClock) -> None:
    """A login that is withdrawn while we listen is a refusal, not a message."""
    socket = Socket(sends(NO))
    async with listening(clock, socket) as (_, messages):
        _, refused = await heard(messages, 2)
    assert isinstance(refused, Gap)
    assert refused.state is StreamState.REFUSED


@pytest.mark.parametrize(
    ("status", "state", "wait"),
    [
        (429, StreamState.LOST, 5),
        (401, StreamState.REFUSED, 30),
        (403, StreamState.REFUSED, 30),
        (503, StreamState.LOST, 0.5),
    ],
)
async def test_a_refused_handshake_says_which(
    clock: ManualClock, status: int, state: StreamState, wait: float
) -> None:
    """429 is our own last connection, not yet reaped: come back a little later. 401 is the keys."""
    socket = Socket(sends(update()), refuse={1: status})
    async with listening(clock, socket) as (_, messages):
        (gap,) = await heard(messages, 1)
        assert isinstance(gap, Gap)
        assert gap.state is state
        assert str(status) in gap.reason
        waiting = asyncio.ensure_future(anext(messages))
        await clock.advance(timedelta(seconds=wait * 0.9))
        assert socket.connections == 1
        await clock.advance(timedelta(seconds=wait * 0.1 + 1))
        assert await waiting == Gap(StreamState.READY, None, "listening")


async def test_a_redirect_is_not_followed(clock: ManualClock) -> None:
    """The login goes to the host that was named, and to no other."""
    elsewhere = Socket(sends(update()))

    async with listening(clock, elsewhere) as (_, _unused):

        class Redirecting(Socket):
            def handshake(self, connection: ServerConnection, request: Request) -> Response | None:
                response = connection.respond(http.HTTPStatus.FOUND, "")
                response.headers["Location"] = elsewhere.url
                return response

        async with listening(clock, Redirecting(sends())) as (_, messages):
            (gap,) = await heard(messages, 1)
    assert isinstance(gap, Gap)
    assert gap.state is StreamState.LOST
    assert elsewhere.connections == 0


async def test_attempts_grow_rare_and_are_repeatable() -> None:
    """A broker that refuses is asked at most twelve times in the first minute, and the same way each time."""
    attempts: list[list[datetime]] = []
    for _ in range(2):
        clock = ManualClock(datetime(2026, 11, 20, 15, 4, tzinfo=UTC))
        socket = Socket(sends(), refuse=dict.fromkeys(range(1, 100), 503))
        times: list[datetime] = []
        async with listening(clock, socket) as (_, messages):
            await heard(messages, 1)
            waiting = asyncio.ensure_future(anext(messages))
            for _ in range(600):
                if len(times) < socket.connections:
                    times.append(clock.now())
                await clock.advance(timedelta(seconds=0.5))
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        attempts.append(times)
    first, second = attempts
    assert first == second
    assert 5 <= len([at for at in first if at - first[0] <= timedelta(minutes=1)]) <= 12
    assert max(later - at for at, later in pairwise(first)) <= timedelta(seconds=31)


async def test_a_flapping_stream_is_asked_ever_more_rarely(clock: ManualClock) -> None:
    """A stream that flaps is asked ever more rarely."""
    closing = sends(then_close=True)

    socket = Socket(closing)
    delays = []
    async with listening(clock, socket) as (_, messages):
        await heard(messages, 1)
        for _ in range(6):
            (lost,) = await heard(messages, 1)
            assert isinstance(lost, Gap)
            since = clock.now()
            assert await after_backoff(clock, messages) == Gap(StreamState.READY, lost.since, "listening")
            delays.append((clock.now() - since).total_seconds())
    assert all(2**n / 2 <= delay <= 2**n + 0.25 for n, delay in enumerate(delays[:5]))
    assert 15 <= delays[5] <= 30.25


async def test_a_steady_stream_is_asked_again_at_once(clock: ManualClock) -> None:
    """After a stream that held half a minute the delays begin anew, whatever they had grown to."""
    closing = sends(then_close=True)
    may_end = asyncio.Event()

    async def steady(connection: ServerConnection) -> None:
        await admit(connection)
        staying = asyncio.create_task(stay(connection))
        await may_end.wait()
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)

    socket = Socket(closing, closing, closing, steady, sends())
    async with listening(clock, socket) as (stream, messages):
        await heard(messages, 2)
        for _ in range(2):
            await after_backoff(clock, messages)
            await heard(messages, 1)
        await after_backoff(clock, messages)
        await clock.advance(timedelta(seconds=31))
        assert stream.state is StreamState.READY
        may_end.set()
        await heard(messages, 1)
        before = clock.now()
        assert isinstance(await after_backoff(clock, messages), Gap)
        assert clock.now() - before <= timedelta(seconds=1)
    assert socket.connections == 5


async def test_c36_too_many_waiting_become_a_gap(clock: ManualClock) -> None:
    """A listener that falls behind is told of a gap instead of the messages; the socket is read on."""
    flood = asyncio.Event()

    async def floods(connection: ServerConnection) -> None:
        await admit(connection)
        await flood.wait()
        for _ in range(25):
            await connection.send(orjson.dumps(update()))
        await connection.wait_closed()

    async with listening(clock, Socket(floods), most_waiting=10) as (stream, messages):
        await heard(messages, 1)
        flood.set()
        async with asyncio.timeout(20):
            while stream.frames_received + len(stream._waiting) < 25:  # noqa: ASYNC110 - the socket is real
                await asyncio.sleep(0.01)
        lost, again = await heard(messages, 2)
        assert isinstance(lost, Gap)
        assert isinstance(again, Gap)
        assert (lost.state, again.state) == (StreamState.LOST, StreamState.READY)
        assert lost.since == again.since == clock.now()
        rest = await heard(messages, 25 - stream.frames_received)
        assert [type(one) for one in rest] == [TradeUpdate] * len(rest)
        assert stream.frames_received == 24


async def test_a_frame_counts_once_its_listener_came_back(clock: ManualClock) -> None:
    """`frames_received` counts what has had its effect, so a test may wait for it instead of for a while."""
    socket = Socket(sends(update(), update()))
    async with listening(clock, socket) as (stream, messages):
        await heard(messages, 2)
        assert stream.frames_received == 0
        await heard(messages, 1)
        assert stream.frames_received == 1


async def test_what_waits_is_handed_over_and_counts_with_what_it_came_behind(clock: ManualClock) -> None:
    """A slow listener takes what has come meanwhile, in order, unread frames included; nothing of it counts as dealt
    with before he asks for the next message."""
    frames = [update(order=order_json(legs=[{"id": "leg"}])), update("a"), b"{", update("b"), update("c")]
    async with listening(clock, Socket(sends(*frames))) as (stream, messages):
        _, first = await heard(messages, 2)
        async with asyncio.timeout(20):
            while len(stream._waiting) < 4:  # noqa: ASYNC110 - the socket is real
                await asyncio.sleep(0.01)
        taken = stream.waiting(3)
        assert isinstance(first, TradeUpdate)
        assert [one.event if isinstance(one, TradeUpdate) else "" for one in taken] == ["", "a", "", "b"]
        assert stream.frames_received == 0
        (last,) = await heard(messages, 1)
        assert isinstance(last, TradeUpdate)
        assert last.event == "c"
        assert stream.frames_received == 4


async def test_a_gap_is_never_taken_for_a_message(clock: ManualClock) -> None:
    """What waits ends where the stream was lost: the listener hears of that first."""
    socket = Socket(sends(update(), update("a"), then_close=True), sends(update("b")))
    async with listening(clock, socket) as (stream, messages):
        await heard(messages, 2)
        async with asyncio.timeout(20):
            while len(stream._waiting) < 2:  # noqa: ASYNC110 - the socket is real
                await asyncio.sleep(0.01)
        assert len(stream.waiting(64)) == 1
        assert stream.waiting(64) == []
        (lost,) = await heard(messages, 1)
        assert isinstance(lost, Gap)


async def test_the_handshake_holds_the_clock(clock: ManualClock) -> None:
    """Market time stands while the stream is being opened, so a test's reconnect is over before the next tick."""
    may_go_on = asyncio.Event()

    async def slow(connection: ServerConnection) -> None:
        await may_go_on.wait()
        await admit(connection)
        await stay(connection)

    async with listening(clock, Socket(slow)) as (_, messages):
        waiting = asyncio.ensure_future(anext(messages))
        passing = asyncio.create_task(clock.advance(timedelta(minutes=1)))
        await asyncio.sleep(0.05)
        assert clock.now() == datetime(2026, 11, 20, 15, 4, tzinfo=UTC)
        may_go_on.set()
        assert await waiting == Gap(StreamState.READY, None, "listening")
        await passing
        assert clock.now() == datetime(2026, 11, 20, 15, 5, tzinfo=UTC)


async def test_the_secret_shows_nowhere(clock: ManualClock, caplog: pytest.LogCaptureFixture) -> None:
    """The stream's representation, gaps and logs do not have the keys in them."""
    caplog.set_level("INFO")
    async with listening(clock, Socket(sends(NO))) as (stream, messages):
        gaps = await heard(messages, 2)
    shown = [repr(stream), repr(vars(stream)), repr(gaps), caplog.text]
    assert not [text for text in shown if SECRET in text or KEY in text]
