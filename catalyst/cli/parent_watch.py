"""A child that ends when its starter does, however that one ended: its standard input is the leash."""

import os
import signal
import sys
import threading
from enum import Enum
from typing import Final

PATIENCE: Final = 20.0  # real seconds for an orderly end, then the process is gone anyway


class Farewell(Enum):
    """The signal a process sends itself when nobody holds the leash any more."""

    KEEP = signal.SIGUSR1  # the daemon: leave at once, nothing flattened; nobody is there to trade with
    END = signal.SIGTERM


def leave_with_parent(farewell: Farewell) -> None:
    """From now on the end of standard input ends this process."""
    threading.Thread(target=_watch, args=(farewell,), daemon=True, name="leash").start()


def _watch(farewell: Farewell) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    os.kill(os.getpid(), farewell.value)
    threading.Event().wait(PATIENCE)
    os._exit(1)
