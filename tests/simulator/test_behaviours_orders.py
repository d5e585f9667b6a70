"""Behaviours 6 to 20: accepted orders, rejected orders with their messages, and executions."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.simulator.manual_feed import HALF_DAY, MONDAY, at
from tests.simulator.wire_client import BRACKET, wire_client

TUESDAY = MONDAY.replace(day=10)


@pytest.mark.promise("B06")
async def test_submitted_order_is_pending_new_then_new_then_filled() -> None:
    """In regular hours the response is pending_new; new and fill follow in order."""
    async with wire_client() as c:
        order = await c.submit("buy", 10)
        assert (order["status"], order["filled_qty"]) == ("pending_new", "0")
        assert await c.events() == []
        await c.advance(0.06)
        assert await c.order_status(order) == "new"
        await c.advance(0.1)
        assert await c.order_status(order) == "filled"
        assert await c.events() == ["new", "fill"]
        await c.assert_audit_clean()


@pytest.mark.promise("B06")
async def test_submit_response_is_pending_even_without_latency() -> None:
    """The response is pending even if the order could trade at once; the stream sends the later states."""
    async with wire_client(acknowledge=0, arrive=0) as c:
        assert (await c.submit("buy", 10))["status"] == "pending_new"
        await c.advance(0.001)
        assert await c.events() == ["new", "fill"]
    async with wire_client(start=at("20:30")) as c:
        assert (await c.submit("buy", 10))["status"] == "accepted"
        assert await c.events() == []


@pytest.mark.promise("B07")
@pytest.mark.parametrize(
    ("terms", "status", "code", "message"),
    [
        ({"qty": 0}, 422, 40010001, "qty must be > 0"),
        ({"qty": "-1"}, 422, 40010001, "qty must be > 0"),
        ({"qty": None}, 422, 40010001, "qty must be > 0"),
        ({"kind": "limit"}, 422, 40010001, "limit orders require a limit price"),
        (
            {"kind": "market", "limit_price": 1},
            422,
            40010001,
            "market orders require no stop or limit price",
        ),
        ({"kind": "market", "stop_price": 1}, 422, 40010001, "market orders require no stop or limit price"),
        ({"kind": "stop"}, 422, 40010001, "stop orders require a stop price"),
        (
            {"kind": "stop_limit", "stop_price": 101},
            422,
            40010001,
            "stop limit orders require both stop and limit price",
        ),
        (
            {"kind": "trailing_stop"},
            422,
            40010001,
            "trailing stop orders require one of trail_price or trail_percent",
        ),
        ({"time_in_force": "fortnight"}, 422, 40010001, "invalid time_in_force: fortnight"),
        ({"time_in_force": ""}, 422, 40010001, "time_in_force is required"),
        ({"side": "hold"}, 422, 40010001, "invalid side: hold"),
        ({"symbol": "NOPE"}, 422, 42210000, 'asset "NOPE" not found'),
        ({"symbol": "DEAD"}, 422, 42210000, "asset DEAD is not active"),
        ({"symbol": "WHOL", "qty": "0.5"}, 403, 40310000, 'asset "WHOL" is not fractionable'),
        ({"qty": "0.5", "time_in_force": "gtc"}, 422, 42210000, "fractional orders must be DAY orders"),
    ],
)
async def test_malformed_order_is_rejected_with_alpacas_message(
    terms: dict[str, Any], status: int, code: int, message: str
) -> None:
    """Each missing or wrong parameter has its own message, and nothing is stored."""
    async with wire_client() as c:
        response = await c.expect_rejection(**{"side": "buy", "qty": 1, **terms})
        assert response == (status, {"code": code, "message": message})


@pytest.mark.promise("B07")
async def test_sub_penny_prices_are_rejected() -> None:
    """Prices have two decimal places from one dollar up and four below; the message names the field and the
    price."""
    async with wire_client() as c:
        for name, price, kind in (
            ("limit_price", "290.123", "limit"),
            ("limit_price", "0.99955", "limit"),
            ("limit_price", "0.30000000000000004", "limit"),
            ("stop_price", "105.005", "stop"),
        ):
            assert await c.expect_rejection("buy", 1, kind=kind, **{name: price}) == (
                422,
                {
                    "code": 42210000,
                    "message": f"invalid {name} {price}. "
                    "sub-penny increment does not fulfill minimum pricing criteria",
                },
            )
        for price in ("99.99", "0.9995", "1.00"):
            assert (await c.submit("buy", 1, kind="limit", limit_price=price))["status"] == "pending_new"


@pytest.mark.promise("B08")
async def test_client_order_id_is_unique_for_ever() -> None:
    """An id stays used after a cancel and after a late rejection; a rejected POST does not use it. The error
    code is a setting."""
    async with wire_client() as c:
        await c.expect_rejection("buy", 0, client_order_id="one")
        order = await c.submit("buy", 1, kind="limit", limit_price=50, client_order_id="one")
        await c.advance()
        await c.cancel(order)
        await c.advance()
        assert await c.order_status(order) == "canceled"
        unique = "client_order_id must be unique"
        assert await c.expect_rejection("buy", 1, client_order_id="one") == (
            422,
            {"code": 40010001, "message": unique},
        )
        await c.add_fault("reject")
        late = await c.submit("buy", 1, client_order_id="two")
        await c.advance()
        assert await c.order_status(late) == "rejected"
        await c.change_settings(duplicate_code=42210000)
        assert await c.expect_rejection("buy", 1, client_order_id="two") == (
            422,
            {"code": 42210000, "message": unique},
        )


@pytest.mark.promise("B08")
async def test_client_order_id_has_at_most_128_characters() -> None:
    """128 characters are accepted, 129 are not; a missing id becomes a generated UUID."""
    async with wire_client() as c:
        assert (await c.submit("buy", 1, client_order_id="x" * 128))["client_order_id"] == "x" * 128
        status, body = await c.expect_rejection("buy", 1, client_order_id="x" * 129)
        assert (status, body["message"]) == (422, "client_order_id must be no more than 128 characters")
        assert UUID((await c.submit("buy", 1))["client_order_id"]).version == 4


@pytest.mark.promise("B09")
async def test_open_buys_reserve_buying_power_until_they_end() -> None:
    """Buying power is four times equity less the cost of open buys; a rejection shows both figures."""
    async with wire_client() as c:
        order = await c.submit("buy", 3000, kind="limit", limit_price="100")
        assert await c.buying_power() == 100_000
        assert await c.expect_rejection("buy", 1001, kind="limit", limit_price="100") == (
            403,
            {
                "code": 40310000,
                "message": "insufficient buying power",
                "buying_power": "100000",
                "cost_basis": "100100",
            },
        )
        await c.advance()
        await c.cancel(order)
        await c.advance()
        assert await c.buying_power() == 400_000
        await c.submit("buy", 1000)
        assert await c.buying_power() == Decimal("400000") - 1000 * Decimal("100.01") * Decimal("1.025")


@pytest.mark.promise("B09")
async def test_pending_replacement_reserves_the_larger_buying_power() -> None:
    """A higher price reserves from the request on; a lower one releases after the venue confirms."""
    async with wire_client() as c:
        order = await c.submit("buy", 1000, kind="limit", limit_price="90")
        await c.advance()
        _, raised = await c.replace(order, limit_price="99")
        assert await c.buying_power() == 301_000
        await c.advance()
        _, lowered = await c.replace(raised, limit_price="95")
        assert await c.buying_power() == 301_000
        await c.advance()
        assert await c.buying_power() == 305_000
        assert (await c.replace(lowered, qty=4300))[0] == 403


@pytest.mark.promise("B10")
async def test_open_exit_reserves_its_shares() -> None:
    """A second exit finds no available shares; the rejection names the order that reserves them."""
    async with wire_client() as c:
        await c.given_position(3)
        stop = await c.submit("sell", 3, kind="stop", stop_price="90")
        assert await c.expect_rejection("sell", 1) == (
            403,
            {
                "available": "0",
                "code": 40310000,
                "existing_qty": "3",
                "held_for_orders": "3",
                "message": "insufficient qty available for order (requested: 1, available: 0)",
                "related_orders": [stop["id"]],
                "symbol": "AAPL",
            },
        )


@pytest.mark.promise("B10")
async def test_bracket_reserves_its_shares_once() -> None:
    """Two exits over 100 shares reserve 100, and the rejection names only the target."""
    async with wire_client() as c:
        order = await c.submit_bracket(100)
        await c.advance()
        [position] = await c.get("/v2/positions")
        assert (position["qty"], position["qty_available"]) == ("100", "0")
        status, body = await c.expect_rejection("sell", 1)
        target, _ = await c.order_legs(order)
        assert (status, body["held_for_orders"], body["related_orders"]) == (403, "100", [target["id"]])


@pytest.mark.promise("B11")
async def test_order_that_crosses_zero_is_rejected() -> None:
    """The exchange rejects a sale of more shares than owned and a purchase of more than short."""
    async with wire_client() as c:
        await c.given_position(10)
        status, body = await c.expect_rejection("sell", 11)
        assert (status, body["available"], body["existing_qty"]) == (403, "10", "10")
        await c.given_position(-5, "MSFT")
        status, body = await c.expect_rejection("buy", 6, "MSFT")
        assert (status, body["available"], body["existing_qty"]) == (403, "5", "5")


@pytest.mark.promise("B11")
async def test_short_sale_needs_an_easy_to_borrow_asset() -> None:
    """Not shortable, hard to borrow by listing or setting, fractional, or forbidden by the account: each has
    its message."""
    async with wire_client() as c:
        for symbol in ("NOSH", "HARD"):
            assert await c.expect_rejection("sell", 1, symbol) == (
                422,
                {"code": 42210000, "message": f'asset "{symbol}" cannot be sold short'},
            )
        assert await c.expect_rejection("sell", "1.5") == (
            422,
            {"code": 42210000, "message": "fractional orders cannot be sold short"},
        )
        await c.change_settings(hard_to_borrow=["TSLA"])
        assert (await c.expect_rejection("sell", 1, "TSLA"))[1][
            "message"
        ] == 'asset "TSLA" cannot be sold short'
        status, _ = await c.request("PATCH", "/v2/account/configurations", json={"no_shorting": True})
        assert status == 200
        status, body = await c.expect_rejection("sell", 1)
        assert (status, body["message"]) == (403, "account is not allowed to short")


@pytest.mark.promise("B11")
async def test_opening_orders_on_opposite_sides_exclude_each_other() -> None:
    """A long cannot be opened while a short sale is working, nor the reverse."""
    async with wire_client() as c:
        await c.submit("sell", 1, kind="limit", limit_price="120")
        status, body = await c.expect_rejection("buy", 1, kind="limit", limit_price="90")
        assert (status, body["message"]) == (
            403,
            "cannot open a long buy while a short sell order is open",
        )
        await c.submit("buy", 1, "MSFT", "limit", limit_price="200")
        status, body = await c.expect_rejection("sell", 1, "MSFT", "limit", limit_price="400")
        assert (status, body["message"]) == (
            403,
            "cannot open a short sell while a long buy order is open",
        )


SELLS: dict[str, dict[str, Any]] = {
    "market": {"kind": "market"},
    "stop": {"kind": "stop", "stop_price": "85"},
    "limit": {"kind": "limit", "limit_price": "110"},
    "stop_limit": {"kind": "stop_limit", "stop_price": "86", "limit_price": "85"},
    "trailing": {"kind": "trailing_stop", "trail_price": "5"},
}
BUYS: dict[str, dict[str, Any]] = {
    "market": {"kind": "market"},
    "stop": {"kind": "stop", "stop_price": "115"},
    "limit over": {"kind": "limit", "limit_price": "110"},
    "limit under": {"kind": "limit", "limit_price": "84"},
    "stop_limit over": {"kind": "stop_limit", "stop_price": "105", "limit_price": "111"},
    "trailing": {"kind": "trailing_stop", "trail_price": "5"},
}
EXEMPT_TYPES = {"trailing"}


def is_wash_trade(resting: str, incoming: str) -> bool:
    """Return Alpaca's rule, written independently: a market or stop order meets every order, limits meet when
    they cross."""
    if resting in EXEMPT_TYPES or incoming in EXEMPT_TYPES:
        return False
    if "limit" not in resting or "limit" not in incoming:
        return True
    sell = Decimal(SELLS[resting]["limit_price"])
    return Decimal(BUYS[incoming]["limit_price"]) >= sell


@pytest.mark.promise("B12")
@pytest.mark.parametrize("resting", SELLS)
async def test_wash_trade_rule_follows_alpacas_table(resting: str) -> None:
    """Every type of buy is tried against every type of working exit; trailing stops are exempt."""
    async with wire_client(acknowledge=600) as c:
        await c.change_settings(acknowledge=0.05)
        await c.given_position(10)
        await c.change_settings(acknowledge=600)
        existing = await c.submit("sell", 10, **SELLS[resting])
        kind = "limit" if "limit" in resting else "market/stop"
        for incoming, terms in BUYS.items():
            status, body = await c.post_order("buy", 1, "AAPL", **terms)
            assert (status == 403) == is_wash_trade(resting, incoming), (resting, incoming, body)
            if status == 403:
                assert body == {
                    "code": 40310000,
                    "existing_order_id": existing["id"],
                    "message": "potential wash trade detected. use complex orders",
                    "reject_reason": f"opposite side {kind} order exists",
                }
            else:
                await c.cancel(body)
                await c.advance()


@pytest.mark.promise("B12")
async def test_unfilled_entry_blocks_a_plain_stop_but_no_oco() -> None:
    """While the account's own buy is working, a plain sell stop is a wash trade and an OCO is not. Bracket
    exits block no order."""
    async with wire_client() as c:
        c.served.scenario.feed.quote_size = 40
        await c.submit_bracket(100, kind="limit", limit_price="100.01")
        await c.advance()
        assert await c.position_qty() == "40"
        status, body = await c.expect_rejection("sell", 40, kind="stop", stop_price="95")
        assert (status, body["message"]) == (403, "potential wash trade detected. use complex orders")
        assert (await c.submit_oco(40))["status"] == "pending_new"
        c.served.scenario.feed.quote_size = 10_000
        legs = {"take_profit": {"limit_price": "330"}, "stop_loss": {"stop_price": "290"}}
        await c.submit_bracket(10, "MSFT", **legs)
        await c.advance()
        assert (await c.submit("buy", 1, "MSFT"))["status"] == "pending_new"


@pytest.mark.promise("B13")
@pytest.mark.parametrize(
    ("side", "stop", "comparison", "market"),
    [("sell", "101", "less", "99.99"), ("buy", "99", "greater", "100.01")],
)
async def test_stop_on_the_wrong_side_of_the_market_is_rejected(
    side: str, stop: str, comparison: str, market: str
) -> None:
    """The rejection shows the market price and the stop price."""
    async with wire_client() as c:
        if side == "sell":
            await c.given_position(1)
        assert await c.expect_rejection(side, 1, kind="stop", stop_price=stop) == (
            422,
            {
                "code": 42210000,
                "market_price": market,
                "message": f"stop price must be {comparison} than current price",
                "stop_price": stop,
            },
        )


@pytest.mark.promise("B14")
async def test_sell_stop_is_triggered_by_a_trade_not_by_a_quote() -> None:
    """A quote below the stop triggers nothing; a print does, and after a gap the fill has the gap's price."""
    async with wire_client() as c:
        await c.given_position(10)
        stop = await c.submit("sell", 10, kind="stop", stop_price="95")
        await c.advance()
        c.set_quote("90", "90.02")
        await c.print_trade("96")
        assert await c.order_status(stop) == "new"
        await c.print_trade("88")
        filled = await c.get_order(stop)
        assert (filled["status"], filled["filled_avg_price"]) == ("filled", "90")
        await c.assert_audit_clean()


@pytest.mark.promise("B14")
@pytest.mark.parametrize(
    ("symbol", "stop", "beyond", "within", "average"),
    [("AAPL", "105", "110", "107.5", "107.51"), ("HARD", "25", "26.01", "25.99", "26")],
)
async def test_triggered_buy_stop_is_limited_by_a_collar(
    symbol: str, stop: str, beyond: str, within: str, average: str
) -> None:
    """The collar is 2.5 % above the stop from $50 up, 4 % below $50; beyond it the order fills only when the
    price returns."""
    async with wire_client() as c:
        order = await c.submit("buy", 10, symbol, "stop", stop_price=stop)
        await c.advance()
        await c.print_trade(beyond, symbol)
        assert await c.order_status(order) == "new"
        await c.print_trade(within, symbol)
        filled = await c.get_order(order)
        assert (filled["status"], filled["filled_avg_price"]) == ("filled", average)


@pytest.mark.promise("B14")
async def test_stop_is_not_triggered_outside_regular_hours() -> None:
    """A trade after the close does not trigger a gtc stop; the gap at the next open fills it."""
    async with wire_client() as c:
        await c.given_position(10)
        stop = await c.submit("sell", 10, kind="stop", stop_price="95", time_in_force="gtc")
        feed = c.served.scenario.feed
        feed.add_trade("AAPL", at("17:00"), "80")
        await c.advance_to(at("18:00"))
        assert await c.order_status(stop) == "new"
        feed.add_trade("AAPL", at("09:30", TUESDAY), "90")
        await c.advance_to(at("09:31", TUESDAY))
        filled = await c.get_order(stop)
        assert (filled["status"], filled["filled_avg_price"]) == ("filled", "89.99")


@pytest.mark.promise("B15")
async def test_market_order_outside_hours_waits_as_accepted_for_the_open() -> None:
    """The order waits through the night, is routed at the open, and trades there."""
    async with wire_client(start=at("08:00")) as c:
        order = await c.submit("buy", 10)
        assert order["status"] == "accepted"
        await c.advance_to(at("09:29"))
        assert await c.order_status(order) == "accepted"
        c.served.scenario.feed.add_trade("AAPL", at("09:30"), "103")
        await c.advance_to(at("09:31"))
        filled = await c.get_order(order)
        assert (filled["status"], filled["filled_avg_price"]) == ("filled", "103")


@pytest.mark.promise("B15")
async def test_day_order_after_the_close_works_the_next_session() -> None:
    """An order of 16:30 waits, is working in the next session, and expires at its close."""
    async with wire_client(start=at("16:30")) as c:
        order = await c.submit("buy", 1, kind="limit", limit_price="50")
        assert order["status"] == "accepted"
        await c.advance_to(at("15:59", TUESDAY))
        assert await c.order_status(order) == "new"
        await c.advance_to(at("16:00", TUESDAY))
        assert await c.order_status(order) == "expired"


@pytest.mark.promise("B15")
@pytest.mark.parametrize(
    ("tif", "clock_time", "accepted"),
    [
        ("opg", "09:27", True),
        ("opg", "09:28", False),
        ("opg", "18:59", False),
        ("opg", "19:00", True),
        ("cls", "15:49", True),
        ("cls", "15:50", False),
        ("cls", "18:59", False),
        ("cls", "19:00", True),
    ],
)
async def test_opg_and_cls_orders_are_accepted_only_in_their_windows_over_http(
    tif: str, clock_time: str, accepted: bool
) -> None:
    """opg is rejected from 9:28 to 19:00, cls from 15:50 to 19:00, with the broker's message."""
    messages = {
        "opg": "opg orders must be submitted after 7:00pm and before 9:28am",
        "cls": "cls orders must be submitted after 7:00pm and before 3:55pm",
    }
    async with wire_client(start=at(clock_time)) as c:
        if accepted:
            assert (await c.submit("buy", 1, time_in_force=tif))["time_in_force"] == tif
        else:
            status, body = await c.expect_rejection("buy", 1, time_in_force=tif)
            assert (status, body["message"]) == (422, messages[tif])


@pytest.mark.promise("B15")
async def test_extended_hours_accept_only_day_or_gtc_limit_orders() -> None:
    """Other types and times in force are rejected; day and gtc limit orders trade before the open."""
    async with wire_client(start=at("08:00")) as c:
        for terms in (
            {"kind": "market"},
            {"kind": "stop", "stop_price": "105"},
            {"kind": "limit", "limit_price": "100", "time_in_force": "ioc"},
        ):
            assert await c.expect_rejection("buy", 1, extended_hours=True, **terms) == (
                422,
                {"code": 42210000, "message": "extended hours order must be DAY or GTC limit orders"},
            )
        orders = [
            await c.submit("buy", 1, kind="limit", limit_price="100", extended_hours=flag, time_in_force=tif)
            for flag, tif in ((True, "day"), ("true", "gtc"))
        ]
        await c.advance()
        await c.print_trade("99.5")
        assert [await c.order_status(order) for order in orders] == ["filled", "filled"]


@pytest.mark.promise("B16")
@pytest.mark.parametrize(("as_canceled", "end_status"), [(False, "expired"), (True, "canceled")])
async def test_day_orders_end_at_the_close_and_gtc_orders_survive(as_canceled: bool, end_status: str) -> None:
    """Day orders and legs of a filled bracket end as expired, or canceled by the setting; the half day closes
    at 13:00."""
    async with wire_client(start=at("11:00", HALF_DAY), expire_as_canceled=as_canceled) as c:
        bracket = await c.submit_bracket(10)
        day = await c.submit("buy", 1, "TSLA", "limit", limit_price="50")
        gtc = await c.submit("buy", 1, "MSFT", "limit", limit_price="50", time_in_force="gtc")
        await c.advance_to(at("12:59", HALF_DAY))
        assert (await c.order_status(day), await c.leg_statuses(bracket)) == ("new", ("new", "held"))
        await c.advance_to(at("13:00", HALF_DAY))
        assert (await c.order_status(day), await c.order_status(gtc)) == (end_status, "new")
        assert await c.leg_statuses(bracket) == (end_status, end_status)
        assert await c.events(day) == ["new", end_status]
        assert await c.position_qty() == "10"


@pytest.mark.promise("B17")
async def test_halt_rejects_market_orders_and_triggers_no_stop() -> None:
    """Trades during the halt trigger and fill nothing; the reopening print gaps through the stop."""
    async with wire_client() as c:
        await c.given_position(10)
        stop = await c.submit("sell", 10, kind="stop", stop_price="95")
        await c.advance()
        await c.served.post_admin("halt", symbol="AAPL")
        assert await c.expect_rejection("buy", 1) == (
            422,
            {
                "code": 42210000,
                "message": 'market order rejected due to trading halt on symbol: "AAPL", '
                "please place a limit order instead",
            },
        )
        await c.print_trade("94")
        assert await c.order_status(stop) == "new"
        await c.served.post_admin("resume", symbol="AAPL")
        await c.print_trade("80")
        filled = await c.get_order(stop)
        assert (filled["status"], filled["filled_avg_price"]) == ("filled", "79.99")
        await c.served.post_admin("halt", symbol="MSFT")
        resting = await c.submit("buy", 1, "MSFT", "limit", limit_price="299")
        await c.advance()
        await c.print_trade("298", "MSFT")
        assert await c.order_status(resting) == "new"
        await c.served.post_admin("resume", symbol="MSFT")
        await c.print_trade("297", "MSFT")
        assert await c.order_status(resting) == "filled"


@pytest.mark.promise("B18")
async def test_large_order_fills_a_quarter_of_each_print() -> None:
    """A fill takes at most a quarter of a print. Quantities accumulate; the average is volume-weighted."""
    async with wire_client() as c:
        c.served.scenario.feed.quote_size = 100
        order = await c.submit("buy", 300)
        await c.advance()
        current = await c.get_order(order)
        assert (current["status"], current["filled_qty"]) == ("partially_filled", "100")
        await c.print_trade("101", size=400)
        await c.print_trade("102", size=4000)
        current = await c.get_order(order)
        expected = (100 * Decimal("100.01") + 100 * Decimal("101.01") + 100 * Decimal("102.01")) / 300
        assert (current["status"], Decimal(current["filled_avg_price"])) == ("filled", expected)
        assert await c.events(order) == ["new", "partial_fill", "partial_fill", "fill"]
        streamed = (await c.updates(order))[1:]
        assert [each["qty"] for each in streamed] == ["100", "100", "100"]
        assert [each["order"]["filled_qty"] for each in streamed] == ["100", "200", "300"]
        await c.assert_audit_clean()


@pytest.mark.promise("B18")
async def test_partial_probability_splits_some_fills() -> None:
    """At probability 0 no fill is split; at 10 % some are, the next trade fills the remainder, and no share
    is lost."""

    async def events(probability: str) -> list[str]:
        async with wire_client(partial_probability=probability) as c:
            for _ in range(40):
                await c.submit("buy", 10)
            await c.advance()
            for _ in range(8):
                await c.print_trade("100")
            assert await c.position_qty() == "400"
            await c.assert_audit_clean()
            return await c.events()

    assert (await events("0")).count("partial_fill") == 0
    streamed = await events("0.1")
    assert streamed.count("fill") == 40
    assert (
        1 <= streamed.count("partial_fill") <= 15
    )  # 40 draws and their remainders; the seed makes the count constant


@pytest.mark.promise("B18")
async def test_partial_fault_stops_the_fill_at_its_quantity() -> None:
    """The fault fills 7 shares, or 2.5, and no more until it is removed."""
    async with wire_client() as c:
        for qty in ("7", "2.5"):
            fault = await c.add_fault("partial", symbol="AAPL", qty=qty)
            order = await c.submit("buy", 10)
            await c.advance()
            await c.print_trade("100")
            current = await c.get_order(order)
            assert (current["status"], current["filled_qty"]) == ("partially_filled", qty)
            assert (await c.request("DELETE", f"/admin/faults?id={fault['id']}"))[0] == 200
            await c.print_trade("100")
            assert await c.order_status(order) == "filled"


@pytest.mark.promise("B19")
async def test_accepted_order_may_be_rejected_later() -> None:
    """The response is pending_new, the stream sends rejected; the legs are cancelled and nothing stays
    reserved."""
    async with wire_client() as c:
        await c.add_fault("reject", symbol="AAPL")
        order = await c.submit_bracket()
        assert order["status"] == "pending_new"
        await c.advance()
        rejected = await c.get_order(order)
        assert (rejected["status"], rejected["failed_at"] is not None) == ("rejected", True)
        assert {leg["status"] for leg in rejected["legs"]} == {"canceled"}
        assert await c.events(order) == ["rejected"]
        assert await c.buying_power() == 400_000


@pytest.mark.promise("B20")
async def test_hard_to_borrow_assets_accept_only_day_orders() -> None:
    """A gtc protective stop on a long is rejected too; the setting makes any symbol hard to borrow."""
    async with wire_client() as c:
        await c.given_position(10, "HARD")
        message = 'only day orders are allowed for hard-to-borrow asset "{}"'
        stop = {"kind": "stop", "stop_price": "15"}
        response = await c.expect_rejection("sell", 10, "HARD", **stop, time_in_force="gtc")
        assert response == (422, {"code": 42210000, "message": message.format("HARD")})
        assert (await c.submit("sell", 10, "HARD", **stop))["status"] == "pending_new"
        assert (await c.submit("buy", 1, kind="limit", limit_price="50", time_in_force="gtc"))["status"]
        await c.change_settings(hard_to_borrow=["AAPL"])
        _, body = await c.expect_rejection("buy", 1, **BRACKET, time_in_force="gtc")
        assert body["message"] == message.format("AAPL")
