"""The exchange over the wire, asked by alpaca-py and by a bare websocket."""

import pytest
from alpaca.common.exceptions import APIError

from tests.simulator.served_exchange import listening, told, wired


async def test_a_bracket_lives_its_whole_life_over_the_wire() -> None:
    """alpaca-py submits a bracket, the stream tells each step, the target sells, and the audit is clean."""
    async with wired() as wire, listening(wire.server) as socket:
        body = {
            "symbol": "AAPL",
            "qty": 100,
            "side": "buy",
            "type": "market",
            "time_in_force": "day",
            "order_class": "bracket",
            "take_profit": {"limit_price": 110},
            "stop_loss": {"stop_price": 95},
            "client_order_id": "ours-1",
        }
        order = await wire.asks(wire.client.post, "/orders", body)
        assert order["status"] == "pending_new"
        assert [leg["status"] for leg in order["legs"]] == ["held", "held"]
        await wire.passes()
        await wire.prints("AAPL", "111")
        await wire.passes()
        heard = await told(socket, wire.server.frames_sent)
        assert [(m["event"], m["order"]["type"]) for m in heard] == [
            ("new", "market"),
            ("fill", "market"),
            ("new", "limit"),
            ("fill", "limit"),
            ("canceled", "stop"),
        ]
        assert heard[1]["position_qty"] == "100"
        assert await wire.asks(wire.client.get_all_positions) == []
        rows = await wire.asks(wire.client.get, "/orders", {"status": "all", "nested": True})
        assert [leg["status"] for leg in rows[0]["legs"]] == ["filled", "canceled"]
        fills = await wire.asks(wire.client.get, "/account/activities/FILL", {"direction": "asc"})
        assert [(f["side"], f["cum_qty"], f["order_status"]) for f in fills] == [
            ("buy", "100", "filled"),
            ("sell", "100", "filled"),
        ]
        wire.desk.balanced()


async def test_an_unknown_order_is_not_found_and_a_malformed_id_is_refused() -> None:
    """404 with the id in the text, 422 for what is no UUID, 404 for a path that nobody has."""
    async with wired() as wire:
        unknown = "7b08df51-c1ac-453c-99f9-323a5f075f0d"
        with pytest.raises(APIError) as missing:
            await wire.asks(wire.client.get_order_by_id, unknown)
        assert missing.value.status_code == 404
        assert unknown in str(missing.value)
