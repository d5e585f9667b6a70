"""Client order ids of our orders: `cat-INSTALLATION-HASH-ROLE`.

The hash is derived from the order's purpose, never random, so that a restart derives equal ids. The installation id
tells our orders from those of another Catalyst on the same account; orders of before had none in their ids.
"""

import re
from collections.abc import Container
from typing import Final
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("6f1c7c1e-0c0b-5f0a-9a55-3a1d6f9d2b11")
PREFIX: Final = "cat-"
ENTRY_ROLE: Final = "e"
_INSTALLATION: Final = re.compile(r"[0-9a-f]{6}")
_ROLE: Final = re.compile(r"[a-z0-9-]{1,4}")
_ID: Final = re.compile(
    rf"{PREFIX}(?P<installation>{_INSTALLATION.pattern})-[0-9a-f]{{32}}-(?P<role>{_ROLE.pattern})"
)


def client_order_id(installation: str, base: str, role: str, attempt: int) -> str:
    """Return the id of the `attempt`-th order of `role` derived from `base`: at most 48 characters of `[a-z0-9-]`.

    Raises ValueError for an installation id that is not 6 hexadecimal digits, and for a role with other characters or
    more than 4.
    """
    if not _INSTALLATION.fullmatch(installation):
        raise ValueError(f"the installation id {installation!r} is not 6 hexadecimal digits")
    if not _ROLE.fullmatch(role):
        raise ValueError(f"the role {role!r} is not 1 to 4 characters of [a-z0-9-]")
    return f"{PREFIX}{installation}-{uuid5(NAMESPACE, f'{base}|{role}|{attempt}').hex}-{role}"


def unused_client_order_id(
    installation: str, base: str, role: str, attempt: int, taken: Container[str]
) -> str:
    """Return the id of this attempt, or of the first later attempt whose id is not `taken`. After a restore the
    database has fewer rows, and orders adopted from the broker keep their earlier ids."""
    while (candidate := client_order_id(installation, base, role, attempt)) in taken:
        attempt += 1
    return candidate


def role_of(client_order_id: str) -> str:
    """Return the role part of an id; empty for an id without an installation."""
    found = _ID.fullmatch(client_order_id)
    return "" if found is None else found["role"]


def own_prefix(installation: str) -> str:
    """Return the beginning of every id of an installation."""
    return f"{PREFIX}{installation}-"


def is_installation(text: str) -> bool:
    """Return true when the text is an installation id: 6 hexadecimal digits."""
    return _INSTALLATION.fullmatch(text) is not None


def is_ours(client_order_id: str, installation: str) -> bool:
    """Return true when the id is of this installation."""
    found = _ID.fullmatch(client_order_id)
    return found is not None and found["installation"] == installation


def is_of_another_catalyst(client_order_id: str, installation: str) -> bool:
    """Return true when a Catalyst made the id, and not this installation.

    An id of before, without an installation, counts as another's: an order of ours with such an id has a row.
    """
    return client_order_id.startswith(PREFIX) and not is_ours(client_order_id, installation)


def installation_of(client_order_id: str) -> str:
    """Return the installation in an id; "unknown" for an id without one."""
    found = _ID.fullmatch(client_order_id)
    return "unknown" if found is None else found["installation"]
