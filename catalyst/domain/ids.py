"""Names we give our orders: derived from what they are for, never drawn, so a restart derives the same."""

import re
from collections.abc import Container
from typing import Final
from uuid import UUID, uuid5

NAMESPACE: Final = UUID("6f1c7c1e-0c0b-5f0a-9a55-3a1d6f9d2b11")
PREFIX: Final = "cat-"
ENTRY_ROLE: Final = "e"
_ROLE: Final = re.compile(r"[a-z0-9-]{1,11}")


def client_order_id(base: str, role: str, attempt: int) -> str:
    """An id of at most 48 of `[a-z0-9-]` for the `attempt`-th order of `role` that follows from `base`.

    Raises ValueError for a role that such an id has no room for.
    """
    if not _ROLE.fullmatch(role):
        raise ValueError(f"the role {role!r} is not 1 to 11 of [a-z0-9-]")
    return f"{PREFIX}{uuid5(NAMESPACE, f'{base}|{role}|{attempt}').hex}-{role}"


def unused_client_order_id(base: str, role: str, attempt: int, taken: Container[str]) -> str:
    """The id of this attempt, or of the first later one that is not `taken`: rows that a restore lost come back with
    the ids they had, and fewer than there were."""
    while (found := client_order_id(base, role, attempt)) in taken:
        attempt += 1
    return found


def role_of(client_order_id: str) -> str:
    """The role in an id of ours."""
    return client_order_id.removeprefix(PREFIX).partition("-")[2]


def is_ours(client_order_id: str) -> bool:
    """True when the id was derived here."""
    return client_order_id.startswith(PREFIX)
