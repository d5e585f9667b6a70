"""Variables of .env and of the process: a line or a name that would silently have no effect is found here."""

import io
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv.parser import parse_stream

from catalyst.domain.errors import ConfigInvalid

ENVIRONMENT: Final = "the environment"
_NAMES_OF_OTHERS: Final = frozenset({"newsapi_key"})  # one slip away from a name of ours, and right elsewhere
_MAX_WORD_WITHOUT_SLIP: Final = 4  # characters; one changed letter makes another word of a shorter one
_KEY_NAME: Final = re.compile(r"^(?:alpaca|apca)_.*(?:key|secret|token)")


@dataclass(frozen=True, slots=True)
class Variable:
    """One variable; `place` is the file with its line, or the environment."""

    name: str
    value: str = ""
    place: str = ENVIRONMENT

    @property
    def key(self) -> str:
        """The name in lower case: variables are found in any case."""
        return self.name.lower()


def read_env_file(path: Path, known: Collection[str]) -> list[Variable]:
    """Return the variables of an env file.

    Raises ConfigInvalid with file and line, without the value, for a line that no variable can be read from (the
    library skips it) and for a misspelt name; for a name of ours (`known`) that is set twice, whose value runs over
    several lines (a quote that was never closed), or that stands inside such a value of another name.
    """
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError):
        raise ConfigInvalid(f"{path} cannot be read as text") from None
    variables: dict[str, Variable] = {}
    for binding in parse_stream(io.StringIO(text)):
        place = f"{path}, line {binding.original.line + _blank_lines_before(binding.original.string)}"
        if binding.error:
            raise ConfigInvalid(f"{place} cannot be read: write NAME=value, with both quotes or with none")
        if binding.key is None:
            continue
        if binding.value is None:
            raise ConfigInvalid(f"{place} has no =: write NAME=value, or begin a comment with #")
        variable = Variable(binding.key, binding.value, place)
        is_ours = variable.key in known or expected_key_name(variable.name) is not None
        later_lines = re.split(r"[\r\n]", binding.value)[1:]
        if later_lines and (is_ours or any(_sets_one_of(line, known) for line in later_lines)):
            raise ConfigInvalid(
                f"{place}: the value runs over several lines: close its quote on the same line"
            )
        if (near := misspelt_name(variable, known)) is not None:
            raise ConfigInvalid(
                f"{place}: the variable {variable.name} is unknown: did you mean {near.upper()}?"
            )
        if is_ours and variable.key in variables:
            raise ConfigInvalid(f"{place}: {variable.name} is set twice: remove one of the lines")
        variables[variable.key] = variable
    return list(variables.values())


def _sets_one_of(line: str, known: Collection[str]) -> bool:
    """Return true for a line that would set one of these names if it stood outside a quote."""
    name, separator, _ = line.strip().removeprefix("export ").partition("=")
    return bool(separator) and (name.strip().lower() in known or expected_key_name(name.strip()) is not None)


def _blank_lines_before(text: str) -> int:
    """Count the blank lines that the parser puts in front of a variable."""
    return len(text[: len(text) - len(text.lstrip())].splitlines())


def misspelt_name(variable: Variable, known: Collection[str]) -> str | None:
    """Return the known name that an unknown one is one slip away from: a letter missing, added, wrong or swapped with
    the next. A name in which a whole word differs, as MIN for MAX, is another name."""
    if (
        variable.key in _NAMES_OF_OTHERS
        or variable.key in known
        or expected_key_name(variable.name) is not None
    ):
        return None
    return next((name for name in sorted(known) if _is_one_slip(variable.key, name)), None)


def _is_one_slip(written: str, known: str) -> bool:
    words, known_words = written.split("_"), known.split("_")
    if len(words) == len(known_words):
        changed = [(a, b) for a, b in zip(words, known_words, strict=True) if a != b]
        return len(changed) == 1 and _is_one_edit(*changed[0]) and not _is_another_word(*changed[0])
    return written.replace("_", "") == known.replace("_", "") and _is_one_edit(written, known)


def _is_one_edit(a: str, b: str) -> bool:
    """Return true at a Damerau distance of one."""
    if len(a) > len(b):
        a, b = b, a
    start = next((n for n, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), len(a))
    if len(b) > len(a):
        return a[start:] == b[start + 1 :]
    rest_a, rest_b = a[start:], b[start:]
    return rest_a != rest_b and (
        rest_a[1:] == rest_b[1:] or (rest_a[1::-1], rest_a[2:]) == (rest_b[:2], rest_b[2:])
    )


def _is_another_word(written: str, known: str) -> bool:
    """Return true for words too short, or of a kind, that one changed letter makes another word: min, max, uri, url."""
    is_short = len(written) == len(known) <= _MAX_WORD_WITHOUT_SLIP and sorted(written) != sorted(known)
    return is_short or written.rstrip("0123456789") == known


def expected_key_name(name: str) -> str | None:
    """Return Catalyst's name of a broker key that stands under another name, as in APCA_API_KEY_ID; else None."""
    key = name.lower()
    if key in ("alpaca_api_key", "alpaca_secret_key") or not _KEY_NAME.match(key):
        return None
    is_secret = "secret" in key or any(_is_one_edit(word, "secret") for word in key.split("_"))
    return "ALPACA_SECRET_KEY" if is_secret else "ALPACA_API_KEY"
