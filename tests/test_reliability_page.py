"""docs/reliability.md lists the rules and invariants of the code and the tests that show them."""

import re

import pytest

from catalyst.domain.invariants import STATEMENTS, VisibleTo
from tests.promises import TESTS, existing_tests, named_tests, promised_tests

PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
RULES = re.findall(r"^\| (R\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)
INVARIANTS = re.findall(r"^\| (I\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)
CHECKED_BY = {
    "constraint": VisibleTo.CONSTRAINT,
    "database": VisibleTo.DATABASE,
    "broker": VisibleTo.BROKER,
    "code": VisibleTo.CODE,
    "tests": VisibleTo.TESTS,
}


def test_reliability_page_has_a_row_for_every_rule_and_invariant() -> None:
    """Thirteen rules and twenty-six invariants stand once each, in order, each with at least one test."""
    assert [number for number, *_ in RULES] == [f"R{n}" for n in range(1, 14)]
    assert [number for number, *_ in INVARIANTS] == list(STATEMENTS)
    assert [number for number, *_, tests in RULES + INVARIANTS if not named_tests(tests)] == []


def test_reliability_page_names_existing_tests() -> None:
    """Every test that the page names exists."""
    assert named_tests(PAGE) - existing_tests() == set()


def test_reliability_page_lists_every_marked_test() -> None:
    """A test with the marker of an invariant stands in that invariant's row."""
    rows = {number: named_tests(tests) for number, *_, tests in INVARIANTS}
    for number, tests in promised_tests("I").items():
        assert tests <= rows[f"I{int(number[1:])}"], number


def test_reliability_page_names_existing_modules() -> None:
    """Every module and migration that the page names exists."""
    for number, _, places, _ in RULES:
        for place in re.findall(r"`([^`]+)`", places):
            root = TESTS.parent if place.startswith("migrations/") else TESTS.parent / "catalyst"
            assert (root / place).is_file(), (number, place)


@pytest.mark.parametrize(("number", "text", "places"), [row[:3] for row in INVARIANTS])
def test_reliability_page_equals_the_invariant_statements(number: str, text: str, places: str) -> None:
    """A row begins with the statement in the code and names every place that can check it."""
    statement = STATEMENTS[number]
    assert text.startswith(statement.text), number
    assert {CHECKED_BY[word] for word in places.split(", ")} >= statement.visible_to, number
