"""What an answer of the trading API comes to: made in the thread that received it, of its bytes alone."""

from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Final, Generic, TypeVar

from catalyst.broker import parse
from catalyst.broker.outcome import Refusal, doubt, fields, is_object, rows, settle
from catalyst.broker.pagination import array_items
from catalyst.broker.request import Answer, Spoil
from catalyst.domain.errors import BrokerUnavailable, NotFound, OrderRefused, OutcomeUnknown
from catalyst.domain.report import AssetReport, Fill, OrderReport, OrderRequest

T = TypeVar("T")

ORDERS_A_PAGE: Final = 500  # the most the broker gives; its default is 50
FILLS_A_PAGE: Final = 100


def acknowledged(request: OrderRequest, answer: Answer, spoil: Spoil) -> OrderReport:
    """The acknowledgement of `request`; an answer that speaks of anything else settles nothing."""
    try:
        body = settle(answer, changes=True)
    except NotFound as error:  # "asset not found" as a 404: a plain no to a submit
        raise OrderRefused(Refusal.NOT_TRADABLE, str(error), http_status=answer.status) from error
    report = understood(body, partial(parse.order_report, spoil=spoil), spoil, changes=True)
    told = (report.client_order_id, report.symbol, report.side, report.quantity)
    if told != (request.client_order_id, request.symbol, request.side, request.quantity):
        spoil("the answer to a submit speaks of another order", body)
        raise OutcomeUnknown(f"sent {request.client_order_id}, told of {told}")
    return report


def replacing(broker_id: str, client_order_id: str, answer: Answer, spoil: Spoil) -> OrderReport:
    """The order that is to take the place of `broker_id`; an answer that speaks of anything else settles nothing."""
    body = settle(answer, changes=True)
    report = understood(body, partial(parse.order_report, spoil=spoil), spoil, changes=True)
    if (report.client_order_id, report.replaces) != (client_order_id, broker_id):
        spoil("the answer to a replacement speaks of another order", body)
        raise OutcomeUnknown(f"sent {client_order_id}, told of {report.client_order_id}")
    return report


def asked(answer: Answer, _spoil: Spoil) -> None:
    """Nothing is promised by a cancel but that it was heard; its body is not read."""
    if not 200 <= answer.status < 300:
        settle(answer, changes=True)


def changed(answer: Answer, _spoil: Spoil) -> Mapping[str, object]:
    body = settle(answer, changes=True)
    if not is_object(body):
        raise OutcomeUnknown("the answer to a change is not an object")
    return body


def settings(answer: Answer, _spoil: Spoil) -> Mapping[str, object]:
    return fields(settle(answer, changes=False))


def one_order(answer: Answer, spoil: Spoil) -> OrderReport:
    read = partial(parse.order_report, spoil=spoil)
    return understood(fields(settle(answer, changes=False)), read, spoil, changes=False)


def order_page(answer: Answer, spoil: Spoil) -> tuple[list[OrderReport], bool]:
    """A page, and whether it may have a successor: legs count, for the broker may count them before nesting."""
    raw = rows(settle(answer, changes=False))
    page = parse.parsed(raw, partial(parse.order_report, spoil=spoil), spoil)
    return page, len(raw) + sum(len(one.legs) for one in page) >= ORDERS_A_PAGE


class Same(Generic[T]):
    """The last answer that was understood completely, and what it came to: the very same bytes come to the same. Most
    looks at the orders of a day show what the look before showed. From any thread."""

    def __init__(self, digest: Callable[[Answer, Spoil], T]) -> None:
        self._digest = digest
        self._last: tuple[bytes, T] | None = None

    def __call__(self, answer: Answer, spoil: Spoil) -> T:
        last = self._last
        if last is not None and answer.status == 200 and answer.body == last[0]:
            return last[1]
        spoiled = False

        def note(reason: str, raw: object) -> None:
            nonlocal spoiled
            spoiled = True
            spoil(reason, raw)

        result = self._digest(answer, note)
        self._last = None if spoiled or answer.status != 200 else (answer.body, result)
        return result


def fill_page(answer: Answer, spoil: Spoil) -> tuple[list[Fill], str | None]:
    """A page, and the token of the next one: the id of its last row, understood or not."""
    raw = rows(settle(answer, changes=False))
    page = parse.parsed(raw, parse.fill, spoil)
    if len(raw) < FILLS_A_PAGE:
        return page, None
    last = raw[-1]
    token = last.get("id") if is_object(last) else None
    if not isinstance(token, str):
        raise BrokerUnavailable("the last fill of a full page has no id: the next page cannot be found")
    return page, token


def assets(answer: Answer, spoil: Spoil) -> list[AssetReport]:
    if answer.status != 200:
        settle(answer, changes=False)
    found = []
    for raw in array_items(answer.body.decode()):
        try:
            found.append(parse.asset_report(raw))
        except ValueError as error:
            spoil(str(error), raw)
    return found


def understood(body: object, read: Callable[[object], T], spoil: Spoil, *, changes: bool) -> T:
    try:
        return read(body)
    except ValueError as error:
        spoil(str(error), body)
        raise doubt(f"an answer that cannot be understood: {error}", changes=changes) from error


def by_submission(order: OrderReport) -> tuple[bool, datetime | None, str]:
    """Oldest first; what has no submission time comes last."""
    return order.submitted_at is None, order.submitted_at, order.broker_id
