"""Response shapes match OpenAPI documents, recorded responses and the models of alpaca-py. Document and recorded fields
are ours, written from facts, and Alpaca's where they are present."""

import gzip
import json
import re
import warnings
from collections.abc import AsyncIterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.own_document import own_document
from tests.simulator.openapi import Document
from tests.simulator.served_exchange import ServedExchange, serve_exchange

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    from alpaca.trading.client import TradingClient
    from alpaca.trading.models import Order, TradeAccount
    from alpaca.trading.requests import (
        GetOrdersRequest,
        LimitOrderRequest,
        StopLossRequest,
        TakeProfitRequest,
    )

DOCUMENTS = Path(__file__).parents[3] / "shared" / "alpaca"
OWN, BROKER = "own", "broker"
SOURCES = [OWN, BROKER] if DOCUMENTS.is_dir() else [OWN]
needs_recordings = pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="the recorded answers are not here")

# Fields that Alpaca removed after the recording or no longer sends.
REMOVED = {
    "pattern_day_trader",
    "daytrade_count",
    "daytrading_buying_power",
    "easy_to_borrow",
    "pdt_check",
    "dtbp_check",
}


# Fields that Alpaca recorded in 2021 and their kinds, by path of the exchange and pattern of the recorded address.
RECORDED_FIELDS = {
    ("/v2/orders?status=all", r"paper-api.*/v2/orders\?"): """
        uuid: id asset_id
        text or uuid: client_order_id
        text: symbol asset_class order_class order_type type side time_in_force status
        instant: created_at updated_at submitted_at
        instant or NoneType: filled_at canceled_at replaced_at
        uuid or NoneType: replaced_by replaces
        number text: qty filled_qty
        number text or NoneType: filled_avg_price limit_price stop_price
        list or NoneType: legs
        bool: extended_hours
        NoneType: expired_at failed_at notional trail_percent trail_price hwm
    """,
    ("/v2/positions", r"paper-api.*/v2/positions(/\w+)?$"): """
        uuid: asset_id
        text: symbol exchange asset_class side
        number text: qty avg_entry_price market_value cost_basis unrealized_pl unrealized_plpc unrealized_intraday_pl
        number text: unrealized_intraday_plpc current_price lastday_price change_today
    """,
    ("/v2/account", r"paper-api.*/v2/account$"): """
        uuid: id
        text: account_number status currency
        instant: created_at
        number text: buying_power regt_buying_power daytrading_buying_power cash portfolio_value multiplier equity
        number text: last_equity long_market_value short_market_value initial_margin maintenance_margin
        number text: last_maintenance_margin sma
        bool: pattern_day_trader trading_blocked transfers_blocked account_blocked trade_suspended_by_user
        bool: shorting_enabled
        int: daytrade_count
    """,
    ("/v2/account/configurations", r"paper-api.*/v2/account/configurations$"): """
        text: dtbp_check pdt_check trade_confirm_email
        number text: max_margin_multiplier
        bool: fractional_trading no_shorting suspend_trade
    """,
    ("/v2/account/activities/FILL", r"paper-api.*/v2/account/activities\?"): """
        activity id: id
        text: activity_type type side symbol order_status
        instant: transaction_time
        number text: price qty leaves_qty cum_qty
        uuid: order_id
    """,
    ("/v2/assets/AAPL", r"paper-api.*/v2/assets/TSLA"): """
        uuid: id
        text: class exchange symbol name status
        bool: tradable marginable shortable easy_to_borrow fractionable
    """,
    ("/v2/clock", r"paper-api.*/v2/clock"): """
        instant: timestamp next_open next_close
        bool: is_open
    """,
    ("/v2/calendar?start=2026-03-01&end=2026-03-31", r"paper-api.*/v2/calendar"): """
        day: date
        text: open close
        number text: session_open session_close
    """,
}


@cache
def document(source: str, *, with_legacy_fields: bool = False) -> Document:
    if source == OWN:
        return Document(own_document(data=False, with_legacy_fields=with_legacy_fields))
    return Document(json.loads((DOCUMENTS / "trading-api.openapi.json").read_text()))


@cache
def recorded() -> list[dict[str, Any]]:
    with gzip.open(DOCUMENTS / "alpaca_http_recorded.jsonl.gz", "rt") as lines:
        return [json.loads(line) for line in lines]


@pytest.fixture
async def busy_exchange() -> AsyncIterator[ServedExchange]:
    """An exchange with a bracket, an OCO, a short, a trailing stop, a replaced order and fills."""
    async with serve_exchange() as served:
        scenario = served.scenario
        scenario.submit_bracket(10)
        scenario.given_position("MSFT", 8)
        scenario.given_position("TSLA", -3)
        legs = {
            "take_profit": {"limit_price": "330"},
            "stop_loss": {"stop_price": "280", "limit_price": "279"},
        }
        scenario.submit("sell", 5, "MSFT", "limit", order_class="oco", **legs)
        scenario.submit("sell", 3, "MSFT", "trailing_stop", trail_percent="5")
        scenario.submit("buy", 1, "WHOL", order_class="oto", stop_loss={"stop_price": "9"})
        order = scenario.submit("buy", 2, "HARD", "limit", limit_price="15")
        scenario.advance()
        scenario.replace(order, limit_price="15.5")
        scenario.advance()
        await served.clock.advance_to(scenario.now)
        yield served


READS = [
    ("/v2/account", "/v2/account"),
    ("/v2/account/configurations", "/v2/account/configurations"),
    ("/v2/account/portfolio/history", "/v2/account/portfolio/history"),
    ("/v2/account/activities", "/v2/account/activities"),
    ("/v2/account/activities/FILL", "/v2/account/activities/{activity_type}"),
    ("/v2/orders?status=all&nested=true", "/v2/orders"),
    ("/v2/orders?status=all", "/v2/orders"),
    ("/v2/positions", "/v2/positions"),
    ("/v2/positions/TSLA", "/v2/positions/{symbol_or_asset_id}"),
    ("/v2/clock", "/v2/clock"),
    ("/v2/calendar?start=2026-03-01&end=2026-03-31", "/v2/calendar"),
]


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("path", "template"), READS)
async def test_read_responses_match_the_trading_document(
    busy_exchange: ServedExchange, path: str, template: str, source: str
) -> None:
    """Types, formats, enumerations and required fields match at any depth."""
    response = await busy_exchange.request("GET", path)
    openapi = document(source)
    violations = openapi.violations(openapi.response_schema("get", template, 200), response.json())
    assert violations == []


@pytest.mark.parametrize("source", SOURCES)
async def test_change_responses_match_the_trading_document(
    busy_exchange: ServedExchange, source: str
) -> None:
    """Responses to POST, PATCH and DELETE match, and assets with the legacy fields switched on."""
    openapi = document(source)
    body = {
        "symbol": "AAPL",
        "qty": "1",
        "side": "buy",
        "type": "limit",
        "limit_price": "90",
        "time_in_force": "day",
    }
    order = (
        await busy_exchange.request("POST", "/v2/orders", json={**body, "symbol": "WHOL", "limit_price": "5"})
    ).json()
    assert openapi.violations(openapi.response_schema("post", "/v2/orders", 200), order) == []
    await busy_exchange.advance()
    replacement = (
        await busy_exchange.request("PATCH", f"/v2/orders/{order['id']}", json={"limit_price": "6"})
    ).json()
    assert (
        openapi.violations(openapi.response_schema("patch", "/v2/orders/{order_id}", 200), replacement) == []
    )
    closed = (await busy_exchange.request("DELETE", "/v2/positions?cancel_orders=true")).json()
    closed_rows = [row for row in closed if row["status"] == 200]
    assert openapi.violations(openapi.response_schema("delete", "/v2/positions", 207), closed_rows) == []
    cancelled = (await busy_exchange.request("DELETE", "/v2/orders")).json()
    assert openapi.violations(openapi.response_schema("delete", "/v2/orders", 207), cancelled) == []
    await busy_exchange.post_admin("settings", legacy_fields=True)
    assets = (await busy_exchange.request("GET", "/v2/assets")).json()
    openapi = document(source, with_legacy_fields=True)
    assert openapi.violations(openapi.response_schema("get", "/v2/assets", 200), assets) == []


def value_kind(value: object) -> str:
    """Return the kind of a value on the wire; numeric strings differ from other strings."""
    if isinstance(value, str):
        for name, pattern in (
            ("number text", r"-?\d+(\.\d+)?"),
            ("uuid", r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"),
            ("instant", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"),
            ("day", r"\d{4}-\d\d-\d\d"),
            ("activity id", r"\d{17}::.+"),
        ):
            if re.fullmatch(pattern, value):
                return name
        return "text"
    return type(value).__name__


def field_kinds(rows: list[dict[str, Any]]) -> dict[str, set[str]]:
    """Return all kinds seen for each field."""
    kinds: dict[str, set[str]] = {}
    for row in rows:
        for name, value in row.items():
            kinds.setdefault(name, set()).add(value_kind(value))
    return kinds


def recorded_rows(pattern: str, method: str = "GET") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for exchange in recorded():
        if exchange["method"] == method and exchange["status"] == 200 and re.search(pattern, exchange["uri"]):
            body = json.loads(exchange["body"])
            rows += body if isinstance(body, list) else [body]
    assert rows, pattern
    return rows


def own_field_kinds(facts: str) -> dict[str, set[str]]:
    """Return the kinds of each field of one text of RECORDED_FIELDS."""
    kinds: dict[str, set[str]] = {}
    for line in facts.strip().splitlines():
        kind, _, names = line.strip().partition(": ")
        kinds |= {name: set(kind.split(" or ")) for name in names.split()}
    return kinds


@pytest.mark.parametrize(("path", "facts"), [(path, facts) for (path, _), facts in RECORDED_FIELDS.items()])
async def test_responses_have_the_fields_and_types_of_recorded_ones(
    busy_exchange: ServedExchange, path: str, facts: str
) -> None:
    """Every recorded field is present, with one of its recorded kinds."""
    body = (await busy_exchange.request("GET", path)).json()
    simulated = field_kinds(body if isinstance(body, list) else [body])
    alpaca = own_field_kinds(facts)
    assert alpaca.keys() - simulated.keys() - REMOVED == set()
    for name in alpaca.keys() & simulated.keys():
        if simulated[name] != {"NoneType"} and alpaca[name] != {"NoneType"}:
            assert (simulated[name] - {"NoneType"}) & alpaca[name], name


@needs_recordings
def test_recorded_fields_are_those_of_the_recordings() -> None:
    """The fields written here, and their kinds, are exactly the recorded ones."""
    for (_, pattern), facts in RECORDED_FIELDS.items():
        assert field_kinds(recorded_rows(pattern)) == own_field_kinds(facts), pattern


@needs_recordings
@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v2/assets/BLAH", {"code": 40410000, "message": "asset not found for BLAH"}),
        ("/v2/positions/NOSH", {"code": 40410000, "message": "position does not exist"}),
    ],
)
async def test_recorded_404_responses_have_the_known_messages(
    busy_exchange: ServedExchange, path: str, body: dict[str, Any]
) -> None:
    """The simulator answers an unknown asset and a missing position with the 404 that the recordings hold."""
    response = await busy_exchange.request("GET", path)
    assert (response.status_code, response.json()) == (404, body)
    assert body in [json.loads(row["body"]) for row in recorded() if row["status"] == 404]


async def test_alpaca_py_models_parse_every_trading_response(busy_exchange: ServedExchange) -> None:
    """The models parse every response, with the legacy fields they require switched on."""
    await busy_exchange.post_admin("settings", legacy_fields=True)
    client = TradingClient("demo", "demo", url_override=busy_exchange.server.url)
    client._session.trust_env = False
    account = await busy_exchange.call(client.get_account)
    assert isinstance(account, TradeAccount)
    orders = await busy_exchange.call(client.get_orders, GetOrdersRequest(status="all", nested=True))
    assert all(isinstance(order, Order) for order in orders)
    assert any(order.legs for order in orders)
    assert {p.symbol for p in await busy_exchange.call(client.get_all_positions)} == {
        "AAPL",
        "MSFT",
        "TSLA",
        "WHOL",
    }
    assert len(await busy_exchange.call(client.get_all_assets)) == 7
    assert (await busy_exchange.call(client.get_clock)).is_open
    assert (await busy_exchange.call(client.get_calendar))[0].open.hour == 9
    request = LimitOrderRequest(
        symbol="NOSH",
        qty=3,
        side="buy",
        time_in_force="day",
        limit_price=10.5,
        order_class="bracket",
        take_profit=TakeProfitRequest(limit_price=12),
        stop_loss=StopLossRequest(stop_price=9.5),
    )
    order = await busy_exchange.call(client.submit_order, request)
    assert [leg.status for leg in order.legs] == ["held", "held"]
    await busy_exchange.call(client.cancel_order_by_id, order.id)
    await busy_exchange.call(client.cancel_orders)
    await busy_exchange.call(client.close_all_positions, cancel_orders=True)
    client._session.close()
