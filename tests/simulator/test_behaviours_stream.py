"""Behaviours 41 to 43: the trade_updates socket, and everything that it does not promise."""

import asyncio
from typing import Any

import orjson
import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.simulator.served_exchange import AUTH, LISTEN, buys, hears, listening, receives, says, told, wired
from tests.simulator.wire_client import customer

OLD_AUTH = {"action": "authenticate", "data": {"key_id": "demo", "secret_key": "demo"}}


async def test_b41_frames_are_binary_json_or_text_by_the_switch() -> None:
    """Binary by default, as the paper host sends them."""
    async with wired() as wire:
        async with listening(wire.server) as socket:
            await buys(wire)
            assert isinstance(await receives(socket), bytes)
        wire.desk.exchange.switches.binary_frames = False
        async with listening(wire.server) as socket:
            await buys(wire)
            assert isinstance(await receives(socket), str)


async def test_b41_both_forms_of_authentication_and_the_refusals() -> None:
    """Old and new form are let in; bad keys and a listen before are unauthorized, and the socket stays."""
    async with wired() as wire, websockets.connect(wire.server.stream_url, proxy=None) as socket:
        refused = {"stream": "authorization", "data": {"status": "unauthorized", "action": "listen"}}
        assert await says(socket, LISTEN) == refused
        bad = await says(socket, {"action": "auth", "key": "demo", "secret": "no"})
        assert bad["data"] == {"status": "unauthorized", "action": "authenticate"}
        for form in (OLD_AUTH, AUTH):
            granted = await says(socket, form)
            assert granted == {
                "stream": "authorization",
                "data": {"status": "authorized", "action": "authenticate"},
            }
        assert (await says(socket, {"action": "dance"}))["action"] == "error"


async def test_b41_a_refused_key_may_close_the_socket() -> None:
    """The answer comes first; by default the socket stays, as the test above says."""
    async with wired() as wire, websockets.connect(wire.server.stream_url, proxy=None) as socket:
        await wire.admin("switches", close_unauthorized=True)
        bad = await says(socket, {"action": "auth", "key": "demo", "secret": "no"})
        assert bad["data"]["status"] == "unauthorized"
        with pytest.raises(ConnectionClosed):
            await receives(socket)


async def test_b41_a_listen_replaces_the_whole_set() -> None:
    """Unknown streams are left out of the answer; an empty list stops the updates."""
    async with wired() as wire, listening(wire.server) as socket:
        some = {"action": "listen", "data": {"streams": ["trade_updates", "weather"]}}
        assert await says(socket, some) == {"stream": "listening", "data": {"streams": ["trade_updates"]}}
        none = {"action": "listen", "data": {"streams": []}}
        assert (await says(socket, none))["data"] == {"streams": []}
        before = wire.server.frames_sent
        await buys(wire)
        assert wire.server.frames_sent == before


async def test_b41_a_second_connection_is_refused_unless_the_switch_lets_it_in() -> None:
    """429 on the handshake while the first one lives; a fault does it once."""
    async with wired() as wire:
        async with listening(wire.server):
            with pytest.raises(InvalidStatus) as refused:
                async with listening(wire.server):
                    pass
            assert refused.value.response.status_code == 429
        await wire.admin("switches", one_stream=False)
        await wire.admin("faults", kind="stream_busy")
        with pytest.raises(InvalidStatus):
            async with listening(wire.server):
                pass
        async with listening(wire.server), listening(wire.server) as second:
            await buys(wire)
            assert (await hears(second))["data"]["event"] == "new"


async def test_b42_there_is_no_replay() -> None:
    """Who connects after the fill hears nothing of it; REST has it."""
    async with wired() as wire:
        await buys(wire)
        async with listening(wire.server) as socket:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.05)
        assert wire.server.frames_sent == 0
        assert len((await wire.http_("GET", "/v2/account/activities/FILL")).json()) == 1


async def test_b43_updates_carry_execution_price_quantity_and_position() -> None:
    """Each execution its own id, price and quantity; the position is signed and after it."""
    async with wired() as wire, listening(wire.server) as socket:
        wire.desk.tape.sizes = 6
        wire.desk.sends("sell", 10)
        await wire.passes()
        await wire.prints("AAPL", "99")
        new, first, last = await told(socket, 3)
        assert (new["event"], "price" in new, len(new["execution_id"])) == ("new", False, 36)
        assert [first[k] for k in ("event", "price", "qty", "position_qty")] == [
            "partial_fill",
            "99.99",
            "6",
            "-6",
        ]
        assert [last[k] for k in ("event", "price", "qty", "position_qty")] == ["fill", "98.99", "4", "-10"]
        assert (first["order"]["status"], first["order"]["filled_qty"]) == ("partially_filled", "6")
        assert last["order"]["filled_avg_price"] == "99.59"
        assert len({new["execution_id"], first["execution_id"], last["execution_id"]}) == 3
        fills = (await wire.http_("GET", "/admin/ledger")).json()["executions"]
        assert [fill["execution_id"] for fill in fills] == [first["execution_id"], last["execution_id"]]


async def test_b04_offsets_may_be_mixed_in_one_message() -> None:
    """With the switch, birth is told in New York's offset and the fill in UTC."""
    async with wired() as wire, listening(wire.server) as socket:
        wire.desk.exchange.switches.local_offsets = True
        await buys(wire)
        _, fill = await told(socket, 2)
        assert fill["order"]["created_at"].endswith("-04:00")
        assert fill["order"]["filled_at"].endswith("Z")


@pytest.mark.parametrize(
    ("fault", "events"),
    [
        ({"kind": "stream_drop", "event": "new"}, ["fill"]),
        ({"kind": "stream_duplicate", "event": "fill", "qty": "3"}, ["new", "fill", "fill", "fill"]),
        ({"kind": "stream_reorder", "event": "new"}, ["fill", "new"]),
        ({"kind": "stream_event", "event": "fill", "text": "restated"}, ["new", "restated"]),
        ({"kind": "stream_late", "event": "new", "seconds": 0.5}, ["fill", "new"]),
    ],
)
async def test_b42_messages_may_be_lost_doubled_swapped_unknown_or_late(
    fault: dict[str, Any], events: list[str]
) -> None:
    """And the count of frames is what was really sent."""
    async with wired() as wire, listening(wire.server) as socket:
        await wire.admin("faults", **fault)
        await buys(wire)
        assert [data["event"] for data in await told(socket, wire.server.frames_sent)] == events


async def test_b42_messages_may_be_malformed() -> None:
    """data null, bytes that are no JSON, an error frame, an unknown status, missing fields."""
    async with wired() as wire, listening(wire.server) as socket:
        await wire.admin("faults", kind="stream_null", event="new")
        await wire.admin("faults", kind="stream_error", event="fill")
        await buys(wire)
        assert await hears(socket) == {"stream": "trade_updates", "data": None}
        assert (await hears(socket))["data"] == {"error_message": "internal server error"}
        assert (await hears(socket))["data"]["event"] == "fill"
        await wire.admin("faults", kind="stream_raw", event="new", text="{not json")
        await wire.admin("faults", kind="stream_status", event="fill", text="pondering")
        await buys(wire)
        assert await receives(socket) == b"{not json"
        assert (await hears(socket))["data"]["order"]["status"] == "pondering"
        await wire.admin("faults", kind="stream_fields", fields=["timestamp", "filled_qty"], event="new")
        await buys(wire)
        data = (await hears(socket))["data"]
        assert ("timestamp" in data, "filled_qty" in data["order"], "symbol" in data["order"]) == (
            False,
            False,
            True,
        )


async def test_b42_a_socket_may_go_mute_or_be_closed() -> None:
    """Mute: open, answering pings, and silent. Disconnect: closed, with the code asked for."""
    async with wired() as wire:
        async with listening(wire.server) as socket:
            await wire.admin("stream", act="mute")
            await buys(wire)
            await asyncio.wait_for(await socket.ping(), 5)
            assert wire.server.frames_sent == 0
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(socket.recv(), 0.05)
        async with listening(wire.server) as socket:
            await wire.admin("stream", act="disconnect", code=1013)
            with pytest.raises(ConnectionClosed) as closed:
                await receives(socket)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        async with listening(wire.server) as socket:
            await wire.admin("faults", kind="stream_disconnect", event="fill")
            await buys(wire)
            assert (await hears(socket))["data"]["event"] == "new"
            with pytest.raises(ConnectionClosed):
                await receives(socket)


async def test_b42_a_socket_may_go_mute_at_a_message() -> None:
    """The fault says after which event nothing more is heard."""
    async with wired() as wire, listening(wire.server) as socket:
        await wire.admin("faults", kind="stream_mute", event="fill")
        await buys(wire)
        assert (await hears(socket))["data"]["event"] == "new"
        await buys(wire)
        assert wire.server.frames_sent == 1


async def test_b42_a_socket_may_be_half_open() -> None:
    """Nothing is read any more and pings stay unanswered: only the client's own watch can tell."""
    async with wired() as wire, listening(wire.server) as socket:
        await wire.admin("faults", kind="stream_half_open", event="new")
        await buys(wire)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(await socket.ping(), 0.1)
        await socket.send(orjson.dumps(LISTEN))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(socket.recv(), 0.05)
        assert wire.server.frames_sent == 0


async def test_b43_rest_leads_the_stream() -> None:
    """A late message tells of an order that REST has long shown filled."""
    async with wired() as wire, listening(wire.server) as socket:
        await wire.admin("faults", kind="stream_late", event="fill", seconds=600)
        await buys(wire)
        assert (await hears(socket))["data"]["event"] == "new"
        assert (await wire.http_("GET", "/v2/orders?status=closed")).json()[0]["status"] == "filled"
        await wire.passes(599)
        assert wire.server.frames_sent == 1
        await wire.passes(1)
        assert (await hears(socket))["data"]["event"] == "fill"


@pytest.mark.parametrize(("lag", "shown"), [(0, "filled"), (2, "pending_new")])
async def test_b43_rest_may_trail_the_stream(lag: int, shown: str) -> None:
    """The fill is told at once; REST still shows the order as it was, in lists too, until the lag is over."""
    async with customer(order_lag=lag) as c:
        order = await c.bracket(10)
        await c.passes()
        assert await c.heard(order) == ["new", "fill"]
        assert await c.status(order) == shown
        assert await c.statuses(order) == (("new", "held") if shown == "filled" else ("held", "held"))
        flat = [row["id"] for row in await c.gets("/v2/orders?status=open")]
        assert (order["id"] in flat) == (shown != "filled")
        found = await c.gets(f"/v2/orders:by_client_order_id?client_order_id={order['client_order_id']}")
        assert found["status"] == shown
        assert await c.owns() == "10"  # the position book has a lag of its own
        await c.passes(2)
        assert (await c.status(order), *await c.statuses(order)) == ("filled", "new", "held")
