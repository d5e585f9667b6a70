"""Parsers of the broker's JSON, without a network: any field may be missing, new or odd; only ValueError is
raised."""

import gzip
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catalyst.broker import parse
from catalyst.broker.columns import bar_columns, numbers, snapshot_columns, times
from catalyst.broker.outcome import decode_json
from catalyst.broker.pagination import array_items
from catalyst.broker.request import HttpResponse
from tests.broker.scripted_server import order_json
from tests.broker.test_reads import ACCOUNT, fill_json, position_json

RECORDED_RESPONSES = Path(__file__).parents[3] / "shared" / "alpaca" / "alpaca_http_recorded.jsonl.gz"

Parse = Callable[[object], object]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def _check_reason(reason: str, raw: object) -> None:
    assert reason


def parse_order(raw: object) -> object:
    return parse.order_report(raw, _check_reason)


def parse_update(raw: object) -> object:
    return parse.trade_update(raw, _check_reason)


ENVELOPE: dict[str, Any] = {
    "stream": "trade_updates",
    "data": {
        "event": "fill",
        "price": "100.1",
        "qty": "3",
        "position_qty": "3",
        "timestamp": "2026-11-20T15:04:20Z",
        "order": order_json(filled_qty="3", legs=[order_json()]),
    },
}
ASSET = {"id": "1", "symbol": "A", "status": "active", "exchange": "NYSE", "borrow_status": "easy_to_borrow"}
CLOCK = {
    "timestamp": "2026-11-20T10:04:19.451420928-05:00",
    "is_open": True,
    "next_open": "2026-11-23T09:30:00-05:00",
    "next_close": "2026-11-20T16:00:00-05:00",
}
ROWS: list[tuple[Parse, dict[str, Any], set[str]]] = [
    (parse_order, order_json(qty="10"), {"id", "symbol", "side", "qty", "filled_qty", "status"}),
    (parse_update, ENVELOPE["data"], {"event", "order"}),
    (parse.position_report, position_json(), {"symbol", "qty"}),
    (parse.account_report, ACCOUNT, {"id", "status", "equity", "last_equity", "cash", "buying_power"}),
    (parse.fill, fill_json(1), {"id", "order_id", "cum_qty", "qty", "price", "transaction_time"}),
    (parse.asset_report, ASSET, {"id", "symbol", "status"}),
    (parse.clock_report, CLOCK, set(CLOCK)),
]
MUTATIONS = [
    pytest.param(read, row, essential, name, id=f"{getattr(read, '__name__', 'row')}-{name}")
    for read, row, essential in ROWS
    for name in row
]


@pytest.mark.parametrize(("read", "row", "essential", "name"), MUTATIONS)
def test_parser_rejects_a_row_only_without_an_essential_field(
    read: Parse, row: dict[str, Any], essential: set[str], name: str
) -> None:
    """A row with a missing or null field is parsed, unless money depends on that field; a new field is
    ignored."""
    wrap: Callable[[dict[str, Any]], object] = lambda data: {"data": data} if read is parse_update else data  # noqa: E731
    without = {key: value for key, value in row.items() if key != name}
    for mutated in (without, {**row, name: None}):
        if name in essential:
            with pytest.raises(ValueError, match=r"\S"):
                read(wrap(mutated))
        else:
            read(wrap(mutated))
    read(wrap({**row, "a_field_of_2027": {"deep": [1]}}))


@pytest.mark.parametrize("read", [read for read, _, _ in ROWS] + [parse.session])
@given(raw=JSON)
def test_parser_raises_only_value_error_for_any_json(read: Parse, raw: object) -> None:
    """Any JSON in place of a row raises ValueError at most."""
    with suppress(ValueError):
        read(raw)


@settings(max_examples=500)
@given(st.sampled_from([(read, row, name) for read, row, _ in ROWS for name in row]), JSON)
def test_parser_raises_only_value_error_for_any_field_value(
    case: tuple[Parse, dict[str, Any], str], value: object
) -> None:
    """Any JSON in place of a field raises ValueError at most."""
    read, row, name = case
    mutated = {**row, name: value}
    with suppress(ValueError):
        read({"data": mutated} if read is parse_update else mutated)


@given(JSON)
def test_market_data_columns_accept_any_json(raw: object) -> None:
    """Columns accept any JSON without an exception: an invalid value is NaN, NaT or left out."""
    part = {"p": raw, "t": raw, "bp": raw, "ap": raw, "bs": raw, "as": raw, "o": raw, "c": raw, "v": raw}
    symbols, columns = snapshot_columns(
        {"A": {"latestTrade": part, "latestQuote": part, "dailyBar": raw}, "B": raw, "C": {}}
    )
    assert all(len(column) == len(symbols) for column in columns.values())
    bars = bar_columns({"A": [part, raw], "B": raw, "C": []})
    assert len({len(column) for column in bars.values()}) == 1


@given(
    st.decimals(min_value=Decimal("0.0001"), max_value=Decimal("999999.9999"), places=4, allow_nan=False),
)
def test_amount_keeps_the_digits_of_text_and_number(price: Decimal) -> None:
    """The Decimal has the digits received, from text and from a JSON number."""
    text = f"{price:f}"
    assert parse.amount({"p": text}, "p") == price
    number = decode_json(text.encode())
    assert parse.amount({"p": number}, "p") == price


@pytest.mark.parametrize("wrong", [rb"\u0000", rb"\ud800", rb"\u0000\udfff"])
def test_rejection_text_holds_only_what_the_database_stores(wrong: bytes) -> None:
    """A NUL or a lone surrogate in any text of the broker becomes U+FFFD: one such text must not cost the whole
    statement that writes the reports."""
    body = json.dumps(order_json(reject_reason="no @ no") | {"name @": ["@"]}).encode()
    report = parse.order_report(decode_json(body.replace(b"@", wrong)), _check_reason)
    stored = json.dumps(report.raw, ensure_ascii=False)
    assert "\x00" not in stored
    assert "\\u0000" not in stored
    assert str(report.raw["reject_reason"]).encode().count("\ufffd".encode()) == wrong.count(b"u")


@given(
    st.datetimes(
        min_value=datetime(2000, 1, 1),  # noqa: DTZ001 - the zone is drawn beside it
        max_value=datetime(2100, 1, 1),  # noqa: DTZ001
        timezones=st.sampled_from([UTC]),
    ),
    st.sampled_from(["Z", "+00:00", "-04:00", "-05:00", "+05:30"]),
    st.integers(0, 999),
)
def test_instants_are_parsed_to_utc_microseconds(at: datetime, zone: str, nanoseconds: int) -> None:
    """Any offset and number of digits gives the same instant, cut to microseconds; columns keep nanoseconds."""
    hours = 0 if zone == "Z" else int(zone[:3])
    minutes = 0 if zone == "Z" else int(zone[0] + zone[4:])
    local = (at + timedelta(hours=hours, minutes=minutes)).replace(tzinfo=None)
    text = f"{local.isoformat(timespec='microseconds')}{nanoseconds:03d}{zone}"
    assert parse.instant(text) == at
    (stamp,) = times([text]).astype("int64")
    since = at - datetime(1970, 1, 1, tzinfo=UTC)
    assert stamp == (since // timedelta(microseconds=1)) * 1_000 + nanoseconds


def test_times_column_parses_mixed_formats() -> None:
    """A column of UTC times, offsets, nulls and invalid texts parses each value, whether or not many are
    alike."""
    kinds = [
        "2026-11-20T15:04:20.5Z",
        "2026-11-20T10:04:20.5-05:00",
        None,
        "soon",
        17,
        "2026-11-20T15:04:20.5Z",
    ]
    for raw in (kinds, kinds[:1] * 50, [*kinds, *kinds[:1] * 50], [None] * 20, []):
        parsed = [None if str(time) == "NaT" else str(time)[:21] for time in times(raw)]
        right = [
            "2026-11-20T15:04:20.5" if isinstance(value, str) and "T" in value else None for value in raw
        ]
        assert parsed == right


def test_numbers_column_is_nan_for_invalid_values() -> None:
    """Null, invalid, infinite and negative values are NaN; zero is valid for counts and invalid for prices."""
    raw = [1.5, "2.5", None, "x", True, [], -1, 0, float("inf"), 10**400]
    right = ["1.5", "2.5", "nan", "nan", "nan", "nan", "nan", "0.0", "nan", "nan"]
    assert [str(number) for number in numbers(raw, zero=True)] == right
    assert str(numbers([0.0], zero=False)[0]) == "nan"


@given(st.lists(JSON.filter(lambda one: one == one), max_size=5), st.sampled_from(["", " ", "\n\t"]))
def test_array_items_equal_the_parsed_array(rows: list[object], space: str) -> None:
    """A JSON array has the same items, whether parsed item by item or at once."""
    text = json.dumps(rows).replace("[", f"[{space}", 1) if rows else f"{space}[{space}]{space}"
    assert json.dumps(list(array_items(text))) == json.dumps(json.loads(text))


# --- answers of the real broker: written here as it sends them, and recorded ones where they are present ------

Response = tuple[str, str, int, Any]  # method, path, status, body

# The fields of 2021, which are fewer and partly others than today's.
OLD_ORDER = {
    name: value for name, value in order_json().items() if name not in {"expires_at", "position_intent"}
}
OLD_ACCOUNT = {
    **{name: str(value) for name, value in ACCOUNT.items() if name in {"id", "status", "equity", "cash"}},
    "account_number": "PA2",
    "last_equity": "99999.1",
    "buying_power": "400002.2",
    "currency": "USD",
    "pattern_day_trader": False,
    "daytrade_count": 0,
    "daytrading_buying_power": "0",
    "multiplier": "4",
    "trading_blocked": False,
    "account_blocked": False,
    "transfers_blocked": False,
    "trade_suspended_by_user": False,
    "shorting_enabled": True,
    "created_at": "2020-11-10T18:29:17.6Z",
}
DIVIDEND = {"id": "20210301000000000::1", "activity_type": "DIV", "date": "2021-03-01", "net_amount": "1.02"}
WRITTEN_RESPONSES: list[Response] = [
    ("GET", "https://x/v2/account", 200, OLD_ACCOUNT),
    ("GET", "https://x/v2/clock", 200, CLOCK),
    ("GET", "https://x/v2/calendar", 200, [
        {"date": "2021-11-26", "open": "09:30", "close": "13:00", "session_open": "0700", "session_close": "1900"},
        {"date": "2021-11-29", "open": "09:30", "close": "16:00", "session_open": "0700", "session_close": "1900"},
    ]),
    ("GET", "https://x/v2/account/activities", 200, [fill_json(1, type="fill"), DIVIDEND]),
    ("GET", "https://x/v2/orders", 200, [
        OLD_ORDER,
        {**OLD_ORDER, "order_class": "", "type": "market", "order_type": "market", "limit_price": None},
        {**OLD_ORDER, "order_class": "bracket", "legs": [{**OLD_ORDER, "status": "held", "type": "stop",
                                                         "limit_price": None, "stop_price": "99"}]},
        {**OLD_ORDER, "status": "filled", "filled_qty": "10", "filled_avg_price": "100.0575",
         "filled_at": "2021-07-08T14:31:02.1Z"},
    ]),
    ("POST", "https://x/v2/orders", 200, {**OLD_ORDER, "status": "accepted"}),
    ("PATCH", "https://x/v2/orders/1", 200, {**OLD_ORDER, "replaces": "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415"}),
    ("GET", "https://x/v2/positions", 200, [position_json(), position_json(qty="-3", side="short")]),
    ("GET", "https://x/v2/positions/AAPL", 200, position_json()),
    ("GET", "https://x/v2/assets/BLAH", 404, {"code": 40410000, "message": "asset not found for BLAH"}),
    ("DELETE", "https://x/v2/positions/AAPL", 404, {"code": 40410000, "message": "position does not exist"}),
    ("POST", "https://x/v2/orders", 403, {"code": 40310000, "message": "insufficient buying power"}),
    ("POST", "https://x/v2/orders", 422, {"code": 40010001, "message": "qty is required"}),
    ("DELETE", "https://x/v2/orders/1", 422, {"code": 42210000, "message": "order is not cancelable"}),
    ("GET", "https://x/v2/account", 401, {"message": "forbidden."}),
    ("GET", "https://x/v2/orders", 429, {"message": "too many requests."}),
]  # fmt: skip


def recorded_responses() -> Iterator[Response]:
    with gzip.open(RECORDED_RESPONSES, "rt") as lines:
        for line in lines:
            exchange = json.loads(line)
            try:
                body = json.loads(exchange["body"])
            except ValueError:
                continue
            yield exchange["method"], exchange["uri"].split("?")[0], exchange["status"], body


SOURCES: dict[str, Callable[[], Iterator[Response]]] = {"written": lambda: iter(WRITTEN_RESPONSES)}
if RECORDED_RESPONSES.exists():
    SOURCES["recorded"] = recorded_responses


@pytest.mark.parametrize("source", SOURCES)
def test_parser_reads_every_response(source: str) -> None:
    """Orders, positions, fills, accounts, clocks and sessions of the real broker are parsed; hundreds are recorded."""
    readers: dict[str, Parse] = {
        "orders": parse_order,
        "positions": parse.position_report,
        "FILL": parse.fill,
    }
    seen = dict.fromkeys((*readers, "account", "clock", "calendar"), 0)
    for _, uri, status, body in SOURCES[source]():
        if status != 200:
            continue
        match uri.split("/v2/")[-1].split("/"):
            case ["account"]:
                seen["account"] += 1
                parse.account_report(body)
            case ["clock"]:
                seen["clock"] += 1
                parse.clock_report(body)
            case ["calendar"]:
                seen["calendar"] += len([parse.session(row) for row in body])
            case ["account", "activities", *_]:
                rows = [row for row in body if row["activity_type"] == "FILL"]
                seen["FILL"] += len([parse.fill(row) for row in rows])
            case ["orders" | "positions" as what, *_]:
                for row in body if isinstance(body, list) else [body]:
                    if "side" in row and "qty" in row and "status" in row | {"status": what == "positions"}:
                        kind = "orders" if "client_order_id" in row else "positions"
                        seen[kind] += 1
                        readers[kind](row)
            case _:
                continue
    assert all(count > 0 for count in seen.values()), seen


@pytest.mark.parametrize("source", SOURCES)
def test_every_error_response_has_a_definite_outcome(source: str) -> None:
    """Each error of the real broker has a class other than OutcomeUnknown."""
    from catalyst.broker.outcome import success_body
    from catalyst.domain.errors import BrokerError, OutcomeUnknown

    count = 0
    for method, _, status, body in SOURCES[source]():
        if status < 400:
            continue
        count += 1
        with pytest.raises(BrokerError) as raised:
            success_body(HttpResponse(status, json.dumps(body).encode(), {}), mutating=method != "GET")
        assert not isinstance(raised.value, OutcomeUnknown)
    assert count > 0
