"""Wire format: how Alpaca writes amounts, instants and errors.

Trading numbers are JSON strings, instants RFC 3339 with nanoseconds, errors `{"code": ..., "message": ...}`.
Requests may have numbers or numeric strings, `True`, `true` or `1`, `Z`, an offset or a bare date.
"""

import re
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Final
from uuid import UUID

import orjson

from catalyst.clock import NEW_YORK

BAD_PARAMETER: Final = 40010001
BAD_REQUEST: Final = 40010000
FORBIDDEN: Final = 40310000
NOT_FOUND: Final = 40410000
UNPROCESSABLE: Final = 42210000
TOO_MANY_REQUESTS: Final = 42910000
INTERNAL: Final = 50010000

_NUMBER: Final = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)
_UUID: Final = re.compile(r"(urn:uuid:)?\{?[0-9a-f-]{32,36}\}?", re.ASCII | re.IGNORECASE)
MAX_DECIMAL_PLACES: Final = 12  # decimal places on either side: sums and products stay exact
MAX_COUNT_DIGITS: Final = 18
# Instants outside this range have the same meaning, and arithmetic with them cannot overflow.
EARLIEST: Final = datetime(1900, 1, 1, tzinfo=UTC)
LATEST: Final = datetime(2200, 1, 1, tzinfo=UTC)

JsonObject = dict[str, object]


class ApiError(Exception):
    """An error response: an HTTP status and its body."""

    def __init__(self, status: int, code: int | None, message: str, **facts: object) -> None:
        super().__init__(message)
        self.status = status
        self.body: JsonObject = {**facts, "message": message}
        if code is not None:
            self.body["code"] = code


def parse_amount(value: object, name: str) -> Decimal | None:
    """Return the decimal of a JSON number or a numeric string; None for null or an empty string.

    Raises ApiError (422) for anything else: blanks, underscores, digits of other scripts, infinities, NaN, and
    sizes beyond any market.
    """
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float | str | Decimal):
        raise ApiError(422, BAD_PARAMETER, f"{name} must be a number")
    text = str(value)
    if _NUMBER.fullmatch(text) is None:  # Decimal also reads underscores, other scripts' digits, and NaN
        raise ApiError(422, BAD_PARAMETER, f"{name} must be a number")
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise ApiError(422, BAD_PARAMETER, f"{name} must be a number") from None
    if not number.is_finite() or abs(number.adjusted()) > MAX_DECIMAL_PLACES:
        raise ApiError(422, BAD_PARAMETER, f"{name} must be a number")
    return number


def require_number(value: object, name: str) -> Decimal:
    """Return a required number. Raises ApiError (422)."""
    number = parse_amount(value, name)
    if number is None:
        raise ApiError(422, BAD_PARAMETER, f"{name} is required")
    return number


def parse_bool(value: object, *, default: bool = False) -> bool:
    """Return true for `True`, `true`, `1` and `t`, false for `False`, `0` and `f`, the default when absent.
    Raises ApiError (422) for anything else."""
    if value is None or value == "":
        return default
    if isinstance(value, bool):
        return value
    normalized = str(value).strip().lower()
    if normalized in {"true", "1", "t", "yes"}:
        return True
    if normalized in {"false", "0", "f", "no"}:
        return False
    raise ApiError(422, BAD_PARAMETER, f"invalid boolean: {value}")


def parse_instant(value: str, name: str) -> datetime:
    """Return the aware UTC instant of RFC 3339 text (nanoseconds are cut) or of a bare date (New York
    midnight), at the edge of the calendar when it lies far outside. Raises ApiError (422) for anything else."""
    text = value.replace(" ", "+")  # a plus sign that was not escaped arrives as a blank
    if "." in text:
        head, _, tail = text.partition(".")
        digits = next((i for i, c in enumerate(tail) if not is_digits(c)), len(tail))
        text = f"{head}.{tail[:digits][:6].ljust(6, '0')}{tail[digits:]}"
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ApiError(422, BAD_PARAMETER, f"invalid {name}: {value}") from None
    if at.tzinfo is None:
        at = at.replace(tzinfo=NEW_YORK if len(text) == 10 else UTC)
    return within_range(at)


def within_range(at: datetime) -> datetime:
    """Return an aware instant in UTC, at the nearest end of the range when it lies outside."""
    if at.year <= EARLIEST.year:
        return EARLIEST
    return LATEST if at.year >= LATEST.year else at.astimezone(UTC)


def parse_count(text: str) -> int | None:
    """Return a number of ASCII digits, without sign or blank; None for anything else.

    `int` also reads the digits of every script, and raises for thousands of them.
    """
    return int(text) if len(text) <= MAX_COUNT_DIGITS and is_digits(text) else None


def is_digits(text: str) -> bool:
    """Return whether a text has ASCII digits only; `str.isdigit` accepts those of every script."""
    return text.isascii() and text.isdigit()


def parse_uuid(value: str, name: str = "order_id") -> str:
    """Return the canonical form of a UUID. Raises ApiError (422) when it is not one."""
    try:
        if _UUID.fullmatch(value):  # UUID also reads underscores and digits of other scripts
            return str(UUID(value))
    except ValueError:
        pass
    raise ApiError(422, BAD_PARAMETER, f"{name} is missing")


def split_list(value: str | None) -> list[str]:
    """Return the non-empty parts of a comma list."""
    return [part.strip() for part in (value or "").split(",") if part.strip()]


def check_names(body: Collection[str], *allowed: str) -> None:
    """Raise ApiError (422) for a name that is not allowed: a request that would change nothing is an error."""
    unknown = sorted(set(body) - set(allowed))
    if unknown:
        raise ApiError(
            422,
            BAD_PARAMETER,
            f"unknown: {', '.join(unknown)}; there are {', '.join(sorted(allowed)) or 'none'}",
        )


def format_optional_decimal(number: Decimal | None) -> str | None:
    """Return a number as the shortest plain decimal text; null stays null."""
    return None if number is None else format_decimal(number)


def format_decimal(number: Decimal) -> str:
    """Return a number as the shortest plain decimal text: 190.10 is "190.1", never "1.901E+2"."""
    text = format(number, "f")
    return (text.rstrip("0").rstrip(".") if "." in text else text) if number else "0"


def format_optional_instant(at: datetime | None, *, local: bool = False) -> str | None:
    """Return an instant with nanoseconds, in UTC or at New York's offset; null stays null.

    Our instants end at the microsecond; the last three digits are derived from it, so equal instants have
    equal texts.
    """
    return None if at is None else format_instant(at, local=local)


def format_instant(at: datetime, *, local: bool = False) -> str:
    """Return as `format_optional_instant`, for an instant that exists."""
    text = (at.astimezone(NEW_YORK) if local else at).isoformat(timespec="microseconds")
    return f"{text[:26]}{at.microsecond * 7 % 1000:03d}{text[26:] if local else 'Z'}"


def seconds(value: float) -> timedelta:
    """Return a duration of market time."""
    return timedelta(seconds=value)


def encode_json(value: object) -> bytes:
    """Return JSON bytes."""
    return orjson.dumps(value)
