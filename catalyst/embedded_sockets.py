"""Socket folders of the embedded PostgreSQL server: the cluster's own, or a short one when its path is too long."""

import os
import re
import shutil
import stat
import tempfile
from pathlib import Path
from typing import Final

SOCKET_NAME: Final = ".s.PGSQL.5432"
_SOCKET_DIR_PREFIX: Final = "catalyst-pg-"  # prefix of directories created only for a socket
_MAX_SOCKET_PATH_BYTES: Final = (
    103  # the smallest limit of the supported systems (macOS), without the final NUL
)


def new_socket_dir(cluster: Path, user: str | None) -> Path:
    """Return the cluster's directory when its path is short and plain enough for a socket, else a new short one."""
    fits = len(os.fsencode(cluster / SOCKET_NAME)) <= _MAX_SOCKET_PATH_BYTES
    if fits and re.fullmatch(r"[\w./+-]+", str(cluster), re.ASCII):
        return cluster
    temporary = tempfile.gettempdir()
    if len(temporary) > 60:
        temporary = "/tmp"  # noqa: S108 -- mkdtemp creates a private directory
    socket_dir = Path(tempfile.mkdtemp(prefix=_SOCKET_DIR_PREFIX, dir=temporary))
    if user is not None:
        shutil.chown(socket_dir, user)
    return socket_dir


def previous_socket_dir(cluster: Path) -> Path | None:
    """Return the socket's directory of a server that was killed: its other users still have that address."""
    try:
        socket_dir = Path((cluster / "postmaster.pid").read_text().splitlines()[4])
        status = socket_dir.lstat()
    except (OSError, IndexError):
        return None
    is_ours = status.st_uid in (os.geteuid(), cluster.stat().st_uid) and stat.S_ISDIR(status.st_mode)
    return socket_dir if is_ours and socket_dir.name.startswith(_SOCKET_DIR_PREFIX) else None


def make_socket_dir(socket_dir: Path, user: str | None) -> None:
    """Create the directory again if a clean stop removed it."""
    if not socket_dir.exists():
        socket_dir.mkdir(mode=0o700)
        if user is not None:
            shutil.chown(socket_dir, user)


def remove_socket_dir(socket_dir: Path, cluster: Path) -> None:
    """Remove the directory if `_socket_dir` created it: a server started by hand may use any other, for example /tmp.
    Only the socket, its lock and then the empty directory are removed."""
    if socket_dir == cluster or not socket_dir.name.startswith(_SOCKET_DIR_PREFIX):
        return
    for name in (SOCKET_NAME, f"{SOCKET_NAME}.lock"):
        (socket_dir / name).unlink(missing_ok=True)
    socket_dir.rmdir()
