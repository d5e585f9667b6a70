"""Lines to a log that may be full, slow or gone: whoever writes one never waits, and never fails over it."""

import os
import select
from collections import deque
from typing import Final, TextIO

import orjson

PIPE_CHUNK_BYTES: Final = 4096  # bytes: a pipe that polls as writable takes so many without making us wait
MAX_BUFFERED_BYTES: Final = 1 << 20  # bytes that wait for a reader who is slow


class LogWriter:
    """A text stream of lines onto `target`. What cannot be written is dropped and counted, and the count is told
    once there is room again."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._buffer: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._partial_line = ""
        self.dropped = 0

    def write(self, text: str) -> int:
        """Take `text`; every whole line of it leaves as soon as the target has room."""
        *lines, self._partial_line = (self._partial_line + text).split("\n")
        for line in lines:
            self._enqueue(line)
        return len(text)

    def flush(self) -> None:
        """Let go what has room to leave."""
        self._write_buffered()

    def isatty(self) -> bool:
        return self._target.isatty()

    def _enqueue(self, line: str) -> None:
        raw = f"{line}\n".encode(errors="replace")
        if self._buffered_bytes + len(raw) > MAX_BUFFERED_BYTES:
            self.dropped += 1
            return
        self._buffer.append(raw)
        self._buffered_bytes += len(raw)
        self._write_buffered()

    def _write_buffered(self) -> None:
        try:
            file = self._target.fileno()
        except (OSError, ValueError):
            self._write_buffered_text()
            return
        while self._buffer:
            try:
                if not select.select((), (file,), (), 0)[1]:
                    return
                written = os.write(file, self._buffer[0][:PIPE_CHUNK_BYTES])
            except (OSError, ValueError):  # full, or gone
                self._drop_buffer()
                return
            self._discard_written(written)

    def _discard_written(self, written: int) -> None:
        rest = self._buffer.popleft()[written:]
        self._buffered_bytes -= written
        if rest:
            self._buffer.appendleft(rest)
        elif self.dropped:
            notice = (
                orjson.dumps({"level": "error", "event": "log_lines_dropped", "count": self.dropped}) + b"\n"
            )
            self.dropped = 0
            self._buffer.appendleft(notice)
            self._buffered_bytes += len(notice)

    def _drop_buffer(self) -> None:
        self.dropped += len(self._buffer)
        self._buffer.clear()
        self._buffered_bytes = 0

    def _write_buffered_text(self) -> None:
        """The target has no descriptor: it is a test's, or a screen's."""
        while self._buffer:
            raw = self._buffer.popleft()
            self._buffered_bytes -= len(raw)
            self._target.write(raw.decode())
        self._target.flush()
