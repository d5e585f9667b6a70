"""The page of promises is the truth: every number has its tests, every test its place, every module exists."""

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "client-behaviours.md"
NUMBERS = set(range(1, 46))
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.*?) \|$", re.MULTILINE)
QUOTED = re.compile(r"`([^`]+)`")


def numbered_tests() -> dict[int, set[str]]:
    """Every test that is named after a number, wherever it lives."""
    found: dict[int, set[str]] = defaultdict(set)
    for file in (ROOT / "tests").rglob("test_*.py"):
        for name, number in re.findall(
            r"^(?:async )?def (test_c(\d\d)_\w+)\(", file.read_text(), re.MULTILINE
        ):
            assert name not in found[int(number)], f"{name} exists twice"
            found[int(number)].add(name)
    return dict(found)


def test_client_behaviours_page_numbers_all_have_a_test() -> None:
    """The forty-five numbers, no fewer and no others."""
    assert numbered_tests().keys() == NUMBERS


def test_client_behaviours_page_lists_existing_tests_and_modules() -> None:
    """One row a number, in order, with exactly the tests that carry it, kept in modules that are there."""
    rows = ROW.findall(PAGE.read_text())
    assert [int(number) for number, *_ in rows] == sorted(NUMBERS)
    tests = numbered_tests()
    for number, promise, places, shown in rows:
        assert promise.endswith((".", "?")), number
        assert set(QUOTED.findall(shown)) == tests[int(number)], number
        modules = QUOTED.findall(places)
        assert modules, number
        assert [one for one in modules if not (ROOT / "catalyst" / one).is_file()] == [], number
