"""Reads: whole lists or an error, never "nothing" by mistake; one bad row costs itself only."""

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
from tests.broker.scripted_server import Peer, Reply, order_json

Garbled = list[tuple[str, object]]
GONE = {"code": 40410000, "message": "position does not exist"}


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
        Peer.says({}),
        Peer.says({"orders": []}),
        Peer.says(None),
        Peer.empty(200),
        Peer.writes(b"<html>", 200),
        Peer.writes(b"[{}", 200),
        Peer.writes(b"<html>", 502),
        Peer.says({"message": "endpoint not found"}, 404),
        Peer.writes(b"<html>", 404),
        Peer.says({"code": 40310000, "message": "no"}, 403),
        Peer.drops(),
        Peer.redirects("http://127.0.0.1:9/"),
    ],
)
async def test_a_failed_read_is_never_nothing(broker: AlpacaBroker, peer: Peer, reply: Reply) -> None:
    """A 200 with {}, a page of HTML, a proxy's 404: none of them says that there are no orders or positions."""
    for path in ("/v2/orders", "/v2/positions", "/v2/account/activities/FILL", "/v2/positions/AAPL"):
        peer.on("GET", path, reply)
    for read in (
        broker.orders(status="all"),
        broker.positions(),
        broker.fills(),
        broker.position("AAPL"),
    ):
        with pytest.raises(BrokerUnavailable):
            await read


async def test_keys_that_do_not_open_are_named_on_reads(broker: AlpacaBroker, peer: Peer) -> None:
    """An authentication refusal is not mistaken for an outage."""
    peer.on("GET", "/v2/positions", peer.says({"message": "unauthorized."}, 401))
    with pytest.raises(AuthRefused):
        await broker.positions()


# --- orders ------------------------------------------------------------------------------------------------


def leg(kind: str, status: str, **prices: str) -> dict[str, object]:
    return order_json(f"leg-{kind}", id=f"id-{kind}", type=kind, side="sell", status=status, **prices)


async def test_c08_legs_are_told_apart_by_type(broker: AlpacaBroker, peer: Peer) -> None:
    """One order is read nested, and its legs carry their own ids, types and prices."""
    legs = [leg("stop", "held", stop_price="95.5"), leg("limit", "new", limit_price="110")]
    peer.on("GET", "/v2/orders/one", peer.says(order_json(id="one", order_class="bracket", legs=legs)))
    report = await broker.order("one")
    assert peer.requests[0].query["nested"] == "true"
    assert {one.order_type: (one.broker_id, one.broker_status) for one in report.legs} == {
        "stop": ("id-stop", "held"),
        "limit": ("id-limit", "new"),
    }


async def test_an_order_of_another_id_is_a_failed_read(broker: AlpacaBroker, peer: Peer) -> None:
    """Asked for one order and told of another, the client believes neither."""
    peer.on("GET", "/v2/orders/one", peer.says(order_json(id="two")))
    peer.on("GET", "/v2/orders:by_client_order_id", peer.says(order_json("cat-2")))
    with pytest.raises(BrokerUnavailable):
        await broker.order("one")
    with pytest.raises(BrokerUnavailable):
        await broker.order_by_client_id("cat-1")


async def test_c08_the_lookup_by_our_id_brings_the_legs(broker: AlpacaBroker, peer: Peer) -> None:
    """The lookup does not nest, so a bracket is read once more by its id."""
    flat = order_json(id="one", order_class="bracket")
    peer.on("GET", "/v2/orders:by_client_order_id", peer.says(flat))
    peer.on("GET", "/v2/orders/one", peer.says({**flat, "legs": [leg("stop", "held")]}))
    report = await broker.order_by_client_id("cat-1")
    assert [one.order_type for one in report.legs] == ["stop"]
    assert peer.requests[0].query == {"client_order_id": "cat-1"}


async def test_an_unknown_order_is_not_found(broker: AlpacaBroker, peer: Peer) -> None:
    """The broker's own 404 is NotFound, by either id."""
    gone = peer.says({"code": 40410000, "message": "order not found for cat-1"}, 404)
    peer.on("GET", "/v2/orders:by_client_order_id", gone)
    peer.on("GET", "/v2/orders/cat-1", gone)
    with pytest.raises(NotFound):
        await broker.order_by_client_id("cat-1")
    with pytest.raises(NotFound):
        await broker.order("cat-1")


def paged(everything: list[dict[str, Any]], most: int) -> Reply:
    """Orders as the broker pages them: ascending, `after` exclusive, at most `most` rows."""

    async def reply(request: web.Request) -> web.StreamResponse:
        assert request.query["direction"] == "asc"
        assert request.query["nested"] == "true"
        assert request.query["limit"] == "500"
        after = request.query.get("after", "0000")
        later = [one for one in everything if _at(one) > _cut(after)]
        return web.Response(body=orjson.dumps(later[:most]), content_type="application/json")

    return reply


def _at(order: Mapping[str, Any]) -> datetime:
    return datetime.fromisoformat(order["submitted_at"])


def _cut(after: str) -> datetime:
    return datetime.min.replace(tzinfo=UTC) if after == "0000" else datetime.fromisoformat(after)


async def test_c32_order_lists_page_past_500_and_lose_none_between(broker: AlpacaBroker, peer: Peer) -> None:
    """Over pages that end amid equal times, with an exclusive `after`, every order comes once, oldest first."""
    start = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    everything = [
        order_json(f"cat-{n}", id=f"id-{n}", submitted_at=(start + timedelta(seconds=n // 7)).isoformat())
        for n in range(1_234)
    ]
    peer.on("GET", "/v2/orders", paged(everything, 500))
    found = await broker.orders(status="all")
    assert [one.broker_id for one in found] == sorted(
        (one["id"] for one in everything), key=lambda text: (int(text[3:]) // 7, text)
    )
    assert {one.query["status"] for one in peer.requests} == {"all"}


async def test_a_page_shortened_by_its_legs_is_not_the_last(broker: AlpacaBroker, peer: Peer) -> None:
    """Where the broker counts legs into a page and then nests them, fewer parents than the limit are not the end."""
    start = datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    legs = [leg("limit", "new"), leg("stop", "held")]
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
    peer.on("GET", "/v2/orders", paged(everything, 167))
    assert len(await broker.orders(status="all")) == 400


async def test_a_list_that_does_not_advance_is_a_failed_read(broker: AlpacaBroker, peer: Peer) -> None:
    """A broker that ignores `after` cannot make us loop for ever, nor take a part for the whole."""
    everything = [order_json(f"cat-{n}", id=f"id-{n}") for n in range(500)]
    peer.on("GET", "/v2/orders", peer.says(everything))
    with pytest.raises(BrokerUnavailable):
        await broker.orders(status="all")


async def test_c14_one_bad_order_does_not_cost_the_list(
    broker: AlpacaBroker, peer: Peer, garbled: Garbled
) -> None:
    """Unknown words, new fields and removed ones are taken as they are; what lacks an essential is reported."""
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
    peer.on("GET", "/v2/orders", peer.says([strange, *bad, lean, notional, order_json(id="good")]))
    found = await broker.orders(status="open")
    assert {one.broker_id for one in found} == {"strange", "lean", "notional", "good"}
    assert [raw for _, raw in garbled] == bad
    told = next(one for one in found if one.broker_id == "strange")
    assert (told.broker_status, told.order_class, told.raw["brand_new"]) == (
        "a_status_of_2027",
        "simple",
        {"field": 1},
    )


async def test_a_bad_leg_is_reported_and_the_order_stays(
    broker: AlpacaBroker, peer: Peer, garbled: Garbled
) -> None:
    """A leg that cannot be understood does not hide its parent, nor its sibling."""
    legs = [leg("limit", "new"), {"id": "no side"}]
    peer.on("GET", "/v2/orders/one", peer.says(order_json(id="one", legs=legs)))
    assert [one.order_type for one in (await broker.order("one")).legs] == ["limit"]
    assert [raw for _, raw in garbled] == [{"id": "no side"}]


async def test_one_wrong_byte_does_not_cost_the_list(broker: AlpacaBroker, peer: Peer) -> None:
    """A lone surrogate or a byte that is no UTF-8 becomes U+FFFD; NaN as a bare word is no number."""
    raw = orjson.dumps([order_json("cat-@", id="one"), order_json("cat-2", id="two")])
    peer.on("GET", "/v2/orders", peer.writes(raw.replace(b"cat-@", rb"cat-\ud800"), 200, "application/json"))
    assert [one.client_order_id for one in await broker.orders(status="all")] == ["cat-\ufffd", "cat-2"]
    peer.on("GET", "/v2/orders", peer.writes(raw.replace(b"cat-@", b"cat-\xff"), 200, "application/json"))
    assert [one.client_order_id for one in await broker.orders(status="all")] == ["cat-\ufffd", "cat-2"]


async def test_c32_symbols_and_time_narrow_the_list(broker: AlpacaBroker, peer: Peer) -> None:
    """The symbols travel in one parameter, and the list starts a little before `after`, which is exclusive."""
    peer.on("GET", "/v2/orders", peer.says([]))
    at = datetime(2026, 11, 20, 10, 0, tzinfo=NEW_YORK)
    assert await broker.orders(status="open", after=at, symbols=["AAPL", "BRK.B", "AAPL"]) == []
    (one,) = peer.requests
    assert one.query["symbols"] == "AAPL,BRK.B"
    assert timedelta(0) < at - datetime.fromisoformat(one.query["after"]) < timedelta(seconds=1)


# --- positions ---------------------------------------------------------------------------------------------


async def test_c44_a_short_is_negative_whoever_says_so(broker: AlpacaBroker, peer: Peer) -> None:
    """The sign comes from the quantity or from the side; what is available has the sign of the position."""
    rows = [
        position_json(),
        position_json(symbol="MSFT", qty="-5", side="short", qty_available="-5"),
        position_json(symbol="TSLA", qty="5", side="short", qty_available="2"),
        position_json(symbol="NVDA", qty_available=None, side="sideways", exchange="MARS"),
    ]
    peer.on("GET", "/v2/positions", peer.says(rows))
    assert {one.symbol: (one.quantity, one.available) for one in await broker.positions()} == {
        "AAPL": (10, 4),
        "MSFT": (-5, -5),
        "TSLA": (-5, -2),
        "NVDA": (10, 10),
    }


async def test_a_bad_position_is_reported_and_the_others_stay(
    broker: AlpacaBroker, peer: Peer, garbled: Garbled
) -> None:
    """A position without a quantity is not a position of zero."""
    peer.on("GET", "/v2/positions", peer.says([position_json(qty=None), position_json(symbol="MSFT")]))
    assert [one.symbol for one in await broker.positions()] == ["MSFT"]
    assert len(garbled) == 1


async def test_no_position_is_none_only_by_the_brokers_word(broker: AlpacaBroker, peer: Peer) -> None:
    """The broker's "position does not exist" is None; a symbol with a dot or a slash stays one path."""
    peer.on("GET", "/v2/positions/BRK.B", peer.says(GONE, 404))
    assert await broker.position("BRK.B") is None
    peer.on("GET", "/v2/positions/AAPL", peer.says(position_json(symbol="MSFT")))
    with pytest.raises(BrokerUnavailable):
        await broker.position("AAPL")
    peer.on("GET", "/v2/positions/AAPL", peer.says(position_json()))
    held = await broker.position("AAPL")
    assert held is not None
    assert (held.quantity, held.entry_price) == (10, Decimal("100.05"))


# --- fills -------------------------------------------------------------------------------------------------


async def test_the_ledger_of_fills_pages_by_token(broker: AlpacaBroker, peer: Peer) -> None:
    """Every page of 100 is fetched, and the fills come oldest first with their cumulative quantity."""
    everything = [fill_json(number) for number in range(250)]

    async def reply(request: web.Request) -> web.StreamResponse:
        ids = [one["id"] for one in everything]
        start = ids.index(request.query["page_token"]) + 1 if "page_token" in request.query else 0
        assert request.query["direction"] == "asc"
        page = everything[start : start + int(request.query["page_size"])]
        return web.Response(body=orjson.dumps(page), content_type="application/json")

    peer.on("GET", "/v2/account/activities/FILL", reply)
    found = await broker.fills()
    assert [one.cum_qty for one in found] == [number + 1 for number in range(250)]
    assert (found[0].broker_id, found[0].price, found[0].activity_id) == (
        "one",
        Decimal("100.1"),
        everything[0]["id"],
    )
    assert len(peer.requests) == 3


async def test_a_ledger_without_end_is_a_failed_read(broker: AlpacaBroker, peer: Peer) -> None:
    """A server that ignores the page token cannot make us loop for ever."""
    peer.on("GET", "/v2/account/activities/FILL", peer.says([fill_json(number) for number in range(100)]))
    with pytest.raises(BrokerUnavailable):
        await broker.fills()


async def test_the_fills_of_one_order(broker: AlpacaBroker, peer: Peer, garbled: Garbled) -> None:
    """A server that does not know the order filter is filtered here; a bad row is reported."""
    rows = [fill_json(1), fill_json(2, order_id="two"), fill_json(3, cum_qty=None)]
    peer.on("GET", "/v2/account/activities/FILL", peer.says(rows))
    assert [one.broker_id for one in await broker.fills(order_id="two")] == ["two"]
    assert peer.requests[0].query["order_id"] == "two"
    assert len(garbled) == 1


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


async def test_c43_the_account_needs_no_day_trade_fields(broker: AlpacaBroker, peer: Peer) -> None:
    """The fields that were removed in 2026 are not asked for; numbers as text or as numbers are the same."""
    peer.on("GET", "/v2/account", peer.says(ACCOUNT))
    account = await broker.account()
    assert account.may_enter
    assert (account.equity, account.last_equity) == (Decimal("100000.55"), Decimal("99999.1"))


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "ACCOUNT_CLOSED_PENDING"},
        {"trading_blocked": True},
        {"account_blocked": True},
        {"trade_suspended_by_user": True},
    ],
)
async def test_c43_a_blocked_account_may_not_enter(
    broker: AlpacaBroker, peer: Peer, changes: dict[str, object]
) -> None:
    """Every lock, and every status but ACTIVE, known or not, closes the door to entries."""
    peer.on("GET", "/v2/account", peer.says({**ACCOUNT, **changes}))
    assert not (await broker.account()).may_enter


async def test_money_that_is_not_told_is_not_guessed(
    broker: AlpacaBroker, peer: Peer, garbled: Garbled
) -> None:
    """An account without its equity is a failed read, and the answer is kept."""
    told = {**ACCOUNT, "equity": None}
    peer.on("GET", "/v2/account", peer.says(told))
    with pytest.raises(BrokerUnavailable):
        await broker.account()
    assert [raw for _, raw in garbled] == [told]


@pytest.mark.parametrize(
    ("before", "wanted", "patches"), [(False, True, 1), (True, True, 0), (None, False, 1)]
)
async def test_shorting_is_forbidden_only_where_it_differs(
    broker: AlpacaBroker, peer: Peer, before: bool | None, wanted: bool, patches: int
) -> None:
    """The account's own switch is set when it differs, and left alone when it does not."""
    path = "/v2/account/configurations"
    peer.on("GET", path, peer.says({"no_shorting": before, "suspend_trade": False}))
    peer.on("PATCH", path, peer.says({"no_shorting": wanted}))
    assert await broker.forbid_shorting(wanted) is bool(patches)
    assert [one.body for one in peer.requests if one.method == "PATCH"] == [{"no_shorting": wanted}] * patches


async def test_a_switch_that_does_not_move_is_in_doubt(broker: AlpacaBroker, peer: Peer) -> None:
    """The answer to the change must show the change."""
    path = "/v2/account/configurations"
    peer.on("GET", path, peer.says({"no_shorting": False}))
    peer.on("PATCH", path, peer.says({"no_shorting": False}), peer.says([]))
    for _ in range(2):
        with pytest.raises(OutcomeUnknown):
            await broker.forbid_shorting(True)


async def test_the_brokers_clock_is_utc(broker: AlpacaBroker, peer: Peer) -> None:
    """Nanoseconds and a New York offset become aware UTC."""
    told = {
        "timestamp": "2026-11-20T10:04:19.451420928-05:00",
        "is_open": True,
        "next_open": "2026-11-23T09:30:00-05:00",
        "next_close": "2026-11-20T16:00:00-05:00",
    }
    peer.on("GET", "/v2/clock", peer.says(told), peer.says({**told, "timestamp": "now"}))
    report = await broker.clock()
    assert (report.at.isoformat(), report.is_open) == ("2026-11-20T15:04:19.451420+00:00", True)
    assert report.next_close == datetime(2026, 11, 20, 21, tzinfo=UTC)
    with pytest.raises(BrokerUnavailable):
        await broker.clock()


async def test_c40_calendar_times_are_new_york(broker: AlpacaBroker, peer: Peer, garbled: Garbled) -> None:
    """Wall-clock times without a zone are New York's, on both sides of the change of the clocks, and half days too."""
    rows = [
        {"date": "2026-10-30", "open": "09:30", "close": "16:00", "session_open": "0400"},
        {"date": "2026-11-02", "open": "09:30", "close": "16:00"},
        {"date": "2026-11-27", "open": "09:30", "close": "13:00"},
        {"date": "2026-11-28", "open": "16:00", "close": "09:30"},
        {"date": "tomorrow", "open": "09:30", "close": "16:00"},
    ]
    peer.on("GET", "/v2/calendar", peer.says(rows))
    sessions = await broker.calendar(date(2026, 10, 30), date(2026, 11, 28))
    assert [one.open.hour for one in sessions] == [13, 14, 14]
    assert [one.half_day for one in sessions] == [False, False, True]
    assert peer.requests[0].query == {"start": "2026-10-30", "end": "2026-11-28"}
    assert len(garbled) == 2


async def test_c42_assets_are_read_whatever_they_lack(
    broker: AlpacaBroker, peer: Peer, garbled: Garbled
) -> None:
    """`borrow_status` decides, `easy_to_borrow` where it is not sent; a new exchange or status costs nothing."""
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
    peer.on("GET", "/v2/assets", peer.says(rows))
    assets = await broker.assets()
    assert [one.easy_to_borrow for one in assets] == [True, False, True, False]
    assert assets[0].name == 'A, "B" [C]'
    assert len(garbled) == 1
    assert peer.requests[0].query == {"status": "active", "asset_class": "us_equity"}


@pytest.mark.parametrize("raw", [b"", b"{}", b'[{"id": "1"', b"<html>", b"[1, 2", b'{"message": "x"}'])
async def test_a_broken_list_of_assets_is_a_failed_read(broker: AlpacaBroker, peer: Peer, raw: bytes) -> None:
    """Half a universe is no universe."""
    peer.on("GET", "/v2/assets", peer.writes(raw, 200, "application/json"))
    with pytest.raises(BrokerUnavailable):
        await broker.assets()


# --- time --------------------------------------------------------------------------------------------------


async def test_a_call_in_flight_holds_the_clock(broker: AlpacaBroker, peer: Peer, clock: ManualClock) -> None:
    """Market time stands while a request is on its way."""
    peer.on("GET", "/v2/positions", peer.hangs())
    reading = asyncio.create_task(broker.positions())
    await peer.until(1)
    before = clock.now()
    passing = asyncio.create_task(clock.advance(timedelta(minutes=1)))
    await asyncio.sleep(0.05)
    assert clock.now() == before
    peer.on("GET", "/v2/positions", peer.says([]))
    peer.released.set()
    with pytest.raises(BrokerUnavailable):
        await reading
    await passing
    assert clock.now() == before + timedelta(minutes=1)


async def test_the_side_of_an_order_is_ours(broker: AlpacaBroker, peer: Peer) -> None:
    """A sell is a sell."""
    peer.on("GET", "/v2/orders/one", peer.says(order_json(id="one", side="sell")))
    assert (await broker.order("one")).side is Side.SELL
