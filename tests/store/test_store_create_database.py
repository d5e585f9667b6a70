"""`migrate --create`: one run gives database, roles, schema and the daemon's login; later migrations keep the roles."""

import base64
import hashlib
import hmac
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest

from catalyst.domain.errors import UserError
from catalyst.store import migrate
from catalyst.store.create_database import create_database, daemon_url, database_of, scram_hash
from catalyst.store.migrate import SchemaNotCurrent
from catalyst.store.pool import connected
from catalyst.store.schema_checks import require_constraints, require_privileges


def as_role(dsn: str, role: str) -> str:
    """Return the address with which a session acts as another role."""
    return f"{dsn}{'&' if '?' in dsn else '?'}role={role}"


@pytest.fixture
async def administrator(postgres, database: str) -> AsyncIterator[str]:
    """Return an address of a database that does not exist, with an administrator as managed servers have it: no
    superuser, but allowed to create databases and roles."""
    name = f"{urlsplit(database).path[1:]}_created"
    dsn = postgres.dsn_of(name)
    conn = await asyncpg.connect(database)
    await conn.execute(migrate.roles_sql())
    await conn.execute(f"CREATE ROLE {name}_admin CREATEDB CREATEROLE LOGIN")
    # Roles belong to the whole server: other tests have created these. Their creator would be their administrator.
    for role in ("catalyst_owner", "catalyst_app", "catalyst_readonly"):
        await conn.execute(f"GRANT {role} TO {name}_admin WITH ADMIN OPTION")
    yield as_role(dsn, f"{name}_admin")
    await conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")
    await conn.execute(f"DROP ROLE IF EXISTS {name}_daemon")
    await conn.execute(f"DROP ROLE {name}_admin")
    await conn.close()


async def test_one_run_creates_everything_and_a_second_changes_nothing(administrator: str) -> None:
    """The daemon's login passes the checks of a start and may not change the schema; the second run does nothing."""
    login = f"{database_of(administrator)}_daemon"
    made = await create_database(administrator, login=login, new_password=True)
    assert made.database_created
    assert made.roles_created == (login,)
    assert len(made.migrations_applied) == len(migrate.migrations())
    assert made.password_set
    assert made.url.startswith(f"postgresql://{login}:")
    plain = administrator.partition("role=")[0].rstrip("?&")
    async with connected(as_role(plain, login), "test") as conn:
        await migrate.require_current(conn)
        await require_constraints(conn)
        await require_privileges(conn)
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await conn.execute("CREATE TABLE mine (x integer)")
    async with connected(plain, "test") as conn:
        assert (
            await conn.fetchval("SELECT tableowner FROM pg_tables WHERE tablename = 'orders'")
            == "catalyst_owner"
        )
        assert not await conn.fetchval(
            "SELECT has_database_privilege('public', current_database(), 'CONNECT')"
        )
        password_hash = await conn.fetchval("SELECT rolpassword FROM pg_authid WHERE rolname = $1", login)
    assert password_hash.startswith("SCRAM-SHA-256$4096:")
    again = await create_database(administrator, login=login)
    assert (again.database_created, again.roles_created, again.migrations_applied, again.password_set) == (
        False, (), (), False,
    )  # fmt: skip
    assert (made.has_new_login, again.has_new_login) == (True, False)


async def test_later_migration_keeps_owner_and_rights(
    administrator: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An administrator migrates a later release: the new table belongs to the owner's role, the daemon may write it.
    The daemon's own role is told whose address a migration needs, and passes when there is nothing to do."""
    await create_database(administrator)
    plain = administrator.partition("role=")[0].rstrip("?&")
    for path in migrate.MIGRATIONS_FOLDER.glob("*.sql"):
        shutil.copy(path, tmp_path)
    number = len(migrate.migrations()) + 1
    (tmp_path / f"{number:04}_later.sql").write_text("CREATE TABLE later (x integer);\n")
    daemon = as_role(plain, "catalyst_app")
    with pytest.raises(
        SchemaNotCurrent, match=r"catalyst_app may not change the schema: .* the server's administrator"
    ):
        await migrate.migrate(daemon, folder=tmp_path)
    assert await migrate.migrate(administrator, folder=tmp_path) == [f"{number:04}_later"]
    async with connected(daemon, "test") as conn:
        await conn.execute("INSERT INTO later VALUES (1)")
        owner = await conn.fetchval("SELECT tableowner::text FROM pg_tables WHERE tablename = 'later'")
    assert owner == "catalyst_owner"
    assert await migrate.migrate(daemon, folder=tmp_path) == []


async def test_creation_names_the_missing_privilege(postgres, database: str) -> None:
    """A role that may not create databases is refused in one sentence."""
    conn = await asyncpg.connect(database)
    await conn.execute(migrate.roles_sql())
    await conn.close()
    dsn = as_role(postgres.dsn_of("never_created"), "catalyst_readonly")
    with pytest.raises(UserError, match=r"may not create it .* use the server's administrator"):
        await create_database(dsn)


@pytest.mark.parametrize(
    ("dsn", "password", "expected"),
    [
        (
            "postgresql://doadmin:secret@h:25060/books?sslmode=verify-full&sslrootcert=/etc/ca.crt",
            "p/w",
            "postgresql://app:p%2Fw@h:25060/books?sslmode=verify-full&sslrootcert=/etc/ca.crt",
        ),
        ("postgresql://h/books?user=doadmin&password=secret&role=x", None, "postgresql://app@h/books"),
        ("postgresql:///books?host=/run/postgresql", None, "postgresql:///books?host=/run/postgresql"),
        (
            "postgresql://postgres@/books?host=/run/postgresql",
            None,
            "postgresql:///books?host=/run/postgresql",
        ),
    ],
)
def test_daemon_address_is_the_administrator_address_with_its_login(
    dsn: str, password: str | None, expected: str
) -> None:
    """Host, database and TLS stay; the administrator's login goes. Over a socket the system's user is the login."""
    assert daemon_url(dsn, "app", password) == expected
    assert database_of(dsn) == "books"


def test_password_hash_is_that_of_the_standard() -> None:
    """The hash has the keys of RFC 7677's own example (user pencil)."""
    salt = base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ==")
    text = scram_hash("pencil", salt=salt)
    stored_key, server_key = text.rpartition("$")[2].split(":")
    auth_message = (
        b"n=user,r=rOprNGfwEbeRWgbNEkqO,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,"
        b"s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    )
    signature = hmac.digest(base64.b64decode(server_key), auth_message, "sha256")
    assert base64.b64encode(signature) == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    client_signature = hmac.digest(base64.b64decode(stored_key), auth_message, "sha256")
    client_key = bytes(a ^ b for a, b in zip(proof, client_signature, strict=True))
    assert hashlib.sha256(client_key).digest() == base64.b64decode(stored_key)
