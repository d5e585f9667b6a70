"""`catalyst check`: everything that would stop trading, before it does; a line each, with what to do."""

import shutil
import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from textwrap import shorten
from time import perf_counter
from typing import TYPE_CHECKING, Final

import typer

from catalyst.cli.output import tell
from catalyst.cli.settings import (
    Config,
    Json,
    database,
    is_embedded,
    open_clock,
    reaching,
    read_settings,
    run_async,
    secrets_file,
)
from catalyst.clock import Clock
from catalyst.config.schema import Mode, SessionMode
from catalyst.config.settings import Settings
from catalyst.domain.errors import BrokerError, ConfigInvalid, UserError
from catalyst.domain.session import NEW_YORK, trading_date

if TYPE_CHECKING:
    from rich.text import Text

    from catalyst.broker.alpaca import AlpacaBroker
    from catalyst.store.pool import Connection

SLOW_MILLISECONDS: Final = 50.0
SKEW: Final = timedelta(seconds=2)  # between our clock and the broker's, before it matters
LITTLE_DISK: Final = 1 << 30
NO_DISK: Final = 100 << 20
OPEN_TO_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO

# What the daemon's role must be allowed to do.
RIGHTS: Final = {
    "orders": "INSERT, UPDATE",
    "order_events": "INSERT",
    "executions": "INSERT",
    "positions": "INSERT, UPDATE",
    "trading_cycles": "INSERT, UPDATE",
    "scans": "INSERT",
    "commands": "INSERT, UPDATE",
}


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the check; `fix` says what to do, empty when there is nothing to do."""

    name: str
    verdict: Verdict
    said: str
    fix: str = ""


def check(config: Config = None, as_json: Json = False) -> None:
    """Look at everything trading needs; exit 1 if something would stop it. Nothing is changed, nothing is sent."""
    findings = run_async(lambda: _look(config))
    passed = all(finding.verdict is not Verdict.FAIL for finding in findings)
    tell({"passed": passed, "checks": findings}, as_json, lambda: _lines(findings))
    if not passed:
        raise typer.Exit(1)


async def _look(config: Config) -> list[Finding]:
    try:
        settings = read_settings(config)
    except ConfigInvalid as error:
        return [Finding("config", Verdict.FAIL, str(error), "correct it; nothing else was looked at")]
    clock = open_clock(settings)
    findings = [*_config(settings), *_secrets()]
    findings += [finding async for finding in _database(settings)]
    findings += [finding async for finding in _broker(settings, clock)]
    return [*findings, _disk(settings)]


def _lines(findings: list[Finding]) -> Iterator["Text"]:
    from rich.text import Text

    styles = {Verdict.OK: "green", Verdict.WARN: "yellow", Verdict.FAIL: "bold red"}
    for one in findings:
        line = Text(f"{one.verdict:<5}", style=styles[one.verdict])
        line.append(f"{one.name:<11}{one.said}", style="default not bold")
        if one.fix:
            line.append(f"  → {one.fix}", style="default not bold")
        yield line


def _config(settings: Settings) -> Iterator[Finding]:
    source = settings.source or "no file: the defaults"
    yield Finding("config", Verdict.OK, f"{source}, fingerprint {settings.config.fingerprint}")
    autonomous = settings.session_mode is SessionMode.AUTONOMOUS
    yield Finding(
        "mode",
        Verdict.OK,
        f"{settings.mode}, {settings.session_mode}"
        + (": trades by itself" if autonomous else ": each trade waits for `catalyst approve`"),
    )
    for notice in settings.notices:
        yield Finding("notice", Verdict.WARN, notice)


def _secrets() -> Iterator[Finding]:
    file = secrets_file()
    if file is None:
        yield Finding("secrets", Verdict.OK, "no .env here: secrets come from the environment")
    elif file.stat().st_mode & OPEN_TO_OTHERS:
        mode = stat.S_IMODE(file.stat().st_mode)
        yield Finding(
            "secrets", Verdict.WARN, f".env has mode {mode:04o}: others can read it", "chmod 600 .env"
        )
    else:
        yield Finding("secrets", Verdict.OK, ".env is readable by its owner only")


async def _database(settings: Settings) -> AsyncIterator[Finding]:
    """Reachable, migrated, and ours to write; the embedded one is only made by what needs it."""
    if is_embedded(settings) and not settings.data_dir.exists():
        from catalyst import embedded

        try:
            embedded.find_binaries()
        except embedded.EmbeddedUnavailable as error:
            yield Finding("database", Verdict.FAIL, str(error))
            return
        yield Finding("database", Verdict.OK, f"embedded, made at the first run in {settings.data_dir}")
        return
    try:
        with database(settings, make=False) as dsn, reaching(dsn):
            async for finding in _inside(settings, dsn):
                yield finding
    except UserError as error:
        yield Finding("database", Verdict.FAIL, str(error))


async def _inside(settings: Settings, dsn: str) -> AsyncIterator[Finding]:
    from catalyst.store.migrate import require_current
    from catalyst.store.pool import connect

    began = perf_counter()
    conn = await connect(dsn, "catalyst check")
    try:
        server = await conn.fetchval("SHOW server_version")
        took = (perf_counter() - began) * 1000
        kind = "embedded" if is_embedded(settings) else "DATABASE_URL"
        yield Finding("database", Verdict.OK, f"PostgreSQL {server}, {kind}, answers in {took:.0f} ms")
        try:
            await require_current(conn)
        except UserError as error:
            if is_embedded(settings):
                yield Finding("schema", Verdict.WARN, str(error), "the next `catalyst run` does it by itself")
            else:
                yield Finding("schema", Verdict.FAIL, str(error))
            return
        yield Finding("schema", Verdict.OK, "every migration is applied")
        yield await _rights(conn)
        yield await _daemon(conn)
    finally:
        await conn.close()


async def _rights(conn: "Connection") -> Finding:
    missing = [
        f"{right} on {table}"
        for table, rights in RIGHTS.items()
        for right in rights.split(", ")
        if not await conn.fetchval("SELECT has_table_privilege($1, $2)", table, right)
    ]
    if missing:
        who = await conn.fetchval("SELECT current_user")
        return Finding(
            "rights",
            Verdict.FAIL,
            f"{who} lacks {', '.join(missing)}",
            "grant them, or connect as catalyst_app",
        )
    return Finding("rights", Verdict.OK, "may write what trading writes")


async def _daemon(conn: "Connection") -> Finding:
    from catalyst.store import daemon_epoch, reporting_queries

    account = (await daemon_epoch.current(conn)).account_id
    running = account is not None and await reporting_queries.is_locked(conn, account)
    return Finding("daemon", Verdict.OK, "running" if running else "not running")


async def _broker(settings: Settings, clock: Clock) -> AsyncIterator[Finding]:
    """The account, the broker's clock, the calendar, the news: questions only."""
    from catalyst.broker.alpaca import AlpacaBroker

    key, secret = settings.keys
    broker = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret)
    try:
        began = perf_counter()
        account = await broker.account()
        took = (perf_counter() - began) * 1000
        yield Finding(
            "broker",
            Verdict.OK,
            f"{settings.mode} at {settings.trading_url}, account {account.account_number}, cash ${account.cash:,.2f}, "
            f"buying power ${account.buying_power:,.2f}",
        )
        if not account.may_enter:
            yield Finding(
                "account", Verdict.FAIL, f"status {account.status}, or blocked", "ask the broker why"
            )
        wanted = settings.config.trading.account_number
        if settings.mode is Mode.LIVE and wanted != account.account_number:
            yield Finding(
                "account", Verdict.FAIL, f"trading.account_number is {wanted}", "use that account's keys"
            )
        began = perf_counter()
        theirs = await broker.clock()
        took = min(took, (perf_counter() - began) * 1000)
        yield _round_trip(took)
        yield _skew(theirs.at - clock.now())
        yield await _calendar(broker, clock.now())
    except BrokerError as error:
        start = (
            "start the exchange with `catalyst sim`"
            if settings.mode is Mode.SIM
            else "check ALPACA_API_KEY, ALPACA_SECRET_KEY and the network"
        )
        yield Finding(
            "broker", Verdict.FAIL, f"{settings.trading_url} does not answer: {_short(error)}", start
        )
        return
    finally:
        await broker.close()
    yield await _news(settings, clock)


def _short(error: BrokerError) -> str:
    """The request and what became of it, without the library's whole story."""
    return shorten(str(error), 100, placeholder=" …")


def _round_trip(milliseconds: float) -> Finding:
    slow = milliseconds > SLOW_MILLISECONDS
    return Finding(
        "round trip",
        Verdict.WARN if slow else Verdict.OK,
        f"{milliseconds:.0f} ms",
        "a machine nearer to the broker (us-east) fills better" if slow else "",
    )


def _skew(skew: timedelta) -> Finding:
    wrong = abs(skew) > SKEW
    return Finding(
        "clock",
        Verdict.WARN if wrong else Verdict.OK,
        f"{abs(skew.total_seconds()):.1f} s {'behind' if skew > timedelta(0) else 'ahead of'} the broker's",
        "let chrony or ntpd set this machine's clock; against `catalyst sim`, set CATALYST_CLOCK"
        if wrong
        else "",
    )


async def _calendar(broker: "AlpacaBroker", now: datetime) -> Finding:
    today = trading_date(now)
    sessions = await broker.calendar(today, today + timedelta(days=10))
    coming = [session for session in sessions if session.close > now]
    if not coming:
        return Finding("calendar", Verdict.FAIL, "the broker's calendar has no session in the next ten days")
    first = coming[0]
    half = ", a half day" if first.half_day else ""
    return Finding(
        "calendar",
        Verdict.OK,
        f"next session {first.day}, {first.open.astimezone(NEW_YORK):%H:%M} to "
        f"{first.close.astimezone(NEW_YORK):%H:%M} New York{half}",
    )


async def _news(settings: Settings, clock: Clock) -> Finding:
    from catalyst.broker.news import AlpacaNews

    if not settings.config.features.news_sentiment:
        return Finding("news", Verdict.OK, "switched off (features.news_sentiment)")
    key, secret = settings.keys
    news = AlpacaNews(clock, base_url=settings.data_url, key=key, secret=secret)
    try:
        now = clock.now()
        heard = await news.headlines(["AAPL", "SPY"], now - timedelta(hours=24), now)
        return Finding("news", Verdict.OK, f"answers; {len(heard)} headlines on AAPL and SPY in 24 hours")
    except BrokerError as error:
        return Finding(
            "news",
            Verdict.WARN,
            f"does not answer: {error}",
            "scans are degraded: nothing is entered by itself",
        )
    finally:
        await news.close()


def _disk(settings: Settings) -> Finding:
    place = settings.data_dir if is_embedded(settings) else Path()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    verdict = Verdict.FAIL if free < NO_DISK else Verdict.WARN if free < LITTLE_DISK else Verdict.OK
    fix = "" if verdict is Verdict.OK else "free some: the database stops when it is full"
    return Finding("disk", verdict, f"{free / (1 << 30):.1f} GiB free at {place.resolve()}", fix)
