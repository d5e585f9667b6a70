"""The request budget: the broker's count is believed, and exits never queue behind entries."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.port import Priority
from catalyst.broker.rate_limit import RateBudget
from catalyst.broker.request import Answer
from catalyst.clock import ManualClock
from catalyst.domain.errors import BrokerUnavailable
from catalyst.domain.order import Side
from catalyst.domain.report import OrderRequest
from tests.broker.scripted_server import KEY, SECRET, Peer, order_json

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


def told(remaining: int, reset_at: datetime, *, limit: int = 200, status: int = 200) -> Answer:
    return Answer(
        status,
        b"",
        {
            "x-ratelimit-limit": str(limit),
            "x-ratelimit-remaining": str(remaining),
            "x-ratelimit-reset": str(int(reset_at.timestamp())),
        },
    )


async def test_c06_the_reserve_is_for_exits(clock: ManualClock) -> None:
    """Routine calls end where the reserve begins; exits go on, and even past it."""
    budget = RateBudget(clock, limit=10, reserve=4)
    for _ in range(6):
        await budget.take(ROUTINE)
    with pytest.raises(BrokerUnavailable):
        await budget.take(ROUTINE)
    for _ in range(6):
        await budget.take(EXIT)
    assert budget.use.remaining == 0


async def test_a_short_wait_is_waited_and_a_long_one_refused(clock: ManualClock) -> None:
    """Near the end of the minute a routine call waits for the next one, in market time."""
    budget = RateBudget(clock, limit=10, reserve=4, patience=timedelta(seconds=10))
    for _ in range(6):
        await budget.take(ROUTINE)
        budget.heard(None)
    await clock.advance(timedelta(seconds=49))
    with pytest.raises(BrokerUnavailable):
        await budget.take(ROUTINE)
    await clock.advance(timedelta(seconds=2))
    waiting = asyncio.create_task(budget.take(ROUTINE))
    await clock.advance(timedelta(seconds=8))
    assert not waiting.done()
    await clock.advance(timedelta(seconds=2))
    assert waiting.done()
    assert budget.use.remaining == 9


async def test_the_brokers_count_overrules_ours(clock: ManualClock) -> None:
    """What the headers say of limit, remaining and reset is taken; others spend from the same account."""
    budget = RateBudget(clock, limit=200, reserve=60)
    await budget.take(ROUTINE)
    reset_at = clock.now() + timedelta(seconds=30)
    budget.heard(told(61, reset_at, limit=100))
    assert (budget.use.limit, budget.use.remaining, budget.use.reset_at) == (100, 61, reset_at)
    await budget.take(ROUTINE)
    budget.heard(told(60, reset_at, limit=100))
    await budget.take(EXIT)
    await clock.advance(timedelta(seconds=31))
    await budget.take(ROUTINE)
    assert budget.use.limit == 100


async def test_late_answers_do_not_give_budget_back(clock: ManualClock) -> None:
    """Within one window the count only falls, in whatever order answers come."""
    budget = RateBudget(clock, limit=200, reserve=60)
    reset_at = clock.now() + timedelta(seconds=30)
    for _ in range(2):
        await budget.take(ROUTINE)
    budget.heard(told(70, reset_at))
    budget.heard(told(90, reset_at))
    assert budget.use.remaining == 69  # one of the two had not been answered when the 70 were counted


async def test_c06_a_429_stops_routine_calls_until_its_reset(clock: ManualClock) -> None:
    """After a 429 nothing routine is sent until the moment it names, or a few seconds when it names none."""
    budget = RateBudget(clock, limit=200, reserve=60)
    await budget.take(ROUTINE)
    budget.heard(told(0, clock.now() + timedelta(seconds=40), status=429))
    with pytest.raises(BrokerUnavailable):
        await budget.take(ROUTINE)
    await budget.take(EXIT)
    budget.heard(None)
    await clock.advance(timedelta(seconds=41))
    await budget.take(ROUTINE)
    budget.heard(Answer(429, b"", {}))
    waiting = asyncio.create_task(budget.take(ROUTINE))
    await clock.advance(timedelta(seconds=4))
    assert not waiting.done()
    await clock.advance(timedelta(seconds=2))
    assert waiting.done()


async def test_c06_those_who_waited_do_not_come_at_once(clock: ManualClock) -> None:
    """Four that wait for the same renewal go out within half a second of it, each at a moment of its own."""
    budget = RateBudget(clock, limit=20, reserve=4)
    for _ in range(16):
        await budget.take(ROUTINE)
        budget.heard(None)
    renewed = clock.now() + timedelta(seconds=60)
    await clock.advance(timedelta(seconds=55))
    gone: list[datetime] = []

    async def go() -> None:
        await budget.take(ROUTINE)
        gone.append(clock.now())

    waiting = asyncio.gather(*(go() for _ in range(4)))
    await clock.advance(timedelta(seconds=7))
    await waiting
    assert len(set(gone)) == 4
    assert renewed < min(gone) <= max(gone) < renewed + timedelta(seconds=0.6)


async def test_a_skewed_reset_cannot_stop_us_for_longer_than_a_window(clock: ManualClock) -> None:
    """A broker whose clock is an hour ahead delays a minute; nonsense in a header is no number."""
    budget = RateBudget(clock, limit=200, reserve=60)
    await budget.take(ROUTINE)
    budget.heard(told(0, clock.now() + timedelta(hours=1), status=429))
    await clock.advance(timedelta(seconds=61))
    await budget.take(ROUTINE)
    budget.heard(Answer(200, b"", {"x-ratelimit-remaining": "-1", "x-ratelimit-limit": "many"}))
    assert budget.use.limit == 200


async def test_c06_entries_stop_at_the_reserve_and_exits_go_out(clock: ManualClock, peer: Peer) -> None:
    """Over the wire: with the reserve left, an entry fails unheard, and an exit, its reads and its cancel go out."""
    low = {"X-Ratelimit-Limit": "200", "X-Ratelimit-Remaining": "60", "X-Ratelimit-Reset": "1795187090"}
    assert datetime.fromtimestamp(1795187090, UTC) - clock.now() == timedelta(seconds=50)
    peer.on("GET", "/v2/positions", peer.says([], headers=low))
    peer.on("POST", "/v2/orders", peer.says(order_json(), headers=low))
    peer.on("DELETE", "/v2/orders/1", peer.empty())
    broker = AlpacaBroker(clock, base_url=peer.url, key=KEY, secret=SECRET)
    await broker.positions()
    assert broker.rate.remaining == 60
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ORDER)
    with pytest.raises(BrokerUnavailable):
        await broker.positions()
    assert len(peer.requests) == 1
    await broker.submit(ORDER, priority=EXIT)
    await broker.positions(priority=EXIT)
    await broker.cancel("1")
    assert len(peer.requests) == 4
    await broker.close()
