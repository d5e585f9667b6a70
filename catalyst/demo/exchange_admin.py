"""Client of the simulated exchange's admin API."""

import asyncio
import http.client
import json
from typing import Any


async def request_admin(
    port: int, path: str, *, method: str = "GET", body: dict[str, Any] | None = None
) -> Any:
    """Send a request to `/admin/{path}` in a thread and return the JSON response.

    Raises OSError when the exchange does not answer within 30 s.
    """
    return await asyncio.to_thread(_request, port, path, method, body)


def _request(port: int, path: str, method: str, body: dict[str, Any] | None) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        text = None if body is None else json.dumps(body)
        connection.request(method, f"/admin/{path}", text, {"Content-Type": "application/json"})
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()
