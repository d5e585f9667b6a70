"""Reads the tables in docs/simulator-conformance.md."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "simulator-conformance.md"


def documented_rows(heading: str) -> list[list[str]]:
    """Return the table rows under a heading of the page, without back quotes."""
    section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
    rows = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    return [[cell.strip().strip("`") for cell in row] for row in rows]
