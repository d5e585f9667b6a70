"""Behaviours 1 to 5: authentication, rate limits, and the format of requests and responses."""

from datetime import date
from functools import cache
from uuid import UUID

import pytest

from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.synthetic.market import make_market
from tests.simulator.served_exchange import KEYS, post_order, serve_exchange
from tests.simulator.wire_client import wire_client


@cache
def market() -> BarMarket:
    """Return a generated Monday for the data API."""
    return make_market(seed=1, day=date(2026, 3, 9), symbols=50)


@pytest.mark.promise("B01")
async def test_wrong_keys_get_json_401_and_missing_keys_html_401() -> None:
    """Wrong keys get JSON without a code, missing keys get HTML; the data API responds forbidden."""
    async with serve_exchange() as served:
        wrong_keys = {**KEYS, "APCA-API-SECRET-KEY": "wrong"}
        response = await served.request("GET", "/v2/account", headers=wrong_keys)
        assert (response.status_code, response.json()) == (401, {"message": "unauthorized."})
        response = await served.request("GET", "/v2/account", headers={})
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (401, "text/html")
        response = await served.request("GET", "/v2/stocks/snapshots", headers=wrong_keys)
        assert (response.status_code, response.json()) == (403, {"message": "forbidden."})
        await served.post_admin("settings", html_without_keys=False)
        assert (await served.request("GET", "/v2/account", headers={})).json() == {"message": "unauthorized."}


@pytest.mark.promise("B01")
async def test_sip_data_is_403_without_the_entitlement() -> None:
    """SIP data is 403 with the data API's code without a subscription; IEX data is always available."""
    async with serve_exchange(market=market()) as served:
        path = "/v2/stocks/snapshots?symbols=AAPL&feed="
        assert (await served.request("GET", f"{path}sip")).status_code == 200
        await served.post_admin("data", recent_sip=False)
        response = await served.request("GET", f"{path}sip")
        assert (response.status_code, response.json()) == (
            403,
            {"code": 42210000, "message": "subscription does not permit querying recent SIP data"},
        )
        assert (await served.request("GET", f"{path}iex")).json().keys() == {"AAPL"}


@pytest.mark.promise("B02")
async def test_rate_limit_is_200_requests_per_market_minute() -> None:
    """Every response has the headers. A request above the limit gets 429; one minute later the bucket is full
    again."""
    async with serve_exchange() as served:
        response = await served.request("GET", "/v2/clock")
        assert response.headers["X-Ratelimit-Limit"] == "200"
        assert response.headers["X-Ratelimit-Remaining"] == "199"
        codes = [(await served.request("GET", "/v2/clock")).status_code for _ in range(201)]
        assert codes == [200] * 199 + [429, 429]
        rejection = await served.request("GET", "/v2/orders")
        assert rejection.json() == {"code": 42910000, "message": "rate limit exceeded"}
        assert rejection.headers["X-Ratelimit-Remaining"] == "0"
        reset = int(rejection.headers["X-Ratelimit-Reset"])
        assert 0 < reset - served.clock.now().timestamp() <= 61
        await served.post_admin("settings", rate_headers_on_429=False)
        assert "X-Ratelimit-Reset" not in (await served.request("GET", "/v2/orders")).headers
        await served.advance(60)
        assert (await served.request("GET", "/v2/orders")).headers["X-Ratelimit-Remaining"] == "199"
        await served.advance(60)
        await served.post_admin("settings", rate_limit=3)
        codes = [(await served.request("GET", "/v2/clock")).status_code for _ in range(4)]
        assert codes == [200, 200, 200, 429]


@pytest.mark.promise("B02")
async def test_data_api_has_its_own_rate_limit_and_429_message() -> None:
    """The limit is 10,000 requests a minute with the consolidated feed; trading requests do not count against
    it."""
    async with serve_exchange(market=market()) as served:
        path = "/v2/stocks/snapshots?symbols=AAPL"
        assert (await served.request("GET", path)).headers["X-Ratelimit-Limit"] == "10000"
        await served.post_admin("settings", data_rate_limit=2)
        assert [(await served.request("GET", path)).status_code for _ in range(2)] == [200, 429]
        rejection = await served.request("GET", path)
        assert rejection.json() == {"message": "too many requests."}
        assert rejection.headers["X-Ratelimit-Remaining"] == "0"
        assert (await served.request("GET", "/v2/clock")).status_code == 200
        await served.advance(60)
        await served.post_admin("faults", kind="rate_limit")
        rejection = await served.request("GET", path)
        assert (rejection.status_code, rejection.json()) == (429, {"message": "too many requests."})
        assert (await served.request("GET", path)).status_code == 200


@pytest.mark.promise("B02")
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v2/account", 200),
        ("GET", "/v2/orders", 200),
        ("GET", "/v2/assets/AAPL", 200),
        ("GET", "/v2/calendar?start=2026-03-09&end=2026-03-09", 200),
        ("GET", "/v2/watchlists", 200),
        ("DELETE", "/v2/orders", 207),
        ("POST", "/v2/orders", 422),
        ("GET", "/v2/positions/AAPL", 404),
        ("GET", "/v2/nonsense", 404),
        ("PUT", "/v2/orders", 405),
    ],
)
async def test_every_trading_response_has_the_rate_limit_headers(method: str, path: str, status: int) -> None:
    """Successful, rejected and not-found responses have them; each took one request of the minute."""
    async with serve_exchange() as served:
        response = await served.request(method, path)
        assert response.status_code == status
        assert response.headers["X-Ratelimit-Limit"] == "200"
        assert response.headers["X-Ratelimit-Remaining"] == "199"
        assert int(response.headers["X-Ratelimit-Reset"]) >= served.clock.now().timestamp()


@pytest.mark.promise("B03")
@pytest.mark.parametrize("value", ["maybe", "2", "[]", "tru"])
async def test_invalid_booleans_are_rejected(value: str) -> None:
    """An invalid boolean is not read as false in a query, an order or the configuration."""
    async with serve_exchange() as served:
        rejection = {"code": 40010001, "message": f"invalid boolean: {value}"}
        response = await served.request("GET", f"/v2/orders?nested={value}")
        assert (response.status_code, response.json()) == (422, rejection)
        assert (await post_order(served, extended_hours=value)).json() == rejection
        response = await served.request("PATCH", "/v2/account/configurations", json={"suspend_trade": value})
        assert (response.status_code, response.json()) == (422, rejection)


@pytest.mark.promise("B03")
async def test_requests_accept_lenient_numbers_booleans_and_times() -> None:
    """Numbers or numeric strings, floats with a zero fraction, booleans in any case, and any usual time
    format are accepted."""
    async with serve_exchange() as served:
        for qty in (2, 2.0, "2", "2.0"):
            row = (await post_order(served, qty=qty)).json()
            assert row["qty"] == "2"
        row = (await post_order(served, type="limit", limit_price=99.1)).json()
        assert row["limit_price"] == "99.1"
        for nested in ("True", "true", "1"):
            assert (await served.request("GET", f"/v2/orders?nested={nested}&status=all")).status_code == 200
        for after in (
            "2026-03-09T14:00:00Z",
            "2026-03-09T10:00:00-04:00",
            "2026-03-09",
            "2026-03-09T14:00:00.123456789Z",
            "2026-03-09T14:00:00%2B00:00",
        ):
            response = await served.request("GET", f"/v2/orders?after={after}&status=all")
            assert len(response.json()) == 5, after
        assert (await served.request("GET", "/v2/orders?after=yesterday")).status_code == 422


@pytest.mark.promise("B03")
async def test_symbol_lists_are_separated_by_commas() -> None:
    """Symbols of a query may have blanks and any case."""
    async with wire_client() as c:
        for symbol in ("AAPL", "MSFT", "TSLA"):
            await c.submit("buy", 1, symbol, "limit", limit_price="1")
        for symbols in ("AAPL,TSLA", "aapl,tsla", "AAPL%2CTSLA", "AAPL,%20TSLA,"):
            rows = await c.get(f"/v2/orders?symbols={symbols}")
            assert {row["symbol"] for row in rows} == {"AAPL", "TSLA"}, symbols


@pytest.mark.promise("B04")
async def test_trading_numbers_are_text_and_times_have_nanoseconds() -> None:
    """Quantities and prices are strings, ids version 4 UUIDs, times RFC 3339 with nine decimal places and Z."""
    async with serve_exchange() as served:
        await served.advance(0.123457)
        row = (await post_order(served)).json()
        assert (row["qty"], row["filled_qty"], row["extended_hours"], row["notional"]) == (
            "1",
            "0",
            False,
            None,
        )
        assert row["order_type"] == row["type"] == "market"
        assert row["id"][14] == "4"
        assert row["submitted_at"] == "2026-03-09T15:00:00.123457199Z"


@pytest.mark.promise("B04")
async def test_market_data_numbers_are_json_numbers() -> None:
    """A price is text in a position and a number in a trade."""
    async with serve_exchange(market=market()) as served:
        trade = (await served.request("GET", "/v2/stocks/AAPL/trades/latest")).json()["trade"]
        quote = (await served.request("GET", "/v2/stocks/AAPL/quotes/latest")).json()["quote"]
        bar = (await served.request("GET", "/v2/stocks/AAPL/bars/latest")).json()["bar"]
        numbers = [trade["p"], trade["s"], *(quote[k] for k in ("bp", "bs", "ap", "as"))]
        assert {type(number) for number in [*numbers, *(bar[k] for k in "ohlcvn")]} <= {int, float}
        served.scenario.given_position("AAPL", 10)
        await served.clock.advance_to(served.scenario.now)
        [position] = (await served.request("GET", "/v2/positions")).json()
        text_fields = ("qty", "avg_entry_price", "current_price", "market_value", "unrealized_pl")
        assert {type(position[name]) for name in text_fields} == {str}


@pytest.mark.promise("B04")
async def test_every_exchange_id_is_a_unique_uuid4() -> None:
    """Ids of orders, legs, executions and the account are unique."""
    async with wire_client() as c:
        order = await c.submit_bracket(10)
        await c.advance()
        execution_ids = [each["execution_id"] for each in await c.updates()]
        ids = [order["id"], order["client_order_id"], *(leg["id"] for leg in order["legs"]), *execution_ids]
        ids.append((await c.get("/v2/account"))["id"])
        assert {UUID(each).version for each in ids} == {4}
        assert len(set(ids)) == len(ids)


@pytest.mark.promise("B05")
async def test_unknown_paths_orders_and_ids_have_their_errors() -> None:
    """An unknown path or order is 404, a malformed id 422, invalid JSON 400."""
    async with serve_exchange() as served:
        response = await served.request("GET", "/v2/nonsense")
        assert (response.status_code, response.json()) == (
            404,
            {"code": 40410000, "message": "endpoint not found"},
        )
        unknown = "7b08df51-c1ac-453c-99f9-323a5f075f0d"
        response = await served.request("GET", f"/v2/orders/{unknown}")
        assert (response.status_code, response.json()) == (
            404,
            {"code": 40410000, "message": f"order not found for {unknown}"},
        )
        response = await served.request("DELETE", "/v2/orders/not-an-id")
        assert (response.status_code, response.json()) == (
            422,
            {"code": 40010001, "message": "order_id is missing"},
        )
        response = await served.request("POST", "/v2/orders", data="{")
        assert response.status_code == 400
        assert (await served.request("PUT", "/v2/orders")).status_code == 405
