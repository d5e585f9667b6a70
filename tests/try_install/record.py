"""docs/try-install.md: the commands that `make try-install` ran, and how each ended."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

PAGE: Final = Path(__file__).parents[2] / "docs" / "try-install.md"
OWN: Final = "(set-up)"  # the page of commands that stand on no page
SERVICE_FOLDER: Final = "the service, `/opt/catalyst`"
DEMO_FOLDER: Final = "the demo, `.venv`"
TESTS_FOLDER: Final = "the demo and the tests, `.venv`"
_SIZE: Final = re.compile(r"^\| ([^|]+) \| (\d+) \|$", re.MULTILINE)
_ROW: Final = re.compile(r"^\| ([^|]+) \| (`+)(.+?)\2 \| ([^|]+) \| ([^|]*) \|$", re.MULTILINE)

_INTRODUCTION: Final = """\
# The install page, run on a new Debian

Written by `make try-install`. It builds a Debian 12 with debootstrap, boots its systemd in namespaces of its own, and
runs every command of [install.md](install.md) in the page's order as root, then the demos of [README](../README.md)
as an ordinary user. Only commands that fetch packages see a network; the broker is a `catalyst sim` of that machine,
in the place of Alpaca's paper account. Rows marked `(set-up)` stand on no page.

| page | command | exit code | seconds |
|---|---|---:|---:|
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One command and its result; `code` is None for a command that is not run, and `reason` says why."""

    page: str
    command: str
    code: int | None
    seconds: float
    reason: str = ""
    is_expected: bool = False  # a code other than 0 that the page announces

    @property
    def passed(self) -> bool:
        return self.code in (None, 0) or self.is_expected


def write_page(rows: Iterable[Row], minutes: float, sizes: Mapping[str, int]) -> None:
    """Write the page."""
    lines = []
    run = [row for row in rows if row.code is not None]
    for row in rows:
        result = f"not run: {row.reason}" if row.code is None else str(row.code)
        seconds = "" if row.code is None else f"{row.seconds:.1f}"
        lines.append(f"| {row.page} | {_quoted(row.command)} | {result} | {seconds} |\n")
    skipped = sum(row.code is None for row in rows)
    PAGE.write_text(
        f"{_INTRODUCTION}{''.join(lines)}\n**{len(run)} commands run, {skipped} not run;"
        f" {minutes:.0f} minutes**, of which {sum(row.seconds for row in run) / 60:.0f} for the commands.\n"
        "\n| what is installed for | MB of disk |\n|---|---:|\n"
        + "".join(f"| {what} | {size} |\n" for what, size in sizes.items())
    )


def recorded_commands(page: str) -> list[tuple[str, str]]:
    """Return the commands of a page as they were run, each with its exit code or the reason why not."""
    return [
        (command.strip(), result.removeprefix("not run: "))
        for name, _, command, result, _ in _ROW.findall(PAGE.read_text())
        if name == page
    ]


def recorded_sizes() -> dict[str, int]:
    """Return the MB of disk that each environment took."""
    return {what: int(size) for what, size in _SIZE.findall(PAGE.read_text())}


def shown(command: str) -> str:
    """Return a command in one line, as the table shows it."""
    first, *more = command.splitlines()
    return (first.rstrip("\\").rstrip() + (" …" if more else "")).replace("|", "\\|")


def _quoted(command: str) -> str:
    text = shown(command)
    return f"`` {text} ``" if "`" in text else f"`{text}`"
