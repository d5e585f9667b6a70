"""Parsers of trading API responses; they run in the thread that received the bytes."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Final, Generic, TypeVar

from catalyst.broker import parse
from catalyst.broker.outcome import (
    inconclusive_error,
    is_object,
    require_list,
    require_object,
    success_body,
)
from catalyst.broker.pagination import array_items
from catalyst.broker.request import HttpResponse, OnMalformed
from catalyst.domain.errors import BrokerUnavailable, NotFound, OrderRejected, OutcomeUnknown
from catalyst.domain.refusals import RejectionReason
from catalyst.domain.report import AssetReport, CashActivity, Fill, Listing, OrderReport, OrderRequest

T = TypeVar("T")

ORDERS_PER_PAGE: Final = 500  # the broker's maximum; its default is 50
FILLS_PER_PAGE: Final = 100


def parse_submit(request: OrderRequest, response: HttpResponse, on_malformed: OnMalformed) -> OrderReport:
    """Return the acknowledgement of `request`; a response about another order decides nothing."""
    try:
        body = success_body(response, mutating=True)
    except NotFound as error:  # "asset not found" as a 404 is a plain rejection of a submit
        raise OrderRejected(RejectionReason.NOT_TRADABLE, str(error), http_status=response.status) from error
    report = parse_or_raise(
        body, partial(parse.order_report, on_malformed=on_malformed), on_malformed, mutating=True
    )
    received = (report.client_order_id, report.symbol, report.side, report.quantity)
    if received != (request.client_order_id, request.symbol, request.side, request.quantity):
        on_malformed("the response to a submit names another order", body)
        raise OutcomeUnknown(f"sent {request.client_order_id}, the response names {received}")
    return report


def parse_replace(
    broker_id: str, client_order_id: str, response: HttpResponse, on_malformed: OnMalformed
) -> OrderReport:
    """Return the replacement of `broker_id`; a response about another order decides nothing."""
    body = success_body(response, mutating=True)
    report = parse_or_raise(
        body, partial(parse.order_report, on_malformed=on_malformed), on_malformed, mutating=True
    )
    if (report.client_order_id, report.replaces) != (client_order_id, broker_id):
        on_malformed("the response to a replacement names another order", body)
        raise OutcomeUnknown(f"sent {client_order_id}, the response names {report.client_order_id}")
    return report


def parse_cancel(response: HttpResponse, _on_malformed: OnMalformed) -> None:
    """Accept the response to a cancel; it promises only receipt, so its body is not read."""
    if not 200 <= response.status < 300:
        success_body(response, mutating=True)


def parse_configuration_change(response: HttpResponse, _on_malformed: OnMalformed) -> Mapping[str, object]:
    body = success_body(response, mutating=True)
    if not is_object(body):
        raise OutcomeUnknown("the response to a change is not an object")
    return body


def parse_configuration(response: HttpResponse, _on_malformed: OnMalformed) -> Mapping[str, object]:
    return require_object(success_body(response, mutating=False))


def parse_order(response: HttpResponse, on_malformed: OnMalformed) -> OrderReport:
    parse_row = partial(parse.order_report, on_malformed=on_malformed)
    return parse_or_raise(
        require_object(success_body(response, mutating=False)), parse_row, on_malformed, mutating=False
    )


def parse_order_page(response: HttpResponse, on_malformed: OnMalformed) -> tuple[Listing[OrderReport], bool]:
    """Return a page, and whether it may have a successor; legs count, because the broker may count them
    before nesting. An unreadable leg is an unreadable row of the page."""
    raw = require_list(success_body(response, mutating=False))
    page = parse.parse_rows(raw, partial(parse.order_report, on_malformed=on_malformed), on_malformed)
    page.unreadable_rows += sum(order.unreadable_legs for order in page)
    return page, len(raw) + sum(len(order.legs) for order in page) >= ORDERS_PER_PAGE


class UnchangedBodyCache(Generic[T]):
    """The last response that was parsed completely, with its result. Equal bytes have an equal result.

    Most reads of the day's orders return the bytes of the read before. Thread-safe.
    """

    def __init__(self, parse_response: Callable[[HttpResponse, OnMalformed], T]) -> None:
        self._parse_response = parse_response
        self._last: tuple[bytes, T] | None = None

    def __call__(self, response: HttpResponse, on_malformed: OnMalformed) -> T:
        last = self._last
        if last is not None and response.status == 200 and response.body == last[0]:
            return last[1]
        malformed = False

        def mark_malformed(reason: str, raw: object) -> None:
            nonlocal malformed
            malformed = True
            on_malformed(reason, raw)

        result = self._parse_response(response, mark_malformed)
        self._last = None if malformed or response.status != 200 else (response.body, result)
        return result


def parse_fill_page(response: HttpResponse, on_malformed: OnMalformed) -> tuple[Listing[Fill], str | None]:
    """Return a page, and the token of the next one: the id of its last row, parsed or not."""
    raw = require_list(success_body(response, mutating=False))
    page = parse.parse_rows(raw, parse.fill, on_malformed)
    if len(raw) < FILLS_PER_PAGE:
        return page, None
    last_row = raw[-1]
    token = last_row.get("id") if is_object(last_row) else None
    if not isinstance(token, str):
        raise BrokerUnavailable("the last fill of a full page has no id: the next page cannot be found")
    return page, token


def parse_cash_page(response: HttpResponse, on_malformed: OnMalformed) -> Listing[CashActivity]:
    """Return the only page. Raises BrokerUnavailable for a full one: there may be another."""
    raw = require_list(success_body(response, mutating=False))
    if len(raw) >= FILLS_PER_PAGE:
        raise BrokerUnavailable("the day has more non-trade activities than one page")
    return parse.parse_rows(raw, parse.cash_activity, on_malformed)


def parse_assets(response: HttpResponse, on_malformed: OnMalformed) -> list[AssetReport]:
    if response.status != 200:
        success_body(response, mutating=False)
    found = []
    for raw in array_items(response.body.decode()):
        try:
            found.append(parse.asset_report(raw))
        except ValueError as error:
            on_malformed(str(error), raw)
    return found


def parse_or_raise(
    body: object, parse_row: Callable[[object], T], on_malformed: OnMalformed, *, mutating: bool
) -> T:
    try:
        return parse_row(body)
    except ValueError as error:
        on_malformed(str(error), body)
        raise inconclusive_error(f"malformed response: {error}", mutating=mutating) from error


def by_submission_time(order: OrderReport) -> tuple[bool, datetime | None, str]:
    """Sort oldest first; orders without a submission time come last."""
    return order.submitted_at is None, order.submitted_at, order.broker_id
