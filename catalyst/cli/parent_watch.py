"""Ends this process when its parent process ends, even by a crash: then its standard input reaches end of file."""

import os
import signal
import sys
import threading
from enum import Enum
from typing import Final

EXIT_TIMEOUT_S: Final = 20.0  # real seconds for an orderly end; then the process exits at once


class ParentExitSignal(Enum):
    """The signal that a process sends to itself when its parent has ended."""

    # For the daemon: exit at once without flattening, because the exchange ends with the parent.
    KEEP_POSITIONS = signal.SIGUSR1
    TERMINATE = signal.SIGTERM


def exit_with_parent(on_parent_exit: ParentExitSignal) -> None:
    """Start the thread that sends `on_parent_exit` to this process when standard input ends."""
    threading.Thread(
        target=_wait_for_parent_exit, args=(on_parent_exit,), daemon=True, name="parent-watch"
    ).start()


def _wait_for_parent_exit(on_parent_exit: ParentExitSignal) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), on_parent_exit.value)
    threading.Event().wait(EXIT_TIMEOUT_S)
    os._exit(1)
