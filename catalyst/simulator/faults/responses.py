"""Faulty responses: the proxy's pages, aborted connections, documents with missing fields."""

from collections.abc import Callable

import orjson
from aiohttp import web

from catalyst.simulator.faults.rules import Fault, FaultKind
from catalyst.simulator.rules.wire_format import INTERNAL, TOO_MANY_REQUESTS, JsonObject, encode_json


def json_reply(status: int, body: object) -> web.Response:
    return web.Response(status=status, body=encode_json(body), content_type="application/json")


def proxy_page(status: int, title: str) -> web.Response:
    """Return a page of the proxy in front of the API."""
    text = f"<html><head><title>{title}</title></head><body><center><h1>{title}</h1></center></body></html>"
    return web.Response(status=status, text=text, content_type="text/html")


def rate_limit_response(*, data: bool = False) -> web.Response:
    if data:
        return json_reply(429, {"message": "too many requests."})
    return json_reply(429, {"code": TOO_MANY_REQUESTS, "message": "rate limit exceeded"})


def error_response(fault: Fault) -> web.Response:
    """Return an error with a chosen status; 500 has the API's message, the proxy's statuses have its page."""
    if fault.status in {502, 503, 504} and fault.message is None:
        titles = {502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Time-out"}
        return proxy_page(fault.status, f"{fault.status} {titles[fault.status]}")
    code = INTERNAL if fault.code is None and fault.status == 500 else fault.code or fault.status * 100_000
    return json_reply(
        fault.status, {"code": code, "message": fault.message or "internal server error occurred"}
    )


def abort_connection(request: web.Request) -> web.Response:
    """Abort the connection before the first byte of the response."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=499)


def alter_response(fault: Fault, response: web.StreamResponse) -> web.StreamResponse:
    if not isinstance(response, web.Response) or not isinstance(response.body, bytes):
        return response
    if fault.kind is FaultKind.GARBLE:
        half = response.body[: len(response.body) // 2]
        return web.Response(status=response.status, body=half, content_type="application/json")
    body = orjson.loads(response.body) if response.body else None
    if fault.kind is FaultKind.LEG_OMIT:
        body = _map_objects(body, lambda row: {**row, "legs": None} if "legs" in row else row)
    elif fault.kind is FaultKind.REMOVE_FIELDS:
        lost = set(fault.fields)
        body = _map_objects(body, lambda row: {k: v for k, v in row.items() if k not in lost})
    else:
        extra = dict.fromkeys(fault.fields or ["unheard_of"], fault.text)
        body = _map_objects(body, lambda row: {**row, **extra})
    return web.Response(status=response.status, body=encode_json(body), content_type="application/json")


def _map_objects(value: object, change: Callable[[JsonObject], JsonObject]) -> object:
    """Apply `change` to every JSON object, innermost last."""
    if isinstance(value, list):
        return [_map_objects(item, change) for item in value]
    if isinstance(value, dict):
        return {name: _map_objects(item, change) for name, item in change(value).items()}
    return value
