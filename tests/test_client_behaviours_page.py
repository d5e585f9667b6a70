"""docs/client-behaviours.md lists the client behaviours, their modules and their tests."""

import re

from tests.promises import TESTS, promised_tests

PAGE = (TESTS.parent / "docs" / "client-behaviours.md").read_text()
NUMBERS = [f"C{n:02}" for n in range(1, 46)]
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.*?) \|$", re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`")


def test_client_behaviours_page_numbers_all_have_a_test() -> None:
    """C01 to C45 each have a test with their marker; no other number exists."""
    assert sorted(promised_tests("C")) == NUMBERS


def test_client_behaviours_page_lists_existing_tests_and_modules() -> None:
    """Each number has one row, in order, with exactly its marked tests and only modules that exist."""
    rows = ROW.findall(PAGE)
    assert [f"C{int(number):02}" for number, *_ in rows] == NUMBERS
    tests = promised_tests("C")
    for number, promise, places, shown in rows:
        assert promise.endswith((".", "?")), number
        assert set(QUOTED.findall(shown)) == tests[f"C{int(number):02}"], number
        modules = QUOTED.findall(places)
        assert modules, number
        assert [one for one in modules if not (TESTS.parent / "catalyst" / one).is_file()] == [], number
