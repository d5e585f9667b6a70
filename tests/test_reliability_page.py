"""docs/reliability.md, the invariants in the code and the tests that exist tell of the same promises."""

import re

import pytest

from catalyst.domain.invariants import STATEMENTS, VisibleTo
from tests.existing_tests import TESTS, existing_tests, named_tests

PAGE = (TESTS.parent / "docs" / "reliability.md").read_text()
RULES = re.findall(r"^\| (R\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)
INVARIANTS = re.findall(r"^\| (I\d+) \| (.+?) \| (.+?) \| (.+?) \|$", PAGE, re.M)
SEEN_BY = {
    "db": VisibleTo.CONSTRAINT,
    "tables": VisibleTo.DATABASE,
    "broker": VisibleTo.BROKER,
    "code": VisibleTo.CODE,
    "tests": VisibleTo.TESTS,
}


def test_reliability_page_has_a_row_for_every_rule_and_invariant() -> None:
    """Thirteen rules, twenty-six invariants, each once and in order, each with at least one test."""
    assert [number for number, *_ in RULES] == [f"R{n}" for n in range(1, 14)]
    assert [number for number, *_ in INVARIANTS] == list(STATEMENTS)
    assert [number for number, *_, tests in RULES + INVARIANTS if not named_tests(tests)] == []


def test_reliability_page_names_existing_tests() -> None:
    """By its whole name."""
    assert named_tests(PAGE) - existing_tests() == set()


def test_reliability_page_names_existing_modules() -> None:
    """Modules of the package, or migrations."""
    for number, _, places, _ in RULES:
        for place in re.findall(r"`([^`]+)`", places):
            root = TESTS.parent if place.startswith("migrations/") else TESTS.parent / "catalyst"
            assert (root / place).is_file(), (number, place)


@pytest.mark.parametrize(("number", "text", "seen"), [row[:3] for row in INVARIANTS])
def test_reliability_page_equals_the_invariant_statements(number: str, text: str, seen: str) -> None:
    """The same sentence (the page may add to it), and whoever the code says can see it is on the page."""
    statement = STATEMENTS[number]
    assert text.startswith(statement.text), number
    assert {SEEN_BY[word] for word in seen.split(", ")} >= statement.visible_to, number
