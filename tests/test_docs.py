"""Generated and checked pages of docs/."""

import re
from pathlib import Path

import pytest

from catalyst.domain.diagram import render_page

DOCS = Path(__file__).parents[1] / "docs"


def test_machines_page_is_printed_from_the_state_tables() -> None:
    """docs/machines.md equals the page printed from the state machines; `make docs` writes it."""
    assert (DOCS / "machines.md").read_text() == render_page()


def test_dependencies_page_names_every_dependency() -> None:
    """docs/dependencies.md names each direct dependency."""
    import tomllib

    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    requirements = [
        *project["dependencies"],
        *(d for extra in project["optional-dependencies"].values() for d in extra),
    ]
    page_text = (DOCS / "dependencies.md").read_text().lower()
    names = required_names(requirements)
    assert {name for name in names if f"`{name}`" not in page_text} == set()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_each_lock_names_no_host_and_hashes_everything(name: str) -> None:
    """Each lock pins every package by hash and names no package index."""
    text = (DOCS.parent / name).read_text()
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    pinned = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert all("==" in line for line in pinned)
    assert text.count("--hash=sha256:") >= len(pinned)


def test_lock_of_running_has_no_package_of_the_tests() -> None:
    """requirements.lock has what the program imports and what builds it; the other lock has the rest, and no package
    is in both."""
    import tomllib

    project = tomllib.loads((DOCS.parent / "pyproject.toml").read_text())["project"]
    running = pinned_names("requirements.lock")
    others = pinned_names("requirements-dev.lock")
    assert running & others == set()
    extras = project["optional-dependencies"]
    assert required_names([*project["dependencies"], *extras["build"]]) <= running
    assert required_names(extras["dev"]) <= others


def pinned_names(lock: str) -> set[str]:
    """Return the packages that a lock pins."""
    return set(re.findall(r"^([\w.-]+)==", (DOCS.parent / lock).read_text(), re.MULTILINE))


def required_names(requirements: list[str]) -> set[str]:
    """Return the package names of requirements."""
    return {re.split(r"[<>=\[ ]", item)[0].lower() for item in requirements}


def test_pages_name_existing_tests() -> None:
    """Each test file or test that a page names exists."""
    named = set()
    for path in (*DOCS.glob("*.md"), DOCS.parent / "README.md"):
        named |= set(re.findall(r"\b(tests/[\w/]+\.py)(?:::(\w+))?", path.read_text()))
    assert len(named) > 30
    missing = []
    for file, test in sorted(named):
        path = DOCS.parent / file
        if not path.is_file() or (test and not re.search(rf"def {test}\b", path.read_text())):
            missing.append(f"{file}::{test}" if test else file)
    assert missing == []
