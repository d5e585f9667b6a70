"""The `sh` blocks of README and docs, and how each one is run.

A comment before a block says when this is not done by `tests/test_page_commands.py` itself:
`<!-- run by: PROGRAM OR TEST -->` names what runs it, `<!-- not run: REASON -->` says why nothing does.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
_BLOCK: Final = re.compile(
    r"(?:^<!-- (run by|not run): (.+?) -->\n)?^```sh\n(.*?)^```$", re.DOTALL | re.MULTILINE
)
_HERE_DOCUMENT: Final = re.compile(r"<<'?(\w+)'?\s*$")
_HEADING: Final = re.compile(r"^#{1,3} (.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class ShellBlock:
    """One `sh` block of a page. `run_by` and `not_run` are empty unless its comment says so."""

    page: str  # relative to the checkout
    heading: str
    text: str
    run_by: str = ""
    not_run: str = ""

    @property
    def commands(self) -> list[str]:
        """The commands of the block: lines with their continuations and here-documents, without comments."""
        found: list[str] = []
        lines = iter(self.text.splitlines())
        for line in lines:
            command = re.sub(r"\s+# .*$", "", line).rstrip()
            if not command or command.startswith("#"):
                continue
            while command.endswith("\\"):
                command += "\n" + next(lines)
            if here := _HERE_DOCUMENT.search(command):
                for body in lines:
                    command += "\n" + body
                    if body == here.group(1):
                        break
            found.append(command)
        return found


def pages() -> list[Path]:
    """Return every page of the checkout that a user or a developer reads."""
    return [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def shell_blocks(page: Path) -> list[ShellBlock]:
    """Return the `sh` blocks of a page, in its order."""
    text, found = page.read_text(), []
    for match in _BLOCK.finditer(text):
        kind, says, block = match.groups()
        headings = _HEADING.findall(text[: match.start()])
        found.append(
            ShellBlock(
                str(page.relative_to(ROOT)),
                headings[-1],
                block,
                run_by=says if kind == "run by" else "",
                not_run=says if kind == "not run" else "",
            )
        )
    return found
