"""Slip files: reads `tests/mutants/*.patch` and plants a slip in a folder. README.md describes the format."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
ROOT: Final = FOLDER.parents[1]
AREAS: Final = (
    "orders", "exits", "protection", "reconciliation", "store", "domain", "outage", "recovery", "day", "clock",
    "pipeline", "risk", "config", "alerts", "simulator",
)  # fmt: skip
CHANGED_FOLDERS: Final = ("catalyst/", "migrations/")
_NAME: Final = re.compile(rf"(?:{'|'.join(AREAS)})(?:_[a-z0-9]+)+")
_HEADER: Final = re.compile(
    r"slip: (?P<sentence>[A-Z].*\.)\norder: (?P<order>first|second)\ntests: (?P<tests>\S.*)\n\n(?=diff --git |--- )"
)


class BadSlip(Exception):
    """A slip file has a wrong format, or its diff does not fit the tree."""


@dataclass(frozen=True)
class Hunk:
    """Lines of one file before and after the slip; both with their context."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Slip:
    """Content of one slip file."""

    name: str
    sentence: str
    order: str
    tests: tuple[str, ...]
    hunks: tuple[Hunk, ...]


def slip_files() -> list[Path]:
    """Return the slip files by name."""
    return sorted(FOLDER.glob("*.patch"))


def read_slip(path: Path) -> Slip:
    """Return the slip of a file; raise BadSlip when the file breaks the format."""
    text = path.read_text()
    header = _HEADER.match(text)
    if not _NAME.fullmatch(path.stem):
        raise BadSlip(f"{path.name}: the name is not <area>_<what_is_wrong>.patch")
    if header is None:
        raise BadSlip(f"{path.name}: the header is not slip, order, tests, an empty line and a diff")
    hunks = tuple(_read_hunks(text[header.end() :]))
    if not hunks:
        raise BadSlip(f"{path.name}: the diff has no hunk")
    for hunk in hunks:
        if hunk.old == hunk.new:
            raise BadSlip(f"{path.name}: a hunk of {hunk.file} changes nothing")
        if not hunk.file.startswith(CHANGED_FOLDERS):
            raise BadSlip(f"{path.name}: {hunk.file} is not product code")
    return Slip(path.stem, header["sentence"], header["order"], tuple(header["tests"].split()), hunks)


def plant(slip: Slip, root: Path) -> dict[str, str]:
    """Return the text of each changed file of `root` with the slip in it; raise BadSlip when a hunk's old lines
    do not stand exactly once in their file. No file is written."""
    changed: dict[str, str] = {}
    for hunk in slip.hunks:
        if hunk.file not in changed:
            path = root / hunk.file
            if not path.is_file():
                raise BadSlip(f"{slip.name}: {hunk.file} does not exist")
            changed[hunk.file] = path.read_text()
        # Whole lines are compared: each begins after a line feed.
        text, old = "\n" + changed[hunk.file], "\n" + hunk.old
        if (found := text.count(old)) != 1:
            raise BadSlip(
                f"{slip.name}: {hunk.file} holds the old lines of a hunk {found} times:\n{hunk.old}"
            )
        changed[hunk.file] = text.replace(old, "\n" + hunk.new)[1:]
    for file, text in changed.items():
        if file.endswith(".py"):
            try:
                compile(text, file, "exec")
            except SyntaxError as problem:
                raise BadSlip(f"{slip.name}: {file} is no Python any more: {problem}") from problem
    return changed


def find_missing_tests(slip: Slip, root: Path) -> list[str]:
    """Return the named tests that do not exist below `root`."""
    missing = []
    for named in slip.tests:
        file, _, test = named.partition("::")
        path = root / file
        known = path.exists() if not test else path.is_file() and f"def {test}(" in path.read_text()
        if not file.startswith("tests/") or not known:
            missing.append(named)
    return missing


def _read_hunks(diff: str) -> list[Hunk]:
    """Return the hunks of a unified diff; the line numbers are not read."""
    hunks: list[Hunk] = []
    file, old, new = "", "", ""
    inside = False
    for line in [*diff.splitlines(), "diff --git"]:
        if inside and line[:1] in {" ", "-", "+", ""} and not line.startswith("--- "):
            old += "" if line.startswith("+") else line[1:] + "\n"
            new += "" if line.startswith("-") else line[1:] + "\n"
            continue
        if inside:
            hunks.append(Hunk(file, old, new))
            old, new, inside = "", "", False
        if line.startswith("+++ "):
            file = line[4:].split("\t")[0].removeprefix("b/")
        inside = line.startswith("@@")
    return hunks
