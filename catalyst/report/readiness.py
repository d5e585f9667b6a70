"""Readiness: the two lists before autonomous trading and before real money; each item is computed or attested.

A computed item comes from the rows of this database; an attested one is what a person says, with name, time and note.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Final

from catalyst.report.performance import Performance, read_performance
from catalyst.store import daemon_epoch, readiness
from catalyst.store.pool import Connection
from catalyst.store.readiness import Attestation, Record

WEEK: Final = 5  # sessions
TWO_WEEKS: Final = 10
CRASH_WINDOW: Final = timedelta(days=14)
LONGEST_RECORD: Final = timedelta(days=366)
MIN_WIN_RATE: Final = Decimal(50)  # percent
MIN_AVERAGE: Final = Decimal(50)  # dollars a trade
MAX_DRAWDOWN: Final = Decimal(500)  # dollars, of a day
ATTESTED_ITEMS: Final = {
    "config-review": "config.yaml and .env were read line by line",
    "risk-check": "`catalyst risk-check` gave the expected verdicts",
    "restore-test": "a backup was restored and looked at",
    "monitoring": "somebody is told when the machine or the daemon fails",
    "live-account": "the live account is funded, its keys are created, and its first week is planned",
}


class Level(StrEnum):
    AUTONOMOUS = "autonomous"
    LIVE = "live"


@dataclass(frozen=True, slots=True)
class Item:
    """One item of a list. `how` is computed or attested."""

    level: Level
    name: str
    passed: bool
    text: str
    how: str


@dataclass(frozen=True, slots=True)
class Readiness:
    """Both lists. A level is ready when each of its items has passed; live needs those of autonomous too."""

    at: datetime
    items: tuple[Item, ...]

    def is_ready(self, level: Level) -> bool:
        """Return true when nothing of the level is missing."""
        levels = {Level.AUTONOMOUS, level}
        return all(item.passed for item in self.items if item.level in levels)


async def read_readiness(
    conn: Connection, *, check_passed: bool, backup_at: datetime | None, at: datetime, today: date
) -> Readiness:
    """Return both lists. `check_passed`: the result of `catalyst check`; `backup_at`: the time of the last backup."""
    record = await readiness.read_record(conn, since=at - CRASH_WINDOW)
    attested = await readiness.attestations(conn)
    performance = await read_performance(conn, today - LONGEST_RECORD, today, at=at)
    mode = (await daemon_epoch.current(conn)).mode
    return Readiness(
        at,
        (
            *_autonomous_items(record, attested, check_passed=check_passed, backup_at=backup_at, at=at),
            *_live_items(record, attested, performance, mode),
        ),
    )


def _autonomous_items(
    record: Record,
    attested: Mapping[str, Attestation],
    *,
    check_passed: bool,
    backup_at: datetime | None,
    at: datetime,
) -> list[Item]:
    has_backup = backup_at is not None and at - backup_at <= timedelta(hours=26)
    backup = "none" if backup_at is None else f"the last is of {backup_at:%Y-%m-%d %H:%M} UTC"
    computed = [
        ("check", check_passed, "`catalyst check` passes: database, schema, broker, disk"),
        ("scan", record.scans_by_hand > 0, f"{record.scans_by_hand} scans by `catalyst scan`"),
        ("alerts", record.alert_delivered, "an alert was delivered (`catalyst test-alert`)"),
        ("backup", has_backup, f"a backup of the last 26 hours: {backup}"),
        (
            "supervised-week",
            record.supervised_sessions >= WEEK,
            f"{record.supervised_sessions} of {WEEK} completed supervised sessions",
        ),
    ]
    items = [Item(Level.AUTONOMOUS, name, passed, text, "computed") for name, passed, text in computed]
    names = ("config-review", "risk-check", "restore-test", "monitoring")
    return [*items, *(_attested_item(Level.AUTONOMOUS, name, attested) for name in names)]


def _live_items(
    record: Record, attested: Mapping[str, Attestation], performance: Performance, mode: str | None
) -> list[Item]:
    statistics = performance.statistics
    sessions = record.completed_sessions if mode == "paper" else 0
    win_rate, average = statistics.win_rate, statistics.average_pnl
    average_r = "no R known" if statistics.average_r is None else f"average R {statistics.average_r:+}"
    computed = [
        (
            "paper-sessions",
            sessions >= TWO_WEEKS,
            f"{sessions} of {TWO_WEEKS} completed sessions of a paper account",
        ),
        (
            "win-rate",
            win_rate is not None and win_rate > MIN_WIN_RATE,
            f"win rate {'–' if win_rate is None else win_rate} %, above {MIN_WIN_RATE} is asked for",
        ),
        (
            "average-trade",
            average is not None and average > MIN_AVERAGE,
            f"average trade ${'–' if average is None else average}, above ${MIN_AVERAGE} is asked for; {average_r}",
        ),
        (
            "drawdown",
            bool(performance.days) and performance.worst_drawdown < MAX_DRAWDOWN,
            f"largest drawdown of a day ${performance.worst_drawdown}, below ${MAX_DRAWDOWN} is asked for",
        ),
        (
            "no-crash",
            record.crashes == 0,
            f"{record.crashes} runs of the last two weeks ended without a shutdown",
        ),
        (
            "emergency-stop",
            record.stops_exercised > 0,
            f"{record.stops_exercised} emergency stops or flattens by a person",
        ),
        ("test-order", record.test_orders > 0, f"{record.test_orders} test orders confirmed and cancelled"),
    ]
    items = [Item(Level.LIVE, name, passed, text, "computed") for name, passed, text in computed]
    return [*items, _attested_item(Level.LIVE, "live-account", attested)]


def _attested_item(level: Level, name: str, attested: Mapping[str, Attestation]) -> Item:
    found = attested.get(name)
    if found is None:
        text = f"{ATTESTED_ITEMS[name]}: say so with `catalyst readiness --attest {name}`"
        return Item(level, name, False, text, "attested")
    note = f": {found.note}" if found.note else ""
    return Item(
        level,
        name,
        True,
        f"{ATTESTED_ITEMS[name]}; {found.by} on {found.at:%Y-%m-%d %H:%M} UTC{note}",
        "attested",
    )
