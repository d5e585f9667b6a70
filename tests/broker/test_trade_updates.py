"""The trade_updates stream against a scripted WebSocket server, with and without faults."""

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

from catalyst.broker.port import MalformedMessage, StreamGap, StreamState
from catalyst.broker.trade_updates import StreamMessage
from catalyst.clock import ManualClock
from catalyst.domain.report import TradeUpdate
from tests.broker.scripted_server import KEY, SECRET, order_json
from tests.broker.unhurried_stream import UnhurriedStream
from tests.waiting import LIMIT_S, run_loop_turns, wait_until

Script = Callable[[ServerConnection], Awaitable[None]]
AUTHORIZED = {"stream": "authorization", "data": {"status": "authorized", "action": "authenticate"}}
UNAUTHORIZED = {"stream": "authorization", "data": {"status": "unauthorized", "action": "authenticate"}}
LISTENING = {"stream": "listening", "data": {"streams": ["trade_updates"]}}


def update_message(event: str = "new", **changes: object) -> dict[str, Any]:
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


def partial_fill_message(filled: str, **changes: object) -> dict[str, Any]:
    order = order_json(status="partially_filled", filled_qty=filled, filled_avg_price="100.05")
    return update_message(
        "partial_fill", order=order, **{"qty": "3", "price": "100.05", "position_qty": "3", **changes}
    )


async def accept_login(connection: ServerConnection, *, binary: bool = True) -> None:
    """Accept login and listen as the broker does: its frames are binary and hold JSON."""

    async def send(message: object) -> None:
        raw = orjson.dumps(message)
        await connection.send(raw if binary else raw.decode())

    login = orjson.loads(await connection.recv())
    assert login == {"action": "authenticate", "data": {"key_id": KEY, "secret_key": SECRET}}
    await send(AUTHORIZED)
    listen = orjson.loads(await connection.recv())
    assert listen == {"action": "listen", "data": {"streams": ["trade_updates"]}}
    await send(LISTENING)


def send_frames(*frames: object, then_close: bool = False, binary: bool = True) -> Script:
    """Return a script that accepts the login, sends the frames (bytes and text unchanged), then stays or
    closes."""

    async def script(connection: ServerConnection) -> None:
        await accept_login(connection, binary=binary)
        for frame in frames:
            await connection.send(frame if isinstance(frame, (bytes, str)) else orjson.dumps(frame))
        if not then_close:
            await acknowledge_listens(connection)

    return script


async def acknowledge_listens(connection: ServerConnection) -> None:
    """Acknowledge each listen until the client disconnects."""
    async for raw in connection:
        assert orjson.loads(raw)["action"] == "listen"
        await connection.send(orjson.dumps(LISTENING))


class ScriptedSocket:
    """WebSocket endpoint: each connection plays the next script, the last one repeats."""

    def __init__(self, *scripts: Script, refuse: dict[int, int] | None = None) -> None:
        self._scripts = list(scripts)
        self._refuse = refuse or {}  # connection number -> HTTP status
        self.connections = 0
        self.user_agents: list[str] = []
        self.url = ""

    async def run_next_script(self, connection: ServerConnection) -> None:
        script = self._scripts.pop(0) if len(self._scripts) > 1 else self._scripts[0]
        await script(connection)

    def handshake(self, connection: ServerConnection, request: Request) -> Response | None:
        self.connections += 1
        self.user_agents.append(request.headers["User-Agent"])
        status = self._refuse.get(self.connections)
        return None if status is None else connection.respond(http.HTTPStatus(status), "no\n")


@asynccontextmanager
async def connected_stream(
    clock: ManualClock, socket: ScriptedSocket, **options: Any
) -> AsyncIterator[tuple[UnhurriedStream, AsyncIterator[StreamMessage]]]:
    server: Server
    async with serve(
        socket.run_next_script,
        "127.0.0.1",
        0,
        process_request=socket.handshake,
        ping_interval=None,
        close_timeout=0.1,
    ) as server:
        port = next(iter(server.sockets)).getsockname()[1]
        socket.url = f"ws://127.0.0.1:{port}/stream"
        stream = UnhurriedStream(clock, url=socket.url, key=KEY, secret=SECRET, epoch=3, **options)
        messages = stream.listen()
        async with aclosing(messages):  # type: ignore[type-var]
            yield stream, messages


async def next_messages(messages: AsyncIterator[StreamMessage], count: int) -> list[StreamMessage]:
    """Return the next `count` messages; a missing message fails the test instead of hanging it."""
    async with asyncio.timeout(LIMIT_S):
        return [await anext(messages) for _ in range(count)]


async def next_message_after_backoff(
    clock: ManualClock, messages: AsyncIterator[StreamMessage]
) -> StreamMessage:
    """Return the next message, advancing market time in steps of a quarter of a second until it arrives."""
    waiting = asyncio.ensure_future(anext(messages))
    for _ in range(300):
        await clock.advance(timedelta(seconds=0.25))
        if waiting.done():
            break
    async with asyncio.timeout(LIMIT_S):
        return await waiting


@pytest.mark.parametrize("binary", [True, False])
async def test_stream_reports_ready_before_the_first_update(clock: ManualClock, binary: bool) -> None:
    """In text and in binary, READY is the first message; the updates follow."""
    socket = ScriptedSocket(send_frames(update_message(), binary=binary))
    async with connected_stream(clock, socket) as (stream, messages):
        assert stream.state is StreamState.CONNECTING
        ready, first = await next_messages(messages, 2)
        assert ready == StreamGap(StreamState.READY, None, "listening")
        assert isinstance(first, TradeUpdate)
        assert (first.event, first.order.broker_status, first.fill) == ("new", "new", None)
        assert stream.state is StreamState.READY
    assert socket.user_agents[0].startswith("catalyst/")
    assert socket.user_agents[0].endswith(" epoch/3")
    assert stream.state is StreamState.LOST


@pytest.mark.promise("C12")
async def test_stream_fill_has_the_price_and_quantity_of_its_execution(clock: ManualClock) -> None:
    """Price and quantity are the execution's; the cumulative quantity is the order's."""
    socket = ScriptedSocket(send_frames(partial_fill_message("7")))
    async with connected_stream(clock, socket) as (_, messages):
        _, message = await next_messages(messages, 2)
    assert isinstance(message, TradeUpdate)
    assert message.fill is not None
    assert (message.fill.quantity, message.fill.cum_qty, message.fill.price) == (3, 7, Decimal("100.05"))
    assert (message.position_qty, message.fill.execution_id) == (3, "ex-1")
    assert message.fill.at == datetime(2026, 11, 20, 15, 4, 20, 182987, tzinfo=UTC)


@pytest.mark.parametrize(
    "changes",
    [{"price": None}, {"qty": None}, {"qty": "0"}, {"qty": "8"}],
)
async def test_stream_update_without_fill_numbers_keeps_its_order(
    clock: ManualClock, changes: dict[str, object]
) -> None:
    """An execution without a valid quantity or price gives no fill; the order still has its filled quantity."""
    socket = ScriptedSocket(send_frames(partial_fill_message("7", **changes)))
    async with connected_stream(clock, socket) as (_, messages):
        _, message = await next_messages(messages, 2)
    assert isinstance(message, TradeUpdate)
    assert (message.fill, message.order.filled_qty) == (None, 7)


@pytest.mark.promise("C36")
async def test_stream_reports_malformed_frames_and_continues(clock: ManualClock) -> None:
    """Null data, broken JSON, unknown streams, error frames and bad orders are each reported raw, and the
    next frame is read."""
    bad: list[bytes] = [
        b'{"stream":"trade_updates","data":null}',
        b'{"stream":"trade_updates"',
        b"\xff\xfe",
        b"",
        b"[]",
        b"null",
        b'{"stream":"weather","data":{}}',
        b'{"action":"error","data":{"error_message":"internal server error"}}',
        orjson.dumps(update_message(order=None)),
        orjson.dumps(update_message(order=order_json(qty=None))),
        orjson.dumps(update_message(event=None)),
        orjson.dumps(update_message(price="cheap", event="fill")),
    ]
    socket = ScriptedSocket(send_frames(*bad, update_message("a_new_event")))
    async with connected_stream(clock, socket) as (stream, messages):
        _, *malformed, last = await next_messages(messages, len(bad) + 2)
        assert [message.raw for message in malformed if isinstance(message, MalformedMessage)] == bad
        assert isinstance(last, TradeUpdate)
        assert last.event == "a_new_event"
        # The broker's report of its own error is no frame of the stream.
        assert stream.frames_processed == len(bad) - 1


@pytest.mark.promise("C14")
async def test_stream_passes_on_an_unknown_order_status(clock: ManualClock) -> None:
    """An unknown status is passed on; the stream does not interpret it."""
    socket = ScriptedSocket(
        send_frames(update_message("held_for_review", order=order_json(status="thinking", new_field=1)))
    )
    async with connected_stream(clock, socket) as (_, messages):
        _, message = await next_messages(messages, 2)
    assert isinstance(message, TradeUpdate)
    assert message.order.broker_status == "thinking"


async def test_stream_reports_a_malformed_leg_after_its_order(clock: ManualClock) -> None:
    """The order is delivered and then its malformed leg is reported; the frame counts once."""
    socket = ScriptedSocket(
        send_frames(update_message(order=order_json(legs=[{"id": "leg"}])), update_message())
    )
    async with connected_stream(clock, socket) as (stream, messages):
        _, first, second, third = await next_messages(messages, 4)
        assert [type(message) for message in (first, second, third)] == [
            TradeUpdate,
            MalformedMessage,
            TradeUpdate,
        ]
        assert stream.frames_processed == 1


@pytest.mark.promise("C34")
async def test_lost_stream_reports_lost_then_ready_since_the_last_message(clock: ManualClock) -> None:
    """LOST and the READY after it name the time of the last message; the updates in between must be read by
    polling."""
    socket = ScriptedSocket(
        send_frames(update_message(), then_close=True), send_frames(update_message("canceled"))
    )
    async with connected_stream(clock, socket) as (stream, messages):
        await next_messages(messages, 2)
        since = clock.now()
        (lost,) = await next_messages(messages, 1)
        assert isinstance(lost, StreamGap)
        assert (lost.state, lost.since) == (StreamState.LOST, since)
        assert stream.state is StreamState.LOST
        ready = await next_message_after_backoff(clock, messages)
        assert ready == StreamGap(StreamState.READY, since, "listening")
        assert clock.now() > since
        (after,) = await next_messages(messages, 1)
        assert isinstance(after, TradeUpdate)
        assert after.event == "canceled"
    assert socket.connections == 2


@pytest.mark.promise("C38")
async def test_stream_detects_a_half_open_socket_by_ping(clock: ManualClock) -> None:
    """A peer that is gone without a close frame answers no ping, which is a loss within seconds."""

    async def freeze(connection: ServerConnection) -> None:
        await accept_login(connection)
        connection.transport.pause_reading()
        frozen.set()
        await noticed.wait()
        connection.transport.abort()

    frozen, noticed = asyncio.Event(), asyncio.Event()
    socket = ScriptedSocket(freeze)
    async with connected_stream(clock, socket) as (stream, messages):
        await next_messages(messages, 1)
        await frozen.wait()
        stream.limit_pongs()
        (lost,) = await next_messages(messages, 1)
        noticed.set()
    assert isinstance(lost, StreamGap)
    assert lost.state is StreamState.LOST
    assert "ping timeout" in lost.reason


def acknowledge_limited_listens(times: int, *frames: object) -> Script:
    """Return a script that accepts the login, acknowledges `times` repeated listens and ignores later ones;
    pings are always answered."""

    async def script(connection: ServerConnection) -> None:
        await accept_login(connection)
        for _ in range(times):
            assert orjson.loads(await connection.recv())["action"] == "listen"
            await connection.send(orjson.dumps(LISTENING))
        for frame in frames:
            await connection.send(orjson.dumps(frame))
        await connection.wait_closed()

    return script


@pytest.mark.promise("C34")
async def test_stream_detects_a_server_that_stops_acknowledging_listen(clock: ManualClock) -> None:
    """A socket that still answers pings but no longer acknowledges listens is a loss."""
    socket = ScriptedSocket(acknowledge_limited_listens(2), send_frames())
    async with connected_stream(clock, socket) as (stream, messages):
        await next_messages(messages, 1)
        waiting = asyncio.ensure_future(anext(messages))
        await clock.advance(timedelta(seconds=61))
        assert stream.state is StreamState.READY
        stream.limit_acknowledgements()
        await clock.advance(timedelta(seconds=31))
        lost = await waiting
    assert isinstance(lost, StreamGap)
    assert (lost.state, lost.reason) == (StreamState.LOST, "probe unanswered")


async def test_stream_stays_connected_when_listen_was_never_acknowledged_again(clock: ManualClock) -> None:
    """A server that never acknowledged a repeated listen is not lost when it ignores the next one."""
    socket = ScriptedSocket(acknowledge_limited_listens(0))
    async with connected_stream(clock, socket) as (stream, messages):
        await next_messages(messages, 1)
        stream.limit_acknowledgements()
        waiting = asyncio.ensure_future(anext(messages))
        await clock.advance(timedelta(minutes=5))
        assert not waiting.done()
        assert stream.state is StreamState.READY
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
    assert socket.connections == 1


@pytest.mark.promise("C37")
@pytest.mark.parametrize("silent_from", ["login", "listen"])
async def test_stream_login_without_a_response_is_reported_as_lost(
    clock: ManualClock, silent_from: str
) -> None:
    """A server that accepts the socket and then sends nothing is lost after the open timeout."""

    async def mute(connection: ServerConnection) -> None:
        await connection.recv()
        if silent_from == "listen":
            await connection.send(orjson.dumps(AUTHORIZED))
        await connection.wait_closed()

    socket = ScriptedSocket(mute)
    async with connected_stream(clock, socket, open_timeout=0.2) as (_, messages):
        (lost,) = await next_messages(messages, 1)
    assert isinstance(lost, StreamGap)
    assert (lost.state, lost.since) == (StreamState.LOST, None)


@pytest.mark.promise("C35")
async def test_refused_stream_login_is_reported_and_retried_after_30_seconds(clock: ManualClock) -> None:
    """Refused keys are reported as REFUSED, not as an outage, and retried at most twice a minute."""

    async def refuse_login(connection: ServerConnection) -> None:
        await connection.recv()
        await connection.send(orjson.dumps(UNAUTHORIZED))
        await connection.wait_closed()

    socket = ScriptedSocket(refuse_login, refuse_login, send_frames(update_message()))
    async with connected_stream(clock, socket) as (stream, messages):
        (refused,) = await next_messages(messages, 1)
        assert isinstance(refused, StreamGap)
        assert refused.state is StreamState.REFUSED
        assert SECRET not in refused.reason
        waiting = asyncio.ensure_future(anext(messages))
        await clock.advance(timedelta(seconds=29))
        assert socket.connections == 1
        await clock.advance(timedelta(seconds=2))
        assert socket.connections == 2
        assert stream.state is StreamState.REFUSED
        await clock.advance(timedelta(seconds=31))
        assert await waiting == StreamGap(StreamState.READY, None, "listening")


@pytest.mark.promise("C35")
async def test_stream_authorization_withdrawn_later_is_reported_as_refused(clock: ManualClock) -> None:
    """A login withdrawn while listening is a refusal, not a message."""
    socket = ScriptedSocket(send_frames(UNAUTHORIZED))
    async with connected_stream(clock, socket) as (_, messages):
        _, refused = await next_messages(messages, 2)
    assert isinstance(refused, StreamGap)
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
async def test_refused_stream_handshake_sets_state_and_delay_by_http_status(
    clock: ManualClock, status: int, state: StreamState, wait: float
) -> None:
    """429 is a lost state with a 5-second delay: the broker still counts our last connection. 401 and 403 are
    about the keys."""
    socket = ScriptedSocket(send_frames(update_message()), refuse={1: status})
    async with connected_stream(clock, socket) as (_, messages):
        (gap,) = await next_messages(messages, 1)
        assert isinstance(gap, StreamGap)
        assert gap.state is state
        assert str(status) in gap.reason
        waiting = asyncio.ensure_future(anext(messages))
        await clock.advance(timedelta(seconds=wait * 0.9))
        assert socket.connections == 1
        await clock.advance(timedelta(seconds=wait * 0.1 + 1))
        assert await waiting == StreamGap(StreamState.READY, None, "listening")


async def test_stream_does_not_follow_a_redirect(clock: ManualClock) -> None:
    """The login is sent to the configured host only."""
    elsewhere = ScriptedSocket(send_frames(update_message()))

    async with connected_stream(clock, elsewhere) as (_, _unused):

        class Redirecting(ScriptedSocket):
            def handshake(self, connection: ServerConnection, request: Request) -> Response | None:
                response = connection.respond(http.HTTPStatus.FOUND, "")
                response.headers["Location"] = elsewhere.url
                return response

        async with connected_stream(clock, Redirecting(send_frames())) as (_, messages):
            (gap,) = await next_messages(messages, 1)
    assert isinstance(gap, StreamGap)
    assert gap.state is StreamState.LOST
    assert elsewhere.connections == 0


async def test_stream_reconnect_backoff_grows_and_is_deterministic() -> None:
    """A refusing broker gets at most twelve attempts in the first minute, at the same times in each run."""
    attempts: list[list[datetime]] = []
    for _ in range(2):
        clock = ManualClock(datetime(2026, 11, 20, 15, 4, tzinfo=UTC))
        socket = ScriptedSocket(send_frames(), refuse=dict.fromkeys(range(1, 100), 503))
        times: list[datetime] = []
        async with connected_stream(clock, socket) as (_, messages):
            await next_messages(messages, 1)
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


async def test_flapping_stream_increases_the_reconnect_delay(clock: ManualClock) -> None:
    """Each short connection doubles the reconnect delay, up to 30 seconds."""
    closing = send_frames(then_close=True)

    socket = ScriptedSocket(closing)
    delays = []
    async with connected_stream(clock, socket) as (_, messages):
        await next_messages(messages, 1)
        for _ in range(6):
            (lost,) = await next_messages(messages, 1)
            assert isinstance(lost, StreamGap)
            since = clock.now()
            assert await next_message_after_backoff(clock, messages) == StreamGap(
                StreamState.READY, lost.since, "listening"
            )
            delays.append((clock.now() - since).total_seconds())
    assert all(2**n / 2 <= delay <= 2**n + 0.25 for n, delay in enumerate(delays[:5]))
    assert 15 <= delays[5] <= 30.25


async def test_stream_reconnect_delay_resets_after_a_stable_connection(clock: ManualClock) -> None:
    """A connection of half a minute resets the reconnect delay, however long it was."""
    closing = send_frames(then_close=True)
    may_end = asyncio.Event()

    async def steady(connection: ServerConnection) -> None:
        await accept_login(connection)
        staying = asyncio.create_task(acknowledge_listens(connection))
        await may_end.wait()
        staying.cancel()
        await asyncio.gather(staying, return_exceptions=True)

    socket = ScriptedSocket(closing, closing, closing, steady, send_frames())
    async with connected_stream(clock, socket) as (stream, messages):
        await next_messages(messages, 2)
        for _ in range(2):
            await next_message_after_backoff(clock, messages)
            await next_messages(messages, 1)
        await next_message_after_backoff(clock, messages)
        await clock.advance(timedelta(seconds=31))
        assert stream.state is StreamState.READY
        may_end.set()
        await next_messages(messages, 1)
        before = clock.now()
        assert isinstance(await next_message_after_backoff(clock, messages), StreamGap)
        assert clock.now() - before <= timedelta(seconds=1)
    assert socket.connections == 5


@pytest.mark.promise("C36")
async def test_stream_buffer_overflow_is_reported_as_a_gap(clock: ManualClock) -> None:
    """A slow consumer gets a gap instead of the dropped messages; the socket is read on."""
    flood = asyncio.Event()

    async def send_flood(connection: ServerConnection) -> None:
        await accept_login(connection)
        await flood.wait()
        for _ in range(25):
            await connection.send(orjson.dumps(update_message()))
        await connection.wait_closed()

    async with connected_stream(clock, ScriptedSocket(send_flood), max_buffered=10) as (stream, messages):
        await next_messages(messages, 1)
        flood.set()
        await wait_until(lambda: stream.frames_processed + len(stream._buffer) >= 25)
        lost, again = await next_messages(messages, 2)
        assert isinstance(lost, StreamGap)
        assert isinstance(again, StreamGap)
        assert (lost.state, again.state) == (StreamState.LOST, StreamState.READY)
        assert lost.since == again.since == clock.now()
        rest = await next_messages(messages, 25 - stream.frames_processed)
        assert [type(message) for message in rest] == [TradeUpdate] * len(rest)
        assert stream.frames_processed == 24


async def test_stream_counts_a_frame_when_the_consumer_asks_for_the_next(clock: ManualClock) -> None:
    """`frames_processed` counts frames whose effect is complete, so that a test can wait for it."""
    socket = ScriptedSocket(send_frames(update_message(), update_message()))
    async with connected_stream(clock, socket) as (stream, messages):
        await next_messages(messages, 2)
        assert stream.frames_processed == 0
        await next_messages(messages, 1)
        assert stream.frames_processed == 1


async def test_stream_waiting_returns_buffered_messages_in_order(clock: ManualClock) -> None:
    """Draining returns the buffered messages in order, malformed frames included; they count as processed
    when the consumer asks for the next message."""
    frames = [
        update_message(order=order_json(legs=[{"id": "leg"}])),
        update_message("a"),
        b"{",
        update_message("b"),
        update_message("c"),
    ]
    async with connected_stream(clock, ScriptedSocket(send_frames(*frames))) as (stream, messages):
        _, first = await next_messages(messages, 2)
        await wait_until(lambda: len(stream._buffer) >= 4)
        drained = stream.drain_buffered(3)
        assert isinstance(first, TradeUpdate)
        assert [message.event if isinstance(message, TradeUpdate) else "" for message in drained] == [
            "",
            "a",
            "",
            "b",
        ]
        assert stream.frames_processed == 0
        (last,) = await next_messages(messages, 1)
        assert isinstance(last, TradeUpdate)
        assert last.event == "c"
        assert stream.frames_processed == 4


async def test_stream_waiting_stops_before_a_gap(clock: ManualClock) -> None:
    """Draining stops before a gap, which the consumer receives as the next message."""
    socket = ScriptedSocket(
        send_frames(update_message(), update_message("a"), then_close=True), send_frames(update_message("b"))
    )
    async with connected_stream(clock, socket) as (stream, messages):
        await next_messages(messages, 2)
        await wait_until(lambda: len(stream._buffer) >= 2)
        assert len(stream.drain_buffered(64)) == 1
        assert stream.drain_buffered(64) == []
        (lost,) = await next_messages(messages, 1)
        assert isinstance(lost, StreamGap)


async def test_stream_handshake_holds_the_clock(clock: ManualClock) -> None:
    """Market time stands still during the handshake, so a test's reconnect ends before the next tick."""
    may_go_on = asyncio.Event()

    async def slow(connection: ServerConnection) -> None:
        await may_go_on.wait()
        await accept_login(connection)
        await acknowledge_listens(connection)

    async with connected_stream(clock, ScriptedSocket(slow)) as (_, messages):
        waiting = asyncio.ensure_future(anext(messages))
        passing = asyncio.create_task(clock.advance(timedelta(minutes=1)))
        await run_loop_turns()  # a clock without a hold moves within far fewer turns
        assert clock.now() == datetime(2026, 11, 20, 15, 4, tzinfo=UTC)
        may_go_on.set()
        assert await waiting == StreamGap(StreamState.READY, None, "listening")
        await passing
        assert clock.now() == datetime(2026, 11, 20, 15, 5, tzinfo=UTC)


async def test_trade_update_stream_hides_its_keys(
    clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The stream's representation, gaps and logs do not contain the keys."""
    caplog.set_level("INFO")
    async with connected_stream(clock, ScriptedSocket(send_frames(UNAUTHORIZED))) as (stream, messages):
        gaps = await next_messages(messages, 2)
    shown = [repr(stream), repr(vars(stream)), repr(gaps), caplog.text]
    assert not [text for text in shown if SECRET in text or KEY in text]
