"""No malformed request gets a server error, hangs a connection, or an answer that is not the broker's."""

import json
import socket
from dataclasses import dataclass

from tests.conformance.exchange_thread import ExchangeThread, run_exchange
from tests.simulator.malformed_requests import MalformedRequest, all_requests
from tests.waiting import LIMIT_S

# The proxy in front of the API answers these with a page: no keys, and a target that is too long.
PROXY_STATUSES = {401, 414}
MIN_REQUESTS = 515  # sent by hand, when two of them got a 500


@dataclass(frozen=True, slots=True)
class RawResponse:
    """Status, headers and body of a response."""

    status: int
    headers: bytes
    body: bytes


def send_raw(port: int, request: MalformedRequest) -> RawResponse | None:
    """Send the bytes on a connection of its own; None when the exchange closes it without a response."""
    with socket.create_connection(("127.0.0.1", port), timeout=LIMIT_S) as connection:
        try:
            connection.sendall(request.content)
            if not request.complete:
                connection.shutdown(socket.SHUT_WR)
            received = b""
            while part := connection.recv(1 << 16):
                received += part
        except ConnectionError:  # closed while the rest was sent
            received = b""
    if not received:
        return None
    head, _, body = received.partition(b"\r\n\r\n")
    return RawResponse(int(head.split()[1]), head, body)


def problem_with(request: MalformedRequest, response: RawResponse | None) -> str | None:
    """Return what is wrong with a response; None when nothing is."""
    if response is None:
        return None if not request.complete else "no response"
    if response.status >= 500:
        return f"status {response.status}"
    is_head = request.content.startswith(b"HEAD")
    if response.status < 400 or response.status in PROXY_STATUSES or not request.is_http or is_head:
        return None
    try:
        message = json.loads(response.body)["message"]
    except (ValueError, KeyError, TypeError):
        return f"status {response.status} without a message: {response.body[:80]!r}"
    return None if isinstance(message, str) and message else "an empty message"


def resting_order(sim: ExchangeThread) -> str:
    """Buy a share of AAPL, rest an order for another, and return the id of the latter."""
    sim.submit_order("buy", 1, "AAPL")
    resting = sim.submit_order("buy", 1, "AAPL", "limit", limit_price="100")
    sim.advance(5)
    return str(resting["id"])


def test_malformed_requests_get_refusals_of_the_broker() -> None:
    """Each of some thousand requests is answered below 500; a refusal is JSON with a message, unless it breaks HTTP
    itself. Afterwards account, request log and audit can be read, and the audit is clean."""
    with run_exchange() as sim:
        sent, problems = 0, []
        for request in all_requests(resting_order(sim)):
            sent += 1
            problem = problem_with(request, send_raw(sim.server.port, request))
            if problem is not None:
                problems.append((problem, request.content[:160], request.content[-60:]))
        sim.advance(5)
        audit = sim.request("GET", "/admin/audit").json()
        statuses = [
            sim.request("GET", path).status_code for path in ("/v2/account", "/admin/logs", "/v2/positions")
        ]
    assert problems == []
    assert sent >= MIN_REQUESTS
    assert statuses == [200, 200, 200]
    assert audit["problems"] == []
