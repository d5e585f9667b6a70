"""The exchange over HTTP and WebSocket, used by alpaca-py and a plain websocket."""

import pytest
from alpaca.common.exceptions import APIError

from tests.simulator.served_exchange import receive_data, serve_exchange, subscribed_socket


async def test_bracket_completes_over_http_and_stream() -> None:
    """alpaca-py submits a bracket, the stream sends each step, the target sells, and the audit is clean."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
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
        order = await served.call(served.client.post, "/orders", body)
        assert order["status"] == "pending_new"
        assert [leg["status"] for leg in order["legs"]] == ["held", "held"]
        await served.advance()
        await served.print_trade("AAPL", "111")
        await served.advance()
        messages = await receive_data(socket, served.server.frames_sent)
        assert [(m["event"], m["order"]["type"]) for m in messages] == [
            ("new", "market"),
            ("fill", "market"),
            ("new", "limit"),
            ("fill", "limit"),
            ("canceled", "stop"),
        ]
        assert messages[1]["position_qty"] == "100"
        assert await served.call(served.client.get_all_positions) == []
        rows = await served.call(served.client.get, "/orders", {"status": "all", "nested": True})
        assert [leg["status"] for leg in rows[0]["legs"]] == ["filled", "canceled"]
        fills = await served.call(served.client.get, "/account/activities/FILL", {"direction": "asc"})
        assert [(f["side"], f["cum_qty"], f["order_status"]) for f in fills] == [
            ("buy", "100", "filled"),
            ("sell", "100", "filled"),
        ]
        served.scenario.assert_audit_clean()


async def test_alpaca_py_gets_404_for_an_unknown_order() -> None:
    """An unknown order id gets 404 with the id in the text."""
    async with serve_exchange() as served:
        unknown = "7b08df51-c1ac-453c-99f9-323a5f075f0d"
        with pytest.raises(APIError) as missing:
            await served.call(served.client.get_order_by_id, unknown)
        assert missing.value.status_code == 404
        assert unknown in str(missing.value)
