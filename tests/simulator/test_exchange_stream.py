"""The trade_updates websocket: authentication, encodings, delivery and faults."""

import asyncio
from typing import Any

import msgpack
import websockets

from tests.simulator.served_exchange import (
    AUTH,
    KEYS,
    LISTEN,
    buy_one_share,
    receive_frame,
    send_and_receive,
    serve_exchange,
    subscribed_socket,
    trading_stream,
)
from tests.waiting import wait_until


async def test_trade_stream_uses_msgpack_on_request() -> None:
    """With the handshake header both directions use msgpack."""
    header = {"Content-Type": "application/msgpack"}
    async with (
        serve_exchange() as served,
        websockets.connect(served.server.stream_url, proxy=None, additional_headers=header) as socket,
    ):
        for message in (AUTH, LISTEN):
            await socket.send(msgpack.packb(message))
            await receive_frame(socket)
        await buy_one_share(served)
        assert msgpack.unpackb(await receive_frame(socket))["data"]["event"] == "new"


async def test_stream_refuse_fault_rejects_one_authentication() -> None:
    """One authentication fails, as after a key rotation; the next one succeeds."""
    async with serve_exchange() as served, websockets.connect(served.server.stream_url, proxy=None) as socket:
        await served.post_admin("faults", kind="stream_refuse")
        assert (await send_and_receive(socket, AUTH))["data"]["status"] == "unauthorized"
        assert (await send_and_receive(socket, AUTH))["data"]["status"] == "authorized"


async def test_frame_to_a_closed_connection_is_not_counted() -> None:
    """`frames_sent` counts only frames to open connections, because the test clock waits for their receipt."""
    async with serve_exchange() as served:
        async with subscribed_socket(served.server):
            await served.post_admin("stream", act="disconnect")
        await buy_one_share(served)
        assert served.server.frames_sent == 0


async def test_alpaca_py_trading_stream_receives_every_update() -> None:
    """The unmodified client authenticates, subscribes and receives every update."""
    async with serve_exchange() as served:
        received: list[Any] = []

        async def record(message: Any) -> None:
            received.append(message["data"]["event"])

        stream = trading_stream(served.server)
        stream.subscribe_trade_updates(record)
        task = asyncio.create_task(stream._run_forever())
        await wait_until(lambda: any(listener.streams for listener in served.server.streams._connections))
        served.clock.advance_only_when(lambda: len(received) == served.server.frames_sent)
        served.scenario.submit_bracket(5)
        await served.advance()
        assert received == ["new", "fill", "new"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_trade_stream_authenticates_by_message_whatever_the_headers() -> None:
    """Right headers do not authorize a socket, and wrong headers do not bar it: the message decides."""
    async with serve_exchange() as served:
        for headers in (KEYS, {**KEYS, "APCA-API-SECRET-KEY": "wrong"}, {}):
            async with websockets.connect(
                served.server.stream_url, proxy=None, additional_headers=headers
            ) as socket:
                assert (await send_and_receive(socket, LISTEN))["data"]["status"] == "unauthorized"
                refusal = await send_and_receive(socket, {**AUTH, "secret": "wrong"})
                assert refusal["data"]["status"] == "unauthorized"
                assert (await send_and_receive(socket, AUTH))["data"]["status"] == "authorized"
