"""Progress of a day while it runs: plain lines for a pipe, a live screen for a terminal; both read the database."""

import json
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from catalyst.clock import Clock
from catalyst.domain.session import NEW_YORK, trading_date
from catalyst.report import status as status_report
from catalyst.report.events import DayEvent, DayEventFeed, DayEventKind
from catalyst.report.formatting import dollars, new_york_time
from catalyst.report.status import SystemStatus
from catalyst.report.tables import orders_table, positions_table
from catalyst.store import cycles
from catalyst.store.pool import Connection

MAX_ORDERS: Final = 10  # working orders on the live screen
MIN_SIZE: Final = (100, 30)  # columns and lines that a live screen needs
EVENT_STYLES: Final = {
    DayEventKind.SCAN: "cyan",
    DayEventKind.PROPOSAL: "yellow",
    DayEventKind.ENTRY: "blue",
    DayEventKind.FILL: "",
    DayEventKind.PROTECTED: "green",
    DayEventKind.ENDED: "yellow",
    DayEventKind.EXIT: "bold",
    DayEventKind.ALERT: "red",
}


class ProgressDisplay(Protocol):
    """Receives the progress of the demo and shows it."""

    def show_setup_step(self, name: str, what: str, detail: object) -> None:
        """Show that one step of the setup is done."""
        ...

    def begin_day(self, clock: Clock, log: Path) -> None:
        """Start to show the day, with the market's clock and the daemon's log file."""
        ...

    async def refresh(self, conn: Connection) -> None:
        """Read the database and show new events."""
        ...

    def show_message(self, text: str) -> None:
        """Show a message between the events."""
        ...

    def stop(self) -> None:
        """End the display. Idempotent."""
        ...


def fits_live_screen(console: Console) -> bool:
    """Return true when the console is a terminal and large enough for the live screen."""
    return console.is_terminal and console.width >= MIN_SIZE[0] and console.height >= MIN_SIZE[1]


def event_line(event: DayEvent) -> Text:
    """Return an event as one line."""
    text = Text(f"{new_york_time(event.at)}  ", no_wrap=True, overflow="ellipsis")
    text.append(f"{event.kind:<10}", style=EVENT_STYLES[event.kind])
    text.append(event.text, style=_gain_style(event))
    return text


def _gain_style(event: DayEvent) -> str:
    if event.gain is None or not event.gain:
        return ""
    return "green" if event.gain > 0 else "red"


@dataclass
class LineDisplay:
    """Progress display that prints one line per event."""

    console: Console
    _clock: Clock | None = None
    _feed: DayEventFeed | None = None
    _step_count: int = 0

    def show_setup_step(self, name: str, what: str, detail: object) -> None:
        self._step_count += 1
        self.console.print(f" {self._step_count}  {name:<10}{what}", highlight=False, soft_wrap=True)
        if detail:
            self.console.print(f"    {'':<10}{detail}", highlight=False, soft_wrap=True, style="dim")

    def begin_day(self, clock: Clock, log: Path) -> None:
        self._clock = clock
        self.console.print(f"    {'':<10}the log: {log}\n", highlight=False, soft_wrap=True, style="dim")

    async def refresh(self, conn: Connection) -> None:
        for event in await self.read_new_events(conn):
            self.console.print(event_line(event), soft_wrap=True)

    async def read_new_events(self, conn: Connection) -> list[DayEvent]:
        """Return the events since the last call; none before the day's cycle exists."""
        assert self._clock is not None  # begin_day() was called
        if self._feed is None:
            cycle = await cycles.of_day(conn, trading_date(self._clock.now()))
            if cycle is None:
                return []
            self._feed = DayEventFeed(cycle.cycle_id)
        return await self._feed.read_new(conn)

    def show_message(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        return


@dataclass
class LiveScreen:
    """Progress display that redraws one full screen at each refresh."""

    console: Console
    line_display: LineDisplay
    events: "deque[Text]" = field(default_factory=lambda: deque(maxlen=12))
    _live: Live | None = None
    _clock: Clock | None = None
    _log: Path | None = None

    def show_setup_step(self, name: str, what: str, detail: object) -> None:
        self.line_display.show_setup_step(name, what, detail)

    def begin_day(self, clock: Clock, log: Path) -> None:
        self.line_display.begin_day(clock, log)
        self._clock, self._log = clock, log
        self._live = Live(console=self.console, auto_refresh=False, screen=True)
        self._live.start()

    async def refresh(self, conn: Connection) -> None:
        assert self._clock is not None  # begin_day() was called
        self.events.extend(event_line(event) for event in await self.line_display.read_new_events(conn))
        current = await status_report.read_status(conn, self._clock.now())
        if self._live is not None:
            free_lines = self.console.height - 24
            tail = last_log_lines(self._log, max(2, min(free_lines, 6)))
            self._live.update(render_screen(current, list(self.events), tail), refresh=True)

    def show_message(self, text: str) -> None:
        self.events.append(Text(text, style="bold yellow"))

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def render_screen(system_status: SystemStatus, events: Sequence[Text], tail: Sequence[str]) -> RenderableType:
    """Return the whole screen: clock and result, scan funnel, positions, working orders, events and log."""
    return Group(
        _header_panel(system_status),
        _funnel_panel(system_status),
        _panel("positions", positions_table(system_status.positions)),
        _panel("working orders", orders_table(system_status.orders[:MAX_ORDERS])),
        _panel("the day", Group(*events)),
        _panel("log", Text("\n".join(tail), style="dim", no_wrap=True)),
    )


def _panel(title: str, content: RenderableType) -> Panel:
    return Panel(content, title=title, title_align="left", border_style="dim")


def _header_panel(system_status: SystemStatus) -> RenderableType:
    grid = Table.grid(expand=True)
    for justify in ("left", "center", "right"):
        grid.add_column(justify=justify)
    state = (
        "no cycle yet"
        if system_status.cycle is None
        else f"{system_status.cycle.mode}, {system_status.cycle.status}"
    )
    style = "green" if system_status.day_pnl > 0 else "red" if system_status.day_pnl < 0 else ""
    result = Text(f"{dollars(system_status.day_pnl, signed=True)}", style=f"bold {style}")
    result.append(
        f"   {system_status.closed_trades} closed {dollars(system_status.realized_pnl, signed=True)}, "
        f"{len(system_status.positions)} open {dollars(system_status.unrealized_pnl, signed=True)}",
        style="dim",
    )
    grid.add_row(
        Text.assemble(
            (f"{system_status.at.astimezone(NEW_YORK):%a %d %b %H:%M:%S} New York", "bold"),
            (f"   {_local_time(system_status.at)} local   market {system_status.phase}", "dim"),
        ),
        Text(state),
        result,
    )
    return Panel(grid, title="catalyst", title_align="left")


def _local_time(at: datetime) -> str:
    return f"{at.astimezone():%H:%M}"


def _funnel_panel(system_status: SystemStatus) -> RenderableType:
    if system_status.scan is None:
        return Panel(
            Text(system_status.scan_note, style="dim"), title="funnel", title_align="left", border_style="dim"
        )
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in system_status.scan.counts:
        table.add_column(justify="center")
    table.add_row(*(Text(f"{count:,}", style="bold cyan") for count in system_status.scan.counts.values()))
    table.add_row(*(Text(name, style="dim") for name in system_status.scan.counts))
    stage_times = "  ".join(f"{name} {ms:,.0f}" for name, ms in system_status.scan.milliseconds.items())
    return Panel(
        Group(
            table,
            Text(
                f"{stage_times}  = {system_status.scan.total_milliseconds:,.0f} ms", style="dim", no_wrap=True
            ),
        ),
        title=f"scan of {new_york_time(system_status.scan.at)}",
        title_align="left",
        border_style="dim",
    )


def last_log_lines(log: Path | None, count: int) -> list[str]:
    """Return the newest `count` lines of a JSON log, formatted for people."""
    if log is None or not log.exists():
        return []
    with log.open("rb") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 8_192))
        raw = file.read().decode(errors="replace").splitlines()
    return [_format_log_line(line) for line in raw[-count:]]


def _format_log_line(line: str) -> str:
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict):
        return line
    at = str(event.pop("at", ""))
    when = new_york_time(datetime.fromisoformat(at)) if at else ""
    event.pop("cycle_id", None)
    event.pop("level", None)
    facts = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
    return f"{when} {event.get('event', '')} {facts}"
