"""Checks that the table of the 51 behaviours in docs/simulator.md, the settings, the fault kinds and the
tests agree."""

import re
from dataclasses import fields
from functools import cache
from pathlib import Path

import pytest

from catalyst.simulator.exchange.settings import ExchangeSettings, LatencyRange
from catalyst.simulator.faults.rules import FaultKind
from tests.promises import functions_of_tests, promises_of

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "simulator.md"
ROW = re.compile(r"^\| (\d+) \| (.+?) \| (.+?) \| (.+?) \|$", re.MULTILINE)


@cache
def behaviour_tests() -> dict[int, dict[str, str]]:
    """Return for each number the groups (files) with its tests, and the source text of those tests."""
    groups_by_number: dict[int, dict[str, str]] = {}
    for path, node in functions_of_tests():
        if not path.name.startswith("test_behaviours_"):
            continue
        lines = path.read_text().splitlines()
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        source = "\n".join(lines[first - 1 : node.end_lineno])
        for number in promises_of(node):
            assert number.startswith("B"), number
            group = groups_by_number.setdefault(int(number[1:]), {})
            name = path.stem.removeprefix("test_behaviours_")
            group[name] = group.get(name, "") + source + "\n"
    return groups_by_number


def documented_rows() -> list[tuple[int, str, str]]:
    """Return number, settings and tests of each row of the table."""
    section = PAGE.read_text().split("## The fifty-one behaviours\n")[1].split("\n## ")[0]
    return [(int(number), switches, tests) for number, _, switches, tests in ROW.findall(section)]


def default_text(value: object) -> str:
    """Format a default as the page writes it."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, LatencyRange):
        return f"{value.low:g}–{value.high:g}"
    if isinstance(value, set):
        return ", ".join(sorted(value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def test_every_behaviour_has_a_documented_row_and_a_test() -> None:
    """The table has the numbers 1 to 51 once each and in order; each has at least one test with its marker."""
    assert [number for number, *_ in documented_rows()] == list(range(1, 52))
    assert sorted(behaviour_tests()) == list(range(1, 52))


@pytest.mark.parametrize(("number", "switches", "tests"), documented_rows())
def test_documented_behaviour_names_its_tests_settings_and_faults(
    number: int, switches: str, tests: str
) -> None:
    """A row names exactly the files with its tests and the true defaults; each setting and fault occurs in
    those tests."""
    sources = behaviour_tests()[number]
    assert sorted(re.findall(r"`(\w+)`", tests)) == sorted(sources)
    source = "\n".join(sources.values())
    defaults = ExchangeSettings()
    faults = re.findall(r"fault `(\w+)`", switches)
    settings = re.findall(r"(?<!fault )`(\w+)` ([^,]+)", switches)
    assert faults or settings or switches == "–"
    for name in faults:
        assert f'"{FaultKind(name)}"' in source, name
    for name, default in settings:
        assert default_text(getattr(defaults, name)) == default.strip(), name
        assert re.search(rf"\b{name}\b", source), name


def test_every_exchange_setting_is_documented() -> None:
    """The page's table of settings has exactly the settings of the exchange."""
    section = PAGE.read_text().split("## Settings\n")[1].split("\n## ")[0]
    documented = {
        name
        for line in section.splitlines()
        if line.startswith("| `")
        for name in re.findall(r"`(\w+)`", line.split("|")[1])
    }
    assert documented == {item.name for item in fields(ExchangeSettings)}
