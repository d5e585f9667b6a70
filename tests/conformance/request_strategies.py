"""Requests drawn from the broker's documents, most of them steered to values that exist in the exchange. A
document's schema alone yields unlisted symbols and unknown orders, so that nearly every answer is a
refusal. Here nine in ten of the parameters below get a value that means something to the exchange."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st
from schemathesis import Case
from schemathesis.schemas import APIOperation

from tests.conformance.exchange_thread import ExchangeThread

SYMBOLS = ("AAPL", "MSFT", "SPY", "F", "BRK.B")
UNKNOWN_SYMBOL = "ZZZZZ"
DAYS = ("2026-06-15", "2026-06-17T13:40:00Z", "2026-06-17T09:45:00-04:00", "2026-06-17T14:20:00.123456789Z")
CENTS = {"AAPL": 27000, "MSFT": 50000, "SPY": 68000, "F": 1300, "BRK.B": 48000}

parameter_values: dict[str, st.SearchStrategy[Any]] = {
    "symbol": st.sampled_from(SYMBOLS),
    "symbol_or_asset_id": st.sampled_from(SYMBOLS),
    "symbols": st.lists(st.sampled_from((*SYMBOLS, UNKNOWN_SYMBOL)), min_size=1, max_size=4).map(",".join),
    "timeframe": st.sampled_from(("1Min", "5Min", "15T", "1Hour", "1Day", "1D", "1Week", "3Month")),
    "start": st.sampled_from(DAYS),
    "end": st.sampled_from(DAYS),
    "after": st.sampled_from(DAYS),
    "until": st.sampled_from(DAYS),
    "date": st.sampled_from(DAYS[:1]),
    "limit": st.integers(1, 50),
    "page_size": st.integers(1, 100),
    "top": st.integers(1, 50),
    "asof": st.sampled_from(("2026-06-17", "-")),
    "currency": st.just("USD"),
    "adjustment": st.sampled_from(("raw", "split", "dividend", "all")),
    "status": st.sampled_from(("open", "closed", "all", "active")),
    "asset_class": st.just("us_equity"),
    "exchange": st.sampled_from(("NASDAQ", "NYSE")),
    "activity_type": st.sampled_from(("FILL", "FEE", "CSD")),
    "activity_types": st.sampled_from((["FILL"], ["FILL", "CSD"])),
    "side": st.sampled_from(("buy", "sell")),
    "types": st.just("cash_dividend"),
    "period": st.sampled_from(("1D", "1W", "1M", "1A")),
    "market_type": st.just("stocks"),
    "market": st.sampled_from(("NYSE", "XNAS", "IEX")),
    "markets": st.sampled_from(("NYSE", "NYSE,NASDAQ")),
    "time": st.sampled_from(DAYS[1:]),
    "timezone": st.just("UTC"),
    "date_type": st.sampled_from(("TRADING", "SETTLEMENT")),
    "ca_types": st.sampled_from(("Dividend", "Merger,Split")),
    "since": st.sampled_from(("2026-06-01", "2026-06-15")),
    "by": st.sampled_from(("volume", "trades")),
    "qty": st.sampled_from(("1", "2", "0.5")),
    "percentage": st.sampled_from(("50", "100")),
}
operation_parameter_values = {
    ("GET", "/v2/account/portfolio/history", "timeframe"): st.sampled_from(("1D", "15Min")),
    ("GET", "/v2/corporate_actions/announcements", "until"): st.sampled_from(("2026-06-30", "2026-07-01")),
    ("GET", "/v2/corporate_actions/announcements", "date_type"): st.just("ex_date"),
}
# Parameters that name an order; their value is an existing order, by its place in the list.
ORDER_PARAMETERS = ("order_id", "before_order_id", "after_order_id", "client_order_id")
# Parameters that name a watchlist, in the same way.
WATCHLIST_PARAMETERS = ("watchlist_id", "name")
RARELY = st.integers(0, 9).map(lambda number: number == 4)  # not a bound: those are drawn more often
exclusive_parameters = (
    ({"after", "until"}, {"before_order_id", "after_order_id"}),
    ({"qty"}, {"percentage"}),
)


ORDER_TYPES = ("market", "limit", "limit", "stop", "stop_limit", "trailing_stop")


@st.composite
def order_bodies(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a plausible order: every type, class and time in force, numbers as text or as numbers."""
    symbol = draw(st.sampled_from(SYMBOLS))
    cents = CENTS[symbol]
    order_class = draw(st.sampled_from(("simple", "simple", "", "bracket", "oto", "oco")))
    kinds = ("market", "limit") if order_class not in {"simple", ""} else ORDER_TYPES
    kind = "limit" if order_class == "oco" else draw(st.sampled_from(kinds))
    side = draw(st.sampled_from(("buy", "sell")))
    up = 1 if side == "buy" else -1

    def price(percent: int) -> Any:
        text = f"{cents * (100 + percent) / 10_000:.2f}"
        return draw(st.sampled_from((text, float(text))))

    body: dict[str, Any] = {
        "symbol": symbol,
        "side": side,
        "type": kind,
        "qty": draw(st.sampled_from(("1", "3", 2, 10, 1, "0.5"))),
        "time_in_force": draw(
            st.sampled_from(("day", "day", "day", "gtc", "gtc", "ioc", "fok", "opg", "cls"))
        ),
        "order_class": order_class,
    }
    if draw(RARELY):
        body["notional"] = body.pop("qty") if draw(st.booleans()) else "100"
    if kind in {"limit", "stop_limit"}:
        body["limit_price"] = price(draw(st.integers(-5, 5)))
    if kind in {"stop", "stop_limit"}:
        body["stop_price"] = price(up * draw(st.integers(-1, 5)))
    if kind == "trailing_stop":
        body[draw(st.sampled_from(("trail_percent", "trail_price")))] = draw(st.sampled_from(("1", 5)))
    if order_class in {"bracket", "oco"}:
        body["take_profit"] = {"limit_price": price(up * draw(st.integers(6, 9)))}
    if order_class in {"bracket", "oto", "oco"}:
        body["stop_loss"] = {"stop_price": price(-up * draw(st.integers(6, 9)))}
        if draw(st.booleans()):
            body["stop_loss"]["limit_price"] = price(-up * 10)
    return body


replace_bodies = st.fixed_dictionaries(
    {"limit_price": st.integers(600, 900).map(lambda cents: f"{cents / 100:.2f}")},
    optional={"qty": st.sampled_from(("1", "2", "7")), "time_in_force": st.sampled_from(("day", "gtc"))},
)


watchlist_entry_bodies = st.fixed_dictionaries({"symbol": st.sampled_from(SYMBOLS)})
watchlist_bodies = st.fixed_dictionaries(
    {"name": st.integers(0, 100_000).map(lambda number: f"list {number}")},
    optional={"symbols": st.lists(st.sampled_from(SYMBOLS), max_size=4, unique=True)},
)


@dataclass
class SteeredRequest:
    """A drawn case, and the picks for its orders and watchlists, resolved before it is sent."""

    case: Case
    order_picks: dict[str, int] = field(default_factory=dict)
    watchlist_picks: dict[str, int] = field(default_factory=dict)

    def resolve_names(self, sim: ExchangeThread) -> Case:
        """Return the case with existing order and watchlist names filled in."""
        watchlists = list(sim.exchange.watchlists.by_id.values())
        for name, pick in self.watchlist_picks.items():
            chosen = watchlists[pick % len(watchlists)]
            place = self.case.query if name == "name" else self.case.path_parameters
            place[name] = chosen.name if name == "name" else chosen.id  # type: ignore[index]
        every = list(sim.exchange.state.order_store.orders.values())
        for name, pick in self.order_picks.items():
            priced = [
                order for order in sim.exchange.state.order_store.live() if order.limit_price is not None
            ]
            candidates = priced if pick % 3 and priced else every
            order = candidates[pick % len(candidates)]
            value = order.client_order_id if name == "client_order_id" else order.id
            place = (
                self.case.path_parameters if name in (self.case.path_parameters or {}) else self.case.query
            )
            place[name] = value  # type: ignore[index]
        return self.case


@st.composite
def steered_requests(draw: st.DrawFn, operation: APIOperation) -> SteeredRequest:  # type: ignore[type-arg]
    """Draw a request that the document allows for this operation, and steer its values."""
    request = SteeredRequest(draw(operation.as_strategy()))
    case = request.case
    label = (operation.method.upper(), operation.path)
    for place in (case.path_parameters, case.query):
        for name in list(place or ()):
            if draw(RARELY):
                continue
            if name in WATCHLIST_PARAMETERS and "watchlists" in operation.path:
                request.watchlist_picks[name] = draw(st.integers(0, 60))
            elif name in ORDER_PARAMETERS:
                request.order_picks[name] = draw(st.integers(0, 60))
            elif (
                strategy := operation_parameter_values.get((*label, name), parameter_values.get(name))
            ) is not None:
                place[name] = draw(strategy)  # type: ignore[index]
    for pair in exclusive_parameters:
        if case.query and all(names & case.query.keys() for names in pair):
            for name in pair[draw(st.integers(0, 1))]:
                case.query.pop(name, None)
                request.order_picks.pop(name, None)
    if label == ("POST", "/v2/orders") and not draw(RARELY):
        case.body = draw(order_bodies())
    elif label == ("PATCH", "/v2/orders/{order_id}") and not draw(RARELY):
        case.body = draw(replace_bodies)
    elif "watchlists" in operation.path and label[0] in {"POST", "PUT"} and not draw(RARELY):
        filled = label[0] == "PUT" or operation.path == "/v2/watchlists"
        case.body = draw(watchlist_bodies if filled else watchlist_entry_bodies)
    return request
