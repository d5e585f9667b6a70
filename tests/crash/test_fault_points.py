"""Fault points of the broker adapter: they are reached around each request, and an exception there replaces
it."""

from decimal import Decimal

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import ManualClock
from catalyst.domain.errors import NotFound
from catalyst.domain.fault_points import Moment
from catalyst.domain.order import Side
from catalyst.domain.report import OrderRequest
from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.server import run_server
from tests.simulator.manual_feed import ManualFeed, at

ORDER = OrderRequest(
    client_order_id="cat-fault-point-e",
    symbol="AAPL",
    side=Side.BUY,
    quantity=Decimal(1),
    order_type="market",
    time_in_force="day",
    order_class="simple",
    limit_price=None,
    stop_price=None,
    take_profit=None,
    stop_loss=None,
)


class ProcessEnd(Exception):
    """Stands for the end of the process."""


@pytest.mark.parametrize(("crash_moment", "arrives"), [(Moment.BEFORE, False), (Moment.AFTER, True)])
async def test_fault_point_exception_replaces_request(crash_moment: Moment, arrives: bool) -> None:
    """An exception before the request prevents it; an exception after it hides the response of a received
    request."""

    def fault_point(step: str, moment: Moment, /) -> None:
        if (step, moment) == ("POST /orders", crash_moment):
            raise ProcessEnd

    clock = ManualClock(at("10:16"))
    feed = ManualFeed()
    feed.add_trade("AAPL", at("10:15"), "190.00")
    async with run_server(Exchange(feed, clock.now()), clock) as server:
        broker = AlpacaBroker(clock, base_url=server.url, key="demo", secret="demo", fault_point=fault_point)
        with pytest.raises(ProcessEnd):
            await broker.submit(ORDER)
        assert bool(server.exchange.state.order_store.orders) is arrives
        await broker.close()


async def test_fault_point_is_reached_after_failed_request() -> None:
    """The fault point after a request is reached whatever the response is."""
    reached: list[tuple[str, Moment]] = []
    clock = ManualClock(at("10:16"))
    async with run_server(Exchange(ManualFeed(), clock.now()), clock) as server:
        broker = AlpacaBroker(
            clock,
            base_url=server.url,
            key="demo",
            secret="demo",
            fault_point=lambda step, moment: reached.append((step, moment)),
        )
        with pytest.raises(NotFound):
            await broker.order_by_client_id("cat-nobody-e")
        await broker.close()
    assert reached == [
        ("GET /orders:by_client_order_id", Moment.BEFORE),
        ("GET /orders:by_client_order_id", Moment.AFTER),
    ]
