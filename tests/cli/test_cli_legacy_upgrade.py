"""`catalyst migrate` on a database of the earlier Catalyst: dry run, upgrade, checks, rollback, saved queries."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import pytest
from typer.testing import CliRunner, Result

from catalyst import embedded
from catalyst.cli.app import app
from catalyst.domain.errors import UserError
from catalyst.store.pool import connected
from tests.conftest import PostgresServer
from tests.store import legacy_database as old

DEBIAN_15 = Path("/usr/lib/postgresql/15/bin")

# Named with its replacement, which needs the extension: neither it nor the query runs here.
NEEDS_EXTENSION = "pg_stat_statements"


def saved_queries() -> Iterator[tuple[str, str | None]]:
    """Yield each query of the earlier system's documents, and the one to use instead where it does not run."""
    text = Path(__file__).with_name("saved_queries.sql").read_text()
    for block in text.split("\n\n")[1:]:
        saved, _, instead = block.partition("-- instead:")
        yield saved.strip().rstrip(";"), instead.strip().rstrip(";") or None


@pytest.fixture(params=["this server", "PostgreSQL 15"])
def server(request: pytest.FixtureRequest, postgres: PostgresServer) -> Iterator[PostgresServer]:
    """Yield the suite's server, then one of Debian's release 15, which the earlier system used."""
    if request.param == "this server":
        yield postgres
        return
    if not (DEBIAN_15 / "initdb").exists():
        pytest.skip("PostgreSQL 15 is not installed: apt-get install postgresql-15")
    folder = Path(tempfile.mkdtemp(prefix="catalyst-pg15-"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(embedded, "find_binaries", lambda: DEBIAN_15)
        with embedded.start(folder, settings={"fsync": "off", "autovacuum": "off"}) as running:
            patch.undo()
            other = PostgresServer(running.dsn)
            yield other
            other.close()
            patch.setattr(embedded, "find_binaries", lambda: DEBIAN_15)
    shutil.rmtree(folder, ignore_errors=True)


@pytest.mark.slow(15)
def test_upgrade_from_the_command_line(
    server: PostgresServer, postgres: PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dry run, refused checks, upgrade with a backup, checks, saved queries, rollback, and the upgrade again."""
    dsn = server.create()
    monkeypatch.setenv("DATABASE_URL", dsn)
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(
            app, ["migrate", "--backup-dir", "backups", *arguments], catch_exceptions=False
        )

    async def create() -> dict[str, str]:
        async with connected(dsn, "test") as conn:
            await old.create(conn, "phase_1", attempts=True)
            return await old.digest(conn)

    async def query(sql: str) -> list[asyncpg.Record]:
        async with connected(dsn, "test") as conn:
            return await conn.fetch(sql)

    async def digest() -> dict[str, str]:
        async with connected(dsn, "test") as conn:
            return await old.digest(conn)

    before = server.run(create)
    dry = run("--dry-run")
    assert "INSERT INTO orders" in dry.stdout
    assert "statements were executed and rolled back" in dry.stdout
    assert server.run(digest) == before
    assert not Path("backups").exists()
    assert run("--verify").exit_code == 1

    done = run()
    assert done.exit_code == 0, done.stdout
    assert "phase 1: an orders table without order_purpose" in done.stdout
    (backup,) = Path("backups").glob("*.dump")
    assert backup.name.startswith("pre-upgrade-")
    assert backup.read_bytes()[:5] == b"PGDMP"
    assert "the schema is current" in run().stdout
    if server is postgres:  # its doctor waits for the exchange, which does not run here
        checked = json.loads(run("--verify", "--json").stdout)
        assert [check["name"] for check in checked["checks"] if not check["passed"]] == []
        assert checked["checks"][-1]["name"] == "the doctor runs"
    queries = [pair for pair in saved_queries() if NEEDS_EXTENSION not in pair[0]]
    print(f"{len(queries)} saved queries")
    assert len(queries) == 22
    for saved, instead in queries:
        assert server.run(lambda sql=instead or saved: query(sql)) is not None, saved
        if instead is not None:
            with pytest.raises(asyncpg.PostgresError):
                server.run(lambda sql=saved: query(sql))
    with pytest.raises(UserError, match="no cycle was completed"):
        run("--finalize-legacy")
    assert "every value" in run("--rollback-legacy").stdout
    assert server.run(digest) == before
    assert run().exit_code == 0
    with pytest.raises(UserError, match="choose one"):
        run("--status", "--verify")
    server.drop(dsn)
