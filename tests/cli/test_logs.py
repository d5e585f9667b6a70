"""`catalyst logs`: filters, New York time, lines that fit a terminal, files that grow, and no forged line."""

import asyncio
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from catalyst.cli.app import app
from catalyst.cli.log_lines import LogFilter, format_line, parse_line, parse_since
from catalyst.cli.log_sources import file_lines
from catalyst.clock import SystemClock
from catalyst.domain.errors import UserError

ROOT = Path(__file__).parents[2]
NOW = datetime(2026, 11, 30, 15, 0, tzinfo=UTC)  # 10:00 in New York


def written(level: str, event: str, at: str = "2026-11-30T14:31:07.120+00:00", **facts: Any) -> str:
    """Return a line as the daemon writes it."""
    return json.dumps({"at": at, "level": level, "event": event, **facts})


DAY = [
    written("info", "daemon_ready", at="2026-11-30T12:59:01.000+00:00", gate=[]),
    written(
        "info", "entry_filled", symbol="AAPL", side="long", qty="20", price="190.01", held="20", position_id=1
    ),
    written("warning", "position_unprotected", symbol="AAPL", qty="20", state="unprotected"),
    written("error", "prices_stale", symbols=["MSFT", "NVDA"]),
    written(
        "critical",
        "safe_mode_entered",
        at="2026-12-01T14:30:00.000+00:00",
        reason="I3: shares without a fill",
    ),
    written("warning", "exit_requested", position_id=3, reason="TIME_LIMIT: VDMI held 180 minutes"),
    written("info", "scan_finished", plans=["VDMI", "AAPL"]),
    "a line of another program",
]


@pytest.mark.parametrize(
    ("chosen", "numbers"),
    [
        (LogFilter(), [0, 1, 2, 3, 4, 5, 6, 7]),
        (LogFilter(level="warning"), [2, 3, 4, 5]),
        (LogFilter(events=("entry_*", "daemon_ready")), [0, 1]),
        (LogFilter(symbols=("AAPL",)), [1, 2, 6]),
        (LogFilter(symbols=("VDMI",)), [5, 6]),
        (LogFilter(symbols=("NVDA", "TSLA")), [3]),
        (LogFilter(since=parse_since("2026-12-01", NOW)), [4]),
        (LogFilter(level="error", symbols=("AAPL",)), []),
    ],
)
def test_log_filter_chooses_by_level_event_symbol_and_time(chosen: LogFilter, numbers: list[int]) -> None:
    """Every filter must agree; a text that is no event is shown only without one."""
    assert [number for number, text in enumerate(DAY) if chosen.chooses(parse_line(text))] == numbers


def test_log_line_fits_the_terminal_and_keeps_every_fact() -> None:
    """At 80 columns the first line has time, event and symbol; the rest is indented; nothing is cut."""
    reason = "the broker refused the request: " + "insufficient qty available for order " * 4
    line = parse_line(written("warning", "exit_refused", order_id=17, reason=reason, symbol="AAPL", qty="20"))
    lines = list(format_line(line, 80))
    assert lines[0].startswith("09:31:07  WARNING exit_refused  symbol=AAPL qty=20")
    assert all(len(part) <= 80 for part in lines)
    assert all(part.startswith(" " * 10) for part in lines[1:])
    counts = parse_line(written("info", "scan_finished", counts={"listed": 4350, "scan": 200}))
    assert list(format_line(counts, 80)) == ['09:31:07  scan_finished  counts="listed 4350, scan 200"']
    assert reason.split() == re.sub(r'.*reason="|"$', "", " ".join(part.strip() for part in lines)).split()
    assert len(list(format_line(line, None))) == 1


def test_log_line_shows_control_characters_as_escapes() -> None:
    """A text of the broker moves no cursor, changes no colour, reverses no letters and begins no line."""
    text = "x\x1b[2J\r\n09:31:07  daemon_ready\x9b31m\u202e"
    (shown,) = format_line(parse_line(written("info", "note", reason=text, symbol="A\x07")), None)
    assert shown.isprintable()
    assert shown == (r'09:31:07  note  symbol=A\x07 reason="x\x1b[2J\r\n09:31:07  daemon_ready\x9b31m\u202e"')
    (other,) = format_line(parse_line("no event \x1b[2J"), 80)
    assert other == r"no event \x1b[2J"


def test_page_shows_a_recorded_demo_day_and_explains_each_event() -> None:
    """docs/logs.md has the recorded lines as `catalyst logs` shows them at 80 columns; each event is in its table and
    in the code."""
    page = (ROOT / "docs" / "logs.md").read_text()
    recorded = [parse_line(text) for text in (ROOT / "tests/cli/demo_day.jsonl").read_text().splitlines()]
    shown = [part for line in recorded for part in format_line(line, 80)]
    assert "```text\n" + "\n".join(["---- Wednesday 17 June 2026, New York time", *shown]) + "\n```" in page
    assert max(map(len, shown)) <= 80
    code = "\n".join(path.read_text() for path in (ROOT / "catalyst").rglob("*.py"))
    for event in {line.event for line in recorded}:
        assert f"`{event}`" in page.rpartition("```")[2], event
        assert f'"{event}"' in code or (event.startswith("order_") and 'f"order_{' in code), event


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("30m", "2026-11-30T09:30:00-05:00"),
        ("2h", "2026-11-30T08:00:00-05:00"),
        ("1d", "2026-11-29T10:00:00-05:00"),
        ("9:31", "2026-11-30T09:31:00-05:00"),
        ("2026-07-01", "2026-07-01T00:00:00-04:00"),
        ("2026-11-27T13:00", "2026-11-27T13:00:00-05:00"),
    ],
)
def test_since_is_read_as_new_york_time(text: str, expected: str) -> None:
    """A duration, a time of today, a date or both, in summer and in winter."""
    assert parse_since(text, NOW) == datetime.fromisoformat(expected)


@pytest.mark.parametrize("text", ["yesterday", "25:00", "", "m", "-5m", "99999999h"])
def test_wrong_since_names_the_right_forms(text: str) -> None:
    """Anything else is refused with a sentence."""
    with pytest.raises(UserError, match="write 30m, 2h"):
        parse_since(text, NOW)


async def test_followed_file_goes_on_after_a_rotation(tmp_path: Path) -> None:
    """The last lines that are there, then each complete line that comes, then those of the new file."""
    path = tmp_path / "daemon.log"
    path.write_text("".join(f"{number}\n" for number in range(30)))
    lines = file_lines(path, SystemClock(), follow=True, last=2)

    async def next_line() -> str:
        async with asyncio.timeout(60):
            return await anext(lines)

    assert [await next_line(), await next_line()] == ["28\n", "29\n"]
    coming = asyncio.create_task(next_line())
    with path.open("a") as file:
        file.write("half ")
        file.flush()
        file.write("a line\n")
    assert await coming == "half a line\n"
    path.rename(tmp_path / "daemon.log.1")
    path.write_text("new\n")
    assert await next_line() == "new\n"
    path.write_text("")
    coming = asyncio.create_task(next_line())
    path.write_text("x\n")
    assert await coming == "x\n"
    await lines.aclose()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that runs `catalyst logs` in an empty folder and returns its output; it raises UserError."""
    monkeypatch.chdir(tmp_path)

    def run_logs(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["logs", *arguments], standalone_mode=False)
        if result.exception is not None:
            raise result.exception
        return result.stdout

    return run_logs


def test_logs_command_says_that_nothing_matches(tmp_path: Path) -> None:
    """Without a matching line nothing is on stdout, and a sentence on stderr says so."""
    (tmp_path / "daemon.log").write_text("\n".join(DAY) + "\n")
    result = CliRunner().invoke(app, ["logs", "--file", str(tmp_path / "daemon.log"), "--symbol", "TSLA"])
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"no line of {tmp_path / 'daemon.log'} matches\n"


def test_logs_command_shows_filters_and_saves(run: Callable[..., str], tmp_path: Path) -> None:
    """From a file: a date line for each day, one line per event in a pipe, JSON as written, a new private file."""
    (tmp_path / "daemon.log").write_text("\n".join(DAY) + "\n")
    shown = run("--file", "daemon.log", "--level", "info").splitlines()
    assert shown == [
        "---- Monday 30 November 2026, New York time",
        "07:59:01  daemon_ready  gate=[]",
        "09:31:07  entry_filled  symbol=AAPL side=long qty=20 price=190.01 held=20 position_id=1",
        "09:31:07  WARNING position_unprotected  symbol=AAPL qty=20 state=unprotected",
        "09:31:07  ERROR prices_stale  symbols=MSFT,NVDA",
        "---- Tuesday 01 December 2026, New York time",
        '09:30:00  CRITICAL safe_mode_entered  reason="I3: shares without a fill"',
        "---- Monday 30 November 2026, New York time",
        '09:31:07  WARNING exit_requested  position_id=3 reason="TIME_LIMIT: VDMI held 180 minutes"',
        "09:31:07  scan_finished  plans=VDMI,AAPL",
    ]
    assert run("--file", "daemon.log", "--symbol", "aapl", "--json").splitlines() == [*DAY[1:3], DAY[6]]
    assert run("--file", "daemon.log", "--event", "entry_*", "--output", "saved.txt") == ""
    assert (tmp_path / "saved.txt").read_text().splitlines() == [shown[0], shown[2]]
    assert (tmp_path / "saved.txt").stat().st_mode & 0o077 == 0
    with pytest.raises(UserError, match="exists: name a new file"):
        run("--file", "daemon.log", "--output", "saved.txt")
    with pytest.raises(UserError, match="cannot be read: No such file"):
        run("--file", "nowhere.log")
    with pytest.raises(UserError, match="loud is no level: write debug, info"):
        run("--level", "loud")


def test_logs_command_reads_the_journal(
    run: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a file it asks journalctl for the unit, and says what to do where there is none."""
    programs = tmp_path / "bin"
    programs.mkdir()
    asked = tmp_path / "asked"
    (programs / "journalctl").write_text(f"#!/bin/sh\necho \"$@\" > {asked}\necho '{DAY[1]}'\n")
    (programs / "journalctl").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    assert "entry_filled" in run("--unit", "catalyst@paper", "--since", "2026-11-30")
    began = int(datetime(2026, 11, 30, 5, tzinfo=UTC).timestamp())
    assert asked.read_text().split() == [
        "--unit=catalyst@paper",
        "--output=cat",
        "--no-pager",
        f"--since=@{began}",
    ]
    run("--follow")
    assert asked.read_text().split() == ["--unit=catalyst", "--output=cat", "--no-pager", "--follow"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no journalctl: name the daemon's log with --file"):
        run()
