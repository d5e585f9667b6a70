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
from catalyst.simulator.server import running
from tests.simulator.manual_feed import HandTape, at

ORDER = OrderRequest(
    client_order_id="cat-witness-e",
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


class Ends(Exception):
    """The end of the process, as a test can see it."""


@pytest.mark.parametrize(("ends", "arrives"), [(Moment.BEFORE, False), (Moment.AFTER, True)])
async def test_what_a_witness_raises_takes_the_place_of_the_request(ends: Moment, arrives: bool) -> None:
    """Raised before, the request never leaves; raised after, the exchange has it and the caller never learns."""

    def witness(step: str, moment: Moment, /) -> None:
        if (step, moment) == ("POST /orders", ends):
            raise Ends

    clock = ManualClock(at("10:16"))
    tape = HandTape()
    tape.trades("AAPL", at("10:15"), "190.00")
    async with running(Exchange(tape, clock.now()), clock) as server:
        broker = AlpacaBroker(clock, base_url=server.url, key="demo", secret="demo", witness=witness)
        with pytest.raises(Ends):
            await broker.submit(ORDER)
        assert bool(server.exchange.book.orders) is arrives
        await broker.close()


async def test_a_witness_hears_of_a_request_that_is_refused() -> None:
    """A request has an after whatever its answer."""
    heard: list[tuple[str, Moment]] = []
    clock = ManualClock(at("10:16"))
    async with running(Exchange(HandTape(), clock.now()), clock) as server:
        broker = AlpacaBroker(
            clock,
            base_url=server.url,
            key="demo",
            secret="demo",
            witness=lambda step, moment: heard.append((step, moment)),
        )
        with pytest.raises(NotFound):
            await broker.order_by_client_id("cat-nobody-e")
        await broker.close()
    assert heard == [
        ("GET /orders:by_client_order_id", Moment.BEFORE),
        ("GET /orders:by_client_order_id", Moment.AFTER),
    ]
