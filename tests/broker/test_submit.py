"""Outcomes of a submit over the wire: it is sent at most once, and never reported as failed when it may have
been accepted."""

import asyncio
import threading
import warnings
from dataclasses import replace
from decimal import Decimal

import pytest

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.broker.port import Priority
from catalyst.broker.request import RequestAttempt, Timeouts
from catalyst.clock import ManualClock
from catalyst.domain.errors import (
    AuthRefused,
    BrokerUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRejected,
    OutcomeUnknown,
)
from catalyst.domain.order import Side
from catalyst.domain.report import OrderRequest
from tests.broker.scripted_server import KEY, SECRET, ScriptedServer, order_json
from tests.waiting import LIMIT_S

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


def client_with_timeouts(
    clock: ManualClock, server: ScriptedServer, *, threads: int = 4, **limits: float
) -> AlpacaBroker:
    """Return a client with these time limits; the others are reached only on failure."""
    timeouts = Timeouts(**{"connect": LIMIT_S, "read": LIMIT_S, "total": LIMIT_S, **limits})
    return AlpacaBroker(
        clock, base_url=server.url, key=KEY, secret=SECRET, timeouts=timeouts, threads=threads
    )


async def test_submit_returns_the_report_of_our_order(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """A 200 with our client id acknowledges the order; money is Decimal and times are UTC."""
    server.on("POST", "/v2/orders", server.json_reply(order_json()))
    report = await broker.submit(ENTRY)
    assert (report.client_order_id, report.limit_price, report.quantity) == ("cat-1", Decimal("100.1"), 10)
    assert report.submitted_at is not None
    assert report.submitted_at.isoformat() == "2026-11-20T15:04:19.123456+00:00"


@pytest.mark.promise("C07")
async def test_submit_sends_prices_as_exact_decimal_text(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """100.10 and a price of four decimals below a dollar are sent unchanged, without a float in between."""
    server.on("POST", "/v2/orders", server.json_reply(order_json()))
    await broker.submit(replace(BRACKET, limit_price=Decimal("0.1") + Decimal("0.2") + Decimal("99.80")))
    assert server.requests[0].body == {
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
    assert server.requests[1].body["limit_price"] == "0.1234"


@pytest.mark.parametrize("request_", [ENTRY, BRACKET, OCO], ids=["simple", "bracket", "oco"])
async def test_submit_body_equals_that_of_alpaca_py(
    broker: AlpacaBroker, server: ScriptedServer, request_: OrderRequest
) -> None:
    """The body has alpaca-py's fields and values, but numbers are text instead of floats."""
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
    server.on("POST", "/v2/orders", server.json_reply(order_json(side=request_.side.value)))
    await broker.submit(request_)

    def numbers(body: object) -> object:
        if isinstance(body, dict):
            return {name: numbers(value) for name, value in body.items()}
        try:
            return Decimal(str(body))
        except ArithmeticError:
            return str(getattr(body, "value", body))

    assert numbers(server.requests[0].body) == numbers(theirs)


@pytest.mark.promise("C07")
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
async def test_invalid_order_is_refused_before_sending(
    broker: AlpacaBroker, server: ScriptedServer, request_: OrderRequest, code: str
) -> None:
    """An order with a price off tick, a fractional quantity or an invalid id is rejected and not sent."""
    with pytest.raises(OrderRejected) as refused:
        await broker.submit(request_)
    assert (refused.value.code, refused.value.http_status) == (code, 0)
    assert server.requests == []


@pytest.mark.promise("C04")
@pytest.mark.parametrize("status", [422, 409])
@pytest.mark.parametrize("code", [40010001, 42210000])
async def test_used_client_order_id_raises_duplicate_order(
    broker: AlpacaBroker, server: ScriptedServer, status: int, code: int
) -> None:
    """`client_order_id must be unique` raises DuplicateOrder for any code: the order exists and must be
    looked up."""
    error_body = {"code": code, "message": "client_order_id must be unique"}
    server.on("POST", "/v2/orders", server.json_reply(error_body, status))
    with pytest.raises(DuplicateOrder):
        await broker.submit(ENTRY)


@pytest.mark.promise("C03")
@pytest.mark.parametrize(
    "reply",
    [
        ScriptedServer.raw_reply(b"<html>504</html>", 504),
        ScriptedServer.raw_reply(b"<html>502</html>", 502),
        ScriptedServer.json_reply({"code": 50010000, "message": "internal server error occurred"}, 500),
        ScriptedServer.json_reply({"message": "unavailable"}, 503),
        ScriptedServer.raw_reply(b"", 408),
        ScriptedServer.drop_connection(),
        ScriptedServer.truncated_reply(b'{"id": "904837e3'),
        ScriptedServer.raw_reply(b"<html>welcome</html>", 200),
        ScriptedServer.raw_reply(b'{"id": "9048', 200, "application/json"),
        ScriptedServer.empty_reply(200),
        ScriptedServer.json_reply({}),
        ScriptedServer.json_reply([]),
        ScriptedServer.json_reply(order_json(symbol=None)),
        ScriptedServer.json_reply(order_json("cat-2")),
        ScriptedServer.json_reply(order_json(symbol="MSFT")),
        ScriptedServer.json_reply(order_json(side="sell")),
        ScriptedServer.json_reply(order_json(qty="11")),
        ScriptedServer.raw_reply(b"<html>blocked by the proxy</html>", 403),
        ScriptedServer.raw_reply(b"<html>not here</html>", 404),
        ScriptedServer.redirect_reply("http://127.0.0.1:9/v2/orders"),
    ],
)
async def test_unclear_submit_response_has_unknown_outcome_after_one_post(
    broker: AlpacaBroker, server: ScriptedServer, reply: object
) -> None:
    """A drop, a 5xx, a redirect, an invalid body or another order's response leaves the outcome unknown,
    after one POST."""
    server.on("POST", "/v2/orders", reply)  # type: ignore[arg-type]
    with pytest.raises(OutcomeUnknown):
        await broker.submit(ENTRY)
    assert server.request_count("POST", "/v2/orders") == 1


@pytest.mark.promise("C03")
async def test_submit_timeout_has_unknown_outcome_after_one_post(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """A broker that receives the order and does not answer may have accepted it."""
    broker = client_with_timeouts(clock, server, read=0.2)
    server.on("POST", "/v2/orders", server.never_reply())
    with pytest.raises(OutcomeUnknown):
        await broker.submit(ENTRY)
    await server.wait_for_requests(1)
    assert server.request_count("POST", "/v2/orders") == 1
    await broker.close()


@pytest.mark.promise("C02")
async def test_submit_total_timeout_bounds_an_endless_response(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """A response that never ends does not exceed the total timeout."""
    broker = client_with_timeouts(clock, server, threads=1)
    server.on("DELETE", "/v2/orders/1", server.empty_reply())
    await broker.cancel("1")  # the thread has its session and its connection now
    broker._rest_client._timeouts = Timeouts(connect=LIMIT_S, read=LIMIT_S, total=1.0)
    server.on("POST", "/v2/orders", server.endless_reply(0.05))
    with pytest.raises(OutcomeUnknown):
        await broker.submit(ENTRY)
    await broker.close()


async def test_refused_connection_raises_broker_unavailable(clock: ManualClock) -> None:
    """A refused connection sent nothing, so the same id may be sent again."""
    broker = AlpacaBroker(clock, base_url="http://127.0.0.1:9", key=KEY, secret=SECRET)
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY)
    await broker.close()


async def test_abandoned_submit_is_not_sent_when_a_thread_becomes_free(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """A submit that times out while other requests use all threads is never sent."""
    broker = client_with_timeouts(clock, server, threads=1, total=0.2)
    server.on("POST", "/v2/orders", server.json_reply(order_json()))
    busy = threading.Event()
    broker._rest_client._change_threads.submit(busy.wait)
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY)
    busy.set()
    await asyncio.wrap_future(broker._rest_client._change_threads.submit(bool))
    assert server.requests == []
    await broker.close()


async def test_hanging_reads_do_not_delay_a_submit(clock: ManualClock, server: ScriptedServer) -> None:
    """Changes have their own threads: an order is sent while every read thread hangs."""
    broker = AlpacaBroker(clock, base_url=server.url, key=KEY, secret=SECRET, threads=1)
    busy = threading.Event()
    broker._rest_client._read_threads.submit(busy.wait)
    server.on("POST", "/v2/orders", server.json_reply(order_json()))
    assert (await broker.submit(ENTRY, priority=Priority.EXIT)).client_order_id == "cat-1"
    busy.set()
    await broker.close()


def test_request_attempt_is_either_sent_or_abandoned() -> None:
    """A request abandoned before sending cannot be sent; a sent request cannot be abandoned."""
    abandoned = RequestAttempt()
    assert abandoned.abandon()
    with pytest.raises(BrokerUnavailable):
        abandoned.mark_sent()
    assert not abandoned.sent
    attempt = RequestAttempt()
    attempt.mark_sent()
    assert not attempt.abandon()


async def test_cancelled_submit_task_holds_the_clock_until_the_request_ends(
    broker: AlpacaBroker, clock: ManualClock, server: ScriptedServer
) -> None:
    """Cancelling the task does not recall the request: it holds the clock until it ends."""
    server.on("POST", "/v2/orders", server.never_reply())
    task = asyncio.create_task(broker.submit(ENTRY))
    await server.wait_for_requests(1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert clock._holds == 1
    server.released.set()
    await clock.wait_until_quiet()
    assert clock._holds == 0


@pytest.mark.promise("C02")
@pytest.mark.parametrize("status", [429, 504])
async def test_submit_is_not_resent_after_429_or_504(
    broker: AlpacaBroker, server: ScriptedServer, status: int
) -> None:
    """alpaca-py repeats a POST after these two statuses; this client sends one POST."""
    server.on(
        "POST", "/v2/orders", server.json_reply({"message": "no"}, status), server.json_reply(order_json())
    )
    with pytest.raises(BrokerUnavailable if status == 429 else OutcomeUnknown):
        await broker.submit(ENTRY)
    assert server.request_count("POST", "/v2/orders") == 1


REJECTIONS = [
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


@pytest.mark.promise("C05")
@pytest.mark.parametrize(
    ("status", "error_body", "code"),
    REJECTIONS,
    ids=[f"{s}-{c}-{i}" for i, (s, _, c) in enumerate(REJECTIONS)],
)
async def test_submit_rejection_is_classified_by_its_message(
    broker: AlpacaBroker, server: ScriptedServer, status: int, error_body: dict[str, object], code: str
) -> None:
    """A rejection is classified by its message, which is kept; 403 with 40310000 is about the order, not the
    keys."""
    server.on("POST", "/v2/orders", server.json_reply(error_body, status))
    with pytest.raises(OrderRejected) as refused:
        await broker.submit(ENTRY)
    assert (refused.value.code, refused.value.text, refused.value.http_status) == (
        code,
        error_body["message"],
        status,
    )


@pytest.mark.promise("C26")
async def test_submit_rejection_carries_the_blocking_order_ids(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """OrderRejected holds the ids of the blocking orders that the broker names."""
    error_body = {
        "code": 40310000,
        "message": "insufficient qty available for order",
        "related_orders": ["one", "two"],
        "existing_order_id": "three",
    }
    server.on("POST", "/v2/orders", server.json_reply(error_body, 403))
    with pytest.raises(OrderRejected) as refused:
        await broker.submit(ENTRY)
    assert refused.value.related == ("one", "two", "three")


@pytest.mark.promise("C05")
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
async def test_submit_with_wrong_keys_raises_auth_refused(
    broker: AlpacaBroker, server: ScriptedServer, status: int, body: bytes
) -> None:
    """401, and 403 with the authorization code or without a code, are about the keys."""
    server.on("POST", "/v2/orders", server.raw_reply(body, status))
    with pytest.raises(AuthRefused):
        await broker.submit(ENTRY)


async def test_submit_with_429_raises_broker_unavailable(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """A 429 means that the order was never accepted, also without rate limit headers."""
    server.on(
        "POST", "/v2/orders", server.json_reply({"code": 42910000, "message": "rate limit exceeded"}, 429)
    )
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY, priority=Priority.EXIT)


async def test_submit_response_of_another_order_is_reported_as_malformed(
    broker: AlpacaBroker, server: ScriptedServer, malformed: list[tuple[str, object]]
) -> None:
    """A response with another order's id is reported raw, so that an operator can examine it."""
    server.on("POST", "/v2/orders", server.json_reply(order_json("cat-2")))
    with pytest.raises(OutcomeUnknown):
        await broker.submit(ENTRY)
    assert [raw["client_order_id"] for _, raw in malformed] == ["cat-2"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (
            ScriptedServer.json_reply(
                {"code": 42210000, "message": 'order is already in "filled" state'}, 422
            ),
            OrderRejected,
        ),
        (ScriptedServer.json_reply({"code": 40410000, "message": "order not found for 1"}, 404), NotFound),
        (ScriptedServer.raw_reply(b"<html>502</html>", 502), OutcomeUnknown),
        (ScriptedServer.drop_connection(), OutcomeUnknown),
        (ScriptedServer.json_reply({"message": "unauthorized."}, 401), AuthRefused),
        (ScriptedServer.json_reply({"message": "rate limit exceeded"}, 429), BrokerUnavailable),
    ],
)
async def test_failed_cancel_raises_the_error_of_its_outcome(
    broker: AlpacaBroker, server: ScriptedServer, reply: object, error: type[Exception]
) -> None:
    """A failed cancel is rejected, not received or of unknown outcome, and is sent once."""
    server.on("DELETE", "/v2/orders/1", reply)  # type: ignore[arg-type]
    with pytest.raises(error) as raised:
        await broker.cancel("1")
    assert not isinstance(raised.value, OrderRejected) or raised.value.code == "NOT_CANCELABLE"
    assert server.request_count("DELETE", "/v2/orders/1") == 1


@pytest.mark.parametrize(
    "reply", [ScriptedServer.empty_reply(), ScriptedServer.raw_reply(b"<html>accepted</html>", 200)]
)
async def test_accepted_cancel_returns(broker: AlpacaBroker, server: ScriptedServer, reply: object) -> None:
    """A 2xx means that the cancel was requested, not that it is done; the body does not matter."""
    server.on("DELETE", "/v2/orders/1", reply)  # type: ignore[arg-type]
    await broker.cancel("1")
    assert server.request_count("DELETE", "/v2/orders/1") == 1


@pytest.mark.promise("C02")
async def test_request_sends_our_user_agent_and_ignores_proxy_variables(
    clock: ManualClock, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy in the environment is ignored, and the user agent has the sender's version and fencing epoch."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    broker = AlpacaBroker(clock, base_url=server.url, key=KEY, secret=SECRET, epoch=42)
    server.on("POST", "/v2/orders", server.json_reply(order_json()))
    await broker.submit(ENTRY)
    sent_headers = server.requests[0].headers
    assert sent_headers["User-Agent"].startswith("catalyst/")
    assert sent_headers["User-Agent"].endswith(" epoch/42")
    assert (sent_headers["APCA-API-KEY-ID"], sent_headers["APCA-API-SECRET-KEY"]) == (KEY, SECRET)
    await broker.close()


async def test_connection_is_reused_until_it_is_idle_too_long(
    clock: ManualClock, server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests share one connection; after a long idle time the next request opens a new one."""
    broker = AlpacaBroker(clock, base_url=server.url, key=KEY, secret=SECRET, threads=1)
    server.on("POST", "/v2/orders", server.json_reply(order_json()))
    for _ in range(2):
        await broker.submit(ENTRY)
    monkeypatch.setattr("catalyst.broker.alpaca_session.MAX_IDLE_S", -1.0)
    await broker.submit(ENTRY)
    first, second, third = (request.port for request in server.requests)
    assert first == second != third
    await broker.close()


async def test_failed_tls_handshake_raises_broker_unavailable(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """A failed TLS handshake sent nothing, so the same id may be sent again."""
    secure = server.url.replace("http://", "https://")
    broker = AlpacaBroker(clock, base_url=secure, key=KEY, secret=SECRET)
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY)
    assert server.requests == []
    await broker.close()


async def test_broker_client_hides_its_keys(
    clock: ManualClock, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    """No representation, error or log line contains the keys."""
    caplog.set_level(0)
    broker = AlpacaBroker(clock, base_url=server.url, key=KEY, secret=SECRET)
    server.on(
        "POST",
        "/v2/orders",
        server.drop_connection(),
        server.raw_reply(b"<html>", 500),
        server.json_reply(order_json("other")),
    )
    shown = [repr(broker), repr(vars(broker)), repr(vars(broker._rest_client))]
    for _ in range(3):
        with pytest.raises(OutcomeUnknown) as raised:
            await broker.submit(ENTRY)
        shown += [repr(raised.value), str(raised.value), repr(raised.value.__cause__)]
    shown += [repr(broker._rest_client._sessions), caplog.text]
    assert not [text for text in shown if SECRET in text or KEY in text]
    await broker.close()


async def test_client_close_drops_requests_not_yet_started(
    clock: ManualClock, server: ScriptedServer
) -> None:
    """A submit that waits for a thread when the client closes is never sent and raises; its task is not
    cancelled."""
    broker = AlpacaBroker(clock, base_url=server.url, key=KEY, secret=SECRET, threads=1)
    busy = threading.Event()
    broker._rest_client._change_threads.submit(busy.wait)
    waiting = asyncio.create_task(broker.submit(ENTRY))
    while broker._rest_client._change_threads._work_queue.empty():  # noqa: ASYNC110 - the pool has no event to wait for
        await asyncio.sleep(0)
    await broker.close()
    busy.set()
    with pytest.raises(BrokerUnavailable):
        await waiting
    assert server.requests == []


async def test_closed_client_raises_broker_unavailable(broker: AlpacaBroker) -> None:
    """A closed client sends no request."""
    await broker.close()
    with pytest.raises(BrokerUnavailable):
        await broker.submit(ENTRY)
