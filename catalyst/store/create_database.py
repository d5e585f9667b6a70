"""Creation of the database: database, roles, schema and rights in one run; a second run changes nothing.

The caller is an administrator of the server: a superuser, or a role with CREATEDB and CREATEROLE as managed servers
have. The database and all in it belong to `catalyst_owner`, so that a later migration by any administrator keeps it so.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

import asyncpg

from catalyst.domain.errors import UserError
from catalyst.store.migrate import migrate, roles_sql
from catalyst.store.pool import Connection, connected

OWNER: Final = "catalyst_owner"
DAEMON_ROLE: Final = "catalyst_app"
_MAINTENANCE_DATABASES: Final = (
    "postgres",
    "defaultdb",
    "template1",
)  # the first that exists is connected to
_PASSWORD_BYTES: Final = 24


@dataclass(frozen=True, slots=True)
class CreatedDatabase:
    """What the run created; `url` is the daemon's DATABASE_URL."""

    database_created: bool
    roles_created: tuple[str, ...]
    migrations_applied: tuple[str, ...]
    login: str
    password_set: bool
    url: str

    @property
    def has_new_login(self) -> bool:
        """Return true when `url` can be used as it is and was not known before this run."""
        is_new = self.database_created or self.login in self.roles_created
        return self.password_set or (is_new and is_local(self.url))


async def create_database(
    dsn: str, *, login: str = DAEMON_ROLE, new_password: bool = False
) -> CreatedDatabase:
    """Create the database that the administrator's `dsn` names, its roles, and the daemon's login.

    A login that is created here gets a password when the server is reached over TCP; `new_password` gives an existing
    one another. Over a Unix socket the server authenticates the operating system's user of the same name.
    Raises UserError when the administrator lacks a privilege.
    """
    name = database_of(dsn)
    try:
        async with connected(
            await _maintenance_dsn(dsn), "catalyst migrate --create", statement_timeout=0
        ) as conn:
            roles = await _create_roles(conn, login)
            created = await _create_database(conn, name)
        applied = await migrate(dsn)
        async with connected(dsn, "catalyst migrate --create", statement_timeout=0) as conn:
            await conn.execute(roles_sql())
            if login != DAEMON_ROLE:
                await conn.execute(f"GRANT {DAEMON_ROLE} TO {_identifier(login)}")
            password = None
            if new_password or (login in roles and not is_local(dsn)):
                password = secrets.token_urlsafe(_PASSWORD_BYTES)
                await _set_password(conn, login, password)
    except asyncpg.InsufficientPrivilegeError as error:
        raise UserError(
            f"the role of DATABASE_URL may not create it ({error.args[0]}): use the server's administrator, who may "
            "create databases and roles, and who created the roles catalyst_* if they exist"
        ) from None
    return CreatedDatabase(
        created, tuple(roles), tuple(applied), login, password is not None, daemon_url(dsn, login, password)
    )


async def create_empty_database(dsn: str) -> None:
    """Create the database that `dsn` names, of catalyst_owner where the server has it. Raises UserError."""
    try:
        async with connected(await _maintenance_dsn(dsn), "catalyst restore", statement_timeout=0) as conn:
            has_owner = await conn.fetchval("SELECT 1 FROM pg_roles WHERE rolname = $1", OWNER)
            owner = f"OWNER {OWNER}" if has_owner else ""
            await conn.execute(
                f"CREATE DATABASE {_identifier(database_of(dsn))} {owner} ENCODING 'UTF8' TEMPLATE template0"
            )
    except asyncpg.InsufficientPrivilegeError as error:
        raise UserError(f"this role may not create the database ({error.args[0]}): create it first") from None


async def _maintenance_dsn(dsn: str) -> str:
    """Return the address of a database of the server that exists before ours."""
    for name in _MAINTENANCE_DATABASES:
        candidate = _address(urlsplit(dsn)._replace(path=f"/{name}"))
        try:
            async with connected(candidate, "catalyst migrate --create"):
                return candidate
        except asyncpg.InvalidCatalogNameError:
            continue
    raise UserError(
        f"the server has none of the databases {', '.join(_MAINTENANCE_DATABASES)}: create one first"
    )


async def _create_roles(conn: Connection, login: str) -> list[str]:
    """Create the missing roles, and let the administrator act as the owner; return those created now."""
    wanted = dict.fromkeys((OWNER, DAEMON_ROLE, "catalyst_readonly", login))
    found = await conn.fetch(
        "SELECT rolname::text AS name FROM pg_roles WHERE rolname = ANY($1)", list(wanted)
    )
    missing = [name for name in wanted if name not in {row["name"] for row in found}]
    for name in missing:
        await conn.execute(f"CREATE ROLE {_identifier(name)} LOGIN")
    if not await conn.fetchval("SELECT rolsuper FROM pg_roles WHERE rolname = current_user"):
        # A role that creates another one may grant it, also to itself; without it, it could not give the database away.
        await conn.execute(f"GRANT {OWNER} TO CURRENT_USER")
    return missing


async def _create_database(conn: Connection, name: str) -> bool:
    """Create the database unless it exists; return true when it was created."""
    if await conn.fetchval("SELECT 1 FROM pg_database WHERE datname = $1", name):
        return False
    try:
        await conn.execute(
            f"CREATE DATABASE {_identifier(name)} OWNER {OWNER} ENCODING 'UTF8' TEMPLATE template0"
        )
    except asyncpg.DuplicateDatabaseError:  # another run created it at the same time
        return False
    return True


async def _set_password(conn: Connection, login: str, password: str) -> None:
    """Set the password by its hash: the server never receives the password, so its log cannot hold it."""
    await conn.execute(f"ALTER ROLE {_identifier(login)} LOGIN PASSWORD '{scram_hash(password)}'")


def scram_hash(password: str, *, salt: bytes | None = None, iterations: int = 4096) -> str:
    """Return what PostgreSQL stores of a password. Source: RFC 5802, RFC 7677; PostgreSQL documentation, pg_authid."""
    salt = secrets.token_bytes(16) if salt is None else salt
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, iterations)
    stored_key = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server_key = hmac.digest(salted, b"Server Key", "sha256")
    salt_text, stored_text, server_text = (
        base64.b64encode(part).decode() for part in (salt, stored_key, server_key)
    )
    return f"SCRAM-SHA-256${iterations}:{salt_text}${stored_text}:{server_text}"


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def database_of(dsn: str) -> str:
    """Return the database that an address names. Raises UserError when it names none."""
    parts = urlsplit(dsn)
    name = unquote(parts.path.lstrip("/")) or dict(parse_qsl(parts.query)).get("dbname", "")
    if not name:
        raise UserError(
            "DATABASE_URL names no database: end its address with the one to create, as in .../catalyst"
        )
    return name


def is_local(dsn: str) -> bool:
    """Return true for an address of a Unix socket."""
    parts = urlsplit(dsn)
    hosts = dict(parse_qsl(parts.query)).get("host", "") or parts.netloc.rpartition("@")[2]
    return not hosts or unquote(hosts).startswith("/")


def daemon_url(dsn: str, login: str, password: str | None) -> str:
    """Return the administrator's address with the daemon's login; over a socket the login is the system's user."""
    parts = urlsplit(dsn)
    query = [
        (name, value) for name, value in parse_qsl(parts.query) if name not in ("user", "password", "role")
    ]
    hosts = parts.netloc.rpartition("@")[2]
    user = quote(login, safe="") + (f":{quote(password, safe='')}" if password else "")
    netloc = hosts if is_local(dsn) and not password else f"{user}@{hosts}"
    return _address(parts._replace(netloc=netloc, query=urlencode(query, safe="/")))


def _address(parts: SplitResult) -> str:
    """Return the parts as one address; `urlunsplit` drops the // of an address without a host."""
    return f"{parts.scheme}://{parts.netloc}{parts.path}" + (f"?{parts.query}" if parts.query else "")
