"""The account's activities: every fill, fee and transfer, filtered and a page at a time."""

from collections.abc import Iterator, Mapping
from datetime import datetime, time, timedelta
from typing import Final

from catalyst.clock import NEW_YORK
from catalyst.simulator.exchange.venue import Venue
from catalyst.simulator.exchange.views import cash_view, fill_view
from catalyst.simulator.rules.wire_format import BAD_PARAMETER, Refusal, instant, names, type_json
from catalyst.simulator.trading_api.order_listing import whole

LONGEST_PAGE: Final = 100
TRADES: Final = frozenset({"FILL"})
CASH: Final = frozenset({"CSD", "CSW"})
# The types this exchange never has, which may be asked for all the same.
ABSENT: Final = frozenset(
    (
        *("ACATC", "ACATS", "CFEE", "CGD", "DIV", "DIVCGL", "DIVCGS", "DIVFEE", "DIVFT", "DIVNRA", "DIVROC"),
        *("DIVTW", "DIVTXEX", "INT", "INTNRA", "INTTW", "JNL", "JNLC", "JNLS", "MA", "NC", "OPASN", "OPCA"),
        *("OPCSH", "OPEXC", "OPEXP", "OPTRD", "PTC", "PTR", "REORG", "SPIN", "SPLIT", "FOPT"),
    )
)
FAMILIES: Final = {"TRANS": CASH, "MISC": frozenset({"FEE"})}
EVERY: Final = TRADES | CASH | {"FEE"}


def list_activities(venue: Venue, kind: str | None, query: Mapping[str, str]) -> list[type_json]:
    """The activities asked for, newest first unless asked otherwise, one page. Raises Refusal (422)."""
    kinds = _kinds(kind, query)
    start, end = _span(query)
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


def _kinds(kind: str | None, query: Mapping[str, str]) -> frozenset[str]:
    """The types asked for, families taken apart."""
    asked = [kind] if kind else names(query.get("activity_types"))
    category = query.get("category")
    if category:
        if asked:
            raise Refusal(422, BAD_PARAMETER, "category and activity_types exclude each other")
        if category not in {"trade_activity", "non_trade_activity"}:
            raise Refusal(422, BAD_PARAMETER, f"invalid category: {category}")
        return TRADES if category == "trade_activity" else EVERY - TRADES
    wanted: set[str] = set()
    for each in (name.upper() for name in asked):
        if each not in EVERY | ABSENT | FAMILIES.keys():
            raise Refusal(422, BAD_PARAMETER, f"invalid activity type: {each}")
        wanted |= FAMILIES.get(each, {each})
    return frozenset(wanted) if asked else EVERY


def _span(query: Mapping[str, str]) -> tuple[datetime | None, datetime | None]:
    """The bounds in time, both exclusive; `date` is a day in New York."""
    start = instant(query["after"], "after") if query.get("after") else None
    end = instant(query["until"], "until") if query.get("until") else None
    day = query.get("date")
    if day:
        if start or end:
            raise Refusal(422, BAD_PARAMETER, "date excludes after and until")
        morning = datetime.combine(instant(day, "date").astimezone(NEW_YORK).date(), time(), NEW_YORK)
        start, end = morning - timedelta(microseconds=1), morning + timedelta(days=1)
    return start, end


def _activities(
    venue: Venue, kinds: frozenset[str], order_id: str | None
) -> Iterator[tuple[datetime, type_json]]:
    if "FILL" in kinds:
        for execution in venue.executions:
            if order_id is None or execution.order_id == order_id:
                yield execution.at, fill_view(execution)
    if order_id is not None:
        return  # nothing but a fill has an order
    if "FEE" in kinds:
        for fee in venue.fees:
            more = {"activity_sub_type": fee.kind, "description": f"{fee.kind} fee"}
            yield fee.at, cash_view("FEE", fee.at, fee.id, -fee.amount, **more)
    for move in venue.transfers:
        kind = "CSD" if move.amount >= 0 else "CSW"
        if kind in kinds:
            yield move.at, cash_view(kind, move.at, move.id, move.amount)
