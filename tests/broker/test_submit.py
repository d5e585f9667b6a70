"""What a submit comes to, over the wire: sent at most once, and never called failed when it may have landed."""

import asyncio
import threading
import warnings
from dataclasses import replace
from decimal import Decimal

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.port import Priority
from catalyst.broker.request import Attempt, Bounds
from catalyst.clock import ManualClock
from catalyst.domain.errors import (
    AuthRefused,
    BrokerUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRefused,
    OutcomeUnknown,
)
from catalyst.domain.order import Side
from catalyst.domain.report import OrderRequest
from tests.broker.scripted_server import KEY, SECRET, Peer, order_json

ENTRY = OrderRequest(
    client_order_id="cat-1",
    symbol="AAPL",
    side=Side.BUY,
    quantity=Decimal(10),
    order_type="limit",
    time_in_force="day",
    order_class="simple",
    limit_price=Decimal("100.1"),
)
BRACKET = replace(ENTRY, order_class="bracket", take_profit=Decimal("110.00"), stop_loss=Decimal("95.5"))
OCO = replace(
    BRACKET,
    side=Side.SELL,
    order_class="oco",
    limit_price=None,
    take_profit=Decimal(110),
    stop_loss=Decimal(95),
)
SHORT = Bounds(connect=0.5, read=0.2, total=0.5)


def impatient(clock: ManualClock, peer: Peer, *, threads: int = 4) -> AlpacaBroker:
    return AlpacaBroker(clock, base_url=peer.url, key=KEY, secret=SECRET, bounds=SHORT, threads=threads)


async def test_confirmed_is_a_report_with_our_id(broker: AlpacaBroker, peer: Peer) -> None:
    """A 200 that names our order is the acknowledgement, money as Decimal, times as UTC."""
    peer.on("POST", "/v2/orders", peer.says(order_json()))
    report = await broker.submit(ENTRY)
    assert (report.client_order_id, report.limit_price, report.quantity) == ("cat-1", Decimal("100.1"), 10)
    assert report.submitted_at is not None
    assert report.submitted_at.isoformat() == "2026-11-20T15:04:19.123456+00:00"


async def test_c07_prices_leave_as_the_digits_of_their_decimal(broker: AlpacaBroker, peer: Peer) -> None:
    """100.1 stays 100.1, a tenth of a cent below a dollar stays itself, and no float is on the way."""
    peer.on("POST", "/v2/orders", peer.says(order_json()))
    await broker.submit(replace(BRACKET, limit_price=Decimal("0.1") + Decimal("0.2") + Decimal("99.80")))
    assert peer.requests[0].body == {
        "client_order_id": "cat-1",
        "symbol": "AAPL",
        "side": "buy",
        "qty": "10",
        "type": "limit",
        "time_in_force": "day",
        "order_class": "bracket",
        "limit_price": "100.10",
        "take_profit": {"limit_price": "110.00"},
        "stop_loss": {"stop_price": "95.5"},
    }
    await broker.submit(replace(ENTRY, limit_price=Decimal("0.1234")))
    assert peer.requests[1].body["limit_price"] == "0.1234"


@pytest.mark.parametrize("request_", [ENTRY, BRACKET, OCO], ids=["simple", "bracket", "oco"])
async def test_the_body_is_the_one_alpaca_py_builds(
    broker: AlpacaBroker, peer: Peer, request_: OrderRequest
) -> None:
    """Field for field the request is alpaca-py's own, but for the numbers, which are text instead of floats."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # alpaca.trading imports websockets.legacy
        from alpaca.trading.requests import LimitOrderRequest, StopLossRequest, TakeProfitRequest

    theirs = LimitOrderRequest(
        symbol="AAPL",
        qty=10,
        side=request_.side.value,
        time_in_force="day",
        order_class=request_.order_class,
        limit_price=None if request_.limit_price is None else float(request_.limit_price),
        client_order_id="cat-1",
        take_profit=request_.take_profit and TakeProfitRequest(limit_price=float(request_.take_profit)),
        stop_loss=request_.stop_loss and StopLossRequest(stop_price=float(request_.stop_loss)),
    ).to_request_fields()
    peer.on("POST", "/v2/orders", peer.says(order_json(side=request_.side.value)))
    await broker.submit(request_)

    def numbers(body: object) -> object:
        if isinstance(body, dict):
            return {name: numbers(value) for name, value in body.items()}
        try:
            return Decimal(str(body))
        except ArithmeticError:
            return str(getattr(body, "value", body))

    assert numbers(peer.requests[0].body) == numbers(theirs)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (replace(ENTRY, limit_price=Decimal("NaN")), "PRICE_RULE"),
        (replace(ENTRY, limit_price=Decimal("Infinity")), "PRICE_RULE"),
        (replace(ENTRY, limit_price=Decimal(0)), "PRICE_RULE"),
        (replace(ENTRY, limit_price=Decimal(-1)), "PRICE_RULE"),
        (replace(ENTRY, limit_price=Decimal("100.123")), "PRICE_RULE"),
        (replace(ENTRY, limit_price=Decimal("0.12345")), "PRICE_RULE"),
        (replace(ENTRY, limit_price=Decimal(0.1 + 0.2)), "PRICE_RULE"),
        (replace(ENTRY, limit_price=None), "PRICE_RULE"),
        (replace(ENTRY, order_type="market"), "PRICE_RULE"),
        (replace(BRACKET, stop_loss=None), "PRICE_RULE"),
        (replace(BRACKET, take_profit=Decimal("110.005")), "PRICE_RULE"),
        (replace(OCO, take_profit=None), "PRICE_RULE"),
        (replace(OCO, order_type="market"), "SUBMIT_FAILED"),
        (replace(ENTRY, order_class="oto"), "SUBMIT_FAILED"),
        (replace(ENTRY, order_type="trailing_stop"), "SUBMIT_FAILED"),
        (replace(ENTRY, time_in_force="ioc"), "SUBMIT_FAILED"),
        (replace(ENTRY, quantity=Decimal("1.5")), "SUBMIT_FAILED"),
        (replace(ENTRY, quantity=Decimal(0)), "SUBMIT_FAILED"),
        (replace(ENTRY, quantity=Decimal("NaN")), "SUBMIT_FAILED"),
        (replace(ENTRY, client_order_id="x" * 49), "SUBMIT_FAILED"),
        (replace(ENTRY, client_order_id="a.b"), "SUBMIT_FAILED"),
        (replace(ENTRY, client_order_id=""), "SUBMIT_FAILED"),
    ],
)
async def test_c07_what_must_not_leave_is_refused_before_it_does(
    broker: AlpacaBroker, peer: Peer, request_: OrderRequest, code: str
) -> None:
    """An order with a price off tick, a part of a share or a bad id is a refusal, and nothing was sent."""
    with pytest.raises(OrderRefused) as refused:
        await broker.submit(request_)
    assert (refused.value.code, refused.value.http_status) == (code, 0)
    assert peer.requests == []


@pytest.mark.parametrize("status", [422, 409])
@pytest.mark.parametrize("code", [40010001, 42210000])
async def test_c04_an_id_that_is_taken_means_it_landed(
    broker: AlpacaBroker, peer: Peer, status: int, code: int
) -> None:
    """`client_order_id must be unique` is not a refusal, whatever number it carries: look it up and adopt it."""
    said = {"code": code, "message": "client_order_id must be unique"}
    peer.on("POST", "/v2/orders", peer.says(said, status))
    with pytest.raises(DuplicateOrder):
        await broker.submit(ENTRY)


@pytest.mark.parametrize(
    "reply",
    [
        Peer.writes(b"<html>504</html>", 504),
        Peer.writes(b"<html>502</html>", 502),
        Peer.says({"code": 50010000, "message": "internal server error occurred"}, 500),
        Peer.says({"message": "unavailable"}, 503),
        Peer.writes(b"", 408),
        Peer.drops(),
        Peer.breaks_off(b'{"id": "904837e3'),
        Peer.writes(b"<html>welcome</html>", 200),
        Peer.writes(b'{"id": "9048', 200, "application/json"),
        Peer.empty(200),
        Peer.says({}),
        Peer.says([]),
        Peer.says(order_json(symbol=None)),
        Peer.says(order_json("cat-2")),
        Peer.says(order_json(symbol="MSFT")),
        Peer.says(order_json(side="sell")),
        Peer.says(order_json(qty="11")),
        Peer.writes(b"<html>blocked by the proxy</html>", 403),
        Peer.writes(b"<html>not here</html>", 404),
        Peer.redirects("http://127.0.0.1:9/v2/orders"),
    ],
)
async def test_c03_anything_unclear_is_unknown_and_sent_once(
    broker: AlpacaBroker, peer: Peer, reply: object
) -> None:
    """A drop, a 5xx, a redirect, garbage or another order's answer leave the outcome open, after one POST."""
    peer.on("POST", "/v2/orders", reply)  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        await broker.submit(ENTRY)
    assert peer.count("POST", "/v2/orders") == 1


async def test_c03_a_timeout_is_unknown_and_sent_once(clock: ManualClock, peer: Peer) -> None:
    """A broker that hears and does not answer may have acted."""
    broker = impatient(clock, peer)
    peer.on("POST", "/v2/orders", peer.hangs())
    with pytest.raises(OutcomeUnknown):
        await broker.submit(ENTRY)
    assert peer.count("POST", "/v2/orders") == 1
    await broker.close()


async def test_c02_an_answer_that_drips_is_bounded(clock: ManualClock, peer: Peer) -> None:
    """An answer whose bytes never end does not hold the call beyond its total bound."""
    broker = impatient(clock, peer)
    peer.on("POST", "/v2/orders", peer.drips(0.05))
    with pytest.raises(OutcomeUnknown):
        await broker.submit(ENTRY)
    await broker.close()


async def test_a_refused_connection_was_never_heard(clock: ManualClock) -> None:
    """Where nobody listens nothing can have happened: the same id may go again."""
    broker = AlpacaBroker(clock, base_url="http://127.0.0.1:9", key=KEY, secret=SECRET)
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY)
    await broker.close()


async def test_what_waited_for_a_thread_is_never_sent_late(clock: ManualClock, peer: Peer) -> None:
    """A submit that is given up while others hold the threads was not heard, and never leaves afterwards."""
    broker = impatient(clock, peer, threads=1)
    peer.on("POST", "/v2/orders", peer.says(order_json()))
    busy = threading.Event()
    broker._wire._changes.submit(busy.wait)
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY)
    busy.set()
    await asyncio.wrap_future(broker._wire._changes.submit(bool))
    assert peer.requests == []
    await broker.close()


async def test_reads_that_hang_do_not_delay_an_exit(clock: ManualClock, peer: Peer) -> None:
    """Changes have threads of their own: with every reading thread stuck, an order goes out."""
    broker = AlpacaBroker(clock, base_url=peer.url, key=KEY, secret=SECRET, threads=1)
    busy = threading.Event()
    broker._wire._reads.submit(busy.wait)
    peer.on("POST", "/v2/orders", peer.says(order_json()))
    assert (await broker.submit(ENTRY, priority=Priority.EXIT)).client_order_id == "cat-1"
    busy.set()
    await broker.close()


def test_a_departure_and_giving_up_exclude_each_other() -> None:
    """Once given up before it left, a request can not leave; once it left, giving up does not undo it."""
    late = Attempt()
    assert late.abandon()
    with pytest.raises(BrokerUnavailable):
        late.leave()
    assert not late.left
    gone = Attempt()
    gone.leave()
    assert not gone.abandon()


async def test_a_cancelled_submit_runs_on_and_holds_the_clock(
    broker: AlpacaBroker, clock: ManualClock, peer: Peer
) -> None:
    """Cancelling the task does not recall the request: until it ends it is an effect in flight."""
    peer.on("POST", "/v2/orders", peer.hangs())
    task = asyncio.create_task(broker.submit(ENTRY))
    await peer.until(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock._held == 1
    peer.released.set()
    await clock.quiet()
    assert clock._held == 0


@pytest.mark.parametrize("status", [429, 504])
async def test_c02_alpaca_py_resends_nothing(broker: AlpacaBroker, peer: Peer, status: int) -> None:
    """The two statuses after which alpaca-py by itself repeats a POST are answered to one POST here."""
    peer.on("POST", "/v2/orders", peer.says({"message": "no"}, status), peer.says(order_json()))
    with pytest.raises(BrokerUnavailable if status == 429 else OutcomeUnknown):
        await broker.submit(ENTRY)
    assert peer.count("POST", "/v2/orders") == 1


REFUSALS = [
    (403, {"code": 40310000, "message": "insufficient buying power", "buying_power": "1"}, "INSUFFICIENT_BUYING_POWER"),
    (403, {"code": 40310000, "message": "insufficient qty available for order"}, "INSUFFICIENT_QTY"),
    (403, {"code": 40310000, "message": "potential wash trade detected. use complex orders"}, "WASH_TRADE"),
    (422, {"code": 42210000, "message": "potential wash trade detected. use complex orders"}, "WASH_TRADE"),
    (403, {"code": 40310000, "message": "cannot open a long buy while a short sell order is open"}, "OPPOSITE_ORDER"),
    (403, {"code": 40310000, "message": "account is not allowed to short"}, "NOT_SHORTABLE"),
    (422, {"code": 42210000, "message": 'asset "X" cannot be sold short'}, "NOT_SHORTABLE"),
    (422, {"code": 42210000, "message": 'only day orders are allowed for hard-to-borrow asset "X"'}, "HARD_TO_BORROW"),
    (422, {"code": 42210000, "message": 'market order rejected due to trading halt on symbol: "X"'}, "HALTED"),
    (422, {"code": 42210000, "message": "bracket orders must be entry orders"}, "NOT_ENTRY"),
    (422, {"code": 42210000, "message": "oco orders must be exit orders"}, "NOT_EXIT"),
    (422, {"code": 42210000, "message": "invalid limit_price 290.123. sub-penny increment"}, "PRICE_RULE"),
    (422, {"code": 42210000, "message": "stop_loss.stop_price must be <= base_price - 0.01"}, "PRICE_RULE"),
    (422, {"code": 42210000, "message": "take_profit.limit_price must be > stop_loss.stop_price"}, "PRICE_RULE"),
    (422, {"code": 42210000, "message": "stop price must be less than current price"}, "PRICE_RULE"),
    (403, {"code": 40310000, "message": "new orders are rejected by user request"}, "SUSPENDED_BY_USER"),
    (422, {"code": 42210000, "message": 'asset "X" not found'}, "NOT_TRADABLE"),
    (404, {"code": 40410000, "message": "asset not found for X"}, "NOT_TRADABLE"),
    (422, {"code": 42210000, "message": "asset X is not active"}, "NOT_TRADABLE"),
    (422, {"code": 40010001, "message": "opg orders must be submitted after 7:00pm"}, "MARKET_CLOSED"),
    (403, {"code": 40310000, "message": "a rule nobody has heard of"}, "SUBMIT_FAILED"),
    (400, {"message": "words without a number"}, "SUBMIT_FAILED"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("status", "said", "code"), REFUSALS, ids=[f"{s}-{c}-{i}" for i, (s, _, c) in enumerate(REFUSALS)]
)
async def test_c05_a_business_refusal_is_final_and_named(
    broker: AlpacaBroker, peer: Peer, status: int, said: dict[str, object], code: str
) -> None:
    """The broker's no is classed by its words, which are kept; 403 with 40310000 is about the order, not the keys."""
    peer.on("POST", "/v2/orders", peer.says(said, status))
    with pytest.raises(OrderRefused) as refused:
        await broker.submit(ENTRY)
    assert (refused.value.code, refused.value.text, refused.value.http_status) == (
        code,
        said["message"],
        status,
    )


async def test_c26_the_orders_in_the_way_are_named(broker: AlpacaBroker, peer: Peer) -> None:
    """The ids that the broker names as blocking travel with the refusal."""
    said = {
        "code": 40310000,
        "message": "insufficient qty available for order",
        "related_orders": ["one", "two"],
        "existing_order_id": "three",
    }
    peer.on("POST", "/v2/orders", peer.says(said, 403))
    with pytest.raises(OrderRefused) as refused:
        await broker.submit(ENTRY)
    assert refused.value.related == ("one", "two", "three")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (401, b'{"message":"unauthorized."}'),
        (401, b"<html>401 Authorization Required</html>"),
        (403, b'{"code":40110000,"message":"request is not authorized"}'),
        (403, b'{"code":40110000,"message":"access key verification failed"}'),
        (403, b'{"message":"forbidden."}'),
    ],
)
async def test_c05_keys_that_do_not_open_are_named_as_such(
    broker: AlpacaBroker, peer: Peer, status: int, body: bytes
) -> None:
    """401, and 403 with the authorization code, are about the keys."""
    peer.on("POST", "/v2/orders", peer.writes(body, status))
    with pytest.raises(AuthRefused):
        await broker.submit(ENTRY)


async def test_a_change_that_never_left_may_go_again_after_a_429(broker: AlpacaBroker, peer: Peer) -> None:
    """429 is an answer at the door: never accepted, with or without the broker's headers."""
    peer.on("POST", "/v2/orders", peer.says({"code": 42910000, "message": "rate limit exceeded"}, 429))
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY, priority=Priority.EXIT)


async def test_the_answer_to_another_order_is_kept(
    broker: AlpacaBroker, peer: Peer, garbled: list[tuple[str, object]]
) -> None:
    """An acknowledgement that names another order is handed over raw: somebody must look at it."""
    peer.on("POST", "/v2/orders", peer.says(order_json("cat-2")))
    with pytest.raises(OutcomeUnknown):
        await broker.submit(ENTRY)
    assert [raw["client_order_id"] for _, raw in garbled] == ["cat-2"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (Peer.says({"code": 42210000, "message": 'order is already in "filled" state'}, 422), OrderRefused),
        (Peer.says({"code": 40410000, "message": "order not found for 1"}, 404), NotFound),
        (Peer.writes(b"<html>502</html>", 502), OutcomeUnknown),
        (Peer.drops(), OutcomeUnknown),
        (Peer.says({"message": "unauthorized."}, 401), AuthRefused),
        (Peer.says({"message": "rate limit exceeded"}, 429), BrokerUnavailable),
    ],
)
async def test_a_cancel_says_whether_it_was_heard(
    broker: AlpacaBroker, peer: Peer, reply: object, error: type[Exception]
) -> None:
    """A cancel ends in silence (heard), in a plain no, or in doubt."""
    peer.on("DELETE", "/v2/orders/1", reply)  # type: ignore[arg-type]
    with pytest.raises(error) as raised:
        await broker.cancel("1")
    assert not isinstance(raised.value, OrderRefused) or raised.value.code == "NOT_CANCELABLE"
    assert peer.count("DELETE", "/v2/orders/1") == 1


@pytest.mark.parametrize("reply", [Peer.empty(), Peer.writes(b"<html>accepted</html>", 200)])
async def test_a_cancel_that_was_heard_returns(broker: AlpacaBroker, peer: Peer, reply: object) -> None:
    """204 says that it was asked, not that it is done; the body does not matter."""
    peer.on("DELETE", "/v2/orders/1", reply)  # type: ignore[arg-type]
    await broker.cancel("1")
    assert peer.count("DELETE", "/v2/orders/1") == 1


async def test_c02_requests_name_us_and_ignore_the_environment(
    clock: ManualClock, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in the environment is not used, and the broker's log shows version and epoch of the sender."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    broker = AlpacaBroker(clock, base_url=peer.url, key=KEY, secret=SECRET, epoch=42)
    peer.on("POST", "/v2/orders", peer.says(order_json()))
    await broker.submit(ENTRY)
    heard = peer.requests[0].headers
    assert heard["User-Agent"].startswith("catalyst/")
    assert heard["User-Agent"].endswith(" epoch/42")
    assert (heard["APCA-API-KEY-ID"], heard["APCA-API-SECRET-KEY"]) == (KEY, SECRET)
    await broker.close()


async def test_a_connection_is_kept_warm_and_not_trusted_when_idle(
    clock: ManualClock, peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests follow each other on one connection; after a long silence the next one opens its own."""
    broker = AlpacaBroker(clock, base_url=peer.url, key=KEY, secret=SECRET, threads=1)
    peer.on("POST", "/v2/orders", peer.says(order_json()))
    for _ in range(2):
        await broker.submit(ENTRY)
    monkeypatch.setattr("catalyst.broker.alpaca_session.IDLE", -1.0)
    await broker.submit(ENTRY)
    first, second, third = (one.port for one in peer.requests)
    assert first == second != third
    await broker.close()


async def test_a_failed_handshake_is_not_yet_the_request(clock: ManualClock, peer: Peer) -> None:
    """Where TLS does not come about nothing was sent: never heard, so the same id may go again."""
    secure = peer.url.replace("http://", "https://")
    broker = AlpacaBroker(clock, base_url=secure, key=KEY, secret=SECRET)
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY)
    assert peer.requests == []
    await broker.close()


async def test_the_secret_shows_nowhere(
    clock: ManualClock, peer: Peer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a representation, nor an error, nor a log line has the keys in it."""
    caplog.set_level(0)
    broker = AlpacaBroker(clock, base_url=peer.url, key=KEY, secret=SECRET)
    peer.on("POST", "/v2/orders", peer.drops(), peer.writes(b"<html>", 500), peer.says(order_json("other")))
    shown = [repr(broker), repr(vars(broker)), repr(vars(broker._wire))]
    for _ in range(3):
        with pytest.raises(OutcomeUnknown) as raised:
            await broker.submit(ENTRY)
        shown += [repr(raised.value), str(raised.value), repr(raised.value.__cause__)]
    shown += [repr(broker._wire._clients), caplog.text]
    assert not [text for text in shown if SECRET in text or KEY in text]
    await broker.close()


async def test_closing_drops_what_has_not_started(clock: ManualClock, peer: Peer) -> None:
    """A submit that waits for a thread when the client is closed was never heard; its task is not cancelled."""
    broker = AlpacaBroker(clock, base_url=peer.url, key=KEY, secret=SECRET, threads=1)
    busy = threading.Event()
    broker._wire._changes.submit(busy.wait)
    waiting = asyncio.create_task(broker.submit(ENTRY))
    while broker._wire._changes._work_queue.empty():  # noqa: ASYNC110 - the pool has no event to wait for
        await asyncio.sleep(0)
    await broker.close()
    busy.set()
    with pytest.raises(BrokerUnavailable):
        await waiting
    assert peer.requests == []


async def test_a_closed_client_says_so(broker: AlpacaBroker) -> None:
    """After close nothing is sent any more."""
    await broker.close()
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY)
