"""Behaviours 41 to 43: the trade_updates socket and its missing guarantees."""

import asyncio
from typing import Any

import orjson
import pytest
import websockets
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tests.simulator.served_exchange import (
    AUTH,
    LISTEN,
    buy_one_share,
    frames_until_close,
    receive_data,
    receive_frame,
    receive_message,
    send_and_receive,
    serve_exchange,
    subscribed_socket,
)
from tests.simulator.wire_client import wire_client
from tests.waiting import LIMIT_S

OLD_AUTH = {"action": "authenticate", "data": {"key_id": "demo", "secret_key": "demo"}}


@pytest.mark.promise("B41")
async def test_trade_update_frames_are_binary_or_text_by_setting() -> None:
    """Frames are binary by default, like those of the paper host."""
    async with serve_exchange() as served:
        async with subscribed_socket(served.server) as socket:
            await buy_one_share(served)
            assert isinstance(await receive_frame(socket), bytes)
        served.scenario.exchange.state.settings.binary_frames = False
        async with subscribed_socket(served.server) as socket:
            await buy_one_share(served)
            assert isinstance(await receive_frame(socket), str)


@pytest.mark.promise("B41")
async def test_trade_stream_accepts_both_authentication_forms() -> None:
    """The old and the new form are authorized. Wrong keys and an early listen are unauthorized, and the
    socket stays open."""
    async with serve_exchange() as served, websockets.connect(served.server.stream_url, proxy=None) as socket:
        rejection = {"stream": "authorization", "data": {"status": "unauthorized", "action": "listen"}}
        assert await send_and_receive(socket, LISTEN) == rejection
        response = await send_and_receive(socket, {"action": "auth", "key": "demo", "secret": "no"})
        assert response["data"] == {"status": "unauthorized", "action": "authenticate"}
        for form in (OLD_AUTH, AUTH):
            response = await send_and_receive(socket, form)
            assert response == {
                "stream": "authorization",
                "data": {"status": "authorized", "action": "authenticate"},
            }
        assert (await send_and_receive(socket, {"action": "dance"}))["action"] == "error"


@pytest.mark.promise("B41")
async def test_close_unauthorized_closes_the_socket_after_a_wrong_key() -> None:
    """The response comes before the close; by default the socket stays open, see the test above."""
    async with serve_exchange() as served, websockets.connect(served.server.stream_url, proxy=None) as socket:
        await served.post_admin("settings", close_unauthorized=True)
        response = await send_and_receive(socket, {"action": "auth", "key": "demo", "secret": "no"})
        assert response["data"]["status"] == "unauthorized"
        with pytest.raises(ConnectionClosed):
            await receive_frame(socket)


@pytest.mark.promise("B41")
async def test_listen_replaces_all_subscribed_streams() -> None:
    """The response omits unknown streams; an empty list stops the updates."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        two_streams = {"action": "listen", "data": {"streams": ["trade_updates", "unknown_stream"]}}
        assert await send_and_receive(socket, two_streams) == {
            "stream": "listening",
            "data": {"streams": ["trade_updates"]},
        }
        no_streams = {"action": "listen", "data": {"streams": []}}
        assert (await send_and_receive(socket, no_streams))["data"] == {"streams": []}
        before = served.server.frames_sent
        await buy_one_share(served)
        assert served.server.frames_sent == before


@pytest.mark.promise("B41")
async def test_second_trade_stream_connection_is_rejected_unless_enabled() -> None:
    """The handshake gets 429 while the first connection is open; a fault does it once."""
    async with serve_exchange() as served:
        async with subscribed_socket(served.server):
            with pytest.raises(InvalidStatus) as rejection:
                async with subscribed_socket(served.server):
                    pass
            assert rejection.value.response.status_code == 429
        await served.post_admin("settings", one_stream=False)
        await served.post_admin("faults", kind="stream_busy")
        with pytest.raises(InvalidStatus):
            async with subscribed_socket(served.server):
                pass
        async with subscribed_socket(served.server), subscribed_socket(served.server) as second:
            await buy_one_share(served)
            assert (await receive_message(second))["data"]["event"] == "new"


@pytest.mark.promise("B42")
async def test_trade_stream_replays_nothing_after_connecting() -> None:
    """A client that connects after the fill receives no message for it; REST has it."""
    async with serve_exchange() as served:
        await buy_one_share(served)
        async with subscribed_socket(served.server) as socket:
            assert await frames_until_close(served, socket) == []
        assert served.server.frames_sent == 0
        assert len((await served.request("GET", "/v2/account/activities/FILL")).json()) == 1


@pytest.mark.promise("B43")
async def test_trade_updates_carry_execution_price_quantity_and_position() -> None:
    """Each execution has its own id, price and quantity; the position is signed and includes the execution."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        served.scenario.feed.quote_size = 6
        served.scenario.submit("sell", 10)
        await served.advance()
        await served.print_trade("AAPL", "99")
        new, first, last = await receive_data(socket, 3)
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
        fills = (await served.request("GET", "/admin/logs")).json()["executions"]
        assert [fill["execution_id"] for fill in fills] == [first["execution_id"], last["execution_id"]]


@pytest.mark.promise("B04")
async def test_local_offsets_setting_mixes_time_zones_in_a_message() -> None:
    """With the setting, created_at has New York's offset and filled_at is UTC."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        served.scenario.exchange.state.settings.local_offsets = True
        await buy_one_share(served)
        _, fill = await receive_data(socket, 2)
        assert fill["order"]["created_at"].endswith("-04:00")
        assert fill["order"]["filled_at"].endswith("Z")


@pytest.mark.promise("B42")
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
async def test_stream_faults_drop_duplicate_reorder_change_or_delay_messages(
    fault: dict[str, Any], events: list[str]
) -> None:
    """The frame count is the number of frames sent."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        await served.post_admin("faults", **fault)
        await buy_one_share(served)
        assert [data["event"] for data in await receive_data(socket, served.server.frames_sent)] == events


@pytest.mark.promise("B42")
async def test_stream_fault_matches_the_side_of_its_order() -> None:
    """A rule with a side drops the messages of that side and no other."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        rule = await served.post_admin("faults", kind="stream_drop", side="sell", count=0)
        await buy_one_share(served)
        served.scenario.submit("sell", 1)
        await served.advance()
        await buy_one_share(served)
        updates = await receive_data(socket, 4)
        assert [(each["event"], each["order"]["side"]) for each in updates] == [
            ("new", "buy"),
            ("fill", "buy"),
        ] * 2
        assert served.server.exchange.state.faults.rules[rule["id"]].fired == 2


async def test_stream_fault_fires_only_while_a_client_listens() -> None:
    """A message that no socket would receive does not count as dropped; the next one is dropped."""
    async with serve_exchange() as served:
        await served.post_admin("faults", kind="stream_drop", event="fill")
        await buy_one_share(served)
        assert served.server.exchange.state.faults.fired == {}
        async with subscribed_socket(served.server) as socket:
            await buy_one_share(served)
            await buy_one_share(served)
            assert [each["event"] for each in await receive_data(socket, 3)] == ["new", "new", "fill"]


@pytest.mark.promise("B42")
async def test_stream_faults_malform_messages() -> None:
    """The faults send null data, invalid JSON, an error frame, an unknown status, and messages with missing
    fields."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        await served.post_admin("faults", kind="stream_null", event="new")
        await served.post_admin("faults", kind="stream_error", event="fill")
        await buy_one_share(served)
        assert await receive_message(socket) == {"stream": "trade_updates", "data": None}
        assert (await receive_message(socket))["data"] == {"error_message": "internal server error"}
        assert (await receive_message(socket))["data"]["event"] == "fill"
        await served.post_admin("faults", kind="stream_raw", event="new", text="{not json")
        await served.post_admin("faults", kind="stream_status", event="fill", text="pondering")
        await buy_one_share(served)
        assert await receive_frame(socket) == b"{not json"
        assert (await receive_message(socket))["data"]["order"]["status"] == "pondering"
        await served.post_admin(
            "faults", kind="stream_fields", fields=["timestamp", "filled_qty"], event="new"
        )
        await buy_one_share(served)
        data = (await receive_message(socket))["data"]
        assert ("timestamp" in data, "filled_qty" in data["order"], "symbol" in data["order"]) == (
            False,
            False,
            True,
        )


@pytest.mark.promise("B42")
async def test_trade_stream_can_be_muted_or_disconnected() -> None:
    """A muted stream is open and answers pings but sends nothing. A disconnect closes with the requested
    code."""
    async with serve_exchange() as served:
        async with subscribed_socket(served.server) as socket:
            await served.post_admin("stream", act="mute")
            await buy_one_share(served)
            await asyncio.wait_for(await socket.ping(), LIMIT_S)
            assert served.server.frames_sent == 0
            assert await frames_until_close(served, socket) == []
        async with subscribed_socket(served.server) as socket:
            await served.post_admin("stream", act="disconnect", code=1013)
            with pytest.raises(ConnectionClosed) as closed:
                await receive_frame(socket)
            assert closed.value.rcvd is not None
            assert closed.value.rcvd.code == 1013
        async with subscribed_socket(served.server) as socket:
            await served.post_admin("faults", kind="stream_disconnect", event="fill")
            await buy_one_share(served)
            assert (await receive_message(socket))["data"]["event"] == "new"
            with pytest.raises(ConnectionClosed):
                await receive_frame(socket)


@pytest.mark.promise("B42")
async def test_mute_fault_silences_the_stream_after_an_event() -> None:
    """The fault suppresses everything from the named event on."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        await served.post_admin("faults", kind="stream_mute", event="fill")
        await buy_one_share(served)
        assert (await receive_message(socket))["data"]["event"] == "new"
        await buy_one_share(served)
        assert served.server.frames_sent == 1


@pytest.mark.promise("B42")
async def test_half_open_fault_stops_reading_and_pongs() -> None:
    """The server reads nothing and answers no ping; only the client's own timeout can detect it."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        [connection] = served.server.streams._connections
        await asyncio.wait_for(await socket.ping(), LIMIT_S)
        await served.post_admin("faults", kind="stream_half_open", event="new")
        await buy_one_share(served)
        pong = await socket.ping()
        await socket.send(orjson.dumps({**LISTEN, "data": {"streams": []}}))
        await socket.close()  # the close follows the ping and the message, so the server has met both
        with pytest.raises(ConnectionClosed):
            await pong
        assert connection.streams == ("trade_updates",)
        assert not connection.queue
        assert served.server.frames_sent == 0


@pytest.mark.promise("B43")
async def test_rest_shows_a_fill_before_a_late_stream_message() -> None:
    """The late fill message arrives ten minutes after REST shows the order as filled."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        await served.post_admin("faults", kind="stream_late", event="fill", seconds=600)
        await buy_one_share(served)
        assert (await receive_message(socket))["data"]["event"] == "new"
        assert (await served.request("GET", "/v2/orders?status=closed")).json()[0]["status"] == "filled"
        await served.advance(599)
        assert served.server.frames_sent == 1
        await served.advance(1)
        assert (await receive_message(socket))["data"]["event"] == "fill"


@pytest.mark.promise("B43")
@pytest.mark.parametrize(("lag", "rest_status"), [(0, "filled"), (2, "pending_new")])
async def test_rest_may_lag_behind_the_stream(lag: int, rest_status: str) -> None:
    """The stream sends the fill at once; REST, lists included, shows the earlier order until the lag ends."""
    async with wire_client(order_lag=lag) as c:
        order = await c.submit_bracket(10)
        await c.advance()
        assert await c.events(order) == ["new", "fill"]
        assert await c.order_status(order) == rest_status
        assert await c.leg_statuses(order) == (
            ("new", "held") if rest_status == "filled" else ("held", "held")
        )
        open_ids = [row["id"] for row in await c.get("/v2/orders?status=open")]
        assert (order["id"] in open_ids) == (rest_status != "filled")
        order_by_client_id = await c.get(
            f"/v2/orders:by_client_order_id?client_order_id={order['client_order_id']}"
        )
        assert order_by_client_id["status"] == rest_status
        assert await c.position_qty() == "10"  # the position lag is a separate setting
        await c.advance(2)
        assert (await c.order_status(order), *await c.leg_statuses(order)) == ("filled", "new", "held")
