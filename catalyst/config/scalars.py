"""Scalars of YAML 1.2: a number is written in plain decimal digits, and nothing else means a number."""

import re
import types
from decimal import Decimal
from typing import Any, Final, Union, get_args, get_origin

INTEGER: Final = r"[-+]?(?:0|[1-9][0-9]*)"
FLOAT: Final = r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_NUMBER: Final = re.compile(FLOAT)


def is_number_type(annotation: Any) -> bool:
    """Return true for int, float and Decimal, and for their union with None."""
    if get_origin(annotation) in (Union, types.UnionType):
        return all(is_number_type(item) for item in get_args(annotation) if item is not type(None))
    return annotation in (int, float, Decimal)


def require_plain_number(value: object) -> object:
    """Return the value of a number field; a text only in plain decimal digits.

    Raises ValueError for true and false, which Python counts as 1 and 0, and for texts such as 0500, 1_000 and 1:30.
    """
    if isinstance(value, bool):
        raise ValueError("true and false (and yes and no) are no numbers")  # noqa: TRY004 - pydantic shows it
    if isinstance(value, str) and _NUMBER.fullmatch(value) is None:
        raise ValueError("write a plain decimal number, such as 1500 or 0.5")
    return value
