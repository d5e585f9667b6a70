"""Broker reads return a complete list or raise, never an empty list by mistake; a malformed row drops only
itself."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import orjson
import pytest
from aiohttp import web

from catalyst.broker.alpaca import AlpacaBroker
from catalyst.clock import NEW_YORK, ManualClock
from catalyst.domain.errors import AuthRefused, BrokerUnavailable, NotFound, OutcomeUnknown
from catalyst.domain.order import Side
from tests.broker.scripted_server import Reply, ScriptedServer, order_json
from tests.waiting import run_loop_turns

Malformed = list[tuple[str, object]]
POSITION_NOT_FOUND = {"code": 40410000, "message": "position does not exist"}


def position_json(**changes: object) -> dict[str, object]:
    return {
        "asset_id": "b0b6dd9d-8b9b-48a9-ba46-b9d54906e415",
        "symbol": "AAPL",
        "exchange": "NASDAQ",
        "qty": "10",
        "qty_available": "4",
        "side": "long",
        "avg_entry_price": "100.05",
        "current_price": "101.3",
        "unrealized_pl": "12.5",
        **changes,
    }


def fill_json(number: int, **changes: object) -> dict[str, object]:
    return {
        "id": f"20261120{number:09d}::{number:032d}",
        "activity_type": "FILL",
        "transaction_time": f"2026-11-20T15:{number // 60:02d}:{number % 60:02d}.123456789Z",
        "type": "partial_fill",
        "price": "100.1",
        "qty": "1",
        "cum_qty": str(number + 1),
        "leaves_qty": "0",
        "side": "buy",
        "symbol": "AAPL",
        "order_id": "one",
        "order_status": "filled",
        **changes,
    }


# --- failed reads ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply",
    [
        ScriptedServer.json_reply({}),
        ScriptedServer.json_reply({"orders": []}),
        ScriptedServer.json_reply(None),
        ScriptedServer.empty_reply(200),
        ScriptedServer.raw_reply(b"<html>", 200),
        ScriptedServer.raw_reply(b"[{}", 200),
        ScriptedServer.raw_reply(b"<html>", 502),
        ScriptedServer.json_reply({"message": "endpoint not found"}, 404),
        ScriptedServer.raw_reply(b"<html>", 404),
        ScriptedServer.json_reply({"code": 40310000, "message": "no"}, 403),
        ScriptedServer.drop_connection(),
        ScriptedServer.redirect_reply("http://127.0.0.1:9/"),
    ],
)
async def test_failed_read_raises_broker_unavailable(
    broker: AlpacaBroker, server: ScriptedServer, reply: Reply
) -> None:
    """A 200 with {}, an HTML page or a proxy's 404 does not mean that there are no orders or positions."""
    for path in ("/v2/orders", "/v2/positions", "/v2/account/activities/FILL", "/v2/positions/AAPL"):
        server.on("GET", path, reply)
    for read in (
        broker.orders(status="all"),
        broker.positions(),
        broker.fills(),
        broker.position("AAPL"),
    ):
        with pytest.raises(BrokerUnavailable):
            await read


async def test_read_with_wrong_keys_raises_auth_refused(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """An authentication refusal is not an outage."""
    server.on("GET", "/v2/positions", server.json_reply({"message": "unauthorized."}, 401))
    with pytest.raises(AuthRefused):
        await broker.positions()


async def test_failed_request_names_its_cause_in_few_words(clock: ManualClock) -> None:
    """The error has the request and the cause, without the client library's pools, URLs and addresses."""
    broker = AlpacaBroker(clock, base_url="http://127.0.0.1:1", key="k", secret="s")
    with pytest.raises(BrokerUnavailable) as failed:
        await broker.account()
    assert str(failed.value) == "GET /account: Connection refused"
    await broker.close()


# --- orders ------------------------------------------------------------------------------------------------


def leg_json(kind: str, status: str, **prices: str) -> dict[str, object]:
    return order_json(f"leg-{kind}", id=f"id-{kind}", type=kind, side="sell", status=status, **prices)


@pytest.mark.promise("C08")
async def test_nested_legs_are_identified_by_order_type(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """An order is read nested, and its legs have their own ids, types and prices."""
    legs = [leg_json("stop", "held", stop_price="95.5"), leg_json("limit", "new", limit_price="110")]
    server.on(
        "GET", "/v2/orders/one", server.json_reply(order_json(id="one", order_class="bracket", legs=legs))
    )
    report = await broker.order("one")
    assert server.requests[0].query["nested"] == "true"
    assert {leg.order_type: (leg.broker_id, leg.broker_status) for leg in report.legs} == {
        "stop": ("id-stop", "held"),
        "limit": ("id-limit", "new"),
    }


async def test_order_response_with_another_id_raises_broker_unavailable(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """A response with another order's id is rejected, in both lookups."""
    server.on("GET", "/v2/orders/one", server.json_reply(order_json(id="two")))
    server.on("GET", "/v2/orders:by_client_order_id", server.json_reply(order_json("cat-2")))
    with pytest.raises(BrokerUnavailable):
        await broker.order("one")
    with pytest.raises(BrokerUnavailable):
        await broker.order_by_client_id("cat-1")


@pytest.mark.promise("C08")
async def test_client_order_id_lookup_reads_the_legs_too(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """The lookup does not nest legs, so a bracket is read once more by its id."""
    flat = order_json(id="one", order_class="bracket")
    server.on("GET", "/v2/orders:by_client_order_id", server.json_reply(flat))
    server.on("GET", "/v2/orders/one", server.json_reply({**flat, "legs": [leg_json("stop", "held")]}))
    report = await broker.order_by_client_id("cat-1")
    assert [leg.order_type for leg in report.legs] == ["stop"]
    assert server.requests[0].query == {"client_order_id": "cat-1"}


async def test_unknown_order_raises_not_found(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """The broker's own 404 raises NotFound, for either id."""
    not_found = server.json_reply({"code": 40410000, "message": "order not found for cat-1"}, 404)
    server.on("GET", "/v2/orders:by_client_order_id", not_found)
    server.on("GET", "/v2/orders/cat-1", not_found)
    with pytest.raises(NotFound):
        await broker.order_by_client_id("cat-1")
    with pytest.raises(NotFound):
        await broker.order("cat-1")


def paged_orders(everything: list[dict[str, Any]], page_limit: int) -> Reply:
    """Return a reply that pages like the broker: ascending, `after` exclusive, at most `page_limit` rows."""

    async def reply(request: web.Request) -> web.StreamResponse:
        assert request.query["direction"] == "asc"
        assert request.query["nested"] == "true"
        assert request.query["limit"] == "500"
        after = request.query.get("after", "0000")
        later = [row for row in everything if _submitted_at(row) > _after_bound(after)]
        return web.Response(body=orjson.dumps(later[:page_limit]), content_type="application/json")

    return reply


def _submitted_at(order: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(order["submitted_at"])


def _after_bound(after: str) -> datetime:
    return datetime.min.replace(tzinfo=UTC) if after == "0000" else datetime.fromisoformat(after)


@pytest.mark.promise("C32")
async def test_order_list_pages_past_500_without_gaps(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """Every order is returned once, oldest first, although pages end within equal times and `after` is
    exclusive."""
    start = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    everything = [
        order_json(f"cat-{n}", id=f"id-{n}", submitted_at=(start + timedelta(seconds=n // 7)).isoformat())
        for n in range(1_234)
    ]
    server.on("GET", "/v2/orders", paged_orders(everything, 500))
    orders = await broker.orders(status="all")
    assert [order.broker_id for order in orders] == sorted(
        (row["id"] for row in everything), key=lambda text: (int(text[3:]) // 7, text)
    )
    assert {request.query["status"] for request in server.requests} == {"all"}


async def test_order_list_continues_after_a_page_shortened_by_legs(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """The broker counts legs into a page and then nests them, so fewer parents than the limit do not end the
    list."""
    start = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    legs = [leg_json("limit", "new"), leg_json("stop", "held")]
    everything = [
        order_json(
            f"cat-{n}",
            id=f"id-{n}",
            order_class="bracket",
            legs=legs,
            submitted_at=(start + timedelta(seconds=n)).isoformat(),
        )
        for n in range(400)
    ]
    server.on("GET", "/v2/orders", paged_orders(everything, 167))
    assert len(await broker.orders(status="all")) == 400


async def test_order_list_that_does_not_advance_raises_broker_unavailable(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """A broker that ignores `after` causes no endless loop, and a partial list is not returned as complete."""
    everything = [order_json(f"cat-{n}", id=f"id-{n}") for n in range(500)]
    server.on("GET", "/v2/orders", server.json_reply(everything))
    with pytest.raises(BrokerUnavailable):
        await broker.orders(status="all")


@pytest.mark.promise("C14")
async def test_order_list_drops_only_malformed_orders(
    broker: AlpacaBroker, server: ScriptedServer, malformed: Malformed
) -> None:
    """Unknown values, new fields and missing optional fields are accepted; an order without an essential
    field is reported."""
    strange = order_json(
        "strange",
        id="strange",
        status="a_status_of_2027",
        order_class="",
        type="pegged",
        time_in_force="gtx",
        asset_class="moon_equity",
        submitted_at=None,
        updated_at=None,
        extended_hours=None,
        brand_new={"field": 1},
    )
    lean = {
        name: value
        for name, value in order_json("lean", id="lean").items()
        if name in ("id", "client_order_id", "symbol", "side", "status", "qty", "filled_qty")
    }
    notional = order_json("notional", id="notional", qty=None, notional="500")
    bad = [
        order_json("bad", id="bad", filled_qty=None),
        order_json("bad", id="bad", side="undecided"),
        order_json("bad", id="bad", qty=None),
        order_json("bad", id="bad", filled_qty="NaN"),
        order_json("bad", id="bad", filled_qty="ten"),
        order_json("bad", id="bad", qty=True),
        order_json("bad", id=None),
        "no object",
        None,
    ]
    server.on("GET", "/v2/orders", server.json_reply([strange, *bad, lean, notional, order_json(id="good")]))
    orders = await broker.orders(status="open")
    assert {order.broker_id for order in orders} == {"strange", "lean", "notional", "good"}
    assert [raw for _, raw in malformed] == bad
    reported = next(order for order in orders if order.broker_id == "strange")
    assert (reported.broker_status, reported.order_class, reported.raw["brand_new"]) == (
        "a_status_of_2027",
        "simple",
        {"field": 1},
    )


async def test_order_keeps_its_valid_legs_beside_a_malformed_one(
    broker: AlpacaBroker, server: ScriptedServer, malformed: Malformed
) -> None:
    """A malformed leg drops neither its parent order nor the other leg."""
    legs = [leg_json("limit", "new"), {"id": "no side"}]
    server.on("GET", "/v2/orders/one", server.json_reply(order_json(id="one", legs=legs)))
    assert [leg.order_type for leg in (await broker.order("one")).legs] == ["limit"]
    assert [raw for _, raw in malformed] == [{"id": "no side"}]


async def test_order_list_replaces_invalid_characters(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """A lone surrogate, a NUL or an invalid UTF-8 byte becomes U+FFFD."""
    raw = orjson.dumps([order_json("cat-@", id="one"), order_json("cat-2", id="two")])
    server.on(
        "GET", "/v2/orders", server.raw_reply(raw.replace(b"cat-@", rb"cat-\u0000"), 200, "application/json")
    )
    assert [order.client_order_id for order in await broker.orders(status="all")] == ["cat-\ufffd", "cat-2"]
    server.on(
        "GET", "/v2/orders", server.raw_reply(raw.replace(b"cat-@", rb"cat-\ud800"), 200, "application/json")
    )
    assert [order.client_order_id for order in await broker.orders(status="all")] == ["cat-\ufffd", "cat-2"]
    server.on(
        "GET", "/v2/orders", server.raw_reply(raw.replace(b"cat-@", b"cat-\xff"), 200, "application/json")
    )
    assert [order.client_order_id for order in await broker.orders(status="all")] == ["cat-\ufffd", "cat-2"]


@pytest.mark.promise("C32")
async def test_order_list_filters_by_symbols_and_time(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """The symbols are sent in one parameter, and the query starts shortly before `after`, because it is
    exclusive."""
    server.on("GET", "/v2/orders", server.json_reply([]))
    at = datetime(2026, 11, 20, 10, 0, tzinfo=NEW_YORK)
    assert await broker.orders(status="open", after=at, symbols=["AAPL", "BRK.B", "AAPL"]) == []
    (request,) = server.requests
    assert request.query["symbols"] == "AAPL,BRK.B"
    assert timedelta(0) < at - datetime.fromisoformat(request.query["after"]) < timedelta(seconds=1)


# --- positions ---------------------------------------------------------------------------------------------


@pytest.mark.promise("C44")
async def test_short_position_is_negative_by_quantity_or_side(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """The sign comes from the quantity or from the side; the available quantity has the position's sign."""
    rows = [
        position_json(),
        position_json(symbol="MSFT", qty="-5", side="short", qty_available="-5"),
        position_json(symbol="TSLA", qty="5", side="short", qty_available="2"),
        position_json(symbol="NVDA", qty_available=None, side="sideways", exchange="MARS"),
    ]
    server.on("GET", "/v2/positions", server.json_reply(rows))
    assert {
        position.symbol: (position.quantity, position.available) for position in await broker.positions()
    } == {
        "AAPL": (10, 4),
        "MSFT": (-5, -5),
        "TSLA": (-5, -2),
        "NVDA": (10, 10),
    }


async def test_position_list_drops_only_malformed_positions(
    broker: AlpacaBroker, server: ScriptedServer, malformed: Malformed
) -> None:
    """A position without a quantity is not a position of zero."""
    server.on(
        "GET", "/v2/positions", server.json_reply([position_json(qty=None), position_json(symbol="MSFT")])
    )
    assert [position.symbol for position in await broker.positions()] == ["MSFT"]
    assert len(malformed) == 1


async def test_position_is_none_only_when_the_broker_reports_404(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """The broker's "position does not exist" is None; a symbol with a dot stays one path; another symbol's
    position raises."""
    server.on("GET", "/v2/positions/BRK.B", server.json_reply(POSITION_NOT_FOUND, 404))
    assert await broker.position("BRK.B") is None
    server.on("GET", "/v2/positions/AAPL", server.json_reply(position_json(symbol="MSFT")))
    with pytest.raises(BrokerUnavailable):
        await broker.position("AAPL")
    server.on("GET", "/v2/positions/AAPL", server.json_reply(position_json()))
    held = await broker.position("AAPL")
    assert held is not None
    assert (held.quantity, held.entry_price) == (10, Decimal("100.05"))


# --- fills -------------------------------------------------------------------------------------------------


async def test_fills_follow_every_page_token(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """Every page of 100 is fetched, and fills are returned oldest first with their cumulative quantity."""
    everything = [fill_json(number) for number in range(250)]

    async def reply(request: web.Request) -> web.StreamResponse:
        ids = [row["id"] for row in everything]
        start = ids.index(request.query["page_token"]) + 1 if "page_token" in request.query else 0
        assert request.query["direction"] == "asc"
        page = everything[start : start + int(request.query["page_size"])]
        return web.Response(body=orjson.dumps(page), content_type="application/json")

    server.on("GET", "/v2/account/activities/FILL", reply)
    fills = await broker.fills()
    assert [fill.cum_qty for fill in fills] == [number + 1 for number in range(250)]
    assert (fills[0].broker_id, fills[0].price, fills[0].activity_id) == (
        "one",
        Decimal("100.1"),
        everything[0]["id"],
    )
    assert len(server.requests) == 3


async def test_fills_with_endless_pages_raise_broker_unavailable(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """A server that ignores the page token causes no endless loop."""
    server.on(
        "GET", "/v2/account/activities/FILL", server.json_reply([fill_json(number) for number in range(100)])
    )
    with pytest.raises(BrokerUnavailable):
        await broker.fills()


async def test_fills_are_filtered_by_order_id(
    broker: AlpacaBroker, server: ScriptedServer, malformed: Malformed
) -> None:
    """The client filters for a server that ignores the order filter; a malformed row is reported."""
    rows = [fill_json(1), fill_json(2, order_id="two"), fill_json(3, cum_qty=None)]
    server.on("GET", "/v2/account/activities/FILL", server.json_reply(rows))
    assert [fill.broker_id for fill in await broker.fills(order_id="two")] == ["two"]
    assert server.requests[0].query["order_id"] == "two"
    assert len(malformed) == 1


# --- account, clock, calendar, assets ----------------------------------------------------------------------

ACCOUNT: dict[str, object] = {
    "id": "account-id",
    "account_number": "PA1",
    "status": "ACTIVE",
    "equity": "100000.55",
    "last_equity": 99999.1,
    "cash": "100000.55",
    "buying_power": "400002.2",
    "trading_blocked": False,
    "account_blocked": False,
    "trade_suspended_by_user": False,
    "shorting_enabled": True,
}


@pytest.mark.promise("C43")
async def test_account_is_parsed_without_day_trade_fields(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """The fields that Alpaca removed in 2026 are not needed; numbers are parsed from text and from JSON
    numbers."""
    server.on("GET", "/v2/account", server.json_reply(ACCOUNT))
    account = await broker.account()
    assert account.can_open_positions
    assert (account.equity, account.last_equity) == (Decimal("100000.55"), Decimal("99999.1"))


@pytest.mark.promise("C43")
@pytest.mark.parametrize(
    "changes",
    [
        {"status": "ACCOUNT_CLOSED_PENDING"},
        {"trading_blocked": True},
        {"account_blocked": True},
        {"trade_suspended_by_user": True},
    ],
)
async def test_blocked_account_may_not_enter(
    broker: AlpacaBroker, server: ScriptedServer, changes: dict[str, object]
) -> None:
    """Every block flag, and every status but ACTIVE, forbids entries."""
    server.on("GET", "/v2/account", server.json_reply({**ACCOUNT, **changes}))
    assert not (await broker.account()).can_open_positions


async def test_account_without_equity_raises_broker_unavailable(
    broker: AlpacaBroker, server: ScriptedServer, malformed: Malformed
) -> None:
    """An account without equity is a failed read, and its body is reported."""
    reported = {**ACCOUNT, "equity": None}
    server.on("GET", "/v2/account", server.json_reply(reported))
    with pytest.raises(BrokerUnavailable):
        await broker.account()
    assert [raw for _, raw in malformed] == [reported]


@pytest.mark.parametrize(
    ("before", "wanted", "patches"), [(False, True, 1), (True, True, 0), (None, False, 1)]
)
async def test_forbid_shorting_patches_only_a_differing_setting(
    broker: AlpacaBroker, server: ScriptedServer, before: bool | None, wanted: bool, patches: int
) -> None:
    """The account setting is patched when it differs and not otherwise."""
    path = "/v2/account/configurations"
    server.on("GET", path, server.json_reply({"no_shorting": before, "suspend_trade": False}))
    server.on("PATCH", path, server.json_reply({"no_shorting": wanted}))
    assert await broker.forbid_shorting(wanted) is bool(patches)
    assert [request.body for request in server.requests if request.method == "PATCH"] == [
        {"no_shorting": wanted}
    ] * patches


async def test_forbid_shorting_without_effect_has_unknown_outcome(
    broker: AlpacaBroker, server: ScriptedServer
) -> None:
    """The response to the change must show the new setting."""
    path = "/v2/account/configurations"
    server.on("GET", path, server.json_reply({"no_shorting": False}))
    server.on("PATCH", path, server.json_reply({"no_shorting": False}), server.json_reply([]))
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            await broker.forbid_shorting(True)


async def test_broker_clock_is_parsed_to_utc(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """Nanoseconds and a New York offset become aware UTC; an invalid time raises."""
    reported = {
        "timestamp": "2026-11-20T10:04:19.451420928-05:00",
        "is_open": True,
        "next_open": "2026-11-23T09:30:00-05:00",
        "next_close": "2026-11-20T16:00:00-05:00",
    }
    server.on(
        "GET", "/v2/clock", server.json_reply(reported), server.json_reply({**reported, "timestamp": "now"})
    )
    report = await broker.clock()
    assert (report.at.isoformat(), report.is_open) == ("2026-11-20T15:04:19.451420+00:00", True)
    assert report.next_close == datetime(2026, 11, 20, 21, tzinfo=UTC)
    with pytest.raises(BrokerUnavailable):
        await broker.clock()


@pytest.mark.promise("C40")
async def test_calendar_times_are_read_as_new_york(
    broker: AlpacaBroker, server: ScriptedServer, malformed: Malformed
) -> None:
    """Times without a zone are New York time, on both sides of the daylight saving change and on half days."""
    rows = [
        {"date": "2026-10-30", "open": "09:30", "close": "16:00", "session_open": "0400"},
        {"date": "2026-11-02", "open": "09:30", "close": "16:00"},
        {"date": "2026-11-27", "open": "09:30", "close": "13:00"},
    ]
    server.on("GET", "/v2/calendar", server.json_reply(rows))
    sessions = await broker.calendar(date(2026, 10, 30), date(2026, 11, 28))
    assert [session.open.hour for session in sessions] == [13, 14, 14]
    assert [session.half_day for session in sessions] == [False, False, True]
    assert server.requests[0].query == {"start": "2026-10-30", "end": "2026-11-28"}
    assert malformed == []


async def test_calendar_with_unreadable_day_is_a_failed_read(
    broker: AlpacaBroker, server: ScriptedServer, malformed: Malformed
) -> None:
    """A day that cannot be read is no holiday: the whole calendar counts as not read."""
    rows = [
        {"date": "2026-11-27", "open": "09:30", "close": "13:00"},
        {"date": "2026-11-28", "open": "16:00", "close": "09:30"},
        {"date": "tomorrow", "open": "09:30", "close": "16:00"},
    ]
    server.on("GET", "/v2/calendar", server.json_reply(rows))
    with pytest.raises(BrokerUnavailable, match="2 days of the calendar cannot be read"):
        await broker.calendar(date(2026, 11, 27), date(2026, 11, 28))
    assert len(malformed) == 2


@pytest.mark.promise("C42")
async def test_assets_are_parsed_with_missing_fields(
    broker: AlpacaBroker, server: ScriptedServer, malformed: Malformed
) -> None:
    """`borrow_status` decides, or `easy_to_borrow` where it is missing; an unknown exchange is accepted."""
    common = {
        "name": 'A, "B" [C]',
        "exchange": "MARS",
        "status": "active",
        "tradable": True,
        "shortable": True,
    }
    rows = [
        {"id": "1", "symbol": "A", **common, "borrow_status": "easy_to_borrow"},
        {"id": "2", "symbol": "B", **common, "borrow_status": "hard_to_borrow", "easy_to_borrow": True},
        {"id": "3", "symbol": "C", **common, "easy_to_borrow": True},
        {"id": "4", "symbol": "D", **common},
        {"id": "5", "symbol": None},
    ]
    server.on("GET", "/v2/assets", server.json_reply(rows))
    assets = await broker.assets()
    assert [asset.easy_to_borrow for asset in assets] == [True, False, True, False]
    assert assets[0].name == 'A, "B" [C]'
    assert len(malformed) == 1
    assert server.requests[0].query == {"status": "active", "asset_class": "us_equity"}


@pytest.mark.parametrize("raw", [b"", b"{}", b'[{"id": "1"', b"<html>", b"[1, 2", b'{"message": "x"}'])
async def test_broken_asset_list_raises_broker_unavailable(
    broker: AlpacaBroker, server: ScriptedServer, raw: bytes
) -> None:
    """A truncated or malformed asset list raises, because a part of the universe must not pass for all of it."""
    server.on("GET", "/v2/assets", server.raw_reply(raw, 200, "application/json"))
    with pytest.raises(BrokerUnavailable):
        await broker.assets()


# --- time --------------------------------------------------------------------------------------------------


async def test_read_in_flight_holds_the_clock(
    broker: AlpacaBroker, server: ScriptedServer, clock: ManualClock
) -> None:
    """Market time stands still while a request is in flight."""
    server.on("GET", "/v2/positions", server.never_reply())
    reading = asyncio.create_task(broker.positions())
    await server.wait_for_requests(1)
    before = clock.now()
    passing = asyncio.create_task(clock.advance(timedelta(minutes=1)))
    await run_loop_turns()  # a clock without a hold moves within far fewer turns
    assert clock.now() == before
    server.on("GET", "/v2/positions", server.json_reply([]))
    server.released.set()
    with pytest.raises(BrokerUnavailable):
        await reading
    await passing
    assert clock.now() == before + timedelta(minutes=1)


async def test_order_side_is_parsed(broker: AlpacaBroker, server: ScriptedServer) -> None:
    """A sell order is parsed with side SELL."""
    server.on("GET", "/v2/orders/one", server.json_reply(order_json(id="one", side="sell")))
    assert (await broker.order("one")).side is Side.SELL
