"""Malformed requests from a grammar of JSON, headers, framing and numbers: each a request line, headers and a body.

The lists are products, so that every run sends the same requests.
"""

import gzip
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

KEYS: Final = ("APCA-API-KEY-ID: demo", "APCA-API-SECRET-KEY: demo")
NESTING: Final = 3_000
LONG: Final = 9_000  # digits or letters

# Values of a JSON field, as they stand in the body.
JSON_VALUES: Final = (
    *("null", "true", "0", "-1", "1e3", "1e400", "-0.0", "0.0000000001", "123456789012345678901234567890"),
    *(
        '""',
        '" 5 "',
        '"1_000"',
        '"\uff11\uff10"',
        '"0x10"',
        '"NaN"',
        '"-inf"',
        '"1e999999999"',
        '"5\\u0000"',
        '"\\n1"',
    ),
    *("[]", "{}", '{"a": 1}', "[[1]]", f'"{"9" * LONG}"', '"\u200b"', '"$(id)"', '"\'; DROP TABLE orders"'),
)
ORDER_FIELDS: Final = (
    *(
        "symbol",
        "qty",
        "notional",
        "side",
        "type",
        "time_in_force",
        "limit_price",
        "stop_price",
        "order_class",
    ),
    *("client_order_id", "extended_hours", "position_intent", "take_profit", "stop_loss", "trail_price"),
)
REPLACEMENT_FIELDS: Final = ("qty", "time_in_force", "limit_price", "stop_price", "trail", "client_order_id")
BODIES: Final = (
    *(
        b"",
        b"null",
        b"[]",
        b"7",
        b'"text"',
        b"true",
        b"{",
        b'{"symbol"',
        b'{"symbol": ',
        b'{"symbol": "AAPL",}',
        b"{}{}",
    ),
    *(
        b"\xef\xbb\xbf{}",
        b"{'symbol': 'AAPL'}",
        b'{"qty": NaN}',
        b'{"qty": 01}',
        b'{"qty": .5}',
        b'{"qty": +1}',
        b"\x00",
    ),
    *(
        b'{"symbol": "\xff\xfe"}',
        b'{"symbol": "\\ud800"}',
        b'{"symbol": "\\x41"}',
        b'{"a": 1, "a": 2}',
        b"<xml/>",
        b"a=1&b=2",
    ),
    *(
        b"[" * NESTING,
        b'{"a":' * NESTING,
        b"{" + b" " * 70_000 + b"}",
        b'{"' + b"k" * 70_000 + b'": 1}',
        b"\xff" * 100,
    ),
)
# Values of a query parameter before they are escaped.
QUERY_VALUES: Final = (
    *(
        "-1",
        "0",
        "1e3",
        " 5 ",
        "1_0",
        "\uff15",
        "\u0665",
        "9" * 25,
        "NaN",
        "",
        "null",
        "[]",
        "AAPL,",
        ",",
        "%",
    ),
    *(
        "2026-02-30",
        "9999-12-31",
        "0001-01-01",
        "0000-00-00",
        "2026-06-17T25:00:00Z",
        "9999-12-31T23:59:59-14:00",
    ),
    *(
        "0001-01-01T00:00:00+14:00",
        "2026-06-17T10:00:00.9999999999999999999Z",
        "\u0662\u0660\u0662\u0666-06-17",
        "now",
    ),
    *("\x00", "\r\n", "../..", "true", "\U0001f600", "fn:x", "MTB8", "====", "T1BFTg=="),
)
QUERIES: Final = (
    *(
        f"/v2/orders?{name}="
        for name in ("limit", "after", "until", "status", "before_order_id", "nested", "symbols")
    ),
    *(f"/v2/calendar?{name}=" for name in ("start", "end", "date_type")),
    *(
        f"/v2/account/activities?{name}="
        for name in ("page_size", "after", "until", "date", "activity_types")
    ),
    *(
        f"/v2/account/portfolio/history?{name}="
        for name in ("period", "timeframe", "start", "end", "date_end")
    ),
    *(
        f"/v2/stocks/AAPL/bars?timeframe=1Hour&{name}="
        for name in ("start", "end", "limit", "page_token", "feed")
    ),
    *(f"/v2/stocks/AAPL/trades?{name}=" for name in ("start", "end", "limit", "page_token", "sort")),
    *(
        "/v2/stocks/AAPL/quotes?end=",
        "/v2/stocks/AAPL/auctions?end=",
        "/v2/stocks/bars?symbols=AAPL&timeframe=",
    ),
    *(f"/v1beta1/news?{name}=" for name in ("start", "end", "limit", "page_token", "symbols")),
    *(
        "/v1beta1/screener/stocks/movers?top=",
        "/v1/corporate-actions?start=",
        "/v3/clock?time=",
        "/v3/clock?markets=",
    ),
    *("/v3/calendar/NYSE?start=", "/v3/calendar/NYSE?end=", "/v3/calendar/", "/v2/orders/", "/v2/positions/"),
    *("/v2/assets/", "/v2/stocks/snapshots?symbols=", "/v2/orders:by_client_order_id?client_order_id="),
    *("/v2/corporate_actions/announcements?ca_types=Dividend&until=2026-06-17&since=", "/v2/watchlists/"),
)
DELETIONS: Final = (
    "/v2/positions/AAPL?qty=",
    "/v2/positions/AAPL?percentage=",
    "/v2/positions?cancel_orders=",
)


@dataclass(frozen=True, slots=True)
class MalformedRequest:
    """The bytes of a request. `complete` is false when its body never ends; `is_http` is false when it breaks the
    protocol before any API, as the broker's proxy sees it."""

    content: bytes
    complete: bool = True
    is_http: bool = True


def all_requests(order_id: str) -> Iterator[MalformedRequest]:
    """Yield every request; `order_id` is an order that a request may replace."""
    yield from _json_requests(order_id)
    yield from _query_requests()
    yield from _header_requests()
    yield from _framing_requests()


def request_bytes(
    method: str, target: str, body: bytes = b"", headers: Sequence[str] = KEYS, **more: str
) -> bytes:
    """Return a request with its length, and a connection that closes; `more` names headers with underscores."""
    lines = [f"{method} {target} HTTP/1.1", "Host: 127.0.0.1", "Connection: close", *headers]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in more.items()]
    if body and "Transfer_Encoding" not in more and "Content_Length" not in more:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1", "surrogateescape") + b"\r\n\r\n" + body


def _json_requests(order_id: str) -> Iterator[MalformedRequest]:
    order = {
        "symbol": "AAPL",
        "qty": "1",
        "side": "buy",
        "type": "limit",
        "limit_price": "1",
        "time_in_force": "day",
    }
    for field in ORDER_FIELDS:
        for value in JSON_VALUES:
            body = json.dumps({**order, field: "@"}).replace('"@"', value).encode()
            yield MalformedRequest(request_bytes("POST", "/v2/orders", body))
    for field in REPLACEMENT_FIELDS:
        for value in JSON_VALUES:
            body = f'{{"{field}": {value}}}'.encode()
            yield MalformedRequest(request_bytes("PATCH", f"/v2/orders/{order_id}", body))
    targets = (("POST", "/v2/orders"), ("PATCH", "/v2/account/configurations"), ("POST", "/v2/watchlists"))
    for method, target in targets:
        for body in BODIES:
            yield MalformedRequest(request_bytes(method, target, body))


def _query_requests() -> Iterator[MalformedRequest]:
    for value in QUERY_VALUES:
        for target in QUERIES:
            yield MalformedRequest(request_bytes("GET", target + quote(value, safe="")))
        for target in DELETIONS:
            yield MalformedRequest(request_bytes("DELETE", target + quote(value, safe="")))
    for raw in (
        "%",
        "%zz",
        "%ff",
        "%c0%af",
        "%u0041",
        "a%00b",
        "&&&=",
        "limit",
        "limit=1&limit=x",
        ";limit=1",
    ):
        for target in (
            "/v2/orders?",
            "/v2/stocks/AAPL/bars?timeframe=1Day&",
            "/v2/assets/",
            "/v2/positions/",
        ):
            yield MalformedRequest(request_bytes("GET", target + raw))


def _header_requests() -> Iterator[MalformedRequest]:
    order = b'{"symbol": "AAPL"}'
    for encoding in ("gzip", "deflate", "br", "zstd", "identity", "x-none", "gzip, gzip"):
        decodable = encoding not in {"br", "zstd"}  # the HTTP server refuses what it has no decoder for
        request = request_bytes("POST", "/v2/orders", order, Content_Encoding=encoding)
        yield MalformedRequest(request, is_http=decodable)
    cut = gzip.compress(order)[:-9]
    yield MalformedRequest(request_bytes("POST", "/v2/orders", cut, Content_Encoding="gzip"))
    for kind in (
        "text/plain",
        "application/xml",
        "multipart/form-data",
        "application/json; charset=utf-99",
        "\xff",
    ):
        yield MalformedRequest(request_bytes("POST", "/v2/orders", order, Content_Type=kind))
    for target in ("/v2/orders", "/v2/account", "/stream", "/v2/iex", "/v1beta1/news", "/nowhere"):
        for method in ("GET", "POST"):
            yield MalformedRequest(request_bytes(method, target, Upgrade="websocket"))
            yield MalformedRequest(request_bytes(method, target, Upgrade="websocket", Sec_WebSocket_Key="x"))
    for agent in ("\xff\xfe", "a" * 7_000, ""):
        yield MalformedRequest(request_bytes("GET", "/v2/account", User_Agent=agent))
    for keys in ((), KEYS[:1], ("APCA-API-KEY-ID: \xff", KEYS[1]), (KEYS[0], "APCA-API-SECRET-KEY:")):
        yield MalformedRequest(request_bytes("GET", "/v2/account", headers=keys))
    yield MalformedRequest(
        request_bytes("GET", "/v2/account", headers=(*KEYS, *(f"X-{n}: y" for n in range(90))))
    )
    large = b'{"symbol": "' + b"A" * (1 << 20) + b'"}'
    yield MalformedRequest(request_bytes("POST", "/v2/orders", large))


def _framing_requests() -> Iterator[MalformedRequest]:
    for method in ("PUT", "OPTIONS", "TRACE", "FOO", "HEAD"):
        yield MalformedRequest(request_bytes(method, "/v2/account"), is_http=method != "FOO")
    chunked = {"Transfer_Encoding": "chunked"}
    for body in (
        b"zz\r\n{}\r\n0\r\n\r\n",
        b"-2\r\n{}\r\n0\r\n\r\n",
        b"2\r\n{}x\r\n0\r\n\r\n",
        b"ffffffffffffffffff\r\n",
    ):
        request = request_bytes("POST", "/v2/orders", body, **chunked)
        yield MalformedRequest(request, complete=False, is_http=False)
    for length in ("-1", "x", "1e3", "99999999999999999999"):
        request = request_bytes("POST", "/v2/orders", b"{}", Content_Length=length)
        yield MalformedRequest(request, complete=False, is_http=False)
    yield MalformedRequest(request_bytes("POST", "/v2/orders", b"{}", Content_Length="500"), complete=False)
    yield MalformedRequest(request_bytes("POST", "/v2/orders", b"5\r\n{}", **chunked), complete=False)
    for line in (
        b"GET /v2/account",
        b"GET  /v2/account HTTP/1.1",
        b"GET /v2/account HTTP/9.9",
        b"\x16\x03\x01\x02\x00",
    ):
        yield MalformedRequest(line + b"\r\nHost: x\r\n\r\n", complete=False, is_http=False)
    for line in (
        b"PRI * HTTP/2.0\r\n\r\nSM",
        b"get /v2/account HTTP/1.1",
        b"GET /\xff\xfe HTTP/1.1",
        b"GET * HTTP/1.1",
    ):
        yield MalformedRequest(
            line + b"\r\nHost: x\r\nConnection: close\r\n\r\n", complete=False, is_http=False
        )
    for header in (
        b"Bad Header: x",
        b": x",
        b"X: " + b"y" * 70_000,
        b"Content-Length: 1\r\nContent-Length: 2",
    ):
        request = b"GET /v2/account HTTP/1.1\r\nHost: x\r\n" + header + b"\r\n\r\n"
        yield MalformedRequest(request, complete=False, is_http=False)
    yield MalformedRequest(
        b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", complete=False, is_http=False
    )
