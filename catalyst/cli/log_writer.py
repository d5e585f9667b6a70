"""Lines to a log that may be full, slow or gone: whoever writes one never waits, and never fails over it."""

import os
import select
from collections import deque
from typing import Final, TextIO

import orjson

ATOMIC: Final = 4096  # bytes: a pipe that polls as writable takes so many without making us wait
MOST: Final = 1 << 20  # bytes that wait for a reader who is slow


class Lines:
    """A text stream of lines onto `target`. What cannot be written is dropped and counted, and the count is told
    once there is room again."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._waiting: deque[bytes] = deque()
        self._size = 0
        self._begun = ""
        self.dropped = 0

    def write(self, text: str) -> int:
        """Take `text`; every whole line of it leaves as soon as the target has room."""
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._put(line)
        return len(text)

    def flush(self) -> None:
        """Let go what has room to leave."""
        self._drain()

    def isatty(self) -> bool:
        return self._target.isatty()

    def _put(self, line: str) -> None:
        raw = f"{line}\n".encode(errors="replace")
        if self._size + len(raw) > MOST:
            self.dropped += 1
            return
        self._waiting.append(raw)
        self._size += len(raw)
        self._drain()

    def _drain(self) -> None:
        try:
            file = self._target.fileno()
        except (OSError, ValueError):
            self._drain_into_text()
            return
        while self._waiting:
            try:
                if not select.select((), (file,), (), 0)[1]:
                    return
                written = os.write(file, self._waiting[0][:ATOMIC])
            except (OSError, ValueError):  # full, or gone
                self._drop()
                return
            self._took(written)

    def _took(self, written: int) -> None:
        rest = self._waiting.popleft()[written:]
        self._size -= written
        if rest:
            self._waiting.appendleft(rest)
        elif self.dropped:
            told = (
                orjson.dumps({"level": "error", "event": "log_lines_dropped", "count": self.dropped}) + b"\n"
            )
            self.dropped = 0
            self._waiting.appendleft(told)
            self._size += len(told)

    def _drop(self) -> None:
        self.dropped += len(self._waiting)
        self._waiting.clear()
        self._size = 0

    def _drain_into_text(self) -> None:
        """The target has no descriptor: it is a test's, or a screen's."""
        while self._waiting:
            raw = self._waiting.popleft()
            self._size -= len(raw)
            self._target.write(raw.decode())
        self._target.flush()
