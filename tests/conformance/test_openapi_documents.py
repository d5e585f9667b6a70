"""Schemathesis checks every answer of the exchange against OpenAPI documents: ours, and the broker's where they are
present."""

import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.openapi.checks import JsonSchemaError
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
)

from tests.conformance.conformance_page import documented_rows
from tests.conformance.exchange_thread import KEYS, SHARED, ExchangeThread, run_exchange, small_market
from tests.conformance.request_strategies import CENTS, SYMBOLS, SteeredRequest, steered_requests
from tests.own_document import OPERATIONS, is_data_operation, own_document

DOCUMENTS = {
    "trading": SHARED / "alpaca" / "trading-api.openapi.json",
    "data": SHARED / "alpaca" / "market-data-api.openapi.json",
}
OWN, BROKER = "own", "broker"
SOURCES = [OWN, BROKER] if DOCUMENTS["trading"].exists() else [OWN]

LONG = os.environ.get("HYPOTHESIS_PROFILE") == "long"
# Examples of each operation by source of the document.
EXAMPLES = {OWN: 8, BROKER: 300 if LONG else 45}
EXAMPLES_WITHOUT_LEGACY_FIELDS = {OWN: 5, BROKER: 100 if LONG else 20}
NEGATIVE_EXAMPLES = {OWN: 5, BROKER: 300 if LONG else 15}
CHECKS = [not_a_server_error, content_type_conformance, response_schema_conformance]
READ_OPERATIONS = [
    "GET /v2/account",
    "GET /v2/account/configurations",
    "GET /v2/assets",
    "GET /v2/assets/AAPL",
    "GET /v2/calendar",
    "GET /v2/clock",
    "GET /v2/orders",
    "GET /v2/positions",
]
# Operations without a parameter or body that could violate the document.
OPERATIONS_WITHOUT_INPUT = {
    "GET /v2/account",
    "GET /v2/account/configurations",
    "GET /v2/assets/{symbol_or_asset_id}",
    "GET /v2/clock",
    "DELETE /v2/orders",
    "GET /v2/positions",
    "GET /v2/positions/{symbol_or_asset_id}",
    "GET /v2/watchlists",
    "GET /v2/stocks/meta/exchanges",
}
# Statuses that the documents omit and the real API sends.
UNDOCUMENTED_STATUSES = {400, 401, 403, 404, 414, 422, 429}
HYPOTHESIS_SETTINGS = {
    "deadline": None,
    "database": None,
    "derandomize": not LONG,
    "phases": (Phase.generate,),
    "suppress_health_check": list(HealthCheck),
}


def amend_trading(raw: Any) -> None:
    """Change the schema where the wire differs from the document; docs/simulator-conformance.md has the
    reasons."""
    row = raw["paths"]["/v2/account/activities/{activity_type}"]["get"]["responses"]["200"]
    items = row["content"]["application/json"]["schema"]["items"]
    items["anyOf"] = items.pop("oneOf")
    refusal = {
        "type": "object",
        "required": ["code", "message"],
        "properties": {"message": {"type": "string"}},
    }
    closed = raw["components"]["schemas"]["PositionClosedReponse"]["properties"]
    closed["body"] = {"anyOf": [closed["body"], refusal]}


def amend_data(raw: Any) -> None:
    """Change the schema of the market data API in the same way."""
    news = raw["components"]["schemas"]["news"]["properties"]
    del news["content"]["minLength"], news["summary"]["minLength"]


@lru_cache
def broker_document(*, data: bool) -> Any:
    """Load a document without its security part: the keys are always valid here; other tests cover invalid
    ones."""
    raw = json.loads(DOCUMENTS["data" if data else "trading"].read_text())
    raw.pop("security", None)
    raw["components"].pop("securitySchemes", None)
    if data:
        amend_data(raw)
    else:
        amend_trading(raw)
    return raw


@lru_cache
def document(source: str, *, data: bool, with_legacy_fields: bool) -> Any:
    """Return a document for Schemathesis. The broker's always has the removed fields."""
    if source == OWN:
        return schemathesis.openapi.from_dict(own_document(data=data, with_legacy_fields=with_legacy_fields))
    return schemathesis.openapi.from_dict(broker_document(data=data))


def operation_of(source: str, label: str, *, with_legacy_fields: bool) -> APIOperation:  # type: ignore[type-arg]
    method, path = label.split(" ")
    found = document(source, data=is_data_operation(label), with_legacy_fields=with_legacy_fields)
    return found[path][method]  # type: ignore[no-any-return]


def prepare_account(sim: ExchangeThread) -> None:
    """Create long and short positions, a bracket, a trailing stop, a replaced order, a cancel and fills."""
    price = float(sim.request("GET", "/v2/stocks/AAPL/trades/latest").json()["trade"]["p"])
    legs = {
        "take_profit": {"limit_price": f"{price * 1.1:.2f}"},
        "stop_loss": {"stop_price": f"{price * 0.9:.2f}"},
    }
    sim.submit_order("buy", 10, "AAPL", order_class="bracket", **legs)
    sim.submit_order("buy", "20.5", "F")
    sim.submit_order("sell", 5, "MSFT")
    sim.submit_order("buy", 3, "SPY")
    sim.advance(30)
    sim.submit_order("sell", 2, "SPY", "trailing_stop", trail_percent=5)
    order = sim.submit_order("buy", 2, "F", "limit", limit_price="8", time_in_force="gtc")
    sim.advance()
    assert sim.request("PATCH", f"/v2/orders/{order['id']}", json={"limit_price": "8.1"}).status_code == 200
    order = sim.submit_order("buy", 2, "F", "limit", limit_price="8.5")
    sim.advance()
    assert sim.request("DELETE", f"/v2/orders/{order['id']}").status_code == 204
    sim.advance(2)


def replenish_orders(sim: ExchangeThread) -> None:
    """Create orders and positions that the requests can replace, cancel and close."""
    replenish_watchlists(sim)
    for symbol in SYMBOLS:
        body = {"symbol": symbol, "side": "buy", "qty": 2, "type": "market", "time_in_force": "day"}
        sim.request("POST", "/v2/orders", json=body)
        sim.advance(5)
        away = {**body, "type": "limit", "limit_price": f"{CENTS[symbol] / 200:.2f}"}
        sim.request("POST", "/v2/orders", json=away)
    sim.advance()


def replenish_watchlists(sim: ExchangeThread) -> None:
    """Restore the four watchlists that a request renamed, changed or deleted."""
    symbols = list(SYMBOLS[:2])
    intact = {each.name for each in sim.exchange.watchlists.by_id.values() if each.symbols == symbols}
    for name in sorted({f"own {number}" for number in range(4)} - intact):
        body = {"name": name, "symbols": symbols}
        made = sim.request("PUT", "/v2/watchlists:by_name", params={"name": name}, json=body)
        if made.status_code == 404:
            made = sim.request("POST", "/v2/watchlists", json=body)
        assert made.status_code == 200, made.text


def check_responses(
    sim: ExchangeThread,
    label: str,
    operation: APIOperation,  # type: ignore[type-arg]
    examples: int,
) -> tuple[Counter[int], set[str]]:
    """Send this many requests; return the counts of the statuses and the schema violations.

    An unexpected status, a wrong content type, a server error or a refusal without a message fails at once.
    """
    has_no_input = (
        not operation.definition.raw.get("parameters") and "requestBody" not in operation.definition.raw
    )
    documented = {int(status) for status in operation.definition.raw["responses"]}
    seen: Counter[int] = Counter()
    broken: set[str] = set()

    @settings(max_examples=examples, **HYPOTHESIS_SETTINGS)
    @given(steered_requests(operation), st.integers(0, 2**32))
    def check_case(request: SteeredRequest, chance: int) -> None:
        """Send one request. `chance` prevents that a request without parameters is sent only once: the
        account differs each time."""
        if has_no_input:
            trade_randomly(sim, random.Random(chance))
        if len(sim.exchange.state.account.positions) < 4 or len(sim.exchange.state.order_store.live()) < 4:
            replenish_orders(sim)
        if "/v2/watchlists" in label:
            replenish_watchlists(sim)
        if label == "DELETE /v2/positions/{symbol_or_asset_id}":  # shares reserved by orders cannot be closed
            sim.request("DELETE", "/v2/orders")
            sim.advance()
        case = request.resolve_names(sim)
        response = case.call(base_url=sim.url, session=sim.http, headers=KEYS)
        seen[response.status_code] += 1
        sim.advance(0.5)
        if response.status_code not in documented or response.status_code >= 400:
            assert response.status_code in UNDOCUMENTED_STATUSES, response.text
            assert_error_body(response)
        try:
            case.validate_response(response, checks=CHECKS)
        except FailureGroup as group:
            broken.update(violation_messages(group))

    check_case()
    assert seen.total() >= examples
    return seen, broken


def trade_randomly(sim: ExchangeThread, draw: random.Random) -> None:
    """Submit an order of a random type; it may be accepted, filled or cancelled, and time passes."""
    symbol, side = draw.choice(SYMBOLS), draw.choice(("buy", "sell"))
    price = CENTS[symbol] / 100 * draw.uniform(0.9, 1.1)
    order = {
        "symbol": symbol,
        "side": side,
        "qty": draw.randint(1, 9),
        "time_in_force": draw.choice(("day", "gtc")),
    }
    kinds: list[dict[str, Any]] = [
        {"type": "market"},
        {"type": "limit", "limit_price": f"{price:.2f}"},
        {"type": "stop", "stop_price": f"{price:.2f}"},
        {"type": "trailing_stop", "trail_percent": "2"},
    ]
    made = sim.request("POST", "/v2/orders", json=order | draw.choice(kinds))
    sim.advance(draw.choice((0.01, 0.06, 2)))
    if made.status_code == 200 and draw.random() < 0.3:
        sim.request("DELETE", f"/v2/orders/{made.json()['id']}")


def violation_messages(group: FailureGroup) -> Iterator[str]:
    """Yield the message of each schema violation; raise any other failure."""
    for failure in group.exceptions:
        if not isinstance(failure, JsonSchemaError):
            raise failure
        yield failure.validation_message


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("label", OPERATIONS)
def test_responses_match_the_openapi_document(label: str, source: str) -> None:
    """With the fields removed in 2026, answers validate, refusals have a message, and no request causes a
    server error."""
    operation = operation_of(source, label, with_legacy_fields=True)
    with run_exchange(legacy_fields=True, charge_fees=True) as sim:
        prepare_account(sim)
        seen, broken = check_responses(sim, label, operation, EXAMPLES[source])
    assert broken == set()
    assert sum(n for status, n in seen.items() if status < 300) >= seen.total() / 10, seen


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("label", OPERATIONS)
def test_schema_violations_without_removed_fields_are_the_documented_ones(label: str, source: str) -> None:
    """In the broker's current format the violations are exactly those that the page lists; our document has this
    format and is not violated."""
    listed = {message for operation, message, _ in documented_rows("Violations") if operation == label}
    operation = operation_of(source, label, with_legacy_fields=False)
    with run_exchange(charge_fees=True) as sim:
        prepare_account(sim)
        _, broken = check_responses(sim, label, operation, EXAMPLES_WITHOUT_LEGACY_FIELDS[source])
    assert broken == (listed if source == BROKER else set())


def test_legacy_fields_are_the_documented_ones() -> None:
    """The switch adds the fields listed on the page and no others."""
    listed = {(operation, field) for operation, field, _ in documented_rows("Removed fields")}
    bodies = []
    for legacy in (True, False):
        with run_exchange(legacy_fields=legacy) as sim:
            prepare_account(sim)
            bodies.append({label: sim.request(*label.split(" ")).json() for label in READ_OPERATIONS})
    removed = {
        (label, name)
        for label in READ_OPERATIONS
        for name in field_names(bodies[0][label]) - field_names(bodies[1][label])
    }
    added = {
        (label, name)
        for label in READ_OPERATIONS
        for name in field_names(bodies[1][label]) - field_names(bodies[0][label])
    }
    assert removed == listed
    assert added == set()


@pytest.mark.parametrize("source", SOURCES)
def test_every_documented_route_is_tested(source: str) -> None:
    """Every route of the exchange is in OPERATIONS, unless the documents do not have it."""
    with run_exchange() as sim:
        server = sim.server
        routes = server.build_application(small_market()).router.routes()
        ours = {(route.method, path_shape(route.resource.canonical)) for route in routes if route.resource}
    theirs = {
        (method.upper(), path_shape(path))
        for data in (False, True)
        for path, operations in document(source, data=data, with_legacy_fields=True)
        .raw_schema["paths"]
        .items()
        for method in operations
    }
    tested = {(method, path_shape(path)) for method, path in (label.split(" ") for label in OPERATIONS)}
    movers = ("GET", "/v1beta1/screener/{}/movers")  # one market type only in the exchange
    assert (ours & theirs) | {movers} == tested


def path_shape(path: str) -> str:
    return re.sub(r"{[^}]*}", "{}", path)


def field_names(body: Any) -> set[str]:
    rows = body if isinstance(body, list) else [body]
    return {name for row in rows for name in row}


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("label", [label for label in OPERATIONS if label not in OPERATIONS_WITHOUT_INPUT])
def test_requests_against_the_document_never_get_a_500(label: str, source: str) -> None:
    """A request that violates the document is refused with a message or accepted, never answered with 500."""
    operation = operation_of(source, label, with_legacy_fields=True)

    @settings(max_examples=NEGATIVE_EXAMPLES[source], **HYPOTHESIS_SETTINGS)
    @given(operation.as_strategy(generation_mode=GenerationMode.NEGATIVE))
    def check_case(case: Case) -> None:
        response = case.call(base_url=sim.url, session=sim.http, headers=KEYS)
        assert response.status_code < 500, response.text
        if response.status_code >= 400:
            assert_error_body(response)
        sim.advance(0.5)

    with run_exchange(legacy_fields=True) as sim:
        prepare_account(sim)
        check_case()


def assert_error_body(response: Any) -> None:
    """Check that a refusal is an object with a message and an optional code; only the proxy's 414 is an HTML
    page."""
    if response.status_code == 414:
        return
    error_body = response.json()
    assert isinstance(error_body["message"], str), error_body
    assert isinstance(error_body.get("code", 0), int), error_body


ABSURD_NUMBERS = [
    "1e50",
    1e300,
    "1e-50",
    "1e999999999",
    "-1",
    -0.0,
    "0.0000000001",
    "1.23456789012345678",
    "NaN",
    "-inf",
    "٣",
    "1_0",
]


@pytest.mark.parametrize("number", ABSURD_NUMBERS)
def test_absurd_numbers_are_rejected_with_a_message(number: object) -> None:
    """An absurd quantity, price or percentage, in body or query, is rejected with a message that names it; the
    account can be read afterwards."""
    day = {"time_in_force": "day"}
    order = {"symbol": "AAPL", "side": "buy", "type": "limit", "limit_price": "9", "qty": "1", **day}
    by_amount = {"symbol": "AAPL", "side": "buy", "type": "market", **day}
    trailing = {"symbol": "SPY", "side": "sell", "type": "trailing_stop", "qty": "1", **day}
    legs = {
        "take_profit": {"limit_price": number},
        "stop_loss": {"stop_price": number, "limit_price": number},
    }
    with run_exchange() as sim:
        prepare_account(sim)
        order_id = next(o for o in sim.exchange.state.order_store.live() if o.limit_price is not None).id
        requests: list[tuple[str, str, str, dict[str, object], dict[str, object] | None]] = [
            (name, "POST", "/v2/orders", {}, {**order, name: number}) for name in ("qty", "limit_price")
        ]
        requests += [("notional", "POST", "/v2/orders", {}, {**by_amount, "notional": number})]
        requests += [("take_profit", "POST", "/v2/orders", {}, {**order, "order_class": "bracket", **legs})]
        requests += [
            (name, "POST", "/v2/orders", {}, {**trailing, name: number})
            for name in ("trail_price", "trail_percent")
        ]
        requests += [
            ("stop_price", "POST", "/v2/orders", {}, {**trailing, "trail_price": "1", "stop_price": number})
        ]
        requests += [
            (name, "PATCH", f"/v2/orders/{order_id}", {}, {name: number}) for name in ("qty", "limit_price")
        ]
        requests += [
            (name, "DELETE", "/v2/positions/MSFT", {name: number}, None) for name in ("qty", "percentage")
        ]
        for name, method, path, query, body in requests:
            response = sim.request(method, path, params=query, json=body)
            too_small = name == "notional" and number in ("-1", -0.0)
            assert response.status_code == (403 if too_small else 422), (method, path, query, body)
            assert_error_body(response)
            assert name in response.json()["message"]
        sim.advance(5)
        assert sim.request("GET", "/v2/account").status_code == 200
        assert sim.request("GET", "/v2/orders?status=all").status_code == 200
        assert sim.request("GET", "/v2/positions").status_code == 200
        assert sim.request("GET", "/admin/audit").json()["problems"] == []
