"""The seam on which the matrix stands: what a witness hears of a request, and what its word does."""

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
    """The end of the process, as a test can see it."""


@pytest.mark.parametrize(("ends", "arrives"), [(Moment.BEFORE, False), (Moment.AFTER, True)])
async def test_fault_point_exception_replaces_request(ends: Moment, arrives: bool) -> None:
    """Raised before, the request never leaves; raised after, the exchange has it and the caller never learns."""

    def fault_point(step: str, moment: Moment, /) -> None:
        if (step, moment) == ("POST /orders", ends):
            raise ProcessEnd

    clock = ManualClock(at("10:16"))
    tape = ManualFeed()
    tape.add_trade("AAPL", at("10:15"), "190.00")
    async with run_server(Exchange(tape, clock.now()), clock) as server:
        broker = AlpacaBroker(clock, base_url=server.url, key="demo", secret="demo", fault_point=fault_point)
        with pytest.raises(ProcessEnd):
            await broker.submit(ORDER)
        assert bool(server.exchange.order_store.orders) is arrives
        await broker.close()


async def test_fault_point_is_reached_after_failed_request() -> None:
    """A request has an after whatever its answer."""
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
