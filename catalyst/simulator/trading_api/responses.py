"""Responses and bodies of the routes: JSON in, JSON out."""

from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web

from catalyst.simulator.rules.wire_format import BAD_REQUEST, ApiError, JsonObject, encode_json

RouteHandler = Callable[[web.Request], object]


def without_body(answer: RouteHandler) -> Callable[[web.Request], Awaitable[web.Response]]:
    """Return a handler for a route without a body."""

    async def respond(request: web.Request) -> web.Response:
        return to_response(answer(request))

    return respond


def to_response(answer: object) -> web.Response:
    """Return a 200 with this JSON, or the response itself."""
    if isinstance(answer, web.Response):
        return answer
    return web.Response(body=encode_json(answer), content_type="application/json")


async def read_json_body(request: web.Request) -> JsonObject:
    """Return the request's JSON object. Raises ApiError (400)."""
    raw = await request.read()
    try:
        body = orjson.loads(raw) if raw else {}
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise ApiError(400, BAD_REQUEST, "request body format is invalid")
    return body
