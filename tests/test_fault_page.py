"""docs/faults.md and the tests that exist tell of the same faults."""

import re

from tests.existing_tests import TESTS, existing_tests, named_tests, without_number

PAGE = (TESTS.parent / "docs" / "faults.md").read_text()
ROWS = re.findall(r"^\| (F\d{3}) \| (.+?) \| (.+?) \|$", PAGE, re.M)


def test_faults_page_has_a_row_for_every_fault() -> None:
    """F001 to F100, each once, in order, in words."""
    assert [number for number, _, _ in ROWS] == [f"F{n:03}" for n in range(1, 101)]


def test_faults_page_names_existing_tests() -> None:
    """No row leans on a test that is gone."""
    known = {without_number(name) for name in existing_tests()}
    assert {name for name in named_tests(PAGE) if without_number(name) not in known} == set()


def test_faults_page_lists_every_numbered_test() -> None:
    """A test that carries a fault's number is told of there."""
    tests_by_fault = {number: tests for number, _, tests in ROWS}
    numbered = [name for name in existing_tests() if re.match(r"test_f\d{3}_", name)]
    assert {name for name in numbered if f"`{name}`" not in tests_by_fault[name[5:9].upper()]} == set()


def test_faults_page_explains_and_counts_faults_without_tests() -> None:
    """A row names tests, or why there are none; the page's own figure is the count."""
    without = [number for number, _, tests in ROWS if tests.startswith("not here: ")]
    for number, _, tests in ROWS:
        assert number in without or re.match(r"`test_", tests), number
    assert f"Of 100 faults {100 - len(without)} are made to happen" in PAGE
