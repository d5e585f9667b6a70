"""The day as it happens: plain lines for a pipe, one live screen for a terminal. Both read the same tables."""

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
from catalyst.report.events import Follower, Happening, Kind
from catalyst.report.formatting import clock as clock_of
from catalyst.report.formatting import dollars, price, quantity, span
from catalyst.report.status import Now
from catalyst.store import cycles
from catalyst.store.pool import Connection

SMALLEST: Final = (100, 30)  # columns and lines a live screen needs
STYLES: Final = {
    Kind.SCAN: "cyan",
    Kind.PROPOSAL: "yellow",
    Kind.ENTRY: "blue",
    Kind.FILL: "",
    Kind.PROTECTED: "green",
    Kind.ENDED: "yellow",
    Kind.EXIT: "bold",
    Kind.ALERT: "red",
}


class Show(Protocol):
    """Who is told of the demo's progress."""

    def step(self, name: str, what: str, detail: object) -> None:
        """A part of the setting-up is ready."""
        ...

    def begin(self, clock: Clock, log: Path) -> None:
        """The day begins, on this clock; the daemon writes this log."""
        ...

    async def look(self, conn: Connection) -> None:
        """Show what is new."""
        ...

    def say(self, text: str) -> None:
        """Say something beside the day's events."""
        ...

    def stop(self) -> None:
        """Nothing more is shown. Idempotent."""
        ...


def fits(console: Console) -> bool:
    """True when a live screen has room, and somebody to look at it."""
    return console.is_terminal and console.width >= SMALLEST[0] and console.height >= SMALLEST[1]


def line_of(event: Happening) -> Text:
    """One event on one line."""
    text = Text(f"{clock_of(event.at)}  ", no_wrap=True, overflow="ellipsis")
    text.append(f"{event.kind:<10}", style=STYLES[event.kind])
    text.append(event.text, style=_gain_style(event))
    return text


def _gain_style(event: Happening) -> str:
    if event.gain is None or not event.gain:
        return ""
    return "green" if event.gain > 0 else "red"


@dataclass
class Lines:
    """One line for each event."""

    console: Console
    _clock: Clock | None = None
    _follower: Follower | None = None
    _steps: int = 0

    def step(self, name: str, what: str, detail: object) -> None:
        self._steps += 1
        self.console.print(f" {self._steps}  {name:<10}{what}", highlight=False, soft_wrap=True)
        if detail:
            self.console.print(f"    {'':<10}{detail}", highlight=False, soft_wrap=True, style="dim")

    def begin(self, clock: Clock, log: Path) -> None:
        self._clock = clock
        self.console.print(f"    {'':<10}the log: {log}\n", highlight=False, soft_wrap=True, style="dim")

    async def look(self, conn: Connection) -> None:
        for event in await self.news(conn):
            self.console.print(line_of(event), soft_wrap=True)

    async def news(self, conn: Connection) -> list[Happening]:
        """What happened since the last look; nothing before there is a cycle."""
        assert self._clock is not None  # begin() was called
        if self._follower is None:
            cycle = await cycles.of_day(conn, trading_date(self._clock.now()))
            if cycle is None:
                return []
            self._follower = Follower(cycle.cycle_id)
        return await self._follower.look(conn)

    def say(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        return


@dataclass
class Screen:
    """The whole day on one screen, drawn anew at each look."""

    console: Console
    lines: Lines
    events: "deque[Text]" = field(default_factory=lambda: deque(maxlen=12))
    _live: Live | None = None
    _clock: Clock | None = None
    _log: Path | None = None

    def step(self, name: str, what: str, detail: object) -> None:
        self.lines.step(name, what, detail)

    def begin(self, clock: Clock, log: Path) -> None:
        self.lines.begin(clock, log)
        self._clock, self._log = clock, log
        self._live = Live(console=self.console, auto_refresh=False, screen=True)
        self._live.start()

    async def look(self, conn: Connection) -> None:
        assert self._clock is not None  # begin() was called
        self.events.extend(line_of(event) for event in await self.lines.news(conn))
        seen = await status_report.look(conn, self._clock.now())
        if self._live is not None:
            room = self.console.height - 24
            tail = last_log_lines(self._log, max(2, min(room, 6)))
            self._live.update(picture(seen, list(self.events), tail), refresh=True)

    def say(self, text: str) -> None:
        self.events.append(Text(text, style="bold yellow"))

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None


def picture(seen: Now, events: Sequence[Text], tail: Sequence[str]) -> RenderableType:
    """The screen: clock and result, funnel, what is held, what works, what happened, the log."""
    return Group(
        _headline(seen),
        _funnel(seen),
        Panel(_positions(seen), title="positions", title_align="left", border_style="dim"),
        Panel(_orders(seen), title="working orders", title_align="left", border_style="dim"),
        Panel(Group(*events), title="the day", title_align="left", border_style="dim"),
        Panel(
            Text("\n".join(tail), style="dim", no_wrap=True),
            title="log",
            title_align="left",
            border_style="dim",
        ),
    )


def _headline(seen: Now) -> RenderableType:
    grid = Table.grid(expand=True)
    for justify in ("left", "center", "right"):
        grid.add_column(justify=justify)
    state = "no cycle yet" if seen.cycle is None else f"{seen.cycle.mode}, {seen.cycle.status}"
    style = "green" if seen.day_pnl > 0 else "red" if seen.day_pnl < 0 else ""
    result = Text(f"{dollars(seen.day_pnl, signed=True)}", style=f"bold {style}")
    result.append(
        f"   {seen.closed_trades} closed {dollars(seen.realized_pnl, signed=True)}, "
        f"{len(seen.positions)} open {dollars(seen.unrealized_pnl, signed=True)}",
        style="dim",
    )
    grid.add_row(
        Text.assemble(
            (f"{seen.at.astimezone(NEW_YORK):%a %d %b %H:%M:%S} New York", "bold"),
            (f"   {_local(seen.at)} local   market {seen.phase}", "dim"),
        ),
        Text(state),
        result,
    )
    return Panel(grid, title="catalyst", title_align="left")


def _local(at: datetime) -> str:
    return f"{at.astimezone():%H:%M}"


def _funnel(seen: Now) -> RenderableType:
    if seen.scan is None:
        return Panel(Text(seen.scanning, style="dim"), title="funnel", title_align="left", border_style="dim")
    table = Table.grid(expand=True, padding=(0, 1))
    for _ in seen.scan.counts:
        table.add_column(justify="center")
    table.add_row(*(Text(f"{count:,}", style="bold cyan") for count in seen.scan.counts.values()))
    table.add_row(*(Text(name, style="dim") for name in seen.scan.counts))
    took = "  ".join(f"{name} {ms:,.0f}" for name, ms in seen.scan.milliseconds.items())
    return Panel(
        Group(table, Text(f"{took}  = {seen.scan.total_milliseconds:,.0f} ms", style="dim", no_wrap=True)),
        title=f"scan of {clock_of(seen.scan.at)}",
        title_align="left",
        border_style="dim",
    )


def _positions(seen: Now) -> RenderableType:
    table = Table.grid(expand=True, padding=(0, 2))
    heads = ("symbol", "side", "shares", "entry", "last", "stop", "target", "unrealised", "held", "naked")
    for head in heads:
        table.add_column(justify="left" if head in ("symbol", "side") else "right")
    table.add_row(*(Text(head, style="dim") for head in heads))
    for held in seen.positions:
        style = "green" if held.unrealized_pnl > 0 else "red" if held.unrealized_pnl < 0 else ""
        table.add_row(
            Text(held.symbol, style="bold"),
            held.side,
            quantity(held.quantity),
            price(held.entry_price),
            price(held.last_price),
            Text(price(held.stop), style="" if held.stop_at_broker else "bold red"),
            price(held.target),
            Text(dollars(held.unrealized_pnl, signed=True), style=style),
            span(held.held_seconds),
            span(held.naked_seconds),
        )
    return table


def _orders(seen: Now) -> RenderableType:
    table = Table.grid(expand=True, padding=(0, 2))
    for head in ("symbol", "purpose", "side", "shares", "price", "status"):
        table.add_column(justify="right" if head in ("shares", "price") else "left")
    for order in seen.orders[:10]:
        table.add_row(
            Text(order.symbol, style="bold"),
            order.order_purpose.replace("_", " "),
            order.side,
            f"{quantity(order.filled_qty)}/{quantity(order.quantity)}",
            price(order.stop_price or order.limit_price),
            order.broker_status or order.status,
        )
    return table


def last_log_lines(log: Path | None, count: int) -> list[str]:
    """The newest lines of a JSON log, each as a person reads it."""
    if log is None or not log.exists():
        return []
    with log.open("rb") as file:
        file.seek(0, 2)
        file.seek(max(0, file.tell() - 8_192))
        raw = file.read().decode(errors="replace").splitlines()
    return [_readable(line) for line in raw[-count:]]


def _readable(line: str) -> str:
    try:
        event = json.loads(line)
    except ValueError:
        return line
    if not isinstance(event, dict):
        return line
    at = str(event.pop("at", ""))
    when = clock_of(datetime.fromisoformat(at)) if at else ""
    event.pop("cycle_id", None)
    event.pop("level", None)
    facts = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
    return f"{when} {event.get('event', '')} {facts}"
