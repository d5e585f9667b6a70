"""Client order ids of our orders: derived from their purpose, never random, so that a restart derives equal ids."""

import re
from collections.abc import Container, Sequence
from typing import Final
from uuid import UUID, uuid5

from catalyst.domain.order import Purpose
from catalyst.domain.rows import OrderRow, PositionRow

NAMESPACE: Final = UUID("6f1c7c1e-0c0b-5f0a-9a55-3a1d6f9d2b11")
PREFIX: Final = "cat-"
ENTRY_ROLE: Final = "e"
_ROLE: Final = re.compile(r"[a-z0-9-]{1,11}")


def client_order_id(base: str, role: str, attempt: int) -> str:
    """Return the id of the `attempt`-th order of `role` derived from `base`: at most 48 characters of `[a-z0-9-]`.

    Raises ValueError for a role with other characters or more than 11.
    """
    if not _ROLE.fullmatch(role):
        raise ValueError(f"the role {role!r} is not 1 to 11 characters of [a-z0-9-]")
    return f"{PREFIX}{uuid5(NAMESPACE, f'{base}|{role}|{attempt}').hex}-{role}"


def unused_client_order_id(base: str, role: str, attempt: int, taken: Container[str]) -> str:
    """Return the id of this attempt, or of the first later attempt whose id is not `taken`. After a restore the
    database has fewer rows, and orders adopted from the broker keep their earlier ids."""
    while (candidate := client_order_id(base, role, attempt)) in taken:
        attempt += 1
    return candidate


def exit_id_base(position: PositionRow, rows: Sequence[OrderRow]) -> str:
    """Return the base of the ids of a position's exits; `rows` are its orders.

    An entry whose late fill opened this position opened another one before, which has used its ids.
    """
    entry = next((row for row in rows if row.order_purpose is Purpose.ENTRY), None)
    name = position.symbol if entry is None else entry.client_order_id
    if entry is not None and entry.filled_qty <= position.entered_qty:
        return name
    return f"{name}|{position.entry_time.isoformat()}"


def role_of(client_order_id: str) -> str:
    """Return the role part of one of our ids."""
    return client_order_id.removeprefix(PREFIX).partition("-")[2]


def is_ours(client_order_id: str) -> bool:
    """Return true when the id has Catalyst's prefix."""
    return client_order_id.startswith(PREFIX)
