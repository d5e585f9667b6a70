"""Host lock: a file lock that lets one process per machine trade an account; the kernel releases it at process end.

It is the first of three locks (the others are the account lease in the database and the fencing epoch), and the only
one that works during a database outage.
"""

import fcntl
import os
from pathlib import Path
from typing import Self

import structlog

from catalyst.domain.errors import AnotherDaemonRunning, ConfigInvalid
from catalyst.domain.fault_points import FaultPoint, Moment, reach
from catalyst.file_owner import give_to_folder_owner

log = structlog.get_logger()

FAULT_STEP = "host_lock"


class HostLock:
    """A file locked by this process with flock(2). The file's text names the holder, for people only."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def acquire(cls, folder: Path, name: str, owner: str, *, fault_point: FaultPoint | None = None) -> Self:
        """Lock the file `name`.lock in `folder` and write `owner` into it.

        Raises AnotherDaemonRunning, with the holder's text, when it is locked, and ConfigInvalid when the folder cannot
        be written: the spool in the same folder would not work during a database outage either.
        """
        path = folder / f"{name}.lock"
        reach(fault_point, FAULT_STEP, Moment.BEFORE)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            give_to_folder_owner(fd, folder)
        except OSError as error:
            raise ConfigInvalid(
                f"{path} cannot be written ({error.strerror}): set database.spool to a writable folder"
            ) from None
        lock = cls(path, fd)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{owner}\n".encode(), 0)
            reach(fault_point, FAULT_STEP, Moment.AFTER)
        except BlockingIOError:
            holder = os.read(fd, 4096).decode(errors="replace").strip()
            lock.release()
            raise AnotherDaemonRunning(
                f"another daemon on this machine trades this account: {holder or 'its process is not known'}; "
                f"stop it first (lock file {path})"
            ) from None
        except BaseException:  # a failed acquire keeps no lock, whatever failed
            lock.release()
            raise
        return lock

    def release(self) -> None:
        """Release the lock. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
