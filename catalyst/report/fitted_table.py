"""A table that fits its terminal: columns that matter less are left out, so that no figure is ever cut."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table
from rich.text import Text

ALWAYS: Final = 0  # the importance of a column that is always shown
GAP: Final = 2  # characters between two columns
MIN_PROSE_WIDTH: Final = 24  # characters; a narrower column of sentences is unreadable

Cell = str | Text


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Of the columns that do not fit, those with the largest `rank` are left out first.

    `prose` is a sentence, which wraps; every other cell stands whole on one line.
    """

    heading: str
    rank: int = ALWAYS
    right: bool = False
    prose: bool = False


@dataclass
class FittedTable:
    """Rows under columns; rendered with as many columns as the width has room for."""

    columns: Sequence[Column]
    rows: list[Sequence[Cell]] = field(default_factory=list)

    def add_row(self, *cells: Cell) -> None:
        """Add a row with one cell for each column."""
        assert len(cells) == len(self.columns)
        self.rows.append(cells)

    def columns_that_fit(self, width: int) -> list[int]:
        """Return the numbers of the columns to show at this width; those of rank ALWAYS are always among them."""
        shown = [number for number, column in enumerate(self.columns) if self._has_content(number)]
        while self._needed_width(shown) > width:
            droppable = [number for number in shown if self.columns[number].rank > ALWAYS]
            if not droppable:
                break
            shown.remove(max(droppable, key=lambda number: (self.columns[number].rank, number)))
        return shown

    def _has_content(self, number: int) -> bool:
        return self.columns[number].rank == ALWAYS or any(cell_len(str(row[number])) for row in self.rows)

    def _needed_width(self, shown: Sequence[int]) -> int:
        return sum(self._width(number) for number in shown) + GAP * max(len(shown) - 1, 0)

    def _width(self, number: int) -> int:
        column = self.columns[number]
        widest = max(cell_len(str(text)) for text in (column.heading, *(row[number] for row in self.rows)))
        return min(widest, MIN_PROSE_WIDTH) if column.prose else widest

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        shown = self.columns_that_fit(options.max_width)
        table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
        for number in shown:
            column = self.columns[number]
            table.add_column(
                column.heading,
                justify="right" if column.right else "left",
                no_wrap=not column.prose,
                overflow="fold",
                min_width=None if column.prose else self._width(number),
            )
        for row in self.rows:
            table.add_row(*(row[number] for number in shown))
        yield table
