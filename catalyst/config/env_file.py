"""Variables of .env and of the process: a line or a name that would silently have no effect is found here."""

import difflib
import io
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from dotenv.parser import parse_stream

from catalyst.domain.errors import ConfigInvalid

ENVIRONMENT: Final = "the environment"
# Names that other programs of the machine use too: only in .env is a name near one of them a slip.
_COMMON_NAMES: Final = re.compile(r"^(log|smtp|redis|xdg|notify|watchdog)_")
_NAME_CUTOFF: Final = 0.88  # difflib's ratio: one letter missing, added or two swapped in a name of eight
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


def read_env_file(path: Path) -> list[Variable]:
    """Return the variables of an env file.

    Raises ConfigInvalid with file and line, without the value, for a line that no variable can be read from (the
    library skips it), a value over several lines (a quote that was never closed) and a name that is set twice.
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
        if "\n" in binding.value or "\r" in binding.value:
            raise ConfigInvalid(
                f"{place}: the value runs over several lines: close its quote on the same line"
            )
        variable = Variable(binding.key, binding.value, place)
        if variable.key in variables:
            raise ConfigInvalid(f"{place}: {variable.name} is set twice: remove one of the lines")
        variables[variable.key] = variable
    return list(variables.values())


def _blank_lines_before(text: str) -> int:
    """Count the blank lines that the parser puts in front of a variable."""
    return len(text[: len(text) - len(text.lstrip())].splitlines())


def refuse_misspelt_names(
    file_variables: Iterable[Variable], environment: Mapping[str, str], known: Iterable[str]
) -> None:
    """Raise ConfigInvalid for an unknown name that is nearly a known one: its setting would have no effect."""
    known_names = sorted(known)
    distinct_names = [name for name in known_names if not _COMMON_NAMES.match(name)]
    for variables, names in (
        (file_variables, known_names),
        (map(Variable, environment), distinct_names),
    ):
        for variable in variables:
            if variable.key in known_names or expected_key_name(variable.name) is not None:
                continue
            near = difflib.get_close_matches(variable.key, names, n=1, cutoff=_NAME_CUTOFF)
            if near:
                raise ConfigInvalid(
                    f"{variable.place}: the variable {variable.name} is unknown: did you mean {near[0].upper()}?"
                )


def expected_key_name(name: str) -> str | None:
    """Return Catalyst's name of a broker key that stands under another name, as in APCA_API_KEY_ID; else None."""
    key = name.lower()
    if key in ("alpaca_api_key", "alpaca_secret_key") or not _KEY_NAME.match(key):
        return None
    return "ALPACA_SECRET_KEY" if "secret" in key else "ALPACA_API_KEY"
