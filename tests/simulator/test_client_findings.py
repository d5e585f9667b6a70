"""Faults that clients written elsewhere found in the exchange, each with its kind."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgpack
import orjson
import pytest

from catalyst.simulator.admin.audit import audit
from catalyst.simulator.rules.orders import OrderClass, OrderRole, OrderStatus
from catalyst.simulator.trading_api.middleware import TokenBucket
from tests.conformance.exchange_thread import new_york, small_market
from tests.simulator.data_feed import DAY, OPEN, serve_data_feed
from tests.simulator.data_feed import small_market as small_recorded_market
from tests.simulator.exchange_scenario import ExchangeScenario
from tests.simulator.manual_feed import at
from tests.simulator.served_exchange import (
    frames_until_close,
    post_order,
    receive_data,
    serve_exchange,
    subscribed_socket,
)
from tests.simulator.wire_client import LEGS, wire_client
from tests.waiting import LIMIT_S

# ---------------------------------------------------------------------- legs without a class


@pytest.mark.parametrize("order_class", [None, "", "simple"])
async def test_order_without_a_class_has_no_legs(order_class: str | None) -> None:
    """The broker ignores the legs of a simple order: nothing is held, and the position can be closed."""
    async with wire_client() as c:
        row = await c.submit("buy", 2, order_class=order_class, **LEGS)
        assert (row["order_class"], row["legs"]) == ("simple", None)
        await c.advance()
        assert [each["id"] for each in await c.get("/v2/orders?status=all")] == [row["id"]]
        assert (await c.get("/v2/positions/AAPL"))["qty_available"] == "2"
        assert (await c.request("DELETE", "/v2/positions/AAPL"))[0] == 200
        await c.advance()
        assert await c.position_qty() == "0"
        await c.assert_audit_clean()


def leg_of_a_simple_order(scenario: ExchangeScenario) -> None:
    """Make the entry of a filled bracket simple, with a leg that was never activated."""
    order = scenario.submit_bracket(2)
    scenario.advance()
    stop = scenario.leg(order, OrderRole.STOP)
    scenario.exchange.state.finish_order(scenario.leg(order, OrderRole.TARGET), OrderStatus.CANCELED)
    order.order_class = OrderClass.SIMPLE
    stop.active = stop.acknowledged = False
    scenario.exchange.state.store_order(stop)


def forgotten_leg(scenario: ExchangeScenario) -> None:
    """Cancel an entry whose legs are not cancelled with it."""
    order = scenario.submit_bracket(2, type="limit", limit_price="98")
    scenario.advance()
    scenario.exchange.state.finish_order(order, OrderStatus.CANCELED)


def shares_held_by_nothing_visible(scenario: ExchangeScenario) -> None:
    """Leave the stop of a filled bracket alone, held and never activated: no list of open orders shows it."""
    order = scenario.submit_bracket(2)
    scenario.advance()
    scenario.exchange.state.finish_order(scenario.leg(order, OrderRole.TARGET), OrderStatus.CANCELED)
    stop = scenario.leg(order, OrderRole.STOP)
    stop.active = stop.acknowledged = False
    scenario.exchange.state.store_order(stop)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (leg_of_a_simple_order, "is a leg of the simple order"),
        (forgotten_leg, "nothing will activate or end it"),
        (shares_held_by_nothing_visible, "reserves 2 shares, and no open order shows it"),
    ],
)
def test_audit_finds_legs_and_reserved_shares_that_no_client_sees(
    damage: Callable[[ExchangeScenario], None], message: str
) -> None:
    """The audit names a leg of a simple order, a leg that nothing ends, and shares that nothing visible reserves."""
    scenario = ExchangeScenario()
    damage(scenario)
    assert any(message in problem for problem in audit(scenario.exchange.state).problems)


def test_confirmed_cancels_end_the_legs_of_an_entry() -> None:
    """A cancel of everything that is confirmed at once leaves no leg behind."""
    scenario = ExchangeScenario()
    order = scenario.submit_bracket(2, type="limit", limit_price="98")
    scenario.advance()
    scenario.exchange.cancel_all()
    scenario.exchange.confirm_cancels()
    scenario.advance(5)
    assert {leg.status for leg in scenario.exchange.state.order_store.legs(order)} == {OrderStatus.CANCELED}
    scenario.assert_audit_clean()


# ---------------------------------------------------------------------- dates, text and names


async def test_date_as_end_includes_its_whole_day(tmp_path: Path) -> None:
    """Bars, trades, quotes, auctions and news until a date are those of that day too, in New York."""
    async with serve_data_feed(small_recorded_market(tmp_path), OPEN + timedelta(minutes=30)) as feed:
        day = f"start={DAY}&end={DAY}"
        counts = {}
        for name in ("bars?timeframe=1Min&", "trades?", "quotes?", "auctions?"):
            _, body = await feed.get(f"/v2/stocks/ALFA/{name}{day}&limit=10000")
            counts[name] = len(body[name.split("?")[0]])
        assert counts["bars?timeframe=1Min&"] == 30
        assert min(counts.values()) > 0
        assert len((await feed.get(f"/v1beta1/news?{day}"))[1]["news"]) == 1
        before = DAY - timedelta(days=1)
        _, body = await feed.get(f"/v2/stocks/ALFA/bars?timeframe=1Min&start={before}&end={before}")
        assert body["bars"] == []


@pytest.mark.parametrize(
    "fields",
    [
        *({"qty": qty} for qty in ("1_000", "\uff15", " 5 ", "5\n", "\u0665")),
        *({"client_order_id": value} for value in ({"a": 1}, 5, True, ["x"])),
        *({"position_intent": 5}, {"order_class": "bracket", "take_profit": "110", "stop_loss": [95]}),
    ],
)
async def test_order_field_of_a_wrong_kind_is_refused(fields: dict[str, object]) -> None:
    """Numbers are decimal text or JSON numbers, ids are text, legs are objects; anything else is 422."""
    async with serve_exchange() as served:
        response = await post_order(served, **fields)
        assert (response.status_code, response.json()["code"]) == (422, 40010001)
        assert next(iter(fields)) in response.text or "take_profit" in response.text


async def test_calendar_knows_settlement_days_and_its_own_end() -> None:
    """With SETTLEMENT the range is that of the settlement days; other date types, and days after the calendar, are
    422."""
    async with wire_client() as c:
        span = "start=2026-03-10&end=2026-03-11"
        assert [row["date"] for row in await c.get(f"/v2/calendar?{span}")] == ["2026-03-10", "2026-03-11"]
        settled = await c.get(f"/v2/calendar?{span}&date_type=SETTLEMENT")
        assert [row["settlement_date"] for row in settled] == ["2026-03-10", "2026-03-11"]
        assert [row["date"] for row in settled] == ["2026-03-09", "2026-03-10"]
        for query in (f"{span}&date_type=NONSENSE", "end=9999-12-31", "start=soon"):
            status, body = await c.request("GET", f"/v2/calendar?{query}")
            assert (status, body["code"]) == (422, 40010001)


async def test_body_that_is_not_encoded_as_it_says_is_400() -> None:
    """A body that is no gzip although its header says so is refused like any other unreadable one."""
    async with wire_client() as c:
        headers = {"APCA-API-KEY-ID": "demo", "APCA-API-SECRET-KEY": "demo", "Content-Encoding": "gzip"}
        status, body = await c.request("POST", "/v2/orders", headers=headers, data=b'{"symbol": "AAPL"}')
        assert (status, body) == (400, {"code": 40010000, "message": "request body format is invalid"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("halt", {"symbol": "NOSUCH"}),
        ("resume", {"symbol": "NOSUCH"}),
        ("halt", {"symbol": "AAPL", "reson": "news"}),
        ("account", {"multiplyer": 2}),
        ("deposit", {"amount": 5, "currency": "EUR"}),
        ("stream", {"act": "mute", "code": 1000}),
        ("stream", {"act": "close"}),
        ("cancel", {"order": "x"}),
        ("settings", {"hard_to_borrow": ["NOSUCH"]}),
    ],
)
async def test_admin_request_that_would_change_nothing_is_refused(path: str, body: dict[str, object]) -> None:
    """An unknown symbol, name or act is 422, and the message names it."""
    async with serve_exchange() as served:
        response = await served.request("POST", f"/admin/{path}", json=body)
        assert response.status_code == 422
        assert any(
            word in response.text
            for word in ("NOSUCH", "reson", "multiplyer", "currency", "code", "close", "order")
        )
        assert (await served.request("DELETE", "/admin/faults?id=fault-9")).status_code == 404
        assert (await served.request("GET", "/admin/logs?symbl=AAPL")).status_code == 422


async def test_market_actions_refuse_unknown_symbols_names_and_acts(tmp_path: Path) -> None:
    """The market, its price bands and its data API refuse what they do not know."""
    async with serve_data_feed(small_recorded_market(tmp_path), OPEN + timedelta(minutes=5)) as feed:
        for path, body in (
            ("market", {"act": "gap", "symbol": "NOSUCH", "factor": "0.9"}),
            ("market", {"act": "gap", "symbol": "ALFA", "faktor": "0.9"}),
            ("market", {"act": "jump", "symbol": "ALFA"}),
            ("luld", {"symbol": "NOSUCH"}),
            ("luld", {"symbol": "ALFA", "upper": 5}),
            ("data", {"recent_spi": False}),
        ):
            async with feed.http.post(f"/admin/{path}", json=body) as response:
                assert response.status == 422, (path, body)


# ---------------------------------------------------------------------- streams


async def test_stream_sends_pending_new_first() -> None:
    """The first message of an order is `pending_new` without an execution id; a setting turns it off."""
    async with wire_client(emit_pending_new=True) as c:
        row = await c.submit("buy", 1)
        await c.advance()
        first, second, third = await c.updates(row)
        assert (first["event"], first["execution_id"], first["order"]["status"]) == (
            "pending_new",
            None,
            "pending_new",
        )
        assert [second["event"], third["event"]] == ["new", "fill"]
        assert second["execution_id"] is not None
        await c.change_settings(emit_pending_new=False)
        row = await c.submit("buy", 1)
        await c.advance()
        assert await c.events(row) == ["new", "fill"]


async def test_stream_replays_an_order_after_its_end() -> None:
    """After the fill `new` and `fill` come again, with the execution ids of the first time."""
    async with serve_exchange() as served, subscribed_socket(served.server) as socket:
        await served.post_admin("faults", kind="stream_replay", symbol="AAPL")
        served.scenario.submit("buy", 1)
        await served.advance()
        first = await receive_data(socket, 4)
        assert [each["event"] for each in first] == ["new", "fill", "new", "fill"]
        assert first[:2] == first[2:]
        served.scenario.submit("buy", 1)
        await served.advance()
        frames = [orjson.loads(frame)["data"] for frame in await frames_until_close(served, socket)]
        assert [each["event"] for each in frames] == ["new", "fill"]


@pytest.mark.parametrize("packed", [False, True])
async def test_data_stream_frames_are_small_after_a_jump_of_the_clock(packed: bool) -> None:
    """Ten minutes of all trades and quotes come in frames of at most 200 kB, complete and in order."""
    begin, end = new_york("10:00"), new_york("10:10")
    async with (
        serve_data_feed(small_market(), begin) as feed,
        feed.connect(packed=packed, source="v2/sip") as client,
    ):
        await client.request(action="subscribe", trades=["*"], quotes=["*"])
        feed.clock._now = end  # a jump: nothing is sent in between
        feed.server.exchange.state.announcements.notify_listeners()
        sizes, trades = [], []
        expected = sum(len(feed.market.prints(symbol, begin, end)) for symbol in feed.market.assets())
        while len(trades) < expected:
            frame = await asyncio.wait_for(client.socket.receive(), LIMIT_S)
            sizes.append(len(frame.data))
            messages = msgpack.unpackb(frame.data) if packed else orjson.loads(frame.data)
            trades += [(each["S"], each["i"]) for each in messages if each["T"] == "t"]
        assert max(sizes) <= 200_000 < sum(sizes)
        assert trades == sorted(trades, key=lambda each: list(feed.market.assets()).index(each[0]))
        assert len(set(trades)) == expected


# ---------------------------------------------------------------------- clocks


def test_rate_limit_counts_real_minutes_while_the_clock_stands() -> None:
    """With a clock that stands the bucket is full again after a real minute, and not before; a clock that runs is
    counted by its own time."""
    real, now = [0.0], at("11:00")
    bucket = TokenBucket(now, lambda: real[0])
    assert [bucket.acquire(now, 2) for _ in range(3)] == [True, True, False]
    real[0] = 59.9
    assert not bucket.acquire(now, 2)
    real[0] = 60.0
    assert [bucket.acquire(now, 2) for _ in range(3)] == [True, True, False]
    real[0] = 119.0
    assert bucket.acquire(now + timedelta(seconds=30), 2)  # half a market minute
    assert not bucket.acquire(now + timedelta(seconds=30), 2)


async def test_new_clock_and_calendar_are_served() -> None:
    """/v3/clock has phases, /v3/calendar the hours of each day; announcements are empty; locates and event streams are
    404 in the broker's words."""
    async with wire_client() as c:
        [clock] = (await c.get("/v3/clock?markets=NYSE"))["clocks"]
        assert (clock["phase"], clock["phase_until"]) == ("core", "2026-03-09T16:00:00-04:00")
        phases = {
            "07:00": "pre", "03:00": "closed", "17:00": "post", "21:00": "closed"
        }  # fmt: skip
        for hour, phase in phases.items():
            [clock] = (await c.get(f"/v3/clock?time=2026-03-09T{hour}:00-04:00"))["clocks"]
            assert clock["phase"] == phase
        days = await c.get("/v3/calendar/XNYS?start=2026-11-25&end=2026-11-27&timezone=UTC")
        assert days["market"]["acronym"] == "NYSE"
        assert [row["core_end"] for row in days["calendar"]] == [
            "2026-11-25T21:00:00+00:00",
            "2026-11-27T18:00:00+00:00",
        ]
        assert (await c.request("GET", "/v3/calendar/XLON"))[0] == 400
        span = "ca_types=Dividend&since=2026-03-01&until=2026-03-09"
        assert await c.get(f"/v2/corporate_actions/announcements?{span}") == []
        assert (await c.request("GET", "/v2/corporate_actions/announcements?ca_types=x"))[0] == 422
        for path in ("/v1/locates", "/v1/locates/quotes", "/v2beta1/events/activities", "/v2/events/trades"):
            assert await c.request("GET", path) == (404, {"code": 40410000, "message": "endpoint not found"})
