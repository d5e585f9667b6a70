"""Checks of secret values when they are read: an error names the fault and never shows the value."""

import re
import unicodedata
from typing import Annotated, Final
from urllib.parse import urlsplit

from pydantic import AfterValidator, SecretStr

_PERCENT_ENCODE: Final = (
    "percent-encode the password: it, the user or the database name holds a character with a meaning in addresses "
    "(write / as %2F, # %23, ? %3F, @ %40, [ %5B, % %25)"
)
_WRONG_PORT: Final = "the port is not a number from 1 to 65535"
_EXAMPLE: Final = "is not a PostgreSQL address: write postgresql://user:password@host:5432/database"


def _check_api_key(secret: SecretStr) -> SecretStr:
    fault = _unprintable_fault(secret.get_secret_value(), forbidden=" \"'`\\")
    if fault is not None:
        raise ValueError(f"it holds {fault}: paste the key again, without quotes and blanks")
    return secret


def _check_password(secret: SecretStr) -> SecretStr:
    fault = _unprintable_fault(secret.get_secret_value(), forbidden="")
    if fault is not None:
        raise ValueError(f"it holds {fault}: paste it again")
    return secret


def _check_database_url(secret: SecretStr) -> SecretStr:
    fault = database_url_fault(secret.get_secret_value())
    if fault is not None:
        raise ValueError(fault)
    return secret


ApiKey = Annotated[SecretStr, AfterValidator(_check_api_key)]
Password = Annotated[SecretStr, AfterValidator(_check_password)]
DatabaseUrl = Annotated[SecretStr, AfterValidator(_check_database_url)]


def _unprintable_fault(text: str, *, forbidden: str) -> str | None:
    """Describe the first character that is a control character, not ASCII or forbidden; None when there is none."""
    for character in text:
        if character in "\r\n":
            return "a line end (was the file written on Windows?)"
        if unicodedata.category(character).startswith("C"):
            return "a control character"
        if forbidden and (character == " " or not character.isascii()):
            return "a blank" if character.isspace() else "a character outside ASCII"
        if character in forbidden:
            return "a quote or backslash"
    return None


def database_url_fault(url: str) -> str | None:
    """Return the fault of a PostgreSQL address, without any part of it; None when it can be used.

    A password with a reserved character makes another address of it: another host, port or database.
    """
    if any(character.isspace() or not character.isprintable() for character in url):
        return "it holds a blank, a line end or a control character: paste it again"
    scheme, separator, rest = url.partition("://")
    if not separator or scheme not in ("postgres", "postgresql"):
        return _EXAMPLE
    authority, _, path_and_query = rest.partition("/")
    userinfo, _, hosts = authority.rpartition("@")
    reserved = "@" in path_and_query or "#" in url or re.search(r"[@?\[\]]", userinfo)
    if reserved or re.search(r"%(?![0-9A-Fa-f]{2})", url):
        return _PERCENT_ENCODE
    try:
        ports = [urlsplit(f"//{host}").port for host in hosts.partition("?")[0].split(",")]
    except ValueError:
        return _WRONG_PORT
    return _WRONG_PORT if 0 in ports else None
