"""Request budget: it follows the broker's own count, and exits never queue behind entries."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.port import Priority
from catalyst.broker.rate_limit import RateLimiter
from catalyst.broker.request import HttpResponse
from catalyst.clock import ManualClock
from catalyst.domain.errors import BrokerUnavailable
from catalyst.domain.order import Side
from catalyst.domain.report import OrderRequest
from tests.broker.scripted_server import KEY, SECRET, ScriptedServer, order_json

ROUTINE, EXIT = Priority.ROUTINE, Priority.EXIT
ORDER = OrderRequest(
    client_order_id="cat-1",
    symbol="AAPL",
    side=Side.BUY,
    quantity=Decimal(10),
    order_type="limit",
    time_in_force="day",
    limit_price=Decimal("100.1"),
)


def rate_limit_response(
    remaining: int, reset_at: datetime, *, limit: int = 200, status: int = 200
) -> HttpResponse:
    return HttpResponse(
        status,
        b"",
        {
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(remaining),
            "x-ratelimit-reset": str(int(reset_at.timestamp())),
        },
    )


@pytest.mark.promise("C06")
async def test_rate_limiter_keeps_its_reserve_for_exits(clock: ManualClock) -> None:
    """Routine calls stop where the reserve begins; exits continue, even past it."""
    budget = RateLimiter(clock, limit=10, reserve=4)
    for _ in range(6):
        await budget.acquire(ROUTINE)
    with pytest.raises(BrokerUnavailable):
        await budget.acquire(ROUTINE)
    for _ in range(6):
        await budget.acquire(EXIT)
    assert budget.status.remaining == 0


async def test_rate_limiter_waits_for_a_near_reset_and_refuses_a_long_wait(clock: ManualClock) -> None:
    """A routine call waits for a reset at most 10 seconds away, in market time, and fails before that."""
    budget = RateLimiter(clock, limit=10, reserve=4, max_wait=timedelta(seconds=10))
    for _ in range(6):
        await budget.acquire(ROUTINE)
        budget.record_response(None)
    await clock.advance(timedelta(seconds=49))
    with pytest.raises(BrokerUnavailable):
        await budget.acquire(ROUTINE)
    await clock.advance(timedelta(seconds=2))
    waiting = asyncio.create_task(budget.acquire(ROUTINE))
    await clock.advance(timedelta(seconds=8))
    assert not waiting.done()
    await clock.advance(timedelta(seconds=2))
    assert waiting.done()
    assert budget.status.remaining == 9


async def test_rate_limiter_adopts_the_counts_of_the_response_headers(clock: ManualClock) -> None:
    """Limit, remaining and reset come from the headers, because other clients use the same account."""
    budget = RateLimiter(clock, limit=200, reserve=60)
    await budget.acquire(ROUTINE)
    reset_at = clock.now() + timedelta(seconds=30)
    budget.record_response(rate_limit_response(61, reset_at, limit=100))
    assert (budget.status.limit, budget.status.remaining, budget.status.reset_at) == (100, 61, reset_at)
    await budget.acquire(ROUTINE)
    budget.record_response(rate_limit_response(60, reset_at, limit=100))
    await budget.acquire(EXIT)
    await clock.advance(timedelta(seconds=31))
    await budget.acquire(ROUTINE)
    assert budget.status.limit == 100


async def test_rate_limiter_remaining_only_falls_within_a_window(clock: ManualClock) -> None:
    """Within one window the count only falls, in whatever order responses arrive."""
    budget = RateLimiter(clock, limit=200, reserve=60)
    reset_at = clock.now() + timedelta(seconds=30)
    for _ in range(2):
        await budget.acquire(ROUTINE)
    budget.record_response(rate_limit_response(70, reset_at))
    budget.record_response(rate_limit_response(90, reset_at))
    # One of the two requests had no response yet when the broker counted 70.
    assert budget.status.remaining == 69


@pytest.mark.promise("C06")
async def test_rate_limiter_blocks_routine_calls_after_429_until_reset(clock: ManualClock) -> None:
    """After a 429 no routine call is sent until the reset it names, or for a few seconds when it names none."""
    budget = RateLimiter(clock, limit=200, reserve=60)
    await budget.acquire(ROUTINE)
    budget.record_response(rate_limit_response(0, clock.now() + timedelta(seconds=40), status=429))
    with pytest.raises(BrokerUnavailable):
        await budget.acquire(ROUTINE)
    await budget.acquire(EXIT)
    budget.record_response(None)
    await clock.advance(timedelta(seconds=41))
    await budget.acquire(ROUTINE)
    budget.record_response(HttpResponse(429, b"", {}))
    waiting = asyncio.create_task(budget.acquire(ROUTINE))
    await clock.advance(timedelta(seconds=4))
    assert not waiting.done()
    await clock.advance(timedelta(seconds=2))
    assert waiting.done()


@pytest.mark.promise("C06")
async def test_rate_limiter_staggers_calls_that_waited_for_the_reset(clock: ManualClock) -> None:
    """Four calls that wait for one reset are sent within 0.6 seconds of it, each at a different time."""
    budget = RateLimiter(clock, limit=20, reserve=4)
    for _ in range(16):
        await budget.acquire(ROUTINE)
        budget.record_response(None)
    renewed = clock.now() + timedelta(seconds=60)
    await clock.advance(timedelta(seconds=55))
    sent_at: list[datetime] = []

    async def go() -> None:
        await budget.acquire(ROUTINE)
        sent_at.append(clock.now())

    waiting = asyncio.gather(*(go() for _ in range(4)))
    await clock.advance(timedelta(seconds=7))
    await waiting
    assert len(set(sent_at)) == 4
    assert renewed < min(sent_at) <= max(sent_at) < renewed + timedelta(seconds=0.6)


async def test_rate_limiter_caps_a_skewed_reset_at_one_window(clock: ManualClock) -> None:
    """A broker clock that is one hour ahead delays calls by one minute; invalid header values are ignored."""
    budget = RateLimiter(clock, limit=200, reserve=60)
    await budget.acquire(ROUTINE)
    budget.record_response(rate_limit_response(0, clock.now() + timedelta(hours=1), status=429))
    await clock.advance(timedelta(seconds=61))
    await budget.acquire(ROUTINE)
    budget.record_response(
        HttpResponse(200, b"", {"x-ratelimit-remaining": "-1", "x-ratelimit-limit": "many"})
    )
    assert budget.status.limit == 200


@pytest.mark.promise("C06")
async def test_client_refuses_entries_at_the_reserve_and_sends_exits(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """With only the reserve left, an entry fails before it is sent; an exit, its reads and its cancel are
    sent over the wire."""
    low = {"X-Ratelimit-Limit": "200", "X-Ratelimit-Remaining": "60", "X-Ratelimit-Reset": "1795187090"}
    assert datetime.fromtimestamp(1795187090, UTC) - clock.now() == timedelta(seconds=50)
    server.on("GET", "/v2/positions", server.json_reply([], headers=low))
    server.on("POST", "/v2/orders", server.json_reply(order_json(), headers=low))
    server.on("DELETE", "/v2/orders/1", server.empty_reply())
    broker = AlpacaBroker(clock, base_url=server.url, key=KEY, secret=SECRET)
    await broker.positions()
    assert broker.rate_limit_status.remaining == 60
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ORDER)
    with pytest.raises(BrokerUnavailable):
        await broker.positions()
    assert len(server.requests) == 1
    await broker.submit(ORDER, priority=EXIT)
    await broker.positions(priority=EXIT)
    await broker.cancel("1")
    assert len(server.requests) == 4
    await broker.close()
