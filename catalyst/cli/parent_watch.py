"""A child that ends when its starter does, however that one ended: its standard input is the leash."""

import os
import signal
import sys
import threading
from enum import Enum
from typing import Final

EXIT_TIMEOUT_S: Final = 20.0  # real seconds for an orderly end, then the process is gone anyway


class ParentExitSignal(Enum):
    """The signal a process sends itself when nobody holds the leash any more."""

    KEEP_POSITIONS = (
        signal.SIGUSR1
    )  # the daemon: leave at once, nothing flattened; nobody is there to trade with
    TERMINATE = signal.SIGTERM


def exit_with_parent(on_parent_exit: ParentExitSignal) -> None:
    """From now on the end of standard input ends this process."""
    threading.Thread(
        target=_wait_for_parent_exit, args=(on_parent_exit,), daemon=True, name="parent-watch"
    ).start()


def _wait_for_parent_exit(on_parent_exit: ParentExitSignal) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), on_parent_exit.value)
    threading.Event().wait(EXIT_TIMEOUT_S)
    os._exit(1)
