"""Output of the commands: JSON for programs, lines or tables for people."""

from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from catalyst.cli.masked_output import print_masked
from catalyst.domain.secret_mask import mask_value

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

Renderer = Callable[[], "Iterable[RenderableType]"]

_OPTIONS: Final = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def print_result(facts: object, as_json: bool, render: Renderer) -> None:
    """Print `facts` as JSON (decimals as text, times in UTC), or the result of `render` for people."""
    if as_json:
        plain = orjson.loads(orjson.dumps(facts, default=json_default, option=_OPTIONS))
        print_masked(orjson.dumps(mask_value(plain), option=_OPTIONS).decode())
        return
    print_parts(make_console(), render())


def print_parts(console: "Console", parts: "Iterable[RenderableType]") -> None:
    """Print each part; long sentences are left to the terminal to wrap."""
    from rich.text import Text

    for part in parts:
        console.print(part, highlight=False, markup=False, soft_wrap=isinstance(part, (str, Text)))


def make_console() -> "Console":
    """Return a console as wide as its terminal, or wide enough for every table when the output is a pipe."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=max(console.width, 200), no_color=True)


def json_default(value: object) -> object:
    """Convert a value that JSON has no type for. Raises TypeError for an unsupported type."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (set, frozenset)):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not JSON")
