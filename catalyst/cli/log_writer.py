"""Log output that never blocks and never raises, even when the target is full, slow or closed."""

import os
import select
from collections import deque
from typing import Final, TextIO

import orjson

PIPE_CHUNK_BYTES: Final = 4096  # a pipe that polls as writable accepts this many bytes without blocking
MAX_BUFFERED_BYTES: Final = 1 << 20  # bytes buffered for a slow reader


class LogWriter:
    """A text stream that writes lines to `target`. Lines that cannot be written are dropped and counted; the count is
    written to the target once it accepts lines again."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._buffer: deque[bytes] = deque()
        self._buffered_bytes = 0
        self._partial_line = ""
        self.dropped = 0

    def write(self, text: str) -> int:
        """Buffer `text`; write each complete line as soon as the target accepts it."""
        *lines, self._partial_line = (self._partial_line + text).split("\n")
        for line in lines:
            self._enqueue(line)
        return len(text)

    def flush(self) -> None:
        """Write as many buffered lines as the target accepts now."""
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
            except (OSError, ValueError):  # full or closed
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
        """Write to a target without a file descriptor, as tests and screens have."""
        while self._buffer:
            raw = self._buffer.popleft()
            self._buffered_bytes -= len(raw)
            self._target.write(raw.decode())
        self._target.flush()
