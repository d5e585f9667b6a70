"""The trade_updates websocket: who is let in, what is told, and everything that can go wrong with it."""

import asyncio
from typing import Any

import msgpack
import websockets

from tests.simulator.served_exchange import (
    AUTH,
    KEYS,
    LISTEN,
    TradingStreamOf,
    buys,
    listening,
    receives,
    says,
    wired,
)


async def test_messagepack_when_asked_for() -> None:
    """With the handshake header both directions are msgpack."""
    header = {"Content-Type": "application/msgpack"}
    async with (
        wired() as wire,
        websockets.connect(wire.server.stream_url, proxy=None, additional_headers=header) as socket,
    ):
        for message in (AUTH, LISTEN):
            await socket.send(msgpack.packb(message))
            await receives(socket)
        await buys(wire)
        assert msgpack.unpackb(await receives(socket))["data"]["event"] == "new"


async def test_authentication_may_be_refused_for_a_while() -> None:
    """As after a rotated key; the next attempt is let in."""
    async with wired() as wire, websockets.connect(wire.server.stream_url, proxy=None) as socket:
        await wire.admin("faults", kind="stream_refuse")
        assert (await says(socket, AUTH))["data"]["status"] == "unauthorized"
        assert (await says(socket, AUTH))["data"]["status"] == "authorized"


async def test_a_frame_that_never_left_is_not_counted() -> None:
    """The count a test's clock waits for is what a live client can hear."""
    async with wired() as wire:
        async with listening(wire.server):
            await wire.admin("stream", act="disconnect")
        await buys(wire)
        assert wire.server.frames_sent == 0


async def test_alpaca_pys_own_stream_listens() -> None:
    """The unmodified client authenticates, listens and hears every update."""
    async with wired() as wire:
        heard: list[Any] = []

        async def hear(message: Any) -> None:
            heard.append(message["data"]["event"])

        stream = TradingStreamOf(wire.server)
        stream.subscribe_trade_updates(hear)
        task = asyncio.create_task(stream._run_forever())
        while not any(listener.streams for listener in wire.server.streams._listeners):  # noqa: ASYNC110 - a library's task
            await asyncio.sleep(0.001)
        wire.clock.quiet_when(lambda: len(heard) == wire.server.frames_sent)
        wire.desk.bracket(5)
        await wire.passes()
        assert heard == ["new", "fill", "new"]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_keys_are_not_asked_of_the_handshake() -> None:
    """The socket opens without headers; authentication is a message."""
    async with (
        wired() as wire,
        websockets.connect(wire.server.stream_url, proxy=None, additional_headers=KEYS) as socket,
    ):
        assert (await says(socket, AUTH))["data"]["status"] == "authorized"
