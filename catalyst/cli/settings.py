"""Configuration, clock and database connection of the commands."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import typer

from catalyst.clock import Clock, ScaledClock, SystemClock
from catalyst.config.addresses import Addresses, load_addresses
from catalyst.config.loader import load, load_alert_settings
from catalyst.config.schema import Mode
from catalyst.config.settings import Settings
from catalyst.domain.errors import ConfigInvalid, DatabasePooled, DatabaseUnavailable, UserError
from catalyst.domain.secret_mask import mask_text

if TYPE_CHECKING:
    from catalyst.embedded import EmbeddedPostgres
    from catalyst.store.pool import Store

T = TypeVar("T")

CONFIG_FILE: Final = Path("config.yaml")
LOOPBACK_HOSTS: Final = ("127.0.0.1", "localhost", "::1")
CLOCK_TIMEOUT_S: Final = 2.0  # real seconds for the exchange to name its clock
SECRETS_FILE: Final = Path(".env")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration file (default: ./config.yaml if it exists)."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON: stable keys, amounts as text, times in UTC.")
]


class DatabaseUnreachable(UserError):
    """The database cannot be reached; the message says what to do."""


def read_settings(path: Path | None) -> Settings:
    """Return the settings from the given file, else ./config.yaml, with secrets from ./.env and the environment.

    Raises ConfigInvalid.
    """
    chosen = path if path is not None else CONFIG_FILE if _is_here(CONFIG_FILE) else None
    return load(chosen, env_file=secrets_file())


def read_addresses(path: Path | None, *, print_problem: bool = True) -> Addresses:
    """Return the settings; of an invalid configuration only its addresses, with a notice on stderr (`print_problem`).

    For commands that only stop, leave or show. Raises ConfigInvalid when the database's address is what is not valid.
    """
    try:
        chosen = path if path is not None else CONFIG_FILE if _is_here(CONFIG_FILE) else None
        env_file = secrets_file()
    except ConfigInvalid as error:  # the environment may still name the database
        hidden = str(error)
        addresses = replace(load_addresses(path, env_file=None), problem=hidden, account_problem=hidden)
    else:
        addresses = load_addresses(chosen, env_file=env_file)
    if print_problem and addresses.problem is not None:
        typer.secho(
            f"catalyst: the configuration is not valid, only its addresses are used: {addresses.problem}",
            err=True,
            fg=typer.colors.YELLOW,
        )
    return addresses


def read_settings_for_alerts(path: Path | None) -> tuple[Settings, str | None]:
    """Return the settings, and what is wrong with the configuration; then only the settings of alerts are real.

    Raises ConfigInvalid when the environment cannot be read at all.
    """
    try:
        return read_settings(path), None
    except ConfigInvalid as error:
        return load_alert_settings(env_file=secrets_file()), str(error)


def secrets_file() -> Path | None:
    """Return ./.env when it exists, else None."""
    return SECRETS_FILE if _is_here(SECRETS_FILE) else None


def _is_here(name: Path) -> bool:
    """Return true when the working folder has the file. Raises ConfigInvalid when the folder cannot be searched."""
    try:
        return name.is_file()
    except PermissionError:
        raise ConfigInvalid(
            "the working folder cannot be read by this user: change to another one, for example with `cd /`"
        ) from None


def open_clock(settings: Settings, *, drive: bool = False) -> Clock:
    """Return the system clock, or the shared clock of CATALYST_CLOCK; with `drive` this process sets its speed.

    Without CATALYST_CLOCK, the clock of a simulated exchange on this machine. With `drive` only one that the exchange
    drives, because this process waits for it. Raises ConfigInvalid when the file is not a clock file.
    """
    path = settings.env.catalyst_clock
    if path is None:
        simulator_file = _simulator_clock_file(settings, driven=drive) if settings.mode is Mode.SIM else None
        return SystemClock() if simulator_file is None else ScaledClock(simulator_file)
    try:
        clock = ScaledClock(path)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(
            f"CATALYST_CLOCK={path} is not a clock file ({error}): start `catalyst sim`, which creates one"
        ) from None
    if not drive:
        return clock
    speed = settings.env.catalyst_clock_speed or clock.speed or 1.0
    return ScaledClock(
        path, drive=True, speed=speed, held_speed=settings.env.catalyst_clock_held_speed or 20.0
    )


def _simulator_clock_file(settings: Settings, *, driven: bool) -> Path | None:
    """Return the clock file of the simulated exchange; None when it runs on the wall clock, elsewhere or not at all.

    `driven`: also None when another process drives the clock, as in a demo.
    """
    import json
    from urllib.error import URLError
    from urllib.request import urlopen

    address = urlsplit(settings.trading_url)
    if address.scheme != "http" or address.hostname not in LOOPBACK_HOSTS:
        return None
    try:
        with urlopen(f"http://{address.netloc}/admin/clock", timeout=CLOCK_TIMEOUT_S) as response:
            view = json.load(response)
            file = None if driven and not view.get("drives") else view.get("file")
    except (URLError, OSError, ValueError, AttributeError):
        return None
    return Path(file) if isinstance(file, str) and Path(file).is_file() else None


def is_embedded(settings: Settings) -> bool:
    """Return true when the database is the embedded server, because DATABASE_URL is not set."""
    return settings.env.database_url is None


@contextmanager
def database_dsn(settings: Settings, *, create: bool = True) -> Iterator[str]:
    """Yield the DSN of the database, as `database_server` does."""
    with database_server(settings, create=create) as (dsn, _):
        yield dsn


@contextmanager
def database_server(
    settings: Settings, *, create: bool = True
) -> "Iterator[tuple[str, EmbeddedPostgres | None]]":
    """Yield the DSN of the database and its embedded server, which runs for the length of the block.

    With `create` the embedded database is created and migrated. Without it the database must exist, so that a
    read-only command creates no files. Raises DatabaseUnreachable when it does not exist.
    """
    url = settings.env.database_url
    if url is not None:
        yield url.get_secret_value(), None
        return
    from catalyst import embedded
    from catalyst.store.migrate import migrate

    if not create and not settings.data_dir.exists():
        raise DatabaseUnreachable(
            f"there is no database yet ({settings.data_dir}): create one with `catalyst run` or `catalyst demo`, or "
            "set DATABASE_URL"
        )
    with embedded.start(settings.data_dir) as server:
        if create:
            run_async(lambda: migrate(server.dsn))
        yield server.dsn, server


@contextmanager
def translate_connection_errors(dsn: str) -> Iterator[None]:
    """Raise DatabaseUnreachable for connection errors and refused logins, ConfigInvalid for a pooler."""
    import asyncpg

    try:
        yield
    except DatabasePooled as error:
        raise ConfigInvalid(str(error)) from None
    except DatabaseUnavailable as error:
        raise DatabaseUnreachable(describe_unreachable(dsn, error.__cause__ or error)) from None
    except (
        asyncpg.InvalidAuthorizationSpecificationError,
        asyncpg.InvalidCatalogNameError,
        asyncpg.InsufficientPrivilegeError,
        asyncpg.exceptions.ClientConfigurationError,
    ) as error:
        raise DatabaseUnreachable(describe_unreachable(dsn, error)) from None


@asynccontextmanager
async def open_migrated_store(
    dsn: str, clock: Clock, *, tables: Sequence[str] = ()
) -> AsyncIterator["Store"]:
    """Yield a store with two connections. Raises DatabaseUnreachable, and SchemaNotCurrent unless all `tables` exist:
    a command that needs no more of the schema works beside a daemon of another release.
    """
    from catalyst.store.migrate import SchemaNotCurrent, require_current
    from catalyst.store.pool import open_store

    with translate_connection_errors(dsn):
        store = await open_store(dsn, clock, size=2, name="catalyst cli")
    try:
        async with store.read() as conn:
            try:
                await require_current(conn)
            except SchemaNotCurrent:
                found = "SELECT count(to_regclass(name)) FROM unnest($1::text[]) AS name"
                if not tables or await conn.fetchval(found, list(tables)) < len(tables):
                    raise
        yield store
    finally:
        await store.close()


def describe_unreachable(dsn: str, error: BaseException) -> str:
    """Return one sentence, without the password, about a database that does not answer."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    parts = urlsplit(dsn)
    hosts = parts.netloc.rpartition("@")[2]
    if "," not in hosts:  # one host, or the folder of a socket in the query
        hosts = f"{parts.hostname or 'the local socket'}:{parts.port or 5432}"
    address = f"{hosts}{parts.path}"
    return (
        f"the database at {address} cannot be used ({mask_text(reason)}): start it, or correct DATABASE_URL"
    )


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run a coroutine on a new event loop and return its result."""
    import asyncio

    return asyncio.run(work())


def query_store(config: Path | None, query: "Callable[[Store, Settings], Coroutine[Any, Any, T]]") -> T:
    """Run a query on the migrated database of the settings and return its result; it needs only the addresses."""
    settings = read_addresses(config).settings
    clock = open_clock(settings)

    async def run_query(dsn: str) -> T:
        async with open_migrated_store(dsn, clock) as store:
            return await query(store, settings)

    with database_dsn(settings, create=False) as dsn:
        return run_async(lambda: run_query(dsn))


def parse_day(text: str | None) -> date | None:
    """Parse a date like 2026-04-08; None stays None. Raises UserError."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{text} is not a date: write it as 2026-04-08") from None
