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

from catalyst.cli.output import print_result
from catalyst.cli.settings import (
    ConfigOption,
    JsonOption,
    database_dsn,
    is_embedded,
    open_clock,
    read_settings,
    run_async,
    secrets_file,
    translate_connection_errors,
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

SLOW_ROUND_TRIP_MS: Final = 50.0
MAX_CLOCK_SKEW: Final = timedelta(seconds=2)  # between our clock and the broker's, before it matters
LOW_DISK_BYTES: Final = 1 << 30
MIN_DISK_BYTES: Final = 100 << 20
GROUP_OR_OTHERS_MODE: Final = stat.S_IRWXG | stat.S_IRWXO

# What the daemon's role must be allowed to do.
REQUIRED_PRIVILEGES: Final = {
    "orders": "INSERT, UPDATE",
    "order_events": "INSERT",
    "executions": "INSERT",
    "positions": "INSERT, UPDATE",
    "trading_cycles": "INSERT, UPDATE",
    "scans": "INSERT",
    "commands": "INSERT, UPDATE",
}


class CheckVerdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of the check; `fix` says what to do, empty when there is nothing to do."""

    name: str
    verdict: CheckVerdict
    detail: str
    fix: str = ""


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Look at everything trading needs; exit 1 if something would stop it. Nothing is changed, nothing is sent."""
    findings = run_async(lambda: _run_checks(config))
    passed = all(finding.verdict is not CheckVerdict.FAIL for finding in findings)
    print_result({"passed": passed, "checks": findings}, as_json, lambda: _check_lines(findings))
    if not passed:
        raise typer.Exit(1)


async def _run_checks(config: ConfigOption) -> list[CheckResult]:
    try:
        settings = read_settings(config)
    except ConfigInvalid as error:
        return [
            CheckResult("config", CheckVerdict.FAIL, str(error), "correct it; nothing else was looked at")
        ]
    clock = open_clock(settings)
    findings = [*_check_config(settings), *_check_secrets()]
    findings += [finding async for finding in _check_database(settings)]
    findings += [finding async for finding in _check_broker(settings, clock)]
    return [*findings, _check_disk(settings)]


def _check_lines(findings: list[CheckResult]) -> Iterator["Text"]:
    from rich.text import Text

    styles = {CheckVerdict.OK: "green", CheckVerdict.WARN: "yellow", CheckVerdict.FAIL: "bold red"}
    for one in findings:
        line = Text(f"{one.verdict:<5}", style=styles[one.verdict])
        line.append(f"{one.name:<11}{one.detail}", style="default not bold")
        if one.fix:
            line.append(f"  → {one.fix}", style="default not bold")
        yield line


def _check_config(settings: Settings) -> Iterator[CheckResult]:
    source = settings.source or "no file: the defaults"
    yield CheckResult("config", CheckVerdict.OK, f"{source}, fingerprint {settings.config.fingerprint}")
    autonomous = settings.session_mode is SessionMode.AUTONOMOUS
    yield CheckResult(
        "mode",
        CheckVerdict.OK,
        f"{settings.mode}, {settings.session_mode}"
        + (": trades by itself" if autonomous else ": each trade waits for `catalyst approve`"),
    )
    for notice in settings.notices:
        yield CheckResult("notice", CheckVerdict.WARN, notice)


def _check_secrets() -> Iterator[CheckResult]:
    file = secrets_file()
    if file is None:
        yield CheckResult("secrets", CheckVerdict.OK, "no .env here: secrets come from the environment")
    elif file.stat().st_mode & GROUP_OR_OTHERS_MODE:
        mode = stat.S_IMODE(file.stat().st_mode)
        yield CheckResult(
            "secrets", CheckVerdict.WARN, f".env has mode {mode:04o}: others can read it", "chmod 600 .env"
        )
    else:
        yield CheckResult("secrets", CheckVerdict.OK, ".env is readable by its owner only")


async def _check_database(settings: Settings) -> AsyncIterator[CheckResult]:
    """Reachable, migrated, and ours to write; the embedded one is only made by what needs it."""
    if is_embedded(settings) and not settings.data_dir.exists():
        from catalyst import embedded

        try:
            embedded.find_binaries()
        except embedded.EmbeddedUnavailable as error:
            yield CheckResult("database", CheckVerdict.FAIL, str(error))
            return
        yield CheckResult(
            "database", CheckVerdict.OK, f"embedded, made at the first run in {settings.data_dir}"
        )
        return
    try:
        with database_dsn(settings, create=False) as dsn, translate_connection_errors(dsn):
            async for finding in _check_connected_database(settings, dsn):
                yield finding
    except UserError as error:
        yield CheckResult("database", CheckVerdict.FAIL, str(error))


async def _check_connected_database(settings: Settings, dsn: str) -> AsyncIterator[CheckResult]:
    from catalyst.store.migrate import require_current
    from catalyst.store.pool import connect

    began = perf_counter()
    conn = await connect(dsn, "catalyst check")
    try:
        server = await conn.fetchval("SHOW server_version")
        took = (perf_counter() - began) * 1000
        kind = "embedded" if is_embedded(settings) else "DATABASE_URL"
        yield CheckResult(
            "database", CheckVerdict.OK, f"PostgreSQL {server}, {kind}, answers in {took:.0f} ms"
        )
        try:
            await require_current(conn)
        except UserError as error:
            if is_embedded(settings):
                yield CheckResult(
                    "schema", CheckVerdict.WARN, str(error), "the next `catalyst run` does it by itself"
                )
            else:
                yield CheckResult("schema", CheckVerdict.FAIL, str(error))
            return
        yield CheckResult("schema", CheckVerdict.OK, "every migration is applied")
        yield await _check_privileges(conn)
        yield await _check_daemon(conn)
    finally:
        await conn.close()


async def _check_privileges(conn: "Connection") -> CheckResult:
    missing = [
        f"{right} on {table}"
        for table, rights in REQUIRED_PRIVILEGES.items()
        for right in rights.split(", ")
        if not await conn.fetchval("SELECT has_table_privilege($1, $2)", table, right)
    ]
    if missing:
        who = await conn.fetchval("SELECT current_user")
        return CheckResult(
            "rights",
            CheckVerdict.FAIL,
            f"{who} lacks {', '.join(missing)}",
            "grant them, or connect as catalyst_app",
        )
    return CheckResult("rights", CheckVerdict.OK, "may write what trading writes")


async def _check_daemon(conn: "Connection") -> CheckResult:
    from catalyst.store import daemon_epoch, reporting_queries

    account = (await daemon_epoch.current(conn)).account_id
    running = account is not None and await reporting_queries.is_account_locked(conn, account)
    return CheckResult("daemon", CheckVerdict.OK, "running" if running else "not running")


async def _check_broker(settings: Settings, clock: Clock) -> AsyncIterator[CheckResult]:
    """The account, the broker's clock, the calendar, the news: questions only."""
    from catalyst.broker.alpaca import AlpacaBroker

    key, secret = settings.keys
    broker = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret)
    try:
        began = perf_counter()
        account = await broker.account()
        took = (perf_counter() - began) * 1000
        yield CheckResult(
            "broker",
            CheckVerdict.OK,
            f"{settings.mode} at {settings.trading_url}, account {account.account_number}, cash ${account.cash:,.2f}, "
            f"buying power ${account.buying_power:,.2f}",
        )
        if not account.can_open_positions:
            yield CheckResult(
                "account", CheckVerdict.FAIL, f"status {account.status}, or blocked", "ask the broker why"
            )
        wanted = settings.config.trading.account_number
        if settings.mode is Mode.LIVE and wanted != account.account_number:
            yield CheckResult(
                "account", CheckVerdict.FAIL, f"trading.account_number is {wanted}", "use that account's keys"
            )
        began = perf_counter()
        theirs = await broker.clock()
        took = min(took, (perf_counter() - began) * 1000)
        yield _check_round_trip(took)
        yield _check_clock_skew(theirs.at - clock.now())
        yield await _check_calendar(broker, clock.now())
    except BrokerError as error:
        start = (
            "start the exchange with `catalyst sim`"
            if settings.mode is Mode.SIM
            else "check ALPACA_API_KEY, ALPACA_SECRET_KEY and the network"
        )
        yield CheckResult(
            "broker",
            CheckVerdict.FAIL,
            f"{settings.trading_url} does not answer: {_shorten_error(error)}",
            start,
        )
        return
    finally:
        await broker.close()
    yield await _check_news(settings, clock)


def _shorten_error(error: BrokerError) -> str:
    """The request and what became of it, without the library's whole story."""
    return shorten(str(error), 100, placeholder=" …")


def _check_round_trip(milliseconds: float) -> CheckResult:
    slow = milliseconds > SLOW_ROUND_TRIP_MS
    return CheckResult(
        "round trip",
        CheckVerdict.WARN if slow else CheckVerdict.OK,
        f"{milliseconds:.0f} ms",
        "a machine nearer to the broker (us-east) fills better" if slow else "",
    )


def _check_clock_skew(skew: timedelta) -> CheckResult:
    wrong = abs(skew) > MAX_CLOCK_SKEW
    return CheckResult(
        "clock",
        CheckVerdict.WARN if wrong else CheckVerdict.OK,
        f"{abs(skew.total_seconds()):.1f} s {'behind' if skew > timedelta(0) else 'ahead of'} the broker's",
        "let chrony or ntpd set this machine's clock; against `catalyst sim`, set CATALYST_CLOCK"
        if wrong
        else "",
    )


async def _check_calendar(broker: "AlpacaBroker", now: datetime) -> CheckResult:
    today = trading_date(now)
    sessions = await broker.calendar(today, today + timedelta(days=10))
    coming = [session for session in sessions if session.close > now]
    if not coming:
        return CheckResult(
            "calendar", CheckVerdict.FAIL, "the broker's calendar has no session in the next ten days"
        )
    first = coming[0]
    half = ", a half day" if first.half_day else ""
    return CheckResult(
        "calendar",
        CheckVerdict.OK,
        f"next session {first.day}, {first.open.astimezone(NEW_YORK):%H:%M} to "
        f"{first.close.astimezone(NEW_YORK):%H:%M} New York{half}",
    )


async def _check_news(settings: Settings, clock: Clock) -> CheckResult:
    from catalyst.broker.news import AlpacaNews

    if not settings.config.features.news_sentiment:
        return CheckResult("news", CheckVerdict.OK, "switched off (features.news_sentiment)")
    key, secret = settings.keys
    news = AlpacaNews(clock, base_url=settings.data_url, key=key, secret=secret)
    try:
        now = clock.now()
        received = await news.headlines(["AAPL", "SPY"], now - timedelta(hours=24), now)
        return CheckResult(
            "news", CheckVerdict.OK, f"answers; {len(received)} headlines on AAPL and SPY in 24 hours"
        )
    except BrokerError as error:
        return CheckResult(
            "news",
            CheckVerdict.WARN,
            f"does not answer: {error}",
            "scans are degraded: nothing is entered by itself",
        )
    finally:
        await news.close()


def _check_disk(settings: Settings) -> CheckResult:
    place = settings.data_dir if is_embedded(settings) else Path()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    verdict = (
        CheckVerdict.FAIL
        if free < MIN_DISK_BYTES
        else CheckVerdict.WARN
        if free < LOW_DISK_BYTES
        else CheckVerdict.OK
    )
    fix = "" if verdict is CheckVerdict.OK else "free some: the database stops when it is full"
    return CheckResult("disk", verdict, f"{free / (1 << 30):.1f} GiB free at {place.resolve()}", fix)
