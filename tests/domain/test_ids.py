"""Client order ids."""

import re
from dataclasses import replace
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalyst.domain.exit_ids import exit_id_base
from catalyst.domain.ids import (
    client_order_id,
    installation_of,
    is_of_another_catalyst,
    is_ours,
    role_of,
    unused_client_order_id,
)
from tests.domain.test_unprotected_gaps import ENTRY, position

HERE, ELSEWHERE = "0a1b2c", "ffffff"
EARLIER = "cat-b5aa8a5cfab25ee5ae1ce70519ec80c0-x"  # an id of before, without an installation
roles = st.text(alphabet="abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=4)


@given(st.text(), roles, st.integers(0, 10**6))
def test_client_order_id_fits_broker_rules(base: str, role: str, attempt: int):
    """An id has at most 48 of [a-z0-9-], our prefix and installation, its role at the end, and is the same on every
    call."""
    name = client_order_id(HERE, base, role, attempt)
    assert re.fullmatch(rf"cat-{HERE}-[a-z0-9-]{{1,37}}", name)
    assert name.endswith(f"-{role}")
    assert role_of(name) == role
    assert is_ours(name, HERE)
    assert client_order_id(HERE, base, role, attempt) == name


def test_client_order_id_differs_by_every_part():
    """Another installation, base, role or attempt gives another id; parts do not run together."""
    ids = {
        client_order_id(installation, base, role, attempt)
        for installation in (HERE, ELSEWHERE)
        for base in ("a", "b", "a|x", "a|x|1")
        for role in ("x", "f", "op")
        for attempt in range(3)
    }
    assert len(ids) == 2 * 4 * 3 * 3


def test_client_order_id_derivation_is_fixed():
    """The derivation never changes: yesterday's orders are found by it."""
    expected = f"cat-{HERE}-b5aa8a5cfab25ee5ae1ce70519ec80c0-x"
    assert client_order_id(HERE, "AAPL|2026-04-08", "x", 0) == expected


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


def test_taken_id_is_not_used_again():
    """The next attempt whose id is free is used."""
    first, second = (client_order_id(HERE, "AAPL", "x", attempt) for attempt in (0, 1))
    assert unused_client_order_id(HERE, "AAPL", "x", 0, {first}) == second


@pytest.mark.parametrize("role", ["", "Exit", "a" * 5, "\xe4", "x y"])
def test_invalid_id_role_is_refused(role: str):
    """An id that the broker would cut or reject is never made."""
    with pytest.raises(ValueError, match="the role"):
        client_order_id(HERE, "AAPL", role, 0)


@pytest.mark.parametrize("installation", ["", "0a1b2", "0A1B2C", "0a1b2c3", "zzzzzz"])
def test_invalid_installation_is_refused(installation: str):
    """An id whose installation could not be read again is never made."""
    with pytest.raises(ValueError, match="the installation id"):
        client_order_id(installation, "AAPL", "x", 0)


@pytest.mark.parametrize("name", ["", "cat", "CAT-1", "catalyst-1", "6f1c7c1e-0c0b-5f0a-9a55-3a1d6f9d2b11"])
def test_external_client_order_id_is_of_no_catalyst(name: str):
    """An order of a person or of the broker is recognised by its id."""
    assert not is_ours(name, HERE)
    assert not is_of_another_catalyst(name, HERE)


@pytest.mark.parametrize("name", [client_order_id(ELSEWHERE, "AAPL", "x", 0), EARLIER, "cat-1-x"])
def test_id_of_another_installation_is_not_ours(name: str):
    """An id of another installation, or without one, is of another Catalyst."""
    assert not is_ours(name, HERE)
    assert is_of_another_catalyst(name, HERE)
    assert installation_of(name) in (ELSEWHERE, "unknown")
