"""Lists of orders that a client may page through."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.rules.orders import LISTED_OPEN, Order
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, Refusal, identity, instant, names, truth

LONGEST_LIST = 500
ASSET_CLASS = "us_equity"


@dataclass(frozen=True, slots=True)
class OrderQuery:
    """What GET /v2/orders was asked for."""

    status: str
    limit: int
    after: datetime | None
    until: datetime | None
    descending: bool
    nested: bool
    symbols: frozenset[str]
    side: str | None
    asset_class: str | None
    before_id: str | None
    after_id: str | None


def read_query(query: Mapping[str, str]) -> OrderQuery:
    """The question in a query string. Raises Refusal (422)."""
    status = query.get("status", "open").lower() or "open"
    if status not in {"open", "closed", "all"}:
        raise Refusal(422, BAD_PARAMETER, f"invalid status: {status}")
    before_id, after_id = query.get("before_order_id"), query.get("after_order_id")
    if (before_id or after_id) and (query.get("after") or query.get("until")):
        raise Refusal(422, BAD_PARAMETER, "before_order_id and after_order_id exclude after and until")
    return OrderQuery(
        status=status,
        limit=whole(query, "limit", 50, LONGEST_LIST),
        after=instant(query["after"], "after") if query.get("after") else None,
        until=instant(query["until"], "until") if query.get("until") else None,
        descending=query.get("direction", "desc").lower() != "asc",
        nested=truth(query.get("nested")),
        symbols=frozenset(symbol.upper() for symbol in names(query.get("symbols"))),
        side=query.get("side"),
        asset_class=query.get("asset_class"),
        before_id=identity(before_id) if before_id else None,
        after_id=identity(after_id) if after_id else None,
    )


def whole(query: Mapping[str, str], name: str, default: int, most: int) -> int:
    """A positive whole number of a query, at most `most`. Raises Refusal (422)."""
    text = query.get(name)
    if not text:
        return default
    if not text.isdigit() or not 0 < int(text) <= most:
        raise Refusal(422, BAD_PARAMETER, f"invalid {name}: must be between 1 and {most}")
    return int(text)


def list_orders(exchange: Exchange, query: OrderQuery) -> list[Order]:
    """The orders asked for.

    A held leg is not an open order. Nested, legs appear inside their parents only; once a parent is closed
    its open legs are listed by themselves, unless the switch hides them.
    """
    shown = (exchange.seen(order) for order in exchange.book.orders.values())
    rows = [order for order in shown if _wanted(exchange, order, query)]
    rows.sort(key=lambda order: (order.submitted_at, order.sequence), reverse=query.descending)
    return rows[: query.limit]


def _wanted(exchange: Exchange, order: Order, query: OrderQuery) -> bool:
    if query.symbols and order.symbol not in query.symbols:
        return False
    if query.side and order.side != query.side:
        return False
    if query.asset_class and query.asset_class != ASSET_CLASS:
        return False
    if query.status == "open" and order.status not in LISTED_OPEN:
        return False
    if query.status == "closed" and not order.terminal:
        return False
    if query.nested and order.parent_id is not None and _inside(exchange, order, query):
        return False
    return _in_span(exchange, order, query)


def _inside(exchange: Exchange, leg: Order, query: OrderQuery) -> bool:
    """Whether a leg is shown inside its parent, or nowhere, instead of by itself."""
    parent = exchange.book.parent(leg)
    if parent is None or leg.id not in parent.legs:
        return False
    if query.status == "all" or exchange.switches.hide_open_legs:
        return True
    parent = exchange.seen(parent)
    return parent.terminal if query.status == "closed" else parent.status in LISTED_OPEN


def _in_span(exchange: Exchange, order: Order, query: OrderQuery) -> bool:
    if query.after is not None and order.submitted_at <= query.after:
        return False
    if query.until is not None and order.submitted_at >= query.until:
        return False
    place = (order.submitted_at, order.sequence)
    if query.before_id is not None:
        mark = exchange.find(query.before_id)
        if place >= (mark.submitted_at, mark.sequence):
            return False
    if query.after_id is not None:
        mark = exchange.find(query.after_id)
        if place <= (mark.submitted_at, mark.sequence):
            return False
    return True
