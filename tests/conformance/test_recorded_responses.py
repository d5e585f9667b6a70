"""Payloads recorded from the broker's paper API, compared field by field with the exchange's."""

import gzip
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest

from tests.conformance.conformance_page import documented_rows
from tests.conformance.exchange_thread import SHARED, ExchangeThread, run_exchange

RECORDED_RESPONSES = SHARED / "alpaca" / "alpaca_http_recorded.jsonl.gz"
pytestmark = pytest.mark.skipif(not RECORDED_RESPONSES.exists(), reason="the recorded answers are not here")

ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Recorded symbols that the small market lacks, and their substitutes.
LISTED_SUBSTITUTES = {"SPOT": "NFLX", "BYND": "F", "LSF": "GM", "FB": "MSFT", "GOOG": "SPY", "GOOGL": "TSLA"}
PAYLOAD_KIND_BY_PATH = {  # kind of payload by path
    "/v2/account": "account",
    "/v2/account/activities": "activity",
    "/v2/account/configurations": "configuration",
    "/v2/account/portfolio/history": "history",
    "/v2/assets/{symbol}": "asset",
    "/v2/calendar": "calendar day",
    "/v2/clock": "clock",
    "/v2/orders": "order",
    "/v2/orders/{id}": "order",
    "/v2/positions": "position",
    "/v2/positions/{symbol}": "position",
    "/v2/watchlists": "watchlist",
    "/v2/watchlists:by_name": "watchlist",
    "/v2/watchlists:by_name/{symbol}": "watchlist",
    "/v2/stocks/snapshots": "snapshots",
    "/v2/stocks/{symbol}/bars": "bars",
    "/v2/stocks/{symbol}/quotes/latest": "latest quote",
    "/v2/stocks/{symbol}/snapshot": "snapshot",
    "/v2/stocks/{symbol}/trades": "trades",
    "/v2/stocks/{symbol}/trades/latest": "latest trade",
}


@lru_cache(maxsize=1)
def all_recorded_calls() -> list[dict[str, Any]]:
    """Load every recorded call, with its URL split into parts."""
    rows = []
    with gzip.open(RECORDED_RESPONSES, "rt") as lines:
        for line in lines:
            row = json.loads(line)
            parts = urlsplit(row["uri"])
            row["host"], row["path"], row["query"] = parts.netloc, parts.path, dict(parse_qsl(parts.query))
            row["kind"] = f"{row['method']} {path_template(parts.path)}"
            rows.append(row)
    return rows


@lru_cache(maxsize=1)
def supported_recorded_calls() -> list[dict[str, Any]]:
    """Return the recorded calls that the exchange supports, without other vendors and retired versions."""
    return [row for row in all_recorded_calls() if is_supported(row)]


def is_supported(row: dict[str, Any]) -> bool:
    return row["host"].endswith("alpaca.markets") and path_template(row["path"]) in PAYLOAD_KIND_BY_PATH


def test_recorded_calls_are_counted_on_the_conformance_page() -> None:
    """The page lists for each kind how many calls were recorded and whether the exchange supports them."""
    found = Counter(
        (
            row["kind"] if is_supported(row) else f"{row['method']} {row['host']}{path_family(row['path'])}",
            is_supported(row),
        )
        for row in all_recorded_calls()
    )
    listed = {
        (kind, made == "yes"): int(number) for kind, number, made, _ in documented_rows("Recorded answers")
    }
    assert dict(found) == listed


def path_family(path: str) -> str:
    """Return the path of another vendor's or a retired call, without symbols and dates."""
    path = re.sub(r"/range/.*", "/range/…", path)
    path = re.sub(r"/(AMZN|BYND|MSFT|AMD|AAPL|TWTR)\b", "/{symbol}", path)
    return re.sub(r"/\d{4}-\d\d-\d\d", "/{day}", path)


def path_template(path: str) -> str:
    path = ID.sub("{id}", path)
    path = re.sub(r"^/v2/stocks/[A-Z.]+/", "/v2/stocks/{symbol}/", path)
    path = re.sub(r"^/v2/watchlists:by_name/[A-Z.]+$", "/v2/watchlists:by_name/{symbol}", path)
    return re.sub(r"^/v2/(assets|positions)/[A-Z.]+$", r"/v2/\1/{symbol}", path)


def call_kinds() -> list[str]:
    return sorted({row["kind"] for row in supported_recorded_calls()}) if RECORDED_RESPONSES.exists() else []


def differences_of_kind(sim: ExchangeThread, kind: str) -> set[tuple[str, str, str]]:
    """Repeat every recorded call of this kind; return the differences between our answers and all recorded
    ones."""
    ours = FieldShapes()
    for row in (row for row in supported_recorded_calls() if row["kind"] == kind):
        status, body = repeat_call(sim, row)
        assert status == row["status"], (row["uri"], body)
        ours.add_payload(payload_kind(row), body)
    return set(differences(ours, recorded_shapes()))


@lru_cache(maxsize=1)
def recorded_shapes() -> "FieldShapes":
    """Return the shapes of all recorded payloads."""
    shapes = FieldShapes()
    for row in supported_recorded_calls():
        shapes.add_payload(payload_kind(row), json.loads(row["body"]) if row["body"] else None)
    return shapes


@pytest.fixture(scope="module")
def sim() -> Iterator[ExchangeThread]:
    with run_exchange() as sim:
        yield sim


@pytest.mark.parametrize("kind", call_kinds())
def test_recorded_call_differs_only_as_documented(sim: ExchangeThread, kind: str) -> None:
    """Status, fields and each field's kind of value are equal; every difference is on the page with its
    reason."""
    assert differences_of_kind(sim, kind) - documented_differences() == set()


def test_every_documented_difference_occurs(sim: ExchangeThread) -> None:
    """Each difference on the page occurs in some recorded call."""
    met = {difference for kind in call_kinds() for difference in differences_of_kind(sim, kind)}
    assert documented_differences() - met == set()


def documented_differences() -> set[tuple[str, str, str]]:
    return {
        (what, field, how) for what, field, how, _ in documented_rows("Differences from the recorded answers")
    }


# -- repeated calls


def repeat_call(sim: ExchangeThread, row: dict[str, Any]) -> tuple[int, Any]:
    """Send an equivalent request to an exchange prepared for it; return its status and body."""
    prepare_account(sim, row)
    path = re.sub(r"(?<=/)[A-Z]+(?=/|$)", lambda match: listed_symbol(match[0]), row["path"])
    if ID.search(path):
        path = ID.sub(place_resting_order(sim), path)
    query = {
        name: date_in_market(name, value, path)
        for name, value in row["query"].items()
        if name != "page_token"
    }
    if path.startswith("/v2/stocks/") and (path.endswith(("latest", "snapshot"))):
        query = {}  # the recorder sent a range; today's API refuses unknown parameters
    if "symbols" in query:
        query["symbols"] = ",".join(listed_symbol(symbol) for symbol in query["symbols"].split(","))
    body = json.loads(row["request_body"]) if row["request_body"] else None
    if "watchlists" in path and body is not None:
        body = {name: listed_symbols(value) if name != "name" else value for name, value in body.items()}
    if row["kind"] in {"POST /v2/orders", "PATCH /v2/orders/{id}"}:
        body = rescale_prices(sim, row, body)
    response = sim.request(row["method"], path, params=query, json=body)
    return response.status_code, response.json() if response.content else None


def listed_symbol(symbol: str) -> str:
    return LISTED_SUBSTITUTES.get(symbol, symbol)


def listed_symbols(value: Any) -> Any:
    return [listed_symbol(symbol) for symbol in value] if isinstance(value, list) else listed_symbol(value)


def date_in_market(name: str, value: str, path: str) -> str:
    """Move recorded date ranges to the days that this market has."""
    if name in {"start", "end"} and path.startswith("/v2/stocks/"):
        return {"start": "2026-06-15T00:00:00-04:00", "end": "2026-06-17T10:25:00-04:00"}[name]
    if name == "date_end":
        return "2026-06-17"
    if name in {"after", "until"}:
        return {"after": "2026-06-01", "until": "2026-07-01"}[name]
    return value


def prepare_account(sim: ExchangeThread, row: dict[str, Any]) -> None:
    """Flatten the account, then create what the request needs: shares to sell, a position to show, orders to
    cancel."""
    if "watchlists" in row["path"]:
        prepare_watchlists(sim, row)
        return
    sim.advance(2)  # the effects of the previous call are complete
    sim.request("PATCH", "/v2/account/configurations", json={"no_shorting": False, "suspend_trade": False})
    sim.request("DELETE", "/v2/orders")
    sim.advance(3)
    sim.request("DELETE", "/v2/positions")
    sim.advance(20)
    if row["kind"].endswith(("/v2/positions/{symbol}", "/v2/positions")) and row["status"] != 404:
        sim.submit_order("buy", 2, "AMZN")
        sim.advance()
        if row["query"].get("cancel_orders"):
            price = last_price(sim, "AMZN")
            stop = {"stop_price": f"{price * 0.95:.2f}"}
            target = {"limit_price": f"{price * 1.05:.2f}"}
            sim.submit_order(
                "sell", 1, "AMZN", "limit", order_class="oco", take_profit=target, stop_loss=stop
            )
    body = json.loads(row["request_body"] or "{}")
    oto = body.get("order_class") == "oto"
    if row["kind"] == "POST /v2/orders" and body["side"] == "sell" and listed_symbol(body["symbol"]) != "GM":
        sim.submit_order("buy", 5, listed_symbol(body["symbol"]))
    if (
        row["kind"] == "DELETE /v2/orders"
        or oto
        or row["kind"].startswith(("GET /v2/orders", "GET /v2/account/"))
    ):
        place_orders(sim)
    sim.advance()


def prepare_watchlists(sim: ExchangeThread, row: dict[str, Any]) -> None:
    """Create the requested list, unless the recorded status is 404; and two more for a GET."""
    for watchlist in sim.request("GET", "/v2/watchlists").json():
        sim.request("DELETE", f"/v2/watchlists/{watchlist['id']}")
    names = [row["query"]["name"]] if row["query"].get("name") and row["status"] != 404 else []
    if row["method"] == "GET":
        names += ["Primary", "another"]
    symbols = ["AAPL", listed_symbol("GOOGL")] if row["method"] == "DELETE" else ["AAPL"]
    for name in names:
        sim.request("POST", "/v2/watchlists", json={"name": name, "symbols": symbols})
    sim.advance(2)


def place_orders(sim: ExchangeThread) -> None:
    """Create a filled and protected bracket, and a replaced order."""
    price = last_price(sim, "AMZN")
    legs = {
        "take_profit": {"limit_price": f"{price * 1.05:.2f}"},
        "stop_loss": {"stop_price": f"{price * 0.95:.2f}", "limit_price": f"{price * 0.94:.2f}"},
    }
    sim.submit_order("buy", 2, "AMZN", order_class="bracket", **legs)
    sim.advance()
    order = sim.submit_order("buy", 2, "GM", "limit", limit_price=f"{last_price(sim, 'GM') * 0.9:.2f}")
    sim.advance()
    sim.request("PATCH", f"/v2/orders/{order['id']}", json={"qty": "1"})


def place_resting_order(sim: ExchangeThread) -> str:
    """Create a working order that can be cancelled or replaced; return its id."""
    sim.submit_order("buy", 2, "AMZN")
    sim.advance()
    stop = f"{last_price(sim, 'AMZN') * 0.9:.2f}"
    order = sim.submit_order("sell", 2, "AMZN", "stop", stop_price=stop)
    sim.advance()
    return str(order["id"])


def rescale_prices(sim: ExchangeThread, row: dict[str, Any], body: Any) -> Any:
    """Scale the recorded order's prices by the ratio of this market's last trade to the recorded one."""
    if "symbol" in body:
        body["symbol"] = listed_symbol(body["symbol"])
        was = {"AMZN": 3648.1 if "2021-07-08" in row["body"] else 3197.0, "F": 140.87, "GM": 20.0}
        scale = last_price(sim, body["symbol"]) / was[body["symbol"]]
    else:
        scale = last_price(sim, "AMZN") / 3648.1
    body.pop("client_order_id", None)

    def scaled(value: Any, name: str = "") -> Any:
        if isinstance(value, dict):
            return {inner: scaled(part, inner) for inner, part in value.items()}
        return (
            f"{float(value) * scale:.2f}" if name in {"limit_price", "stop_price", "trail_price"} else value
        )

    return scaled(body)


def last_price(sim: ExchangeThread, symbol: str) -> float:
    return float(sim.request("GET", f"/v2/stocks/{symbol}/trades/latest").json()["trade"]["p"])


# -- shapes


def payload_kind(row: dict[str, Any]) -> str:
    """Return the kind of payload in the answer to this call."""
    if row["status"] >= 400:
        return "refusal"
    if row["method"] == "DELETE" and row["status"] == 200:
        return "order"
    if row["status"] == 207:
        return "several"
    return PAYLOAD_KIND_BY_PATH[row["kind"].split(" ")[1]]


class FieldShapes:
    """The kinds of value of each field, and the fields that were always present."""

    def __init__(self) -> None:
        self.kinds: dict[tuple[str, str], set[str]] = defaultdict(set)
        self.required_fields: dict[str, set[str]] = {}

    def add_payload(self, what: str, body: Any) -> None:
        for row in self._rows(what, body):
            fields = dict(walk_fields(row))
            for field, seen in fields.items():
                self.kinds[what, field] |= seen
            names = set(row) if isinstance(row, dict) else set()
            self.required_fields[what] = self.required_fields.get(what, names) & names

    def _rows(self, what: str, body: Any) -> Iterator[Any]:
        """Yield the rows of a payload; add nested ones under their own kind: an order's legs, a watchlist's
        assets, the bodies of a 207, the snapshots of a map of symbols."""
        for row in body if isinstance(body, list) else [body] if body is not None else []:
            if what == "order" and row.get("legs"):
                yield {**row, "legs": None}
                for leg in row["legs"]:
                    self.add_payload("leg", leg)
            elif what == "watchlist" and "assets" in row:
                yield {name: value for name, value in row.items() if name != "assets"}
                for asset in row["assets"]:
                    self.add_payload("asset", asset)
            elif what == "several":
                yield {**row, "body": None}
                self.add_payload("order" if row["status"] == 200 else "refusal", row["body"])
            elif what == "activity" and row["activity_type"] != "FILL":
                yield from ()  # no other activity type was recorded
            elif what == "snapshots":
                for part in row.values():
                    self.add_payload("snapshot", part)
            else:
                yield row


def walk_fields(row: Any, at: str = "") -> Iterator[tuple[str, set[str]]]:
    """Yield (field, kinds) at any depth; the elements of a list share one field."""
    if isinstance(row, dict):
        for name, value in row.items():
            yield from walk_fields(value, f"{at}.{name}" if at else name)
    elif isinstance(row, list):
        found: dict[str, set[str]] = defaultdict(set)
        for value in row:
            for field, seen in walk_fields(value, f"{at}[]"):
                found[field] |= seen
        yield at, {"list"}
        yield from found.items()
    else:
        yield at, {value_kind(row)}


def value_kind(value: object) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int | float):
        return "number"
    for name, pattern in (
        ("number text", r"-?\d+(\.\d+)?"),
        ("uuid", ID.pattern),
        ("instant", r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"),
        ("day", r"\d{4}-\d\d-\d\d"),
        ("time of day", r"\d\d:\d\d"),
        ("activity id", r"\d{17}::.+"),
    ):
        if re.fullmatch(pattern, str(value)):
            return name
    return "text"


def differences(ours: FieldShapes, theirs: FieldShapes) -> Iterator[tuple[str, str, str]]:
    """Yield (what, field, how) for every field that is missing, new, or of a kind that was never recorded."""
    for what, always in theirs.required_fields.items():
        for name in always - ours.required_fields.get(what, always):
            yield what, name, "missing"
    for what, field in ours.kinds:
        if (what, field) not in theirs.kinds:
            inside = any(
                (what, field.rsplit(cut, 1)[0]) not in theirs.kinds for cut in (".", "[") if cut in field
            )
            if not inside or "." not in field:
                yield what, field, "new"
            continue
        for kind in ours.kinds[what, field] - theirs.kinds[what, field]:
            if theirs.kinds[what, field] != {"null"}:
                yield what, field, f"may be {kind}"
