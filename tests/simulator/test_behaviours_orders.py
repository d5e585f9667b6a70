"""Behaviours 6 to 20: which orders are taken, which are refused and in which words, and how they trade."""

from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from tests.simulator.manual_feed import HALF_DAY, MONDAY, at
from tests.simulator.wire_client import BRACKET, customer

TUESDAY = MONDAY.replace(day=10)


async def test_b06_a_post_is_pending_and_becomes_new_and_filled_later() -> None:
    """In regular hours the answer says pending_new; new and fill come afterwards, in order."""
    async with customer() as c:
        order = await c.sends("buy", 10)
        assert (order["status"], order["filled_qty"]) == ("pending_new", "0")
        assert await c.heard() == []
        await c.passes(0.06)
        assert await c.status(order) == "new"
        await c.passes(0.1)
        assert await c.status(order) == "filled"
        assert await c.heard() == ["new", "fill"]
        await c.balanced()


async def test_b06_even_without_latency_the_answer_is_never_new_or_filled() -> None:
    """An order that could trade at once is still answered as pending: the rest is told on the stream."""
    async with customer(acknowledge=0, arrive=0) as c:
        assert (await c.sends("buy", 10))["status"] == "pending_new"
        await c.passes(0.001)
        assert await c.heard() == ["new", "fill"]
    async with customer(start=at("20:30")) as c:
        assert (await c.sends("buy", 10))["status"] == "accepted"
        assert await c.heard() == []


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
async def test_b07_a_malformed_order_is_refused_in_alpacas_words(
    terms: dict[str, Any], status: int, code: int, message: str
) -> None:
    """Each missing or wrong parameter has its own message, and nothing is stored."""
    async with customer() as c:
        answer = await c.refused(**{"side": "buy", "qty": 1, **terms})
        assert answer == (status, {"code": code, "message": message})


async def test_b07_prices_finer_than_a_tick_are_refused() -> None:
    """Two places from a dollar up, four below, and the sub-penny message names the field and the price."""
    async with customer() as c:
        for name, price, kind in (
            ("limit_price", "290.123", "limit"),
            ("limit_price", "0.99955", "limit"),
            ("limit_price", "0.30000000000000004", "limit"),
            ("stop_price", "105.005", "stop"),
        ):
            assert await c.refused("buy", 1, kind=kind, **{name: price}) == (
                422,
                {
                    "code": 42210000,
                    "message": f"invalid {name} {price}. "
                    "sub-penny increment does not fulfill minimum pricing criteria",
                },
            )
        for price in ("99.99", "0.9995", "1.00"):
            assert (await c.sends("buy", 1, kind="limit", limit_price=price))["status"] == "pending_new"


async def test_b08_a_client_order_id_is_unique_for_ever() -> None:
    """Also after a cancel and after a late rejection; a refused post does not use it; the code is a switch."""
    async with customer() as c:
        await c.refused("buy", 0, client_order_id="one")
        order = await c.sends("buy", 1, kind="limit", limit_price=50, client_order_id="one")
        await c.passes()
        await c.cancels(order)
        await c.passes()
        assert await c.status(order) == "canceled"
        unique = "client_order_id must be unique"
        assert await c.refused("buy", 1, client_order_id="one") == (
            422,
            {"code": 40010001, "message": unique},
        )
        await c.breaks("reject")
        late = await c.sends("buy", 1, client_order_id="two")
        await c.passes()
        assert await c.status(late) == "rejected"
        await c.switches(duplicate_code=42210000)
        assert await c.refused("buy", 1, client_order_id="two") == (
            422,
            {"code": 42210000, "message": unique},
        )


async def test_b08_a_client_order_id_has_at_most_128_characters() -> None:
    """128 are taken, 129 are not, and an absent one is a made-up UUID."""
    async with customer() as c:
        assert (await c.sends("buy", 1, client_order_id="x" * 128))["client_order_id"] == "x" * 128
        status, body = await c.refused("buy", 1, client_order_id="x" * 129)
        assert (status, body["message"]) == (422, "client_order_id must be no more than 128 characters")
        assert UUID((await c.sends("buy", 1))["client_order_id"]).version == 4


async def test_b09_buying_power_is_reserved_by_open_buys_and_freed_by_their_end() -> None:
    """Four times equity, less what open buys may cost; a refusal shows both figures."""
    async with customer() as c:
        order = await c.sends("buy", 3000, kind="limit", limit_price="100")
        assert await c.power() == 100_000
        assert await c.refused("buy", 1001, kind="limit", limit_price="100") == (
            403,
            {
                "code": 40310000,
                "message": "insufficient buying power",
                "buying_power": "100000",
                "cost_basis": "100100",
            },
        )
        await c.passes()
        await c.cancels(order)
        await c.passes()
        assert await c.power() == 400_000
        await c.sends("buy", 1000)
        assert await c.power() == Decimal("400000") - 1000 * Decimal("100.01") * Decimal("1.025")


async def test_b09_a_pending_replacement_holds_the_larger_of_both() -> None:
    """Dearer: from the request on. Cheaper: until the venue has agreed."""
    async with customer() as c:
        order = await c.sends("buy", 1000, kind="limit", limit_price="90")
        await c.passes()
        _, dearer = await c.replaces(order, limit_price="99")
        assert await c.power() == 301_000
        await c.passes()
        _, cheaper = await c.replaces(dearer, limit_price="95")
        assert await c.power() == 301_000
        await c.passes()
        assert await c.power() == 305_000
        assert (await c.replaces(cheaper, qty=4300))[0] == 403


async def test_b10_exits_hold_their_shares() -> None:
    """A second exit finds nothing available, and is told which order holds the shares."""
    async with customer() as c:
        await c.holds(3)
        stop = await c.sends("sell", 3, kind="stop", stop_price="90")
        assert await c.refused("sell", 1) == (
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


async def test_b10_a_bracket_holds_its_shares_once() -> None:
    """Two exits over a hundred shares hold a hundred, and the target speaks for both."""
    async with customer() as c:
        order = await c.bracket(100)
        await c.passes()
        [position] = await c.gets("/v2/positions")
        assert (position["qty"], position["qty_available"]) == ("100", "0")
        status, body = await c.refused("sell", 1)
        target, _ = await c.legs(order)
        assert (status, body["held_for_orders"], body["related_orders"]) == (403, "100", [target["id"]])


async def test_b11_one_order_cannot_cross_zero() -> None:
    """Selling more than is owned, or buying back more than is short, is refused."""
    async with customer() as c:
        await c.holds(10)
        status, body = await c.refused("sell", 11)
        assert (status, body["available"], body["existing_qty"]) == (403, "10", "10")
        await c.holds(-5, "MSFT")
        status, body = await c.refused("buy", 6, "MSFT")
        assert (status, body["available"], body["existing_qty"]) == (403, "5", "5")


async def test_b11_shorts_need_a_share_that_is_easy_to_borrow() -> None:
    """Not shortable, hard to borrow by listing or by switch, fractional, or forbidden: each has its words."""
    async with customer() as c:
        for symbol in ("NOSH", "HARD"):
            assert await c.refused("sell", 1, symbol) == (
                422,
                {"code": 42210000, "message": f'asset "{symbol}" cannot be sold short'},
            )
        assert await c.refused("sell", "1.5") == (
            422,
            {"code": 42210000, "message": "fractional orders cannot be sold short"},
        )
        await c.switches(hard_to_borrow=["TSLA"])
        assert (await c.refused("sell", 1, "TSLA"))[1]["message"] == 'asset "TSLA" cannot be sold short'
        status, _ = await c.asks("PATCH", "/v2/account/configurations", json={"no_shorting": True})
        assert status == 200
        status, body = await c.refused("sell", 1)
        assert (status, body["message"]) == (403, "account is not allowed to short")


async def test_b11_opposite_opening_orders_exclude_each_other() -> None:
    """A long may not be opened while a short sale works, nor the other way round."""
    async with customer() as c:
        await c.sends("sell", 1, kind="limit", limit_price="120")
        status, body = await c.refused("buy", 1, kind="limit", limit_price="90")
        assert (status, body["message"]) == (
            403,
            "cannot open a long buy while a short sell order is open",
        )
        await c.sends("buy", 1, "MSFT", "limit", limit_price="200")
        status, body = await c.refused("sell", 1, "MSFT", "limit", limit_price="400")
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
NEVER = {"trailing"}


def meets(resting: str, fresh: str) -> bool:
    """Alpaca's table, written down again: market or stop meet everything, limits meet when they cross."""
    if resting in NEVER or fresh in NEVER:
        return False
    if "limit" not in resting or "limit" not in fresh:
        return True
    sell = Decimal(SELLS[resting]["limit_price"])
    return Decimal(BUYS[fresh]["limit_price"]) >= sell


@pytest.mark.parametrize("resting", SELLS)
async def test_b12_the_wash_trade_table(resting: str) -> None:
    """Every kind of buy against every kind of working exit; complex orders and trailing stops are exempt."""
    async with customer(acknowledge=600) as c:
        await c.switches(acknowledge=0.05)
        await c.holds(10)
        await c.switches(acknowledge=600)
        existing = await c.sends("sell", 10, **SELLS[resting])
        kind = "limit" if "limit" in resting else "market/stop"
        for fresh, terms in BUYS.items():
            status, body = await c.posts("buy", 1, "AAPL", **terms)
            assert (status == 403) == meets(resting, fresh), (resting, fresh, body)
            if status == 403:
                assert body == {
                    "code": 40310000,
                    "existing_order_id": existing["id"],
                    "message": "potential wash trade detected. use complex orders",
                    "reject_reason": f"opposite side {kind} order exists",
                }
            else:
                await c.cancels(body)
                await c.passes()


async def test_b12_the_rest_of_an_entry_blocks_a_plain_stop_but_no_oco() -> None:
    """While our own buy works, a plain sell stop is a wash trade; an OCO is not; bracket exits block nobody."""
    async with customer() as c:
        c.wire.desk.tape.sizes = 40
        await c.bracket(100, kind="limit", limit_price="100.01")
        await c.passes()
        assert await c.owns() == "40"
        status, body = await c.refused("sell", 40, kind="stop", stop_price="95")
        assert (status, body["message"]) == (403, "potential wash trade detected. use complex orders")
        assert (await c.oco(40))["status"] == "pending_new"
        c.wire.desk.tape.sizes = 10_000
        legs = {"take_profit": {"limit_price": "330"}, "stop_loss": {"stop_price": "290"}}
        await c.bracket(10, "MSFT", **legs)
        await c.passes()
        assert (await c.sends("buy", 1, "MSFT"))["status"] == "pending_new"


@pytest.mark.parametrize(
    ("side", "stop", "word", "market"), [("sell", "101", "less", "99.99"), ("buy", "99", "greater", "100.01")]
)
async def test_b13_a_plain_stop_on_the_wrong_side_is_refused(
    side: str, stop: str, word: str, market: str
) -> None:
    """The refusal shows the market's price and the stop's."""
    async with customer() as c:
        if side == "sell":
            await c.holds(1)
        assert await c.refused(side, 1, kind="stop", stop_price=stop) == (
            422,
            {
                "code": 42210000,
                "market_price": market,
                "message": f"stop price must be {word} than current price",
                "stop_price": stop,
            },
        )


async def test_b14_a_sell_stop_waits_for_a_trade_not_a_quote_and_then_sells_at_the_market() -> None:
    """A quote under the stop elects nothing; the print does, and after a gap the fill is the gap's price."""
    async with customer() as c:
        await c.holds(10)
        stop = await c.sends("sell", 10, kind="stop", stop_price="95")
        await c.passes()
        c.quotes("90", "90.02")
        await c.prints("96")
        assert await c.status(stop) == "new"
        await c.prints("88")
        seen = await c.sees(stop)
        assert (seen["status"], seen["filled_avg_price"]) == ("filled", "90")
        await c.balanced()


@pytest.mark.parametrize(
    ("symbol", "stop", "beyond", "within", "average"),
    [("AAPL", "105", "110", "107.5", "107.51"), ("HARD", "25", "26.01", "25.99", "26")],
)
async def test_b14_a_buy_stop_becomes_a_limit_with_a_collar(
    symbol: str, stop: str, beyond: str, within: str, average: str
) -> None:
    """From $50 up 2.5 % over the stop, below 4 %: a gap beyond it does not fill until the price comes back."""
    async with customer() as c:
        order = await c.sends("buy", 10, symbol, "stop", stop_price=stop)
        await c.passes()
        await c.prints(beyond, symbol)
        assert await c.status(order) == "new"
        await c.prints(within, symbol)
        seen = await c.sees(order)
        assert (seen["status"], seen["filled_avg_price"]) == ("filled", average)


async def test_b14_a_stop_is_not_elected_outside_regular_hours() -> None:
    """A trade after the close leaves a good-till-cancelled stop alone; the next open's gap fills it."""
    async with customer() as c:
        await c.holds(10)
        stop = await c.sends("sell", 10, kind="stop", stop_price="95", time_in_force="gtc")
        tape = c.wire.desk.tape
        tape.trades("AAPL", at("17:00"), "80")
        await c.until(at("18:00"))
        assert await c.status(stop) == "new"
        tape.trades("AAPL", at("09:30", TUESDAY), "90")
        await c.until(at("09:31", TUESDAY))
        seen = await c.sees(stop)
        assert (seen["status"], seen["filled_avg_price"]) == ("filled", "89.99")


async def test_b15_a_market_order_while_closed_parks_as_accepted() -> None:
    """It waits through the night, is routed at the bell, and trades there."""
    async with customer(start=at("08:00")) as c:
        order = await c.sends("buy", 10)
        assert order["status"] == "accepted"
        await c.until(at("09:29"))
        assert await c.status(order) == "accepted"
        c.wire.desk.tape.trades("AAPL", at("09:30"), "103")
        await c.until(at("09:31"))
        seen = await c.sees(order)
        assert (seen["status"], seen["filled_avg_price"]) == ("filled", "103")


async def test_b15_a_day_order_after_the_close_is_for_the_next_day() -> None:
    """Submitted at 16:30 it waits, works through the next session, and ends with it."""
    async with customer(start=at("16:30")) as c:
        order = await c.sends("buy", 1, kind="limit", limit_price="50")
        assert order["status"] == "accepted"
        await c.until(at("15:59", TUESDAY))
        assert await c.status(order) == "new"
        await c.until(at("16:00", TUESDAY))
        assert await c.status(order) == "expired"


@pytest.mark.parametrize(
    ("tif", "clock_time", "taken"),
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
async def test_b15_windows_of_opening_and_closing_orders(tif: str, clock_time: str, taken: bool) -> None:
    """opg is refused from 9:28 to 19:00, cls from 15:50 to 19:00, in the broker's words."""
    words = {
        "opg": "opg orders must be submitted after 7:00pm and before 9:28am",
        "cls": "cls orders must be submitted after 7:00pm and before 3:55pm",
    }
    async with customer(start=at(clock_time)) as c:
        if taken:
            assert (await c.sends("buy", 1, time_in_force=tif))["time_in_force"] == tif
        else:
            status, body = await c.refused("buy", 1, time_in_force=tif)
            assert (status, body["message"]) == (422, words[tif])


async def test_b15_extended_hours_take_only_limit_orders_for_the_day_or_longer() -> None:
    """Other types and times in force are refused; a day and a gtc limit order trade before the bell."""
    async with customer(start=at("08:00")) as c:
        for terms in (
            {"kind": "market"},
            {"kind": "stop", "stop_price": "105"},
            {"kind": "limit", "limit_price": "100", "time_in_force": "ioc"},
        ):
            assert await c.refused("buy", 1, extended_hours=True, **terms) == (
                422,
                {"code": 42210000, "message": "extended hours order must be DAY or GTC limit orders"},
            )
        orders = [
            await c.sends("buy", 1, kind="limit", limit_price="100", extended_hours=flag, time_in_force=tif)
            for flag, tif in ((True, "day"), ("true", "gtc"))
        ]
        await c.passes()
        await c.prints("99.5")
        assert [await c.status(order) for order in orders] == ["filled", "filled"]


@pytest.mark.parametrize(("switched", "end"), [(False, "expired"), (True, "canceled")])
async def test_b16_day_orders_end_at_the_close_and_good_till_cancelled_ones_survive(
    switched: bool, end: str
) -> None:
    """Expired by default, canceled by the switch, legs of a filled bracket too; the half day closes at one."""
    async with customer(start=at("11:00", HALF_DAY), expire_as_canceled=switched) as c:
        bracket = await c.bracket(10)
        day = await c.sends("buy", 1, "TSLA", "limit", limit_price="50")
        gtc = await c.sends("buy", 1, "MSFT", "limit", limit_price="50", time_in_force="gtc")
        await c.until(at("12:59", HALF_DAY))
        assert (await c.status(day), await c.statuses(bracket)) == ("new", ("new", "held"))
        await c.until(at("13:00", HALF_DAY))
        assert (await c.status(day), await c.status(gtc)) == (end, "new")
        assert await c.statuses(bracket) == (end, end)
        assert await c.heard(day) == ["new", end]
        assert await c.owns() == "10"


async def test_b17_a_halt_refuses_market_orders_rests_limits_and_elects_no_stop() -> None:
    """Trades during the halt do nothing; the reopening print gaps through the stop."""
    async with customer() as c:
        await c.holds(10)
        stop = await c.sends("sell", 10, kind="stop", stop_price="95")
        await c.passes()
        await c.wire.admin("halt", symbol="AAPL")
        assert await c.refused("buy", 1) == (
            422,
            {
                "code": 42210000,
                "message": 'market order rejected due to trading halt on symbol: "AAPL", '
                "please place a limit order instead",
            },
        )
        await c.prints("94")
        assert await c.status(stop) == "new"
        await c.wire.admin("resume", symbol="AAPL")
        await c.prints("80")
        seen = await c.sees(stop)
        assert (seen["status"], seen["filled_avg_price"]) == ("filled", "79.99")
        await c.wire.admin("halt", symbol="MSFT")
        resting = await c.sends("buy", 1, "MSFT", "limit", limit_price="299")
        await c.passes()
        await c.prints("298", "MSFT")
        assert await c.status(resting) == "new"
        await c.wire.admin("resume", symbol="MSFT")
        await c.prints("297", "MSFT")
        assert await c.status(resting) == "filled"


async def test_b18_large_orders_fill_in_slices_of_the_prints() -> None:
    """A quarter of each print at most; quantities accumulate and the average is weighted by volume."""
    async with customer() as c:
        c.wire.desk.tape.sizes = 100
        order = await c.sends("buy", 300)
        await c.passes()
        seen = await c.sees(order)
        assert (seen["status"], seen["filled_qty"]) == ("partially_filled", "100")
        await c.prints("101", size=400)
        await c.prints("102", size=4000)
        seen = await c.sees(order)
        expected = (100 * Decimal("100.01") + 100 * Decimal("101.01") + 100 * Decimal("102.01")) / 300
        assert (seen["status"], Decimal(seen["filled_avg_price"])) == ("filled", expected)
        assert await c.heard(order) == ["new", "partial_fill", "partial_fill", "fill"]
        told = (await c.updates(order))[1:]
        assert [each["qty"] for each in told] == ["100", "100", "100"]
        assert [each["order"]["filled_qty"] for each in told] == ["100", "200", "300"]
        await c.balanced()


async def test_b18_a_tenth_of_the_fills_may_be_partial_by_chance() -> None:
    """Off, no order is cut; at 10 % some are, the rest is filled by the next trade, and nothing is lost."""

    async def events(probability: str) -> list[str]:
        async with customer(partial_probability=probability) as c:
            for _ in range(40):
                await c.sends("buy", 10)
            await c.passes()
            for _ in range(8):
                await c.prints("100")
            assert await c.owns() == "400"
            await c.balanced()
            return await c.heard()

    assert (await events("0")).count("partial_fill") == 0
    told = await events("0.1")
    assert told.count("fill") == 40
    assert 1 <= told.count("partial_fill") <= 15  # 40 draws and their rests; the seed makes it one number


async def test_b18_a_scripted_partial_fill_stalls() -> None:
    """The fault lets seven shares through, or a part of one, and no more until it is lifted."""
    async with customer() as c:
        for qty in ("7", "2.5"):
            fault = await c.breaks("partial", symbol="AAPL", qty=qty)
            order = await c.sends("buy", 10)
            await c.passes()
            await c.prints("100")
            seen = await c.sees(order)
            assert (seen["status"], seen["filled_qty"]) == ("partially_filled", qty)
            assert (await c.asks("DELETE", f"/admin/faults?id={fault['id']}"))[0] == 200
            await c.prints("100")
            assert await c.status(order) == "filled"


async def test_b19_an_order_may_be_rejected_after_a_200() -> None:
    """The answer said pending_new; the stream says rejected, the group goes with it, nothing stays reserved."""
    async with customer() as c:
        await c.breaks("reject", symbol="AAPL")
        order = await c.bracket()
        assert order["status"] == "pending_new"
        await c.passes()
        seen = await c.sees(order)
        assert (seen["status"], seen["failed_at"] is not None) == ("rejected", True)
        assert {leg["status"] for leg in seen["legs"]} == {"canceled"}
        assert await c.heard(order) == ["rejected"]
        assert await c.power() == 400_000


async def test_b20_hard_to_borrow_names_take_only_day_orders() -> None:
    """A good-till-cancelled protective stop on a long is refused too; the switch makes any name hard."""
    async with customer() as c:
        await c.holds(10, "HARD")
        text = 'only day orders are allowed for hard-to-borrow asset "{}"'
        stop = {"kind": "stop", "stop_price": "15"}
        answer = await c.refused("sell", 10, "HARD", **stop, time_in_force="gtc")
        assert answer == (422, {"code": 42210000, "message": text.format("HARD")})
        assert (await c.sends("sell", 10, "HARD", **stop))["status"] == "pending_new"
        assert (await c.sends("buy", 1, kind="limit", limit_price="50", time_in_force="gtc"))["status"]
        await c.switches(hard_to_borrow=["AAPL"])
        _, body = await c.refused("buy", 1, **BRACKET, time_in_force="gtc")
        assert body["message"] == text.format("AAPL")
