"""Request outcome: turns status and body into a value or one of our errors, which answers: did it happen?

The HTTP status and the message decide. The broker's numeric code is only a hint: it disagrees with the status
(40010001 comes with 422) and is absent from some rejections. A 4xx without the broker's message comes from a
proxy and proves nothing about a change. Source: Alpaca API documentation, responses; rejections as recorded
by clients in the field.
"""

import json
from collections.abc import Mapping, Sequence
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
from catalyst.domain.refusals import RejectionReason

_REASON_BY_PHRASE: Final[tuple[tuple[str, RejectionReason], ...]] = (  # the first match decides
    ("insufficient buying power", RejectionReason.INSUFFICIENT_BUYING_POWER),
    ("day trading", RejectionReason.DAY_TRADING),
    ("day-trading", RejectionReason.DAY_TRADING),
    ("insufficient qty", RejectionReason.INSUFFICIENT_QTY),
    ("wash trade", RejectionReason.WASH_TRADE),
    ("cannot open a long buy while", RejectionReason.OPPOSITE_ORDER),
    ("cannot open a short sell while", RejectionReason.OPPOSITE_ORDER),
    ("hard-to-borrow", RejectionReason.HARD_TO_BORROW),
    ("cannot be sold short", RejectionReason.NOT_SHORTABLE),
    ("not allowed to short", RejectionReason.NOT_SHORTABLE),
    ("halt", RejectionReason.HALTED),
    ("unable to replace", RejectionReason.NOT_REPLACEABLE),
    ("parameters are not changed", RejectionReason.NOT_REPLACEABLE),
    ("must be entry orders", RejectionReason.NOT_ENTRY),
    ("must be exit orders", RejectionReason.NOT_EXIT),
    ("rejected by user request", RejectionReason.SUSPENDED_BY_USER),
    ("account is restricted", RejectionReason.ACCOUNT_RESTRICTED),
    ("account is blocked", RejectionReason.ACCOUNT_RESTRICTED),
    ("trading is blocked", RejectionReason.ACCOUNT_RESTRICTED),
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
    ("not fractionable", RejectionReason.INVALID_REQUEST),
    ("notional must", RejectionReason.INVALID_REQUEST),
    ("client_order_id must be no more", RejectionReason.INVALID_REQUEST),
    ("qty must be", RejectionReason.INVALID_REQUEST),
    ("orders require", RejectionReason.INVALID_REQUEST),
    ("intent mismatch", RejectionReason.INVALID_REQUEST),
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
_ESCAPED_NUL: Final = rb"\u0000"
_MAX_MESSAGE_CHARS: Final = 500  # characters of the broker's message that are kept


def classify_rejection(text: str) -> RejectionReason:
    """Return our reason for the broker's message."""
    low = text.lower()
    return next(
        (reason for words, reason in _REASON_BY_PHRASE if words in low), RejectionReason.SUBMIT_FAILED
    )


def success_body(response: HttpResponse, *, mutating: bool) -> object:
    """Return the parsed body of a success (None when empty), or raise the error that says whether it
    happened.

    `mutating`: the request may have changed something; then an unclear response raises OutcomeUnknown,
    otherwise BrokerUnavailable.
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
    """Return `body` as JSON. A wrong character, also a NUL, becomes U+FFFD and does not cost the other rows. Raises
    ValueError."""
    try:
        decoded = orjson.loads(body)
    except ValueError:
        return _storable(json.loads(body.decode(errors="replace")))
    return _storable(decoded) if _ESCAPED_NUL in body else decoded


def inconclusive_error(text: str, *, mutating: bool) -> BrokerError:
    """Return the error for a response that decides nothing."""
    return OutcomeUnknown(text) if mutating else BrokerUnavailable(text)


def require_list(body: object) -> Sequence[object]:
    """Return a list response as a list; anything else is a failed read, never an empty list."""
    if not isinstance(body, list):
        raise BrokerUnavailable(f"expected a list, got {type(body).__name__}")
    return body


def require_object(body: object) -> Mapping[str, object]:
    """Return an object response as a mapping; anything else is a failed read."""
    if not is_object(body) or not body:
        raise BrokerUnavailable(f"expected an object, got {'an empty one' if body == {} else body!r:.80}")
    return body


def is_object(body: object) -> TypeGuard[Mapping[str, object]]:
    """Return true for a JSON object."""
    return isinstance(body, dict)


def _error_of(response: HttpResponse, *, mutating: bool) -> BrokerError:
    message, body = _message_and_body(response)
    lowered = message.lower()
    summary = f"{response.status} {message}"
    code = body.get("code")
    match response.status:
        case 401:
            return AuthRefused(summary)
        case 403 if code == _AUTH_CODE or (
            code != 40310000 and any(phrase in lowered for phrase in _AUTH_PHRASES)
        ):
            return AuthRefused(summary)
        case 429:
            return BrokerUnavailable(summary)  # rejected before acceptance
        case 404 if (
            "message" in body
            and "endpoint" not in lowered
            and any(phrase in lowered for phrase in _NOT_FOUND_PHRASES)
        ):
            return NotFound(message)
        case 400 | 403 | 404 | 409 | 422 if mutating and "message" in body:
            if "client_order_id must be unique" in lowered:
                return DuplicateOrder(message)
            return OrderRejected(
                classify_rejection(message),
                message,
                http_status=response.status,
                related=_related_order_ids(body),
            )
        case _:
            return inconclusive_error(summary, mutating=mutating)


def _storable(value: object) -> object:
    """Return `value` without lone surrogates and NUL, which no database accepts."""
    match value:
        case str():
            whole = value.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            return whole.replace("\x00", "\N{REPLACEMENT CHARACTER}")
        case list():
            return [_storable(item) for item in value]
        case dict():
            return {_storable(name): _storable(item) for name, item in value.items()}
        case _:
            return value


def _message_and_body(response: HttpResponse) -> tuple[str, Mapping[str, object]]:
    """Return the broker's message and its body; an HTML page has no message."""
    try:
        body = decode_json(response.body)
    except ValueError:
        return f"without a message of the broker ({len(response.body)} bytes)", {}
    if not is_object(body):
        return "without a message of the broker", {}
    return str(body.get("message", ""))[:_MAX_MESSAGE_CHARS], body


def _related_order_ids(body: Mapping[str, object]) -> tuple[str, ...]:
    related = body.get("related_orders")
    ids = list(related) if isinstance(related, list) else []
    ids.append(body.get("existing_order_id"))
    return tuple(dict.fromkeys(order_id for order_id in ids if isinstance(order_id, str) and order_id))
