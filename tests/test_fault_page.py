"""docs/faults.md and the tests that exist tell of the same faults."""

import re

from tests.existing_tests import TESTS, bare, existing, named

PAGE = (TESTS.parent / "docs" / "faults.md").read_text()
ROWS = re.findall(r"^\| (F\d{3}) \| (.+?) \| (.+?) \|$", PAGE, re.M)


def test_every_fault_has_its_row() -> None:
    """F001 to F100, each once, in order, in words."""
    assert [number for number, _, _ in ROWS] == [f"F{n:03}" for n in range(1, 101)]


def test_every_test_that_is_named_exists() -> None:
    """No row leans on a test that is gone."""
    known = {bare(name) for name in existing()}
    assert {name for name in named(PAGE) if bare(name) not in known} == set()


def test_every_numbered_test_is_in_its_row() -> None:
    """A test that carries a fault's number is told of there."""
    told = {number: tests for number, _, tests in ROWS}
    numbered = [name for name in existing() if re.match(r"test_f\d{3}_", name)]
    assert {name for name in numbered if f"`{name}`" not in told[name[5:9].upper()]} == set()


def test_what_is_not_here_says_why_and_is_counted() -> None:
    """A row names tests, or why there are none; the page's own figure is the count."""
    without = [number for number, _, tests in ROWS if tests.startswith("not here: ")]
    for number, _, tests in ROWS:
        assert number in without or re.match(r"`test_", tests), number
    assert f"Of 100 faults {100 - len(without)} are made to happen" in PAGE
