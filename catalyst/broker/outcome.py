"""Did it happen? One place turns a status and a body into a value or into one of our errors.

The HTTP status and the words decide; the broker's numeric code is only a hint, for it disagrees with the status
(40010001 comes with 422) and is absent from some refusals. A 4xx without the broker's own words is a proxy
speaking, and proves nothing about a change.

Source: Alpaca API documentation, responses; refusals as recorded by clients in the field.
"""

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final, TypeGuard

import orjson

from catalyst.broker.request import HttpResponse
from catalyst.domain.errors import (
    AuthRefused,
    BrokerError,
    BrokerUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRejected,
    OutcomeUnknown,
)


class RejectionReason(StrEnum):
    """Why the broker said no, in our words."""

    INSUFFICIENT_BUYING_POWER = "INSUFFICIENT_BUYING_POWER"
    INSUFFICIENT_QTY = "INSUFFICIENT_QTY"  # the shares are held by other orders, or not there
    WASH_TRADE = "WASH_TRADE"
    OPPOSITE_ORDER = "OPPOSITE_ORDER"  # an opening order of the other side works
    NOT_SHORTABLE = "NOT_SHORTABLE"  # for a protective sell: perhaps already flat
    HARD_TO_BORROW = "HARD_TO_BORROW"  # only day orders
    HALTED = "HALTED"
    MARKET_CLOSED = "MARKET_CLOSED"
    NOT_ENTRY = "NOT_ENTRY"  # a bracket where a position or order exists
    NOT_EXIT = "NOT_EXIT"  # an OCO where no position is booked: not yet, or no more
    NOT_TRADABLE = "NOT_TRADABLE"
    PRICE_RULE = "PRICE_RULE"
    SUSPENDED_BY_USER = "SUSPENDED_BY_USER"
    NOT_CANCELABLE = "NOT_CANCELABLE"
    SUBMIT_FAILED = "SUBMIT_FAILED"  # words we do not know


_REASON_BY_PHRASE: Final[tuple[tuple[str, RejectionReason], ...]] = (  # the first that occurs decides
    ("insufficient buying power", RejectionReason.INSUFFICIENT_BUYING_POWER),
    ("insufficient qty", RejectionReason.INSUFFICIENT_QTY),
    ("wash trade", RejectionReason.WASH_TRADE),
    ("cannot open a long buy while", RejectionReason.OPPOSITE_ORDER),
    ("cannot open a short sell while", RejectionReason.OPPOSITE_ORDER),
    ("hard-to-borrow", RejectionReason.HARD_TO_BORROW),
    ("cannot be sold short", RejectionReason.NOT_SHORTABLE),
    ("not allowed to short", RejectionReason.NOT_SHORTABLE),
    ("halt", RejectionReason.HALTED),
    ("must be entry orders", RejectionReason.NOT_ENTRY),
    ("must be exit orders", RejectionReason.NOT_EXIT),
    ("rejected by user request", RejectionReason.SUSPENDED_BY_USER),
    ("market is closed", RejectionReason.MARKET_CLOSED),
    ("must be submitted after", RejectionReason.MARKET_CLOSED),
    ("extended hours", RejectionReason.MARKET_CLOSED),
    ("is not active", RejectionReason.NOT_TRADABLE),
    ("not tradable", RejectionReason.NOT_TRADABLE),
    ("not found", RejectionReason.NOT_TRADABLE),
    ("sub-penny", RejectionReason.PRICE_RULE),
    ("base_price", RejectionReason.PRICE_RULE),
    ("stop price must", RejectionReason.PRICE_RULE),
    ("limit_price must", RejectionReason.PRICE_RULE),
    ("stop_price must", RejectionReason.PRICE_RULE),
    ("limit price must", RejectionReason.PRICE_RULE),
    ("already in", RejectionReason.NOT_CANCELABLE),
    ("not cancelable", RejectionReason.NOT_CANCELABLE),
    ("not open", RejectionReason.NOT_CANCELABLE),
)

_AUTH_CODE: Final = 40110000
_AUTH_PHRASES: Final = (
    "not authorized",
    "unauthorized",
    "forbidden",
    "access key verification",
    "subscription",
)
_NOT_FOUND_PHRASES: Final = ("not found", "does not exist")
_MAX_MESSAGE_CHARS: Final = 500  # characters of the broker's words we repeat


def classify_rejection(text: str) -> RejectionReason:
    """Our reason for the broker's words."""
    low = text.lower()
    return next(
        (reason for words, reason in _REASON_BY_PHRASE if words in low), RejectionReason.SUBMIT_FAILED
    )


def success_body(response: HttpResponse, *, mutating: bool) -> object:
    """The parsed body of a success (None when empty), or the error that says whether it happened.

    `changes`: the request may have changed something; then doubt raises OutcomeUnknown, otherwise
    BrokerUnavailable.
    """
    if 200 <= response.status < 300:
        if not response.body:
            return None
        try:
            return decode_json(response.body)
        except ValueError as error:
            raise inconclusive_error(
                f"{response.status} with a body that is not JSON", mutating=mutating
            ) from error
    raise _error_of(response, mutating=mutating)


def decode_json(body: bytes) -> object:
    """`body` as JSON. One wrong character in one row does not cost the others: it becomes U+FFFD.

    Raises ValueError.
    """
    try:
        return orjson.loads(body)
    except ValueError:
        return _without_surrogates(json.loads(body.decode(errors="replace")))


def inconclusive_error(text: str, *, mutating: bool) -> BrokerError:
    """The error for an answer that settles nothing."""
    return OutcomeUnknown(text) if mutating else BrokerUnavailable(text)


def require_list(body: object) -> Sequence[object]:
    """A list answer as a list; anything else is a failed read, never an empty one."""
    if not isinstance(body, list):
        raise BrokerUnavailable(f"a list was asked for and {type(body).__name__} came")
    return body


def require_object(body: object) -> Mapping[str, object]:
    """An object answer as a mapping; anything else is a failed read."""
    if not is_object(body) or not body:
        raise BrokerUnavailable(
            f"an object was asked for and {'an empty one' if body == {} else body!r:.80} came"
        )
    return body


def is_object(body: object) -> TypeGuard[Mapping[str, object]]:
    """True for a JSON object."""
    return isinstance(body, dict)


def _error_of(response: HttpResponse, *, mutating: bool) -> BrokerError:
    words, body = _message_and_body(response)
    low = words.lower()
    summary = f"{response.status} {words}"
    code = body.get("code")
    match response.status:
        case 401:
            return AuthRefused(summary)
        case 403 if code == _AUTH_CODE or (code != 40310000 and any(word in low for word in _AUTH_PHRASES)):
            return AuthRefused(summary)
        case 429:
            return BrokerUnavailable(summary)  # refused at the door, never accepted
        case 404 if (
            "message" in body and "endpoint" not in low and any(word in low for word in _NOT_FOUND_PHRASES)
        ):
            return NotFound(words)
        case 400 | 403 | 404 | 409 | 422 if mutating and "message" in body:
            if "client_order_id must be unique" in low:
                return DuplicateOrder(words)
            return OrderRejected(
                classify_rejection(words),
                words,
                http_status=response.status,
                related=_related_order_ids(body),
            )
        case _:
            return inconclusive_error(summary, mutating=mutating)


def _without_surrogates(value: object) -> object:
    """`value` without lone surrogates, which no database and no socket would take."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_without_surrogates(one) for one in value]
        case dict():
            return {name: _without_surrogates(one) for name, one in value.items()}
        case _:
            return value


def _message_and_body(response: HttpResponse) -> tuple[str, Mapping[str, object]]:
    """The broker's own words and the body they came in; a page of HTML has no words."""
    try:
        body = decode_json(response.body)
    except ValueError:
        return f"without words of the broker ({len(response.body)} bytes)", {}
    if not is_object(body):
        return "without words of the broker", {}
    return str(body.get("message", ""))[:_MAX_MESSAGE_CHARS], body


def _related_order_ids(body: Mapping[str, object]) -> tuple[str, ...]:
    named = body.get("related_orders")
    ids = list(named) if isinstance(named, list) else []
    ids.append(body.get("existing_order_id"))
    return tuple(dict.fromkeys(one for one in ids if isinstance(one, str) and one))
