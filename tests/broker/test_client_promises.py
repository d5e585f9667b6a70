"""What a client of this broker must do, where neither the stories nor the tests of one answer show it."""

import asyncio
import inspect
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.outcome import Refusal
from catalyst.broker.port import Priority
from catalyst.broker.request import Bounds
from catalyst.broker.trade_updates import AlpacaTradeUpdates
from catalyst.clock import ManualClock
from catalyst.domain.bracket_check import misplaced
from catalyst.domain.errors import BrokerError, BrokerUnavailable, OrderRefused, OutcomeUnknown
from catalyst.domain.order import PositionSide, Side
from catalyst.domain.price import round_entry, round_stop, round_target
from catalyst.domain.report import OrderRequest, Quote
from tests.broker.scripted_server import KEY, SECRET, Peer, order_json

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


async def test_c02_every_call_ends_by_itself_and_none_holds_the_loop(clock: ManualClock, peer: Peer) -> None:
    """A broker that hears everything and answers nothing: each call ends within its bound, a change in doubt and a
    read as unavailable, and meanwhile the loop turns."""
    paths = ["/account", "/clock", "/calendar", "/positions", "/positions/AAPL", "/orders", "/orders/1"]
    for path in [*paths, "/orders:by_client_order_id", "/account/activities/FILL"]:
        peer.on("GET", f"/v2{path}", peer.hangs())
    for verb, path in (("POST", "/orders"), ("DELETE", "/orders/1"), ("PATCH", "/orders/1")):
        peer.on(verb, f"/v2{path}", peer.hangs())
    bounds = Bounds(connect=2.0, read=0.3, total=5.0)
    broker = AlpacaBroker(clock, base_url=peer.url, key=KEY, secret=SECRET, bounds=bounds, threads=9)
    day = clock.now().date()
    reads = [
        broker.account(), broker.clock(), broker.calendar(day, day), broker.positions(), broker.position("AAPL"),
        broker.orders(status="all"), broker.order("1"), broker.order_by_client_id("cat-1"), broker.fills(),
    ]  # fmt: skip
    changes = [
        broker.submit(ORDER), broker.cancel("1"),
        broker.replace("1", client_order_id="cat-2", limit_price=Decimal("100.2")),
    ]  # fmt: skip
    calls = asyncio.gather(*reads, *changes, return_exceptions=True)
    turns = 0
    while not calls.done():
        turns += 1
        await asyncio.sleep(0.01)
    ended = await calls
    assert {type(error) for error in ended[: len(reads)]} == {BrokerUnavailable}
    assert {type(error) for error in ended[len(reads) :]} == {OutcomeUnknown}
    assert turns > 10
    await broker.close()


@pytest.mark.parametrize(
    ("price", "side", "stop", "target", "entry"),
    [
        ("188.004", LONG, "188.01", "188.00", "188.00"),
        ("188.004", SHORT, "188.00", "188.01", "188.01"),
        ("0.98765", LONG, "0.9877", "0.9876", "0.9876"),
        ("0.98765", SHORT, "0.9876", "0.9877", "0.9877"),
    ],
)
def test_c07_prices_are_rounded_by_what_they_are_for(
    price: str, side: PositionSide, stop: str, target: str, entry: str
) -> None:
    """A stop and a target towards the entry, an entry away from paying more; cents, and hundredths of one below a
    dollar; as Decimal."""
    exact = Decimal(price)
    rounded = (round_stop(exact, side), round_target(exact, side), round_entry(exact, side))
    assert tuple(map(str, rounded)) == (stop, target, entry)


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
def test_c09_both_exits_lie_beyond_entry_and_market(
    side: PositionSide,
    entry: str | None,
    stop: str,
    target: str,
    bid: str | None,
    ask: str | None,
    why: str | None,
) -> None:
    """Each by a cent and a margin of one, on its own side, measured from the entry and from both sides of the quote."""

    def price(text: str | None) -> Decimal | None:
        return None if text is None else Decimal(text)

    quote = Quote("AAPL", datetime(2026, 11, 20, 15, tzinfo=UTC), price(bid), price(ask))
    said = misplaced(side, price(entry), Decimal(stop), Decimal(target), quote)
    assert said is None if why is None else said is not None and why in said


def replacement(**changes: object) -> dict[str, object]:
    return order_json("cat-2", **{"replaces": "1", "id": "2", "status": "pending_new", **changes})


async def test_c24_a_yes_to_a_replacement_is_a_request(broker: AlpacaBroker, peer: Peer) -> None:
    """The new order comes back under our own id and with the old one's name, still pending; sent as digits, once, and
    even when nothing but the reserve is left of the budget."""
    low = {"X-Ratelimit-Limit": "200", "X-Ratelimit-Remaining": "10", "X-Ratelimit-Reset": "1795187090"}
    peer.on("GET", "/v2/positions", peer.says([], headers=low))
    await broker.positions(priority=Priority.EXIT)
    peer.on("PATCH", "/v2/orders/1", peer.says(replacement()))
    report = await broker.replace("1", client_order_id="cat-2", limit_price=Decimal("188.10"))
    assert (report.broker_id, report.replaces, report.broker_status) == ("2", "1", "pending_new")
    assert peer.requests[-1].body == {"limit_price": "188.10", "client_order_id": "cat-2"}
    assert peer.count("PATCH", "/v2/orders/1") == 1


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Peer.drops(), OutcomeUnknown),
        (Peer.writes(b"<html>", 504), OutcomeUnknown),
        (Peer.says(replacement(replaces="7")), OutcomeUnknown),
        (Peer.says(order_json("somebody-else", replaces="1")), OutcomeUnknown),
        (Peer.says({"code": 42910000, "message": "rate limit exceeded"}, 429), BrokerUnavailable),
        (
            Peer.says({"code": 42210000, "message": "unable to replace order, order is not open"}, 422),
            OrderRefused,
        ),
    ],
)
async def test_c24_a_replacement_has_three_ends(
    broker: AlpacaBroker, peer: Peer, reply: object, error: type[BrokerError]
) -> None:
    """Refused, never heard, or in doubt; and in each case asked once."""
    peer.on("PATCH", "/v2/orders/1", reply)  # type: ignore[arg-type]
    with pytest.raises(error):
        await broker.replace("1", client_order_id="cat-2", limit_price=Decimal("188.10"))
    assert peer.count("PATCH", "/v2/orders/1") == 1


@pytest.mark.parametrize(
    ("client_id", "price"), [("cat 2", "188.10"), ("cat-2", "188.101"), ("cat-2", "NaN")]
)
async def test_c24_a_replacement_off_tick_is_not_sent(
    broker: AlpacaBroker, peer: Peer, client_id: str, price: str
) -> None:
    """A bad id or a price that is none is a refusal here."""
    with pytest.raises(OrderRefused):
        await broker.replace("1", client_order_id=client_id, limit_price=Decimal(price))
    assert not peer.requests


def test_c38_the_pings_are_tight() -> None:
    """Five seconds between pings and as many for the answer, for every stream that does not ask for something else."""
    defaults = inspect.signature(AlpacaTradeUpdates).parameters
    assert (defaults["ping"].default, defaults["pong"].default) == (5.0, 5.0)


@pytest.mark.parametrize("quantity", ["0.5", "10.25", "0", "-3"])
async def test_c44_only_whole_shares_leave(broker: AlpacaBroker, peer: Peer, quantity: str) -> None:
    """A part of a share, none, or less than none is a refusal here."""
    request = OrderRequest("cat-1", "AAPL", Side.SELL, Decimal(quantity), "market", "day")
    with pytest.raises(OrderRefused) as refused:
        await broker.submit(request)
    assert refused.value.code == Refusal.SUBMIT_FAILED
    assert not peer.requests
