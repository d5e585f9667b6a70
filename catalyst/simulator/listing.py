"""Lists a client may page through: orders and account activities."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from catalyst.clock import NEW_YORK
from catalyst.simulator.exchange import Exchange
from catalyst.simulator.orders import LISTED_OPEN, Order
from catalyst.simulator.venue import Venue
from catalyst.simulator.views import cash_view, fill_view
from catalyst.simulator.wire import BAD_PARAMETER, Refusal, identity, instant, names, truth, type_json

LONGEST_LIST = 500
LONGEST_PAGE = 100
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


def list_activities(venue: Venue, kinds: frozenset[str], query: Mapping[str, str]) -> list[type_json]:
    """Account activities of these kinds (all when empty), newest first unless asked otherwise, one page."""
    day = query.get("date")
    start = instant(query["after"], "after") if query.get("after") else None
    end = instant(query["until"], "until") if query.get("until") else None
    if day:
        start = instant(day, "date") - timedelta(microseconds=1)
        end = (start.astimezone(NEW_YORK) + timedelta(days=1)).astimezone(start.tzinfo)
    order_id = query.get("order_id")
    rows = [
        view
        for at, view in _activities(venue, kinds, order_id)
        if (start is None or at > start) and (end is None or at < end)
    ]
    descending = query.get("direction", "desc").lower() != "asc"
    rows.sort(key=lambda row: str(row["id"]), reverse=descending)
    token = query.get("page_token")
    if token:
        rows = [row for row in rows if (str(row["id"]) < token if descending else str(row["id"]) > token)]
    return rows[: whole(query, "page_size", LONGEST_PAGE, LONGEST_PAGE)]


def _activities(
    venue: Venue, kinds: frozenset[str], order_id: str | None
) -> list[tuple[datetime, type_json]]:
    rows: list[tuple[datetime, type_json]] = []
    if not kinds or "FILL" in kinds:
        rows += [
            (execution.at, fill_view(execution))
            for execution in venue.executions
            if order_id is None or execution.order_id == order_id
        ]
    if order_id is None:
        if not kinds or "FEE" in kinds:
            rows += [(fee.at, cash_view("FEE", fee.at, fee.id, -fee.amount)) for fee in venue.fees]
        if not kinds or "CSD" in kinds:
            account = venue.account
            deposit = cash_view("CSD", account.created_at, account.id, account.deposits)
            rows.append((account.created_at, deposit))
    return rows


def portfolio_history(venue: Venue) -> type_json:
    """Equity at each close so far, and now."""
    points = [*venue.equity_history, (venue.now, venue.account.equity(venue.mark))]
    base = venue.account.deposits
    gains = [equity - base for _, equity in points]
    return {
        "timestamp": [int(at.timestamp()) for at, _ in points],
        "equity": [float(equity) for _, equity in points],
        "profit_loss": [float(gain) for gain in gains],
        "profit_loss_pct": [float(gain / base) if base else 0.0 for gain in gains],
        "base_value": float(base),
        "base_value_asof": venue.account.created_at.astimezone(NEW_YORK).date().isoformat(),
        "timeframe": "1D",
        "cashflow": {},
    }
