"""Account activities: every fill, fee and transfer, filtered and paged."""

from collections.abc import Iterator, Mapping
from datetime import datetime, time, timedelta
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.exchange.lifecycle import VenueState
from catalyst.simulator.exchange.views import cash_activity_view, fill_activity_view
from catalyst.simulator.rules.wire_format import (
    BAD_PARAMETER,
    ApiError,
    JsonObject,
    parse_instant,
    split_list,
)
from catalyst.simulator.trading_api.order_listing import parse_positive_int

MAX_PAGE_SIZE: Final = 100
TRADE_TYPES: Final = frozenset({"FILL"})
TRANSFER_TYPES: Final = frozenset({"CSD", "CSW"})
# Activity types that this exchange never has; a request may name them.
UNSUPPORTED_TYPES: Final = frozenset(
    (
        *("ACATC", "ACATS", "CFEE", "CGD", "DIV", "DIVCGL", "DIVCGS", "DIVFEE", "DIVFT", "DIVNRA", "DIVROC"),
        *("DIVTW", "DIVTXEX", "INT", "INTNRA", "INTTW", "JNL", "JNLC", "JNLS", "MA", "NC", "OPASN", "OPCA"),
        *("OPCSH", "OPEXC", "OPEXP", "OPTRD", "PTC", "PTR", "REORG", "SPIN", "SPLIT", "FOPT"),
    )
)
TYPE_GROUPS: Final = {"TRANS": TRANSFER_TYPES, "MISC": frozenset({"FEE"})}
ALL_TYPES: Final = TRADE_TYPES | TRANSFER_TYPES | {"FEE"}


def list_activities(state: VenueState, kind: str | None, query: Mapping[str, str]) -> list[JsonObject]:
    """Return one page of activities, newest first unless the query says otherwise. Raises ApiError (422)."""
    kinds = _activity_types(kind, query)
    start, end = _time_range(query)
    order_id = query.get("order_id")
    rows = [
        view
        for at, view in _activities(state, kinds, order_id)
        if (start is None or at > start) and (end is None or at < end)
    ]
    descending = query.get("direction", "desc").lower() != "asc"
    rows.sort(key=lambda row: str(row["id"]), reverse=descending)
    token = query.get("page_token")
    if token:
        rows = [row for row in rows if (str(row["id"]) < token if descending else str(row["id"]) > token)]
    return rows[: parse_positive_int(query, "page_size", MAX_PAGE_SIZE, MAX_PAGE_SIZE)]


def _activity_types(kind: str | None, query: Mapping[str, str]) -> frozenset[str]:
    """Return the requested types, with type families expanded."""
    asked = [kind] if kind else split_list(query.get("activity_types"))
    category = query.get("category")
    if category:
        if asked:
            raise ApiError(422, BAD_PARAMETER, "category and activity_types exclude each other")
        if category not in {"trade_activity", "non_trade_activity"}:
            raise ApiError(422, BAD_PARAMETER, f"invalid category: {category}")
        return TRADE_TYPES if category == "trade_activity" else ALL_TYPES - TRADE_TYPES
    wanted: set[str] = set()
    for each in (name.upper() for name in asked):
        if each not in ALL_TYPES | UNSUPPORTED_TYPES | TYPE_GROUPS.keys():
            raise ApiError(422, BAD_PARAMETER, f"invalid activity type: {each}")
        wanted |= TYPE_GROUPS.get(each, {each})
    return frozenset(wanted) if asked else ALL_TYPES


def _time_range(query: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    """Return the time bounds, both exclusive; `date` is a day in New York."""
    start = parse_instant(query["after"], "after") if query.get("after") else None
    end = parse_instant(query["until"], "until") if query.get("until") else None
    day = query.get("date")
    if day:
        if start or end:
            raise ApiError(422, BAD_PARAMETER, "date excludes after and until")
        morning = datetime.combine(parse_instant(day, "date").astimezone(NEW_YORK).date(), time(), NEW_YORK)
        start, end = morning - timedelta(microseconds=1), morning + timedelta(days=1)
    return start, end


def _activities(
    state: VenueState, kinds: frozenset[str], order_id: str | None
) -> Iterator[tuple[datetime, JsonObject]]:
    if "FILL" in kinds:
        for execution in state.executions:
            if order_id is None or execution.order_id == order_id:
                yield execution.at, fill_activity_view(execution)
    if order_id is not None:
        return  # only a fill has an order
    if "FEE" in kinds:
        for fee in state.fees:
            more = {"activity_sub_type": fee.kind, "description": f"{fee.kind} fee"}
            yield fee.at, cash_activity_view("FEE", fee.at, fee.id, -fee.amount, **more)
    for move in state.transfers:
        kind = "CSD" if move.amount >= 0 else "CSW"
        if kind in kinds:
            yield move.at, cash_activity_view(kind, move.at, move.id, move.amount)
