"""One process at one desk of one machine: a lock on a file, which the kernel takes off when its process ends.

It is the first of three (the account's lock in the database and the epoch are the others), and the only one that
holds while the database is away.
"""

import fcntl
import os
from pathlib import Path
from typing import Self

import structlog

from catalyst.domain.errors import AnotherDaemonRunning, ConfigInvalid
from catalyst.domain.fault_points import FaultPoint, Moment, reach

log = structlog.get_logger()

FAULT_STEP = "host_lock"


class HostLock:
    """A file that is locked by this process. What it says of its holder is for people; the lock is the kernel's."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path = path
        self._fd = fd

    @classmethod
    def acquire(cls, folder: Path, name: str, owner: str, *, fault_point: FaultPoint | None = None) -> Self:
        """The seat `name` of `folder` is ours, and the file says `saying`.

        Raises AnotherDaemon, with what its holder said, when it is taken, and ConfigInvalid when the folder cannot
        be written: then nothing could be done there without the database either.
        """
        path = folder / f"{name}.lock"
        reach(fault_point, FAULT_STEP, Moment.BEFORE)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigInvalid(
                f"{path} cannot be written ({error.strerror}): name a folder of ours as database.spool"
            ) from None
        lock = cls(path, file)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(file, 0)
            os.pwrite(file, f"{owner}\n".encode(), 0)
            reach(fault_point, FAULT_STEP, Moment.AFTER)
        except BlockingIOError:
            held = os.read(file, 4096).decode(errors="replace").strip()
            lock.release()
            raise AnotherDaemonRunning(
                f"another daemon of this machine trades this account: {held or 'it has not said who it is'}; "
                f"`catalyst status` shows it, and its lock is {path}"
            ) from None
        except BaseException:
            lock.release()  # who takes no seat keeps no lock
            raise
        return lock

    def release(self) -> None:
        """Somebody else may sit down. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
