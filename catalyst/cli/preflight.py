"""`catalyst check`: checks configuration, database, broker and disk before trading; one line each, with the fix."""

import stat
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from textwrap import shorten
from time import perf_counter
from typing import TYPE_CHECKING, Final

import typer

from catalyst.cli.check_result import CheckResult, CheckVerdict
from catalyst.cli.host_checks import check_disks, check_mail_servers
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
from catalyst.domain.errors import AuthRefused, BrokerError, ConfigInvalid, UserError
from catalyst.domain.session import NEW_YORK, trading_date

if TYPE_CHECKING:
    from rich.text import Text

    from catalyst.broker.alpaca import AlpacaBroker
    from catalyst.store.pool import Connection

SLOW_ROUND_TRIP_MS: Final = 50.0
MAX_CLOCK_SKEW: Final = timedelta(seconds=2)  # between our clock and the broker's
GROUP_OR_OTHERS_MODE: Final = stat.S_IRWXG | stat.S_IRWXO

# The privileges that the daemon's role needs, by table.
REQUIRED_PRIVILEGES: Final = {
    "orders": "INSERT, UPDATE",
    "order_events": "INSERT",
    "executions": "INSERT",
    "positions": "INSERT, UPDATE",
    "trading_cycles": "INSERT, UPDATE",
    "scans": "INSERT",
    "commands": "INSERT, UPDATE",
}


@dataclass(slots=True)
class DatabaseOwner:
    """The account to which the database belongs; None before the first daemon, and when it cannot be read."""

    account_id: str | None = None


def check(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Check everything that trading needs; exit 1 if something would stop it. Changes nothing, sends no order."""
    results = run_async(lambda: run_checks(config))
    passed = all(result.verdict is not CheckVerdict.FAIL for result in results)
    print_result({"passed": passed, "checks": results}, as_json, lambda: _check_lines(results))
    if not passed:
        raise typer.Exit(1)


async def run_checks(config: ConfigOption) -> list[CheckResult]:
    """Return the result of every check, in the order in which they are printed."""
    try:
        settings = read_settings(config)
    except ConfigInvalid as error:
        return [
            CheckResult(
                "config",
                CheckVerdict.FAIL,
                str(error),
                "correct it and run the check again; nothing else was checked",
            )
        ]
    clock = open_clock(settings)
    results = [*_check_config(settings), *_check_secrets(), _check_alerts(settings, clock)]
    results += await check_mail_servers(settings, clock)
    owner = DatabaseOwner()
    results += [result async for result in _check_database(settings, owner)]
    results += [result async for result in _check_broker(settings, clock, owner)]
    return [*results, *check_disks(settings)]


def _check_lines(results: list[CheckResult]) -> Iterator["Text"]:
    from rich.text import Text

    styles = {CheckVerdict.OK: "green", CheckVerdict.WARN: "yellow", CheckVerdict.FAIL: "bold red"}
    for result in results:
        line = Text(f"{result.verdict:<5}", style=styles[result.verdict])
        line.append(f"{result.name:<11}{result.detail}", style="default not bold")
        if result.fix:
            line.append(f"  → {result.fix}", style="default not bold")
        yield line


def _check_config(settings: Settings) -> Iterator[CheckResult]:
    source = settings.source or "no file: defaults used"
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


def _check_alerts(settings: Settings, clock: Clock) -> CheckResult:
    from catalyst.notify.configured import configured_channels

    configured = configured_channels(settings, clock)
    if configured.problems:
        return CheckResult(
            "alerts",
            CheckVerdict.FAIL,
            "; ".join(configured.problems),
            "correct it, then run `catalyst test-alert`",
        )
    channels = configured.channels
    if not any("CRITICAL" in channel.severities for channel in channels):
        return CheckResult(
            "alerts",
            CheckVerdict.WARN,
            "nobody receives critical alerts",
            "set ENABLE_EMAIL_ALERTS=true, SMTP_HOST and ALERT_EMAIL_CRITICAL, or ALERT_URL_CRITICAL",
        )
    names = ", ".join(channel.name for channel in channels)
    return CheckResult("alerts", CheckVerdict.OK, f"{names}; `catalyst test-alert` sends one of each")


def _check_secrets() -> Iterator[CheckResult]:
    file = secrets_file()
    if file is None:
        yield CheckResult("secrets", CheckVerdict.OK, "no .env file: secrets come from the environment")
    elif file.stat().st_mode & GROUP_OR_OTHERS_MODE:
        mode = stat.S_IMODE(file.stat().st_mode)
        yield CheckResult(
            "secrets",
            CheckVerdict.WARN,
            f".env has mode {mode:04o}: other users can read it",
            "chmod 600 .env",
        )
    else:
        yield CheckResult("secrets", CheckVerdict.OK, ".env is readable by its owner only")


async def _check_database(settings: Settings, owner: DatabaseOwner) -> AsyncIterator[CheckResult]:
    """Check that the database answers, is migrated and grants the privileges. Does not create an embedded database."""
    if is_embedded(settings) and not settings.data_dir.exists():
        from catalyst import embedded

        try:
            embedded.find_binaries()
        except embedded.EmbeddedUnavailable as error:
            yield CheckResult("database", CheckVerdict.FAIL, str(error))
            return
        yield CheckResult(
            "database", CheckVerdict.OK, f"embedded, will be created in {settings.data_dir} at the first run"
        )
        return
    try:
        with database_dsn(settings, create=False) as dsn, translate_connection_errors(dsn):
            async for result in _check_connected_database(settings, dsn, owner):
                yield result
    except UserError as error:
        yield CheckResult("database", CheckVerdict.FAIL, str(error))


async def _check_connected_database(
    settings: Settings, dsn: str, owner: DatabaseOwner
) -> AsyncIterator[CheckResult]:
    from catalyst.store.migrate import require_current
    from catalyst.store.pool import connected

    started = perf_counter()
    async with connected(dsn, "catalyst check") as conn:
        server = await conn.fetchval("SHOW server_version")
        elapsed_ms = (perf_counter() - started) * 1000
        kind = "embedded" if is_embedded(settings) else "DATABASE_URL"
        yield CheckResult(
            "database", CheckVerdict.OK, f"PostgreSQL {server}, {kind}, answers in {elapsed_ms:.0f} ms"
        )
        try:
            await require_current(conn)
        except UserError as error:
            if is_embedded(settings):
                yield CheckResult(
                    "schema", CheckVerdict.WARN, str(error), "the next `catalyst run` migrates by itself"
                )
            else:
                yield CheckResult("schema", CheckVerdict.FAIL, str(error))
            return
        yield CheckResult("schema", CheckVerdict.OK, "every migration is applied")
        yield await _check_privileges(conn)
        yield await _check_connect(conn)
        yield await _check_daemon(conn, owner, settings)


async def _check_privileges(conn: "Connection") -> CheckResult:
    missing = [
        f"{privilege} on {table}"
        for table, privileges in REQUIRED_PRIVILEGES.items()
        for privilege in privileges.split(", ")
        if not await conn.fetchval("SELECT has_table_privilege($1, $2)", table, privilege)
    ]
    if missing:
        role = await conn.fetchval("SELECT current_user")
        return CheckResult(
            "rights",
            CheckVerdict.FAIL,
            f"{role} lacks {', '.join(missing)}",
            "have its owner run what `catalyst migrate --roles` prints, or connect as catalyst_app",
        )
    return CheckResult("rights", CheckVerdict.OK, "the role has every privilege that the daemon needs")


async def _check_connect(conn: "Connection") -> CheckResult:
    """Warn while every role of the server may connect: a session may hold locks for which the daemon waits."""
    if await conn.fetchval("SELECT has_database_privilege('public', current_database(), 'CONNECT')"):
        return CheckResult(
            "connect",
            CheckVerdict.WARN,
            "every role of the server may connect to the database",
            "have its owner run what `catalyst migrate --roles` prints",
        )
    return CheckResult("connect", CheckVerdict.OK, "only the roles of Catalyst may connect")


async def _check_daemon(conn: "Connection", owner: DatabaseOwner, settings: Settings) -> CheckResult:
    """Say in which mode a daemon runs, by its own statement; a mode other than the one checked here is a warning."""
    from catalyst.store import daemon_epoch, reporting_queries

    daemon = await daemon_epoch.current(conn)
    owner.account_id = account = daemon.account_id
    if account is None or not await reporting_queries.is_account_locked(conn, account):
        return CheckResult("daemon", CheckVerdict.OK, "not running")
    running = f"running: {daemon.mode}, {daemon.session_mode}"
    if (daemon.mode, daemon.session_mode) != (str(settings.mode), str(settings.session_mode)):
        checked = f"{settings.mode}, {settings.session_mode}"
        return CheckResult(
            "daemon",
            CheckVerdict.WARN,
            f"{running}; this check is for {checked}",
            "a restart applies the change",
        )
    return CheckResult("daemon", CheckVerdict.OK, running)


async def _check_broker(settings: Settings, clock: Clock, owner: DatabaseOwner) -> AsyncIterator[CheckResult]:
    """Check the account, the broker's clock, the calendar and the news, with reads only."""
    from catalyst.broker.alpaca import AlpacaBroker

    key, secret = settings.keys
    broker = AlpacaBroker(clock, base_url=settings.trading_url, key=key, secret=secret)
    try:
        started = perf_counter()
        account = await broker.account()
        elapsed_ms = (perf_counter() - started) * 1000
        yield CheckResult(
            "broker",
            CheckVerdict.OK,
            f"{settings.mode} at {settings.trading_url}, account {account.account_number}, cash ${account.cash:,.2f}, "
            f"buying power ${account.buying_power:,.2f}",
        )
        if not account.can_open_positions:
            yield CheckResult(
                "account",
                CheckVerdict.FAIL,
                f"status {account.status}, or blocked for trading",
                "ask the broker for the reason",
            )
        if owner.account_id not in (None, account.account_id):
            yield CheckResult(
                "account",
                CheckVerdict.FAIL,
                f"the database belongs to account {owner.account_id}, the broker shows account {account.account_id}",
                "name another database, or use that account's keys; `catalyst sim --state` keeps a simulated account",
            )
        configured = settings.config.trading.account_number
        if settings.mode is Mode.LIVE and configured != account.account_number:
            yield CheckResult(
                "account",
                CheckVerdict.FAIL,
                f"trading.account_number is {configured}",
                "use that account's keys",
            )
        if settings.config.risk.max_daily_loss > account.equity:
            yield CheckResult(
                "loss limit",
                CheckVerdict.FAIL,
                f"risk.max_daily_loss ${settings.config.risk.max_daily_loss:,.2f} is above the account's equity "
                f"${account.equity:,.2f}: it can never stop a loss",
                "lower it",
            )
        started = perf_counter()
        broker_clock = await broker.clock()
        elapsed_ms = min(elapsed_ms, (perf_counter() - started) * 1000)
        yield _check_round_trip(elapsed_ms)
        yield _check_clock_skew(broker_clock.at - clock.now())
        yield await _check_calendar(broker, clock.now())
        async for result in _check_listing_names(settings, broker, clock):
            yield result
    except AuthRefused as error:
        yield CheckResult(
            "broker",
            CheckVerdict.FAIL,
            f"{settings.trading_url} refuses the keys: {_shorten_error(error)}",
            "correct ALPACA_API_KEY and ALPACA_SECRET_KEY; paper and live have different keys",
        )
        return
    except BrokerError as error:
        fix = (
            "start the simulated exchange with `catalyst sim`"
            if settings.mode is Mode.SIM
            else "check ALPACA_API_KEY, ALPACA_SECRET_KEY and the network"
        )
        yield CheckResult(
            "broker",
            CheckVerdict.FAIL,
            f"{settings.trading_url} does not answer: {_shorten_error(error)}",
            fix,
        )
        return
    finally:
        await broker.close()
    yield await _check_feed(settings, clock)
    yield await _check_news(settings, clock)


def _shorten_error(error: BrokerError) -> str:
    """Return the error's text, in which every secret is masked, cut to 100 characters."""
    return shorten(str(error), 100, placeholder=" …")


def _check_round_trip(milliseconds: float) -> CheckResult:
    slow = milliseconds > SLOW_ROUND_TRIP_MS
    return CheckResult(
        "round trip",
        CheckVerdict.WARN if slow else CheckVerdict.OK,
        f"{milliseconds:.0f} ms",
        "run on a machine nearer to the broker (us-east) for better fills" if slow else "",
    )


def _check_clock_skew(skew: timedelta) -> CheckResult:
    too_large = abs(skew) > MAX_CLOCK_SKEW
    return CheckResult(
        "clock",
        CheckVerdict.WARN if too_large else CheckVerdict.OK,
        f"{abs(skew.total_seconds()):.1f} s {'behind' if skew > timedelta(0) else 'ahead of'} the broker's",
        "set this machine's clock with chrony or ntpd; with `catalyst sim --clock-file`, set CATALYST_CLOCK"
        if too_large
        else "",
    )


async def _check_calendar(broker: "AlpacaBroker", now: datetime) -> CheckResult:
    today = trading_date(now)
    sessions = await broker.calendar(today, today + timedelta(days=10))
    upcoming = [session for session in sessions if session.close > now]
    if not upcoming:
        return CheckResult(
            "calendar", CheckVerdict.FAIL, "the broker's calendar has no session in the next ten days"
        )
    first = upcoming[0]
    half = ", a half day" if first.half_day else ""
    return CheckResult(
        "calendar",
        CheckVerdict.OK,
        f"next session {first.day}, {first.open.astimezone(NEW_YORK):%H:%M} to "
        f"{first.close.astimezone(NEW_YORK):%H:%M} New York{half}",
    )


async def _check_listing_names(
    settings: Settings, broker: "AlpacaBroker", clock: Clock
) -> AsyncIterator[CheckResult]:
    """Check the listings file, and that every symbol and sector of the configuration matches a listing."""
    config = settings.config
    universe, limited_sectors = config.universe, config.sector_limits.sectors_to_limit
    if not (universe.listings_file or universe.allow or universe.deny or limited_sectors):
        return
    from catalyst.broker.market_data import AlpacaMarketData
    from catalyst.daemon.trading_day.scanner import read_present_symbols, read_sectors
    from catalyst.pipeline.universe import renamed_names, unmatched_names

    try:
        sectors = set(read_sectors(universe.listings_file).values())
    except ConfigInvalid as error:
        yield CheckResult("names", CheckVerdict.FAIL, str(error))
        return
    assets = await broker.assets() if universe.allow or universe.deny else []
    listed = {asset.symbol for asset in assets}
    key, secret = settings.keys
    market_data = AlpacaMarketData(clock, base_url=settings.data_url, key=key, secret=secret)
    try:
        present = await read_present_symbols(market_data, listed, universe)
    finally:
        await market_data.close()
    sentences = unmatched_names(listed, sectors, config, present)
    renamed = renamed_names(present, universe)
    for sentence in sentences:
        yield CheckResult("names", CheckVerdict.FAIL, sentence)
    for sentence in renamed:
        yield CheckResult("names", CheckVerdict.WARN, sentence)
    if not sentences and not renamed:
        yield CheckResult(
            "names", CheckVerdict.OK, "every symbol and sector of the configuration has a listing"
        )


async def _check_feed(settings: Settings, clock: Clock) -> CheckResult:
    """Check that the account's data plan includes the feed, by what a scan asks."""
    from catalyst.broker.market_data import AlpacaMarketData

    key, secret = settings.keys
    feed = settings.config.broker.feed
    market_data = AlpacaMarketData(clock, base_url=settings.data_url, key=key, secret=secret, feed=feed)
    try:
        await market_data.snapshots(["SPY"])
    except BrokerError as error:
        excluded = "subscription" in str(error).lower()
        return CheckResult(
            "feed",
            CheckVerdict.FAIL,
            f"the account's data plan does not include {feed}"
            if excluded
            else f"{feed} does not answer: {_shorten_error(error)}",
            "set broker.feed: iex, or subscribe to Alpaca's data plan"
            if excluded
            else "check the keys and the network; without prices nothing is entered and no stop is monitored",
        )
    finally:
        await market_data.close()
    return CheckResult("feed", CheckVerdict.OK, f"{feed}: included in the account's data plan")


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
            "check the keys and the network; until then scans are degraded and no entry is made automatically",
        )
    finally:
        await news.close()
