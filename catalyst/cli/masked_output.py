"""Masked output: stdout and stderr of a command show no secret and accept every character."""

import io
import sys
from typing import TextIO

from catalyst.domain.secret_mask import mask_text


class MaskedStream(io.TextIOBase):
    """A text stream that masks each text before it writes it to `target`."""

    def __init__(self, target: TextIO) -> None:
        self._target = target

    @property
    def encoding(self) -> str:  # type: ignore[override]  # typeshed declares an attribute
        return self._target.encoding

    @property
    def errors(self) -> str | None:  # type: ignore[override]  # as encoding
        return self._target.errors

    def write(self, text: str) -> int:
        self._target.write(mask_text(text))
        return len(text)

    def flush(self) -> None:
        self._target.flush()

    def isatty(self) -> bool:
        return self._target.isatty()

    def fileno(self) -> int:
        return self._target.fileno()

    def writable(self) -> bool:
        return True


def install() -> None:
    """Mask stdout and stderr of this process, tracebacks included.

    A character that a terminal without UTF-8 does not have becomes a question mark.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    sys.stdout, sys.stderr = MaskedStream(sys.stdout), MaskedStream(sys.stderr)
