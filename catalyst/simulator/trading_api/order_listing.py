"""Order listing: lists of orders with filters and paging."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from catalyst.simulator.exchange.exchange import Exchange
from catalyst.simulator.rules.orders import OPEN_STATUSES, Order
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    ApiError,
    parse_bool,
    parse_count,
    parse_instant,
    parse_uuid,
    split_list,
)

MAX_LISTED_ORDERS = 500
ASSET_CLASS = "us_equity"


@dataclass(frozen=True, slots=True)
class OrderQuery:
    """Parameters of GET /v2/orders."""

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


def parse_order_query(query: Mapping[str, str]) -> OrderQuery:
    """Parse a query string. Raises ApiError (422)."""
    status = query.get("status", "open").lower() or "open"
    if status not in {"open", "closed", "all"}:
        raise ApiError(422, BAD_PARAMETER, f"invalid status: {status}")
    before_id, after_id = query.get("before_order_id"), query.get("after_order_id")
    if (before_id or after_id) and (query.get("after") or query.get("until")):
        raise ApiError(422, BAD_PARAMETER, "before_order_id and after_order_id exclude after and until")
    return OrderQuery(
        status=status,
        limit=parse_positive_int(query, "limit", 50, MAX_LISTED_ORDERS),
        after=parse_instant(query["after"], "after") if query.get("after") else None,
        until=parse_instant(query["until"], "until") if query.get("until") else None,
        descending=query.get("direction", "desc").lower() != "asc",
        nested=parse_bool(query.get("nested")),
        symbols=frozenset(symbol.upper() for symbol in split_list(query.get("symbols"))),
        side=query.get("side"),
        asset_class=query.get("asset_class"),
        before_id=parse_uuid(before_id) if before_id else None,
        after_id=parse_uuid(after_id) if after_id else None,
    )


def parse_positive_int(query: Mapping[str, str], name: str, default: int, maximum: int) -> int:
    """Return a positive integer of a query, at most `maximum`. Raises ApiError (422)."""
    text = query.get(name)
    if not text:
        return default
    number = parse_count(text)
    if number is None or not 0 < number <= maximum:
        raise ApiError(422, BAD_PARAMETER, f"invalid {name}: must be between 1 and {maximum}")
    return number


def list_orders(exchange: Exchange, query: OrderQuery) -> list[Order]:
    """Return the requested orders. A held leg is not an open order.

    Nested legs appear only inside their parents; the open legs of a closed parent are listed by themselves,
    unless `hide_open_legs` hides them.
    """
    shown = (exchange.visible_state(order) for order in exchange.state.order_store.orders.values())
    rows = [order for order in shown if _matches_query(exchange, order, query)]
    rows.sort(key=lambda order: (order.submitted_at, order.sequence), reverse=query.descending)
    return rows[: query.limit]


def _matches_query(exchange: Exchange, order: Order, query: OrderQuery) -> bool:
    if query.symbols and order.symbol not in query.symbols:
        return False
    if query.side and order.side != query.side:
        return False
    if query.asset_class and query.asset_class != ASSET_CLASS:
        return False
    if query.status == "open" and order.status not in OPEN_STATUSES:
        return False
    if query.status == "closed" and not order.terminal:
        return False
    if query.nested and order.parent_id is not None and _is_nested_in_parent(exchange, order, query):
        return False
    return _is_in_range(exchange, order, query)


def _is_nested_in_parent(exchange: Exchange, leg: Order, query: OrderQuery) -> bool:
    """Return whether a leg is shown only inside its parent."""
    parent = exchange.state.order_store.parent(leg)
    if parent is None or leg.id not in parent.legs:
        return False
    if query.status == "all" or exchange.state.settings.hide_open_legs:
        return True
    parent = exchange.visible_state(parent)
    return parent.terminal if query.status == "closed" else parent.status in OPEN_STATUSES


def _is_in_range(exchange: Exchange, order: Order, query: OrderQuery) -> bool:
    if query.after is not None and order.submitted_at <= query.after:
        return False
    if query.until is not None and order.submitted_at >= query.until:
        return False
    place = (order.submitted_at, order.sequence)
    if query.before_id is not None:
        mark = exchange.find_order(query.before_id)
        if place >= (mark.submitted_at, mark.sequence):
            return False
    if query.after_id is not None:
        mark = exchange.find_order(query.after_id)
        if place <= (mark.submitted_at, mark.sequence):
            return False
    return True
