"""Word check: names and prose use the terms of docs/glossary.md."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

# Whole words of identifiers, file names, events, columns and labels.
BANNED_NAMES = frozenset(
    [
        "hear",
        "heard",
        "hearing",
        "told",
        "tell",
        "tells",
        "naked",
        "bared",
        "stranger",
        "strangers",
        "stroke",
        "strokes",
        "desk",
        "seat",
        "storm",
        "storms",
        "weather",
        "blind",
        "leash",
        "leashed",
        "obituary",
        "wish",
        "ear",
        "witness",
        "hand",
        "untied",
        "spooled",
        "heed",
    ]
)
ALLOWED_NAMES = frozenset({"by_hand"})

# Phrases of docstrings, comments, pages and messages.
BANNED_PHRASES = (
    re.compile(
        r"\b(?:with(?:out)?|by|in|of|from|to) the tables\b|\bthe tables (?:say|hold|have|know|are|show)\b",
        re.I,
    ),
    re.compile(r"\b(?:in the dark|one door|one hand|at its end|the day is up)\b", re.I),
    re.compile(r"(?:^|[.!?:;]\s+|\n\s*\n\s*)(?:What was|Who is|That a|The same)\b"),
)

# (file, line): why. At most ten.
EXCEPTIONS: dict[tuple[str, int], str] = {}

FOLDERS = ("catalyst", "tests", "benchmarks", "docs", "migrations")
PAGES = ("README.md", "CONTRIBUTING.md", "config.yaml", "Makefile")
SELF = {"tests/test_words.py", "docs/glossary.md"}

Finding = tuple[str, int, str]


def words_of(identifier: str) -> list[str]:
    """Return the words of a snake_case, CamelCase or dotted identifier, in lower case."""
    return [word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", identifier)]


@cache
def bad_name(identifier: str) -> bool:
    """Return true when the identifier contains a banned word."""
    for allowed in ALLOWED_NAMES:
        identifier = identifier.replace(allowed, "")
    return bool(BANNED_NAMES & set(words_of(identifier)))


def bad_phrase(prose: str) -> str | None:
    """Return the first banned phrase of a text."""
    for pattern in BANNED_PHRASES:
        found = pattern.search(prose)
        if found is not None:
            return found.group(0).strip()
    return None


def check_python(name: str, text: str) -> Iterator[Finding]:
    """Check identifiers, identifier-like strings, comments and string texts of one Python file."""
    comment, begun = "", 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and bad_name(token.string):
            yield name, token.start[0], token.string
        if token.type == tokenize.COMMENT:
            begun = begun or token.start[0]
            comment += token.string.lstrip("#") + " "
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT):
            if comment and (phrase := bad_phrase(comment.strip())):
                yield name, begun, phrase
            comment, begun = "", 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"[A-Za-z_][\w.:-]*", node.value):
                if bad_name(node.value):
                    yield name, node.lineno, node.value
            elif phrase := bad_phrase(node.value):
                yield name, node.lineno, phrase


def check_text(name: str, text: str) -> Iterator[Finding]:
    """Check the prose of a page, and every identifier of SQL and YAML."""
    for number, line in enumerate(text.splitlines(), start=1):
        if phrase := bad_phrase(line.strip(" -|#*>")):
            yield name, number, phrase
        code = line if not name.endswith(".md") else " ".join(re.findall(r"`([^`]+)`", line))
        if name.endswith(".sql"):
            code = code.split("--")[0]
        if name.endswith(".yaml"):
            code = code.split("#")[0]
        for identifier in re.findall(r"[A-Za-z_]\w*", code):
            if ("_" in identifier or not name.endswith(".md")) and bad_name(identifier):
                yield name, number, identifier


def check_file(path: Path, root: Path = ROOT) -> list[Finding]:
    """Return the findings of one file: its name, its identifiers, its prose."""
    name = str(path.relative_to(root))
    found: list[Finding] = [
        (name, 0, part) for part in path.relative_to(root).with_suffix("").parts if bad_name(part)
    ]
    text = path.read_text()
    found += check_python(name, text) if path.suffix == ".py" else check_text(name, text)
    return found


def files() -> list[Path]:
    """Return every file that the check reads."""
    suffixes = {".py", ".md", ".sql", ".yaml"}
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in suffixes]
    found += [ROOT / page for page in PAGES if (ROOT / page).exists()]
    return sorted(path for path in found if str(path.relative_to(ROOT)) not in SELF)


def test_words_are_those_of_the_glossary_but_for_few_exceptions() -> None:
    """No file uses a banned name or phrase, but for at most ten exceptions, each of which still hides a finding."""
    findings = [finding for path in files() for finding in check_file(path)]
    assert [finding for finding in findings if finding[:2] not in EXCEPTIONS] == []
    assert len(EXCEPTIONS) <= 10
    assert set(EXCEPTIONS) <= {finding[:2] for finding in findings}


@pytest.mark.parametrize("word", sorted(BANNED_NAMES))
def test_planted_name_is_found(tmp_path: Path, word: str) -> None:
    """The check finds each banned word in a variable, an attribute, an event and a column."""
    planted = tmp_path / "planted.py"
    planted.write_text(f'x.{word}_now = 1\nlog.info("order_{word}")\n')
    assert [line for _, line, _ in check_file(planted, tmp_path)] == [1, 2]
    column = tmp_path / "planted.sql"
    column.write_text(f"CREATE TABLE t (a_{word} int);\n")
    assert check_file(column, tmp_path) == [("planted.sql", 1, f"a_{word}")]


@pytest.mark.parametrize(
    "prose",
    [
        "Read it from the tables.", "It exits without the tables.", "The tables say 20 shares.",
        "It waits in the dark.",
        "There is one door.", "It is sold by one hand.", "The order is at its end.", "Once the day is up, stop.",
        "What was sold is booked.", "Who is late waits.", "That a fill is late is normal.", "The same, for stops.",
    ],
)  # fmt: skip
def test_planted_phrase_is_found(tmp_path: Path, prose: str) -> None:
    """The check finds each banned phrase in a docstring, a comment and a page."""
    for name, text in (("a.py", f'"""{prose}"""\n'), ("b.py", f"# {prose}\n"), ("c.md", f"{prose}\n")):
        (tmp_path / name).write_text(text)
        assert len(check_file(tmp_path / name, tmp_path)) == 1, name


def test_ordinary_words_are_not_found(tmp_path: Path) -> None:
    """Words that contain a banned word as letters only are allowed."""
    (tmp_path / "a.py").write_text(
        '"""The database says so."""\nheart = by_hand = handle = wishlist = nearest = 1\n'
    )
    assert check_file(tmp_path / "a.py", tmp_path) == []
