"""Own shares: what our fills explain beside the orders of a person."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from catalyst.domain.ids import client_order_id
from catalyst.domain.order import Side
from catalyst.domain.own_shares import orders_that_reserve, own_net
from catalyst.domain.report import OrderReport

NOON = datetime(2026, 4, 8, 16, 0, tzinfo=UTC)


def order(text: str, minute: int = 0) -> OrderReport:
    """Build an order from "WHO SIDE SHARES [FILLED]": e is our entry, x our exit, p a person's order."""
    who, side, shares, *rest = text.split()
    filled = Decimal(rest[0] if rest else shares)
    at = NOON + timedelta(minutes=minute)
    is_filled = filled == Decimal(shares)
    own = client_order_id("abcdef", f"{text}{minute}", who, 0)
    return OrderReport(
        broker_id=f"{text}@{minute}",
        client_order_id="of-a-person" if who == "p" else own,
        symbol="AAPL",
        side=Side(side),
        quantity=Decimal(shares),
        filled_qty=filled,
        filled_avg_price=Decimal(100),
        broker_status="filled" if is_filled else "new",
        order_type="market",
        order_class="simple",
        time_in_force="day",
        limit_price=None,
        stop_price=None,
        submitted_at=at,
        filled_at=at if is_filled else None,
    )


def own_ids(orders: list[OrderReport]) -> set[str]:
    return {order.broker_id for order in orders if order.client_order_id != "of-a-person"}


@pytest.mark.parametrize(
    ("fills", "net"),
    [
        (["e buy 100"], 100),
        (["e buy 100 40"], 40),
        (["e sell 100"], -100),
        (["e buy 100", "x sell 100"], 0),
        (["e buy 100", "x sell 100 30"], 70),
        (["e buy 100", "p sell 100", "p buy 500"], 0),
        (["e buy 100", "p sell 300"], 0),
        (["e sell 100", "p buy 40"], -60),
        (["p buy 500", "e buy 100"], 100),
        (["e buy 100", "x sell 100", "p buy 500"], 0),
        (["x sell 100", "p buy 500"], 0),
        (["x sell 100", "e buy 50"], 50),
        (["p sell 100", "e buy 50", "x sell 20", "p sell 10"], 20),
    ],
    ids=str,
)
def test_own_shares_of_fills_in_their_order(fills: list[str], net: int) -> None:
    """A person's opposite fills and our exits reduce our shares, never past zero; what a person buys is not ours."""
    orders = [order(text, minute) for minute, text in enumerate(fills)]
    assert own_net(list(reversed(orders)), own_ids(orders)) == net


@pytest.mark.parametrize(
    ("needed", "held", "exits", "cancelled"),
    [
        (100, 600, ["p sell 500 0"], []),
        (100, 550, ["p sell 500 0"], ["p sell 500 0@0"]),
        (100, 100, ["x sell 100 0"], []),
        (100, 600, ["p sell 300 0", "p sell 300 0"], ["p sell 300 0@1"]),
    ],
)
def test_orders_of_others_are_cancelled_only_for_needed_shares(
    needed: int, held: int, exits: list[str], cancelled: list[str]
) -> None:
    """Of a person's stops, only as many are cancelled, newest first, as reserve shares that we sell."""
    orders = [order(text, minute) for minute, text in enumerate(exits)]
    found = orders_that_reserve(Decimal(needed), Decimal(held), orders, own_ids(orders))
    assert [one.broker_id for one in found] == cancelled
