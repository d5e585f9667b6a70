"""The demo's other processes: each with a log, a leash, and an environment without anything of the operator's."""

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
    """A child ended that should not have; the message has its last words."""


@dataclass
class ChildProcess:
    """A child process, its log, and the leash it ends with."""

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
        """The process is gone; killed when it did not end by itself."""
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
    """Start a child in `folder`, out of reach of the terminal's Ctrl-C and of our settings; one that is started
    again goes on in its log."""
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
    ended = "did not become ready" if child.exit_code is None else f"ended with code {child.exit_code}"
    return (
        f"the {child.name} {ended}; the last lines of {child.log}:\n{child.last_log_lines() or '(nothing)'}"
    )
