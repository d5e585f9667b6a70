"""How a command finds its configuration and its database."""

from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, TypeVar
from urllib.parse import urlsplit

import typer

from catalyst.clock import Clock, ScaledClock, SystemClock
from catalyst.config.loader import load
from catalyst.config.settings import Settings
from catalyst.domain.errors import ConfigInvalid, UserError

if TYPE_CHECKING:
    from catalyst.store.pool import Store

T = TypeVar("T")

CONFIG_FILE: Final = Path("config.yaml")
SECRETS_FILE: Final = Path(".env")

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", help="The configuration file (else ./config.yaml, when it is there)."),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print JSON: stable keys, amounts as text, times in UTC.")
]


class DatabaseUnreachable(UserError):
    """The database cannot be reached; the message says what to do."""


def read_settings(path: Path | None) -> Settings:
    """The operator's settings: the file named, else ./config.yaml, and secrets from ./.env and the environment."""
    chosen = path if path is not None else CONFIG_FILE if CONFIG_FILE.is_file() else None
    return load(chosen, env_file=secrets_file())


def secrets_file() -> Path | None:
    """./.env, when there is one."""
    return SECRETS_FILE if SECRETS_FILE.is_file() else None


def open_clock(settings: Settings, *, drive: bool = False) -> Clock:
    """The world's clock, or the shared one the environment names; who drives sets its pace from now on."""
    path = settings.env.catalyst_clock
    if path is None:
        return SystemClock()
    try:
        clock = ScaledClock(path)
    except (OSError, ValueError) as error:
        raise ConfigInvalid(
            f"CATALYST_CLOCK {path} is no clock ({error}): start `catalyst sim`, which makes one"
        ) from None
    if not drive:
        return clock
    speed = settings.env.catalyst_clock_speed or clock.speed or 1.0
    return ScaledClock(
        path, drive=True, speed=speed, held_speed=settings.env.catalyst_clock_held_speed or 20.0
    )


def is_embedded(settings: Settings) -> bool:
    """True when the database is our own server, because DATABASE_URL is not set."""
    return settings.env.database_url is None


@contextmanager
def database_dsn(settings: Settings, *, create: bool = True) -> Iterator[str]:
    """The DSN of the database, for the length of the block.

    The embedded one is started, and with `make` made and migrated too; without, it must exist already, so that
    a question about a database nobody has used creates nothing.
    """
    url = settings.env.database_url
    if url is not None:
        yield url.get_secret_value()
        return
    from catalyst import embedded
    from catalyst.store.migrate import migrate

    if not create and not settings.data_dir.exists():
        raise DatabaseUnreachable(
            f"there is no database yet ({settings.data_dir}): `catalyst run` or `catalyst demo` makes one, or set "
            "DATABASE_URL"
        )
    with embedded.start(settings.data_dir) as server:
        if create:
            run_async(lambda: migrate(server.dsn))
        yield server.dsn


@contextmanager
def translate_connection_errors(dsn: str) -> Iterator[None]:
    """Failures to reach the database, or to be let in, become DatabaseAway."""
    import asyncpg

    from catalyst.store.pool import is_outage

    try:
        yield
    except Exception as error:
        refused = (
            asyncpg.InvalidAuthorizationSpecificationError,
            asyncpg.InvalidCatalogNameError,
            asyncpg.InsufficientPrivilegeError,
            asyncpg.exceptions.ClientConfigurationError,
        )
        if isinstance(error, refused) or is_outage(error):
            raise DatabaseUnreachable(describe_unreachable(dsn, error)) from None
        raise


@asynccontextmanager
async def open_migrated_store(dsn: str, clock: Clock) -> AsyncIterator["Store"]:
    """A small store on a migrated database. Raises DatabaseAway, or SchemaNotCurrent."""
    from catalyst.store.migrate import require_current
    from catalyst.store.pool import open_store

    with translate_connection_errors(dsn):
        store = await open_store(dsn, clock, size=2, name="catalyst cli")
    try:
        async with store.read() as conn:
            await require_current(conn)
        yield store
    finally:
        await store.close()


def describe_unreachable(dsn: str, error: Exception) -> str:
    """One sentence about a database that does not answer; no password in it."""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    try:
        parts = urlsplit(dsn)
        where = f"{parts.hostname or 'the local socket'}:{parts.port or 5432}{parts.path}"
    except ValueError:
        parts, where = None, ""
    if parts is None or parts.scheme not in ("postgres", "postgresql"):
        return (
            "DATABASE_URL is no address of a PostgreSQL: write postgresql://user:password@host:5432/database"
        )
    return f"the database at {where} cannot be used ({reason}): start it, or correct DATABASE_URL"


def run_async(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine returns, on a loop of its own."""
    import asyncio

    return asyncio.run(work())


def query_store(config: Path | None, query: "Callable[[Store, Settings], Coroutine[Any, Any, T]]") -> T:
    """The answer to a question about the books."""
    settings = read_settings(config)
    clock = open_clock(settings)

    async def run_query(dsn: str) -> T:
        async with open_migrated_store(dsn, clock) as store:
            return await query(store, settings)

    with database_dsn(settings, create=False) as dsn:
        return run_async(lambda: run_query(dsn))


def parse_day(text: str | None) -> date | None:
    """The day as it was typed. Raises UserError."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise UserError(f"{text} is no day: write it as 2026-04-08") from None
