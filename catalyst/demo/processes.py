"""Child processes of the demo: each has a log, ends with its parent and gets none of the operator's settings."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from catalyst.config.loader import environment_without_catalyst
from catalyst.domain.errors import UserError

CRASH_REPORT_LINES: Final = 12
EXIT_TIMEOUT_S: Final = 15.0  # real seconds for a child to end by itself


class ChildProcessFailed(UserError):
    """A child process ended or did not become ready; the message holds its last log lines."""


@dataclass
class ChildProcess:
    """A child process and its log. It ends when its standard input, a pipe from this process, is closed."""

    name: str
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def exit_code(self) -> int | None:
        return self.process.poll()

    def send_signal(self, number: signal.Signals) -> None:
        if self.exit_code is None:
            self.process.send_signal(number)

    async def wait_or_kill(self, timeout_s: float) -> None:
        """Wait for the end of the process; kill it after `timeout_s` real seconds."""
        try:
            await asyncio.to_thread(self.process.wait, timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            await asyncio.to_thread(self.process.wait)
        if self.process.stdin is not None:
            self.process.stdin.close()

    def last_log_lines(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return "\n".join(lines[-CRASH_REPORT_LINES:])


def start_child(
    name: str, arguments: Sequence[str], folder: Path, settings: Mapping[str, str]
) -> ChildProcess:
    """Start a Catalyst command as a child in `folder`, in its own session (no Ctrl-C) and without the operator's
    settings. A restarted child appends to its log."""
    root = str(Path(__file__).resolve().parents[2])
    path = os.pathsep.join([root, *filter(None, [environment_without_catalyst().get("PYTHONPATH")])])
    log = folder / f"{name}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "catalyst", *arguments],
            stdin=subprocess.PIPE,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment_without_catalyst(PYTHONPATH=path, PYTHONUNBUFFERED="1", **settings),
            start_new_session=True,
        )
    return ChildProcess(name, process, log)


def crash_report(child: ChildProcess) -> str:
    """Describe how a child ended, with the last lines of its log."""
    outcome = "did not become ready" if child.exit_code is None else f"ended with code {child.exit_code}"
    return (
        f"the {child.name} {outcome}; the last lines of {child.log}:\n{child.last_log_lines() or '(nothing)'}"
    )
