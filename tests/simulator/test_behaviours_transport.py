"""Behaviours 1 to 5 of a faithful exchange: who is let in, how often, and in which form things are said."""

from datetime import date
from functools import cache
from uuid import UUID

import pytest

from catalyst.simulator.market.bar_market import BarMarket
from catalyst.simulator.synthetic.market import make
from tests.simulator.served_exchange import KEYS, posts, wired
from tests.simulator.wire_client import customer


@cache
def market() -> BarMarket:
    """A generated Monday for the data API to tell of."""
    return make(seed=1, day=date(2026, 3, 9), symbols=50)


async def test_b01_bad_keys_are_unauthorized_and_missing_ones_meet_the_proxy() -> None:
    """JSON without a code for bad keys, HTML for none; the data API says forbidden."""
    async with wired() as wire:
        bad = {**KEYS, "APCA-API-SECRET-KEY": "wrong"}
        response = await wire.http_("GET", "/v2/account", headers=bad)
        assert (response.status_code, response.json()) == (401, {"message": "unauthorized."})
        response = await wire.http_("GET", "/v2/account", headers={})
        assert (response.status_code, response.headers["Content-Type"].split(";")[0]) == (401, "text/html")
        response = await wire.http_("GET", "/v2/stocks/snapshots", headers=bad)
        assert (response.status_code, response.json()) == (403, {"message": "forbidden."})
        await wire.admin("switches", html_when_headless=False)
        assert (await wire.http_("GET", "/v2/account", headers={})).json() == {"message": "unauthorized."}


async def test_b01_consolidated_data_needs_its_entitlement() -> None:
    """403 with the data API's code for the SIP when the subscription has none; the IEX is always there."""
    async with wired(market=market()) as wire:
        path = "/v2/stocks/snapshots?symbols=AAPL&feed="
        assert (await wire.http_("GET", f"{path}sip")).status_code == 200
        await wire.admin("data", recent_sip=False)
        response = await wire.http_("GET", f"{path}sip")
        assert (response.status_code, response.json()) == (
            403,
            {"code": 42210000, "message": "subscription does not permit querying recent SIP data"},
        )
        assert (await wire.http_("GET", f"{path}iex")).json().keys() == {"AAPL"}


async def test_b02_two_hundred_requests_a_minute_of_market_time() -> None:
    """Headers on every answer; the 201st gets 429; a minute later the bucket is full again."""
    async with wired() as wire:
        response = await wire.http_("GET", "/v2/clock")
        assert response.headers["X-Ratelimit-Limit"] == "200"
        assert response.headers["X-Ratelimit-Remaining"] == "199"
        await wire.admin("switches", rate_limit=3)
        codes = [(await wire.http_("GET", "/v2/clock")).status_code for _ in range(4)]
        assert codes == [200, 200, 429, 429]
        refused = await wire.http_("GET", "/v2/orders")
        assert refused.json() == {"code": 42910000, "message": "rate limit exceeded"}
        assert refused.headers["X-Ratelimit-Remaining"] == "0"
        reset = int(refused.headers["X-Ratelimit-Reset"])
        assert 0 < reset - wire.clock.now().timestamp() <= 61
        await wire.admin("switches", rate_headers_on_429=False)
        assert "X-Ratelimit-Reset" not in (await wire.http_("GET", "/v2/orders")).headers
        await wire.passes(60)
        assert (await wire.http_("GET", "/v2/orders")).status_code == 200


async def test_b02_the_data_api_counts_for_itself_and_refuses_in_its_own_words() -> None:
    """10,000 a minute with the consolidated feed; a full bucket there is none here."""
    async with wired(market=market()) as wire:
        path = "/v2/stocks/snapshots?symbols=AAPL"
        assert (await wire.http_("GET", path)).headers["X-Ratelimit-Limit"] == "10000"
        await wire.admin("switches", data_rate_limit=2)
        assert [(await wire.http_("GET", path)).status_code for _ in range(2)] == [200, 429]
        refused = await wire.http_("GET", path)
        assert refused.json() == {"message": "too many requests."}
        assert refused.headers["X-Ratelimit-Remaining"] == "0"
        assert (await wire.http_("GET", "/v2/clock")).status_code == 200
        await wire.passes(60)
        await wire.admin("faults", kind="rate_limit")
        refused = await wire.http_("GET", path)
        assert (refused.status_code, refused.json()) == (429, {"message": "too many requests."})
        assert (await wire.http_("GET", path)).status_code == 200


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
async def test_b02_every_trading_answer_has_the_three_headers(method: str, path: str, status: int) -> None:
    """Whether it is good, refused or not found; each took one request of the minute's."""
    async with wired() as wire:
        response = await wire.http_(method, path)
        assert response.status_code == status
        assert response.headers["X-Ratelimit-Limit"] == "200"
        assert response.headers["X-Ratelimit-Remaining"] == "199"
        assert int(response.headers["X-Ratelimit-Reset"]) >= wire.clock.now().timestamp()


@pytest.mark.parametrize("word", ["maybe", "2", "[]", "tru"])
async def test_b03_what_is_no_boolean_is_refused(word: str) -> None:
    """It is not taken for a no: not in a query, not in an order, not in the configuration."""
    async with wired() as wire:
        said = {"code": 40010001, "message": f"invalid boolean: {word}"}
        asked = await wire.http_("GET", f"/v2/orders?nested={word}")
        assert (asked.status_code, asked.json()) == (422, said)
        assert (await posts(wire, extended_hours=word)).json() == said
        told = await wire.http_("PATCH", "/v2/account/configurations", json={"suspend_trade": word})
        assert (told.status_code, told.json()) == (422, said)


async def test_b03_requests_are_read_generously() -> None:
    """Numbers or numeric strings, floats with a zero, booleans in any case, times in any usual form."""
    async with wired() as wire:
        for qty in (2, 2.0, "2", "2.0"):
            row = (await posts(wire, qty=qty)).json()
            assert row["qty"] == "2"
        row = (await posts(wire, type="limit", limit_price=99.1)).json()
        assert row["limit_price"] == "99.1"
        for nested in ("True", "true", "1"):
            assert (await wire.http_("GET", f"/v2/orders?nested={nested}&status=all")).status_code == 200
        for after in (
            "2026-03-09T14:00:00Z",
            "2026-03-09T10:00:00-04:00",
            "2026-03-09",
            "2026-03-09T14:00:00.123456789Z",
            "2026-03-09T14:00:00%2B00:00",
        ):
            response = await wire.http_("GET", f"/v2/orders?after={after}&status=all")
            assert len(response.json()) == 5, after
        assert (await wire.http_("GET", "/v2/orders?after=yesterday")).status_code == 422


async def test_b03_lists_are_separated_by_commas() -> None:
    """Symbols of a query, with blanks and in any case."""
    async with customer() as c:
        for symbol in ("AAPL", "MSFT", "TSLA"):
            await c.sends("buy", 1, symbol, "limit", limit_price="1")
        for symbols in ("AAPL,TSLA", "aapl,tsla", "AAPL%2CTSLA", "AAPL,%20TSLA,"):
            rows = await c.gets(f"/v2/orders?symbols={symbols}")
            assert {row["symbol"] for row in rows} == {"AAPL", "TSLA"}, symbols


async def test_b04_trading_numbers_are_text_and_times_have_nanoseconds() -> None:
    """Quantities and prices are strings, ids version 4 UUIDs, instants RFC 3339 with nine places and Z."""
    async with wired() as wire:
        await wire.passes(0.123457)
        row = (await posts(wire)).json()
        assert (row["qty"], row["filled_qty"], row["extended_hours"], row["notional"]) == (
            "1",
            "0",
            False,
            None,
        )
        assert row["order_type"] == row["type"] == "market"
        assert row["id"][14] == "4"
        assert row["submitted_at"] == "2026-03-09T15:00:00.123457199Z"


async def test_b04_data_numbers_are_numbers() -> None:
    """The same price is text in a position and a number in a trade."""
    async with wired(market=market()) as wire:
        trade = (await wire.http_("GET", "/v2/stocks/AAPL/trades/latest")).json()["trade"]
        quote = (await wire.http_("GET", "/v2/stocks/AAPL/quotes/latest")).json()["quote"]
        bar = (await wire.http_("GET", "/v2/stocks/AAPL/bars/latest")).json()["bar"]
        numbers = [trade["p"], trade["s"], *(quote[k] for k in ("bp", "bs", "ap", "as"))]
        assert {type(number) for number in [*numbers, *(bar[k] for k in "ohlcvn")]} <= {int, float}
        wire.desk.holds("AAPL", 10)
        await wire.clock.advance_to(wire.desk.now)
        [position] = (await wire.http_("GET", "/v2/positions")).json()
        named = ("qty", "avg_entry_price", "current_price", "market_value", "unrealized_pl")
        assert {type(position[name]) for name in named} == {str}


async def test_b04_every_id_is_a_version_four_uuid() -> None:
    """Of orders, legs, executions and the account; none is given twice."""
    async with customer() as c:
        order = await c.bracket(10)
        await c.passes()
        told = [each["execution_id"] for each in await c.updates()]
        ids = [order["id"], order["client_order_id"], *(leg["id"] for leg in order["legs"]), *told]
        ids.append((await c.gets("/v2/account"))["id"])
        assert {UUID(each).version for each in ids} == {4}
        assert len(set(ids)) == len(ids)


async def test_b05_unknown_paths_orders_and_ids() -> None:
    """404 for a path nobody has and for an order nobody placed, 422 for what is no id, 400 for no JSON."""
    async with wired() as wire:
        response = await wire.http_("GET", "/v2/nonsense")
        assert (response.status_code, response.json()) == (
            404,
            {"code": 40410000, "message": "endpoint not found"},
        )
        unknown = "7b08df51-c1ac-453c-99f9-323a5f075f0d"
        response = await wire.http_("GET", f"/v2/orders/{unknown}")
        assert (response.status_code, response.json()) == (
            404,
            {"code": 40410000, "message": f"order not found for {unknown}"},
        )
        response = await wire.http_("DELETE", "/v2/orders/not-an-id")
        assert (response.status_code, response.json()) == (
            422,
            {"code": 40010001, "message": "order_id is missing"},
        )
        response = await wire.http_("POST", "/v2/orders", data="{")
        assert response.status_code == 400
        assert (await wire.http_("PUT", "/v2/orders")).status_code == 405
