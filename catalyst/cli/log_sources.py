"""Log sources: the daemon's lines from the journal of systemd or from a file, as they are and as they come."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, TextIO

from catalyst.clock import Clock
from catalyst.domain.errors import UserError

POLL_INTERVAL: Final = timedelta(seconds=0.25)
MAX_LINE_BYTES: Final = 1 << 22


async def journal_lines(unit: str, since: datetime | None, *, follow: bool) -> AsyncGenerator[str, None]:
    """Yield the messages of the unit. Raises UserError without journalctl, or with its error."""
    command = ["journalctl", f"--unit={unit}", "--output=cat", "--no-pager"]
    if since is not None:
        command.append(f"--since=@{int(since.timestamp())}")
    if follow:
        command += ["--follow", *(["--lines=all"] if since is not None else [])]
    try:
        process = await asyncio.create_subprocess_exec(
            *command, stdout=asyncio.subprocess.PIPE, limit=MAX_LINE_BYTES
        )
    except FileNotFoundError:
        raise UserError("this machine has no journalctl: name the daemon's log with --file") from None
    assert process.stdout is not None
    try:
        async for line in process.stdout:
            yield line.decode(errors="replace")
        if await process.wait() != 0:
            raise UserError(f"journalctl ended with code {process.returncode}; it says why above")
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def file_lines(
    path: Path, clock: Clock, *, follow: bool, last: int | None = None
) -> AsyncGenerator[str, None]:
    """Yield the lines of a file. With `follow` only the `last` ones (None: all), then those that come, from the new
    file after a rotation."""
    file = _open(path)
    try:
        partial, size = "", os.fstat(file.fileno()).st_size
        waiting: deque[str] = deque(maxlen=last if follow else None)
        while True:
            while chunk := file.readline():
                partial += chunk
                if partial.endswith("\n"):
                    waiting.append(partial)
                    partial = ""
                if waiting.maxlen is None and waiting:
                    yield waiting.popleft()
            while waiting:
                yield waiting.popleft()
            waiting = deque()  # none of the lines that come is left out
            if not follow:
                break
            await clock.sleep(POLL_INTERVAL)
            if _was_replaced(file, path, size):
                file.close()
                file, partial = _open(path), ""
            size = os.fstat(file.fileno()).st_size
        if partial:
            yield partial
    finally:
        file.close()


def _open(path: Path) -> TextIO:
    try:
        return path.open(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None


def _was_replaced(file: TextIO, path: Path, size: int) -> bool:
    """Return whether the name leads to another file now, or the file became shorter than `size` bytes."""
    try:
        present = path.stat()
    except FileNotFoundError:
        return False  # between two names of a rotation
    opened = os.fstat(file.fileno())
    return (present.st_dev, present.st_ino) != (opened.st_dev, opened.st_ino) or present.st_size < size
