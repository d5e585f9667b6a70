"""docs/faults.md lists the faults and the tests that show them."""

import re

from tests.promises import TESTS, existing_tests, named_tests, promised_tests

PAGE = (TESTS.parent / "docs" / "faults.md").read_text()
ROWS = re.findall(r"^\| (F\d{3}) \| (.+?) \| (.+?) \|$", PAGE, re.M)


def test_faults_page_has_a_row_for_every_fault() -> None:
    """F001 to F100 stand on the page once each, in order."""
    assert [number for number, _, _ in ROWS] == [f"F{n:03}" for n in range(1, 101)]


def test_faults_page_names_existing_tests() -> None:
    """Every test that the page names exists."""
    assert named_tests(PAGE) - existing_tests() == set()


def test_faults_page_lists_every_marked_test() -> None:
    """A test with the marker of a fault stands in that fault's row."""
    rows = {number: named_tests(tests) for number, _, tests in ROWS}
    missing = {number: tests - rows[number] for number, tests in promised_tests("F").items()}
    assert {number: tests for number, tests in missing.items() if tests} == {}


def test_faults_page_explains_and_counts_faults_without_tests() -> None:
    """A row names tests or says why there are none; the page states how many faults have tests."""
    without = [number for number, _, tests in ROWS if tests.startswith("not here: ")]
    for number, _, tests in ROWS:
        assert number in without or re.match(r"`test_", tests), number
    assert f"Of 100 faults {100 - len(without)} are made to happen" in PAGE
