"""Requirements on the broker client that neither the scenario tests nor the tests of single responses check."""

import asyncio
import inspect
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.outcome import RejectionReason
from catalyst.broker.port import Priority
from catalyst.broker.request import Timeouts
from catalyst.broker.trade_updates import AlpacaTradeUpdates
from catalyst.clock import ManualClock
from catalyst.domain.bracket_check import invalid_bracket_reason
from catalyst.domain.errors import BrokerError, BrokerUnavailable, OrderRejected, OutcomeUnknown
from catalyst.domain.order import PositionSide, Side
from catalyst.domain.price import round_entry, round_stop, round_target
from catalyst.domain.report import OrderRequest, Quote
from tests.broker.scripted_server import KEY, SECRET, ScriptedServer, order_json
from tests.waiting import LIMIT_S

LONG, SHORT = PositionSide.LONG, PositionSide.SHORT
ORDER = OrderRequest(
    client_order_id="cat-1",
    symbol="AAPL",
    side=Side.BUY,
    quantity=Decimal(10),
    order_type="limit",
    time_in_force="day",
    limit_price=Decimal("100.1"),
)


@pytest.mark.promise("C02")
async def test_every_call_times_out_without_blocking_the_loop(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """With a broker that never answers, each call ends by its timeout: a change as OutcomeUnknown, a read as
    BrokerUnavailable. The event loop runs meanwhile: it receives every request before any of them may end."""
    paths = ["/account", "/clock", "/calendar", "/positions", "/positions/AAPL", "/orders", "/orders/1"]
    for path in [*paths, "/orders:by_client_order_id", "/account/activities/FILL"]:
        server.on("GET", f"/v2{path}", server.never_reply())
    for verb, path in (("POST", "/orders"), ("DELETE", "/orders/1"), ("PATCH", "/orders/1")):
        server.on(verb, f"/v2{path}", server.never_reply())

    def start_calls(read_timeout_s: float) -> tuple[AlpacaBroker, "asyncio.Future[list[object]]"]:
        bounds = Timeouts(connect=LIMIT_S, read=read_timeout_s, total=LIMIT_S)
        broker = AlpacaBroker(clock, base_url=server.url, key=KEY, secret=SECRET, timeouts=bounds, threads=9)
        day = clock.now().date()
        reads = [
            broker.account(), broker.clock(), broker.calendar(day, day), broker.positions(),
            broker.position("AAPL"), broker.orders(status="all"), broker.order("1"),
            broker.order_by_client_id("cat-1"), broker.fills(),
        ]  # fmt: skip
        changes = [
            broker.submit(ORDER), broker.cancel("1"),
            broker.replace("1", client_order_id="cat-2", limit_price=Decimal("100.2")),
        ]  # fmt: skip
        return broker, asyncio.gather(*reads, *changes, return_exceptions=True)

    broker, calls = start_calls(read_timeout_s=LIMIT_S)
    await server.wait_for_requests(12)  # this loop receives them while every call waits
    server.release()
    await calls
    await broker.close()

    broker, calls = start_calls(read_timeout_s=0.3)
    ended = await calls
    assert {type(error) for error in ended[:9]} == {BrokerUnavailable}
    assert {type(error) for error in ended[9:]} == {OutcomeUnknown}
    await broker.close()


@pytest.mark.promise("C07")
@pytest.mark.parametrize(
    ("price", "side", "stop", "target", "entry"),
    [
        ("188.004", LONG, "188.01", "188.00", "188.00"),
        ("188.004", SHORT, "188.00", "188.01", "188.01"),
        ("0.98765", LONG, "0.9877", "0.9876", "0.9876"),
        ("0.98765", SHORT, "0.9876", "0.9877", "0.9877"),
    ],
)
def test_stop_target_and_entry_prices_round_in_their_safe_direction(
    price: str, side: PositionSide, stop: str, target: str, entry: str
) -> None:
    """Stop and target round towards the entry; an entry never pays more or receives less. Prices are Decimal,
    on cents, or below a dollar on hundredths of a cent."""
    exact = Decimal(price)
    rounded = (round_stop(exact, side), round_target(exact, side), round_entry(exact, side))
    assert tuple(map(str, rounded)) == (stop, target, entry)


@pytest.mark.promise("C09")
@pytest.mark.parametrize(
    ("side", "entry", "stop", "target", "bid", "ask", "why"),
    [
        (LONG, "190.10", "188.00", "194.00", "190.00", "190.02", None),
        (LONG, None, "188.00", "194.00", "190.00", "190.02", None),
        (LONG, "190.10", "188.00", "194.00", "188.02", "188.03", None),
        (LONG, "190.10", "188.00", "194.00", "188.01", "188.03", "stop"),
        (LONG, "188.01", "188.00", "194.00", "190.00", "190.02", "stop"),
        (LONG, "190.10", "188.00", "194.00", "193.90", "193.99", "target"),
        (LONG, "190.10", "188.00", "190.11", "190.00", "190.02", "target"),
        (SHORT, "189.90", "192.00", "186.00", "190.00", "190.02", None),
        (SHORT, "189.90", "192.00", "186.00", "191.97", "191.99", "stop"),
        (SHORT, "189.90", "192.00", "186.00", "186.01", "186.05", "target"),
        (LONG, "190.10", "188.00", "194.00", None, "190.02", "quote"),
        (LONG, "190.10", "188.00", "194.00", "190.00", None, "quote"),
    ],
)
def test_bracket_check_requires_exits_beyond_entry_and_market(
    side: PositionSide,
    entry: str | None,
    stop: str,
    target: str,
    bid: str | None,
    ask: str | None,
    why: str | None,
) -> None:
    """Stop and target each lie on their own side, one cent plus a one-cent margin from the entry and from
    both sides of the quote."""

    def price(text: str | None) -> Decimal | None:
        return None if text is None else Decimal(text)

    quote = Quote("AAPL", datetime(2026, 11, 20, 15, tzinfo=UTC), price(bid), price(ask))
    reason = invalid_bracket_reason(side, price(entry), Decimal(stop), Decimal(target), quote)
    assert reason is None if why is None else reason is not None and why in reason


def replacement_json(**changes: object) -> dict[str, object]:
    return order_json("cat-2", **{"replaces": "1", "id": "2", "status": "pending_new", **changes})


@pytest.mark.promise("C24")
async def test_replace_returns_the_pending_replacement_order(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """The new order is returned with our client id, the replaced order's id and status pending_new. The price
    is sent as text, once, even when only the reserve is left of the budget."""
    low = {"X-Ratelimit-Limit": "200", "X-Ratelimit-Remaining": "10", "X-Ratelimit-Reset": "1795187090"}
    server.on("GET", "/v2/positions", server.json_reply([], headers=low))
    await broker.positions(priority=Priority.EXIT)
    server.on("PATCH", "/v2/orders/1", server.json_reply(replacement_json()))
    report = await broker.replace("1", client_order_id="cat-2", limit_price=Decimal("188.10"))
    assert (report.broker_id, report.replaces, report.broker_status) == ("2", "1", "pending_new")
    assert server.requests[-1].body == {"limit_price": "188.10", "client_order_id": "cat-2"}
    assert server.request_count("PATCH", "/v2/orders/1") == 1


@pytest.mark.promise("C24")
@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (ScriptedServer.drop_connection(), OutcomeUnknown),
        (ScriptedServer.raw_reply(b"<html>", 504), OutcomeUnknown),
        (ScriptedServer.json_reply(replacement_json(replaces="7")), OutcomeUnknown),
        (ScriptedServer.json_reply(order_json("somebody-else", replaces="1")), OutcomeUnknown),
        (
            ScriptedServer.json_reply({"code": 42910000, "message": "rate limit exceeded"}, 429),
            BrokerUnavailable,
        ),
        (
            ScriptedServer.json_reply(
                {"code": 42210000, "message": "unable to replace order, order is not open"}, 422
            ),
            OrderRejected,
        ),
    ],
)
async def test_failed_replace_raises_the_error_of_its_outcome(
    broker: AlpacaBroker, server: ScriptedServer, reply: object, error: type[BrokerError]
) -> None:
    """A replace is rejected, not received or of unknown outcome; each is sent once."""
    server.on("PATCH", "/v2/orders/1", reply)  # type: ignore[arg-type]
    with pytest.raises(error):
        await broker.replace("1", client_order_id="cat-2", limit_price=Decimal("188.10"))
    assert server.request_count("PATCH", "/v2/orders/1") == 1


@pytest.mark.promise("C24")
@pytest.mark.parametrize(
    ("client_id", "price"), [("cat 2", "188.10"), ("cat-2", "188.101"), ("cat-2", "NaN")]
)
async def test_replace_with_invalid_id_or_price_is_not_sent(
    broker: AlpacaBroker, server: ScriptedServer, client_id: str, price: str
) -> None:
    """An invalid id or price is rejected by the client."""
    with pytest.raises(OrderRejected):
        await broker.replace("1", client_order_id=client_id, limit_price=Decimal(price))
    assert not server.requests


@pytest.mark.promise("C38")
def test_stream_ping_defaults_are_five_seconds() -> None:
    """A stream without other options pings every five seconds and waits five seconds for the pong."""
    defaults = inspect.signature(AlpacaTradeUpdates).parameters
    assert (defaults["ping_interval"].default, defaults["pong_timeout"].default) == (5.0, 5.0)


@pytest.mark.promise("C44")
@pytest.mark.parametrize("quantity", ["0.5", "10.25", "0", "-3"])
async def test_submit_refuses_fractional_or_non_positive_quantities(
    broker: AlpacaBroker, server: ScriptedServer, quantity: str
) -> None:
    """A fractional, zero or negative quantity is rejected by the client."""
    request = OrderRequest("cat-1", "AAPL", Side.SELL, Decimal(quantity), "market", "day")
    with pytest.raises(OrderRejected) as refused:
        await broker.submit(request)
    assert refused.value.code == RejectionReason.SUBMIT_FAILED
    assert not server.requests
