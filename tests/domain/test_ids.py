"""Client order ids."""

import re
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalyst.domain.ids import client_order_id, exit_id_base, is_ours
from tests.domain.test_unprotected_gaps import ENTRY, position

roles = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=11)


@given(st.text(), roles, st.integers(0, 10**6))
def test_client_order_id_fits_broker_rules(base: str, role: str, attempt: int):
    """An id has at most 48 of [a-z0-9-], our prefix, its role at the end, and is the same on every call."""
    name = client_order_id(base, role, attempt)
    assert re.fullmatch(r"cat-[a-z0-9-]{1,44}", name)
    assert name.endswith(f"-{role}")
    assert is_ours(name)
    assert client_order_id(base, role, attempt) == name


def test_client_order_id_differs_by_every_part():
    """Another base, role or attempt gives another id; parts do not run together."""
    ids = {
        client_order_id(base, role, attempt)
        for base in ("a", "b", "a|x", "a|x|1")
        for role in ("x", "f", "op")
        for attempt in range(3)
    }
    assert len(ids) == 4 * 3 * 3


def test_client_order_id_derivation_is_fixed():
    """The derivation never changes: yesterday's orders are found by it."""
    assert client_order_id("AAPL|2026-04-08", "x", 0) == "cat-b5aa8a5cfab25ee5ae1ce70519ec80c0-x"


def test_exits_of_two_positions_of_one_entry_have_different_ids():
    """The late fill of an entry opens a second position; the first one keeps the ids that it had before."""
    first = position(10, entry_time=0)
    entry = replace(ENTRY, filled_qty=Decimal(10))
    assert exit_id_base(first, [entry]) == entry.client_order_id
    bases = {
        exit_id_base(first, [entry]),
        exit_id_base(position(5, entry_time=100), [replace(entry, filled_qty=Decimal(15))]),
        exit_id_base(position(5, entry_time=200), [replace(entry, filled_qty=Decimal(20))]),
        exit_id_base(first, []),
    }
    assert len(bases) == 4


@pytest.mark.parametrize("role", ["", "stop_loss", "Entry", "a" * 12, "ä", "x y"])
def test_invalid_id_role_is_refused(role: str):
    """An id that the broker would cut or reject is never made."""
    with pytest.raises(ValueError, match="the role"):
        client_order_id("AAPL", role, 0)


@pytest.mark.parametrize("name", ["", "cat", "CAT-1", "catalyst-1", "6f1c7c1e-0c0b-5f0a-9a55-3a1d6f9d2b11"])
def test_external_client_order_id_is_not_ours(name: str):
    """An order of a person or of the broker is recognised by its id."""
    assert not is_ours(name)
