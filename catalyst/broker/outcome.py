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

from catalyst.broker.request import Answer
from catalyst.domain.errors import (
    AuthRefused,
    BrokerError,
    BrokerUnavailable,
    DuplicateOrder,
    NotFound,
    OrderRefused,
    OutcomeUnknown,
)


class Refusal(StrEnum):
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


_WORDS: Final[tuple[tuple[str, Refusal], ...]] = (  # the first that occurs decides
    ("insufficient buying power", Refusal.INSUFFICIENT_BUYING_POWER),
    ("insufficient qty", Refusal.INSUFFICIENT_QTY),
    ("wash trade", Refusal.WASH_TRADE),
    ("cannot open a long buy while", Refusal.OPPOSITE_ORDER),
    ("cannot open a short sell while", Refusal.OPPOSITE_ORDER),
    ("hard-to-borrow", Refusal.HARD_TO_BORROW),
    ("cannot be sold short", Refusal.NOT_SHORTABLE),
    ("not allowed to short", Refusal.NOT_SHORTABLE),
    ("halt", Refusal.HALTED),
    ("must be entry orders", Refusal.NOT_ENTRY),
    ("must be exit orders", Refusal.NOT_EXIT),
    ("rejected by user request", Refusal.SUSPENDED_BY_USER),
    ("market is closed", Refusal.MARKET_CLOSED),
    ("must be submitted after", Refusal.MARKET_CLOSED),
    ("extended hours", Refusal.MARKET_CLOSED),
    ("is not active", Refusal.NOT_TRADABLE),
    ("not tradable", Refusal.NOT_TRADABLE),
    ("not found", Refusal.NOT_TRADABLE),
    ("sub-penny", Refusal.PRICE_RULE),
    ("base_price", Refusal.PRICE_RULE),
    ("stop price must", Refusal.PRICE_RULE),
    ("limit_price must", Refusal.PRICE_RULE),
    ("stop_price must", Refusal.PRICE_RULE),
    ("limit price must", Refusal.PRICE_RULE),
    ("already in", Refusal.NOT_CANCELABLE),
    ("not cancelable", Refusal.NOT_CANCELABLE),
    ("not open", Refusal.NOT_CANCELABLE),
)

_AUTH_CODE: Final = 40110000
_AUTH_WORDS: Final = (
    "not authorized",
    "unauthorized",
    "forbidden",
    "access key verification",
    "subscription",
)
_MISSING: Final = ("not found", "does not exist")
_LONGEST: Final = 500  # characters of the broker's words we repeat


def refusal_of(text: str) -> Refusal:
    """Our reason for the broker's words."""
    low = text.lower()
    return next((reason for words, reason in _WORDS if words in low), Refusal.SUBMIT_FAILED)


def settle(answer: Answer, *, changes: bool) -> object:
    """The parsed body of a success (None when empty), or the error that says whether it happened.

    `changes`: the request may have changed something; then doubt raises OutcomeUnknown, otherwise
    BrokerUnavailable.
    """
    if 200 <= answer.status < 300:
        if not answer.body:
            return None
        try:
            return decoded(answer.body)
        except ValueError as error:
            raise doubt(f"{answer.status} with a body that is not JSON", changes=changes) from error
    raise _error(answer, changes=changes)


def decoded(body: bytes) -> object:
    """`body` as JSON. One wrong character in one row does not cost the others: it becomes U+FFFD.

    Raises ValueError.
    """
    try:
        return orjson.loads(body)
    except ValueError:
        return _mended(json.loads(body.decode(errors="replace")))


def doubt(text: str, *, changes: bool) -> BrokerError:
    """The error for an answer that settles nothing."""
    return OutcomeUnknown(text) if changes else BrokerUnavailable(text)


def rows(body: object) -> Sequence[object]:
    """A list answer as a list; anything else is a failed read, never an empty one."""
    if not isinstance(body, list):
        raise BrokerUnavailable(f"a list was asked for and {type(body).__name__} came")
    return body


def fields(body: object) -> Mapping[str, object]:
    """An object answer as a mapping; anything else is a failed read."""
    if not is_object(body) or not body:
        raise BrokerUnavailable(
            f"an object was asked for and {'an empty one' if body == {} else body!r:.80} came"
        )
    return body


def is_object(body: object) -> TypeGuard[Mapping[str, object]]:
    """True for a JSON object."""
    return isinstance(body, dict)


def _error(answer: Answer, *, changes: bool) -> BrokerError:
    words, body = _words(answer)
    low = words.lower()
    said = f"{answer.status} {words}"
    code = body.get("code")
    match answer.status:
        case 401:
            return AuthRefused(said)
        case 403 if code == _AUTH_CODE or (code != 40310000 and any(word in low for word in _AUTH_WORDS)):
            return AuthRefused(said)
        case 429:
            return BrokerUnavailable(said)  # refused at the door, never accepted
        case 404 if "message" in body and "endpoint" not in low and any(word in low for word in _MISSING):
            return NotFound(words)
        case 400 | 403 | 404 | 409 | 422 if changes and "message" in body:
            if "client_order_id must be unique" in low:
                return DuplicateOrder(words)
            return OrderRefused(refusal_of(words), words, http_status=answer.status, related=_related(body))
        case _:
            return doubt(said, changes=changes)


def _mended(value: object) -> object:
    """`value` without lone surrogates, which no database and no socket would take."""
    match value:
        case str():
            return value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        case list():
            return [_mended(one) for one in value]
        case dict():
            return {name: _mended(one) for name, one in value.items()}
        case _:
            return value


def _words(answer: Answer) -> tuple[str, Mapping[str, object]]:
    """The broker's own words and the body they came in; a page of HTML has no words."""
    try:
        body = decoded(answer.body)
    except ValueError:
        return f"without words of the broker ({len(answer.body)} bytes)", {}
    if not is_object(body):
        return "without words of the broker", {}
    return str(body.get("message", ""))[:_LONGEST], body


def _related(body: Mapping[str, object]) -> tuple[str, ...]:
    named = body.get("related_orders")
    ids = list(named) if isinstance(named, list) else []
    ids.append(body.get("existing_order_id"))
    return tuple(dict.fromkeys(one for one in ids if isinstance(one, str) and one))
